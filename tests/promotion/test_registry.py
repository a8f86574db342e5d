import importlib
import shutil
import sqlite3

import bentoml
import mlflow
import numpy as np
import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from ferops import files, tracking
from ferops.models.onnx import BrokenPackageError, OnnxClassifier
from ferops.promotion import registry
from ferops.promotion.champion import Champion, NoChampionError, load_champion
from ferops.promotion.registry import RegistryError, StaleDecisionError, promote
from tiny_package import tiny_onnx, write_tiny_package


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """Making MLflow's tables takes seconds: once is enough."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    mlflow.MlflowClient().search_experiments(max_results=1)
    return path


class Line:
    """A workspace with one packaged candidate, and what a person does in it."""

    def __init__(self, folder):
        self.folder = folder
        self.packages = folder / "packages"
        self.registry = folder / "registry"

    def train(self, seed):
        shutil.rmtree(self.packages, ignore_errors=True)
        return write_tiny_package(self.packages / "patt_lite", seed=seed)

    def decide(self, decision="promote", against="current", **more):
        champion = load_champion(self.registry)
        if against == "current":
            against = champion.version if champion else None
        files.write_json(
            self.folder / "gate.json",
            {
                "decision": decision,
                "candidate": "patt_lite",
                "decided_against_version": against,
                "reason": "every rule passed" if decision == "promote" else "min_recall failed",
                **more,
            },
        )

    def promote(self):
        return promote(
            self.folder / "gate.json", self.packages, self.registry, self.folder / "promotion.json"
        )

    def train_and_promote(self, seed):
        self.train(seed)
        self.decide()
        return self.promote()

    def champion(self):
        return Champion.load(self.registry)


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


def aliases():
    tracking.connect()
    found = mlflow.MlflowClient().get_registered_model(tracking.REGISTERED_MODEL).aliases
    return {alias: str(version) for alias, version in found.items()}


def versions():
    tracking.connect()
    return mlflow.MlflowClient().search_model_versions(f"name='{tracking.REGISTERED_MODEL}'")


def test_the_winner_is_found_in_every_registry(line):
    package = line.train(seed=0)
    line.decide()
    outcome = line.promote()
    champion = line.champion()
    digest = files.sha256(package)

    assert outcome.promoted and outcome.version == "1"
    assert files.read_json(line.folder / "promotion.json")["promoted"] is True
    assert champion.package_sha256 == digest
    assert champion.bento_tag == f"fer-classifier:v1-{digest[:8]}"
    assert champion.synthetic is True
    assert OnnxClassifier(champion.folder()).self_check() < 1e-6
    assert bentoml.models.get(champion.bento_tag).info.labels["mlflow_version"] == "1"
    assert aliases() == {"champion": "1"}
    (version,) = versions()
    assert version.run_id == champion.mlflow_run_id
    assert version.tags["package_sha256"] == digest
    assert version.tags["dataset_sha256"] == "d" * 64
    assert version.tags["git_commit"] == "c" * 40
    assert version.tags["gate"] == "promote"
    assert version.tags["synthetic"] == "true"


def test_the_registered_model_answers_through_mlflow(line):
    line.train_and_promote(seed=0)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    tracking.connect()
    served = mlflow.pyfunc.load_model("models:/fer-classifier@champion")
    np.testing.assert_allclose(
        served.predict({"images": images})["probabilities"],
        OnnxClassifier(line.champion().folder()).predict(images).probabilities,
        atol=1e-6,
    )


def test_promoting_the_same_package_again_changes_nothing(line):
    line.train_and_promote(seed=0)
    before = line.champion()
    again = line.promote()
    assert again.promoted and not again.changed
    assert line.champion() == before
    assert len(versions()) == 1


def test_a_better_candidate_takes_over_and_an_older_package_can_come_back(line):
    first = line.train_and_promote(seed=0)
    assert line.train_and_promote(seed=1).version == "2"
    assert aliases() == {"champion": "2"}
    back = line.train_and_promote(seed=0)
    assert back.version == first.version == "1"
    assert len(versions()) == 2


def test_a_refused_candidate_leaves_the_champion_and_becomes_challenger(line):
    line.train_and_promote(seed=0)
    before = line.champion()
    line.train(seed=1)
    line.decide("keep")
    outcome = line.promote()
    assert not outcome.promoted
    assert "min_recall failed" in outcome.reason
    assert outcome.version == before.version
    assert outcome.challenger_version == "2"
    assert line.champion() == before
    assert aliases() == {"champion": "1", "challenger": "2"}
    line.promote()
    assert len(versions()) == 2


def test_without_any_champion_a_refusal_leaves_none(line):
    line.train(seed=0)
    line.decide("keep")
    assert line.promote().version is None
    with pytest.raises(NoChampionError, match="make run"):
        line.champion()


def test_a_candidate_that_was_not_packaged_is_no_error_when_refused(line):
    line.decide("keep", candidate="vit")
    assert not line.promote().promoted


def test_a_decision_against_an_older_champion_is_refused(line):
    line.train_and_promote(seed=0)
    line.train_and_promote(seed=1)
    line.train(seed=2)
    line.decide(against="1")
    with pytest.raises(StaleDecisionError, match=r"version 1, but .* version 2: run the gate again"):
        line.promote()
    assert line.champion().version == "2"


def test_a_package_that_the_gate_did_not_judge_is_refused(line):
    line.train(seed=0)
    line.decide(package_sha256="0" * 64)
    with pytest.raises(RegistryError, match="not what the gate judged"):
        line.promote()


def test_a_winner_without_package_is_an_error(line):
    line.decide(candidate="vit")
    with pytest.raises(RegistryError, match="is no package"):
        line.promote()


def test_a_package_that_answers_otherwise_is_not_promoted(line):
    tiny_onnx(line.train(seed=0) / "model.onnx", seed=1)
    line.decide()
    with pytest.raises(BrokenPackageError):
        line.promote()
    assert load_champion(line.registry) is None


class Killed(BaseException):
    pass


def killed_after(monkeypatch, owner, name, times=1):
    """The process dies right after the `times`-th call of a step."""
    step, calls = getattr(owner, name), []

    def dies(*args, **kwargs):
        result = step(*args, **kwargs)
        calls.append(name)
        if len(calls) == times:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, dies)


STEPS = [
    (mlflow.MlflowClient, "create_registered_model", 1),
    (importlib.import_module("mlflow.onnx"), "log_model", 1),
    (mlflow.MlflowClient, "create_model_version", 1),
    (mlflow.MlflowClient, "set_registered_model_alias", 1),
    (shutil, "copytree", 1),  # into BentoML's temporary folder
    (registry, "_store", 1),
    (mlflow.MlflowClient, "set_registered_model_alias", 2),
    (mlflow.MlflowClient, "delete_registered_model_alias", 1),
    (Champion, "save", 1),
]


@pytest.mark.parametrize(("owner", "name", "times"), STEPS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_killed_promotion_is_finished_by_the_next(line, monkeypatch, owner, name, times):
    line.train(seed=0)
    line.decide()
    with monkeypatch.context() as patch:
        killed_after(patch, owner, name, times)
        with pytest.raises(Killed):
            line.promote()
    assert line.promote().promoted
    assert line.champion().version == "1"
    assert len(versions()) == 1
    assert aliases() == {"champion": "1"}
    assert OnnxClassifier(line.champion().folder()).self_check() < 1e-6


def test_a_model_that_was_half_copied_into_the_store_is_copied_again(line):
    line.train_and_promote(seed=0)
    folder = line.champion().folder()
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:100])
    (folder / "recorded.npz").unlink()
    assert line.promote().changed
    assert OnnxClassifier(line.champion().folder()).self_check() < 1e-6


@pytest.mark.parametrize("decision", ["promote", "keep"])
def test_a_lost_model_store_is_filled_again(line, decision):
    line.train_and_promote(seed=0)
    shutil.rmtree(line.folder / "bento" / "fer-classifier")
    with pytest.raises(NoChampionError, match="ferops promote"):
        line.champion().folder()
    line.decide(decision)
    assert line.promote().changed
    assert OnnxClassifier(line.champion().folder()).self_check() < 1e-6


@pytest.mark.parametrize("packages", ["there", "gone"])
def test_a_lost_mlflow_database_is_filled_again_under_the_same_version(line, new_database, packages):
    for seed in (0, 1, 2):
        line.train_and_promote(seed)
    before = line.champion()
    new_database()
    if packages == "gone":
        line.train(seed=7)
        line.decide("keep")
    outcome = line.promote()
    assert outcome.changed
    after = line.champion()
    assert (after.version, after.bento_tag) == ("3", before.bento_tag)
    assert aliases()["champion"] == "3"
    if packages == "gone":
        assert outcome.challenger_version == "4"


def test_a_lost_pointer_is_written_again(line):
    line.train_and_promote(seed=0)
    line.train_and_promote(seed=1)
    before = line.champion()
    shutil.rmtree(line.registry)
    line.promote()  # the decision still reads "against version 1"
    assert line.champion().version == before.version == "2"
    assert line.champion().bento_tag == before.bento_tag
    assert len(versions()) == 2


def test_a_champion_that_is_lost_everywhere_is_an_error_that_says_so(line):
    line.train_and_promote(seed=0)
    shutil.rmtree(line.folder / "bento" / "fer-classifier")
    line.train(seed=1)
    line.decide("keep")
    with pytest.raises(RegistryError, match="is lost"):
        line.promote()
