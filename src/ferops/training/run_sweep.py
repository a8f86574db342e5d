"""Train a sweep, one tracked MLflow run for each training, and tell what helped.

    >>> results = [train_run(run, settings, dataset_dir, out, checkpoints) for run in runs]  # doctest: +SKIP
    >>> write_report(results, out)  # doctest: +SKIP

What is compared is the best validation accuracy; no test image is looked at. A sweep that was stopped goes
on where it was: finished trainings are not repeated, the one that was interrupted is resumed.
"""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from pydantic import BaseModel, ValidationError

from ferops import files
from ferops.data.store import Dataset
from ferops.settings import Recipe, Settings, TrainSettings
from ferops.training.callbacks import DivergedError
from ferops.training.sweep import Run
from ferops.training.teacher import require_weights
from ferops.training.train import train, weights_of

RESULT, CURVES = "result.json", "learning_curves.csv"


class Result(BaseModel):
    """What became of one training.

    Attributes:
        group: of the sweep.
        name: of the sweep's entry.
        seed: of the training.
        recipe: complete, with the attention's wiring, as JSON.
        dataset_sha256: what it was trained on.
        weights: backbone and teacher by their digests: another file may be given the same name.
        accuracy: best on validation, 0 to 1; none where the loss stopped being a number.
        best_epoch: which reached it; epochs count from 1.
        epochs: trained.
        mlflow_run_id: its parameters and curves.
    """

    group: str
    name: str
    seed: int
    recipe: dict[str, Any]
    dataset_sha256: str
    weights: dict[str, str | None] = {}
    accuracy: float | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    mlflow_run_id: str | None = None


def require_all_weights(runs: Sequence[Run]) -> None:
    """Refuse a sweep that names a backbone or teacher that cannot be used, before its first training.

    Raises:
        BackboneUnavailableError, TeacherError: naming the file.
    """
    for backbone, teacher in {(run.recipe.backbone, run.recipe.teacher) for run in runs}:
        require_weights(backbone, teacher)


def train_run(run: Run, settings: Settings, dataset_dir: Path, out: Path, checkpoints: Path) -> Result:
    """Train one entry with one seed, unless that was done already on this dataset.

    Args:
        run: from `read_sweep`.
        settings: all other parameters.
        dataset_dir: the Parquet dataset.
        out: the sweep's folder; `<key>/` in it gets model, curves and `result.json`.
        checkpoints: folder of unfinished trainings.

    Raises:
        BackboneUnavailableError, TeacherError, CheckpointError, tracking.StoreError: as `train`.
    """
    asked = Result(
        group=run.group,
        name=run.name,
        seed=run.seed,
        recipe={**run.recipe.model_dump(mode="json"), "attention": run.attention},
        dataset_sha256=Dataset.open(dataset_dir).summary.sha256,
        weights=weights_of(run.recipe),
    )
    folder = out / run.key
    if (folder / RESULT).exists():
        found = Result.model_validate(files.read_json(folder / RESULT))
        if _same(found, asked):
            return found
    recipe = f"{run.group}-{run.name}"
    changed = settings.model_copy(
        update={
            "train": TrainSettings(recipe=recipe, attention=run.attention, seed=run.seed),
            "recipes": {recipe: run.recipe},
        }
    )
    keras.utils.clear_session()  # graphs of the training before
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tags = {"sweep": out.name, "sweep.run": run.key}
        card = train(changed, dataset_dir, folder / "model", folder / CURVES, checkpoints, tags)
    except DivergedError:
        result = asked
    else:
        with (folder / CURVES).open() as file:
            scores = [float(row["validation_accuracy"]) for row in csv.DictReader(file)]
        result = asked.model_copy(
            update={
                "accuracy": max(scores),
                "best_epoch": card.details["best_epoch"],
                "epochs": len(scores),
                "mlflow_run_id": card.mlflow_run_id,
            }
        )
    files.write_json(folder / RESULT, result.model_dump(mode="json"))
    return result


def _same(found: Result, asked: Result) -> bool:
    """Whether a result is of what is asked for; settings that it is too old to name had their defaults."""
    wiring = {"attention": found.recipe.get("attention")}
    try:
        held = {name: value for name, value in found.recipe.items() if name not in wiring}
        recipe = Recipe.model_validate(held).model_dump(mode="json") | wiring
    except ValidationError:  # it names settings that there are no longer
        return False
    if "weights" not in found.model_fields_set:  # nobody noted which files they were
        found = found.model_copy(update={"weights": asked.weights})
    outcome = {name: getattr(asked, name) for name in ("accuracy", "best_epoch", "epochs", "mlflow_run_id")}
    return found.model_copy(update={"recipe": recipe, **outcome}) == asked


def write_report(results: Sequence[Result], out: Path) -> str:
    """Write `sweep.json`, `sweep.md` and `sweep.png` into the sweep's folder.

    Returns:
        The Markdown table: a line for each entry, with its mean over seeds and its mean difference from its
        group's first entry, taken seed by seed over the seeds that both have.
    """
    files.write_json(out / "sweep.json", [result.model_dump(mode="json") for result in results])
    lines = [
        "| group | entry | seeds | validation accuracy | lowest to highest | against first | best epoch |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    entries = _by_entry(results)
    for (group, name), found in entries.items():
        first = next(held for (other, _), held in entries.items() if other == group)
        scores = {result.seed: result.accuracy for result in found if result.accuracy is not None}
        base = {result.seed: result.accuracy for result in first if result.accuracy is not None}
        shared = [scores[seed] - base[seed] for seed in scores if seed in base]
        against = f"{np.mean(shared):+.1%}".replace("%", "") if shared and found is not first else ""
        values = list(scores.values())
        epochs = ", ".join(str(result.best_epoch) for result in found if result.best_epoch is not None)
        measured = (
            f"{np.mean(values):.1%} | {min(values):.1%} to {max(values):.1%} | {against}"
            if values
            else "diverged | |"
        )
        lines.append(f"| {group} | {name} | {len(values)} of {len(found)} | {measured} | {epochs} |")
    table = "\n".join(lines)
    files.write_text(out / "sweep.md", table + "\n")
    _draw(entries, out / "sweep.png")
    return table


def _by_entry(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    entries: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        entries[result.group, result.name].append(result)
    return entries


def _draw(entries: dict[tuple[str, str], list[Result]], path: Path) -> None:
    """A dot a training, a bar at each entry's mean, best at the top."""
    scored = {
        f"{name} ({group})": [100 * result.accuracy for result in found if result.accuracy is not None]
        for (group, name), found in entries.items()
    }
    means = {label: float(np.mean(scores)) for label, scores in scored.items() if scores}
    order = sorted(means, key=means.__getitem__)
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.35 * len(order)), constrained_layout=True)
    for row, label in enumerate(order):
        axis.plot(scored[label], [row] * len(scored[label]), "o", color="tab:blue", alpha=0.6)
        axis.plot(means[label], row, "|", color="black", markersize=16)
    axis.set_yticks(range(len(order)), order)
    axis.set_xlabel("best validation accuracy, per cent (dot: one seed, bar: mean)")
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
