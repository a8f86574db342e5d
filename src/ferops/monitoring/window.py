"""The two sides of the comparison: the champion's recent predictions and its reference.

Both come as one table with the same columns: `id`, `label`, `confidence`, `p_<emotion>`, the image
descriptors, `embedding_<i>` where the model has an embedding, and in the reference `emotion`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ferops import files
from ferops.emotions import EMOTIONS
from ferops.monitoring.policy import Policy, WindowPolicy
from ferops.serving.prediction_log import read_predictions, timestamp

REFERENCE_FILE = "reference.parquet"


class NoReferenceError(ValueError):
    """The package holds no reference that the policy can be applied to."""


@dataclass(frozen=True)
class Window:
    """The champion's predictions of the last hours.

    Attributes:
        rows: every usable prediction, oldest first.
        start, end: times of the first and last, ISO UTC; none when there are no rows.
        model_version: the champion's.
        other_versions_ignored: predictions of other versions in the same hours.
        unusable: rows left out because a watched number is missing or infinite.
        torn_lines: log lines that were cut short by a crash and could not be read.
    """

    rows: pd.DataFrame
    start: str | None
    end: str | None
    model_version: str
    other_versions_ignored: int
    unusable: int
    torn_lines: int


@dataclass(frozen=True)
class Reference:
    """The champion's answers for its validation split, written when it was packaged.

    Attributes:
        rows: one row an image.
        sha256: of the file.
        embedding: names of the embedding's columns, empty when the model has none.
    """

    rows: pd.DataFrame
    sha256: str
    embedding: tuple[str, ...]


def current_window(log_dir: Path, model_version: str, policy: Policy, now: datetime) -> Window:
    """Read the predictions of `policy.window.hours` until `now` (aware, UTC) from the log."""
    logged = read_predictions(log_dir, since=now - timedelta(hours=policy.window.hours))
    torn = int(logged.attrs["torn_lines"])
    mine = logged[logged["model_version"].astype(str) == model_version] if len(logged) else logged
    if len(mine) == 0:
        return Window(mine, None, None, model_version, len(logged), 0, torn)
    numbers = [name for name in policy.columns if name != "label"]
    missing = [name for name in policy.columns if name not in mine.columns]
    if missing:
        raise NoReferenceError(
            f"the prediction log has no column {', '.join(missing)}, which the policy watches"
        )
    whole = np.isfinite(mine[numbers].to_numpy(np.float64)).all(axis=1) & mine["label"].isin(EMOTIONS)
    rows = mine[whole].sort_values("time", kind="stable").reset_index(drop=True)
    rows[numbers] = comparable(rows[numbers].to_numpy(np.float64))
    return Window(
        rows=rows,
        start=timestamp(rows["time"].iloc[0]) if len(rows) else None,
        end=timestamp(rows["time"].iloc[-1]) if len(rows) else None,
        model_version=model_version,
        other_versions_ignored=len(logged) - len(mine),
        unusable=int((~whole).sum()),
        torn_lines=torn,
    )


def read_reference(package: Path, policy: Policy) -> Reference:
    """Read `reference.parquet` of a package and add `label` and `confidence`.

    Raises:
        NoReferenceError: if it is absent, or lacks a column that the policy watches.
    """
    path = package / REFERENCE_FILE
    if not path.exists():
        raise NoReferenceError(
            f"{path} not found: the champion was packaged without it, run `dvc repro package`"
        )
    rows = pd.read_parquet(path)
    probabilities = rows[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy()
    rows["label"] = np.asarray(EMOTIONS)[probabilities.argmax(axis=1)]
    rows["confidence"] = probabilities.max(axis=1)
    missing = [name for name in policy.columns if name not in rows.columns]
    if missing:
        raise NoReferenceError(f"{path} has no column {', '.join(missing)}, which the policy watches")
    numbers = [name for name in policy.columns if name != "label"]
    rows[numbers] = comparable(rows[numbers].to_numpy(np.float64))
    count = sum(name.startswith("embedding_") for name in rows.columns)
    return Reference(rows, files.sha256(path), tuple(f"embedding_{i}" for i in range(count)))


def comparable(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values cut to 16 significant bits, so that equal ones stay equal on both sides.

    The log keeps seven decimal digits and the reference 32-bit floats. Without this, each value that many
    images share (1/2304 of the pixels is bright) would be two values, in the same order every time, and the
    K-S test would take that for drift. A binary grid, as a decimal one has its borders where the log rounds.
    """
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2**16), exponent - 16)


def drawn(rows: pd.DataFrame, policy: WindowPolicy) -> pd.DataFrame:
    """At most `policy.sample` rows, drawn with the policy's seed, in the order they had."""
    if len(rows) <= policy.sample:
        return rows
    return rows.sample(policy.sample, random_state=policy.seed).sort_index()
