"""The verdict as a page to be read in a minute: what it is, what to do, what moved since when, examples.

No script, no network; Evidently's own reports are linked.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from ferops.data.descriptors import DESCRIPTORS
from ferops.emotions import EMOTIONS
from ferops.monitoring.advice import advice
from ferops.monitoring.alerts import parts
from ferops.monitoring.history import Judged
from ferops.monitoring.page_plots import accuracy_by_day, course, histogram
from ferops.monitoring.policy import Policy
from ferops.monitoring.verdict import ColumnDrift, Share, Verdict
from ferops.promotion.gate_page import code

HEADLINES = {"healthy": "Healthy", "drift": "Drift", "too_few": "Too few predictions to say"}

#: Columns that get a plot: those that drifted, at most and at least so many.
PLOTS, PLOTS_AT_LEAST = 4, 2

#: Predictions that are shown as examples: where in the order of the most moved column they stand.
EXAMPLES = (0.1, 0.5, 0.9)


def render(
    verdict: Verdict,
    current: pd.DataFrame,
    reference: pd.DataFrame,
    pages: Sequence[str],
    policy: Policy,
    earlier: Sequence[Judged] = (),
) -> str:
    """HTML of a verdict.

    Args:
        verdict: to be shown.
        current: rows that were compared.
        reference: those of the reference.
        pages: files beside it to link to.
        policy: by which it was judged.
        earlier: verdicts before it, oldest first: they say since when.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"minute": _minute, "percent": _percent, "share": _share, "figure": "{:,}".format}
    environment.filters["code"] = code
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text())
    quality, served = policy.quality, verdict.window.model_version
    drifted = sum(column.drifted for column in verdict.columns)
    by_day = ""
    if quality and verdict.quality:
        by_day = accuracy_by_day(
            verdict.days, served, verdict.quality.reference_accuracy, quality.minimum_daily
        )
    return template.render(
        verdict=verdict,
        policy=policy,
        headline=HEADLINES[verdict.verdict],
        advice=advice(verdict),
        since=since(verdict, earlier),
        rows=_rows(verdict),
        plots=[
            (
                column.name,
                histogram(reference[column.name], current[column.name]),
                course(reference[column.name], current[column.name], current["time"])
                if isinstance(column.current, float)
                else "",
            )
            for column in verdict.columns[: min(max(drifted, PLOTS_AT_LEAST), PLOTS)]
        ],
        examples=examples(verdict, current, reference) if verdict.verdict == "drift" else None,
        by_day=by_day,
        emotions=EMOTIONS,
        pages=pages,
    )


def since(verdict: Verdict, earlier: Sequence[Judged]) -> dict[str, str]:
    """For each part that the verdict names, the end of the first window in a row that named it, ISO UTC.

    Too few predictions between two windows with drift interrupt nothing: they say neither.
    """
    version = verdict.window.model_version
    first = {}
    for part in parts(verdict) if verdict.verdict != "healthy" else ():
        first[part] = verdict.time
        for before in reversed([e for e in earlier if e.time < verdict.time]):
            if before.model_version != version:
                break
            if before.verdict == "too_few" and verdict.verdict == "drift":
                continue
            if before.verdict != verdict.verdict or (before.parts and part not in before.parts):
                break
            first[part] = before.time
    return first


def examples(verdict: Verdict, current: pd.DataFrame, reference: pd.DataFrame) -> dict[str, Any] | None:
    """What single predictions look like beside what is usual: no id, for a report must lead to nobody.

    Returns:
        `by`, the column whose 10th, 50th and 90th percentile the examples stand at; `rows`, one a number:
        name, the middle 80 % of the reference and of now, the examples' values and whether they are outside
        of the reference's; `labels` of the examples. None without a watched number.
    """
    numbers = [column for column in verdict.columns if isinstance(column.current, float)]
    if not numbers:
        return None
    by = numbers[0].name
    order = current[by].sort_values(kind="stable").index
    chosen = current.loc[[order[int(place * (len(order) - 1))] for place in EXAMPLES]]
    rows = []
    for name in (*DESCRIPTORS, "confidence"):
        usual, now = (side[name].quantile([0.1, 0.9]).tolist() for side in (reference, current))
        values = [(value, not usual[0] <= value <= usual[1]) for value in chosen[name]]
        rows.append({"name": name, "usual": usual, "now": now, "shown": values})
    return {"by": by, "rows": rows, "labels": chosen["label"].tolist()}


def _rows(verdict: Verdict) -> list[dict[str, Any]]:
    rows = [
        {**column.model_dump(), **_before_and_now(column), "moved": column.moved}
        for column in verdict.columns
    ]
    if verdict.embedding:
        moved = verdict.embedding.size / verdict.embedding.threshold
        shift = {"name": "embedding", "reference": "", "current": "", "moved": moved}
        rows.append({**shift, **verdict.embedding.model_dump()})
    return sorted(rows, key=lambda row: (row["drifted"], row["moved"]), reverse=True)


def _before_and_now(column: ColumnDrift) -> dict[str, str]:
    then, now = column.reference, column.current
    if isinstance(then, dict) and isinstance(now, dict):
        most = most_changed(then, now)
        return {"reference": f"{most} {then[most]:.0%}", "current": f"{most} {now[most]:.0%}"}
    return {"reference": f"{then:.3f}", "current": f"{now:.3f}"}


def most_changed(then: Mapping[str, float], now: Mapping[str, float]) -> str:
    """The emotion whose share changed most."""
    return max(then, key=lambda emotion: abs(now[emotion] - then[emotion]))


def _minute(time: str) -> str:
    """A moment for people, UTC: `2026-01-31 23:59`."""
    return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M")


def _percent(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def _share(share: Share) -> str:
    low, high = share.interval
    return f"{_percent(share.value)} ({100 * low:.0f}–{100 * high:.0f})"
