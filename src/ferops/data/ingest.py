"""From any source to the Parquet dataset: describe every image, settle the splits, write.

    >>> summary = ingest(settings.data, out=Path("data/dataset"))  # doctest: +SKIP

Two passes. The first reads the source once, image by image, and stages rows with all that one image tells.
Only hashes, emotions and splits stay in memory. The second goes over the staged shards and fills in what
needs the whole: where validation is cut, which test rows have a copy in train, what training must not see.
"""

import hashlib
import itertools
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ferops import files
from ferops.data import images
from ferops.data.collected import COLLECTED, Collected
from ferops.data.descriptors import describe, is_blank, perceptual_hash, pixel_hash
from ferops.data.progress import track
from ferops.data.sources import Source, open_source
from ferops.data.sources.source import BrokenImageError, EmptyClassError, LayoutError
from ferops.data.splits import Fate, Key, settle
from ferops.data.store import SCHEMA, SPLITS, Summary, write_shards
from ferops.emotions import EMOTIONS
from ferops.settings import DataSettings

#: Rows of a staged shard in memory at once, in the second pass.
BATCH_ROWS = 1024


def ingest(data: DataSettings, out: Path) -> Summary:
    """Write the dataset folder `out`: shards and `summary.json`, whole or not at all.

    Args:
        data: which source, and the policies (copies, blanks, broken images, validation cut).
        out: replaced when all went well, untouched otherwise.

    Raises:
        SourceError: naming the member or row that cannot be used, or the class that is empty.
    """
    source = open_source(data)
    every: dict[str, Source] = {data.source: source}
    if data.collected is not None:
        every[COLLECTED] = Collected(data.collected)
    keys: list[Key] = []
    broken: list[str] = []
    with files.new_folder(out) as folder:
        staging = folder / "staging"
        staging.mkdir()
        rows = (_described(name, each, data, keys, broken) for name, each in every.items())
        write_shards(staging, itertools.chain.from_iterable(rows), data.rows_per_shard)
        fates = settle(keys, data)
        sha256 = _finish(staging, folder, fates)
        shutil.rmtree(staging)
        used: dict[str, dict[str, int]] = {split: dict.fromkeys(EMOTIONS, 0) for split in SPLITS}
        by_source: dict[str, dict[str, int]] = {name: dict.fromkeys(SPLITS, 0) for name in every}
        excluded: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
        for key, fate in zip(keys, fates, strict=True):
            if fate.excluded is None:
                used[fate.split][key.emotion] += 1
                by_source[COLLECTED if key.collected else data.source][fate.split] += 1
            else:
                excluded[fate.split][fate.excluded] += 1
        _refuse_empty(used, keys)
        summary = Summary(
            source=data.source,
            synthetic=source.synthetic,
            rows=used,
            excluded={split: dict(sorted(counts.items())) for split, counts in excluded.items()},
            broken=broken,
            source_sha256=source.sha256(),
            sha256=sha256,
            notes=[*(n for each in every.values() for n in each.notes), *_notes(keys, fates, broken, data)],
            sources=by_source if len(every) > 1 else {},
        )
        summary.save(folder)
    return summary


def _described(
    name: str, source: Source, data: DataSettings, keys: list[Key], broken: list[str]
) -> Iterator[Mapping[str, Any]]:
    """Rows with all that one image tells; fills `keys` and `broken` on the way."""
    names: set[str] = set()
    for record in track(source, len(source), f"ingest {name}"):
        if record.name in names:
            raise LayoutError(f"{record.name} occurs twice in the source: every image needs its own name")
        names.add(record.name)
        try:
            image = images.decode(record.image)
        except images.ImageError as error:
            if data.on_broken_image == "error":
                raise BrokenImageError(
                    f"{record.name}: {error}. Repair or remove it, "
                    "or set data.on_broken_image: exclude in params.yaml to leave such images out"
                ) from None
            broken.append(record.name)
            continue
        grey = np.asarray(images.grey(image))
        digest, blank = pixel_hash(grey), is_blank(grey)
        keys.append(Key(record.split, record.emotion, digest, blank, name == COLLECTED))
        yield {
            "id": f"{name}/{record.name}",
            "source": name,
            "source_split": record.source_split,
            "split": record.split or "train",
            "emotion": record.emotion,
            "image": record.image,
            "width": image.width,
            "height": image.height,
            "mode": image.mode,
            "pixel_hash": digest,
            "perceptual_hash": perceptual_hash(grey),
            "blank": blank,
            **describe(grey)._asdict(),
            "votes": sorted(record.votes.items()) if record.votes is not None else None,
            "copy_in_train": False,
            "excluded": None,
        }


def _finish(staging: Path, folder: Path, fates: Sequence[Fate]) -> str:
    """Write the final shards with `split`, `copy_in_train` and `excluded`; return the rows' digest."""
    digest = hashlib.sha256()
    done = 0
    for staged in sorted(staging.glob("part-*.parquet")):
        with pq.ParquetWriter(folder / staged.name, SCHEMA, compression="zstd") as writer:
            for batch in pq.ParquetFile(staged).iter_batches(BATCH_ROWS):
                fate = fates[done : done + batch.num_rows]
                done += batch.num_rows
                settled = {
                    "split": pa.array([f.split for f in fate], pa.string()),
                    "copy_in_train": pa.array([f.copy_in_train for f in fate], pa.bool_()),
                    "excluded": pa.array([f.excluded for f in fate], pa.string()),
                }
                arrays = [settled.get(name, batch.column(name)) for name in SCHEMA.names]
                final = pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
                writer.write_batch(final)
                _digest_rows(digest, final)
    return digest.hexdigest()


#: What makes a row what it is. The rest is computed from the image, and floats may differ between machines.
IDENTITY = ("id", "source_split", "split", "emotion", "votes", "copy_in_train", "excluded")


def _digest_rows(digest: Any, batch: pa.RecordBatch) -> None:
    for row, image in zip(batch.select(IDENTITY).to_pylist(), batch.column("image"), strict=True):
        digest.update(repr(tuple(row.values())).encode())
        digest.update(hashlib.sha256(image.as_py()).digest())


def _refuse_empty(used: Mapping[str, Mapping[str, int]], keys: Sequence[Key]) -> None:
    for split, counts in used.items():
        if not any(counts.values()):
            raise LayoutError(
                f"the {split} split has no usable image ({len(keys):,} read in all): check data.path"
            )
        empty = [emotion for emotion, count in counts.items() if count == 0]
        if empty:
            raise EmptyClassError(
                f"the {split} split has no image of {', '.join(empty)}: every split needs all seven "
                "emotions. Add images, or correct the folder or label names"
            )


def _notes(
    keys: Sequence[Key], fates: Sequence[Fate], broken: Sequence[str], data: DataSettings
) -> list[str]:
    """Sentences on what was cut, dropped and found."""
    notes = []
    cut = sum(f.split == "validation" and k.split is None for k, f in zip(keys, fates, strict=True))
    if cut:
        notes.append(
            f"Validation: {cut:,} images cut from train ({data.validation_fraction:.0%}, stratified by "
            "emotion, all copies of one image on one side)."
        )
    copies = sum(f.copy_in_train for f in fates)
    if copies:
        notes.append(f"{copies:,} test images have an exact copy in the source's train split.")
    dropped: dict[str, int] = defaultdict(int)
    for fate in fates:
        if fate.excluded is not None:
            dropped[fate.excluded] += 1
    sentences = {
        "copy_of_test": "because the same pixels are in test",
        "copy_of_validation": "because the same pixels are in validation",
        "blank": "because they are blank",
    }
    notes += [
        f"{dropped[reason]:,} train or validation images were dropped {why}."
        for reason, why in sorted(sentences.items())
        if dropped[reason]
    ]
    if dropped["copy_of_main"]:
        notes.append(
            f"{dropped['copy_of_main']:,} collected images are in the main source, and were dropped."
        )
    if broken:
        notes.append(f"{len(broken):,} images could not be read and were left out.")
    return notes
