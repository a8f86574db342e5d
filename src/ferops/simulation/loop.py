"""The whole loop: drift comes, is seen, is learnt from labelled traffic, and the champion swapped under load.

    >>> timeline = simulate(Path.cwd(), None, Plan(), print)  # doctest: +SKIP
    >>> timeline.sentence  # doctest: +SKIP
    'the loop closed: drift was seen, learnt and left behind'

Nothing is played: service, log, monitor, DVC pipeline, gate, registries and the swap are those of production.
Only the faces and their drift are made up, and a day of the monitor's policy lasts minutes.
"""

import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from ferops import files
from ferops.data.collected import reject
from ferops.data.store import Dataset
from ferops.environment import Environment
from ferops.monitoring.acting import Reaction, act
from ferops.monitoring.alerts import Alert
from ferops.monitoring.channels import Channel
from ferops.monitoring.collect import Collection, collect
from ferops.monitoring.monitor import POLICY_FILE, monitor
from ferops.monitoring.policy import Policy, load_policy
from ferops.pipeline import StageFailedError, StageOutcome
from ferops.promotion.champion import POINTER_FILE, Champion
from ferops.promotion.decision import Decision
from ferops.simulation.drifts import DRIFTS
from ferops.simulation.timeline import Event, Look, Outcome, Plan, Span, Timeline, curve
from ferops.simulation.traffic import Answer, Traffic, synthetic_faces
from ferops.simulation.workplace import Workplace
from ferops.tracking import Interrupted

#: Days after which the monitor is taken to see nothing, or feedback to be too rare.
PATIENCE_DAYS = 3

#: Seconds for a running service to take the new champion over.
SWAP_S = 60.0

#: Rules of the gate that hold the candidate against the champion.
COMPARING = ("improvement", "old_distribution")


class ActFailedError(RuntimeError):
    """An act of the loop did not come to its end; the message names it, and the logs."""


def simulate(checkout: Path, folder: Path | None, plan: Plan, say: Callable[[str], object]) -> Timeline:
    """Run the loop in a copy of the checkout.

    Args:
        checkout: the repository, which must be the working directory; nothing is written there.
        folder: new or empty, for everything that is written; none: a temporary one, which is left only
            where an act fails, for its logs.
        plan: what to simulate.
        say: takes a line for each event, as it happens.

    Raises:
        WorkplaceError: if the copy cannot be made.
        ActFailedError: if an act fails.
    """
    root = folder or Path(tempfile.mkdtemp(prefix="ferops-simulation-"))
    keep = folder is not None
    try:
        place = Workplace.copy_of(checkout, root, plan.day_s)
        with place.entered():
            return _Loop(place, plan, say).run()
    except ActFailedError:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


class _Loop:
    """The acts in their order, and what they leave for each other."""

    def __init__(self, place: Workplace, plan: Plan, say: Callable[[str], object]) -> None:
        self._place, self._plan, self._say = place, plan, say
        self._begin = time.time()
        self._act_name = "prepare"
        self._events: list[Event] = []
        self._looks: list[Look] = []
        self._environment = Environment()
        self._told = "no alert"
        self._gate: tuple[str, ...] = ()
        self._swap_at: float | None = None
        self._swap_s: float | None = None

    def run(self) -> Timeline:
        place, plan = self._place, self._plan
        with self._act("prepare"):
            place.first_champion(self._on_stage)
            self._old = self._champion()
            self._dataset_before = self._dataset()
            self._note(f"champion {self._old.label}, dataset {self._dataset_before[:12]}")
        draw = synthetic_faces(place.settings.data.synthetic.noise, plan.drift, plan.severity, plan.seed)
        with (
            self._act("serve"),
            place.service() as url,
            Traffic(
                url,
                draw,
                per_second=plan.requests / plan.day_s,
                feedback=plan.feedback,
                delay_s=plan.feedback_after * plan.hour_s,
                poison=plan.poison,
                seed=plan.seed,
            ) as traffic,
        ):
            self._traffic = traffic
            self._note(f"{url}, {plan.requests / plan.day_s:.1f} requests/s; a day lasts {plan.day_s:g} s")
            with self._act("healthy"):
                self._healthy()
            with self._act("drift"):
                self._drift()
            with self._act("labels"):
                self._labels()
            with self._act("learn"):
                collection = self._collect()
                outcome = self._learn(collection)
            if outcome is None:
                with self._act("swap"):
                    self._swap()
                with self._act("after"):
                    outcome = self._after()
        return self._timeline(outcome, collection)

    # The acts

    def _healthy(self) -> None:
        """A day of faces as the champion knows them; the monitor has to be content at its end."""
        full = time.time() + self._plan.day_s
        for look, reaction in self._look_for(2 * self._plan.day_s):
            if reaction.started:
                raise ActFailedError(f"false alarm on healthy traffic: {self._told}; try another --seed")
            if look.verdict == "healthy" and time.time() >= full:
                self._note(f"healthy, {look.rows} predictions in the window")
                return
        raise ActFailedError(f"the monitor says {self._looks[-1].verdict} of healthy traffic")

    def _drift(self) -> None:
        """Other faces, until the policy asks for a training."""
        self._traffic.drifted = True
        self._drift_at = self._now()
        self._note(f"from now on the faces are {self._kind}")
        noticed: float | None = None
        for windows, (look, reaction) in enumerate(self._look_for(PATIENCE_DAYS * self._plan.day_s), 1):
            if look.verdict == "drift" and noticed is None:
                noticed = look.at
                self._note(f"the monitor says drift, window {windows} since it began")
            if reaction.started:
                self._windows, self._noticed_at, self._alarm_at = windows, noticed, look.at
                self._note(f"alarm after {windows} windows: {self._told}; {reaction.started} is due")
                return
        raise ActFailedError(
            f"no alarm in {PATIENCE_DAYS} days: this drift stays under the policy's thresholds, or it "
            "starts nothing; take a higher --severity, or another --drift"
        )

    def _labels(self) -> None:
        """Training on the same data would change nothing: wait for what people say of the drifted faces."""
        for _ in self._look_for(PATIENCE_DAYS * self._plan.day_s):
            if self._traffic.labelled >= self._plan.labels:
                self._note(f"{self._traffic.labelled} drifted faces have feedback")
                return
        raise ActFailedError(
            f"{self._traffic.labelled} drifted faces have feedback after {PATIENCE_DAYS} days, "
            f"not {self._plan.labels}: ask for fewer with --labels, or take a higher --feedback"
        )

    def _collect(self) -> Collection:
        self._learning_at = self._now()
        # Nobody but the simulation knows when the drift began; the monitor says since when it sees it.
        since = datetime.fromtimestamp(self._begin + (self._noticed_at or self._alarm_at), UTC)
        collection = collect(self._environment.log_dir, self._place.project, since=since)
        self._note(collection.sentence())
        return collection

    def _learn(self, collection: Collection) -> Outcome | None:
        """The pipeline on the dataset with the labels; an outcome where the champion stays."""
        self._place.learn_from_traffic()
        self._place.commit("Learn from labelled traffic")
        try:
            self._place.run_pipeline(self._on_stage)
        except StageFailedError:
            stopped = self._stopped_by_validation()
            if stopped is None:
                raise
            self._note(f"validation stopped the batch: {stopped}")
            reject(self._place.project, str(collection.batch))
            self._note(f"{collection.batch} is taken out (`ferops data reject`); {self._old.label} stays")
            return "feedback_stopped"
        decision = Decision.model_validate(files.read_json(Path("reports/gate.json")))
        self._note(f"dataset {self._dataset()[:12]}; gate: {decision.reason}")
        if decision.candidate:
            rules = decision.candidates[decision.candidate].rules
            chosen = [rule for rule in rules if rule.rule in COMPARING or rule.passed is False]
            self._gate = tuple(rule.sentence for rule in chosen)
        self._place.commit("What was learnt from labelled traffic")
        return None if decision.decision == "promote" else "gate_refused"

    def _swap(self) -> None:
        """The service follows the pointer that promotion wrote."""
        self._new, until = self._champion(), time.time() + SWAP_S
        while (first := self._first_answer(self._new.label)) is None:
            if time.time() > until:
                raise ActFailedError(f"the service did not take {self._new.label} over in {SWAP_S:.0f} s")
            time.sleep(0.05)
        self._swap_at = first.at - self._begin
        promoted = (self._environment.registry_dir / POINTER_FILE).stat().st_mtime - self._begin
        self._note(f"{self._new.label} answers; {len(self._traffic.problems)} requests failed so far")
        self._swap_s = max(0.0, self._swap_at - promoted)

    def _after(self) -> Outcome:
        """A day of drifted faces with the new champion."""
        full = time.time() + self._plan.day_s
        for look, _ in self._look_for(2 * self._plan.day_s):
            if time.time() >= full:
                self._note(f"the monitor says {look.verdict} of the new champion")
                break
        before, _, after = self._spans()
        assert before and after
        allowed = self._policy.quality.max_accuracy_drop if self._policy.quality else 0.0
        return "recovered" if after.accuracy >= before.accuracy - allowed else "not_recovered"

    # What the acts share

    @contextmanager
    def _act(self, name: str) -> Iterator[None]:
        """Name the act in whatever goes wrong in it."""
        before, self._act_name = self._act_name, name
        try:
            yield
        except ActFailedError:
            raise
        except Interrupted:
            raise Interrupted(f"stopped by SIGTERM in the act {self._act_name}") from None
        except Exception as error:
            raise ActFailedError(f"act {name}: {error}\nlogs: {self._place.logs}") from error
        self._act_name = before

    def _look_for(self, seconds: float) -> Iterator[tuple[Look, Reaction]]:
        """The monitor's verdicts, each hour that it looks, and what followed; ends after so many seconds."""
        until, every = time.time() + seconds, self._plan.monitor_every * self._plan.hour_s
        while time.time() < until:
            time.sleep(every - self._now() % every)
            yield self._look()

    def _look(self) -> tuple[Look, Reaction]:
        environment = self._environment
        folder = environment.monitoring_dir
        verdict = monitor(environment.log_dir, environment.registry_dir, environment.release_dir, folder)
        channel = Channel("timeline", self._hear)
        reaction = act(verdict, self._policy, folder, [channel], start=lambda deployment, key: deployment)
        if reaction.complaints():
            raise ActFailedError("; ".join(reaction.complaints()))
        quality = verdict.quality
        look = Look(
            at=datetime.fromisoformat(verdict.time).timestamp() - self._begin,
            verdict=verdict.verdict,
            model_version=verdict.window.model_version,
            rows=verdict.window.rows,
            labelled=quality.labelled if quality else 0,
            accuracy=quality.accuracy if quality else None,
        )
        self._looks.append(look)
        return look, reaction

    def _hear(self, alert: Alert) -> None:
        self._told = alert.title

    @cached_property
    def _policy(self) -> Policy:
        return load_policy(self._environment.monitoring_dir / POLICY_FILE)

    @property
    def _kind(self) -> str:
        return f"{self._plan.drift} ({DRIFTS[self._plan.drift].sentence(self._plan.severity)})"

    def _champion(self) -> Champion:
        return Champion.load(self._environment.registry_dir)

    def _dataset(self) -> str:
        """Version of the dataset that the pipeline works with."""
        return Dataset.open(Path("data/dataset")).summary.sha256

    def _first_answer(self, version: str) -> Answer | None:
        return next((answer for answer in self._traffic.answers() if answer.version == version), None)

    def _stopped_by_validation(self) -> str | None:
        """What validation found in the present dataset; none if it was not validation that failed."""
        report = files.read_json(Path("reports/validation.json"))
        if report["success"] or report["dataset_sha256"] != self._dataset():
            return None
        return ", ".join(report["blocking_failures"])

    def _now(self) -> float:
        return time.time() - self._begin

    def _note(self, text: str) -> None:
        event = Event(at=self._now(), act=self._act_name, text=text)
        self._events.append(event)
        self._say(event.line())

    def _on_stage(self, outcome: StageOutcome) -> None:
        self._note(f"stage {outcome.stage} {outcome.outcome.replace('_', ' ')}, {outcome.seconds:.0f} s")

    def _spans(self) -> tuple[Span | None, Span | None, Span | None]:
        """Answers before the drift, during it, and of the new champion."""
        answers = self._traffic.answers()
        healthy = [answer for answer in answers if not answer.drifted]
        drifted = [answer for answer in answers if answer.drifted]
        old = [answer for answer in drifted if answer.version == self._old.label]
        new = [answer for answer in drifted if answer.version != self._old.label]
        before, during, after = (Span.of(each, self._begin) for each in (healthy, old, new))
        return before, during, after

    def _timeline(self, outcome: Outcome, collection: Collection) -> Timeline:
        answers = self._traffic.answers()
        before, during, after = self._spans()
        assert before and during
        swapped = self._swap_at is not None
        dataset = self._dataset() if outcome != "feedback_stopped" else None
        return Timeline(
            plan=self._plan,
            drift=f"faces {self._kind}",
            outcome=outcome,
            events=tuple(self._events),
            looks=tuple(self._looks),
            curve=curve(answers, self._begin),
            before=before,
            during=during,
            after=after,
            requests=self._traffic.sent,
            failed=len(self._traffic.problems),
            problems=tuple(self._traffic.problems[:5]),
            drift_at=self._drift_at,
            noticed_at=self._noticed_at,
            alarm_at=self._alarm_at,
            learning_at=self._learning_at,
            swap_at=self._swap_at,
            swap_s=self._swap_s,
            windows_to_detection=self._windows,
            dataset_before=self._dataset_before,
            dataset_after=dataset,
            collected=str(collection.sha256),
            version_before=self._old.label,
            version_after=self._new.label if swapped else None,
            gate=self._gate,
            processor_s=processor_seconds(),
        )


def processor_seconds() -> float:
    """Of this process and of those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
