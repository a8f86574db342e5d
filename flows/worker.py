"""Wait for the Prefect server, deploy the flows, and become a worker of the pool `ferops`.

    PREFECT_API_URL=http://127.0.0.1:4200/api python flows/worker.py

`make up` runs this beside the server (see Procfile).
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import ferops  # noqa: F401  telemetry off

POOL = "ferops"
PATIENCE_SECONDS = 120


def wait_for_server(api: str, patience: float = PATIENCE_SECONDS) -> None:
    """Return once `<api>/health` answers.

    Raises:
        TimeoutError: if it does not within `patience` seconds.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(f"no Prefect server answers at {api} after {patience:.0f} s")


def main() -> None:
    """Deploy, then turn into the worker's process, so that signals reach it."""
    wait_for_server(os.environ["PREFECT_API_URL"])
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    # Flow runs inherit this: stages find `ferops` whatever the caller's PATH was.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if subprocess.run([*prefect, "work-pool", "inspect", POOL], capture_output=True).returncode != 0:
        subprocess.run([*prefect, "work-pool", "create", POOL, "--type", "process"], check=True)
    subprocess.run([*prefect, "deploy", "--all"], check=True)
    os.execv(sys.executable, [*prefect, "worker", "start", "--pool", POOL])


if __name__ == "__main__":
    main()
