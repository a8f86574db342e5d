"""The detectors that `drift.py` compares: the shipped policy, Evidently's default, and the literature's.

Each looks at a reference and a window, and names what moved, most moved first; nothing means healthy.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance

from ferops.emotions import EMOTIONS
from ferops.evaluation.predictions import PROBABILITY_COLUMNS
from ferops.monitoring.policy import CATEGORICAL, Policy
from ferops.monitoring.significance import chi_square_p_value, mean_discrepancy
from ferops.serving.describe import NAMES as DESCRIPTORS

#: Gives what moved in the second table against the first.
Detector = Callable[[pd.DataFrame, pd.DataFrame], list[str]]

#: Chance of a false alarm that the detectors of the literature are set to, for all their tests together.
LEVEL = 0.01


def embedding_columns(table: pd.DataFrame) -> list[str]:
    """Names of the embedding's columns."""
    return [name for name in table.columns if name.startswith("embedding_")]


def shipped(policy: Policy) -> Detector:
    """What `ferops.monitoring.drift.compare` decides, without the pictures that take most of its time."""

    def detect(reference: pd.DataFrame, window: pd.DataFrame) -> list[str]:
        moved: dict[str, float] = {}
        for name, rule in policy.columns.items():
            old, new = reference[name], window[name]
            if name in CATEGORICAL:
                shares = [
                    side.value_counts(normalize=True).reindex(EMOTIONS, fill_value=0) for side in (old, new)
                ]
                effect = float(jensenshannon(*shares))
            else:
                effect = wasserstein_distance(old, new) / max(float(np.std(old)), 0.001)
            if effect > rule.threshold:  # the test, which takes longer, can only keep it quiet
                p_value = chi_square_p_value(old, new) if name in CATEGORICAL else ks_2samp(old, new).pvalue
                if p_value < policy.level:
                    moved[name] = effect / rule.threshold
        if rule := policy.embedding:
            size, p_value = discrepancy(reference, window, rule.sample, rule.permutations, policy.window.seed)
            if p_value < policy.level and size > rule.threshold:
                moved["embedding"] = size / rule.threshold
        return sorted(moved, key=lambda name: -moved[name])

    return detect


def discrepancy(
    reference: pd.DataFrame, window: pd.DataFrame, rows: int, permutations: int, seed: int
) -> tuple[float, float]:
    """MMD^2 of the embedding and its p-value, on at most `rows` of each side."""
    columns = embedding_columns(reference)
    sides = [
        table[columns].sample(min(rows, len(table)), random_state=seed).to_numpy(np.float64)
        for table in (reference, window)
    ]
    return mean_discrepancy(*sides, permutations, seed)


def univariate(columns: Sequence[str]) -> Detector:
    """Kolmogorov-Smirnov on each column, Bonferroni over them.

    On the softmax outputs this is "BBSDs", the best of Rabanser, Guennemann and Lipton 2019, "Failing Loudly"
    (arXiv:1810.11953).
    """

    def detect(reference: pd.DataFrame, window: pd.DataFrame) -> list[str]:
        values = {name: float(ks_2samp(reference[name], window[name]).pvalue) for name in columns}
        return sorted((n for n in columns if values[n] < LEVEL / len(columns)), key=values.__getitem__)

    return detect


def kernel(reference: pd.DataFrame, window: pd.DataFrame) -> list[str]:
    """MMD on the embedding, permutation test (Gretton et al. 2012; second in the same comparison)."""
    _, p_value = discrepancy(reference, window, rows=400, permutations=999, seed=0)
    return ["embedding"] if p_value < LEVEL else []


def preset(reference: pd.DataFrame, window: pd.DataFrame) -> list[str]:
    """Evidently's `DataDriftPreset` as it comes, on all logged columns; alarms when half of them drift."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = [*DESCRIPTORS, *PROBABILITY_COLUMNS, "confidence", *embedding_columns(reference)]
    definition = DataDefinition(numerical_columns=names, categorical_columns=["label"])
    old, new = (Dataset.from_pandas(t[[*names, "label"]], definition) for t in (reference, window))
    found = Report([DataDriftPreset()]).run(new, old).dict()["metrics"]
    shares = [m["value"]["share"] for m in found if m["metric_name"].startswith("DriftedColumnsCount")]
    return [f"{shares[0]:.0%} of the columns"] if shares[0] >= 0.5 else []


def literature() -> dict[str, Detector]:
    """The detectors that the policy is compared with, but for the preset, which is slow."""
    return {
        "KS on softmax outputs (BBSDs)": univariate(PROBABILITY_COLUMNS),
        "MMD on the embedding": kernel,
        "KS on descriptors": univariate(DESCRIPTORS),
        "KS on descriptors and softmax outputs": univariate([*DESCRIPTORS, *PROBABILITY_COLUMNS]),
    }


def thresholded_accuracy(reference: pd.DataFrame, window: pd.DataFrame) -> float:
    """The share of a window's predictions above the confidence that cuts the reference at its accuracy.

    "Average thresholded confidence" (Garg et al. 2022, arXiv:2201.04234), the rival of the project's own
    `expected_accuracy`, with the same arguments.
    """
    accuracy = float((reference["label"] == reference["emotion"]).mean())
    limit = reference["confidence"].quantile(1 - accuracy)
    return float((window["confidence"] > limit).mean())
