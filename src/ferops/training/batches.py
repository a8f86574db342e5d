"""Batches for `fit`: decoded once, shuffled and augmented, the same for a seed."""

import functools
import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ferops.emotions import EMOTIONS, NUM_EMOTIONS
from ferops.settings import AugmentationSettings
from ferops.training.augmentation import apply, draw, mix_targets, to_pixels


class TooFewImagesError(ValueError):
    """A split has no image, or train none of an emotion; the message says which."""


class LabelledImages:
    """A split decoded once: grey pixels and labels.

    Attributes:
        grey: uint8 `[N, 48, 48]`; all channels of a face are equal, so one is kept.
        labels: int64 `[N]`.
    """

    def __init__(self, grey: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.grey = grey
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)


def class_weights(labels: NDArray[np.int64], power: float = 1.0) -> NDArray[np.float32]:
    """Weight of each emotion, `rows / (classes * rows of the class)` to a power.

    Power 1 is scikit-learn's "balanced". The mean weight of a row is 1, whatever the power.

    Raises:
        TooFewImagesError: if an emotion has none.
    """
    if power == 0:
        return np.ones(NUM_EMOTIONS, np.float32)
    counts = np.bincount(labels, minlength=NUM_EMOTIONS)
    if (counts == 0).any():
        absent = ", ".join(EMOTIONS[i] for i in np.flatnonzero(counts == 0))
        raise TooFewImagesError(
            f"class weights need every emotion in train; there is none of: {absent} "
            "(with class_weights: 0 there need not be)"
        )
    weights = (len(labels) / (NUM_EMOTIONS * counts)) ** power
    return (weights * len(labels) / (weights @ counts)).astype(np.float32)


class TrainingBatches(keras.utils.PyDataset):
    """Shuffled, augmented `(images, targets, weights)` batches of one epoch after another.

    Every number drawn depends on seed, epoch and batch alone, so that a run can be repeated, and an epoch
    can be resumed by setting `epoch`. Images are uint8 `[B, 48, 48, 3]`, targets float32 `[B, 7]`. All
    batches of an epoch have one size, which is compiled once and can be shared by several devices: the last
    one is filled up with images from the epoch's beginning.

    Args:
        data: the train split.
        batch_size: images of one update of the weights.
        augmentation: what to draw.
        targets: of each image, float32 `[N, 7]`.
        weights: of each emotion, float32 `[7]`.
        seed: of order and draws.
        parts: so many batches in a row make one update (gradient accumulation).
        resident: whether the images are on the device already (`ImagesOnDevice`): then in the place of images
            there are their rows, int32 `[B]`, and the draws, float32 `[B, COLUMNS]`.
    """

    def __init__(
        self,
        data: LabelledImages,
        batch_size: int,
        augmentation: AugmentationSettings,
        targets: NDArray[np.float32],
        weights: NDArray[np.float32],
        seed: int,
        parts: int = 1,
        resident: bool = False,
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=16)
        self.data = data
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.weights = weights
        self.targets = targets
        self.seed = seed
        self.parts = parts
        self.resident = resident
        self.epoch = 0

    @property
    def updates(self) -> int:
        """Updates of the weights in an epoch."""
        return math.ceil(len(self.data) / self.batch_size)

    def __len__(self) -> int:
        return self.updates * self.parts

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        size = self.batch_size // self.parts
        order = _order(self.seed, self.epoch, len(self.data))
        rows = np.sort(order[np.arange(index * size, (index + 1) * size) % len(order)])
        rng = np.random.default_rng([self.seed, self.epoch, index])
        draws = draw(size, self.data.grey.shape[1:], self.augmentation, rng)
        targets = mix_targets(self.targets[rows], draws, self.augmentation)
        images: Any
        if self.resident:
            images = {"rows": rows.astype(np.int32), "draws": draws}
        else:
            grey = self.data.grey[rows].astype(np.float32)
            images = to_pixels(apply(grey, draws, self.augmentation))
        return images, targets, self.weights[self.data.labels[rows]]

    def on_epoch_end(self) -> None:
        """Move to the next epoch's order and draws."""
        self.epoch += 1


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


class EvaluationBatches(keras.utils.PyDataset):
    """`(images, one-hot targets, weights)` batches of unchanged images, in one fixed shuffled order.

    Datasets lie sorted by emotion. Were they read so, a model whose images attend to each other across a
    batch would be chosen by a score that the order of the files had given it.

    The last batch is filled up with images whose target is zero for every emotion. They add nothing to the
    loss, the others' equal weights make its mean exact, and `LabelledAccuracy` does not count them.

    Args:
        data: the split.
        batch_size: images a batch.
        first_row: row of the split's first image on the device, where its images are there already; none
            where they are not.
    """

    def __init__(self, data: LabelledImages, batch_size: int, first_row: int | None = None) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self.data = data
        self.batch_size = batch_size
        self.first_row = first_row
        self.order = np.random.default_rng(0).permutation(len(data))

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        places = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        rows = self.order[places % len(self.data)]
        targets = np.eye(NUM_EMOTIONS, dtype=np.float32)[self.data.labels[rows]]
        targets[places >= len(self.data)] = 0
        images: Any
        if self.first_row is None:
            images = np.repeat(self.data.grey[rows][..., None], 3, axis=-1)
        else:
            images = {"rows": (rows + self.first_row).astype(np.int32)}
        weight = len(self) * self.batch_size / len(self.data)
        return images, targets, np.full(self.batch_size, weight, np.float32)


class LabelledAccuracy(keras.metrics.CategoricalAccuracy):
    """Share of right answers among the rows that have a target, each counted once."""

    def __init__(self) -> None:
        super().__init__(name="accuracy")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch: targets and probabilities `[B, 7]`; weights are not looked at."""
        labelled = keras.ops.cast(keras.ops.max(y_true, axis=-1) > 0, "float32")
        super().update_state(y_true, y_pred, labelled)
