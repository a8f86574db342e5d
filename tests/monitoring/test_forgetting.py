"""One prediction leaves the log for good, whoever writes to it meanwhile."""

import subprocess
import sys
import threading
from datetime import timedelta

import pyarrow.parquet as pq
import pytest

from ferops.monitoring import forgetting
from ferops.monitoring.compaction import compact
from ferops.monitoring.forgetting import UnknownPredictionError, forget
from ferops.monitoring.policy import LogPolicy
from ferops.serving.log_reader import read_feedback, read_predictions
from ferops.serving.prediction_log import PredictionLog, timestamp
from ferops.serving.shadow import read_agreements
from tiny_log import answers

KEEP = LogPolicy(keep_days=90)


def everywhere(folder, name):
    """Files below a folder that hold an id, in whatever form."""
    parts = [path for path in folder.rglob("*.parquet") if name in pq.read_table(path)["id"].to_pylist()]
    others = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    return parts + [path for path in others if name.encode() in path.read_bytes()]


@pytest.fixture
def logged(workplace):
    """30 predictions of yesterday and 10 of today, with feedback and a challenger's word on some of each."""
    for rows, hours_ago in ((answers(30, seed=1), 20), (answers(10, seed=2), 1)):
        workplace.predict(rows, hours_ago=hours_ago)
        workplace.feedback(rows.iloc[:5])
        time = workplace.now - timedelta(hours=hours_ago)
        said = {"label": "happy", "probabilities": [1, 0], "challenger_label": "sad"}
        said |= {"challenger_version": "c", "challenger_probabilities": [0, 1]}
        lines = [{"id": i, "time": timestamp(time), "model_version": "m", **said} for i in rows["id"][:5]]
        workplace._append("shadow", time, lines)
    return workplace


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("name", ["1-3", "2-3"])
def test_a_forgotten_prediction_is_in_no_file_and_all_others_are_as_they_were(logged, compacted, name):
    log = logged.log
    if compacted:
        compact(log, KEEP, logged.now)
    before = read_predictions(log)
    done = forget(log, name, logged.now)
    assert done.records == {"predictions": 1, "feedback": 1, "shadow": 1}
    assert everywhere(log, name) == []
    after = read_predictions(log)
    assert set(before["id"]) - set(after["id"]) == {name} and len(after) == 39
    assert after.attrs["torn_lines"] == 0
    assert (len(read_feedback(log)), read_agreements(log)[0].images) == (9, 9)
    assert logged.window().usable == 39
    compact(log, KEEP, logged.now)
    assert len(read_predictions(log)) == 39


def test_what_nobody_knows_cannot_be_forgotten(logged):
    with pytest.raises(UnknownPredictionError, match="holds no prediction 9-9"):
        forget(logged.log, "9-9")
    assert not (logged.log / "forgotten").exists()


def test_to_forget_twice_is_no_error(logged):
    forget(logged.log, "1-3", logged.now)
    assert "before" in forget(logged.log, "1-3", logged.now).sentence()


def test_words_about_a_forgotten_prediction_that_come_later_are_not_read_and_not_kept(logged):
    forget(logged.log, "1-3", logged.now)
    logged.feedback(answers(30, seed=1).iloc[3:4])
    assert "1-3" not in set(read_feedback(logged.log)["id"])
    logged.now += timedelta(days=1)
    compact(logged.log, KEEP, logged.now)
    assert everywhere(logged.log, "1-3") == []


def test_an_interrupted_forgetting_is_hidden_at_once_and_finished_by_compaction(logged, monkeypatch):
    compact(logged.log, KEEP, logged.now)
    with monkeypatch.context() as patched:
        patched.setattr(forgetting, "_erase", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            forget(logged.log, "1-3", logged.now)
    assert "1-3" not in set(read_predictions(logged.log)["id"])
    assert everywhere(logged.log, "1-3") != []
    assert compact(logged.log, KEEP, logged.now).forgotten == 1
    assert everywhere(logged.log, "1-3") == []


def test_a_service_writes_on_into_the_file_in_which_is_forgotten(tmp_path):
    log = PredictionLog(tmp_path)

    def record(number):
        said = {"label": "happy", "confidence": 0.4, "probabilities": [0.4] * 7, "embedding": None}
        return {"id": f"{number:032x}", "time": timestamp(), "model_version": "1", **said, "descriptors": {}}

    log.predictions([record(n) for n in range(50)])
    stop, written = threading.Event(), []

    def serve():
        while not stop.is_set():
            written.append(record(1000 + len(written)))
            assert log.predictions(written[-1:])

    thread = threading.Thread(target=serve)
    thread.start()
    for number in (0, 7, 49):
        forget(tmp_path, f"{number:032x}")
    stop.set()
    thread.join()
    left = set(read_predictions(tmp_path)["id"])
    assert left == {f"{n:032x}" for n in range(50) if n not in (0, 7, 49)} | {r["id"] for r in written}
    assert len(list((tmp_path / "predictions").rglob("*.jsonl"))) == 1
    assert all(everywhere(tmp_path, f"{n:032x}") == [] for n in (0, 7, 49))


def test_reports_hold_no_id(logged):
    rows = answers(150, seed=3)
    logged.predict(rows.assign(id=["f0" * 13 + name for name in rows["id"].str.zfill(6)]))
    logged.monitor()
    assert everywhere(logged.log, "f0" * 13) != []
    assert everywhere(logged.monitoring / "reports", "f0" * 13) == []


def test_on_the_command_line_an_unknown_prediction_is_one_sentence_and_a_failure(tmp_path):
    command = [sys.executable, "-m", "ferops.cli", "forget", "0" * 32]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: predictions holds no prediction 000")
