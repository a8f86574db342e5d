"""Learning rates follow the schedule that a stage names."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest

from ferops.settings import Recipe, StageSettings, load_settings
from ferops.training.schedule import PerUpdate, WarmupCosine, build_optimizer

PARAMS = Path(__file__).parents[2] / "params.yaml"
RECIPE = Recipe(description="test", frozen=StageSettings(epochs=1, learning_rate=1e-3))


def test_cosine_rises_then_falls_to_zero() -> None:
    schedule = WarmupCosine(peak=1.0, warmup_steps=10, total_steps=110)
    rates = np.array([float(schedule(step)) for step in range(112)])
    assert rates[0] == pytest.approx(0.1)
    assert rates.argmax() in (9, 10)
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0, abs=1e-6)
    assert (np.diff(rates[10:111]) <= 1e-7).all()


def test_the_published_recipes_rate_falls_as_in_the_notebook() -> None:
    """Which gives its schedule the epoch, not the step: half after 80 epochs, not after 80 batches of 8."""
    original = load_settings(PARAMS).recipes["original"]
    an_epoch = math.ceil(25_522 / original.batch_size)  # FER2013 without copies of test images
    optimizer = build_optimizer(original.fine_tune, original, updates_per_epoch=an_epoch)
    for epoch in (0, 1, 10, 80, 160):
        optimizer.iterations.assign(epoch * an_epoch)
        assert float(optimizer.learning_rate) == pytest.approx(1e-5 / (1 + epoch / 80), rel=1e-3)


def test_optimizer_takes_clipping_decay_and_averaging_from_the_settings() -> None:
    stage = StageSettings(epochs=1, learning_rate=1e-3, optimizer="adamw", weight_decay=0.05)
    recipe = RECIPE.model_copy(update={"clip_norm": 3.0, "ema_momentum": 0.9})
    optimizer = build_optimizer(stage, recipe, updates_per_epoch=10)
    assert type(optimizer).__name__ == "AdamW"
    assert (optimizer.global_clipnorm, optimizer.weight_decay) == (3.0, 0.05)
    assert (optimizer.use_ema, optimizer.ema_momentum) == (True, 0.9)


def test_a_stage_that_is_too_short_for_the_averaging_is_not_averaged() -> None:
    recipe = RECIPE.model_copy(update={"ema_momentum": 0.998})
    short, long = (StageSettings(epochs=epochs, learning_rate=1e-3) for epochs in (1, 2))
    assert not build_optimizer(short, recipe, updates_per_epoch=399).use_ema
    assert build_optimizer(long, recipe, updates_per_epoch=399).use_ema


def test_a_batch_in_parts_follows_the_schedule_of_the_whole_one() -> None:
    stage = StageSettings(epochs=4, learning_rate=1e-3, schedule="cosine", warmup_epochs=1)
    whole = build_optimizer(stage, RECIPE, updates_per_epoch=5)
    recipe = RECIPE.model_copy(update={"batch_size": 9, "accumulation_steps": 3, "ema_momentum": 0.9})
    parts = build_optimizer(stage, recipe, updates_per_epoch=5)
    assert parts.gradient_accumulation_steps == 3
    assert parts.ema_momentum**3 == pytest.approx(0.9)
    for update in range(20):
        whole.iterations.assign(update)
        for part in range(3):
            parts._iterations.assign(3 * update + part)
            assert float(parts.learning_rate) == pytest.approx(float(whole.learning_rate))
    copied = keras.optimizers.deserialize(keras.optimizers.serialize(parts))
    assert isinstance(copied._learning_rate, PerUpdate)
