"""How fast the service answers over HTTP, beside the plain ways of serving the same model, and its own limit.

    python benchmarks/serving.py --quick     # minutes: that it works, no result
    python benchmarks/serving.py             # a quarter of an hour on two cores that do nothing else
    python benchmarks/serving.py --report    # what was measured last: table, plot, goals

All services run on this machine, listen on the loopback interface, and get the same faces: PNG files of
48x48, or for MLflow the same pixels as JSON. Rounds alternate between them, so that noise hits all alike. Two
models: the released one, and its weights in a network of 224 pixels. `--out` gets one JSON file a model, the
plot and the table; docs/benchmarks.md says how to read them.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil

from ferops import files
from ferops.models.cores import cores
from ferops.models.onnx import OnnxClassifier, Recorded
from serving_load import wrk
from serving_report import draw, goals_met, table
from serving_sides import Running, others, ours, processor_seconds, running

HERE = Path(__file__).parent

CLIENTS = (1, 2, 4, 8, 16, 32)

#: Images in one request, and how many clients send such requests.
MANY, MANY_CLIENTS = (32, 64), 4

#: Starts of ours that are timed beside the one that is measured.
STARTS = 2


def measure(image_size: int | None, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything for one model."""
    models = folder / "models"
    build_models(arguments.package, image_size, models)
    faces = Recorded.load(models / "package").images
    card = OnnxClassifier(models / "package").card
    expected = OnnxClassifier(models / "package").predict(faces).probabilities
    environment = {"FEROPS_RUNTIME": arguments.runtime} if arguments.runtime else {}
    our_sides = [ours(models, workers, environment) for workers in arguments.workers]
    sides = our_sides + ([] if arguments.only_ours else others(models))
    result: dict[str, Any] = {
        "image_size": card.details["image_size"],
        "machine": machine(),
        "quick": arguments.quick,
        "settings": {name: getattr(arguments, name) for name in ("seconds", "rounds", "clients", "workers")},
        "ours": [side.name for side in our_sides],
        "sides": {},
        "single": [],
        "many": [],
    }
    with ExitStack() as stack:
        services: list[Running] = []
        for number, side in enumerate(sides):
            say(f"starting {side.name}")
            services.append(stack.enter_context(running(side, faces, expected, folder / f"side-{number}")))
        about = httpx.get(services[0].url.replace("/predict", "/model"), timeout=30).json()
        result["runtime"], inference = about["runtime"], about.get("inference") or {}
        for turn in range(arguments.rounds):
            result["single"] += burst(services, faces, 1, arguments.clients, arguments.seconds, turn, folder)
            result.setdefault("limit", []).extend(
                limit(models, inference.get("runtime"), arguments.seconds / 2)
            )
        for service in services:
            service.single_peak = dict(service.peak)
        for images in MANY:
            result["many"] += burst(services, faces, images, [MANY_CLIENTS], arguments.seconds, 0, folder)
        for service in services:
            result["sides"][service.side.name] = {
                "first_answer_s": [service.first_answer_s],
                "first_answer_cpu_s": [service.first_answer_cpu_s],
                "difference": service.difference,
                "memory_single": service.single_peak,
                "memory": service.peak,
            }
    for number, side in enumerate(our_sides):
        for start in range(0 if arguments.quick else STARTS):
            with running(side, faces, expected, folder / f"start-{number}-{start}") as service:
                for name in ("first_answer_s", "first_answer_cpu_s"):
                    result["sides"][side.name][name].append(getattr(service, name))
    return result


def build_models(package: Path, image_size: int | None, out: Path) -> None:
    """The model for every side, made in a process of its own, as it takes Keras; none: the package's size."""
    command = [sys.executable, str(HERE / "serving_models.py"), "--package", str(package.resolve())]
    size = ["--image-size", str(image_size)] if image_size else []
    subprocess.run([*command, *size, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)


def burst(
    services: Sequence[Running],
    faces: Any,
    images: int,
    clients: Sequence[int],
    seconds: float,
    turn: int,
    folder: Path,
) -> list[dict[str, Any]]:
    """One burst of load for each number of clients and each service, the services one after another."""
    rows = []
    for count in clients:
        for service in services:
            bodies = service.side.bodies(faces, images)
            before = processor_seconds(service.process.pid)
            found = wrk(service.url, bodies, count, seconds, folder / "load")
            service.watch()
            service.settle()
            service_cpu_s = processor_seconds(service.process.pid) - before
            rows.append(
                {
                    "side": service.side.name,
                    "clients": count,
                    "images": images,
                    "round": turn,
                    "service_cpu_s": service_cpu_s,
                    **asdict(found),
                }
            )
            say(
                f"{service.side.name:<28}{count:>4} clients {images:>3} images"
                f"{found.requests_per_second:>9.1f} requests/s   p50 {found.p50_ms:>8.2f}   "
                f"p99 {found.p99_ms:>8.2f} ms   {found.errors} errors"
            )
    return rows


def limit(
    models: Path, runtime: str | None, seconds: float, batch: int | None = None
) -> list[dict[str, Any]]:
    """The runtime alone, in a process of its own; with `batch` only so, one call on each core."""
    only = ["--batch", str(batch)] if batch else []
    done = subprocess.run(
        [
            *(sys.executable, str(HERE / "serving_inprocess.py"), "--package", str(models / "package")),
            *("--runtime", runtime or "onnxruntime", "--seconds", str(seconds), *only),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    for row in rows:
        say("in process, batch {batch:>2}, {callers} callers: {images_per_second:.1f} images/s".format(**row))
    return rows


def machine() -> dict[str, Any]:
    """What was measured on, and whether it had other things to do."""
    processor = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
    return {
        "cores": cores(),
        "processor": processor,
        "python": platform.python_version(),
        "load_before": psutil.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def say(what: str) -> None:
    """Progress, with the time since the start."""
    print(f"{time.perf_counter() - BEGIN:6.0f} s  {what}", flush=True)


BEGIN = time.perf_counter()


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", type=Path, default=Path("release"), help="has model.keras beside it")
    parser.add_argument(
        "--image-size", type=int, nargs="+", default=[0, 224], help="of the network; 0: the package's own"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="of our service, a side each")
    parser.add_argument("--runtime", help="FEROPS_RUNTIME of our service; default: what it chooses")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each burst of load")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only-ours", action="store_true", help="leave the other services out")
    parser.add_argument("--quick", action="store_true", help="one short round of few clients")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/serving"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds, arguments.clients = 1.0, 1, [1, 8]
    arguments.package = arguments.package.resolve()
    if not arguments.report:
        for size in arguments.image_size:
            with tempfile.TemporaryDirectory(prefix="ferops-serving-") as folder:
                result = measure(size or None, arguments, Path(folder))
            arguments.out.mkdir(parents=True, exist_ok=True)
            files.write_json(arguments.out / f"serving-{result['image_size']}.json", result)
    results = [files.read_json(path) for path in sorted(arguments.out.glob("serving-*.json"))]
    if not results:
        raise SystemExit(f"nothing was measured yet: {arguments.out} has no serving-*.json")
    said = "\n\n".join(f"{table(result)}\n\n{goals_met(result)}" for result in results)
    (arguments.out / "serving.txt").write_text(said + "\n")
    draw(results, arguments.out / "serving.png")
    print(f"\n{said}\n\n{arguments.out}/ has the figures, serving.txt and serving.png")


if __name__ == "__main__":
    main()
