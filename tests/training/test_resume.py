"""A training that is killed goes on where it was, and ends as one that nobody touched."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ferops import tracking
from ferops.data.store import Dataset
from ferops.models import patt_lite
from ferops.settings import Settings
from ferops.training.checkpoint import Checkpoint, CheckpointError, abandoned

#: Everything with a state: dropout, moments, schedule, averaged weights, patience, image size, draws.
RECIPE = {
    "description": "seconds",
    "image_size": 96,
    "start_image_size": 80,
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
        "early_stop_patience": 3,
        "unfreeze_layers": "all",
        "train_batch_norm": True,
    },
}

TRAIN = """
import json, sys
from pathlib import Path
from ferops.settings import Settings
from ferops.training.train import train
settings = Settings.model_validate(json.loads(sys.argv[1]))
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
def unbroken(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
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


def test_the_same_seed_gives_the_same_result(unbroken: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    finish(start(tmp_path, tiny_dataset))
    assert_same(tmp_path, unbroken, tiny_dataset)


def test_a_training_killed_twice_ends_like_an_unbroken_one_in_one_run(
    unbroken: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stop, after in (
        (signal.SIGKILL, "frozen epoch 1/2  loss"),
        (signal.SIGTERM, "fine_tune epoch 2/3  loss"),
    ):
        process = start(tmp_path, tiny_dataset)
        wait_for(process, after)
        time.sleep(np.random.default_rng().uniform(0.0, 1.0))  # at any moment
        process.send_signal(stop)
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert not (tmp_path / "model").exists()
        # A kill leaves nobody to say so; an orderly end is said at once.
        assert statuses(tmp_path, monkeypatch) == ["RUNNING" if stop == signal.SIGKILL else "KILLED"]

    said = finish(start(tmp_path, tiny_dataset))
    assert "frozen" not in said  # what was done was not done again
    assert_same(tmp_path, unbroken, tiny_dataset)
    assert statuses(tmp_path, monkeypatch) == ["FINISHED"]
    run = tracking.connect().search_runs(search_all_experiments=True).iloc[0]
    history = tracking.connect().MlflowClient().get_metric_history(run["run_id"], "train_loss")
    assert sorted({metric.step for metric in history}) == [1, 2, 3, 4, 5]
    assert json.loads((tmp_path / "model" / "card.json").read_text())["mlflow_run_id"] == run["run_id"]
    assert not list((tmp_path / "checkpoints").rglob("state.npz"))  # nothing is left to go on with


def test_a_full_disk_stops_training_with_advice_and_keeps_the_checkpoint(
    unbroken: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small_files() -> None:  # no file above 4 MB: the checkpoint is larger, MLflow's database is not
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))

    process = start(tmp_path, tiny_dataset, small_files)
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "make room, then train again" in err
    assert not list((tmp_path / "checkpoints").rglob("*.tmp-*"))
    assert statuses(tmp_path, monkeypatch) == ["FAILED"]
    finish(start(tmp_path, tiny_dataset))
    assert_same(tmp_path, unbroken, tiny_dataset)
    assert statuses(tmp_path, monkeypatch) == ["FINISHED"]


def test_two_trainings_of_the_same_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with Checkpoint.claim(tmp_path, "a" * 64) as first:
        first.belongs_to("run-1")
        with pytest.raises(CheckpointError, match="another process"), Checkpoint.claim(tmp_path, "a" * 64):
            pass
        with Checkpoint.claim(tmp_path, "b" * 64) as other:
            assert other.run_id is None
        assert abandoned(tmp_path) == []
    assert abandoned(tmp_path) == ["run-1"]


def test_a_killed_training_that_nobody_resumes_is_not_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    mlflow = tracking.connect()
    client = mlflow.MlflowClient()
    left = client.create_run(client.create_experiment("left")).info.run_id
    tracking.close_abandoned([left, "no such run"])
    assert client.get_run(left).info.status == "KILLED"
