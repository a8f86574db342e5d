import json
import multiprocessing
import os
import re
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ferops.data.descriptors import DESCRIPTORS
from ferops.emotions import EMOTIONS
from ferops.serving import prediction_log
from ferops.serving.log_reader import read_feedback, read_predictions
from ferops.serving.metrics import Metrics
from ferops.serving.prediction_log import PredictionLog, timestamp


def a_prediction(number, version="1", time=None, embedding=True):
    return {
        "id": f"id-{number}",
        "time": timestamp(time),
        "model_version": version,
        "label": "happy",
        "confidence": 0.4,
        "probabilities": [0.1, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1],
        "embedding": [float(i) for i in range(32)] if embedding else None,
        "descriptors": dict.fromkeys(DESCRIPTORS, 0.5),
    }


def files_of(folder):
    return sorted(Path(folder).rglob("*.jsonl"))


def test_what_is_logged_is_read_back_flat(tmp_path):
    PredictionLog(tmp_path).predictions([a_prediction(n) for n in range(3)])
    frame = read_predictions(tmp_path)
    assert list(frame.columns) == [
        *("id", "time", "model_version", "label", "confidence"),
        *(f"p_{e}" for e in EMOTIONS),
        *(f"embedding_{i}" for i in range(32)),
        *DESCRIPTORS,
    ]
    assert list(frame["id"]) == ["id-0", "id-1", "id-2"]
    assert str(frame["time"].dtype.tz) == "UTC"
    assert frame["p_happy"].tolist() == [0.4] * 3
    assert frame.attrs["torn_lines"] == 0


def test_the_file_says_when_and_by_whom(tmp_path):
    PredictionLog(tmp_path).predictions([a_prediction(0)])
    (path,) = files_of(tmp_path)
    assert path.parent == tmp_path / "predictions" / datetime.now(UTC).date().isoformat()
    assert f"-{os.getpid()}-" in path.name
    assert json.loads(path.read_text())["time"].endswith("Z")


def test_a_log_that_does_not_exist_is_empty(tmp_path):
    assert len(read_predictions(tmp_path)) == 0
    assert "p_happy" in read_predictions(tmp_path)
    assert len(read_feedback(tmp_path)) == 0


def test_a_model_without_embedding_is_logged_without(tmp_path):
    PredictionLog(tmp_path).predictions([a_prediction(0, embedding=False)])
    assert not any("embedding" in c for c in read_predictions(tmp_path))


def test_version_time_and_limit_select(tmp_path):
    log = PredictionLog(tmp_path)
    now = datetime.now(UTC)
    log.predictions([a_prediction(n, version=str(n % 2), time=now - timedelta(hours=n)) for n in range(6)])
    assert list(read_predictions(tmp_path, model_version="1")["id"]) == ["id-5", "id-3", "id-1"]
    assert list(read_predictions(tmp_path, limit=2)["id"]) == ["id-1", "id-0"]
    recent = read_predictions(tmp_path, since=now - timedelta(hours=1, minutes=1))
    assert list(recent["id"]) == ["id-1", "id-0"]


def test_a_line_cut_short_by_a_crash_is_counted_and_passed_over(tmp_path):
    PredictionLog(tmp_path).predictions([a_prediction(n) for n in range(3)])
    (path,) = files_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    frame = read_predictions(tmp_path)
    assert list(frame["id"]) == ["id-0", "id-1"]
    assert frame.attrs["torn_lines"] == 1


@pytest.mark.parametrize("cut", range(2, 60, 7))
def test_wherever_the_crash_cut_the_others_are_read(tmp_path, cut):
    PredictionLog(tmp_path).feedback({"id": "a", "time": timestamp(), "emotion": "sad"})
    PredictionLog(tmp_path).feedback({"id": "b", "time": timestamp(), "emotion": "fear"})
    first, _ = files_of(tmp_path)
    first.write_bytes(first.read_bytes()[:-cut])
    assert list(read_feedback(tmp_path)["id"]) == ["b"]


def test_the_last_word_on_a_prediction_counts(tmp_path):
    log = PredictionLog(tmp_path)
    start = datetime.now(UTC)
    for second, (name, emotion) in enumerate([("a", "sad"), ("b", "fear"), ("a", "happy")]):
        moment = start + timedelta(seconds=second)
        log.feedback({"id": name, "time": timestamp(moment), "emotion": emotion})
    feedback = read_feedback(tmp_path)
    assert dict(zip(feedback["id"], feedback["emotion"], strict=True)) == {"a": "happy", "b": "fear"}


def value(metrics, name):
    return float(re.search(rf"^{name} (\S+)$", metrics.page()[0].decode(), re.MULTILINE)[1])


def test_a_log_that_cannot_be_written_is_counted_and_warned_of_once(tmp_path, caplog):
    (tmp_path / "predictions").write_text("a file where the folder should be")
    metrics = Metrics()
    log = PredictionLog(tmp_path, metrics=metrics)
    assert not log.predictions([a_prediction(0), a_prediction(1)])
    assert not log.predictions([a_prediction(2)])
    assert log.failed == value(metrics, "ferops_unlogged_records_total") == 3
    assert value(metrics, "ferops_log_failing") == 1
    assert len(caplog.records) == 1
    (tmp_path / "predictions").unlink()
    assert log.predictions([a_prediction(3)])
    assert value(metrics, "ferops_log_failing") == 0
    assert "again" in caplog.records[-1].message


def test_each_log_says_once_that_it_cannot_be_written_whatever_the_others_do(tmp_path, caplog):
    (tmp_path / "images").write_text("a file where the folder should be")
    metrics = Metrics()
    log = PredictionLog(tmp_path, metrics=metrics)
    for n in range(5):
        assert log.predictions([a_prediction(n)])
        assert not log.images([{"id": f"id-{n}"}])
        assert value(metrics, "ferops_log_failing") == 1
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the images log cannot be written"
    ]
    assert log.feedback({"id": "id-0", "time": timestamp(), "emotion": "sad"})
    assert value(metrics, "ferops_log_failing") == 1
    (tmp_path / "images").unlink()
    assert log.images([{"id": "id-5"}])
    assert value(metrics, "ferops_log_failing") == 0
    assert caplog.records[-1].getMessage() == "the images log can be written again"
    assert len(caplog.records) == 2


def test_a_full_disk_loses_whole_requests_and_spoils_no_other(tmp_path, monkeypatch):
    log = PredictionLog(tmp_path)
    log.predictions([a_prediction(0)])
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda handle, data: write(handle, data[:-10]))
        assert not log.predictions([a_prediction(1), a_prediction(2)])
    assert log.predictions([a_prediction(3)])
    frame = read_predictions(tmp_path)
    assert list(frame["id"]) == ["id-0", "id-3"]
    assert frame.attrs["torn_lines"] == 0
    assert len(files_of(tmp_path)) == 1


def test_a_log_that_somebody_deletes_is_begun_anew(tmp_path):
    log = PredictionLog(tmp_path)
    log.predictions([a_prediction(0)])
    shutil.rmtree(tmp_path / "predictions")
    assert log.predictions([a_prediction(1)])
    assert list(read_predictions(tmp_path)["id"]) == ["id-1"]


def test_with_disk_durability_nothing_returns_before_the_disk_has_it(tmp_path, monkeypatch):
    on_disk = {}

    def sync(handle):
        time.sleep(0.02)  # as long as a disk takes, so that others write meanwhile
        on_disk[os.fstat(handle).st_ino] = os.fstat(handle).st_size

    monkeypatch.setattr(prediction_log, "_sync", sync)
    log, syncs = PredictionLog(tmp_path, durability="disk"), []

    def a_request(number):
        assert log.predictions([a_prediction(number)])
        (path,) = files_of(tmp_path)
        kept = path.read_bytes()[: on_disk[path.stat().st_ino]]
        syncs.append(f'"id-{number}"'.encode() in kept)

    threads = [threading.Thread(target=a_request, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert syncs == [True] * 20


def test_a_folder_around_the_log_that_is_not_ours_to_open_keeps_nothing_from_being_logged(
    tmp_path, monkeypatch
):
    synced, sync = [], prediction_log._sync_folder

    def of_root(folder):
        synced.append(folder)
        if folder == tmp_path:
            raise PermissionError(13, "Permission denied")
        sync(folder)

    monkeypatch.setattr(prediction_log, "_sync_folder", of_root)
    log = PredictionLog(tmp_path / "log", durability="disk")
    assert log.predictions([a_prediction(1)])
    assert tmp_path in synced
    assert log.failed == 0


def test_a_folder_that_cannot_be_synced_leaves_no_file_open(tmp_path, monkeypatch):
    def broken(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(prediction_log, "_sync_folder", broken)
    log = PredictionLog(tmp_path, durability="disk")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [log.predictions([a_prediction(n)]) for n in range(3)] == [False] * 3
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_disk_that_does_not_sync_is_a_failure(tmp_path, monkeypatch):
    def broken(handle):
        raise OSError("input/output error")

    log = PredictionLog(tmp_path, durability="disk")
    monkeypatch.setattr(prediction_log, "_sync", broken)
    assert not log.predictions([a_prediction(0)])
    assert log.failed == 1


def _log_many(folder, worker, count):
    log = PredictionLog(Path(folder))
    for n in range(count):
        log.predictions([a_prediction(f"{worker}-{n}")])


def test_workers_log_side_by_side_without_loss(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_log_many, args=(str(tmp_path), w, 200)) for w in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    frame = read_predictions(tmp_path)
    assert frame["id"].nunique() == len(frame) == 600
    assert frame.attrs["torn_lines"] == 0


def test_a_forked_process_gets_a_file_of_its_own(tmp_path):
    log = PredictionLog(tmp_path)
    log.predictions([a_prediction(0)])
    child = multiprocessing.get_context("fork").Process(target=log.predictions, args=([a_prediction(1)],))
    child.start()
    child.join()
    log.predictions([a_prediction(2)])
    assert len(files_of(tmp_path)) == 2
    assert set(read_predictions(tmp_path)["id"]) == {"id-0", "id-1", "id-2"}
