"""What `benchmarks/training.py` measured: medians and ratios, the goals, a table and a plot."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

COLOURS = {"ours": "#2a6f97", "original": "#c1666b"}
SIDES = ("ours", "original")
#: What is measured of ours, and what of the original it is held against.
HELD_AGAINST = {
    "frozen": "frozen",
    "fine_tune": "fine_tune",
    "fine_tune, frozen norms": "fine_tune",  # as the notebook's are, where our recipe trains them
}
#: The goals: how many times sooner ours reaches the first target, and the most of its time it may wait.
GOAL_SOONER, GOAL_WAITING = 5.0, 0.05
Rows = Mapping[str, int]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    found = list(values)
    return {"median": float(np.median(found)), "low": min(found), "high": max(found)}


def summarise_speed(records: Sequence[Mapping[str, Any]], rows: Rows) -> list[dict[str, Any]]:
    """One row a stage and size: each side's speed, and the ratio of ours to the original, round by round.

    An epoch is one pass over the train split and one over validation, computed from the two measured speeds.
    """

    def epoch_seconds(stage: Mapping[str, float]) -> float:
        return (
            rows["train"] / stage["images_per_second"]
            + rows["validation"] / stage["validation_images_per_second"]
        )

    table = []
    for stage, other in HELD_AGAINST.items():
        if not any(stage in record["stages"] for record in records):
            continue
        for size in sorted({record["size"] for record in records}):
            found = {
                side: [
                    record["stages"][name]
                    for record in records
                    if (record["side"], record["size"]) == (side, size)
                ]
                for side, name in zip(SIDES, (stage, other), strict=True)
            }
            row: dict[str, Any] = {"stage": stage, "size": size}
            for side, runs in found.items():
                row[side] = {
                    "images_per_second": spread(r["images_per_second"] for r in runs),
                    "epoch_seconds": spread(epoch_seconds(r) for r in runs),
                    "waiting_share": spread(r["waiting_share"] for r in runs),
                    "processor_seconds_per_image": spread(r["processor_seconds_per_image"] for r in runs),
                    "peak_mib": spread(r["peak_mib"] for r in runs),
                }
            pairs = list(zip(found["ours"], found["original"], strict=True))
            row["speed_ratio"] = spread(a["images_per_second"] / b["images_per_second"] for a, b in pairs)
            row["processor_ratio"] = spread(
                b["processor_seconds_per_image"] / a["processor_seconds_per_image"] for a, b in pairs
            )
            row["epoch_ratio"] = spread(epoch_seconds(b) / epoch_seconds(a) for a, b in pairs)
            table.append(row)
    return table


def minutes_to(curve: Sequence[Mapping[str, float]], target: float, clock: str = "minutes") -> float | None:
    """When the curve first reached an accuracy, at the end of that epoch; none if it did not."""
    return next((point[clock] for point in curve if point["test_accuracy"] >= target), None)


def sooner(ours: float | None, original: float | None, trained: float) -> tuple[float, bool] | None:
    """How many times sooner ours reached a target, and whether that is only a lower bound.

    Args:
        ours: minutes until ours reached it; none if it did not, and then there is nothing to say.
        original: the same of the original; none if it did not within what it `trained`.
        trained: minutes that the original was trained.
    """
    if ours is None:
        return None
    return (trained / ours, True) if original is None else (original / ours, False)


def summarise_race(curves: Mapping[str, list[dict[str, float]]], targets: Sequence[float]) -> dict[str, Any]:
    """Per target: minutes of each side that raced, and how many times sooner ours was, if both did."""
    summary: dict[str, Any] = {}
    for side in curves:
        last = curves[side][-1]
        best = max(point["test_accuracy"] for point in curves[side])
        summary[side] = {"minutes": last["minutes"], "epochs": last["epochs"], "best": best}
    summary["targets"] = []
    for target in targets:
        row: dict[str, Any] = {"accuracy": target}
        for clock in ("minutes", "processor_minutes"):
            took = {side: minutes_to(curve, target, clock) for side, curve in curves.items()}
            ratio = None
            if "original" in curves:
                ratio = sooner(took["ours"], took["original"], curves["original"][-1][clock])
            row[clock] = {
                **took,
                "times_sooner": ratio and ratio[0],
                "lower_bound": bool(ratio and ratio[1]),
            }
        summary["targets"].append(row)
    return summary


def report(result: Mapping[str, Any]) -> str:
    """All that was measured, as text; medians of the rounds, lowest and highest in brackets."""
    rows = result["rows"]
    lines = [
        title(result),
        f"{rows['train']} train, {rows['validation']} validation, {rows['test']} test images; "
        f"{result['machine']['cores']} cores, {result['machine']['processor']}",
    ]
    if result["speed"]:
        lines += ["", *_speed(result)]
    if result["accuracy"]:
        lines += ["", *_accuracy(result["accuracy"])]
    return "\n".join(lines)


def title(result: Mapping[str, Any]) -> str:
    """What was trained on what."""
    warning = (
        " (drawn faces: its accuracies say nothing of real ones)" if result["dataset"] == "synthetic" else ""
    )
    return (
        f"Training on a CPU, ours (recipe {result['recipe']}) and the published notebook: "
        f"{result['dataset']}{warning}"
    )


def _speed(result: Mapping[str, Any]) -> list[str]:
    head = ("stage", "px", "images/s ours", "original", "s/epoch ours", "original", "epoch, times faster",
            "processor", "waiting ours", "original", "MiB ours", "original")  # fmt: skip
    table = [head]
    for row in result["speed"]:
        ours, original = row["ours"], row["original"]
        table.append(
            (
                row["stage"],
                str(row["size"]),
                _range(ours["images_per_second"]),
                _range(original["images_per_second"]),
                f"{ours['epoch_seconds']['median']:.0f}",
                f"{original['epoch_seconds']['median']:.0f}",
                _range(row["epoch_ratio"], 2),
                _range(row["processor_ratio"], 2),
                f"{ours['waiting_share']['median']:.2%}",
                f"{original['waiting_share']['median']:.2%}",
                f"{ours['peak_mib']['median']:.0f}",
                f"{original['peak_mib']['median']:.0f}",
            )
        )
    widths = [max(len(cells[i]) for cells in table) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in table
    ]
    slowest = min(result["speed"], key=lambda row: row["epoch_ratio"]["median"])
    waiting = max(row["ours"]["waiting_share"]["high"] for row in result["speed"])
    own = {
        side: ", ".join(
            f"{row[side]['epoch_seconds']['median']:.0f} s at {row['size']} px"
            for row in result["speed"]
            if row["stage"] == "fine_tune" and row["size"] in result["own_sizes"][side]
        )
        or "not measured"
        for side in SIDES
    }
    never_slower = _verdict(slowest["epoch_ratio"]["median"] >= 1)
    return [
        *lines,
        f"An epoch of fine-tuning at the recipes' own sizes: ours {own['ours']}; original {own['original']}",
        f"Goal, never slower per epoch at equal image size: {never_slower} "
        f"(least at {slowest['size']} px {slowest['stage']}: {_range(slowest['epoch_ratio'], 2)} times)",
        f"Goal, ours waits for data under {GOAL_WAITING:.0%} of the time: {_verdict(waiting < GOAL_WAITING)} "
        f"(most: {waiting:.2%}); the input alone makes {min(result['input_images_per_second']):.0f} images/s",
    ]


def _accuracy(accuracy: Mapping[str, Any]) -> list[str]:
    lines = [
        "time to accuracy on the test split (nothing was chosen on it; its own measuring is off the clock)"
    ]
    for row in accuracy["targets"]:
        told = []
        for side in (side for side in SIDES if side in accuracy):
            minutes = row["minutes"][side]
            trained = accuracy[side]
            told.append(
                f"{side} {minutes:.1f} min"
                if minutes is not None
                else f"{side} not reached in {trained['minutes']:.1f} min, {trained['epochs']:.1f} epochs "
                f"(best {trained['best']:.1%})"
            )
        lines.append(f"{row['accuracy']:.0%}: {', '.join(told)}{_times(row)}")
    first = accuracy["targets"][0]["minutes"]
    if "original" not in accuracy:
        verdict = "not measured: the original was left out"
    elif first["times_sooner"] is None:
        verdict = "not shown: ours did not reach it"
    elif first["times_sooner"] >= GOAL_SOONER:
        verdict = "met"
    else:
        verdict = "not shown: the original's budget was too short" if first["lower_bound"] else "missed"
    lines.append(
        f"Goal, at least {GOAL_SOONER:g} times sooner at {accuracy['targets'][0]['accuracy']:.0%}: {verdict}"
    )
    return lines


def _times(row: Mapping[str, Any]) -> str:
    if row["minutes"]["times_sooner"] is None:
        return ""
    bound = "at least " if row["minutes"]["lower_bound"] else ""
    return (
        f": {bound}{row['minutes']['times_sooner']:.1f} times sooner "
        f"({row['processor_minutes']['times_sooner']:.1f} in processor time)"
    )


def _range(values: Mapping[str, float], digits: int = 0) -> str:
    return f"{values['median']:.{digits}f} [{values['low']:.{digits}f}, {values['high']:.{digits}f}]"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Images a second for every stage and size, and accuracy over minutes; what was measured of the two."""
    halves = [draw for key, draw in (("speed", _bars), ("accuracy", _curves)) if result[key]]
    figure, axes = plt.subplots(
        1, len(halves), figsize=(6 * len(halves), 4.6), squeeze=False, layout="constrained"
    )
    for axis, draw in zip(axes[0], halves, strict=True):
        draw(axis, result)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.suptitle(
        f"{title(result)}\n{result['machine']['cores']} cores, {result['machine']['processor']}",
        fontsize=10,
        wrap=True,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axis: Any, result: Mapping[str, Any]) -> None:
    for shift, side in ((-0.2, "ours"), (0.2, "original")):
        speeds = [row[side]["images_per_second"] for row in result["speed"]]
        places = [place + shift for place in range(len(speeds))]
        medians = [value["median"] for value in speeds]
        below = [value["median"] - value["low"] for value in speeds]
        above = [value["high"] - value["median"] for value in speeds]
        drawn = axis.bar(
            places, medians, 0.38, yerr=[below, above], capsize=2, color=COLOURS[side], label=side
        )
        axis.bar_label(drawn, fmt="%.0f", fontsize=8, padding=2)
    stages = [row["stage"].replace("_", "-").replace(", ", ",\n") for row in result["speed"]]
    names = [f"{stage}\n{row['size']} px" for stage, row in zip(stages, result["speed"], strict=True)]
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set_ylabel("training images a second")
    axis.set_title("Speed: median, lowest and highest round")
    axis.margins(y=0.12)


def _curves(axis: Any, result: Mapping[str, Any]) -> None:
    for side, points in result["curves"].items():
        axis.plot(
            [point["minutes"] for point in points],
            [100 * point["test_accuracy"] for point in points],
            marker="o",
            markersize=3,
            color=COLOURS[side],
            label=side,
        )
    for target in result["accuracy"]["targets"]:
        axis.axhline(100 * target["accuracy"], color="0.6", linewidth=0.8, linestyle="--")
    axis.set_xlabel("minutes of training")
    axis.set_ylabel("test accuracy, %")
    axis.set_title("Accuracy over time, measured after every epoch")
    axis.set_xlim(left=0)
