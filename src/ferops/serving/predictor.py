"""Image bytes in, answers out: decode, describe, classify and log, without any web framework."""

import base64
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ferops.data import images as pixels
from ferops.data.images import ImageError
from ferops.emotions import EMOTIONS
from ferops.models.cores import cores
from ferops.models.onnx import OnnxClassifier
from ferops.serving import describe, faces
from ferops.serving.client_buckets import ClientBuckets
from ferops.serving.prediction_log import PredictionLog, timestamp
from ferops.serving.shadow import Shadow

#: Images of one call of the runtime: more are no faster, and take memory in proportion.
BATCH_SIZE = 8

Answer = dict[str, Any]


class UnusableImageError(ValueError):
    """An image cannot be classified, or all together; `code` is that of `ferops.data.images.ImageError`.

    `index` says which image; none where it is their number of pixels.
    """

    def __init__(self, index: int | None, code: str, message: str) -> None:
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


class _Face(NamedTuple):
    """One face of a request, grey uint8 `[side, side]`, as each of those who look at it takes it.

    Attributes:
        flat: of the classifier's side.
        small: of the datasets' side.
        shadowed: of the challenger's side, where there is one.
        place: where it was found in which image, where faces are looked for.
        client: the bucket of who sent it.
    """

    flat: NDArray[np.uint8]
    small: NDArray[np.uint8]
    shadowed: NDArray[np.uint8] | None
    place: dict[str, Any]
    client: int | None


class _Room:
    """Pixels that the images of one request may still have."""

    def __init__(self, pixels: int) -> None:
        self._most = self._left = pixels
        self._lock = threading.Lock()

    def take(self, pixels: int) -> None:
        with self._lock:
            self._left -= pixels
            if self._left >= 0:
                return
        # Parts of a request count at one time, so that which image was the one too many is chance.
        raise UnusableImageError(
            None,
            "too_many_pixels",
            f"the images have more than {self._most} pixels together: send them in several requests",
        )


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
        helpers: work on the parts of a request of many images, so that it has all cores.
        decoding: bounds how many images are decoded at one time, each of which takes memory.
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
    helpers: Executor = field(default_factory=lambda: ThreadPoolExecutor(cores(), "helper"))
    decoding: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(cores()))

    def predict(self, contents: Sequence[bytes], find_faces: bool = False) -> list[Answer]:
        """Classify encoded images of any size; all of them or none.

        Returns:
            One answer an image: id, label, confidence (0 to 1), probabilities by emotion, model_version,
            synthetic. Each is in the log, unless that cannot be written. With `find_faces` one answer a
            face, which may be none, with the image's index, the face's box and the detector's score.

        Raises:
            UnusableImageError: for the first image that is none, too large or damaged.
            faces.DetectorError: if faces cannot be looked for at all.
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
        time = timestamp()
        if len(questions) == 1:
            looked, records = self._alone(questions[0], time)
        else:
            looked = [self._look(question) for question in questions]
            records = self._records(_faces(looked), time)
        seen = _faces(looked)
        if records and not self.log.predictions(records) and self.log_required:
            unlogged = UnloggedError("the prediction log cannot be written")
            return [unlogged if isinstance(each, list) else each for each in looked]
        if self.shadow is not None and records:
            shadowed = [face.shadowed for face in seen if face.shadowed is not None]
            self.shadow.offer(pixels.rgb(np.stack(shadowed)), records)
        if self.keep_images and records:
            self.log.images([_kept(record, face.small) for record, face in zip(records, seen, strict=True)])
        rest = iter(records)
        return [
            [self._answer(next(rest), face.place) for face in each] if isinstance(each, list) else each
            for each in looked
        ]

    def _look(self, question: Question) -> list[_Face] | UnusableImageError:
        """The faces of a request of few images."""
        try:
            rows = range(len(question.contents))
            return self._decode(question, rows, _Room(self.max_request_pixels), self._bucket(question))
        except UnusableImageError as error:
            return error

    def _alone(
        self, question: Question, time: str
    ) -> tuple[list[list[_Face] | UnusableImageError], list[dict[str, Any]]]:
        """The faces of any request and a record for each; part by part, on all cores if there are several."""
        room, client = _Room(self.max_request_pixels), self._bucket(question)

        def part(rows: range) -> list[tuple[_Face, dict[str, Any]]]:
            faces = self._decode(question, rows, room, client)
            return list(zip(faces, self._records(faces, time), strict=True))

        whole = range(len(question.contents))
        try:
            if len(whole) <= BATCH_SIZE:
                pairs = part(whole)
            else:
                parts = [whole[start : start + BATCH_SIZE] for start in whole[::BATCH_SIZE]]
                pairs = [pair for done in self.helpers.map(part, parts) for pair in done]
        except UnusableImageError as error:
            return [error], []
        return [[face for face, _ in pairs]], [record for _, record in pairs]

    def _bucket(self, question: Question) -> int | None:
        if self.clients is None or question.client is None:
            return None
        return self.clients.bucket(question.client)

    def _decode(self, question: Question, rows: range, room: _Room, client: int | None) -> list[_Face]:
        side, shadow = self.classifier.card.input_side, self.shadow
        found = []
        for row in rows:
            try:
                with self.decoding:
                    image = pixels.decode(question.contents[row], self.max_pixels)
                    room.take(image.width * image.height)
                    places = faces.found(image) if question.find_faces else [None]
                    if places:
                        image = pixels.grey(image)  # once: a photograph takes up to 0.1 s, for each face
                    for face in places:
                        crop = image if face is None else faces.cut(image, face)
                        flat = pixels.flat(crop, side)
                        # Described at the size of the datasets' faces, so that drift compares like with like.
                        small = flat if side == pixels.FACE_SIDE else pixels.flat(crop)
                        shadowed = None
                        if shadow is not None:
                            shadowed = flat if side == shadow.side else pixels.flat(crop, shadow.side)
                        place = {} if face is None else {"image": row, **face.place()}
                        found.append(_Face(flat, small, shadowed, place, client))
            except ImageError as error:
                raise UnusableImageError(row, error.code, str(error)) from None
            except (UnusableImageError, faces.DetectorError):  # not this image's fault
                raise
            except Exception:  # Pillow's plug-ins raise nearly anything on hostile bytes
                raise UnusableImageError(row, "not_an_image", "the image cannot be decoded") from None
        return found

    def _records(self, seen: Sequence[_Face], time: str) -> list[dict[str, Any]]:
        """A record of the log for each face."""
        if not seen:
            return []
        predictions = self.classifier.predict(pixels.rgb(np.stack([face.flat for face in seen])), BATCH_SIZE)
        embeddings = predictions.embedding
        descriptors = describe.describe(np.stack([face.small for face in seen])).tolist()
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
                    "client": seen[row].client,
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


def _faces(looked: Sequence[list[_Face] | UnusableImageError]) -> list[_Face]:
    return [face for faces in looked if isinstance(faces, list) for face in faces]


def _kept(record: dict[str, Any], face: NDArray[np.uint8]) -> dict[str, Any]:
    """A face as the log keeps it: base64 of its grey pixels, row by row."""
    image = base64.b64encode(face.tobytes()).decode()
    return {"id": record["id"], "time": record["time"], "image": image}


def _rounded(value: float) -> float:
    """Seven significant digits, all that a float32 holds; a line of the log is half as long for it."""
    return float(f"{value:.7g}")
