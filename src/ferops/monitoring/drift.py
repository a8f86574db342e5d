"""Which columns have moved, by Evidently with the policy's pinned tests and thresholds.

Each watched column is two Evidently metrics: its test, which gives a p-value, and its effect size. A column
has drifted only when both say so; see `monitoring/policy.yaml` for why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.report import Snapshot
from evidently.metrics import ValueDrift
from evidently.tests import gte, lte

from ferops.emotions import EMOTIONS
from ferops.monitoring.policy import CATEGORICAL, Policy
from ferops.monitoring.significance import EmbeddingShift
from ferops.monitoring.verdict import ColumnDrift, EmbeddingDrift


@dataclass(frozen=True)
class Comparison:
    """What moved between reference and current.

    Attributes:
        columns: most moved first, drifted ones before the others.
        embedding: none when the model has no embedding or the policy does not watch it.
        snapshot: Evidently's result, for its HTML page.
    """

    columns: tuple[ColumnDrift, ...]
    embedding: EmbeddingDrift | None
    snapshot: Snapshot

    @property
    def drifted(self) -> tuple[str, ...]:
        """The columns that have drifted, most moved first, and `embedding`."""
        moved = tuple(column.name for column in self.columns if column.drifted)
        return (*moved, "embedding") if self.embedding and self.embedding.drifted else moved


def compare(
    current: pd.DataFrame, reference: pd.DataFrame, embedding: tuple[str, ...], policy: Policy
) -> Comparison:
    """Compare two tables with the columns that the policy watches and those that `embedding` names."""
    vectors = list(embedding) if policy.embedding and set(embedding) <= set(current.columns) else []
    snapshot = _run(current, reference, vectors, policy)
    values = _values(snapshot)
    columns = [_column(name, values, current, reference, policy) for name in policy.columns]
    columns.sort(key=lambda column: (column.drifted, column.moved), reverse=True)
    shift = None
    if policy.embedding and vectors:
        size, p_value = values["embedding", "mmd2"], values["embedding", "permutation"]
        shift = EmbeddingDrift(
            test="permutation",
            p_value=p_value,
            significance=policy.level,
            effect="mmd2",
            size=size,
            threshold=policy.embedding.threshold,
            drifted=p_value < policy.level and size > policy.embedding.threshold,
            rows=min(len(current), len(reference), policy.embedding.sample),
        )
    return Comparison(tuple(columns), shift, snapshot)


def _run(current: pd.DataFrame, reference: pd.DataFrame, vectors: list[str], policy: Policy) -> Snapshot:
    names = list(policy.columns)
    definition = DataDefinition(
        numerical_columns=[*policy.numerical, *vectors],
        categorical_columns=[name for name in names if name in CATEGORICAL],
    )
    metrics: list[Any] = []
    for name, column in policy.columns.items():
        metrics += [
            ValueDrift(column=name, method=column.test, threshold=policy.level),
            ValueDrift(column=name, method=column.effect, threshold=column.threshold),
        ]
    if rule := policy.embedding if vectors else None:
        tests = {"permutation": gte(policy.level), "mmd2": lte(rule.threshold)}
        metrics += [
            EmbeddingShift(
                columns=vectors,
                method=method,
                rows=rule.sample,
                permutations=rule.permutations,
                seed=policy.window.seed,
                tests=[test],
            )
            for method, test in tests.items()
        ]
    # Current first: the other order runs too, and normalises by the wrong side.
    return Report(metrics, include_tests=True).run(
        Dataset.from_pandas(current[names + vectors], definition),
        Dataset.from_pandas(reference[names + vectors], definition),
    )


def _values(snapshot: Snapshot) -> dict[tuple[str, str], float]:
    metrics: list[dict[str, Any]] = snapshot.dict()["metrics"]
    return {
        (m["config"].get("column", "embedding"), m["config"]["method"]): float(m["value"]) for m in metrics
    }


def _column(
    name: str,
    values: Mapping[tuple[str, str], float],
    current: pd.DataFrame,
    reference: pd.DataFrame,
    policy: Policy,
) -> ColumnDrift:
    rule = policy.columns[name]
    p_value, size = values[name, rule.test], values[name, rule.effect]
    return ColumnDrift(
        name=name,
        test=rule.test,
        p_value=p_value,
        significance=policy.level,
        effect=rule.effect,
        size=size,
        threshold=rule.threshold,
        drifted=p_value < policy.level and size > rule.threshold,
        reference=_summary(reference[name]),
        current=_summary(current[name]),
    )


def _summary(column: pd.Series) -> float | dict[str, float]:
    if column.name in CATEGORICAL:
        shares = column.value_counts(normalize=True)
        return {emotion: float(shares.get(emotion, 0.0)) for emotion in EMOTIONS}
    return float(column.mean())
