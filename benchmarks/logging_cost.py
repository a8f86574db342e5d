"""What logging costs the service: requests a second over HTTP with the log, and without.

    python benchmarks/logging_cost.py [--rounds 36] [--seconds 1] [--json logging_cost.json]

One service, whose log is switched between bursts of load (`serving_switchable.py` says what is left out);
each round has every mode once, in an order that changes from round to round, so that a machine that gets
slower or busier hits all alike. A round gives one ratio; printed are their median with its 95 % interval,
which assumes nothing of how they are distributed, and the same for processor time a request, on which other
work on the machine has less of a hold. Run it on a machine that does nothing else: what else runs widens the
interval. It needs wrk.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from scipy.stats import binom

from ferops import files
from ferops.models.onnx import OnnxClassifier, Recorded
from serving_load import wrk
from serving_sides import HERE, Faces, Running, Side, multipart, named_rows, processor_seconds, running

#: As in `serving_switchable`, which cannot be imported without starting a service.
MODES = ("written", "not_written", "not_described")

#: Clients that ask without pause, and images of each of their requests.
LOADS = ((1, 1), (8, 1), (32, 1), (4, 32))

#: The service's promise: what the log may take of its throughput.
GOAL = 0.03


@dataclass(frozen=True)
class Burst:
    """One mode under one load for some seconds."""

    clients: int
    images: int
    round: int
    mode: str
    requests_per_second: float
    processor_ms: float
    errors: int


@dataclass(frozen=True)
class Ratio:
    """Median of the rounds' ratios, with its 95 % interval; none of it where there are too few rounds."""

    median: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Ratio":
        """The interval is between two of the ratios: the sign test's, exact for any distribution."""
        ordered = sorted(ratios)
        rank = int(binom.ppf(0.025, len(ordered), 0.5))
        if not rank:  # fewer than six rounds tell nothing at this level
            return cls(float(np.median(ordered)), None, None)
        return cls(float(np.median(ordered)), ordered[rank - 1], ordered[-rank])

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.median:.3f}"
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def measure(
    service: Running,
    faces: Faces,
    loads: Sequence[tuple[int, int]],
    rounds: int,
    seconds: float,
    log: Path,
    folder: Path,
) -> list[Burst]:
    """Every load, round by round; one burst beforehand is not counted.

    Raises:
        SystemExit: if the log did not grow where it had to, or grew where it must not.
    """
    address = service.url.removesuffix(service.side.path)
    orders = list(permutations(MODES))
    bursts = []
    for clients, images in loads:
        bodies = multipart(faces, images)
        wrk(service.url, bodies, clients, seconds, folder)
        for number in range(rounds):
            for mode in orders[number % len(orders)]:
                httpx.post(f"{address}/log/{mode}").raise_for_status()
                before, length = processor_seconds(service.process.pid), size(log)
                found = wrk(service.url, bodies, clients, seconds, folder)
                service.settle()
                worked = processor_seconds(service.process.pid) - before
                if (size(log) > length) != (mode == MODES[0]):
                    raise SystemExit(f"the log in {log} does not do what {mode} says")
                bursts.append(
                    Burst(
                        clients,
                        images,
                        number,
                        mode,
                        found.requests_per_second,
                        1e3 * worked / max(found.requests, 1),
                        found.errors,
                    )
                )
    return bursts


def size(folder: Path) -> int:
    """Bytes of all files in a folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def compared(bursts: Sequence[Burst], mode: str, against: str) -> tuple[Ratio, Ratio]:
    """Requests a second, and processor time a request, of one mode over another, by rounds of one load."""
    speeds: list[float] = []
    efforts: list[float] = []
    rounds: dict[int, dict[str, Burst]] = {}
    for burst in bursts:
        rounds.setdefault(burst.round, {})[burst.mode] = burst
    for modes in rounds.values():
        speeds.append(modes[mode].requests_per_second / modes[against].requests_per_second)
        efforts.append(modes[mode].processor_ms / modes[against].processor_ms)
    return Ratio.of(speeds), Ratio.of(efforts)


def report(bursts: Sequence[Burst]) -> list[dict[str, Any]]:
    """A row for each load and each thing that is left out."""
    rows = []
    for clients, images in dict.fromkeys((burst.clients, burst.images) for burst in bursts):
        mine = [burst for burst in bursts if (burst.clients, burst.images) == (clients, images)]
        for against in MODES[1:]:
            speed, effort = compared(mine, MODES[0], against)
            with_log = [burst.requests_per_second for burst in mine if burst.mode == MODES[0]]
            rows.append(
                {
                    "clients": clients,
                    "images": images,
                    "against": against,
                    "requests_per_second": float(np.median(with_log)),
                    "throughput": speed,
                    "processor_time": effort,
                    "errors": sum(burst.errors for burst in mine),
                }
            )
    return rows


def verdict(speed: Ratio) -> str:
    """Whether the log takes less than it may, as far as the interval tells."""
    if speed.low is None or speed.high is None:
        return "too few rounds"
    if speed.low > 1 - GOAL:
        return "met"
    return "missed" if speed.high < 1 - GOAL else "undecided"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", type=Path, default=Path("release"))
    parser.add_argument("--rounds", type=int, default=36, help="six have every order once")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each burst")
    parser.add_argument("--clients", type=int, nargs="+", help="only loads of so many; default: all")
    parser.add_argument("--durability", choices=["process", "disk"], default="process")
    parser.add_argument("--folder", type=Path, default=Path(), help="the log is written to the disk of it")
    parser.add_argument("--json", type=Path, help="also write bursts and rows here")
    arguments = parser.parse_args()
    package = arguments.package.resolve()
    faces = Recorded.load(package).images
    expected = OnnxClassifier(package).predict(faces).probabilities
    load = os.getloadavg()[0]
    loads = [asked for asked in LOADS if not arguments.clients or asked[0] in arguments.clients]
    with tempfile.TemporaryDirectory(prefix=".logging-cost-", dir=arguments.folder) as temporary:
        folder = Path(temporary).resolve()
        side = Side(
            "ferops, switchable log",
            (
                *(sys.executable, "-m", "bentoml", "serve", "serving_switchable:FerClassifier"),
                *("--host", "127.0.0.1", "--port", "{port}"),
            ),
            "/predict",
            multipart,
            named_rows,
            {
                "FEROPS_PACKAGE": str(package),
                "FEROPS_LOG_DIR": str(folder / "log"),
                "FEROPS_LOG_DURABILITY": arguments.durability,
                "PYTHONPATH": str(HERE),
            },
        )
        with running(side, faces, expected, folder / "service") as service:
            bursts = measure(
                service, faces, loads, arguments.rounds, arguments.seconds, folder / "log", folder / "load"
            )
    rows = report(bursts)
    print(f"load of the machine before: {load:.1f}; {arguments.rounds} rounds of {arguments.seconds:g} s")
    print(
        f"{'clients':>8}{'images':>8}{'requests/s':>12}  {'with the log, over':<20}{'requests/s':<26}"
        f"{'processor time':<26}goal"
    )
    for row in rows:
        said = verdict(row["throughput"]) if row["against"] == MODES[1] else ""
        print(
            f"{row['clients']:>8}{row['images']:>8}{row['requests_per_second']:>12.0f}  {row['against']:<20}"
            f"{row['throughput']!s:<26}{row['processor_time']!s:<26}{said}"
        )
    if failed := sum(burst.errors for burst in bursts):
        raise SystemExit(f"{failed} requests failed: these figures mean nothing")
    if arguments.json:
        files.write_json(
            arguments.json,
            {
                "load_before": load,
                "rows": [
                    {**row, **{name: asdict(row[name]) for name in ("throughput", "processor_time")}}
                    for row in rows
                ],
                "bursts": [asdict(burst) for burst in bursts],
            },
        )


if __name__ == "__main__":
    main()
