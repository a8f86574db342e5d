"""FER2013 as folders: the file names hold the official splits."""

from pathlib import Path

import pytest
from trees import fer2013, jpeg, write_folder, write_zip

from ferops.data.sources.fer2013_images import Fer2013Images
from ferops.data.sources.source import LayoutError


def test_without_private_test_the_public_one_is_the_test_split(tmp_path: Path) -> None:
    source = Fer2013Images(write_zip(tmp_path / "archive.zip", fer2013({"Training": 2, "PublicTest": 1})))
    assert {(r.source_split, r.split) for r in source} == {("Training", None), ("PublicTest", "test")}
    assert source.notes == ["Test is FER2013's PublicTest."]


def test_with_private_test_the_public_one_is_validation(tmp_path: Path) -> None:
    members = fer2013({"Training": 1, "PublicTest": 1, "PrivateTest": 1})
    source = Fer2013Images(write_folder(tmp_path, {f"fer2013/{n}": c for n, c in members.items()}))
    assert {(r.source_split, r.split) for r in source} == {
        ("Training", "train"),
        ("PublicTest", "validation"),
        ("PrivateTest", "test"),
    }


def test_images_are_the_archives_own_bytes(tmp_path: Path) -> None:
    members = fer2013({"Training": 1, "PublicTest": 1})
    source = Fer2013Images(write_zip(tmp_path / "archive.zip", members))
    assert {r.name: r.image for r in source} == members


@pytest.mark.parametrize(
    ("stray", "message"),
    [
        ("train/angry/holiday.jpg", "not named as FER2013's files"),
        ("train/angry/PublicTest_1.jpg", "is a PublicTest image under 'train'"),
        ("test/angry/Training_1.jpg", "is a Training image under 'test'"),
    ],
)
def test_a_stray_file_is_named(tmp_path: Path, stray: str, message: str) -> None:
    members = fer2013({"Training": 1, "PublicTest": 1}) | {stray: jpeg(1)}
    with pytest.raises(LayoutError, match=message) as caught:
        Fer2013Images(write_folder(tmp_path, members))
    assert repr(stray) in str(caught.value)


@pytest.mark.parametrize(
    ("usages", "message"),
    [({"Training": 1}, "neither PublicTest nor PrivateTest"), ({"PublicTest": 1}, "no Training images")],
)
def test_a_part_of_fer2013_is_refused(tmp_path: Path, usages: dict[str, int], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        Fer2013Images(write_folder(tmp_path, fer2013(usages)))
