"""How accurate the model probably is on images that nobody labelled, from its own confidences.

    >>> expected_accuracy(reference, window)  # doctest: +SKIP
    0.61

Labels come late or never. A model's confidence says how often it is right once it is calibrated on images
with labels, which the reference has. The estimate holds as far as that relation holds in the window: faces
that the model finds hard are seen, faces on which it is confidently wrong are not.
"""

import pandas as pd
from sklearn.isotonic import IsotonicRegression


def expected_accuracy(reference: pd.DataFrame, window: pd.DataFrame) -> float:
    """The mean calibrated confidence of a window's predictions, 0 to 1.

    "Confidence-based performance estimation", on the share of right answers at each confidence in the
    reference (isotonic regression, Zadrozny and Elkan 2002). Its error: docs/monitoring.md.

    Args:
        reference: columns `confidence`, `label` and the true `emotion`.
        window: column `confidence`.
    """
    calibrated = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    calibrated.fit(reference["confidence"], reference["label"] == reference["emotion"])
    return float(calibrated.predict(window["confidence"]).mean())
