"""The log's folders, one for each kind and UTC day: JSON lines, Parquet, and the manifest that joins them.

    predictions/2026-01-31/host-7-20260131T080000000000.jsonl    as the service wrote it
    predictions/2026-01-31/model_version=v3-0a1b2c3d/5f0c.parquet  a compacted day
    predictions/2026-01-31/manifest.json                         which of them counts
    forgotten/2026-02-01/<sha256 of a prediction's id>           what no reader may see again

A Parquet file counts when the manifest names it, and from then on the lines in it count no longer. So one
rename, the manifest's, moves rows from one to the other, and a process killed before or after it neither
loses nor doubles any. `ferops.monitoring.compaction` writes what is read here.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ferops import files
from ferops.serving.prediction_log import Kind

MANIFEST_FILE = "manifest.json"
FORGOTTEN_FOLDER = "forgotten"

#: How folders begin that hold what is not finished.
BESIDE = ".tmp-"

KINDS: tuple[Kind, ...] = ("predictions", "feedback", "shadow", "images")


@dataclass(frozen=True)
class Manifest:
    """What of a day is compacted.

    Attributes:
        parts: Parquet files, relative to the day's folder.
        lines: by name, how many bytes of a JSON lines file are in them; what was written later is not.
        torn: lines of those files that were cut short.
    """

    parts: tuple[str, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    torn: int = 0

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """That of a day's folder; empty before its first compaction.

        Raises:
            ValueError: if the file is not one that `save` wrote.
        """
        path = folder / MANIFEST_FILE
        try:
            content: Any = files.read_json(path)
        except FileNotFoundError:
            return cls()
        try:
            return cls(tuple(content["parts"]), content["lines"], content["torn"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"{path} is no manifest ({error}): restore it, it says what is logged") from None

    def save(self, folder: Path) -> None:
        """Write it atomically, and return when the disk has it: what it replaces may be deleted then."""
        content = {"parts": list(self.parts), "lines": dict(self.lines), "torn": self.torn}
        files.write_json(folder / MANIFEST_FILE, content)
        sync_folder(folder)


@dataclass(frozen=True)
class Sources:
    """Where a day's records are to be read at one moment, each of them once.

    Attributes:
        manifest: of the day.
        lines: size of each JSON lines file of which nothing is compacted.
        late: offset and size of each that grew after it was compacted.
    """

    folder: Path
    manifest: Manifest
    lines: Mapping[str, int]
    late: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, folder: Path) -> "Sources":
        """Look at a day's folder, also while it is compacted."""
        manifest = Manifest.load(folder)
        while True:
            sizes = {}
            for path in sorted(folder.glob("*.jsonl")):
                with suppress(FileNotFoundError):  # it was compacted meanwhile
                    sizes[path.name] = path.stat().st_size
            after = Manifest.load(folder)
            if after == manifest:  # else files that were listed may be compacted and gone by now
                break
            manifest = after
        known = manifest.lines
        return cls(
            folder,
            manifest,
            {name: size for name, size in sizes.items() if name not in known},
            {name: (known[name], size) for name, size in sizes.items() if size > known.get(name, size)},
        )

    def parts(self) -> list[Path]:
        """The Parquet files."""
        return [self.folder / part for part in self.manifest.parts]

    def whole_lines(self) -> list[Path]:
        """The JSON lines files that are read from their beginning."""
        return [self.folder / name for name, size in self.lines.items() if size]

    def late_lines(self) -> bytes:
        """What was written into files after they were compacted."""
        found = []
        for name, (begin, end) in self.late.items():
            with (self.folder / name).open("rb") as file:
                file.seek(begin)
                found.append(file.read(end - begin))
        return b"\n".join(found)


def days(folder: Path, since: datetime | None = None) -> Iterator[Path]:
    """The folders of single days below one kind's, oldest first; `since` is an aware moment."""
    first = f"{since:%Y-%m-%d}" if since else ""
    yield from sorted(day for day in folder.glob("????-??-??") if day.is_dir() and day.name >= first)


@contextmanager
def alone(log_dir: Path) -> Iterator[None]:
    """Nobody else changes what is compacted meanwhile; the service writes on, and readers read."""
    from filelock import FileLock

    log_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(log_dir / ".compact.lock"):
        yield


def publish(made: Path, place: Path) -> Path:
    """Move a finished file to its place, and return when the disk has it there."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    place.parent.mkdir(exist_ok=True)
    os.replace(made, place)
    sync_folder(place.parent)
    return place


def new_name() -> str:
    """Name of a Parquet file that no other has had."""
    return f"{secrets.token_hex(8)}.parquet"


def tombstones(log_dir: Path) -> list[Path]:
    """One file for each id that was forgotten, named by its SHA-256 (hexadecimal)."""
    return [path for day in days(log_dir / FORGOTTEN_FOLDER) for path in day.glob("[0-9a-f]*")]


def sync_folder(folder: Path) -> None:
    """Return when the disk knows which files a folder has."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
