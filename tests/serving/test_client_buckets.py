"""The log tells whether one client sends nearly all, and not which."""

import multiprocessing
import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from ferops.environment import Environment
from ferops.models.onnx import OnnxClassifier
from ferops.monitoring.compaction import compact
from ferops.monitoring.policy import LogPolicy
from ferops.serving import client_buckets
from ferops.serving.app import app, start
from ferops.serving.client_buckets import ClientBuckets
from ferops.serving.log_reader import read_log
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor, Question
from serving_client import encoded
from tiny_package import write_tiny_package

ADDRESSES = [f"203.0.113.{n}" for n in range(256)]


def keys(log_dir):
    return sorted(path.name for path in (log_dir / "keys").iterdir())


def buckets(log_dir):
    return [ClientBuckets(log_dir).bucket(address) for address in ADDRESSES]


@pytest.fixture
def tomorrow(monkeypatch):
    """Gives a function that moves the clock by days."""

    def move(days=1):
        now = time.time() + days * 86_400
        monkeypatch.setattr(client_buckets.time, "time", lambda: now)

    return move


def test_a_client_stays_in_its_bucket_for_a_day_and_only_for_a_day(tmp_path, tomorrow):
    worker = ClientBuckets(tmp_path)
    today = [worker.bucket(address) for address in ADDRESSES]
    assert today == [worker.bucket(address) for address in ADDRESSES]
    assert all(0 <= bucket < 256 for bucket in today)
    assert len(set(today)) < len(ADDRESSES), "a bucket has more than one client: it names none"
    tomorrow()
    later = [worker.bucket(address) for address in ADDRESSES]
    assert sum(a == b for a, b in zip(today, later, strict=True)) < 16, "what chance gives, and no more"


def test_the_key_of_a_day_is_for_the_service_alone_and_ends_with_the_day(tmp_path, tomorrow):
    ClientBuckets(tmp_path).bucket("203.0.113.7")
    (today,) = (tmp_path / "keys").iterdir()
    assert stat.S_IMODE(today.stat().st_mode) == 0o600
    assert stat.S_IMODE(today.parent.stat().st_mode) == 0o700
    tomorrow()
    ClientBuckets(tmp_path).bucket("203.0.113.7")
    assert len(keys(tmp_path)) == 1 and not today.exists()


def test_a_key_that_a_full_disk_cut_short_is_made_anew(tmp_path):
    cut = tmp_path / "keys" / f"{datetime.now(UTC):%Y-%m-%d}"
    cut.parent.mkdir()
    cut.write_bytes(b"")
    worker = ClientBuckets(tmp_path)
    assert worker.bucket("203.0.113.7") is None and cut.exists(), "another worker may be writing it"
    os.utime(cut, (cut.stat().st_mtime - 60,) * 2)
    assert worker.bucket("203.0.113.7") is None
    assert worker.bucket("203.0.113.7") == ClientBuckets(tmp_path).bucket("203.0.113.7") is not None


def test_a_service_that_nobody_asks_any_more_loses_its_key_at_compaction(tmp_path):
    ClientBuckets(tmp_path).bucket("203.0.113.7")
    compact(tmp_path, LogPolicy(keep_days=90))
    assert len(keys(tmp_path)) == 1, "the day is not over"
    compact(tmp_path, LogPolicy(keep_days=90), datetime.now(UTC) + timedelta(days=1))
    assert keys(tmp_path) == []


def test_workers_put_a_client_into_the_same_bucket(tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as workers:
        answers = workers.map(buckets, [tmp_path] * 8)
    assert all(answer == answers[0] for answer in answers)
    assert len(keys(tmp_path)) == 1


def test_without_a_key_predictions_are_logged_and_say_nothing_of_clients(tmp_path):
    (tmp_path / "keys").write_text("a file where the folder should be")
    assert ClientBuckets(tmp_path).bucket("203.0.113.7") is None


def test_a_key_that_another_worker_is_writing_is_waited_for_by_later_predictions(tmp_path):
    (tmp_path / "keys").mkdir()
    half = tmp_path / "keys" / f"{datetime.now(UTC):%Y-%m-%d}"
    half.write_bytes(b"")
    worker = ClientBuckets(tmp_path)
    assert worker.bucket("203.0.113.7") is None
    half.write_bytes(b"k" * client_buckets.KEY_BYTES)
    assert worker.bucket("203.0.113.7") is not None


@pytest.mark.parametrize("noted", [True, False])
def test_each_face_is_logged_with_the_bucket_of_who_sent_it(tmp_path, noted):
    write_tiny_package(tmp_path / "package")
    known = ClientBuckets(tmp_path) if noted else None
    predictor = Predictor(
        OnnxClassifier(tmp_path / "package"), "1", PredictionLog(tmp_path), 10**6, clients=known
    )
    faces = [encoded(face) for face in np.random.default_rng(0).integers(0, 256, (4, 48, 48), np.uint8)]
    one, other = (a for a in _two_buckets(tmp_path))
    predictor.predict_each([Question(faces[:3], client=one), Question(faces[3:], client=other)])
    predictor.predict(faces[:1])  # asked in the process: nobody's address
    found = read_log(tmp_path, lambda log: log.execute("SELECT client FROM predictions").fetchall())
    expected = [ClientBuckets(tmp_path).bucket(a) if noted else None for a in (one, one, one, other)]
    assert [client for (client,) in found] == [*expected, None]
    assert not any(address in text for address in (one, other) for text in _everything(tmp_path))


def test_the_service_takes_the_address_of_the_connection(tmp_path):
    write_tiny_package(tmp_path / "package")
    known = ClientBuckets(tmp_path)
    predictor = Predictor(
        OnnxClassifier(tmp_path / "package"), "1", PredictionLog(tmp_path), 10**6, clients=known
    )
    start(app, predictor, Environment())
    face = encoded(np.zeros((48, 48), np.uint8))
    for address in ("203.0.113.7", "203.0.113.8"):
        answer = TestClient(app, client=(address, 50_000)).post("/predict", files=[("images", face)])
        assert answer.status_code == 200
    found = read_log(tmp_path, lambda log: log.execute("SELECT client FROM predictions ORDER BY time").df())
    assert list(found["client"]) == [known.bucket("203.0.113.7"), known.bucket("203.0.113.8")]


def _two_buckets(log_dir: Path) -> list[str]:
    """Two addresses in two buckets."""
    by_bucket = dict(zip(buckets(log_dir), ADDRESSES, strict=True))
    return list(by_bucket.values())[:2]


def _everything(folder: Path) -> list[str]:
    return [path.read_text(errors="replace") for path in folder.rglob("*.jsonl")]
