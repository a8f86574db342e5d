"""Promotion: the gate's winner becomes champion in MLflow's registry, BentoML's store and the pointer file.

    >>> promote(  # doctest: +SKIP
    ...     Path("reports/gate.json"), Path("packages"), Path("registry"), Path("reports/promotion.json")
    ... )

Every step looks first whether it was done, and the pointer is written last: a run that was killed at any
point is finished by the next one, and until then the old champion is served. A package is known by its
digest, so that one which was registered is never registered again.
"""

import os
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
from ferops.promotion.champion import Champion, NoChampionError, load_champion

CHAMPION = "champion"
CHALLENGER = "challenger"

#: Tag of a model version that holds its package's digest.
DIGEST_TAG = "package_sha256"

#: BentoML's own file in a stored model's folder; all else there is the package.
BENTO_FILE = "model.yaml"


class StaleDecisionError(RuntimeError):
    """The gate decided against a champion that is no longer the champion."""


class RegistryError(RuntimeError):
    """What the gate decided on is not what lies in `packages/`, or nothing is left to restore from."""


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
        decision: the gate's `gate.json`.
        packages: one folder per packaged candidate.
        registry: folder of the pointer.
        report: where the outcome goes.

    Raises:
        StaleDecisionError: if another champion was promoted since the gate decided.
        RegistryError: if the candidate's package is absent or not the one that the gate judged.
        BrokenPackageError: if the package does not answer as recorded.
    """
    from filelock import FileLock

    verdict = files.read_json(decision)
    registry.mkdir(parents=True, exist_ok=True)
    with FileLock(registry / ".lock"):
        outcome = _carry_out(verdict, packages, registry)
    files.write_json(report, asdict(outcome))
    return outcome


def _carry_out(verdict: Mapping[str, Any], packages: Path, registry: Path) -> Promotion:
    champion = load_champion(registry)
    candidate = verdict.get("candidate")
    package = packages / candidate if candidate else None
    digest = _judged_digest(package, verdict) if package is not None else None
    wanted = verdict["decision"] == "promote"
    if wanted and (package is None or digest is None):
        raise RegistryError(f"the gate chose {candidate!r}, but {package} is no package: run `dvc repro`")

    is_champion = champion is not None and champion.package_sha256 == digest
    if wanted and not is_champion:
        assert package is not None and digest is not None
        _check_current(verdict, champion, digest)
        OnnxClassifier(package).self_check()
        new = _install(package, digest, verdict)
        new.save(registry)
        return _outcome(True, True, str(verdict.get("reason") or "it passed the gate"), new)

    restored = _restore(champion, packages) if champion is not None else None
    changed = restored is not None
    if restored is not None:
        restored.save(registry)
    if wanted:
        return _outcome(True, changed, "this package is the champion already", restored or champion)
    challenger = None
    if package is not None and digest is not None and not is_champion:
        client = _client()
        challenger, _ = _registered(client, package, digest, verdict)
        client.set_registered_model_alias(tracking.REGISTERED_MODEL, CHALLENGER, challenger)
    return _outcome(
        False, changed, f"nothing was promoted: {verdict.get('reason')}", restored or champion, challenger
    )


def _check_current(verdict: Mapping[str, Any], champion: Champion | None, digest: str) -> None:
    current = champion.version if champion else None
    against = verdict.get("decided_against_version")
    if (None if against is None else str(against)) == current:
        return
    client = _client()
    known = _find_version(client, digest)
    if champion is None and known is not None and _alias(client, CHAMPION) == str(known.version):
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


def _install(package: Path, digest: str, verdict: Mapping[str, Any]) -> Champion:
    """Every step of a promotion but the pointer, each skipped where it was done."""
    client = _client()
    version, run_id = _registered(client, package, digest, verdict)
    client.set_registered_model_alias(tracking.REGISTERED_MODEL, CHALLENGER, version)
    card = Card.load(package / CARD_FILE)
    champion = Champion(
        model=tracking.REGISTERED_MODEL,
        version=version,
        bento_tag=_tag(version, digest),
        package_sha256=digest,
        mlflow_run_id=run_id,
        candidate=card.name,
        promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        synthetic=card.synthetic,
    )
    _store(package, champion)
    client.set_registered_model_alias(tracking.REGISTERED_MODEL, CHAMPION, version)
    client.delete_registered_model_alias(tracking.REGISTERED_MODEL, CHALLENGER)
    return champion


def _restore(champion: Champion, packages: Path) -> Champion | None:
    """Put back what a registry lost of the champion, and give it as it is now; none if nothing was lost."""
    client = _client()
    known = _find_version(client, champion.package_sha256, champion.version)
    stored = _in_store(champion)
    if known and stored and _alias(client, CHAMPION) == champion.version:
        return None
    package = packages / champion.candidate
    source = package if package.exists() and files.sha256(package) == champion.package_sha256 else stored
    if source is None:
        raise RegistryError(
            f"champion version {champion.version} is lost: neither BentoML's model store nor {package} "
            f"holds its package {champion.package_sha256[:8]}. Get it back (`dvc checkout` on its commit), "
            "or delete the pointer and run `dvc repro --force`"
        )
    known = known or _find_version(client, champion.package_sha256)
    if known is None:
        known = _register(client, source, champion.package_sha256, {"decision": "promote"}, champion.version)
    version = str(known.version)
    # The number is the same again, unless others were given in between.
    champion = replace(
        champion,
        version=version,
        bento_tag=_tag(version, champion.package_sha256),
        mlflow_run_id=known.run_id,
    )
    _store(source, champion)
    client.set_registered_model_alias(tracking.REGISTERED_MODEL, CHAMPION, version)
    return champion


# BentoML's model store


def _tag(version: str, digest: str) -> str:
    return f"{tracking.REGISTERED_MODEL}:v{version}-{digest[:8]}"


def _store(package: Path, champion: Champion) -> None:
    """Copy the package into BentoML's store, unless it is there whole."""
    import bentoml

    if _in_store(champion) is not None:
        return
    with suppress(bentoml.exceptions.BentoMLException):  # a killed copy leaves half a folder
        bentoml.models.delete(champion.bento_tag)
    card = Card.load(package / CARD_FILE)
    labels = _labels(card, champion.package_sha256) | {
        "mlflow_version": champion.version,
        "mlflow_run_id": champion.mlflow_run_id,
    }
    with bentoml.models.create(champion.bento_tag, labels=labels) as model:
        shutil.copytree(package, model.path, dirs_exist_ok=True)


def _in_store(champion: Champion) -> Path | None:
    """The champion's package in the store, if it is there whole."""
    try:
        folder = champion.folder()
    except NoChampionError:
        return None
    return folder if files.sha256(folder, ignore=(BENTO_FILE,)) == champion.package_sha256 else None


def _labels(card: Card, digest: str) -> dict[str, str]:
    return {
        "candidate": card.name,
        DIGEST_TAG: digest,
        "dataset_sha256": card.training_data.dataset_sha256 or "unknown",
        "git_commit": card.git_commit or "unknown",
        "synthetic": str(card.synthetic).lower(),
    }


# MLflow's model registry


def _client() -> Any:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow = tracking.connect()
    client = mlflow.MlflowClient()
    with suppress(mlflow.exceptions.MlflowException):  # it exists
        client.create_registered_model(
            tracking.REGISTERED_MODEL, description="Seven facial expressions from a 48x48 face."
        )
    return client


def _alias(client: Any, alias: str) -> str | None:
    version = client.get_registered_model(tracking.REGISTERED_MODEL).aliases.get(alias)
    return None if version is None else str(version)


def _find_version(client: Any, digest: str, version: str | None = None) -> Any:
    """The model version of this package (and of this number, when given), or none."""
    found = client.search_model_versions(
        f"name='{tracking.REGISTERED_MODEL}' and tags.{DIGEST_TAG}='{digest}'"
    )
    fitting = [v for v in found if version is None or str(v.version) == version]
    return min(fitting, key=lambda v: int(v.version), default=None)


def _registered(client: Any, package: Path, digest: str, verdict: Mapping[str, Any]) -> tuple[str, str]:
    """Version and run of the package, registered now if it was not before."""
    version = _find_version(client, digest) or _register(client, package, digest, verdict)
    client.set_model_version_tag(tracking.REGISTERED_MODEL, str(version.version), "gate", verdict["decision"])
    return str(version.version), str(version.run_id)


def _register(
    client: Any, package: Path, digest: str, verdict: Mapping[str, Any], number: str | None = None
) -> Any:
    """Log the package as an MLflow model (flavours onnx and pyfunc) in its own run, and register it."""
    import mlflow
    import onnx

    card = Card.load(package / CARD_FILE)
    skipped = (MODEL_FILE, BENTO_FILE)
    with tracking.run(card.name, run_id=card.mlflow_run_id) as run_id:
        info = mlflow.onnx.log_model(
            onnx.load(str(package / MODEL_FILE)),
            name="package",
            signature=_signature(card),
            pip_requirements=["numpy", "onnx", "onnxruntime"],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            extra_files=[str(p) for p in sorted(package.iterdir()) if p.is_file() and p.name not in skipped],
            metadata={DIGEST_TAG: digest, "labels": list(card.labels), "synthetic": card.synthetic},
        )
    origin = {"source": info.model_uri, "run_id": run_id, "model_id": info.model_id}
    # Only a store of one's own is numbered up again; in a shared one a lost champion gets a new number.
    if number is not None and client.tracking_uri.startswith("sqlite:"):
        _burn_versions(client, int(number) - 1, origin)
    return client.create_model_version(
        tracking.REGISTERED_MODEL,
        **origin,
        tags=_labels(card, digest) | {"gate": str(verdict["decision"])},
        description="trained on synthetic faces" if card.synthetic else None,
    )


def _burn_versions(client: Any, last: int, origin: Mapping[str, str]) -> None:
    """Use up the version numbers to `last` in a registry that starts anew.

    Logged predictions name the champion by its number, so that it must get the same one again, and no
    other model may get one that was given before.
    """
    given = client.search_model_versions(f"name='{tracking.REGISTERED_MODEL}'")
    number = max((int(version.version) for version in given), default=0)
    while number < last:
        number = int(client.create_model_version(tracking.REGISTERED_MODEL, **origin).version)
        client.delete_model_version(tracking.REGISTERED_MODEL, str(number))


def _signature(card: Card) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    side = card.input_side
    outputs: list[Any] = [TensorSpec(np.dtype("float32"), (-1, len(card.labels)), "probabilities")]
    if card.embedding_size:
        outputs.append(TensorSpec(np.dtype("float32"), (-1, card.embedding_size), "embedding"))
    images = TensorSpec(np.dtype("uint8"), (-1, side, side, 3), "images")
    return ModelSignature(inputs=Schema([images]), outputs=Schema(outputs))
