"""Small image folders, zips and CSVs for the tests of sources, in the layouts that people download."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ferops.data.sources.png import png
from ferops.emotions import EMOTIONS


def face(number: int, side: int = 48) -> bytes:
    """A distinct grey image as PNG."""
    return png(np.random.default_rng(number).integers(0, 256, (side, side), np.uint8))


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(face(number))).save(buffer, "JPEG")
    return buffer.getvalue()


def tree(splits: Mapping[str, int], emotions: tuple[str, ...] = EMOTIONS) -> dict[str, bytes]:
    """`<split>/<emotion>/<number>.png`, so many of each emotion, no two alike."""
    number = 0
    members = {}
    for split, count in splits.items():
        for emotion in emotions:
            for _ in range(count):
                members[f"{split}/{emotion}/{number:04d}.png"] = face(number)
                number += 1
    return members


def fer2013(usages: Mapping[str, int]) -> dict[str, bytes]:
    """`train/angry/Training_17.jpg` and so on, as the public download has them."""
    number = 0
    members = {}
    for usage, count in usages.items():
        folder = "train" if usage == "Training" else "test"
        for emotion in EMOTIONS:
            for _ in range(count):
                members[f"{folder}/{emotion}/{usage}_{number}.jpg"] = jpeg(number)
                number += 1
    return members


def write_folder(folder: Path, members: Mapping[str, bytes]) -> Path:
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def csv_row(emotion: object = 0, number: int = 0, usage: str = "Training") -> str:
    pixels = np.random.default_rng(number).integers(0, 256, 48 * 48)
    return f"{emotion},{' '.join(map(str, pixels))},{usage}"


def write_csv(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    return path


def csv_rows(usages: Mapping[str, int]) -> list[str]:
    """So many rows of each emotion."""
    rows = []
    for usage, count in usages.items():
        for _ in range(count):
            for emotion in range(7):
                rows.append(csv_row(emotion, len(rows), usage))
    return rows
