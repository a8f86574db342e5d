"""The plot of a simulation: accuracy over time, the monitor's verdicts, and what happened when."""

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from ferops import files
from ferops.evaluation.figures import BLUE, GREY, INK, LINE, ORANGE, page_element
from ferops.simulation.timeline import Timeline

#: What stands for a colour in the page's plot, so that it follows the page's light or dark.
PAGE_COLOURS = {
    INK: "var(--ink)",
    LINE: "var(--line)",
    BLUE: "var(--old)",
    ORANGE: "var(--new)",
    GREY: "var(--soft)",
}

#: Shape and colour of each verdict: readable without colours too.
MARKS = {"healthy": ("o", "#2e7d4f"), "drift": ("X", "#b3261e"), "too_few": (".", GREY)}


def save(timeline: Timeline, path: Path) -> None:
    """Write the plot as PNG on white."""
    figure = _draw(timeline, width=8.6, height=4.6)
    figure.set_facecolor("white")
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    files.write_bytes(path, content.getvalue())


def inline(timeline: Timeline, width: float) -> str:
    """The plot as an SVG element in the page's own colours, `width` inches wide."""
    return page_element(_draw(timeline, width, height=4.4), PAGE_COLOURS)


def _draw(timeline: Timeline, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[10, 2.2])
    _accuracy(upper, timeline)
    _verdicts(lower, timeline)
    return figure


def _accuracy(axes: Axes, timeline: Timeline) -> None:
    for version, colour, style in (
        (timeline.version_before, BLUE, "-o"),
        (timeline.version_after, ORANGE, "-s"),
    ):
        spans = [span for span in timeline.curve if span.model_version == version]
        if not spans:
            continue
        at = [(span.start + span.end) / 120 for span in spans]
        low, high = zip(*(span.interval for span in spans), strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(at, [s.accuracy for s in spans], style, color=colour, markersize=3.5, label=version)
    told = [(look.at / 60, look.accuracy) for look in timeline.looks if look.accuracy and look.labelled >= 50]
    axes.plot(
        [moment for moment, _ in told],
        [accuracy for _, accuracy in told],
        linestyle="none",
        marker="_",
        markersize=9,
        color=GREY,
        label="by feedback",
    )
    for number, (moment, text) in enumerate(_moments(timeline)):
        axes.axvline(moment / 60, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        side = "left" if number else "right"  # the alarm comes soon after the drift
        axes.text(moment / 60, 0.02, text, rotation=90, ha=side, va="bottom", fontsize=8.5, color=INK)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("accuracy", color=INK)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8.5, labelcolor=INK,
        columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip
    _style(axes)


def _verdicts(axes: Axes, timeline: Timeline) -> None:
    for look in timeline.looks:
        marker, colour = MARKS[look.verdict]
        axes.plot(look.at / 60, 0, marker, color=colour, markersize=6)
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=colour, label=verdict.replace("_", " "))
        for verdict, (marker, colour) in MARKS.items()
    ]
    axes.legend(
        handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=INK,
        bbox_to_anchor=(0.5, -0.12),
    )  # fmt: skip
    axes.set_ylim(-3, 1)
    axes.set_yticks([0], ["verdicts"])
    axes.set_xlabel("minutes", color=INK)
    _style(axes)
    axes.grid(visible=False)


def _moments(timeline: Timeline) -> list[tuple[float, str]]:
    moments = [
        (timeline.drift_at, "drift begins"),
        (timeline.alarm_at, "alarm"),
        (timeline.learning_at, "retraining"),
    ]
    if timeline.swap_at is not None:
        moments.append((timeline.swap_at, "new champion"))
    return moments


def _style(axes: Axes) -> None:
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
