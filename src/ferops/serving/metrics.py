"""What the service tells Prometheus at `/metrics`, summed over its workers.

    >>> metrics = Metrics()  # doctest: +SKIP
    >>> metrics.requests.labels("/predict", "200").inc()  # doctest: +SKIP

BentoML's own metrics are off: they name every path that anybody asks for, so a scanner makes them grow
without end. These name the routes that there are.
"""

import fcntl
import functools
import logging
import os
import re
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Seconds; from a small model's one image to a queue that is full.
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)

#: Where prometheus_client's workers meet: a folder with a file for each kind of metric and each worker.
SHARED = "PROMETHEUS_MULTIPROC_DIR"

#: Beside the folder that BentoML gives, one for each server.
SERVERS = "ferops_metrics"

#: A file in it that all its workers have locked.
HELD = "held"

SHARED_KINDS = ("counter", "histogram", "gauge_livesum", "gauge_livemax")

#: Of each such file, bytes: several times what all routes, statuses and codes come to.
SHARED_BYTES = 2**18

logger = logging.getLogger("bentoml.ferops")


class Metrics:
    """One worker's metrics. Make it in the worker: BentoML says only there where workers meet."""

    def __init__(self) -> None:
        _meet_in_a_folder_of_this_server()
        _tidy_after_dead_workers()
        _reserve_space()
        import prometheus_client  # not above: it decides when imported how processes share their numbers
        from prometheus_client import Counter, Gauge, Histogram

        self._client = prometheus_client
        self._registry = prometheus_client.CollectorRegistry()
        here: Any = {"registry": self._registry}
        self.requests = Counter(
            "ferops_requests", "Answers by route and HTTP status", ["route", "status"], **here
        )
        self.seconds = Histogram(
            "ferops_request_seconds",
            "From a request's first byte to its whole answer",
            ["route"],
            buckets=SECONDS,
            **here,
        )
        self.images = Histogram("ferops_request_images", "Images in one request", buckets=IMAGES, **here)
        self.together = Histogram(
            "ferops_call_requests", "Requests that shared one call of the model", buckets=(1, 2, 4, 8), **here
        )
        self.refusals = Counter("ferops_refusals", "Requests that were refused, by code", ["code"], **here)
        self.held = Gauge(
            "ferops_requests_held",
            "Prediction requests being received, waiting or in work",
            multiprocess_mode="livesum",
            **here,
        )
        self.models = Gauge(
            "ferops_model_workers",
            "Workers that answer with this model",
            ["model_version", "source"],
            multiprocess_mode="livesum",
            **here,
        )
        self.swaps = Counter("ferops_model_swaps", "New champions that a worker took over", **here)
        self.refused_champions = Counter(
            "ferops_refused_champions", "New champions that a worker did not take over", **here
        )
        self.champion_refused = Gauge(
            "ferops_champion_refused",
            "1 while a worker answers with another model than the champion, which it refused",
            multiprocess_mode="livemax",
            **here,
        )
        self.unlogged = Counter(
            "ferops_unlogged_records", "Predictions and feedback that could not be logged", **here
        )
        self.log_failing = Gauge(
            "ferops_log_failing", "1 while the log cannot be written", multiprocess_mode="livemax", **here
        )
        self.log_seconds = Histogram(
            "ferops_log_seconds",
            "What logging added to one request, which waits for it",
            buckets=(0.0001, 0.001, 0.005, 0.02, 0.1, 0.5, 2),
            **here,
        )
        self.shadow_images = Counter(
            "ferops_shadow_images", "Images that the challenger saw, by agreement", ["agreed"], **here
        )
        self.shadow_dropped = Counter(
            "ferops_shadow_dropped", "Images that the challenger did not see, as it was too slow", **here
        )

    def model(self, version: str, source: str, before: tuple[str, str] | None = None) -> None:
        """This worker answers with a model now, and no longer with the one `before`."""
        if before is not None:
            self.models.labels(*before).set(0)
        self.models.labels(version, source).set(1)

    @functools.cache  # noqa: B019  # there is one for each worker, which lives as long; routes and statuses are few
    def _answers(self, route: str, status: str) -> tuple[Any, Any]:
        return self.requests.labels(route, status), self.seconds.labels(route)

    def answered(self, route: str, status: str, seconds: float) -> None:
        """A request was answered in so many seconds."""
        count, took = self._answers(route, status)
        count.inc()
        took.observe(seconds)

    def page(self) -> tuple[bytes, str]:
        """The text for Prometheus and its content type."""
        registry = self._registry
        if SHARED in os.environ:
            from prometheus_client import multiprocess

            _tidy_after_dead_workers()  # in a container none starts after it, which would do so
            registry = self._client.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return self._client.generate_latest(registry), self._client.CONTENT_TYPE_LATEST


def _meet_in_a_folder_of_this_server() -> None:
    """Count in a folder that no other server of this model store knows; remove those of servers that ended.

    BentoML gives all servers of one store the same, and each empties it at its start, before it knows whether
    its port is free: the one that runs would count in files that nobody sees, and show the other's.
    """
    if SHARED not in os.environ:
        return
    given = Path(os.environ[SHARED])
    if given.parent.name == SERVERS:  # this process has done it
        return
    mine = given.parent / SERVERS / _this_server()
    try:
        _hold(mine)
        others = [other for other in mine.parent.iterdir() if other != mine]
    except OSError:  # no room, no right, or a disk without locks: then as BentoML would have it
        return
    os.environ[SHARED] = str(mine)
    for other in others:
        with suppress(OSError):  # its workers hold it, or somebody else removes it
            handle = os.open(other / HELD, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other)
            finally:
                os.close(handle)


def _this_server() -> str:
    """A name that all workers of this server have, and no other server of any machine or container."""
    first = os.getppid()  # BentoML's first process, of which all workers are children
    numbers = began = ""
    with suppress(OSError):  # a system that does not tell
        numbers = str(Path("/proc/self/ns/pid").readlink())  # in whose process numbers
        began = _state(first)[19]  # they come again
    return re.sub(r"[^A-Za-z0-9_.]+", "-", f"{socket.gethostname()} {numbers} {first} {began}")


def _state(number: int) -> list[str]:
    """What Linux tells of a process (proc(5), `stat`) after its name: the state first, the start as the 20th.

    Raises:
        OSError: if it does not tell.
    """
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()


def _hold(folder: Path) -> None:
    """Make a folder that is not removed while this process lives.

    A lock, as process numbers say nothing to a container that has the store on the same disk.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / HELD, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_SH)
        if os.fstat(handle).st_nlink:  # else somebody removed it in between
            return  # it stays open, and with it the lock, until the process ends
        os.close(handle)


def _is_of_the_dead(file: Path) -> bool:
    """Whether a file in which a worker counts is of one that does no more."""
    number = file.stem.rpartition("_")[2]
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OSError):
        return False
    # One that died keeps its number until its parent asks how; BentoML's may not, when it was busy starting.
    with suppress(OSError, IndexError):  # a system that does not tell
        return _state(int(number))[0] == "Z"
    return False


def _reserve_space() -> None:
    """Take this worker's space on the disk now; where there is none, keep its metrics in memory.

    prometheus_client maps files with holes into memory. To fill a hole when the disk is full ends the process
    by SIGBUS, which no handler of errors sees.
    """
    if SHARED not in os.environ:
        return
    files = [Path(os.environ[SHARED]) / f"{kind}_{os.getpid()}.db" for kind in SHARED_KINDS]
    try:
        for file in files:
            if not file.exists():  # else it is of an earlier worker of this number, whose counts go on
                file.write_bytes(bytes(SHARED_BYTES))
    except OSError as error:
        logger.warning("metrics are of each worker alone, not summed: %s", error)
        for file in files:
            file.unlink(missing_ok=True)
        del os.environ[SHARED]


def _tidy_after_dead_workers() -> None:
    """Remove what dead workers said of themselves; of the files of what they counted keep what is filled."""
    folder = os.environ.get(SHARED)
    for path in Path(folder).glob("*_*.db") if folder else ():
        if not _is_of_the_dead(path):
            continue
        with suppress(OSError):  # another worker does the same
            if path.name.startswith("gauge_live"):
                path.unlink()
            else:
                with path.open("rb") as file:
                    filled = int.from_bytes(file.read(4), sys.byteorder)
                os.truncate(path, max(filled, 8))


class Measured:
    """ASGI middleware that counts and times the requests of an app's own routes."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on; measure it when the app has metrics by then."""
        metrics: Metrics | None = None
        if scope["type"] == "http":
            with suppress(AttributeError):  # an app that was not started has none
                metrics = scope["app"].state.serving.metrics
        if metrics is None:
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), "500"

        async def note(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics.answered(route, status, time.perf_counter() - begin)
