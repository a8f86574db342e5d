"""Is the candidate better than the champion, or was it luck? Both are compared on the same rows.

Two models err on the same hard images. A paired resample keeps both answers to an image together, so
that this shared luck cancels, and the interval of the difference is far narrower than two separate ones
would suggest.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest

from ferops.emotions import EMOTIONS, NUM_EMOTIONS
from ferops.evaluation.metrics import Score, interval, scores
from ferops.evaluation.predictions import PROBABILITY_COLUMNS


class UnequalRowsError(ValueError):
    """The two models were not measured on the same rows."""


class Comparison(BaseModel):
    """Candidate minus champion on the same rows.

    Attributes:
        metric: what was compared.
        candidate, champion: its value for each.
        difference: candidate minus champion.
        interval: `[low, high]` of the difference, paired percentile bootstrap.
        only_candidate_right, only_champion_right: rows where just one of them is right.
        p_value: exact McNemar test of equal accuracy, two-sided.
    """

    model_config = ConfigDict(frozen=True)

    metric: Score
    rows: int
    candidate: float
    champion: float
    difference: float
    interval: tuple[float, float]
    only_candidate_right: int
    only_champion_right: int
    p_value: float


def compare(
    candidate: pd.DataFrame,
    champion: pd.DataFrame,
    metric: Score,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two prediction tables (`id`, `emotion`, `p_<emotion>`); row order does not matter.

    Raises:
        UnequalRowsError: the ids differ, repeat, or carry different true emotions.
    """
    labels, first, second = _aligned(candidate, champion)
    # One cell per (truth, candidate's answer, champion's answer): a multinomial draw over the cells is a
    # resample of rows with both answers kept together.
    n = NUM_EMOTIONS
    cells = np.bincount((labels * n + first) * n + second, minlength=n**3)
    rows = len(labels)
    drawn = np.random.default_rng(seed).multinomial(rows, cells / rows, size=samples)
    ours, theirs = _marginals(cells.reshape(n, n, n), metric)
    ours_drawn, theirs_drawn = _marginals(drawn.reshape(samples, n, n, n), metric)
    difference = float(ours - theirs)
    won = int(((first == labels) & (second != labels)).sum())
    lost = int(((first != labels) & (second == labels)).sum())
    return Comparison(
        metric=metric,
        rows=rows,
        candidate=float(ours),
        champion=float(theirs),
        difference=difference,
        interval=interval(ours_drawn - theirs_drawn, difference, level),
        only_candidate_right=won,
        only_champion_right=lost,
        p_value=mcnemar(won, lost),
    )


def mcnemar(only_first_right: int, only_second_right: int) -> float:
    """Two-sided exact p-value that two classifiers are equally accurate (McNemar 1947; binomial form)."""
    trials = only_first_right + only_second_right
    return float(binomtest(only_first_right, trials, 0.5).pvalue) if trials else 1.0


def _marginals(cells: NDArray, metric: Score) -> tuple[Any, Any]:
    """The metric of both models, of joint counts `[..., truth, candidate, champion]`."""
    return scores(cells.sum(axis=-1))[metric], scores(cells.sum(axis=-2))[metric]


def _aligned(
    candidate: pd.DataFrame, champion: pd.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    for name, frame in (("candidate", candidate), ("champion", champion)):
        if frame["id"].duplicated().any():
            repeated = frame["id"][frame["id"].duplicated()].iloc[0]
            raise UnequalRowsError(f"the {name}'s predictions hold the id {repeated!r} more than once")
    first, second = candidate.set_index("id"), champion.set_index("id")
    missing, added = first.index.difference(second.index), second.index.difference(first.index)
    if len(missing) or len(added):
        example = (missing if len(missing) else added)[0]
        raise UnequalRowsError(
            f"candidate and champion were not measured on the same rows: {len(missing)} ids only in the "
            f"candidate's, {len(added)} only in the champion's (such as {example!r}); "
            "evaluate both on the same dataset"
        )
    if not len(first):
        raise UnequalRowsError("there are no rows to compare")
    second = second.loc[first.index]
    if not (first["emotion"] == second["emotion"]).all():
        differing = int((first["emotion"] != second["emotion"]).sum())
        raise UnequalRowsError(f"{differing} rows have different true emotions in the two tables")
    positions = {emotion: position for position, emotion in enumerate(EMOTIONS)}
    columns = list(PROBABILITY_COLUMNS)
    return (
        first["emotion"].map(positions).to_numpy(np.int64),
        first[columns].to_numpy().argmax(axis=1),
        second[columns].to_numpy().argmax(axis=1),
    )
