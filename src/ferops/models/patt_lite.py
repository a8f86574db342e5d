"""PAtt-Lite (Ngwe et al. 2023): a MobileNetV1 cut short, patch extraction, and attention, in Keras 3.

    >>> model = build_patt_lite(attention="feature", backbone="none", image_size=112)  # doctest: +SKIP
    >>> model.count_params()  # doctest: +SKIP
    1102664

The public notebook applies its attention layer to a `(batch, 32)` tensor, so that the images of a batch
attend to each other: what a face is called depends on its neighbours. `attention` names the wiring; see
`build_patt_lite` for the two that do not do this.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from ferops.emotions import NUM_EMOTIONS
from ferops.errors import reason
from ferops.models.classifier import Card, Images, Predictions
from ferops.settings import Attention

#: Of the datasets' faces: height, width and equal channels.
INPUT_SHAPE = (48, 48, 3)

#: Width of the `pre_classification` output, which serves as the embedding.
EMBEDDING_SIZE = 32

#: The layer of MobileNetV1 where the backbone ends: 14x14x512 at 224 pixels.
BACKBONE_OUTPUT = "conv_dw_9_relu"

#: SHA-256 of the ImageNet weights of Keras' MobileNetV1 (alpha 1.0, 224) up to there: the float32 of
#: `get_weights`, one array after the other.
IMAGENET_SHA256 = "1cce87cf5a23bc186b7e1ffcc45476085d4ff9ac6e6ff4f58680a2296ec5b817"

#: Side, pixels, below which no patch is left.
SMALLEST_IMAGE = 80

#: What to do about missing weights.
REMEDY = (
    "give `backbone` the path of MobileNetV1 weights (alpha 1.0, 224, without top): Keras' file "
    f"mobilenet_1_0_224_tf_no_top.h5, or weights of the model cut at {BACKBONE_OUTPUT}; "
    "or set it to `none` to train from scratch"
)


class BackboneUnavailableError(RuntimeError):
    """The backbone's weights cannot be had; the message says which file to give instead."""


def build_patt_lite(
    num_classes: int = NUM_EMOTIONS,
    input_shape: tuple[int, int, int] = INPUT_SHAPE,
    image_size: int = 224,
    attention: Attention = "feature",
    backbone: str = "none",
    dropout: float = 0.1,
    spatial_dropout: float = 0.0,
) -> keras.Model:
    """Build PAtt-Lite, from uint8 images to probabilities; resizing and scaling are inside.

    The parameters do not depend on `image_size` or `attention`: base_model 821,952, patch_extraction
    272,128, pre_classification 8,352, attention 1, classification_head 231; 1,102,664 in all.

    Args:
        num_classes: width of the output.
        input_shape: height, width and channels of the uint8 input, values 0 to 255.
        image_size: side to which the model resizes, pixels.
        attention: which things attend to each other.
            `feature`: the 32 features of one image. `patch`: the patches of one image, before pooling
            (from 208 pixels; below there is one patch, which attends to itself alone). `batch`: the
            images of one batch, as published; kept to explain the published figures, refused by the gate.
        backbone: `imagenet`, `none` (random), or the path of a weights file.
        dropout: rate before `pre_classification` and before the head.
        spatial_dropout: rate of whole feature maps after the patches.

    Returns:
        A functional model `[N, *input_shape]` uint8 to `[N, num_classes]` float32.

    Raises:
        BackboneUnavailableError: if the weights cannot be loaded.
    """
    base_model = build_backbone(image_size, backbone)
    patch_extraction = keras.Sequential(
        [
            layers.SeparableConv2D(256, 4, strides=4, padding="same", activation="relu"),
            layers.SeparableConv2D(256, 2, strides=2, padding="valid", activation="relu"),
            layers.Conv2D(256, 1, activation="relu"),
        ],
        name="patch_extraction",
    )
    pre_classification = keras.Sequential(
        [layers.Dense(EMBEDDING_SIZE, activation="relu"), layers.BatchNormalization()],
        name="pre_classification",
    )
    attend = layers.Attention(use_scale=True, name="attention")
    head = layers.Dense(num_classes, activation="softmax", dtype="float32", name="classification_head")

    inputs = keras.Input(input_shape, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(inputs)  # MobileNet's own -1 to 1
    if input_shape[:2] != (image_size, image_size):
        x = layers.Resizing(image_size, image_size, interpolation="bilinear", name="resize")(x)
    x = base_model(x)
    x = patch_extraction(x)
    x = layers.SpatialDropout2D(spatial_dropout, name="spatial_dropout")(x)
    if attention == "patch":
        patches = layers.Reshape((-1, 256), name="patches")(x)
        x = layers.GlobalAveragePooling1D(name="gap")(attend([patches, patches]))
    else:
        x = layers.GlobalAveragePooling2D(name="gap")(x)
    x = layers.Dropout(dropout, name="dropout_features")(x)
    x = pre_classification(x)
    if attention == "feature":
        features = layers.Reshape((EMBEDDING_SIZE, 1), name="features")(x)
        x = layers.Reshape((EMBEDDING_SIZE,), name="attended")(attend([features, features]))
    elif attention == "batch":
        # Keras 2 took the batch for the sequence when given a (batch, 32) tensor; this is the same sum.
        batch = ops.expand_dims(x, 0)
        x = ops.squeeze(attend([batch, batch]), 0)
    x = layers.Dropout(dropout, name="dropout_head")(x)
    return keras.Model(inputs, head(x), name="patt_lite")


def build_backbone(image_size: int, weights: str) -> keras.Model:
    """MobileNetV1 (alpha 1.0) up to `conv_dw_9_relu`, 821,952 parameters, input -1 to 1.

    Args:
        image_size: input side, pixels.
        weights: `imagenet` (Keras' own download), `none`, or a path: Keras'
            `mobilenet_1_0_224_tf_no_top.h5`, weights saved from the model cut at `conv_dw_9_relu`, or the
            `model.keras` of a trained PAtt-Lite, whose backbone is taken.

    Raises:
        BackboneUnavailableError: if the weights cannot be downloaded or do not fit.
    """
    shape = (image_size, image_size, 3)
    if weights not in ("imagenet", "none") and not Path(weights).is_file():
        raise BackboneUnavailableError(f"backbone weights {weights} not found: {REMEDY}")
    if weights == "imagenet":
        try:
            full = keras.applications.MobileNet(input_shape=shape, include_top=False, weights="imagenet")
        except Exception as error:  # whatever the download raises
            raise BackboneUnavailableError(
                f"the ImageNet weights cannot be downloaded ({error}): {REMEDY}"
            ) from error
    else:
        full = keras.applications.MobileNet(input_shape=shape, include_top=False, weights=None)
    base = keras.Model(full.input, full.get_layer(BACKBONE_OUTPUT).output, name="base_model")
    if weights not in ("imagenet", "none"):
        path = Path(weights)
        try:
            _load_backbone(base, full, path)
        except Exception as error:  # no archive, damaged, unknown layers: Keras raises many kinds
            raise BackboneUnavailableError(
                f"{path} does not fit MobileNetV1 ({reason(error)}): {REMEDY}"
            ) from error
        if not all(np.isfinite(held).all() for held in base.get_weights()):
            raise BackboneUnavailableError(f"{path} holds weights that are no numbers: {REMEDY}")
    return base


def is_imagenet(path: str) -> bool:
    """Whether a weights file holds, as a backbone, Keras' ImageNet weights and no others.

    Raises:
        BackboneUnavailableError: if they cannot be loaded.
    """
    digest = hashlib.sha256()
    for held in build_backbone(SMALLEST_IMAGE, path).get_weights():
        digest.update(np.ascontiguousarray(held, np.float32).tobytes())
    return digest.hexdigest() == IMAGENET_SHA256


def _load_backbone(base: keras.Model, full: keras.Model, path: Path) -> None:
    """Fill `base` from a trained PAtt-Lite, or from weights of the cut or the whole MobileNetV1."""
    if path.suffix == ".keras":
        trained = keras.saving.load_model(path, compile=False)
        base.set_weights(trained.get_layer("base_model").get_weights())
        return
    try:
        base.load_weights(path)
    except (ValueError, OSError, KeyError):
        full.load_weights(path)


def with_embedding(model: keras.Model) -> keras.Model:
    """The same weights with two named outputs: `probabilities` `[N, 7]` and `embedding` `[N, 32]`."""
    return keras.Model(
        model.input,
        {"probabilities": model.output, "embedding": model.get_layer("pre_classification").output},
        name="patt_lite_served",
    )


def set_trainable(model: keras.Model, unfreeze_layers: int | str, train_batch_norm: bool) -> None:
    """Freeze the backbone but for its last layers; compile the model again afterwards.

    Args:
        model: from `build_patt_lite`.
        unfreeze_layers: `none`, `all`, or how many of the backbone's last layers train.
        train_batch_norm: whether batch norms among them train. A frozen batch norm uses its moving
            statistics, as in the published recipe.
    """
    base: keras.Model = model.get_layer("base_model")
    count = {"none": 0, "all": len(base.layers)}.get(str(unfreeze_layers), unfreeze_layers)
    first = max(0, len(base.layers) - int(count))
    base.trainable = True
    for position, layer in enumerate(base.layers):
        is_norm = isinstance(layer, layers.BatchNormalization)
        layer.trainable = position >= first and (train_batch_norm or not is_norm)


def set_batch_norm_momentum(model: keras.Model, momentum: float) -> None:
    """How slowly every batch norm's moving statistics follow, from 0 (at once) to 1 (never)."""
    for part in ("base_model", "pre_classification"):
        for layer in model.get_layer(part).layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = momentum


class PattLite:
    """A trained PAtt-Lite as a `Classifier`."""

    def __init__(self, model: keras.Model, card: Card) -> None:
        self.model = with_embedding(model)
        self._card = card

    @property
    def card(self) -> Card:
        """Who it is."""
        return self._card

    def predict(self, images: Images, batch_size: int = 32) -> Predictions:
        """Classify uint8 `[N, 48, 48, 3]`, batches cut front to back; see `Classifier.predict`."""
        if len(images) == 0:
            return Predictions(
                np.empty((0, len(self.card.labels)), np.float32),
                np.empty((0, EMBEDDING_SIZE), np.float32),
            )
        answers: Sequence[dict[str, np.ndarray]] = [
            self.model.predict_on_batch(images[start : start + batch_size])
            for start in range(0, len(images), batch_size)
        ]
        return Predictions(
            np.concatenate([np.asarray(a["probabilities"], np.float32) for a in answers]),
            np.concatenate([np.asarray(a["embedding"], np.float32) for a in answers]),
        )


def load(folder: Path) -> PattLite:
    """Load what training wrote: `model.keras` and `card.json`.

    Raises:
        FileNotFoundError: if the folder holds no trained model.
    """
    if not (folder / "model.keras").exists():
        raise FileNotFoundError(f"no trained model in {folder}: run `dvc repro train` first")
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    return PattLite(model, Card.load(folder / "card.json"))
