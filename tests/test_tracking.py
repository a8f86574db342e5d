"""MLflow runs are continued, never lost, and end in the state they deserve."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ferops import tracking


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Callable[[Path], str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_mlflow(tmp_path))


def test_a_run_is_continued_by_its_id() -> None:
    with tracking.run("first") as run_id:
        tracking.connect().log_metric("accuracy", 0.5)
    born = tracking.connect().get_run(run_id).data.tags["params_sha256"]
    Path("params.yaml").write_text("changed: since\n")
    with tracking.run("again", run_id=run_id) as same:
        tracking.connect().log_metric("ece", 0.1)
    assert same == run_id
    run = tracking.connect().get_run(run_id)
    assert run.data.metrics == {"accuracy": 0.5, "ece": 0.1}
    assert run.data.tags["params_sha256"] == born
    assert run.info.status == "FINISHED"


def test_a_run_that_the_store_lost_becomes_a_new_one_that_says_so() -> None:
    with tracking.run("evaluation", run_id="0" * 32) as run_id:
        pass
    assert run_id != "0" * 32
    assert tracking.connect().get_run(run_id).data.tags["ferops.continues"] == "0" * 32


def test_a_store_that_cannot_be_asked_is_named_and_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = tracking.connect()

    def unreachable(*_: object) -> None:
        raise mlflow.exceptions.MlflowException("no route to host")

    with monkeypatch.context() as patch, pytest.raises(tracking.StoreError, match="no route to host"):
        patch.setattr(mlflow, "get_run", unreachable)
        with tracking.run("evaluation", run_id="0" * 32):
            pass
    assert tracking.connect().search_runs(search_all_experiments=True).empty

    (tmp_path / "damaged.db").write_bytes(b"no database" * 99)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/damaged.db")
    with pytest.raises(tracking.StoreError, match=r"damaged\.db cannot be used.*not a database"):
        tracking.close_abandoned("0" * 32)


def test_an_error_ends_the_run_as_failed() -> None:
    with pytest.raises(RuntimeError), tracking.run("doomed") as run_id:
        raise RuntimeError
    assert tracking.connect().get_run(run_id).info.status == "FAILED"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, tracking.Interrupted])
def test_a_run_that_is_stopped_is_killed_not_failed(stop: type[BaseException]) -> None:
    with pytest.raises(stop), tracking.run("stopped") as run_id:
        raise stop
    assert tracking.connect().get_run(run_id).info.status == "KILLED"


def test_what_fails_later_does_not_change_the_outcome_of_a_finished_run() -> None:
    with tracking.run("training") as run_id:
        pass
    store = tracking.connect()
    with pytest.raises(RuntimeError), tracking.run("evaluation", run_id=run_id):
        assert store.get_run(run_id).info.status == "FINISHED"  # also should this process be killed here
        store.log_metric("accuracy", 0.5)
        raise RuntimeError
    run = store.get_run(run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"accuracy": 0.5})


def test_an_unfinished_run_that_is_resumed_ends_with_its_work() -> None:
    with pytest.raises(KeyboardInterrupt), tracking.run("training", attempt="a") as run_id:
        raise KeyboardInterrupt
    with tracking.run("another", attempt="b") as other:
        assert other != run_id
    with tracking.run("training", attempt="a") as resumed:
        assert resumed == run_id
        assert tracking.connect().get_run(run_id).info.status == "RUNNING"
    assert tracking.connect().get_run(run_id).info.status == "FINISHED"


def test_a_process_killed_as_soon_as_its_run_exists_leaves_no_second_run_and_none_running() -> None:
    dies = (
        "import os, signal, mlflow; from ferops import tracking\n"
        "start = mlflow.start_run\n"
        "mlflow.start_run = lambda **asked: (start(**asked), os.kill(os.getpid(), signal.SIGKILL))\n"
        "with tracking.run('training', attempt='a'): pass"
    )
    assert subprocess.run([sys.executable, "-c", dies]).returncode == -signal.SIGKILL
    (left,) = tracking.connect().search_runs(search_all_experiments=True, output_format="list")
    assert left.info.status == "RUNNING"
    tracking.close_abandoned("a")
    assert tracking.connect().get_run(left.info.run_id).info.status == "KILLED"
    with tracking.run("training", attempt="a") as run_id:
        assert run_id == left.info.run_id
    tracking.close_abandoned("never begun")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_told_to_end_while_its_run_is_made_leaves_none_that_claims_to_have_ended_well(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    mlflow = tracking.connect()
    start, create = mlflow.start_run, mlflow.MlflowClient().create_run

    def stopped(**asked: Any) -> None:
        if when == "after":
            start(**asked)
        else:  # made, but not MLflow's open run yet
            create(asked["experiment_id"], tags=asked["tags"])
        raise tracking.Interrupted

    monkeypatch.setattr(mlflow, "start_run", stopped)
    with pytest.raises(tracking.Interrupted), tracking.run("training", attempt="a"):
        pass
    (left,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert left.info.status == "KILLED"
    assert mlflow.active_run() is None


def test_a_run_of_the_callers_own_is_left_alone() -> None:
    mlflow = tracking.connect()
    with mlflow.start_run() as theirs:
        with pytest.raises(tracking.StoreError, match="already active"), tracking.run("training"):
            pass
        assert mlflow.active_run().info.run_id == theirs.info.run_id
        assert mlflow.get_run(theirs.info.run_id).info.status == "RUNNING"


def test_sigterm_raises_where_the_work_is() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(tracking.Interrupted), tracking.sigterm_interrupts():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_local_store_is_used_when_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "mlflow.db").unlink()
    with tracking.run("here") as run_id:
        (tmp_path / "note.txt").write_text("x")
        tracking.connect().log_artifact("note.txt")
    assert (tmp_path / "mlflow.db").exists()
    assert list((tmp_path / "mlartifacts").rglob(f"{run_id}/artifacts/note.txt"))
    assert not (tmp_path / "mlruns").exists()


def test_lineage_names_the_commit_and_whether_code_differs(tmp_path: Path) -> None:
    assert tracking.git_commit() is None
    for command in (
        ["init", "-q"],
        ["-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", *command], check=True)
    clean = tracking.git_commit()
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "code.py").write_text("1")
    subprocess.run(["git", "add", "code.py"], check=True)
    assert tracking.git_commit() == f"{clean}-dirty"
