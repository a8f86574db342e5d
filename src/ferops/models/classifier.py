"""What evaluation, gate and serving know of a model: `Classifier` and its `Card`.

PAtt-Lite, the ViT baseline and the ONNX package all meet this interface, and whatever comes next does.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ferops import files
from ferops.emotions import EMOTIONS

Images = NDArray[np.uint8]  # [N, side, side, 3]

#: Lists the images that steered a model, by their pixels' digests; beside its weights, where all are known.
TRAINED_ON_FILE = "trained_on.txt"


@dataclass(frozen=True)
class TrainingData:
    """What a model is known to have been trained on.

    Attributes:
        known: False when nobody said; the gate's policy then decides.
        datasets: names, as in `ferops.data.known_datasets`.
        pixel_hashes: path, relative to the card, of a text file with the pixel hash of every image that
            the model saw in training, one a line; none when only names are known.
        dataset_sha256: digest of the Parquet dataset, when it was trained here.
    """

    known: bool
    datasets: tuple[str, ...] = ()
    pixel_hashes: str | None = None
    dataset_sha256: str | None = None


@dataclass(frozen=True)
class Card:
    """Who a model is; travels beside it as `card.json`.

    Attributes:
        name: candidate name, such as `patt_lite`.
        kind: `patt_lite`, `vit` or `onnx`.
        input_side: images go in as uint8 `[N, input_side, input_side, 3]`, RGB, 0 to 255.
        parameters: count of weights.
        labels: the canonical emotions; outputs are in this order.
        own_labels: the model's own label list, before it was reordered by name.
        embedding_size: width of `Predictions.embedding`, or none.
        training_data: what it was trained on.
        synthetic: True when trained on the synthetic faces; shown wherever a result is.
        mlflow_run_id, git_commit, params_sha256: lineage, where it was trained here.
        details: anything else worth keeping (attention, recipe, device, throughput, versions).
    """

    name: str
    kind: str
    input_side: int
    parameters: int
    training_data: TrainingData
    labels: tuple[str, ...] = EMOTIONS
    own_labels: tuple[str, ...] = EMOTIONS
    embedding_size: int | None = None
    synthetic: bool = False
    mlflow_run_id: str | None = None
    git_commit: str | None = None
    params_sha256: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write `card.json`, atomically."""
        files.write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Card":
        """Read `card.json`.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is no card.
        """
        raw = files.read_json(path)
        try:
            raw["training_data"] = TrainingData(
                **{**raw["training_data"], "datasets": tuple(raw["training_data"]["datasets"])}
            )
            return cls(**{**raw, "labels": tuple(raw["labels"]), "own_labels": tuple(raw["own_labels"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no model's card: {error!r}") from error


@dataclass(frozen=True)
class Predictions:
    """A model's answer for N images.

    Attributes:
        probabilities: float32 `[N, 7]`, rows sum to 1, columns in canonical order.
        embedding: float32 `[N, card.embedding_size]`, or none.
    """

    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32] | None = None


class Classifier(Protocol):
    """A model that evaluation can measure and the service can serve."""

    @property
    def card(self) -> Card:
        """Who it is."""

    def predict(self, images: Images, batch_size: int = 32) -> Predictions:
        """Classify uint8 `[N, card.input_side, card.input_side, 3]` in batches of exactly that order.

        Batches are cut from `images` front to back, so that a caller decides which images share one:
        this is what the batch-invariance check varies.
        """
