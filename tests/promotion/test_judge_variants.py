"""Reduced precision answers only after a verdict on exactly this model."""

from pathlib import Path

import numpy as np
import pytest

from fake_classifiers import planted_dataset
from ferops import files
from ferops.data import images as pixels
from ferops.evaluation.calibration import expected_calibration_error
from ferops.evaluation.predictions import labels_of, predict_split, probabilities_of
from ferops.models import runtimes
from ferops.models.onnx import OnnxClassifier, RuntimeUnavailableError
from ferops.promotion import judge_variants as judging
from ferops.promotion.judge_variants import judge_variants, judged_folders
from ferops.promotion.variants import Variants, carry_over, load_variants
from ferops.serving.runtime import open_checked
from ferops.settings import load_settings
from reduced_precision import Coarse, Confused, Rounded, Sociable
from tiny_package import tiny_onnx, write_tiny_package

SETTINGS = load_settings(Path(__file__).parents[2] / "params.yaml")
NAME = "openvino-bf16"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return planted_dataset(tmp_path_factory.mktemp("planted") / "dataset")


@pytest.fixture
def package(tmp_path):
    return write_tiny_package(tmp_path / "packages" / "patt_lite")


@pytest.fixture
def judged(package, dataset, monkeypatch):
    """Judge a kind of classifier under the name of the reduced precision; it is twice as fast as fp32."""

    def judge(kind, trial=None, speed=2.0):
        monkeypatch.setitem(runtimes.RUNTIMES, NAME, kind)
        monkeypatch.setattr(judging, "speedup", lambda *_: {1: speed, 8: speed})
        return judge_variants(package, dataset, SETTINGS, trial or as_the_service_opens_it)

    return judge


def as_the_service_opens_it(package, images, runtime):
    return open_checked(package, runtime).predict(pixels.faces(images)).probabilities


def rule(variant, name):
    return next(found for found in variant.rules if found["rule"] == name)


def test_a_faithful_precision_passes_with_its_own_numbers(judged, package, dataset):
    variant = judged(Rounded).judged[NAME]
    assert variant.passed, variant.failed
    rows = predict_split(Rounded(package), dataset, "test", batch_size=32, seed=0)
    rows = rows[~rows["copy_in_train"]]
    labels, probabilities = labels_of(rows), probabilities_of(rows)
    assert variant.rows == len(labels) == 196
    assert variant.accuracy == (probabilities.argmax(axis=1) == labels).mean()
    assert variant.calibration_error == expected_calibration_error(labels, probabilities)
    assert variant.model_sha256 == files.sha256(package / "model.onnx")
    assert 0 < variant.max_difference < 0.01
    assert variant.agreement > 0.97
    assert "passed: accuracy" in Variants(judged={NAME: variant}).lines()[0]


@pytest.mark.parametrize(
    ("kind", "failed"), [(Confused, "agreement"), (Coarse, "calibration"), (Sociable, "batch_invariance")]
)
def test_a_precision_that_changes_the_model_is_refused(judged, kind, failed):
    variant = judged(kind).judged[NAME]
    assert not variant.passed
    assert rule(variant, failed)["passed"] is False
    assert rule(variant, "service")["passed"] is None


def test_a_precision_that_is_no_faster_is_refused(judged):
    variant = judged(Rounded, speed=0.9).judged[NAME]
    assert not variant.passed
    assert "0.90 at 1" in rule(variant, "speed")["sentence"]


def test_a_service_that_answers_in_another_precision_is_refused(judged):
    def in_fp32(package, images, runtime):
        return OnnxClassifier(package).predict(pixels.faces(images)).probabilities

    variant = judged(Rounded, in_fp32).judged[NAME]
    assert not variant.passed
    assert rule(variant, "service")["passed"] is False


def test_a_service_that_does_not_start_is_no_reason_to_stop(judged):
    def broken(package, images, runtime):
        raise RuntimeError("the service ended with 1")

    variant = judged(Rounded, broken).judged[NAME]
    assert "ended with 1" in rule(variant, "service")["sentence"]


def test_a_machine_without_it_says_why_there_is_no_verdict(judged):
    class Absent(Rounded):
        def _open(self, model, threads):
            raise RuntimeUnavailableError("this CPU has no instructions for bf16")

    assert judged(Absent) == Variants(not_judged={NAME: "this CPU has no instructions for bf16"})


def test_a_verdict_goes_only_to_the_model_that_it_is_on(judged, package, tmp_path):
    reports = tmp_path / "reports"
    verdicts = judged(Rounded)
    verdicts.save(reports)
    assert load_variants(reports) == verdicts
    same, other = write_tiny_package(tmp_path / "same"), write_tiny_package(tmp_path / "other")
    tiny_onnx(other / "model.onnx", seed=5)
    assert carry_over(reports, same) and not carry_over(reports, same)
    assert load_variants(same) == verdicts
    assert not carry_over(reports, other)
    assert load_variants(other) == Variants()


def test_variants_are_judged_of_who_won_or_is_champion(tmp_path):
    refused, champion = {"verdict": "refused"}, {"verdict": "already_champion"}
    nobody = {"winner": None, "candidates": {"patt_lite": refused}}
    assert judged_folders(nobody, tmp_path) == []
    assert judged_folders({**nobody, "winner": "vit"}, tmp_path) == [tmp_path / "vit"]
    again = {"winner": None, "candidates": {"vit": refused, "patt_lite": champion}}
    assert judged_folders(again, tmp_path) == [tmp_path / "patt_lite"]


def test_of_two_sides_the_faster_is_measured_faster(package):
    class Slower(OnnxClassifier):
        def _compute(self, images):
            for _ in range(20):
                computed = super()._compute(images)
            return computed

    images = np.zeros((1, 48, 48, 3), np.uint8)
    ratios = judging.speedup(OnnxClassifier(package), Slower(package), images)
    assert set(ratios) == {1, 8} and min(ratios.values()) > 1.5
