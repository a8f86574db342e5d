"""Charts of an evaluation, drawn without pyplot: nothing global is touched and no screen is needed."""

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ferops.emotions import EMOTIONS
from ferops.evaluation.batch_invariance import Arrangement, summarise
from ferops.evaluation.calibration import expected_calibration_error, reliability

# Okabe & Ito's colours, told apart with every kind of colour blindness.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8A8F98"
INK, LINE = "#1a1d21", "#dfe3e8"

#: Where the batch-invariance chart draws its line: the default of `gate.invariance_tolerance`.
NOTICEABLE = 1e-4


def title(candidate: str, what: str, synthetic: bool) -> str:
    """A chart's title; results on the generator's faces always say so."""
    return f"{candidate}: {what}" + (" (synthetic faces)" if synthetic else "")


def confusion(counts: NDArray[np.int64], candidate: str, synthetic: bool) -> Figure:
    """Confusion matrix int64 `[7, 7]`: colour is the share of the true emotion, counts stand in the cells."""
    figure = Figure(figsize=(7.4, 6.4), layout="constrained")
    axes = figure.subplots()
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        share = shares[row, column]
        axes.text(
            column,
            row,
            f"{share:.0%}\n{counts[row, column]}",
            ha="center",
            va="center",
            fontsize=9,
            weight="bold" if row == column else "normal",
            color="white" if share > 0.55 else "black",
        )
    axes.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=35, ha="right")
    axes.set_yticks(range(len(EMOTIONS)), [f"{e} ({n})" for e, n in zip(EMOTIONS, totals[:, 0], strict=True)])
    axes.set_xlabel("predicted emotion")
    axes.set_ylabel("true emotion (images)")
    axes.set_title(title(candidate, "confusion matrix, test split", synthetic))
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true emotion's images")
    return figure


def calibration(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], bins: int, candidate: str, synthetic: bool
) -> Figure:
    """Reliability diagram with the expected calibration error, above a histogram of the confidence."""
    table = reliability(labels, probabilities, bins)
    error = expected_calibration_error(labels, probabilities, bins)
    figure = Figure(figsize=(6.4, 6.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    width = 1 / bins
    centres = (table.lower + table.upper) / 2
    upper.plot([0, 1], [0, 1], "--", color=GREY, label="perfectly calibrated")
    upper.bar(centres, np.nan_to_num(table.accuracy), width * 0.94, color=BLUE, label="accuracy in the bin")
    filled = table.rows > 0
    upper.plot(
        table.confidence[filled],
        table.confidence[filled],
        "_",
        color=ORANGE,
        markersize=14,
        markeredgewidth=2.5,
        label="mean confidence in the bin",
    )
    mean_confidence = probabilities.max(axis=1).mean()
    accuracy = (probabilities.argmax(axis=1) == labels).mean()
    verdict = "too sure" if mean_confidence > accuracy else "not sure enough"
    upper.text(
        0.03,
        0.97,
        f"expected calibration error {error:.3f}\nmean confidence {mean_confidence:.3f}, "
        f"accuracy {accuracy:.3f}: {verdict} on the whole",
        transform=upper.transAxes,
        va="top",
        bbox={"facecolor": "white", "edgecolor": GREY, "alpha": 0.9, "boxstyle": "round"},
    )
    upper.set(xlim=(0, 1), ylim=(0, 1.19), ylabel="share that is right")
    upper.set_yticks(np.linspace(0, 1, 6))
    upper.set_title(title(candidate, "reliability, test split", synthetic))
    upper.legend(loc="upper left", bbox_to_anchor=(0.015, 0.89), framealpha=0.9)
    lower.bar(centres, table.rows, width * 0.94, color=GREY)
    lower.set(xlabel="confidence", ylabel="images")
    return figure


def batch_invariance(
    answers: Mapping[Arrangement, NDArray[np.float32]],
    labels: NDArray[np.int64],
    batch_size: int,
    candidate: str,
    synthetic: bool,
) -> Figure:
    """Accuracy by arrangement, and how far each image's probabilities move from the image alone."""
    result = summarise(answers, labels, batch_size)
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    names: dict[Arrangement, str] = {
        "single": "alone",
        "shuffled": f"shuffled,\nbatches of {result.batch_size}",
        "class_sorted": f"class-sorted,\nbatches of {result.batch_size}",
        "other_size": f"shuffled,\nbatches of {result.other_batch_size}",
    }
    values = [result.accuracy[name] for name in names]
    colours = [ORANGE if name == "class_sorted" else BLUE for name in names]
    bars = left.bar(list(names.values()), values, color=colours, width=0.65)
    left.bar_label(bars, [f"{value:.1%}" for value in values], padding=3)
    left.set(ylim=(0, 1.08), ylabel="accuracy")
    left.tick_params(axis="x", labelsize=8.5)
    left.set_title(f"the same {result.images} images in different company", fontsize=10)

    styles: tuple[tuple[Arrangement, str, str], ...] = (
        ("shuffled", "-", BLUE),
        ("class_sorted", "--", ORANGE),
        ("other_size", ":", GREY),
    )
    edges = np.logspace(-9, 0, 46)  # no change at all is drawn at 1e-9
    for name, line, colour in styles:
        moved = np.abs(answers[name] - answers["single"]).max(axis=1)
        right.hist(
            np.clip(moved, edges[0], 1),
            bins=list(edges),
            histtype="step",
            linestyle=line,
            linewidth=1.8,
            color=colour,
            label=names[name].replace("\n", " "),
        )
    right.axvline(NOTICEABLE, color="black", linewidth=1)
    right.text(
        1.25 * NOTICEABLE, 0.62, f"{NOTICEABLE:.0e}", transform=right.get_xaxis_transform(), fontsize=9
    )
    right.set(xscale="log", xlabel="largest change of a probability, against the image alone")
    right.set(ylabel="images", xlim=(edges[0], 1))
    right.set_title(f"largest of all {result.max_difference:.1e}", fontsize=10)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, 0.98), fontsize=8.5)
    invariant = "does not depend" if result.max_difference <= NOTICEABLE else "DEPENDS"
    figure.suptitle(title(candidate, f"an answer {invariant} on the other images of its batch", synthetic))
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})


def svg(figure: Figure) -> str:
    """The figure as SVG with real text, the same bytes for the same numbers."""
    content = io.BytesIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "ferops", "font.family": "sans-serif"}
    ):
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None, "Creator": None})
    return content.getvalue().decode()


def page_element(figure: Figure, colours: Mapping[str, str]) -> str:
    """The figure as an SVG element without background; `colours` names what the page puts for each colour."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    text = svg(figure)
    for colour, variable in colours.items():
        text = text.replace(colour.lower(), variable)
    return text[text.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" ', 1)
