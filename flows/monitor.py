"""Flow `monitor` (deployment `monitor/hourly`): judge the served model; tell and start what the policy says.

prefect deployment run monitor/hourly     # by a worker
python flows/monitor.py                   # here and now
"""

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment

from ferops.environment import Environment
from ferops.monitoring.acting import Reaction, act
from ferops.monitoring.verdict import Verdict


@task(retries=1, retry_delay_seconds=10, cache_policy=NO_CACHE)
def judge() -> Verdict:
    """Compare the recent predictions of the model that is served with its reference."""
    from ferops.monitoring.monitor import monitor

    environment = Environment()
    return monitor(
        environment.log_dir, environment.registry_dir, environment.release_dir, environment.monitoring_dir
    )


@task(cache_policy=NO_CACHE)
def respond(verdict: Verdict) -> Reaction:
    """Alerts, and the deployment that the policy starts; what fails is tried again with the next verdict."""
    from ferops.monitoring.channels import configured
    from ferops.monitoring.monitor import POLICY_FILE
    from ferops.monitoring.policy import load_policy

    environment, logger = Environment(), get_run_logger()
    folder = environment.monitoring_dir
    policy = load_policy(folder / POLICY_FILE)
    reaction = act(verdict, policy, folder, configured(environment, logger), start)
    for complaint in reaction.complaints():
        logger.warning(complaint)
    return reaction


def start(deployment: str, key: str) -> str:
    """Start a deployment without waiting for it, and give the run's id; Prefect takes one key as one run."""
    run: Any = run_deployment(deployment, timeout=0, idempotency_key=key, tags=["drift"])
    return str(run.id)


@task(cache_policy=NO_CACHE)
def publish(verdict: Verdict, reaction: Reaction) -> None:
    """Artifacts: the verdict with what moved, was told and was started; and, at the service, the report."""
    from ferops.monitoring.history_page import publish as publish_history
    from ferops.serving.report_folder import address

    environment = Environment()
    history = publish_history(environment.monitoring_dir)  # again: alerts were told since the verdict
    lines = [f"# {verdict.verdict}", "", *(f"- {reason}" for reason in verdict.reasons), ""]
    if verdict.synthetic:
        lines += ["Trained on synthetic faces.", ""]
    lines += ["| column | size | threshold | p-value | drifted |", "|---|---:|---:|---:|---|"]
    lines += [
        f"| {c.name} | {c.size:.3f} | {c.threshold} | {c.p_value:.2g} | {'yes' if c.drifted else 'no'} |"
        for c in verdict.columns
    ]
    if environment.service_url:
        lines += ["", f"[Report]({verdict.page}), [history]({address(environment.service_url)})"]
        create_link_artifact(
            verdict.page, link_text=verdict.verdict, key="drift-report", description=verdict.time
        )
    else:
        lines += ["", f"Report: `{verdict.page}`, history: `{history}`"]
    lines += [f"\nTold by {', '.join(names)}: {title}" for title, names in reaction.told.items()]
    lines += [f"\n{complaint}" for complaint in reaction.complaints()]
    if reaction.started:
        lines += [f"\nStarted {verdict.action}: flow run `{reaction.started}`"]
    create_markdown_artifact("\n".join(lines), key="drift", description=f"Verdict of {verdict.time}")


@flow(name="monitor", flow_run_name="monitor")
def monitor() -> Verdict:
    """One verdict, acted upon as `monitoring/policy.yaml` says, and published."""
    verdict: Any = judge()  # a Verdict; Prefect's types cannot tell a sync call from an async one
    get_run_logger().info("%s: %s", verdict.verdict, "; ".join(verdict.reasons))
    reaction: Any = respond(verdict)
    publish(verdict, reaction)
    if reaction.not_started:
        raise RuntimeError(f"{verdict.action} could not be started: {reaction.not_started}")
    return verdict  # type: ignore[no-any-return]


if __name__ == "__main__":
    monitor()
