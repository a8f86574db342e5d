"""How fast each runtime computes a package in process, by images a call, threads and clients; no HTTP.

    python benchmarks/runtime.py release --out reports/benchmarks/runtime.json

All sides take turns in every round, and a ratio is that of one round: noise hits all alike. `--start`
measures instead how long each takes from a new process to its first answer, and its memory.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ferops import files
from ferops.models.classifier import Images
from ferops.models.onnx import OnnxClassifier, Recorded, RuntimeUnavailableError
from ferops.models.runtimes import REFERENCE, RUNTIMES

#: In a new process: open, answer one image, say seconds since the process began and megabytes.
START = """
import sys, time
from pathlib import Path
from ferops.models.onnx import Recorded
from ferops.models.runtimes import RUNTIMES
folder = Path(sys.argv[2])
classifier = RUNTIMES[sys.argv[1]](folder)
images = Recorded.load(folder).images
classifier.predict(images[:1])
done = time.time()
classifier.predict(images[:8], 8)
status = Path("/proc/self/status").read_text()
print(done, int(status.split("VmRSS:")[1].split()[0]) / 1000)
"""


class Side(NamedTuple):
    """One way to compute: a runtime, and threads of one call (0: as the runtime likes)."""

    runtime: str
    threads: int

    def __str__(self) -> str:
        return f"{self.runtime}, {self.threads or 'all'} threads"


def opened(sides: Iterator[Side], package: Path) -> dict[Side, OnnxClassifier]:
    """Those that this machine has; says which it has not."""
    found = {}
    for side in sides:
        try:
            found[side] = RUNTIMES[side.runtime](package, side.threads)
        except RuntimeUnavailableError as error:
            print(f"{side}: {error}")
    return found


def load(classifier: OnnxClassifier, batch: Images, clients: int, seconds: float) -> tuple[float, float]:
    """`clients` threads that each ask for one batch after the other: images/s, seconds of the best call."""

    def ask(_: int) -> list[float]:
        calls = []
        while (began := time.perf_counter()) < end or not calls:
            classifier.predict(batch, batch_size=len(batch))
            calls.append(time.perf_counter() - began)
        return calls

    started = time.perf_counter()
    end = started + seconds
    with ThreadPoolExecutor(clients) as threads:
        calls = [call for found in threads.map(ask, range(clients)) for call in found]
    return len(calls) * len(batch) / (time.perf_counter() - started), min(calls)


def measure(
    sides: dict[Side, OnnxClassifier], batch: Images, clients: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """One row a side: images/s (median of the rounds), its ratio to the first side, and its best call.

    The best call says what the runtime can do on a machine that others use too.
    """
    rates: dict[Side, list[float]] = {side: [] for side in sides}
    best = dict.fromkeys(sides, float("inf"))
    for turn in range(rounds + 1):  # the first warms up
        for side, classifier in sides.items():
            rate, fastest = load(classifier, batch, clients, seconds)
            if turn:
                rates[side].append(rate)
                best[side] = min(best[side], fastest)
    reference = np.array(next(iter(rates.values())))
    rows = []
    for side, found in rates.items():
        ratios = np.array(found) / reference
        rows.append(
            {
                "runtime": side.runtime,
                "threads": side.threads,
                "images a call": len(batch),
                "clients": clients,
                "images/s": float(np.median(found)),
                "ratio": float(np.median(ratios)),
                "lowest ratio": float(ratios.min()),
                "highest ratio": float(ratios.max()),
                "best ms": best[side] * 1000,
            }
        )
    return rows


def start(runtime: str, package: Path, rounds: int) -> dict[str, Any]:
    """Seconds from a new process to its first answer (median), and resident memory then."""
    seconds, memory = [], []
    for _ in range(rounds):
        began = time.time()
        done = subprocess.run(
            [sys.executable, "-c", START, runtime, str(package)], capture_output=True, text=True, check=True
        )
        answered, megabytes = map(float, done.stdout.split()[-2:])
        seconds.append(answered - began)
        memory.append(megabytes)
    return {"runtime": runtime, "seconds": float(np.median(seconds)), "MB": float(np.median(memory))}


def machine(sides: dict[Side, OnnxClassifier]) -> dict[str, Any]:
    """What the figures are of."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "cpu": next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "?"),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "runtimes": sorted({classifier.runtime for classifier in sides.values()}),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path)
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=list(RUNTIMES))
    parser.add_argument("--threads", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one side in one round")
    parser.add_argument("--start", action="store_true", help="measure start and memory instead")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    names = sorted(arguments.runtimes, key=lambda name: name != REFERENCE)
    sides = opened(itertools.starmap(Side, itertools.product(names, arguments.threads)), arguments.package)
    result: dict[str, Any] = {"machine": machine(sides), "package": files.sha256(arguments.package)}
    print(json.dumps(result["machine"]))
    if arguments.start:
        available = dict.fromkeys(side.runtime for side in sides)
        result["start"] = [start(name, arguments.package, arguments.rounds) for name in available]
        for row in result["start"]:
            print(f"{row['runtime']:<18}{row['seconds']:>7.2f} s to the first answer, {row['MB']:>5.0f} MB")
    else:
        images = Recorded.load(arguments.package).images
        result["rows"] = []
        print(f"{'':<30}{'a call':>8}{'clients':>8}{'images/s':>10}{'best ms':>9}{'ratio':>7}  range")
        for count, clients in itertools.product(arguments.batches, arguments.clients):
            batch = np.resize(images, (count, *images.shape[1:]))
            for row in measure(sides, batch, clients, arguments.rounds, arguments.seconds):
                result["rows"].append(row)
                side = str(Side(row["runtime"], row["threads"]))
                print(
                    f"{side:<30}{count:>8}{clients:>8}{row['images/s']:>10.0f}{row['best ms']:>9.2f}"
                    f"{row['ratio']:>7.2f}  {row['lowest ratio']:.2f} to {row['highest ratio']:.2f}",
                    flush=True,
                )
    if arguments.out:
        files.write_json(arguments.out, result)


if __name__ == "__main__":
    main()
