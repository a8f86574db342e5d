"""How often drift detection cries wolf, what it catches, and how well accuracy is guessed without labels.

    python benchmarks/drift.py --dataset data/dataset --package release          # real images, about an hour
    python benchmarks/drift.py --quick                                           # synthetic faces, minutes

Windows are drawn from validation and test images, again and again, each with a reference of its own from the
images that are left: what is measured is the whole rule, not one lucky reference. Compared are the shipped
policy (monitoring/policy.yaml), the detectors that the literature found best, and Evidently's default preset.
Writes `drift.json`, `drift.md` and plots.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corruptions import KINDS
from drift_detectors import (
    Detector,
    embedding_columns,
    literature,
    preset,
    shipped,
    thresholded_accuracy,
)
from drift_pools import HEALTHY, Key, Pool, build_pools
from drift_report import POLICY, write_report
from ferops import files
from ferops.emotions import EMOTIONS
from ferops.monitoring.drift import compare
from ferops.monitoring.expected_accuracy import expected_accuracy
from ferops.monitoring.policy import Policy, load_policy
from ferops.simulation.drifts import SEVERITIES

ROOT = Path(__file__).parents[1]

#: Rows of the reference. Where a window needs more than the other images it gets fewer, never under this.
REFERENCE_ROWS, LEAST_REFERENCE = 2800, 1000

#: Points by which a class's share of the faces is raised, and the classes for which it is done.
MIX_POINTS = (5, 10, 20, 40)
RAISED = ("happy", "sad")

#: Windows over which the slow drift goes from healthy to severity 5.
SLOW_STEPS = 30


@dataclass(frozen=True)
class Cell:
    """Windows of one kind.

    Attributes:
        kind: of corruption, `none`, `<class> raised`, `no <class>`.
        severity: 1 to 5; for mixes the points; 0 where there are no degrees.
        size: rows of a window.
        windows: drawn.
        detectors: by name; none: all fast ones.
    """

    kind: str
    severity: int
    size: int
    windows: int
    detectors: tuple[str, ...] | None = None


def cells(windows: int, healthy: int, slow_windows: int, sizes: Sequence[int]) -> Iterator[Cell]:
    """Everything that is measured."""
    for size in sizes:
        yield Cell("none", 0, size, healthy)
        for kind in KINDS:
            for severity in SEVERITIES:
                yield Cell(kind, severity, size, windows)
        for emotion in RAISED:
            for points in MIX_POINTS:
                yield Cell(f"{emotion} raised", points, size, windows)
        for emotion in EMOTIONS:
            yield Cell(f"no {emotion}", 0, size, windows)
    if slow_windows:
        for kind, severity in [HEALTHY, *((kind, 3) for kind in KINDS)]:
            yield Cell(kind, severity, 1000, slow_windows, ("DataDriftPreset",))


def draw(cell: Cell, pools: dict[Key, Pool], rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A reference and a window that share no face."""
    healthy = pools[HEALTHY].table
    emotions = healthy["emotion"].to_numpy()
    order = rng.permutation(len(healthy))
    size = min(cell.size, len(order) - LEAST_REFERENCE)
    held = max(LEAST_REFERENCE, min(REFERENCE_ROWS, len(order) - size))
    reference, rest = order[:held], order[held:]
    if cell.kind.endswith(" raised"):
        rest = raised(rest, emotions, cell.kind.removesuffix(" raised"), cell.severity / 100, size)
    elif cell.kind.startswith("no ") and cell.kind.removeprefix("no ") in EMOTIONS:
        rest = rest[emotions[rest] != cell.kind.removeprefix("no ")]
    changed = pools.get((cell.kind, cell.severity), pools[HEALTHY]).table
    return (
        healthy.iloc[reference].reset_index(drop=True),
        changed.iloc[rest[:size]].reset_index(drop=True),
    )


def raised(
    rows: NDArray[np.intp], emotions: NDArray[Any], emotion: str, points: float, size: int
) -> NDArray[np.intp]:
    """Rows in which a class has `points` more of the share; the others keep their proportions.

    The window gets smaller where the class has too few faces.
    """
    mine, others = rows[emotions[rows] == emotion], rows[emotions[rows] != emotion]
    share = min(len(mine) / len(rows) + points, 0.95)
    size = min(size, int(len(mine) / share), int(len(others) / (1 - share)))
    count = round(size * share)
    return np.concatenate([mine[:count], others[: size - count]])


def measure(cell: Cell, pools: dict[Key, Pool], policy: Policy, seed: int) -> dict[str, Any]:
    """Draw the windows of a cell and ask every detector."""
    detectors: dict[str, Detector] = {POLICY: shipped(policy), **literature(), "DataDriftPreset": preset}
    chosen = cell.detectors or tuple(name for name in detectors if name != "DataDriftPreset")
    alarms, moved, rows = Counter[str](), Counter[str](), []
    errors: dict[str, list[float]] = {"calibrated": [], "thresholded": []}
    started = time.process_time()
    for index in range(cell.windows):
        # The same windows of a size whatever happens to their faces, so that kinds differ by nothing else.
        rng = np.random.default_rng([seed, cell.size, index])
        reference, window = draw(cell, pools, rng)
        rows.append(len(window))
        for name in chosen:
            found = detectors[name](reference, window)
            alarms[name] += bool(found)
            if name == POLICY:
                moved.update(found)
        accuracy = float((window["label"] == window["emotion"]).mean())
        errors["calibrated"].append(expected_accuracy(reference, window) - accuracy)
        errors["thresholded"].append(thresholded_accuracy(reference, window) - accuracy)
    return {
        "kind": cell.kind,
        "severity": cell.severity,
        "size": cell.size,
        "windows": cell.windows,
        "rows": int(np.median(rows)),
        "alarms": {name: alarms[name] for name in chosen},
        "moved": dict(moved.most_common()),
        "estimate_error": {
            name: [float(np.mean(e)), float(np.mean(np.abs(e)))] for name, e in errors.items()
        },
        "seconds": time.process_time() - started,
    }


def slow_drift(pools: dict[Key, Pool], policy: Policy, size: int, seed: int) -> list[dict[str, Any]]:
    """Faces that change a little more from window to window: when is it said, and what was lost by then?

    Between two severities each face comes from the one or the other.
    """
    detect = shipped(policy)
    out = []
    for kind in ("darker", "blur", "noise"):
        for step in range(SLOW_STEPS + 1):
            level = 5 * step / SLOW_STEPS
            low = min(int(level), 4)
            drawn = [
                draw(Cell(kind, severity, size, 1), pools, np.random.default_rng([seed, size, step]))
                for severity in (low, low + 1)
            ]
            (reference, milder), (_, worse) = drawn  # the same faces
            mixed = np.random.default_rng([seed, step]).random(size) < level - low
            window = pd.concat([milder[~mixed[: len(milder)]], worse[mixed[: len(worse)]]], ignore_index=True)
            accuracy = float((window["label"] == window["emotion"]).mean())
            found = detect(reference, window)
            out.append({"kind": kind, "step": step, "level": level, "moved": found, "accuracy": accuracy})
    return out


def agrees_with_the_monitor(pools: dict[Key, Pool], policy: Policy, seed: int) -> int:
    """Windows on which the quick copy of the policy's decision and the monitor's own were compared.

    Raises:
        SystemExit: if they differ.
    """
    count = 0
    for kind, severity in [HEALTHY, ("blur", 1), ("darker", 2), ("rotation", 3), ("no faces", 4)]:
        reference, window = draw(Cell(kind, severity, 500, 1), pools, np.random.default_rng([seed, 500, 0]))
        found = compare(window, reference, tuple(embedding_columns(reference)), policy)
        official = {column.name for column in found.columns if column.drifted}
        official |= {"embedding"} if found.embedding and found.embedding.drifted else set()
        if official != set(quick := shipped(policy)(reference, window)):
            raise SystemExit(f"{kind} {severity}: the monitor says {sorted(official)}, this copy {quick}")
        count += 1
    return count


_pools: dict[Key, Pool] = {}


def _measure_here(cell: Cell, policy: Policy, seed: int) -> dict[str, Any]:
    return measure(cell, _pools, policy, seed)


def main() -> None:
    """Measure, print, write JSON, table and plots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, help="Parquet dataset; none: synthetic faces")
    parser.add_argument("--package", type=Path, default=ROOT / "release", help="folder of the model")
    parser.add_argument("--policy", type=Path, default=ROOT / "monitoring/policy.yaml")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000, 5000])
    parser.add_argument("--healthy", type=int, default=300, help="healthy windows of each size")
    parser.add_argument("--windows", type=int, default=20, help="windows of each kind, severity and size")
    parser.add_argument("--preset", type=int, default=5, help="windows for Evidently's preset, which is slow")
    parser.add_argument("--faces", type=int, default=20_000, help="at most so many faces in the pool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few windows; says that it works")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/drift"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.healthy, arguments.windows, arguments.preset = [300], 10, 2, 0
        arguments.faces = min(arguments.faces, 2500)
    policy = load_policy(arguments.policy)
    pools = build_pools(arguments.dataset, arguments.package, arguments.out / "pools", arguments.faces)
    _pools.update(pools)  # which the processes inherit
    checked = agrees_with_the_monitor(pools, policy, arguments.seed)
    print(f"{checked} windows judged as the monitor does; accuracy {pools[HEALTHY].accuracy:.3f}", flush=True)
    asked = list(cells(arguments.windows, arguments.healthy, arguments.preset, arguments.sizes))
    results = []
    job: Callable[[Cell], dict[str, Any]] = partial(_measure_here, policy=policy, seed=arguments.seed)
    with ProcessPoolExecutor(arguments.processes) as workers:
        for done, result in enumerate(workers.map(job, asked), 1):
            results.append(result)
            share = result["alarms"].get(POLICY, 0)
            line = (
                f"{result['kind']} {result['severity']}, {result['rows']} rows: {share}/{result['windows']}"
            )
            print(f"[{done}/{len(asked)}] {line}", flush=True)
    found = {
        "policy_sha256": files.sha256(arguments.policy),
        "synthetic": arguments.dataset is None,
        "faces": len(pools[HEALTHY].table),
        "accuracy": {f"{kind} {severity}": pool.accuracy for (kind, severity), pool in pools.items()},
        "results": results,
        "slow": slow_drift(pools, policy, min(1000, max(arguments.sizes)), arguments.seed),
    }
    files.write_json(arguments.out / "drift.json", found)
    print(write_report(found, arguments.out))


if __name__ == "__main__":
    main()
