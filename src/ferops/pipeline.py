"""The DVC pipeline, one stage at a time: `dvc.yaml` stays its only definition.

    >>> for stage in stages(Path.cwd()):  # doctest: +SKIP
    ...     reproduce(stage, Path.cwd(), print)

DVC runs as a subprocess, as a person would run it: its exit code and its own words say what happened.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal

Outcome = Literal["ran", "restored", "up_to_date"]

#: Lines kept of a stage's output, for the message when it fails.
TAIL_LINES = 30

#: A line of `dvc dag --dot`: `"ingest";` or `"ingest" -> "validate";`.
DAG_LINE = re.compile(r'^"(?P<stage>[^"]+)"(?: -> "(?P<child>[^"]+)")?;$')


class PipelineError(RuntimeError):
    """DVC cannot read the pipeline; the message is DVC's own."""


class StageFailedError(RuntimeError):
    """A stage failed; the message holds the end of its output."""


@dataclass(frozen=True)
class StageOutcome:
    """What became of one stage.

    Attributes:
        stage: its name, such as `evaluate_vit`.
        outcome: `ran`, `restored` from DVC's cache without running, or `up_to_date`.
        seconds: wall clock.
    """

    stage: str
    outcome: Outcome
    seconds: float


def stages(repository: Path) -> list[str]:
    """Stage names in an order in which each comes after all it depends on; ties as in `dvc.yaml`.

    Raises:
        PipelineError: if DVC refuses `dvc.yaml`.
    """
    names = _dvc(repository, "stage", "list", "--name-only").split()
    place = {name: number for number, name in enumerate(names)}
    sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(names, ()))
    for line in _dvc(repository, "dag", "--dot").splitlines():
        # Data files under DVC (`raw.zip.dvc`) are in the graph too, but there is nothing to run for them.
        edge = DAG_LINE.match(line.strip())
        if edge and edge["child"] in place and edge["stage"] in place:
            sorter.add(edge["child"], edge["stage"])
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=place.__getitem__)
        order += ready
        sorter.done(*ready)
    return order


def reproduce(stage: str, repository: Path, on_line: Callable[[str], object]) -> StageOutcome:
    """Bring one stage up to date, whatever the state of the others, and pass on its output line by line.

    Waits while another `dvc` holds the repository's lock. When the caller is interrupted, the stage is
    stopped too.

    Raises:
        StageFailedError: with the last lines of the output.
    """
    outcome: Outcome = "ran"
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    started = time.monotonic()
    with _running(repository, "--wait-for-lock", "repro", "--single-item", stage) as process:
        for line in _lines(process):
            tail.append(line)
            on_line(line)
            if line == f"Stage '{stage}' didn't change, skipping":
                outcome = "up_to_date"
            elif line == f"Stage '{stage}' is cached - skipping run, checking out outputs":
                outcome = "restored"
    if process.returncode != 0:
        raise StageFailedError(
            f"stage {stage} failed (dvc exit code {process.returncode}); its last lines:\n" + "\n".join(tail)
        )
    return StageOutcome(stage, outcome, round(time.monotonic() - started, 3))


@contextmanager
def _running(repository: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=repository,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that DVC and the stage's own processes can be stopped together
    )
    try:
        yield process
        process.wait()
    except BaseException:
        _stop(process)
        raise


def _stop(process: subprocess.Popen[str], patience: float = 10.0) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip():
            yield line.rstrip()


def _dvc(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=repository,
        env=_environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise PipelineError(f"`dvc {' '.join(arguments)}` in {repository}: {done.stderr.strip()}")
    return done.stdout


def _environment() -> dict[str, str]:
    # Stages call `ferops`: it must be the one of this interpreter, also where its folder is not on PATH (a
    # worker started by its full path).
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"}
