"""PAtt-Lite in the published wiring, trained on the spot, and any PAtt-Lite's weights in another wiring."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import keras
import numpy as np
from numpy.typing import NDArray

from ferops import files
from ferops.data.progress import track
from ferops.data.store import Dataset
from ferops.emotions import NUM_EMOTIONS
from ferops.evaluation.batch_invariance import stratified
from ferops.models.classifier import Card, Images, TrainingData
from ferops.models.keras_classifier import KerasClassifier
from ferops.models.patt_lite import build_patt_lite, set_batch_norm_momentum
from ferops.settings import Attention, Recipe

#: The parts that hold weights; they are the same in every wiring.
PARTS = ("base_model", "patch_extraction", "pre_classification", "attention", "classification_head")

#: By which layers' names this project's own wirings are told apart; the published one has neither.
MARKS: dict[str, Attention] = {"features": "feature", "patches": "patch"}

#: Probabilities of two models that compute the same in another order of sums differ by less.
SAME_ANSWERS = 1e-4

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


def wiring(classifier: KerasClassifier, images: Images) -> Attention | None:
    """How a PAtt-Lite's attention is wired; none where the model is another network.

    The layers' names prove nothing: those who take the public notebook further keep them, around another
    backbone, other units or an attention of their own. So it is the wiring in which `build_patt_lite`, given
    the model's weights, answers as the model does; the names only decide where several do, as in a network
    that answers all images alike.

    Args:
        classifier: any.
        images: uint8 `[N, side, side, 3]`, at least two and as different as faces are; one batch.

    Raises:
        UnusableModelError: if the model answers NaN or infinity.
    """
    if not _has_the_parts(classifier.model):
        return None
    names = {layer.name for layer in classifier.model.layers}
    likely = next((attention for mark, attention in MARKS.items() if mark in names), "batch")
    answers = classifier.predict(images, len(images)).probabilities
    distance: dict[Attention, float] = {}
    for attention in sorted(get_args(Attention), key=lambda one: one != likely):
        copied = rewired(classifier, attention).predict(images, len(images)).probabilities
        distance[attention] = float(np.abs(copied - answers).max())
        if distance[attention] == 0:
            break  # no other is nearer, and each takes a second to build
    nearest = min(distance, key=lambda one: distance[one])  # the first, if several are as near
    return nearest if distance[nearest] <= SAME_ANSWERS else None


def rewired(classifier: KerasClassifier, attention: Attention) -> KerasClassifier:
    """The same weights with another wiring: not one number differs, only what attends to what.

    Args:
        classifier: a PAtt-Lite, see `wiring`.
        attention: the other wiring.

    Raises:
        ValueError: if it is none.
    """
    other = _built(classifier.model, attention)
    for part in PARTS:
        other.get_layer(part).set_weights(classifier.model.get_layer(part).get_weights())
    card = replace(
        classifier.card, name=f"same weights, {attention} wiring", details={"attention": attention}
    )
    return KerasClassifier(other, card)


def _has_the_parts(model: keras.Model) -> bool:
    """Whether the layers that PAtt-Lite's parts are called like hold weights of the same shapes."""
    parts = {layer.name: layer for layer in model.layers if layer.name in PARTS}
    if len(parts) < len(PARTS) or not getattr(parts["base_model"], "inputs", None):
        return False
    try:
        ours = _built(model, "feature")
    except ValueError:  # grey images, or sides that are free or leave no patch: no PAtt-Lite has them
        return False
    return all(
        [weight.shape for weight in parts[name].weights]
        == [weight.shape for weight in ours.get_layer(name).weights]
        for name in PARTS
    )


def _built(model: keras.Model, attention: Attention) -> keras.Model:
    """A new PAtt-Lite of the sizes of a model that has a `base_model`.

    Raises:
        ValueError: if no PAtt-Lite has these sizes.
    """
    taken, inside = tuple(model.inputs[0].shape[1:]), model.get_layer("base_model").inputs[0].shape[1]
    if taken[0] is None or inside is None:
        raise ValueError("the side of the images is free")
    return build_patt_lite(input_shape=taken, image_size=int(inside), attention=attention)
