"""Flow `monitor` (deployment `monitor/hourly`): judge the champion; start training when the policy says so.

prefect deployment run monitor/hourly     # by a worker
python flows/monitor.py                   # here and now
"""

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment

from ferops.monitoring.verdict import Verdict


@task(retries=1, retry_delay_seconds=10, cache_policy=NO_CACHE)
def judge() -> Verdict:
    """Compare the recent predictions of the model that is served with its reference."""
    from ferops.monitoring.monitor import monitor
    from ferops.settings import Environment

    environment = Environment()
    return monitor(
        environment.log_dir, environment.registry_dir, environment.release_dir, environment.monitoring_dir
    )


@task(retries=2, retry_delay_seconds=10, cache_policy=NO_CACHE)
def start(deployment: str, verdict: Verdict) -> str:
    """Start a deployment without waiting for it; once a day and champion at most, however often asked."""
    run: Any = run_deployment(  # in a sync task it is sync; its type says it may be either
        deployment,
        timeout=0,
        idempotency_key=f"drift:{verdict.champion}:{verdict.window.model_version}:{verdict.time[:10]}",
        tags=["drift"],
    )
    return str(run.id)


@task(cache_policy=NO_CACHE)
def publish(verdict: Verdict, started: str | None) -> None:
    """Markdown artifact with the verdict, what moved, and what was started."""
    lines = [f"# {verdict.verdict}", "", *(f"- {reason}" for reason in verdict.reasons), ""]
    if verdict.synthetic:
        lines += ["Trained on synthetic faces.", ""]
    lines += ["| column | size | threshold | p-value | drifted |", "|---|---:|---:|---:|---|"]
    lines += [
        f"| {c.name} | {c.size:.3f} | {c.threshold} | {c.p_value:.2g} | {'yes' if c.drifted else 'no'} |"
        for c in verdict.columns
    ]
    lines += ["", f"Report: `{verdict.report}/index.html`"]
    if started:
        lines += [f"Started {verdict.action}: flow run `{started}`"]
    create_markdown_artifact("\n".join(lines), key="drift", description=f"Verdict of {verdict.time}")


@flow(name="monitor", flow_run_name="monitor")
def monitor() -> Verdict:
    """One verdict, published, and acted upon as `monitoring/policy.yaml` says."""
    verdict: Any = judge()  # a Verdict; Prefect's types cannot tell a sync call from an async one
    get_run_logger().info("%s: %s", verdict.verdict, "; ".join(verdict.reasons))
    started: str | None = None
    try:
        if verdict.action != "none":
            started = start(verdict.action, verdict)
    finally:  # the verdict is worth showing also where the deployment cannot be started
        publish(verdict, started)
    return verdict  # type: ignore[no-any-return]


if __name__ == "__main__":
    monitor()
