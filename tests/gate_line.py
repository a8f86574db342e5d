"""The pipeline up to the gate, with fake models; evaluations are shared between tests."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fake_classifiers import FakeClassifier
from ferops import files
from ferops.data import images as pixels
from ferops.data.store import Dataset
from ferops.evaluation.evaluate import evaluate
from ferops.models.classifier import TrainingData
from ferops.promotion.champion import Champion
from ferops.promotion.decision import Decision
from ferops.promotion.gate import decide
from ferops.promotion.rules import Rule
from ferops.settings import EvaluationSettings, GateSettings

EVALUATION = EvaluationSettings(bootstrap_samples=300, invariance_images=70)

#: Evaluations made so far, by what was evaluated: several tests judge the same candidate.
EVALUATED: dict[str, Path] = {}


@dataclass
class GateLine:
    """The pipeline up to the gate, with fake models: evaluate and package candidates, then ask the gate."""

    dataset: Dataset
    root: Path
    evaluations: dict[str, Path] = field(default_factory=dict)
    models: dict[Path, FakeClassifier] = field(default_factory=dict)
    trials: list[Path] = field(default_factory=list)

    def candidate(
        self, name: str, packaged: FakeClassifier | None = None, seen: list[str] | None = None, **fake: Any
    ) -> None:
        training = TrainingData(known=True, pixel_hashes="trained_on.txt")
        classifier = FakeClassifier(name, **{"training_data": training, **fake})
        model = self.root / "models" / name
        files.write_text(model / "trained_on.txt", "\n".join(seen or ["0" * 32]))
        self.evaluations[name] = self.root / "evaluations" / name
        key = f"{self.dataset.folder} {name} {fake} {seen}"
        if key not in EVALUATED:
            EVALUATED[key] = self.evaluations[name]
            metrics = self.root / f"{name}.json"
            evaluate(classifier, self.dataset, EVALUATION, 0, EVALUATED[key], metrics, model_folder=model)
        else:
            shutil.copytree(EVALUATED[key], self.evaluations[name])
        self.store(self.root / "packages" / name, packaged or classifier)

    def store(self, folder: Path, classifier: FakeClassifier) -> Path:
        files.write_text(folder / "model.onnx", f"{classifier.card.name} {classifier.skill} {folder}")
        self.models[folder] = classifier
        return folder

    def champion(self, **fake: Any) -> Champion:
        package = self.store(self.root / "store" / "champion", FakeClassifier("champion", **fake))

        class Stored(Champion):
            def folder(self) -> Path:
                return package

        return Stored(
            "fer-classifier",
            "3",
            "fer-classifier:v3-aa",
            files.sha256(package),
            "run",
            "patt_lite",
            "2026-01-01T00:00:00+00:00",
            True,
        )

    def trial(self, package: Path, images: list[bytes]) -> NDArray[np.float32]:
        self.trials.append(package)
        return self.models[package].predict(pixels.faces(images)).probabilities

    def gate(
        self,
        champion: Champion | None = None,
        trial: Callable[[Path, list[bytes]], NDArray[np.float32]] | None = None,
        **settings: Any,
    ) -> Decision:
        return decide(
            self.evaluations,
            self.root / "packages",
            champion,
            self.dataset,
            GateSettings(**settings),
            trial or self.trial,
            self.root / "gate.json",
            self.root / "gate.html",
            evaluation=EVALUATION,
            load=lambda folder: self.models[folder],
        )


def rule(decision: Decision, candidate: str, name: str) -> Rule:
    return next(r for r in decision.candidates[candidate].rules if r.rule == name)


def failed(decision: Decision, candidate: str) -> list[str]:
    return [r.rule for r in decision.candidates[candidate].failed]
