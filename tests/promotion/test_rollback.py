"""One command back, and one command to any version that passed."""

import shutil

import mlflow
import pytest
from typer.testing import CliRunner

from ferops.cli import app
from ferops.models.onnx import OnnxClassifier
from ferops.promotion import registry
from ferops.promotion.champion import REMEMBERED, Champion, NoChampionError
from ferops.promotion.registry import RegistryError, StaleDecisionError
from registry_line import Killed, aliases, killed_after, versions
from tiny_package import tiny_onnx


@pytest.fixture
def three(line):
    """Champions 1, 2 and 3, promoted in this order."""
    for seed in (0, 1, 2):
        line.train_and_promote(seed)
    return line


def test_a_rollback_goes_one_champion_back_in_every_registry(three):
    outcome = three.rollback()
    assert (outcome.version, outcome.changed) == ("2", True)
    assert "instead of version 3" in outcome.reason
    assert three.champion().version == "2"
    assert aliases() == {"champion": "2"}
    assert OnnxClassifier(three.champion().folder()).self_check() < 1e-6
    assert three.rollback().version == "1"
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        three.rollback()
    assert three.champion().version == "1"
    assert len(versions()) == 3


def test_each_way_is_one_command(three, monkeypatch):
    monkeypatch.chdir(three.folder)

    def ferops(*command):
        return CliRunner().invoke(app, command)

    assert ferops("rollback").exit_code == 0
    assert three.champion().version == "2"
    assert ferops("promote", "--version", "1").exit_code == 0
    assert three.champion().version == "1"
    refused = ferops("rollback", "--from", "3")
    assert refused.exit_code != 0
    assert three.champion().version == "1"


def test_a_rollback_from_a_named_version_is_done_once(three):
    assert three.rollback(expected="3").version == "2"
    with pytest.raises(StaleDecisionError, match="champion is version 2, not 3: nothing was rolled back"):
        three.rollback(expected="3")
    assert three.champion().version == "2"


def test_without_a_champion_there_is_nothing_to_roll_back(line):
    with pytest.raises(NoChampionError):
        line.rollback()


def test_the_pipeline_does_not_undo_a_rollback_but_a_person_may(three):
    three.rollback()
    three.decide()  # the gate saw the same candidate win again
    outcome = three.promote()
    assert not outcome.promoted and outcome.version == "2"
    assert "was rolled back" in outcome.reason
    assert three.promote_version("3").version == "3"
    assert three.champion().withdrawn == ()
    assert three.rollback().version == "2"


def test_a_new_winner_is_promoted_after_a_rollback(three):
    three.rollback()
    assert three.train_and_promote(seed=5).version == "4"
    assert three.rollback().version == "2"


def test_a_version_that_passed_is_promoted_by_its_number(three):
    outcome = three.promote_version("1")
    assert (outcome.promoted, outcome.version, outcome.candidate) == (True, "1", "patt_lite")
    champion = three.champion()
    assert champion.synthetic is True and champion.promoted_at
    assert aliases() == {"champion": "1"}
    assert OnnxClassifier(champion.folder()).self_check() < 1e-6
    assert not three.promote_version("1").changed
    assert three.rollback().version == "3"


def test_a_version_that_the_gate_refused_is_not_promoted_by_its_number(line):
    line.train_and_promote(seed=0)
    line.train(seed=1)
    line.decide("keep")
    line.promote()
    with pytest.raises(RegistryError, match="version 2 did not pass the gate"):
        line.promote_version("2")
    assert line.champion().version == "1"
    assert aliases() == {"champion": "1", "challenger": "2"}


def test_a_version_that_does_not_exist_is_an_error(three):
    with pytest.raises(RegistryError, match="has no version 9"):
        three.promote_version("9")


def test_a_lost_or_damaged_package_leaves_the_champion(three):
    folder = Champion.load(three.registry).before().folder()
    tiny_onnx(folder / "model.onnx", seed=9)
    for attempt in (three.rollback, lambda: three.promote_version("2")):
        with pytest.raises(RegistryError, match="version 2 is lost"):
            attempt()
    shutil.rmtree(folder)
    with pytest.raises(RegistryError, match="version 2 is lost"):
        three.rollback()
    assert three.champion().version == "3"
    assert aliases() == {"champion": "3"}


@pytest.mark.parametrize(
    ("owner", "name"),
    [(mlflow.MlflowClient, "set_registered_model_alias"), (registry, "_restore"), (Champion, "save")],
    ids=["alias", "registries", "pointer"],
)
@pytest.mark.parametrize("verb", ["rollback", "promote --version"])
def test_a_killed_switch_is_finished_by_the_next(three, monkeypatch, owner, name, verb):
    def switch():
        return three.rollback("3") if verb == "rollback" else three.promote_version("2")

    with monkeypatch.context() as patch:
        killed_after(patch, owner, name)
        with pytest.raises(Killed):
            switch()
    if name == "save" and verb == "rollback":
        with pytest.raises(StaleDecisionError):  # it was done
            switch()
    else:
        assert switch().promoted
    assert three.champion().version == "2"
    assert aliases() == {"champion": "2"}


def test_a_switch_that_was_killed_and_given_up_is_put_right_by_promote(three, monkeypatch):
    with monkeypatch.context() as patch:
        killed_after(patch, mlflow.MlflowClient, "set_registered_model_alias")
        with pytest.raises(Killed):
            three.rollback()
    assert three.promote().version == "3"
    assert aliases() == {"champion": "3"}


def test_the_pointer_remembers_a_bounded_past():
    champion = None
    for number in range(REMEMBERED + 5):
        new = Champion("m", str(number), f"m:v{number}", str(number) * 64, "r", "c", "", False)
        champion = new.after(champion)
    assert [c.version for c in champion.earlier[:2]] == [str(REMEMBERED + 3), str(REMEMBERED + 2)]
    assert len(champion.earlier) == REMEMBERED
    assert all(not c.earlier for c in champion.earlier)
