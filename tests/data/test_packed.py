"""A packed dataset holds the same pixels and labels, and notices when it does not."""

from pathlib import Path

import numpy as np
import pytest

from ferops.data import packed as module
from ferops.data.packed import Packed, PackedError, pack
from ferops.data.store import SPLITS, Dataset


def test_a_packed_dataset_is_the_dataset(tiny_dataset: Dataset, tmp_path: Path) -> None:
    pack(tiny_dataset, tmp_path / "tiny.npz")
    packed = Packed.load(tmp_path / "tiny.npz")
    for split in SPLITS:
        np.testing.assert_array_equal(packed.grey[split], tiny_dataset.images(split)[..., 0])
        np.testing.assert_array_equal(packed.labels[split], tiny_dataset.labels(split))
    copies = tiny_dataset.frame("test")["copy_in_train"]
    np.testing.assert_array_equal(packed.copy_in_train, copies)
    assert packed.dataset_sha256 == tiny_dataset.summary.sha256
    assert packed.synthetic
    encoded = sum(len(b) for split in SPLITS for b in tiny_dataset.frame(split, ["image"])["image"])
    assert (tmp_path / "tiny.npz").stat().st_size < encoded + 10_000


def test_other_pixels_than_packed_are_refused(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(tiny_dataset, tmp_path / "tiny.npz")
    faces = module.pixels.faces
    monkeypatch.setattr(module.pixels, "faces", lambda contents: faces(contents) // 2)
    with pytest.raises(PackedError, match="other pixels"):
        Packed.load(tmp_path / "tiny.npz")


def test_another_file_and_half_a_file_are_refused(tiny_dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "tiny.npz"
    pack(tiny_dataset, path)
    whole = path.read_bytes()
    for content in (b"nothing of ours", whole[: len(whole) // 2], whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(PackedError, match="not a whole packed dataset"):
            Packed.load(path)
    np.savez(path, about=np.array('{"source": "fer2013_images"}'))
    with pytest.raises(PackedError, match=r"not a whole packed dataset.*prefix"):
        Packed.load(path)
