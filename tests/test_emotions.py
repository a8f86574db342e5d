"""Labels are mapped by name, whatever a dataset or model calls them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferops.emotions import (
    EMOTIONS,
    FER2013_CODES,
    RAFDB_CODES,
    SYNONYMS,
    UnknownEmotionError,
    canonical,
    index,
    permutation,
)


def test_the_order_is_fer2013s_own() -> None:
    assert EMOTIONS == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert [FER2013_CODES[code] for code in range(7)] == list(EMOTIONS)
    assert [index(emotion) for emotion in EMOTIONS] == list(range(7))


@pytest.mark.parametrize("codes", [FER2013_CODES, RAFDB_CODES])
def test_every_numbering_names_each_emotion_once(codes: dict[int, str]) -> None:
    assert sorted(codes.values()) == sorted(EMOTIONS)


@pytest.mark.parametrize("name", [*SYNONYMS, *EMOTIONS])
def test_names_are_understood_in_any_case_with_blanks_around(name: str) -> None:
    assert canonical(f"  {name.upper()} ") == canonical(name) in EMOTIONS


def test_no_synonym_hides_an_emotion() -> None:
    assert not set(SYNONYMS) & set(EMOTIONS)
    assert set(SYNONYMS.values()) <= set(EMOTIONS)


@given(st.text())
def test_any_other_text_is_refused_by_name(text: str) -> None:
    try:
        assert canonical(text) in EMOTIONS
    except UnknownEmotionError as error:
        assert repr(text) in str(error)


@given(st.permutations(["sadness", "disgust", "Anger", "neutral", "fear", "surprise", "happy"]))
def test_columns_are_reordered_by_name(labels: list[str]) -> None:
    assert [canonical(labels[place]) for place in permutation(labels)] == list(EMOTIONS)


@pytest.mark.parametrize(
    "labels",
    [list(EMOTIONS[:6]), [*EMOTIONS, "sad"], ["sad", "sadness", *EMOTIONS[:4], "neutral"]],
)
def test_a_label_list_that_lacks_or_repeats_an_emotion_is_refused(labels: list[str]) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        permutation(labels)
