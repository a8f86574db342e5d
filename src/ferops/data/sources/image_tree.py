"""Any `<split>/<emotion>/*.{png,jpg,jpeg}` tree, in a folder or a zip.

Emotions may go by any name that `ferops.emotions.canonical` knows. Without a validation split one is cut from
train; without a test split the tree is refused, for nothing could be measured on it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ferops.data.sources.layout import ignored_note, places
from ferops.data.sources.members import Members
from ferops.data.sources.source import LayoutError, Record


class ImageTree:
    """The tree as a source; record names are `<split>/<emotion>/<file>`.

    Raises:
        SourceError: if the archive is unsafe, a file has no place, or train or test is missing.
    """

    synthetic = False

    def __init__(self, path: Path) -> None:
        self._members = Members(path)
        self._places = places(path, self._members.names)
        splits = {place.split for place in self._places}
        for needed in ("train", "test"):
            if needed not in splits:
                raise LayoutError(
                    f"{path} has no {needed} split: put images that are kept apart in {needed}/<emotion>/"
                )
        self._own_validation = "validation" in splits

    @property
    def notes(self) -> Sequence[str]:
        """What was ignored."""
        return ignored_note(self._members.names)

    def sha256(self) -> str:
        """Digest of the zip, or of all files in the folder."""
        return self._members.sha256()

    def __len__(self) -> int:
        """Image files."""
        return len(self._places)

    def __iter__(self) -> Iterator[Record]:
        """Read the images by sorted name."""
        with self._members.reader() as read:
            for place in self._places:
                split = None if place.split == "train" and not self._own_validation else place.split
                yield Record(place.name, place.split_folder, split, place.emotion, read(place.member))
