"""Progress on stderr with the time left: a bar on a terminal, else one line every few seconds."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

#: Seconds between lines where there is no terminal: a log stays readable.
SECONDS_BETWEEN_LINES = 5.0


def track(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Pass `items` through and show how far of `total` they are."""
    if sys.stderr.isatty():
        yield from _bar(items, total, what)
    else:
        yield from _lines(items, total, what)


def _bar(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description=what)


def _lines(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    started = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (now - started) / done * max(total - done, 0)
            print(f"{what}: {done:,} of {total:,}, {left:.0f} s left", file=sys.stderr, flush=True)
