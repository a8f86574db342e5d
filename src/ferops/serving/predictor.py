"""Image bytes in, answers out: decode, describe, classify and log, without any web framework."""

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ferops.data import images as pixels
from ferops.emotions import EMOTIONS
from ferops.models.onnx import OnnxClassifier
from ferops.serving import describe, faces
from ferops.serving.client_buckets import ClientBuckets
from ferops.serving.prediction_log import PredictionLog, timestamp
from ferops.serving.shadow import Shadow

#: Images of one call of the runtime: more are no faster, and take memory in proportion.
BATCH_SIZE = 8

Answer = dict[str, Any]


class UnusableImageError(ValueError):
    """One of the images cannot be classified; `code` is that of `ferops.data.images.ImageError`."""

    def __init__(self, index: int, code: str, message: str) -> None:
        super().__init__(message)
        self.index = index
        self.code = code


class UnloggedError(RuntimeError):
    """The predictions could not be logged, and the service is not to answer without."""


class Question(NamedTuple):
    """Encoded images of one request, whether faces are to be found in them, and the asker's address."""

    contents: Sequence[bytes]
    find_faces: bool = False
    client: str | None = None


@dataclass
class _Seen:
    """The faces of one request, each as the classifier, the descriptors and the challenger see it."""

    client: int | None = None
    inputs: list[NDArray[np.uint8]] = field(default_factory=list)
    small: list[NDArray[np.uint8]] = field(default_factory=list)
    shadowed: list[NDArray[np.uint8]] = field(default_factory=list)
    places: list[dict[str, Any]] = field(default_factory=list)


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
        max_request_pixels: of all images of one request: its work must end in time.
        keep_images: log each face too, grey and 48x48, for `ferops data collect`.
        clients: give the bucket of a client for the log; none: it says nothing of clients.
    """

    classifier: OnnxClassifier
    version: str
    log: PredictionLog
    max_pixels: int
    source: str = "package"
    log_required: bool = False
    shadow: Shadow | None = None
    max_request_pixels: int = 250_000_000
    keep_images: bool = False
    clients: ClientBuckets | None = None

    def predict(self, contents: Sequence[bytes], find_faces: bool = False) -> list[Answer]:
        """Classify encoded images of any size; all of them or none.

        Returns:
            One answer an image: id, label, confidence (0 to 1), probabilities by emotion, model_version,
            synthetic. Each is in the log, unless that cannot be written. With `find_faces` one answer a
            face, which may be none, with the image's index, the face's box and the detector's score.

        Raises:
            UnusableImageError: for the first image that is none, too large or damaged.
            UnloggedError: if they are not in the log and `log_required`.
        """
        (answers,) = self.predict_each([Question(contents, find_faces)])
        if isinstance(answers, Exception):
            raise answers
        return answers

    def predict_each(
        self, questions: Sequence[Question]
    ) -> list[list[Answer] | UnusableImageError | UnloggedError]:
        """What `predict` gives or raises, for each of several requests; their faces share a batch.

        An image that cannot be used refuses its own request and is nothing to the others.
        """
        looked = [self._look(question) for question in questions]
        seen = [each for each in looked if isinstance(each, _Seen)]
        inputs = [face for each in seen for face in each.inputs]
        small = [face for each in seen for face in each.small]
        clients = [each.client for each in seen for _ in each.inputs]
        records = self._classify(inputs, small, clients) if inputs else []
        if records and not self.log.predictions(records) and self.log_required:
            unlogged = UnloggedError("the prediction log cannot be written")
            return [unlogged if isinstance(each, _Seen) else each for each in looked]
        if self.shadow is not None and records:
            self.shadow.offer(np.stack([face for each in seen for face in each.shadowed]), records)
        if self.keep_images and records:
            self.log.images([_kept(*each) for each in zip(records, small, strict=True)])
        rest = iter(records)
        return [
            [self._answer(next(rest), place) for place in each.places] if isinstance(each, _Seen) else each
            for each in looked
        ]

    def _look(self, question: Question) -> _Seen | UnusableImageError:
        """Decode one request."""
        side = self.classifier.card.input_side
        seen = _Seen()
        if self.clients is not None and question.client is not None:
            seen.client = self.clients.bucket(question.client)
        room = self.max_request_pixels
        for row, content in enumerate(question.contents):
            try:
                image = pixels.decode(content, self.max_pixels)
                room -= image.width * image.height
                if room < 0:
                    raise pixels.ImageError(
                        "too_many_pixels",
                        f"the images have more than {self.max_request_pixels} pixels together: "
                        "send them in several requests",
                    )
                for face in faces.found(image) if question.find_faces else [None]:
                    crop = image if face is None else faces.cut(image, face)
                    taken = pixels.face(crop, side)
                    seen.inputs.append(taken)
                    if self.shadow is not None:
                        same = self.shadow.side == side
                        seen.shadowed.append(taken if same else pixels.face(crop, self.shadow.side))
                    # Described at the size of the datasets' faces, so that drift compares like with like.
                    small = taken if side == pixels.FACE_SIDE else pixels.face(crop)
                    seen.small.append(small[:, :, 0])
                    seen.places.append({} if face is None else {"image": row, **face.place()})
            except pixels.ImageError as error:
                return UnusableImageError(row, error.code, str(error))
            except Exception:  # Pillow's plug-ins raise nearly anything on hostile bytes
                return UnusableImageError(row, "not_an_image", "the image cannot be decoded")
        return seen

    def _classify(
        self,
        inputs: Sequence[NDArray[np.uint8]],
        small: Sequence[NDArray[np.uint8]],
        clients: Sequence[int | None],
    ) -> list[dict[str, Any]]:
        """A record of the log for each face."""
        predictions = self.classifier.predict(np.stack(inputs), BATCH_SIZE)
        embeddings = predictions.embedding
        descriptors = describe.describe(np.stack(small)).tolist()
        time = timestamp()
        records: list[dict[str, Any]] = []
        for row, probabilities in enumerate(predictions.probabilities):
            shares = [_rounded(p) for p in probabilities.tolist()]
            best = int(probabilities.argmax())
            records.append(
                {
                    "id": uuid.uuid4().hex,
                    "time": time,
                    "model_version": self.version,
                    "label": EMOTIONS[best],
                    "confidence": shares[best],
                    "probabilities": shares,
                    "embedding": None if embeddings is None else embeddings[row],  # written as float32
                    "descriptors": dict(zip(describe.NAMES, map(_rounded, descriptors[row]), strict=True)),
                    "client": clients[row],
                }
            )
        return records

    def _answer(self, record: dict[str, Any], place: dict[str, Any]) -> Answer:
        return {
            "id": record["id"],
            "label": record["label"],
            "confidence": record["confidence"],
            "probabilities": dict(zip(EMOTIONS, record["probabilities"], strict=True)),
            "model_version": self.version,
            "synthetic": self.classifier.card.synthetic,
            **place,
        }


def _kept(record: dict[str, Any], face: NDArray[np.uint8]) -> dict[str, Any]:
    """A face as the log keeps it: base64 of its grey pixels, row by row."""
    image = base64.b64encode(face.tobytes()).decode()
    return {"id": record["id"], "time": record["time"], "image": image}


def _rounded(value: float) -> float:
    """Seven significant digits, all that a float32 holds; a line of the log is half as long for it."""
    return float(f"{value:.7g}")
