"""The taxonomy: the canonical emotions, their order, and how other vocabularies map to them.

Every probability vector, confusion matrix and label column in this project uses `EMOTIONS` in this
order. Labels from datasets and models are always mapped by name, never by position.
"""

from collections.abc import Mapping, Sequence

#: Canonical order: FER2013's own numbering (`emotion` column of its CSV), Goodfellow et al. 2013.
EMOTIONS: tuple[str, ...] = (
    "angry",
    "disgust",
    "fear",
    "happy",
    "sad",
    "surprise",
    "neutral",
)

NUM_EMOTIONS = len(EMOTIONS)

#: FER2013 CSV: `emotion` column.
FER2013_CODES: Mapping[int, str] = dict(enumerate(EMOTIONS))

#: RAF-DB (Li et al. 2017): numbers in `list_patition_label.txt`.
RAFDB_CODES: Mapping[int, str] = {
    1: "surprise",
    2: "fear",
    3: "disgust",
    4: "happy",
    5: "sad",
    6: "angry",
    7: "neutral",
}

#: Other names in use for the same seven emotions, lower case.
SYNONYMS: Mapping[str, str] = {
    "anger": "angry",
    "mad": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "scared": "fear",
    "happiness": "happy",
    "joy": "happy",
    "smile": "happy",
    "sadness": "sad",
    "surprised": "surprise",
    "suprise": "surprise",  # the spelling of several public image folders
    "calm": "neutral",
    "neutrality": "neutral",
}


class UnknownEmotionError(ValueError):
    """A label that is none of the seven emotions nor a known synonym."""


def canonical(name: str) -> str:
    """Return the canonical emotion for a dataset's or model's own label.

    Case, surrounding blanks and the synonyms in `SYNONYMS` are understood.

    Raises:
        UnknownEmotionError: if the name means none of the seven.

    >>> canonical("Happiness")
    'happy'
    """
    key = name.strip().lower()
    if key in EMOTIONS:
        return key
    if key in SYNONYMS:
        return SYNONYMS[key]
    raise UnknownEmotionError(
        f"unknown emotion {name!r}: expected one of {', '.join(EMOTIONS)} "
        f"(or a synonym such as {', '.join(sorted(SYNONYMS)[:4])})"
    )


def index(name: str) -> int:
    """Position of an emotion in the canonical order, 0 to 6."""
    return EMOTIONS.index(canonical(name))


def permutation(labels: Sequence[str]) -> list[int]:
    """Where each canonical emotion stands in a model's own label list.

    `probabilities[:, permutation(labels)]` reorders a model's columns to the canonical order.

    Raises:
        UnknownEmotionError: if a label means none of the seven.
        ValueError: if an emotion is missing or appears twice.
    """
    named = [canonical(label) for label in labels]
    if sorted(named) != sorted(EMOTIONS):
        raise ValueError(f"the labels {list(labels)} do not name each of {', '.join(EMOTIONS)} exactly once")
    return [named.index(emotion) for emotion in EMOTIONS]
