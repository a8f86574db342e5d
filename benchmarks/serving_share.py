"""How much of its runtime's own speed the service reaches over HTTP: the two in turn, round by round.

    python benchmarks/serving_share.py --image-size 224

A virtual machine's speed changes from minute to minute, by more than what is asked here. So a burst of load
and the runtime alone, without HTTP, decoding or log, are measured right after each other, and each round
gives one ratio; printed are their median with its 95 % interval. The load generator takes its part of the
same cores.
"""

import argparse
import tempfile
from pathlib import Path

import httpx

from ferops import files
from ferops.models.cores import cores
from ferops.models.onnx import OnnxClassifier, Recorded
from logging_cost import Ratio
from serving import build_models, burst, limit, machine
from serving_sides import ours, running

#: Clients that ask without pause, and images of each of their requests.
LOADS = ((32, 1), (4, 32))

#: The service's goal with single images.
GOAL = 0.85


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", type=Path, default=Path("release"), help="has model.keras beside it")
    parser.add_argument("--image-size", type=int, default=224, help="of the network; 0: the package's own")
    parser.add_argument("--batch", type=int, default=8, help="of the runtime alone; 8 is the fastest here")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each burst, and of the runtime")
    parser.add_argument("--json", type=Path, help="also write everything here")
    arguments = parser.parse_args()
    rows, state = [], machine()
    with tempfile.TemporaryDirectory(prefix="ferops-share-") as temporary:
        folder = Path(temporary)
        models = folder / "models"
        build_models(arguments.package, arguments.image_size, models)
        package = models / "package"
        side = OnnxClassifier(package).card.details["image_size"]
        faces = Recorded.load(package).images
        expected = OnnxClassifier(package).predict(faces).probabilities
        with running(ours(models, 1, {}), faces, expected, folder / "service") as service:
            model = httpx.get(service.url.replace("/predict", "/model"), timeout=30).json()
            runtime = model["inference"]["runtime"]
            for turn in range(arguments.rounds):
                for clients, images in LOADS if turn % 2 else LOADS[::-1]:
                    (row,) = burst([service], faces, images, [clients], arguments.seconds, turn, folder)
                    (alone,) = limit(models, runtime, arguments.seconds, arguments.batch)
                    row["alone"] = alone["images_per_second"]
                    row["share"] = images * row["requests_per_second"] / row["alone"]
                    rows.append(row)
    print(f"{runtime} at {side} pixels, {cores()} cores; load before {state['load_before']:.1f}")
    for clients, images in LOADS:
        mine = [row for row in rows if (row["clients"], row["images"]) == (clients, images)]
        share = Ratio.of([row["share"] for row in mine])
        met = f", goal {GOAL:.0%}" if images == 1 else ""
        print(f"{clients:>4} clients, {images:>2} images a request: {share} of the runtime alone{met}")
    if failed := sum(row["errors"] for row in rows):
        raise SystemExit(f"{failed} requests failed: these figures mean nothing")
    if arguments.json:
        files.write_json(arguments.json, {"machine": state, "runtime": runtime, "rows": rows})


if __name__ == "__main__":
    main()
