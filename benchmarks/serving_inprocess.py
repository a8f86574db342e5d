"""What the inference runtime does by itself: no HTTP, no decoding, no log. Run by `benchmarks/serving.py`.

python benchmarks/serving_inprocess.py --package release --runtime onnxruntime
"""

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from ferops.models.cores import cores
from ferops.models.onnx import OnnxClassifier, Recorded
from ferops.models.runtimes import RUNTIMES


def images_per_second(classifier: OnnxClassifier, batch: int, callers: int, seconds: float) -> float:
    """Images a second of several threads that call with batches of this size, without pause."""
    images = Recorded.load(classifier.folder).images
    images = np.concatenate([images] * (batch // len(images) + 1))[:batch]
    calls = [0] * callers
    classifier.predict(images, batch)
    begin = time.perf_counter()

    def work(number: int) -> None:
        while not calls[number] or time.perf_counter() < begin + seconds:
            classifier.predict(images, batch)
            calls[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(calls) * batch / (time.perf_counter() - begin)


def measure(package: Path, runtime: str, seconds: float, batch: int | None = None) -> list[dict[str, Any]]:
    """One row for each way to use all cores: one call on all of them, or one call on each.

    With `batch` the second alone, with batches of that size.
    """
    rows = []
    batches = (batch,) if batch else (1, 8, 32)
    for callers, threads in ((cores(), 1),) if batch else ((1, 0), (cores(), 1)):
        classifier = RUNTIMES[runtime](package, threads)
        for batch in batches:
            speed = images_per_second(classifier, batch, callers, seconds)
            rows.append({"batch": batch, "callers": callers, "images_per_second": speed})
    return rows


def main() -> None:
    """Print the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--runtime", choices=RUNTIMES, required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--batch", type=int, help="only this one, one call on each core; default: all ways")
    arguments = parser.parse_args()
    found = measure(arguments.package, arguments.runtime, arguments.seconds, arguments.batch)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
