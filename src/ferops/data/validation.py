"""Validation of a dataset with Great Expectations, before anything is trained on it.

    >>> docs, report = Path("reports/validation"), Path("reports/validation.json")
    >>> report = validate(Path("data/dataset"), settings.validation, docs, report)  # doctest: +SKIP
    >>> report.warnings  # doctest: +SKIP
    ['blank_fraction']

The Data Docs and the report are written in any case, then a failed blocking expectation stops the pipeline.
"""

import html
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ferops import files
from ferops.data import findings, front_page, wrong_labels
from ferops.data.data_docs import DataDocs
from ferops.data.expectations import ROW_COLUMNS, Check, row_checks, schema_checks, set_checks
from ferops.data.store import Dataset, Summary
from ferops.settings import ValidationSettings


class ValidationFailedError(ValueError):
    """A blocking expectation failed; the message names each one and the page that shows it."""


@dataclass(frozen=True)
class ValidationReport:
    """The verdict, kept as `validation.json`.

    Attributes:
        success: True when no blocking expectation failed.
        blocking_failures: names of the failed expectations that stop the pipeline.
        warnings: names of the failed expectations that do not.
        findings: `ferops.data.findings.measure`; empty when the rows could not be read.
        class_rows: a line per source split with the rows of each emotion.
        expectations: per expectation its name, kind (the finding), success, observed, limit, blocking and
            a message. For an expectation on rows, observed is the number of rows that break it.
        docs: the first page, relative to the report's folder.
        dataset_sha256: the dataset's identity.
        synthetic: True for the embedded faces.
    """

    success: bool
    blocking_failures: Sequence[str]
    warnings: Sequence[str]
    findings: Mapping[str, int | float]
    class_rows: Sequence[Mapping[str, str | int]]
    expectations: Sequence[Mapping[str, Any]]
    docs: str
    dataset_sha256: str
    synthetic: bool


def validate(
    dataset_dir: Path, settings: ValidationSettings, docs_dir: Path, report_path: Path
) -> ValidationReport:
    """Check a dataset and write its Data Docs (`docs_dir/index.html` first) and its report.

    Args:
        dataset_dir: what `ferops ingest` wrote.
        settings: limits, and which findings block.
        docs_dir: folder of HTML pages, replaced as a whole.
        report_path: the JSON report.

    Raises:
        FileNotFoundError: if there is no dataset.
        ValidationFailedError: if a blocking expectation failed, after pages and report are written.
    """
    dataset = Dataset.open(dataset_dir)
    schema = findings.schema_of(sorted(dataset_dir.glob("part-*.parquet")))
    readable = bool((schema["found"] == schema["expected"]).all())
    page = docs_dir / "index.html"
    with tempfile.TemporaryDirectory(prefix="ferops-gx-") as scratch, files.new_folder(docs_dir) as site:
        docs = DataDocs(Path(scratch), site, _run_name(dataset.summary))
        # Rows whose columns or types are wrong cannot be trusted: nothing else is said of them, and the
        # pipeline stops whatever `blocking` holds.
        blocking = {*settings.blocking, *(() if readable else ("schema",))}
        outcomes = _run(docs, "schema", schema, schema_checks(), blocking)
        found: dict[str, int | float] = {}
        classes: dict[str, dict[str, int]] = {}
        if readable:
            rows = dataset.frame(columns=ROW_COLUMNS, include_excluded=True)
            labels = wrong_labels.measure(dataset)
            repeated, where = findings.repeated_image(rows)
            found = {**findings.measure(rows), **labels.numbers(), "repeated_image_fraction": repeated}
            outcomes += _run(docs, "images", rows, row_checks(settings), blocking)
            classes = findings.class_rows(rows.assign(part=findings.parts(rows)), "part")
            checks = set_checks(settings, found, findings.used_class_rows(rows), labels, where)
            outcomes += _run(docs, "findings", pd.DataFrame([found]), checks, blocking)
        pages = docs.build()
        (site / page.name).write_text(front_page.render(dataset.summary, outcomes, found, classes, pages))
    report = ValidationReport(
        success=all(o["verdict"] != "failed" for o in outcomes),
        blocking_failures=[o["name"] for o in outcomes if o["verdict"] == "failed"],
        warnings=[o["name"] for o in outcomes if o["verdict"] == "warning"],
        findings=found,
        class_rows=[{"source_split": name, **counts} for name, counts in classes.items()],
        expectations=[{key: o[key] for key in _REPORTED} for o in outcomes],
        docs=Path(os.path.relpath(page, report_path.parent)).as_posix(),
        dataset_sha256=dataset.summary.sha256,
        synthetic=dataset.summary.synthetic,
    )
    files.write_json(report_path, asdict(report))
    if not report.success:
        lines = [f"  {o['message']}" for o in outcomes if o["verdict"] == "failed"]
        raise ValidationFailedError(
            f"{len(lines)} blocking expectation(s) failed on {dataset_dir}:\n"
            + "\n".join(lines)
            + f"\nSee {page}; which findings block is `validation.blocking` in params.yaml."
        )
    return report


_REPORTED = ("name", "kind", "success", "observed", "limit", "blocking", "message")


def _run_name(summary: Summary) -> str:
    name = "synthetic-faces" if summary.synthetic else summary.source
    return f"{name}-{summary.sha256[:8]}"


def _run(
    docs: DataDocs, table: str, rows: pd.DataFrame, checks: Sequence[Check], blocking: set[str]
) -> list[dict[str, Any]]:
    """Check one table; a record per expectation, in the order of `checks`."""
    expectations = []
    for check in checks:
        blocks = check.finding in blocking
        expectation = check.expectation.copy(
            update={
                "description": _description(check, blocks),
                "severity": "critical" if blocks else "warning",
                "meta": {"name": check.name, "finding": check.finding, "blocking": blocks},
            }
        )
        expectations.append(expectation)
    result = docs.run(table, rows, expectations)
    by_name = {r.expectation_config.meta["name"]: r for r in result.results if r.expectation_config}
    return [_outcome(check, by_name[check.name], check.finding in blocking) for check in checks]


def _description(check: Check, blocks: bool) -> str:
    measured = f" Measured: {check.detail}." if check.detail else ""
    kind = "blocking" if blocks else "not blocking"
    text = f"{check.finding} ({kind}): {check.title}.{measured} If not: {check.remedy}"
    return html.escape(text, quote=False)  # Data Docs put a description on the page as it is


def _outcome(check: Check, result: Any, blocks: bool) -> dict[str, Any]:
    success = bool(result.success)
    measured = result.result
    detail = check.detail
    observed: int | float | None
    if "observed_value" in measured:
        observed = _number(measured["observed_value"])
        texts = (_text(observed, check), _text(check.limit, check))
    elif "unexpected_count" in measured:
        observed = int(measured["unexpected_count"])
        texts = (f"{observed:,} {'row' if observed == 1 else 'rows'}", "0 rows")
        detail = detail or _examples(measured)
    else:  # the metric itself raised
        observed, texts = None, ("not measured", _text(check.limit, check))
        detail = str(result.exception_info)[:500]
    expected = f"{check.name} ({check.finding}): expected that {check.title}"
    message = f"{expected}; observed {texts[0]}, limit {texts[1]}"
    if not success:
        message += f" ({detail}). {check.remedy}" if detail else f". {check.remedy}"
    return {
        "name": check.name,
        "kind": check.finding,
        "success": success,
        "observed": observed,
        "limit": check.limit,
        "blocking": blocks,
        "message": message,
        "verdict": "passed" if success else "failed" if blocks else "warning",
        "title": check.title,
        "detail": detail,
        "remedy": check.remedy,
        "observed_text": texts[0],
        "limit_text": texts[1],
    }


def _number(value: Any) -> int | float | None:
    if value is None or pd.isna(value):
        return None
    return int(value) if float(value).is_integer() else float(value)


def _text(value: int | float | None, check: Check) -> str:
    if value is None:
        return "nothing"
    if check.name.endswith("_fraction"):
        return f"{value:.3%}"
    return f"{value:,.1f}" if value % 1 else f"{value:,.0f}"


def _examples(measured: Mapping[str, Any]) -> str:
    """The first rows that break an expectation, by id and value."""
    rows = measured.get("partial_unexpected_index_list") or []
    return "; ".join(
        ", ".join([str(row["id"]), *(f"{key} {value}" for key, value in row.items() if key != "id")])
        for row in rows[:3]
    )
