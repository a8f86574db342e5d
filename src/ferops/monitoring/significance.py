"""Two tests that Evidently lacks, for categories and for embeddings, as Evidently metrics.

Evidently's own `chisquare` takes the reference's shares for exact: with a reference of 700 rows it rejects
most healthy windows of 5,000. Its `EmbeddingsDrift` draws an unseeded t-SNE (seconds for some hundred
rows), and its bootstrap is no test of a chosen level. The tests here hold their level for any two sizes.
"""

from typing import Any

import numpy as np
import pandas as pd
from evidently.core.datasets import Dataset
from evidently.core.metric_types import SingleValue, SingleValueCalculation, SingleValueMetric
from evidently.core.report import Context
from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
from evidently.legacy.core import ColumnType
from evidently.legacy.renderers.html_widgets import plotly_figure
from numpy.typing import NDArray
from plotly import graph_objects

#: Tables simulated for one chi-square test; the finest p-value is 1e-5.
TABLES = 99_999

#: Of the widest feature's standard deviation. Half precision computes an embedding to about three digits.
LEAST_SPREAD = 0.02


def chi_square_p_value(reference: pd.Series, current: pd.Series, tables: int = TABLES) -> float:
    """Two-sample chi-square test of homogeneity, p-value by simulation with fixed margins.

    Simulation (Hope 1968) rather than the asymptotic distribution, because rare classes leave cells with an
    expected count under five. Seeded: the same two columns give the same p-value.
    """
    counts = pd.concat([current.value_counts(), reference.value_counts()], axis=1).fillna(0).sort_index()
    table = counts.to_numpy(np.int64)  # [classes, 2]: current, reference
    total, drawn = table.sum(axis=1), int(table[:, 0].sum())
    if len(total) < 2 or drawn == 0 or drawn == total.sum():
        return 1.0
    expected = total * drawn / total.sum()
    # With both margins fixed the statistic grows with this sum alone.
    simulated = np.random.default_rng(0).multivariate_hypergeometric(total, drawn, tables)
    distances = ((simulated - expected) ** 2 / total).sum(axis=1)
    observed = ((table[:, 0] - expected) ** 2 / total).sum()
    return float((1 + (distances >= observed * (1 - 1e-12)).sum()) / (tables + 1))


def _chi2(
    reference_data: pd.Series, current_data: pd.Series, feature_type: ColumnType, threshold: float
) -> tuple[float, bool]:
    p_value = chi_square_p_value(reference_data, current_data)
    return p_value, p_value < threshold


#: `ValueDrift(method="chi2")`, once this module is imported.
CHI2 = StatTest(
    name="chi2",
    display_name="two-sample chi-square p_value",
    allowed_feature_types=[ColumnType.Categorical],
)
register_stattest(CHI2, default_impl=_chi2)


def mean_discrepancy(
    reference: NDArray[np.floating], current: NDArray[np.floating], permutations: int, seed: int
) -> tuple[float, float]:
    """Maximum mean discrepancy of two samples `[m, d]` and `[n, d]`, and its p-value by permutation.

    The unbiased estimate of MMD^2 with a Gaussian kernel of median width (Gretton et al. 2012, eq. 3), cut
    at 0; 0 means equal distributions. Columns are scaled by the reference's standard deviation first, so that
    no single feature sets the width. A feature that hardly changes in the reference is scaled as if it had
    `LEAST_SPREAD` of the widest one's: else another runtime's rounding of a constant would be drift.
    """
    spread = reference.std(axis=0)
    scale = np.maximum(spread, max(LEAST_SPREAD * float(spread.max()), 1e-6))
    both = np.concatenate([current, reference]).astype(np.float64) / scale
    n, m = len(current), len(reference)
    norms = (both**2).sum(axis=1)
    squared = np.maximum(norms[:, None] + norms[None, :] - 2 * both @ both.T, 0)
    width = np.median(squared[np.triu_indices(n + m, 1)])
    kernel = np.exp(-squared / max(float(width), 1e-12))
    np.fill_diagonal(kernel, 0)
    total, rows = kernel.sum(), kernel.sum(axis=1)

    def estimate(member: NDArray[np.float64]) -> NDArray[np.float64]:  # [n + m, k], 1 where current
        inside = (member * (kernel @ member)).sum(axis=0)
        touching = rows @ member  # pairs inside, twice, and pairs across
        across = touching - inside
        outside = total - inside - 2 * across
        return inside / (n * (n - 1)) + outside / (m * (m - 1)) - 2 * across / (n * m)

    actual = np.zeros((n + m, 1))
    actual[:n] = 1
    observed = float(estimate(actual)[0])
    rng = np.random.default_rng(seed)
    beyond = 0
    for start in range(0, permutations, 500):
        member = np.repeat(actual, min(500, permutations - start), axis=1)
        beyond += int((estimate(rng.permuted(member, axis=0)) >= observed).sum())
    return max(observed, 0.0), (1 + beyond) / (permutations + 1)


class EmbeddingShift(SingleValueMetric):
    """Evidently metric: MMD^2 (`method="mmd2"`) or its p-value (`method="permutation"`).

    At most `rows` of each side are used, drawn with `seed`; rows without a whole embedding are not.
    """

    columns: list[str]
    method: str
    rows: int
    permutations: int
    seed: int


class EmbeddingShiftCalculation(SingleValueCalculation[EmbeddingShift]):
    """Computes `EmbeddingShift`; its plot shows the first two principal components of the reference."""

    def calculate(
        self, context: Context, current_data: Dataset, reference_data: Dataset | None
    ) -> SingleValue:
        """Compare the embeddings of the two datasets."""
        if reference_data is None:
            raise ValueError("EmbeddingShift compares: it needs a reference")
        current, reference = self._vectors(current_data), self._vectors(reference_data)
        # The estimate alone needs no permutation.
        permutations = self.metric.permutations if self.metric.method == "permutation" else 0
        shift, p_value = mean_discrepancy(reference, current, permutations, self.metric.seed)
        result = self.result(shift if self.metric.method == "mmd2" else p_value)
        if self.metric.method == "mmd2":
            result.widget = [_scatter(reference, current)]
        return result

    def _vectors(self, data: Dataset) -> NDArray[np.float64]:
        vectors = data.as_dataframe()[self.metric.columns].dropna()
        drawn = vectors.sample(min(self.metric.rows, len(vectors)), random_state=self.metric.seed)
        return drawn.to_numpy(np.float64)

    def display_name(self) -> str:
        """Title in the report."""
        return f"Embedding shift, {self.metric.method}"


def _scatter(reference: NDArray[np.float64], current: NDArray[np.float64]) -> Any:
    centre = reference.mean(axis=0)
    axes = np.linalg.svd(reference - centre, full_matrices=False)[2][:2].T
    figure = graph_objects.Figure()
    for name, values in (("reference", reference), ("current", current)):
        x, y = ((values - centre) @ axes).T
        figure.add_scatter(x=x, y=y, mode="markers", name=name, opacity=0.5)
    figure.update_layout(xaxis_title="component 1", yaxis_title="component 2")
    return plotly_figure(title="Embedding, principal components of the reference", figure=figure)
