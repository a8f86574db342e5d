"""A fused backbone learns what the plain one learns, and what it learns is the plain one's."""

from pathlib import Path

import keras
import numpy as np
import pytest

from ferops.models.patt_lite import build_patt_lite, set_trainable
from ferops.training.fused_backbone import FusedBlock, with_fused_backbone

RELEASED = Path(__file__).parents[2] / "release" / "model.keras"
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (64, 48, 48, 3), np.uint8)
TARGETS = np.eye(7, dtype=np.float32)[RNG.integers(0, 7, 64)]


def step(model: keras.Model) -> None:
    model.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy", jit_compile=False)
    model.train_on_batch(IMAGES, TARGETS)


def two(size: int, train_batch_norm: bool) -> tuple[keras.Model, keras.Model]:
    """A released model at some size, and the fused one of another with the same weights."""
    plain, other = (build_patt_lite(image_size=size, dropout=0.0) for _ in range(2))
    for model in (plain, other):
        model.set_weights(keras.saving.load_model(RELEASED, compile=False).get_weights())
        set_trainable(model, "all", train_batch_norm)
    return plain, with_fused_backbone(other)


# 84: 21 pixels before the second halving, where padding and TensorFlow's own way to halve part.
@pytest.mark.parametrize(("size", "train_batch_norm"), [(80, True), (84, True), (84, False)])
def test_a_step_gives_the_same_weights_as_keras_own_layers(size: int, train_batch_norm: bool) -> None:
    plain, fused = two(size, train_batch_norm)
    assert sum(isinstance(layer, FusedBlock) for layer in fused.get_layer("base_model").layers) == 18
    before = plain.predict_on_batch(IMAGES)
    np.testing.assert_allclose(before, fused.predict_on_batch(IMAGES), rtol=1e-4, atol=1e-5)
    for model in (plain, fused):
        step(model)
    assert np.abs(plain.predict_on_batch(IMAGES) - before).max() > 1e-3
    for one, other in zip(plain.weights, fused.weights, strict=True):
        assert one.path.split("/")[-1] == other.path.split("/")[-1]
        # Unbiased against biased variance: n/(n-1) of the momentum's share, n >= 64 * 5 * 5.
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4, err_msg=one.path)
    np.testing.assert_allclose(
        plain.predict_on_batch(IMAGES), fused.predict_on_batch(IMAGES), rtol=1e-3, atol=1e-4
    )


def test_what_a_fused_backbone_learns_is_learned_by_the_model_it_was_made_of() -> None:
    plain = build_patt_lite(image_size=80)
    set_trainable(plain, "all", train_batch_norm=True)
    before = plain.get_weights()
    fused = with_fused_backbone(plain)
    step(fused)
    assert any((one != other).any() for one, other in zip(before, plain.get_weights(), strict=True))
    for one, other in zip(plain.get_weights(), fused.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_frozen_batch_norms_stay_as_they_are() -> None:
    _, fused = two(80, train_batch_norm=False)
    held = [norm_of(fused, position).get_weights() for position in (0, 5, 17)]
    step(fused)
    for position, before in zip((0, 5, 17), held, strict=True):
        for one, other in zip(before, norm_of(fused, position).get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def norm_of(fused: keras.Model, position: int) -> keras.layers.BatchNormalization:
    blocks = [layer for layer in fused.get_layer("base_model").layers if isinstance(layer, FusedBlock)]
    return blocks[position].norm
