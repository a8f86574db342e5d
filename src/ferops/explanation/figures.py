"""Plots of a batch leak: accuracy by company, and by the share of same-class neighbours."""

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ferops import files
from ferops.evaluation.batch_invariance import Arrangement
from ferops.evaluation.figures import BLUE, GREY, INK, LINE, ORANGE, page_element, svg
from ferops.explanation.result import Explanation, Measured

#: What stands for a colour in a figure that lies in the page, so that it follows the page's light or dark.
PAGE_COLOURS = {
    INK: "var(--ink)",
    LINE: "var(--line)",
    BLUE: "var(--alone)",
    ORANGE: "var(--sorted)",
    GREY: "var(--soft)",
}

#: Bars from left to right: class-sorted last, beside the figures it inflates.
BARS: tuple[Arrangement, ...] = ("single", "shuffled", "other_size", "class_sorted")


def save(explanation: Explanation, out: Path) -> None:
    """Write `batch_leak.png` and `batch_leak.svg`: both plots side by side on white."""
    figure = Figure(figsize=(9.6, 4.4), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    companies(left, explanation)
    shares(right, explanation)
    said = "synthetic faces, " if explanation.synthetic else ""
    images = f"{explanation.model.invariance.images} of {explanation.rows} test images"
    figure.suptitle(
        f"{explanation.model.name}: same weights, same images, different neighbours\n"
        f"({said}{explanation.source}, {images})",
        fontsize=11,
    )
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    files.write_bytes(out / "batch_leak.png", content.getvalue())
    files.write_text(out / "batch_leak.svg", svg(figure))


def inline(explanation: Explanation) -> tuple[str, str]:
    """Both plots as SVG elements in the page's own colours, legible at a telephone's width."""
    drawn = []
    for number in range(2):
        figure = Figure(figsize=(4.4, 3.7), layout="constrained")
        axes = figure.subplots()
        if number == 0:
            companies(axes, explanation)
        else:
            shares(axes, explanation)
        drawn.append(page_element(figure, PAGE_COLOURS))
    return drawn[0], drawn[1]


def companies(axes: Axes, explanation: Explanation) -> None:
    """Accuracy with its interval in each arrangement; of a leaking model class-sorted stands out."""
    model, found = explanation.model, explanation.model.invariance
    names = {
        "single": "alone",
        "shuffled": f"shuffled,\nby {found.batch_size}",
        "other_size": f"shuffled,\nby {found.other_batch_size}",
        "class_sorted": f"class-sorted,\nby {found.batch_size}",
    }
    values = [model.metrics[name].accuracy for name in BARS]
    bounds = [model.metrics[name].intervals["accuracy"] for name in BARS]
    bars = axes.bar(
        [names[name] for name in BARS],
        values,
        width=0.62,
        color=[ORANGE if name == "class_sorted" and explanation.leaks else BLUE for name in BARS],
        yerr=[
            [value - low for value, (low, _) in zip(values, bounds, strict=True)],
            [high - value for value, (_, high) in zip(values, bounds, strict=True)],
        ],
        error_kw={"ecolor": INK, "elinewidth": 1.3, "capsize": 4},
    )
    for bar, value, (_, high) in zip(bars, values, bounds, strict=True):
        axes.text(
            bar.get_x() + bar.get_width() / 2,
            high + 0.015,
            f"{value:.1%}",
            ha="center",
            va="bottom",
            color=INK,
            weight="bold",
        )
    _style(axes, f"the same {found.images} images")


def shares(axes: Axes, explanation: Explanation) -> None:
    """Accuracy by the share of same-class neighbours, with intervals; a sound model's line is flat."""
    model, twin = explanation.model, explanation.twin
    lines: list[tuple[Measured, str, str]] = [(model, "-", "o")]
    if twin is not None:
        lines.append((twin, "--", "s"))
    for one, style, marker in lines:
        colour = ORANGE if one.invariance.max_difference > explanation.tolerance else BLUE
        at = [point.share for point in one.shares]
        values = [point.accuracy for point in one.shares]
        axes.fill_between(
            at,
            [point.interval[0] for point in one.shares],
            [point.interval[1] for point in one.shares],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        label = f"{one.attention} wiring" if one.attention else one.name
        axes.plot(at, values, style, marker=marker, color=colour, label=label)
    for position in (0, -1):  # the upper line's number above it, the lower one's below
        upper = max(lines, key=lambda line: line[0].shares[position].accuracy)
        for line in lines:
            point = line[0].shares[position]
            axes.annotate(
                f"{point.accuracy:.0%}",
                (point.share, point.accuracy),
                textcoords="offset points",
                xytext=(0, 8 if line is upper else -17),
                ha="center",
                color=INK,
                weight="bold",
            )
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlim(-0.08, 1.08)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("neighbours that show the same emotion", color=INK)
    _style(axes, f"{model.shares[0].images} images, by who is beside them")
    if twin is not None:
        axes.legend(loc="best", frameon=False, labelcolor=INK, fontsize=9)


def _style(axes: Axes, title: str) -> None:
    axes.set_ylim(0, 1.08)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("accuracy", color=INK)
    axes.set_title(title, color=INK, fontsize=10)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
