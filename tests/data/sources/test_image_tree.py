"""Somebody's own images: `<split>/<emotion>/*.png`."""

from pathlib import Path

import pytest
from trees import face, jpeg, tree, write_folder, write_zip

from ferops.data.sources.image_tree import ImageTree
from ferops.data.sources.source import LayoutError, UnknownLabelError

COMPLETE = {"train": 2, "val": 1, "test": 1}


def test_records_come_by_sorted_name_with_canonical_emotions(tmp_path: Path) -> None:
    names = ("Anger", "disgusted", "FEAR", "happiness", "sadness", "suprise", "calm")
    records = list(ImageTree(write_folder(tmp_path, tree(COMPLETE, names))))
    assert [r.name for r in records] == sorted(r.name for r in records)
    assert {r.emotion for r in records} == {"angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"}
    assert {(r.source_split, r.split) for r in records} == {
        ("train", "train"),
        ("val", "validation"),
        ("test", "test"),
    }


@pytest.mark.parametrize("word", ["val", "valid", "validation", "Validation", "dev"])
def test_every_usual_word_for_validation_is_understood(tmp_path: Path, word: str) -> None:
    source = ImageTree(write_folder(tmp_path, tree({"Train": 1, word: 1, "TEST": 1})))
    assert {r.split for r in source} == {"train", "validation", "test"}


def test_without_validation_the_train_images_are_left_for_the_cut(tmp_path: Path) -> None:
    source = ImageTree(write_folder(tmp_path, tree({"train": 1, "test": 1})))
    assert {r.split for r in source} == {None, "test"}


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_split_is_named(tmp_path: Path, missing: str) -> None:
    there = {split: 1 for split in ("train", "val", "test") if split != missing}
    with pytest.raises(LayoutError, match=f"no {missing} split"):
        ImageTree(write_folder(tmp_path, tree(there)))


def test_a_zip_under_one_top_folder_is_read_and_other_files_are_ignored(tmp_path: Path) -> None:
    inside = {f"faces/v1/{name}": content for name, content in tree(COMPLETE).items()}
    inside["faces/README.txt"] = b"hello"
    inside["faces/v1/train/angry/x.JPEG"] = jpeg(99)
    source = ImageTree(write_zip(tmp_path / "faces.zip", inside))
    assert len(list(source)) == len(source) == 29
    assert source.notes == ["1 files are no PNG or JPEG and were ignored, such as faces/README.txt."]


@pytest.mark.parametrize(
    ("stray", "error", "message"),
    [
        ("train/contempt/1.png", UnknownLabelError, r"train/contempt/1\.png.*unknown emotion 'contempt'"),
        ("train/1.png", LayoutError, r"'train/1\.png' does not stand in"),
        ("holdout/angry/1.png", LayoutError, "holdout/angry"),
        ("other/train/angry/1.png", LayoutError, "the one folder that holds the splits"),
    ],
)
def test_an_image_without_a_place_is_named(
    tmp_path: Path, stray: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ImageTree(write_folder(tmp_path, tree(COMPLETE) | {stray: face(999)}))


def test_a_folder_without_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="no PNG or JPEG"):
        ImageTree(tmp_path)
