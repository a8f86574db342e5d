"""Compaction: the log's closed days become Parquet, what was forgotten goes, and what is too old.

    >>> compact(Path("predictions"), policy.log).sentence()  # doctest: +SKIP

Every step can be killed and every call repeated. Parquet is written beside its place and flushed to the
disk, the manifest then names it instead of the JSON lines (see `ferops.serving.log_days`), and only then
are these deleted. What a process still writes into a closed day is read at once and compacted by the next
call. One compaction runs at a time; the service and its readers need not be stopped.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ferops import files
from ferops.monitoring.forgetting import finish
from ferops.monitoring.policy import LogPolicy
from ferops.serving.client_buckets import delete_keys
from ferops.serving.log_days import (
    BESIDE,
    FORGOTTEN_FOLDER,
    KINDS,
    MANIFEST_FILE,
    Manifest,
    Sources,
    alone,
    days,
    new_name,
    publish,
)
from ferops.serving.log_reader import (
    COLUMNS,
    PARQUET,
    connect,
    know_forgotten,
    one,
    quoted,
    records,
    remembered,
)
from ferops.serving.prediction_log import Kind

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Records that each of two threads holds before it writes them, half a kilobyte each. DuckDB's own number,
#: ten times as many, does not fit into its memory: two million records of a day and more cannot be compacted.
HELD_RECORDS = 50_000

#: A day is closed so long after its end: no request that began in it is still at work then.
GRACE = timedelta(hours=1)


@dataclass(frozen=True)
class Compacted:
    """What one compaction did.

    Attributes:
        days: folders of days that had something to compact.
        records: in the Parquet files that were written.
        line_bytes, parquet_bytes: of the JSON lines that were compacted, and of what became of them.
        forgotten: ids that an interrupted `ferops forget` had left to be erased.
        expired: folders of days that were too old and are deleted.
    """

    days: int = 0
    records: int = 0
    line_bytes: int = 0
    parquet_bytes: int = 0
    forgotten: int = 0
    expired: int = 0

    def __add__(self, other: "Compacted") -> "Compacted":
        return Compacted(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def sentence(self) -> str:
        """The outcome, for a person."""
        parts = [
            f"{self.records} records of {self.days} closed days compacted, "
            f"{self.line_bytes / 1e6:.1f} MB of lines to {self.parquet_bytes / 1e6:.1f} MB of Parquet"
            if self.days
            else "no closed day has anything to compact",
        ]
        if self.forgotten:
            parts.append(f"{self.forgotten} forgotten predictions erased")
        if self.expired:
            parts.append(f"{self.expired} days deleted, which were too old")
        return "; ".join(parts)


def compact(log_dir: Path, policy: LogPolicy, now: datetime | None = None) -> Compacted:
    """Compact every closed UTC day, finish what `ferops forget` began, delete what is too old and old keys.

    Args:
        log_dir: the folder that the service logs to.
        policy: how long records are kept.
        now: aware; the present when none.
    """
    now = (now or datetime.now(UTC)).astimezone(UTC)
    oldest = (now - timedelta(days=policy.keep_days)).date()
    done = Compacted()
    delete_keys(log_dir, before=f"{now:%Y-%m-%d}")
    with alone(log_dir):
        done += Compacted(forgotten=finish(log_dir))
        for kind in KINDS:
            for day in list(days(log_dir / kind)):
                if date.fromisoformat(day.name) < oldest:
                    _expire(day)
                    done += Compacted(expired=1)
                elif _closed(day, now):
                    done += _compact_day(log_dir, kind, day) or Compacted()
        for day in list(days(log_dir / FORGOTTEN_FOLDER)):
            if date.fromisoformat(day.name) < oldest:  # all that could name these ids is gone, too
                shutil.rmtree(day)
    return done


def _closed(day: Path, now: datetime) -> bool:
    end = datetime.combine(date.fromisoformat(day.name), time(), UTC) + timedelta(days=1)
    return now >= end + GRACE


def _expire(day: Path) -> None:
    (day / MANIFEST_FILE).unlink(missing_ok=True)  # first, so that no reader looks for what is going
    shutil.rmtree(day)


def _compact_day(log_dir: Path, kind: Kind, day: Path) -> Compacted | None:
    """None when there was nothing to do."""
    for stale in day.glob(f"{BESIDE}*"):  # of a call that was killed
        shutil.rmtree(stale)
    sources = Sources.of(day)
    named = set(sources.parts())
    for stale in day.rglob("*.parquet"):
        if stale not in named:
            stale.unlink()
    done = None
    if sources.lines or sources.late:
        with tempfile.TemporaryDirectory(prefix=BESIDE, dir=day) as beside:
            done = _write_parts(log_dir, kind, sources, Path(beside))
    for name, size in Manifest.load(day).lines.items():
        _delete_lines(day / name, size)
    return done


def _write_parts(log_dir: Path, kind: Kind, sources: Sources, beside: Path) -> Compacted | None:
    day, manifest, lines = sources.folder, sources.manifest, sources.whole_lines()
    if sources.late:
        lines.append(beside / "late.jsonl")
        lines[-1].write_bytes(sources.late_lines())
    made = beside / "parts"
    made.mkdir()
    with connect(beside) as log:
        written, torn = _copy(log, log_dir, kind, lines, made) if lines else (0, 0)
    if any((day / name).stat().st_size != size for name, size in sources.lines.items()):
        return None  # a process writes into it at this moment: the next call takes it
    parts = [
        publish(part, day / part.relative_to(made).with_name(new_name()))
        for part in sorted(made.rglob("*.parquet"))
    ]
    taken = {**sources.lines, **{name: end for name, (_, end) in sources.late.items()}}
    Manifest(
        parts=(*manifest.parts, *(part.relative_to(day).as_posix() for part in parts)),
        lines={**manifest.lines, **taken},
        torn=manifest.torn + torn,
    ).save(day)
    late = sum(end - begin for begin, end in sources.late.values())
    return Compacted(
        days=1,
        records=written,
        line_bytes=sum(sources.lines.values()) + late,
        parquet_bytes=sum(part.stat().st_size for part in parts),
    )


def _copy(
    log: "DuckDBPyConnection", log_dir: Path, kind: Kind, lines: list[Path], made: Path
) -> tuple[int, int]:
    """Write Parquet files below `made`; gives records written and lines that were cut short."""
    log.execute("SET preserve_insertion_order = false")  # to keep the order takes more memory
    log.execute(f"SET partitioned_write_flush_threshold = {HELD_RECORDS}")
    table = records(kind, [], lines)
    kept = remembered(table) if know_forgotten(log, log_dir) else table
    place, options = made / "part.parquet", PARQUET
    if "model_version" in COLUMNS[kind]:
        place, options = made, f"{options}, PARTITION_BY (model_version), WRITE_PARTITION_COLUMNS true"
    log.execute(f"COPY (SELECT * FROM ({kept}) WHERE id IS NOT NULL) TO {quoted(place)} ({options})")
    torn = one(log, f"SELECT count(*) FILTER (id IS NULL) FROM ({table})")
    written = [
        one(log, f"SELECT count(*) FROM read_parquet({quoted(p)})")[0] for p in made.rglob("*.parquet")
    ]
    return sum(written), int(torn[0])


def _delete_lines(path: Path, size: int) -> None:
    """Delete a file of which `size` bytes are compacted; what was written behind them is kept."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != size:
            return  # a late line came in between, which readers see and the next call compacts
        path.unlink()
        file.seek(size)
        if late := file.read():  # by a process that had the file open; it sees now that the file is gone
            files.write_bytes(path.with_name(f"{path.stem}-late-{size}.jsonl"), late)
