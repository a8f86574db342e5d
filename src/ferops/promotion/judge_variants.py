"""The gate of reduced precision: may a variant of a model answer in its place?

    >>> judge_variants(Path("packages/patt_lite"), dataset, settings, trial)  # doctest: +SKIP
    Variants(judged={'openvino-bf16': Variant(passed=True, ...)}, not_judged={})

The variant and fp32 answer the same test images. Limits are in `params.yaml` under `gate.variants`; a refused
variant is a normal outcome, and fp32 answers.
"""

import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ferops import files
from ferops.data import images as pixels
from ferops.data.store import Dataset
from ferops.evaluation import batch_invariance
from ferops.evaluation.calibration import expected_calibration_error
from ferops.evaluation.predictions import encoded_images, labels_of, predict_split, probabilities_of
from ferops.models.classifier import Images
from ferops.models.onnx import MODEL_FILE, OnnxClassifier, Recorded, RuntimeUnavailableError
from ferops.models.runtimes import REDUCED, REFERENCE, RUNTIMES
from ferops.promotion.rules import Rule
from ferops.promotion.variants import Variant, Variants
from ferops.settings import Settings

#: Images of one call whose time is compared: what one client asks for, and what the service puts together.
TIMED_BATCHES = (1, 8)

#: Turns of each side, the first uncounted, calls of one turn, and seconds after which fewer have to do.
TURNS, CALLS, TIME_BUDGET = 8, 10, 20.0


class Trial(Protocol):
    """Starts a real service on a package and asks it; `ferops.serving` has the one that is used."""

    def __call__(self, package: Path, images: list[bytes], runtime: str) -> NDArray[np.float32]:
        """Probabilities float32 `[N, 7]` for encoded images; raises when the service does not answer."""


def judge_variants(package: Path, dataset: Dataset, settings: Settings, trial: Trial) -> Variants:
    """Measure every reduced precision that this machine has, and judge it; writes nothing.

    Raises:
        BrokenPackageError: if the package itself is broken.
    """
    reference = RUNTIMES[REFERENCE](package)
    reference.self_check()
    expected = None
    judged: dict[str, Variant] = {}
    not_judged: dict[str, str] = {}
    for name in REDUCED:
        try:
            variant = RUNTIMES[name](package)
        except RuntimeUnavailableError as error:
            not_judged[name] = str(error)
            continue
        if expected is None:
            expected = _predict(reference, dataset, settings)
        judged[name] = _Judge(name, variant, reference, expected, dataset, settings, trial).verdict()
    return Variants(judged=judged, not_judged=not_judged)


def _predict(classifier: OnnxClassifier, dataset: Dataset, settings: Settings) -> pd.DataFrame:
    size, seed = settings.evaluation.batch_size, settings.train.seed
    return predict_split(classifier, dataset, "test", batch_size=size, seed=seed)


class _Judge:
    """What the rules on one variant share."""

    def __init__(
        self,
        name: str,
        variant: OnnxClassifier,
        reference: OnnxClassifier,
        expected: pd.DataFrame,
        dataset: Dataset,
        settings: Settings,
        trial: Trial,
    ) -> None:
        self.name, self.variant, self.reference = name, variant, reference
        self.dataset, self.settings, self.trial = dataset, settings, trial
        self.answered = _predict(variant, dataset, settings)
        own = ~expected["copy_in_train"].to_numpy()
        self.labels = labels_of(expected)[own]
        self.fp32, self.reduced = probabilities_of(expected)[own], probabilities_of(self.answered)[own]
        # On one thread each: threads that wait for each other measure what else the machine does.
        self.speedup = speedup(
            RUNTIMES[name](variant.folder, threads=1),
            RUNTIMES[REFERENCE](variant.folder, threads=1),
            self._faces(np.arange(min(max(TIMED_BATCHES), len(self.answered)))),
        )

    def verdict(self) -> Variant:
        rules = [*self._measured()]
        draft = self._variant(rules)
        rules.append(self._service(draft))
        return self._variant(rules)

    def _variant(self, rules: list[Rule]) -> Variant:
        recorded = Recorded.load(self.variant.folder).images
        bins = self.settings.evaluation.calibration_bins
        return Variant(
            passed=all(rule.passed for rule in rules),
            model_sha256=files.sha256(self.variant.folder / MODEL_FILE),
            dataset_sha256=self.dataset.summary.sha256,
            synthetic=self.dataset.summary.synthetic,
            rows=len(self.labels),
            accuracy=_accuracy(self.labels, self.reduced),
            fp32_accuracy=_accuracy(self.labels, self.fp32),
            calibration_error=expected_calibration_error(self.labels, self.reduced, bins),
            fp32_calibration_error=expected_calibration_error(self.labels, self.fp32, bins),
            agreement=float((self.reduced.argmax(axis=1) == self.fp32.argmax(axis=1)).mean()),
            max_difference=_gap(self.reduced, self.fp32),
            speedup={str(images): round(ratio, 3) for images, ratio in self.speedup.items()},
            runtime=self.variant.runtime,
            machine=_cpu(),
            decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
            rules=tuple(rule.model_dump() for rule in rules),
            answers=tuple(tuple(map(float, row)) for row in self.variant.predict(recorded).probabilities),
        )

    def _measured(self) -> Iterator[Rule]:
        found, limits = self._variant([]), self.settings.gate.variants
        loss = found.fp32_accuracy - found.accuracy
        yield _rule(
            "accuracy",
            loss <= limits.max_accuracy_loss,
            loss,
            limits.max_accuracy_loss,
            f"Accuracy is {found.accuracy:.4f} against {found.fp32_accuracy:.4f} of fp32 on {found.rows} "
            f"test images; it may lose at most {limits.max_accuracy_loss:g}.",
        )
        loss = found.calibration_error - found.fp32_calibration_error
        yield _rule(
            "calibration",
            loss <= limits.max_calibration_loss,
            loss,
            limits.max_calibration_loss,
            f"The expected calibration error is {found.calibration_error:.4f} against "
            f"{found.fp32_calibration_error:.4f} of fp32; it may grow by at most "
            f"{limits.max_calibration_loss:g}.",
        )
        yield _rule(
            "agreement",
            found.agreement >= limits.min_agreement,
            found.agreement,
            limits.min_agreement,
            f"{found.agreement:.2%} of the labels are those of fp32; at least "
            f"{limits.min_agreement:.2%} must be.",
        )
        yield self._invariance()
        full = found.speedup[str(max(TIMED_BATCHES))]
        speeds = ", ".join(f"{ratio:.2f} at {images}" for images, ratio in found.speedup.items())
        yield _rule(
            "speed",
            full >= limits.min_speedup,
            full,
            limits.min_speedup,
            f"Speed over {self.reference.runtime}, on one thread: {speeds} images a call; of many "
            f"images, at least {limits.min_speedup:g} is worth other answers.",
        )

    def _invariance(self) -> Rule:
        labels = labels_of(self.answered)
        chosen = batch_invariance.stratified(
            labels, self.settings.evaluation.invariance_images, self.settings.train.seed
        )
        size, seed = self.settings.evaluation.batch_size, self.settings.train.seed
        images = self._faces(chosen)
        found = batch_invariance.check(self.variant, images, labels[chosen], batch_size=size, seed=seed)
        limit = self.settings.gate.invariance_tolerance
        return _rule(
            "batch_invariance",
            found.max_difference <= limit,
            found.max_difference,
            limit,
            f"Alone or in company a probability of the same image changes by up to "
            f"{found.max_difference:.2g} ({found.images} images); {limit:g} is allowed.",
        )

    def _service(self, draft: Variant) -> Rule:
        """A real service that is told that the variant passed must give the variant's own answers."""
        limit = self.settings.gate.service_tolerance
        if not draft.passed:
            return Rule(
                rule="service",
                passed=None,
                number=None,
                limit=limit,
                sentence="Not run: another rule failed.",
            )
        labels, seed = labels_of(self.answered), self.settings.train.seed
        chosen = batch_invariance.stratified(labels, self.settings.gate.service_images, seed)
        try:
            with tempfile.TemporaryDirectory(prefix="ferops-variant-") as scratch:
                folder = Path(scratch) / self.variant.folder.name
                shutil.copytree(self.variant.folder, folder)
                Variants(judged={self.name: draft}).save(folder)
                answers = self.trial(folder, self._encoded(chosen), self.name)
            difference = _gap(np.asarray(answers, np.float32), probabilities_of(self.answered)[chosen])
        except Exception as error:  # a service can break in any way: that is what the trial is for
            sentence = f"It could not be measured: {type(error).__name__}: {error}"
            return _rule("service", False, None, limit, sentence)
        return _rule(
            "service",
            difference <= limit,
            difference,
            limit,
            f"A service started on this variant answered {len(chosen)} test images with probabilities that "
            f"differ from the measured ones by up to {difference:.2g}; {limit:g} is allowed.",
        )

    def _faces(self, rows: NDArray[np.int64]) -> Images:
        return pixels.faces(self._encoded(rows), self.variant.card.input_side)

    def _encoded(self, rows: NDArray[np.int64]) -> list[bytes]:
        contents: list[bytes] = encoded_images(self.dataset, "test").take(pa.array(rows)).to_pylist()
        return contents


def speedup(variant: OnnxClassifier, reference: OnnxClassifier, images: Images) -> Mapping[int, float]:
    """How many times as many images/s the variant computes, by images a call.

    Both compute in turn, and the best time of each counts: a busy machine makes calls slower, never faster.
    """
    ratios: dict[int, float] = {}
    for count in TIMED_BATCHES:
        batch = np.resize(images, (count, *images.shape[1:]))
        best: dict[OnnxClassifier, float] = {variant: np.inf, reference: np.inf}
        deadline = time.perf_counter() + TIME_BUDGET / len(TIMED_BATCHES)
        for turn in range(TURNS + 1):
            for side in best:
                for _ in range(CALLS):
                    started = time.perf_counter()
                    side.predict(batch, batch_size=count)
                    if turn:
                        best[side] = min(best[side], time.perf_counter() - started)
            if turn and time.perf_counter() > deadline:
                break
        ratios[count] = best[reference] / best[variant]
    return ratios


def _accuracy(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


def _gap(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(np.abs(first - second).max()) if first.shape == second.shape else 1.0


def _rule(name: str, passed: bool, number: float | None, limit: float, sentence: str) -> Rule:
    return Rule(rule=name, passed=bool(passed), number=number, limit=limit, sentence=sentence)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def judged_folders(decision: Mapping[str, Any], packages: Path) -> list[Path]:
    """Packages whose variants are worth a verdict: the gate's winner, else a candidate that is champion."""
    if decision.get("winner"):
        return [packages / decision["winner"]]
    verdicts = decision["candidates"].items()
    return [packages / name for name, v in verdicts if v["verdict"] == "already_champion"]
