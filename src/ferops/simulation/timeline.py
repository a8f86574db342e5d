"""What happened in a simulation, when, and the figures that follow from it.

    recovered         0   the new champion is as right on the drifted faces as the old one was before
    feedback_stopped  5   validation stopped the labels; the champion stays
    gate_refused      6   the candidate did not pass the gate; the champion stays
    not_recovered     7   the new champion took over, and is still less right than the old one was

0 to 4 mean what they mean elsewhere: `ferops monitor` has 3 and 4.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ferops.emotions import EMOTIONS
from ferops.monitoring.quality import wilson
from ferops.monitoring.verdict import Outcome as Verdict
from ferops.simulation.traffic import Answer

Outcome = Literal["recovered", "feedback_stopped", "gate_refused", "not_recovered"]

EXIT_CODES: Mapping[Outcome, int] = {
    "recovered": 0,
    "feedback_stopped": 5,
    "gate_refused": 6,
    "not_recovered": 7,
}

SENTENCES: Mapping[Outcome, str] = {
    "recovered": "the loop closed: drift was seen, learnt and left behind",
    "feedback_stopped": "validation stopped the wrong labels, and the champion stays",
    "gate_refused": "the gate refused the candidate, and the champion stays",
    "not_recovered": "the new champion took over, but is not as right as the old one was before the drift",
}


#: Answers of one point of the curve.
POINT = 150


class Record(BaseModel):
    """Base of what is kept: it does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Plan(Record):
    """What is simulated.

    Attributes:
        drift, severity: a name of `ferops.simulation.drifts.DRIFTS`, and 1 to 5.
        requests: for a prediction, in a day.
        day_s: seconds that a day of the monitor's policy lasts.
        monitor_every: hours of that day between two verdicts.
        feedback: share of the answers that somebody says the truth about.
        feedback_after: hours until then, on average.
        labels: drifted faces with feedback that the retraining waits for.
        poison: share of the feedback on drifted faces that is wrong.
        seed: of faces, feedback and delays.
    """

    drift: str = "darker"
    severity: int = 5
    requests: int = 2000
    day_s: float = 180.0
    monitor_every: float = 1.0
    feedback: float = 0.5
    feedback_after: float = 2.0
    labels: int = 1500
    poison: float = 0.0
    seed: int = 0

    @property
    def hour_s(self) -> float:
        """Seconds that an hour of the policy lasts."""
        return self.day_s / 24


class Event(Record):
    """Something that happened.

    Attributes:
        at: seconds from the begin of the simulation.
        act: of the loop.
        text: what, as a sentence without its full stop.
    """

    at: float
    act: str
    text: str

    def line(self) -> str:
        """For a terminal."""
        return f"{clock(self.at)}  {self.act:<10} {self.text}"


class Look(Record):
    """One verdict of the monitor.

    Attributes:
        at: seconds from the begin.
        verdict, model_version, rows: as the monitor gave them.
        labelled, accuracy: of the answers with feedback; none without.
    """

    at: float
    verdict: Verdict
    model_version: str
    rows: int
    labelled: int
    accuracy: float | None


class Span(Record):
    """Answers of one time, held against the truth.

    Attributes:
        start, end: seconds from the begin.
        answers: how many.
        accuracy, interval: with 95 % (Wilson).
        recall: by emotion that was drawn.
        model_version: that gave most of the answers.
    """

    start: float
    end: float
    answers: int
    accuracy: float
    interval: tuple[float, float]
    recall: Mapping[str, float]
    model_version: str

    @classmethod
    def of(cls, answers: Sequence[Answer], begin: float) -> "Span | None":
        """Count; none without an answer.

        Args:
            answers: those that failed do not count.
            begin: of the simulation, Unix time.
        """
        given = [answer for answer in answers if answer.problem is None]
        if not given:
            return None
        right = sum(answer.right for answer in given)
        versions = [str(answer.version) for answer in given]
        recall = {}
        for emotion in EMOTIONS:
            drawn = [answer.right for answer in given if answer.truth == emotion]
            if drawn:
                recall[emotion] = sum(drawn) / len(drawn)
        return cls(
            start=min(answer.at for answer in given) - begin,
            end=max(answer.at for answer in given) - begin,
            answers=len(given),
            accuracy=right / len(given),
            interval=wilson(right, len(given)),
            recall=recall,
            model_version=max(set(versions), key=versions.count),
        )


class Timeline(Record):
    """A simulation that came to its end; `simulation.json`. Times are seconds from the begin.

    Attributes:
        plan: what was simulated.
        drift: the change of the faces in words.
        outcome: how it ended.
        events, looks: in the order of time.
        curve: accuracy over time.
        before, during, after: healthy faces; drifted ones with the old champion; with the new one.
        requests, failed, problems: for predictions and with feedback; the first few failures.
        drift_at, noticed_at, alarm_at, learning_at, swap_at: when the faces changed, a verdict first said so,
            the policy asked for a training, the labels were collected, the new champion first answered.
        swap_s: from the end of promotion until then.
        windows_to_detection: verdicts from the drift to the alarm, that one included.
        dataset_before, dataset_after, collected: SHA-256 of the datasets, and of the labelled traffic.
        version_before, version_after: of the models.
        gate: what the rules said that compare with the champion, or failed.
        processor_s: of everything, the service and the first champion included.
    """

    plan: Plan
    drift: str
    outcome: Outcome
    events: tuple[Event, ...]
    looks: tuple[Look, ...]
    curve: tuple[Span, ...]
    before: Span
    during: Span
    after: Span | None
    requests: int
    failed: int
    problems: tuple[str, ...]
    drift_at: float
    noticed_at: float | None
    alarm_at: float
    learning_at: float
    swap_at: float | None
    swap_s: float | None
    windows_to_detection: int
    dataset_before: str
    dataset_after: str | None
    collected: str
    version_before: str
    version_after: str | None
    gate: tuple[str, ...]
    processor_s: float

    @property
    def exit_code(self) -> int:
        """0 when the loop closed; see the module."""
        return EXIT_CODES[self.outcome]

    @property
    def sentence(self) -> str:
        """How it ended."""
        return SENTENCES[self.outcome]

    def minutes(self, until: float) -> str:
        """Time from the drift, as it was and as the policy counts it."""
        seconds = until - self.drift_at
        return f"{seconds / 60:.1f} minutes ({seconds / self.plan.hour_s:.1f} hours of the policy)"

    def figures(self) -> Iterator[tuple[str, str]]:
        """Name and value of each, for a table."""
        yield "outcome", self.sentence
        yield "drift", self.drift
        windows = self.windows_to_detection
        yield "detection", f"{windows} windows, {self.minutes(self.alarm_at)}"
        if self.swap_at is not None and self.outcome == "recovered":
            yield "recovery", self.minutes(self.swap_at)
        yield "accuracy before", _accuracy(self.before)
        yield "accuracy during", _accuracy(self.during)
        if self.after:
            yield "accuracy after", _accuracy(self.after)
        yield "requests", f"{self.requests:,} sent, {self.failed} failed"
        after = f" → {self.dataset_after[:12]}" if self.dataset_after else ", as before"
        yield "dataset", f"{self.dataset_before[:12]}{after}; labelled traffic {self.collected[:12]}"
        yield "model", f"{self.version_before} → {self.version_after or 'no other'}"
        if self.swap_s is not None:
            yield "swap", f"{self.swap_s:.1f} s from promotion to its first answer, under load"
        yield "processor", f"{self.processor_s:.0f} s of processor time, all processes"


def clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> clock(75.4)
    ' 1:15'
    """
    return f"{int(seconds) // 60:>2}:{int(seconds) % 60:02}"


def curve(answers: Sequence[Answer], begin: float, count: int = POINT) -> tuple[Span, ...]:
    """Accuracy of each `count` answers in a row that one model gave to healthy, or to drifted faces.

    Fewer make a point from half as many on.
    """
    given = sorted((a for a in answers if a.problem is None), key=lambda answer: answer.at)
    points = []
    for _, alike in itertools.groupby(given, key=lambda answer: (answer.drifted, answer.version)):
        rest = list(alike)
        while len(rest) >= count / 2:
            span = Span.of(rest[:count], begin)
            points.append(span)
            rest = rest[count:]
    return tuple(point for point in points if point)


def _accuracy(span: Span) -> str:
    low, high = span.interval
    return f"{span.accuracy:.1%} of {span.answers:,} ({low:.1%} to {high:.1%})"
