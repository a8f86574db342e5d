"""Accuracy on the predictions that people sent feedback for, against the reference's."""

import warnings
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, MulticlassClassification, Report
from evidently.core.report import Snapshot
from evidently.metrics import Accuracy, RecallByLabel
from scipy.stats import fisher_exact
from sklearn.exceptions import UndefinedMetricWarning

from ferops.emotions import EMOTIONS
from ferops.monitoring.policy import Policy, QualityPolicy, WindowPolicy
from ferops.monitoring.verdict import DayQuality, Quality, Share
from ferops.serving.log_reader import LAST_WORDS, one, read_log

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

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


def by_day(log_dir: Path, policy: QualityPolicy, now: datetime) -> tuple[DayQuality, ...]:
    """Accuracy and recall of each UTC day's predictions, from all feedback that the log holds.

    Feedback counts for the day of its prediction, however late and in whichever order it comes; the last
    word on a prediction counts, and an image that was sent repeatedly counts once a day. Joined and counted
    in SQL: what is held in memory grows with the feedback, not with the predictions.

    Args:
        log_dir: the prediction log.
        policy: how many days back.
        now: aware; later predictions do not count.

    Returns:
        A record for each day and model version with feedback, in this order.
    """
    first = datetime.combine(now.astimezone(UTC).date() - timedelta(days=policy.days - 1), time(), UTC)

    def count(log: "DuckDBPyConnection") -> list[tuple[Any, ...]]:
        log.execute(f"CREATE TABLE words AS {LAST_WORDS}")
        if not one(log, "SELECT count(*) FROM words")[0]:
            return []  # nothing to look for among perhaps millions of predictions
        return log.execute(
            "SELECT day, model_version, emotion, count(*), count(*) FILTER (label = emotion) FROM ("
            "SELECT time::DATE AS day, model_version, emotion, label FROM predictions JOIN words USING (id) "
            "WHERE time BETWEEN ? AND ? QUALIFY row_number() OVER "
            "(PARTITION BY day, model_version, hash(descriptors) ORDER BY said DESC, id) = 1"
            ") GROUP BY ALL ORDER BY ALL",
            [first, now],
        ).fetchall()

    found: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    for day, version, emotion, labelled, right in read_log(log_dir, count, since=first):
        found.setdefault((day.isoformat(), version), {})[emotion] = (labelled, right)
    return tuple(_day(day, version, emotions) for (day, version), emotions in found.items())


def _day(day: str, version: str, emotions: Mapping[str, tuple[int, int]]) -> DayQuality:
    labelled, right = (sum(counts) for counts in zip(*emotions.values(), strict=True))
    return DayQuality(
        day=day,
        model_version=version,
        accuracy=_share(labelled, right),
        recall={emotion: _share(*emotions[emotion]) for emotion in EMOTIONS if emotion in emotions},
    )


def _share(labelled: int, right: int) -> Share:
    return Share(labelled=labelled, right=right, interval=wilson(right, labelled))


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
