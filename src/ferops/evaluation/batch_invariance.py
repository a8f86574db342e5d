"""Does an image's answer depend on the images beside it? It must not.

The published PAtt-Lite lets the images of a batch attend to each other, and was evaluated class by class:
a batch held one class, and the neighbours gave the answer away. This check shows such a leak in any
`Classifier`, whatever its framework: the same images are predicted alone, in shuffled batches, in
class-sorted batches (the published evaluation's order) and in batches of another size. The gate's rule and
`ferops explain batch-leak` both come here.

    >>> check(classifier, images, labels, batch_size=32, seed=0).max_difference  # doctest: +SKIP
    2.4e-07
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ferops.data.progress import track
from ferops.models.classifier import Classifier, Images

Arrangement = Literal["single", "shuffled", "class_sorted", "other_size"]
ARRANGEMENTS: tuple[Arrangement, ...] = ("single", "shuffled", "class_sorted", "other_size")

#: Above this many parameters a CPU predicts only some images a second, and this check, which predicts each
#: image four times, takes fewer of them. By size and not by the clock, so that the result does not depend on
#: the machine.
LARGE_MODEL = 20_000_000
LARGE_MODEL_IMAGES = 128

#: Images between two signs of progress, rounded to whole batches.
BLOCK = 64


class BatchInvariance(BaseModel):
    """The same images in different company.

    Attributes:
        images: how many were predicted in each arrangement.
        batch_size: of `shuffled` and `class_sorted`; `other_size` shuffles anew in `other_batch_size`.
        max_difference: the largest change of any probability against the image predicted alone, 0 to 1.
        difference: the same for each arrangement.
        labels_changed: share of images whose predicted emotion is not that of the image alone.
        accuracy: for each arrangement, on these images.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    batch_size: int
    other_batch_size: int
    max_difference: float
    difference: Mapping[str, float]
    labels_changed: Mapping[str, float]
    accuracy: Mapping[str, float]


def check(
    classifier: Classifier, images: Images, labels: NDArray[np.int64], *, batch_size: int, seed: int
) -> BatchInvariance:
    """Predict the images in every arrangement and compare; costs four predictions an image.

    Args:
        classifier: any model; only `predict` is used.
        images: uint8 `[N, side, side, 3]`, a stratified sample (see `stratified`).
        labels: int64 `[N]`, to sort by and to score with.
        batch_size: at least 2, and such that `class_sorted` batches hold mostly one class.
        seed: of the shuffles.

    Raises:
        ValueError: fewer than two images, or a batch of one.
    """
    if len(images) < 2 or batch_size < 2:
        raise ValueError(
            f"{len(images)} image(s) in batches of {batch_size} have no neighbours to depend on: "
            "give at least two images and a batch size of at least 2"
        )
    answers = arrangements(classifier, images, labels, batch_size=batch_size, seed=seed)
    return summarise(answers, labels, batch_size)


def arrangements(
    classifier: Classifier, images: Images, labels: NDArray[np.int64], *, batch_size: int, seed: int
) -> dict[Arrangement, NDArray[np.float32]]:
    """Probabilities float32 `[N, 7]` of each arrangement, all in the order of `images`."""
    blocks = [
        (name, order[start : start + whole], size)
        for name, (order, size) in plan(labels, batch_size=batch_size, seed=seed).items()
        for whole in [max(BLOCK // size, 1) * size]
        for start in range(0, len(order), whole)
    ]
    answers = {name: np.empty((len(images), 7), np.float32) for name in ARRANGEMENTS}
    what = f"{classifier.card.name}, the same {len(images)} images in different company, blocks"
    for name, rows, size in track(blocks, len(blocks), what):
        answers[name][rows] = classifier.predict(images[rows], batch_size=size).probabilities
    return answers


def plan(
    labels: NDArray[np.int64], *, batch_size: int, seed: int
) -> dict[Arrangement, tuple[NDArray[np.int64], int]]:
    """For each arrangement the order int64 `[N]` in which images are read, and the batch size."""
    generator = np.random.default_rng(seed)
    shuffled, again = generator.permutation(len(labels)), generator.permutation(len(labels))
    return {
        "single": (np.arange(len(labels)), 1),
        "shuffled": (shuffled, batch_size),
        # Shuffled first, so that only the class brings images together, not where they lay.
        "class_sorted": (shuffled[np.argsort(labels[shuffled], kind="stable")], batch_size),
        "other_size": (again, other_size(batch_size)),
    }


def summarise(
    answers: Mapping[Arrangement, NDArray[np.float32]], labels: NDArray[np.int64], batch_size: int
) -> BatchInvariance:
    """Compare each arrangement's probabilities with those of the images alone."""
    alone = answers["single"]
    others = [name for name in ARRANGEMENTS if name != "single"]
    difference = {name: _largest_gap(answers[name], alone) for name in others}
    return BatchInvariance(
        images=len(labels),
        batch_size=batch_size,
        other_batch_size=other_size(batch_size),
        max_difference=max(difference.values()),
        difference=difference,
        labels_changed={
            name: float((answers[name].argmax(axis=1) != alone.argmax(axis=1)).mean()) for name in others
        },
        accuracy={name: float((answers[name].argmax(axis=1) == labels).mean()) for name in ARRANGEMENTS},
    )


def other_size(batch_size: int) -> int:
    """A smaller batch that does not divide the first, so that its batches differ in more than order."""
    return max(2, batch_size // 2 - 1)


def affordable(images: int, parameters: int) -> int:
    """How many of `images` to check on: fewer for a large model, see `LARGE_MODEL`."""
    return min(images, LARGE_MODEL_IMAGES) if parameters > LARGE_MODEL else images


def stratified(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Indices of `count` rows (or all, if fewer), drawn in the classes' proportions, sorted.

    Every class that occurs gets at least one row, as far as `count` allows.
    """
    if count >= len(labels):
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    # Ranks within a class, spread over 0 to 1: the smallest ranks of all classes together are a
    # proportional sample, and each class's first has rank 0.
    order = generator.permutation(len(labels))
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members)) / len(members)
    return np.sort(order[np.argsort(rank[order], kind="stable")][:count])


def _largest_gap(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    gap = np.abs(first - second)
    return 1.0 if np.isnan(gap).any() else float(gap.max())
