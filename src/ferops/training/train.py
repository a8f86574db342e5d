"""Train PAtt-Lite by a recipe: a frozen stage for the head, then fine-tuning.

    >>> train(  # doctest: +SKIP
    ...     settings, Path("data/dataset"), Path("models/patt_lite"), Path("curves.csv"), Path("checkpoints")
    ... )

Only the train and validation splits are read. The model that is kept is that of the epoch with the best
validation accuracy, over both stages. A training that was killed goes on where it was (checkpoint.py).
"""

import csv
import io
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ferops import __version__, emotions, files, tracking
from ferops.data import images
from ferops.data.store import Dataset
from ferops.models import patt_lite
from ferops.models.classifier import TRAINED_ON_FILE, Card, TrainingData
from ferops.models.patt_lite import EMBEDDING_SIZE
from ferops.settings import Attention, Recipe, Settings
from ferops.training import (
    augmentation,
    batches,
    callbacks,
    decoding,
    fused_backbone,
    resident,
    schedule,
    teacher,
)
from ferops.training import device as devices
from ferops.training import fit as fitting
from ferops.training.callbacks import DivergedError, Row
from ferops.training.checkpoint import Checkpoint, CheckpointError, identity, tidy
from ferops.training.decoding import decode
from ferops.training.device import Device, prepare
from ferops.training.figures import learning_curves
from ferops.training.fit import Fitted, finished, fit

#: The code that a training's numbers come from: with any of it changed, a checkpoint is not continued.
CODE = (
    emotions,
    images,
    patt_lite,
    augmentation,
    batches,
    callbacks,
    decoding,
    devices,
    fitting,
    fused_backbone,
    resident,
    schedule,
    teacher,
)


def train(
    settings: Settings,
    dataset_dir: Path,
    out: Path,
    curves_path: Path,
    checkpoints: Path,
    tags: Mapping[str, str] | None = None,
) -> Card:
    """Train the recipe that `settings.train` names and write the model's folder.

    Args:
        settings: all parameters.
        dataset_dir: the Parquet dataset.
        out: folder that will hold `model.keras`, `card.json`, `learning_curves.png`, and `trained_on.txt`
            where all images are known that steered the model.
        curves_path: CSV with one row an epoch.
        checkpoints: folder of unfinished trainings; one of the same recipe, data and code is continued.
        tags: for the MLflow run, beside its own.

    Returns:
        The model's card; its `mlflow_run_id` is the run that holds parameters and curves.

    Raises:
        BackboneUnavailableError: if the backbone's weights cannot be had.
        TeacherError: if the teacher cannot be had.
        DivergedError: if the loss stops being a number; `out` is as it was, and the message names the last
            good checkpoint.
        CheckpointError: if a checkpoint or the model cannot be written, or another process trains the same.
        tracking.StoreError: if MLflow's store cannot be written.
    """
    recipe = settings.recipe
    teacher.require_weights(recipe.backbone, recipe.teacher)
    lineage = tracking.lineage()  # now: training is long, and somebody may commit meanwhile
    dataset = Dataset.open(dataset_dir)
    device = prepare(recipe)
    inherited = seen_before(recipe)
    name = f"patt_lite-{settings.train.attention}-{settings.train.recipe}"
    tags = {"candidate": "patt_lite", "dataset": dataset.summary.source, **(tags or {})}
    with Checkpoint.claim(checkpoints, _identity(settings, dataset, device)) as checkpoint:
        tidy(checkpoints, tracking.close_abandoned)
        if checkpoint.finished is not None:
            _asked_again(checkpoint, out)
        begun = checkpoint.begin(lineage)
        lineage = {key: begun.get(key, value) for key, value in lineage.items()}
        with tracking.run(name, tags=tags, attempt=begun["attempt"]) as run_id:
            _log_parameters(run_id, parameters(settings, device, dataset))
            data, validation = decode(dataset, "train"), decode(dataset, "validation")
            attention, seed = settings.train.attention, settings.train.seed
            try:
                fitted = fit(recipe, attention, seed, data, validation, row_logger(run_id), checkpoint)
            except DivergedError as error:
                kept = _last_good(checkpoint, recipe, attention, dataset, inherited)
                raise DivergedError(f"{error}. {kept}") from error
            try:
                card = keep(fitted, settings, dataset, device, lineage, run_id, inherited, out, curves_path)
            except OSError as error:
                raise CheckpointError(
                    f"the trained model cannot be written to {out} ({error}): make room, then train again; "
                    "no epoch is repeated"
                ) from error
        checkpoint.finish(run_id)
    return card


def _asked_again(checkpoint: Checkpoint, out: Path) -> None:
    """Train a finished training anew where its outcome is in place; where it is lost, say that it is kept."""
    card = out / "card.json"
    if card.exists() and Card.load(card).mlflow_run_id == checkpoint.finished:
        checkpoint.clear()
    else:
        checkpoint.reopen()
        print(
            f"this very training had ended: its outcome is written again, in the same MLflow run "
            f"(to train anew, delete {checkpoint.folder})",
            file=sys.stderr,
        )


def _log_parameters(run_id: str, values: Mapping[str, Any]) -> None:
    """Add parameters to a run, but none that a resumed one has: MLflow refuses another value.

    A recipe's name and description may have changed meanwhile; what the outcome depends on has not.
    """
    with tracking.written("train again then"):
        mlflow = tracking.connect()
        known = mlflow.get_run(run_id).data.params
        mlflow.log_params({name: value for name, value in values.items() if name not in known})


def row_logger(run_id: str) -> Callable[[Row], None]:
    """What adds an epoch's numbers to the open MLflow run, unless it has that epoch already.

    A resumed training tells all its epochs: its run may have them, all but the last, or be a new one.

    Raises:
        tracking.StoreError: if the run cannot be asked, and from the function, if it cannot be written.
    """
    with tracking.written("the same command goes on from here"):
        history = tracking.connect().MlflowClient().get_metric_history(run_id, "validation_accuracy")
    known = {metric.step for metric in history}

    def log(row: Row) -> None:
        if row["epoch"] in known:
            return
        numbers = {name: value for name, value in row.items() if name not in ("epoch", "stage")}
        with tracking.written("the same command goes on after this epoch"):
            tracking.connect().log_metrics(numbers, step=row["epoch"])

    return log


def keep(
    fitted: Fitted,
    settings: Settings,
    dataset: Dataset,
    device: Device,
    lineage: Mapping[str, str],
    run_id: str,
    inherited: Sequence[str] | None,
    out: Path,
    curves_path: Path,
    details: Mapping[str, Any] | None = None,
) -> Card:
    """Write a trained model's folder and curves, and add them to its MLflow run, which is open.

    Args:
        fitted: the model and its curves.
        settings: with the recipe it was trained by.
        dataset: it was trained on.
        device: it was trained on.
        lineage: `git_commit` and `params_sha256` of its training.
        run_id: the open run.
        inherited: of `seen_before`, from before the training.
        out: the model's folder.
        curves_path: CSV with one row an epoch.
        details: for the card, in the place of what is known of this machine.
    """
    recipe = settings.recipe
    digests = weights_of(recipe)
    card = Card(
        name="patt_lite",
        kind="patt_lite",
        input_side=int(fitted.model.input_shape[1]),
        parameters=fitted.model.count_params(),
        embedding_size=EMBEDDING_SIZE,
        synthetic=dataset.summary.synthetic,
        training_data=TrainingData(
            known=inherited is not None,
            datasets=(dataset.summary.source,),
            pixel_hashes=None if inherited is None else TRAINED_ON_FILE,
            dataset_sha256=dataset.summary.sha256,
        ),
        mlflow_run_id=run_id,
        git_commit=lineage["git_commit"],
        params_sha256=lineage["params_sha256"],
        details={
            "attention": settings.train.attention,
            "recipe": settings.train.recipe,
            "image_size": fitted.model.get_layer("resize").height,
            "backbone": {"weights": recipe.backbone, "sha256": digests[recipe.backbone]},
            "teacher": recipe.teacher and {"weights": recipe.teacher, "sha256": digests[recipe.teacher]},
            "seed": settings.train.seed,
            "best_epoch": fitted.best_epoch,
            "device": asdict(device),
            "images_per_second": round(fitted.rows[-1]["images_per_second"], 1),
            "versions": {
                "ferops": __version__,
                "keras": keras.__version__,
                "python": platform.python_version(),
            },
            **(details or {}),
        },
    )
    with files.new_folder(out) as folder:
        _save(fitted.model, folder, dataset, inherited)
        card.save(folder / "card.json")
        learning_curves(fitted.rows, dataset.summary.synthetic, folder / "learning_curves.png")
    files.write_text(curves_path, _csv(fitted.rows))
    with tracking.written("the same command goes on from here"):
        mlflow = tracking.connect()
        mlflow.log_metric("best_epoch", fitted.best_epoch)
        mlflow.log_artifacts(str(out), "model")
    return card


def _save(model: keras.Model, folder: Path, dataset: Dataset, inherited: Sequence[str] | None) -> None:
    """Write a model and the list of the images that steered it; no list where it would not be whole."""
    model.save(folder / "model.keras")
    if inherited is None:
        return
    # Train and validation both steered the model, so neither may be tested on.
    seen = {*dataset.frame("train", ["pixel_hash"])["pixel_hash"]}
    seen |= {*dataset.frame("validation", ["pixel_hash"])["pixel_hash"]}
    seen |= set(inherited)
    files.write_text(folder / TRAINED_ON_FILE, "\n".join(sorted(seen)) + "\n")


def _identity(settings: Settings, dataset: Dataset, device: Device) -> str:
    """Digest of all that the outcome depends on: another recipe, dataset, device or code starts anew."""
    recipe = settings.recipe
    backend = import_module(device.backend).__version__
    return identity(
        recipe.model_dump(mode="json", exclude={"description"}),
        settings.train.attention,
        settings.train.seed,
        dataset.summary.sha256,
        weights_of(recipe),
        asdict(device),
        [keras.__version__, backend, np.__version__],
        [files.sha256(Path(module.__file__)) for module in CODE if module.__file__],
    )


def _last_good(
    checkpoint: Checkpoint,
    recipe: Recipe,
    attention: Attention,
    dataset: Dataset,
    inherited: Sequence[str] | None,
) -> str:
    """Keep the best epoch's model of a training that diverged; a sentence says where, and what for."""
    state = checkpoint.load()
    if state is None:
        return "No epoch had been finished"
    try:
        with files.new_folder(checkpoint.folder / "best") as folder:
            _save(finished(recipe, attention, state.best), folder, dataset, inherited)
    except OSError as error:
        return f"Its best epoch's model cannot be written to {checkpoint.folder} ({error})"
    return (
        f"The best of {len(state.rows)} epochs (epoch {state.best.epoch}, validation accuracy "
        f"{state.best.score[0]:.3f}) is kept: to start from it, set backbone: "
        f"{checkpoint.folder / 'best' / 'model.keras'}"
    )


def weights_of(recipe: Recipe) -> dict[str, str | None]:
    """Backbone and teacher, if any, with a file's digest, for its name may be given again."""
    named = [recipe.backbone] if recipe.teacher is None else [recipe.backbone, recipe.teacher]
    return {name: files.sha256(Path(name)) if Path(name).is_file() else None for name in named}


def seen_before(recipe: Recipe) -> list[str] | None:
    """Pixel hashes that the trained models behind backbone and teacher saw; none if one's are unknown.

    What they saw, the new model has seen too. The list lies beside the weights; ImageNet's need none.

    Raises:
        BackboneUnavailableError: if weights without a list cannot be loaded.
    """
    seen: list[str] = []
    learned = [] if recipe.backbone in ("imagenet", "none") else [recipe.backbone]
    for weights in [*learned, *([recipe.teacher] if recipe.teacher else [])]:
        listed, card = (Path(weights).with_name(name) for name in (TRAINED_ON_FILE, "card.json"))
        # Earlier code wrote a list also where it was not whole, and said so in the card.
        if listed.exists() and (not card.exists() or Card.load(card).training_data.known):
            seen += listed.read_text().split()
        elif weights == recipe.teacher or not patt_lite.is_imagenet(weights):
            return None
    return seen


def parameters(settings: Settings, device: Device, dataset: Dataset) -> dict[str, Any]:
    """Everything that steered the run, flat, as MLflow shows it."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    add("train", settings.train.model_dump(mode="json"))
    add("recipe", settings.recipe.model_dump(mode="json"))
    add("device", asdict(device))
    flat["dataset.sha256"] = dataset.summary.sha256
    flat["dataset.source"] = dataset.summary.source
    flat["dataset.synthetic"] = dataset.summary.synthetic
    return flat


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
