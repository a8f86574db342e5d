"""The private copy of the project: nothing of the checkout changes, and nothing but its files comes along."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from ferops import files
from ferops.environment import Environment
from ferops.monitoring.policy import Policy, load_policy
from ferops.simulation.workplace import RECIPE, Workplace, WorkplaceError, scaled
from repositories import commit, make_repository

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A repository with a dataset of its own, uncommitted changes, an old judgement and an ignored file."""
    root = make_repository(tmp_path_factory.mktemp("checkout") / "project")
    shutil.copy(ROOT / "dvc.yaml", root)
    shutil.copytree(ROOT / "monitoring", root / "monitoring", ignore=shutil.ignore_patterns("reports"))
    (root / ".gitignore").write_text("/predictions/\n")
    commit(root, "monitoring")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["data"] |= {"source": "image_tree", "path": "data/raw/faces"}
    params["train"]["recipe"] = "fer2013"
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    files.write_json(root / "reports/gate.json", {"decision": "keep"})
    (root / "predictions").mkdir()
    (root / "predictions/private.jsonl").write_text("{}")
    return root


@pytest.fixture(scope="module")
def place(checkout, tmp_path_factory):
    here = Path.cwd()
    os.chdir(checkout)
    try:
        before = files.sha256(checkout)
        place = Workplace.copy_of(checkout, tmp_path_factory.mktemp("place"), day_s=180)
        assert files.sha256(checkout) == before
        return place
    finally:
        os.chdir(here)


def test_what_git_ignores_stays_behind(place):
    assert not (place.project / "predictions").exists()
    assert (place.project / "monitoring/policy.yaml").exists()


def test_judgements_on_this_machines_champion_stay_behind(place):
    assert not (place.project / "reports/gate.json").exists()


def test_faces_are_drawn_whatever_the_checkouts_dataset(place):
    settings = place.settings
    assert settings.data.source == "synthetic"
    assert settings.train.recipe == "synthetic"


def test_the_retraining_is_the_same_recipe_from_the_champions_backbone(place):
    recipes = place.settings.recipes
    assert recipes[RECIPE].backbone.endswith("champion/model.keras")
    changed = {"backbone", "description"}
    assert recipes[RECIPE].model_dump(exclude=changed) == recipes["synthetic"].model_dump(exclude=changed)


def test_a_day_of_the_policy_lasts_as_long_as_asked(place):
    shipped = load_policy(ROOT / "monitoring/policy.yaml")
    policy = load_policy(place.project / "monitoring/policy.yaml")
    assert policy.window.hours * 3600 == pytest.approx(180 * shipped.window.hours / 24)
    silence = (policy.actions.drift.silence_hours, shipped.actions.drift.silence_hours)
    assert silence[0] == pytest.approx(silence[1] / 480)


def test_tests_and_thresholds_of_the_policy_stay(place):
    text = (ROOT / "monitoring/policy.yaml").read_text()
    shipped = load_policy(ROOT / "monitoring/policy.yaml").model_dump()
    short = Policy.model_validate(yaml.safe_load(scaled(text, 1 / 480))).model_dump()

    def differing(one, other, at=""):
        for key, value in one.items():
            if isinstance(value, dict):
                yield from differing(value, other[key], f"{at}{key}.")
            elif value != other[key]:
                yield f"{at}{key}"

    assert all(key.endswith("hours") for key in differing(shipped, short))


def test_settings_of_this_machine_do_not_reach_in(place, monkeypatch):
    monkeypatch.setenv("FEROPS_ALERT_WEBHOOK", "http://127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/")
    here = Path.cwd()
    with place.entered():
        assert Path.cwd() == place.project
        assert Environment().alert_webhook is None
        assert "MLFLOW_TRACKING_URI" not in os.environ
        assert os.environ["BENTOML_HOME"] == str(place.root / "bentoml")
    assert Path.cwd() == here
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9/"


def test_a_folder_that_holds_something_is_refused(checkout, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(WorkplaceError, match="not empty"):
        Workplace.copy_of(checkout, tmp_path, day_s=180)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_elsewhere_than_in_the_projects_root_it_says_where_to_go(tmp_path):
    with pytest.raises(WorkplaceError, match="run this in the repository's root"):
        Workplace.copy_of(tmp_path, tmp_path / "place", day_s=180)
