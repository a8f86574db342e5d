"""Faces in a photograph: found, cut out and turned upright, as the datasets' faces are.

    >>> for face in found(image):  # doctest: +SKIP
    ...     pixels.face(cut(image, face), 48)  # uint8 [48, 48, 3], what the classifier takes

The detector is YuNet (Wu, Peng and Yu 2023, "YuNet: a tiny millisecond-level face detector"), the file that
OpenCV publishes, run by the ONNX Runtime that runs the classifier. docs/faces.md has what was measured.
"""

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ferops.data import images as pixels
from ferops.errors import reason
from ferops.serving.uploads import UploadError

if TYPE_CHECKING:
    import onnxruntime

Floats = NDArray[np.floating]

WEIGHTS = Path(__file__).parent / "yunet" / "face_detection_yunet_2023mar.onnx"

#: Side of the square that the network takes, pixels: detection costs the same whatever the photograph's size.
CANVAS = 640

#: Longest side to which a photograph is brought, pixels. YuNet was trained on faces of some 10 to 300 pixels:
#: one that fills the frame is found only in the second, smaller view, looked at when the first shows none.
VIEWS = (640, 224)

#: Faces below it are not reported. Against 0.6 it takes two of three false alarms away for 2 to 4 % of the
#: faces; docs/faces.md has the table.
MIN_SCORE = 0.7

#: Of two boxes that overlap more than this (intersection over union), the lower score is the same face.
MAX_OVERLAP = 0.3

#: The best-scored so many of one image are classified.
MAX_FACES = 64

#: An image no larger than this, pixels, is a face cut out beforehand, as the datasets' 48x48: half of it
#: would be too small to read.
CROP_SIDE = 64

#: A single face whose box is this share of the image's width and height fills it: the image is a crop.
#: Of FER2013's faces nine of ten take at least 0.68 and 0.83.
FILLS = 0.6

#: Side of the square cut out, over the geometric mean of the box's width and height: what FER2013's crops
#: have, median over its validation images. That mean hardly changes when a face is tilted.
MARGIN = 1.08


class DetectorError(RuntimeError):
    """The detector cannot be loaded or run, whatever the image: a fault of this installation."""


@dataclass(frozen=True)
class Square:
    """Where to cut: centre x, y and side in pixels of the upright image, and the eyes' slope in radians."""

    centre: tuple[float, float]
    side: float
    slope: float


@dataclass(frozen=True)
class Face:
    """One face of an image.

    Attributes:
        box: x, y, width, height in pixels of the upright image, within it.
        score: the detector's, 0 to 1; None for a small image, taken as a crop without looking.
        square: what to cut out; None where the image itself is the crop.
    """

    box: tuple[int, int, int, int]
    score: float | None
    square: Square | None

    def place(self) -> dict[str, Any]:
        """Box and score as answers give them."""
        return {"box": dict(zip(("x", "y", "width", "height"), self.box, strict=True)), "score": self.score}


def wanted(choice: str | None) -> bool:
    """What `faces=` in a request's query asks for: `auto` is True; `none`, or nothing, is False.

    Raises:
        UploadError: 422 `bad_faces` for anything else.
    """
    if choice not in (None, "auto", "none"):
        raise UploadError(
            422, "bad_faces", "`faces` must be `auto` (find faces) or `none` (the image is one)"
        )
    return choice == "auto"


def found(image: Image.Image) -> list[Face]:
    """The faces of an upright image, best score first; deterministic, and safe to call from many threads.

    An image that is already a crop (of at most `CROP_SIDE`, or filled by its only face) gives itself.

    Raises:
        DetectorError: if the detector cannot be loaded or run.
    """
    whole = (0, 0, image.width, image.height)
    if max(image.size) <= CROP_SIDE:
        return [Face(whole, None, None)]
    faces = []
    for box, score, landmarks in zip(*_detect(image), strict=True):
        left, top = np.clip(box[:2], 0, image.size)
        right, bottom = np.clip(box[:2] + box[2:], 0, image.size)
        if right - left < 2 or bottom - top < 2:  # outside the image, in what was filled up
            continue
        x, y = round(float(left)), round(float(top))
        within = (x, y, max(1, round(float(right)) - x), max(1, round(float(bottom)) - y))
        faces.append(Face(within, round(float(score), 4), _square(box, landmarks)))
    if len(faces) == 1 and _fills(faces[0], image):
        return [Face(faces[0].box, faces[0].score, None)]
    return faces[:MAX_FACES]


def cut(image: Image.Image, face: Face) -> Image.Image:
    """The face as FER2013's are: grey, eyes level, with their margin; the image itself if it is the crop.

    What lies outside the photograph is black, as where the datasets' own crops reach over an edge. The crop
    is at most `2 * CROP_SIDE` pixels wide: a larger face is reduced, averaging, before it is turned.
    """
    flat = pixels.grey(image)
    square = face.square
    if square is None:
        return flat
    side = max(1, min(round(square.side), 2 * CROP_SIDE))
    turn = np.array(
        [[math.cos(square.slope), -math.sin(square.slope)], [math.sin(square.slope), math.cos(square.slope)]]
    )
    # The part that the turned square reaches, with two pixels of the crop more for the interpolation.
    reach = float(np.abs(turn).sum(1)[0]) * square.side / 2 + 2 * square.side / side
    low = np.clip(np.floor(np.subtract(square.centre, reach)), 0, image.size).astype(int)
    high = np.clip(np.ceil(np.add(square.centre, reach)), 0, image.size).astype(int)
    if (high <= low).any():
        return Image.new("L", (side, side))
    size = np.maximum(1, np.ceil((high - low) * side / square.side)).astype(int)
    part = flat.resize(
        (int(size[0]), int(size[1])),
        Image.Resampling.BILINEAR,
        box=(int(low[0]), int(low[1]), int(high[0]), int(high[1])),
        reducing_gap=3.0,
    )
    scale = size / (high - low)
    matrix = turn * (square.side / side) * scale[:, None]
    offset = (np.array(square.centre) - low) * scale - matrix @ [side / 2, side / 2]
    return part.transform(
        (side, side),
        Image.Transform.AFFINE,
        (*matrix[0], offset[0], *matrix[1], offset[1]),
        Image.Resampling.BILINEAR,
    )


def _fills(face: Face, image: Image.Image) -> bool:
    return face.box[2] >= FILLS * image.width and face.box[3] >= FILLS * image.height


def _square(box: Floats, landmarks: Floats) -> Square:
    left_eye, right_eye = landmarks[:2]
    across, down = right_eye - left_eye
    x, y = box[:2] + box[2:] / 2
    return Square((float(x), float(y)), MARGIN * math.sqrt(box[2] * box[3]), math.atan2(down, across))


@functools.cache
def _session() -> "onnxruntime.InferenceSession":
    """Loaded when the first photograph comes: a service that is sent crops alone never pays for it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # requests have threads of their own
    return onnxruntime.InferenceSession(str(WEIGHTS), options, providers=["CPUExecutionProvider"])


def _run(canvas: NDArray[np.float32]) -> list[Any]:
    try:
        outputs: list[Any] = _session().run(None, {"input": canvas.transpose(2, 0, 1)[None]})
    except Exception as error:  # the runtime has many kinds
        raise DetectorError(f"the face detector {WEIGHTS.name} cannot be used: {reason(error)}") from error
    return outputs


def _detect(image: Image.Image) -> tuple[Floats, Floats, Floats]:
    """Boxes `[N, 4]`, scores `[N]` and landmarks `[N, 5, 2]`, best first, in pixels of the image."""
    colours = image if image.mode in ("L", "RGB") else _rgb(image)  # the latter copies
    for longest in VIEWS:
        scale = longest / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        view = _rgb(colours.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))
        canvas = np.zeros((CANVAS, CANVAS, 3), np.float32)
        canvas[: size[1], : size[0]] = np.asarray(view)[:, :, ::-1]
        boxes, scores, landmarks = _decoded(_run(canvas))
        if len(scores):
            break
    back = np.array(image.size) / size
    return boxes * np.tile(back, 2), scores, landmarks * back


def _decoded(outputs: list[Any]) -> tuple[Floats, Floats, Floats]:
    """What the network's twelve outputs say: one cell of each of three grids may hold one face.

    As OpenCV's `FaceDetectorYN` reads them: the score is the geometric mean of the cell's two, centre and
    landmarks are offsets from the cell's corner, sizes exponents, all in strides of the grid.
    """
    boxes, scores, landmarks = [], [], []
    for level, stride in enumerate((8, 16, 32)):
        face, objectness, box, points = (outputs[level + 3 * kind][0] for kind in range(4))
        score = np.sqrt(np.clip(face[:, 0], 0, 1) * np.clip(objectness[:, 0], 0, 1))
        cells = np.flatnonzero(score >= MIN_SCORE)
        corner = np.stack([cells % (CANVAS // stride), cells // (CANVAS // stride)], axis=1)
        size = np.exp(box[cells, 2:])
        boxes.append(np.hstack([corner + box[cells, :2] - size / 2, size]) * stride)
        scores.append(score[cells])
        landmarks.append((points[cells].reshape(-1, 5, 2) + corner[:, None]) * stride)
    every_box, every_score, every_mark = (np.concatenate(part) for part in (boxes, scores, landmarks))
    best = _without_overlap(every_box, every_score)
    return every_box[best], every_score[best], every_mark[best]


def _without_overlap(boxes: Floats, scores: Floats) -> list[int]:
    """Rows of the best of each group of boxes that overlap, best first (non-maximum suppression)."""
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        if all(overlap(boxes[row], boxes[other]) <= MAX_OVERLAP for other in kept):
            kept.append(int(row))
    return kept


def overlap(one: Floats, other: Floats) -> float:
    """Intersection over union of two boxes x, y, width, height; 0 to 1."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / (float(np.prod(one[2:]) + np.prod(other[2:])) - shared)


def _rgb(image: Image.Image) -> Image.Image:
    """In colour where there is any: alpha is dropped, 16 bits become 8, as for the classifier."""
    if image.mode.startswith(("I", "F")):
        image = pixels.grey(image)
    elif image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
