"""Plots of a verdict's page, as inline SVG: no script, letters that a phone can show, colours by the page."""

from collections.abc import Sequence
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ferops.emotions import EMOTIONS
from ferops.monitoring.verdict import DayQuality

WIDTH, HEIGHT, BINS = 260, 110, 24

#: Of the accuracy by day: all of it, and what is left for letters.
DAYS_WIDTH, DAYS_HEIGHT, LEFT, BELOW = 380, 150, 38, 16

#: Rows of an hour under which its mean says little: the standard error is a third of the spread.
HOUR_ROWS = 9


def histogram(reference: pd.Series, current: pd.Series) -> str:
    """Shares per bin (or per emotion), reference filled, current as a line."""
    if reference.dtype == object or isinstance(reference.dtype, pd.StringDtype):
        shares = [
            side.value_counts(normalize=True).reindex(EMOTIONS, fill_value=0.0).to_numpy(np.float64)
            for side in (reference, current)
        ]
        marks = [emotion[:3] for emotion in EMOTIONS]
    else:
        # Some wild values must not squeeze the rest into one bin.
        both = np.concatenate([reference, current])
        low, high = np.quantile(both, [0.005, 0.995])
        edges = np.linspace(low, max(high, low + 1e-9), BINS + 1)
        shares = [
            np.histogram(np.clip(side, low, edges[-1]), edges)[0] / len(side) for side in (reference, current)
        ]
        marks = [f"{low:.2g}", f"{high:.2g}"]
    top = max(float(side.max()) for side in shares) or 1.0
    paths = [_steps(side / top) for side in shares]
    step = WIDTH / max(len(marks) - 1, 1) if len(marks) == 2 else WIDTH / len(marks)
    texts = "".join(
        f'<text x="{min(max(i * step, 0), WIDTH - 24):.0f}" y="{HEIGHT + 14}">{mark}</text>'
        for i, mark in enumerate(marks)
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT + 18}" role="img">'
        f'<path d="{paths[0]}" class="reference"/><path d="{paths[1]}" class="current"/>{texts}</svg>'
    )


def course(reference: pd.Series, current: pd.Series, times: pd.Series) -> str:
    """Hour by hour through the window: the mean of a number, over the reference's middle 80 %.

    Args:
        reference: the number in the reference.
        current: in the window.
        times: of the current rows, UTC.

    Returns:
        SVG; empty when the window has no two hours to show.
    """
    hours = current.groupby(times.dt.floor("h")).agg(["mean", "size"])
    means = hours["mean"][hours["size"] >= HOUR_ROWS]
    if len(means) < 2:
        return ""
    low, middle, high = np.quantile(reference, [0.1, 0.5, 0.9])
    bottom, top = min(low, means.min()), max(high, means.max())
    scale = HEIGHT / max(top - bottom, 1e-9)

    def y(value: float) -> float:
        return HEIGHT - (value - bottom) * scale

    first, last = means.index[0], means.index[-1]
    places = (means.index - first) / (last - first) * WIDTH
    line = " ".join(f"{x:.1f},{y(mean):.1f}" for x, mean in zip(places, means, strict=True))
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT + 18}" role="img">'
        f'<rect class="band" y="{y(high):.1f}" width="{WIDTH}" height="{max(y(low) - y(high), 1):.1f}"/>'
        f'<path class="middle" d="M0 {y(middle):.1f}H{WIDTH}"/><polyline class="current" points="{line}"/>'
        f'<text x="0" y="{HEIGHT + 14}">{first:%H:%M}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{last:%H:%M}</text></svg>'
    )


def accuracy_by_day(days: Sequence[DayQuality], served: str, reference_accuracy: float, minimum: int) -> str:
    """A point a day with its interval; hollow for other versions than the served one.

    Args:
        days: with feedback, oldest first.
        served: the version whose points are filled.
        reference_accuracy: the dashed line.
        minimum: days with fewer labels have no point.

    Returns:
        SVG; empty when no day has enough labels.
    """
    shown = [day for day in days if day.accuracy.labelled >= minimum]
    if not shown:
        return ""
    first, last = (date.fromisoformat(day.day) for day in (shown[0], shown[-1]))
    width, height = DAYS_WIDTH - LEFT - 20, DAYS_HEIGHT - BELOW - 8
    span = max((last - first).days, 1)

    def x(day: str) -> float:
        return LEFT + 10 + (date.fromisoformat(day) - first).days / span * width

    def y(share: float) -> float:
        return 8 + (1 - share) * height

    grid = "".join(
        f'<path class="grid" d="M{LEFT} {y(share):.1f}H{DAYS_WIDTH}"/>'
        f'<text x="{LEFT - 4}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        for share in (0, 0.5, 1)
    )
    points = "".join(
        f'<path class="interval" d="M{x(day.day):.1f} {y(day.accuracy.interval[0]):.1f}'
        f'V{y(day.accuracy.interval[1]):.1f}"/>'
        f'<circle class="{"served" if day.model_version == served else "other"}" '
        f'cx="{x(day.day):.1f}" cy="{y(day.accuracy.value):.1f}" r="4"/>'
        for day in shown
    )
    ends = f'<text x="{x(shown[0].day):.1f}" y="{DAYS_HEIGHT - 2}" text-anchor="middle">{first:%d %b}</text>'
    if last != first:
        ends += f'<text x="{DAYS_WIDTH}" y="{DAYS_HEIGHT - 2}" text-anchor="end">{last:%d %b}</text>'
    return (
        f'<svg class="days" viewBox="0 0 {DAYS_WIDTH} {DAYS_HEIGHT}" role="img">{grid}'
        f'<path class="middle" d="M{LEFT} {y(reference_accuracy):.1f}H{DAYS_WIDTH}"/>{points}{ends}</svg>'
    )


def _steps(heights: NDArray[np.float64]) -> str:
    width = WIDTH / len(heights)
    points = [f"M0 {HEIGHT}"]
    for i, height in enumerate(heights):
        y = HEIGHT - height * (HEIGHT - 4)
        points.append(f"L{i * width:.1f} {y:.1f} L{(i + 1) * width:.1f} {y:.1f}")
    return " ".join([*points, f"L{WIDTH} {HEIGHT}"])
