"""Does 80 % confidence mean 80 % right? The reliability table and the expected calibration error."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Reliability(NamedTuple):
    """One entry per equal-width confidence bin `(lower, upper]`.

    Attributes:
        lower, upper: float64 `[bins]`, edges.
        rows: int64 `[bins]`, predictions whose confidence lies in the bin.
        confidence: float64 `[bins]`, their mean confidence; NaN in an empty bin.
        accuracy: float64 `[bins]`, the share that is right; NaN in an empty bin.
    """

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    rows: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(labels: NDArray[np.int64], probabilities: NDArray[np.float32], bins: int = 15) -> Reliability:
    """The table behind a reliability diagram, over the predicted emotion's probability (0 to 1)."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    # ceil puts an edge value into the bin below it: bins are open on the left, as in Guo et al.
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(place, weights=confidence, minlength=bins) / rows
        accuracy = np.bincount(place, weights=right, minlength=bins) / rows
    edges = np.linspace(0, 1, bins + 1)
    return Reliability(edges[:-1], edges[1:], rows, mean_confidence, accuracy)


def expected_calibration_error(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy, weighted by rows, 0 to 1 (Guo et al. 2017, eq. 3)."""
    table = reliability(labels, probabilities, bins)
    gaps = np.nan_to_num(np.abs(table.accuracy - table.confidence))
    return float((gaps * table.rows).sum() / table.rows.sum())


def resampled_errors(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], bins: int, *, samples: int, seed: int
) -> NDArray[np.float64]:
    """The calibration error `[samples]` of as many rows, drawn with replacement; for an interval of it.

    A row is drawn by its bin and whether it is right, and takes its bin's mean confidence: within a bin they
    hardly differ. Drawing adds noise to every bin, so that these errors lean upward.
    """
    table = reliability(labels, probabilities, bins)
    right = np.rint(np.nan_to_num(table.accuracy) * table.rows)
    confidence = np.nan_to_num(table.confidence)
    cells = np.stack([right, table.rows - right]) / len(labels)
    drawn = np.random.default_rng(seed).multinomial(len(labels), cells.ravel(), size=samples)
    hits, misses = np.moveaxis(drawn.reshape(samples, 2, bins), 1, 0)
    gaps = np.abs(hits - (hits + misses) * confidence)
    errors: NDArray[np.float64] = gaps.sum(axis=1) / len(labels)
    return errors
