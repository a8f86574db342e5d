"""The two sides of the comparison: the champion's recent predictions and its reference.

Both come as one table with the same columns: `id`, `label`, `confidence`, `p_<emotion>`, the image
descriptors, `embedding_<i>` where the model has an embedding, and in the reference `emotion`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ferops import files
from ferops.data.descriptors import DESCRIPTORS
from ferops.emotions import EMOTIONS
from ferops.evaluation.predictions import PROBABILITY_COLUMNS
from ferops.monitoring.policy import Policy
from ferops.monitoring.verdict import Repeats
from ferops.serving.log_reader import LAST_WORDS, flat, one, read_log
from ferops.serving.prediction_log import timestamp

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

REFERENCE_FILE = "reference.parquet"


class NoReferenceError(ValueError):
    """The package holds no reference that the policy can be applied to."""


@dataclass(frozen=True)
class Window:
    """The champion's predictions of the last hours.

    Attributes:
        rows: a sample of the images, or all where there are no more, each once, oldest first; besides the
            reference's columns `from_largest`, true of what the client sent that sent most on that day.
        usable: how many predictions there are that can be compared.
        repeats: how many of them are one image, or one client, again and again.
        labelled: label and true emotion of each image that has feedback.
        start, end: times of the first and last, ISO UTC; none when there are no rows.
        model_version: the champion's.
        other_versions_ignored: predictions of other versions in the same hours.
        unusable: predictions left out because a watched number is missing or infinite.
        torn_lines: log lines that were cut short by a crash and could not be read.
    """

    rows: pd.DataFrame
    usable: int
    repeats: Repeats
    labelled: pd.DataFrame
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

    def by_source(self, least: int) -> Iterator[tuple[str, pd.DataFrame]]:
        """Each source of the dataset with its rows, where there are several and it has at least so many."""
        if "source" in self.rows.columns and self.rows["source"].nunique() > 1:
            for source, rows in self.rows.groupby("source"):
                if len(rows) >= least:
                    yield str(source), rows.reset_index(drop=True)


def current_window(log_dir: Path, model_version: str, policy: Policy, now: datetime) -> Window:
    """Read the predictions of `policy.window.hours` until `now` (aware, UTC) from the log.

    What is read is counted and drawn from where it lies: memory does not grow with the number of rows.

    An image that was sent repeatedly counts once: its predictions are one piece of evidence. Images are told
    apart by their eight descriptors, which take as many values as images do (the 30,766 different images of
    FER2013 have 30,766 of them), so that the log needs nothing more for it.

    The draw takes the images whose id, hashed with the policy's seed, comes first. It depends neither on
    their order nor on whether their day is compacted.
    """
    begin = now - timedelta(hours=policy.window.hours)

    def select(log: "DuckDBPyConnection") -> Window:
        log.execute(
            "CREATE TABLE seen AS SELECT id, time, label, client, hash(descriptors) AS image, "
            f"{_usable(policy)} AS usable, model_version = ? AS mine FROM predictions "
            "WHERE id IS NULL OR time BETWEEN ? AND ?",
            [model_version, begin, now],
        )
        torn, others, unusable = one(
            log,
            "SELECT count(*) FILTER (id IS NULL) + (SELECT lines FROM predictions_torn), "
            "count(*) FILTER (NOT mine), count(*) FILTER (mine AND NOT usable) FROM seen",
        )
        log.execute("CREATE VIEW counted AS FROM seen WHERE mine AND usable")
        usable, start, end = one(log, "SELECT count(*), min(time), max(time) FROM counted")
        log.execute(
            "CREATE TABLE once AS SELECT min(id) AS id, count(*) AS times FROM counted GROUP BY image"
        )
        log.execute(
            "CREATE TABLE drawn AS SELECT id FROM once ORDER BY md5(? || id), id LIMIT ?",
            [f"{policy.window.seed}:", policy.window.sample],
        )
        rows = flat(log, "SELECT * FROM predictions WHERE id IN (FROM drawn) ORDER BY time, id")
        repeats = _repeats(log, usable, policy)
        from_largest = log.execute(
            "SELECT id FROM counted JOIN largest ON time::DATE = day AND counted.client = largest.client "
            "WHERE id IN (FROM drawn)"
        ).df()
        rows["from_largest"] = rows["id"].isin(from_largest["id"])
        numbers = list(policy.numerical)
        rows[numbers] = comparable(rows[numbers].to_numpy(np.float64))
        labelled = log.execute(
            f"SELECT label, emotion FROM counted JOIN ({LAST_WORDS}) USING (id) "
            "QUALIFY row_number() OVER (PARTITION BY image ORDER BY said DESC, id) = 1 ORDER BY id"
        ).df()
        return Window(
            rows=rows,
            usable=usable,
            repeats=repeats,
            labelled=labelled,
            start=timestamp(start) if start else None,
            end=timestamp(end) if end else None,
            model_version=model_version,
            other_versions_ignored=others,
            unusable=unusable,
            torn_lines=torn,
        )

    return read_log(log_dir, select, since=begin)


def _repeats(log: "DuckDBPyConnection", usable: int, policy: Policy) -> Repeats:
    """Count the tables `counted` and `once`; makes `largest`, a row a day: the client that sent most."""
    images, most = one(log, "SELECT count(*), coalesce(max(times), 0) FROM once")
    # A bucket means another client on the next day. That the largest of each day are one client is the most
    # that can be said of a window of two days.
    log.execute(
        "CREATE TABLE largest AS SELECT day, max(sent) AS sent, sum(sent) AS known, "
        "arg_max(client, (sent, client)) AS client FROM (SELECT time::DATE AS day, client, count(*) AS sent "
        "FROM counted WHERE client IS NOT NULL GROUP BY day, client) GROUP BY day"
    )
    largest, known = one(log, "SELECT sum(sent), sum(known) FROM largest")
    repeated = 1 - images / usable if usable else 0.0
    largest_client = float(largest / known) if known else None
    noticed: list[Literal["images", "client"]] = []
    if repeated > policy.repeats.images:
        noticed.append("images")
    enough = images >= policy.window.minimum_predictions  # else it says nothing: of one, all are one client's
    if enough and largest_client is not None and largest_client > policy.repeats.client:
        noticed.append("client")
    return Repeats(
        images=images,
        repeated=repeated,
        largest_image=most / usable if usable else 0.0,
        largest_client=largest_client,
        noticed=tuple(noticed),
    )


def _usable(policy: Policy) -> str:
    """SQL that is true of a prediction with a finite number in every watched column, and a known label."""
    stored = {name: f"descriptors.{name}" for name in DESCRIPTORS}
    stored |= {name: f"probabilities[{place}]" for place, name in enumerate(PROBABILITY_COLUMNS, 1)}
    numbers = [stored.get(name, name) for name in policy.numerical]
    known = ", ".join(f"'{emotion}'" for emotion in EMOTIONS)
    conditions = [*(f"coalesce(isfinite({number}), false)" for number in numbers), f"label IN ({known})"]
    return f"({' AND '.join(conditions)})"


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
    probabilities = rows[list(PROBABILITY_COLUMNS)].to_numpy()
    rows["label"] = np.asarray(EMOTIONS)[probabilities.argmax(axis=1)]
    rows["confidence"] = probabilities.max(axis=1)
    missing = [name for name in policy.columns if name not in rows.columns]
    if missing:
        raise NoReferenceError(f"{path} has no column {', '.join(missing)}, which the policy watches")
    numbers = list(policy.numerical)
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
