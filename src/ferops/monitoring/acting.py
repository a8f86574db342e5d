"""What follows from a verdict: alerts by every channel, and a deployment started, as the policy says.

    >>> reaction = act(verdict, policy, Path("monitoring"), configured(Environment()))  # doctest: +SKIP
    >>> reaction.failed  # doctest: +SKIP
    {'webhook': 'the receiver answered HTTP 500'}

What was seen and what was told is kept in `<monitoring>/alerts.json`, under a lock: monitors that run at the
same time tell it once. An alert is written there before it is sent, and each channel's receipt right after,
so that a monitor killed in between repeats at most one delivery, with the same alert id.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from ferops import files
from ferops.monitoring.alerts import Alert, Kind, Watch, advance, hours
from ferops.monitoring.channels import Channel, attempt
from ferops.monitoring.policy import Policy, Response
from ferops.monitoring.verdict import Record, Verdict

STATE_FILE = "alerts.json"

#: Seconds to wait for another monitor, which may wait for channels that do not answer.
LOCK_SECONDS = 120.0

logger = logging.getLogger("ferops.alerts")


class Pending(Record):
    """An alert and the channels that took it."""

    alert: Alert
    delivered: tuple[str, ...] = ()


class State(Record):
    """All of `alerts.json`.

    Attributes:
        counted: time of the last verdict that counted as a window.
        outbox: alerts of findings that are not over, and those of the policy's last hours; a channel that
            is set up later gets them.
    """

    counted: str | None = None
    watches: Mapping[Kind, Watch] = {}
    outbox: tuple[Pending, ...] = ()


@dataclass
class Reaction:
    """What was done.

    Attributes:
        told: title of each alert that some channel took now, and by which.
        failed: why a channel did not take its alert; it will be offered again.
        started: id of the flow run that was started.
        not_started: why a deployment that was due could not be started; it will be tried again.
    """

    told: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    started: str | None = None
    not_started: str | None = None

    def complaints(self) -> list[str]:
        """A sentence for all that could not be done."""
        lines = [f"not told by {name}, offered again next time: {why}" for name, why in self.failed.items()]
        if self.not_started:
            lines.append(f"not started, tried again next time: {self.not_started}")
        return lines


def act(
    verdict: Verdict,
    policy: Policy,
    folder: Path,
    channels: Sequence[Channel],
    start: Callable[[str, str], str] | None = None,
) -> Reaction:
    """Do what the policy says of a verdict, and of those before it.

    Args:
        verdict: counts as a window unless the last one that did is too near.
        policy: its `actions`.
        folder: where the state is kept.
        channels: all are tried; one that fails stops none of the others.
        start: takes a deployment's name and an idempotency key, and gives the id of the run; none: nothing
            is started.

    Returns:
        What was done, and what could not be: that raises nothing, so that it stops nothing else.
    """
    reaction = Reaction()
    try:
        with _locked(folder):
            state = _advanced(_load(folder / STATE_FILE), verdict, policy)
            _save(state, folder)  # before anything is sent: what cannot be remembered would be told again
            for channel in channels:
                state = _deliver(state, channel, folder, reaction)
            if start:
                _start(state, verdict, policy, folder, start, reaction)
    except (OSError, Timeout) as error:
        reaction.failed["state"] = str(error)
    return reaction


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{STATE_FILE}.lock", timeout=LOCK_SECONDS):
        yield


def _load(path: Path) -> State:
    try:
        return State.model_validate(files.read_json(path))
    except FileNotFoundError:
        return State()
    except (ValueError, ValidationError) as error:
        # To tell a finding once more is better than to fall silent.
        aside = path.with_suffix(".broken.json")
        path.replace(aside)
        logger.warning("%s cannot be read, and is now %s; starting afresh: %s", path, aside.name, error)
        return State()


def _save(state: State, folder: Path) -> None:
    files.write_json(folder / STATE_FILE, state.model_dump(mode="json"))


def _advanced(state: State, verdict: Verdict, policy: Policy) -> State:
    watches, outbox = dict(state.watches), list(state.outbox)
    counted, actions = state.counted, policy.actions
    # Both ways: after a clock that was ahead, windows must not be passed over until its time has come.
    if counted is None or abs(hours(counted, verdict.time)) >= actions.windows_apart_hours:
        counted = verdict.time
        responses: dict[Kind, Response] = {
            "drift": actions.drift,
            "too_few": actions.too_few,
            "repeats": actions.repeats,
        }
        for kind, response in responses.items():
            watches[kind], alerts = advance(kind, watches.get(kind, Watch()), verdict, response)
            outbox += [Pending(alert=alert) for alert in alerts]
    at_hand = {watch.incident(kind) for kind, watch in watches.items() if watch.open}
    kept = [
        pending
        for pending in outbox
        if pending.alert.incident in at_hand or hours(pending.alert.time, verdict.time) <= actions.retry_hours
    ]
    return State(counted=counted, watches=watches, outbox=tuple(kept))


def _deliver(state: State, channel: Channel, folder: Path, reaction: Reaction) -> State:
    for position, pending in enumerate(state.outbox):
        if channel.name in pending.delivered:
            continue
        why = attempt(channel, pending.alert)
        if why is not None:
            reaction.failed[channel.name] = why
            break  # the next ones wait: told in order, or a finding would be over before it began
        taken = pending.model_copy(update={"delivered": (*pending.delivered, channel.name)})
        outbox = (*state.outbox[:position], taken, *state.outbox[position + 1 :])
        state = state.model_copy(update={"outbox": outbox})
        _save(state, folder)
        reaction.told.setdefault(pending.alert.title, []).append(channel.name)
    return state


def _start(
    state: State,
    verdict: Verdict,
    policy: Policy,
    folder: Path,
    start: Callable[[str, str], str],
    reaction: Reaction,
) -> None:
    kind = verdict.verdict
    if kind == "healthy":
        return
    response = policy.actions.drift if kind == "drift" else policy.actions.too_few
    watch = state.watches.get(kind, Watch())
    if not watch.wants_start(response, verdict.time):
        return
    try:
        reaction.started = start(response.start, f"{watch.incident(kind)}:{watch.starts}")
    except Exception as error:
        reaction.not_started = str(error) or type(error).__name__
        return
    started = watch.model_copy(update={"starts": watch.starts + 1, "started": verdict.time})
    _save(state.model_copy(update={"watches": {**state.watches, kind: started}}), folder)
