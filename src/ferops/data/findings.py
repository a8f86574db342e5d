"""What the images of a dataset are like as a set: balance, blanks, copies, conflicting labels.

    >>> findings = measure(dataset.frame(include_excluded=True))  # doctest: +SKIP
    >>> findings["redundant_copies"]  # doctest: +SKIP
    1532

Every function takes the rows of the Parquet dataset (`ferops.data.store.SCHEMA`), excluded ones included:
this is what the source really held. `used` in a name means without the rows in `excluded`, which training
never sees. Two images are copies when their `pixel_hash` is equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from ferops.data.collected import COLLECTED
from ferops.data.near_copies import most_near_copies
from ferops.data.store import SCHEMA, SPLITS
from ferops.emotions import EMOTIONS

#: Columns that `measure` reads; the rest of the dataset may stay on disk.
COLUMNS: tuple[str, ...] = (
    "source",
    "source_split",
    "split",
    "emotion",
    "width",
    "height",
    "mode",
    "pixel_hash",
    "perceptual_hash",
    "blank",
    "excluded",
)

ABSENT = "absent"

#: Of a split or batch, before its images are asked whether one of them is repeated.
LEAST_ROWS = 20


@dataclass(frozen=True)
class Copies:
    """Exact copies among some rows.

    Attributes:
        groups: number of images that occur more than once.
        redundant: rows beyond the first of each group.
    """

    groups: int
    redundant: int


@dataclass(frozen=True)
class CrossSplitCopies:
    """Test rows whose image also stands where a model learns or is selected.

    Attributes:
        test_rows: used rows of the test split.
        in_source_train: those with a copy in train or validation as the source held them.
        in_used_train: those with a copy in train or validation after exclusions.
    """

    test_rows: int
    in_source_train: int
    in_used_train: int


@dataclass(frozen=True)
class Conflicts:
    """Copies of one image that carry different emotions.

    Attributes:
        groups: images with more than one emotion.
        rows: rows of those images.
    """

    groups: int
    rows: int


def used(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that training and evaluation see."""
    return rows[rows["excluded"].isna()]


def copies(rows: pd.DataFrame) -> Copies:
    """Count exact copies among all the rows given."""
    sizes = rows["pixel_hash"].value_counts()
    return Copies(groups=int((sizes > 1).sum()), redundant=int((sizes - 1).sum()))


def cross_split_copies(rows: pd.DataFrame) -> CrossSplitCopies:
    """Count test rows that have a copy in train or validation, before and after exclusions."""
    kept = used(rows)
    test = kept.loc[kept["split"] == "test", "pixel_hash"]
    learnt = rows.loc[rows["split"] != "test", "pixel_hash"]
    learnt_used = kept.loc[kept["split"] != "test", "pixel_hash"]
    return CrossSplitCopies(
        test_rows=len(test),
        in_source_train=int(test.isin(learnt).sum()),
        in_used_train=int(test.isin(learnt_used).sum()),
    )


def conflicting_labels(rows: pd.DataFrame) -> Conflicts:
    """Count images whose copies carry more than one emotion."""
    repeated = rows[rows["pixel_hash"].duplicated(keep=False)]
    by_image = repeated.groupby("pixel_hash")["emotion"]
    conflicting = by_image.transform("nunique") > 1
    return Conflicts(
        groups=int(repeated.loc[conflicting, "pixel_hash"].nunique()), rows=int(conflicting.sum())
    )


def class_rows(rows: pd.DataFrame, by: str) -> dict[str, dict[str, int]]:
    """Rows of each canonical emotion, 0 where there is none, per value of the column `by`."""
    counts = pd.crosstab(rows[by], rows["emotion"]).reindex(columns=list(EMOTIONS), fill_value=0)
    return {str(name): {e: int(n) for e, n in line.items()} for name, line in counts.iterrows()}


def used_class_rows(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """`class_rows` of each of our splits as used; a split without rows has zeros."""
    counts = class_rows(used(rows), "split")
    return {split: counts.get(split, dict.fromkeys(EMOTIONS, 0)) for split in SPLITS}


def class_ratio(counts: Mapping[str, int]) -> float:
    """Rows of the largest class over rows of the smallest; an empty class counts as one row."""
    return max(counts.values()) / max(min(counts.values()), 1)


def share(part: int, whole: int) -> float:
    """`part / whole`, 0 when there is nothing to share."""
    return part / whole if whole else 0.0


def repeated_image(rows: pd.DataFrame) -> tuple[float, str]:
    """Largest share that near copies of one image, beyond the first, have of a source's split or batch.

    Returns:
        The share, and a sentence on where it is. Fewer than `LEAST_ROWS` rows are no crowd.
    """
    worst, where = 0.0, f"no part has {LEAST_ROWS} rows"
    for (source, part), held in rows.groupby(["source", "source_split"]):
        if len(held) >= LEAST_ROWS:
            repeated = most_near_copies(held["perceptual_hash"]) - 1
            if not worst or repeated / len(held) > worst:
                worst = repeated / len(held)
                where = f"{repeated:,} of {len(held):,} images of {source} {part} repeat one"
    return worst, where


def parts(rows: pd.DataFrame) -> pd.Series:
    """The source's own split of each row; the batches of collected labels are one part."""
    named: pd.Series = rows["source_split"].where(rows["source"] != COLLECTED, COLLECTED)
    return named


def measure(rows: pd.DataFrame) -> dict[str, int | float]:
    """The findings as flat numbers; what follows a dot is a split, the source's own or ours.

    Args:
        rows: every row of the dataset, excluded ones included, with at least `COLUMNS`.
    """
    kept = used(rows)
    overall = copies(rows)
    across = cross_split_copies(rows)
    conflicts = conflicting_labels(rows)
    blank = int(rows["blank"].sum())
    balance = used_class_rows(rows)
    found: dict[str, int | float] = {
        "rows": len(rows),
        "rows_used": len(kept),
        "emotions": int(rows["emotion"].nunique()),
        "sizes": len(rows.groupby(["width", "height"])),
        "modes": int(rows["mode"].nunique()),
        "class_ratio.train": class_ratio(balance["train"]),
        **{f"smallest_class.{split}": min(counts.values()) for split, counts in balance.items()},
        "blank_images": blank,
        "blank_fraction": share(blank, len(rows)),
        "copy_groups": overall.groups,
        "redundant_copies": overall.redundant,
        "redundant_fraction": share(overall.redundant, len(rows)),
        "test_rows": across.test_rows,
        "test_copies_in_source_train": across.in_source_train,
        "test_copies_in_train_used": across.in_used_train,
        "cross_split_fraction": share(across.in_used_train, across.test_rows),
        "conflicting_groups": conflicts.groups,
        "conflicting_rows": conflicts.rows,
        "conflicting_fraction": share(conflicts.groups, len(rows)),
    }
    for name, part in rows.groupby(parts(rows), sort=True):
        found[f"rows.{name}"] = len(part)
        found[f"blank_images.{name}"] = int(part["blank"].sum())
        found[f"redundant_copies.{name}"] = copies(part).redundant
    return found


def schema_of(shards: Sequence[Path]) -> pd.DataFrame:
    """Compare each shard's columns with `SCHEMA`: `id` (shard and column), `found` and `expected` types.

    A column that a shard lacks has `found` "absent"; one that nobody asked for has `expected` "absent".
    """
    lines = []
    for shard in shards:
        held = pq.read_schema(shard)
        for name in [*SCHEMA.names, *(name for name in held.names if name not in SCHEMA.names)]:
            found = held.field(name).type if name in held.names else ABSENT
            expected = SCHEMA.field(name).type if name in SCHEMA.names else ABSENT
            if found == expected:  # a map's inner field names differ in text alone
                found = expected
            lines.append((f"{shard.name} {name}", str(found), str(expected)))
    return pd.DataFrame(lines, columns=["id", "found", "expected"])
