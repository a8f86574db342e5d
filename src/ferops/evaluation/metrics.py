"""Classification metrics with bootstrap intervals, all from the confusion matrix and the probabilities.

    >>> labels = np.array([0, 1, 2, 3, 4, 5, 6])
    >>> measure(labels, np.eye(7, dtype=np.float32)[labels]).accuracy
    1.0

Averages over classes follow scikit-learn: balanced accuracy over the classes that occur in the labels,
macro-F1 over those that occur in the labels or in the predictions.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ferops.emotions import EMOTIONS, NUM_EMOTIONS
from ferops.evaluation.calibration import expected_calibration_error, resampled_errors

Score = Literal["accuracy", "macro_f1", "balanced_accuracy"]
SCORES: tuple[Score, ...] = ("accuracy", "macro_f1", "balanced_accuracy")


class UnmeasurableError(ValueError):
    """Labels and answers that no metric can be taken of; the message says why."""


class Metrics(BaseModel):
    """What a candidate reached on a set of rows.

    Attributes:
        rows: how many images were measured.
        recall, precision, f1: per emotion; none where the emotion has no row (recall), was never
            predicted (precision) or neither (f1).
        intervals: `[low, high]` of each of `SCORES` and of the calibration error, percentile bootstrap over
            rows.
        recall_intervals: the same of each emotion's recall; empty in results of before there were any.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    accuracy: float
    macro_f1: float
    balanced_accuracy: float
    expected_calibration_error: float
    negative_log_likelihood: float
    recall: Mapping[str, float | None]
    precision: Mapping[str, float | None]
    f1: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]]
    recall_intervals: Mapping[str, tuple[float, float] | None] = {}


def measure(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    *,
    bins: int = 15,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Metrics:
    """Every metric of `Metrics`.

    Args:
        labels: int64 `[N]`, 0 to 6.
        probabilities: float32 `[N, 7]`, rows sum to 1, canonical order.
        bins: equal-width bins of the calibration error.
        samples: bootstrap resamples of the rows.
        level: coverage of the intervals, 0.5 to 1.
        seed: of the bootstrap.

    Raises:
        UnmeasurableError: no rows, wrong shapes, or values that are no probabilities.
    """
    check(labels, probabilities)
    counts = confusion_matrix(labels, probabilities.argmax(axis=1))
    point = scores(counts)
    recall, precision, f1 = per_class(counts)
    drawn, _, _ = per_class(resample(counts, samples=samples, seed=seed))
    error = expected_calibration_error(labels, probabilities, bins)
    errors = resampled_errors(labels, probabilities, bins, samples=samples, seed=seed)
    return Metrics(
        rows=len(labels),
        accuracy=float(point["accuracy"]),
        macro_f1=float(point["macro_f1"]),
        balanced_accuracy=float(point["balanced_accuracy"]),
        expected_calibration_error=error,
        negative_log_likelihood=negative_log_likelihood(labels, probabilities),
        recall=_named(recall),
        precision=_named(precision),
        f1=_named(f1),
        intervals={
            **bootstrap(counts, samples=samples, level=level, seed=seed),
            "expected_calibration_error": interval(errors, error, level),
        },
        recall_intervals={
            emotion: None if np.isnan(value) else interval(values, float(value), level)
            for emotion, value, values in zip(EMOTIONS, recall, drawn.T, strict=True)
        },
    )


def check(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> None:
    """Refuse what cannot be measured.

    Raises:
        UnmeasurableError: no rows, unequal lengths, labels outside 0 to 6, or rows that are no distribution.
    """
    if len(labels) == 0:
        raise UnmeasurableError("there are no rows to measure")
    if probabilities.shape != (len(labels), NUM_EMOTIONS):
        raise UnmeasurableError(
            f"probabilities have shape {list(probabilities.shape)}, "
            f"but {len(labels)} labels need [{len(labels)}, {NUM_EMOTIONS}]"
        )
    if labels.min() < 0 or labels.max() >= NUM_EMOTIONS:
        raise UnmeasurableError(
            f"labels go from {labels.min()} to {labels.max()}: expected 0 to {NUM_EMOTIONS - 1}"
        )
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(probabilities.sum(axis=1) - 1) < 1e-3) | (probabilities < 0).any(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise UnmeasurableError(
            f"{int(wrong.sum())} of {len(labels)} predictions are no probabilities "
            f"(first: row {row}, {probabilities[row].tolist()}): the model diverged or lacks its softmax"
        )


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts int64 `[7, 7]`: true emotion in rows, predicted in columns."""
    cells = np.bincount(labels * NUM_EMOTIONS + predicted, minlength=NUM_EMOTIONS**2)
    return cells.reshape(NUM_EMOTIONS, NUM_EMOTIONS).astype(np.int64)


def per_class(counts: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Recall, precision and F1, each `[..., 7]`, of confusion matrices `[..., 7, 7]`; NaN where undefined."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return hits / true, hits / predicted, 2 * hits / (true + predicted)


def scores(counts: NDArray) -> dict[Score, NDArray[np.float64]]:
    """The three `SCORES`, each `[...]`, of confusion matrices `[..., 7, 7]` with at least one row each."""
    recall, _, f1 = per_class(counts)
    hits = np.trace(counts, axis1=-2, axis2=-1)
    return {
        "accuracy": hits / counts.sum(axis=(-2, -1)),
        "macro_f1": np.nanmean(f1, axis=-1),
        "balanced_accuracy": np.nanmean(recall, axis=-1),
    }


def negative_log_likelihood(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """Mean of -log p(true emotion), natural logarithm; p is clipped at float32's epsilon."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(true, np.finfo(np.float32).eps, 1)).mean()) + 0.0


def bootstrap(
    counts: NDArray[np.int64], *, samples: int, level: float, seed: int
) -> dict[str, tuple[float, float]]:
    """Percentile intervals (Efron & Tibshirani 1993, §13.3) of the `SCORES` over resampled rows."""
    resampled = scores(resample(counts, samples=samples, seed=seed))
    point = scores(counts)
    return {name: interval(resampled[name], float(point[name]), level) for name in SCORES}


def resample(counts: NDArray[np.int64], *, samples: int, seed: int) -> NDArray[np.int64]:
    """Confusion matrices `[samples, 7, 7]` of as many rows, drawn with replacement.

    Drawing N rows and counting them is one multinomial draw over the 49 cells, so that the cost does not
    grow with the rows.
    """
    rows = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(rows, counts.ravel() / rows, size=samples)
    return drawn.reshape(samples, NUM_EMOTIONS, NUM_EMOTIONS)


def interval(resampled: NDArray[np.float64], point: float, level: float) -> tuple[float, float]:
    """The central `level` share of the resampled values, widened if need be to hold the estimate itself.

    Values that are not defined (the recall of a class that was not drawn) are left out.

    With very few rows of a class a resampled macro-F1 is biased, and its percentiles can miss the
    estimate; widening is the cautious side.
    """
    defined = resampled[~np.isnan(resampled)]
    if not len(defined):
        return point, point
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), point), max(float(high), point)


def _named(values: NDArray[np.float64]) -> dict[str, float | None]:
    return {
        emotion: None if np.isnan(value) else float(value)
        for emotion, value in zip(EMOTIONS, values, strict=True)
    }
