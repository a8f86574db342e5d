"""`ferops data add` with the real DVC: versions come and go with git, and bad input changes nothing."""

from pathlib import Path

import pytest
import yaml
from sources.trees import csv_row, csv_rows, tree, write_csv, write_folder, write_zip

from ferops.data.add import AddError, add_dataset
from ferops.data.sources import SourceError
from ferops.settings import load_settings
from repositories import PARAMS, commit, dvc, run


def test_an_older_commit_brings_the_older_dataset_back(repository: Path, tmp_path: Path) -> None:
    older = write_zip(tmp_path / "v1" / _mkdir("faces.zip", tmp_path / "v1"), tree({"train": 1, "test": 1}))
    newer = write_zip(tmp_path / "v2" / _mkdir("faces.zip", tmp_path / "v2"), tree({"train": 2, "test": 1}))
    before = (repository / "params.yaml").read_text()

    add_dataset("image_tree", older, repository)
    first = commit(repository, "v1")
    add_dataset("image_tree", newer, repository)
    second = commit(repository, "v2")

    placed = repository / "data/raw/faces.zip"
    assert placed.read_bytes() == newer.read_bytes()
    for version, original in ((first, older), (second, newer)):
        run(repository, "git", "checkout", "-q", version)
        dvc(repository, "checkout", "-q")
        assert placed.read_bytes() == original.read_bytes()
    assert run(repository, "git", "status", "--porcelain") == ""

    settings = load_settings(repository / "params.yaml")
    assert (settings.data.source, settings.data.path) == ("image_tree", Path("data/raw/faces.zip"))
    after = (repository / "params.yaml").read_text()
    changed = [b for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert [line.split(":")[0].strip() for line in changed] == ["source", "path", "recipe"]
    assert all("#" in line for line in changed)  # the comments are still there


def test_a_folder_is_added_as_a_folder(repository: Path, tmp_path: Path) -> None:
    members = tree({"train": 1, "test": 1})
    add_dataset("image_tree", write_folder(tmp_path / "faces", members), repository)
    placed = repository / "data/raw/faces"
    assert {p.relative_to(placed).as_posix() for p in placed.rglob("*.png")} == set(members)
    assert (repository / "data/raw/faces.dvc").is_file()


def test_votes_go_with_the_csv(repository: Path, tmp_path: Path) -> None:
    rows = [csv_row(0), csv_row(1, 1, "PublicTest")]
    path = write_csv(tmp_path / "fer2013.csv", rows)
    (tmp_path / "fer2013new.csv").write_text(
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
        "Training,,10,0,0,0,0,0,0,0,0,0\nPublicTest,,0,0,0,0,0,0,0,0,0,10\n"
    )
    add_dataset("fer2013_csv", path, repository)
    assert {p.name for p in (repository / "data/raw/fer2013").iterdir()} == {"fer2013.csv", "fer2013new.csv"}


def test_adding_what_is_already_in_place_is_fine(repository: Path) -> None:
    (repository / "data/raw").mkdir(parents=True)
    path = write_zip(repository / "data/raw/faces.zip", tree({"train": 1, "test": 1}))
    add_dataset("image_tree", path, repository)
    assert path.is_file()
    assert (repository / "data/raw/faces.zip.dvc").is_file()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("image_tree", "does not stand in"),
        ("fer2013_csv", "header"),
        ("synthetic", "need no file"),
        ("fer2014", "unknown source 'fer2014'"),
    ],
)
def test_bad_input_changes_nothing(repository: Path, tmp_path: Path, source: str, message: str) -> None:
    path = write_zip(tmp_path / "faces.zip", {"loose.png": b"no image"})
    with pytest.raises(SourceError, match=message):
        add_dataset(source, path, repository)
    assert run(repository, "git", "status", "--porcelain") == ""
    assert not (repository / "data").exists()


def test_a_broken_first_image_or_an_absent_file_is_named(repository: Path, tmp_path: Path) -> None:
    broken = tree({"train": 1, "test": 1}) | {"test/angry/0000.png": b"no image"}
    with pytest.raises(SourceError, match=r"test/angry/0000\.png"):
        add_dataset("image_tree", write_zip(tmp_path / "faces.zip", broken), repository)
    with pytest.raises(SourceError, match=r"absent\.zip does not exist"):
        add_dataset("image_tree", tmp_path / "absent.zip", repository)
    assert not (repository / "data").exists()


def test_when_dvc_refuses_the_older_dataset_stays(repository: Path, tmp_path: Path) -> None:
    rows = csv_rows({"Training": 1, "PublicTest": 1})
    add_dataset("fer2013_csv", write_csv(tmp_path / "fer2013.csv", rows), repository)
    commit(repository, "v1")
    older = (repository / "data/raw/fer2013.csv").read_bytes()
    (repository / "data/raw/fer2013.csv.dvc").write_text("not: [valid")
    with pytest.raises(AddError, match=r"dvc add data/raw/fer2013\.csv"):
        add_dataset("fer2013_csv", write_csv(tmp_path / "fer2013.csv", rows[::-1]), repository)
    assert (repository / "data/raw/fer2013.csv").read_bytes() == older
    assert [p.name for p in (repository / "data/raw").glob("*tmp*")] == []


def test_without_dvc_it_says_what_torun(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "faces.zip", tree({"train": 1, "test": 1}))
    with pytest.raises(AddError, match="dvc init"):
        add_dataset("image_tree", path, tmp_path)


def test_params_stay_valid_yaml_with_their_nulls(repository: Path, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "faces.zip", tree({"train": 1, "test": 1}))
    add_dataset("image_tree", path, repository)
    before, after = (yaml.safe_load(p.read_text()) for p in (PARAMS, repository / "params.yaml"))
    before["data"] |= {"source": "image_tree", "path": "data/raw/faces.zip"}
    before["train"]["recipe"] = "fer2013"
    assert after == before


def _mkdir(name: str, folder: Path) -> str:
    folder.mkdir()
    return name
