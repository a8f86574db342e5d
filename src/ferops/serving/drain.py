"""An orderly end: who was let in is answered, who comes later is not let in.

Asked to end, uvicorn closes each connection that has no request at that moment, and the operating system
goes on taking connections that nobody will serve: a client that is writing its next request, or has just
connected, sees a reset. So the end is put off a little: every answer tells its client to close the
connection, and no connection is taken that is not waiting already.
"""

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SIGNALS = (signal.SIGTERM, signal.SIGINT)

CHECK_EVERY_S = 0.05


class Drain:
    """Puts off the end of a worker until its clients have their answers.

    Args:
        seconds: at most; idle connections make it wait so long.
    """

    def __init__(self, seconds: float) -> None:
        self.begun = False
        self._over = False
        self._seconds = seconds
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def on_signals(self) -> None:
        """Drain when told to end; call it on the event loop, when the server has its handlers."""
        if threading.current_thread() is not threading.main_thread():
            return  # no server's worker: signals belong to whoever started it in a thread
        loop = asyncio.get_running_loop()

        def begin(number: int, frame: FrameType | None) -> None:
            if self._over:
                self._before[number](number, frame)
            elif not self.begun:  # it comes twice when a whole process group is told
                self.begun = True
                loop.call_soon_threadsafe(lambda: loop.create_task(self._run(number)))

        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                self._before[number] = handler
                signal.signal(number, begin)

    async def _run(self, number: int) -> None:
        _take_no_connections()
        server = getattr(self._before[number], "__self__", None)  # uvicorn's, whose method the handler is
        end = asyncio.get_running_loop().time() + self._seconds
        await asyncio.sleep(CHECK_EVERY_S)  # those who wait come in
        for listener in getattr(server, "servers", ()):
            listener.close()
        state = getattr(server, "server_state", None)
        while asyncio.get_running_loop().time() < end and getattr(state, "connections", True):
            await asyncio.sleep(CHECK_EVERY_S)
        self._over = True
        self._before[number](number, None)


def _take_no_connections() -> None:
    """Shrink the queue of connections that the operating system takes in our name, which workers share.

    The port is not closed: should this worker alone be ending, the others still take connections, and its
    successor sets the queue's length again.
    """
    with suppress(ValueError, IndexError, OSError):  # BentoML hands the socket to its workers by number
        listener = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
        try:
            listener.listen(0)
        finally:
            listener.detach()


class LastAnswers:
    """ASGI middleware that closes connections with their next answer once a drain has begun."""

    def __init__(self, app: "ASGIApp", drain: Drain) -> None:
        self.app = app
        self._drain = drain

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass on."""

        async def closing(message: "Message") -> None:
            if self._drain.begun and message["type"] == "http.response.start":
                headers = [(n, v) for n, v in message.get("headers", ()) if n.lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        await self.app(scope, receive, closing if scope["type"] == "http" else send)
