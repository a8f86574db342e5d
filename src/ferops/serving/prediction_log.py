"""What the service answered and what people said of it: JSON lines, one file per process and UTC day.

    >>> log = PredictionLog(Path("predictions"))  # doctest: +SKIP
    >>> log.predictions([record])  # doctest: +SKIP

Each request is one `os.write` on a descriptor opened to append, into a file that no other process writes:
lines never mix, and a crash can cut only the last one short. It is done before the request is answered, so
that an answer outlives its process, and with `disk` durability its machine. A log that cannot be written
fails no prediction; it is counted, and said once.
"""

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

if TYPE_CHECKING:
    from ferops.serving.metrics import Metrics

Kind = Literal["predictions", "feedback", "shadow", "images"]

#: NumPy's float32 are written with as many digits as they need.
AS_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY

logger = logging.getLogger(__name__)


def timestamp(moment: datetime | None = None) -> str:
    """A moment (default: now) as the log writes it: `2026-01-31T23:59:59.123Z`."""
    moment = (moment or datetime.now(UTC)).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class PredictionLog:
    """Appends records to `<folder>/<kind>/<UTC date>/<host>-<pid>-<start>.jsonl`; safe to share by threads.

    Args:
        folder: made when the first record is written.
        durability: `process`: the operating system has a record when the call returns, so that it survives
            a killed process; `disk`: the disk has it, so that it survives a power cut.
        metrics: told what could not be written, and how long writing took.
    """

    def __init__(
        self,
        folder: Path,
        durability: Literal["process", "disk"] = "process",
        metrics: "Metrics | None" = None,
    ) -> None:
        self.folder = folder
        self.failed = 0
        self._to_disk = durability == "disk"
        self._metrics = metrics
        self._failing: set[Kind] = set()
        self._lock = threading.Lock()
        self._open: dict[Kind, _OpenFile] = {}

    def predictions(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Append predictions, all or none; False when they could not be written."""
        return self._append("predictions", records)

    def feedback(self, record: Mapping[str, Any]) -> bool:
        """Append one feedback; False when it could not be written."""
        return self._append("feedback", [record])

    def shadow(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Append what model and challenger said of the same images; False when it could not be written."""
        return self._append("shadow", records)

    def images(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Append the faces of predictions, where they are kept; False when they could not be written."""
        return self._append("images", records)

    def _append(self, kind: Kind, records: Sequence[Mapping[str, Any]]) -> bool:
        begin = time.perf_counter()
        lines = b"".join(orjson.dumps(record, option=AS_LINE) for record in records)
        try:
            with self._lock:
                file = self._file(kind)
                written = file.write(lines)
            if self._to_disk:  # outside the lock: requests that come meanwhile share the next one
                file.sync(written)
        except OSError as error:
            self._fails(kind, len(records), error)
            return False
        if kind in self._failing:
            self._recovers(kind)
        if self._metrics:
            self._metrics.log_seconds.observe(time.perf_counter() - begin)
        return True

    def _fails(self, kind: Kind, lost: int, error: OSError) -> None:
        with self._lock:
            self.failed += lost
            first = kind not in self._failing
            self._failing.add(kind)
            if self._metrics:
                self._metrics.unlogged.inc(lost)
                self._metrics.log_failing.set(1)
        if first:
            logger.warning("the %s log cannot be written: %s", kind, error)

    def _recovers(self, kind: Kind) -> None:
        with self._lock:
            again = kind in self._failing
            self._failing.discard(kind)
            if self._metrics:
                self._metrics.log_failing.set(int(bool(self._failing)))
        if again:
            logger.warning("the %s log can be written again", kind)

    def _file(self, kind: Kind) -> "_OpenFile":
        now = datetime.now(UTC)
        key = (os.getpid(), now.date().isoformat())  # a forked worker and a new day get files of their own
        current = self._open.get(kind)
        if current is None or current.key != key or current.is_gone():
            if current is not None:
                del self._open[kind]
                current.close(self._to_disk)
            host = re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname())
            path = self.folder / kind / key[1] / f"{host}-{key[0]}-{now:%Y%m%dT%H%M%S%f}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if self._to_disk:
                self._sync_folders(path, handle)
            current = self._open[kind] = _OpenFile(key, handle)
        return current

    def _sync_folders(self, path: Path, handle: int) -> None:
        """Or the file itself is gone after a power cut."""
        try:
            for folder in (path.parent, path.parent.parent, self.folder):
                _sync_folder(folder)
        except OSError:
            os.close(handle)
            raise
        with suppress(OSError):  # somebody else's: it may not be for this user to open
            _sync_folder(self.folder.resolve().parent)


class _OpenFile:
    """A file that only this process appends to."""

    def __init__(self, key: tuple[int, str], handle: int) -> None:
        self.key = key
        self._handle = handle
        self._size = 0
        self._synced = 0
        self._syncing = threading.Lock()

    def is_gone(self) -> bool:
        """Whether somebody deleted the file, or writing to it went wrong beyond repair."""
        try:
            return os.fstat(self._handle).st_nlink == 0
        except OSError:
            return True

    def write(self, lines: bytes) -> int:
        """Append all or nothing, and give the size of the file."""
        try:
            written = os.write(self._handle, lines)
            if written != len(lines):
                raise OSError(f"only {written} of {len(lines)} bytes could be written: is the disk full?")
        except OSError:
            try:
                os.ftruncate(self._handle, self._size)  # no half line, and the file can be used again
            except OSError:
                self.close(to_disk=False)
            raise
        self._size += written
        return self._size

    def sync(self, size: int) -> None:
        """Return when the disk has the first `size` bytes; one call serves all that waited for it."""
        with self._syncing:
            if self._synced < size:
                upto = self._size
                _sync(self._handle)
                self._synced = upto

    def close(self, to_disk: bool) -> None:
        with self._syncing:
            if to_disk:
                _sync(self._handle)
                self._synced = self._size
            handle, self._handle = self._handle, -1
            if handle >= 0:
                os.close(handle)


#: Without the file's times, which nothing here needs; macOS has the other one only.
_sync = getattr(os, "fdatasync", os.fsync)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
