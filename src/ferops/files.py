"""Files that appear whole or not at all: written beside their place, then renamed into it."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, creating its folder; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.tmp-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` for JSON; NaN and infinity are refused, for no JSON reader takes them."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file, naming it when it is absent or broken.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside its place; it replaces `path` only if the block ends without error.

    >>> with new_folder(Path("data/dataset")) as folder:  # doctest: +SKIP
    ...     (folder / "part-0.parquet").write_bytes(b"...")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.tmp-*"):  # what a killed run left behind
        shutil.rmtree(stale, ignore_errors=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
    try:
        yield beside
        os.chmod(beside, 0o755)
        retired = beside.with_name(beside.name + "-old")
        if path.exists():
            os.replace(path, retired)
        os.replace(beside, path)
        shutil.rmtree(retired, ignore_errors=True)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def sha256_of(content: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256(path: Path, ignore: Collection[str] = ()) -> str:
    """Hex SHA-256 of a file, or of a folder as the digest of its sorted (name, digest) pairs.

    Files of a folder whose name is in `ignore` do not count.
    """
    if path.is_dir():
        digest = hashlib.sha256()
        for member in sorted(p for p in path.rglob("*") if p.is_file() and p.name not in ignore):
            digest.update(f"{member.relative_to(path).as_posix()}\0{sha256(member)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
