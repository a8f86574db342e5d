"""`ferops data add`: a dataset into `data/raw`, under DVC, with `params.yaml` pointing at it.

    >>> add_dataset("fer2013_images", Path("~/Downloads/archive.zip"), Path("."))  # doctest: +SKIP

The source is opened and its first images are decoded before anything changes. The file is copied, not linked:
a later edit of the original must not reach what DVC has recorded.
"""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from ruamel.yaml import YAML

from ferops import files
from ferops.data import images
from ferops.data.sources import SourceError, open_source
from ferops.data.sources.fer2013_csv import CSV_NAME, VOTES_NAME
from ferops.data.sources.source import BrokenImageError, MissingSourceError
from ferops.settings import DataSettings, Settings

RAW = Path("data/raw")

#: Images decoded before a source is accepted; `ferops ingest` checks every one.
TRIED = 16


class AddError(RuntimeError):
    """The dataset could not be put under DVC; data and parameters are as they were."""


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
    if not (root / ".dvc").is_dir():
        raise AddError(f"{root.resolve()} is no DVC repository: run `dvc init` there first")
    votes = source == "fer2013_csv" and path.is_file() and path.with_name(VOTES_NAME).is_file()
    place = RAW / (path.stem if votes else path.name)
    params = _edited(root / "params.yaml", source, place)
    with _replaced(path, root / place, votes):
        _dvc_add(place, root)
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
    for record in islice(open_source(settings, seed=0), TRIED):
        try:
            images.decode(record.image)
        except images.ImageError as error:
            raise BrokenImageError(f"{record.name}: {error}. Repair or remove it") from None


@contextmanager
def _replaced(path: Path, place: Path, votes: bool) -> Iterator[None]:
    """Put a copy of `path` at `place`; what was there comes back if the block fails."""
    if path == place.resolve():
        yield
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    copy = place.with_name(f".{place.name}.tmp-copy")
    old = place.with_name(f".{place.name}.tmp-old")
    for stale in (copy, old):  # what a killed run left behind
        _remove(stale)
    try:
        if votes:
            copy.mkdir()
            shutil.copyfile(path, copy / CSV_NAME)
            shutil.copyfile(path.with_name(VOTES_NAME), copy / VOTES_NAME)
        elif path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copyfile(path, copy)
        if place.exists():
            os.replace(place, old)
        try:
            os.replace(copy, place)
            yield
        except BaseException:
            _remove(place)
            if old.exists():
                os.replace(old, place)
            raise
    finally:
        _remove(copy)
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _dvc_add(place: Path, root: Path) -> None:
    # DVC gives up on a busy lock after three seconds unless told to wait.
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "add", place.as_posix()]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "DVC_NO_ANALYTICS": "1"}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise AddError(f"`dvc add {place.as_posix()}` failed: {done.stderr.strip() or done.stdout.strip()}")


def _edited(params: Path, source: str, place: Path) -> str:
    """The parameters with the new source, comments and layout kept, checked before they are written."""
    editor = YAML()
    editor.preserve_quotes = True
    editor.representer.add_representer(type(None), _null)
    editor.width = 4096  # never wrap a line that a person wrote
    content = editor.load(params.read_text())
    content["data"]["source"] = source
    content["data"]["path"] = place.as_posix()
    if content["train"]["recipe"] == "synthetic" and "fer2013" in content["recipes"]:
        content["train"]["recipe"] = "fer2013"  # the synthetic recipe knows nothing of real faces
    buffer = io.StringIO()
    editor.dump(content, buffer)
    Settings.model_validate(yaml.safe_load(buffer.getvalue()))
    return buffer.getvalue()


def _null(representer: Any, _: None) -> Any:
    """`null` stays `null`; ruamel would leave the place empty."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
