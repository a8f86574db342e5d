"""A dataset whose images carry their own answer, and classifiers that read it well, badly or by cheating."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ferops.data.descriptors import DESCRIPTORS, pixel_hash
from ferops.data.store import Dataset, Summary, write_shards
from ferops.emotions import EMOTIONS
from ferops.models.classifier import Card, Images, Predictions, TrainingData

#: Pixel [0, 0] is the emotion times this; pixel [0, 1] is how hard the image is, 0 to 255.
STEP = 30


def planted_face(label: int, difficulty: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    face = generator.integers(0, 256, (48, 48)).astype(np.uint8)
    face[0, 0], face[0, 1] = label * STEP, difficulty
    return face


def planted_dataset(
    folder: Path,
    *,
    test: int = 210,
    train: int = 70,
    copies: int = 14,
    near_copies: int = 0,
    collected: int = 0,
    synthetic: bool = False,
    source: str = "planted",
    seed: int = 0,
) -> Dataset:
    """Classes take turns; `copies` of the test rows are marked as copies of images in the source's train, and
    the perceptual hashes of `near_copies` of them are one bit from a train image's. The last `collected` of
    them are labelled traffic."""
    generator = np.random.default_rng(seed)
    perceptual = [int(word) for word in generator.integers(2**63, size=max(train, test))]
    rows: list[dict[str, Any]] = []

    def _perceptual(split: str, number: int) -> int:
        if split == "test" and number < near_copies:
            return perceptual[number] ^ 1
        return perceptual[number] if split == "train" else int(generator.integers(2**63))

    for split, count in (("train", train), ("validation", 70), ("test", test)):
        for number in range(count):
            label = number % 7
            face = planted_face(label, int(generator.integers(0, 256)), generator)
            file = io.BytesIO()
            Image.fromarray(face).save(file, "PNG")
            rows.append(
                {
                    "id": f"planted/{split}/{number:05d}",
                    "source": "collected" if split == "test" and number >= test - collected else "planted",
                    "source_split": split,
                    "split": split,
                    "emotion": EMOTIONS[label],
                    "image": file.getvalue(),
                    "width": 48,
                    "height": 48,
                    "mode": "L",
                    "pixel_hash": pixel_hash(face),
                    "perceptual_hash": f"{_perceptual(split, number):016x}",
                    "blank": False,
                    **dict.fromkeys(DESCRIPTORS, 0.5),
                    "votes": None,
                    "copy_in_train": split == "test" and number < copies,
                    "excluded": None,
                }
            )
    folder.mkdir(parents=True)
    write_shards(folder, rows, rows_per_shard=100)
    Summary(source, synthetic, {}, {}, [], "0" * 64, f"{seed:064x}").save(folder)
    return Dataset.open(folder)


class FakeClassifier:
    """Right on images whose difficulty is under `skill`, with a fixed confidence.

    Args:
        skill: share of images it gets right, 0 to 1.
        confidence: probability given to its answer.
        leak: 0 is batch-safe; above, that share of an answer comes from the batch's mean answer.
        confused: emotions whose images it always gets wrong.
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        skill: float = 0.8,
        confidence: float = 0.8,
        leak: float = 0.0,
        confused: Sequence[str] = (),
        training_data: TrainingData | None = None,
        synthetic: bool = False,
        parameters: int = 1000,
    ) -> None:
        self._card = Card(
            name=name,
            kind="patt_lite",
            input_side=48,
            parameters=parameters,
            training_data=training_data or TrainingData(known=True),
            synthetic=synthetic,
        )
        self.skill, self.confidence, self.leak = skill, confidence, leak
        self.confused = [EMOTIONS.index(emotion) for emotion in confused]
        self.batches: list[int] = []

    @property
    def card(self) -> Card:
        return self._card

    def predict(self, images: Images, batch_size: int = 32) -> Predictions:
        parts = [
            self._batch(images[start : start + batch_size]) for start in range(0, len(images), batch_size)
        ]
        return Predictions(np.concatenate(parts))

    def _batch(self, images: Images) -> NDArray[np.float32]:
        self.batches.append(len(images))
        label = images[:, 0, 0, 0].astype(np.int64) // STEP % len(EMOTIONS)
        right = (images[:, 0, 1, 0] < 256 * self.skill) & ~np.isin(label, self.confused)
        answer = np.where(right, label, (label + 1 + images[:, 1, 1, 0] % 6) % 7)
        probabilities = np.full((len(images), 7), (1 - self.confidence) / 6, np.float32)
        probabilities[np.arange(len(images)), answer] = self.confidence
        if self.leak:
            # What the published wiring amounts to: every image takes part of its batch's answer.
            probabilities = (1 - self.leak) * probabilities + self.leak * probabilities.mean(axis=0)
        return probabilities.astype(np.float32)
