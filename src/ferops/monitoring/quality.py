"""Accuracy on the predictions that people sent feedback for, against the reference's."""

import warnings

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, MulticlassClassification, Report
from evidently.core.report import Snapshot
from evidently.metrics import Accuracy, RecallByLabel
from scipy.stats import fisher_exact
from sklearn.exceptions import UndefinedMetricWarning

from ferops.emotions import EMOTIONS
from ferops.monitoring.policy import Policy, WindowPolicy
from ferops.monitoring.verdict import Quality

#: Standard normal quantile of a two-sided 95 % interval.
Z = 1.959964


def measure(
    labelled: pd.DataFrame, reference: pd.DataFrame, policy: Policy
) -> tuple[Quality, Snapshot | None]:
    """Quality of the labelled rows; with enough of them, Evidently's result too, of a draw if they are many.

    Args:
        labelled: label and true emotion of each prediction with feedback.
        reference: rows with the same columns.
        policy: how large a drop counts.

    The drop counts when it exceeds the policy's and a one-sided Fisher test, exact at any size, agrees.
    """
    if policy.quality is None:
        raise ValueError("the policy does not watch quality")
    reference_right = int((reference["label"] == reference["emotion"]).sum())
    reference_accuracy = reference_right / len(reference)
    count, right = len(labelled), int((labelled["label"] == labelled["emotion"]).sum())
    enough = count >= policy.quality.minimum_labelled
    snapshot = _evidently(_drawn(labelled, policy.window), reference) if enough else None
    p_value = None
    if enough:
        table = [[right, count - right], [reference_right, len(reference) - reference_right]]
        p_value = float(fisher_exact(table, alternative="less").pvalue)
    accuracy = right / count if count else None
    return (
        Quality(
            labelled=count,
            accuracy=accuracy,
            interval=wilson(right, count) if count else None,
            reference_accuracy=reference_accuracy,
            recall=_recall(labelled),
            p_value=p_value,
            significance=policy.level,
            max_drop=policy.quality.max_accuracy_drop,
            drifted=None
            if p_value is None or accuracy is None
            else p_value < policy.level and reference_accuracy - accuracy > policy.quality.max_accuracy_drop,
        ),
        snapshot,
    )


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), within 0 to 1 and sensible for small counts."""
    share, square = right / count, Z**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = Z * np.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _recall(labelled: pd.DataFrame) -> dict[str, float]:
    hits = (labelled["label"] == labelled["emotion"]).groupby(labelled["emotion"]).mean()
    return {emotion: float(hits[emotion]) for emotion in EMOTIONS if emotion in hits.index}


def _drawn(rows: pd.DataFrame, policy: WindowPolicy) -> pd.DataFrame:
    return rows if len(rows) <= policy.sample else rows.sample(policy.sample, random_state=policy.seed)


def _evidently(labelled: pd.DataFrame, reference: pd.DataFrame) -> Snapshot:
    names = ["emotion", "label"]
    definition = DataDefinition(
        categorical_columns=names,
        classification=[MulticlassClassification(target="emotion", prediction_labels="label")],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # an emotion that nobody fed back yet
        return Report([Accuracy(), RecallByLabel()]).run(
            Dataset.from_pandas(labelled[names], definition),
            Dataset.from_pandas(reference[names], definition),
        )
