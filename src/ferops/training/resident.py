"""Images that stay on the device: a step receives row numbers, and changes the pixels where they are.

    >>> model = ImagesOnDevice(patt_lite, train, validation, recipe.augmentation)  # doctest: +SKIP
    >>> model.fit(TrainingBatches(train, ..., resident=True))  # doctest: +SKIP

For accelerators: pixels cross to the device once, and a step brings kilobytes. On a CPU numpy prepares
the next batch while the last step runs (docs/training.md has the timings).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from ferops.settings import AugmentationSettings
from ferops.training import augmentation
from ferops.training.batches import LabelledImages


class ImagesOnDevice(keras.Model):
    """A model for training alone, around the one that is trained and kept.

    It takes `{"rows": int32 [N], "draws": float32 [N, COLUMNS]}`; without `training`, rows suffice and images
    are unchanged. The pixels are one of its variables, so that every device has them once.

    Args:
        network: takes uint8 `[N, 48, 48, 3]`; its weights are the only ones that train.
        train: rows 0 to `len(train)`.
        validation: the rows after them.
        changes: the augmentation that the draws are for.
    """

    def __init__(
        self,
        network: keras.Model,
        train: LabelledImages,
        validation: LabelledImages,
        changes: AugmentationSettings,
    ) -> None:
        # Draws are positions: they must not be cast to bfloat16.
        super().__init__(name="images_on_device", dtype="float32")
        self.network = network
        self.changes = changes
        self.grey = keras.Variable(
            np.concatenate([train.grey, validation.grey]), dtype="uint8", trainable=False, name="grey"
        )

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Probabilities float32 `[N, 7]`."""
        grey = ops.cast(ops.take(self.grey, inputs["rows"], axis=0), "float32")
        if training:
            grey = augmentation.apply(grey, inputs["draws"], self.changes, ops)
        return self.network(augmentation.to_pixels(grey, ops), training=training)
