"""The training of PAtt-Lite's public notebook, in Keras 3: the yardstick of `benchmarks/training.py`.

Line by line after github.com/JLREx/PAtt-Lite, patt-lite-notebook.ipynb: images at 224 pixels, Keras'
augmentation layers inside the model, Keras' own batch norms, Adam, batches of 8 from arrays in memory. What
differs: no XLA, which Keras 3 would choose by itself and the notebook's Keras 2 did not (docs/training.md has
what it costs on a CPU); no TensorBoard histograms; and by default the wiring in which each image attends to
itself alone, since with the published one an accuracy depends on the order of the images.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from ferops.models.patt_lite import build_backbone
from ferops.settings import Attention
from ferops.training.batches import LabelledImages, class_weights
from ferops.training.callbacks import Progress

NOTEBOOK_BATCH, NOTEBOOK_SIZE = 8, 224
#: Epochs of a training that is ended by what watches it.
ENDLESS = 10_000


def rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey `[N, H, W]` as three equal channels."""
    return np.repeat(grey[..., None], 3, axis=-1)


def train_original(
    data: LabelledImages,
    validation: LabelledImages,
    backbone: str,
    attention_wiring: Attention = "feature",
    image_size: int = NOTEBOOK_SIZE,
    endless: bool = False,
) -> None:
    """The notebook's two trainings; names and numbers are its own.

    Args:
        data: the train split.
        validation: what early stopping and the plateau schedule look at.
        backbone: as of `build_backbone`.
        attention_wiring: `batch` as published, or `feature`.
        image_size: side that the model resizes to, pixels.
        endless: train each stage until a callback ends it.
    """
    keras.utils.set_random_seed(0)
    base_model = build_backbone(image_size, backbone)
    base_model.trainable = False
    patch_extraction = keras.Sequential(
        [
            layers.SeparableConv2D(256, 4, strides=4, padding="same", activation="relu"),
            layers.SeparableConv2D(256, 2, strides=2, padding="valid", activation="relu"),
            layers.Conv2D(256, 1, activation="relu"),
        ]
    )
    pre_classification = keras.Sequential([layers.Dense(32, activation="relu"), layers.BatchNormalization()])
    attention = layers.Attention(use_scale=True)
    head = layers.Dense(7, activation="softmax")
    inputs = keras.Input((48, 48, 3))
    augmentation = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomContrast(0.3)])
    resized = augmentation(layers.Resizing(image_size, image_size)(inputs))
    features = base_model(keras.applications.mobilenet.preprocess_input(resized), training=False)
    patches = patch_extraction(features)

    def attended(x: Any) -> Any:
        if (
            attention_wiring == "batch"
        ):  # as Keras 2 took a (batch, 32) tensor: the images attend to each other
            return ops.squeeze(attention([ops.expand_dims(x, 0)] * 2), 0)
        return layers.Reshape((32,))(attention([layers.Reshape((32, 1))(x)] * 2))

    def compiled(outputs: Any, rate: float) -> keras.Model:
        model = keras.Model(inputs, outputs)
        adam = keras.optimizers.Adam(rate, global_clipnorm=3.0)
        model.compile(
            optimizer=adam,
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=False,
        )
        return model

    batches = -(-len(data) // NOTEBOOK_BATCH)
    arguments = {
        "x": rgb(data.grey),
        "y": data.labels,
        "batch_size": NOTEBOOK_BATCH,
        "validation_data": (rgb(validation.grey), validation.labels),
        "verbose": 0,
    }
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(patches))
    model = compiled(head(attended(pre_classification(x))), 1e-3)
    history = model.fit(
        **arguments,
        epochs=ENDLESS if endless else 100,
        class_weight=dict(enumerate(class_weights(data.labels).tolist())),
        callbacks=[
            keras.callbacks.EarlyStopping(
                "val_accuracy", patience=5, min_delta=0.003, restore_best_weights=True
            ),
            keras.callbacks.ReduceLROnPlateau("val_accuracy", patience=3, min_delta=0.003, min_lr=1e-6),
            Progress("frozen", 100, batches),
        ],
    )

    base_model.trainable = True
    for layer in base_model.layers:  # the notebook unfreezes the last 59 layers, which are all of them
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    x = layers.GlobalAveragePooling2D()(layers.SpatialDropout2D(0.2)(patches))
    x = attended(pre_classification(layers.Dropout(0.2)(x)))
    model = compiled(head(layers.Dropout(0.2)(x)), 1e-5)
    # The schedule counts epochs, since the notebook hands it to LearningRateScheduler.
    model.fit(
        **arguments,
        epochs=ENDLESS if endless else 500,
        initial_epoch=history.epoch[-min(5, len(history.epoch))],
        callbacks=[
            keras.callbacks.EarlyStopping(
                "accuracy", patience=20, min_delta=0.003, restore_best_weights=True
            ),
            keras.callbacks.LearningRateScheduler(lambda epoch: 1e-5 / (1 + epoch / 80)),
            Progress("fine_tune", 500, batches),
        ],
    )
