"""Which image goes where: the validation cut, copies across splits, and what training must not see."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ferops.data.store import Split
from ferops.settings import DataSettings


class Key(NamedTuple):
    """What the splits depend on, of one image. `split` is none where validation may be cut from it."""

    split: Split | None
    emotion: str
    pixel_hash: str
    blank: bool
    collected: bool = False


class Fate(NamedTuple):
    """What became of one image; the dataset's columns of the same names."""

    split: Split
    copy_in_train: bool
    excluded: str | None


def settle(keys: Sequence[Key], data: DataSettings) -> list[Fate]:
    """Settle every image's split, and whether training must leave it out.

    The main source comes first: a collected image that it has too is excluded, whatever its split and label,
    so that no upload can push an image out of the main source. Its test rows are all kept. Of train and
    validation, copies of test images and blank images are excluded where the settings say so, and of train
    also copies of the source's own validation images.
    Source train rows (`Key.split` none or train) count for `copy_in_train`.
    """
    in_main = {key.pixel_hash for key in keys if not key.collected}
    counted = [key for key in keys if not (key.collected and key.pixel_hash in in_main)]
    in_test = {key.pixel_hash for key in counted if key.split == "test"}
    in_validation = {key.pixel_hash for key in counted if key.split == "validation"}
    in_train = {key.pixel_hash for key in counted if key.split in (None, "train")}

    excluded: list[str | None] = []
    for key in keys:
        if key.collected and key.pixel_hash in in_main:
            excluded.append("copy_of_main")
        elif key.split == "test":
            excluded.append(None)
        elif data.drop_test_copies_from_train and key.pixel_hash in in_test:
            excluded.append("copy_of_test")
        elif (
            data.drop_test_copies_from_train and key.split != "validation" and key.pixel_hash in in_validation
        ):
            excluded.append("copy_of_validation")
        elif data.drop_blank_from_train and key.blank:
            excluded.append("blank")
        else:
            excluded.append(None)

    free = [k for k, why in zip(keys, excluded, strict=True) if k.split is None and why is None]
    held_out = _validation_hashes(free, data.validation_fraction, data.seed)
    return [
        Fate(
            split=key.split or ("validation" if key.pixel_hash in held_out else "train"),
            copy_in_train=key.split == "test" and key.pixel_hash in in_train,
            excluded=why,
        )
        for key, why in zip(keys, excluded, strict=True)
    ]


def _validation_hashes(keys: Sequence[Key], fraction: float, seed: int) -> set[str]:
    """Pixel hashes of the images held out, about `fraction` of each emotion, groups of copies whole.

    Groups are ordered by a keyed hash: the same on every machine, in any row order, and mostly the same
    when images are added. A group whose copies disagree counts for its first emotion in the alphabet.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        groups[key.pixel_hash].append(key.emotion)
    by_emotion: dict[str, list[str]] = defaultdict(list)
    for pixel_hash, emotions in groups.items():
        by_emotion[min(emotions)].append(pixel_hash)

    held_out: set[str] = set()
    for hashes in by_emotion.values():
        rows = sum(len(groups[pixel_hash]) for pixel_hash in hashes)
        wanted, taken = max(1, round(fraction * rows)), 0
        for pixel_hash in sorted(hashes, key=lambda h: _order(h, seed)):
            if taken + len(groups[pixel_hash]) <= wanted:
                held_out.add(pixel_hash)
                taken += len(groups[pixel_hash])
    return held_out


def _order(pixel_hash: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{pixel_hash}".encode(), digest_size=8).digest()
