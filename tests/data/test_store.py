"""The Parquet dataset: what is written is what is read."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ferops.data import store
from ferops.data.descriptors import DESCRIPTORS
from ferops.data.images import faces
from ferops.data.store import SCHEMA, SPLITS, Dataset, write_shards


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


def _row(number: int) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(DESCRIPTORS, 0.0)
    row |= {"id": f"x/{number}", "source": "x", "source_split": "train", "split": "train"}
    row |= {"emotion": "happy", "image": bytes(number), "width": 1, "height": 1, "mode": "L"}
    row |= {"pixel_hash": "", "perceptual_hash": "", "blank": False, "votes": [("happy", number)]}
    return row | {"copy_in_train": False, "excluded": None}


@pytest.mark.parametrize(("rows", "per_shard", "shards"), [(0, 4, 1), (4, 4, 1), (5, 4, 2), (11, 4, 3)])
def test_shards_hold_every_row_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, per_shard: int, shards: int
) -> None:
    monkeypatch.setattr(store, "GROUP_ROWS", 3)
    monkeypatch.setattr(store, "GROUP_BYTES", 12)
    write_shards(tmp_path, (_row(n) for n in range(rows)), per_shard)
    parts = sorted(tmp_path.iterdir())
    assert [p.name for p in parts] == [f"part-{n:05d}.parquet" for n in range(shards)]
    tables = [pq.ParquetFile(part).read() for part in parts]
    assert all(table.schema.equals(SCHEMA) for table in tables)
    assert [i for table in tables for i in table["id"].to_pylist()] == [f"x/{n}" for n in range(rows)]
