"""The model that lies in this repository: whole, small, and answering as it was recorded."""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from ferops import files
from ferops.models.onnx import OnnxClassifier, Recorded
from ferops.promotion.build_release import MAX_BYTES, drawn_faces
from ferops.promotion.release import Release

FOLDER = Path(__file__).parents[2] / "release"


@pytest.fixture(scope="module")
def release() -> Release:
    return Release.load(FOLDER)


def test_it_is_as_it_was_released(release):
    assert release.damaged() == []
    undeclared = {path.name for path in FOLDER.iterdir()} - set(release.manifest.files)
    assert undeclared == {"README.md", "release.json"}


def test_it_fits_into_six_megabytes():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MAX_BYTES == 6_000_000


def test_it_gives_the_recorded_predictions():
    assert OnnxClassifier(FOLDER).self_check(tolerance=1e-5) <= 1e-5


def test_its_keras_weights_give_the_recorded_predictions():
    from ferops.models import patt_lite

    recorded = Recorded.load(FOLDER)
    given = patt_lite.load(FOLDER).predict(recorded.images).probabilities
    np.testing.assert_allclose(given, recorded.probabilities, atol=1e-4)


def test_the_recorded_images_are_drawings():
    np.testing.assert_array_equal(Recorded.load(FOLDER).images, drawn_faces(48))


def test_it_was_trained_on_real_faces_and_passed_the_gate(release):
    card = OnnxClassifier(FOLDER).card
    assert not card.synthetic and not release.synthetic
    gate = files.read_json(FOLDER / "gate.json")
    assert gate["verdict"] == "passed"
    assert gate["package_sha256"] == release.package_sha256


def test_its_results_are_those_of_its_dataset_and_run(release):
    evaluation = files.read_json(FOLDER / "evaluation.json")
    assert evaluation["dataset_sha256"] == release.manifest.dataset_sha256
    assert evaluation["mlflow_run_id"] == release.manifest.mlflow_run_id
    assert f"{100 * evaluation['official']['accuracy']:.1f} [" in (FOLDER / "README.md").read_text()


def test_its_dataset_passed_validation_and_the_report_names_neither_images_nor_places(release):
    text = (FOLDER / "validation.json").read_text()
    report = json.loads(text)
    assert report["success"] and report["dataset_sha256"] == release.manifest.dataset_sha256
    assert all(e["success"] for e in report["expectations"] if e["blocking"])
    assert "/" not in text and ".png" not in text and ".jpg" not in text
    said = f"passed, {len(report['expectations'])} expectations, warnings: none"
    assert said in (FOLDER / "README.md").read_text()
