"""When a finding is worth an alert, and when it is over: one finding is one alert, however often it is seen.

A finding is a kind of verdict about one version of the model, or images that are repeated whatever the
verdict, with the parts that it names: columns, the mix of answers, the embedding, the accuracy. Told is a
part that was not told before, once it has lasted as many windows as the policy asks for. Columns that come
and go at their thresholds are told once; the end is told when as many windows have passed without a finding.
What comes back after that stays silent for the policy's hours.

No clock, no disk and no network here: `ferops.monitoring.acting` keeps what was seen and sends what is told.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from ferops.evaluation.predictions import PROBABILITY_COLUMNS
from ferops.monitoring.policy import CATEGORICAL, Response
from ferops.monitoring.verdict import Record, Verdict

Kind = Literal["drift", "too_few", "repeats"]
Status = Literal["detected", "recovered", "test"]

HEADLINES: dict[Kind, str] = {
    "drift": "Drift",
    "too_few": "Too few predictions",
    "repeats": "Repeated images",
}


#: Parts that a title names, most important first; the text below it has all.
NAMED = 3


class Alert(Record):
    """What people and machines are told; its JSON form is `payload`.

    Attributes:
        id: of this alert; one that was sent twice, because the first answer got lost, has the same.
        incident: of the finding; its alerts, the last of which says that it is over, have it in common.
        parts: what the finding names, most moved first.
        new: those of them that were not told in this incident.
        reasons: sentences for a person.
        since: end of the first window with the finding, ISO UTC.
        windows: how many in a row had it.
        predictions: of the served model, in the last window.
        start: the deployment that the policy starts for it.
        report: where people read it, a page of the service or a file.
    """

    id: str
    incident: str
    kind: Kind
    status: Status
    time: str
    model: str
    model_version: str
    synthetic: bool
    parts: tuple[str, ...]
    new: tuple[str, ...]
    reasons: tuple[str, ...]
    since: str
    windows: int
    predictions: int
    start: str
    report: str

    @property
    def event(self) -> str:
        """Name of the Prefect event, such as `ferops.drift.detected`."""
        return f"ferops.{self.kind}.{self.status}"

    @property
    def title(self) -> str:
        """One line, as the subject of a mail."""
        headline, model = HEADLINES[self.kind], f"{self.model} {self.model_version}"
        if self.status == "recovered":
            return f"Over: {headline.lower()}, {model}"
        test = "Test alert: " if self.status == "test" else ""
        parts = ", ".join(self.parts[:NAMED])
        if len(self.parts) > NAMED:
            parts += f" and {len(self.parts) - NAMED} more"
        named = f" ({parts})" if self.kind == "drift" else ""
        return f"{test}{headline}{named}, {model}"

    @property
    def body(self) -> str:
        """What a person needs to know, below the title."""
        lines = list(self.reasons)
        if 0 < len(self.new) < len(self.parts):
            lines.append(f"new since the last alert: {', '.join(self.new)}")
        lines.append(f"since {self.since}; {self.predictions} predictions in the last window")
        if self.start != "none" and self.status != "recovered":
            lines.append(f"the policy starts {self.start}")
        if self.synthetic:
            lines.append("the model was trained on synthetic faces")
        return "\n".join([*lines, f"report: {self.report}"])

    def payload(self) -> dict[str, Any]:
        """The JSON that webhooks and events carry; `text` is for receivers that show just that."""
        return {"text": f"{self.title}\n{self.body}", "event": self.event, **self.model_dump(mode="json")}


class Watch(Record):
    """What was seen so far of one kind of finding.

    Attributes:
        since: end of the first window of the finding at hand.
        windows: how many in a row had a finding.
        lasting: and how many each part that the last one named.
        calm: how many in a row had none.
        open: parts that were told and are not over.
        told: when each version's part was told last; these survive the end, to be silent for a while.
        starts, started: how often a deployment was started for it, and when last.
    """

    model_version: str = ""
    since: str = ""
    windows: int = 0
    lasting: Mapping[str, int] = {}
    calm: int = 0
    open: tuple[str, ...] = ()
    told: Mapping[str, str] = {}
    starts: int = 0
    started: str | None = None

    def incident(self, kind: Kind) -> str:
        """What the alerts of one finding have in common."""
        return f"{kind}:{self.model_version}:{self.since}"

    def wants_start(self, response: Response, now: str) -> bool:
        """Whether the policy's deployment is to be started now."""
        rested = self.started is None or hours(self.started, now) >= response.silence_hours
        return response.start != "none" and self.windows >= response.windows and rested


def hours(then: str, now: str) -> float:
    """From one moment to the other, both ISO with a time zone."""
    return (datetime.fromisoformat(now) - datetime.fromisoformat(then)).total_seconds() / 3600


#: Columns that tell which emotions the model answers.
ANSWERS = frozenset({*PROBABILITY_COLUMNS, *CATEGORICAL})


def parts(verdict: Verdict) -> tuple[str, ...]:
    """What a verdict names, most important first."""
    if verdict.verdict == "too_few":
        return ("predictions",)
    named = ["accuracy"] if verdict.quality and verdict.quality.drifted else []
    named += [column.name for column in verdict.columns if column.drifted]
    named += ["embedding"] if verdict.embedding and verdict.embedding.drifted else []
    return tuple(named) or (verdict.verdict,)


def _has(kind: Kind, verdict: Verdict) -> bool:
    if kind == "repeats":  # one client is often the only one there is: said in the verdict, no finding
        return verdict.repeats is not None and "images" in verdict.repeats.noticed
    return verdict.verdict == kind


def _parts(kind: Kind, verdict: Verdict) -> tuple[str, ...]:
    """What an alert names. The mix of answers is one part, whichever of its columns moved."""
    if kind == "repeats":
        return ("images",)
    return tuple(dict.fromkeys("answers" if part in ANSWERS else part for part in parts(verdict)))


def _reasons(kind: Kind, verdict: Verdict) -> tuple[str, ...]:
    if kind == "repeats":
        return (verdict.repeats.sentences() if verdict.repeats else ()) or ("no image is repeated much",)
    return verdict.reasons + verdict.notes


def advance(
    kind: Kind, watch: Watch, verdict: Verdict, response: Response
) -> tuple[Watch, tuple[Alert, ...]]:
    """Take one more window into account.

    Returns:
        What is known after it, and what is to be told, in order.
    """
    alerts: tuple[Alert, ...] = ()
    version = verdict.window.model_version
    if watch.model_version != version:
        if watch.open:
            alerts = (
                _alert(kind, "recovered", watch, verdict, (f"{version} is served now, and judged afresh",)),
            )
        watch = Watch(model_version=version, told=watch.told)
    if _has(kind, verdict):
        watch, more = _seen(kind, watch, verdict, response)
    elif kind == "drift" and verdict.verdict == "too_few":
        more = ()  # neither drift nor health
    else:
        watch, more = _not_seen(kind, watch, verdict, response)
    return watch, alerts + more


def _seen(kind: Kind, watch: Watch, verdict: Verdict, response: Response) -> tuple[Watch, tuple[Alert, ...]]:
    named = _parts(kind, verdict)
    watch = watch.model_copy(
        update={
            "since": watch.since or verdict.time,
            "windows": watch.windows + 1,
            "lasting": {part: watch.lasting.get(part, 0) + 1 for part in named},
            "calm": 0,
        }
    )
    if not response.alert or watch.windows < response.windows:
        return watch, ()
    # Columns may take turns in a finding that lasts; what joins one that was told has to last by itself.
    lasting = [part for part in named if not watch.open or watch.lasting[part] >= response.windows]
    silent = _recent(watch, verdict, response)
    new = tuple(part for part in lasting if part not in watch.open and _key(watch, part) not in silent)
    if not new:
        return watch, ()
    alert = _alert(kind, "detected", watch, verdict, _reasons(kind, verdict), new)
    told = {**silent, **{_key(watch, part): verdict.time for part in named}}
    opened = (*watch.open, *(part for part in named if part not in watch.open))
    return watch.model_copy(update={"open": opened, "told": told}), (alert,)


def _not_seen(
    kind: Kind, watch: Watch, verdict: Verdict, response: Response
) -> tuple[Watch, tuple[Alert, ...]]:
    calm = watch.calm + 1
    if watch.open and calm < response.windows:
        return watch.model_copy(update={"windows": 0, "lasting": {}, "calm": calm}), ()
    over = Watch(
        model_version=watch.model_version,
        calm=calm,
        told={
            part: then
            for part, then in watch.told.items()
            if hours(then, verdict.time) < response.silence_hours
        },
        starts=watch.starts,
        started=watch.started,
    )
    if not watch.open:
        return over, ()
    return over, (_alert(kind, "recovered", watch, verdict, _reasons(kind, verdict)),)


def _recent(watch: Watch, verdict: Verdict, response: Response) -> dict[str, str]:
    silence = response.silence_hours
    return {key: then for key, then in watch.told.items() if hours(then, verdict.time) < silence}


def _key(watch: Watch, part: str) -> str:
    return f"{watch.model_version} {part}"


def _alert(
    kind: Kind,
    status: Status,
    watch: Watch,
    verdict: Verdict,
    reasons: tuple[str, ...],
    new: tuple[str, ...] = (),
) -> Alert:
    incident = watch.incident(kind)
    return Alert(
        id=f"{incident}:{status}:{verdict.time}",
        incident=incident,
        kind=kind,
        status=status,
        time=verdict.time,
        model=verdict.champion,
        model_version=watch.model_version,
        synthetic=verdict.synthetic,
        parts=watch.open if status == "recovered" else _parts(kind, verdict),
        new=new,
        reasons=reasons,
        since=watch.since,
        windows=watch.windows,
        predictions=verdict.window.rows,
        start="none" if kind == "repeats" else verdict.action,
        report=verdict.page,
    )
