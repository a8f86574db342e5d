"""A registry of one's own for each test: MLflow's database, BentoML's store, the pointer."""

import itertools

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from registry_line import Line


@pytest.fixture
def new_database(tmp_path, monkeypatch, empty_mlflow):
    """A function that begins MLflow's store anew, each time at another address: MLflow keeps open ones."""
    addresses = itertools.count()

    def make():
        folder = tmp_path / f"mlflow-{next(addresses)}"
        folder.mkdir()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_mlflow(folder))

    return make


@pytest.fixture
def line(tmp_path, monkeypatch, new_database):
    monkeypatch.chdir(tmp_path)
    new_database()
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    (tmp_path / "bento").mkdir()
    BentoMLContainer.model_store.set(ModelStore(tmp_path / "bento"))
    yield Line(tmp_path)
    BentoMLContainer.model_store.reset()
