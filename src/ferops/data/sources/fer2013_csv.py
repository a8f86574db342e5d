"""FER2013 as the challenge's CSV: `emotion,pixels,Usage`, and FER+ votes where `fer2013new.csv` is there.

Rows are named as FER+ names them, `fer0000000` for the first. The pixels have never been anything but numbers
in this layout, so they are encoded as PNG, without loss.
"""

import csv
import hashlib
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from ferops import files
from ferops.data.images import FACE_SIDE
from ferops.data.sources.official_splits import USAGES, official_splits
from ferops.data.sources.png import png
from ferops.data.sources.source import MalformedRowError, MissingSourceError, Record, UnknownLabelError
from ferops.emotions import FER2013_CODES

CSV_NAME = "fer2013.csv"
VOTES_NAME = "fer2013new.csv"
COLUMNS = ("emotion", "pixels", "Usage")
PIXELS = FACE_SIDE * FACE_SIDE

#: FER+ columns (Barsoum et al. 2016) and the name each goes by in `votes`.
VOTE_COLUMNS: Mapping[str, str] = {
    "neutral": "neutral",
    "happiness": "happy",
    "surprise": "surprise",
    "sadness": "sad",
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "contempt": "contempt",
    "unknown": "unknown",
    "NF": "not_a_face",
}

_NUMBERS = re.compile(r"[0-9 ]+")


class Fer2013Csv:
    """The CSV as a source. `path` is the file, or a folder that holds `fer2013.csv`.

    Raises:
        MissingSourceError: if there is no such file.
        MalformedRowError: if its header lacks a column.
        LayoutError: if there is no Training or no test split.
    """

    synthetic = False

    def __init__(self, path: Path) -> None:
        self._csv = path / CSV_NAME if path.is_dir() else path
        if not self._csv.is_file():
            raise MissingSourceError(f"{self._csv} does not exist: correct data.path in params.yaml")
        votes = self._csv.with_name(VOTES_NAME)
        self._votes = votes if votes.is_file() else None
        with _open(self._csv) as file:
            _header(self._csv, file, COLUMNS)
        with self._csv.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
            present = {usage for usage in USAGES if content.find(usage.encode()) >= 0}
        self._splits, self._split_notes = official_splits(self._csv, present)

    @property
    def notes(self) -> Sequence[str]:
        """Which official split is used for what, and whether FER+ votes are there."""
        return [*self._split_notes, *(["FER+ votes are attached."] if self._votes else [])]

    def sha256(self) -> str:
        """Digest of the CSV, and of the votes where there are any."""
        digest = files.sha256(self._csv)
        if self._votes is None:
            return digest
        return hashlib.sha256(f"{digest}{files.sha256(self._votes)}".encode()).hexdigest()

    def __len__(self) -> int:
        """Lines without the header."""
        with self._csv.open("rb") as file:
            return max(sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) - 1, 0)

    def __iter__(self) -> Iterator[Record]:
        """Read the rows in file order."""
        votes = _votes(self._votes) if self._votes else None
        number = -1
        for number, (emotion, pixels, usage) in enumerate(_rows(self._csv, COLUMNS)):
            where = f"{self._csv}: row {number + 1}"
            counts = None
            if votes is not None:
                vote = next(votes, None)
                if vote is None or vote[0] != usage.strip():
                    raise MalformedRowError(
                        f"{self._votes}: row {number + 1} is missing or of another split than in "
                        f"{self._csv.name}: FER+ has one row per CSV row. Get both files again"
                    )
                counts = vote[1]
            if usage.strip() not in self._splits:
                raise MalformedRowError(f"{where}: Usage is {usage!r}, expected one of {', '.join(USAGES)}")
            yield Record(
                name=f"fer{number:07d}",
                source_split=usage.strip(),
                split=self._splits[usage.strip()],
                emotion=_emotion(where, emotion),
                image=png(np.frombuffer(_grey(where, pixels), np.uint8).reshape(FACE_SIDE, FACE_SIDE)),
                votes=counts,
            )
        if votes is not None and next(votes, None) is not None:
            raise MalformedRowError(
                f"{self._votes} has more rows than {self._csv.name}: get both files again"
            )


def _emotion(where: str, text: str) -> str:
    code = text.strip()
    if not code.isascii() or not code.isdigit() or int(code) not in FER2013_CODES:
        known = ", ".join(f"{number} {name}" for number, name in FER2013_CODES.items())
        raise UnknownLabelError(f"{where}: emotion is {text[:40]!r}, expected one of {known}")
    return FER2013_CODES[int(code)]


def _grey(where: str, text: str) -> bytes:
    values = text.split()
    if len(values) != PIXELS:
        raise MalformedRowError(
            f"{where}: {len(values):,} pixels, expected {PIXELS:,} (48x48). Is the file cut off?"
        )
    try:
        if not _NUMBERS.fullmatch(text):
            raise ValueError
        return bytes(map(int, values))
    except ValueError:
        wrong = next(v for v in values if not _NUMBERS.fullmatch(v) or int(v) > 255)
        raise MalformedRowError(f"{where}: pixel {wrong[:40]!r} is no whole number of 0 to 255") from None


def _votes(path: Path) -> Iterator[tuple[str, dict[str, int]]]:
    for number, (usage, *counts) in enumerate(_rows(path, ("Usage", *VOTE_COLUMNS))):
        wrong = next((c for c in counts if not (c.strip().isascii() and c.strip().isdigit())), None)
        if wrong is not None:
            raise MalformedRowError(f"{path}: row {number + 1}: vote {wrong[:40]!r} is no count")
        yield usage.strip(), dict(zip(VOTE_COLUMNS.values(), map(int, counts), strict=True))


def _rows(path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """The named columns of every row; blank lines are skipped."""
    with _open(path) as file:
        reader, places = _header(path, file, columns)
        number = 0
        try:
            for row in reader:
                if not row:
                    continue
                number += 1
                if len(row) <= max(places):
                    raise MalformedRowError(
                        f"{path}: row {number} has {len(row)} fields, too few. Is the file cut off?"
                    )
                yield [row[place] for place in places]
        except (csv.Error, UnicodeDecodeError) as error:
            raise MalformedRowError(f"{path}: row {number + 1} cannot be read: {error}") from None


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _header(path: Path, file: TextIO, columns: Sequence[str]) -> tuple[Iterator[list[str]], list[int]]:
    reader = csv.reader(file)
    try:
        header = [name.strip() for name in next(reader, [])]
    except (csv.Error, UnicodeDecodeError) as error:
        raise MalformedRowError(f"{path}: the header cannot be read: {error}") from None
    missing = [column for column in columns if column not in header]
    if missing:
        raise MalformedRowError(
            f"{path}: the header has no column {', '.join(missing)}; it needs {','.join(columns)}"
        )
    return reader, [header.index(column) for column in columns]
