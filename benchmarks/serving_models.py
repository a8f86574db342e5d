"""One model in the form that each side of `benchmarks/serving.py` serves; run by it as a process of its own.

    python benchmarks/serving_models.py --package release --image-size 224 --out build

It needs TensorFlow, which the benchmark itself does not load. `--image-size` puts the released weights, which
depend on no image size, into a network of another one: what it says of faces is worth little, what it costs
is what a model trained at that size would cost.
"""

import argparse
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from ferops import files
from ferops.models import patt_lite
from ferops.models.classifier import Card, Images
from ferops.models.onnx import CARD_FILE, MODEL_FILE, OnnxClassifier, Recorded, RuntimeUnavailableError
from ferops.models.runtimes import RUNTIMES
from ferops.promotion.package import export_onnx
from ferops.promotion.variants import VARIANTS_FILE, Variants, load_variants

#: Files of a package folder that this service reads.
PACKAGE_FILES = (MODEL_FILE, CARD_FILE, "recorded.npz")


def write_package(package: Path, image_size: int | None, out: Path) -> keras.Model:
    """A package folder of the model at this size; gives the same as a Keras model, uint8 to probabilities."""
    card = Card.load(package / CARD_FILE)
    model = keras.saving.load_model(package / "model.keras", compile=False)
    out.mkdir(parents=True)
    if image_size in (None, card.details["image_size"]):
        for name in (*PACKAGE_FILES, VARIANTS_FILE):
            if (package / name).is_file():
                shutil.copy(package / name, out)
        return model
    sized = patt_lite.build_patt_lite(
        input_shape=model.input_shape[1:], image_size=image_size, attention=card.details["attention"]
    )
    sized.set_weights(model.get_weights())
    export_onnx(patt_lite.with_embedding(sized), out / MODEL_FILE)
    details = {**card.details, "image_size": image_size}
    replace(card, details=details).save(out / CARD_FILE)
    images = Recorded.load(package).images
    Recorded(images, OnnxClassifier(out).predict(images).probabilities).save(out)
    take_verdicts(package, out, images)
    return sized


def take_verdicts(package: Path, out: Path, images: Images) -> None:
    """Let the model of another size be computed in the precisions that passed for the package's own.

    For speed alone: nobody has judged what they do to this model, and nobody is to be served with it.
    """
    digest, judged = files.sha256(out / MODEL_FILE), {}
    for name, variant in load_variants(package).judged.items():
        if variant.passed:
            with suppress(RuntimeUnavailableError):  # this machine has other arithmetic
                answers = RUNTIMES[name](out).predict(images).probabilities
                changed = {"model_sha256": digest, "answers": tuple(map(tuple, answers.tolist()))}
                judged[name] = variant.model_copy(update=changed)
    Variants(judged=judged).save(out)


def write_mlflow(model: keras.Model, package: Path, out: Path) -> None:
    """The Keras model and the ONNX model in MLflow's two flavours, with the signature of the registry."""
    import mlflow
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    shape = (-1, *model.input_shape[1:])
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), shape, "images")]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 7))]),
    )
    loose = ModelSignature(inputs=Schema([TensorSpec(np.dtype("uint8"), shape)]), outputs=signature.outputs)
    mlflow.tensorflow.save_model(model, str(out / "mlflow_keras"), signature=loose, pip_requirements=[])
    mlflow.onnx.save_model(
        onnx.load(str(package / MODEL_FILE)),
        str(out / "mlflow_onnx"),
        signature=ModelSignature(inputs=signature.inputs),
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
        pip_requirements=[],
    )


def main() -> None:
    """Write `package/`, `model.keras`, `mlflow_keras/` and `mlflow_onnx/`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", type=Path, required=True, help="has model.keras beside the package")
    parser.add_argument("--image-size", type=int, help="of the network; default: that of the package")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    package = arguments.out / "package"
    model = write_package(arguments.package, arguments.image_size, package)
    model.save(arguments.out / "model.keras")
    write_mlflow(model, package, arguments.out)


if __name__ == "__main__":
    main()
