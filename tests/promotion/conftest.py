"""A registry of one's own for each test: MLflow's database, BentoML's store, the pointer."""

import sqlite3

import mlflow
import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from registry_line import Line


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Making MLflow's tables takes seconds: once is enough."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    mlflow.MlflowClient().search_experiments(max_results=1)
    return path


@pytest.fixture
def new_database(tmp_path, monkeypatch, empty_database):
    def make():
        path = tmp_path / "mlflow.db"
        path.unlink(missing_ok=True)
        with sqlite3.connect(empty_database) as source, sqlite3.connect(tmp_path / "next.db") as target:
            source.backup(target)
        (tmp_path / "next.db").rename(tmp_path / f"{path.stem}-{make.count}.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/{path.stem}-{make.count}.db")
        make.count += 1

    make.count = 0
    return make


@pytest.fixture
def line(tmp_path, monkeypatch, new_database):
    monkeypatch.chdir(tmp_path)
    new_database()
    (tmp_path / "bento").mkdir()
    BentoMLContainer.model_store.set(ModelStore(tmp_path / "bento"))
    yield Line(tmp_path)
    BentoMLContainer.model_store.reset()
