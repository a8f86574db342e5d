"""Judge the champion's recent predictions against its reference, and report.

>>> verdict = judge(Path("predictions"), champion, package, Path("monitoring"))  # doctest: +SKIP
>>> raise SystemExit(verdict.exit_code)  # doctest: +SKIP
"""

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from evidently.core.report import Snapshot

from ferops import files, tracking
from ferops.environment import Environment
from ferops.monitoring import history, history_page, page
from ferops.monitoring.drift import Comparison, compare
from ferops.monitoring.expected_accuracy import estimate
from ferops.monitoring.policy import Policy, load_policy
from ferops.monitoring.quality import by_day, measure
from ferops.monitoring.verdict import (
    DayQuality,
    ExpectedAccuracy,
    Outcome,
    Quality,
    Verdict,
    WindowSummary,
)
from ferops.monitoring.window import Reference, Window, current_window, read_reference
from ferops.promotion import versions
from ferops.promotion.champion import Champion
from ferops.promotion.release import Release, served_model
from ferops.serving.prediction_log import timestamp
from ferops.serving.report_folder import INDEX, REPORTS_FOLDER, page_of, stamped

POLICY_FILE = "policy.yaml"
VERDICT_FILE = "verdict.json"

#: What MLflow shows as a run's description.
NOTE_TAG = "mlflow.note.content"

#: Tags of a registered model version: its last verdict and when, and where that is explained.
VERDICT_TAG = "ferops.last_verdict"
REPORT_TAG = "ferops.last_report"


def monitor(
    log_dir: Path, registry: Path, release: Path, monitoring_dir: Path, track: bool = True
) -> Verdict:
    """Judge the model that is served: the champion, with its package from BentoML's store, else the release.

    Raises:
        NoChampionError: if nothing was promoted yet and there is no release.
        PolicyError, NoReferenceError: as `judge`.
    """
    served = served_model(registry, release)
    return judge(log_dir, served, served.folder(), monitoring_dir, track=track)


def judge(
    log_dir: Path,
    champion: Champion | Release,
    package: Path,
    monitoring_dir: Path,
    now: datetime | None = None,
    track: bool = True,
) -> Verdict:
    """Compare, decide, and write `<monitoring_dir>/reports/<UTC stamp>/`.

    Args:
        log_dir: the prediction log, with predictions and feedback.
        champion: the model that is served, whose predictions count; those of others are ignored and counted.
        package: its package, with `reference.parquet`.
        monitoring_dir: holds `policy.yaml`; the report goes to `reports/` in it.
        now: end of the window, aware; the present when none.
        track: whether to keep an MLflow run of the verdict.

    Returns:
        The verdict, as written to `verdict.json`.

    Raises:
        PolicyError: if the policy is absent or wrong.
        NoReferenceError: if the package has no reference to compare with.
    """
    now = (now or datetime.now(UTC)).astimezone(UTC)
    policy_path = monitoring_dir / POLICY_FILE
    policy = load_policy(policy_path)
    reference = read_reference(package, policy)
    window = current_window(log_dir, champion.label, policy, now)
    evidence = _examine(window, reference, policy, log_dir, now)
    outcome, reasons = _decide(window, evidence, policy)
    folder = monitoring_dir / REPORTS_FOLDER / now.strftime("%Y%m%dT%H%M%S.%fZ")
    tags = {
        "model": champion.model,
        "model_version": champion.label,
        "package_sha256": champion.package_sha256,
        "verdict": outcome,
    }
    run = tracking.run(f"monitor {champion.label}", experiment=tracking.MONITORING_EXPERIMENT, tags=tags)
    with run if track else nullcontext(None) as run_id:
        comparison = evidence.comparison
        verdict = Verdict(
            verdict=outcome,
            time=timestamp(now),
            action=policy.start(outcome),
            synthetic=champion.synthetic,
            reasons=reasons,
            window=_summary(window, compared=len(window.rows) if comparison else 0),
            columns=comparison.columns if comparison else (),
            embedding=comparison.embedding if comparison else None,
            quality=evidence.quality,
            reference_rows=len(evidence.reference_rows),
            reference_sha256=reference.sha256,
            policy_sha256=files.sha256(policy_path),
            champion=champion.model,
            mlflow_run_id=run_id,
            report=str(folder),
            repeats=window.repeats,
            without_largest=evidence.without_largest,
            expected=evidence.expected,
            days=evidence.days,
            like=evidence.like,
            page=page_of(folder, Environment().service_url),
        )
        _write(verdict, window, evidence, policy, folder, monitoring_dir)
        if run_id:
            _log(verdict, champion, folder)
    history_page.publish(monitoring_dir)  # before reports go, for it reads them
    _forget_old(monitoring_dir, policy.keep_reports)
    return verdict


@dataclass(frozen=True)
class _Evidence:
    """All that a window shows, before anything is decided.

    Attributes:
        comparison: with the reference; none with too few different images.
        reference_rows: those that it was made with.
        like, without_largest, quality, expected, days: as in `Verdict`.
        quality_page: Evidently's own page on the quality, where enough predictions have feedback.
    """

    comparison: Comparison | None
    reference_rows: pd.DataFrame
    like: str | None = None
    without_largest: tuple[str, ...] | None = None
    quality: Quality | None = None
    expected: ExpectedAccuracy | None = None
    days: tuple[DayQuality, ...] = ()
    quality_page: Snapshot | None = None

    @property
    def pages(self) -> dict[str, Snapshot]:
        """Evidently's pages that there are, by the file's name."""
        pages = {
            "evidently.html": self.comparison.snapshot if self.comparison else None,
            "quality.html": self.quality_page,
        }
        return {name: found for name, found in pages.items() if found}


def _examine(window: Window, reference: Reference, policy: Policy, log_dir: Path, now: datetime) -> _Evidence:
    """Compare the window with the reference, and say how right the model is, as far as the policy asks."""
    evidence = _Evidence(None, reference.rows)
    enough = window.repeats.images >= policy.window.minimum_predictions
    if enough:
        comparison, rows, like = _compare(window.rows, reference, policy)
        others = _without_largest(window, comparison, reference, policy)
        evidence = _Evidence(comparison, rows, like, others)
    if policy.quality:
        quality, snapshot = measure(window.labelled, reference.rows, policy)
        days = by_day(log_dir, policy.quality, now)
        evidence = replace(evidence, quality=quality, quality_page=snapshot, days=days)
        if enough:
            drop, seed = policy.quality.max_expected_drop, policy.window.seed
            expected = estimate(reference.rows, window.rows, drop, seed)
            evidence = replace(evidence, expected=expected)
    return evidence


def _compare(
    current: pd.DataFrame, reference: Reference, policy: Policy
) -> tuple[Comparison, pd.DataFrame, str | None]:
    """Compare with the whole reference and, where that is drift, with each source of the dataset alone.

    A model that was trained on labelled traffic knows two kinds of faces. Traffic of one kind is unlike their
    mixture, and no drift.

    Returns:
        The comparison, the reference's rows in it, and the source that they are of; none: all of them.
    """
    whole = compare(current, reference.rows, reference.embedding, policy)
    if whole.drifted:
        for source, rows in reference.by_source(policy.window.minimum_predictions):
            alone = compare(current, rows, reference.embedding, policy)
            if not alone.drifted:
                return alone, rows, source
    return whole, reference.rows, None


def _without_largest(
    window: Window, comparison: Comparison, reference: Reference, policy: Policy
) -> tuple[str, ...] | None:
    """What drifted without the client that sent most; none where it is not noticed, or the others are few."""
    if not comparison.drifted or "client" not in window.repeats.noticed:
        return None
    others = window.rows[~window.rows["from_largest"]]
    if len(others) < policy.window.minimum_predictions:
        return None
    return compare(others, reference.rows, reference.embedding, policy).drifted


def _decide(window: Window, evidence: _Evidence, policy: Policy) -> tuple[Outcome, tuple[str, ...]]:
    comparison, quality = evidence.comparison, evidence.quality
    reasons = []
    if quality and quality.drifted:
        reasons.append(
            f"accuracy fell from {quality.reference_accuracy:.3f} to {quality.accuracy:.3f} "
            f"on {quality.labelled} predictions with feedback"
        )
    if comparison:
        reasons += [
            _sentence(column.name, column.reference, column.current, column.moved)
            for column in comparison.columns
            if column.drifted
        ]
        if comparison.embedding and comparison.embedding.drifted:
            reasons.append(
                f"the embedding moved: MMD² {comparison.embedding.size:.3f}, "
                f"threshold {comparison.embedding.threshold}"
            )
    if reasons:
        return "drift", tuple(reasons)
    if comparison is None:
        different = f"{window.repeats.images} different images in " if window.repeats.repeated else ""
        predictions = "1 prediction" if window.usable == 1 else f"{window.usable} predictions"
        return "too_few", (
            f"{different}{predictions} of version {window.model_version} in the last "
            f"{policy.window.hours:g} hours; the policy asks for {policy.window.minimum_predictions}",
        )
    against = f", held against the faces of source {evidence.like} alone" if evidence.like else ""
    return "healthy", (f"nothing watched has moved beyond its threshold{against}",)


def _sentence(
    name: str, reference: float | Mapping[str, float], current: float | Mapping[str, float], moved: float
) -> str:
    if isinstance(reference, Mapping) and isinstance(current, Mapping):
        most = page.most_changed(reference, current)
        change = f"{most} went from {reference[most]:.0%} to {current[most]:.0%}"
    else:
        change = f"mean {reference:.3f} to {current:.3f}"
    return f"{name} moved: {change} ({moved:.1f} times its threshold)"


def _summary(window: Window, compared: int) -> WindowSummary:
    return WindowSummary(
        rows=window.usable,
        compared=compared,
        start=window.start,
        end=window.end,
        model_version=window.model_version,
        other_versions_ignored=window.other_versions_ignored,
        unusable=window.unusable,
        torn_lines=window.torn_lines,
    )


def _write(
    verdict: Verdict, window: Window, evidence: _Evidence, policy: Policy, folder: Path, monitoring_dir: Path
) -> None:
    """The report's folder, whole or not at all."""
    with files.new_folder(folder) as beside:
        for name, snapshot in evidence.pages.items():
            snapshot.save_html(str(beside / name))
        earlier = history.read(monitoring_dir).verdicts
        html = page.render(
            verdict, window.rows, evidence.reference_rows, list(evidence.pages), policy, earlier
        )
        files.write_text(beside / INDEX, html)
        files.write_json(beside / VERDICT_FILE, verdict.model_dump(mode="json"))


def _log(verdict: Verdict, champion: Champion | Release, folder: Path) -> None:
    import mlflow

    metrics = {
        "rows": float(verdict.window.rows),
        **({"repeated": verdict.repeats.repeated} if verdict.repeats else {}),
        "drifted_columns": float(sum(column.drifted for column in verdict.columns)),
        **{f"size.{column.name}": column.size for column in verdict.columns},
        **{f"p_value.{column.name}": column.p_value for column in verdict.columns},
    }
    if verdict.embedding:
        metrics |= {"size.embedding": verdict.embedding.size, "p_value.embedding": verdict.embedding.p_value}
    if verdict.expected:
        metrics["expected_accuracy"] = verdict.expected.value
    if verdict.quality:
        metrics["labelled"] = float(verdict.quality.labelled)
        if verdict.quality.accuracy is not None:
            metrics["accuracy"] = verdict.quality.accuracy
    reasons = "\n".join(f"- {reason}" for reason in verdict.reasons)
    mlflow.set_tag("synthetic", str(verdict.synthetic).lower())
    mlflow.set_tag(NOTE_TAG, f"**{verdict.verdict}**, {verdict.page}\n\n{reasons}")
    mlflow.log_metrics(metrics)
    # Evidently's pages are 4 MB each and stay in the report's folder.
    for name in (INDEX, VERDICT_FILE):
        mlflow.log_artifact(str(folder / name))
    if isinstance(champion, Champion):  # a release is in no registry
        _tag_version(verdict, champion)


def _tag_version(verdict: Verdict, champion: Champion) -> None:
    """Show the last verdict where the model's versions are listed."""
    client = versions.connect()
    version = versions.find(client, champion.package_sha256, champion.version)
    if version is not None:  # MLflow's store may be another one than that of the promotion
        said = {VERDICT_TAG: f"{verdict.verdict}, {verdict.time}", REPORT_TAG: verdict.page}
        for name, value in said.items():
            client.set_model_version_tag(version.name, version.version, name, value)


def _forget_old(monitoring_dir: Path, keep: int) -> None:
    for folder in stamped(monitoring_dir)[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)
