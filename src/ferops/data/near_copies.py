"""Near copies: images whose perceptual hashes differ in few bits, such as a re-encoded or cropped original.

Exact copies are found by `pixel_hash`. Near ones need a distance, and one that is chosen on the hashes alone
(never on what a model scores): see `MAX_BITS`.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

#: Bits of 64 that near copies may differ in. Zauner (2010) finds re-encoded and rescaled images within a few
#: bits and unrelated ones near 32. On FER2013, PublicTest against Training without exact copies: the nearest
#: pairs at 4 bits have a median pixel correlation of 0.92 and mostly one label, at 8 bits 0.74 and half.
MAX_BITS = 4

#: Rows of `of` compared at once with one block of `among`: 512 x 8192 words of 8 bytes are 34 MB.
OF_BLOCK, AMONG_BLOCK = 512, 8192

#: Images for which `most_near_copies` looks for near copies.
OF_SAMPLE = 1024


def has_near_copy(of: Iterable[str], among: Iterable[str], max_bits: int = MAX_BITS) -> NDArray[np.bool_]:
    """For each perceptual hash in `of`, whether one in `among` is within `max_bits` bits.

    Args:
        of: hashes of 16 hex digits, such as the test split's `perceptual_hash` column.
        among: hashes to compare with, such as those of train and validation.
        max_bits: Hamming distance that still counts, 0 to 64; 0 is equality of hashes.

    Returns:
        bool `[len(of)]`. An exact copy is a near copy too.

    >>> has_near_copy(["00000000000000ff", "ffffffffffffffff"], ["00000000000000fe"], max_bits=1).tolist()
    [True, False]
    """
    wanted, candidates = _words(of), np.unique(_words(among))
    found = np.isin(wanted, candidates)
    if max_bits == 0:
        return found
    for start in range(0, len(candidates), AMONG_BLOCK):
        block = candidates[None, start : start + AMONG_BLOCK]
        open_rows = np.flatnonzero(~found)
        for first in range(0, len(open_rows), OF_BLOCK):
            rows = open_rows[first : first + OF_BLOCK]
            distance = np.bitwise_count(wanted[rows, None] ^ block)
            found[rows] = (distance <= max_bits).any(axis=1)
    return found


def most_near_copies(hashes: Iterable[str], max_bits: int = MAX_BITS) -> int:
    """How many of the images, of a sample of `OF_SAMPLE` at least, are near copies of the one that has most.

    Returns:
        That number, the image itself included; 0 of none. What makes up a share of the images that matters
        is in the sample.
    """
    words = _words(hashes)
    if len(words) == 0:
        return 0
    chosen = np.random.default_rng(0).permutation(words)[:OF_SAMPLE]
    most = 0
    for first in range(0, len(chosen), OF_BLOCK):
        count = np.zeros(len(chosen[first : first + OF_BLOCK]), np.int64)
        for start in range(0, len(words), AMONG_BLOCK):
            distance = np.bitwise_count(
                chosen[first : first + OF_BLOCK, None] ^ words[None, start : start + AMONG_BLOCK]
            )
            count += (distance <= max_bits).sum(axis=1)
        most = max(most, int(count.max()))
    return most


def _words(hashes: Iterable[str]) -> NDArray[np.uint64]:
    return np.fromiter((int(text, 16) for text in hashes), dtype=np.uint64)
