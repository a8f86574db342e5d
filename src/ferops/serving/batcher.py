"""Requests of many clients, answered off the event loop: those that wait for a thread share its next call.

    >>> batcher = Batcher(lambda questions: predictor.predict_each(questions), threads=2)  # doctest: +SKIP
    >>> await batcher.ask(Question([png]), deadline)  # doctest: +SKIP

Nobody is kept waiting for company: a thread that is free takes its share of what waits at that moment, which
is one request when there is little to do and several when there is much.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ferops.serving.admission import overloaded
from ferops.serving.predictor import Answer, Question

#: Requests that share one call, at most: the last of them waits for the work of all.
TOGETHER = 8

#: A request that shares its call is of one image and brings at most so many bytes. What is larger takes
#: longer, and goes alone.
SMALL = 100_000

Outcome = list[Answer] | Exception


@dataclass(eq=False)
class _Waiting:
    question: Question
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[list[Answer]]"
    begun: bool = False

    def is_small(self) -> bool:
        contents = self.question.contents
        return not self.question.find_faces and len(contents) == 1 and len(contents[0]) <= SMALL

    def give_up(self) -> None:
        """Its time is over, unless it is in work; on the event loop."""
        if not (self.begun or self.answer.done()):
            self.answer.set_exception(overloaded())

    def deliver(self, outcome: Outcome) -> None:
        """On the event loop."""
        if self.answer.done():  # its client has left, or it gave up as its work began
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


def _deliver(loop: asyncio.AbstractEventLoop, delivered: Sequence[tuple[_Waiting, Outcome]]) -> None:
    for waiting, outcome in delivered:
        if waiting.loop is loop:
            waiting.deliver(outcome)


class Batcher:
    """Threads that answer what event loops ask.

    Args:
        answer_each: gives answers or an error for each of several requests; called on any of the threads.
        threads: how many calls run at one time. They are started with the first request, and end with the
            process.
    """

    def __init__(self, answer_each: Callable[[Sequence[Question]], Sequence[Outcome]], threads: int) -> None:
        self.threads = threads
        self._answer_each = answer_each
        self._queue: deque[_Waiting] = deque()
        self._ready = threading.Condition()
        self._started = False

    async def ask(self, question: Question, deadline: float) -> list[Answer]:
        """Answers to one request; call it on the event loop.

        Args:
            question: what is asked.
            deadline: moment of the loop's clock until which it may wait for its turn. Work that began is
                not interrupted.

        Raises:
            UploadError: 503 `overloaded` when its turn did not come.
            Exception: whatever `answer_each` gave or raised.
        """
        if not self._started:
            self._started = True
            for number in range(self.threads):
                threading.Thread(target=self._run, name=f"predictor {number}", daemon=True).start()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(question, loop, loop.create_future())
        timer = loop.call_at(deadline, waiting.give_up)
        with self._ready:
            self._queue.append(waiting)
            self._ready.notify()
        try:
            return await waiting.answer
        finally:
            timer.cancel()

    def _run(self) -> None:
        while True:
            batch = [each for each in self._next() if not each.answer.done()]
            for each in batch:
                each.begun = True
            outcomes: Sequence[Outcome]
            try:
                outcomes = self._answer_each([each.question for each in batch]) if batch else []
            except Exception as error:
                outcomes = [error] * len(batch)
            delivered = list(zip(batch, outcomes, strict=True))
            for loop in {each.loop for each in batch}:
                with suppress(RuntimeError):  # it has ended
                    loop.call_soon_threadsafe(_deliver, loop, delivered)

    def _next(self) -> list[_Waiting]:
        """What one call does: the request that waits longest, and others of its kind behind it.

        The other threads keep their share: a call computes on one core, and one that took all that waits
        would leave the next core nothing to do.
        """
        with self._ready:
            while not self._queue:
                self._ready.wait()
            most = min(TOGETHER, math.ceil(len(self._queue) / self.threads))
            batch = [self._queue.popleft()]
            if batch[0].is_small():
                while self._queue and len(batch) < most and self._queue[0].is_small():
                    batch.append(self._queue.popleft())
            return batch
