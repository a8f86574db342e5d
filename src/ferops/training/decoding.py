"""A split's pixels and labels, decoded once before training."""

import math
import tempfile

import numpy as np
from numpy.typing import NDArray

from ferops.data import images as pixels
from ferops.data.store import Dataset, Split
from ferops.training.batches import LabelledImages
from ferops.training.device import IN_MEMORY_BYTES


def decode(dataset: Dataset, split: Split) -> LabelledImages:
    """Decode the used rows of a split, into memory or, where they do not fit, a mapped scratch file."""
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
    return LabelledImages(grey, labels)
