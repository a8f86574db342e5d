"""Optimisers and learning-rate schedules that a stage's settings name."""

import math
from typing import Any

import keras

from ferops.settings import Recipe, StageSettings

#: Share of a stage's first weights in their average at its end, over which nothing is averaged: 1/e, which is
#: what is left of them after as many updates as the average looks back.
FIRST_WEIGHTS = math.exp(-1)


@keras.saving.register_keras_serializable(package="ferops")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise to the peak, then a half cosine to zero (Loshchilov and Hutter 2017, no restarts).

    Args:
        peak: the highest learning rate.
        warmup_steps: steps of the rise; 0 starts at the peak.
        total_steps: steps in all; the rate is 0 from there on.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    def __call__(self, step: object) -> object:
        """Learning rate at a step, counted from 0."""
        ops = keras.ops
        now = ops.cast(step, "float32")
        rise = (now + 1) / max(self.warmup_steps, 1)
        done = (now - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        fall = 0.5 * (1 + ops.cos(math.pi * ops.clip(done, 0.0, 1.0)))
        return self.peak * ops.where(now < self.warmup_steps, rise, fall)

    def get_config(self) -> dict[str, float | int]:
        """Arguments, for saving."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


@keras.saving.register_keras_serializable(package="ferops")
class PerUpdate(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule, asked with updates of the weights: Keras asks with the parts of accumulated batches.

    Args:
        schedule: counts updates.
        parts: of each update.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, parts: int) -> None:
        self.schedule = schedule
        self.parts = parts

    def __call__(self, step: object) -> object:
        """Learning rate at a part, counted from 0."""
        return self.schedule(keras.ops.floor_divide(step, self.parts))

    def get_config(self) -> dict[str, object]:
        """Arguments, for saving."""
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "parts": self.parts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PerUpdate":
        """Inverse of `get_config`."""
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["parts"])


def build_optimizer(
    stage: StageSettings, recipe: Recipe, updates_per_epoch: int
) -> keras.optimizers.Optimizer:
    """The stage's optimiser with its schedule, clipping, weight averaging and gradient accumulation.

    `plateau` is a constant rate here: the training loop lowers it when validation stops improving. A stage
    that is too short for the averaging has none: its average would be of its beginnings.
    """
    parts, momentum = recipe.accumulation_steps, recipe.ema_momentum
    rate: float | keras.optimizers.schedules.LearningRateSchedule = stage.learning_rate
    if stage.schedule == "cosine":
        rate = WarmupCosine(
            stage.learning_rate,
            round(stage.warmup_epochs * updates_per_epoch),
            stage.epochs * updates_per_epoch,
        )
    elif stage.schedule == "inverse_time":
        rate = keras.optimizers.schedules.InverseTimeDecay(
            stage.learning_rate, decay_steps=stage.decay_steps, decay_rate=stage.decay_rate
        )
    if parts > 1 and not isinstance(rate, float):
        rate = PerUpdate(rate, parts)
    options = {
        "learning_rate": rate,
        "global_clipnorm": recipe.clip_norm,
        "use_ema": momentum is not None and momentum ** (stage.epochs * updates_per_epoch) < FIRST_WEIGHTS,
        # Keras averages after every part, so that each does its share of the averaging.
        "ema_momentum": (momentum or 0.99) ** (1 / parts),
        "gradient_accumulation_steps": parts if parts > 1 else None,
    }
    if stage.optimizer == "adamw":
        return keras.optimizers.AdamW(weight_decay=stage.weight_decay, **options)
    return keras.optimizers.Adam(weight_decay=stage.weight_decay or None, **options)
