"""DVC's stages, one by one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ferops.pipeline import PipelineError, StageFailedError, reproduce, stages
from tiny_pipeline import ORDER, write_tiny_pipeline


@pytest.fixture
def repository(tmp_path):
    return write_tiny_pipeline(tmp_path / "repository")


def test_stages_come_after_what_they_depend_on_matrix_and_all(repository):
    assert stages(repository) == ORDER


def test_a_broken_dvc_yaml_is_refused_in_dvcs_words(repository):
    (repository / "dvc.yaml").write_text("stages: [")
    with pytest.raises(PipelineError, match=r"dvc\.yaml"):
        stages(repository)


def test_a_stage_runs_once_is_then_up_to_date_and_comes_back_from_the_cache(repository):
    lines = []
    assert reproduce("ingest", repository, lines.append).outcome == "ran"
    assert "reading raw.txt" in lines
    assert reproduce("ingest", repository, lines.append).outcome == "up_to_date"
    (repository / "data.txt").unlink()
    restored = reproduce("ingest", repository, lines.append)
    assert (restored.stage, restored.outcome) == ("ingest", "restored")
    assert (repository / "data.txt").read_text() == "faces"


def test_a_failed_stage_says_so_with_the_end_of_its_output(repository):
    (repository / "raw.txt").write_text("broken")
    reproduce("ingest", repository, print)
    with pytest.raises(StageFailedError, match=r"stage train failed(?s:.*)epoch 1(?s:.*)the data is broken"):
        reproduce("train", repository, print)


def test_lines_arrive_while_the_stage_still_runs(repository):
    (repository / "dvc.yaml").write_text(
        "stages:\n  slow:\n    cmd: python -c \"import time; print('go'); time.sleep(3)\"\n"
    )
    arrived = {}
    reproduce("slow", repository, lambda line: arrived.setdefault(line, time.monotonic()))
    assert time.monotonic() - arrived["go"] > 2


def test_an_interrupted_caller_leaves_no_stage_behind(repository):
    (repository / "slow.py").write_text("import os, time\nprint('pid', os.getpid())\ntime.sleep(60)\n")
    (repository / "dvc.yaml").write_text("stages:\n  slow:\n    cmd: python slow.py\n")
    code = (
        "import pathlib, ferops.pipeline as p\n"
        f"p.reproduce('slow', pathlib.Path({str(repository)!r}), lambda line: print(line, flush=True))"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pid = next(int(line.split()[1]) for line in caller.stdout if line.startswith("pid"))
    caller.send_signal(signal.SIGINT)
    caller.wait(30)
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"the stage's process {pid} still runs")
