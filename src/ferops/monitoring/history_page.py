"""The history as a page, `reports/index.html`: how things stand, how they came to, and every window.

    >>> publish(Path("monitoring"))  # doctest: +SKIP
    PosixPath('monitoring/reports/index.html')

No script, no network. However many windows there are, the plots have at most `BUCKETS` points, and what is
listed one by one is the newest of them: a year of hours is a page of 0.2 MB.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from ferops import files
from ferops.monitoring.alerts import HEADLINES as FINDINGS
from ferops.monitoring.history import History, Judged, Told, record
from ferops.monitoring.history_plots import Axis, Plot, plots
from ferops.monitoring.page import HEADLINES
from ferops.serving.report_folder import INDEX, REPORTS_FOLDER, stamped

#: What is plotted large; all that is older has one plot more.
RECENT = timedelta(days=14)

#: Windows and days that have a row; of days before, months have one.
WINDOWS, DAYS = 500, 400

#: What was noticed beside the verdict.
REPEATS = {"images": "images repeat", "client": "one client sends most"}

#: Moved columns that a row names.
NAMED = 3

logger = logging.getLogger("ferops.history")


@dataclass(frozen=True)
class Period:
    """One axis of time and what is plotted over it."""

    title: str
    axis: Axis
    plots: Sequence[Plot]
    columns: Sequence[Plot]


def publish(folder: Path) -> Path:
    """Bring the history of a monitoring folder up to date, write its page, and give the page's path.

    What cannot be written (a full disk) is said in the log and is no error: verdict and alerts stand without
    it, and the next call makes up for it.
    """
    page = folder / REPORTS_FOLDER / INDEX
    try:
        history = record(folder)
        at_hand = {report.name for report in stamped(folder) if (report / INDEX).is_file()}
        files.write_text(page, render(history, at_hand))
    except OSError as error:
        logger.warning("the history is not up to date, the next `ferops monitor` makes up for it: %s", error)
    return page


def render(history: History, at_hand: set[str]) -> str:
    """HTML of a history; `at_hand` names the reports that can be linked to."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"minute": minute, "duration": duration, "moved": _moved, "repeats": _repeats}
    environment.filters |= {"headline": HEADLINES.get, "finding": FINDINGS.get, "figure": "{:,}".format}
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text())
    verdicts = history.verdicts
    return template.render(
        history=history,
        last=verdicts[-1] if verdicts else None,
        state=_state(history) if verdicts else None,
        periods=list(_periods(history)),
        windows=list(reversed(verdicts[-WINDOWS:])),
        days=_days(history),
        at_hand=at_hand,
    )


def _state(history: History) -> dict[str, Any]:
    """What the top of the page says: the newest verdict, since when, and what was before."""
    verdicts = history.verdicts
    last = verdicts[-1]
    same = _run(verdicts, lambda verdict: verdict.verdict)
    serving = _run(verdicts, lambda verdict: verdict.model_version)
    drifts = [number for number, verdict in enumerate(verdicts) if verdict.verdict == "drift"]
    drift = None
    if drifts and last.verdict != "drift":
        run = _run(verdicts[: drifts[-1] + 1], lambda verdict: verdict.verdict)
        named = Counter(part for verdict in run for part in verdict.parts)
        drift = {"run": run, "parts": [name for name, _ in named.most_common(NAMED)]}
    open_alerts = {alert.kind: alert for alert in history.alerts}  # the last of each kind
    return {
        "lasts": last.moment - same[0].moment,
        "windows": len(same),
        "serving": serving,
        "before": verdicts[-len(serving) - 1].model_version if len(serving) < len(verdicts) else None,
        "drift": drift,
        "open": [alert for alert in open_alerts.values() if alert.status == "detected"],
    }


def _run(verdicts: Sequence[Judged], key: Callable[[Judged], str]) -> Sequence[Judged]:
    """The last verdicts that have the same key as the last one."""
    first = len(verdicts) - 1
    while first and key(verdicts[first - 1]) == key(verdicts[-1]):
        first -= 1
    return verdicts[first:]


def _periods(history: History) -> Iterator[Period]:
    verdicts = history.verdicts
    if not verdicts:
        return
    begin, end = verdicts[0].moment, verdicts[-1].moment
    cut = end - RECENT
    if begin >= cut:
        yield _period(f"All {len(verdicts)} windows", history)
        return
    recent = [verdict for verdict in verdicts if verdict.moment >= cut]
    alerts = [alert for alert in history.alerts if alert.moment >= cut]
    yield _period(f"The last {RECENT.days} days", History(recent, alerts))
    yield _period(f"Since {begin:%Y-%m-%d}, {len(verdicts):,} windows", history)


def _period(title: str, history: History) -> Period:
    axis = Axis.of([verdict.moment for verdict in history.verdicts])
    return Period(title, axis, *plots(history, axis))


def _days(history: History) -> list[dict[str, Any]]:
    """A row for each day, newest first; for each month where it is long ago."""
    if not history.verdicts:
        return []
    newest = history.verdicts[-1].moment

    def label(entry: Judged | Told) -> str:
        moment = entry.moment.astimezone(UTC)
        return moment.strftime("%Y-%m-%d" if newest - moment < timedelta(days=DAYS) else "%Y-%m")

    told = Counter(label(alert) for alert in history.alerts if alert.status == "detected")
    rows = []
    for day, group in groupby(history.verdicts, label):
        verdicts = list(group)
        parts = Counter(part for verdict in verdicts for part in verdict.parts)
        rows.append(
            {
                "day": day,
                "counts": Counter(verdict.verdict for verdict in verdicts),
                "versions": list(dict.fromkeys(verdict.model_version for verdict in verdicts)),
                "parts": [name for name, _ in parts.most_common(NAMED)],
                "rows": max(verdict.rows for verdict in verdicts),
                "told": told[day],
            }
        )
    return rows[::-1]


def _moved(verdict: Judged) -> str:
    """What drifted, with its size; else what moved most."""
    if verdict.parts:
        named = [
            f"{part} {verdict.moved[part]:.1f}×" if part in verdict.moved else part
            for part in verdict.parts[:NAMED]
        ]
        more = len(verdict.parts) - NAMED
        return ", ".join(named) + (f" and {more} more" if more > 0 else "")
    most = sorted(verdict.moved, key=lambda name: -verdict.moved[name])[:1]
    return "".join(f"{name} {verdict.moved[name]:.1f}×" for name in most)


def _repeats(verdict: Judged) -> str:
    return ", ".join(REPEATS.get(name, name) for name in verdict.repeats)


def minute(moment: datetime) -> str:
    """A moment for people, UTC: `2026-01-31 23:59`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def duration(lasted: timedelta) -> str:
    """For people, in the largest unit of which there are two: `3 days`, `36 hours`, `5 minutes`."""
    for unit, seconds in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        count = int(lasted.total_seconds() / seconds)
        if count >= 2:
            return f"{count} {unit}"
    return "a minute"
