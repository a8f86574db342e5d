"""What each choice in the service brings: batches on and off, calls at a time, threads a call, workers.

    python benchmarks/serving_variants.py                    # the released model
    python benchmarks/serving_variants.py --image-size 224

Each variant is the service with one thing changed; rounds alternate between them. Writes
`variants-<pixels>.json` and prints requests/s and latencies by clients, and how many times the speed of the
service as it is.
"""

import argparse
import tempfile
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from ferops import files
from ferops.models.cores import cores
from ferops.models.onnx import OnnxClassifier, Recorded
from serving import HERE, build_models, burst, machine, say
from serving_report import cpu_us, value
from serving_sides import Side, ours, running

AS_IT_IS = "as it is"

#: By name: workers, and what is changed.
VARIANTS: dict[str, tuple[int, dict[str, str]]] = {
    AS_IT_IS: (1, {}),
    "each request a call of its own": (1, {"FER_TOGETHER": "1"}),
    "up to 16 requests a call": (1, {"FER_TOGETHER": "16"}),
    "one call at a time": (1, {"FER_CALLS": "1"}),
    "one call more than cores": (1, {"FER_CALLS": str(cores() + 1)}),
    "each call on all cores": (1, {"FEROPS_THREADS": "0"}),
    "Python switches every 0.5 ms": (1, {"FER_SWITCH_MS": "0.5"}),
    "2 workers": (2, {}),
    "2 workers, one call at a time": (2, {"FER_CALLS": "1"}),
    "2 workers, each call on all cores": (2, {"FEROPS_THREADS": "0"}),
    "log on the disk": (1, {"FEROPS_LOG_DURABILITY": "disk"}),
    "log on the disk, two calls more": (1, {"FEROPS_LOG_DURABILITY": "disk", "FER_CALLS": str(cores() + 2)}),
}


def sides(models: Path, runtime: str | None, names: Collection[str]) -> list[Side]:
    """The service in each variant of these names."""
    found = []
    for name in names:
        workers, changed = VARIANTS[name]
        environment = changed | {"PYTHONPATH": str(HERE)}
        if runtime:
            environment["FEROPS_RUNTIME"] = runtime
        side = ours(models, workers, environment)
        command = [part.replace("ferops.serving.service:", "serving_variant:") for part in side.command]
        found.append(replace(side, name=name, command=command))
    return found


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", type=Path, default=Path("release"))
    parser.add_argument("--image-size", type=int, default=0, help="of the network; 0: the package's own")
    parser.add_argument("--runtime", help="FEROPS_RUNTIME; default: what the service chooses")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME",
                        help="beside the service as it is; default: all")  # fmt: skip
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 8, 32])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/serving"))
    arguments = parser.parse_args()
    names = list(dict.fromkeys([AS_IT_IS, *(arguments.only or VARIANTS)]))
    with tempfile.TemporaryDirectory(prefix="ferops-variants-") as temporary:
        folder = Path(temporary)
        models = folder / "models"
        build_models(arguments.package, arguments.image_size, models)
        classifier = OnnxClassifier(models / "package")
        faces = Recorded.load(models / "package").images
        expected = classifier.predict(faces).probabilities
        rows = []
        with ExitStack() as stack:
            services = []
            for number, side in enumerate(sides(models, arguments.runtime, names)):
                say(f"starting {side.name}")
                services.append(
                    stack.enter_context(running(side, faces, expected, folder / f"side-{number}"))
                )
            for turn in range(arguments.rounds):
                rows += burst(services, faces, 1, arguments.clients, arguments.seconds, turn, folder)
    size = classifier.card.details["image_size"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    files.write_json(
        arguments.out / f"variants-{size}.json", {"machine": machine(), "image_size": size, "rows": rows}
    )
    print(f"\n{'':<34}{'clients':>8}{'requests/s':>12}{'times':>7}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}")
    for name in names:
        for clients in arguments.clients:
            speed = value(rows, name, clients)
            ratio = [
                one["requests_per_second"] / other["requests_per_second"]
                for one in rows
                for other in rows
                if (one["side"], other["side"]) == (name, AS_IT_IS)
                and one["clients"] == other["clients"] == clients
                and one["round"] == other["round"]
                and other["requests_per_second"]
            ]
            print(
                f"{name:<34}{clients:>8}{speed:>12.1f}{float(np.median(ratio or [np.nan])):>7.2f}"
                f"{value(rows, name, clients, 'p50_ms'):>9.1f}{value(rows, name, clients, 'p99_ms'):>9.1f}"
                f"{cpu_us({'single': rows}, name, clients, 'service_cpu_s'):>9.0f}"
            )


if __name__ == "__main__":
    main()
