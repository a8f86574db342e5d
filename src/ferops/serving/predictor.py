"""Image bytes in, answers out: decode, describe, classify and log, without any web framework."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferops.data import images as pixels
from ferops.data.descriptors import describe
from ferops.emotions import EMOTIONS
from ferops.models.onnx import OnnxClassifier
from ferops.serving import faces
from ferops.serving.prediction_log import PredictionLog, timestamp
from ferops.serving.shadow import Shadow


class UnusableImageError(ValueError):
    """One of the images cannot be classified; `code` is that of `ferops.data.images.ImageError`."""

    def __init__(self, index: int, code: str, message: str) -> None:
        super().__init__(message)
        self.index = index
        self.code = code


class UnloggedError(RuntimeError):
    """The predictions could not be logged, and the service is not to answer without."""


@dataclass(frozen=True)
class Predictor:
    """A classifier with its version and the log of what it answered; safe to call from many threads.

    Attributes:
        classifier: checked by `self_check` before it is given here.
        version: of the model, as answers and log name it.
        log: takes each prediction once.
        max_pixels: of one decoded image.
        source: what kind of model it is: `champion`, `release` or `package`.
        log_required: give no answer that is not in the log.
        shadow: a challenger that sees the same images.
        max_request_pixels: of all images of one call: its work must end in time.
    """

    classifier: OnnxClassifier
    version: str
    log: PredictionLog
    max_pixels: int
    source: str = "package"
    log_required: bool = False
    shadow: Shadow | None = None
    max_request_pixels: int = 250_000_000

    def predict(self, contents: Sequence[bytes], find_faces: bool = False) -> list[dict[str, Any]]:
        """Classify encoded images of any size; all of them or none.

        Returns:
            One answer an image: id, label, confidence (0 to 1), probabilities by emotion, model_version,
            synthetic. Each is in the log, unless that cannot be written. With `find_faces` one answer a
            face, which may be none, with the image's index, the face's box and the detector's score.

        Raises:
            UnusableImageError: for the first image that is none, too large or damaged.
            UnloggedError: if they are not in the log and `log_required`.
        """
        card = self.classifier.card
        inputs: list[NDArray[np.uint8]] = []
        seen: list[NDArray[np.uint8]] = []
        descriptors: list[dict[str, float]] = []
        places: list[dict[str, Any]] = []
        room = self.max_request_pixels
        for row, content in enumerate(contents):
            try:
                image = pixels.decode(content, self.max_pixels)
                room -= image.width * image.height
                if room < 0:
                    raise pixels.ImageError(
                        "too_many_pixels",
                        f"the images have more than {self.max_request_pixels} pixels together: "
                        "send them in several requests",
                    )
                for face in faces.found(image) if find_faces else [None]:
                    crop = image if face is None else faces.cut(image, face)
                    inputs.append(pixels.face(crop, card.input_side))
                    if self.shadow is not None:
                        same = self.shadow.side == card.input_side
                        seen.append(inputs[-1] if same else pixels.face(crop, self.shadow.side))
                    # Described at the size of the datasets' faces, so that drift compares like with like.
                    small = inputs[-1] if card.input_side == pixels.FACE_SIDE else pixels.face(crop)
                    descriptors.append(describe(small[:, :, 0])._asdict())
                    places.append({} if face is None else {"image": row, **face.place()})
            except pixels.ImageError as error:
                raise UnusableImageError(row, error.code, str(error)) from None
            except Exception:  # Pillow's plug-ins raise nearly anything on hostile bytes
                raise UnusableImageError(row, "not_an_image", "the image cannot be decoded") from None
        if not inputs:
            return []
        predictions = self.classifier.predict(np.stack(inputs))
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
        if not self.log.predictions(records) and self.log_required:
            raise UnloggedError("the prediction log cannot be written")
        if self.shadow is not None:
            self.shadow.offer(np.stack(seen), records)
        return [
            {
                "id": record["id"],
                "label": record["label"],
                "confidence": record["confidence"],
                "probabilities": dict(zip(EMOTIONS, record["probabilities"], strict=True)),
                "model_version": self.version,
                "synthetic": card.synthetic,
                **place,
            }
            for record, place in zip(records, places, strict=True)
        ]


def _rounded(value: float) -> float:
    """Seven significant digits, all that a float32 holds; a line of the log is half as long for it."""
    return float(f"{value:.7g}")
