"""A classifier's answers on a split, as one table: id, emotion, copy_in_train and `p_<emotion>`."""

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ferops.data import images as pixels
from ferops.data.progress import track
from ferops.data.store import Dataset, Split
from ferops.emotions import EMOTIONS
from ferops.models.classifier import Classifier

PROBABILITY_COLUMNS: tuple[str, ...] = tuple(f"p_{emotion}" for emotion in EMOTIONS)

#: Decoded images in memory at once; at 224 pixels a block is 39 MB.
BLOCK = 256


def predict_split(
    classifier: Classifier, dataset: Dataset, split: Split, *, batch_size: int, seed: int
) -> pd.DataFrame:
    """Predict every used row of a split; the table is in dataset order.

    Images are visited in a seeded random order: datasets often lie sorted by class, and a model that mixes
    the images of a batch would then read the answer from the neighbours. Encoded images are kept (small),
    decoded ones only a block at a time.

    Returns:
        Columns id, emotion, copy_in_train and float32 `p_<emotion>`.
    """
    frame = dataset.frame(split, ["id", "emotion", "copy_in_train"])
    encoded = encoded_images(dataset, split)
    order = np.random.default_rng(seed).permutation(len(frame))
    probabilities = np.empty((len(frame), len(EMOTIONS)), np.float32)
    # Whole batches per block: only the last batch of the split may be short.
    step = max(BLOCK // batch_size, 1) * batch_size
    blocks = [order[start : start + step] for start in range(0, len(order), step)]
    for rows in track(blocks, len(blocks), f"{classifier.card.name} on {split}, blocks of {step} images"):
        block = pixels.faces(encoded.take(pa.array(rows)).to_pylist(), classifier.card.input_side)
        probabilities[rows] = classifier.predict(block, batch_size=batch_size).probabilities
    return frame.assign(**dict(zip(PROBABILITY_COLUMNS, probabilities.T, strict=True)))


def encoded_images(dataset: Dataset, split: Split) -> pa.ChunkedArray:
    """The original bytes of a split's used images, in the order of `dataset.frame(split)`."""
    return pa.chunked_array(
        [batch.column("image") for batch in dataset.batches(split, ["image"])], type=pa.binary()
    )


def labels_of(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Emotion indices int64 `[N]` of a prediction table."""
    return frame["emotion"].map({e: i for i, e in enumerate(EMOTIONS)}).to_numpy(np.int64)


def probabilities_of(frame: pd.DataFrame) -> NDArray[np.float32]:
    """Probabilities float32 `[N, 7]` of a prediction table."""
    return frame[list(PROBABILITY_COLUMNS)].to_numpy(np.float32)
