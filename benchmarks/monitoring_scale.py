"""What the daily report, compaction and forgetting cost with many predictions, and what the draw costs.

    python benchmarks/monitoring_scale.py --rows 10000 100000 1000000 --out reports/monitoring_scale

Writes a day of predictions as the service logs them: the answers of the released model for its validation
split, again and again, each number changed by about 1 % so that none repeats, and feedback on every 50th.
Every step is a process of its own; processor time is that of all its threads, memory its peak (resident).
Writes `scale.json` and `scale.png`, prints tables in Markdown.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ferops import files
from ferops.data.descriptors import DESCRIPTORS
from ferops.emotions import EMOTIONS
from ferops.promotion.champion import Champion

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "release"
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
#: The report is made at the day's end; compaction takes the day an hour later.
LATER = MIDNIGHT + timedelta(hours=1)
WORKERS, EMBEDDING = 4, 32
#: Rows drawn in `sampling`.
DRAWS = (500, 2000, 8000)
#: It holds all rows in memory: only of days up to so many.
SAMPLED = 100_000
CHAMPION = Champion(
    model="fer-classifier",
    version="3",
    bento_tag="fer-classifier:v3-0a1b2c3d",
    package_sha256="0a1b2c3d" * 8,
    mlflow_run_id="",
    candidate="patt_lite",
    promoted_at="",
    synthetic=False,
)


def write_log(log_dir: Path, count: int) -> None:
    """A day of `count` predictions from `WORKERS` processes, and feedback."""
    import duckdb

    def jittered(column: str) -> str:
        return f"round({column}::DOUBLE * (0.99 + 0.02 * random()), 7)"

    reference = pd.read_parquet(PACKAGE / "reference.parquet")
    probabilities = ", ".join(jittered(f"p_{emotion}") for emotion in EMOTIONS)
    spread = reference[[f"embedding_{i}" for i in range(EMBEDDING)]].std()  # some of them never change
    embedding = ", ".join(
        f"round({name} + {0.02 * std} * (random() - 0.5), 7)" for name, std in spread.items()
    )
    descriptors = ", ".join(f"{name}: {jittered(name)}" for name in DESCRIPTORS)
    emotions = ", ".join(f"'{emotion}'" for emotion in EMOTIONS)
    day = f"{MIDNIGHT - timedelta(days=1):%Y-%m-%d}"
    folders = {kind: log_dir / kind / day for kind in ("predictions", "feedback")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    with duckdb.connect(config={"threads": "2", "memory_limit": "512MB"}) as log:
        log.execute("SET TimeZone = 'UTC'")
        log.register("seen", reference)
        for worker in range(WORKERS):
            log.execute(
                f"""COPY (
                  SELECT replace(uuid()::VARCHAR, '-', '') AS id,
                    strftime(TIMESTAMP '{day}' + to_microseconds((n * 86400e6 / {count})::BIGINT),
                             '%Y-%m-%dT%H:%M:%S.%gZ') AS time,
                    '{CHAMPION.label}' AS model_version,
                    [{emotions}][list_position(p, list_max(p))] AS label,
                    list_max(p) AS confidence, p AS probabilities, embedding, descriptors
                  FROM (SELECT n, [{probabilities}] AS p, [{embedding}] AS embedding,
                               {{{descriptors}}} AS descriptors
                        FROM range({worker}, {count}, {WORKERS}) AS numbers(n)
                        JOIN (SELECT *, row_number() OVER () - 1 AS row FROM seen)
                          ON row = hash(n) % {len(reference)})
                ) TO '{folders["predictions"]}/host-{worker}-0.jsonl' (FORMAT json)"""
            )
        log.execute(
            f"""COPY (SELECT id, time, label AS emotion FROM read_json('{folders["predictions"]}/*.jsonl',
              columns = {{id: 'VARCHAR', time: 'VARCHAR', label: 'VARCHAR'}}) WHERE hash(id) % 50 = 0)
            TO '{folders["feedback"]}/host-0-0.jsonl' (FORMAT json)"""
        )


# The steps; each runs alone in its process


def report(folder: Path) -> dict[str, Any]:
    """`ferops monitor`, without MLflow's run."""
    from ferops.monitoring.monitor import judge

    verdict = judge(folder / "log", CHAMPION, PACKAGE, folder / "monitoring", MIDNIGHT, track=False)
    labelled = verdict.quality.labelled if verdict.quality else 0
    return {"rows": verdict.window.rows, "labelled": labelled, "verdict": verdict.sentence()}


def compaction(folder: Path) -> dict[str, Any]:
    """`ferops compact`."""
    from ferops.monitoring.compaction import compact
    from ferops.monitoring.policy import LogPolicy

    done = compact(folder / "log", LogPolicy(keep_days=90), LATER)
    return {"line_mb": done.line_bytes / 1e6, "parquet_mb": done.parquet_bytes / 1e6}


def forgetting(folder: Path) -> dict[str, Any]:
    """`ferops forget` of one prediction."""
    from ferops.monitoring.forgetting import forget
    from ferops.serving.log_reader import one, read_log

    (identity,) = read_log(folder / "log", lambda log: one(log, "SELECT any_value(id) FROM predictions"))
    return dict(forget(folder / "log", identity).records)


def sampling(folder: Path) -> dict[str, Any]:
    """How far the effect sizes of a draw are from those of all rows: mean and root mean square."""
    from scipy.stats import wasserstein_distance

    from ferops.serving.log_reader import read_predictions

    everything = read_predictions(folder / "log")
    reference = pd.read_parquet(PACKAGE / "reference.parquet")
    errors: dict[int, list[float]] = {}
    for name in DESCRIPTORS:
        known = reference[name].to_numpy(np.float64)
        values = everything[name].to_numpy()

        def size(rows: Any, known: Any = known) -> float:
            return float(wasserstein_distance(known, rows) / known.std())

        whole = size(values)
        for rows in DRAWS:
            draws = [np.random.default_rng(seed).choice(values, rows, replace=False) for seed in range(30)]
            errors.setdefault(rows, []).extend(size(draw) - whole for draw in draws)
    return {
        str(rows): {"bias": float(np.mean(found)), "rms": float(np.sqrt(np.mean(np.square(found))))}
        for rows, found in errors.items()
    }


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "report, lines": report,
    "compaction": compaction,
    "report, Parquet": report,
    "forgetting": forgetting,
}


def alone(step: str, folder: Path) -> dict[str, Any]:
    """Run a step in a process of its own; gives what it says, seconds and MB."""
    done = subprocess.run(
        [sys.executable, __file__, "--step", step, "--folder", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_step(step: str, folder: Path) -> None:
    """In the step's process: do it and print what it took, the start of Python and its imports with it."""
    begin = time.perf_counter()
    said = {**STEPS, "sampling": sampling}[step](folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = {"wall_s": time.perf_counter() - begin, "cpu_s": used.ru_utime + used.ru_stime}
    print(json.dumps({**said, **seconds, "peak_mb": used.ru_maxrss * 1024 / 1e6}))


def plot(results: dict[int, dict[str, dict[str, Any]]], path: Path) -> None:
    """Processor time and memory over the number of predictions, with the goals."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, key, name, goal in zip(
        axes, ("cpu_s", "peak_mb"), ("processor time, s", "peak memory, MB"), (60, 1500), strict=True
    ):
        for step in STEPS:
            axis.plot(list(results), [found[step][key] for found in results.values()], marker="o", label=step)
        axis.axhline(goal, color="grey", linestyle="--", label="goal of the report")
        axis.set(xscale="log", xlabel="predictions", ylabel=name, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure, print tables, write JSON and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=Path("reports/monitoring_scale"))
    parser.add_argument("--step", choices=[*STEPS, "sampling"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments.step, arguments.folder)
        return

    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}", flush=True)
    results: dict[int, dict[str, dict[str, Any]]] = {}
    draws: dict[str, Any] = {}
    for count in arguments.rows:
        with tempfile.TemporaryDirectory(prefix="ferops-scale-") as scratch:
            folder = Path(scratch)
            (folder / "monitoring").mkdir()
            (folder / "monitoring/policy.yaml").write_text((ROOT / "monitoring/policy.yaml").read_text())
            write_log(folder / "log", count)
            results[count] = {}
            for step in STEPS:
                found = results[count][step] = alone(step, folder)
                print(f"{count:>9} {step:16} {json.dumps(found)}", flush=True)
            if max(DRAWS) < count <= SAMPLED:
                draws = alone("sampling", folder)
    print("\n| predictions | step | wall | processor | peak memory |\n|---:|---|---:|---:|---:|")
    for count, steps in results.items():
        for step, found in steps.items():
            cells = f"{found['wall_s']:.1f} s | {found['cpu_s']:.1f} s | {found['peak_mb']:.0f} MB"
            print(f"| {count:,} | {step} | {cells} |")
    if draws:
        print("\n| rows drawn | bias of the effect size | root mean square error |\n|---:|---:|---:|")
        for rows in map(str, DRAWS):
            print(f"| {rows} | {draws[rows]['bias']:+.4f} | {draws[rows]['rms']:.4f} |")
    arguments.out.mkdir(parents=True, exist_ok=True)
    files.write_json(arguments.out / "scale.json", {"results": results, "sampling": draws})
    plot(results, arguments.out / "scale.png")


if __name__ == "__main__":
    main()
