"""A running service follows the champion: a new one takes over between two requests, a broken one does not.

    >>> follower = Follower(Path("registry"), 2.0, "v3-0a1b2c3d", take_over, refuse)  # doctest: +SKIP
    >>> follower.start()  # doctest: +SKIP

Each worker has a follower of its own, so that for as long as `every_s` two workers may answer with two
models; each request is answered by one.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ferops.promotion.champion import POINTER_FILE, Champion
from ferops.serving.source import Source, champion_source

logger = logging.getLogger("bentoml.ferops")

#: What tells one state of a file from another: when it was written, its size, and which file it is.
Stamp = tuple[int, int, int]


class Follower(threading.Thread):
    """Watches the champion pointer, and loads and checks what it names beside the model that answers.

    Args:
        registry: folder of the pointer.
        every_s: seconds between two looks.
        version: of the model that answers now.
        take_over: called with a new champion that passed its check; it must answer from then on.
        refuse: called with True when a new champion was refused, and with False when that is over.
    """

    def __init__(
        self,
        registry: Path,
        every_s: float,
        version: str,
        take_over: Callable[[Source], None],
        refuse: Callable[[bool], None],
    ) -> None:
        super().__init__(name="champion follower", daemon=True)
        self.version = version
        self._pointer = registry / POINTER_FILE
        self._every_s = every_s
        self._take_over = take_over
        self._refuse = refuse
        self._seen: Any = None
        self._refused = False
        self._ended = threading.Event()

    def run(self) -> None:
        """Look again and again, until `end`."""
        while not self._ended.wait(self._every_s):
            self.look()

    def end(self) -> None:
        """Look no more; the model that answers stays."""
        self._ended.set()

    def look(self) -> None:
        """Take over a champion that is new since the last look.

        One that is refused is tried again when the pointer or its package changes. Without a pointer the
        model that answers goes on.
        """
        pointer = _stamp(self._pointer)
        if pointer is None:
            return
        package = _package_stamps(self._pointer.parent) if self._refused else None
        if (pointer, package) == self._seen:
            return
        package = _package_stamps(self._pointer.parent)
        try:
            champion = Champion.load(self._pointer.parent)
            if champion.label != self.version:
                source = champion_source(champion)
                self._take_over(source)
                logger.info("now %s; before it %s answered", source.sentence(), self.version)
                self.version = source.version
            if self._refused:
                self._refuse(False)
            self._refused = False
        except Exception as error:  # whatever is wrong with the new one, the old one answers
            logger.error("ALERT: the new champion was refused, %s goes on answering: %s", self.version, error)
            self._refuse(True)
            self._refused = True
        self._seen = (pointer, package if self._refused else None)


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _package_stamps(registry: Path) -> dict[str, Stamp | None] | None:
    """The state of the files of the champion's package; none where there is no such package."""
    try:
        return {path.name: _stamp(path) for path in Champion.load(registry).folder().iterdir()}
    except Exception:  # a pointer may hold anything, and the follower must outlive it
        return None
