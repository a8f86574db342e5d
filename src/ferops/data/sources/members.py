"""Files of a folder or of a zip, by sorted name; a zip is read in place, never unpacked to disk."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

from ferops import files
from ferops.data.sources.source import MissingSourceError, UnsafeArchiveError

#: A face is a few kB and a photograph a few MB; anything near this is no image of a dataset, or a zip bomb.
MAX_MEMBER_BYTES = 64_000_000

Read = Callable[[str], bytes]


class Members:
    """The files under `path`, a folder or a zip, as sorted POSIX names; hidden files are left out.

    Zips are checked whole before anything is read: damaged or encrypted ones, members with absolute names
    or `..`, two members of one name, and members over `MAX_MEMBER_BYTES` are refused.

    Raises:
        MissingSourceError: if `path` is neither a folder nor a zip.
        UnsafeArchiveError: naming the member that cannot be trusted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            self.names = _folder_names(path)
        elif not path.exists():
            raise MissingSourceError(f"{path} does not exist: correct data.path in params.yaml")
        elif zipfile.is_zipfile(path):
            with _opened(path) as archive:
                self.names = _zip_names(path, archive)
        else:
            raise MissingSourceError(f"{path} is neither a folder nor a zip file (or the zip is damaged)")

    def sha256(self) -> str:
        """Digest of the zip file, or of the names and contents of the listed files."""
        if not self.path.is_dir():
            return files.sha256(self.path)
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name}\0{files.sha256(self.path / name)}\n".encode())
        return digest.hexdigest()

    @contextmanager
    def reader(self) -> Iterator[Read]:
        """A function that gives a member's bytes; the zip stays open for as long as the block."""
        if self.path.is_dir():
            yield self._read_file
            return
        with _opened(self.path) as archive:
            yield lambda name: _read_member(archive, name)

    def _read_file(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


def _folder_names(folder: Path) -> list[str]:
    names = []
    for parent, folders, found in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        relative = Path(parent).relative_to(folder)
        for name in found:
            if not _hidden(name):
                file = Path(parent, name)
                if file.stat().st_size > MAX_MEMBER_BYTES and _image_like(name):
                    raise UnsafeArchiveError(f"{file} is larger than {MAX_MEMBER_BYTES:,} bytes: remove it")
                names.append((relative / name).as_posix())
    return sorted(names)


def _zip_names(path: Path, archive: zipfile.ZipFile) -> list[str]:
    names = []
    for member in archive.infolist():
        name = member.filename
        # `filename` has the separator of other systems replaced and is cut at a NUL: judge what was stored.
        stored = member.orig_filename
        climbs = ".." in PurePosixPath(stored).parts or ".." in PureWindowsPath(stored).parts
        absolute = stored.startswith(("/", "\\")) or PureWindowsPath(stored).drive != ""
        if climbs or absolute or "\0" in stored or "\\" in stored:
            raise UnsafeArchiveError(
                f"{path}: member {stored!r} points outside the archive or is no plain relative name. "
                "Do not trust this file; if it is yours, pack it again from inside its folder"
            )
        if member.flag_bits & 0x1:
            raise UnsafeArchiveError(
                f"{path}: member {name!r} is encrypted. Unpack it with its password and give the folder"
            )
        if member.file_size > MAX_MEMBER_BYTES:
            raise UnsafeArchiveError(
                f"{path}: member {name!r} unpacks to {member.file_size:,} bytes, more than "
                f"{MAX_MEMBER_BYTES:,}: no face image is that large. Remove it from the archive"
            )
        if not member.is_dir() and not any(_hidden(part) for part in PurePosixPath(name).parts):
            names.append(name)
    names.sort()
    for first, second in pairwise(names):
        if first == second:
            raise UnsafeArchiveError(f"{path}: two members are named {first!r}: keep one of them")
    return names


def _hidden(part: str) -> bool:
    return part.startswith(".") or part in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _image_like(name: str) -> bool:
    return name.lower().endswith((".png", ".jpg", ".jpeg"))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, UnicodeDecodeError) as error:
        raise UnsafeArchiveError(f"{path} is a damaged zip ({error}): download it again") from None
    with archive:
        yield archive


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)  # never more than the size in the directory, which was checked
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise UnsafeArchiveError(
            f"{archive.filename}: member {name!r} cannot be unpacked ({error}): download the archive again"
        ) from None
