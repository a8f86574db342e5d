"""Send the service whatever can be sent: it must answer rightly or refuse, soon, and grow no larger.

    python benchmarks/fuzz.py [--inputs 10000] [--seed 0] [--package release]

Requests of `fuzz_requests` go to the app in this process, up to six at one time, as from clients that do not
know of each other. Each must be answered 2xx with the right answer, that of the same file alone and offline,
or refused 4xx with a code and a sentence. Printed are answers by status and code, the slowest, and memory as
it went. The first failure is made as small as it can be, shown, and ends the run with 1.
benchmarks/fuzz_wire.py does the same over sockets.
"""

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from ferops.data import images as pixels
from ferops.emotions import EMOTIONS
from ferops.environment import Environment
from ferops.models.onnx import OnnxClassifier
from ferops.serving.app import app, start
from ferops.serving.metrics import Metrics
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from fuzz_requests import Sent, requests

#: Nothing that is sent here is worth so many seconds of work, even on a busy machine.
HANGS_S = 60.0

#: Inputs that are sent again to see whether memory grows.
REPLAYED = 1000

#: Sums of float32 in another order.
TOLERANCE = 1e-5

#: What an answer must not tell.
INSIDE = re.compile(r"Traceback|site-packages|\.py\b|/home/|File \"|0x[0-9a-f]{6}|Error\(")


@dataclass(frozen=True)
class Answer:
    """What came back, and after how many seconds."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        """The body, or none if it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


async def ask(asgi: Callable[..., Any], sent: Sent) -> Answer:
    """Send one request to an ASGI app, as a server would."""
    begin, chunks = time.perf_counter(), list(sent.chunks or [b""])
    answered: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)  # others get their turn, as they do between two packets
        if chunks:
            chunk = chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(chunks) or not sent.complete}
        if sent.complete:
            await asyncio.Event().wait()  # the client stays for its answer
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        answered.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": sent.method,
        "scheme": "http",
        "path": sent.path,
        "raw_path": sent.path.encode("utf-8", "replace"),
        "query_string": sent.query,
        "root_path": "",
        "headers": list(sent.headers),
        "server": ("127.0.0.1", 3000),
        "client": ("127.0.0.1", 50_000),
        "state": {},
    }
    failure = ""
    try:
        await asyncio.wait_for(asgi(scope, receive, send), HANGS_S)
    except Exception as error:
        failure = repr(error)
    first = answered[0] if answered else {"status": 599, "headers": []}
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in first.get("headers", [])}
    body = b"".join(message.get("body", b"") for message in answered[1:])
    return Answer(first["status"], headers, body or failure.encode(), time.perf_counter() - begin)


class Offline:
    """What the answers must be, by the evaluation's way: each picture by itself, without a service."""

    def __init__(self, classifier: OnnxClassifier, limits: Environment) -> None:
        self._classifier, self._limits = classifier, limits

    def expected(self, sent: Sent) -> list[list[float]] | str:
        """The probabilities of each picture; or the code of the refusal."""
        assert sent.files is not None
        rows, too_large = [], int(self._limits.max_upload_mb * 1e6)
        side = self._classifier.card.input_side
        if len(sent.files) > self._limits.max_images:
            return "too_many_images"
        if any(len(file.content) > too_large for file in sent.files):
            return "too_large"
        for file in sent.files:
            if file.pixels is not None:
                picture = pixels.face(Image.fromarray(file.pixels), side)
            else:
                try:
                    image = pixels.decode(file.content, self._limits.max_pixels)
                    if b"auto" in sent.query and max(image.size) > 64:
                        return "unknown"  # faces are looked for
                    picture = pixels.face(image, side)
                except pixels.ImageError as error:
                    return error.code
            rows.append(self._classifier.predict(picture[None]).probabilities[0].tolist())
        return rows


def complaints(sent: Sent, answer: Answer, offline: Offline) -> list[str]:
    """What is wrong with an answer; nothing, if all is as it must be."""
    said = answer.json()
    if not (200 <= answer.status < 300 or 400 <= answer.status < 500):
        return [f"{answer.status}: {answer.body[:500]!r}"]
    if answer.status >= 400:
        if sent.method != "HEAD":
            if not isinstance(said, dict) or not re.fullmatch("[a-z_]+", str(said.get("code"))):
                return [f"{answer.status} without a code: {answer.body[:200]!r}"]
            if len(said.get("message", "")) < 20 or INSIDE.search(said["message"]):
                return [f"{answer.status} without a sentence that helps: {said}"]
    elif sent.method == "POST" and sent.path == "/predict" and sent.files is None and not sent.complete:
        return [f"answered although it was not complete: {answer.body[:200]!r}"]
    if sent.files is None:
        return []
    expected = offline.expected(sent)
    if isinstance(expected, str):
        if expected != "unknown" and (said or {}).get("code") != expected:
            return [f"{expected} was due, not {answer.status} {answer.body[:300]!r}"]
        return []
    if answer.status != 200:
        return [f"an answer was due, not {answer.status} {answer.body[:300]!r}"]
    given = [[one["probabilities"][name] for name in EMOTIONS] for one in said["predictions"]]
    if len(given) != len(expected):
        return [f"{len(given)} answers to {len(expected)} pictures"]
    off = float(np.abs(np.subtract(given, expected)).max())
    return [] if off <= TOLERANCE else [f"a probability is off by {off:.3g}"]


@dataclass
class Record:
    """What a run saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    right: int = 0
    slowest: float = 0.0
    slowest_sent: str = ""
    memory_mb: list[float] = field(default_factory=list)
    first: list[Sent] = field(default_factory=list)
    _process: psutil.Process = field(default_factory=psutil.Process)

    def take(self, sent: Sent, answer: Answer) -> None:
        """Count one answer; memory every 1,000."""
        code = (answer.json() or {}).get("code", "") if answer.status >= 400 and answer.body else ""
        self.statuses[f"{answer.status} {code}".strip()] += 1
        self.right += sent.files is not None
        if len(self.first) < REPLAYED:
            self.first.append(sent)
        if answer.seconds > self.slowest:
            self.slowest = answer.seconds
            self.slowest_sent = f"{sent.method} {sent.path[:40]}, {sum(map(len, sent.chunks))} bytes"
        if self.statuses.total() % 1000 == 1:
            self.memory_mb.append(self._process.memory_info().rss / 1e6)

    def table(self) -> str:
        """For people."""
        self.memory_mb.append(self._process.memory_info().rss / 1e6)
        lines = [f"{count:7d}  {name}" for name, count in sorted(self.statuses.items())]
        lines += [
            f"{self.statuses.total():7d}  inputs, of which {self.right} have a known right answer",
            f"slowest answer: {self.slowest:.2f} s ({self.slowest_sent})",
            f"memory, MB: {' '.join(f'{mb:.0f}' for mb in self.memory_mb)} (with what Hypothesis remembers)",
        ]
        return "\n".join(lines)


def fuzz(inputs: int, number: int, offline: Offline, record: Record) -> None:
    """Send so many inputs, and raise with the smallest that is answered wrongly.

    The app must be started; `number` is the seed.
    """
    loop = asyncio.new_event_loop()
    failed, sent_so_far = False, 0

    # More examples than are needed: each holds one to six requests.
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @seed(number)
    @given(st.lists(requests(), min_size=1, max_size=6))
    def together(several: Sequence[Sent]) -> None:
        nonlocal failed, sent_so_far
        if sent_so_far >= inputs and not failed:
            return
        sent_so_far += len(several)

        async def all_of_them() -> list[Answer]:
            return await asyncio.gather(*(ask(app, sent) for sent in several))

        for sent, answer in zip(several, loop.run_until_complete(all_of_them()), strict=True):
            if not failed:
                record.take(sent, answer)
            wrong = complaints(sent, answer, offline)
            failed = failed or bool(wrong)
            assert not wrong, f"{wrong[0]}\n{sent!r}"[:4000]
        held = app.state.serving.admission
        assert (held.requests, held.bytes) == (0, 0), "a place in the queue was not given back"

    try:
        together()
    finally:
        loop.close()


def replay(record: Record, rounds: int = 10) -> list[float]:
    """Send the first inputs again and again; memory after each round, MB.

    Hypothesis remembers all that it drew. Here nothing is drawn: what grows, grows in the service.
    """
    memory = []
    loop = asyncio.new_event_loop()
    for _ in range(rounds):
        for sent in record.first:
            loop.run_until_complete(ask(app, sent))
        memory.append(psutil.Process().memory_info().rss / 1e6)
    loop.close()
    return memory


def started(package: Path, log: Path) -> Offline:
    """Start the app in this process on a package; gives the oracle for its answers."""
    limits = Environment()
    classifier = OnnxClassifier(package)
    predictor = Predictor(
        classifier,
        "fuzz",
        PredictionLog(log),
        limits.max_pixels,
        max_request_pixels=limits.max_request_pixels,
    )
    start(app, predictor, limits, Metrics())
    return Offline(classifier, limits)


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--package", type=Path, default=Path("release"))
    options = parser.parse_args()
    record = Record()
    with tempfile.TemporaryDirectory() as log:
        try:
            fuzz(options.inputs, options.seed, started(options.package, Path(log)), record)
            grown = ", ".join(f"{mb:.0f}" for mb in replay(record))
            print(f"memory while the first {len(record.first)} are sent ten times, MB: {grown}")
        finally:
            print(record.table(), file=sys.stderr)


if __name__ == "__main__":
    main()
