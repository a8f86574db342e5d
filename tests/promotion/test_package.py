import io
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from PIL import Image

from ferops import files
from ferops.data.descriptors import DESCRIPTORS, describe
from ferops.data.store import Dataset, Summary, write_shards
from ferops.emotions import EMOTIONS
from ferops.models.classifier import Card, Predictions, TrainingData
from ferops.models.onnx import OnnxClassifier
from ferops.promotion.package import PackageError, package, package_each


class Trained:
    """What `patt_lite.load` gives, small: resize, scale, a trainable batch norm, two outputs."""

    def __init__(self, side=48, embedding=True):
        keras.utils.set_random_seed(1)
        images = keras.Input((side, side, 3), dtype="uint8", name="images")
        x = keras.layers.Rescaling(1 / 127.5, offset=-1)(images)
        x = keras.layers.Resizing(64, 64)(x)
        for _ in range(2):
            x = keras.layers.Conv2D(8, 3, strides=2)(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.ReLU(6.0)(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        x = keras.layers.Dropout(0.5)(x)
        hidden = keras.layers.Dense(32, activation="relu")(x)
        probabilities = keras.layers.Dense(7, activation="softmax")(hidden)
        outputs = {"probabilities": probabilities, "embedding": hidden} if embedding else probabilities
        self.model = keras.Model(images, outputs)
        self.card = Card(
            name="patt_lite",
            kind="patt_lite",
            input_side=side,
            parameters=self.model.count_params(),
            training_data=TrainingData(known=True, pixel_hashes="trained_on.txt", dataset_sha256="d" * 64),
            embedding_size=32 if embedding else None,
            synthetic=True,
        )

    def predict(self, images, batch_size=32):
        answers = self.model.predict(images, batch_size=batch_size, verbose=0)
        if isinstance(answers, dict):
            return Predictions(answers["probabilities"], answers["embedding"])
        return Predictions(answers)


def a_row(split, number):
    grey = np.random.default_rng(number).integers(0, 256, (48, 48), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return {
        "id": f"{split}-{number}",
        "source": "test",
        "source_split": split,
        "split": split,
        "emotion": EMOTIONS[number % 7],
        "image": buffer.getvalue(),
        "width": 48,
        "height": 48,
        "mode": "L",
        "pixel_hash": f"{number:032x}",
        "perceptual_hash": f"{number:016x}",
        "blank": False,
        **describe(grey)._asdict(),
        "votes": None,
        "copy_in_train": False,
        "excluded": None,
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    rows = [a_row(split, n) for split in ("validation", "test") for n in range(40)]
    write_shards(folder, rows, 25)
    Summary("test", True, {}, {}, [], "s" * 64, "d" * 64).save(folder)
    return Dataset.open(folder)


@pytest.fixture
def evaluations(tmp_path):
    folder = tmp_path / "evaluations"
    for name, evaluated, reason in [("patt_lite", True, None), ("vit", False, "no checkpoint")]:
        files.write_json(
            folder / name / "result.json", {"candidate": name, "evaluated": evaluated, "reason": reason}
        )
    return folder


@pytest.fixture(scope="module")
def trained():
    return Trained()


def test_a_package_answers_like_the_trained_model(tmp_path, trained, dataset, evaluations):
    packaged = package(trained, evaluations / "patt_lite", dataset, tmp_path / "patt_lite")
    images = dataset.images("test")
    expected, given = trained.predict(images), packaged.predict(images)
    np.testing.assert_allclose(given.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(given.embedding, expected.embedding, atol=1e-4)
    assert packaged.self_check() < 1e-6
    assert packaged.card.kind == "onnx"
    assert packaged.card.synthetic
    assert packaged.card.training_data.dataset_sha256 == "d" * 64
    assert files.read_json(tmp_path / "patt_lite" / "evaluation.json")["evaluated"] is True


def test_the_reference_is_the_validation_split_as_the_model_sees_it(tmp_path, trained, dataset, evaluations):
    packaged = package(trained, evaluations / "patt_lite", dataset, tmp_path / "patt_lite")
    reference = pd.read_parquet(tmp_path / "patt_lite" / "reference.parquet")
    assert list(reference["id"]) == list(dataset.frame("validation")["id"])
    assert list(reference.columns) == [
        "id",
        "source",
        "emotion",
        *(f"p_{e}" for e in EMOTIONS),
        *(f"embedding_{i}" for i in range(32)),
        *DESCRIPTORS,
    ]
    np.testing.assert_allclose(
        reference[[f"p_{e}" for e in EMOTIONS]].to_numpy(),
        packaged.predict(dataset.images("validation")).probabilities,
        atol=1e-6,
    )


def test_what_is_packaged_does_not_depend_on_its_batch(tmp_path, trained, dataset, evaluations):
    packaged = package(trained, evaluations / "patt_lite", dataset, tmp_path / "patt_lite")
    images = dataset.images("test")
    together, alone = packaged.predict(images, 40), packaged.predict(images, 1)
    np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-5)


def test_packaging_the_same_model_again_gives_the_same_package(tmp_path, trained, dataset, evaluations):
    digests = set()
    for name in ("once", "again"):  # the converter numbers on from where it was
        package(trained, evaluations / "patt_lite", dataset, tmp_path / name)
        digests.add(files.sha256(tmp_path / name))
    assert len(digests) == 1


def test_the_batch_dimension_is_open_and_named(tmp_path, trained, dataset, evaluations):
    package(trained, evaluations / "patt_lite", dataset, tmp_path / "patt_lite")
    session = onnxruntime.InferenceSession(str(tmp_path / "patt_lite" / "model.onnx"))
    assert [(n.name, n.shape) for n in session.get_inputs()] == [("images", ["N", 48, 48, 3])]
    assert {n.name: n.shape for n in session.get_outputs()} == {
        "probabilities": ["N", 7],
        "embedding": ["N", 32],
    }


def test_a_larger_model_without_embedding_is_packaged_by_the_same_path(tmp_path, dataset, evaluations):
    package(Trained(side=224, embedding=False), evaluations / "patt_lite", dataset, tmp_path / "vit")
    packaged = OnnxClassifier(tmp_path / "vit")
    assert packaged.predict(dataset.images("test", 224)).embedding is None
    assert not any("embedding" in c for c in pd.read_parquet(tmp_path / "vit" / "reference.parquet"))


def test_a_candidate_that_was_not_evaluated_is_listed_with_its_reason(
    tmp_path, trained, dataset, evaluations
):
    def unreachable():
        raise AssertionError("a candidate without evaluation must not be loaded")

    index = package_each(
        {"patt_lite": lambda: trained, "vit": unreachable}, evaluations, dataset, tmp_path / "packages"
    )
    assert files.read_json(tmp_path / "packages" / "index.json") == {"candidates": index}
    entry = index["patt_lite"]
    assert entry["packaged"] and entry["sha256"] == files.sha256(tmp_path / "packages" / "patt_lite")
    assert index["vit"] == {
        "packaged": False,
        "reason": "not evaluated: no checkpoint",
        "sha256": None,
    }


def test_a_baseline_that_breaks_does_not_stop_the_line(tmp_path, trained, dataset, evaluations):
    files.write_json(evaluations / "vit" / "result.json", {"evaluated": True, "reason": None})

    def broken():
        raise RuntimeError("no such operator")

    index = package_each(
        {"patt_lite": lambda: trained, "vit": broken},
        evaluations,
        dataset,
        tmp_path / "packages",
        required=["patt_lite"],
    )
    assert "no such operator" in index["vit"]["reason"]
    assert not (tmp_path / "packages" / "vit").exists()


class Forgetful(Trained):
    """Answers otherwise than its graph does, as a mistranslated operator would."""

    def predict(self, images, batch_size=32):
        return super().predict(images[:, ::-1].copy(), batch_size)


def test_an_export_that_answers_otherwise_is_refused_and_leaves_nothing(tmp_path, dataset, evaluations):
    with pytest.raises(PackageError, match="differs from Keras"):
        package_each({"patt_lite": Forgetful}, evaluations, dataset, tmp_path / "packages", ["patt_lite"])
    assert not (tmp_path / "packages").exists()
