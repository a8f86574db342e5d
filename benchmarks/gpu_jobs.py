"""What `gpu.py` runs in processes of their own: from `request.json` in a folder to `result.json`.

python benchmarks/gpu_jobs.py FOLDER
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np

from ferops import files
from ferops.evaluation.metrics import measure
from ferops.evaluation.views import Averaged
from ferops.models.classifier import Card, Classifier, TrainingData
from ferops.models.patt_lite import (
    EMBEDDING_SIZE,
    BackboneUnavailableError,
    PattLite,
    is_imagenet,
)
from ferops.settings import Recipe
from ferops.training import teacher
from ferops.training.batches import LabelledImages
from ferops.training.callbacks import DivergedError, Row
from ferops.training.checkpoint import Checkpoint
from ferops.training.device import prepare
from ferops.training.fit import Fitted, finished, fit

#: Images of one step when a finished model is measured.
MEASURING_BATCH = 512


def missing_weights(asked: Sequence[Sequence[str]]) -> str:
    """Why a backbone or teacher, of pairs of them, cannot be had; empty where all can."""
    for backbone, teacher_path in asked:
        try:
            teacher.require_weights(backbone, teacher_path or None)
        except (BackboneUnavailableError, teacher.TeacherError) as error:
            return str(error)
    return ""


def load(path: str) -> tuple[dict[str, LabelledImages], np.ndarray]:
    """The splits, and which test rows are copies of training images."""
    with np.load(path) as held:
        splits = {
            split: LabelledImages(held[f"{split}_grey"], held[f"{split}_labels"])
            for split in ("train", "validation", "test")
        }
        return splits, held["copy_in_train"]


class OutOfTimeError(Exception):
    """The clock ends a training after an epoch; its best so far is kept."""


def train(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One training to its end, or to the clock's: curves, weights in float16, validation and test results."""
    recipe = Recipe.model_validate(request["recipe"])
    splits, copies = load(request["data"])
    device = prepare(recipe)

    rows: list[Row] = []

    def on_row(row: Row) -> None:
        rows.append(row)
        with (folder / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        if time.monotonic() > request["until"]:  # the system's clock, one for all processes
            raise OutOfTimeError

    seed = request["seed"]
    resident = True if request["quick"] else None  # the miniature takes the accelerator's path
    checkpoint, in_time = Checkpoint(folder), True
    diverged: str | None = None
    started = time.monotonic()
    try:
        fitted = fit(
            recipe,
            request["attention"],
            seed,
            splits["train"],
            splits["validation"],
            on_row,
            checkpoint,
            resident,
        )
    except (OutOfTimeError, DivergedError) as error:
        state = checkpoint.load()  # an epoch is saved before it is told
        if isinstance(error, DivergedError):
            diverged = str(error)
        else:
            in_time = False
        if state is None:
            return {"finished": False, "rows": rows, "log_end": diverged, "diverged": diverged}
        fitted = Fitted(finished(recipe, request["attention"], state.best), state.best.epoch, state.rows)
    seconds = time.monotonic() - started
    arrays = {f"w{i:03d}": weight.astype(np.float16) for i, weight in enumerate(fitted.model.get_weights())}
    with (folder / "weights.npz").open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return {
        "finished": True,
        "ended_by_the_clock": not in_time,
        "diverged": diverged,
        "backbone": _origin(recipe.backbone),
        "teacher_sha256": files.sha256(Path(recipe.teacher)) if recipe.teacher else None,
        "rows": fitted.rows,
        "best_epoch": fitted.best_epoch,
        "validation_accuracy": max(row["validation_accuracy"] for row in fitted.rows),
        "fit_seconds": round(seconds, 1),
        "images_per_second": statistics.median(row["images_per_second"] for row in fitted.rows),
        "device": asdict(device),
        "versions": {"keras": keras.__version__, "jax": jax.__version__},
        **results(fitted, splits, copies, request["final"]),
    }


def _origin(backbone: str) -> dict[str, Any] | None:
    """Of a weights file: its digest, and whether it is ImageNet's; both say what the new model has seen."""
    path = Path(backbone)
    return {"sha256": files.sha256(path), "imagenet": is_imagenet(backbone)} if path.is_file() else None


def results(
    fitted: Fitted, splits: dict[str, LabelledImages], copies: np.ndarray, final: bool
) -> dict[str, Any]:
    """The kept model in true float32: on validation, and on test where nothing is chosen any more."""
    card = Card(
        "patt_lite",
        "patt_lite",
        48,
        fitted.model.count_params(),
        TrainingData(known=False),
        embedding_size=EMBEDDING_SIZE,
    )
    single: Classifier = PattLite(fitted.model, card)
    views = {
        "single": single,
        "flipped": Averaged(single, "flipped"),
        "ten_crop": Averaged(single, "ten_crop"),
    }

    def answers(classifier: Classifier, split: str) -> np.ndarray:
        faces = np.repeat(splits[split].grey[..., None], 3, -1)
        return classifier.predict(faces, MEASURING_BATCH).probabilities

    out: dict[str, Any] = {}
    with jax.default_matmul_precision("highest"):
        validation = splits["validation"].labels
        out["validation_float32"] = measure(validation, answers(single, "validation")).model_dump(mode="json")
        if final:
            labels, fresh = splits["test"].labels, ~copies
            out["test"] = {}
            for name, classifier in views.items():
                given = answers(classifier, "test")
                out["test"][name] = {
                    "official": measure(labels, given).model_dump(mode="json"),
                    "without_copies": measure(labels[fresh], given[fresh]).model_dump(mode="json"),
                }
    return out


def main() -> None:
    """Do what `request.json` asks."""
    folder = Path(sys.argv[1])
    request = files.read_json(folder / "request.json")
    if request["kind"] == "run":
        result = train(request, folder)
    elif request["kind"] == "weights":
        result = {"missing": missing_weights(request["asked"])}
    elif request["kind"] == "checks":
        from gpu_checks import check

        result = check(request, *load(request["data"]))
    else:
        from gpu_speed import measure_speed

        result = measure_speed(request, load(request["data"])[0], folder)
    files.write_json(folder / "result.json", result)


if __name__ == "__main__":
    main()
