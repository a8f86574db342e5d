"""Near copies by perceptual hash, against the plain definition."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ferops.data import near_copies
from ferops.data.descriptors import perceptual_hash
from ferops.data.near_copies import has_near_copy
from ferops.data.store import Dataset

HASHES = st.lists(st.integers(0, 2**64 - 1).map(lambda n: f"{n:016x}"), max_size=20)


@given(HASHES, HASHES, st.integers(0, 40))
def test_it_is_the_hamming_distance(of: list[str], among: list[str], bits: int) -> None:
    expected = [any((int(a, 16) ^ int(b, 16)).bit_count() <= bits for b in among) for a in of]
    assert has_near_copy(of, among, bits).tolist() == expected


def test_blocks_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_copies, "OF_BLOCK", 3)
    monkeypatch.setattr(near_copies, "AMONG_BLOCK", 5)
    among = [f"{1 << n:016x}" for n in range(0, 64, 2)]
    of = [f"{3 << n:016x}" for n in range(0, 62, 2)] + ["ffffffffffffffff"]
    assert has_near_copy(of, among, 1).tolist() == [True] * 31 + [False]


def test_a_recompressed_face_is_a_near_copy_and_other_faces_are_not(tiny_dataset: Dataset) -> None:
    faces = tiny_dataset.images("test")[:20, :, :, 0]
    hashes = [perceptual_hash(face) for face in faces]
    again = []
    for face in faces:
        buffer = io.BytesIO()
        Image.fromarray(face).save(buffer, "JPEG", quality=85)
        again.append(perceptual_hash(np.asarray(Image.open(buffer))))
    assert has_near_copy(again, hashes).mean() > 0.9
    assert has_near_copy(hashes[:10], hashes[10:]).mean() < 0.2
