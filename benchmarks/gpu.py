"""Training on an accelerator: is it right, how fast is it, and what does it reach?

    ferops data pack fer2013.npz                                              # where the dataset is
    python benchmarks/gpu.py fer2013.npz --backbone mobilenet.weights.h5     # where the card is
    python benchmarks/gpu.py faces.npz --quick               # the whole path in miniature, on a CPU

It needs numpy, JAX, Keras, Pillow, pydantic, pydantic-settings, PyYAML and filelock. Three stages, in this
order: `checks` (loss, gradients and augmentation against the CPU), `speed` (images/s beside what the card's
arithmetic and memory allow) and `runs` (trainings of a sweep file, several at a time, each in a process of
its own; by default its group `final`, the full recipe). A training that is not done when the time is over
ends after its epoch, and its best epoch is kept. Back come `gpu.json`, `curves.csv`, and the weights of the
trainings with the best validation accuracy, which `ferops adopt` takes over.
"""

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src" / "ferops"
sys.path.insert(0, str(SOURCE.parent))  # where there is a card, the project is not installed

from ferops import files, tracking  # noqa: E402
from ferops.data.packed import SPLITS, Packed  # noqa: E402
from ferops.settings import load_settings  # noqa: E402
from ferops.training.sweep import Run, SweepError, read_sweep  # noqa: E402

STAGES = ("checks", "speed", "runs")

#: Weights of so many trainings are kept, the best on validation first; one is about 2.3 MB.
KEPT = 4

#: Seconds before the end at which trainings that still run are stopped, so that all is written in time.
MARGIN = 12.0

#: Seconds before that at which a training ends after its epoch: its best is measured in them, ten crops of
#: test included. A training that was stopped leaves curves, one that ended also its weights.
MEASURING = 45.0


@dataclass
class Job:
    """A stage or a training in a process of its own; what it finds is in `folder`."""

    name: str
    folder: Path
    request: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    def start(self) -> None:
        """Start it; its output goes to `log.txt`."""
        self.folder.mkdir(parents=True)
        files.write_json(self.folder / "request.json", self.request)
        with (self.folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "gpu_jobs.py"), str(self.folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(),
            )
        self.started = time.monotonic()

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Kill it, if it still runs."""
        if self.process is not None and self.running():
            self.process.kill()
            self.process.wait()

    def result(self) -> dict[str, Any]:
        """What it wrote; where it failed or was stopped, the curves so far and the end of its log."""
        path = self.folder / "result.json"
        if path.exists():
            return dict(files.read_json(path))
        rows = self.folder / "rows.jsonl"
        log = (self.folder / "log.txt").read_text(errors="replace")
        lines = rows.read_text().splitlines() if rows.exists() else []
        return {"finished": False, "rows": [json.loads(line) for line in lines], "log_end": log[-1500:]}


def environment() -> dict[str, str]:
    """For the jobs: JAX, memory as needed (several share the card), and one cache of what was compiled."""
    cache = Path(tempfile.gettempdir()) / "ferops-compiled"
    defaults = {
        "KERAS_BACKEND": "jax",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "2",
        "PYTHONUNBUFFERED": "1",
    }
    search = [str(SOURCE.parent), os.environ.get("PYTHONPATH", "")]
    return {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))}


def unpack(packed: Packed, path: Path, quick: bool) -> None:
    """Decoded arrays for the jobs; in miniature, a few rows of each split."""
    arrays: dict[str, Any] = {"copy_in_train": packed.copy_in_train}
    for split in SPLITS:
        count = len(packed.labels[split])
        chosen = np.linspace(0, count - 1, min(count, 140)).astype(int) if quick else slice(None)
        arrays[f"{split}_grey"] = packed.grey[split][chosen]
        arrays[f"{split}_labels"] = packed.labels[split][chosen]
        if quick and split == "test":
            arrays["copy_in_train"] = packed.copy_in_train[chosen]
    np.savez(path, **arrays)


class Bench:
    """Runs the stages against the clock and keeps what they find."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path, about: dict[str, Any]) -> None:
        self.arguments = arguments
        self.scratch = scratch
        self.end = time.monotonic() + arguments.seconds - MARGIN
        self.found: dict[str, Any] = {"about": about, "checks": None, "speed": None, "runs": []}

    def left(self) -> float:
        """Seconds until trainings are stopped."""
        return self.end - time.monotonic()

    def say(self, text: str) -> None:
        """Print with the time that is left."""
        print(f"[{max(self.left(), 0):4.0f} s left] {text}", flush=True)

    def stage(self, name: str, request: dict[str, Any], limit: float) -> None:
        """Run `checks` or `speed`, alone on the card."""
        job = Job(name, self.scratch / name, {"kind": name, **request})
        job.start()
        self.say(f"{name}: up to {limit:.0f} s")
        try:
            while job.running() and time.monotonic() - job.started < limit and self.left() > 0:
                time.sleep(0.5)
        finally:
            job.stop()
        self.found[name] = job.result()
        for line in (job.folder / "log.txt").read_text(errors="replace").splitlines():
            if line.startswith("| "):  # the tables; the rest is the libraries' own talk
                print(line, flush=True)
        if "log_end" in self.found[name]:
            print(self.found[name]["log_end"], flush=True)
        self.save()

    def require_weights(self, runs: Sequence[Run]) -> None:
        """End before the clock is spent, where a backbone or teacher of the trainings cannot be had.

        Raises:
            SystemExit: naming it.
        """
        asked = sorted({(run.recipe.backbone, run.recipe.teacher or "") for run in runs})
        job = Job("weights", self.scratch / "weights", {"kind": "weights", "asked": asked})
        job.start()
        assert job.process is not None
        job.process.wait()
        missing = job.result().get("missing", job.result().get("log_end"))
        if missing:
            sys.exit(f"the trainings cannot begin: {missing}")
        self.say("backbones and teachers are there")

    def trainings(self, runs: Sequence[Run], common: dict[str, Any]) -> None:
        """Train, `workers` at a time, in order; none is started that could not end in time."""
        waiting = list(runs)
        active: list[tuple[Run, Job]] = []
        longest = 0.0
        try:
            while (waiting or active) and self.left() > 0:
                while waiting and len(active) < self.arguments.workers and self.left() > longest:
                    run = waiting.pop(0)
                    request = {
                        **common,
                        "kind": "run",
                        "attention": run.attention,
                        "seed": run.seed,
                        "final": run.final,
                        "recipe": run.recipe.model_dump(mode="json"),
                        "until": self.end - MEASURING,
                    }
                    job = Job(run.key, self.scratch / run.key, request)
                    job.start()
                    active.append((run, job))
                    self.say(f"started {run.key}")
                if not active:
                    break
                time.sleep(0.5)
                for run, job in [pair for pair in active if not pair[1].running()]:
                    active.remove((run, job))
                    longest = max(longest, time.monotonic() - job.started)
                    self.keep(run, job)
        finally:
            for run, job in active:
                job.stop()
                self.keep(run, job)
        if waiting:
            self.say(f"no time for {', '.join(run.key for run in waiting)}")
        self.found["not_started"] = [run.key for run in waiting]

    def keep(self, run: Run, job: Job) -> None:
        """Add a training's outcome."""
        seconds = time.monotonic() - job.started
        entry = {
            "name": run.name,
            "group": run.group,
            "seed": run.seed,
            "key": run.key,
            "attention": run.attention,
            "recipe": run.recipe.model_dump(mode="json"),
            "seconds": round(seconds, 1),
            **job.result(),
        }
        self.found["runs"].append(entry)
        if entry["finished"]:
            clock = " (by the clock)" if entry["ended_by_the_clock"] else ""
            clock += f" (then {entry['diverged']})" if entry["diverged"] else ""
            epochs = f"{len(entry['rows'])} epochs{clock}"
            self.say(
                f"finished {run.key} in {seconds:.0f} s, {epochs}: validation "
                f"{entry['validation_accuracy']:.4f} (epoch {entry['best_epoch']}), "
                f"{entry['images_per_second']:.0f} images/s"
            )
        else:
            self.say(f"NOT finished: {run.key} after {seconds:.0f} s, {len(entry['rows'])} epochs")
            if self.left() > 0:
                print(entry["log_end"], flush=True)
        self.save()

    def save(self) -> None:
        """Write everything that is known so far."""
        out: Path = self.arguments.out
        best = sorted(
            (run for run in self.found["runs"] if run["finished"]),
            key=lambda run: -run["validation_accuracy"],
        )
        for run in self.found["runs"]:
            run["weights"] = None
        for run in best[: self.arguments.keep]:
            run["weights"] = f"weights-{run['key']}.npz"
            target = out / run["weights"]
            if not target.exists():  # `out` was empty: it is this training's
                files.write_bytes(target, (self.scratch / run["key"] / "weights.npz").read_bytes())
        for stale in best[self.arguments.keep :]:
            (out / f"weights-{stale['key']}.npz").unlink(missing_ok=True)
        rows = [
            {"group": run["group"], "name": run["name"], "seed": run["seed"], **row}
            for run in self.found["runs"]
            for row in run["rows"]
        ]
        if rows:
            with (out / "curves.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        files.write_json(out / "gpu.json", self.found)


def summary(found: dict[str, Any]) -> Iterator[str]:
    """The trainings as a table, best on validation first; test results only where they were asked for."""
    yield "| run | seed | validation | best epoch | seconds | test, official: single / flipped / ten-crop |"
    yield "|---|---:|---:|---:|---:|---|"
    for run in sorted(found["runs"], key=lambda run: -run.get("validation_accuracy", 0)):
        name = f"| {run['group']} {run['name']} | {run['seed']} "
        if not run["finished"]:
            yield f"{name}| not finished | {len(run['rows'])} done | {run['seconds']} | |"
            continue
        test = run.get("test") or {}
        scores = " / ".join(f"{measured['official']['accuracy']:.2%}" for measured in test.values())
        validation = f"{run['validation_accuracy']:.2%}"
        yield f"{name}| {validation} | {run['best_epoch']} | {run['seconds']} | {scores} |"


def main() -> None:
    """Run the stages, print tables, write JSON, curves and weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="packed dataset, by `ferops data pack`")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--sweep", type=Path, default=HERE.parent / "sweeps" / "fer2013.yaml")
    parser.add_argument("--groups", nargs="+", default=["final"], help="of the sweep, in this order")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="trainings, as `gpu.json` names them")
    parser.add_argument("--params", type=Path, default=HERE.parent / "params.yaml")
    parser.add_argument("--backbone", help="MobileNet weights file, instead of the recipe's")
    parser.add_argument("--seconds", type=float, default=570, help="for everything")
    parser.add_argument("--checks-seconds", type=float, default=100)
    parser.add_argument("--speed-seconds", type=float, default=150)
    parser.add_argument("--workers", type=int, default=4, help="trainings at a time")
    parser.add_argument("--keep", type=int, default=KEPT, help="weights to keep")
    parser.add_argument("--commit", help="of this code, where there is no git")
    parser.add_argument("--quick", action="store_true", help="in miniature, for a CPU; measures nothing")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds = arguments.checks_seconds = arguments.speed_seconds = 3600.0
    groups = ["quick"] if arguments.quick else arguments.groups
    recipes = load_settings(arguments.params).recipes
    try:
        runs = read_sweep(arguments.sweep, groups, recipes, arguments.backbone)
    except SweepError as error:
        sys.exit(str(error))
    commit = arguments.commit or tracking.git_commit()
    if not (commit or arguments.quick):
        parser.error("there is no git here that tells the commit of this code: give --commit")
    if arguments.backbone and not Path(arguments.backbone).is_file():
        parser.error(f"there is no weights file {arguments.backbone}")
    if (arguments.out / "gpu.json").exists():
        parser.error(f"{arguments.out} has the results of an earlier run: give another --out")
    if arguments.only:
        unknown = sorted(set(arguments.only) - {run.key for run in runs})
        if unknown:
            parser.error(f"no such trainings: {unknown}; there are {[run.key for run in runs]}")
        runs = [run for run in runs if run.key in arguments.only]
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    packed = Packed.load(arguments.data)
    about = {
        "dataset_sha256": packed.dataset_sha256,
        "source": packed.source,
        "synthetic": packed.synthetic,
        "params_sha256": files.sha256(arguments.params),
        "git_commit": commit,
        "source_sha256": files.sha256(SOURCE, ignore=compiled(SOURCE)),
        "backbone_sha256": files.sha256(Path(arguments.backbone)) if arguments.backbone else None,
        "quick": arguments.quick,
        "workers": arguments.workers,
    }
    with tempfile.TemporaryDirectory(prefix="ferops-gpu-") as folder, contextlib.suppress(KeyboardInterrupt):
        bench = Bench(arguments, Path(folder), about)
        unpack(packed, Path(folder) / "data.npz", arguments.quick)
        bench.say(
            f"decoded {sum(map(len, packed.labels.values()))} images in {time.monotonic() - started:.0f} s"
        )
        common = {
            "data": str(Path(folder) / "data.npz"),
            "backbone": arguments.backbone or "none",
            "quick": arguments.quick,
        }
        if "runs" in arguments.stages:
            bench.require_weights(runs)
        recipe = runs[0].recipe.model_dump(mode="json")
        if "checks" in arguments.stages:
            bench.stage("checks", {**common, "recipe": recipe}, arguments.checks_seconds)
        if "speed" in arguments.stages:
            request = {**common, "recipe": recipe, "seconds": arguments.speed_seconds - 20}
            bench.stage("speed", request, arguments.speed_seconds)
        if "runs" in arguments.stages:
            bench.trainings(runs, common)
        print("\n".join(summary(bench.found)))
        bench.save()
    failures = list(failed(bench.found, arguments.stages))
    print("; ".join([f"written to {arguments.out}", *failures]))
    sys.exit(1 if failures else 0)


def failed(found: dict[str, Any], stages: Sequence[str]) -> Iterator[str]:
    """What was asked for and did not come to a result, in capitals."""
    for name in ("checks", "speed"):
        if name in stages and (found[name] is None or "log_end" in found[name]):
            yield f"{name.upper()} DID NOT END"
    if "checks" in stages and (found["checks"] or {}).get("passed") is False:
        yield "THE CHECKS DID NOT PASS"
    if "runs" in stages and not any(run["finished"] for run in found["runs"]):
        yield "NO TRAINING ENDED"


def compiled(folder: Path) -> set[str]:
    """Names of the compiled files in a source folder: they differ between machines."""
    return {path.name for path in folder.rglob("*.pyc")}


if __name__ == "__main__":
    main()
