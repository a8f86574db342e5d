"""A file or folder under DVC, and the parameters that name it: they change together or not at all."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from ferops.settings import Settings


class AddError(RuntimeError):
    """The dataset could not be put under DVC; data and parameters are as they were."""


def require_dvc(root: Path) -> None:
    """Raise `AddError` unless `root` is a DVC repository."""
    if not (root / ".dvc").is_dir():
        raise AddError(f"{root.resolve()} is no DVC repository: run `dvc init` there first")


@contextmanager
def replaced(place: Path, write: Callable[[Path], None]) -> Iterator[None]:
    """Put what `write` makes at `place`, a file or folder; what was there comes back if the block fails."""
    place.parent.mkdir(parents=True, exist_ok=True)
    new = place.with_name(f".{place.name}.tmp-copy")
    old = place.with_name(f".{place.name}.tmp-old")
    for stale in (new, old):  # what a killed run left behind
        _remove(stale)
    try:
        write(new)
        if place.exists():
            os.replace(place, old)
        try:
            os.replace(new, place)
            yield
        except BaseException:
            _remove(place)
            if old.exists():
                os.replace(old, place)
            raise
    finally:
        _remove(new)
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def dvc_add(place: Path, root: Path) -> None:
    """`dvc add` of a path relative to `root`.

    Raises:
        AddError: with DVC's own words.
    """
    # DVC gives up on a busy lock after three seconds unless told to wait.
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "add", place.as_posix()]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "DVC_NO_ANALYTICS": "1"}, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise AddError(f"`dvc add {place.as_posix()}` failed: {done.stderr.strip() or done.stdout.strip()}")


def edited(params: Path, change: Callable[[Any], None]) -> str:
    """The parameters after `change`, comments and layout kept, checked before they are written."""
    editor = YAML()
    editor.preserve_quotes = True
    editor.representer.add_representer(type(None), _null)
    editor.width = 4096  # never wrap a line that a person wrote
    content = editor.load(params.read_text())
    change(content)
    buffer = io.StringIO()
    editor.dump(content, buffer)
    Settings.model_validate(yaml.safe_load(buffer.getvalue()))
    return buffer.getvalue()


def _null(representer: Any, _: None) -> Any:
    """`null` stays `null`; ruamel would leave the place empty."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
