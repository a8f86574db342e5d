"""`make up`: the Procfile's four processes start together and stop together."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tiny_package import write_tiny_package

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.server

PROCESSES = ("mlflow", "prefect", "worker", "service")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def workplace(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("Procfile", "prefect.toml", "prefect.yaml", "flows", "bentofile.yaml", "service.py"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.timeout(400)
def test_all_start_and_when_one_stops_all_stop(workplace, tmp_path):
    mlflow, prefect, service = free_ports(3)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_PORT": str(mlflow),
        "PREFECT_PORT": str(prefect),
        "SERVICE_PORT": str(service),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "FEROPS_PACKAGE": str(write_tiny_package(tmp_path / "package")),
    }
    log = tmp_path / "up.log"
    with log.open("w") as output:
        up = subprocess.Popen(
            [sys.executable, "-m", "honcho", "start"],
            cwd=workplace,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        answers = {
            "mlflow": lambda: httpx.get(f"http://127.0.0.1:{mlflow}/health").text == "OK",
            "service": lambda: "labels" in httpx.get(f"http://127.0.0.1:{service}/model").text,
            "prefect": lambda: httpx.get(f"http://127.0.0.1:{prefect}/api/health").json() is True,
            "worker": lambda: httpx.post(
                f"http://127.0.0.1:{prefect}/api/work_pools/ferops/workers/filter", json={}
            ).json()[0]["status"] == "ONLINE",
        }  # fmt: skip
        for name, answered in answers.items():
            wait_until(answered, 180, f"{name} does not answer", log, up)
        deployments = httpx.post(f"http://127.0.0.1:{prefect}/api/deployments/filter", json={}).json()
        assert sorted(deployment["name"] for deployment in deployments) == [
            "daily",
            "hourly",
            "nightly",
            "recipes",
        ]

        groups = dict(re.findall(r"(\w+)\.1 started \(pid=(\d+)\)", log.read_text()))
        assert set(groups) == set(PROCESSES)
        os.kill(int(groups["mlflow"]), signal.SIGTERM)
        up.wait(60)
        for name, pid in groups.items():
            wait_until(lambda pid=pid: not alive(int(pid)), 10, f"{name} still runs", log)
        for port in (mlflow, prefect, service):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(60)


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(answered, seconds, failure, log, process=None):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process is not None and process.poll() is not None:
            break
        try:
            if answered():
                return
        except (httpx.HTTPError, KeyError, IndexError, ValueError):
            pass
        time.sleep(0.5)
    pytest.fail(f"{failure}\n{log.read_text()[-6000:]}")
