"""Other runtimes compute the same package, and say so when they cannot."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import onnxruntime
import pytest

from ferops.environment import Runtime
from ferops.models import openvino
from ferops.models.onnx import BrokenPackageError, CudaClassifier, OnnxClassifier, RuntimeUnavailableError
from ferops.models.openvino import OpenVinoBf16Classifier, OpenVinoClassifier
from ferops.models.runtimes import PREFERENCE, REDUCED, REFERENCE, RUNTIMES
from tiny_package import tiny_card, tiny_onnx, write_tiny_package


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_tiny_package(tmp_path_factory.mktemp("runtimes") / "patt_lite")


@pytest.fixture(scope="module")
def classifier(package):
    return OpenVinoClassifier(package)


def some_images(count, side=48):
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_openvino_answers_as_onnx_runtime_does(package, classifier):
    expected, given = OnnxClassifier(package).predict(some_images(5)), classifier.predict(some_images(5))
    np.testing.assert_allclose(given.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(given.embedding, expected.embedding, rtol=1e-4, atol=1e-4)
    assert given.probabilities.dtype == given.embedding.dtype == np.float32
    assert classifier.self_check() < 1e-5
    assert classifier.runtime.startswith("openvino 20")
    assert classifier.card == OnnxClassifier(package).card


def test_openvino_gives_an_image_one_answer_whatever_its_company(classifier):
    images = some_images(33)
    alone = np.concatenate([classifier.predict(images[i : i + 1]).probabilities for i in range(33)])
    for batch_size in (2, 7, 32, 33):
        given = classifier.predict(images, batch_size).probabilities
        np.testing.assert_allclose(given, alone, rtol=0, atol=1e-6)


def test_openvino_gives_the_same_answers_to_many_threads_at_once(classifier):
    images = some_images(8)
    expected = classifier.predict(images).probabilities
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(classifier.predict, images[i % 8 : i % 8 + 1]) for i in range(200)]
    for i, answer in enumerate(asked):
        given = answer.result().probabilities[0]
        np.testing.assert_allclose(given, expected[i % 8], rtol=0, atol=1e-6)


def test_openvino_names_a_damaged_or_exchanged_model(tmp_path):
    package = write_tiny_package(tmp_path / "package")
    tiny_card(input_side=224).save(package / "card.json")
    with pytest.raises(BrokenPackageError, match="must take images uint8"):
        OpenVinoClassifier(package)
    tiny_card().save(package / "card.json")
    tiny_onnx(package / "model.onnx", seed=7)
    with pytest.raises(BrokenPackageError, match="does not answer as it did"):
        OpenVinoClassifier(package).self_check()
    (package / "model.onnx").write_bytes(b"\x00junk")
    with pytest.raises(BrokenPackageError, match=r"model\.onnx"):
        OpenVinoClassifier(package)


def test_openvino_is_imported_without_its_message_home():
    code = (
        "import sys\n"
        "from ferops.models import openvino\n"
        "print('openvino' in sys.modules, end=' ')\n"
        "openvino._openvino()\n"
        "print('openvino' in sys.modules, sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "None"]


def test_bf16_is_for_cpus_that_compute_it(package, monkeypatch):
    monkeypatch.setattr(openvino, "cpu_flags", lambda: frozenset({"avx2", "avx512f"}))
    with pytest.raises(RuntimeUnavailableError, match="no instructions for bf16"):
        OpenVinoBf16Classifier(package)


@pytest.mark.skipif(not openvino.cpu_flags() & openvino.BF16_FLAGS, reason="this CPU has no bf16")
def test_bf16_gives_an_image_one_answer_whatever_its_company(package):
    classifier, images = OpenVinoBf16Classifier(package), some_images(33)
    alone = np.concatenate([classifier.predict(images[i : i + 1]).probabilities for i in range(33)])
    np.testing.assert_allclose(classifier.predict(images, 8).probabilities, alone, rtol=0, atol=1e-6)
    assert np.abs(alone - OnnxClassifier(package).predict(images).probabilities).max() > 1e-6


def test_a_machine_without_openvino_or_a_gpu_says_so(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeUnavailableError, match="OpenVINO is not installed"):
        OpenVinoClassifier(package)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeUnavailableError, match="no CUDAExecutionProvider"):
        CudaClassifier(package)


def test_the_environment_may_ask_for_every_runtime():
    assert set(get_args(Runtime)) == {"auto", *RUNTIMES}
    assert PREFERENCE[-1] == REFERENCE and set(PREFERENCE) <= set(RUNTIMES)
    assert REFERENCE not in REDUCED
