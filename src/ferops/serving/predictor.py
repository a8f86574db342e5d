"""Image bytes in, answers out: decode, describe, classify and log, without any web framework."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ferops.data import images as pixels
from ferops.data.descriptors import describe
from ferops.emotions import EMOTIONS
from ferops.models.onnx import OnnxClassifier
from ferops.serving.prediction_log import PredictionLog, timestamp


class UnusableImageError(ValueError):
    """One of the images cannot be classified; `code` is that of `ferops.data.images.ImageError`."""

    def __init__(self, index: int, code: str, message: str) -> None:
        super().__init__(message)
        self.index = index
        self.code = code


@dataclass(frozen=True)
class Predictor:
    """A classifier with its version and the log of what it answered; safe to call from many threads.

    Attributes:
        classifier: checked by `self_check` before it is given here.
        version: of the model, as answers and log name it.
        log: takes each prediction once.
        max_pixels: of one decoded image.
    """

    classifier: OnnxClassifier
    version: str
    log: PredictionLog
    max_pixels: int

    def predict(self, contents: Sequence[bytes]) -> list[dict[str, Any]]:
        """Classify encoded images of any size; all of them or none.

        Returns:
            One answer an image: id, label, confidence (0 to 1), probabilities by emotion, model_version,
            synthetic. Each is in the log, unless that cannot be written.

        Raises:
            UnusableImageError: for the first image that is none, too large or damaged.
        """
        card = self.classifier.card
        faces = np.empty((len(contents), card.input_side, card.input_side, 3), np.uint8)
        descriptors = []
        for row, content in enumerate(contents):
            try:
                image = pixels.decode(content, self.max_pixels)
                faces[row] = pixels.face(image, card.input_side)
                # Described at the size of the datasets' faces, so that drift compares like with like.
                small = faces[row] if card.input_side == pixels.FACE_SIDE else pixels.face(image)
            except pixels.ImageError as error:
                raise UnusableImageError(row, error.code, str(error)) from None
            except Exception as error:  # Pillow's plug-ins raise nearly anything on hostile bytes
                raise UnusableImageError(
                    row, "not_an_image", f"the image cannot be decoded: {error}"
                ) from None
            descriptors.append(describe(small[:, :, 0])._asdict())
        predictions = self.classifier.predict(faces)
        embeddings = predictions.embedding
        time = timestamp()
        records: list[dict[str, Any]] = []
        for row, probabilities in enumerate(predictions.probabilities):
            best = int(probabilities.argmax())
            records.append(
                {
                    "id": uuid.uuid4().hex,
                    "time": time,
                    "model_version": self.version,
                    "label": EMOTIONS[best],
                    "confidence": _rounded(probabilities[best]),
                    "probabilities": [_rounded(p) for p in probabilities],
                    "embedding": None if embeddings is None else [_rounded(e) for e in embeddings[row]],
                    "descriptors": {name: _rounded(value) for name, value in descriptors[row].items()},
                }
            )
        self.log.predictions(records)
        return [
            {
                "id": record["id"],
                "label": record["label"],
                "confidence": record["confidence"],
                "probabilities": dict(zip(EMOTIONS, record["probabilities"], strict=True)),
                "model_version": self.version,
                "synthetic": card.synthetic,
            }
            for record in records
        ]


def _rounded(value: float) -> float:
    """Seven significant digits, all that a float32 holds; a line of the log is half as long for it."""
    return float(f"{value:.7g}")
