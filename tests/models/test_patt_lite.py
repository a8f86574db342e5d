"""PAtt-Lite is the published network, layer by layer, and its honest wirings keep images apart."""

from pathlib import Path

import keras
import numpy as np
import pytest

from ferops.models.classifier import Card, TrainingData
from ferops.models.patt_lite import (
    BackboneUnavailableError,
    PattLite,
    build_backbone,
    build_patt_lite,
    load,
    set_trainable,
)

WIRINGS = ("feature", "patch", "batch")

#: The public model summary: layer, output shape, parameters.
PUBLISHED = [
    ("resize", (None, 224, 224, 3), 0),
    ("base_model", (None, 14, 14, 512), 821_952),
    ("patch_extraction", (None, 2, 2, 256), 272_128),
    ("gap", (None, 256), 0),
    ("pre_classification", (None, 32), 8_352),
    ("classification_head", (None, 7), 231),
]


def count(weights: list) -> int:
    return sum(int(np.prod(weight.shape)) for weight in weights)


def classifier(model: keras.Model) -> PattLite:
    card = Card("patt_lite", "patt_lite", 48, model.count_params(), TrainingData(known=True))
    return PattLite(model, card)


def faces(count: int) -> np.ndarray:
    grey = np.random.default_rng(1).integers(0, 256, (count, 48, 48, 1), dtype=np.uint8)
    return np.repeat(grey, 3, axis=-1)


@pytest.fixture(scope="module")
def published() -> dict[str, keras.Model]:
    return {wiring: build_patt_lite(attention=wiring) for wiring in WIRINGS}


@pytest.mark.parametrize("wiring", WIRINGS)
def test_has_the_published_layers(published: dict[str, keras.Model], wiring: str) -> None:
    model = published[wiring]
    for name, shape, parameters in PUBLISHED:
        layer = model.get_layer(name)
        assert layer.count_params() == parameters, name
        assert tuple(layer.output.shape) == shape, name
    assert model.get_layer("attention").count_params() == 1
    assert model.input_shape == (None, 48, 48, 3)
    assert model.count_params() == 1_102_664


@pytest.mark.parametrize("wiring", WIRINGS)
def test_trains_280648_parameters_while_the_backbone_is_frozen(
    published: dict[str, keras.Model], wiring: str
) -> None:
    model = published[wiring]
    set_trainable(model, "none", train_batch_norm=False)
    assert count(model.trainable_weights) == 280_648
    assert count(model.non_trainable_weights) == 822_016


def test_parameters_do_not_depend_on_the_image_size() -> None:
    assert build_patt_lite(image_size=96).count_params() == 1_102_664


def test_unfreezing_counts_layers_from_the_end_and_spares_batch_norms() -> None:
    model = build_patt_lite(image_size=96)
    base = model.get_layer("base_model")
    set_trainable(model, 59, train_batch_norm=False)
    norms = [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms
    assert not any(norm.trainable for norm in norms)
    assert all(layer.trainable for layer in base.layers if layer not in norms)
    set_trainable(model, 3, train_batch_norm=True)
    assert [layer.trainable for layer in base.layers[-4:]] == [False, True, True, True]


@pytest.mark.parametrize("wiring", ["feature", "patch"])
def test_honest_wirings_see_one_image_at_a_time(wiring: str) -> None:
    model = classifier(build_patt_lite(attention=wiring, image_size=224 if wiring == "patch" else 96))
    images = faces(6)
    together = model.predict(images, batch_size=6)
    alone = model.predict(images, batch_size=1)
    np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-5)
    np.testing.assert_allclose(together.embedding, alone.embedding, atol=1e-4)


def test_the_published_wiring_lets_neighbours_change_an_answer() -> None:
    model = build_patt_lite(attention="batch", image_size=96)
    # Random weights give nearly equal features for all images: spread them as training would.
    images = faces(6)
    dense, norm = model.get_layer("pre_classification").layers
    pooled = keras.Model(model.input, model.get_layer("gap").output).predict_on_batch(images)
    features = np.asarray(dense(pooled))
    norm.set_weights([np.ones(32) / features.std(), np.zeros(32), features.mean(0), np.ones(32)])
    together = classifier(model).predict(images, batch_size=6).probabilities
    alone = classifier(model).predict(images, batch_size=1).probabilities
    assert np.abs(together - alone).max() > 1e-4


def test_batch_attention_is_keras_attention_over_the_batch() -> None:
    """The sum that Keras 2 computed for `Attention()([x, x])` on a (batch, 32) tensor, by hand."""
    model = build_patt_lite(attention="batch", image_size=96)
    model.get_layer("attention").set_weights([np.float32(0.7)])
    images = faces(5)
    before = keras.Model(model.input, model.get_layer("pre_classification").output)
    x = np.asarray(before.predict_on_batch(images), np.float64)
    scores = 0.7 * x @ x.T
    weights = np.exp(scores - scores.max(1, keepdims=True))
    attended = weights / weights.sum(1, keepdims=True) @ x
    kernel, bias = model.get_layer("classification_head").get_weights()
    logits = attended @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(model.predict_on_batch(images), expected, atol=1e-5)


def test_scaling_and_resizing_are_inside_the_model() -> None:
    model = build_patt_lite(image_size=80)
    assert model.input.dtype == "uint8"
    seen = keras.Model(model.input, model.get_layer("resize").output)
    white = np.asarray(seen.predict_on_batch(np.full((1, 48, 48, 3), 255, np.uint8)))
    black = np.asarray(seen.predict_on_batch(np.zeros((1, 48, 48, 3), np.uint8)))
    assert white.shape == (1, 80, 80, 3)
    np.testing.assert_allclose([white.min(), black.max()], [1.0, -1.0], atol=1e-6)


def test_backbone_weights_load_from_the_cut_or_the_whole_network(tmp_path: Path) -> None:
    whole = keras.applications.MobileNet(input_shape=(96, 96, 3), include_top=False, weights=None)
    whole.save_weights(tmp_path / "whole.weights.h5")
    cut = build_backbone(96, str(tmp_path / "whole.weights.h5"))
    cut.save_weights(tmp_path / "cut.weights.h5")
    again = build_backbone(96, str(tmp_path / "cut.weights.h5"))
    kernel = whole.get_layer("conv_dw_9").get_weights()[0]
    for model in (cut, again):
        np.testing.assert_array_equal(model.get_layer("conv_dw_9").get_weights()[0], kernel)


class OneOfTheirs(keras.layers.Layer):
    """A layer that is not registered, so that Keras cannot load it."""

    def call(self, inputs: object) -> object:
        return inputs


def test_missing_backbone_weights_say_which_file_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackboneUnavailableError, match=r"absent\.h5 not found.*no_top"):
        build_backbone(96, str(tmp_path / "absent.h5"))
    (tmp_path / "junk.weights.h5").write_bytes(b"junk")
    with pytest.raises(BackboneUnavailableError, match="does not fit"):
        build_backbone(96, str(tmp_path / "junk.weights.h5"))

    unknown = keras.Sequential([keras.Input((4,)), OneOfTheirs()])
    unknown.save(tmp_path / "unknown.keras")
    with pytest.raises(BackboneUnavailableError, match="does not fit"):
        build_backbone(96, str(tmp_path / "unknown.keras"))
    nothing = build_backbone(96, "none")
    nothing.layers[1].set_weights([np.full((3, 3, 3, 32), np.nan)])
    nothing.save_weights(tmp_path / "nothing.weights.h5")
    with pytest.raises(BackboneUnavailableError, match="are no numbers"):
        build_backbone(96, str(tmp_path / "nothing.weights.h5"))

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(keras.applications, "MobileNet", offline)
    with pytest.raises(BackboneUnavailableError, match=r"cannot be downloaded.*no_top"):
        build_backbone(96, "imagenet")


def test_a_folder_without_a_model_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dvc repro train"):
        load(tmp_path)
