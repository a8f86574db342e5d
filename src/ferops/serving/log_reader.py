"""The prediction log as tables that DuckDB reads where they lie: nobody has to hold a day in memory.

    >>> read_predictions(Path("predictions"), model_version="3", limit=2000)  # doctest: +SKIP
    >>> read_log(  # doctest: +SKIP
    ...     Path("predictions"), lambda log: log.execute("SELECT count(*) FROM predictions").fetchone()
    ... )

Every reader comes through here, so that compacted days are read like the others, no record is seen twice,
and none that was forgotten is seen at all.
"""

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ferops.emotions import EMOTIONS
from ferops.serving.describe import NAMES as DESCRIPTORS
from ferops.serving.log_days import KINDS, Sources, days, tombstones
from ferops.serving.prediction_log import Kind

if TYPE_CHECKING:  # neither is needed by a service that only writes
    import pandas as pd
    from duckdb import DuckDBPyConnection

Result = TypeVar("Result")

_NAMED = {"id": "VARCHAR", "time": "TIMESTAMPTZ"}
_ANSWER = {"model_version": "VARCHAR", "label": "VARCHAR"}

#: Columns of each kind: those of the records that the service logs, under the same names.
COLUMNS: dict[Kind, dict[str, str]] = {
    "predictions": {
        **_NAMED,
        **_ANSWER,
        "confidence": "DOUBLE",
        "probabilities": "DOUBLE[]",
        "embedding": "DOUBLE[]",
        "descriptors": f"STRUCT({', '.join(f'{name} DOUBLE' for name in DESCRIPTORS)})",
        "client": "UTINYINT",
    },
    "feedback": {**_NAMED, "emotion": "VARCHAR"},
    "shadow": {
        **_NAMED,
        **_ANSWER,
        "probabilities": "DOUBLE[]",
        "challenger_version": "VARCHAR",
        "challenger_label": "VARCHAR",
        "challenger_probabilities": "DOUBLE[]",
    },
    "images": {**_NAMED, "image": "VARCHAR"},
}

#: What a whole record has; a line without is taken for one that was cut short.
_LAST: dict[Kind, str] = {
    "predictions": "model_version",
    "feedback": "emotion",
    "shadow": "model_version",
    "images": "image",
}

#: How Parquet files are written: small, and in groups that fit into memory whatever a record holds, which
#: DuckDB can do where the order of records may change.
PARQUET = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE_BYTES '32MB'"

#: The last word on each id that people gave feedback to, and when it was said.
LAST_WORDS = (
    "SELECT id, arg_max(emotion, time) AS emotion, max(time) AS said "
    "FROM feedback WHERE id IS NOT NULL GROUP BY id"
)

_TEXT = {"time": "VARCHAR"}

#: DuckDB's own memory; beyond it, it goes to the disk. Two threads parse as fast as the report needs, and
#: each takes 32 MB for JSON however small the log.
SETTINGS = {
    "memory_limit": "512MB",
    "threads": "2",
    "autoinstall_known_extensions": "false",  # all that is needed is in the package
    "python_enable_replacements": "false",  # a table is a view, and no variable of some caller's
}


def read_log(
    log_dir: Path, work: Callable[["DuckDBPyConnection"], Result], since: datetime | None = None
) -> Result:
    """What `work` makes of the log, at one moment.

    Args:
        log_dir: the folder that the service logs to; it need not exist.
        work: gets a connection with the views `predictions`, `feedback`, `shadow` and `images`, of `COLUMNS`;
            times are UTC, and a line that was cut short is a row without id. `torn(kind)` counts those that
            compaction has met. It is called again when files were compacted while it read.
        since: aware; days before this moment's are not read. What is younger has to be selected by `work`.
    """
    import duckdb

    for attempt in range(5):
        with tempfile.TemporaryDirectory(prefix="ferops-log-") as scratch, connect(Path(scratch)) as log:
            try:
                _create_views(log, log_dir, since, Path(scratch))
                return work(log)
            except (duckdb.IOException, FileNotFoundError):
                if attempt == 4:
                    raise
    raise AssertionError("unreachable")


def connect(scratch: Path) -> "DuckDBPyConnection":
    """An empty database that spills to `scratch`."""
    import duckdb

    log = duckdb.connect(config={**SETTINGS, "temp_directory": str(scratch)})
    log.execute("SET TimeZone = 'UTC'")
    return log


def _create_views(log: "DuckDBPyConnection", log_dir: Path, since: datetime | None, scratch: Path) -> None:
    digests = know_forgotten(log, log_dir)
    for kind in KINDS:
        sources = [Sources.of(day) for day in days(log_dir / kind, since and since.astimezone(UTC))]
        lines = [path for source in sources for path in source.whole_lines()]
        late = b"\n".join(filter(None, (source.late_lines() for source in sources)))
        if late:
            lines.append(scratch / f"{kind}.jsonl")
            lines[-1].write_bytes(late)
        table = records(kind, [path for source in sources for path in source.parts()], lines)
        log.execute(f"CREATE VIEW {kind} AS {remembered(table) if digests else table}")
        log.execute(f"CREATE TABLE {kind}_torn AS SELECT {sum(s.manifest.torn for s in sources)} AS lines")


def records(kind: Kind, parts: Sequence[Path], lines: Sequence[Path]) -> str:
    """SQL of the records in Parquet and JSON lines files; a line that was cut short has no id."""
    columns = COLUMNS[kind]
    nothing = ", ".join(f"NULL::{kept} AS {name}" for name, kept in columns.items())
    selects = [f"SELECT {nothing} WHERE false"]
    if parts:  # the older ones lack columns that came later
        selects.append(
            f"SELECT * FROM read_parquet({listed(parts)}, hive_partitioning = false, union_by_name = true)"
        )
    if lines:
        # A time that is none must not stop the reading, as its own type would.
        types = ", ".join(f"{name}: '{_TEXT.get(name, kept)}'" for name, kept in columns.items())
        whole = f"try_cast(time AS TIMESTAMPTZ) IS NOT NULL AND {_LAST[kind]} IS NOT NULL"
        selects.append(
            f"SELECT * REPLACE (CASE WHEN {whole} THEN id END AS id, try_cast(time AS TIMESTAMPTZ) AS time) "
            f"FROM read_json({listed(lines)}, format = 'newline_delimited', columns = {{{types}}}, "
            "ignore_errors = true)"
        )
    return " UNION ALL BY NAME ".join(selects)


def know_forgotten(log: "DuckDBPyConnection", log_dir: Path) -> int:
    """Make the table `forgotten` with the digests of ids that nobody may see; gives how many there are."""
    digests = [path.name for path in tombstones(log_dir)]
    log.execute("CREATE TABLE forgotten AS SELECT unnest(?::VARCHAR[]) AS digest", [digests])
    return len(digests)


def remembered(table: str) -> str:
    """SQL of the rows of `table` (SQL) whose id is not in the table `forgotten`."""
    return f"SELECT * FROM ({table}) WHERE id IS NULL OR sha256(id) NOT IN (SELECT digest FROM forgotten)"


def listed(paths: Sequence[Path]) -> str:
    """Paths as an SQL list."""
    return f"[{', '.join(map(quoted, paths))}]"


def quoted(path: Path) -> str:
    """A path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"


def torn_lines(log: "DuckDBPyConnection", kind: Kind) -> int:
    """Lines of one kind that a crash cut short, in the days that are read."""
    query = f"SELECT count(*) FILTER (id IS NULL) + (SELECT lines FROM {kind}_torn) FROM {kind}"
    return int(one(log, query)[0])


def one(log: "DuckDBPyConnection", query: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
    """The first row of an answer that has one."""
    row = log.execute(query, list(values)).fetchone()
    assert row is not None
    return row


def read_predictions(
    log_dir: Path,
    model_version: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> "pd.DataFrame":
    """Logged predictions as a flat table, oldest first; all that is asked for is held in memory.

    Args:
        log_dir: the folder that the service logs to.
        model_version: only this version's.
        since: aware; only predictions from this moment on.
        limit: only the newest so many.

    Returns:
        Columns id, time (UTC), model_version, label, confidence, `p_<emotion>`, `embedding_<i>` where the
        model has one, and the descriptors; `attrs["torn_lines"]` counts lines that a crash cut short.
    """

    def select(log: "DuckDBPyConnection") -> "pd.DataFrame":
        newest = "" if limit is None else f"ORDER BY time DESC, id DESC LIMIT {limit:d}"
        frame = flat(
            log,
            "SELECT * FROM predictions WHERE id IS NOT NULL AND model_version = coalesce(?, model_version) "
            f"AND time >= coalesce(?, time) {newest}",
            [model_version, since],
        )
        frame.attrs["torn_lines"] = torn_lines(log, "predictions")
        return frame

    return read_log(log_dir, select, since)


def flat(log: "DuckDBPyConnection", query: str, values: Sequence[Any] = ()) -> "pd.DataFrame":
    """Rows with the columns of `predictions`, as `read_predictions` gives them."""
    import pandas as pd

    probabilities = ", ".join(f"probabilities[{i}] AS p_{name}" for i, name in enumerate(EMOTIONS, 1))
    descriptors = ", ".join(f"descriptors.{name}" for name in DESCRIPTORS)
    frame = log.execute(
        f"SELECT id, time, model_version, label, confidence, {probabilities}, "
        f"coalesce(embedding, []) AS embedding, {descriptors} FROM ({query})",
        list(values),
    ).df()
    place = frame.columns.get_loc("embedding")
    embedding = pd.DataFrame(list(frame.pop("embedding")), dtype="float64").add_prefix("embedding_")
    frame = pd.concat([frame.iloc[:, :place], embedding, frame.iloc[:, place:]], axis=1)
    return frame.sort_values("time", kind="stable", ignore_index=True)


def read_feedback(log_dir: Path) -> "pd.DataFrame":
    """Feedback as a table: id, time (UTC), emotion; the last word on an id counts.

    `attrs["torn_lines"]` counts lines that a crash cut short.
    """

    def select(log: "DuckDBPyConnection") -> "pd.DataFrame":
        frame = log.execute("SELECT * FROM feedback WHERE id IS NOT NULL").df()
        frame = frame.sort_values("time", kind="stable").drop_duplicates("id", keep="last", ignore_index=True)
        frame.attrs["torn_lines"] = torn_lines(log, "feedback")
        return frame

    return read_log(log_dir, select)
