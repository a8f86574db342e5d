"""MLflow runs: where they go, how one is continued, and what ties it to code and parameters.

    >>> with run("patt_lite") as run_id:  # doctest: +SKIP
    ...     mlflow.log_metric("accuracy", 0.7)

The store is `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory with artifacts in
`mlartifacts/`. MLflow is imported when a run is opened, not before: it takes seconds.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ferops import files
from ferops.errors import reason

EXPERIMENT = "ferops"
MONITORING_EXPERIMENT = "ferops-monitoring"
REGISTERED_MODEL = "fer-classifier"

#: Tag that holds the identity of what a run does; see `run`.
ATTEMPT = "ferops.attempt"

LOCAL_STORE = Path("mlflow.db")
LOCAL_ARTIFACTS = Path("mlartifacts")


def connect() -> Any:
    """Point MLflow at the store, migrate a local one once, and return the `mlflow` module."""
    import mlflow
    from filelock import FileLock

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{LOCAL_STORE.resolve()}"
    mlflow.set_tracking_uri(uri)
    if uri.startswith("sqlite:///"):
        # Parallel first writers would each try to create the schema.
        with FileLock(f"{uri.removeprefix('sqlite:///')}.lock"):
            mlflow.MlflowClient().search_experiments(max_results=1)
    return mlflow


def _experiment_id(mlflow: Any, name: str) -> str:
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = mlflow.get_tracking_uri().startswith("sqlite:///")
    location = LOCAL_ARTIFACTS.resolve().as_uri() if local else None
    try:
        return str(mlflow.create_experiment(name, artifact_location=location))
    except mlflow.exceptions.MlflowException:  # another process created it meanwhile
        return str(mlflow.get_experiment_by_name(name).experiment_id)


class StoreError(RuntimeError):
    """MLflow's store cannot be read or written; the message says what to do."""


@contextmanager
def written(afterwards: str) -> Iterator[None]:
    """Turn whatever MLflow raises while it is asked into `StoreError`; `afterwards` says how work goes on."""
    try:
        yield
    except Exception as error:  # sqlalchemy's, requests', MLflow's own
        uri = os.environ.get("MLFLOW_TRACKING_URI") or LOCAL_STORE.resolve()
        raise StoreError(
            f"MLflow's store {uri} cannot be used ({reason(error)}): make room or look after the server; "
            f"{afterwards}"
        ) from error


class Interrupted(BaseException):
    """The process was asked to end (SIGTERM); `exit_code` is what shells expect of it."""

    exit_code = 128 + signal.SIGTERM


@contextmanager
def run(
    name: str,
    run_id: str | None = None,
    experiment: str = EXPERIMENT,
    tags: Mapping[str, str] | None = None,
    attempt: str | None = None,
) -> Iterator[str]:
    """Open a run and give its id; it ends FINISHED, FAILED on an error, KILLED on Ctrl-C or SIGTERM.

    Args:
        name: shown in MLflow.
        run_id: an earlier run to add to. Its own outcome stands, whatever becomes of the addition.
        experiment: where a new run goes.
        tags: set on the run.
        attempt: identity of work that may have been killed before: its run goes on here, and ends with this
            block. A new run has it from its creation on, so that no kill can part the two.

    A `run_id` that the store no longer has (a run or database that was deleted, another server) becomes a
    new run with the tag `ferops.continues`, so that cached pipeline results never point to nothing.

    Raises:
        StoreError: if the run cannot be opened or ended.
    """
    extra = dict(tags or {})
    ends: str | None = None
    with written("then run the same command again"):
        mlflow = connect()
    outer = mlflow.active_run()  # of whoever calls this inside a run of their own
    try:
        with written("then run the same command again"):
            experiment_id = _experiment_id(mlflow, experiment)
            if attempt:
                run_id, extra[ATTEMPT] = _begun(mlflow, attempt), attempt
            elif run_id is not None:
                ends = _status(mlflow, run_id)
                if ends is None:
                    extra["ferops.continues"], run_id = run_id, None
            if run_id is None:
                tags = {**lineage(), **extra}
                active = mlflow.start_run(experiment_id=experiment_id, run_name=name, tags=tags)
            else:  # it keeps the commit and the parameters that began it
                active = mlflow.start_run(run_id=run_id)
                if ends:  # at once: should this process be killed, it stands
                    mlflow.MlflowClient().set_terminated(run_id, ends)
                mlflow.set_tags(extra)
        yield str(active.info.run_id)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | Interrupted)
        with suppress(Exception):  # the error itself is what the user must see, not that it cannot be noted
            if mlflow.active_run() is not outer:
                mlflow.end_run(ends or ("KILLED" if stopped else "FAILED"))
            if stopped and attempt:  # while it was being opened: made, but not MLflow's open one yet
                close_abandoned(attempt)
        raise
    with written("its results are whole, but the store may show the run as RUNNING"):
        mlflow.end_run(ends or "FINISHED")


def close_abandoned(attempt: str) -> None:
    """Mark the run of an attempt as KILLED whose process is gone but which the store shows as RUNNING.

    Raises:
        StoreError: if the store cannot be asked.
    """
    with written("then run the same command again"):
        mlflow = connect()
        run_id = _begun(mlflow, attempt)
        if run_id and _status(mlflow, run_id) == "RUNNING":
            mlflow.MlflowClient().set_terminated(run_id, "KILLED")


def _begun(mlflow: Any, attempt: str) -> str | None:
    """The run of an attempt, wherever it is in the store; none where it was never made or was deleted."""
    found = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`{ATTEMPT}` = '{attempt}'",
        max_results=1,
        output_format="list",
    )
    return str(found[0].info.run_id) if found else None


def _status(mlflow: Any, run_id: str) -> str | None:
    """Status of a run; none where the store has it no longer, or only in its bin."""
    try:
        info = mlflow.get_run(run_id).info
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # unreachable is not gone
            raise
        return None
    return str(info.status) if info.lifecycle_stage == "active" else None


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM raise `Interrupted` in the main thread, so that what is open is closed in order."""

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break what the first closes
        raise Interrupted("stopped by SIGTERM; the same command goes on from where it was")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def lineage() -> dict[str, str]:
    """Git commit (with `-dirty` when tracked files differ from it) and digest of the parameters file."""
    from ferops.environment import Environment

    params = Environment().params
    return {
        "git_commit": git_commit() or "unknown",
        "params_sha256": files.sha256(params) if params.exists() else "unknown",
    }


def git_commit() -> str | None:
    """The checked-out commit, with `-dirty` when tracked code differs from it; none outside git.

    DVC's own lock and metric files do not count as dirty: a pipeline rewrites them as it runs.
    """
    try:
        commit = git("rev-parse", "HEAD").strip()
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!dvc.lock", ":!reports")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def git(*arguments: str) -> str:
    """What git prints, in the working directory.

    Raises:
        OSError, subprocess.SubprocessError: if there is no git, it refuses, or takes over 20 s.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout
