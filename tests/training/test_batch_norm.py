"""Fused batch norms learn what Keras' own learn, and hand their weights back."""

import keras
import numpy as np
import pytest

from ferops.models.patt_lite import build_patt_lite, set_trainable
from ferops.training.batch_norm import FusedBatchNormalization, with_fused_batch_norms

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends train Keras' own batch norms"
)


def test_a_training_step_gives_the_same_weights_as_keras_own_batch_norms() -> None:
    keras.utils.set_random_seed(0)
    plain = build_patt_lite(image_size=80, dropout=0.0)
    fused = with_fused_batch_norms(plain)
    replaced = [layer for layer in fused.get_layer("base_model").layers if "_bn" in layer.name]
    assert replaced
    assert all(isinstance(layer, FusedBatchNormalization) for layer in replaced)

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 48, 48, 3), np.uint8)
    targets = np.eye(7, dtype=np.float32)[rng.integers(0, 7, 64)]
    for model in (plain, fused):
        set_trainable(model, "all", train_batch_norm=True)
        model.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy", jit_compile=False)
        model.train_on_batch(images, targets)
    for one, other in zip(plain.weights, fused.weights, strict=True):
        assert one.path.split("/")[-1] == other.path.split("/")[-1]
        # Unbiased against biased variance: n/(n-1) of the momentum's share, n >= 64 * 5 * 5.
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-3, atol=2e-4, err_msg=one.path)
    np.testing.assert_allclose(
        plain.predict_on_batch(images), fused.predict_on_batch(images), rtol=1e-3, atol=1e-4
    )


def test_frozen_batch_norms_stay_as_they_are() -> None:
    fused = with_fused_batch_norms(build_patt_lite(image_size=80))
    set_trainable(fused, "all", train_batch_norm=False)
    norm = fused.get_layer("base_model").get_layer("conv_pw_3_bn")
    before = [np.array(weight) for weight in norm.get_weights()]
    fused.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy", jit_compile=False)
    fused.train_on_batch(np.zeros((8, 48, 48, 3), np.uint8), np.eye(7, dtype=np.float32)[[0] * 8])
    for one, other in zip(before, norm.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
