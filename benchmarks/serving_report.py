"""What `benchmarks/serving.py` measured: a table, the goals and whether they are met, a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

#: The goals, set before anything was measured, from what the plainest versions gave with PAtt-Lite at 224
#: pixels on two cores: MLflow's server 17 to 24 requests/s, the plain Bento 195 to 238.
TIMES_MLFLOW = 25.0
TIMES_PLAIN_BENTO = 2.0
#: Of what the runtime does in process with all cores, at its best batch.
SHARE_OF_LIMIT = 0.85
P50_ONE_CLIENT_MS = 6.0
FIRST_ANSWER_S = 5.0
WORKER_MB = 400.0
#: The image size of the goals of speed: with a smaller one HTTP, decoding and the log are the limit.
GOAL_SIZE = 224

COLOURS = ("#2a6f97", "#89c2d9", "#c1666b", "#d4b483", "#48a9a6", "#8a817c", "#735d78")


class Goal(NamedTuple):
    """One goal: what is asked, what was found, whether that is enough."""

    asked: str
    found: str
    met: bool


def value(
    rows: Sequence[Mapping[str, Any]], side: str, clients: int, what: str = "requests_per_second"
) -> float:
    """Median of the rounds; nan where there is none. A latency is endless where nothing was answered."""
    found = [
        float("inf") if what.endswith("_ms") and not row["requests"] else row[what]
        for row in rows
        if row["side"] == side and row["clients"] == clients
    ]
    return float(np.median(found)) if found else float("nan")


def best(result: Mapping[str, Any], side: str) -> float:
    """Requests/s with single images, at the number of clients that gives most."""
    return max(value(result["single"], side, clients) for clients in _clients(result))


def best_limit(result: Mapping[str, Any]) -> tuple[float, str]:
    """Images/s of the runtime in process, at its best: median of the rounds, and how it was called."""
    ways = {(row["batch"], row["callers"]) for row in result["limit"]}
    found = {
        way: float(
            np.median([r["images_per_second"] for r in result["limit"] if (r["batch"], r["callers"]) == way])
        )
        for way in ways
    }
    batch, callers = max(found, key=lambda way: found[way])
    return found[batch, callers], f"batches of {batch}, {callers} at a time"


def generator_share(result: Mapping[str, Any], side: str) -> float:
    """Of all cores, what the load generator took at the number of clients that gives most."""
    clients = max(_clients(result), key=lambda count: value(result["single"], side, count))
    rows = [r for r in result["single"] if (r["side"], r["clients"]) == (side, clients)]
    taken = [r["generator_cpu_s"] * r["requests_per_second"] / max(1, r["requests"]) for r in rows]
    return float(np.median(taken)) / result["machine"]["cores"]


def _clients(result: Mapping[str, Any]) -> list[int]:
    return sorted({row["clients"] for row in result["single"]})


def goals(result: Mapping[str, Any], side: str) -> list[Goal]:
    """The goals for one of our sides; those that need another side only where that was measured."""
    reached, rows = best(result, side), result["single"]
    found, sides = [], result["sides"]
    if result["image_size"] == GOAL_SIZE:
        for other, times in (
            ("mlflow models serve, Keras", TIMES_MLFLOW),
            ("mlflow models serve, ONNX", TIMES_MLFLOW),
            ("plain Bento, ONNX Runtime", TIMES_PLAIN_BENTO),
        ):
            if other in sides:
                ratio = reached / best(result, other)
                found.append(
                    Goal(f"requests/s, times those of {other}: {times:g}", f"{ratio:.1f}", ratio >= times)
                )
        share = reached / best_limit(result)[0]
        found.append(
            Goal(
                f"share of the runtime's limit in process: {SHARE_OF_LIMIT:.0%}",
                f"{share:.0%}; of what the load generator leaves of the cores, "
                f"{share / (1 - generator_share(result, side)):.0%}",
                share >= SHARE_OF_LIMIT,
            )
        )
    worse = [
        f"{other} at {clients}"
        for other in sides
        if other not in result["ours"]
        for clients in _clients(result)
        if not value(rows, side, clients, "p99_ms") < value(rows, other, clients, "p99_ms")
    ]
    if len(sides) > len(result["ours"]):
        found.append(Goal("p99 below all others', by clients", ", ".join(worse) or "everywhere", not worse))
    p50 = value(rows, side, 1, "p50_ms")
    found.append(
        Goal(f"p50 with one client: {P50_ONE_CLIENT_MS:g} ms", f"{p50:.1f} ms", p50 < P50_ONE_CLIENT_MS)
    )
    first = float(np.median(sides[side]["first_answer_s"]))
    found.append(
        Goal(f"first answer after the start: {FIRST_ANSWER_S:g} s", f"{first:.1f} s", first < FIRST_ANSWER_S)
    )
    worker = sides[side]["memory"]["worker_mb"]
    found.append(Goal(f"resident a worker: {WORKER_MB:g} MB", f"{worker:.0f} MB", worker < WORKER_MB))
    errors = sum(row["errors"] for row in [*rows, *result["many"]] if row["side"] == side)
    found.append(Goal("errors: none", str(errors), errors == 0))
    return found


def goals_met(result: Mapping[str, Any]) -> str:
    """Each goal for each of our sides, as text."""
    lines = []
    for side in result["ours"]:
        lines.append(
            f"Goals, {side}, {result['image_size']} pixels" + (" (quick: no result)" * result["quick"])
        )
        for goal in goals(result, side):
            lines.append(f"  {'met   ' if goal.met else 'MISSED'}  {goal.asked:<62} {goal.found}")
    return "\n".join(lines)


def table(result: Mapping[str, Any]) -> str:
    """Everything as text; medians of the rounds."""
    machine = result["machine"]
    speed, way = best_limit(result)
    lines = [
        f"PAtt-Lite at {result['image_size']} pixels, {result['runtime']}; {machine['cores']} cores, "
        f"{machine['processor']}, load before {machine['load_before']:.1f}, {machine['time']}",
        f"The runtime in process: {speed:.0f} images/s at best ({way}), "
        + f"{max(r['images_per_second'] for r in result['limit'] if r['batch'] == 1):.0f} one by one",
        "",
        f"{'single images':<28}{'clients':>8}{'requests/s':>12}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}"
        f"{'errors':>8}{'CPU us':>9}{'wrk us':>8}",
    ]
    for side in result["sides"]:
        for clients in _clients(result):
            errors = sum(
                r["errors"] for r in result["single"] if r["side"] == side and r["clients"] == clients
            )
            lines.append(
                f"{side:<28}{clients:>8}{value(result['single'], side, clients):>12.1f}"
                + "".join(
                    f"{value(result['single'], side, clients, what):>9.1f}"
                    for what in ("p50_ms", "p95_ms", "p99_ms")
                )
                + f"{errors:>8}"
                + "".join(
                    f"{cpu_us(result, side, clients, what):>{width}.0f}"
                    for what, width in (("service_cpu_s", 9), ("generator_cpu_s", 8))
                )
            )
    lines += ["", f"{'many images a request':<28}{'images':>8}{'images/s':>12}{'of limit':>9}{'p50 ms':>9}"]
    for row in result["many"]:
        images = row["requests_per_second"] * row["images"]
        lines.append(
            f"{row['side']:<28}{row['images']:>8}{images:>12.1f}{images / speed:>9.0%}{row['p50_ms']:>9.1f}"
        )
    lines += [
        "",
        f"{'':<28}{'first answer s':>15}{'its CPU s':>11}{'worker MB':>11}{'tree PSS MB':>13}"
        f"{'with many':>11}{'differs by':>12}",
    ]
    for side, about in result["sides"].items():
        lines.append(
            f"{side:<28}{float(np.median(about['first_answer_s'])):>15.1f}"
            f"{float(np.median(about['first_answer_cpu_s'])):>11.1f}"
            f"{about['memory_single']['worker_mb']:>11.0f}{about['memory_single']['pss_mb']:>13.0f}"
            f"{about['memory']['worker_mb']:>11.0f}{about['difference']:>12.1g}"
        )
    return "\n".join(lines)


def cpu_us(result: Mapping[str, Any], side: str, clients: int, what: str) -> float:
    """Processor time a request, microseconds, median of the rounds; nan where nothing was answered."""
    rows = [r for r in result["single"] if (r["side"], r["clients"]) == (side, clients) and r["requests"]]
    return float(np.median([r[what] / r["requests"] * 1e6 for r in rows])) if rows else float("nan")


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Requests/s and p99 over the clients, one row a model."""
    figure, axes = plt.subplots(
        len(results), 2, figsize=(11, 4.2 * len(results)), squeeze=False, layout="constrained"
    )
    for result, (left, right) in zip(results, axes, strict=True):
        clients = _clients(result)
        for colour, side in zip(COLOURS, result["sides"], strict=False):
            style = {"color": colour, "marker": "o", "linewidth": 2.2 if side in result["ours"] else 1.2}
            left.plot(clients, [value(result["single"], side, c) for c in clients], label=side, **style)
            right.plot(
                clients, [value(result["single"], side, c, "p99_ms") for c in clients], label=side, **style
            )
        speed, _ = best_limit(result)
        left.axhline(speed, color="black", linestyle="--", linewidth=1, label="the runtime in process")
        left.set(
            title=f"PAtt-Lite at {result['image_size']} pixels, {result['runtime']}", ylabel="requests/s"
        )
        left.set_ylim(bottom=0)
        right.set(ylabel="ms", yscale="log")
        right.set_title("99th percentile of the latency", fontsize=10)
        for axis in (left, right):
            axis.set(xlabel="clients that ask without pause", xscale="log")
            axis.set_xticks(clients, [str(c) for c in clients], minor=False)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        left.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
