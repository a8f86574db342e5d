"""Traffic for a running service: faces at a constant rate, and later what they really showed.

    >>> with Traffic(url, draw, per_second=10, feedback=0.5, delay_s=15, seed=0) as traffic:  # doctest: +SKIP
    ...     traffic.drifted = True
    ...     traffic.answers()

Requests come when they are due, however the service answers, from many addresses of this machine. Feedback
is given on answers drawn at random, right and wrong ones alike, each after a time of its own: late, and in
another order than the faces came.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import numpy as np

from ferops.data.sources.png import png
from ferops.data.sources.synthetic import SHARES, draw
from ferops.data.store import SPLITS
from ferops.emotions import EMOTIONS
from ferops.simulation.drifts import DRIFTS, Grey

#: Addresses that the requests come from: Linux takes any of 127.0.0.0/8 for its own.
CLIENTS = 32 if sys.platform == "linux" else 1

#: Seconds for one answer, and for what is on its way when the traffic ends.
PATIENCE_S = 60.0

Draw = Callable[[int, bool], tuple[Grey, str]]


@dataclass(frozen=True)
class Answer:
    """What became of one request for a prediction.

    Attributes:
        at: when it was sent, Unix time.
        drifted: whether the face was changed.
        truth: the emotion that was drawn.
        label, version, id: as answered; none when it failed.
        problem: why it failed; none when it was answered.
        milliseconds: until the answer.
    """

    at: float
    drifted: bool
    truth: str
    label: str | None
    version: str | None
    id: str | None
    problem: str | None
    milliseconds: float

    @property
    def right(self) -> bool:
        """Whether the answer was the truth."""
        return self.label == self.truth


def synthetic_faces(noise: float, drift: str, severity: int, seed: int) -> Draw:
    """Faces that no dataset has: drawn as those of the dataset, from random numbers of their own.

    Args:
        noise: how hard the faces are, as `data.synthetic.noise`.
        drift: a name of `DRIFTS`, for those that are asked for as drifted.
        severity: of it, 1 to 5.
        seed: another one gives other faces.

    Returns:
        A function from a number, and whether the face is drifted, to a face uint8 `[48, 48]` and its emotion.
    """
    emotions, shares = list(SHARES), np.array(list(SHARES.values()))

    def face(number: int, drifted: bool) -> tuple[Grey, str]:
        # The dataset's faces come from [seed, split, number], with one of three splits.
        rng = np.random.default_rng([seed, len(SPLITS), number])
        emotion = str(rng.choice(emotions, p=shares / shares.sum()))
        drawn = draw(emotion, noise, rng)
        return (DRIFTS[drift].change(drawn, severity, rng) if drifted else drawn), emotion

    return face


class Traffic:
    """Asks a service in a thread of its own, from `with` to its end.

    Attributes:
        drifted: whether the faces are changed from now on.
        sent: requests, for predictions and with feedback.
        problems: a sentence for each that was not answered as it should be.
        labelled: how many drifted faces have feedback.

    Args:
        url: of the service.
        draw: gives the faces.
        per_second: requests for a prediction, one face each.
        feedback: share of the answers that people say something of.
        delay_s: mean time until they do; the times are exponentially distributed.
        poison: share of the feedback on drifted faces that names another emotion than the truth.
        seed: of what is drawn here.
    """

    def __init__(
        self, url: str, draw: Draw, per_second: float, feedback: float, delay_s: float, poison: float = 0.0,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.drifted = False
        self.sent = 0
        self.problems: list[str] = []
        self.labelled = 0
        self._url, self._draw, self._per_second = url, draw, per_second
        self._feedback, self._delay_s, self._poison = feedback, delay_s, poison
        self._rng = np.random.default_rng([seed, len(SPLITS) + 1])
        self._answers: list[Answer] = []
        self._ending = threading.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(PATIENCE_S)

    def answers(self) -> list[Answer]:
        """What became of the requests so far, in the order in which they ended."""
        return list(self._answers)

    def _run(self) -> None:
        asyncio.run(self._send_all())

    async def _send_all(self) -> None:
        clients = [self._client(number) for number in range(CLIENTS)]
        on_their_way: set[asyncio.Task[None]] = set()
        begin, number = time.monotonic(), 0
        while not self._ending.is_set():
            task = asyncio.create_task(self._one(clients[number % CLIENTS], number))
            on_their_way.add(task)
            task.add_done_callback(partial(self._ended, on_their_way))
            number += 1
            await asyncio.sleep(max(0.0, begin + number / self._per_second - time.monotonic()))
        self._over.set()
        await asyncio.gather(*on_their_way)
        for client in clients:
            await client.aclose()

    def _client(self, number: int) -> httpx.AsyncClient:
        address = f"127.0.0.{number + 1}" if CLIENTS > 1 else None
        # A connection each time: a request on one that the service just closes as idle would be lost.
        limits = httpx.Limits(max_keepalive_connections=0)
        transport = httpx.AsyncHTTPTransport(local_address=address, limits=limits)
        return httpx.AsyncClient(base_url=self._url, transport=transport, timeout=PATIENCE_S)

    async def _one(self, client: httpx.AsyncClient, number: int) -> None:
        """Ask about one face, and say later what it showed."""
        drifted = self.drifted
        face, truth = self._draw(number, drifted)
        at, begin = time.time(), time.perf_counter()
        answered = await self._post(client, "/predict", 200, files={"images": ("face.png", png(face))})
        milliseconds = 1000 * (time.perf_counter() - begin)
        if isinstance(answered, str):
            self._answers.append(Answer(at, drifted, truth, None, None, None, answered, milliseconds))
            return
        given = answered["predictions"][0]
        told = (given["label"], given["model_version"], given["id"])
        self._answers.append(Answer(at, drifted, truth, *told, None, milliseconds))
        delay_s = self._rng.exponential(self._delay_s)
        if self._rng.random() < self._feedback and await self._is_still_on(delay_s):
            said = self._wrong(truth) if drifted and self._rng.random() < self._poison else truth
            taken = await self._post(client, "/feedback", 202, json={"id": given["id"], "emotion": said})
            self.labelled += drifted and not isinstance(taken, str)

    async def _post(self, client: httpx.AsyncClient, path: str, expected: int, **content: Any) -> Any:
        """The answer's JSON, or a sentence on why there is none."""
        self.sent += 1
        try:
            response = await client.post(path, **content)
            if response.status_code == expected:
                return response.json()
            problem = f"{path}: HTTP {response.status_code} {response.text[:200]}"
        except (httpx.HTTPError, ValueError) as error:
            problem = f"{path}: {error!r}"
        self.problems.append(problem)
        return problem

    def _ended(self, on_their_way: "set[asyncio.Task[None]]", task: "asyncio.Task[None]") -> None:
        on_their_way.discard(task)
        if (error := task.exception()) is not None:  # an answer of another form than the service's
            self.problems.append(repr(error))

    async def _is_still_on(self, seconds: float) -> bool:
        """Wait; False as soon as the traffic ends."""
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
        except TimeoutError:
            return True
        return False

    def _wrong(self, truth: str) -> str:
        return str(self._rng.choice([emotion for emotion in EMOTIONS if emotion != truth]))
