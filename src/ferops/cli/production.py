"""What is served: how it does, where an answer came from, and what is to be forgotten."""

from pathlib import Path
from typing import Annotated

import typer

from ferops.cli.app import DATASET, PACKAGES, REPORTS, app


@app.command(epilog="Example: FEROPS_SHADOW=packages/patt_lite bentoml serve, and later: ferops shadow")
def shadow() -> None:
    """Say how far challengers agreed with the models that answered, by class."""
    from ferops.environment import Environment
    from ferops.serving.shadow import read_agreements

    log_dir = Environment().log_dir
    agreements = read_agreements(log_dir)
    if not agreements:
        typer.echo(f"no challenger was compared in {log_dir}: start the service with FEROPS_SHADOW")
    typer.echo("\n\n".join(agreement.table() for agreement in agreements))


@app.command(epilog="Example: ferops monitor || echo 'drift, or too few predictions'")
def monitor(
    test_alert: Annotated[
        bool, typer.Option("--test-alert", help="only send a test alert by every channel that is set up")
    ] = False,
) -> None:
    """Compare logged predictions with the served model's reference. Exit: 0 healthy, 3 drift, 4 too few."""
    from ferops.environment import Environment
    from ferops.monitoring.channels import configured, try_out

    environment = Environment()
    if test_alert:
        outcomes = try_out(environment)
        for name, why in outcomes.items():
            typer.echo(f"{name:<20} {why or 'sent'}")
        raise typer.Exit(int(any(outcomes.values())))
    from ferops.monitoring.acting import act
    from ferops.monitoring.history_page import publish
    from ferops.monitoring.monitor import POLICY_FILE
    from ferops.monitoring.monitor import monitor as run_monitor
    from ferops.monitoring.policy import load_policy

    verdict = run_monitor(
        environment.log_dir, environment.registry_dir, environment.release_dir, environment.monitoring_dir
    )
    typer.echo(verdict.sentence())
    folder = environment.monitoring_dir
    reaction = act(verdict, load_policy(folder / POLICY_FILE), folder, configured(environment))
    for complaint in reaction.complaints():
        typer.echo(complaint, err=True)
    typer.echo(f"all windows so far: {publish(folder)}")  # again: alerts were told since the verdict
    raise typer.Exit(verdict.exit_code)


@app.command(epilog="Example: ferops simulate --drift blur --severity 4")
def simulate(
    drift: Annotated[
        str, typer.Option(help="darker, brighter, low-contrast, blur or noise: what becomes of the faces")
    ] = "darker",
    severity: Annotated[int, typer.Option(min=1, max=5)] = 5,
    requests: Annotated[
        int, typer.Option(min=100, help="predictions asked for in a day of the policy")
    ] = 2000,
    day: Annotated[float, typer.Option(min=5, help="seconds that a day of the policy lasts")] = 180.0,
    every: Annotated[float, typer.Option(min=0.5, max=24, help="its hours between two verdicts")] = 1.0,
    feedback: Annotated[float, typer.Option(min=0.01, max=1, help="share of answers that get some")] = 0.5,
    labels: Annotated[int, typer.Option(min=1, help="drifted faces with feedback to wait for")] = 1500,
    poison: Annotated[float, typer.Option(min=0, max=1, help="share of wrong feedback on them")] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workplace: Annotated[
        Path | None, typer.Option(help="new or empty folder to work in, and keep; none: a temporary one")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for page, plot and numbers", file_okay=False)] = REPORTS
    / "simulation",
) -> None:
    """Let drift come, be seen, learnt and left behind, in a copy of the project. Exit: 0, or 5 to 7."""
    from ferops.simulation import page
    from ferops.simulation.drifts import DRIFTS
    from ferops.simulation.loop import simulate as run_simulation
    from ferops.simulation.timeline import Plan

    if drift not in DRIFTS:
        raise typer.BadParameter(f"{drift!r} is none of {', '.join(DRIFTS)}", param_hint="--drift")
    plan = Plan(
        drift=drift, severity=severity, requests=requests, day_s=day, monitor_every=every,
        feedback=feedback, labels=labels, poison=poison, seed=seed,
    )  # fmt: skip
    timeline = run_simulation(Path.cwd(), workplace, plan, typer.echo)
    typer.echo()
    for name, value in timeline.figures():
        typer.echo(f"{name:<16} {value}")
    typer.echo(f"{'page':<16} {page.write(timeline, out)}")
    raise typer.Exit(timeline.exit_code)


@app.command(epilog="Example: ferops compact")
def compact() -> None:
    """Turn the log's closed days into Parquet, and delete what is older than the policy says."""
    from ferops.environment import Environment
    from ferops.monitoring.compaction import compact as run_compaction
    from ferops.monitoring.monitor import POLICY_FILE
    from ferops.monitoring.policy import load_policy

    environment = Environment()
    policy = load_policy(environment.monitoring_dir / POLICY_FILE)
    typer.echo(run_compaction(environment.log_dir, policy.log).sentence())


@app.command(epilog="Example: ferops trace 0123456789abcdef0123456789abcdef")
def trace(
    prediction: Annotated[str, typer.Argument(help="its id, as the service answered it")],
) -> None:
    """Show a prediction's way back to model, run, code, parameters and data. Exit: 1 if a link is missing."""
    from ferops.environment import Environment
    from ferops.monitoring.trace import Workspace
    from ferops.monitoring.trace import trace as run_trace

    environment = Environment()
    workspace = Workspace(
        environment.log_dir,
        environment.registry_dir,
        environment.release_dir,
        PACKAGES,
        DATASET,
        REPORTS,
        environment.params,
    )
    links = run_trace(prediction, workspace)
    for link in links:
        typer.echo(link.line())
    raise typer.Exit(int(any(link.missing for link in links)))


@app.command(epilog="Example: ferops forget 0123456789abcdef0123456789abcdef")
def forget(
    prediction: Annotated[str, typer.Argument(help="its id, as the service answered it")],
) -> None:
    """Erase a prediction, its feedback and what a challenger said of it from the log, for good."""
    from ferops.environment import Environment
    from ferops.monitoring.forgetting import forget as run_forget

    typer.echo(run_forget(Environment().log_dir, prediction).sentence())


@app.command(epilog="Example: ferops status")
def status() -> None:
    """Say what the champion is, what is served, what the gate said last, and where the pages are."""
    from ferops.environment import Environment
    from ferops.status import describe

    environment = Environment()
    folders = (environment.registry_dir, environment.release_dir, environment.monitoring_dir)
    for line in describe(REPORTS, *folders):
        typer.echo(line)
