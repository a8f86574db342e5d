"""A challenger on live traffic: seen by nobody, compared with everybody."""

import threading
import time

import numpy as np
import pytest

from ferops.emotions import EMOTIONS
from ferops.models.onnx import OnnxClassifier
from ferops.promotion.champion import NoChampionError
from ferops.serving.log_reader import read_predictions
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from ferops.serving.shadow import Shadow, read_agreements
from ferops.serving.source import find_challenger
from serving_client import encoded, png
from tiny_package import write_tiny_package


class Service:
    """A model and a challenger on one log."""

    def __init__(self, folder, challenger_seed, room=256):
        self.log = PredictionLog(folder / "log")
        self.champion = OnnxClassifier(write_tiny_package(folder / "champion", seed=0))
        self.challenger = OnnxClassifier(write_tiny_package(folder / "challenger", seed=challenger_seed))
        self.shadow = Shadow(self.challenger, "challenger-1", self.log, room=room)
        self.predictor = Predictor(self.champion, "v1", self.log, 10**6, shadow=self.shadow)

    def agreement(self, images):
        """What the report says once the challenger saw so many images."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = read_agreements(self.log.folder)
            if found and found[-1].images == images:
                return found[-1]
            time.sleep(0.02)
        raise AssertionError(f"the challenger did not see {images} images")


def test_a_challenger_that_is_the_same_model_agrees_everywhere(tmp_path):
    service = Service(tmp_path, challenger_seed=0)
    service.predictor.predict([png(seed) for seed in range(10)])
    agreement = service.agreement(10)
    assert (agreement.agreed, agreement.mean_distance) == (10, pytest.approx(0, abs=1e-6))
    assert (agreement.model_version, agreement.challenger_version) == ("v1", "challenger-1")


def test_the_report_counts_by_class_where_another_model_disagrees(tmp_path):
    service = Service(tmp_path, challenger_seed=1)
    grey = np.random.default_rng(0).integers(0, 256, (30, 48, 48), dtype=np.uint8)
    answers = service.predictor.predict([encoded(image) for image in grey])
    agreement = service.agreement(30)
    images = np.repeat(grey[..., None], 3, axis=3)
    mine, theirs = (c.predict(images).probabilities for c in (service.champion, service.challenger))
    same = mine.argmax(1) == theirs.argmax(1)
    assert agreement.agreed == same.sum() < 30
    assert agreement.mean_distance == pytest.approx(np.abs(mine - theirs).sum(1).mean() / 2, abs=1e-5)
    label = answers[0]["label"]
    (row,) = [line for line in agreement.table().splitlines() if line.startswith(f"{label} ")]
    of_class = mine.argmax(1) == EMOTIONS.index(label)
    assert row.split()[1:3] == [str(of_class.sum()), str((same & of_class).sum())]


def test_the_answer_and_its_log_are_the_models_own(tmp_path):
    service = Service(tmp_path, challenger_seed=1)
    (answer,) = service.predictor.predict([png()])
    service.agreement(1)
    assert answer["model_version"] == "v1"
    logged = read_predictions(service.log.folder)
    assert list(logged["id"]) == [answer["id"]]


def test_a_slow_challenger_holds_up_nobody_and_what_it_missed_is_counted(tmp_path):
    service = Service(tmp_path, challenger_seed=1, room=4)
    go, predict = threading.Event(), service.challenger.predict
    service.challenger.predict = lambda images: go.wait(20) and predict(images)
    for seed in range(10):
        assert len(service.predictor.predict([png(seed)])) == 1  # though the challenger answers nothing
    assert service.shadow.dropped == 6
    go.set()
    service.agreement(4)
    service.predictor.predict([png()])
    assert service.agreement(5).images == 5


def test_a_challenger_that_fails_is_said_once_and_counted(tmp_path, caplog):
    service = Service(tmp_path, challenger_seed=1)
    works, service.challenger.predict = service.challenger.predict, None
    for seed in range(3):
        assert len(service.predictor.predict([png(seed)])) == 1
    deadline = time.monotonic() + 20
    while service.shadow.dropped < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert service.shadow.dropped == 3
    assert len([r for r in caplog.records if "challenger-1 failed" in r.message]) == 1
    service.challenger.predict = works
    service.predictor.predict([png()])
    assert service.agreement(1).images == 1


def test_a_challenger_is_a_package_folder_or_a_version_of_the_store(tmp_path):
    package = write_tiny_package(tmp_path / "package", seed=1)
    assert find_challenger(str(package)).version.startswith("package-")
    with pytest.raises(NoChampionError, match="neither a package folder nor a version"):
        find_challenger("9999999")
