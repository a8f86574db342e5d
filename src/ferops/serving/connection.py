"""What a client may do to a connection: uvicorn's own HTTP protocol, with an end to everything.

uvicorn waits for ever for the rest of a request's head and keeps as much of it as comes; takes any number of
requests before the first is answered; waits for ever for a client that does not read its answer, its own end
too; and takes a client that has said all for one that has gone. Here a head has a size and a time, the queue
of one connection an end, an answer that nobody reads as well, and who only stopped sending is answered.
"""

import asyncio
import fcntl
import json
import signal
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from uvicorn import Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Of a request's line and headers together; as nginx's defaults allow. What comes in one read may be more.
MAX_HEAD_BYTES = 32_768

#: Bytes of its answer that a client must take in the time that it has to take something: a byte now and then
#: would hold a connection for ever.
MIN_TAKEN = 16_384

#: Such times that a server which ends gives a client for the rest of its answer.
LAST_TIMES = 3

#: Requests that one connection may send before the first is answered; browsers and client libraries send one.
MAX_AHEAD = 100


class Bounded(HttpToolsProtocol):
    """One connection.

    Args:
        seconds: for a request's head to come in whole, for what follows a refusal to be thrown away, and for
            a client to read something of its answer.
        refused: called with the code of each refusal.
        uvicorn: what uvicorn gives to its protocol.
    """

    def __init__(self, seconds: float, refused: Callable[[str], None], **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.ws_protocol_class = None  # there is no WebSocket here: such a request is answered as any other
        self._seconds = seconds
        self._refused = refused
        self._unparsed = 0
        self._deaf = False
        self._waiting: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._previous: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Wait for the first request."""
        super().connection_made(transport)
        joining = _Joining(transport, self._wait_for_reader)
        self.transport = joining  # type: ignore[assignment]  # as much of one as uvicorn needs
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuse what is too long, and begin to wait for what is not complete."""
        if self._deaf:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unparsed > MAX_HEAD_BYTES:
            self._refuse(431, "headers_too_large", f"the headers have more than {MAX_HEAD_BYTES} bytes")
        elif not self._working():
            self._wait()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's always closes
        """A client that will send no more still wants its answer, if only that its request is not whole."""
        if self.scheme != "http":  # TLS cannot do it
            return False
        if self._has_whole():
            self.cycle.keep_alive = False
        elif self._working() or self._unparsed:
            self._refuse(400, "incomplete", "the client left before the request was complete")
        return self._has_whole()  # those that came before it, if any

    def shutdown(self) -> None:
        """The server ends: answers are still read, but not for ever."""
        super().shutdown()
        self.loop.call_later(LAST_TIMES * self._seconds, self._end)

    def _end(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.reset()  # type: ignore[attr-defined]
        elif self._working():
            self.loop.call_later(self._seconds, self._end)

    def on_headers_complete(self) -> None:
        """The head came in time."""
        self._unparsed = 0
        self._stop_waiting()
        self._previous = self.cycle
        if len(self.pipeline) >= MAX_AHEAD:
            raise ValueError("too many requests ahead")  # the parser stops, the connection ends
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bodies are bounded by whoever reads them."""
        self._unparsed = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Read no more requests while there are some in the queue."""
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:
        """As all other refusals."""
        self._refuse(
            400,
            "bad_http",
            "the request's first line or headers cannot be read: this port takes HTTP/1.1 without TLS, the "
            "usual methods, and addresses whose letters beyond ASCII are percent-encoded",
        )

    def _unsupported_upgrade_warning(self) -> None:
        pass  # clients may ask for what there is not

    def _working(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _has_whole(self) -> bool:
        return self._working() and not self.cycle.more_body

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self._seconds, self._too_late)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_late(self) -> None:
        self._waiting = None
        if self.transport.is_closing():
            return  # when its answers are read, or nobody reads them
        if self._unparsed:
            self._refuse(408, "timeout", "the request's headers were not received in time")
        else:
            self.transport.close()

    def _wait_for_reader(self) -> None:
        """Something was written that the operating system may not have taken: somebody must read it."""
        if self._reading is None:
            taken = self.transport.taken()  # type: ignore[attr-defined]
            self._reading = self.loop.call_later(self._seconds, self._see_whether_it_reads, taken)

    def _see_whether_it_reads(self, taken_before: int) -> None:
        """End a connection whose client took next to nothing in all that time; who reads slowly is served."""
        self._reading = None
        unread = self.transport.get_write_buffer_size()
        if unread == 0:
            return
        if self.transport.taken() - taken_before >= min(MIN_TAKEN, unread):  # type: ignore[attr-defined]
            self._wait_for_reader()
        else:
            self.transport.reset()  # type: ignore[attr-defined]

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer with this and close; after the answers to what came before it, which came whole."""
        self._refused(code)
        self._deaf = True
        if self._working():
            if not self.cycle.more_body:
                self.cycle.keep_alive = False
                return
            if self.pipeline:  # it waits behind requests that came whole, and are answered
                self.pipeline.popleft()
                self.cycle = self._previous
                self.cycle.keep_alive = False
                return
            if self.cycle.response_started:  # an answer that this one must not mix with
                self.transport.abort()
                return
            self.cycle.disconnected = True  # it is answered here
            self.cycle.message_event.set()
        body = json.dumps({"code": code, "message": message}).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Joining:
    """A transport that sends the head of an answer together with its body, which uvicorn writes one by one.

    That is one packet less, and one call of the system, for either side.

    Args:
        transport: the real one.
        unsent: called when something was written that has not all left this process.
    """

    def __init__(self, transport: asyncio.Transport, unsent: Callable[[], None]) -> None:
        self._transport = transport
        self._unsent = unsent
        self._head = b""
        self._written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):  # 100 has no body
            self._head = data
            return
        self._write(data)

    def flush(self) -> None:
        """Send a head that no body follows."""
        if self._head:
            data, self._head = self._head, b""
            self._write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def taken(self) -> int:
        """Bytes of what was written that the other side's machine has.

        That of what left this process alone would not do: the operating system asks for more only when a
        third of its own megabytes have gone, for which a slow reader takes longer than a silent one may.
        """
        kept = bytes(4)
        with suppress(OSError, ValueError):  # where the system does not tell, all counts that left
            kept = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, kept)
        return self._written - self._transport.get_write_buffer_size() - int(struct.unpack("i", kept)[0])

    def reset(self) -> None:
        """End at once, and let the operating system forget what it has for the other side."""
        with suppress(OSError):
            at_once = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, at_once)
        self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return  # of several requests on one connection uvicorn tells the last one only that it is gone
        self._transport.write(data)
        self._written += len(data)
        if self._transport.get_write_buffer_size():
            self._unsent()


def bound_connections(seconds: float, refused: Callable[[str], None] = lambda code: None) -> bool:
    """Give the uvicorn server of this process `Bounded` connections; call it before it takes the first.

    BentoML starts the server itself and has no setting for it. The server that runs handles the signals.

    Returns:
        Whether there is such a server.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not isinstance(server, Server):
        return False

    def connection(**uvicorn: Any) -> Bounded:
        return Bounded(seconds, refused, **uvicorn)

    server.config.http_protocol_class = connection  # type: ignore[assignment]  # it is called, no more
    return True
