"""What a dataset must be like: each expectation, its limit, and what to do when it fails.

An expectation belongs to one finding of `ferops.settings.Finding`; `validation.blocking` in `params.yaml`
names the findings that stop the pipeline. Three tables are checked:

- `schema`: a line per shard and column, its Parquet type against the schema of `ferops.data.store`;
- `images`: the rows of the dataset, excluded ones included;
- `findings`: one row with the numbers of `ferops.data.findings`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.expectation import Expectation

from ferops.data.collected import COLLECTED
from ferops.data.images import FACE_SIDE
from ferops.data.store import EXCLUSIONS, SCHEMA, SPLITS
from ferops.data.wrong_labels import WrongLabels
from ferops.emotions import EMOTIONS
from ferops.settings import Finding, ValidationSettings

#: Columns of the `images` table: all that are always filled, and `excluded`. Bytes stay on disk.
FILLED: tuple[str, ...] = tuple(f.name for f in SCHEMA if not f.nullable and f.name != "image")
ROW_COLUMNS: tuple[str, ...] = (*FILLED, "excluded")

REJECT = "A batch of collected labels is taken out by `ferops data reject`."
REINGEST = "The Parquet files were not written by this version of `ferops ingest`: run `dvc repro -f ingest`."


@dataclass(frozen=True)
class Check:
    """One expectation with what a reader needs around it.

    Attributes:
        name: unique in the report.
        finding: what it is about, in the vocabulary of `validation.blocking`.
        title: what must hold, as a sentence without its full stop.
        limit: the threshold as shown to a reader; for row checks the rows that may break it, 0.
        remedy: what to do when it does not hold.
        expectation: for Great Expectations.
        detail: the measured numbers behind it, where a reader wants more than one.
    """

    name: str
    finding: Finding
    title: str
    limit: float
    remedy: str
    expectation: Expectation
    detail: str = ""


def schema_checks() -> list[Check]:
    """For the `schema` table: columns `id` (shard and column), `found`, `expected`."""
    return [
        Check(
            name="columns_and_types",
            finding="schema",
            title="every shard has the dataset's columns with their types",
            limit=0,
            remedy=REINGEST,
            expectation=gxe.ExpectColumnPairValuesToBeEqual(column_A="found", column_B="expected"),
        )
    ]


def row_checks(settings: ValidationSettings) -> list[Check]:
    """For the `images` table: what every single row must meet."""
    side = settings.image_side
    checks = [
        Check(
            name="id_unique",
            finding="schema",
            title="every row has an id of its own",
            limit=0,
            remedy=REINGEST,
            expectation=gxe.ExpectColumnValuesToBeUnique(column="id"),
        ),
        Check(
            name="split_known",
            finding="schema",
            title=f"every split is one of {', '.join(SPLITS)}",
            limit=0,
            remedy=REINGEST,
            expectation=gxe.ExpectColumnValuesToBeInSet(column="split", value_set=list(SPLITS)),
        ),
        Check(
            name="exclusion_known",
            finding="schema",
            title=f"every reason for leaving a row out is one of {', '.join(EXCLUSIONS)}",
            limit=0,
            remedy=REINGEST,
            expectation=gxe.ExpectColumnValuesToBeInSet(column="excluded", value_set=list(EXCLUSIONS)),
        ),
        Check(
            name="emotion_known",
            finding="label_set",
            title=f"every emotion is one of {', '.join(EMOTIONS)}",
            limit=0,
            remedy="Map the source's own labels by name in `ferops.emotions` (SYNONYMS), then ingest again.",
            expectation=gxe.ExpectColumnValuesToBeInSet(column="emotion", value_set=list(EMOTIONS)),
        ),
        Check(
            name="mode_known",
            finding="image_mode",
            title=f"every image has mode {' or '.join(settings.image_modes)}",
            limit=0,
            remedy="Remove the images that do not belong, or list their mode in `validation.image_modes`: "
            "a model sees them in greyscale either way.",
            expectation=gxe.ExpectColumnValuesToBeInSet(column="mode", value_set=list(settings.image_modes)),
        ),
    ]
    # Collected faces have one size, whatever the main source's.
    which: dict[str, Any] = {}
    if side != FACE_SIDE:
        which = {"row_condition": f'source!="{COLLECTED}"', "condition_parser": "pandas"}
    for axis in ("width", "height"):
        checks.append(
            Check(
                name=axis,
                finding="image_size",
                title=f"every image has a {axis} of {side} pixels",
                limit=0,
                remedy="Remove the images that do not belong, or set `validation.image_side` to the side "
                "that this dataset has: a model resizes them either way.",
                expectation=gxe.ExpectColumnValuesToBeBetween(
                    column=axis, min_value=side, max_value=side, **which
                ),
            )
        )
    for column in FILLED:
        checks.append(
            Check(
                name=f"{column}_filled",
                finding="schema",
                title=f"{column} is never empty",
                limit=0,
                remedy=REINGEST,
                expectation=gxe.ExpectColumnValuesToNotBeNull(column=column),
            )
        )
    return checks


def set_checks(
    settings: ValidationSettings,
    found: Mapping[str, int | float],
    balance: Mapping[str, Mapping[str, int]],
    labels: WrongLabels,
    repeated: str,
) -> list[Check]:
    """For the `findings` table: what the images must meet together.

    Args:
        settings: the limits.
        found: `ferops.data.findings.measure`, for the numbers in the text.
        balance: `ferops.data.findings.used_class_rows`, likewise.
        labels: `ferops.data.wrong_labels.measure`, likewise.
        repeated: where `ferops.data.findings.repeated_image` found most.
    """
    checks = [
        Check(
            name=f"smallest_class.{split}",
            finding="class_balance",
            title=f"every emotion has at least {settings.min_rows_per_class} images in {split}",
            limit=settings.min_rows_per_class,
            remedy="Add images of the rare emotions, or lower `validation.min_rows_per_class`: "
            "a class with few images is neither learnt nor measured well.",
            expectation=gxe.ExpectColumnMinToBeBetween(
                column=f"smallest_class.{split}", min_value=settings.min_rows_per_class
            ),
            detail=", ".join(f"{emotion} {count:,}" for emotion, count in balance[split].items()),
        )
        for split in SPLITS
    ]
    checks.append(
        _at_most(
            "class_ratio.train",
            "class_balance",
            f"the largest class of train has at most {settings.max_class_ratio:g} times the images of "
            "the smallest",
            settings.max_class_ratio,
            "Add images of the rare emotions, weight classes (`class_weights` of the recipe), or raise "
            "`validation.max_class_ratio`.",
        )
    )
    checks.append(
        _at_most(
            "blank_fraction",
            "blank_images",
            f"at most {settings.max_blank_fraction:.2%} of the images are blank",
            settings.max_blank_fraction,
            "Keep `data.drop_blank_from_train` on, and look at the source: one value in every pixel "
            "is no face.",
            f"{found['blank_images']:,} blank: {_by_source_split(found, 'blank_images')}",
        )
    )
    checks.append(
        _at_most(
            "redundant_fraction",
            "redundant_copies",
            f"at most {settings.max_redundant_fraction:.2%} of the rows are copies of another",
            settings.max_redundant_fraction,
            "Copies inside train weigh an image twice; remove them at the source when there are many.",
            f"{found['redundant_copies']:,} rows beyond the first in {found['copy_groups']:,} groups; "
            f"inside {_by_source_split(found, 'redundant_copies')}",
        )
    )
    checks.append(
        _at_most(
            "cross_split_fraction",
            "cross_split_copies",
            f"at most {settings.max_cross_split_copies:.2%} of the test images also stand in train or "
            "validation as used in training",
            settings.max_cross_split_copies,
            "Set `data.drop_test_copies_from_train: true` and ingest again: a model that has seen the "
            "test images is measured too well.",
            f"{found['test_copies_in_train_used']:,} of {found['test_rows']:,} test images as used, "
            f"{found['test_copies_in_source_train']:,} as the source held them",
        )
    )
    checks.append(
        _at_most(
            "conflicting_fraction",
            "conflicting_labels",
            "images whose copies carry different emotions are at most "
            f"{settings.max_conflicting_groups:.2%} of the rows",
            settings.max_conflicting_groups,
            "Decide by hand, or use a source with votes (FER+): one image cannot teach two emotions.",
            f"{found['conflicting_groups']:,} images in {found['conflicting_rows']:,} rows",
        )
    )
    checks.append(
        _at_most(
            "repeated_image_fraction",
            "repeated_images",
            f"near copies of one image are at most {settings.max_repeated_image:.1%} of a split or batch",
            settings.max_repeated_image,
            f"Somebody sends one image again and again, or a camera stands still. {REJECT}",
            repeated,
        )
    )
    return [*checks, *_label_checks(settings, labels)]


def _label_checks(settings: ValidationSettings, labels: WrongLabels) -> list[Check]:
    learnt = f"a plain classifier gives {labels.agreement:.1%} of the train labels, mean over emotions"
    checks = [
        Check(
            name="label_agreement_fraction",
            finding="wrong_labels",
            title="the main source's labels have to do with its images: a plain classifier may well give "
            f"{settings.min_label_agreement:.0%} of them",
            limit=settings.min_label_agreement,
            remedy="Look at images of each emotion: the labels seem shuffled. If the task is so hard, lower "
            "`validation.min_label_agreement`.",
            expectation=gxe.ExpectColumnMinToBeBetween(
                column="label_agreement_fraction", min_value=settings.min_label_agreement
            ),
            detail=labels.reason or learnt,
        )
    ]
    for name, emotion, limit, of in (
        ("wrong_labels_fraction", False, settings.max_wrong_labels, "a source or batch"),
        (
            "wrong_labels_of_emotion_fraction",
            True,
            settings.max_wrong_labels_of_emotion,
            "one emotion in a source or batch",
        ),
    ):
        worst = labels.worst(emotion)
        checks.append(
            _at_most(
                name,
                "wrong_labels",
                f"at most {limit:.0%} of the labels of {of} are surely wrong",
                limit,
                f"Look at its images. {REJECT} Where they are right and only unlike the main source's, raise "
                "the limit.",
                labels.reason or (worst.sentence() if worst else "nothing to judge"),
            )
        )
    return checks


def _at_most(column: str, finding: Finding, title: str, limit: float, remedy: str, detail: str = "") -> Check:
    return Check(
        name=column,
        finding=finding,
        title=title,
        limit=limit,
        remedy=remedy,
        expectation=gxe.ExpectColumnMaxToBeBetween(column=column, max_value=limit),
        detail=detail,
    )


def _by_source_split(found: Mapping[str, int | float], finding: str) -> str:
    parts = [name.removeprefix("rows.") for name in found if name.startswith("rows.")]
    return ", ".join(f"{part} {found[f'{finding}.{part}']:,}" for part in parts)
