"""Train PAtt-Lite by a recipe: a frozen stage for the head, then fine-tuning.

    >>> train(settings, Path("data/dataset"), Path("models/patt_lite"), Path("curves.csv"))  # doctest: +SKIP

Only the train and validation splits are read. The model that is kept is that of the epoch with the best
validation accuracy, over both stages.
"""

import csv
import io
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ferops import __version__, files, tracking
from ferops.data.store import Dataset
from ferops.models.classifier import Card, TrainingData
from ferops.models.patt_lite import EMBEDDING_SIZE, build_patt_lite, set_batch_norm_momentum, set_trainable
from ferops.settings import Recipe, Settings, StageSettings
from ferops.training.batch_norm import with_fused_batch_norms
from ferops.training.batches import EvaluationBatches, LabelledImages, TrainingBatches, class_weights
from ferops.training.callbacks import Curves, DivergedError, GrowImages, KeepBest, Progress, StopOnDivergence
from ferops.training.device import Device, compile_steps, prepare
from ferops.training.figures import learning_curves
from ferops.training.schedule import build_optimizer

Row = dict[str, Any]


def train(settings: Settings, dataset_dir: Path, out: Path, curves_path: Path) -> Card:
    """Train the recipe that `settings.train` names and write the model's folder.

    Args:
        settings: all parameters.
        dataset_dir: the Parquet dataset.
        out: folder that will hold `model.keras`, `card.json`, `trained_on.txt`, `learning_curves.png`.
        curves_path: CSV with one row an epoch.

    Returns:
        The model's card; its `mlflow_run_id` is the run that holds parameters and curves.

    Raises:
        BackboneUnavailableError: if the backbone's weights cannot be had.
        DivergedError: if the loss stops being a number; nothing is written then.
    """
    recipe = settings.recipe
    lineage = tracking.lineage()  # now: training is long, and somebody may commit meanwhile
    dataset = Dataset.open(dataset_dir)
    keras.utils.set_random_seed(settings.train.seed)
    device = prepare(recipe)
    inherited = _seen_by_backbone(recipe.backbone)
    data = LabelledImages.decode(dataset, "train")
    validation = LabelledImages.decode(dataset, "validation")
    name = f"patt_lite-{settings.train.attention}-{settings.train.recipe}"
    with tracking.run(name, tags={"candidate": "patt_lite", "dataset": dataset.summary.source}) as run_id:
        mlflow = tracking.connect()
        mlflow.log_params(_parameters(settings, device, dataset))
        rows: list[Row] = []

        def on_row(row: Row) -> None:
            rows.append(row)
            numbers = {k: v for k, v in row.items() if k not in ("epoch", "stage")}
            mlflow.log_metrics(numbers, step=row["epoch"])

        model, best_epoch = _fit(settings, data, validation, on_row)
        card = Card(
            name="patt_lite",
            kind="patt_lite",
            input_side=int(model.input_shape[1]),
            parameters=model.count_params(),
            embedding_size=EMBEDDING_SIZE,
            synthetic=dataset.summary.synthetic,
            training_data=TrainingData(
                known=inherited is not None,
                datasets=(dataset.summary.source,),
                pixel_hashes="trained_on.txt",
                dataset_sha256=dataset.summary.sha256,
            ),
            mlflow_run_id=run_id,
            git_commit=lineage["git_commit"],
            params_sha256=lineage["params_sha256"],
            details={
                "attention": settings.train.attention,
                "recipe": settings.train.recipe,
                "image_size": recipe.image_size,
                "backbone": _backbone(recipe.backbone),
                "seed": settings.train.seed,
                "best_epoch": best_epoch,
                "device": asdict(device),
                "images_per_second": round(rows[-1]["images_per_second"], 1),
                "versions": {
                    "ferops": __version__,
                    "keras": keras.__version__,
                    "python": platform.python_version(),
                },
            },
        )
        with files.new_folder(out) as folder:
            model.save(folder / "model.keras")
            card.save(folder / "card.json")
            # Train and validation both steered the model, so neither may be tested on.
            seen = {*dataset.frame("train", ["pixel_hash"])["pixel_hash"]}
            seen |= {*dataset.frame("validation", ["pixel_hash"])["pixel_hash"]}
            seen |= set(inherited or ())
            files.write_text(folder / "trained_on.txt", "\n".join(sorted(seen)) + "\n")
            learning_curves(rows, dataset.summary.synthetic, folder / "learning_curves.png")
        files.write_text(curves_path, _csv(rows))
        mlflow.log_metric("best_epoch", best_epoch)
        mlflow.log_artifacts(str(out), "model")
    return card


def _fit(
    settings: Settings, data: LabelledImages, validation: LabelledImages, on_row: Any
) -> tuple[keras.Model, int]:
    """Run both stages; give the model with the best epoch's weights, and that epoch (from 1)."""
    recipe = settings.recipe
    weights = None
    best: tuple[tuple[float, float], list[Any], int] | None = None
    done = 0
    model = _build(settings, recipe.frozen, recipe.backbone)
    for stage_name, stage in (("frozen", recipe.frozen), ("fine_tune", recipe.fine_tune)):
        if stage.epochs == 0:
            continue
        weights = model.get_weights() if best is None else best[1]
        plain = _build(settings, stage, "none")  # dropout rates differ between the stages
        plain.set_weights(weights)
        model = with_fused_batch_norms(plain)
        keep, epochs = _run_stage(stage_name, stage, settings, model, data, validation, done, on_row)
        if keep.weights is not None and (best is None or keep.best > best[0]):
            best = (keep.best, keep.weights, done + keep.epoch + 1)
        done += epochs
    assert best is not None  # settings refuse a recipe without epochs
    # Mixed precision and fused batch norms are for training alone.
    keras.config.set_dtype_policy("float32")
    model = _build(settings, recipe.fine_tune, "none")
    # Rounded, so that what is kept, measured and shipped is one model, and a release can store it in half.
    model.set_weights([half_precision(weight) for weight in best[1]])
    return model, best[2]


def half_precision(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the nearest float16, kept as float32.

    Raises:
        DivergedError: if a weight is beyond float16's range (65504).
    """
    rounded = weight.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise DivergedError("a weight is larger than 65504: the training has diverged")
    return rounded


def _build(settings: Settings, stage: StageSettings, backbone: str) -> keras.Model:
    return build_patt_lite(
        image_size=settings.recipe.image_size,
        attention=settings.train.attention,
        backbone=backbone,
        dropout=stage.dropout,
        spatial_dropout=stage.spatial_dropout,
    )


def _run_stage(
    name: str,
    stage: StageSettings,
    settings: Settings,
    model: keras.Model,
    data: LabelledImages,
    validation: LabelledImages,
    epochs_done: int,
    on_row: Any,
) -> tuple[KeepBest, int]:
    """Fit one stage; give what was best in it and how many epochs it took."""
    recipe: Recipe = settings.recipe
    batches = TrainingBatches(
        data,
        recipe.batch_size,
        recipe.augmentation,
        recipe.label_smoothing,
        class_weights(data.labels, recipe.class_weights),
        seed=settings.train.seed * 1000 + epochs_done,
    )
    set_trainable(model, stage.unfreeze_layers, stage.train_batch_norm)
    set_batch_norm_momentum(model, recipe.batch_norm_momentum)
    model.compile(
        optimizer=build_optimizer(stage, recipe, len(batches)),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=compile_steps(),
    )
    keep = KeepBest()
    callbacks: list[keras.callbacks.Callback] = [StopOnDivergence(), keep]
    if recipe.start_image_size is not None:
        last = recipe.image_size if name == "fine_tune" else recipe.start_image_size
        callbacks.append(GrowImages(recipe.start_image_size, last, stage.epochs))
    if recipe.ema_momentum is not None:
        callbacks.append(keras.callbacks.SwapEMAWeights())
    if stage.schedule == "plateau":
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(
                "val_accuracy",
                factor=stage.plateau_factor,
                patience=stage.plateau_patience,
                mode="max",
            )
        )
    if stage.early_stop_patience is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping("val_accuracy", patience=stage.early_stop_patience, mode="max")
        )
    callbacks += [
        Progress(name, stage.epochs, len(batches)),
        Curves(name, epochs_done, len(data), on_row),
    ]
    history = model.fit(
        batches,
        epochs=stage.epochs,
        validation_data=EvaluationBatches(validation, 64),
        callbacks=callbacks,
        verbose=0,
    )
    return keep, len(history.epoch)


def _backbone(weights: str) -> dict[str, str | None]:
    """Where the first weights came from; a file by its digest, for its name may be given again."""
    path = Path(weights)
    return {"weights": weights, "sha256": files.sha256(path) if path.is_file() else None}


def _seen_by_backbone(weights: str) -> list[str] | None:
    """Pixel hashes that a trained PAtt-Lite, whose backbone is taken over, was trained on; none if unknown.

    What it saw, the new model has seen too. Its list lies beside its `model.keras`; weights files are taken
    for ImageNet's.
    """
    if Path(weights).suffix != ".keras":
        return []
    listed = Path(weights).with_name("trained_on.txt")
    return listed.read_text().split() if listed.exists() else None


def _parameters(settings: Settings, device: Device, dataset: Dataset) -> dict[str, Any]:
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
