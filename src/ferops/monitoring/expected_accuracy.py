"""How accurate the model probably is on images that nobody labelled, from its own confidences.

    >>> estimate(reference, window, max_drop=0.05, seed=0).value  # doctest: +SKIP
    0.61

Labels come late or never. A model's confidence says how often it is right once it is calibrated on images
with labels, which the reference has. The estimate holds as far as that relation holds in the window: faces
that the model finds hard are seen, faces on which it is confidently wrong are not. So it is too high when
faces change in such a way, by as much as docs/monitoring.md has measured.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from ferops.monitoring.quality import Z
from ferops.monitoring.verdict import ExpectedAccuracy

#: References drawn again (with replacement) to see what of the estimate is this reference's chance.
REDRAWN = 100


def expected_accuracy(reference: pd.DataFrame, window: pd.DataFrame) -> float:
    """The mean calibrated confidence of a window's predictions, 0 to 1.

    "Confidence-based performance estimation", on the share of right answers at each confidence in the
    reference (isotonic regression, Zadrozny and Elkan 2002).

    Args:
        reference: columns `confidence`, `label` and the true `emotion`.
        window: column `confidence`.
    """
    return float(_calibrated(reference, window).mean())


def estimate(reference: pd.DataFrame, window: pd.DataFrame, max_drop: float, seed: int) -> ExpectedAccuracy:
    """`expected_accuracy` with its interval.

    The interval is for the share of right answers that labels of just these rows would show, 95 % of the
    time, as long as confidence means what it meant in the reference: the chance of each answer, and that of
    the reference, which is drawn again and again (bootstrap).

    Args:
        reference: as for `expected_accuracy`.
        window: as for `expected_accuracy`, at least one row.
        max_drop: below the reference's accuracy that is passed over.
        seed: of the draws.
    """
    chances = _calibrated(reference, window)
    generator = np.random.default_rng(seed)
    redrawn = [
        expected_accuracy(reference.iloc[generator.integers(0, len(reference), len(reference))], window)
        for _ in range(REDRAWN)
    ]
    value, answers = float(chances.mean()), float((chances * (1 - chances)).sum()) / len(window) ** 2
    half = Z * float(np.sqrt(np.var(redrawn) + answers))
    accuracy = float((reference["label"] == reference["emotion"]).mean())
    return ExpectedAccuracy(
        value=value,
        interval=(max(0.0, value - half), min(1.0, value + half)),
        rows=len(window),
        reference_accuracy=accuracy,
        fell=accuracy - value > max_drop,
    )


def _calibrated(reference: pd.DataFrame, window: pd.DataFrame) -> NDArray[np.float64]:
    """The chance of each of the window's predictions to be right."""
    calibrated = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    calibrated.fit(reference["confidence"], reference["label"] == reference["emotion"])
    return np.asarray(calibrated.predict(window["confidence"]), np.float64)
