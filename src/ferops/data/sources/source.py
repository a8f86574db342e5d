"""What every source of images gives: `Record`s, lazily, and errors that name the member or row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ferops.data.store import Split


class SourceError(ValueError):
    """The source cannot be used; the message names the file, member or row, and what to do."""


class MissingSourceError(SourceError):
    """The file or folder is absent, or is none of what the source reads."""


class UnsafeArchiveError(SourceError):
    """A zip that is damaged, encrypted or oversized, or has members that climb out of it."""


class LayoutError(SourceError):
    """A file stands where the layout has no place for it, or a split is missing."""


class UnknownLabelError(SourceError):
    """A label that is none of the seven emotions."""


class MalformedRowError(SourceError):
    """A CSV row that cannot be read."""


class BrokenImageError(SourceError):
    """A member that no image reader takes."""


class EmptyClassError(SourceError):
    """A split that lacks one of the seven emotions."""


@dataclass(frozen=True)
class Record:
    """One image as the source has it.

    Attributes:
        name: unique in the source and stable: a member's path, a row's FER+ name.
        source_split: the source's own word, such as `PublicTest`.
        split: train, validation or test; none for training images from which validation is to be cut.
        emotion: canonical.
        image: the encoded bytes, as they were found where there are any.
        votes: annotators' counts by emotion (FER+), or none.
    """

    name: str
    source_split: str
    split: Split | None
    emotion: str
    image: bytes
    votes: Mapping[str, int] | None = None


class Source(Protocol):
    """A dataset in one layout. Opening checks what can be checked cheaply; iterating reads, one by one.

    The order of records depends on the content alone, never on the machine.
    """

    @property
    def synthetic(self) -> bool:
        """True for the embedded generator."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences a reader of results should know."""

    def sha256(self) -> str:
        """Digest of the source's files, or of the generator's settings."""

    def __len__(self) -> int:
        """How many records there will be, for progress; an estimate is enough."""

    def __iter__(self) -> Iterator[Record]:
        """Read the records.

        Raises:
            SourceError: naming the member or row that cannot be used.
        """
