"""Closed days become Parquet: nothing is lost, nothing doubled, whenever it is killed or written to."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ferops.models.onnx import OnnxClassifier
from ferops.monitoring import compaction
from ferops.monitoring.compaction import compact
from ferops.monitoring.policy import LogPolicy
from ferops.serving import log_days
from ferops.serving.log_reader import COLUMNS, read_feedback, read_log, read_predictions
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from ferops.serving.shadow import Shadow, read_agreements
from serving_client import encoded
from tiny_log import answers
from tiny_package import write_tiny_package

KEEP = LogPolicy(keep_days=90)


def ids(log_dir):
    return sorted(read_predictions(log_dir)["id"])


def lines_of(log_dir, kind="predictions"):
    return sorted((log_dir / kind).rglob("*.jsonl"))


def parts_of(log_dir, kind="predictions"):
    return sorted((log_dir / kind).rglob("*.parquet"))


@pytest.fixture
def two_days(workplace):
    """30 predictions of yesterday in two files, by two versions; 10 of today."""
    workplace.predict(answers(20, seed=1), hours_ago=20)
    workplace.predict(answers(10, seed=2), hours_ago=19, version="v2-00000000")
    workplace.predict(answers(10, seed=3))
    return workplace


def test_a_closed_day_becomes_one_parquet_file_for_each_version_and_reads_the_same(two_days):
    log = two_days.log
    before = read_predictions(log)
    done = compact(log, KEEP, two_days.now)
    assert (done.days, done.records) == (1, 30)
    assert [path.parent.name for path in parts_of(log)] == [
        "model_version=v2-00000000",
        "model_version=v3-0a1b2c3d",
    ]
    assert len(lines_of(log)) == 1, "today's file is still written to"
    after = read_predictions(log)
    pd.testing.assert_frame_equal(
        *(frame.sort_values("id", ignore_index=True) for frame in (before, after)), check_exact=True
    )


def test_the_second_time_there_is_nothing_to_do(two_days):
    compact(two_days.log, KEEP, two_days.now)
    files = {path: path.stat().st_mtime_ns for path in two_days.log.rglob("*") if path.is_file()}
    done = compact(two_days.log, KEEP, two_days.now)
    assert done == compaction.Compacted()
    assert files == {path: path.stat().st_mtime_ns for path in two_days.log.rglob("*") if path.is_file()}


def test_a_day_is_left_alone_until_no_request_of_it_can_be_at_work(two_days):
    midnight = two_days.now.replace(hour=0)
    assert compact(two_days.log, KEEP, midnight + timedelta(minutes=30)).days == 0
    assert compact(two_days.log, KEEP, midnight + timedelta(minutes=61)).days == 1


def test_feedback_that_comes_late_finds_predictions_that_are_compacted(two_days):
    rows = answers(20, seed=1)
    two_days.feedback(rows.iloc[:3].assign(emotion="sad"))
    compact(two_days.log, KEEP, two_days.now)
    two_days.now += timedelta(hours=14)
    two_days.feedback(rows.iloc[2:6].assign(emotion="fear"))
    compact(two_days.log, KEEP, two_days.now)
    two_days.feedback(rows.iloc[5:9].assign(emotion="happy"))
    found = read_feedback(two_days.log).set_index("id")["emotion"]
    assert [found[f"1-{n}"] for n in range(9)] == ["sad"] * 2 + ["fear"] * 3 + ["happy"] * 4
    two_days.now -= timedelta(hours=14)
    assert len(two_days.window().labelled) == 9


def test_lines_that_were_cut_short_are_counted_before_and_after(two_days):
    path = lines_of(two_days.log)[0]
    path.write_text(path.read_text() + '{"id": "half a li')
    before = read_predictions(two_days.log)
    compact(two_days.log, KEEP, two_days.now)
    after = read_predictions(two_days.log)
    assert before.attrs["torn_lines"] == after.attrs["torn_lines"] == 1
    assert len(before) == len(after) == 40


def test_days_that_were_compacted_before_clients_were_noted_are_read_beside_the_others(two_days):
    log = two_days.log
    before = read_predictions(log)
    compact(log, KEEP, two_days.now)
    first, second = parts_of(log)
    pq.write_table(pq.read_table(first).drop(["client"]), first)
    pd.testing.assert_frame_equal(read_predictions(log), before)
    pq.write_table(pq.read_table(second).drop(["client"]), second)
    pd.testing.assert_frame_equal(read_predictions(log), before)
    nothing = read_log(log, lambda db: db.execute("SELECT count(client) FROM predictions").fetchone())
    assert nothing == (0,)


# Killed


def _compact_and_die(log_dir, now, step):
    """Compact, and be killed at the `step`th change of the file system."""
    changes = iter(range(step + 1))

    def hook(event, arguments):
        if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") and next(changes) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    compact(log_dir, KEEP, now)
    os._exit(0)


def test_killed_at_any_step_it_loses_and_doubles_nothing_and_the_next_call_goes_on(two_days):
    expected, context = ids(two_days.log), multiprocessing.get_context("fork")
    for step in range(100):
        process = context.Process(target=_compact_and_die, args=(two_days.log, two_days.now, step))
        process.start()
        process.join()
        assert ids(two_days.log) == expected, f"killed at step {step}"
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        if len(lines_of(two_days.log)) == 1:  # it came through with yesterday: give it another day's work
            two_days.predict(answers(5, seed=100 + step), hours_ago=20)
            expected = ids(two_days.log)
    assert 5 < step < 99
    assert len(lines_of(two_days.log)) == 1
    assert not list(two_days.log.rglob(".tmp-*"))
    assert len(parts_of(two_days.log)) == len(
        log_days.Manifest.load(parts_of(two_days.log)[0].parents[1]).parts
    )


# Late lines of a process that still runs


def a_line(name, path):
    return path.read_text().splitlines()[0].replace('"1-0"', f'"{name}"') + "\n"


def test_a_line_that_comes_while_a_day_is_compacted_leaves_it_to_the_next_call(two_days, monkeypatch):
    path, copy = lines_of(two_days.log)[0], compaction._copy
    late = a_line("late", path)

    def slow_copy(*arguments):
        outcome = copy(*arguments)
        path.open("a").write(late)
        return outcome

    with monkeypatch.context() as patched:
        patched.setattr(compaction, "_copy", slow_copy)
        assert compact(two_days.log, KEEP, two_days.now).days == 0
    assert len(ids(two_days.log)) == len(set(ids(two_days.log))) == 41
    assert compact(two_days.log, KEEP, two_days.now).records == 31
    assert len(ids(two_days.log)) == 41


def test_a_line_that_comes_before_the_file_is_deleted_is_read_and_compacted_next(two_days, monkeypatch):
    path, save = lines_of(two_days.log)[0], log_days.Manifest.save
    late = a_line("late", path)

    def save_slowly(manifest, folder):
        save(manifest, folder)
        path.open("a").write(late)

    with monkeypatch.context() as patched:
        patched.setattr(log_days.Manifest, "save", save_slowly)
        compact(two_days.log, KEEP, two_days.now)
    assert len(ids(two_days.log)) == len(set(ids(two_days.log))) == 41
    assert compact(two_days.log, KEEP, two_days.now).records == 1
    assert len(ids(two_days.log)) == 41 and len(lines_of(two_days.log)) == 1


def test_a_line_into_a_file_that_is_just_being_deleted_is_saved(two_days, monkeypatch):
    path = lines_of(two_days.log)[0]
    late, held, unlink = a_line("late", path), path.open("a"), Path.unlink

    def unlink_and_write(self, *arguments, **options):
        unlink(self, *arguments, **options)
        if self == path:
            held.write(late)
            held.flush()

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink_and_write)
        compact(two_days.log, KEEP, two_days.now)
    assert len(ids(two_days.log)) == 41 and "late" in ids(two_days.log)
    assert compact(two_days.log, KEEP, two_days.now).records == 1
    assert len(ids(two_days.log)) == 41


def test_who_reads_meanwhile_sees_every_record_once(two_days):
    expected, seen = ids(two_days.log), []
    thread = threading.Thread(target=lambda: [seen.append(ids(two_days.log)) for _ in range(8)])
    thread.start()
    compact(two_days.log, KEEP, two_days.now)
    thread.join()
    assert seen == [expected] * 8


def test_a_file_that_goes_while_a_day_is_looked_at_hides_no_other(two_days, monkeypatch):
    day, glob = lines_of(two_days.log)[0].parent, Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / "a-gone.jsonl", *glob(self, pattern)])
    assert len(log_days.Sources.of(day).lines) == 2


# Retention, and that it is all of the log


def test_days_that_are_too_old_are_deleted_compacted_or_not(two_days):
    two_days.predict(answers(5, seed=4), hours_ago=24 * 10)
    compact(two_days.log, KEEP, two_days.now)
    two_days.predict(answers(5, seed=5), hours_ago=24 * 9)
    done = compact(two_days.log, LogPolicy(keep_days=8), two_days.now)
    assert done.expired == 2
    assert len(ids(two_days.log)) == 40


def test_all_that_the_service_logs_is_compacted(tmp_path):
    write_tiny_package(tmp_path / "package")
    classifier, log = OnnxClassifier(tmp_path / "package"), PredictionLog(tmp_path / "log")
    shadow = Shadow(classifier, "challenger", log)
    predictor = Predictor(classifier, "v1-00000000", log, max_pixels=10**6, shadow=shadow)
    faces = np.random.default_rng(0).integers(0, 256, (4, 48, 48), np.uint8)
    answered = predictor.predict([encoded(face) for face in faces])
    shadow_logged = time.monotonic() + 60
    while not lines_of(tmp_path / "log", "shadow") and time.monotonic() < shadow_logged:
        time.sleep(0.01)
    log.feedback({"id": answered[0]["id"], "time": "2026-01-31T12:00:00.000Z", "emotion": "sad"})
    for kind in ("predictions", "feedback", "shadow"):
        (path,) = lines_of(tmp_path / "log", kind)
        record = json.loads(path.read_text().splitlines()[0])
        assert list(record) == list(COLUMNS[kind]), f"{kind}: what is not in COLUMNS would be lost"
    tomorrow = pd.Timestamp.now("UTC").to_pydatetime() + timedelta(days=2)
    agreed = [agreement.table() for agreement in read_agreements(tmp_path / "log")]
    assert compact(tmp_path / "log", KEEP, tomorrow).records == 4 + 4 + 1
    assert [agreement.table() for agreement in read_agreements(tmp_path / "log")] == agreed
    (part,) = parts_of(tmp_path / "log")
    assert set(pq.read_table(part)["id"].to_pylist()) == {answer["id"] for answer in answered}
    nothing = read_log(tmp_path / "log", lambda db: db.execute("SELECT count(*) FROM shadow").fetchone())
    assert nothing == (4,)
