"""FER2013 as the public image folder, or its zip: `train/angry/Training_10118481.jpg`.

The folders hold two splits, the file names all three of FER2013's own (Goodfellow et al. 2013): `Training_`,
`PublicTest_` and `PrivateTest_`. The names decide.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ferops.data.sources.layout import Place, ignored_note, places
from ferops.data.sources.members import Members
from ferops.data.sources.official_splits import official_splits
from ferops.data.sources.source import LayoutError, Record

FILE_NAME = re.compile(r"(Training|PublicTest|PrivateTest)_\d+\.(jpg|jpeg|png)", re.IGNORECASE)


class Fer2013Images:
    """The image folder as a source; record names are `train/angry/Training_10118481.jpg`.

    Raises:
        SourceError: if the archive is unsafe, a file has no place, or there is no Training or test split.
    """

    synthetic = False

    def __init__(self, path: Path) -> None:
        self._members = Members(path)
        self._places = places(path, self._members.names)
        self._usages = [_usage(path, place) for place in self._places]
        self._splits, self._split_notes = official_splits(path, set(self._usages))

    @property
    def notes(self) -> Sequence[str]:
        """Which official split is used for what, and what was ignored."""
        return [*self._split_notes, *ignored_note(self._members.names)]

    def sha256(self) -> str:
        """Digest of the zip, or of all files in the folder."""
        return self._members.sha256()

    def __len__(self) -> int:
        """Image files."""
        return len(self._places)

    def __iter__(self) -> Iterator[Record]:
        """Read the images by sorted name."""
        with self._members.reader() as read:
            for place, usage in zip(self._places, self._usages, strict=True):
                yield Record(place.name, usage, self._splits[usage], place.emotion, read(place.member))


def _usage(path: Path, place: Place) -> str:
    """The official split in a file's name."""
    file = PurePosixPath(place.member).name
    match = FILE_NAME.fullmatch(file)
    if match is None:
        raise LayoutError(
            f"{path}: {place.member!r} is not named as FER2013's files are (Training_<number>.jpg, "
            "PublicTest_<number>.jpg, PrivateTest_<number>.jpg). For other names set data.source: image_tree"
        )
    usage = file[: match.end(1)]
    if (usage == "Training") != (place.split == "train"):
        raise LayoutError(
            f"{path}: {place.member!r} is a {usage} image under {place.split_folder!r}: move it"
        )
    return usage
