"""The service under a constant load for a long time: no error, and memory, latency and work that stay.

    python benchmarks/soak.py                    # 20 minutes at 80 % of what it can do
    python benchmarks/soak.py --minutes 1        # that it works, no result

Capacity is measured first, with clients that ask without pause; then requests come at a constant rate,
however the server answers, and each one's latency counts from when it was due. At 80 % of what is possible
latency follows every dip of a shared machine's speed; the processor time a request hardly does, and tells
whether the service itself became slower. Writes `soak.json` and `soak.png`; ends with 1 when one does not
hold.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from ferops import files
from ferops.models.onnx import OnnxClassifier, Recorded
from serving import machine, say
from serving_load import Tally, constant_rate, wrk
from serving_sides import Running, memory, multipart, ours, processor_seconds, running

#: Clients that find out what the service can do, and for how many seconds.
CAPACITY_CLIENTS, CAPACITY_S = 16, 10.0

#: Before this share of the time nothing is judged: allocators and caches fill.
WARM_UP = 0.1

#: Memory is flat when the line through it rises less than this share of its start, in the time judged.
GROWTH = 0.05

#: Latency is flat when its median in the last quarter is less than this many times that in the first.
SLOWER = 1.25

#: Work is flat when the processor time a request in the last quarter is less than this many times that in the
#: first: both are of hundreds of thousands of requests.
COSTLIER = 1.1

#: Seconds from the start, MB of all processes, and processor seconds that they took so far.
Watched = list[tuple[float, float, float]]


def verdict(tally: Tally, watched: Watched, seconds: float) -> dict[str, Any]:
    """What was found, and whether each holds.

    Args:
        tally: of all requests.
        watched: the service's processes.
        seconds: how long it ran.
    """
    warm = WARM_UP * seconds
    times, sizes, used = np.array([point for point in watched if point[0] >= warm]).T
    slope, start = np.polyfit(times - warm, sizes, 1)
    growth = float(slope * (seconds - warm) / start)
    quarter = (seconds - warm) / 4
    spans = {"first": (warm, warm + quarter), "last": (seconds - quarter, seconds)}
    latency = {
        name: {f"p{share}_ms": tally.percentile(share, *span) for share in (50, 95, 99)}
        for name, span in spans.items()
    }
    slower = latency["last"]["p50_ms"] / latency["first"]["p50_ms"]
    due, processor_us = np.array(tally.due), {}
    for name, (begin, end) in spans.items():
        took = np.interp(end, times, used) - np.interp(begin, times, used)
        processor_us[name] = float(took / ((due >= begin) & (due < end)).sum() * 1e6)
    costlier = processor_us["last"] / processor_us["first"]
    return {
        "requests": len(tally.due),
        "errors": dict(Counter(tally.errors)),
        "memory_start_mb": float(start),
        "memory_growth": growth,
        "memory_mb_per_hour": float(slope * 3600),
        "latency": latency,
        "slower": slower,
        "processor_us": processor_us,
        "holds": {
            "no error": not tally.errors,
            f"memory grows less than {GROWTH:.0%}": growth < GROWTH,
            f"median latency of the last quarter below {SLOWER:g} times the first's": slower < SLOWER,
            f"processor time a request of the last quarter below {COSTLIER:g} times": costlier < COSTLIER,
        },
    }


async def soak(service: Running, faces: Any, rate: float, seconds: float) -> tuple[Tally, Watched]:
    """Load at a constant rate, with a look at the service's processes every few seconds."""
    watched: Watched = []
    begin = time.perf_counter()

    async def watch() -> None:
        while True:
            found = memory(service.process.pid)["pss_mb"]
            used = processor_seconds(service.process.pid)
            watched.append((time.perf_counter() - begin, found, used))
            await asyncio.sleep(max(0.5, seconds / 240))

    watching = asyncio.create_task(watch())
    tally = await constant_rate(service.url, multipart(faces, 1), rate, seconds)
    watching.cancel()
    return tally, watched


def draw(tally: Tally, watched: Watched, seconds: float, path: Path) -> None:
    """Latency and memory over time."""
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    edges = np.linspace(0, seconds, 61)
    for share, colour in ((50, "#2a6f97"), (95, "#d4b483"), (99, "#c1666b")):
        spans = itertools.pairwise(edges)
        found = [tally.percentile(share, begin, end) for begin, end in spans]
        upper.plot((edges[:-1] + edges[1:]) / 120, found, color=colour, label=f"p{share}")
    upper.set(ylabel="latency, ms", ylim=(0, None))
    upper.legend(ncols=3)
    times, sizes, _ = np.array(watched).T
    lower.plot(times / 60, sizes, color="#2a6f97")
    lower.set(xlabel="minutes", ylabel="memory of all processes, MB", ylim=(0, 1.25 * max(sizes)))
    for axis in (upper, lower):
        axis.axvspan(0, WARM_UP * seconds / 60, color="black", alpha=0.06)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure capacity, soak, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", type=Path, default=Path("release"))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=0.8, help="of the capacity")
    parser.add_argument("--rate", type=float, help="requests a second, instead of a share")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runtime", help="FEROPS_RUNTIME; default: what the service chooses")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/soak"))
    arguments = parser.parse_args()
    package, seconds = arguments.package.resolve(), arguments.minutes * 60
    faces = Recorded.load(package).images
    expected = OnnxClassifier(package).predict(faces).probabilities
    environment = {"FEROPS_PACKAGE": str(package)}
    if arguments.runtime:
        environment["FEROPS_RUNTIME"] = arguments.runtime
    side = ours(package.parent, arguments.workers, environment)
    with tempfile.TemporaryDirectory(prefix="ferops-soak-") as temporary:
        folder = Path(temporary)
        with running(side, faces, expected, folder / "side") as service:
            capacity = wrk(service.url, multipart(faces, 1), CAPACITY_CLIENTS, CAPACITY_S, folder / "load")
            rate = arguments.rate or arguments.share * capacity.requests_per_second
            say(f"{capacity.requests_per_second:.0f} requests/s at most; {rate:.0f} for {seconds:.0f} s")
            tally, watched = asyncio.run(soak(service, faces, rate, seconds))
    found = verdict(tally, watched, seconds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = {"minutes": arguments.minutes, "workers": arguments.workers, "rate": rate}
    result = {"machine": machine(), **settings, "capacity": capacity.requests_per_second, **found}
    files.write_json(arguments.out / "soak.json", result | {"watched": watched})
    draw(tally, watched, seconds, arguments.out / "soak.png")
    for what, holds in found["holds"].items():
        print(f"{'holds ' if holds else 'BROKEN'}  {what}")
    first, last = found["latency"]["first"], found["latency"]["last"]
    print(
        f"{found['requests']} requests at {rate:.0f}/s, errors: {found['errors'] or 'none'}\n"
        f"memory {found['memory_start_mb']:.0f} MB, {found['memory_growth']:+.1%}\n"
        f"p50, p95, p99 of the first quarter {', '.join(f'{v:.1f}' for v in first.values())} ms, "
        f"of the last {', '.join(f'{v:.1f}' for v in last.values())} ms; processor time a request "
        f"{' and '.join(f'{v:.0f}' for v in found['processor_us'].values())} us"
    )
    sys.exit(0 if all(found["holds"].values()) else 1)


if __name__ == "__main__":
    main()
