"""What the source held is counted right: copies, copies across splits, conflicting labels, balance."""

import os
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferops.data import findings
from ferops.data.ingest import ingest
from ferops.data.store import SCHEMA, Dataset
from ferops.emotions import EMOTIONS
from ferops.settings import DataSettings

#: A machine that is busy with other things is no reason to fail.
from_examples = settings(deadline=None, max_examples=60)

row = st.fixed_dictionaries(
    {
        "pixel_hash": st.sampled_from(["a", "b", "c", "d", "e"]),
        "split": st.sampled_from(["train", "validation", "test"]),
        "source_split": st.sampled_from(["Training", "PublicTest"]),
        "emotion": st.sampled_from(EMOTIONS[:3]),
        "excluded": st.sampled_from([None, None, "blank", "copy_of_test"]),
        "blank": st.booleans(),
    }
)


def frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame(
        rows, columns=["pixel_hash", "split", "source_split", "emotion", "excluded", "blank"]
    )
    return table.assign(source="main", width=48, height=48, mode="L").astype({"blank": bool})


@from_examples
@given(st.lists(row, max_size=25))
def test_copies_equal_a_count_of_pairs(rows: list[dict[str, object]]) -> None:
    first_of_its_kind = [
        not any(earlier["pixel_hash"] == this["pixel_hash"] for earlier in rows[:i])
        for i, this in enumerate(rows)
    ]
    paired = {a["pixel_hash"] for a, b in combinations(rows, 2) if a["pixel_hash"] == b["pixel_hash"]}

    found = findings.copies(frame(rows))

    assert found.redundant == first_of_its_kind.count(False)
    assert found.groups == len(paired)


@from_examples
@given(st.lists(row, max_size=25))
def test_conflicts_equal_a_count_of_disagreeing_pairs(rows: list[dict[str, object]]) -> None:
    disagreeing = {
        a["pixel_hash"]
        for a, b in combinations(rows, 2)
        if a["pixel_hash"] == b["pixel_hash"] and a["emotion"] != b["emotion"]
    }

    found = findings.conflicting_labels(frame(rows))

    assert found.groups == len(disagreeing)
    assert found.rows == sum(r["pixel_hash"] in disagreeing for r in rows)


@from_examples
@given(st.lists(row, max_size=25))
def test_cross_split_copies_equal_a_search_for_each_test_row(rows: list[dict[str, object]]) -> None:
    test = [r for r in rows if r["split"] == "test" and r["excluded"] is None]
    learnt = [r for r in rows if r["split"] != "test"]

    found = findings.cross_split_copies(frame(rows))

    assert found.test_rows == len(test)
    assert found.in_source_train == sum(any(o["pixel_hash"] == t["pixel_hash"] for o in learnt) for t in test)
    assert found.in_used_train == sum(
        any(o["pixel_hash"] == t["pixel_hash"] and o["excluded"] is None for o in learnt) for t in test
    )


@from_examples
@given(st.lists(row, max_size=25))
def test_the_parts_of_a_finding_are_those_of_the_source(rows: list[dict[str, object]]) -> None:
    by_part: dict[object, list[dict[str, object]]] = defaultdict(list)
    for r in rows:
        by_part[r["source_split"]].append(r)

    found = findings.measure(frame(rows))

    assert found["rows"] == len(rows)
    assert found["blank_images"] == sum(bool(r["blank"]) for r in rows)
    for name, part in by_part.items():
        assert found[f"rows.{name}"] == len(part)
        assert found[f"blank_images.{name}"] == sum(bool(r["blank"]) for r in part)
        assert found[f"redundant_copies.{name}"] == len(part) - len({r["pixel_hash"] for r in part})


def test_a_class_without_images_counts_as_zero_and_keeps_the_ratio_finite() -> None:
    rows = [
        {"pixel_hash": str(i), "split": "train", "source_split": "train", "emotion": "happy"}
        for i in range(6)
    ]
    table = frame(rows)

    assert findings.class_rows(table, "split")["train"] == {**dict.fromkeys(EMOTIONS, 0), "happy": 6}
    assert findings.measure(table)["class_ratio.train"] == 6
    assert findings.used_class_rows(table)["test"] == dict.fromkeys(EMOTIONS, 0)


def test_rows_left_out_of_training_do_not_balance_its_classes() -> None:
    rows = [
        {
            "pixel_hash": str(i),
            "split": "train",
            "source_split": "train",
            "emotion": emotion,
            "excluded": reason,
        }
        for i, (emotion, reason) in enumerate(
            [*((e, None) for e in EMOTIONS), ("angry", None), ("angry", "blank"), ("sad", "copy_of_test")]
        )
    ]
    found = findings.measure(frame(rows))

    assert found["class_ratio.train"] == 2
    assert (found["rows"], found["rows_used"]) == (10, 8)


def test_a_dataset_without_rows_has_no_findings_and_no_error() -> None:
    found = findings.measure(frame([]))

    assert found["rows"] == 0
    assert found["redundant_fraction"] == found["cross_split_fraction"] == found["blank_fraction"] == 0


def test_schema_names_the_shard_and_column_that_differ(tmp_path: Path) -> None:
    pq.write_table(SCHEMA.empty_table(), tmp_path / "part-00000.parquet")
    other = SCHEMA.remove(SCHEMA.get_field_index("blank")).append(pa.field("age", pa.int32()))
    other = other.set(other.get_field_index("width"), pa.field("width", pa.string()))
    pq.write_table(other.empty_table(), tmp_path / "part-00001.parquet")

    table = findings.schema_of(sorted(tmp_path.glob("*.parquet")))

    wrong = table[table["found"] != table["expected"]].set_index("id")
    assert wrong.to_dict("index") == {
        "part-00001.parquet width": {"found": "string", "expected": "int32"},
        "part-00001.parquet blank": {"found": "absent", "expected": "bool"},
        "part-00001.parquet age": {"found": "int32", "expected": "absent"},
    }


@pytest.mark.skipif("FEROPS_FER2013_ARCHIVE" not in os.environ, reason="FEROPS_FER2013_ARCHIVE is not set")
def test_fer2013_holds_what_is_known_of_it(tmp_path: Path) -> None:
    archive = Path(os.environ["FEROPS_FER2013_ARCHIVE"])
    ingest(DataSettings(source="fer2013_images", path=archive), out=tmp_path / "dataset")
    rows = Dataset.open(tmp_path / "dataset").frame(columns=findings.COLUMNS, include_excluded=True)

    found = findings.measure(rows)

    assert found["rows.Training"] == 28_709
    assert found["rows.PublicTest"] == 3_589
    assert found["redundant_copies.Training"] == 1_236
    assert (found["redundant_copies"], found["copy_groups"]) == (1_532, 1_273)
    assert found["test_copies_in_source_train"] == 280
    assert found["test_copies_in_train_used"] == 0
    assert found["conflicting_groups"] == 47
    assert (found["blank_images.Training"], found["blank_images.PublicTest"]) == (11, 1)
    assert findings.class_rows(rows, "source_split")["Training"] == {
        "angry": 3_995,
        "disgust": 436,
        "fear": 4_097,
        "happy": 7_215,
        "sad": 4_830,
        "surprise": 3_171,
        "neutral": 4_965,
    }
