"""Verdicts as the monitor gives them, without a monitor."""

from datetime import timedelta

from ferops.monitoring.verdict import ColumnDrift, Outcome, Repeats, Verdict, WindowSummary
from ferops.serving.prediction_log import timestamp
from tiny_log import NOW


def verdict(
    outcome: Outcome,
    *columns: str,
    hour: float = 0,
    version: str = "v3-0a1b2c3d",
    action: str | None = None,
    repeated: float = 0.0,
    page: str = "monitoring/reports/20260301T120000.000000Z/index.html",
) -> Verdict:
    """A verdict `hour` hours after 2026-03-01 12:00 UTC, in which these columns have drifted.

    The share `repeated` of its predictions is of one image. People read it on `page`.
    """
    reasons = {
        "healthy": ("nothing watched has moved beyond its threshold",),
        "too_few": (f"12 predictions of version {version} in the last 24 hours; the policy asks for 100",),
        "drift": tuple(f"{name} moved: mean 0.500 to 0.300 (6.0 times its threshold)" for name in columns),
    }
    moved = {
        "test": "ks",
        "p_value": 1e-9,
        "significance": 1e-3,
        "effect": "wasserstein",
        "size": 1.5,
        "threshold": 0.25,
        "drifted": True,
        "reference": 0.5,
        "current": 0.3,
    }
    return Verdict(
        verdict=outcome,
        time=timestamp(NOW + timedelta(hours=hour)),
        action=action or ("train/nightly" if outcome == "drift" else "none"),
        synthetic=True,
        reasons=reasons[outcome],
        window=WindowSummary(
            rows=12 if outcome == "too_few" else 500,
            compared=0 if outcome == "too_few" else 500,
            start=None,
            end=None,
            model_version=version,
            other_versions_ignored=0,
            unusable=0,
            torn_lines=0,
        ),
        columns=tuple(ColumnDrift(name=name, **moved) for name in columns),
        embedding=None,
        quality=None,
        reference_rows=700,
        reference_sha256="0" * 64,
        policy_sha256="0" * 64,
        champion="fer-classifier",
        mlflow_run_id=None,
        report="monitoring/reports/20260301T120000.000000Z",
        repeats=Repeats(
            images=round(500 * (1 - repeated)),
            repeated=repeated,
            largest_image=repeated,
            largest_client=None,
            noticed=("images",) if repeated > 0.2 else (),
        ),
        page=page,
    )
