"""The Parquet dataset: one row an image, sharded, with a summary beside it.

    >>> dataset = Dataset.open(Path("data/dataset"))  # doctest: +SKIP
    >>> dataset.frame("test", columns=["id", "emotion"])  # doctest: +SKIP
    >>> images = dataset.images("test")  # uint8 [N, 48, 48, 3]  # doctest: +SKIP

Rows that training must not see stay in the dataset with the reason in `excluded`, so that validation can
report what the source really held; `frame` and `images` leave them out unless asked.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ferops import files
from ferops.data import images as pixels
from ferops.data.descriptors import DESCRIPTORS
from ferops.emotions import EMOTIONS

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # stable: source name and the image's own name
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_split", pa.string(), nullable=False),  # the source's own word: PublicTest
        pa.field("split", pa.string(), nullable=False),  # train, validation or test
        pa.field("emotion", pa.string(), nullable=False),  # canonical
        pa.field("image", pa.binary(), nullable=False),  # the original encoded bytes
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),  # Pillow's: L, RGB
        pa.field("pixel_hash", pa.string(), nullable=False),
        pa.field("perceptual_hash", pa.string(), nullable=False),
        pa.field("blank", pa.bool_(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in DESCRIPTORS),
        pa.field("votes", pa.map_(pa.string(), pa.int32())),  # where the source has them (FER+)
        pa.field("copy_in_train", pa.bool_(), nullable=False),  # of test rows: the source's train has it too
        pa.field("excluded", pa.string()),  # null, or why training must not see it: see EXCLUSIONS
    ]
)

#: A row group is written when it has so many rows, or image bytes: photographs must not fill the memory.
GROUP_ROWS, GROUP_BYTES = 2048, 32_000_000

#: Reasons in `excluded`.
EXCLUSIONS: Mapping[str, str] = {
    "copy_of_test": "the same pixels occur in the test split",
    "copy_of_validation": "the same pixels occur in the source's own validation split",
    "blank": "every pixel has one value",
    "copy_of_main": "collected, and the main source has the same pixels",
}


@dataclass(frozen=True)
class Summary:
    """What a dataset is, kept as `summary.json` beside the shards.

    Attributes:
        source: the settings' `data.source`.
        synthetic: True for the embedded generator.
        rows: rows per split and emotion, as used (without excluded rows).
        excluded: rows per split and reason.
        broken: names of source images that could not be read and were left out by policy.
        source_sha256: digest of the source file or of the generator's settings.
        sha256: digest of every row, independent of sharding; the dataset's identity in lineage.
        notes: sentences a reader of results should know (where validation came from, what was dropped).
        sources: used rows per split of each `source`, where there is more than one.
    """

    source: str
    synthetic: bool
    rows: Mapping[str, Mapping[str, int]]
    excluded: Mapping[str, Mapping[str, int]]
    broken: Sequence[str]
    source_sha256: str
    sha256: str
    notes: Sequence[str] = ()
    sources: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write `summary.json`."""
        files.write_json(folder / "summary.json", asdict(self))


class Dataset:
    """Read access to a Parquet dataset folder; shards are read as needed, never all at once unasked."""

    def __init__(self, folder: Path, summary: Summary) -> None:
        self.folder = folder
        self.summary = summary
        self._table = pads.dataset(sorted(folder.glob("part-*.parquet")), schema=SCHEMA)

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open a dataset that `ferops ingest` wrote.

        Raises:
            FileNotFoundError: if there is none.
        """
        if not (folder / "summary.json").exists():
            raise FileNotFoundError(f"no dataset in {folder}: run `dvc repro ingest` first")
        return cls(folder, Summary(**files.read_json(folder / "summary.json")))

    def frame(
        self,
        split: Split | None = None,
        columns: Sequence[str] | None = None,
        include_excluded: bool = False,
    ) -> pd.DataFrame:
        """Rows as pandas, in dataset order; every column but `image` unless `columns` says otherwise."""
        wanted = list(columns) if columns else [n for n in SCHEMA.names if n != "image"]
        frame: pd.DataFrame = self._table.to_table(
            columns=wanted, filter=_row_filter(split, include_excluded)
        ).to_pandas()
        return frame

    def batches(self, split: Split, columns: Sequence[str], rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """Record batches of at most `rows` used rows, for data that need not fit in memory."""
        yield from self._table.to_batches(
            columns=list(columns), filter=_row_filter(split, False), batch_size=rows, use_threads=False
        )

    def images(self, split: Split, side: int = pixels.FACE_SIDE) -> NDArray[np.uint8]:
        """Decoded used images, uint8 `[N, side, side, 3]`, in the order of `frame(split)`."""
        parts = [
            pixels.faces(batch.column("image").to_pylist(), side)
            for batch in self.batches(split, ["image"])
            if batch.num_rows
        ]
        return np.concatenate(parts) if parts else np.empty((0, side, side, 3), np.uint8)

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Emotion indices int64 `[N]`, in the order of `frame(split)`."""
        names = self.frame(split, ["emotion"])["emotion"]
        return names.map({e: i for i, e in enumerate(EMOTIONS)}).to_numpy(np.int64)


def _row_filter(split: Split | None, include_excluded: bool) -> pc.Expression | None:
    conditions = []
    if split is not None:
        conditions.append(pc.field("split") == split)
    if not include_excluded:
        conditions.append(pc.field("excluded").is_null())
    if not conditions:
        return None
    joined = conditions[0]
    for condition in conditions[1:]:
        joined = joined & condition
    return joined


def write_shards(folder: Path, rows: Iterable[Mapping[str, Any]], rows_per_shard: int) -> None:
    """Write rows (keys as in `SCHEMA`) as `part-00000.parquet`, …, holding one row group at a time."""
    source = iter(rows)
    for number in itertools.count():
        shard = itertools.islice(source, rows_per_shard)
        first = next(shard, None)
        if first is None and number > 0:
            return
        with pq.ParquetWriter(folder / f"part-{number:05d}.parquet", SCHEMA, compression="zstd") as writer:
            for group in _row_groups(shard if first is None else itertools.chain([first], shard)):
                writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))


def _row_groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row["image"])
        if len(group) == GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
