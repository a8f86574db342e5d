"""The way back from a prediction: model version, MLflow run, code, parameters, dataset and its validation.

    >>> trace("0123456789abcdef0123456789abcdef", Workspace())  # doctest: +SKIP

Every link is found by an id that an earlier step wrote down, never by "latest". A link that is missing says
which and why, and the next one is followed all the same where its id is known otherwise. Where a release was
trained elsewhere, its own files say what they know; each is believed if it is as it was released.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ferops import files, tracking
from ferops.data.store import Dataset
from ferops.models.classifier import Card
from ferops.models.onnx import CARD_FILE
from ferops.monitoring.forgetting import UnknownPredictionError, is_forgotten
from ferops.promotion import versions
from ferops.promotion.champion import NoChampionError, load_champion
from ferops.promotion.release import VALIDATION_FILE, Release, load_release
from ferops.serving.log_reader import read_log
from ferops.serving.prediction_log import timestamp


@dataclass(frozen=True)
class Workspace:
    """Where the links are looked up, relative to the repository's root."""

    log_dir: Path = Path("predictions")
    registry: Path = Path("registry")
    release: Path = Path("release")
    packages: Path = Path("packages")
    dataset: Path = Path("data/dataset")
    reports: Path = Path("reports")
    params: Path = Path("params.yaml")


class MissingLinkError(LookupError):
    """A link cannot be followed; the message says why, and what may bring it back."""


@dataclass(frozen=True)
class Link:
    """One step of the way back.

    Attributes:
        name: of the step.
        found: what it leads to; none when it is missing.
        missing: why it is.
    """

    name: str
    found: str | None = None
    missing: str | None = None

    def line(self) -> str:
        """For a terminal."""
        return f"{self.name:<14} {self.found if self.missing is None else f'MISSING: {self.missing}'}"


def trace(identity: str, workspace: Workspace) -> list[Link]:
    """Every link from a prediction back to the data, in that order; the first missing one stops nothing.

    Raises:
        UnknownPredictionError: if the log does not hold the prediction, or no longer.
    """
    answer = _logged(workspace.log_dir, identity)
    origin = _Origin(answer["model_version"], workspace)
    steps: dict[str, Callable[[], str]] = {
        "model version": origin.version,
        "mlflow run": origin.run,
        "git commit": origin.commit,
        "params": origin.params,
        "dataset": origin.dataset,
        "validation": origin.validation,
    }
    said = f"{answer['label']}, confidence {answer['confidence']:.3f}, by {answer['model_version']}"
    links = [Link("prediction", f"{timestamp(answer['time'])} {said}")]
    links += [Link("feedback", f"{timestamp(time)} {emotion}") for time, emotion in answer["feedback"]]
    for name, follow in steps.items():
        try:
            links.append(Link(name, follow()))
        except MissingLinkError as error:
            links.append(Link(name, missing=str(error)))
    return links


def _logged(log_dir: Path, identity: str) -> dict[str, Any]:
    if is_forgotten(log_dir, identity):
        raise UnknownPredictionError(f"prediction {identity} was forgotten (`ferops forget`)")

    def find(log: Any) -> tuple[Any, list[tuple[datetime, str]]]:
        query = "SELECT time, model_version, label, confidence FROM predictions WHERE id = ?"
        found = log.execute(query, [identity]).fetchone()
        said = log.execute("SELECT time, emotion FROM feedback WHERE id = ? ORDER BY time", [identity])
        return found, said.fetchall()

    found, feedback = read_log(log_dir, find)
    if found is None:
        raise UnknownPredictionError(
            f"{log_dir} holds no prediction {identity}: FEROPS_LOG_DIR names the folder that the service "
            "logs to, and records are deleted after log.keep_days of monitoring/policy.yaml"
        )
    names = ("time", "model_version", "label", "confidence")
    return {**dict(zip(names, found, strict=True)), "feedback": feedback}


class _Origin:
    """Where a model version came from, by what the registries and its own card say."""

    def __init__(self, label: str, workspace: Workspace) -> None:
        self.label = label
        self.workspace = workspace

    # The links

    def version(self) -> str:
        kind, _, digest = self.label.rpartition("-")
        where = [place for place, _ in self._cards]
        if self._registered is not None:
            version, tags = self._registered.version, self._registered.tags
            gate = tags.get(versions.GATE_TAG, "unknown")
            where.insert(0, f"version {version} of {tracking.REGISTERED_MODEL} in MLflow, gate: {gate}")
        if not where:
            raise MissingLinkError(
                f"neither MLflow's registry, BentoML's model store, {self.workspace.release} nor "
                f"{self.workspace.packages} has a {kind or 'model'} whose digest begins with {digest}"
            )
        return "; ".join(where)

    def run(self) -> str:
        try:
            run = self._run
        except MissingLinkError:
            if self._released is None:
                raise
            return self._released_run()
        name, status = run.data.tags.get("mlflow.runName", "?"), run.info.status
        recipe = run.data.params.get("train.recipe")
        return f"{run.info.run_id} ({name}, {status}{f', recipe {recipe}' if recipe else ''})"

    def commit(self) -> str:
        commit = self._known("git_commit", "git commit")
        bare = commit.removesuffix("-dirty")
        subject = _git("log", "-1", "--format=%cs %s", bare)
        if subject is None:
            raise MissingLinkError(f"{commit}, which this repository does not have: `git fetch` may bring it")
        dirty = ", and changes that were not committed" if bare != commit else ""
        return f"{bare[:12]} {subject.strip()}{dirty}"

    def params(self) -> str:
        digest = self._known("params_sha256", "digest of the parameters")
        workspace, commit = self.workspace, (self._fact("git_commit") or "").removesuffix("-dirty")
        places = {
            f"{workspace.params} of that commit": _git("show", f"{commit}:{workspace.params}")
            if commit
            else None,
            f"{workspace.params} as it is now": _text(workspace.params),
            f"{workspace.release / 'params.yaml'}": _text(workspace.release / "params.yaml"),
        }
        for place, content in places.items():
            if content is not None and files.sha256_of(content.encode()) == digest:
                return f"{place} (sha256 {digest[:12]})"
        if self._released and self._released.manifest.params_sha256 == digest:
            path = self._released_file("params.yaml")  # those of them that steered it, written anew
            return f"{path}, made of the file with sha256 {digest[:12]} when the model was released"
        raise MissingLinkError(
            f"sha256 {digest[:12]} is neither {', '.join(list(places)[:-1])} nor {list(places)[-1]}; "
            "MLflow's run holds the parameters that steered the training"
        )

    def dataset(self) -> str:
        digest = self._known("dataset_sha256", "digest of the dataset")
        try:
            summary = Dataset.open(self.workspace.dataset).summary
        except FileNotFoundError:
            summary = None
        if summary is None or summary.sha256 != digest:
            now = "is absent" if summary is None else f"is another one now ({summary.sha256[:12]})"
            if self._released and self._released.manifest.dataset_sha256 == digest:
                return f"{self._released_dataset(digest)}; {self.workspace.dataset} {now}"
            raise MissingLinkError(
                f"sha256 {digest[:12]}: {self.workspace.dataset} {now}; check out the commit, then "
                "`dvc checkout` or `dvc repro ingest` brings it back"
            )
        rows = sum(sum(split.values()) for split in summary.rows.values())
        return f"{summary.source}, {rows} images, sha256 {digest[:12]}, in {self.workspace.dataset}"

    def validation(self) -> str:
        digest = self._known("dataset_sha256", "digest of the dataset, by which validation knows it")
        path = self.workspace.reports / "validation.json"
        commit = (self._fact("git_commit") or "").removesuffix("-dirty")
        places = {str(path): _text(path)}
        if commit:
            places[f"{path} of that commit"] = _git("show", f"{commit}:{path}")
        for place, content in places.items():
            report = json.loads(content) if content is not None else None
            if report and report["dataset_sha256"] == digest:
                return _validated(report, place)
        released = self._released.manifest if self._released else None
        if released and released.dataset_sha256 == digest and VALIDATION_FILE in released.files:
            file = self._released_file(VALIDATION_FILE)
            return _validated(files.read_json(file), str(file))
        raise MissingLinkError(
            f"no report on dataset {digest[:12]} in {' or '.join(places)}: `ferops validate` makes it anew "
            "once the dataset is there"
        )

    # What a release says of itself

    def _released_run(self) -> str:
        card = Card.load(self._released_file(CARD_FILE))
        curves = self._released_file("learning_curves.csv")
        results = files.read_json(self._released_file("evaluation.json"))
        details, epochs = card.details, len(curves.read_text().splitlines()) - 1
        return (
            f"{card.mlflow_run_id}, in the store of whoever trained it; {curves.parent} has of it the recipe "
            f"({details.get('recipe')}), {epochs} epochs (kept: {details.get('best_epoch')}) and "
            f"the results (accuracy {results['official']['accuracy']:.3f} on {results['rows']} test images)"
        )

    def _released_dataset(self, digest: str) -> str:
        training = Card.load(self._released_file(CARD_FILE)).training_data
        known = f"{', '.join(training.datasets)}, sha256 {digest[:12]}"
        if training.pixel_hashes is None:
            return known
        hashes = self._released_file(training.pixel_hashes)
        images = len(hashes.read_text().split())
        return f"{known}: the pixel hashes of its {images} training images are in {hashes}"

    def _released_file(self, name: str) -> Path:
        """A file of the release of this model, if it is as it was released."""
        assert self._released is not None
        path, manifest = self._released.path / name, self._released.manifest
        if not path.is_file() or files.sha256(path) != manifest.files.get(name):
            raise MissingLinkError(f"{path} is not as it was released: `git checkout -- {path}`")
        return path

    @cached_property
    def _released(self) -> Release | None:
        """The release, if it is this model: it has the digest in the label."""
        release = load_release(self.workspace.release)
        fits = release and release.package_sha256.startswith(self.label.rpartition("-")[2])
        return release if fits else None

    # What they are found by

    def _known(self, name: str, what: str) -> str:
        value = self._fact(name)
        if value is None:
            raise MissingLinkError(f"nothing that is left of {self.label} says its {what}")
        return value

    def _fact(self, name: str) -> str | None:
        """One id, from the first that wrote it down: the model's card, its version in MLflow, its run."""
        for _, card in self._cards:
            training = card.training_data
            value = training.dataset_sha256 if name == "dataset_sha256" else getattr(card, name)
            if value:
                return str(value)
        tags: dict[str, str] = dict(self._registered.tags) if self._registered is not None else {}
        with suppress(MissingLinkError, KeyError):
            tags |= self._run.data.tags
            tags |= {"dataset_sha256": self._run.data.params["dataset.sha256"]}
        value = tags.get(name)
        return None if value in (None, "unknown") else value

    @cached_property
    def _cards(self) -> list[tuple[str, Card]]:
        """Each package of this version that is at hand, with the place where it is."""
        return [(place, Card.load(folder / CARD_FILE)) for place, folder in self._packages()]

    def _packages(self) -> Iterator[tuple[str, Path]]:
        workspace, digest = self.workspace, self.label.rpartition("-")[2]
        champion = load_champion(workspace.registry)
        for known in (champion, *champion.earlier) if champion else ():
            if known.label == self.label:
                with suppress(NoChampionError):
                    stored = known.folder()
                    yield f"{known.bento_tag} in BentoML's store, promoted {known.promoted_at}", stored
        if self._released is not None:
            yield f"the release in {workspace.release}", self._released.path
        for card in sorted(workspace.packages.glob(f"*/{CARD_FILE}")):
            if files.sha256(card.parent).startswith(digest):
                yield f"{card.parent}", card.parent

    @cached_property
    def _registered(self) -> Any:
        """MLflow's model version, found by the digest in the label; none where it has no such."""
        digest = self.label.rpartition("-")[2]
        found = versions.connect().search_model_versions(f"name='{tracking.REGISTERED_MODEL}'")
        fitting = [v for v in found if v.tags.get(versions.DIGEST_TAG, "").startswith(digest)]
        return min(fitting, key=lambda v: int(v.version), default=None)

    @cached_property
    def _run(self) -> Any:
        known = [card.mlflow_run_id for _, card in self._cards]
        known += [self._registered.run_id] if self._registered is not None else []
        run_id = next(filter(None, known), None)
        if run_id is None:
            raise MissingLinkError(f"nothing that is left of {self.label} says which run trained it")
        mlflow = tracking.connect()
        try:
            return mlflow.get_run(run_id)
        except mlflow.exceptions.MlflowException:
            raise MissingLinkError(
                f"{run_id}, which MLflow's store does not have: it was deleted, or the model was trained "
                "elsewhere (MLFLOW_TRACKING_URI names the store)"
            ) from None


def _validated(report: Mapping[str, Any], place: str) -> str:
    outcome, checks = "passed" if report["success"] else "FAILED", len(report["expectations"])
    return f"{outcome}, {checks} expectations, warnings: {', '.join(report['warnings']) or 'none'} ({place})"


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git prints; none where it fails."""
    try:
        return tracking.git(*arguments)
    except (OSError, subprocess.SubprocessError):
        return None
