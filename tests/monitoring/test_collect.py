"""From a served prediction and its feedback to a new version of the dataset, with the real log and DVC."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from ferops.data.collected import PLACE, batches, read_batch
from ferops.data.images import decode
from ferops.models.onnx import OnnxClassifier
from ferops.monitoring.collect import Collection, NothingKeptError, collect
from ferops.monitoring.compaction import compact
from ferops.monitoring.forgetting import forget
from ferops.monitoring.policy import LogPolicy
from ferops.serving.prediction_log import PredictionLog, timestamp
from ferops.serving.predictor import Predictor
from serving_client import encoded
from tiny_package import write_tiny_package

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Workplace:
    """A service that keeps faces, people who answer, and the repository where the dataset is."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.root = repository
        self.log = PredictionLog(folder / "log")
        classifier = OnnxClassifier(write_tiny_package(folder / "package"))
        self.predictor = Predictor(classifier, "v1", self.log, 10**6, keep_images=True)
        self.calls = 0

    def predict(self, count: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Faces by prediction id."""
        grey = np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)
        answers = self.predictor.predict([encoded(face) for face in grey])
        return {answer["id"]: face for answer, face in zip(answers, grey, strict=True)}

    def say(self, identity: str, emotion: str, minutes: int = 0) -> None:
        time = timestamp(NOW + timedelta(minutes=minutes))
        self.log.feedback({"id": identity, "time": time, "emotion": emotion})

    def collect(self) -> Collection:
        self.calls += 1
        return collect(self.log.folder, self.root, NOW + timedelta(days=self.calls))

    def held(self) -> dict[str, str]:
        return {r.id: r.emotion for batch in batches(self.root / PLACE) for r in read_batch(batch)}


@pytest.fixture
def work(tmp_path: Path, repository: Path) -> Workplace:
    return Workplace(tmp_path, repository)


def test_a_face_that_somebody_named_is_collected_as_the_model_saw_it(work: Workplace) -> None:
    faces = work.predict(3)
    first, second, _ = faces
    work.say(first, "fear")
    work.say(second, "happy")

    found = work.collect()

    assert (found.new, found.unlabelled, sum(found.splits.values())) == (2, 1, 2)
    assert "2 new labels" in found.sentence()
    (batch,) = batches(work.root / PLACE)
    assert batch.stem == found.batch == "20260302T120000Z"
    rows = {row.id: row for row in read_batch(batch)}
    assert {identity: row.emotion for identity, row in rows.items()} == {first: "fear", second: "happy"}
    for identity, row in rows.items():
        assert np.array_equal(np.asarray(decode(row.image)), faces[identity])


def test_only_the_faces_of_a_drift_are_collected_when_its_beginning_is_named(work: Workplace) -> None:
    (before,) = work.predict(1)
    began = datetime.now(UTC) + timedelta(milliseconds=2)  # the log's times are whole milliseconds
    while datetime.now(UTC) < began + timedelta(milliseconds=2):
        pass
    (drifted,) = work.predict(1, seed=1)
    for identity in (before, drifted):
        work.say(identity, "fear")

    found = collect(work.log.folder, work.root, NOW, since=began)
    assert (found.new, found.unlabelled) == (1, 0)
    assert set(work.held()) == {drifted}
    assert (
        collect(work.log.folder, work.root, NOW + timedelta(days=1), since=NOW + timedelta(days=999)).new == 0
    )
    assert set(work.held()) == {drifted}  # and nothing that was collected is lost
    assert work.collect().new == 1


def test_collecting_twice_is_collecting_once(work: Workplace) -> None:
    (one,) = work.predict(1)
    work.say(one, "fear")
    first = work.collect()
    again = work.collect()
    assert (again.batch, again.new, again.sha256) == (None, 0, first.sha256)
    assert "nothing new" in again.sentence()


def test_the_last_word_counts_however_late_and_out_of_order(work: Workplace) -> None:
    one, two = work.predict(2)
    work.say(one, "sad", minutes=5)
    work.say(one, "fear", minutes=1)
    work.say(two, "happy")
    work.collect()
    assert work.held() == {one: "sad", two: "happy"}
    work.say(two, "neutral", minutes=9)
    assert work.collect().new == 1
    assert work.held() == {one: "sad", two: "neutral"}


def test_a_compacted_day_is_collected_too(work: Workplace) -> None:
    (one,) = work.predict(1)
    work.say(one, "fear")
    compact(work.log.folder, LogPolicy(keep_days=90), datetime.now(UTC) + timedelta(days=2))
    assert not list((work.log.folder / "images").rglob("*.jsonl"))
    assert work.collect().new == 1


def test_what_was_forgotten_is_neither_kept_nor_collected_nor_left_in_a_batch(work: Workplace) -> None:
    one, two = work.predict(2)
    for identity in (one, two):
        work.say(identity, "fear")
    work.collect()
    forget(work.log.folder, one)
    assert one not in "".join(p.read_text() for p in (work.log.folder / "images").rglob("*.jsonl"))
    assert work.collect().forgotten == 1
    assert work.held() == {two: "fear"}


def test_a_service_keeps_no_faces_unless_it_is_told_to(work: Workplace) -> None:
    Predictor(work.predictor.classifier, "v1", work.log, 10**6).predict(
        [encoded(np.zeros((48, 48), np.uint8))]
    )
    assert not (work.log.folder / "images").exists()
    with pytest.raises(NothingKeptError, match="FEROPS_KEEP_IMAGES"):
        work.collect()
