"""Parameters are typed; what is wrong is named, all at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from ferops.settings import Recipe, SettingsError, load_settings

PARAMS = Path(__file__).parents[1] / "params.yaml"


def write(folder: Path, change: dict) -> Path:
    params = yaml.safe_load(PARAMS.read_text())
    for key, value in change.items():
        target = params
        *parents, last = key.split("/")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


def test_the_shipped_parameters_are_valid_and_complete() -> None:
    settings = load_settings(PARAMS)
    written = yaml.safe_load(PARAMS.read_text())
    for section in ("data", "validation", "train", "vit", "evaluation", "gate"):
        # Every number that steers the pipeline stands in params.yaml, none hides in a default.
        assert set(written[section]) == set(type(getattr(settings, section)).model_fields), section
    assert {"synthetic", "fer2013", "original"} <= set(settings.recipes)


def test_the_published_recipe_is_kept() -> None:
    original = load_settings(PARAMS).recipes["original"]
    assert (original.batch_size, original.image_size, original.clip_norm) == (8, 224, 3.0)
    assert (original.frozen.optimizer, original.frozen.learning_rate, original.frozen.schedule) == (
        "adam",
        1e-3,
        "plateau",
    )
    assert (original.fine_tune.learning_rate, original.fine_tune.schedule) == (1e-5, "inverse_time")
    assert (original.fine_tune.unfreeze_layers, original.fine_tune.train_batch_norm) == (59, False)
    assert (original.frozen.dropout, original.fine_tune.dropout) == (0.1, 0.2)
    assert (original.class_weights, original.fine_tune.class_weights) == (1.0, 0.0)  # the head's stage alone
    patiences = (original.frozen.early_stop_patience, original.fine_tune.early_stop_patience)
    assert (*patiences, original.frozen.patience_gain) == (5, 20, 0.003)
    assert (original.augmentation.flip, original.augmentation.contrast) == (True, 0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data/sauce": "x"}, "data.sauce"),
        ({"gate/min_recall": 1.5}, "gate.min_recall"),
        ({"train/attention": "self"}, "train.attention"),
        ({"train/recipe": "fast"}, "'fast' is not among recipes"),
        ({"train/seed": 2**32 - 1}, "train.seed"),  # the second stage's would be too large for numpy
        ({"train/seed": True}, "train.seed"),
        (
            {"recipes/fer2013/fine_tune/unfreeze_layers": True},
            "unfreeze_layers",
        ),  # one layer, or all of them?
        ({"recipes/synthetic/image_size": 64}, "recipes.synthetic.image_size"),
        ({"recipes/synthetic/frozen": {"epochs": 1, "learning_rate": 1, "unfreeze_layers": 3}}, "fine_tune"),
        ({"recipes/fer2013/fine_tune/warmup_epochs": 60}, "warmup_epochs 60 is longer than the stage (48)"),
        ({"recipes/fer2013/frozen/warmup_epochs": 1}, "warmup_epochs is for schedule: cosine"),
        ({"recipes/fer2013/frozen/train_batch_norm": True}, "the frozen stage trains no backbone layer"),
        ({"recipes/fer2013/frozen/plateau_patience": 2}, "plateau_patience is for schedule: plateau"),
        (
            {"recipes/fer2013/fine_tune/decay_steps": 9},
            "decay_steps is for schedule: inverse_time, not cosine",
        ),
        ({"recipes/fer2013/fine_tune/learning_rate": float("inf")}, "fine_tune.learning_rate"),
        ({"recipes/fer2013/fine_tune/unfreeze_layers": -1}, "fine_tune.unfreeze_layers"),
        ({"recipes/fer2013/augmentation/zoom": 1.0}, "augmentation.zoom"),
        ({"recipes/original/accumulation_steps": 8}, "leaves one image to a batch norm"),
        ({"recipes/fer2013/teacher_share": 0}, "leave teacher out"),
        ({"evaluation/batch_size": 1}, "evaluation.batch_size"),
        ({"validation/blocking": ["blur"]}, "validation.blocking"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=r"params\.yaml has \d+ error") as error:
        load_settings(write(tmp_path, change))
    assert message in str(error.value)


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(write(tmp_path, {"data/sauce": 1, "gate/flavour": 2}))
    assert "2 error(s)" in str(error.value)


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FEROPS_PARAMS"):
        load_settings(tmp_path / "absent.yaml")
    for broken in (b"data: [", b"\xff\xfe"):
        (tmp_path / "params.yaml").write_bytes(broken)
        with pytest.raises(SettingsError, match="not valid YAML"):
            load_settings(tmp_path / "params.yaml")
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"start_image_size": 128}, "not above image_size 112"),
        ({"start_image_size": 90}, "multiple of 16"),
    ],
)
def test_images_cannot_start_larger_or_between_sizes(recipe: dict[str, Any], why: str) -> None:
    whole = {
        "description": "x",
        "image_size": 112,
        "frozen": {"epochs": 1, "learning_rate": 1.0},
        "fine_tune": {"epochs": 2, "learning_rate": 1.0},
        **recipe,
    }
    with pytest.raises(ValidationError, match=why):
        Recipe.model_validate(whole)
