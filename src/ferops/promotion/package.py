"""A trained candidate becomes one folder that can be judged, promoted and served without its framework.

    >>> package_all(  # doctest: +SKIP
    ...     {"patt_lite": Path("models/patt_lite")}, Path("evaluations"), dataset, Path("packages"), vit
    ... )

A package holds `model.onnx` (uint8 images in, preprocessing inside), `card.json`, `recorded.npz` (test images
with the answers expected of them), `reference.parquet` (the validation split as the model sees it, which
monitoring compares with) and `evaluation.json`.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ferops import files
from ferops.data import images as pixels
from ferops.data.descriptors import DESCRIPTORS
from ferops.data.progress import track
from ferops.data.store import Dataset
from ferops.evaluation.predictions import PROBABILITY_COLUMNS
from ferops.models.classifier import Card, Classifier, Images, Predictions
from ferops.models.onnx import CARD_FILE, MODEL_FILE, OnnxClassifier, Recorded
from ferops.settings import VitSettings

REFERENCE_FILE = "reference.parquet"
EVALUATION_FILE = "evaluation.json"
INDEX_FILE = "index.json"

#: Test images whose answers travel with the package.
RECORDED_IMAGES = 16

#: Largest difference of a probability between Keras and ONNX Runtime. Kernels differ by about 1e-6; an
#: operator that was translated wrongly (another resize, batch statistics) differs by far more.
EXPORT_TOLERANCE = 1e-4

#: ONNX operator set; 17 is read by every ONNX Runtime since 1.12 (2022) and by OpenVINO.
OPSET = 17


class PackageError(RuntimeError):
    """A candidate cannot be packaged; the message says which and why."""


class KerasClassifier(Classifier, Protocol):
    """A classifier around a Keras model, as `patt_lite.load` and `vit.load` give.

    `model` is functional, takes uint8 `[N, card.input_side, card.input_side, 3]` and gives `probabilities`
    `[N, 7]`, alone or in a dict with `embedding`; it holds no augmentation.
    """

    model: Any


def package_all(
    trained: Mapping[str, Path], evaluations: Path, dataset: Dataset, out: Path, vit: VitSettings
) -> dict[str, Any]:
    """Package the models trained here (folder by name) and the ViT baseline; see `package_each`."""
    from ferops.models import patt_lite

    loaders: dict[str, Callable[[], KerasClassifier]] = {
        name: partial(patt_lite.load, folder) for name, folder in trained.items()
    }
    loaders["vit"] = partial(_load_vit, vit)
    return package_each(loaders, evaluations, dataset, out, required=trained)


def _load_vit(settings: VitSettings) -> KerasClassifier:
    from ferops.models import vit

    loaded: KerasClassifier = vit.load(settings.checkpoint, settings.revision, settings.trained_on)
    return loaded


def package_each(
    loaders: Mapping[str, Callable[[], KerasClassifier]],
    evaluations: Path,
    dataset: Dataset,
    out: Path,
    required: Collection[str] = (),
) -> dict[str, Any]:
    """Package every candidate that was evaluated; write the folder `out` with `index.json`, atomically.

    Args:
        loaders: how to load each candidate; called only if `evaluations/<name>/result.json` says that it
            was evaluated.
        evaluations: one folder per candidate.
        dataset: for the recorded images (test) and the monitoring reference (validation).
        out: one folder per packaged candidate.
        required: candidates whose failure is an error; that of the others is recorded as the reason why
            they are not packaged.

    Returns:
        By candidate: `{"packaged", "reason", "sha256"}`, as `index.json` holds under `candidates`.

    Raises:
        PackageError: if a required candidate fails.
    """
    index: dict[str, Any] = {}
    with files.new_folder(out) as folder:
        for name, load in loaders.items():
            reason = _not_evaluated(evaluations / name)
            if reason is None:
                try:
                    package(load(), evaluations / name, dataset, folder / name)
                except Exception as error:  # a baseline that breaks must not stop the line
                    if name in required:
                        raise
                    reason = f"packaging failed: {type(error).__name__}: {error}"
            index[name] = {
                "packaged": reason is None,
                "reason": reason,
                "sha256": files.sha256(folder / name) if reason is None else None,
            }
        files.write_json(folder / INDEX_FILE, {"candidates": index})
    return index


def _not_evaluated(evaluation: Path) -> str | None:
    if not (evaluation / "result.json").exists():
        return f"not evaluated: {evaluation} has no result.json"
    result = files.read_json(evaluation / "result.json")
    return None if result["evaluated"] else f"not evaluated: {result['reason']}"


def package(classifier: KerasClassifier, evaluation: Path, dataset: Dataset, out: Path) -> OnnxClassifier:
    """Write one package folder, atomically.

    Raises:
        PackageError: if the ONNX model does not answer as the Keras model does, alone and in a batch.
    """
    card = classifier.card
    with files.new_folder(out) as folder:
        export_onnx(classifier.model, folder / MODEL_FILE)
        _packaged_card(card).save(folder / CARD_FILE)
        packaged = OnnxClassifier(folder)
        images = _recorded_images(dataset, card.input_side)
        _check_export(classifier, packaged, images)
        Recorded(images, packaged.predict(images).probabilities).save(folder)
        reference(packaged, dataset).to_parquet(folder / REFERENCE_FILE, index=False)
        files.write_json(folder / EVALUATION_FILE, files.read_json(evaluation / "result.json"))
    return OnnxClassifier(out)


def _packaged_card(card: Card) -> Card:
    # The list of training images stays with the trained model: the package is what gets deployed.
    return replace(
        card,
        kind="onnx",
        training_data=replace(card.training_data, pixel_hashes=None),
        details={**card.details, "packaged_from": card.kind, "onnx_opset": OPSET},
    )


def export_onnx(model: Any, path: Path) -> None:
    """Write a Keras model as ONNX: `images` to `probabilities` and, where it has one, `embedding`.

    `model.export(format="onnx")` is not used: for a model with trainable batch norms it traces the training
    branch, and the exported probabilities depend on the batch. Here the inference branch is asked for.

    Raises:
        PackageError: if Keras runs on another backend than TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise PackageError(
            f"export to ONNX needs the TensorFlow backend, not {keras.backend.backend()}: "
            "run `KERAS_BACKEND=tensorflow dvc repro package` (a saved model loads on any backend)"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import onnx
    import tensorflow as tf
    import tf2onnx

    def infer(images: Any) -> dict[str, Any]:
        outputs = model(images, training=False)
        named = outputs if isinstance(outputs, dict) else {"probabilities": outputs}
        return {name: tf.identity(value, name=name) for name, value in named.items()}

    signature = [tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8, name="images")]
    traced = tf.function(infer, input_signature=signature)
    converted, _ = tf2onnx.convert.from_function(traced, signature, opset=OPSET)
    for value in [*converted.graph.input, *converted.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    _name_by_use(converted.graph)
    onnx.checker.check_model(converted)
    path.write_bytes(converted.SerializeToString())


def _name_by_use(graph: Any) -> None:
    """Name and order what the converter numbered by chance, so that one model always gives the same file.

    A package is known by its digest: exporting the same weights again must not make another candidate.
    """
    constants = {constant.name: constant for constant in graph.initializer}
    names = {value.name: value.name for value in [*graph.input, *graph.output]}
    tensors, nodes = set(names), set[str]()
    used = []
    for node in graph.node:
        node.name = _unique(re.sub(r"__\d+", "", node.name), nodes)
        for position, old in enumerate(node.input):
            if old in constants and old not in names:
                names[old] = _unique(f"{node.name}/constant_{position}", tensors)
                used.append(constants[old])
            node.input[position] = names.get(old, old)  # an optional input that is left out has no name
        for position, old in enumerate(node.output):
            if old and old not in names:
                names[old] = _unique(re.sub(r"__\d+", "", old), tensors)
            node.output[position] = names.get(old, old)
    for constant in used:
        constant.name = names[constant.name]
    del graph.initializer[:]
    graph.initializer.extend(used)
    graph.doc_string = ""


def _unique(wish: str, taken: set[str]) -> str:
    name, number = wish, 1
    while name in taken:
        name, number = f"{wish}_{number}", number + 1
    taken.add(name)
    return name


def _recorded_images(dataset: Dataset, side: int) -> Images:
    count = len(dataset.frame("test", ["id"]))
    if count == 0:
        raise PackageError(f"{dataset.folder} has no test images to record answers for")
    wanted = set(np.linspace(0, count - 1, min(count, RECORDED_IMAGES)).astype(int).tolist())
    row, chosen = 0, []
    for batch in dataset.batches("test", ["image"]):
        for content in batch.column("image"):
            if row in wanted:
                chosen.append(content.as_py())
            row += 1
    return pixels.faces(chosen, side)


def _check_export(trained: Classifier, packaged: Classifier, images: Images) -> None:
    for batch_size in (len(images), 1):
        expected = trained.predict(images, batch_size).probabilities
        given = packaged.predict(images, batch_size).probabilities
        difference = float(np.abs(expected - given).max())
        if not difference <= EXPORT_TOLERANCE:
            raise PackageError(
                f"{trained.card.name}: in batches of {batch_size} a probability of the ONNX model differs "
                f"from Keras' by {difference:.2g}, more than {EXPORT_TOLERANCE:g}"
            )


def reference(classifier: Classifier, dataset: Dataset) -> pd.DataFrame:
    """The validation split as a classifier sees it: what monitoring compares the prediction log with.

    Returns:
        One row an image: id, source, emotion, `p_<emotion>`, `embedding_<i>` where the card has an embedding
        (all float32), and the descriptors of the image.
    """
    columns = ["id", "source", "emotion", *DESCRIPTORS]
    parts = list(_reference_parts(classifier, dataset, columns))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _reference_parts(classifier: Classifier, dataset: Dataset, columns: list[str]) -> Iterator[pd.DataFrame]:
    rows = len(dataset.frame("validation", ["id"]))
    step = 256  # rows decoded at a time: a ViT's 224-pixel images of a whole split would not fit
    batches = dataset.batches("validation", [*columns, "image"], rows=step)
    for batch in track(batches, -(-rows // step), f"reference of {classifier.card.name}"):
        if batch.num_rows == 0:
            continue
        images = pixels.faces(batch.column("image").to_pylist(), classifier.card.input_side)
        frame = batch.select(columns).to_pandas()
        yield pd.concat(
            [
                frame[["id", "source", "emotion"]],
                _as_columns(classifier.predict(images)),
                frame[list(DESCRIPTORS)],
            ],
            axis=1,
        )


def _as_columns(predictions: Predictions) -> pd.DataFrame:
    columns = dict(zip(PROBABILITY_COLUMNS, predictions.probabilities.T, strict=True))
    if predictions.embedding is not None:
        columns |= {f"embedding_{i}": values for i, values in enumerate(predictions.embedding.T)}
    return pd.DataFrame(columns)
