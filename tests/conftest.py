"""Fixtures that every room shares."""

import contextlib
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ferops.data.ingest import ingest
from ferops.data.store import Dataset
from ferops.settings import DataSettings, SyntheticSettings
from repositories import make_repository

# Started in the background, a shell hands down an ignored SIGINT, and every server that a test interrupts
# would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes begin first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """A function that puts an MLflow store without a run into a folder, as `mlflow.db`; its address.

    MLflow takes seconds to make its tables, so they are made once, and copied.
    """
    import mlflow

    made = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)

    def copy(folder: Path) -> str:
        with (
            contextlib.closing(sqlite3.connect(made)) as source,
            contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as target,
        ):
            source.backup(target)
        return f"sqlite:///{folder}/mlflow.db"

    return copy


@pytest.fixture(scope="session")
def first_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository with this project's parameters, made once; `repository` is a copy."""
    return make_repository(tmp_path_factory.mktemp("repository") / "repository")


@pytest.fixture
def repository(first_repository: Path, tmp_path: Path) -> Path:
    """A git and DVC repository of the test's own, with this project's parameters."""
    return Path(shutil.copytree(first_repository, tmp_path / "repository"))


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """420 synthetic faces (210 train, 105 validation, 105 test), ingested once. Read it, never write.

    The folder is `tiny_dataset.folder`.
    """
    folder = tmp_path_factory.mktemp("tiny") / "dataset"
    synthetic = SyntheticSettings(train=210, validation=105, test=105, noise=0.3)
    ingest(DataSettings(synthetic=synthetic, rows_per_shard=100), out=folder)
    return Dataset.open(folder)
