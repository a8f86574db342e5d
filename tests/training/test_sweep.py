"""Sweeps are checked before any work, train each variant once, and say what helped."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ferops import tracking
from ferops.cli import app
from ferops.data.store import Dataset
from ferops.models.patt_lite import BackboneUnavailableError
from ferops.settings import Recipe, Settings, load_settings
from ferops.training import run_sweep
from ferops.training.run_sweep import Result, train_run, write_report
from ferops.training.sweep import Run, SweepError, read_sweep
from ferops.training.teacher import TeacherError

ROOT = Path(__file__).parents[2]
SWEEP = ROOT / "sweeps" / "fer2013.yaml"
RECIPES = load_settings(ROOT / "params.yaml").recipes

TINY = Recipe.model_validate(
    {
        "description": "seconds",
        "image_size": 80,
        "backbone": "none",
        "batch_size": 70,
        "precision": "float32",
        "frozen": {"epochs": 1, "learning_rate": 1e-3},
    }
)


def write_sweep(path: Path, *entries: dict, **group: object) -> Path:
    path.write_text(yaml.safe_dump({"recipe": "fer2013", "groups": {"one": {**group, "runs": [*entries]}}}))
    return path


def test_every_training_of_the_projects_sweep_is_a_sound_recipe_with_a_name_of_its_own() -> None:
    runs = read_sweep(SWEEP, None, RECIPES, "weights.h5")
    assert {run.attention for run in runs} == {"feature", "patch", "batch"}
    assert len({run.key for run in runs}) == len(runs)
    assert {run.group for run in runs if run.final} == {"final", "quick"}  # what explores sees no test image
    assert all(run.recipe.backbone == "weights.h5" for run in runs)


def test_an_entry_differs_from_its_group_in_what_it_says_alone(tmp_path: Path) -> None:
    file = write_sweep(
        tmp_path / "sweep.yaml",
        {"name": "base"},
        {"name": "mixup", "change": {"augmentation": {"mixup": 0.2}}, "seeds": [3, 4]},
        change={"image_size": 96, "fine_tune": {"epochs": 5}},
    )
    base, mixed, again = read_sweep(file, ["one"], RECIPES)
    assert (base.recipe.image_size, base.recipe.fine_tune.epochs) == (96, 5)
    assert base.recipe.fine_tune.optimizer == RECIPES["fer2013"].fine_tune.optimizer
    assert mixed.recipe.augmentation.mixup == 0.2
    augmentation = mixed.recipe.augmentation.model_copy(update={"mixup": base.recipe.augmentation.mixup})
    assert mixed.recipe.model_copy(update={"augmentation": augmentation}) == base.recipe
    assert (mixed.seed, again.seed, mixed.recipe) == (3, 4, again.recipe)


@pytest.mark.parametrize(
    ("entry", "group", "message"),
    [
        ({"name": "bad", "change": {"fine_tune": {"epochs": -1}}}, {}, "one, bad:\n.*epochs"),
        ({"name": "bad", "change": {"augmentations": {"mixup": 1}}}, {}, "one, bad:\n.*augmentations"),
        ({"name": "bad", "change": {"image_size": {"side": 1}}}, {}, "one, bad:\n.*image_size"),
        ({"name": "bad", "chance": {}}, {}, "is no sweep:\n.*chance"),
        ({"name": "bad", "seeds": [0, -1]}, {}, "is no sweep:\n.*seeds"),
        ({"name": "bad" * 50}, {}, "is no sweep:\n.*name"),  # no folder can have it
        ({"name": "bad", "seeds": [1, 1]}, {}, "one-bad-1 occurs twice"),
        ({"name": "bad"}, {"attention": "total"}, "is no sweep:\n.*attention"),
    ],
)
def test_a_wrong_sweep_is_refused_before_any_work(
    tmp_path: Path, entry: dict, group: dict, message: str
) -> None:
    file = write_sweep(tmp_path / "sweep.yaml", entry, **group)
    with pytest.raises(SweepError, match=message):
        read_sweep(file, ["one"], RECIPES)


def test_unknown_groups_recipes_and_files_are_named(tmp_path: Path) -> None:
    file = write_sweep(tmp_path / "sweep.yaml", {"name": "base"})
    with pytest.raises(SweepError, match="has no group 'two': it has one"):
        read_sweep(file, ["two"], RECIPES)
    with pytest.raises(SweepError, match=r"no recipe 'fer2013' in params\.yaml: it has tiny"):
        read_sweep(file, ["one"], {"tiny": TINY})
    with pytest.raises(SweepError, match=r"nowhere\.yaml is no sweep"):
        read_sweep(tmp_path / "nowhere.yaml", None, RECIPES)
    for empty in (b"recipe: fer2013\ngroups: {}", b"", b"\xff\xfe"):
        file.write_bytes(empty)
        with pytest.raises(SweepError, match="is no sweep"):
            read_sweep(file, None, RECIPES)


@pytest.mark.parametrize("missing", [{"backbone": "gone.h5"}, {"teacher": "gone.keras"}])
def test_weights_that_are_not_there_are_refused_before_the_first_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = {"fer2013": TINY.model_dump(mode="json")}
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump({"train": {"recipe": "fer2013"}, "recipes": recipes})
    )
    write_sweep(tmp_path / "sweep.yaml", {"name": "base"}, {"name": "later", "change": missing})
    done = CliRunner().invoke(app, ["sweep", "sweep.yaml"])
    assert isinstance(done.exception, BackboneUnavailableError | TeacherError)
    assert "gone" in str(done.exception)
    assert not (tmp_path / "sweep").exists()


def test_each_training_is_one_tracked_run_and_is_not_repeated(
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty_mlflow: Callable[[Path], str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_mlflow(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = Settings.model_validate({"train": {"recipe": "tiny"}, "recipes": {"tiny": TINY}})
    run = Run("tiny", "one", False, "feature", 3, TINY)
    asked = run, settings, tiny_dataset.folder, tmp_path / "sweep", tmp_path / "checkpoints"
    result = train_run(*asked)
    found = tracking.connect().get_run(result.mlflow_run_id)
    assert (found.info.status, found.data.tags["sweep.run"]) == ("FINISHED", "one-tiny-3")
    assert (found.data.params["train.seed"], found.data.params["recipe.batch_size"]) == ("3", "70")
    assert result.accuracy == found.data.metrics["validation_accuracy"]
    assert (result.best_epoch, result.epochs) == (1, 1)

    monkeypatch.setattr(run_sweep, "train", lambda *_: pytest.fail("trained again"))
    assert train_run(*asked) == result
    written = tmp_path / "sweep" / run.key / "result.json"
    older = json.loads(written.read_text())  # of before there was this setting: it had its default
    del older["recipe"]["fine_tune"]["patience_gain"], older["weights"]
    written.write_text(json.dumps(older))
    assert train_run(*asked).accuracy == result.accuracy
    other = TINY.model_copy(update={"label_smoothing": 0.1})
    with pytest.raises(pytest.fail.Exception, match="trained again"):  # another recipe of the same name
        train_run(Run("tiny", "one", False, "feature", 3, other), *asked[1:])
    older["weights"] = {"none": "0" * 64}
    written.write_text(json.dumps(older))
    with pytest.raises(pytest.fail.Exception, match="trained again"):  # from another file of the same name
        train_run(*asked)


def result(name: str, seed: int, accuracy: float | None, group: str = "one") -> Result:
    return Result(
        group=group,
        name=name,
        seed=seed,
        recipe={},
        dataset_sha256="0",
        accuracy=accuracy,
        best_epoch=None if accuracy is None else 4,
    )


def test_the_table_compares_seed_by_seed_with_the_groups_first_entry(tmp_path: Path) -> None:
    table = write_report(
        [
            result("base", 0, 0.60),
            result("base", 1, 0.64),
            result("mixup", 1, 0.65),  # as good as +1 point, not as +3 on the mean of both seeds
            result("steep", 0, None),
            result("alone", 0, 0.5, group="two"),
        ],
        tmp_path,
    )
    _, _, base, mixup, steep, alone = table.splitlines()
    assert base == "| one | base | 2 of 2 | 62.0% | 60.0% to 64.0% |  | 4, 4 |"
    assert mixup == "| one | mixup | 1 of 1 | 65.0% | 65.0% to 65.0% | +1.0 | 4 |"
    assert steep == "| one | steep | 0 of 1 | diverged | | |  |"
    assert "| two | alone | 1 of 1 | 50.0% |" in alone
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "sweep.md").read_text().strip() == table


@given(st.text(min_size=1))
def test_any_name_gives_a_file_name(name: str) -> None:
    key = Run(name, "one", False, "feature", 0, TINY).key
    assert "/" not in key
    assert key.startswith("one-")
