"""The Parquet dataset: what is written is what is read."""

from pathlib import Path

import pytest

from ferops.data.images import faces
from ferops.data.store import SPLITS, Dataset


def test_the_tiny_dataset_has_the_promised_rows(tiny_dataset: Dataset) -> None:
    assert {split: len(tiny_dataset.frame(split)) for split in SPLITS} == {
        "train": 210,
        "validation": 105,
        "test": 105,
    }


def test_images_and_labels_come_in_the_order_of_frame(tiny_dataset: Dataset) -> None:
    frame = tiny_dataset.frame("test", ["image", "emotion"])
    images, labels = tiny_dataset.images("test"), tiny_dataset.labels("test")
    assert images.shape == (105, 48, 48, 3)
    assert (images == faces(frame["image"].tolist())).all()
    assert len(labels) == len(frame)
    assert set(labels.tolist()) == set(range(7))


def test_an_absent_dataset_says_which_command_makes_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dvc repro ingest"):
        Dataset.open(tmp_path)
