"""A Keras file that somebody else trained is read as it is meant, or refused in words."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from fake_classifiers import planted_face
from ferops.emotions import EMOTIONS
from ferops.evaluation import metrics
from ferops.models.classifier import Card, TrainingData
from ferops.models.keras_classifier import UnusableModelError, load, refuse_chance, refuse_misreading
from keras_readers import reader

ALPHABETICAL = tuple(sorted(EMOTIONS))


def faces(count: int = 70) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 7
    grey = [planted_face(int(label), int(generator.integers(100)), generator) for label in labels]
    return np.repeat(np.stack(grey)[..., None], 3, axis=3), labels


def saved(model: keras.Model, folder: Path, name: str = "theirs.keras") -> Path:
    model.save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ({}, {}),
        ({"logits": True}, {}),
        ({"dtype": "float32"}, {}),
        ({"dtype": "float32", "channels": 1, "logits": True}, {}),
        ({"dtype": "float32", "white": 1.0}, {"pixels": "0..1"}),
        ({"dtype": "float32", "white": 1.0, "black": -1.0}, {"pixels": "-1..1"}),
        ({"labels": ALPHABETICAL}, {"labels": ALPHABETICAL}),
        ({"side": None}, {}),
    ],
)
def test_whatever_its_input_and_output_its_answers_are_probabilities_of_the_seven_emotions(
    model: dict, options: dict, tmp_path: Path
) -> None:
    images, labels = faces()
    classifier = load(saved(reader(**model), tmp_path), **options)
    answer = classifier.predict(images, batch_size=32).probabilities
    assert answer.dtype == np.float32
    assert np.allclose(answer.sum(axis=1), 1, atol=1e-5)
    assert (answer.argmax(axis=1) == labels).all()
    assert answer.max() == pytest.approx(0.5 + 0.5 / 7, abs=1e-5)


def softmax_of_noise(precision: str, seed: int) -> tuple[keras.Model, keras.Model]:
    """A classifier that ends in a softmax of some precision, and the same one up to its logits."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((48, 48, 3), dtype="uint8")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    logits = keras.layers.Dense(7)(flat)
    return keras.Model(images, keras.layers.Softmax(dtype=precision)(logits)), keras.Model(images, logits)


@pytest.mark.parametrize("seed", range(4))
def test_probabilities_that_bfloat16_rounded_are_taken_for_what_they_are(seed: int, tmp_path: Path) -> None:
    model, logits = softmax_of_noise("bfloat16", seed)
    images = np.random.default_rng(seed).integers(0, 256, (64, 48, 48, 3)).astype(np.uint8)
    said = np.asarray(model.predict_on_batch(images)).astype(np.float32)
    assert np.abs(said.sum(axis=1) - 1).max() > 1e-3  # what is to be borne
    exact = np.asarray(keras.ops.softmax(logits.predict_on_batch(images)))
    classifier = load(saved(model, tmp_path))
    answer = classifier.predict(images).probabilities
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(answer, exact, atol=0.005)
    metrics.check(np.arange(64) % 7, answer)


def test_exact_probabilities_are_given_to_the_last_bit_and_what_is_none_is_not_hidden(
    tmp_path: Path,
) -> None:
    model, _ = softmax_of_noise("float32", 0)
    images = np.random.default_rng(0).integers(0, 256, (64, 48, 48, 3)).astype(np.uint8)
    answer = load(saved(model, tmp_path)).predict(images, batch_size=64).probabilities
    assert np.array_equal(answer, model.predict_on_batch(images))

    taken = keras.Input((48, 48, 3), dtype="uint8")
    brightest = keras.ops.max(keras.ops.cast(taken, "float32"), axis=(1, 2, 3))
    dark = keras.ops.cast(keras.ops.equal(brightest, 0), "float32")[:, None]
    doubled = load(saved(keras.Model(taken, model(taken) * (1 + dark)), tmp_path))  # not on the probe's noise
    wrong = doubled.predict(np.zeros((1, 48, 48, 3), np.uint8)).probabilities
    assert wrong.sum() == pytest.approx(2)
    with pytest.raises(metrics.UnmeasurableError, match="no probabilities"):
        metrics.check(np.zeros(1, np.int64), wrong)


def test_an_older_file_and_a_named_output_are_read_too(tmp_path: Path) -> None:
    images, _ = faces()
    inputs = keras.Input((48, 48, 3), name="image")
    answer = keras.layers.Dense(7, activation="softmax")(keras.layers.GlobalAveragePooling2D()(inputs))
    model, named = keras.Model(inputs, answer), keras.Model({"image": inputs}, {"emotion": answer})
    for file in (saved(model, tmp_path, "theirs.h5"), saved(named, tmp_path)):
        found = load(file).predict(images).probabilities
        np.testing.assert_allclose(found, model.predict(images, verbose=0), atol=1e-6)


def test_images_of_the_side_that_the_model_takes(tmp_path: Path) -> None:
    classifier = load(saved(reader(side=64), tmp_path))
    assert classifier.card.input_side == 64
    assert classifier.predict(np.zeros((0, 64, 64, 3), np.uint8)).probabilities.shape == (0, 7)


def test_a_folder_with_its_card_says_who_the_model_is(tmp_path: Path) -> None:
    saved(reader(labels=ALPHABETICAL), tmp_path, "model.keras")
    card = Card("ours", "patt_lite", 48, 5, TrainingData(known=True), own_labels=ALPHABETICAL)
    card.save(tmp_path / "card.json")
    images, labels = faces()
    classifier = load(tmp_path)
    assert classifier.card == card
    assert (classifier.predict(images).probabilities.argmax(axis=1) == labels).all()


def image_to(
    outputs: int, shape: tuple[int | None, ...] = (48, 48, 3), batch: int | None = None
) -> keras.Model:
    images = keras.Input(shape, batch_size=batch)
    flat = keras.layers.GlobalAveragePooling2D()(images) if len(shape) == 3 else images
    return keras.Model(images, keras.layers.Dense(outputs)(flat))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (image_to(8), r"gives \[N, 8\]: expected \[N, 7\]"),
        (image_to(7, (48, 48, 4)), r"takes \[N, 48, 48, 4\]"),
        (image_to(7, (48, 64, 3)), r"takes \[N, 48, 64, 3\]"),
        (image_to(7, (2304,)), r"takes \[N, 2304\]"),
        (image_to(7, batch=32), "batches of exactly 32"),
    ],
)
def test_what_is_no_classifier_of_the_seven_emotions_is_refused(
    model: keras.Model, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnusableModelError, match=said) as refusal:
        load(saved(model, tmp_path))
    assert "theirs.keras" in str(refusal.value)


def test_what_keras_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.keras").write_bytes(b"no archive")
    with pytest.raises(UnusableModelError, match=r"cannot load .*broken\.keras"):
        load(tmp_path / "broken.keras")
    with pytest.raises(FileNotFoundError, match="no model at"):
        load(tmp_path / "absent")


def test_a_model_that_does_not_tell_its_input_or_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    layers = keras.layers
    unbuilt = keras.Sequential([layers.Flatten(), layers.Dense(7, activation="softmax")])
    with pytest.raises(UnusableModelError, match=r"theirs\.keras cannot be used: .*Sequential without Input"):
        load(saved(unbuilt, tmp_path))
    broken = image_to(7)
    broken.set_weights([np.full_like(weight, np.nan) for weight in broken.get_weights()])
    with pytest.raises(UnusableModelError, match="NaN or infinity"):
        load(saved(broken, tmp_path))
    images = keras.Input((48, 48, 3))
    pixels = layers.Flatten()(images)
    spread = keras.ops.mean(keras.ops.std(pixels, axis=0))
    apart = (pixels - keras.ops.mean(pixels, axis=0)) / spread  # 0 / 0 of one image
    needs_company = load(saved(keras.Model(images, layers.Dense(7)(apart)), tmp_path))
    with pytest.raises(UnusableModelError, match="in a batch of 1"):
        needs_company.predict(np.zeros((1, 48, 48, 3), np.uint8))


def test_a_folder_whose_card_is_none_is_refused(tmp_path: Path) -> None:
    saved(reader(), tmp_path).rename(tmp_path / "model.keras")
    for content in ("{}", "[]", '{"training_data": {"datasets": []}, "labels": [], "own_labels": []}'):
        (tmp_path / "card.json").write_text(content)
        with pytest.raises(UnusableModelError, match=r"card\.json is no model's card"):
            load(tmp_path)


def test_labels_must_name_each_emotion_once(tmp_path: Path) -> None:
    path = saved(reader(), tmp_path)
    with pytest.raises(UnusableModelError, match="exactly once"):
        load(path, labels=["happy"] * 7)
    with pytest.raises(UnusableModelError, match="unknown emotion 'bored'"):
        load(path, labels=["bored", *EMOTIONS[1:]])


def test_uint8_pixels_have_one_range(tmp_path: Path) -> None:
    with pytest.raises(UnusableModelError, match=r"0\.\.255"):
        load(saved(reader(), tmp_path), pixels="0..1")


@pytest.mark.parametrize(
    ("model", "advice"),
    [
        ({"labels": ALPHABETICAL}, "--labels angry,disgust,fear,happy,neutral,sad,surprise"),
        ({"dtype": "float32", "white": 1.0}, r"--pixels 0\.\.1"),
        ({"dtype": "float32", "white": 1.0, "labels": ALPHABETICAL}, r"--labels .* --pixels 0\.\.1"),
    ],
)
def test_a_model_that_is_read_the_wrong_way_says_how_to_read_it(
    model: dict, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(UnusableModelError, match=advice):
        refuse_misreading(load(saved(reader(**model), tmp_path)), *faces())


def test_a_model_that_is_read_right_or_is_bad_however_it_is_read_passes(tmp_path: Path) -> None:
    refuse_misreading(load(saved(reader(dtype="float32"), tmp_path)), *faces())
    refuse_misreading(load(saved(reader(labels=ALPHABETICAL), tmp_path), labels=ALPHABETICAL), *faces())
    blind = image_to(7)
    blind.set_weights([np.zeros_like(weight) for weight in blind.get_weights()])
    refuse_misreading(load(saved(blind, tmp_path)), *faces())


def test_a_model_that_cannot_be_read_otherwise_passes(tmp_path: Path) -> None:
    """A root of the pixels, such as a gamma correction, is no number where they are read as -1 to 1."""
    images = keras.Input((48, 48, 3))
    answer = reader(dtype="float32")(keras.layers.ReLU()(keras.ops.sqrt(images) ** 2))
    classifier = load(saved(keras.Model(images, answer), tmp_path))
    refuse_misreading(classifier, *faces())


@keras.saving.register_keras_serializable()
class Restless(keras.layers.Layer):
    """Dropout as some write it: on when the model predicts, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.draws = keras.random.SeedGenerator(0)

    def call(self, values: Any) -> Any:
        return keras.random.dropout(values, 0.5, seed=self.draws)


def test_a_model_that_answers_by_chance_is_refused_and_one_in_16_bits_is_told(tmp_path: Path) -> None:
    images = keras.Input((48, 48, 3))
    noisy = Restless()(keras.layers.Flatten()(images))
    restless = load(saved(keras.Model(images, keras.layers.Dense(7)(noisy)), tmp_path))
    with pytest.raises(UnusableModelError, match=r"differently each time.*save it without"):
        refuse_chance(restless, faces()[0], 1e-4)
    assert not restless.short_floats
    steady = load(saved(reader(), tmp_path))
    refuse_chance(steady, faces()[0], 1e-4)
    short = keras.layers.Dense(7, activation="softmax", dtype="mixed_bfloat16")(
        keras.layers.Flatten()(images)
    )
    assert load(saved(keras.Model(images, short), tmp_path)).short_floats


def test_a_card_that_is_none_is_of_no_account_beside_a_file_and_an_error_in_a_models_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "card.json").write_text('{"author": "somebody"}')
    assert load(saved(reader(), tmp_path, "model.keras")).card.name == "model"
    with pytest.raises(UnusableModelError):
        load(tmp_path)


def test_a_model_that_guesses_is_not_taken_for_misread_on_few_images(tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    images = keras.Input((48, 48, 3))
    guessing = load(
        saved(keras.Model(images, keras.layers.Dense(7)(keras.layers.Flatten()(images))), tmp_path)
    )
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (50, 48, 48, 3)).astype(np.uint8)
    for _ in range(6):
        refuse_misreading(guessing, noise, generator.integers(0, 7, len(noise)))
