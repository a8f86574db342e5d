"""The verdict as a page: what moved, on top of Evidently's own reports. No script, no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ferops.emotions import EMOTIONS
from ferops.monitoring.verdict import ColumnDrift, Verdict

HEADLINES = {"healthy": "Healthy", "drift": "Drift", "too_few": "Too few predictions to say"}

#: Columns that get a plot.
PLOTS = 4

WIDTH, HEIGHT, BINS = 260, 110, 24


def render(verdict: Verdict, current: pd.DataFrame, reference: pd.DataFrame, pages: Sequence[str]) -> str:
    """HTML of a verdict with histograms of the most moved columns; `pages` are files to link to."""
    plots = [
        (column.name, histogram(reference[column.name], current[column.name]))
        for column in verdict.columns[:PLOTS]
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text())
    return template.render(
        verdict=verdict, headline=HEADLINES[verdict.verdict], rows=_rows(verdict), plots=plots, pages=pages
    )


def _rows(verdict: Verdict) -> list[dict[str, Any]]:
    rows = [{**column.model_dump(), **_before_and_now(column)} for column in verdict.columns]
    if verdict.embedding:
        rows.append({"name": "embedding", "reference": "", "current": "", **verdict.embedding.model_dump()})
    return rows


def _before_and_now(column: ColumnDrift) -> dict[str, str]:
    then, now = column.reference, column.current
    if isinstance(then, dict) and isinstance(now, dict):
        most = most_changed(then, now)
        return {"reference": f"{most} {then[most]:.0%}", "current": f"{most} {now[most]:.0%}"}
    return {"reference": f"{then:.3f}", "current": f"{now:.3f}"}


def most_changed(then: Mapping[str, float], now: Mapping[str, float]) -> str:
    """The emotion whose share changed most."""
    return max(then, key=lambda emotion: abs(now[emotion] - then[emotion]))


def histogram(reference: pd.Series, current: pd.Series) -> str:
    """Inline SVG: shares per bin (or per emotion), reference filled, current as a line."""
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
        f'<text x="{min(max(i * step, 0), WIDTH - 24):.0f}" y="{HEIGHT + 14}" font-size="11">{mark}</text>'
        for i, mark in enumerate(marks)
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT + 18}" role="img">'
        f'<path d="{paths[0]}" fill="#2f5d9b55" stroke="#2f5d9b"/>'
        f'<path d="{paths[1]}" fill="none" stroke="#b3261e" stroke-width="2"/>{texts}</svg>'
    )


def _steps(heights: NDArray[np.float64]) -> str:
    width = WIDTH / len(heights)
    points = [f"M0 {HEIGHT}"]
    for i, height in enumerate(heights):
        y = HEIGHT - height * (HEIGHT - 4)
        points.append(f"L{i * width:.1f} {y:.1f} L{(i + 1) * width:.1f} {y:.1f}")
    return " ".join([*points, f"L{WIDTH} {HEIGHT}"])
