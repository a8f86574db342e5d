"""The ViT baseline: any Hugging Face ViTForImageClassification of the seven emotions, run by keras-hub.

    >>> classifier = load("dima806/facial_emotions_image_detection")  # doctest: +SKIP
    >>> classifier.predict(images).probabilities  # uint8 [N, 224, 224, 3] in  # doctest: +SKIP

The checkpoint's own preprocessing (rescale, mean, deviation) is part of the model, its labels are mapped by
name, and where keras-hub's defaults differ from the checkpoint's configuration (epsilon of the layer norms,
activation) the configuration wins: the answers are those of transformers' own model. Only the resize to the
input side is the caller's: `ferops.data.images.face`, bilinear as Hugging Face's processor does it.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml
from keras import ops

from ferops import files
from ferops.data.known_datasets import CHECKPOINTS
from ferops.emotions import NUM_EMOTIONS, permutation
from ferops.errors import reason
from ferops.models.classifier import Card, Images, Predictions, TrainingData

ARCHITECTURE = "ViTForImageClassification"

#: What is fetched from the hub; other weight formats of the same model stay there.
FILES = (
    "config.json",
    "preprocessor_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "README.md",
)

#: Seconds that the hub gets to answer before it counts as unreachable.
HUB_TIMEOUT = 5.0

#: Pillow's numbers for filters, as in `preprocessor_config.json`.
BILINEAR = 2
RESAMPLING: Mapping[int, str] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}


def gelu(x: Any) -> Any:
    """The exact GELU (Hendrycks and Gimpel 2016); TensorFlow's own uses `Erfc`, which ONNX does not have."""
    return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))


#: transformers' names for `hidden_act` that are understood; the last two GELUs are its tanh approximation.
ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "gelu": gelu,
    "gelu_new": lambda x: keras.activations.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: keras.activations.gelu(x, approximate=True),
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
    "swish": keras.activations.silu,
}


class ModelUnavailableError(RuntimeError):
    """The checkpoint cannot be had or is none that can be used; the message is one sentence that says why."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a uint8 image of the input side: `(x * scale - mean) / std`, per channel.

    The defaults are Hugging Face's ViT values as the baseline documents them.
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: int = BILINEAR


class VitClassifier:
    """The ViT as a `Classifier`.

    Attributes:
        model: functional, uint8 `[N, side, side, 3]` to probabilities `[N, 7]` in canonical order.
    """

    def __init__(self, model: keras.Model, card: Card) -> None:
        self.model = model
        self._card = card

    @property
    def card(self) -> Card:
        """Who it is."""
        return self._card

    def predict(self, images: Images, batch_size: int = 16) -> Predictions:
        """Classify uint8 `[N, side, side, 3]`, batches cut front to back; see `Classifier.predict`."""
        if len(images) == 0:
            return Predictions(np.empty((0, NUM_EMOTIONS), np.float32))
        answers = [
            self.model.predict_on_batch(images[start : start + batch_size])
            for start in range(0, len(images), batch_size)
        ]
        return Predictions(np.concatenate([np.asarray(a, np.float32) for a in answers]))


def load(
    checkpoint: str | None,
    revision: str | None = None,
    trained_on: Sequence[str] | None = None,
    name: str = "vit",
) -> VitClassifier:
    """Load a ViTForImageClassification of the seven emotions.

    Args:
        checkpoint: a folder with `config.json` and `model.safetensors`, or the id of a repository on the
            Hugging Face hub.
        revision: commit, branch or tag on the hub.
        trained_on: names of the datasets it was trained on; none looks at what is known of the checkpoint
            and at its own files.
        name: candidate name for the card.

    Raises:
        ModelUnavailableError: if it is not configured, cannot be reached, lacks files, is another
            architecture, or names other labels than the seven emotions.
    """
    if not checkpoint:
        raise ModelUnavailableError(
            "no ViT is configured: set vit.checkpoint in params.yaml to a folder or a Hugging Face hub id"
        )
    folder = _folder(checkpoint, revision)
    config = _config(folder, checkpoint)
    labels = _labels(config, checkpoint)
    preprocessing = _preprocessing(folder, int(config["image_size"]), checkpoint)
    model = _build(folder, config, preprocessing, permutation(labels), checkpoint)
    details = {
        "checkpoint": checkpoint,
        "revision": revision or _snapshot(folder),
        "resample": RESAMPLING.get(preprocessing.resample, str(preprocessing.resample)),
        "layer_norm_eps": config.get("layer_norm_eps"),
        "hidden_act": config.get("hidden_act"),
        "keras_backend": keras.backend.backend(),
    }
    if preprocessing.resample != BILINEAR:
        details["note"] = f"trained on {details['resample']} resizing, evaluated on bilinear: a disadvantage"
    card = Card(
        name=name,
        kind="vit",
        input_side=int(config["image_size"]),
        parameters=model.count_params(),
        training_data=_training_data(folder, config, checkpoint, trained_on),
        own_labels=tuple(labels),
        details=details,
    )
    return VitClassifier(model, card)


# === Where the files are ===


def _folder(checkpoint: str, revision: str | None) -> Path:
    """The local folder of a checkpoint, downloaded from the hub when it is no folder."""
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", checkpoint):
        raise ModelUnavailableError(
            f"vit.checkpoint {checkpoint!r} is neither a folder here nor a hub id (owner/name)"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                checkpoint, revision=revision, allow_patterns=list(FILES), etag_timeout=HUB_TIMEOUT
            )
        )
    except Exception as error:  # the hub's client has some thirty kinds, and its HTTP library more
        raise ModelUnavailableError(
            f"vit.checkpoint {checkpoint!r} is no folder here and cannot be had from the Hugging Face hub"
            f"{f' at revision {revision}' if revision else ''} ({type(error).__name__}: {reason(error)}); "
            "download it elsewhere and give its folder"
        ) from error


def _snapshot(folder: Path) -> str | None:
    """The commit, where the folder is one of the hub's cache."""
    return folder.name if folder.parent.name == "snapshots" else None


def _read(folder: Path, name: str, checkpoint: str) -> dict[str, Any]:
    try:
        content = files.read_json(folder / name)
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(
            f"{name} of vit.checkpoint {checkpoint!r} cannot be read: {error}"
        ) from error
    if not isinstance(content, dict):
        raise ModelUnavailableError(f"{name} of vit.checkpoint {checkpoint!r} holds no JSON object")
    return content


# === What the checkpoint says of itself ===


def _config(folder: Path, checkpoint: str) -> dict[str, Any]:
    """`config.json`, once it is clear that keras-hub builds the same model from it."""
    if not (folder / "config.json").exists():
        raise ModelUnavailableError(
            f"vit.checkpoint {checkpoint!r} has no config.json: is it the right folder?"
        )
    if not any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        raise ModelUnavailableError(
            f"vit.checkpoint {checkpoint!r} has no model.safetensors: save it with safe_serialization=True"
        )
    config = _read(folder, "config.json", checkpoint)
    architecture = ", ".join(config.get("architectures") or ["none"])
    wrong = [
        (
            config.get("model_type") != "vit" or architecture != ARCHITECTURE,
            f"its architecture is {architecture}",
        ),
        (config.get("num_channels", 3) != 3, "its images do not have three channels"),
        (not isinstance(config.get("image_size"), int), "its images are not square"),
        (not config.get("qkv_bias", True), "its attention has no bias, which keras-hub cannot load"),
        (
            config.get("hidden_act") not in ACTIVATIONS,
            f"its hidden_act {config.get('hidden_act')!r} is none of {', '.join(ACTIVATIONS)}",
        ),
        (not isinstance(config.get("layer_norm_eps"), float), "its layer_norm_eps is missing"),
    ]
    for is_wrong, sentence in wrong:
        if is_wrong:
            raise ModelUnavailableError(
                f"vit.checkpoint {checkpoint!r} is no {ARCHITECTURE} that can be used: {sentence}"
            )
    return config


def _labels(config: Mapping[str, Any], checkpoint: str) -> list[str]:
    """The checkpoint's label of each output, in its own order."""
    named: Mapping[str, str] = config.get("id2label") or {}
    labels = [str(named[key]) for key in sorted(named, key=int)]
    try:
        permutation(labels)
    except ValueError as error:
        raise ModelUnavailableError(
            f"the outputs of vit.checkpoint {checkpoint!r} are not the seven emotions: {error}"
        ) from error
    return labels


def _preprocessing(folder: Path, side: int, checkpoint: str) -> Preprocessing:
    """`preprocessor_config.json` as transformers' ViT image processor reads it, else the defaults."""
    if not (folder / "preprocessor_config.json").exists():
        return Preprocessing()
    raw = _read(folder, "preprocessor_config.json", checkpoint)
    size = raw.get("size", side)
    sides = set(size.values()) if isinstance(size, dict) else {size}
    if sides != {side} or raw.get("do_center_crop"):
        raise ModelUnavailableError(
            f"vit.checkpoint {checkpoint!r} crops or resizes its images to {size}, but its model takes "
            f"{side}x{side}: only a plain resize to the model's side is supported"
        )
    plain = Preprocessing()
    normalize = raw.get("do_normalize", True)
    return Preprocessing(
        scale=float(raw.get("rescale_factor", plain.scale)) if raw.get("do_rescale", True) else 1.0,
        mean=tuple(raw.get("image_mean", plain.mean)) if normalize else (0.0, 0.0, 0.0),
        std=tuple(raw.get("image_std", plain.std)) if normalize else (1.0, 1.0, 1.0),
        resample=int(raw.get("resample", plain.resample)),
    )


def _training_data(
    folder: Path, config: Mapping[str, Any], checkpoint: str, trained_on: Sequence[str] | None
) -> TrainingData:
    """What it was trained on: as the settings say, else as known of it and declared in its README."""
    if trained_on is not None:
        return TrainingData(known=True, datasets=tuple(trained_on))
    names = [
        checkpoint,
        "/".join(folder.resolve().parts[-2:]),
        folder.parent.parent.name.removeprefix("models--").replace("--", "/"),  # the hub's cache
        str(config.get("_name_or_path")),  # what it was fine-tuned from has seen its data too
    ]
    known = [dataset for name in names for dataset in CHECKPOINTS.get(name.lower(), ())]
    datasets = tuple(dict.fromkeys([*known, *_declared_datasets(folder)]))
    return TrainingData(known=bool(datasets), datasets=datasets)


def _declared_datasets(folder: Path) -> tuple[str, ...]:
    """`datasets` in the front matter of the checkpoint's README, as the hub writes it."""
    readme = folder / "README.md"
    text = readme.read_text(errors="replace") if readme.exists() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        declared = (yaml.safe_load(front.group(1)) or {}).get("datasets") if front else None
    except (yaml.YAMLError, AttributeError):
        return ()
    return tuple(map(str, [declared] if isinstance(declared, str) else declared or ()))


# === The model ===


def _build(
    folder: Path,
    config: Mapping[str, Any],
    preprocessing: Preprocessing,
    order: list[int],
    checkpoint: str,
) -> keras.Model:
    import keras_hub

    try:
        vit = keras_hub.models.ViTImageClassifier.from_preset(str(folder), preprocessor=None, dtype="float32")
    except Exception as error:  # damaged weights, missing tensors, missing keys: keras-hub has no one error
        raise ModelUnavailableError(
            f"keras-hub cannot load vit.checkpoint {checkpoint!r} ({type(error).__name__}: {error})"
        ) from error
    _follow_config(vit.backbone, config)
    _export_cleanly(vit.backbone)
    vit.trainable = False
    head = vit.output_dense
    head.kernel.assign(ops.convert_to_numpy(head.kernel)[:, order])
    head.bias.assign(ops.convert_to_numpy(head.bias)[order])
    side = int(config["image_size"])
    mean, std = np.asarray(preprocessing.mean), np.asarray(preprocessing.std)

    images = keras.Input((side, side, 3), dtype="uint8", name="images")
    scaled = keras.layers.Rescaling(
        (preprocessing.scale / std).tolist(), (-mean / std).tolist(), dtype="float32", name="preprocessing"
    )(images)
    return keras.Model(images, ops.softmax(vit(scaled), axis=-1), name="vit")


def _follow_config(backbone: Any, config: Mapping[str, Any]) -> None:
    """Set what keras-hub does not take from the checkpoint: it has its own epsilon (1e-6) and exact GELU."""
    encoder = next(layer for layer in backbone.layers if hasattr(layer, "encoder_layers"))
    norms = [encoder.layer_norm]
    for block in encoder.encoder_layers:
        norms += [block.layer_norm_1, block.layer_norm_2]
        block.mlp.dense_1.activation = ACTIVATIONS[config["hidden_act"]]
    for norm in norms:
        norm.epsilon = config["layer_norm_eps"]


def _export_cleanly(backbone: Any) -> None:
    """Keep position numbers as plain numbers: as a tensor they become an input of an exported graph."""
    patches = next(layer for layer in backbone.layers if hasattr(layer, "position_ids"))
    patches.position_ids = np.arange(patches.num_positions, dtype=np.int32)[None]
