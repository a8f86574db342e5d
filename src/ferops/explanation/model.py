"""PAtt-Lite in the published wiring, trained on the spot, and any PAtt-Lite's weights in another wiring."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from ferops import files
from ferops.data.progress import track
from ferops.data.store import Dataset
from ferops.emotions import NUM_EMOTIONS
from ferops.evaluation.batch_invariance import stratified
from ferops.models.classifier import Card, TrainingData
from ferops.models.keras_classifier import KerasClassifier
from ferops.models.patt_lite import build_patt_lite, set_batch_norm_momentum
from ferops.settings import Attention, Recipe

#: The parts that hold weights; they are the same in every wiring.
PARTS = ("base_model", "patch_extraction", "pre_classification", "attention", "classification_head")

#: What gives each wiring away, by the names of its layers; the published one has neither.
MARKS: dict[str, Attention] = {"features": "feature", "patches": "patch"}

#: Larger images cost more and show nothing more here: FER2013's are 48 pixels.
LARGEST_IMAGE = 112

#: The cached features may take so much memory; more training images than that are left out.
FEATURE_BYTES = 2_000_000_000

#: From which a random backbone's batch norms take their statistics.
SETTLING_IMAGES = 256

#: Of the head's training; the learning rate is that of the published first stage.
STEPS, BATCH, LEARNING_RATE = 2000, 64, 1e-3


@dataclass(frozen=True)
class Demonstration:
    """What was trained on the spot.

    Attributes:
        backbone: `imagenet`, `none` (random weights), or the weights file's name and digest.
        image_size: side inside the model, pixels.
        images: how many training images the head saw, of how many there are.
        epochs: passes over them.
    """

    backbone: str
    image_size: int
    images: int
    available: int
    epochs: float


def train_published_wiring(
    dataset: Dataset, recipe: Recipe, weights: str | None, seed: int, steps: int = STEPS
) -> tuple[KerasClassifier, Demonstration]:
    """Train the head of PAtt-Lite's `batch` wiring on a frozen backbone, whose features are computed once.

    A weaker model than a full training gives, in minutes instead of hours: enough to show what its
    neighbours do to it. Nothing is augmented.

    Args:
        dataset: its train split is used.
        recipe: for the backbone, the image size (at most `LARGEST_IMAGE`) and the batch norm's momentum.
        weights: instead of `recipe.backbone`.
        seed: of the weights, the dropout and the order.
        steps: optimiser steps.

    Raises:
        BackboneUnavailableError: if the backbone's weights cannot be had.
    """
    keras.utils.set_random_seed(seed)
    backbone, size = weights or recipe.backbone, min(recipe.image_size, LARGEST_IMAGE)
    model = build_patt_lite(image_size=size, attention="batch", backbone=backbone)
    model.get_layer("base_model").trainable = False
    set_batch_norm_momentum(model, recipe.batch_norm_momentum)

    labels = dataset.labels("train")
    shape = model.get_layer("base_model").output.shape[1:]
    rows = stratified(labels, FEATURE_BYTES // (2 * math.prod(shape)), seed)
    images = dataset.images("train")[rows]
    if backbone == "none":
        _settle(model, images[:SETTLING_IMAGES])
    features = _features(model, images)
    _fit_head(model, features, labels[rows], steps, seed)
    card = Card(
        name="patt_lite, batch wiring",
        kind="patt_lite",
        input_side=int(model.input_shape[1]),
        parameters=model.count_params(),
        synthetic=dataset.summary.synthetic,
        training_data=TrainingData(
            known=True, datasets=(dataset.summary.source,), dataset_sha256=dataset.summary.sha256
        ),
        details={"attention": "batch"},
    )
    epochs = steps * min(BATCH, len(rows)) / len(rows)
    path = Path(backbone)
    named = f"{path.name}, SHA-256 {files.sha256(path)[:16]}" if path.is_file() else backbone
    return KerasClassifier(model, card), Demonstration(named, size, len(rows), len(labels), epochs)


def _settle(model: keras.Model, images: NDArray[np.uint8]) -> None:
    """Give a random backbone's batch norms the statistics of some images; without, its signal dies out."""
    base: keras.Model = model.get_layer("base_model")
    momentum = {layer: layer.momentum for layer in base.layers if hasattr(layer, "momentum")}
    base.trainable = True
    for layer in momentum:
        layer.momentum = 0.0
    base(keras.Model(model.input, model.get_layer("resize").output)(images), training=True)
    for layer, usual in momentum.items():
        layer.momentum = usual
    base.trainable = False


def _features(model: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.float16]:
    """The frozen backbone's output float16 `[N, h, w, 512]` for uint8 images `[N, 48, 48, 3]`."""
    base: keras.Model = model.get_layer("base_model")
    resized = keras.Model(model.input, model.get_layer("resize").output)
    features = np.empty((len(images), *base.output.shape[1:]), np.float16)
    starts = range(0, len(images), BATCH)
    for start in track(
        starts, len(starts), f"backbone's features of the training images, batches of {BATCH}"
    ):
        block = resized.predict_on_batch(images[start : start + BATCH])
        features[start : start + BATCH] = base.predict_on_batch(block)
    return features


def _fit_head(
    model: keras.Model, features: NDArray[np.float16], labels: NDArray[np.int64], steps: int, seed: int
) -> None:
    """Train everything after the backbone, in place: Adam, cosine from `LEARNING_RATE` to 0."""
    taken = keras.Input(features.shape[1:])
    # All of the model after the patches, whatever its wiring.
    rest = keras.Model(model.get_layer("spatial_dropout").input, model.output)
    head = keras.Model(taken, rest(model.get_layer("patch_extraction")(taken)))
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    head.compile(keras.optimizers.Adam(schedule), "categorical_crossentropy", jit_compile=False)
    targets = np.eye(NUM_EMOTIONS, dtype=np.float32)[labels]
    generator = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    for _ in track(range(steps), steps, "training the head of the batch wiring, steps"):
        if len(order) < min(BATCH, len(labels)):
            order = generator.permutation(len(labels))
        rows, order = order[:BATCH], order[BATCH:]
        head.train_on_batch(features[rows].astype(np.float32), targets[rows])


def wiring(model: keras.Model) -> Attention | None:
    """How a PAtt-Lite's attention is wired; none where the model is no PAtt-Lite of this project."""
    names = {layer.name for layer in model.layers}
    if not names.issuperset(PARTS):
        return None
    return next((attention for mark, attention in MARKS.items() if mark in names), "batch")


def rewired(classifier: KerasClassifier, attention: Attention) -> KerasClassifier:
    """The same weights with another wiring: not one number differs, only what attends to what."""
    model = classifier.model
    other = build_patt_lite(
        input_shape=tuple(model.input_shape[1:]),
        image_size=int(model.get_layer("base_model").input_shape[1]),
        attention=attention,
    )
    for part in PARTS:
        other.get_layer(part).set_weights(model.get_layer(part).get_weights())
    card = replace(
        classifier.card, name=f"same weights, {attention} wiring", details={"attention": attention}
    )
    return KerasClassifier(other, card)
