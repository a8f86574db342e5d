"""`ferops data collect`: faces that the service kept and people named become a new version of the dataset.

    >>> collect(Path("predictions"), Path(".")).sentence()  # doctest: +SKIP
    'data/collected: batch 20261122T201500Z with 120 new labels; train 84, validation 12, test 24'

Nothing is learnt from them yet: `dvc repro` ingests them beside the main source, and validation looks at
their labels as at any other's. A batch that it stops is taken out with `ferops data reject`.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from ferops import files
from ferops.data import collected
from ferops.data.collected import Labelled
from ferops.data.progress import track
from ferops.data.store import SPLITS, Split
from ferops.data.versioned import require_dvc
from ferops.serving.log_days import tombstones
from ferops.serving.log_reader import one, read_log
from ferops.settings import CollectedSettings, load_settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Before any prediction.
EVER = datetime(1970, 1, 1, tzinfo=UTC)

#: Kept faces in memory at once, 3 kB each.
BLOCK = 1000


class NothingKeptError(LookupError):
    """The service keeps no faces."""


@dataclass(frozen=True)
class Collection:
    """What a call of `collect` did.

    Attributes:
        batch: its name; none when there was nothing new.
        new: labels in it; also those that somebody changed since they were collected.
        forgotten: rows that left older batches.
        unlabelled: kept faces of which nobody said anything.
        splits: where the images of the batch go.
        sha256: version of `data/collected` now; none when there is none yet.
    """

    batch: str | None
    new: int
    forgotten: int
    unlabelled: int
    splits: Mapping[Split, int]
    sha256: str | None

    def sentence(self) -> str:
        """The outcome, for a terminal."""
        waiting = f"; {self.unlabelled:,} kept faces have no feedback" if self.unlabelled else ""
        gone = f"; {self.forgotten:,} forgotten rows taken out" if self.forgotten else ""
        if self.batch is None:
            return f"{collected.PLACE}: nothing new{gone}{waiting}"
        where = ", ".join(f"{split} {count:,}" for split, count in self.splits.items())
        return f"{collected.PLACE}: batch {self.batch} with {self.new:,} new labels; {where}{gone}{waiting}"


def collect(
    log_dir: Path, root: Path, now: datetime | None = None, since: datetime | None = None
) -> Collection:
    """Put what is new among the labelled faces of the log into a batch, under DVC.

    Repeating it does no harm: a label is collected once, and again only if somebody changed it. What was
    forgotten (`ferops forget`) leaves the batches too.

    Args:
        log_dir: the folder that the service logs to, with `FEROPS_KEEP_IMAGES`.
        root: the repository, with `params.yaml` and `.dvc`.
        now: aware; names the batch. The present when none.
        since: aware; only faces that were predicted then or later, such as those of a drift alone: the
            monitor can hold later traffic against them only if they are of one kind.

    Raises:
        NothingKeptError: if no face was ever kept.
        AddError: if DVC refuses; nothing was changed.
    """
    require_dvc(root)
    with FileLock(root / ".dvc/tmp/collect.lock"):
        place = root / collected.PLACE
        known = collected.known(place)
        digests = {path.name for path in tombstones(log_dir)}
        gone = (
            frozenset(i for i in known if files.sha256_of(i.encode()) in digests) if digests else frozenset()
        )
        rows, kept, spoken = read_log(log_dir, lambda log: _new(log, known, since or EVER))
        if not kept and not known and since is None:
            raise NothingKeptError(
                f"{log_dir} holds no faces: start the service with FEROPS_KEEP_IMAGES=true; "
                "docs/data.md says what that means for people"
            )
        name = f"{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}" if rows else None
        sha256 = None
        if rows or gone or place.exists():
            sha256 = collected.update(root, {name: rows} if name else {}, gone)
        settings = load_settings(root / "params.yaml").data.collected
        return Collection(name, len(rows), len(gone), kept - spoken, _splits(rows, settings), sha256)


def _new(
    log: "DuckDBPyConnection", known: Mapping[str, str], since: datetime
) -> tuple[list[Labelled], int, int]:
    """Rows to collect, oldest first; how many faces were kept since then, and of how many somebody spoke."""
    log.execute(
        "CREATE TABLE known AS SELECT unnest(?::VARCHAR[]) AS id, unnest(?::VARCHAR[]) AS emotion",
        [list(known), list(known.values())],
    )
    log.execute(
        "CREATE TABLE said AS SELECT id, arg_max(emotion, time) AS emotion FROM feedback "
        "WHERE id IS NOT NULL GROUP BY id"
    )
    kept, spoken, new = one(
        log,
        "SELECT count(*), count(said.id), "
        "count(said.id) FILTER (said.emotion IS DISTINCT FROM known.emotion) "
        "FROM images LEFT JOIN said USING (id) LEFT JOIN known USING (id) "
        "WHERE images.id IS NOT NULL AND images.time >= ?",
        [since],
    )
    found = log.execute(
        "SELECT id, said.emotion, image FROM images JOIN said USING (id) LEFT JOIN known USING (id) "
        "WHERE said.emotion IS DISTINCT FROM known.emotion AND images.time >= ? ORDER BY images.time, id",
        [since],
    )
    blocks = iter(lambda: found.fetchmany(BLOCK), [])
    rows = [
        collected.labelled(identity, emotion, base64.b64decode(image))
        for identity, emotion, image in track((row for block in blocks for row in block), new, "collect")
    ]
    return rows, kept, spoken


def _splits(rows: Sequence[Labelled], settings: CollectedSettings | None) -> dict[Split, int]:
    counts: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    if settings is not None:
        for row in rows:
            counts[collected.split_of(row.pixel_hash, settings)] += 1
    return counts
