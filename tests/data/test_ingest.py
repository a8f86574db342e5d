"""From any source to the Parquet dataset: what is kept, what is dropped, and that it is whole or absent."""

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
from sources.trees import csv_rows, face, tree, write_csv, write_folder, write_zip

from ferops.data.ingest import ingest
from ferops.data.sources import SourceError
from ferops.data.sources.png import png
from ferops.data.sources.source import BrokenImageError, EmptyClassError, LayoutError
from ferops.data.store import SCHEMA, Dataset
from ferops.emotions import EMOTIONS
from ferops.settings import DataSettings, SyntheticSettings

ARCHIVE = os.environ.get("FEROPS_FER2013_ARCHIVE")
SMALL = SyntheticSettings(train=70, validation=35, test=35)


def _tree(folder: Path, members: Mapping[str, bytes], **settings: object) -> DataSettings:
    path = write_folder(folder / "faces", members)
    return DataSettings.model_validate({"source": "image_tree", "path": path, **settings})


def _rows(out: Path) -> pd.DataFrame:
    return Dataset.open(out).frame(include_excluded=True).set_index("id")


def test_a_csv_becomes_the_documented_table(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer2013.csv", csv_rows({"Training": 20, "PublicTest": 3}))
    data = DataSettings(source="fer2013_csv", path=path)
    summary = ingest(data, out=tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.frame(columns=SCHEMA.names).shape == (161, len(SCHEMA))
    assert summary.rows == {
        "train": dict.fromkeys(EMOTIONS, 18),
        "validation": dict.fromkeys(EMOTIONS, 2),
        "test": dict.fromkeys(EMOTIONS, 3),
    }
    assert summary == dataset.summary
    assert not summary.synthetic


def test_synthetic_faces_are_labelled_so(tiny_dataset: Dataset) -> None:
    assert tiny_dataset.summary.synthetic
    assert "Synthetic" in tiny_dataset.summary.notes[0]


def test_the_digest_does_not_depend_on_sharding_and_changes_with_any_pixel(tmp_path: Path) -> None:
    members = tree({"train": 20, "val": 2, "test": 2})
    one = ingest(_tree(tmp_path / "1", members, rows_per_shard=100), tmp_path / "one")
    other = ingest(_tree(tmp_path / "2", members), tmp_path / "other")
    assert len(list((tmp_path / "one").glob("part-*"))) == 2
    assert one.sha256 == other.sha256
    assert one.source_sha256 == other.source_sha256
    members["train/angry/0000.png"] = face(5000)
    assert ingest(_tree(tmp_path / "3", members), tmp_path / "three").sha256 != one.sha256


def test_a_zip_gives_the_same_dataset_as_its_folder(tmp_path: Path) -> None:
    members = tree({"train": 4, "test": 2})
    folder = ingest(_tree(tmp_path, members), tmp_path / "one")
    path = write_zip(tmp_path / "faces.zip", dict(reversed(members.items())))
    zipped = ingest(DataSettings(source="image_tree", path=path), tmp_path / "two")
    assert zipped.sha256 == folder.sha256


def test_copies_of_test_images_are_kept_but_excluded_and_counted(tmp_path: Path) -> None:
    members = tree({"train": 3, "val": 3, "test": 2})
    copied = members["test/angry/" + _first(members, "test/angry/")]
    members |= {"train/sad/copy.png": copied, "val/angry/copy.png": copied}
    summary = ingest(_tree(tmp_path, members), tmp_path / "out")
    rows = _rows(tmp_path / "out")
    assert rows.loc["image_tree/train/sad/copy.png", "excluded"] == "copy_of_test"
    assert rows.loc["image_tree/val/angry/copy.png", "excluded"] == "copy_of_test"
    assert rows[rows["copy_in_train"]].index.tolist() == [
        "image_tree/test/angry/" + _first(members, "test/angry/")
    ]
    assert summary.excluded == {"train": {"copy_of_test": 1}, "validation": {"copy_of_test": 1}, "test": {}}
    assert "1 test images have an exact copy in the source's train split." in summary.notes


def test_a_copy_in_another_file_format_is_found_too(tmp_path: Path) -> None:
    import io

    from PIL import Image

    members = tree({"train": 2, "val": 1, "test": 1})
    buffer = io.BytesIO()
    first = members["test/angry/" + _first(members, "test/angry/")]
    Image.open(io.BytesIO(first)).convert("RGB").save(buffer, "PNG")
    members["train/angry/colour.png"] = buffer.getvalue()
    ingest(_tree(tmp_path, members), tmp_path / "out")
    row = _rows(tmp_path / "out").loc["image_tree/train/angry/colour.png"]
    assert (row["mode"], row["excluded"]) == ("RGB", "copy_of_test")


def test_blank_images_are_excluded_from_train_but_stay_in_test(tmp_path: Path) -> None:
    import numpy as np

    members = tree({"train": 2, "val": 1, "test": 1})
    members["train/angry/blank.png"] = png(np.full((48, 48), 7, np.uint8))
    members["test/angry/blank.png"] = png(np.full((48, 48), 9, np.uint8))
    summary = ingest(_tree(tmp_path, members), tmp_path / "out")
    assert summary.excluded == {"train": {"blank": 1}, "validation": {}, "test": {}}
    rows = _rows(tmp_path / "out")
    assert rows.loc["image_tree/test/angry/blank.png", "blank"]


def test_the_policies_can_be_switched_off(tmp_path: Path) -> None:
    members = tree({"train": 2, "val": 1, "test": 1})
    members["train/sad/copy.png"] = members["test/angry/" + _first(members, "test/angry/")]
    data = _tree(tmp_path, members, drop_test_copies_from_train=False, drop_blank_from_train=False)
    assert ingest(data, tmp_path / "out").excluded["train"] == {}


def test_a_broken_image_stops_ingest_and_nothing_is_written(tmp_path: Path) -> None:
    members = tree({"train": 2, "val": 1, "test": 1}) | {"train/sad/broken.png": b"no image"}
    with pytest.raises(BrokenImageError, match=r"train/sad/broken\.png.*on_broken_image"):
        ingest(_tree(tmp_path, members), tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"faces"}


def test_by_policy_broken_images_are_left_out_and_counted(tmp_path: Path) -> None:
    truncated = face(1)[:200]
    members = tree({"train": 2, "val": 1, "test": 1}) | {"train/sad/a.png": b"", "val/sad/b.png": truncated}
    summary = ingest(_tree(tmp_path, members, on_broken_image="exclude"), tmp_path / "out")
    assert summary.broken == ["train/sad/a.png", "val/sad/b.png"]
    assert "2 images could not be read and were left out." in summary.notes
    assert sum(sum(counts.values()) for counts in summary.rows.values()) == 28


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_class_is_named_and_the_older_dataset_stays(tmp_path: Path, split: str) -> None:
    members = tree({"train": 2, "val": 1, "test": 1})
    ingest(_tree(tmp_path / "1", members), tmp_path / "out")
    before = (tmp_path / "out" / "summary.json").read_bytes()
    fewer = {name: image for name, image in members.items() if not name.startswith(f"{split}/disgust/")}
    with pytest.raises(EmptyClassError, match="no image of disgust"):
        ingest(_tree(tmp_path / "2", fewer), tmp_path / "out")
    assert (tmp_path / "out" / "summary.json").read_bytes() == before


def test_a_split_whose_images_are_all_excluded_is_refused(tmp_path: Path) -> None:
    members = tree({"train": 1, "test": 1})
    for name in [n for n in members if n.startswith("train/")]:
        members[name] = members["test/angry/" + _first(members, "test/angry/")]
    with pytest.raises(LayoutError, match="train split has no usable image"):
        ingest(_tree(tmp_path, members), tmp_path / "out")


def test_every_refusal_is_a_source_error() -> None:
    from ferops.data.sources import source

    errors = [v for v in vars(source).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(errors) >= 7
    assert all(issubclass(error, SourceError) for error in errors)


def test_the_same_seed_gives_the_same_dataset_and_another_seed_another(tmp_path: Path) -> None:
    digests = [
        ingest(DataSettings(synthetic=SMALL, seed=seed), tmp_path / str(n)).sha256
        for n, seed in enumerate((0, 0, 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def _first(members: Mapping[str, bytes], folder: str) -> str:
    return min(name for name in members if name.startswith(folder)).removeprefix(folder)


@pytest.mark.skipif(ARCHIVE is None, reason="FEROPS_FER2013_ARCHIVE names no archive of FER2013 images")
def test_the_real_archive_holds_what_the_literature_says(tmp_path: Path) -> None:
    assert ARCHIVE is not None
    data = DataSettings(source="fer2013_images", path=Path(ARCHIVE))
    summary = ingest(data, out=tmp_path / "out")
    rows = Dataset.open(tmp_path / "out").frame(include_excluded=True)
    training, public = (rows[rows["source_split"] == usage] for usage in ("Training", "PublicTest"))
    assert (len(training), len(public)) == (28709, 3589)
    assert training["pixel_hash"].duplicated().sum() == 1236
    assert rows["pixel_hash"].duplicated().sum() == 1532
    groups = rows.groupby("pixel_hash")["emotion"]
    assert (groups.size() > 1).sum() == 1273
    assert (groups.nunique() > 1).sum() == 47
    assert public["copy_in_train"].sum() == 280
    assert (training["blank"].sum(), public["blank"].sum()) == (11, 1)
    used = Dataset.open(tmp_path / "out").frame(columns=["split", "pixel_hash"])
    assert used.groupby("pixel_hash")["split"].nunique().max() == 1
    assert sum(summary.rows["test"].values()) == 3589
