"""Who may come in: requests beyond what a worker can hold are refused at once, not kept waiting.

>>> admission = Admission(max_requests=2, max_bytes=1_000_000)
>>> with admission.place() as place:
...     place.take(5_000)

An overloaded service that queues everything answers everybody too late. This one answers those it took, and
tells the others when to come again. Used on the event loop only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ferops.serving.uploads import UploadError

#: Seconds, as `Retry-After` says to a client that was turned away: a full queue is worked off in less.
RETRY_AFTER_S = 1


class Admission:
    """Counts the requests that a worker holds, and the bytes that they brought.

    Args:
        max_requests: being received, waiting and in work, together.
        max_bytes: of all of them.
        on_change: called with the count of requests.
    """

    def __init__(
        self, max_requests: int, max_bytes: int, on_change: Callable[[int], None] | None = None
    ) -> None:
        self.requests = 0
        self.bytes = 0
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._on_change = on_change or (lambda _: None)

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """Hold a place for one request as long as the block runs.

        Raises:
            UploadError: 503 `overloaded` when there is none.
        """
        if self.requests >= self._max_requests:
            raise overloaded()
        place = Place(self)
        self.requests += 1
        self._on_change(self.requests)
        try:
            yield place
        finally:
            self.requests -= 1
            self.bytes -= place.bytes
            self._on_change(self.requests)

    def _take(self, size: int) -> None:
        if self.bytes + size > self._max_bytes:
            raise overloaded()
        self.bytes += size


class Place:
    """One request's place; `take` its bytes as they come in."""

    def __init__(self, admission: Admission) -> None:
        self.bytes = 0
        self._admission = admission

    def take(self, size: int) -> None:
        """Count bytes that came in.

        Raises:
            UploadError: 503 `overloaded` when all requests together have too many.
        """
        self._admission._take(size)
        self.bytes += size


def overloaded() -> UploadError:
    """The refusal of a request that there is no room for."""
    return UploadError(503, "overloaded", f"too many requests at one time: try again in {RETRY_AFTER_S} s")
