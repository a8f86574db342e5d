"""Forgetting: one prediction leaves the log, its feedback and what a challenger said of it, for good.

    >>> forget(Path("predictions"), "0123456789abcdef0123456789abcdef").sentence()  # doctest: +SKIP

First a tombstone is written, `forgotten/<UTC day>/<sha256 of the id>`: from then on no reader sees the id,
nor lines about it that come later. Then the records are erased where they lie. JSON lines are overwritten
with blanks, byte for byte, so that a service which appends to the same file notices nothing; Parquet files
are written anew without the record. Until that is done the tombstone holds the id, so that a call that was
killed is finished by the next compaction; then only the digest remains, which nobody can turn back.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ferops import files
from ferops.serving.log_days import (
    BESIDE,
    FORGOTTEN_FOLDER,
    KINDS,
    Manifest,
    Sources,
    alone,
    days,
    new_name,
    publish,
    sync_folder,
    tombstones,
)
from ferops.serving.log_reader import PARQUET, connect, listed, one, quoted, read_log
from ferops.serving.prediction_log import Kind


class UnknownPredictionError(LookupError):
    """No prediction of this id is in the log."""


@dataclass(frozen=True)
class Forgotten:
    """What was forgotten of one prediction.

    Attributes:
        records: by kind, how many were found; empty when it was forgotten before.
    """

    records: Mapping[Kind, int]

    def sentence(self) -> str:
        """The outcome, for a person; without the id, which a terminal's history need not keep twice."""
        if not self.records:
            return "was forgotten before"
        return "forgotten: " + ", ".join(f"{count} in {kind}" for kind, count in self.records.items())


def forget(log_dir: Path, identity: str, now: datetime | None = None) -> Forgotten:
    """Erase what the log holds of one prediction; safe to repeat, and beside a service that writes.

    Args:
        log_dir: the folder that the service logs to.
        identity: the prediction's id.
        now: aware; the present when none.

    Raises:
        UnknownPredictionError: if the log holds nothing of it.
    """
    known = is_forgotten(log_dir, identity)
    found = read_log(
        log_dir,
        lambda log: {
            kind: count
            for kind in KINDS
            if (count := one(log, f"SELECT count(*) FROM {kind} WHERE id = ?", [identity])[0])
        },
    )
    if not found and not known:
        raise UnknownPredictionError(
            f"{log_dir} holds no prediction {identity}: an id has 32 hexadecimal digits, and records are "
            "deleted after log.keep_days of monitoring/policy.yaml"
        )
    if not known:
        now = (now or datetime.now(UTC)).astimezone(UTC)
        tombstone = log_dir / FORGOTTEN_FOLDER / f"{now:%Y-%m-%d}" / _digest(identity)
        files.write_text(tombstone, identity)
        for folder in (tombstone.parent, tombstone.parent.parent, log_dir):
            sync_folder(folder)
    with alone(log_dir):
        finish(log_dir)
    return Forgotten(found)


def is_forgotten(log_dir: Path, identity: str) -> bool:
    """Whether a prediction was forgotten, within the time that records are kept."""
    return any(path.name == _digest(identity) for path in tombstones(log_dir))


def _digest(identity: str) -> str:
    return files.sha256_of(identity.encode())


def finish(log_dir: Path) -> int:
    """Erase all that is to be forgotten and is not erased yet; gives how many ids. Needs `alone`."""
    unfinished = {path: identity for path in tombstones(log_dir) if (identity := path.read_text())}
    if unfinished:
        for kind in KINDS:
            for day in list(days(log_dir / kind)):
                _erase(day, list(unfinished.values()))
    for tombstone in unfinished:
        files.write_text(tombstone, "")
    return len(unfinished)


def _erase(day: Path, identities: Sequence[str]) -> None:
    for path in day.glob("*.jsonl"):
        _blank(path, identities)
    parts = {part.name: part for part in Sources.of(day).parts()}
    if not parts:
        return
    with tempfile.TemporaryDirectory(prefix=BESIDE, dir=day) as beside, connect(Path(beside)) as log:
        log.execute("SET preserve_insertion_order = false")
        log.execute("CREATE TABLE gone AS SELECT unnest(?::VARCHAR[]) AS id", [identities])
        found = log.execute(
            f"SELECT DISTINCT parse_filename(filename) FROM read_parquet({listed(list(parts.values()))}, "
            "filename = true) WHERE id IN (SELECT id FROM gone)"
        ).fetchall()
        for (name,) in found:
            made = Path(beside) / name
            log.execute(
                f"COPY (SELECT * FROM read_parquet({listed([parts[name]])}, hive_partitioning = false) "
                f"WHERE id NOT IN (SELECT id FROM gone)) TO {quoted(made)} ({PARQUET})"
            )
            old, parts[name] = parts[name], publish(made, parts[name].with_name(new_name()))
            manifest = Manifest.load(day)
            replace(manifest, parts=tuple(p.relative_to(day).as_posix() for p in parts.values())).save(day)
            old.unlink()


def _blank(path: Path, identities: Sequence[str]) -> None:
    """Overwrite the lines that name an id; nothing else of the file changes, and no line moves."""
    names = [f'"{identity}"'.encode() for identity in identities]
    begin = 0
    with path.open("r+b") as file:
        for line in file:
            if any(name in line for name in names):
                os.pwrite(file.fileno(), b" " * len(line.rstrip(b"\n")), begin)
            begin += len(line)
        os.fsync(file.fileno())
