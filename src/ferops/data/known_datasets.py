"""What is known of public datasets: their names, and which of them hold images of which others.

A model that was trained elsewhere comes with dataset names at best. Public datasets are often other ones
under a new name and split anew, so a name alone can mean that test images were trained on.

>>> contains("Facial Emotion Expressions", "FER2013")
1.0
>>> overlap(["dima806/facial_emotions_image_detection"], "fer2013_images").share
0.7
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Holding:
    """What one dataset has of another.

    Attributes:
        images: share of the other's images that it holds, in all its splits.
        trained_on: share of the other's test images that a model trained on it has seen.
        evidence: a sentence that says how that is known.
    """

    images: float
    trained_on: float
    evidence: str


@dataclass(frozen=True)
class KnownDataset:
    """A public dataset, or a pretraining set, by its name and other names."""

    title: str
    names: tuple[str, ...]
    origin: str
    holds: Mapping[str, Holding] = field(default_factory=dict)


@dataclass(frozen=True)
class Overlap:
    """How much of a dataset's test images a model has been trained on.

    Attributes:
        known: False when a name says nothing, or too little.
        share: 0 to 1, of the test images; none when not known.
        evidence: sentences.
    """

    known: bool
    share: float | None
    evidence: str


DATASETS: Mapping[str, KnownDataset] = {
    "fer2013": KnownDataset(
        "FER2013",
        ("fer2013", "fer-2013", "fer2013_csv", "fer2013_images", "msambare/fer2013", "icml face data"),
        "Goodfellow et al. 2013, collected by Google image search",
    ),
    "ferplus": KnownDataset(
        "FER+",
        ("fer+", "ferplus", "fer-plus", "fer2013plus"),
        "FER2013's images with new labels, Barsoum et al. 2016",
    ),
    "facial-emotion-expressions": KnownDataset(
        "Facial Emotion Expressions",
        ("facial emotion expressions", "samaneheslamifar/facial-emotion-expressions"),
        "Kaggle, Samaneh Eslamifar",
        {
            "fer2013": Holding(
                1.0,
                0.7,
                "Facial Emotion Expressions (Kaggle) holds all 35,887 FER2013 images split anew into "
                "28,821 + 7,066: some 70 % of either FER2013 test split is in its training set.",
            )
        },
    ),
    "affectnet": KnownDataset("AffectNet", ("affectnet",), "Mollahosseini et al. 2017, web search"),
    "raf-db": KnownDataset("RAF-DB", ("raf-db", "rafdb"), "Li et al. 2017, Flickr"),
    "ck+": KnownDataset("CK+", ("ck+", "ckplus", "cohn-kanade"), "Lucey et al. 2010, filmed in a laboratory"),
    "imagenet": KnownDataset(
        "ImageNet", ("imagenet", "imagenet-1k", "imagenet-21k", "ilsvrc2012"), "Deng et al. 2009, objects"
    ),
    "synthetic": KnownDataset("the synthetic faces", ("synthetic",), "drawn by ferops"),
}

#: Public checkpoints and the datasets that they were fine-tuned on, by their own cards.
CHECKPOINTS: Mapping[str, tuple[str, ...]] = {
    "dima806/facial_emotions_image_detection": ("facial-emotion-expressions",),
}


def find(name: str) -> str | None:
    """Key in `DATASETS` for a dataset's name in any usual spelling; none when it is not known."""
    plain = _plain(name)
    for key, known in DATASETS.items():
        if plain in {_plain(other) for other in (key, known.title, *known.names)}:
            return key
    return None


def contains(holder: str, other: str) -> float | None:
    """Share of `other`'s images that `holder` holds, 0 to 1; none when either is not known."""
    holding, held = find(holder), find(other)
    if holding is None or held is None:
        return None
    if _images_of(holding) == _images_of(held):
        return 1.0
    known = DATASETS[holding].holds.get(_images_of(held))
    return known.images if known else 0.0


def overlap(trained_on: Sequence[str], dataset: str) -> Overlap:
    """How much of `dataset`'s test images a model has seen that was trained on the named data.

    Args:
        trained_on: datasets or known checkpoints, in any usual spelling. Empty: trained on nothing.
        dataset: the evaluated dataset, by name or by `data.source`.

    One name that is not known makes the whole answer unknown. Of several shares the largest counts: the least
    that is certain.
    """
    if not trained_on:
        return Overlap(True, 0.0, "It was declared to be trained on no dataset.")
    evaluated = find(dataset)
    if evaluated is None:
        return Overlap(False, None, f"Nothing is known of what {dataset} holds of other datasets.")
    names = [part for name in trained_on for part in CHECKPOINTS.get(name.strip().lower(), (name,))]
    answers = [_one(name, evaluated) for name in names]
    evidence = " ".join(dict.fromkeys(answer.evidence for answer in answers))
    shares = [answer.share for answer in answers if answer.share is not None]
    if len(shares) < len(answers):
        return Overlap(False, None, evidence)
    return Overlap(True, max(shares), evidence)


def _one(name: str, evaluated: str) -> Overlap:
    key = find(name)
    if key is None:
        return Overlap(False, None, f"Nothing is known of the dataset {name!r}.")
    known, target = DATASETS[key], DATASETS[evaluated]
    if _images_of(key) == _images_of(evaluated):
        return Overlap(
            False,
            None,
            f"It was trained on {known.title} ({known.origin}), the very images that it is evaluated on, "
            "and nobody said on which of the splits.",
        )
    holding = known.holds.get(_images_of(evaluated))
    if holding is None:
        return Overlap(
            True, 0.0, f"{known.title} ({known.origin}) is not known to share images with {target.title}."
        )
    return Overlap(True, holding.trained_on, holding.evidence)


def _images_of(key: str) -> str:
    """FER+ has new labels, not new images."""
    return "fer2013" if key == "ferplus" else key


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9+/]", "", name.lower())
