import subprocess
import sys

import numpy as np
import pytest

from ferops.models.onnx import BrokenPackageError, OnnxClassifier
from tiny_package import tiny_card, tiny_onnx, write_tiny_package


@pytest.fixture
def package(tmp_path):
    return write_tiny_package(tmp_path / "patt_lite")


def some_images(count, side=48):
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_a_package_answers_with_probabilities_and_embeddings(package):
    predictions = OnnxClassifier(package).predict(some_images(5))
    assert predictions.probabilities.shape == (5, 7)
    assert predictions.probabilities.dtype == np.float32
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, atol=1e-5)
    assert predictions.embedding.shape == (5, 32)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_batch_size_changes_nothing_but_the_cut(package, batch_size):
    images = some_images(5)
    classifier = OnnxClassifier(package, threads=1)
    np.testing.assert_allclose(
        classifier.predict(images, batch_size).probabilities,
        np.concatenate([classifier.predict(images[i : i + 1]).probabilities for i in range(5)]),
        atol=1e-6,
    )


def test_no_images_give_no_rows(package):
    predictions = OnnxClassifier(package).predict(some_images(0))
    assert predictions.probabilities.shape == (0, 7)
    assert predictions.embedding.shape == (0, 32)


def test_a_model_without_embedding_is_served_without_one(tmp_path):
    package = write_tiny_package(tmp_path / "vit", embedding_size=None)
    assert OnnxClassifier(package).predict(some_images(2)).embedding is None


@pytest.mark.parametrize(
    "images", [some_images(1).astype(np.float32), some_images(1, side=47), some_images(1)[0]]
)
def test_images_of_another_shape_or_dtype_are_refused(package, images):
    with pytest.raises(ValueError, match=r"takes uint8 \[N, 48, 48, 3\]"):
        OnnxClassifier(package).predict(images)


def test_the_self_check_passes_on_what_was_packaged(package):
    assert OnnxClassifier(package).self_check() < 1e-6


def test_the_self_check_finds_an_exchanged_model(package):
    tiny_onnx(package / "model.onnx", seed=7)
    with pytest.raises(BrokenPackageError, match="does not answer as it did"):
        OnnxClassifier(package).self_check()


@pytest.mark.parametrize("name", ["model.onnx", "card.json", "recorded.npz"])
@pytest.mark.parametrize("damage", ["absent", "junk"])
def test_a_damaged_package_is_named(package, name, damage):
    if damage == "absent":
        (package / name).unlink()
    else:
        (package / name).write_bytes(b"\x00junk")
    with pytest.raises(BrokenPackageError, match=name):
        OnnxClassifier(package).self_check()


def test_a_model_that_does_not_match_its_card_is_refused(package):
    tiny_card(input_side=224).save(package / "card.json")
    with pytest.raises(BrokenPackageError, match="must take images uint8"):
        OnnxClassifier(package)


def test_no_training_framework_is_imported():
    code = (
        "import sys, ferops.models.onnx; "
        "print([m for m in ('tensorflow', 'keras', 'mlflow', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_is_computed_without_a_message_home(package, tmp_path):
    # Only the variables below, for ONNX Runtime is also silent where it sees a CI's.
    code = "import sys; from pathlib import Path; from ferops.models.onnx import OnnxClassifier\n"
    code += "OnnxClassifier(Path(sys.argv[1])).self_check()"
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-c", code, str(package)], env={"HOME": str(home)}, check=True)
    assert list(home.rglob("*")) == []  # where it would keep what it sends
