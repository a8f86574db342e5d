"""How well faces are found in composed photographs, what that does to the answers, and what it costs.

    python benchmarks/faces.py --dataset data/dataset --package packages/patt_lite --out faces.json

Faces of the test split are pasted at known places, sizes and tilts onto drawn backgrounds. The dataset must
be of real people: the detector does not take the drawn synthetic faces for faces.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ferops import files
from ferops.data import images as pixels
from ferops.data.store import Dataset
from ferops.models.onnx import OnnxClassifier
from ferops.serving import faces

SIZE = (640, 480)  # of the composed photographs, pixels
SIZES = (32, 48, 64, 96, 160, 240, 400)  # side of the pasted crops, pixels, upright
TILTS = (0, 15, 30, 45, 60, 90)  # degrees, either way, at side 160
MIN_OVERLAP = 0.5

#: Where the face is in one of FER2013's crops: the box YuNet gives, median over the validation split, as
#: shares of the side. Annotation by hand would be better; at an overlap of 0.5 it is near enough.
LABEL = np.array([0.07, 0.01, 0.84, 1.01])


@dataclass
class Condition:
    """What was counted for one size and tilt."""

    name: str
    faces: int = 0
    found: int = 0
    reported: int = 0
    right_original: int = 0
    right_found: int = 0
    agreeing: int = 0

    def row(self) -> dict[str, float | str | int]:
        """Rates; accuracies are over the faces found alone."""
        return {
            "condition": self.name,
            "faces": self.faces,
            "recall": self.found / self.faces,
            "precision": self.found / self.reported if self.reported else float("nan"),
            "accuracy of the original crops": self.right_original / max(self.found, 1),
            "accuracy of the crops found": self.right_found / max(self.found, 1),
            "same label": self.agreeing / max(self.found, 1),
        }


def background(rng: np.random.Generator) -> Image.Image:
    """Blurred noise of several scales, with lines, boxes and ellipses over it."""
    picture = np.zeros(SIZE[::-1])
    for cells in (4, 12, 40):
        noise = Image.fromarray(rng.normal(0, 30, (cells, cells)).astype(np.float32))
        picture += np.asarray(noise.resize(SIZE, Image.Resampling.BICUBIC))
    image = Image.fromarray(np.clip(picture + rng.uniform(70, 180), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        (left, right), (top, bottom) = np.sort(rng.integers(0, SIZE, (2, 2)), axis=0).T
        shape = (draw.rectangle, draw.ellipse, draw.line)[rng.integers(3)]
        shape((int(left), int(top), int(right) + 1, int(bottom) + 1), fill=int(rng.integers(256)))
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 2))))


def composed(
    crops: NDArray[np.uint8], side: int, tilt: float, rng: np.random.Generator
) -> Iterator[tuple[Image.Image, list[int], list[NDArray[np.floating]]]]:
    """Photographs with up to three faces each, the rows of the crops in them, and the faces' boxes."""
    each = 3 if side <= 160 else 1
    for start in range(0, len(crops), each):
        photo, rows, boxes = background(rng), [], []
        for slot, row in enumerate(range(start, min(start + each, len(crops)))):
            face = Image.fromarray(crops[row, :, :, 0]).resize((side, side), Image.Resampling.BICUBIC)
            angle = tilt * rng.choice([-1, 1])
            turned = face.rotate(angle, Image.Resampling.BICUBIC, expand=True)
            mask = Image.new("L", face.size, 255).rotate(angle, expand=True)
            room = SIZE[0] // each - turned.width
            x = slot * (SIZE[0] // each) + int(rng.integers(0, max(1, room)))
            y = int(rng.integers(0, max(1, SIZE[1] - turned.height)))
            photo.paste(turned, (x, y), mask)
            rows.append(row)
            boxes.append(_label(x, y, turned.width, side, angle))
        yield photo, rows, boxes


def _label(x: int, y: int, turned: int, side: int, angle: float) -> NDArray[np.floating]:
    """The face's box after its crop was turned about its centre: the ellipse in the label's box, turned."""
    offset = (LABEL[:2] + LABEL[2:] / 2 - 0.5) * side
    a, radii = np.radians(-angle), LABEL[2:] * side / 2
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    centre = np.array([x, y]) + turned / 2 + turn @ offset
    half = np.sqrt((turn**2) @ radii**2)
    return np.concatenate([centre - half, 2 * half])


def measure(
    crops: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classifier: OnnxClassifier,
    side: int,
    tilt: float,
    seed: int,
) -> Condition:
    """Find the pasted faces, and classify what was found."""
    condition = Condition(f"side {side}, tilt {tilt:g}°")
    original = classifier.predict(crops).probabilities.argmax(1)
    for photo, rows, boxes in composed(crops, side, tilt, np.random.default_rng(seed)):
        detected = faces.found(photo)
        condition.faces += len(rows)
        condition.reported += len(detected)
        for row, box in zip(rows, boxes, strict=True):
            match = max(detected, key=lambda face: faces.overlap(np.array(face.box), box), default=None)
            if match is None or faces.overlap(np.array(match.box), box) < MIN_OVERLAP:
                continue
            given = classifier.predict(pixels.face(faces.cut(photo, match))[None]).probabilities.argmax()
            condition.found += 1
            condition.right_original += int(original[row] == labels[row])
            condition.right_found += int(given == labels[row])
            condition.agreeing += int(given == original[row])
    return condition


def cost(crop: NDArray[np.uint8], classifier: OnnxClassifier, repeats: int = 60) -> dict[str, float]:
    """Median milliseconds of each step for one photograph, taken in turns on this machine."""
    rng = np.random.default_rng(0)
    (photo, _, _) = next(composed(np.repeat(crop, 3, axis=0), 160, 0, rng))
    face = faces.found(photo)[0]
    large = photo.resize((4000, 3000))
    empty = Image.new("L", SIZE, 128)
    steps = {
        "classify one face": lambda: classifier.predict(crop),
        "find, 640x480": lambda: faces.found(photo),
        "find, 640x480 without a face (two views)": lambda: faces.found(empty),
        "find, 4000x3000": lambda: faces.found(large),
        "cut one face out": lambda: faces.cut(photo, face),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(taken)) for name, taken in times.items()}


def main() -> None:
    """Measure every condition and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, default=Path("data/dataset"))
    parser.add_argument("--package", type=Path, default=Path("packages/patt_lite"))
    parser.add_argument("--faces", type=int, default=600, help="of each condition")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    dataset = Dataset.open(arguments.dataset)
    if dataset.summary.synthetic:
        raise SystemExit(f"{arguments.dataset} holds drawn faces, which no detector takes for faces")
    chosen = np.random.default_rng(arguments.seed).permutation(len(dataset.labels("test")))[: arguments.faces]
    crops, labels = dataset.images("test")[chosen], dataset.labels("test")[chosen]
    classifier = OnnxClassifier(arguments.package)

    conditions = [(side, 0.0) for side in SIZES] + [(160, float(tilt)) for tilt in TILTS if tilt]
    rows = []
    for side, tilt in conditions:
        rows.append(measure(crops, labels, classifier, side, tilt, arguments.seed).row())
        print(
            "  ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in rows[-1].values()), flush=True
        )
    rng = np.random.default_rng(arguments.seed)
    nothing = [len(faces.found(background(rng))) for _ in range(200)]
    passed = [faces.found(Image.fromarray(crop[:, :, 0])) for crop in crops]
    whole = sum(len(given) == 1 and given[0].square is None for given in passed)
    enlarged = [faces.found(Image.fromarray(crop[:, :, 0]).resize((160, 160))) for crop in crops]
    large = sum(len(given) == 1 and given[0].square is None for given in enlarged)
    result = {
        "conditions": rows,
        "faces in 200 backgrounds": sum(nothing),
        "48x48 crops passed through": whole / len(crops),
        "crops enlarged to 160x160 passed through": large / len(crops),
        "milliseconds": cost(crops[:1], classifier),
    }
    for name, value in result.items():
        if name != "conditions":
            print(name, value)
    if arguments.out:
        files.write_json(arguments.out, result)


if __name__ == "__main__":
    main()
