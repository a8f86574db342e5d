"""The validation cut: its size, its strata, and that copies never part."""

import random

from hypothesis import given
from hypothesis import strategies as st

from ferops.data.splits import Fate, Key, settle
from ferops.emotions import EMOTIONS
from ferops.settings import DataSettings

KEYS = st.lists(
    st.builds(
        Key,
        split=st.sampled_from([None, None, None, "test"]),
        emotion=st.sampled_from(EMOTIONS),
        pixel_hash=st.integers(0, 40).map(str),
        blank=st.just(False),
        collected=st.just(False),
    ),
    max_size=120,
)
COLLECTED = st.lists(
    st.builds(
        Key,
        split=st.sampled_from(["train", "validation", "test"]),
        emotion=st.sampled_from(EMOTIONS),
        pixel_hash=st.integers(0, 60).map(str),
        blank=st.booleans(),
        collected=st.just(True),
    ),
    max_size=40,
)


def _keys(per_emotion: int) -> list[Key]:
    return [Key(None, e, f"{e}{n}", False) for e in EMOTIONS for n in range(per_emotion)]


def test_the_cut_has_the_asked_share_of_every_emotion() -> None:
    keys = _keys(200)
    fates = settle(keys, DataSettings(validation_fraction=0.15))
    for emotion in EMOTIONS:
        cut = [f.split for k, f in zip(keys, fates, strict=True) if k.emotion == emotion]
        assert cut.count("validation") == 30


def test_the_cut_follows_the_seed_and_not_the_row_order() -> None:
    keys = _keys(50)
    shuffled = random.Random(1).sample(keys, len(keys))
    assert _held_out(keys, 0) == _held_out(shuffled, 0) != _held_out(keys, 1)


def test_a_new_image_moves_hardly_any_other() -> None:
    keys = _keys(100)
    moved = _held_out(keys, 0) ^ _held_out([*keys, Key(None, "angry", "new", False)], 0)
    assert len(moved - {"new"}) <= 1


@given(KEYS)
def test_no_copy_is_on_two_sides_and_no_test_image_is_trained_on(keys: list[Key]) -> None:
    fates = settle(keys, DataSettings(validation_fraction=0.2, seed=3))
    sides: dict[str, set[str]] = {}
    for key, fate in zip(keys, fates, strict=True):
        if fate.excluded is None:
            sides.setdefault(key.pixel_hash, set()).add(fate.split)
    assert all(len(splits) == 1 for splits in sides.values())


@given(KEYS)
def test_test_rows_are_never_excluded_and_know_their_copies(keys: list[Key]) -> None:
    fates = settle(keys, DataSettings())
    in_train = {k.pixel_hash for k in keys if k.split is None}
    for key, fate in zip(keys, fates, strict=True):
        if key.split == "test":
            assert fate == Fate("test", key.pixel_hash in in_train, None)


@given(KEYS, COLLECTED)
def test_what_is_collected_moves_nothing_of_the_main_source(keys: list[Key], new: list[Key]) -> None:
    """Whatever people upload, with whatever label."""
    data = DataSettings(validation_fraction=0.2, seed=3)
    alone, together = settle(keys, data), settle([*keys, *new], data)
    assert together[: len(keys)] == alone
    main = {key.pixel_hash for key in keys}
    for key, fate in zip(new, together[len(keys) :], strict=True):
        assert (fate.excluded == "copy_of_main") == (key.pixel_hash in main)
        assert fate.split == key.split


def _held_out(keys: list[Key], seed: int) -> set[str]:
    fates = settle(keys, DataSettings(seed=seed))
    return {k.pixel_hash for k, f in zip(keys, fates, strict=True) if f.split == "validation"}
