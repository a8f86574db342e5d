"""The gate: which candidate, if any, becomes champion, and why.

    >>> decide(evaluations={"patt_lite": Path("evaluations/patt_lite")}, packages=Path("packages"),
    ...        champion=None, dataset=Dataset.open(Path("data/dataset")), settings=GateSettings(),
    ...        trial=serve_on_trial, report=Path("reports/gate.json"),
    ...        page=Path("reports/gate.html")).decision  # doctest: +SKIP
    'promote'

Every rule of `ferops.promotion.rules` is shown for every candidate with its number, limit and sentence. A
refused candidate is a normal outcome: the champion stays.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ferops import files, tracking
from ferops.data import images as pixels
from ferops.data.store import Dataset
from ferops.evaluation import batch_invariance
from ferops.evaluation.evaluate import EvaluationError, Result, load_predictions
from ferops.evaluation.paired import Comparison, compare
from ferops.evaluation.predictions import encoded_images, labels_of, predict_split, probabilities_of
from ferops.models.classifier import Classifier
from ferops.models.onnx import MODEL_FILE, OnnxClassifier
from ferops.promotion import gate_page, rules
from ferops.promotion.champion import Champion
from ferops.promotion.decision import CandidateVerdict, Decision, Outcome, Verdict
from ferops.promotion.package import EVALUATION_FILE
from ferops.promotion.rules import Rule
from ferops.settings import EvaluationSettings, GateSettings

#: Calls before and while the latency is measured; the second number is a median's.
WARM_UP_CALLS, TIMED_CALLS = 10, 100

#: Seconds after which a slow model's latency is taken from the calls made so far.
LATENCY_BUDGET = 10.0


class Trial(Protocol):
    """Starts a real service on a package and asks it; `ferops.serving` has the one that is used."""

    def __call__(self, package: Path, images: list[bytes]) -> NDArray[np.float32]:
        """Probabilities float32 `[N, 7]` for encoded images; raises when the service does not answer."""


def decide(
    evaluations: Mapping[str, Path],
    packages: Path,
    champion: Champion | None,
    dataset: Dataset,
    settings: GateSettings,
    trial: Trial,
    report: Path,
    page: Path,
    *,
    evaluation: EvaluationSettings | None = None,
    seed: int = 0,
    load: Callable[[Path], Classifier] = OnnxClassifier,
) -> Decision:
    """Judge the candidates, write `report` (JSON) and `page` (HTML), and log to the candidates' MLflow runs.

    Args:
        evaluations: folder of each candidate's evaluation.
        packages: one folder per packaged candidate, and `index.json`.
        champion: whom to beat; its package is measured anew on the current test rows.
        dataset: whose test rows decide.
        settings: the rules' limits.
        trial: starts a service on a package.
        report: where the JSON goes.
        page: where the readable page goes.
        evaluation: batch size, bootstrap and images of the measurements made here.
        seed: of the bootstrap and the drawn images.
        load: opens a package as a classifier.
    """
    measured_by = evaluation or EvaluationSettings()
    gate = _Gate(evaluations, packages, champion, dataset, settings, trial, measured_by, seed, load)
    decision = gate.decide()
    files.write_json(report, decision.model_dump(mode="json"))
    gate_page.write(page, decision, evaluations)
    _log(decision, report, page)
    return decision


@dataclass
class _Gate:
    """What the rules of one decision share: settings, the test rows and the champion's answers to them."""

    evaluations: Mapping[str, Path]
    packages: Path
    champion: Champion | None
    dataset: Dataset
    settings: GateSettings
    trial: Trial
    evaluation: EvaluationSettings
    seed: int
    load: Callable[[Path], Classifier]

    def decide(self) -> Decision:
        verdicts = {name: self._judge(name) for name in self.evaluations}
        passed = {name: v.metric or 0.0 for name, v in verdicts.items() if v.verdict == "passed"}
        winner = max(passed, key=lambda name: passed[name], default=None)
        candidate = winner or _challenger(verdicts)
        decision: Outcome = "promote" if winner else "keep" if self.champion else "no_champion"
        return Decision(
            decision=decision,
            winner=winner,
            candidate=candidate,
            package_sha256=verdicts[candidate].package_sha256 if candidate else None,
            reason=self._reason(verdicts, winner),
            champion=self._judged_against(),
            candidates=verdicts,
            metric=self.settings.metric,
            dataset_sha256=self.dataset.summary.sha256,
            synthetic=self.dataset.summary.synthetic,
            decided_against_version=self.champion.version if self.champion else None,
            decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _reason(self, verdicts: Mapping[str, CandidateVerdict], winner: str | None) -> str:
        if winner is not None:
            against = f", better than {self._called}" if self.champion else ""
            return (
                f"{winner} passed every rule{against} ({self.settings.metric} {verdicts[winner].metric:.4f})"
            )
        parts = []
        for name, verdict in verdicts.items():
            titles = ", ".join(rules.TITLES[rule.rule].lower() for rule in verdict.failed)
            parts.append(
                {
                    "not_evaluated": f"{name} was not evaluated",
                    "already_champion": f"{name} is the champion already",
                }.get(verdict.verdict, f"{name} failed: {titles}")
            )
        return "; ".join(parts)

    @property
    def _called(self) -> str:
        assert self.champion is not None
        return f"{self.champion.candidate} version {self.champion.version}"

    def _judged_against(self) -> dict[str, Any] | None:
        if self.champion is None:
            return None
        history = ("earlier", "withdrawn")  # of the pointer, and no part of the judgement
        return {key: value for key, value in asdict(self.champion).items() if key not in history}

    # One candidate

    def _judge(self, name: str) -> CandidateVerdict:
        result, problem = self._result(name)
        package = self.packages / name
        digest = files.sha256(package) if (package / MODEL_FILE).is_file() else None
        is_champion = self.champion is not None and digest == self.champion.package_sha256
        found = {"evaluated": rules.evaluated(problem)}
        if result is not None and problem is None:
            found |= {rule.rule: rule for rule in self._cheap(result, package)}
            obstacle = "another rule failed" if any(r.passed is False for r in found.values()) else None
            if is_champion:
                found["improvement"] = rules.already_champion(self._called, self.settings)
                obstacle = "it is the champion already"
            if obstacle is None:
                found |= self._expensive(package, load_predictions(self.evaluations[name]))
        else:
            obstacle = "there is no evaluation to judge"
        every = tuple(found.get(rule) or rules.not_run(rule, obstacle or "") for rule in rules.TITLES)
        usable = result if problem is None else None
        verdict: Verdict = "passed" if all(rule.passed is not False for rule in every) else "refused"
        if usable is None:
            verdict = "not_evaluated"
        elif is_champion:
            verdict = "already_champion"
        return CandidateVerdict(
            verdict=verdict,
            metric=_metric(usable, self.settings),
            package_sha256=digest,
            mlflow_run_id=usable.mlflow_run_id if usable else None,
            rules=every,
        )

    def _result(self, name: str) -> tuple[Result | None, str | None]:
        """The evaluation, and why it cannot be judged."""
        try:
            result = Result.load(self.evaluations[name])
        except EvaluationError as error:
            return None, str(error)
        if not result.evaluated:
            return result, f"It was not evaluated: {result.reason}"
        if result.dataset_sha256 != self.dataset.summary.sha256:
            return result, (
                f"It was evaluated on another dataset ({result.dataset_sha256[:8]}, "
                f"now {self.dataset.summary.sha256[:8]})."
            )
        return result, None

    def _cheap(self, result: Result, package: Path) -> Iterator[Rule]:
        metrics, invariance, settings = result.without_copies, result.batch_invariance, self.settings
        assert metrics is not None and invariance is not None
        champion_is_real = self.champion is not None and not self.champion.synthetic
        yield rules.real_faces(result.synthetic, champion_is_real)
        yield rules.training_data(result.contamination, settings)
        yield rules.contamination(result.contamination, settings)
        yield rules.minimum(getattr(metrics, settings.metric), metrics.rows, settings)
        yield rules.recall(metrics.recall, settings)
        yield rules.calibration(metrics.expected_calibration_error, settings)
        yield rules.batch_invariance(
            "batch_invariance", invariance.max_difference, invariance.images, settings
        )
        reason = self._not_packaged(result.candidate, package)
        yield rules.packaged(reason)
        if reason is None:
            size = sum(file.stat().st_size for file in package.glob(f"{MODEL_FILE}*"))
            yield rules.size(size / 1e6, settings)

    def _not_packaged(self, name: str, package: Path) -> str | None:
        if (package / MODEL_FILE).is_file():
            return None
        index = self.packages / "index.json"
        entry = files.read_json(index)["candidates"].get(name, {}) if index.is_file() else {}
        return f"It has no package: {entry.get('reason') or f'{package} holds no {MODEL_FILE}'}"

    def _expensive(self, package: Path, offline: pd.DataFrame) -> dict[str, Rule]:
        """Each rule alone: one that cannot be measured fails and does not stop the others."""
        measurements: Mapping[str, Callable[[], Rule]] = {
            "improvement": lambda: self._improvement(offline),
            "old_distribution": lambda: self._old_distribution(offline),
            "package_agreement": lambda: self._agreement(package, offline),
            "batch_invariance_package": lambda: self._invariance(package, offline),
            "latency": lambda: self._latency(package),
        }
        found = {name: _attempt(name, measure) for name, measure in measurements.items()}
        if all(rule.passed for rule in found.values()):
            found["service"] = _attempt("service", lambda: self._service(package, offline))
        else:
            found["service"] = rules.not_run("service", "another rule failed")
        return found

    def _improvement(self, offline: pd.DataFrame) -> Rule:
        if self.champion is None:
            return rules.no_champion(self.settings)
        try:
            theirs = self._champion_predictions
        except Exception as error:  # whatever is wrong with the old package, the gate must still decide
            return rules.champion_unreadable(self._called, str(error), self.settings)
        comparison = self._compare(offline, theirs)
        return rules.improvement(comparison, self._called, self.settings, self._champion_is_older)

    def _old_distribution(self, offline: pd.DataFrame) -> Rule:
        if self.champion is None:
            return rules.nothing_to_lose(self.settings)
        sources = self.dataset.frame("test", ["id", "source"]).set_index("id")["source"]
        if sources.nunique() < 2:
            return rules.no_other_source(self.settings)
        theirs = self._champion_predictions
        comparisons = {
            str(source): self._compare(rows, theirs[theirs["id"].isin(rows["id"])])
            for source, rows in offline.groupby(offline["id"].map(sources))
            if not rows["copy_in_train"].all()
        }
        return rules.old_distribution(comparisons, self._called, self.settings)

    def _compare(self, ours: pd.DataFrame, theirs: pd.DataFrame) -> Comparison:
        """On rows without copies in train."""
        return compare(
            ours[~ours["copy_in_train"]],
            theirs[~theirs["copy_in_train"]],
            self.settings.metric,
            samples=self.evaluation.bootstrap_samples,
            level=self.evaluation.confidence_level,
            seed=self.seed,
        )

    def _agreement(self, package: Path, offline: pd.DataFrame) -> Rule:
        packaged = self._predict(package)
        first, second = probabilities_of(offline), probabilities_of(packaged)
        changed = int((first.argmax(axis=1) != second.argmax(axis=1)).sum())
        return rules.package_agreement(_gap(first, second), changed, len(offline), self.settings)

    def _invariance(self, package: Path, offline: pd.DataFrame) -> Rule:
        classifier = self.load(package)
        chosen = self._drawn(offline, self.evaluation.invariance_images)
        found = batch_invariance.check(
            classifier,
            pixels.faces(self._encoded(chosen), classifier.card.input_side),
            labels_of(offline)[chosen],
            batch_size=self.evaluation.batch_size,
            seed=self.seed,
        )
        return rules.batch_invariance(
            "batch_invariance_package", found.max_difference, found.images, self.settings
        )

    def _latency(self, package: Path) -> Rule:
        classifier = self.load(package)
        image = pixels.faces(self._encoded(np.array([0])), classifier.card.input_side)
        milliseconds = time_calls(lambda: classifier.predict(image, batch_size=1))
        median, p95 = np.percentile(milliseconds, [50, 95])
        runtime = getattr(classifier, "runtime", classifier.card.kind)
        return rules.latency(float(median), float(p95), len(milliseconds), runtime, self.settings)

    def _service(self, package: Path, offline: pd.DataFrame) -> Rule:
        chosen = self._drawn(offline, self.settings.service_images)
        answered = np.asarray(self.trial(package, self._encoded(chosen)), np.float32)
        expected = probabilities_of(offline)[chosen]
        if answered.shape != expected.shape:
            return rules.broken(
                "service",
                f"The service gave probabilities {list(answered.shape)} for {len(chosen)} images.",
            )
        return rules.service(_gap(answered, expected), len(chosen), self.settings)

    # What several rules need

    @cached_property
    def _champion_predictions(self) -> pd.DataFrame:
        """The champion on today's test rows, measured once for all candidates."""
        assert self.champion is not None
        return self._predict(self.champion.folder())

    @cached_property
    def _champion_is_older(self) -> bool:
        """Whether the champion was evaluated on another dataset than today's, as its package says."""
        assert self.champion is not None
        path = self.champion.folder() / EVALUATION_FILE
        return path.is_file() and bool(
            files.read_json(path).get("dataset_sha256") != self.dataset.summary.sha256
        )

    def _predict(self, package: Path) -> pd.DataFrame:
        return predict_split(
            self.load(package), self.dataset, "test", batch_size=self.evaluation.batch_size, seed=self.seed
        )

    def _drawn(self, offline: pd.DataFrame, count: int) -> NDArray[np.int64]:
        return batch_invariance.stratified(labels_of(offline), count, self.seed)

    def _encoded(self, rows: NDArray[np.int64]) -> list[bytes]:
        contents: list[bytes] = encoded_images(self.dataset, "test").take(pa.array(rows)).to_pylist()
        return contents


def time_calls(call: Callable[[], object]) -> list[float]:
    """Milliseconds of each of `TIMED_CALLS` calls after `WARM_UP_CALLS`; fewer once the budget is used."""
    deadline = time.perf_counter() + LATENCY_BUDGET
    milliseconds: list[float] = []
    for number in range(WARM_UP_CALLS + TIMED_CALLS):
        started = time.perf_counter()
        call()
        ended = time.perf_counter()
        if number >= WARM_UP_CALLS or ended > deadline:
            milliseconds.append((ended - started) * 1000)
        if ended > deadline:
            break
    return milliseconds


def _attempt(rule: str, measure: Callable[[], Rule]) -> Rule:
    try:
        return measure()
    except Exception as error:  # a package or service can break in any way: that is what the gate is for
        return rules.broken(rule, f"It could not be measured: {type(error).__name__}: {error}")


def _gap(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    gap = float(np.abs(first - second).max())
    return gap if np.isfinite(gap) else float("inf")


def _metric(result: Result | None, settings: GateSettings) -> float | None:
    if result is None or result.without_copies is None:
        return None
    return float(getattr(result.without_copies, settings.metric))


def _challenger(verdicts: Mapping[str, CandidateVerdict]) -> str | None:
    """The refused candidate with a package and the fewest failed rules; the better metric breaks a tie."""
    refused = {n: v for n, v in verdicts.items() if v.verdict == "refused" and v.package_sha256}
    return min(refused, key=lambda n: (len(refused[n].failed), -(refused[n].metric or 0)), default=None)


def _log(decision: Decision, report: Path, page: Path) -> None:
    """The verdict as tags, and both reports as artifacts, in each judged candidate's MLflow run."""
    for name, verdict in decision.candidates.items():
        if verdict.mlflow_run_id is None:
            continue
        import mlflow

        with tracking.run(name, run_id=verdict.mlflow_run_id):
            failed = [rule.rule for rule in verdict.failed]
            mlflow.set_tag("ferops.gate", verdict.verdict)
            mlflow.set_tag("ferops.gate.failed", ", ".join(failed) or "none")
            mlflow.log_artifact(str(report), "gate")
            mlflow.log_artifact(str(page), "gate")
