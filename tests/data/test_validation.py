"""A good dataset passes; each planted defect fails the expectation that names it, and nothing else."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ferops.data.data_docs import POLICY, DataDocs
from ferops.data.store import SCHEMA, Dataset, write_shards
from ferops.data.validation import ValidationFailedError, ValidationReport, validate
from ferops.emotions import EMOTIONS
from ferops.settings import Finding, ValidationSettings

Rows = list[dict[str, Any]]
SETTINGS = ValidationSettings(min_rows_per_class=2, max_class_ratio=3, max_redundant_fraction=0.02)
EVERY_FINDING: tuple[Finding, ...] = get_args(Finding)


@pytest.fixture(scope="session")
def good_rows(tiny_dataset: Dataset) -> Rows:
    """84 rows of the tiny dataset: per split and emotion four."""
    table = pa.concat_tables(pq.read_table(p) for p in sorted(tiny_dataset.folder.glob("part-*.parquet")))
    rows, taken = [], dict[tuple[str, str], int]()
    for row in table.to_pylist():
        key = (row["split"], row["emotion"])
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= 4:
            rows.append(row)
    assert len(rows) == 84
    return rows


@pytest.fixture
def check(tmp_path: Path, tiny_dataset: Dataset, good_rows: Rows) -> Callable[..., ValidationReport]:
    """Write a dataset with `plant` applied to its rows, and validate it."""

    def run(
        plant: Callable[[Rows], Any] = lambda rows: None,
        settings: ValidationSettings = SETTINGS,
        synthetic: bool = True,
    ) -> ValidationReport:
        rows = [dict(row) for row in good_rows]
        plant(rows)
        folder = tmp_path / "dataset"
        folder.mkdir()
        write_shards(folder, rows, rows_per_shard=50)
        replace(tiny_dataset.summary, synthetic=synthetic).save(folder)
        return validate(
            folder, settings, tmp_path / "reports/validation", tmp_path / "reports/validation.json"
        )

    return run


def set_value(column: str, value: Any, count: int = 1) -> Callable[[Rows], None]:
    def plant(rows: Rows) -> None:
        for row in rows[:count]:
            row[column] = value

    return plant


def of(rows: Rows, split: str, emotion: str) -> Rows:
    return [r for r in rows if r["split"] == split and r["emotion"] == emotion]


def copy_image(rows: Rows, source: dict[str, Any], target: dict[str, Any]) -> None:
    target["pixel_hash"] = source["pixel_hash"]


def same_id(rows: Rows) -> None:
    rows[1]["id"] = rows[0]["id"]


def rare_class(rows: Rows) -> None:
    for row in of(rows, "validation", "fear")[1:]:
        row["emotion"] = "happy"


def lopsided_train(rows: Rows) -> None:
    for emotion in ("fear", "happy"):
        for row in of(rows, "train", emotion)[2:]:
            row["emotion"] = "angry"  # angry 8, fear 2: four times as many


def copies_inside_train(rows: Rows) -> None:
    first, *others = of(rows, "train", "sad")
    for row in others:
        copy_image(rows, first, row)


def image_of_test_in_train(rows: Rows) -> None:
    copy_image(rows, of(rows, "train", "sad")[0], of(rows, "test", "sad")[0])


def conflicting_copy(rows: Rows) -> None:
    copy_image(rows, of(rows, "train", "sad")[0], of(rows, "train", "angry")[0])


def one_face_again_and_again(rows: Rows) -> None:
    """The same person before a camera: no copies, but nearly."""
    held = [row for row in rows if row["source_split"] == "train"]
    for row in held[:10]:
        row["perceptual_hash"] = held[0]["perceptual_hash"]


DEFECTS: list[tuple[str, Finding, Callable[[Rows], None]]] = [
    ("id_unique", "schema", same_id),
    ("split_known", "schema", set_value("split", "holdout")),
    ("exclusion_known", "schema", set_value("excluded", "too ugly")),
    ("brightness_filled", "schema", set_value("brightness", float("nan"))),
    ("emotion_known", "label_set", set_value("emotion", "contempt")),
    ("mode_known", "image_mode", set_value("mode", "RGB")),
    ("width", "image_size", set_value("width", 50)),
    ("height", "image_size", set_value("height", 47)),
    ("smallest_class.validation", "class_balance", rare_class),
    ("class_ratio.train", "class_balance", lopsided_train),
    ("blank_fraction", "blank_images", set_value("blank", True)),
    ("redundant_fraction", "redundant_copies", copies_inside_train),
    ("cross_split_fraction", "cross_split_copies", image_of_test_in_train),
    ("conflicting_fraction", "conflicting_labels", conflicting_copy),
    ("repeated_image_fraction", "repeated_images", one_face_again_and_again),
]


def test_a_good_dataset_passes_every_expectation(
    check: Callable[..., ValidationReport], tmp_path: Path
) -> None:
    report = check(settings=SETTINGS.model_copy(update={"blocking": EVERY_FINDING}))

    assert report.success
    assert report.warnings == report.blocking_failures == []
    assert all(e["success"] for e in report.expectations)
    assert {e["kind"] for e in report.expectations} == set(EVERY_FINDING)
    saved = json.loads((tmp_path / "reports/validation.json").read_text())
    assert saved["findings"]["rows"] == 84
    assert saved["class_rows"][0].keys() == {"source_split", *EMOTIONS}
    assert saved["dataset_sha256"] == report.dataset_sha256


@pytest.mark.parametrize(("name", "finding", "plant"), DEFECTS, ids=[name for name, _, _ in DEFECTS])
def test_a_defect_fails_its_expectation_alone(
    check: Callable[..., ValidationReport],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    finding: Finding,
    plant: Callable[[Rows], None],
) -> None:
    # The pages, which others look at, take longer than the checks.
    pages = dict.fromkeys(("schema", "images", "findings"), Path("page.html"))
    monkeypatch.setattr(DataDocs, "build", lambda _: pages)
    report = check(plant, SETTINGS.model_copy(update={"blocking": ()}))

    failed = [e for e in report.expectations if not e["success"]]
    assert [(e["name"], e["kind"]) for e in failed] == [(name, finding)]
    assert report.warnings == [name]
    assert report.success


def test_every_kind_of_expectation_has_a_planted_defect() -> None:
    elsewhere = {"wrong_labels"}  # takes more images: tests/data/test_wrong_labels.py
    assert {finding for _, finding, _ in DEFECTS} | elsewhere == set(EVERY_FINDING)


def test_a_blocking_failure_stops_with_a_message_after_its_page_is_written(
    check: Callable[..., ValidationReport], tmp_path: Path
) -> None:
    with pytest.raises(ValidationFailedError) as caught:
        check(set_value("emotion", "contempt", count=2))

    message, page = str(caught.value), tmp_path / "reports/validation/index.html"
    assert "emotion_known (label_set)" in message
    assert "observed 2 rows, limit 0 rows" in message
    assert "contempt" in message
    assert str(page) in message
    assert "emotion_known" in page.read_text()
    saved = json.loads((tmp_path / "reports/validation.json").read_text())
    assert (saved["success"], saved["blocking_failures"]) == (False, ["emotion_known"])


def test_the_message_gives_what_was_measured_and_its_limit(check: Callable[..., ValidationReport]) -> None:
    with pytest.raises(ValidationFailedError, match=r"observed 3\.571%, limit 0\.000%") as caught:
        check(image_of_test_in_train)
    assert "1 of 28 test images" in str(caught.value)
    assert "drop_test_copies_from_train" in str(caught.value)


def test_an_empty_split_is_named(check: Callable[..., ValidationReport]) -> None:
    def without_validation(rows: Rows) -> None:
        rows[:] = [r for r in rows if r["split"] != "validation"]

    with pytest.raises(ValidationFailedError, match=r"smallest_class\.validation .* observed 0, limit 2"):
        check(without_validation)


def test_a_shard_without_a_column_stops_even_when_schema_does_not_block(
    tmp_path: Path, tiny_dataset: Dataset, good_rows: Rows
) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    table = pa.Table.from_pylist(good_rows, schema=SCHEMA).drop_columns(["pixel_hash"])
    pq.write_table(table, folder / "part-00000.parquet")
    tiny_dataset.summary.save(folder)

    with pytest.raises(ValidationFailedError, match=r"columns_and_types.*pixel_hash") as caught:
        validate(
            folder,
            SETTINGS.model_copy(update={"blocking": ()}),
            tmp_path / "validation",
            tmp_path / "validation.json",
        )
    assert "ferops ingest" in str(caught.value)
    assert "columns_and_types" in (tmp_path / "validation/index.html").read_text()


def test_data_docs_open_without_a_network_and_link_to_each_other(
    check: Callable[..., ValidationReport], tmp_path: Path
) -> None:
    report = check(set_value("blank", True))

    site = tmp_path / "reports/validation"
    assert (tmp_path / "reports" / report.docs) == site / "index.html"
    for page in site.glob("[ev]*/**/*.html"):
        assert page.read_text().startswith(f"<!DOCTYPE html>\n<html>\n  <head>{POLICY}"), page
    assert "http" not in (site / "index.html").read_text()
    linked = re.findall(r'href="(validations/[^"]+)"', (site / "index.html").read_text())
    assert len(linked) == 3
    assert all((site / link).exists() for link in linked)
    findings_page = next(site.glob("validations/findings/*/*/*.html")).read_text()
    assert "blank_images (not blocking)" in findings_page
    assert "What to do" in (site / "index.html").read_text()


@pytest.mark.parametrize("synthetic", [True, False])
def test_pages_say_synthetic_exactly_when_the_faces_are(
    check: Callable[..., ValidationReport], tmp_path: Path, synthetic: bool
) -> None:
    def as_photographs(rows: Rows) -> None:
        for row in rows:
            row["source"] = "image_tree"
            row["id"] = row["id"].replace("synthetic", "photo")

    report = check(as_photographs, synthetic=synthetic)

    page = (tmp_path / "reports/validation/index.html").read_text()
    assert ("synthetic faces" in page) == synthetic
    results = next((tmp_path / "reports/validation/validations/images").iterdir()).name
    assert results.startswith("synthetic-faces") == synthetic
    assert report.synthetic == synthetic


def test_what_the_data_says_is_text_on_the_page_not_markup(
    check: Callable[..., ValidationReport], tmp_path: Path
) -> None:
    def hostile(rows: Rows) -> None:
        rows[0]["emotion"] = rows[0]["source_split"] = "<script>alert(1)</script>"

    check(hostile, SETTINGS.model_copy(update={"blocking": ()}))

    site = tmp_path / "reports/validation"
    assert "<script>" not in (site / "index.html").read_text()
    findings_page = next(site.glob("validations/findings/*/*/*.html")).read_text()
    assert "&lt;script&gt;alert(1)" in findings_page
    assert "<script>alert" not in findings_page


def test_a_second_run_replaces_the_first_as_a_whole(
    check: Callable[..., ValidationReport], tmp_path: Path
) -> None:
    stale = tmp_path / "reports/validation/stale.html"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    check()
    assert not stale.exists()
    assert sorted(p.name for p in (tmp_path / "reports").iterdir()) == ["validation", "validation.json"]


def test_no_dataset_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dvc repro ingest"):
        validate(tmp_path, SETTINGS, tmp_path / "docs", tmp_path / "report.json")


def test_great_expectations_neither_reports_home_nor_draws_progress_bars(
    check: Callable[..., ValidationReport], capfd: pytest.CaptureFixture[str]
) -> None:
    check()
    printed = capfd.readouterr()
    assert os.environ["GX_ANALYTICS_ENABLED"].lower() == "false"
    assert "Calculating Metrics" not in printed.err + printed.out
