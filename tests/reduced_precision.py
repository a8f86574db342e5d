"""A reduced precision that every machine has: ONNX Runtime, its probabilities rounded; and verdicts on it."""

from pathlib import Path

import numpy as np

from ferops import files
from ferops.models.onnx import OnnxClassifier, Recorded
from ferops.promotion.variants import Variant, Variants


class Rounded(OnnxClassifier):
    reduced = True
    decimals = 3

    def _compute(self, images):
        probabilities, *others = super()._compute(images)
        # Whatever is lost goes to the largest, so that rows sum to 1.
        rounded = probabilities.round(self.decimals)
        rows = np.arange(len(rounded))
        rounded[rows, rounded.argmax(axis=1)] += 1 - rounded.sum(axis=1)
        return [rounded.astype(np.float32), *others]


class Coarse(Rounded):
    decimals = 0


class Confused(Rounded):
    """Says another emotion."""

    def _compute(self, images):
        probabilities, *others = super()._compute(images)
        return [np.roll(probabilities, 1, axis=1), *others]


class Sociable(Rounded):
    """Listens to the other images of the batch."""

    def _compute(self, images):
        probabilities, *others = super()._compute(images)
        return [(0.99 * probabilities + 0.01 * probabilities.mean(axis=0)).astype(np.float32), *others]


def write_verdict(folder: Path, package: Path, **changes) -> Variants:
    """As `ferops variants` leaves it in a folder, on the model of a package."""
    answers = Rounded(package).predict(Recorded.load(package).images).probabilities
    content = {
        "passed": True,
        "model_sha256": files.sha256(package / "model.onnx"),
        "dataset_sha256": "d" * 64,
        "synthetic": True,
        "rows": 100,
        "accuracy": 0.66,
        "fp32_accuracy": 0.65,
        "calibration_error": 0.05,
        "fp32_calibration_error": 0.06,
        "agreement": 0.98,
        "max_difference": 0.01,
        "speedup": {"1": 1.4},
        "runtime": "rounded",
        "machine": "a CPU",
        "decided_at": "2026-02-28T00:00:00+00:00",
        "rules": [{"rule": "agreement", "passed": True, "sentence": "98 % of the labels are those of fp32."}],
        "answers": answers.tolist(),
    }
    verdicts = Variants(judged={"openvino-bf16": Variant(**{**content, **changes})})
    verdicts.save(folder)
    return verdicts
