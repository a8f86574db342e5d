"""A reduced precision that every machine has: ONNX Runtime, its probabilities rounded."""

import numpy as np

from ferops.models.onnx import OnnxClassifier


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
