"""A server that was started for a while does not outlive who started it, even one that is killed."""

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

STARTS_A_SERVER = """
import sys, time
from pathlib import Path
from ferops.serving import trial
trial.STOP_TIMEOUT_S = 0.2
with open("log", "wb") as log:
    print(trial.start(["sh", "-c", sys.argv[1]], Path.cwd(), {}, log).pid, flush=True)
time.sleep(600)
"""


def alive(group):
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("server", ["sleep 600 & sleep 600", "trap '' TERM; sleep 600 & wait; sleep 600"])
def test_a_server_and_its_workers_end_with_a_process_that_is_killed(tmp_path, server):
    command = [sys.executable, "-c", STARTS_A_SERVER, server]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as starter:
        try:
            group = int(starter.stdout.readline())
            wait_for(lambda: len(alive(group)) >= 4)  # it, its worker, and who waits for the end
        finally:
            starter.kill()
    wait_for(lambda: not alive(group))
