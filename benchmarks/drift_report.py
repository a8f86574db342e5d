"""Tables and plots of what `drift.py` measured."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from corruptions import KINDS
from ferops import files
from ferops.simulation.drifts import SEVERITIES

#: From the project's goals: alarms in healthy windows, and detection of what costs so much, at this size.
MAX_FALSE_ALARMS, MIN_DETECTION, COSTLY, GOAL_SIZE, GOAL_SEVERITY = 0.01, 0.95, 0.03, 1000, 3

POLICY = "shipped policy"

Result = Mapping[str, Any]


def write_report(found: Mapping[str, Any], out: Path) -> str:
    """Write `drift.md` and the plots; returns the Markdown."""
    results = found["results"]
    sizes = sorted({r["size"] for r in results})
    parts = [
        _goals(found),
        _false_alarms(results, sizes),
        _detection(found, sizes),
        _mixes(results, sizes),
        _estimates(found),
        _slow(found["slow"]),
    ]
    text = "\n\n".join(part for part in parts if part)
    files.write_text(out / "drift.md", text + "\n")
    _heatmaps(found, sizes, out / "detection.png")
    _slow_plot(found["slow"], out / "slow.png")
    return text


def _cost(found: Mapping[str, Any], result: Result) -> float:
    """What a corruption costs the model, in accuracy."""
    healthy: float = found["accuracy"]["none 0"]
    return healthy - float(found["accuracy"].get(f"{result['kind']} {result['severity']}", healthy))


def _share(result: Result, detector: str = POLICY) -> float:
    return float(result["alarms"][detector] / result["windows"])


def _goals(found: Mapping[str, Any]) -> str:
    """Whether the goals are met, and what misses them."""
    if all(result["size"] != GOAL_SIZE for result in found["results"]):
        return f"Goals not judged: windows of {GOAL_SIZE} rows were not measured."
    lines = []
    for result in found["results"]:
        if POLICY not in result["alarms"]:
            continue
        name = f"{result['kind']} {result['severity']}, {result['size']} rows"
        if result["kind"] == "none" and _share(result) > MAX_FALSE_ALARMS:
            lines.append(
                f"- false alarms in {_share(result):.1%} of healthy windows of {result['size']} rows"
            )
        costly = result["severity"] >= GOAL_SEVERITY and _cost(found, result) >= COSTLY
        if result["size"] == GOAL_SIZE and costly and _share(result) < MIN_DETECTION:
            lines.append(f"- {name}: detected in {_share(result):.0%}, costs {_cost(found, result):.1%}")
    return "Goals missed:\n\n" + "\n".join(lines) if lines else "All goals met."


def _false_alarms(results: Sequence[Result], sizes: Sequence[int]) -> str:
    healthy = [r for r in results if r["kind"] == "none"]
    names = list(dict.fromkeys(name for r in healthy for name in r["alarms"]))
    header = " | ".join(f"{size} rows" for size in sizes)
    lines = [f"| alarms in healthy windows | {header} |", "|---|" + "---:|" * len(sizes)]
    for name in names:
        found = [[r for r in healthy if r["size"] == size and name in r["alarms"]] for size in sizes]
        counts = [f"{r[0]['alarms'][name]} of {r[0]['windows']}" if r else "" for r in found]
        lines.append(f"| {name} | {' | '.join(counts)} |")
    return "\n".join(lines)


def _detection(found: Mapping[str, Any], sizes: Sequence[int]) -> str:
    """Per kind and severity: what it costs, and how often each size's windows are called drifted."""
    header = " | ".join(f"{size} rows" for size in sizes)
    others = sorted({n for r in found["results"] for n in r["alarms"]} - {POLICY})
    lines = [
        f"| kind | severity | accuracy lost | {header} | moved most often | {' | '.join(others)} |",
        "|---|---:|---:|" + "---:|" * len(sizes) + "---|" + "---:|" * len(others),
    ]
    for kind in KINDS:
        for severity in SEVERITIES:
            mine = [r for r in found["results"] if (r["kind"], r["severity"]) == (kind, severity)]
            by_size = {r["size"]: r for r in mine if POLICY in r["alarms"]}
            shown = by_size.get(GOAL_SIZE) or by_size[max(by_size)]
            rates = " | ".join(f"{_share(by_size[size]):.0%}" for size in sizes)
            moved = ", ".join(list(shown["moved"])[:3])
            rest = []
            for name in others:
                held = [r for r in mine if name in r["alarms"] and r["size"] == shown["size"]]
                rest.append(f"{_share(held[0], name):.0%}" if held else "")
            cost = f"{100 * _cost(found, shown):.1f}"
            lines.append(f"| {kind} | {severity} | {cost} | {rates} | {moved} | {' | '.join(rest)} |")
    return "\n".join(lines)


def _mixes(results: Sequence[Result], sizes: Sequence[int]) -> str:
    """Windows with another mix of emotions."""
    rows: dict[tuple[str, int], dict[int, Result]] = defaultdict(dict)
    for result in results:
        if result["kind"] not in KINDS and result["kind"] != "none":
            rows[result["kind"], result["severity"]][result["size"]] = result
    header = " | ".join(f"{size} rows" for size in sizes)
    lines = [f"| mix | points | {header} |", "|---|---:|" + "---:|" * len(sizes)]
    for (kind, points), by_size in rows.items():
        rates = [
            f"{_share(by_size[size]):.0%}"
            + (f" ({by_size[size]['rows']})" if by_size[size]["rows"] < size else "")
            for size in sizes
        ]
        lines.append(f"| {kind} | {points or ''} | {' | '.join(rates)} |")
    return "\n".join(lines) + "\n\nIn brackets: rows, where there were not as many faces of that class."


def _estimates(found: Mapping[str, Any]) -> str:
    """Error of accuracy estimated without labels, in points."""
    lines = [
        "| accuracy estimated without labels | method | mean error, points | mean absolute error |",
        "|---|---|---:|---:|",
    ]
    groups = {
        "healthy windows": [r for r in found["results"] if r["kind"] == "none"],
        "corrupted, severity 1 and 2": [
            r for r in found["results"] if r["kind"] in KINDS and r["severity"] <= 2
        ],
        "corrupted, severity 3 to 5": [
            r for r in found["results"] if r["kind"] in KINDS and r["severity"] > 2
        ],
        "another mix": [r for r in found["results"] if r["kind"] not in KINDS and r["kind"] != "none"],
    }
    for group, held in groups.items():
        held = [r for r in held if r["size"] >= min(GOAL_SIZE, max(x["size"] for x in held))]
        for method in held[0]["estimate_error"]:
            bias, absolute = np.mean([r["estimate_error"][method] for r in held], axis=0)
            lines.append(f"| {group} | {method} | {100 * bias:+.1f} | {100 * absolute:.1f} |")
    return "\n".join(lines)


def _slow(steps: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| slow drift | first alarm at window | severity then | accuracy lost by then | named first |"]
    lines.append("|---|---:|---:|---:|---|")
    for kind in dict.fromkeys(step["kind"] for step in steps):
        mine = [step for step in steps if step["kind"] == kind]
        alarms = [step for step in mine if step["moved"] and step["step"] > 0]
        if not alarms:
            lines.append(f"| {kind} | never | | | |")
            continue
        first = alarms[0]
        lost = 100 * (mine[0]["accuracy"] - first["accuracy"])
        lines.append(
            f"| {kind} | {first['step']} of {mine[-1]['step']} | {first['level']:.1f} | {lost:+.1f} | "
            f"{first['moved'][0]} |"
        )
    return "\n".join(lines)


def _heatmaps(found: Mapping[str, Any], sizes: Sequence[int], path: Path) -> None:
    """Detection by kind and severity, a panel a size; costly cells are framed."""
    figure, axes = plt.subplots(
        1,
        len(sizes),
        figsize=(1.8 + 3 * len(sizes), 5.5),
        sharey=True,
        squeeze=False,
        constrained_layout=True,
    )
    for axis, size in zip(axes[0], sizes, strict=True):
        rates = np.full((len(KINDS), len(SEVERITIES)), np.nan)
        for result in found["results"]:
            if result["kind"] in KINDS and result["size"] == size and POLICY in result["alarms"]:
                row, column = list(KINDS).index(result["kind"]), result["severity"] - 1
                rates[row, column] = _share(result)
                if _cost(found, result) >= COSTLY:
                    frame = plt.Rectangle(
                        (column - 0.46, row - 0.46), 0.92, 0.92, fill=False, ec="red", lw=1.5
                    )
                    axis.add_patch(frame)
        picture = axis.imshow(rates, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for (row, column), rate in np.ndenumerate(rates):
            colour = "white" if rate > 0.6 else "black"
            axis.text(column, row, f"{100 * rate:.0f}", ha="center", va="center", color=colour, fontsize=8)
        axis.set_title(f"windows of {size}")
        axis.set_xticks(range(len(SEVERITIES)), SEVERITIES)
        axis.set_xlabel("severity")
    axes[0][0].set_yticks(range(len(KINDS)), list(KINDS))
    figure.colorbar(picture, ax=axes[0].tolist(), label="share of windows with an alarm")
    figure.suptitle("Detection, per cent of windows;\nred frame: costs 3 points of accuracy or more")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _slow_plot(steps: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Accuracy over the windows of a slow drift, alarms marked."""
    figure, axis = plt.subplots(figsize=(7, 4), constrained_layout=True)
    for kind in dict.fromkeys(step["kind"] for step in steps):
        mine = [step for step in steps if step["kind"] == kind]
        (line,) = axis.plot([s["step"] for s in mine], [100 * s["accuracy"] for s in mine], label=kind)
        alarms = [s for s in mine if s["moved"]]
        axis.plot(
            [s["step"] for s in alarms], [100 * s["accuracy"] for s in alarms], "o", color=line.get_color()
        )
    axis.set_xlabel("window (severity grows from 0 to 5)")
    axis.set_ylabel("accuracy, per cent (dot: alarm)")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
