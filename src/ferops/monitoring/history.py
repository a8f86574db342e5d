"""All verdicts so far, and the alerts that were told: `history.jsonl` in the monitoring folder.

    >>> record(Path("monitoring")).verdicts[-1].verdict  # doctest: +SKIP
    'healthy'

A report's folder takes 8 MB and goes after a while; its verdict's line takes some 700 bytes and stays. Lines
are only appended, by one process at a time, and flushed to the disk. What a killed process did not write, or
cut short, the next one writes: from the reports that are still there.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from ferops import files
from ferops.monitoring.acting import STATE_FILE, State
from ferops.monitoring.alerts import Kind, Status, parts
from ferops.monitoring.verdict import Outcome, Verdict
from ferops.serving.report_folder import stamped

HISTORY_FILE = "history.jsonl"

#: Seconds to wait for another monitor, which writes some lines.
LOCK_SECONDS = 60.0


class Line(BaseModel):
    """Base of what a line holds. Unknown keys, which a later version wrote, are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Judged(Line):
    """One verdict, in short.

    Attributes:
        report: name of the report's folder, which may be gone.
        time: end of the window, ISO UTC.
        rows: usable predictions in it.
        parts: what drifted, most important first; empty unless the verdict is drift.
        moved: size over threshold of each watched column, and of `embedding`.
        repeats: what came again and again, `images` or one `client`.
        labelled, accuracy, interval: as in `Quality`, where there was feedback.
        expected: accuracy as the model's confidence lets one expect it, without feedback.
        reference_accuracy: what to compare either with.
    """

    report: str
    time: str
    verdict: Outcome
    model: str
    model_version: str
    synthetic: bool
    rows: int
    parts: tuple[str, ...] = ()
    moved: Mapping[str, float] = {}
    repeats: tuple[str, ...] = ()
    labelled: int = 0
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    expected: float | None = None
    reference_accuracy: float | None = None

    @property
    def moment(self) -> datetime:
        """`time`, aware."""
        return datetime.fromisoformat(self.time)


class Told(Line):
    """One alert that a channel took; fields as in `Alert`."""

    id: str
    time: str
    kind: Kind
    status: Status
    model_version: str
    parts: tuple[str, ...] = ()

    @property
    def moment(self) -> datetime:
        """`time`, aware."""
        return datetime.fromisoformat(self.time)


class _AnyLine(Line):
    """A line holds one of the two."""

    verdict: Judged | None = None
    alert: Told | None = None


@dataclass(frozen=True)
class History:
    """What is known, each oldest first."""

    verdicts: Sequence[Judged] = field(default=())
    alerts: Sequence[Told] = field(default=())


def read(folder: Path) -> History:
    """The history in a monitoring folder; a line that cannot be read is passed over."""
    verdicts: dict[str, Judged] = {}
    alerts: dict[str, Told] = {}
    path = folder / HISTORY_FILE
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            said = _AnyLine.model_validate_json(line)
        except ValidationError:
            continue
        if said.verdict:
            verdicts[said.verdict.report] = said.verdict
        if said.alert:
            alerts[said.alert.id] = said.alert
    return History(
        sorted(verdicts.values(), key=lambda verdict: verdict.moment),
        sorted(alerts.values(), key=lambda alert: alert.moment),
    )


def record(folder: Path) -> History:
    """Take into the history what it lacks: reports that are there, and alerts that were told.

    Args:
        folder: the monitoring folder, with `reports/` and `alerts.json`.

    Raises:
        OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{HISTORY_FILE}.lock", timeout=LOCK_SECONDS):
        history = read(folder)
        known = {verdict.report for verdict in history.verdicts}
        lines = [_AnyLine(verdict=verdict) for verdict in _reported(folder, known)]
        heard = {alert.id for alert in history.alerts}
        lines += [_AnyLine(alert=alert) for alert in _told(folder / STATE_FILE) if alert.id not in heard]
        if not lines:
            return history
        _append(folder / HISTORY_FILE, lines)
        return read(folder)


def _reported(monitoring: Path, known: set[str]) -> Iterator[Judged]:
    for folder in stamped(monitoring):
        if folder.name in known:
            continue
        try:
            verdict = Verdict.model_validate(files.read_json(folder / "verdict.json"))
        except (OSError, ValueError):  # another version's, or being removed
            continue
        yield summary(verdict, folder.name)


def summary(verdict: Verdict, report: str) -> Judged:
    """What the history keeps of a verdict."""
    moved = {column.name: column.moved for column in verdict.columns}
    if verdict.embedding:
        moved["embedding"] = verdict.embedding.size / verdict.embedding.threshold
    quality, expected = verdict.quality, verdict.expected
    compared_with = quality if quality and quality.labelled else expected
    return Judged(
        report=report,
        time=verdict.time,
        verdict=verdict.verdict,
        model=verdict.champion,
        model_version=verdict.window.model_version,
        synthetic=verdict.synthetic,
        rows=verdict.window.rows,
        parts=parts(verdict) if verdict.verdict == "drift" else (),
        moved={name: float(f"{size:.3g}") for name, size in moved.items()},
        repeats=verdict.repeats.noticed if verdict.repeats else (),
        labelled=quality.labelled if quality else 0,
        accuracy=quality.accuracy if quality else None,
        interval=quality.interval if quality else None,
        expected=expected.value if expected else None,
        reference_accuracy=compared_with.reference_accuracy if compared_with else None,
    )


def _told(path: Path) -> Iterator[Told]:
    try:
        state = State.model_validate(files.read_json(path))
    except (OSError, ValueError):  # nothing was told yet; `act` says what is wrong with a broken one
        return
    for pending in state.outbox:
        if pending.delivered:
            yield Told.model_validate(pending.alert.model_dump())


def _append(path: Path, lines: Sequence[_AnyLine]) -> None:
    content = "".join(line.model_dump_json(exclude_defaults=True) + "\n" for line in lines).encode()
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            content = b"\n" + content  # a line that was cut short must not spoil the next
        if os.write(handle, content) != len(content):
            raise OSError(f"{path} could not be written whole: is the disk full?")
        os.fsync(handle)
    finally:
        os.close(handle)
