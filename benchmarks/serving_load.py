"""HTTP load from the same machine: `wrk` as fast as the server answers, or a constant rate however it does.

wrk is in Debian and Ubuntu (`apt install wrk`), takes a few percent of a core for all that is measured here,
and sends bodies of several images in turn, which `ab`, `hey` and `h2load` do not. It has no constant rate,
so that `constant_rate` is our own.
"""

import asyncio
import json
import resource
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

#: Told to wrk for each connection; an answer that takes longer is an error.
TIMEOUT_S = 60

#: A connection that was idle so long is opened anew: servers close them (uvicorn after 5 s), and a request
#: that crosses with that is nobody's error.
KEPT_S = 2.0

SCRIPT = """\
local requests, turn = {}, 0
function init(args)
  for _, path in ipairs(args) do
    local file = assert(io.open(path, "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "@TYPE@"}, file:read("*a"))
    file:close()
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests": %d, "microseconds": %d, "p50": %d, "p95": %d, "p99": %d, "max": %d, ' ..
    '"errors": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(95),
    latency:percentile(99), latency.max, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Bodies:
    """Requests that are sent in turn, and their content type."""

    content_type: str
    contents: Sequence[bytes]


@dataclass(frozen=True)
class Measured:
    """What one burst of load found; latencies in ms.

    Attributes:
        generator_cpu_s: processor time that the load generator itself took.
    """

    requests_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    errors: int
    generator_cpu_s: float = 0.0


def wrk(url: str, bodies: Bodies, clients: int, seconds: float, folder: Path) -> Measured:
    """So many clients that each ask again as soon as they are answered.

    Raises:
        SystemExit: if there is no wrk.
    """
    command = shutil.which("wrk")
    if command is None:
        raise SystemExit("this benchmark needs wrk: `apt install wrk`, or https://github.com/wg/wrk")
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "requests.lua"
    script.write_text(SCRIPT.replace("@TYPE@", bodies.content_type))
    paths = []
    for number, content in enumerate(bodies.contents):
        paths.append(folder / f"body-{number}")
        paths[-1].write_bytes(content)
    before = _children_cpu_s()
    done = subprocess.run(
        [
            *(command, "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT_S}s"),
            *("--latency", "-s", str(script), url, "--", *map(str, paths)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return replace(read_wrk(done.stdout), generator_cpu_s=_children_cpu_s() - before)


def _children_cpu_s() -> float:
    """Processor time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read_wrk(output: str) -> Measured:
    """The line that our script adds to wrk's own output."""
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    return Measured(
        requests_per_second=(found["requests"] - found["errors"]) / (found["microseconds"] / 1e6),
        **{f"{name}_ms": found[name] / 1e3 for name in ("p50", "p95", "p99", "max")},
        requests=found["requests"],
        errors=found["errors"],
    )


@dataclass
class Tally:
    """Every request of a constant rate: when it was due (seconds from the start), and how long it took (ms).

    Latency counts from the moment that a request was due, not from when a connection was free for it: a
    server that stalls delays all that come meanwhile, and each of them is counted.
    """

    due: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def percentile(self, share: float, begin: float = 0, end: float = float("inf")) -> float:
        """A percentile of the latencies, ms, of requests that were due in a span of time; nan for none."""
        due = np.array(self.due)
        chosen = np.array(self.latency_ms)[(due >= begin) & (due < end)]
        return float(np.percentile(chosen, share)) if len(chosen) else float("nan")


async def constant_rate(
    url: str, bodies: Bodies, rate: float, seconds: float, connections: int = 64
) -> Tally:
    """Send `rate` requests a second, evenly spaced, over kept connections; whatever the server does.

    Args:
        url: where to.
        bodies: taken in turn.
        rate: requests a second.
        seconds: how long.
        connections: how many requests may be under way; with all of them in use, the next waits, and its
            latency counts.
    """
    parts = urlsplit(url)
    heads = [
        (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {bodies.content_type}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        ).encode()
        + content
        for content in bodies.contents
    ]
    tally, free, begin = Tally(), asyncio.LifoQueue[_Connection](), time.perf_counter()
    for _ in range(connections):
        free.put_nowait(_Connection(str(parts.hostname), int(parts.port or 80)))

    async def one(number: int, due: float) -> None:
        connection = await free.get()
        try:
            status = await asyncio.wait_for(connection.ask(heads[number % len(heads)]), TIMEOUT_S)
            if status != 200:
                tally.errors.append(f"status {status}")
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            tally.errors.append(type(error).__name__)
            connection.close()
        finally:
            free.put_nowait(connection)
        tally.due.append(due)
        tally.latency_ms.append((time.perf_counter() - begin - due) * 1e3)

    running: set[asyncio.Task[None]] = set()
    for number in range(int(rate * seconds)):
        due = number / rate
        ahead = begin + due - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
        task = asyncio.create_task(one(number, due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)
    while not free.empty():
        free.get_nowait().close()
    return tally


class _Connection:
    """One kept connection, opened when it is first needed and again when the server closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._used = 0.0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """Send and read one answer to its end; gives its status."""
        if time.perf_counter() - self._used > KEPT_S:
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status, length, last = int(head[9:12]), 0, False
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
            last |= line == b"connection: close"
        await reader.readexactly(length)
        self._used = time.perf_counter()
        if last:
            self.close()
        return status

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
