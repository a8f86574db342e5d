"""Fit PAtt-Lite by a recipe, from arrays to the best epoch's model; files and MLflow are `train`'s.

    >>> fitted = fit(settings.recipe, "feature", 0, data, validation)  # doctest: +SKIP
    >>> fitted.best_epoch, fitted.rows[-1]["validation_accuracy"]  # doctest: +SKIP
    (41, 0.67)

It needs Keras, numpy and the settings alone, so that it also runs on a machine that has nothing else.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ferops.models.patt_lite import build_patt_lite, set_batch_norm_momentum, set_trainable
from ferops.settings import Attention, Recipe, StageSettings
from ferops.training.batches import (
    EvaluationBatches,
    LabelledAccuracy,
    LabelledImages,
    TooFewImagesError,
    TrainingBatches,
    class_weights,
)
from ferops.training.callbacks import (
    Best,
    Curves,
    GrowImages,
    KeepBest,
    Progress,
    Row,
    StopOnDivergence,
    half_precision,
)
from ferops.training.checkpoint import Checkpoint, SaveCheckpoint, State
from ferops.training.device import compile_steps, keeps_images, sharers
from ferops.training.fused_backbone import with_fused_backbone
from ferops.training.resident import ImagesOnDevice
from ferops.training.schedule import build_optimizer
from ferops.training.teacher import ask, soft_targets

#: Images of one validation step: few on a CPU, for its caches; many on a device, which they must fill.
VALIDATION_BATCH, RESIDENT_VALIDATION_BATCH = 64, 512


@dataclass(frozen=True)
class Fitted:
    """What a training gave.

    Attributes:
        model: float32, with the best epoch's weights in half precision, not compiled.
        best_epoch: counted from 1 over both stages.
        rows: one of `Curves` an epoch.
    """

    model: keras.Model
    best_epoch: int
    rows: list[Row]


@dataclass(frozen=True)
class Prepared:
    """A stage, compiled and with its batches.

    Attributes:
        network: the PAtt-Lite that trains.
        model: what is fitted: the network, or `ImagesOnDevice` around it.
        batches: of the train split, for this model.
        validation: of the validation split, for this model.
    """

    network: keras.Model
    model: keras.Model
    batches: TrainingBatches
    validation: EvaluationBatches


@dataclass
class _Task:
    """What both stages share, and what they have come to."""

    recipe: Recipe
    attention: Attention
    seed: int
    data: LabelledImages
    validation: LabelledImages
    on_row: Callable[[Row], None]
    checkpoint: Checkpoint | None
    resident: bool
    answers: NDArray[np.float32] | None = None
    rows: list[Row] = field(default_factory=list)
    best: Best | None = None


def fit(
    recipe: Recipe,
    attention: Attention,
    seed: int,
    data: LabelledImages,
    validation: LabelledImages,
    on_row: Callable[[Row], None] = lambda row: None,
    checkpoint: Checkpoint | None = None,
    resident: bool | None = None,
) -> Fitted:
    """Run both stages of a recipe.

    Args:
        recipe: how to train. Its precision must be set already (`device.prepare`).
        attention: the wiring.
        seed: of every random number.
        data: the train split.
        validation: the validation split; it chooses the epoch.
        on_row: called with each epoch's row; in a training that is continued, with those before too.
        checkpoint: where to save after every epoch; what lies there is continued.
        resident: whether the images live on the device; none: on a GPU, where they fit.

    Raises:
        BackboneUnavailableError: if the backbone's weights cannot be had.
        TeacherError: if the teacher's cannot.
        DivergedError: if the loss stops being a number or far exceeds guessing, or weights outgrow float16.
        CheckpointError: if a checkpoint cannot be written; the one before is intact.
        TooFewImagesError: if a split is empty, or lacks an emotion that is to be weighted.
    """
    for name, split in (("train", data), ("validation", validation)):
        if not len(split):
            raise TooFewImagesError(f"the {name} split has no image")
    for stage in (recipe.frozen, recipe.fine_tune):  # before any work: an emotion may be missing
        _class_weights(recipe, stage, data)
    keras.utils.set_random_seed(seed)
    if resident is None:
        resident = keeps_images(data.grey.nbytes + validation.grey.nbytes)
    task = _Task(recipe, attention, seed, data, validation, on_row, checkpoint, resident)
    if recipe.teacher is not None:
        task.answers = ask(Path(recipe.teacher), data.grey)
    state = checkpoint.load() if checkpoint else None
    if state is None:
        weights = _build(recipe, attention, recipe.frozen, recipe.backbone).get_weights()
    else:
        weights, task.rows, task.best = [], list(state.rows), state.best
        for row in task.rows:  # saved before it was told; and whoever is told now may not be who was then
            on_row(row)
    for position, (name, stage) in enumerate((("frozen", recipe.frozen), ("fine_tune", recipe.fine_tune))):
        if stage.epochs == 0 or (state is not None and position < state.stage):
            continue
        # Every stage's draws are its own, so that a resumed run makes those of an unbroken one.
        keras.utils.set_random_seed(seed + position)
        resumed = state if state is not None and state.stage == position else None
        _run_stage(task, position, name, stage, task.best.weights if task.best else weights, resumed)
    assert task.best is not None  # settings refuse a recipe without epochs
    return Fitted(finished(recipe, attention, task.best), task.best.epoch, task.rows)


def finished(recipe: Recipe, attention: Attention, best: Best) -> keras.Model:
    """The model to keep: plain, float32, with the best epoch's size and its weights in half precision.

    Raises:
        DivergedError: if a weight is NaN, or beyond float16's range.
    """
    # Mixed precision and the fused backbone are for training alone.
    keras.config.set_dtype_policy("float32")
    sized = recipe.model_copy(update={"image_size": best.image_size})
    model = _build(sized, attention, recipe.fine_tune)
    # Rounded, so that what is kept, measured and shipped is one model, and a release can store it in half.
    model.set_weights([half_precision(weight) for weight in best.weights])
    return model


def prepare_stage(
    recipe: Recipe,
    attention: Attention,
    stage: StageSettings,
    data: LabelledImages,
    validation: LabelledImages,
    *,
    weights: Sequence[NDArray[np.float32]] | None,
    seed: int,
    resident: bool,
    answers: NDArray[np.float32] | None = None,
) -> Prepared:
    """Build, freeze and compile the model of a stage, and its batches.

    Args:
        recipe: how to train.
        attention: the wiring.
        stage: the recipe's stage.
        data: the train split.
        validation: the validation split.
        weights: to start from; none leaves the random ones.
        seed: of order and draws.
        resident: whether the images live on the device.
        answers: of the teacher to the train split, float32 `[N, 7]`; none without one.
    """
    plain = _build(recipe, attention, stage)  # dropout rates differ between the stages
    if weights is not None:
        plain.set_weights(weights)
    set_trainable(plain, stage.unfreeze_layers, stage.train_batch_norm)
    set_batch_norm_momentum(plain, recipe.batch_norm_momentum)
    network = with_fused_backbone(plain)
    batches = TrainingBatches(
        data,
        recipe.batch_size,
        recipe.augmentation,
        soft_targets(data.labels, recipe.label_smoothing, answers, recipe.teacher_share),
        _class_weights(recipe, stage, data),
        seed=seed,
        parts=recipe.accumulation_steps,
        resident=resident,
    )
    size = min(RESIDENT_VALIDATION_BATCH if resident else VALIDATION_BATCH, len(validation))
    size = math.ceil(size / sharers()) * sharers()
    model = ImagesOnDevice(network, data, validation, recipe.augmentation) if resident else network
    model.compile(
        optimizer=build_optimizer(stage, recipe, batches.updates),
        loss="categorical_crossentropy",
        metrics=[LabelledAccuracy()],
        jit_compile=compile_steps(),
    )
    model.optimizer.build(model.trainable_variables)  # else the first step makes them, and is traced twice
    in_order = EvaluationBatches(validation, size, first_row=len(data) if resident else None)
    return Prepared(network, model, batches, in_order)


def _class_weights(recipe: Recipe, stage: StageSettings, data: LabelledImages) -> NDArray[np.float32]:
    power = recipe.class_weights if stage.class_weights is None else stage.class_weights
    return class_weights(data.labels, power)


def _build(recipe: Recipe, attention: Attention, stage: StageSettings, backbone: str = "none") -> keras.Model:
    return build_patt_lite(
        image_size=recipe.image_size,
        attention=attention,
        backbone=backbone,
        dropout=stage.dropout,
        spatial_dropout=stage.spatial_dropout,
    )


def _run_stage(
    task: _Task, position: int, name: str, stage: StageSettings, weights: list[Any], resumed: State | None
) -> None:
    """Fit one stage from the given weights, or from where it was left; `task` has the outcome then."""
    recipe = task.recipe
    done = sum(row["stage"] != name for row in task.rows)
    ready = prepare_stage(
        recipe,
        task.attention,
        stage,
        task.data,
        task.validation,
        weights=None if resumed else weights,
        seed=task.seed * 1000 + done,
        resident=task.resident,
        answers=task.answers,
    )

    def on_best(best: Best) -> None:
        task.best = best

    first = resumed.epoch if resumed else 0
    callbacks: list[keras.callbacks.Callback] = [
        StopOnDivergence(name),
        KeepBest(ready.network, task.best, done, on_best),
    ]
    if recipe.start_image_size is not None:
        last = recipe.image_size if name == "fine_tune" else recipe.start_image_size
        callbacks.append(GrowImages(ready.network, recipe.start_image_size, last, stage.epochs))
    if ready.model.optimizer.use_ema:
        callbacks.append(keras.callbacks.SwapEMAWeights())
    callbacks += _patience(stage)
    callbacks += [
        Progress(name, stage.epochs, len(ready.batches), first),
        Curves(name, done, ready.batches.updates * recipe.batch_size, ready.network, task.rows.append),
    ]
    if task.checkpoint is not None:
        callbacks.append(SaveCheckpoint(task.checkpoint, position, ready.network, task, callbacks, resumed))
    # Told once it is safe: a store that cannot take the row then costs no epoch.
    tell = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: task.on_row(task.rows[-1]))
    callbacks.append(tell)
    if resumed is not None:
        resumed.restore(ready.network, ready.model.optimizer)
        ready.batches.epoch = first
        if resumed.stopped or first == stage.epochs:
            return
    ready.model.fit(
        ready.batches,
        initial_epoch=first,
        epochs=stage.epochs,
        validation_data=ready.validation,
        callbacks=callbacks,
        shuffle=False,  # the batches are shuffled already; Keras' own order of them could not be resumed
        verbose=0,
    )


def _patience(stage: StageSettings) -> list[keras.callbacks.Callback]:
    """Lower the rate, or stop, when validation has not improved for long enough."""
    callbacks: list[keras.callbacks.Callback] = []
    if stage.schedule == "plateau":
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(
                "val_accuracy",
                factor=stage.plateau_factor,
                patience=stage.plateau_patience,
                min_delta=stage.patience_gain,
                mode="max",
            )
        )
    if stage.early_stop_patience is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                "val_accuracy",
                patience=stage.early_stop_patience,
                min_delta=stage.patience_gain,
                mode="max",
            )
        )
    return callbacks
