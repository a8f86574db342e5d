"""A plain classifier of faces that asks what a label has to do with its pixels: no network, some seconds.

Gradient directions by cell (as in HOG, Dalal & Triggs 2005, but with smooth bins and triangular cells,
which are products of matrices), their principal components, and a multinomial logistic regression with
balanced classes. Contrast is normalised where it is measured, so that dark or flat images look like others.
Copies are learnt too that are turned and shifted, or blurred, noisy or partly covered, so that the
classifier is unsure of such images rather than wrong.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ferops.data.images import FACE_SIDE
from ferops.emotions import NUM_EMOTIONS

#: Gradient directions, the side of a cell in pixels, and how many principal components are kept.
DIRECTIONS, CELL, COMPONENTS = 8, 6, 200

#: Parts that are predicted by a classifier that did not learn them.
FOLDS = 3

#: The regression's penalty, as scikit-learn has it. On FER2013, 0.01 to 0.1 differ by a point of agreement.
INVERSE_PENALTY = 0.03

#: How far copies are turned (degrees) and shifted (pixels) either way, blurred (pixels), made noisy (grey
#: levels) and covered (a square's side, as a share of the image's).
TURN, SHIFT, BLURS, NOISE, COVER = 35.0, 7.0, (1.0, 1.8), 20.0, 0.55

#: Gradient, in grey levels a pixel, below which a neighbourhood counts as flat.
FLAT = 4.0

#: Images whose gradients are in memory at once.
BLOCK = 512


@dataclass(frozen=True)
class Probe:
    """The classifier, fitted once for each fold without that fold's images."""

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    models: tuple[Any, ...]

    @staticmethod
    def fit(grey: NDArray[np.uint8], labels: NDArray[np.int64], folds: NDArray[np.int64]) -> "Probe":
        """Learn from grey uint8 `[N, 48, 48]`, emotion indices `[N]` and the fold `[N]` of each image."""
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        found = features(grey)
        mean = found.mean(axis=0)
        centred = found - mean
        axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :COMPONENTS]
        axes = axes / (centred @ axes).std()
        copies = [features(moved(grey)) - mean, features(worsened(grey)) - mean]
        known = np.concatenate([centred, *copies]) @ axes
        labels, folds = np.tile(labels, 3), np.tile(folds, 3)
        with threadpool_limits(1):  # threads that wait for each other are far slower on a busy machine
            models = tuple(
                LogisticRegression(C=INVERSE_PENALTY, max_iter=500, class_weight="balanced").fit(
                    known[folds != fold], labels[folds != fold]
                )
                for fold in range(FOLDS)
            )
        return Probe(mean, axes, models)

    def probabilities(
        self, grey: NDArray[np.uint8], folds: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Of each emotion, `[N, 7]`, by the classifier that did not learn the image's fold.

        Without folds, for images that none of them learnt, the first one answers: more of them together
        would be better than what the measure of right labels comes from.
        """
        found = (features(grey) - self.mean) @ self.axes
        chosen = np.zeros(len(grey), np.int64) if folds is None else folds
        answers = np.empty((len(grey), NUM_EMOTIONS))
        for fold, model in enumerate(self.models):
            if (chosen == fold).any():
                answers[chosen == fold] = model.predict_proba(found[chosen == fold])
        return answers


def features(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Strength of each gradient direction in each cell, relative to its neighbourhood, `[N, 512]`."""
    cells = FACE_SIDE // CELL
    centres = (np.arange(cells) + 0.5) * CELL - 0.5
    pool = np.clip(1 - np.abs(np.arange(FACE_SIDE) - centres[:, None]) / CELL, 0, None).astype(np.float32)
    found = np.empty((len(grey), cells, cells, DIRECTIONS), np.float32)
    for start in range(0, len(grey), BLOCK):
        image = grey[start : start + BLOCK].astype(np.float32)
        across, down = np.zeros_like(image), np.zeros_like(image)
        across[:, :, 1:-1] = image[:, :, 2:] - image[:, :, :-2]
        down[:, 1:-1] = image[:, 2:] - image[:, :-2]
        for direction in range(DIRECTIONS):
            angle = 2 * np.pi * direction / DIRECTIONS
            along = np.maximum(np.cos(angle) * across + np.sin(angle) * down, 0)
            found[start : start + BLOCK, :, :, direction] = pool @ along @ pool.T
    energy = np.pad((found**2).sum(-1), ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = sum(energy[:, i : i + cells, j : j + cells] for i in range(3) for j in range(3))
    found /= np.sqrt(around + (FLAT * CELL) ** 2)[..., None]
    return np.sqrt(found).reshape(len(grey), -1)


def moved(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A turned and shifted copy of each image; what comes in from outside is black."""
    rng = np.random.default_rng(0)
    turns = rng.uniform(-TURN, TURN, len(grey))
    shifts = rng.uniform(-SHIFT, SHIFT, (len(grey), 2))
    return np.stack(
        [
            np.asarray(Image.fromarray(image).rotate(turn, Image.Resampling.BILINEAR, translate=tuple(shift)))
            for image, turn, shift in zip(grey, turns, shifts, strict=True)
        ]
    )


def worsened(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of each image that is blurred, noisy or partly covered, in turn."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    copies = grey.copy()
    for first, blur in enumerate(BLURS):
        rows = slice(first, None, 4)
        copies[rows] = gaussian_filter(grey[rows].astype(np.float32), (0, blur, blur)).round()
    noise = rng.normal(0, NOISE, grey[2::4].shape)
    copies[2::4] = np.clip(grey[2::4] + noise, 0, 255).round()
    for image in copies[3::4]:
        side = int(rng.uniform(0, COVER) * FACE_SIDE)
        top, left = rng.integers(0, FACE_SIDE - side + 1, 2)
        image[top : top + side, left : left + side] = rng.integers(0, 256)
    return copies
