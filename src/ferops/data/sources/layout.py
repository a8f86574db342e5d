"""`<split>/<emotion>/<file>`: reading a name of an image folder, and refusing what has no place in it."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ferops.data.sources.source import LayoutError, UnknownLabelError
from ferops.data.store import Split
from ferops.emotions import UnknownEmotionError, canonical

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

#: Folder names in use for each split, lower case.
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


class Place(NamedTuple):
    """Where an image file stands. `name` is its path below the folder that holds the splits."""

    member: str
    name: str
    split_folder: str
    split: Split
    emotion: str


def places(path: Path, names: Sequence[str]) -> list[Place]:
    """Place every image among `names`, in their order; other files are left out.

    The splits may lie under one or more top folders, but all under the same ones.

    Raises:
        LayoutError: if an image stands elsewhere than in `<split>/<emotion>/`, or there is no image.
        UnknownLabelError: if an emotion folder means none of the seven.
    """
    placed = []
    top: tuple[str, ...] | None = None
    for member in names:
        if not is_image(member):
            continue
        parts = PurePosixPath(member).parts
        if len(parts) < 3 or parts[-3].lower() not in SPLIT_NAMES:
            raise LayoutError(
                f"{path}: {member!r} does not stand in <split>/<emotion>/ with a split of "
                f"{', '.join(SPLIT_NAMES)}: move or remove it"
            )
        top = parts[:-3] if top is None else top
        if parts[:-3] != top:
            raise LayoutError(
                f"{path}: {member!r} lies under {'/'.join(parts[:-3]) or 'the top'!r}, others under "
                f"{'/'.join(top) or 'the top'!r}: give the one folder that holds the splits"
            )
        try:
            emotion = canonical(parts[-2])
        except UnknownEmotionError as error:
            raise UnknownLabelError(f"{path}: {member!r}: {error}. Rename or remove the folder") from None
        split = SPLIT_NAMES[parts[-3].lower()]
        placed.append(Place(member, "/".join(parts[-3:]), parts[-3], split, emotion))
    if not placed:
        raise LayoutError(f"{path} holds no PNG or JPEG image in <split>/<emotion>/: check data.path")
    return placed


def is_image(name: str) -> bool:
    """True for the file names that are read as images."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def ignored_note(names: Sequence[str]) -> list[str]:
    """A sentence on the files that were not read as images, if there are any."""
    ignored = [name for name in names if not is_image(name)]
    if not ignored:
        return []
    return [f"{len(ignored):,} files are no PNG or JPEG and were ignored, such as {ignored[0]}."]
