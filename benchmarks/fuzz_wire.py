"""Send a real server what only a socket can: half requests, slow ones, endless ones, and random ones.

    python benchmarks/fuzz_wire.py [--inputs 1000] [--seed 0] [--package release]

Starts `bentoml serve` on the package with 2 seconds for a request to come in (FEROPS_TIMEOUT_S), so
that waiting for it takes not long. Requests of `fuzz_requests`, whole, damaged or cut off, must be answered
2xx or 4xx, or the connection closed; then each of `SCENES` is played. Printed are answers by status, what
became of each scene, and the worker's memory before and after. Exits with 1 where one fails.
"""

import argparse
import select
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ferops.serving.trial import running_service
from fuzz_files import LOSSLESS
from fuzz_requests import Sent, damaged, requests

TIMEOUT_S = 2.0

#: For anything: the server's own limit, the 5 seconds of a connection kept alive, and a busy machine.
PATIENCE_S = TIMEOUT_S + 18.0

FORM = (
    b'--b\r\nContent-Disposition: form-data; name="images"; filename="f"\r\n\r\n'
    + LOSSLESS["png"](np.full((48, 48), 100, np.uint8))
    + b"\r\n--b--\r\n"
)
HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(FORM) + FORM
MODEL = b"GET /model HTTP/1.1\r\nhost: x\r\n\r\n"

#: The largest answer that there is: 1.4 MB.
LARGE = b"GET /static/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\n\r\n"


class Wire:
    """One connection to the server.

    Args:
        url: of the server.
        room: bytes that the operating system takes before somebody reads them; None: as many as it likes.
        segment: bytes of one packet; None: as many as it likes.
    """

    def __init__(self, url: str, room: int | None = None, segment: int | None = None) -> None:
        parts = urlsplit(url)
        self.socket = socket.socket()
        if room is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)  # before it connects
        if segment is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect((parts.hostname, parts.port))
        self._got = b""

    def send(self, content: bytes) -> bool:
        """Whether the server still takes it."""
        try:
            self.socket.sendall(content)
        except OSError:
            return False
        return True

    def status(self) -> int:
        """Of the next answer, whose rest is read too; 0 if the connection was closed instead.

        Raises:
            TimeoutError: if neither happens.
        """
        with suppress(ConnectionError):
            while b"\r\n\r\n" not in self._got:
                if not (more := self.socket.recv(65_536)):
                    return 0
                self._got += more
            head, _, self._got = self._got.partition(b"\r\n\r\n")
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
                    while len(self._got) < length and (more := self.socket.recv(65_536)):
                        self._got += more
                    self._got = self._got[length:]
            return int(head[9:12])
        return 0

    def is_closed(self) -> bool:
        """Whether the server ends the connection by itself, whatever it still says."""
        end = time.monotonic() + PATIENCE_S
        with suppress(ConnectionError):
            while time.monotonic() < end:
                if not self.socket.recv(65_536):
                    return True
            return False
        return True

    def is_reset(self) -> bool:
        """Whether the server ends the connection by itself although nothing is read from it."""
        ended = select.poll()
        ended.register(self.socket, 0)  # errors and hang-ups are told in any case
        return bool(ended.poll(PATIENCE_S * 1000))


def serialised(sent: Sent) -> bytes:
    """As HTTP/1.1, with the length of the body where the request does not claim another."""
    path = quote(sent.path.encode("utf-8", "replace"), safe="/%*") or "/"
    query = b"?" + quote(sent.query).encode() if sent.query else b""
    lines = [b"%b %b%b HTTP/1.1" % (sent.method.encode(), path.encode(), query), b"host: x"]
    lines += [name + b": " + value for name, value in sent.headers]
    body = b"".join(sent.chunks)
    if not any(name == b"content-length" for name, _ in sent.headers):
        lines.append(b"content-length: %d" % (len(body) + (0 if sent.complete else 9)))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def random_ones(url: str, inputs: int, number: int, statuses: Counter[int]) -> None:
    """Requests on connections of their own: every other one damaged, some given up by half-closing."""

    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @seed(number)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        content = serialised(data.draw(requests()))
        if data.draw(st.booleans()):
            content = data.draw(damaged(content))
        wire = Wire(url)
        if wire.send(content):
            with suppress(OSError):
                wire.socket.shutdown(socket.SHUT_WR)  # there will be no more: waiting for it is no use
        status = wire.status()
        wire.socket.close()
        statuses[status] += 1
        assert status == 0 or 200 <= status < 300 or 400 <= status < 500, f"{status}: {content!r}"[:3000]

    one()


def _slowly(wire: Wire, content: bytes) -> bool:
    """Send a byte every tenth of a second; whether the server ended it before twice its time was over."""
    begin = time.monotonic()
    for byte in content:
        if not wire.send(bytes([byte])):
            return True
        if time.monotonic() - begin > 4 * TIMEOUT_S + 5:
            return False
        wire.socket.settimeout(0.1)
        try:
            if not wire.socket.recv(65_536):
                return True
        except TimeoutError:
            pass
        except ConnectionError:
            return True
        wire.socket.settimeout(PATIENCE_S)
    return False


def slow_head(url: str) -> bool:
    """A head that comes byte by byte, for ever."""
    return _slowly(Wire(url), b"GET / HTTP/1.1\r\nx: " + b"a" * 10_000)


def slow_head_later(url: str) -> bool:
    """The same, after a request that was answered."""
    wire = Wire(url)
    wire.send(MODEL)
    return wire.status() == 200 and _slowly(wire, b"GET / HTTP/1.1\r\nx: " + b"a" * 10_000)


def slow_body(url: str) -> bool:
    """A body that comes byte by byte."""
    wire = Wire(url)
    wire.send(HEAD + b"content-length: 9000\r\n\r\n")
    return _slowly(wire, b"-" * 9000)


def slow_body_of_nothing(url: str) -> bool:
    """A body that comes byte by byte after its request was refused."""
    wire = Wire(url)
    wire.send(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n")
    return wire.status() == 404 and _slowly(wire, b"-" * 9000)


def silent(url: str) -> bool:
    """A connection on which nothing comes."""
    return Wire(url).is_closed()


def half_a_request(url: str) -> bool:
    """The first half, and then nothing: 408."""
    wire = Wire(url)
    wire.send(WHOLE[: len(WHOLE) // 2])
    return wire.status() == 408 and wire.is_closed()


def half_closed(url: str) -> bool:
    """A whole request from a client that then closes its side, as `nc -N` does: it is answered."""
    wire = Wire(url)
    wire.send(WHOLE)
    wire.socket.shutdown(socket.SHUT_WR)
    return wire.status() == 200 and wire.is_closed()


def endless_head(url: str) -> bool:
    """A head without an end, as fast as it goes: 431 or closed."""
    wire = Wire(url)
    wire.send(b"GET / HTTP/1.1\r\n")
    return any(not wire.send(b"x-%d: " % number + b"a" * 50000 + b"\r\n") for number in range(2000))


def endless_trailers(url: str) -> bool:
    """The same after a chunked body."""
    wire = Wire(url)
    wire.send(HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(FORM) + FORM + b"\r\n0\r\n")
    return not all(wire.send(b"x: " + b"a" * 50_000 + b"\r\n") for _ in range(2000))


def endless_pipeline(url: str) -> bool:
    """Requests without an end, whose answers are not read."""
    wire = Wire(url)
    wire.socket.settimeout(1)
    begin = time.monotonic()
    while time.monotonic() - begin < PATIENCE_S:
        if not wire.send(MODEL * 2000):
            return True
    return False


def unread(url: str) -> bool:
    """20 connections with more answers than the operating system takes, which nobody reads: all are ended."""
    wires = [Wire(url, room=4096) for _ in range(20)]
    for wire in wires:
        wire.send(LARGE * 5)
    other = Wire(url)
    other.send(WHOLE)
    return other.status() == 200 and all(wire.is_reset() for wire in wires)


def read_slowly(url: str) -> bool:
    """A large answer read in many times the time in which something of it must be: it comes whole."""
    wire = Wire(url, room=65_536)
    wire.send(LARGE.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    begin, got = time.monotonic(), b""
    while more := wire.socket.recv(32_768):
        got += more
        if time.monotonic() - begin < 4 * TIMEOUT_S:
            time.sleep(TIMEOUT_S / 5)
    head, _, body = got.partition(b"\r\n\r\n")
    return b"content-length: %d" % len(body) in head and len(body) > 1_000_000


def pipeline(url: str) -> bool:
    """Fifty requests at one time: fifty answers."""
    wire = Wire(url)
    wire.send(MODEL * 49 + MODEL.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    got = b""
    while more := wire.socket.recv(65_536):
        got += more
    return got.count(b"HTTP/1.1 200 OK") == 50


def a_thousand_files(url: str) -> bool:
    """1,000 files in one form: 413, and the connection serves on."""
    part = FORM[: FORM.rindex(b"--b--")]
    body = part * 1000 + b"--b--\r\n"
    wire = Wire(url)
    wire.send(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body + MODEL)
    return wire.status() == 413 and wire.status() == 200


def upgrade(url: str) -> bool:
    """A WebSocket is asked for where there is none: answered as if it were not."""
    wire = Wire(url)
    wire.send(MODEL.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"))
    return wire.status() == 200


def other_protocols(url: str) -> bool:
    """TLS, HTTP/2 and nonsense: 400."""
    given = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hi\r\n",
    )
    statuses = []
    for content in given:
        wire = Wire(url)
        wire.send(content)
        statuses.append(wire.status())
    return set(statuses) <= {0, 400}


def many_silent(url: str) -> bool:
    """300 connections with half a head each: others are served meanwhile, and all are ended."""
    wires = [Wire(url) for _ in range(300)]
    for wire in wires:
        wire.send(b"GET /model HTTP/1.1\r\nhost: x\r\n")
    other = Wire(url)
    other.send(WHOLE)
    return other.status() == 200 and all(wire.status() in (408, 0) for wire in wires)


SCENES: tuple[Callable[[str], bool], ...] = (
    *(silent, half_a_request, half_closed, slow_head, slow_head_later, slow_body, slow_body_of_nothing),
    *(endless_head, endless_trailers, endless_pipeline, pipeline, a_thousand_files, upgrade, other_protocols),
    *(many_silent, unread, read_slowly),
)


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--package", type=Path, default=Path("release"))
    options = parser.parse_args()
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environment = {
            "FEROPS_PACKAGE": str(options.package.resolve()),
            "FEROPS_LOG_DIR": str(folder / "log"),
            "FEROPS_TIMEOUT_S": str(TIMEOUT_S),
            "BENTOML_HOME": str(folder / "bentoml"),
        }
        with running_service(folder, environment) as url:
            (worker,) = [
                process
                for process in psutil.Process().children(recursive=True)
                if "_bentoml_impl.worker.service" in process.cmdline()
            ]

            def memory() -> int:
                return worker.memory_info().rss // 1_000_000

            statuses: Counter[int] = Counter()
            print(f"memory, MB: {memory()} at start", flush=True)
            random_ones(url, options.inputs, options.seed, statuses)
            print(f"random: {dict(sorted(statuses.items()))}; memory {memory()}", flush=True)
            for scene in SCENES:
                begin = time.monotonic()
                try:
                    ended_well = scene(url)
                except OSError as error:
                    ended_well = bool(print(f"  {error!r}"))
                said = "well" if ended_well else "BADLY"
                took = time.monotonic() - begin
                print(f"{scene.__name__:22} ends {said} in {took:4.1f} s; memory {memory()}", flush=True)
                failed += [] if ended_well else [scene.__name__]
            log = (folder / "serve.log").read_text()
            if "Traceback" in log:
                failed.append("the server's log has a traceback")
                print(log[log.index("Traceback") - 300 :][:3000])
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
