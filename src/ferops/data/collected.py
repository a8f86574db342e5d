"""Labelled traffic as a dataset: batches of faces that people named the emotion of, one Parquet file each.

    data/collected/20261122T201500Z.parquet            a batch, as `ferops data collect` wrote it
    data/collected/rejected/20261121T060000Z.parquet   one that a person took out: known, and never learnt

A batch is never changed, but for a prediction that was forgotten. Of an image that is in several batches, for
somebody changed their mind, the newest one counts. `ferops.monitoring.collect` writes batches from the log.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ferops import files
from ferops.data import images
from ferops.data.descriptors import pixel_hash
from ferops.data.sources.png import png
from ferops.data.sources.source import LayoutError, MissingSourceError, Record, SourceError, UnknownLabelError
from ferops.data.store import Split
from ferops.data.versioned import dvc_add, edited, replaced, require_dvc
from ferops.emotions import EMOTIONS
from ferops.settings import CollectedSettings, load_settings

#: `source` of the rows in the dataset, and first part of their ids.
COLLECTED = "collected"
PLACE = Path("data/collected")
REJECTED = "rejected"

BATCH_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # of the prediction
        pa.field("emotion", pa.string(), nullable=False),  # the last word of its feedback
        pa.field("image", pa.binary(), nullable=False),  # PNG, 48x48, grey
        pa.field("pixel_hash", pa.string(), nullable=False),  # ferops.data.descriptors
    ]
)


class UnknownBatchError(ValueError):
    """There is no batch of this name."""


class Labelled(NamedTuple):
    """A face of the traffic with the emotion that somebody named; the columns of `BATCH_SCHEMA`."""

    id: str
    emotion: str
    image: bytes
    pixel_hash: str


def split_of(pixel_hash: str, settings: CollectedSettings) -> Split:
    """The split of an image, from its pixels alone: copies share it, and no later batch can move it.

    The hash's first 64 bits are uniform; test has the lowest, then validation, so that with larger shares
    train gives images away and gets none.
    """
    place = int(pixel_hash[:16], 16) / 2**64
    if place < settings.test:
        return "test"
    return "validation" if place < settings.test + settings.validation else "train"


class Collected:
    """The batches as a source; record names are the predictions' ids, `source_split` is the batch.

    Raises:
        SourceError: if the folder is absent, or is another version than the parameters name.
    """

    synthetic = False

    def __init__(self, settings: CollectedSettings) -> None:
        self._settings = settings
        if not settings.path.is_dir():
            raise MissingSourceError(
                f"{settings.path} (data.collected) is not here: run `dvc checkout {settings.path}.dvc`, "
                "or set data.collected: null"
            )
        self._sha256 = files.sha256(settings.path)
        if self._sha256 != settings.sha256:
            raise SourceError(
                f"{settings.path} is version {self._sha256[:12]}, data.collected names "
                f"{settings.sha256[:12]}: run `dvc checkout {settings.path}.dvc`, "
                "or `ferops data collect` to take it as it is"
            )
        self._batches = batches(settings.path)

    @property
    def notes(self) -> Sequence[str]:
        """How much there is."""
        return [f"Collected: {len(self):,} labels of served predictions, in {len(self._batches)} batches."]

    def sha256(self) -> str:
        """Digest of the folder."""
        return self._sha256

    def __len__(self) -> int:
        """Rows of all batches."""
        return sum(pq.read_metadata(batch).num_rows for batch in self._batches)

    def __iter__(self) -> Iterator[Record]:
        """Read the batches, oldest first."""
        newest = {row: batch for batch in self._batches for row in _ids(batch)}
        for batch in self._batches:
            for row in read_batch(batch):
                if newest[row.id] == batch:
                    split = split_of(row.pixel_hash, self._settings)
                    yield Record(row.id, batch.stem, split, row.emotion, row.image)


def batches(folder: Path) -> list[Path]:
    """The batches that count, oldest first."""
    return sorted(folder.glob("*.parquet"))


def known(folder: Path) -> dict[str, str]:
    """The emotion of each prediction that was collected before, also of those in rejected batches."""
    every = sorted([*folder.glob("*.parquet"), *folder.glob(f"{REJECTED}/*.parquet")], key=lambda p: p.name)
    found: dict[str, str] = {}
    for batch in every:
        table = pq.read_table(batch, columns=["id", "emotion"])
        found |= dict(zip(table["id"].to_pylist(), table["emotion"].to_pylist(), strict=True))
    return found


def read_batch(path: Path) -> Iterator[Labelled]:
    """The rows of a batch.

    Raises:
        SourceError: if it is none, or names an emotion that is none.
    """
    try:
        with pq.ParquetFile(path) as file:
            if file.schema_arrow.names != BATCH_SCHEMA.names:
                raise LayoutError(f"{path} has other columns than a batch: restore it by `dvc checkout`")
            for part in file.iter_batches(1024):
                for row in part.to_pylist():
                    if row["emotion"] not in EMOTIONS:
                        raise UnknownLabelError(f"{path}: {row['emotion']!r} is no emotion")
                    yield Labelled(**row)
    except pa.ArrowInvalid as error:
        raise LayoutError(f"{path} cannot be read ({error}): restore it by `dvc checkout`") from None


def write_batch(path: Path, rows: Sequence[Labelled]) -> None:
    """Write a batch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([row._asdict() for row in rows], schema=BATCH_SCHEMA)
    pq.write_table(table, path, compression="zstd")


def update(root: Path, new: Mapping[str, Sequence[Labelled]], gone: frozenset[str] = frozenset()) -> str:
    """Add batches by name and take rows out by id, as a new version under DVC that `params.yaml` names.

    Repeating it mends what a killed call left: a folder that is not the version that the parameters name.

    Returns:
        The folder's digest.

    Raises:
        AddError: if DVC refuses; nothing was changed.
    """
    require_dvc(root)
    place, params = root / PLACE, root / "params.yaml"
    named = load_settings(params).data.collected  # before anything changes: it must be readable

    def write(folder: Path) -> None:
        if place.exists():
            shutil.copytree(place, folder)
        folder.mkdir(exist_ok=True)
        for path in folder.rglob("*.parquet"):
            if gone.intersection(_ids(path)):
                write_batch(path, [row for row in read_batch(path) if row.id not in gone])
        for name, rows in new.items():
            write_batch(folder / f"{name}.parquet", rows)

    if new or gone or not place.exists():
        with replaced(place, write):
            dvc_add(PLACE, root)
            return _name_version(params, place)
    if named is None or named.sha256 != files.sha256(place):
        dvc_add(PLACE, root)
        return _name_version(params, place)
    return named.sha256


def reject(root: Path, batch: str) -> None:
    """Take a batch out of the dataset; its rows stay known, so that they are not collected again.

    Raises:
        UnknownBatchError: if there is none of this name.
        AddError: if DVC refuses; nothing was changed.
    """
    require_dvc(root)
    place = root / PLACE
    name = f"{batch.removesuffix('.parquet')}.parquet"
    if name not in {path.name for path in batches(place)}:
        held = ", ".join(path.stem for path in batches(place)) or "none"
        raise UnknownBatchError(f"{PLACE} has no batch {batch}; it has: {held}")

    def write(folder: Path) -> None:
        shutil.copytree(place, folder)
        (folder / REJECTED).mkdir(exist_ok=True)
        (folder / name).replace(folder / REJECTED / name)

    with replaced(place, write):
        dvc_add(PLACE, root)
        _name_version(root / "params.yaml", place)


def labelled(identity: str, emotion: str, pixels: bytes) -> Labelled:
    """A row of a batch from the grey pixels that the log keeps, row by row."""
    side = images.FACE_SIDE
    if len(pixels) != side * side:
        raise ValueError(f"prediction {identity}: a kept face has {side * side} pixels, not {len(pixels)}")
    grey = np.frombuffer(pixels, np.uint8).reshape(side, side)
    return Labelled(identity, emotion, png(grey), pixel_hash(grey))


def _name_version(params: Path, place: Path) -> str:
    sha256 = files.sha256(place)

    def point(content: Any) -> None:
        given = content["data"].get("collected") or {}
        content["data"]["collected"] = {**given, "path": PLACE.as_posix(), "sha256": sha256}

    files.write_text(params, edited(params, point))
    return sha256


def _ids(batch: Path) -> list[str]:
    found: list[str] = pq.read_table(batch, columns=["id"])["id"].to_pylist()
    return found
