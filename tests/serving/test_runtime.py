"""The runtime is chosen for the machine and the model, and GET /model says which and why."""

import logging

import numpy as np
import pytest
from starlette.testclient import TestClient

from ferops.environment import Environment
from ferops.models import runtimes
from ferops.models.onnx import BrokenPackageError, OnnxClassifier
from ferops.serving.app import app, start
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from ferops.serving.runtime import open_checked
from ferops.serving.source import find_source
from reduced_precision import Coarse, Confused, Rounded, write_verdict
from tiny_package import tiny_onnx, write_tiny_package

NAME = "openvino-bf16"


@pytest.fixture(autouse=True)
def no_gpu_and_a_precision_that_every_machine_has(monkeypatch):
    class NoGpu(OnnxClassifier):
        provider = "NoSuchProvider"

    monkeypatch.setitem(runtimes.RUNTIMES, "onnxruntime-cuda", NoGpu)
    monkeypatch.setitem(runtimes.RUNTIMES, NAME, Rounded)


@pytest.fixture
def package(tmp_path):
    return write_tiny_package(tmp_path / "patt_lite")


def verdict(package, **changes):
    write_verdict(package, package, **changes)


def test_without_a_verdict_fp32_answers(package):
    choice = open_checked(package, "auto").choice
    assert (choice.runtime, choice.reduced, choice.evidence) == ("onnxruntime", False, None)
    assert "no verdict on this precision" in choice.passed_over[NAME]
    assert "NoSuchProvider" in choice.passed_over["onnxruntime-cuda"]


def test_a_precision_that_passed_answers_and_shows_its_evidence(package):
    verdict(package)
    classifier = open_checked(package, "auto")
    assert (classifier.choice.runtime, classifier.choice.reduced) == (NAME, True)
    assert classifier.choice.evidence["accuracy"] == 0.66
    assert classifier.choice.evidence["fp32_accuracy"] == 0.65
    assert "answers" not in classifier.choice.evidence
    assert open_checked(package, "auto").choice == classifier.choice  # at every start, in every worker
    assert open_checked(package, "onnxruntime").choice.runtime == "onnxruntime"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_sha256": "0" * 64}, "on another model"),
        ({"passed": False, "rules": [{"passed": False, "sentence": "90 % agree."}]}, "refused: 90 % agree"),
    ],
)
@pytest.mark.parametrize("asked", ["auto", NAME])
def test_without_a_passing_verdict_on_this_model_fp32_answers(package, changes, reason, asked, caplog):
    verdict(package, **changes)
    with caplog.at_level(logging.WARNING, "bentoml.ferops"):
        choice = open_checked(package, asked).choice
    assert choice.runtime == "onnxruntime"
    assert reason in choice.passed_over[NAME]
    assert (reason in caplog.text) == (asked != "auto")  # who asks for it is told that it is not had


@pytest.mark.parametrize("kind", [Coarse, Confused])
def test_a_precision_that_answers_otherwise_than_when_it_was_judged_is_not_used(
    package, kind, monkeypatch, caplog
):
    verdict(package)
    monkeypatch.setitem(runtimes.RUNTIMES, NAME, kind)
    assert open_checked(package, "auto").choice.runtime == "onnxruntime"
    assert "does not answer as it did" in caplog.text


def test_another_runtime_in_fp32_must_answer_as_recorded(package, monkeypatch, caplog):
    assert open_checked(package, "openvino").choice.runtime == "openvino"

    class Wrong(Confused):
        reduced = False

    monkeypatch.setitem(runtimes.RUNTIMES, "openvino", Wrong)
    choice = open_checked(package, "openvino").choice
    assert choice.runtime == "onnxruntime"
    assert "log says more" in choice.passed_over["openvino"]
    assert str(package) not in choice.passed_over["openvino"]
    assert "openvino does not compute this model" in caplog.text


def test_an_unreadable_verdict_does_not_stop_the_service(package, caplog):
    (package / "variants.json").write_text("{}}")
    assert open_checked(package, "auto").choice.runtime == "onnxruntime"
    assert "not valid JSON" in caplog.text


@pytest.mark.parametrize("asked", ["auto", "openvino"])
def test_a_broken_model_is_refused_whatever_would_compute_it(package, asked):
    verdict(package)
    tiny_onnx(package / "model.onnx", seed=7)
    with pytest.raises(BrokenPackageError, match="does not answer as it did"):
        open_checked(package, asked)


def test_the_model_page_says_what_computes_and_why(package, tmp_path):
    verdict(package)
    environment = Environment(package=package, runtime="auto", log_dir=tmp_path / "log")
    source = find_source(environment)
    assert source.classifier.runtime in source.sentence()
    log = PredictionLog(environment.log_dir, environment.log_durability)
    start(app, Predictor(source.classifier, source.version, log, environment.max_pixels), environment)
    inference = TestClient(app).get("/model").json()["inference"]
    assert inference["asked"] == "auto"
    assert (inference["runtime"], inference["reduced"]) == (NAME, True)
    assert inference["evidence"]["agreement"] == 0.98
    assert list(inference["passed_over"]) == ["onnxruntime-cuda"]


def test_the_answers_given_are_those_that_were_judged(package):
    verdict(package)
    images = np.random.default_rng(3).integers(0, 256, (9, 48, 48, 3), dtype=np.uint8)
    given = open_checked(package, "auto").predict(images, 4).probabilities
    np.testing.assert_array_equal(given, Rounded(package).predict(images).probabilities)
