"""A dataset as one small array file, for a machine that has numpy and Pillow but no Parquet.

    >>> pack(Dataset.open(Path("data/dataset")), Path("fer2013.npz"))  # doctest: +SKIP
    >>> packed = Packed.load(Path("fer2013.npz"))  # doctest: +SKIP
    >>> packed.grey["train"], packed.labels["train"]  # uint8 [N, 48, 48], int64 [N]  # doctest: +SKIP

Images stay encoded as they are in the dataset: FER2013's JPEGs are smaller than what lossless coders make of
their pixels. What all of them begin with (headers, tables) is kept once.
"""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ferops import files
from ferops.data import images as pixels

if TYPE_CHECKING:
    from ferops.data.store import Dataset

SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")

#: Images that one thread decodes at a time.
BLOCK = 1024


class PackedError(ValueError):
    """The file cannot be used; the message says why."""


@dataclass(frozen=True)
class Packed:
    """Every used row of a dataset, decoded.

    Attributes:
        source: the settings' `data.source`.
        synthetic: True for the embedded generator.
        dataset_sha256: the Parquet dataset's identity.
        grey: uint8 `[N, 48, 48]` of each split, in dataset order.
        labels: int64 `[N]` of each split.
        copy_in_train: bool `[N]` of the test split: the source's own train split holds the same pixels.
    """

    source: str
    synthetic: bool
    dataset_sha256: str
    grey: Mapping[str, NDArray[np.uint8]]
    labels: Mapping[str, NDArray[np.int64]]
    copy_in_train: NDArray[np.bool_]

    @staticmethod
    def load(path: Path) -> "Packed":
        """Read and decode what `pack` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            PackedError: if it is none of ours, or this machine decodes other pixels than the one that packed.
        """
        try:
            with np.load(path) as stored:
                held = {name: stored[name] for name in stored.files}
            about = json.loads(str(held["about"]))
            grey: dict[str, NDArray[np.uint8]] = {split: _decode(held, split) for split in SPLITS}
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise PackedError(
                f"{path} is not a whole packed dataset (`ferops data pack`): {error}"
            ) from error
        if _digest(grey) != about.pop("pixels_sha256"):
            raise PackedError(
                f"{path} was decoded to other pixels than when it was packed: the file is damaged, or this "
                "machine's JPEG decoder rounds differently; results would not be those of the dataset"
            )
        labels: dict[str, NDArray[np.int64]] = {
            split: held[f"{split}_labels"].astype(np.int64) for split in SPLITS
        }
        return Packed(**about, grey=grey, labels=labels, copy_in_train=held["test_copy_in_train"])


def pack(dataset: "Dataset", path: Path) -> None:
    """Write all used rows of a dataset as one uncompressed `.npz`, whole or not at all."""
    encoded = {
        split: [
            image
            for batch in dataset.batches(split, ["image"])
            for image in batch.column("image").to_pylist()
        ]
        for split in SPLITS
    }
    every = [image for split in encoded.values() for image in split]
    shared = os.path.commonprefix(every)  # noqa: RUF071 - of bytes, not of paths
    arrays: dict[str, Any] = {"prefix": np.frombuffer(shared, np.uint8)}
    for split, contents in encoded.items():
        rest = [content[len(shared) :] for content in contents]
        arrays[f"{split}_bytes"] = np.frombuffer(b"".join(rest), np.uint8)
        arrays[f"{split}_lengths"] = np.array([len(content) for content in rest], np.uint32)
        arrays[f"{split}_labels"] = dataset.labels(split).astype(np.uint8)
    arrays["test_copy_in_train"] = dataset.frame("test", ["copy_in_train"])["copy_in_train"].to_numpy(bool)
    about = {
        "source": dataset.summary.source,
        "synthetic": dataset.summary.synthetic,
        "dataset_sha256": dataset.summary.sha256,
        "pixels_sha256": _digest({split: _decode(arrays, split) for split in SPLITS}),
    }
    content = io.BytesIO()
    np.savez(content, about=np.array(json.dumps(about)), **arrays)
    files.write_bytes(path, content.getvalue())


def _decode(arrays: Mapping[str, NDArray[Any]], split: str) -> NDArray[np.uint8]:
    """Grey pixels uint8 `[N, 48, 48]` of a split."""
    prefix, content = arrays["prefix"].tobytes(), arrays[f"{split}_bytes"].tobytes()
    ends = np.cumsum(arrays[f"{split}_lengths"], dtype=np.int64)
    encoded = [prefix + content[end - length : end] for end, length in zip(ends, _lengths(ends), strict=True)]

    def block(start: int) -> NDArray[np.uint8]:
        return pixels.faces(encoded[start : start + BLOCK])[..., 0]

    with ThreadPoolExecutor() as pool:
        blocks: Sequence[NDArray[np.uint8]] = list(pool.map(block, range(0, len(encoded), BLOCK)))
    return np.concatenate([np.empty((0, pixels.FACE_SIDE, pixels.FACE_SIDE), np.uint8), *blocks])


def _lengths(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.diff(ends, prepend=0)


def _digest(grey: Mapping[str, NDArray[np.uint8]]) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(grey[split].tobytes())
    return digest.hexdigest()
