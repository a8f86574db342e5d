"""Batches for `fit`: decoded once, shuffled and augmented in a background thread, the same for a seed."""

import math
import tempfile
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ferops.data import images as pixels
from ferops.data.store import Dataset, Split
from ferops.emotions import EMOTIONS, NUM_EMOTIONS
from ferops.settings import AugmentationSettings
from ferops.training.augmentation import augment, mix

#: Decoded grey images above this many bytes go to a memory-mapped scratch file.
IN_MEMORY_BYTES = 2_000_000_000


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

    @classmethod
    def decode(cls, dataset: Dataset, split: Split) -> "LabelledImages":
        """Decode the used rows of a split, into memory or, where they do not fit, a scratch file."""
        labels = dataset.labels(split)
        shape = (len(labels), pixels.FACE_SIDE, pixels.FACE_SIDE)
        grey: NDArray[np.uint8]
        if math.prod(shape) <= IN_MEMORY_BYTES:
            grey = np.empty(shape, np.uint8)
        else:
            scratch = tempfile.TemporaryFile(suffix=".ferops-pixels")  # noqa: SIM115 - the map owns it
            grey = np.memmap(scratch, np.uint8, "w+", shape=shape)
        row = 0
        for batch in dataset.batches(split, ["image"]):
            faces = pixels.faces(batch.column("image").to_pylist())
            grey[row : row + len(faces)] = faces[..., 0]
            row += len(faces)
        return cls(grey, labels)


def class_weights(labels: NDArray[np.int64], power: float = 1.0) -> NDArray[np.float32]:
    """Weight of each emotion, `rows / (classes * rows of the class)` to a power.

    Power 1 is scikit-learn's "balanced". The mean weight of a row is 1, whatever the power.
    """
    if power == 0:
        return np.ones(NUM_EMOTIONS, np.float32)
    counts = np.bincount(labels, minlength=NUM_EMOTIONS)
    if (counts == 0).any():
        absent = ", ".join(EMOTIONS[i] for i in np.flatnonzero(counts == 0))
        raise ValueError(f"class weights need every emotion in train; there is none of: {absent}")
    weights = (len(labels) / (NUM_EMOTIONS * counts)) ** power
    return (weights * len(labels) / (weights @ counts)).astype(np.float32)


class TrainingBatches(keras.utils.PyDataset):
    """Shuffled, augmented `(images, targets, weights)` batches of one epoch after another.

    Every number drawn depends on seed, epoch and batch alone, so that a run can be repeated, and an epoch
    can be resumed by setting `epoch`. Images are uint8 `[B, 48, 48, 3]`, targets float32 `[B, 7]`.
    """

    def __init__(
        self,
        data: LabelledImages,
        batch_size: int,
        augmentation: AugmentationSettings,
        label_smoothing: float,
        weights: NDArray[np.float32],
        seed: int,
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=16)
        self.data = data
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.weights = weights
        self.targets = np.eye(NUM_EMOTIONS, dtype=np.float32) * (1 - label_smoothing)
        self.targets += label_smoothing / NUM_EMOTIONS
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.data))
        rows = np.sort(order[index * self.batch_size : (index + 1) * self.batch_size])
        rng = np.random.default_rng([self.seed, self.epoch, index])
        labels = self.data.labels[rows]
        faces = augment(self.data.grey[rows], self.augmentation, rng)
        faces, targets = mix(faces, self.targets[labels], self.augmentation.mixup, rng)
        grey = np.rint(faces).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1), targets, self.weights[labels]

    def on_epoch_end(self) -> None:
        """Move to the next epoch's order and draws."""
        self.epoch += 1


class EvaluationBatches(keras.utils.PyDataset):
    """`(images, one-hot targets)` batches of unchanged images, in one fixed shuffled order.

    Datasets lie sorted by emotion. Were they read so, a model whose images attend to each other across a
    batch would be chosen by a score that the order of the files had given it.
    """

    def __init__(self, data: LabelledImages, batch_size: int) -> None:
        super().__init__(workers=1, use_multiprocessing=False)
        self.data = data
        self.batch_size = batch_size
        self.order = np.random.default_rng(0).permutation(len(data))

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        targets = np.eye(NUM_EMOTIONS, dtype=np.float32)[self.data.labels[rows]]
        return np.repeat(self.data.grey[rows][..., None], 3, axis=-1), targets
