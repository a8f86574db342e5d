"""What the service answered and what people said of it: JSON lines, one file per process and UTC day.

    >>> log = PredictionLog(Path("predictions"))  # doctest: +SKIP
    >>> log.predictions([record])  # doctest: +SKIP
    >>> read_predictions(Path("predictions"), model_version="3", limit=2000)  # doctest: +SKIP

Each line is one `os.write` on a descriptor opened to append, into a file that no other process writes: lines
never mix, and a crash can cut only the last one short. A log that cannot be written never fails a
prediction; it is counted, and said once.
"""

import json
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ferops.emotions import EMOTIONS

if TYPE_CHECKING:  # only readers need pandas; the service starts faster without
    import pandas as pd

Kind = Literal["predictions", "feedback"]

logger = logging.getLogger(__name__)


def timestamp(moment: datetime | None = None) -> str:
    """A moment (default: now) as the log writes it: `2026-01-31T23:59:59.123Z`."""
    moment = (moment or datetime.now(UTC)).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class PredictionLog:
    """Appends records to `<folder>/<kind>/<UTC date>/<host>-<pid>-<start>.jsonl`; safe to share by threads.

    Args:
        folder: made when the first record is written.
        on_failure: called with the count of records that could not be written.
    """

    def __init__(self, folder: Path, on_failure: Callable[[int], None] | None = None) -> None:
        self.folder = folder
        self.failed = 0
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._open: dict[Kind, _OpenFile] = {}

    def predictions(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Append predictions; False when they could not all be written, which is counted and warned of."""
        return self._append("predictions", records)

    def feedback(self, record: Mapping[str, Any]) -> bool:
        """Append one feedback; False when it could not be written."""
        return self._append("feedback", [record])

    def _append(self, kind: Kind, records: Sequence[Mapping[str, Any]]) -> bool:
        written = 0
        lines = [json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records]
        with self._lock:
            try:
                for line in lines:
                    self._file(kind).write(line)
                    written += 1
            except OSError as error:
                if self.failed == 0:
                    logger.warning("the %s log cannot be written: %s; predictions go on without", kind, error)
                self.failed += len(lines) - written
                self._close(kind)
        if written < len(lines) and self._on_failure:
            self._on_failure(len(lines) - written)
        return written == len(lines)

    def _file(self, kind: Kind) -> "_OpenFile":
        now = datetime.now(UTC)
        key = (os.getpid(), now.date().isoformat())  # a forked worker and a new day get files of their own
        current = self._open.get(kind)
        if current is None or current.key != key:
            self._close(kind)
            host = re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())
            path = self.folder / kind / key[1] / f"{host}-{key[0]}-{now:%Y%m%dT%H%M%S%f}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            current = self._open[kind] = _OpenFile(key, handle)
        return current

    def _close(self, kind: Kind) -> None:
        current = self._open.pop(kind, None)
        if current is not None:
            os.close(current.handle)


@dataclass
class _OpenFile:
    key: tuple[int, str]
    handle: int

    def write(self, line: bytes) -> None:
        written = os.write(self.handle, line)
        if written != len(line):  # the disk is full: the rest of this line is lost, the next file is new
            raise OSError(f"only {written} of {len(line)} bytes could be written")


def read_predictions(
    log_dir: Path,
    model_version: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> "pd.DataFrame":
    """Logged predictions as a flat table, oldest first.

    Args:
        log_dir: the folder that the service logs to.
        model_version: only this version's.
        since: aware; only predictions from this moment on.
        limit: only the newest so many.

    Returns:
        Columns id, time (UTC), model_version, label, confidence, `p_<emotion>`, `embedding_<i>` where the
        model has one, and the descriptors; `attrs["torn_lines"]` counts lines that a crash cut short.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    torn = 0
    for day in _days(log_dir / "predictions", since):
        for record in _records(day):
            if record is None:
                torn += 1
            elif (model_version is None or record["model_version"] == model_version) and (
                since is None or datetime.fromisoformat(record["time"]) >= since
            ):
                rows.append(_flat(record))
        if limit is not None and len(rows) >= limit:
            break
    frame = pd.DataFrame(rows, columns=None if rows else [*_FIRST, *(f"p_{e}" for e in EMOTIONS)])
    frame["time"] = pd.to_datetime(frame["time"], utc=True, format="ISO8601")
    frame = frame.sort_values("time", kind="stable", ignore_index=True)
    if limit is not None:
        frame = frame.tail(limit).reset_index(drop=True)
    frame.attrs["torn_lines"] = torn
    return frame


_FIRST = ("id", "time", "model_version", "label", "confidence")


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: record[name] for name in _FIRST}
    row |= {f"p_{emotion}": p for emotion, p in zip(EMOTIONS, record["probabilities"], strict=True)}
    row |= {f"embedding_{i}": value for i, value in enumerate(record["embedding"] or ())}
    return row | record["descriptors"]


def read_feedback(log_dir: Path) -> "pd.DataFrame":
    """Feedback as a table: id, time (UTC), emotion; the last word on an id counts.

    `attrs["torn_lines"]` counts lines that a crash cut short.
    """
    import pandas as pd

    rows = [record for day in _days(log_dir / "feedback") for record in _records(day)]
    whole = [row for row in rows if row is not None]
    frame = pd.DataFrame(whole, columns=["id", "time", "emotion"])
    frame["time"] = pd.to_datetime(frame["time"], utc=True, format="ISO8601")
    frame = frame.sort_values("time", kind="stable").drop_duplicates("id", keep="last", ignore_index=True)
    frame.attrs["torn_lines"] = len(rows) - len(whole)
    return frame


def _days(folder: Path, since: datetime | None = None) -> list[Path]:
    """The folders of single days, newest first."""
    first = since.astimezone(UTC).date().isoformat() if since else ""
    days = [day for day in folder.glob("????-??-??") if day.is_dir() and day.name >= first]
    return sorted(days, reverse=True)


def _records(day: Path) -> Iterator[dict[str, Any] | None]:
    """Every record of a day's files; none for a line that was cut short."""
    for path in sorted(day.glob("*.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    yield None
                else:
                    # A line without its end is being written at this moment, or was cut short.
                    yield record if line.endswith(b"\n") and isinstance(record, dict) else None
