"""Take over a training that was done elsewhere (`benchmarks/gpu.py`), as if it had been done here.

    >>> adopt(Path("results"), "final-strong-0", settings, Path("data/dataset"), Path("models/patt_lite"),
    ...       Path("reports/learning_curves.csv"))  # doctest: +SKIP

Afterwards `ferops evaluate`, `package` and `gate` go on from the model's folder. The model's card and its
MLflow run name the graphics card it was trained on and the commit of the code there; what cannot be vouched
for is refused.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from pydantic import ValidationError

from ferops import files, tracking
from ferops.data.store import Dataset
from ferops.environment import Environment
from ferops.models.classifier import Card
from ferops.settings import Recipe, Settings, problems
from ferops.training.callbacks import Best
from ferops.training.device import Device
from ferops.training.fit import Fitted, finished
from ferops.training.train import keep, parameters, row_logger, seen_before

#: How far validation accuracy may be from what was measured there: other kernels round differently.
TOLERANCE = 0.002


class AdoptError(ValueError):
    """The training cannot be taken over; the message says why, and what to do."""


def adopt(
    results: Path, key: str, settings: Settings, dataset_dir: Path, out: Path, curves_path: Path
) -> Card:
    """Write the model's folder, curves and MLflow run of a training done elsewhere.

    Args:
        results: folder with `gpu.json` and the weights.
        key: which training, such as `final-strong-0`.
        settings: `train` and its recipe must be what was trained; they are the parameters in its lineage.
        dataset_dir: the Parquet dataset that was packed for it.
        out: the model's folder, replaced whole.
        curves_path: CSV with one row an epoch.

    Raises:
        AdoptError: if it did not end, its weights were not kept, dataset or recipe are others, or the model
            does not reach here what it reached there.
    """
    found = files.read_json(results / "gpu.json")
    run, about = _finished(found, key), found["about"]
    dataset = Dataset.open(dataset_dir)
    if about["dataset_sha256"] != dataset.summary.sha256:
        raise AdoptError(
            f"{key} was trained on dataset {about['dataset_sha256'][:8]}, but {dataset_dir} is "
            f"{dataset.summary.sha256[:8]}: check out the one that was packed"
        )
    if about["quick"]:
        raise AdoptError(f"{results} is a run in miniature (--quick): it trained on a few of the images")
    if not about["git_commit"]:
        raise AdoptError(f"{results} does not tell the commit of its code: run gpu.py with --commit")
    _same_recipe(run, settings)
    inherited = _inherited(run, settings.recipe)
    weights = results / run["weights"]
    model = _model(run, settings, weights)
    _reaches(model, run, dataset)

    fitted = Fitted(model, run["best_epoch"], run["rows"])
    device = Device(**run["device"])
    lineage = {"git_commit": about["git_commit"], "params_sha256": files.sha256(Environment().params)}
    tags = {"candidate": "patt_lite", "dataset": dataset.summary.source, "adopted": key, **lineage}
    name = f"patt_lite-{run['attention']}-{settings.train.recipe} ({device.name})"
    details = {
        "backbone": {"weights": run["recipe"]["backbone"], "sha256": about["backbone_sha256"]},
        "images_per_second": round(run["images_per_second"], 1),
        "versions": run["versions"],
        "adopted": {
            "run": key,
            "ended_by_the_clock": run["ended_by_the_clock"],
            "diverged": run["diverged"],
            "results_sha256": files.sha256(results / "gpu.json"),
            "weights_sha256": files.sha256(weights),
            "source_sha256": about["source_sha256"],
        },
    }
    with tracking.run(name, tags=tags) as run_id:
        tracking.connect().log_params(parameters(settings, device, dataset))
        log = row_logger(run_id)
        for row in fitted.rows:
            log(row)
        return keep(fitted, settings, dataset, device, lineage, run_id, inherited, out, curves_path, details)


def _finished(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The training of that name.

    Raises:
        AdoptError: if there is none, or nothing is left of it to take over.
    """
    kept = [run["key"] for run in found["runs"] if run["weights"]]
    for run in found["runs"]:
        if run["key"] == key and run["weights"]:
            return dict(run)
    raise AdoptError(f"there are no weights of {key!r}: they were kept of {', '.join(kept) or 'no training'}")


def _same_recipe(run: Mapping[str, Any], settings: Settings) -> None:
    """Refuse parameters that are not those of the training; where ImageNet's weights lay may differ.

    A trained model's backbone has seen images, and which is told by the file that the parameters name.
    """
    ours = settings.recipe.model_dump(mode="json") | settings.train.model_dump(
        mode="json", exclude={"recipe"}
    )
    try:  # settings that it is too old to name had their defaults
        there = Recipe.model_validate(run["recipe"]).model_dump(mode="json")
    except ValidationError as error:
        raise AdoptError(f"the recipe of {run['key']} is none of this version:\n{problems(error)}") from error
    theirs = {**there, "attention": run["attention"], "seed": run["seed"]}
    trained = any(Path(recipe["backbone"]).suffix == ".keras" for recipe in (ours, theirs))
    free = {"description"} if trained else {"backbone", "description"}
    differences = [
        f"  {name}: here {ours.get(name)}, there {theirs.get(name)}"
        for name in sorted({*ours, *theirs} - free)
        if ours.get(name) != theirs.get(name)
    ]
    if differences:
        raise AdoptError(
            f"params.yaml is not what {run['key']} was trained by; set train and "
            f"recipes.{settings.train.recipe} to it first:\n" + "\n".join(differences)
        )


def _inherited(run: Mapping[str, Any], recipe: Recipe) -> list[str] | None:
    """What the model has seen through its backbone and teacher, as `seen_before` tells it.

    Raises:
        AdoptError: if backbone or teacher here is not the one that was trained from.
    """
    if recipe.teacher is not None:
        here = Path(recipe.teacher)
        if not here.is_file() or files.sha256(here) != run["teacher_sha256"]:
            raise AdoptError(
                f"{run['key']} learned from another teacher than {here}: let recipes.*.teacher name it, "
                "with the list of the images that it saw beside it (trained_on.txt)"
            )
    there = run["backbone"]
    if there is not None and there["imagenet"]:  # wherever the file lay
        recipe = recipe.model_copy(update={"backbone": "imagenet"})
    elif there is not None:
        here = Path(recipe.backbone)
        if not here.is_file() or files.sha256(here) != there["sha256"]:
            raise AdoptError(
                f"{run['key']} began with weights that are not those of {here}: let recipes.*.backbone name "
                "that file, with the list of the images that it saw beside it (trained_on.txt)"
            )
    return seen_before(recipe)


def _model(run: Mapping[str, Any], settings: Settings, weights: Path) -> keras.Model:
    row = run["rows"][run["best_epoch"] - 1]
    with np.load(io.BytesIO(weights.read_bytes())) as held:
        arrays = [held[name].astype(np.float32) for name in sorted(held.files)]
    score = (row["validation_accuracy"], -row["validation_loss"])
    best = Best(score, arrays, run["best_epoch"], row["image_size"])
    return finished(settings.recipe, run["attention"], best)


def _reaches(model: keras.Model, run: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuse a model whose validation accuracy is not what was measured where it was trained."""
    images, labels = dataset.images("validation"), dataset.labels("validation")
    answers = [
        np.asarray(model.predict_on_batch(images[start : start + 64])) for start in range(0, len(images), 64)
    ]
    here = float((np.concatenate(answers).argmax(1) == labels).mean())
    there = run["validation_float32"]["accuracy"]
    if abs(here - there) > TOLERANCE:
        raise AdoptError(
            f"{run['key']} reached {there:.4f} on validation where it was trained, and {here:.4f} here: "
            "the weights are damaged, or this code builds another model"
        )
