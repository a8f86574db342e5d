"""A training that is killed goes on where it was, and ends as one that nobody touched."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ferops import tracking
from ferops.data.store import Dataset
from ferops.models import patt_lite
from ferops.models.classifier import Card, TrainingData
from ferops.settings import Settings
from ferops.training import checkpoint
from ferops.training import train as training
from ferops.training.callbacks import Best
from ferops.training.checkpoint import Checkpoint, CheckpointError, State, tidy
from ferops.training.train import train

pytestmark = pytest.mark.long

#: Everything with a state: dropout, moments, schedule, averaged weights, batch norms, patience, draws. Few
#: layers train: what takes the time is making their graph.
RECIPE = {
    "description": "seconds",
    "image_size": 80,
    "backbone": "none",
    "batch_size": 35,
    "ema_momentum": 0.5,
    "precision": "float32",
    "augmentation": {"flip": True, "erasing": 0.5, "mixup": 0.2},
    "frozen": {"epochs": 2, "learning_rate": 1e-3, "schedule": "plateau", "plateau_patience": 1},
    "fine_tune": {
        "epochs": 3,
        "learning_rate": 2e-3,
        "optimizer": "adamw",
        "schedule": "cosine",
        "unfreeze_layers": 6,
        "train_batch_norm": True,
    },
}

TRAIN = """
import json, sys
from pathlib import Path
from ferops.settings import Settings
from ferops.tracking import sigterm_interrupts
from ferops.training.train import train
settings = Settings.model_validate(json.loads(sys.argv[1]))
with sigterm_interrupts():
    train(settings, Path(sys.argv[2]), Path("model"), Path("curves.csv"), Path("checkpoints"))
"""


def start(folder: Path, dataset: Dataset, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    settings = Settings.model_validate({"train": {"recipe": "tiny"}, "recipes": {"tiny": RECIPE}})
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, settings.model_dump_json(), str(dataset.folder)],
        cwd=folder,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} never came:\n{''.join(seen[-30:])}")


def finish(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    return err


def curves(folder: Path) -> list[dict[str, str]]:
    with (folder / "curves.csv").open() as file:
        return list(csv.DictReader(file))


def statuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.chdir(folder)
    return list(tracking.connect().search_runs(search_all_experiments=True)["status"])


@pytest.fixture(scope="module")
def unbroken(
    tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Callable[[Path], str]
) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    empty_mlflow(folder)
    finish(start(folder, tiny_dataset))
    return folder


def assert_same(folder: Path, other: Path, dataset: Dataset) -> None:
    """The same curves and the same answers, to float tolerance."""
    ours, theirs = curves(folder), curves(other)
    assert [row["stage"] for row in ours] == [row["stage"] for row in theirs]
    for one, two in zip(ours, theirs, strict=True):
        for key in (
            "train_loss",
            "validation_loss",
            "train_accuracy",
            "validation_accuracy",
            "learning_rate",
        ):
            assert float(one[key]) == pytest.approx(float(two[key]), rel=1e-4, abs=1e-5), (one["epoch"], key)
    images = dataset.images("validation")
    answers = [patt_lite.load(place / "model").predict(images).probabilities for place in (folder, other)]
    np.testing.assert_allclose(*answers, atol=1e-3)


@pytest.fixture
def folder(tmp_path: Path, empty_mlflow: Callable[[Path], str]) -> Path:
    """For a training of its own."""
    empty_mlflow(tmp_path)
    return tmp_path


def test_the_same_seed_gives_the_same_result_in_one_run_even_to_a_training_that_is_killed_twice(
    unbroken: Path, tiny_dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stop, after in (
        (signal.SIGKILL, "frozen epoch 1/2  loss"),
        (signal.SIGTERM, "fine_tune epoch 1/3  loss"),
    ):
        process = start(folder, tiny_dataset)
        wait_for(process, after)
        process.send_signal(stop)  # within the next epoch
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert not (folder / "model").exists()
        # A kill leaves nobody to say so; an orderly end is said at once.
        assert statuses(folder, monkeypatch) == ["RUNNING" if stop == signal.SIGKILL else "KILLED"]

    said = finish(start(folder, tiny_dataset))
    assert "frozen" not in said  # what was done was not done again
    assert_same(folder, unbroken, tiny_dataset)
    assert statuses(folder, monkeypatch) == ["FINISHED"]
    run = tracking.connect().search_runs(search_all_experiments=True).iloc[0]
    history = tracking.connect().MlflowClient().get_metric_history(run["run_id"], "train_loss")
    by_step = {metric.step: metric.value for metric in history}  # told again after a kill: the same
    assert len({(metric.step, metric.value) for metric in history}) == len(by_step)
    assert sorted(by_step) == [1, 2, 3, 4, 5]
    assert json.loads((folder / "model" / "card.json").read_text())["mlflow_run_id"] == run["run_id"]


def test_a_finished_training_is_kept_until_the_next_and_trained_anew_where_its_outcome_is_in_place(
    tmp_path: Path,
) -> None:
    state = State(0, 1, False, [], Best((0.5, -1.0), [np.zeros(3)], 1, 80), [], [], {})
    closed: list[str] = []
    for name in "ab":
        with Checkpoint.claim(tmp_path, name * 64) as one:
            tidy(tmp_path, closed.append)
            one.begin({})
            one.save(state)
            assert one.finished is None
            one.finish(f"run {name}")
            assert (one.finished, one.load() is not None) == (f"run {name}", True)
    assert [path.parent.name[0] for path in tmp_path.rglob("state.npz")] == ["b"]
    assert closed == []  # its run has ended
    card = Card("patt_lite", "patt_lite", 48, 1, TrainingData(known=False), mlflow_run_id="run b")
    with Checkpoint.claim(tmp_path, "b" * 64) as one:
        attempt = one.begin({})["attempt"]
        training._asked_again(one, tmp_path / "elsewhere")
        assert (one.load() is not None, one.finished) == (True, None)
    tidy(tmp_path, closed.append)  # killed while it wrote its outcome again: that is still to be done
    assert (closed, one.load() is not None) == ([attempt], True)
    with Checkpoint.claim(tmp_path, "b" * 64) as one:
        one.finish("run b")
        card.save(tmp_path / "out" / "card.json")
        training._asked_again(one, tmp_path / "out")
        assert (one.load(), one.finished) == (None, None)


def test_a_checkpoint_that_may_not_be_read_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with Checkpoint.claim(tmp_path, "a" * 64) as one:
        one.save(State(0, 1, False, [], Best((0.5, -1.0), [np.zeros(3)], 1, 80), [], [], {}))
        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(CheckpointError, match=r"state\.npz cannot be read .*Permission denied"):
            one.load()


@pytest.mark.parametrize("name", ["state.npz", "run.json"])
def test_a_damaged_checkpoint_is_named_and_training_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with Checkpoint.claim(tmp_path, "a" * 64) as one:
        best = Best((0.5, -1.0), [np.zeros(9000)], 1, 80)
        one.save(State(0, 1, False, [], best, [], [], {}))
        one.begin({})
        assert one.load() is not None
        whole = (one.folder / name).read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], whole.replace(bytes(64), b"\x01" * 64)):
            if damaged == whole:
                continue
            (one.folder / name).write_bytes(damaged)
            assert (one.load() if name == "state.npz" else one.origin) is None
            assert name in capsys.readouterr().err
    tidy(tmp_path, lambda run_id: None)  # another training looks after this one


def test_one_changed_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    best = Best((0.5, -1.0), [np.arange(9.0)], 1, 80)
    state = State(0, 1, False, [], best, [np.arange(3)], [np.arange(4), np.arange(5.0)], {})
    with Checkpoint.claim(tmp_path, "a" * 64) as one:
        one.save(state)
        whole = (one.folder / "state.npz").read_bytes()
        for place in range(0, len(whole), 3):
            damaged = bytearray(whole)
            damaged[place] ^= 0xFF
            (one.folder / "state.npz").write_bytes(damaged)
            if (read := one.load()) is not None:
                assert (read.best.score, read.best.epoch) == (state.best.score, state.best.epoch), place
                for group in ("variables", "optimizer"):
                    for held, saved in zip(getattr(read, group), getattr(state, group), strict=True):
                        np.testing.assert_array_equal(held, saved, err_msg=f"byte {place}")


def test_a_full_disk_stops_training_with_advice(
    tiny_dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small_files() -> None:  # no file above 4 MB: the checkpoint is larger, MLflow's database is not
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))

    process = start(folder, tiny_dataset, small_files)
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "make room, then train again" in err
    assert not list((folder / "checkpoints").rglob("*.tmp-*"))
    assert statuses(folder, monkeypatch) == ["FAILED"]


def test_two_trainings_of_the_same_do_not_overwrite_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "PATIENCE_SECONDS", 0.1)
    closed: list[str] = []
    with Checkpoint.claim(tmp_path, "a" * 64) as first:
        begun = first.begin({"git_commit": "c0ffee"})
        with pytest.raises(CheckpointError, match="another process"), Checkpoint.claim(tmp_path, "a" * 64):
            pass
        with Checkpoint.claim(tmp_path, "b" * 64) as other:
            assert other.origin is None
            tidy(tmp_path, closed.append)
        assert closed == []
    tidy(tmp_path, closed.append)
    assert closed == [begun["attempt"]]
    with Checkpoint.claim(tmp_path, "a" * 64) as again:  # which can still be resumed
        assert again.begin({"git_commit": "a later one"}) == begun
        assert begun["git_commit"] == "c0ffee"


def test_a_checkpoint_folder_that_cannot_be_written_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(CheckpointError, match="FEROPS_CHECKPOINT_DIR"),
        Checkpoint.claim(tmp_path / "file", "a" * 64),
    ):
        pass

    def full(*_: object) -> None:
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch, Checkpoint.claim(tmp_path, "a" * 64) as one:
        patch.setattr(checkpoint.files, "write_json", full)
        with pytest.raises(CheckpointError, match="make room"):
            one.begin({})


def test_unfinished_trainings_do_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint, "KEPT", 2)
    for age, name in enumerate("abc"):
        with Checkpoint.claim(tmp_path, name * 64) as one:
            one.begin({})
            (one.folder / ".state.npz.tmp-torn").write_bytes(b"by a kill")
            (one.folder / ".best.tmp-torn").mkdir()
            (one.folder / ".best.tmp-torn" / "model.keras").write_bytes(b"by another")
            os.utime(one.folder / "run.json", (age, age))
            if name == "b":
                (one.folder / "best").mkdir()
                (one.folder / "best" / "model.keras").write_bytes(b"of one that diverged")
            if name == "a":  # the first to begin, and the last to finish an epoch
                (one.folder / "state.npz").write_bytes(b"")
    tidy(tmp_path, lambda run_id: None)
    assert sorted(path.parent.name[0] for path in tmp_path.glob("*/run.json")) == ["a", "c"]
    assert [path.parent.name[0] for path in tmp_path.glob("*/state.npz")] == ["a"]
    assert (tmp_path / ("b" * 16) / "best" / "model.keras").exists()  # a message told to start from it
    assert "forgetting an unfinished training" in capsys.readouterr().err
    with Checkpoint.claim(tmp_path, "c" * 64) as one:
        assert not list(one.folder.glob(".*.tmp-*"))


def test_a_killed_training_that_nobody_resumes_is_not_left_running(
    tiny_dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.chdir(folder)
    mlflow = tracking.connect()
    client = mlflow.MlflowClient()
    with Checkpoint.claim(folder / "checkpoints", "a" * 64) as killed:
        attempt = killed.begin({})["attempt"]
    left = client.create_run(client.create_experiment("left"), tags={tracking.ATTEMPT: attempt}).info.run_id
    short = {"frozen": {"epochs": 1, "learning_rate": 1e-3}, "fine_tune": {"epochs": 0, "learning_rate": 1.0}}
    recipe = {**RECIPE, **short}
    settings = Settings.model_validate({"train": {"recipe": "tiny"}, "recipes": {"tiny": recipe}})

    # The store is full at the worst moment: the epoch is saved already, and is not trained again.
    with monkeypatch.context() as full, pytest.raises(tracking.StoreError, match="make room"):
        full.setattr(mlflow, "log_metrics", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        train(settings, tiny_dataset.folder, Path("model"), Path("curves.csv"), Path("checkpoints"))
    assert client.get_run(left).info.status == "KILLED"

    # Then the disk is full when the model is written; and meanwhile somebody gives the recipe another name.
    renamed = Settings.model_validate(
        {"train": {"recipe": "small"}, "recipes": {"small": {**recipe, "description": "the same"}}}
    )
    with monkeypatch.context() as full, pytest.raises(CheckpointError, match="no epoch is repeated"):
        full.setattr(training, "_save", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        train(renamed, tiny_dataset.folder, Path("model"), Path("curves.csv"), Path("checkpoints"))

    card = train(settings, tiny_dataset.folder, Path("model"), Path("curves.csv"), Path("checkpoints"))
    run = client.get_run(card.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert run.data.metrics["validation_accuracy"] == float(curves(folder)[0]["validation_accuracy"])

    # DVC, killed before it notes that the stage is done, throws the outcome away and asks again.
    table, answers = (folder / "curves.csv").read_text(), patt_lite.load(folder / "model").model.get_weights()
    shutil.rmtree(folder / "model")
    (folder / "curves.csv").unlink()
    capsys.readouterr()
    again = train(settings, tiny_dataset.folder, Path("model"), Path("curves.csv"), Path("checkpoints"))
    said = capsys.readouterr().err
    assert "this very training had ended" in said
    assert "epoch 1/1" not in said
    assert again.mlflow_run_id == card.mlflow_run_id
    assert client.get_run(card.mlflow_run_id).info.status == "FINISHED"
    assert (folder / "curves.csv").read_text() == table
    for one, other in zip(patt_lite.load(folder / "model").model.get_weights(), answers, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_training_that_goes_on_in_another_store_has_its_whole_curve_there(
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty_mlflow: Callable[[Path], str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_mlflow(tmp_path))
    monkeypatch.chdir(tmp_path)
    short = {"frozen": {"epochs": 2, "learning_rate": 1e-3}, "fine_tune": {"epochs": 0, "learning_rate": 1.0}}
    settings = Settings.model_validate({"train": {"recipe": "tiny"}, "recipes": {"tiny": RECIPE | short}})
    asked = settings, tiny_dataset.folder, Path("model"), Path("curves.csv"), Path("checkpoints")
    with monkeypatch.context() as full, pytest.raises(CheckpointError, match="no epoch is repeated"):
        full.setattr(training, "_save", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        train(*asked)
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_mlflow(tmp_path / "other"))
    run_id = train(*asked).mlflow_run_id
    told = tracking.connect().MlflowClient().get_metric_history(run_id, "validation_accuracy")
    assert [(one.step, one.value) for one in told] == [
        (int(row["epoch"]), float(row["validation_accuracy"])) for row in curves(tmp_path)
    ]
    assert len(told) == 2
