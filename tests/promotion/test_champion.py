"""The pointer that says which model is served: whole as it was written, or refused."""

import json
from dataclasses import asdict

import pytest

from ferops.promotion.champion import POINTER_FILE, Champion, NoChampionError

CHAMPION = Champion(
    model="fer-classifier",
    version="3",
    bento_tag="fer-classifier:v3-0a1b2c3d",
    package_sha256="0a1b2c3d" * 8,
    mlflow_run_id="f00",
    candidate="patt_lite",
    promoted_at="2026-11-23T06:00:00+00:00",
    synthetic=True,
)


def test_a_pointer_is_read_as_it_was_written(tmp_path):
    champion = CHAMPION.after(CHAMPION)
    champion.save(tmp_path)
    assert Champion.load(tmp_path) == champion
    assert champion.label == "v3-0a1b2c3d"


def test_there_may_be_no_champion_yet(tmp_path):
    with pytest.raises(NoChampionError, match="make run"):
        Champion.load(tmp_path)


@pytest.mark.parametrize(
    "change", [{"bento_tag": "v3-0a1b2c3d"}, {"bento_tag": 3}, {"colour": "red"}, {"earlier": [{}]}]
)
def test_a_pointer_that_nobody_wrote_is_refused_with_what_to_do(tmp_path, change):
    (tmp_path / POINTER_FILE).write_text(json.dumps({**asdict(CHAMPION), **change}))
    with pytest.raises(ValueError, match="run `ferops promote`"):
        Champion.load(tmp_path)
