"""Flow `train` (deployment `train/nightly`): every stage of dvc.yaml as a task, in its own order.

    prefect deployment run train/nightly      # by a worker
    python flows/train.py                     # here and now

DVC decides what is up to date; Prefect retries, shows and schedules.
"""

import os
import re
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from ferops import files
from ferops.pipeline import StageOutcome, reproduce, stages

#: How outcomes are shown.
NAMES = {"ran": "Completed", "restored": "Restored from cache", "up_to_date": "Up to date"}

CARD = Path("models/patt_lite/card.json")


@task(cache_policy=NO_CACHE)
def read_stages() -> list[str]:
    """Stage names of the repository in the working directory, dependencies first."""
    return stages(Path.cwd())


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def run_stage(stage: str) -> Any:  # StageOutcome to the flow, a named state to Prefect
    """Bring one stage up to date; the state's name says whether it ran."""
    logger = get_run_logger()
    outcome = reproduce(stage, Path.cwd(), logger.info)
    create_markdown_artifact(
        f"**{stage}**: {NAMES[outcome.outcome].lower()}, {outcome.seconds:.1f} s",
        key=_key(f"stage-{stage}"),
        description=f"What became of stage {stage}",
    )
    return Completed(name=NAMES[outcome.outcome], data=outcome)


@task(cache_policy=NO_CACHE)
def publish(outcomes: list[StageOutcome], left: list[str]) -> None:
    """Markdown artifact with one line per stage, and a link to the MLflow run of the trained model."""
    lines = ["| stage | outcome | seconds |", "|---|---|---:|"]
    lines += [f"| {o.stage} | {NAMES[o.outcome].lower()} | {o.seconds:.1f} |" for o in outcomes]
    lines += [f"| {stage} | {'failed' if i == 0 else 'not run'} | |" for i, stage in enumerate(left)]
    if run_id := _mlflow_run():
        link = f"{_mlflow_address()}/#/runs/{run_id}"
        create_link_artifact(link, link_text=f"MLflow run {run_id}", key="mlflow-run")
        lines += ["", f"Training: [MLflow run {run_id}]({link})"]
    create_markdown_artifact("\n".join(lines), key="pipeline", description="Outcome of every DVC stage")


@flow(name="train", flow_run_name="train")
def train(retries: int = 1, retry_delay_seconds: float = 10.0) -> list[StageOutcome]:
    """Reproduce the pipeline stage by stage, up to the first that fails.

    Args:
        retries: how often a failed stage is tried again.
        retry_delay_seconds: pause before each.
    """
    step = run_stage.with_options(retries=retries, retry_delay_seconds=retry_delay_seconds)
    left = read_stages()
    outcomes: list[StageOutcome] = []
    try:
        while left:
            outcome: Any = step(left[0])  # a StageOutcome: Prefect unpacks the state
            outcomes.append(outcome)
            left = left[1:]
    finally:
        publish(outcomes, left)
    return outcomes


def _key(name: str) -> str:
    # Prefect's artifact keys: lower-case letters, digits and dashes.
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _mlflow_run() -> str | None:
    return files.read_json(CARD)["mlflow_run_id"] if CARD.exists() else None


def _mlflow_address() -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    # A local store has no address of its own: `make up` and `mlflow ui` serve it here.
    return uri if uri.startswith("http") else f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT', '5000')}"


if __name__ == "__main__":
    train()
