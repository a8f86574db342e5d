"""Accuracy as a function of the share of same-class neighbours: what makes a batch leak's mechanism visible.

The same images are predicted again and again; only how many of the images beside them show the same
emotion changes. The accuracy of a sound model is a flat line.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ferops.data.progress import track
from ferops.evaluation.metrics import bootstrap, confusion_matrix
from ferops.models.classifier import Classifier, Images

#: Wanted shares; a batch of 32 has 31 neighbours, so that the real ones are 0, 26, 52, 74 and 100 %.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

Rows = NDArray[np.int64]


class SharePoint(BaseModel):
    """Accuracy among a given share of same-class neighbours.

    Attributes:
        share: of the neighbours, 0 to 1, that have the image's own emotion.
        images: how many were scored; the same ones for every share.
        accuracy, interval: with `[low, high]`, percentile bootstrap over the images.
    """

    model_config = ConfigDict(frozen=True)

    share: float
    images: int
    accuracy: float
    interval: tuple[float, float]


def accuracy_by_share(
    classifier: Classifier,
    fetch: Callable[[Rows], Images],
    labels: NDArray[np.int64],
    probes: Rows,
    *,
    batch_size: int,
    samples: int,
    level: float,
    seed: int,
    shares: Sequence[float] = SHARES,
) -> list[SharePoint]:
    """Predict `probes` among different shares of neighbours of their own emotion.

    A batch holds one emotion as often as the share asks; the others in it are drawn at random from the
    images of all other emotions. It costs about 40 predictions a probe, most of them for 0 %, where a batch
    has one probe.

    Args:
        classifier: any model; only `predict` is used.
        fetch: gives uint8 `[len(rows), side, side, 3]` for rows of `labels`.
        labels: int64 `[N]`, of all images that may be neighbours; at least two emotions.
        probes: int64 `[P]`, rows that are scored.
        batch_size: at least 2.
        samples: of the bootstrap.
        level: coverage of the intervals, 0.5 to 1.
        seed: of the neighbours and the bootstrap.
        shares: of same-class neighbours, 0 to 1.

    Raises:
        ValueError: if all labels are one emotion, or a batch has no neighbours.
    """
    if batch_size < 2 or len(np.unique(labels)) < 2:
        raise ValueError("neighbours of another emotion need two emotions and a batch size of at least 2")
    generator = np.random.default_rng(seed)
    plans = [
        (number, *company)
        for number, share in enumerate(shares)
        for company in companies(labels, probes, same_class(share, batch_size), batch_size, generator)
    ]
    predicted = np.empty((len(shares), len(labels)), np.int64)
    what = f"{classifier.card.name}, {len(probes)} images among more and more of their kind, batches"
    for number, batch, seats in track(plans, len(plans), what):
        answer = classifier.predict(fetch(batch), batch_size=batch_size).probabilities
        predicted[number, batch[seats]] = answer[seats].argmax(axis=1)
    points = []
    for number, share in enumerate(shares):
        counts = confusion_matrix(labels[probes], predicted[number, probes])
        points.append(
            SharePoint(
                share=(same_class(share, batch_size) - 1) / (batch_size - 1),
                images=len(probes),
                accuracy=float(np.trace(counts) / counts.sum()),
                interval=bootstrap(counts, samples=samples, level=level, seed=seed)["accuracy"],
            )
        )
    return points


def same_class(share: float, batch_size: int) -> int:
    """How many images of a batch have one emotion when `share` of an image's neighbours do."""
    return 1 + round(share * (batch_size - 1))


def companies(
    labels: NDArray[np.int64], probes: Rows, same: int, batch_size: int, generator: np.random.Generator
) -> Iterator[tuple[Rows, Rows]]:
    """Batches in which each probe occurs once among `same` images of its emotion.

    Yields:
        Rows int64 `[batch_size]` in random order, and the positions of the probes among them.
    """
    for label in np.unique(labels[probes]):
        members, strangers = np.flatnonzero(labels == label), np.flatnonzero(labels != label)
        own = probes[labels[probes] == label]
        for start in range(0, len(own), same):
            scored = own[start : start + same]
            kin = _draw(np.setdiff1d(members, scored), members, same - len(scored), generator)
            batch = np.concatenate([scored, kin, _draw(strangers, strangers, batch_size - same, generator)])
            order = generator.permutation(batch_size)
            yield batch[order], np.argsort(order)[: len(scored)]


def _draw(pool: Rows, otherwise: Rows, count: int, generator: np.random.Generator) -> Rows:
    """`count` rows of `pool`; of an emotion with fewer images than that, some twice."""
    if len(pool) >= count:
        return generator.choice(pool, count, replace=False)
    return generator.choice(otherwise, count, replace=True)
