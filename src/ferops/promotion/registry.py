"""Promotion: the gate's winner becomes champion in MLflow's registry, BentoML's store and the pointer file.

    >>> promote(  # doctest: +SKIP
    ...     Path("reports/gate.json"), Path("packages"), Path("registry"), Path("reports/promotion.json")
    ... )
    >>> rollback(Path("packages"), Path("registry")).version  # doctest: +SKIP
    '2'

Every step looks first whether it was done, and the pointer is written last: a run that was killed at any
point is finished by the next one, and until then the old champion is served. A package is known by its
digest, so that one which was registered is never registered again.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ferops import files, tracking
from ferops.models.classifier import Card
from ferops.models.onnx import CARD_FILE, MODEL_FILE, OnnxClassifier
from ferops.promotion import versions
from ferops.promotion.champion import Champion, NoChampionError, load_champion
from ferops.promotion.variants import VARIANTS_FILE, carry_over, load_variants

CHAMPION = "champion"
CHALLENGER = "challenger"

#: Folder of the registry: verdicts on reduced precision by package, for those that become champion again.
VERDICTS = "variants"


class StaleDecisionError(RuntimeError):
    """What was decided was decided against a champion that is no longer the champion."""


class RegistryError(RuntimeError):
    """What is to be champion is not there, not what the gate judged, or did not pass it; says which."""


@dataclass(frozen=True)
class Promotion:
    """What `reports/promotion.json` holds.

    Attributes:
        promoted: True when the gate's winner is the champion now, even if it was before.
        changed: True when this call wrote anything to a registry or the pointer.
        candidate, version, bento_tag, package_sha256: of the champion after the call; none without one.
        challenger_version: the refused candidate's version, under the alias `challenger`; none without one.
        synthetic: True when the champion was trained on the synthetic faces.
        reason: one sentence.
    """

    promoted: bool
    changed: bool
    reason: str
    candidate: str | None = None
    version: str | None = None
    bento_tag: str | None = None
    package_sha256: str | None = None
    challenger_version: str | None = None
    synthetic: bool | None = None

    def sentence(self) -> str:
        """The outcome, for a person."""
        if self.version is None:
            return f"no champion: {self.reason}"
        faces = ", trained on synthetic faces" if self.synthetic else ""
        return (
            f"champion is version {self.version} ({self.candidate}, {self.bento_tag}{faces}): {self.reason}"
        )


def promote(decision: Path, packages: Path, registry: Path, report: Path) -> Promotion:
    """Carry out the gate's decision, once, however often it is called; write `report`.

    With "promote" the candidate is registered in MLflow (alias `champion`), put into BentoML's model store
    and named by the pointer. With "keep" the champion stays, and the refused candidate is registered under
    the alias `challenger`, so that a reviewer finds it. In both cases a champion that one of the registries
    has lost is put back, under its own version number.

    Args:
        decision: the gate's `gate.json`; verdicts on reduced precision, in `variants/` beside it, are put
            beside the champion that they are on before the pointer names it: no worker finds it without.
        packages: one folder per packaged candidate.
        registry: folder of the pointer.
        report: where the outcome goes.

    Raises:
        StaleDecisionError: if another champion was promoted since the gate decided.
        RegistryError: if the candidate's package is absent or not the one that the gate judged.
        BrokenPackageError: if the package does not answer as recorded.
    """
    from filelock import FileLock

    verdict, verdicts = files.read_json(decision), decision.parent / "variants"
    registry.mkdir(parents=True, exist_ok=True)
    with FileLock(registry / ".lock"):
        outcome = _carry_out(verdict, packages, registry, verdicts)
        if champion := load_champion(registry):
            carry_over(verdicts, champion.folder())  # it may have been judged since it was promoted
            with suppress(ValueError):  # unreadable ones are none
                if (known := load_variants(champion.folder())).judged:
                    known.save(registry / VERDICTS / champion.package_sha256)
    files.write_json(report, asdict(outcome))
    return outcome


def promote_version(version: str, packages: Path, registry: Path) -> Promotion:
    """Make a registered version champion that passed the gate when it was judged last; safe to repeat.

    Args:
        version: its number in MLflow's registry.
        packages: where its package is taken from if BentoML's model store lost it.
        registry: folder of the pointer.

    Raises:
        RegistryError: if there is no such version, it did not pass, or its package is lost.
        BrokenPackageError: if the package does not answer as recorded.
    """
    from filelock import FileLock

    registry.mkdir(parents=True, exist_ok=True)
    with FileLock(registry / ".lock"):
        current, target = load_champion(registry), _passed(version)
        if current is not None and current.version == version:
            restored = _restore(current, packages)
            _recall_verdicts(restored or current, registry)
            if restored is not None:
                restored.save(registry)
            return _outcome(True, restored is not None, "it is the champion already", restored or current)
        new = _install_again(target, packages, registry).after(current)
        new.save(registry)
        return _outcome(True, True, f"promoted by its number, as it passed the gate{_instead(current)}", new)


def rollback(packages: Path, registry: Path, expected: str | None = None) -> Promotion:
    """Make the champion before the present one champion again.

    The one that is left is marked as withdrawn: the pipeline does not promote it again by itself. A rollback
    that was killed before its last step, the pointer, is done by the next; with `expected` one that was
    done cannot be done twice.

    Args:
        packages: where a package is taken from if BentoML's model store lost it.
        registry: folder of the pointer.
        expected: version of the champion to roll back from.

    Raises:
        StaleDecisionError: if another version than `expected` is champion.
        RegistryError: if there is no champion before, or its package is lost.
        NoChampionError: if there is no champion.
        BrokenPackageError: if the package does not answer as recorded.
    """
    from filelock import FileLock

    registry.mkdir(parents=True, exist_ok=True)
    with FileLock(registry / ".lock"):
        current = Champion.load(registry)
        if expected not in (None, current.version):
            raise StaleDecisionError(
                f"champion is version {current.version}, not {expected}: nothing was rolled back"
            )
        before = current.before()
        if before is None:
            raise RegistryError(
                f"champion version {current.version} displaced no other, so there is nothing to roll back "
                "to: `ferops promote --version` takes any version that passed the gate"
            )
        new = _install_again(before, packages, registry)
        new.save(registry)
        return _outcome(True, True, f"rolled back{_instead(current)}", new)


def _instead(current: Champion | None) -> str:
    return "" if current is None else f", instead of version {current.version} ({current.candidate})"


def _passed(version: str) -> Champion:
    """A registered version as a champion, if the gate passed it when it judged it last."""
    client = versions.connect()
    found = versions.get(client, version)
    if found is None:
        raise RegistryError(
            f"{tracking.REGISTERED_MODEL} has no version {version} with a package: `mlflow ui` lists them"
        )
    verdict = found.tags.get(versions.GATE_TAG)
    if verdict != "promote":
        raise RegistryError(
            f"version {version} did not pass the gate when it was judged last (its tag "
            f"`{versions.GATE_TAG}` is {verdict!r}): only one that passed can become champion"
        )
    digest = found.tags[versions.DIGEST_TAG]
    return Champion(
        model=tracking.REGISTERED_MODEL,
        version=version,
        bento_tag=_tag(version, digest),
        package_sha256=digest,
        mlflow_run_id=str(found.run_id),
        candidate=found.tags.get("candidate", "unknown"),
        promoted_at="",
        synthetic=found.tags.get("synthetic") == "true",
    )


def _install_again(champion: Champion, packages: Path, registry: Path) -> Champion:
    """Every step but the pointer, for a package that was registered before."""
    OnnxClassifier(_source(champion, packages)).self_check()
    champion = _restore(champion, packages) or champion
    _recall_verdicts(champion, registry)
    client = versions.connect()
    if versions.holder(client, CHALLENGER) == champion.version:
        client.delete_registered_model_alias(tracking.REGISTERED_MODEL, CHALLENGER)
    return replace(champion, promoted_at=_now())


def _recall_verdicts(champion: Champion, registry: Path) -> None:
    """Put the verdicts of its promotion beside a champion whose store lost them; unreadable ones are none."""
    with suppress(ValueError):
        carry_over(registry / VERDICTS / champion.package_sha256, champion.folder())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _carry_out(verdict: Mapping[str, Any], packages: Path, registry: Path, verdicts: Path) -> Promotion:
    champion = load_champion(registry)
    candidate = verdict.get("candidate")
    package = packages / candidate if candidate else None
    digest = _judged_digest(package, verdict) if package is not None else None
    wanted = verdict["decision"] == "promote"
    if wanted and (package is None or digest is None):
        raise RegistryError(f"the gate chose {candidate!r}, but {package} is no package: run `dvc repro`")

    is_champion = champion is not None and champion.package_sha256 == digest
    withdrawn = wanted and champion is not None and digest in champion.withdrawn
    if wanted and not is_champion and not withdrawn:
        assert package is not None and digest is not None
        _check_current(verdict, champion, digest)
        OnnxClassifier(package).self_check()
        new = _install(package, digest, verdict, verdicts).after(champion)
        new.save(registry)
        return _outcome(True, True, str(verdict.get("reason") or "it passed the gate"), new)

    restored = _restore(champion, packages, verdicts) if champion is not None else None
    changed = restored is not None
    if restored is not None:
        restored.save(registry)
    if withdrawn:
        reason = (
            f"nothing was promoted: package {str(digest)[:8]} was champion and was rolled back; "
            "`ferops promote --version` promotes it all the same"
        )
        return _outcome(False, changed, reason, restored or champion)
    if wanted:
        return _outcome(True, changed, "this package is the champion already", restored or champion)
    challenger = None
    if package is not None and digest is not None and not is_champion:
        client = versions.connect()
        challenger, _ = versions.registered(client, package, digest, verdict)
        client.set_registered_model_alias(tracking.REGISTERED_MODEL, CHALLENGER, challenger)
    return _outcome(
        False, changed, f"nothing was promoted: {verdict.get('reason')}", restored or champion, challenger
    )


def _check_current(verdict: Mapping[str, Any], champion: Champion | None, digest: str) -> None:
    current = champion.version if champion else None
    against = verdict.get("decided_against_version")
    if (None if against is None else str(against)) == current:
        return
    client = versions.connect()
    known = versions.find(client, digest)
    if champion is None and known is not None and versions.holder(client, CHAMPION) == str(known.version):
        return  # it was promoted, and the pointer was lost since
    raise StaleDecisionError(
        f"the gate decided against champion version {against or 'none'}, but champion is now version "
        f"{current or 'none'}: run the gate again (`dvc repro --force --single-item gate`), then promote"
    )


def _outcome(
    promoted: bool, changed: bool, reason: str, champion: Champion | None, challenger: str | None = None
) -> Promotion:
    if champion is None:
        return Promotion(promoted, changed, reason, challenger_version=challenger)
    return Promotion(
        promoted,
        changed,
        reason,
        champion.candidate,
        champion.version,
        champion.bento_tag,
        champion.package_sha256,
        challenger,
        champion.synthetic,
    )


def _judged_digest(package: Path, verdict: Mapping[str, Any]) -> str | None:
    """Digest of the candidate's package; none when it was not packaged."""
    if not (package / MODEL_FILE).exists():
        return None
    digest = files.sha256(package)
    judged = verdict.get("package_sha256")
    if judged is not None and judged != digest:
        raise RegistryError(
            f"{package} is not what the gate judged ({judged[:8]} then, {digest[:8]} now): "
            "run the gate again (`dvc repro`)"
        )
    return digest


def _install(package: Path, digest: str, verdict: Mapping[str, Any], verdicts: Path) -> Champion:
    """Every step of a promotion but the pointer, each skipped where it was done."""
    client = versions.connect()
    version, run_id = versions.registered(client, package, digest, verdict)
    client.set_registered_model_alias(tracking.REGISTERED_MODEL, CHALLENGER, version)
    card = Card.load(package / CARD_FILE)
    champion = Champion(
        model=tracking.REGISTERED_MODEL,
        version=version,
        bento_tag=_tag(version, digest),
        package_sha256=digest,
        mlflow_run_id=run_id,
        candidate=card.name,
        promoted_at=_now(),
        synthetic=card.synthetic,
    )
    _store(package, champion, verdicts)
    client.set_registered_model_alias(tracking.REGISTERED_MODEL, CHAMPION, version)
    client.delete_registered_model_alias(tracking.REGISTERED_MODEL, CHALLENGER)
    return champion


def _restore(champion: Champion, packages: Path, verdicts: Path | None = None) -> Champion | None:
    """Put back what a registry lost of the champion, and give it as it is now; none if nothing was lost."""
    client = versions.connect()
    known = versions.find(client, champion.package_sha256, champion.version)
    if known and _in_store(champion) and versions.holder(client, CHAMPION) == champion.version:
        return None
    source = _source(champion, packages)
    known = known or versions.find(client, champion.package_sha256)
    if known is None:
        known = versions.register(
            client, source, champion.package_sha256, {"decision": "promote"}, champion.version
        )
    version = str(known.version)
    # The number is the same again, unless others were given in between.
    champion = replace(
        champion,
        version=version,
        bento_tag=_tag(version, champion.package_sha256),
        mlflow_run_id=known.run_id,
    )
    _store(source, champion, verdicts)
    client.set_registered_model_alias(tracking.REGISTERED_MODEL, CHAMPION, version)
    return champion


def _source(champion: Champion, packages: Path) -> Path:
    """A folder that holds the champion's package whole."""
    package = packages / champion.candidate
    if package.exists() and files.sha256(package) == champion.package_sha256:
        return package
    stored = _in_store(champion)
    if stored is None:
        raise RegistryError(
            f"champion version {champion.version} is lost: neither BentoML's model store nor {package} "
            f"holds its package {champion.package_sha256[:8]}. Get it back (`dvc checkout` on its commit), "
            "or delete the pointer and run `dvc repro --force`"
        )
    return stored


# BentoML's model store


def _tag(version: str, digest: str) -> str:
    return f"{tracking.REGISTERED_MODEL}:v{version}-{digest[:8]}"


def _store(package: Path, champion: Champion, verdicts: Path | None) -> None:
    """Copy the package into BentoML's store, unless it is there whole, with the verdicts that are on it."""
    import bentoml

    if (stored := _in_store(champion)) is not None:
        carry_over(verdicts, stored)
        return
    with suppress(bentoml.exceptions.BentoMLException):  # a killed copy leaves half a folder
        bentoml.models.delete(champion.bento_tag)
    card = Card.load(package / CARD_FILE)
    labels = versions.labels(card, champion.package_sha256) | {
        "mlflow_version": champion.version,
        "mlflow_run_id": champion.mlflow_run_id,
    }
    with bentoml.models.create(champion.bento_tag, labels=labels) as model:
        shutil.copytree(package, model.path, dirs_exist_ok=True)
        carry_over(verdicts, Path(model.path))


def _in_store(champion: Champion) -> Path | None:
    """The champion's package in the store, if it is there whole."""
    try:
        folder = champion.folder()
    except NoChampionError:
        return None
    digest = files.sha256(folder, ignore=(versions.BENTO_FILE, VARIANTS_FILE))
    return folder if digest == champion.package_sha256 else None
