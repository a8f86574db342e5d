import importlib
import shutil

import bentoml
import mlflow
import numpy as np
import pytest

from ferops import files, tracking
from ferops.models.onnx import BrokenPackageError, OnnxClassifier
from ferops.promotion import registry
from ferops.promotion.champion import Champion, NoChampionError, load_champion
from ferops.promotion.registry import RegistryError, StaleDecisionError
from ferops.promotion.variants import Variants, load_variants
from reduced_precision import write_verdict
from registry_line import Killed, aliases, killed_after, versions
from tiny_package import tiny_onnx


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


def test_a_champion_is_found_though_a_bento_that_brought_a_model_looks_in_its_own_store_alone(line):
    line.train_and_promote(seed=0)
    champion = line.champion()
    (line.folder / "home").mkdir()
    (line.folder / "bento").rename(line.folder / "home" / "models")  # BENTOML_HOME's
    (line.folder / "bento").mkdir()  # the Bento's, which has another model
    assert OnnxClassifier(champion.folder()).self_check() < 1e-6
    (line.folder / "home/models/fer-classifier" / champion.label / "model.yaml").write_text("")
    with pytest.raises(NoChampionError, match="no intact fer-classifier"):
        champion.folder()


def test_a_verdict_on_reduced_precision_lies_beside_the_champion_and_is_no_part_of_it(line):
    package = line.train(seed=0)
    verdicts = write_verdict(line.folder / "variants", package)
    line.decide()
    line.promote()
    champion = line.champion()
    assert load_variants(champion.folder()) == verdicts
    again = line.promote()
    assert (again.changed, line.champion()) == (False, champion)

    later = write_verdict(line.folder / "variants", package, accuracy=0.67)
    line.promote()
    assert load_variants(champion.folder()) == later

    (champion.folder() / "variants.json").write_text("{")  # damaged: written over
    line.promote()
    assert load_variants(champion.folder()) == later

    write_verdict(line.folder / "variants", package, model_sha256="0" * 64)
    line.promote()
    assert load_variants(champion.folder()) == later
    line.train_and_promote(seed=1)
    assert load_variants(line.champion().folder()) == Variants()


@pytest.mark.parametrize("before", ["nothing", "half a promotion", "another version"])
def test_no_worker_finds_a_new_champion_without_the_verdicts_on_it(line, monkeypatch, before):
    package = line.train(seed=0)
    line.decide()
    if before == "half a promotion":  # which ended when the model lay in the store, and nothing was judged
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_after(patch, registry, "_store")
            line.promote()
    elif before == "another version":
        line.promote()
        line.train_and_promote(seed=1)
        package = line.train(seed=0)
        line.decide()
    verdicts = write_verdict(line.folder / "variants", package)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(patch, Champion, "save")  # what a worker sees that looks at this moment
        line.promote()
    assert line.champion().package_sha256 == files.sha256(package)
    assert load_variants(line.champion().folder()) == verdicts


def test_a_champion_comes_back_into_the_store_with_the_verdicts_on_it(line, monkeypatch):
    package = line.train(seed=0)
    verdicts = write_verdict(line.folder / "variants", package)
    line.decide()
    line.promote()
    shutil.rmtree(line.folder / "bento" / "fer-classifier")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(patch, registry, "_store")
        line.promote()
    assert load_variants(line.champion().folder()) == verdicts


def test_a_champion_that_is_gone_back_to_has_the_verdicts_of_its_own_promotion(line, monkeypatch):
    package = line.train(seed=0)
    verdicts = write_verdict(line.folder / "variants", package)
    line.decide()
    line.promote()
    line.train_and_promote(seed=1)
    write_verdict(line.folder / "variants", line.packages / "patt_lite", accuracy=0.6)
    line.promote()
    shutil.rmtree(line.folder / "bento" / "fer-classifier")
    line.train(seed=0)  # the package is there again, its verdicts are not
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(patch, Champion, "save")  # what a worker sees that looks at this moment
        line.rollback()
    assert line.champion().package_sha256 == files.sha256(package)
    assert load_variants(line.champion().folder()) == verdicts


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
