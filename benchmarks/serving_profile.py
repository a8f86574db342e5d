"""Where each microsecond of a request goes: receive, parse, decode, describe, wait, compute, log, answer.

    python benchmarks/serving_profile.py            # reports/benchmarks/serving_profile/

The real app answers real requests in this process, one after another, while the processor time of each step
is taken where it is called: that of all threads, and hardly moved by what else the machine does. What is left
of a request is the framework and the way to the thread and back. The parts of a request of many images, in
service worked on at one time, come one after another, so that the steps add up. A service that is asked the
same over HTTP then shows what the HTTP server and the network add. Medians; `--images` also profiles requests
of that many images.
"""

import argparse
import asyncio
import contextlib
import functools
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from ferops import files
from ferops.models.onnx import OnnxClassifier, Recorded
from serving_load import wrk
from serving_sides import BOUNDARY, multipart, ours, processor_seconds, running

#: Steps in the order of a request, and their colours.
STEPS = {
    "HTTP server, network": "#8a817c",
    "receive and parse": "#d4b483",
    "decode": "#c1666b",
    "resize, make grey": "#e4989b",
    "inference": "#2a6f97",
    "descriptors": "#48a9a6",
    "log": "#735d78",
    "JSON": "#b392ac",
    "the rest: framework, thread, records": "#bfc0c0",
}


class Stopwatches:
    """Processor seconds by step, of the request that is under way."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time counts for a step."""
        if asyncio.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*arguments: Any, **options: Any) -> Any:
                begin = time.process_time()
                try:
                    return await function(*arguments, **options)
                finally:
                    self.seconds[step] += time.process_time() - begin

            return awaited

        @functools.wraps(function)
        def called(*arguments: Any, **options: Any) -> Any:
            begin = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[step] += time.process_time() - begin

        return called

    @contextlib.contextmanager
    def on(self, serving: Any) -> Iterator[None]:
        """Time the steps of a started app."""
        from ferops.serving import app, predictor

        encoder = mock.Mock(dumps=app.orjson.dumps)  # the log's own JSON counts with the log
        places = (
            ("receive and parse", app, "read_images"),
            ("decode", predictor.pixels, "decode"),
            ("resize, make grey", predictor.pixels, "flat"),
            ("inference", serving.predictor.classifier, "predict"),
            ("descriptors", predictor.describe, "describe"),
            ("log", serving.predictor.log, "predictions"),
            ("JSON", encoder, "dumps"),
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(app, "orjson", encoder))
            for step, owner, name in places:
                timed = self.timed(step, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
            yield


class InTurn(ThreadPoolExecutor):
    """Works on one part after another."""

    def map(self, work: Callable[..., Any], *parts: Any, **_: Any) -> Iterator[Any]:
        """As the builtin."""
        return map(work, *parts)


async def profile(bodies: list[bytes], requests: int) -> dict[str, list[float]]:
    """Microseconds of every step for each of so many requests, in process, one after another."""
    import ferops.serving.service as service

    app = service.FerClassifier.to_asgi()
    inner = service.app
    found: dict[str, list[float]] = defaultdict(list)
    answered: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    watches = Stopwatches()
    async with inner.router.lifespan_context(inner):
        serving = inner.state.serving
        serving.predictor = replace(serving.predictor, helpers=InTurn())
        with watches.on(serving):
            for number in range(requests + 50):
                messages = [
                    {"type": "http.request", "body": bodies[number % len(bodies)], "more_body": False}
                ]

                async def receive(messages: list[Any] = messages) -> Any:
                    return messages.pop(0) if messages else await asyncio.sleep(3600)

                watches.seconds.clear()
                begin = time.process_time()
                await app(scope(len(bodies[number % len(bodies)])), receive, send)
                total = time.process_time() - begin
                if number < 50:  # warming up
                    continue
                for step, seconds in watches.seconds.items():
                    found[step].append(seconds * 1e6)
                rest = total - sum(watches.seconds.values())
                found["the rest: framework, thread, records"].append(rest * 1e6)
                found["total"].append(total * 1e6)
    if set(answered) != {200}:
        raise SystemExit(f"the app answered {set(answered)}")
    return found


def scope(length: int) -> dict[str, Any]:
    """What an HTTP server tells of a request of wrk's."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1:3000"),
            (b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode()),
            (b"content-length", str(length).encode()),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 3000),
        "state": {},
    }


def draw(profiles: dict[str, dict[str, float]], path: Path) -> None:
    """One bar for each kind of request, cut into its steps, per image."""
    figure, axis = plt.subplots(figsize=(10, 1.2 + 0.9 * len(profiles)), layout="constrained")
    longest = max(sum(steps.get(step, 0.0) for step in STEPS) for steps in profiles.values())
    for row, steps in enumerate(profiles.values()):
        left = 0.0
        for step, colour in STEPS.items():
            width = steps.get(step, 0.0)
            axis.barh(row, width, left=left, color=colour, label=step if row == 0 else None, height=0.6)
            if width > 0.03 * longest:  # else there is no room
                axis.text(left + width / 2, row, f"{width:.0f}", ha="center", va="center", fontsize=8)
            left += width
    axis.set_yticks(range(len(profiles)), list(profiles))
    axis.set(xlabel="microseconds of processor time an image (median)")
    axis.invert_yaxis()
    figure.legend(*axis.get_legend_handles_labels(), ncols=5, fontsize=7, loc="outside upper center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Profile, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", type=Path, default=Path("release"))
    parser.add_argument("--runtime", help="FEROPS_RUNTIME; default: what the service chooses")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--no-http", action="store_true", help="leave out what needs wrk and a server")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/serving_profile"))
    arguments = parser.parse_args()
    package = arguments.package.resolve()
    faces = Recorded.load(package).images
    expected = OnnxClassifier(package).predict(faces).probabilities
    profiles: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="ferops-profile-") as temporary:
        folder = Path(temporary)
        environment = {"FEROPS_PACKAGE": str(package), "FEROPS_LOG_DIR": str(folder / "log")}
        if arguments.runtime:
            environment["FEROPS_RUNTIME"] = arguments.runtime
        os.environ.update(environment)
        for images in arguments.images:
            bodies = multipart(faces, images)
            requests = max(50, arguments.requests // images)
            found = asyncio.run(profile(list(bodies.contents), requests))
            profiles[_label(images)] = {step: float(np.median(each)) / images for step, each in found.items()}
        if not arguments.no_http:
            side = ours(package.parent, 1, environment)
            with running(side, faces, expected, folder / "side") as service:
                for images in arguments.images:
                    before = processor_seconds(service.process.pid)
                    asked = wrk(service.url, multipart(faces, images), 1, 5, folder / "load").requests
                    over = (processor_seconds(service.process.pid) - before) / asked / images * 1e6
                    steps = profiles[_label(images)]
                    steps["HTTP server, network"] = max(0.0, over - steps["total"])
    arguments.out.mkdir(parents=True, exist_ok=True)
    files.write_json(arguments.out / "profile.json", profiles)
    draw(profiles, arguments.out / "profile.png")
    print(f"{'processor time an image, us, median':<36}" + "".join(f"{label:>14}" for label in profiles))
    for step in STEPS:
        print(f"{step:<36}" + "".join(f"{steps.get(step, 0.0):>14.1f}" for steps in profiles.values()))
    sums = [sum(steps.get(step, 0.0) for step in STEPS) for steps in profiles.values()]
    print(f"{'together':<36}" + "".join(f"{each:>14.1f}" for each in sums))


def _label(images: int) -> str:
    return f"{images} image{'s'[: images > 1]}"


if __name__ == "__main__":
    main()
