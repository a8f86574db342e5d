"""Judge the champion's recent predictions against its reference, and report.

>>> verdict = judge(Path("predictions"), champion, package, Path("monitoring"))  # doctest: +SKIP
>>> raise SystemExit(verdict.exit_code)  # doctest: +SKIP
"""

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from ferops import files, tracking
from ferops.monitoring import history, history_page, page
from ferops.monitoring.drift import Comparison, compare
from ferops.monitoring.expected_accuracy import estimate
from ferops.monitoring.policy import Policy, load_policy
from ferops.monitoring.quality import by_day, measure
from ferops.monitoring.verdict import DayQuality, Outcome, Quality, Verdict, WindowSummary
from ferops.monitoring.window import Reference, Window, current_window, read_reference
from ferops.promotion import versions
from ferops.promotion.champion import Champion
from ferops.promotion.release import Release, served_model
from ferops.serving.prediction_log import timestamp
from ferops.serving.report_folder import INDEX, REPORTS_FOLDER, address, stamped
from ferops.settings import Environment

POLICY_FILE = "policy.yaml"

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
    enough = window.repeats.images >= policy.window.minimum_predictions
    current = window.rows
    comparison, rows, like = _compare(current, reference, policy) if enough else (None, reference.rows, None)
    without_largest = None
    if comparison and comparison.drifted and "client" in window.repeats.noticed:
        others = current[~current["from_largest"]]
        if len(others) >= policy.window.minimum_predictions:
            without_largest = compare(others, reference.rows, reference.embedding, policy).drifted
    quality, labelled, expected = None, None, None
    days: tuple[DayQuality, ...] = ()
    if policy.quality:
        quality, labelled = measure(window.labelled, reference.rows, policy)
        days = by_day(log_dir, policy.quality, now)
        if enough:
            drop, seed = policy.quality.max_expected_drop, policy.window.seed
            expected = estimate(reference.rows, current, drop, seed)
    outcome, reasons = _decide(window, comparison, like, quality, policy)
    folder = monitoring_dir / REPORTS_FOLDER / now.strftime("%Y%m%dT%H%M%S.%fZ")
    tags = {
        "model": champion.model,
        "model_version": champion.label,
        "package_sha256": champion.package_sha256,
        "verdict": outcome,
    }
    run = tracking.run(f"monitor {champion.label}", experiment=tracking.MONITORING_EXPERIMENT, tags=tags)
    with run if track else nullcontext(None) as run_id:
        verdict = Verdict(
            verdict=outcome,
            time=timestamp(now),
            action=policy.start(outcome),
            synthetic=champion.synthetic,
            reasons=reasons,
            window=_summary(window, compared=len(current) if enough else 0),
            columns=comparison.columns if comparison else (),
            embedding=comparison.embedding if comparison else None,
            quality=quality,
            reference_rows=len(rows),
            reference_sha256=reference.sha256,
            policy_sha256=files.sha256(policy_path),
            champion=champion.model,
            mlflow_run_id=run_id,
            report=str(folder),
            repeats=window.repeats,
            without_largest=without_largest,
            expected=expected,
            days=days,
            like=like,
        )
        snapshots = {"evidently.html": comparison.snapshot} if comparison else {}
        if labelled:
            snapshots["quality.html"] = labelled
        with files.new_folder(folder) as beside:
            for name, snapshot in snapshots.items():
                snapshot.save_html(str(beside / name))
            earlier = history.read(monitoring_dir).verdicts
            html = page.render(verdict, current, rows, list(snapshots), policy, earlier)
            files.write_text(beside / "index.html", html)
            files.write_json(beside / "verdict.json", verdict.model_dump(mode="json"))
        if run_id:
            _log(verdict, champion, folder)
    history_page.publish(monitoring_dir)  # before reports go, for it reads them
    _forget_old(monitoring_dir, policy.keep_reports)
    return verdict


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


def _decide(
    window: Window,
    comparison: Comparison | None,
    like: str | None,
    quality: Quality | None,
    policy: Policy,
) -> tuple[Outcome, tuple[str, ...]]:
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
        return "too_few", (
            f"{different}{window.usable} predictions of version {window.model_version} in the last "
            f"{policy.window.hours:g} hours; the policy asks for {policy.window.minimum_predictions}",
        )
    against = f", held against the faces of source {like} alone" if like else ""
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


def link(verdict: Verdict) -> str:
    """Where people read a verdict's report: at the service when `FEROPS_SERVICE_URL` says where that is."""
    service, folder = Environment().service_url, Path(verdict.report)
    return address(service, folder.name) if service else str(folder / INDEX)


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
    mlflow.set_tag(NOTE_TAG, f"**{verdict.verdict}**, {link(verdict)}\n\n{reasons}")
    mlflow.log_metrics(metrics)
    # Evidently's pages are 4 MB each and stay in the report's folder.
    for name in (INDEX, "verdict.json"):
        mlflow.log_artifact(str(folder / name))
    if isinstance(champion, Champion):  # a release is in no registry
        _tag_version(verdict, champion)


def _tag_version(verdict: Verdict, champion: Champion) -> None:
    """Show the last verdict where the model's versions are listed."""
    client = versions.connect()
    version = versions.find(client, champion.package_sha256, champion.version)
    if version is not None:  # MLflow's store may be another one than that of the promotion
        said = {VERDICT_TAG: f"{verdict.verdict}, {verdict.time}", REPORT_TAG: link(verdict)}
        for name, value in said.items():
            client.set_model_version_tag(version.name, version.version, name, value)


def _forget_old(monitoring_dir: Path, keep: int) -> None:
    for folder in stamped(monitoring_dir)[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)
