"""`ferops data add`: a dataset into `data/raw`, under DVC, with `params.yaml` pointing at it.

    >>> add_dataset("fer2013_images", Path("~/Downloads/archive.zip"), Path("."))  # doctest: +SKIP

The source is opened and its first images are decoded before anything changes. The file is copied, not linked:
a later edit of the original must not reach what DVC has recorded.
"""

import shutil
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ferops import files
from ferops.data import images
from ferops.data.sources import SourceError, open_source
from ferops.data.sources.fer2013_csv import CSV_NAME, VOTES_NAME
from ferops.data.sources.source import BrokenImageError, MissingSourceError
from ferops.data.versioned import AddError, dvc_add, edited, replaced, require_dvc
from ferops.settings import DataSettings

__all__ = ["AddError", "add_dataset"]

RAW = Path("data/raw")

#: Images decoded before a source is accepted; `ferops ingest` checks every one.
TRIED = 16


def add_dataset(source: str, path: Path, root: Path) -> None:
    """Copy `path` to `data/raw/<name>`, run `dvc add` on it, and set `data.source` and `data.path`.

    A dataset of the same name is replaced; the older one stays in DVC's cache and comes back with
    `git checkout` and `dvc checkout`. A FER2013 CSV with FER+ votes beside it becomes a folder of both.

    Args:
        source: `fer2013_csv`, `fer2013_images` or `image_tree`.
        path: the dataset's file or folder.
        root: the repository, with `params.yaml` and `.dvc`.

    Raises:
        SourceError: if the source cannot be read; nothing was changed.
        AddError: if DVC refuses; nothing was changed.
    """
    path = path.expanduser().resolve()
    _try(source, path)
    require_dvc(root)
    votes = source == "fer2013_csv" and path.is_file() and path.with_name(VOTES_NAME).is_file()
    place = RAW / (path.stem if votes else path.name)

    def point(content: Any) -> None:
        content["data"]["source"] = source
        content["data"]["path"] = place.as_posix()
        if content["train"]["recipe"] == "synthetic" and "fer2013" in content["recipes"]:
            content["train"]["recipe"] = "fer2013"  # the synthetic recipe knows nothing of real faces

    def copy(new: Path) -> None:
        if votes:
            new.mkdir()
            shutil.copyfile(path, new / CSV_NAME)
            shutil.copyfile(path.with_name(VOTES_NAME), new / VOTES_NAME)
        elif path.is_dir():
            shutil.copytree(path, new)
        else:
            shutil.copyfile(path, new)

    params = edited(root / "params.yaml", point)
    in_place = path == (root / place).resolve()
    with nullcontext() if in_place else replaced(root / place, copy):
        dvc_add(place, root)
    files.write_text(root / "params.yaml", params)


def _try(source: str, path: Path) -> None:
    if source == "synthetic":
        raise SourceError("the synthetic faces need no file: set data.source in params.yaml")
    try:
        settings = DataSettings.model_validate({"source": source, "path": path})
    except ValidationError:
        raise SourceError(
            f"unknown source {source!r}: expected fer2013_csv, fer2013_images or image_tree"
        ) from None
    if not path.exists():
        raise MissingSourceError(f"{path} does not exist")
    for record in islice(open_source(settings), TRIED):
        try:
            images.decode(record.image)
        except images.ImageError as error:
            raise BrokenImageError(f"{record.name}: {error}. Repair or remove it") from None
