"""The deployments on a real server with a real worker: what `make up` starts, without the model."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from ferops.environment import Environment
from ferops.monitoring.acting import act
from ferops.monitoring.channels import configured
from ferops.monitoring.history import read
from ferops.monitoring.policy import load_policy
from receivers import WebReceiver, listening
from tiny_pipeline import ORDER, write_tiny_pipeline
from tiny_verdict import verdict

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.server, pytest.mark.long]


class Patient(httpx.HTTPTransport):
    """Asks again while the server's SQLite is locked (503), as Prefect's own client does."""

    def handle_request(self, request):
        for _ in range(10):
            response = super().handle_request(request)
            if response.status_code != 503:
                break
            response.close()
            time.sleep(1)
        return response


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A tiny DVC repository with this project's flows and deployments in it."""
    folder = write_tiny_pipeline(tmp_path_factory.mktemp("work") / "repository")
    (folder / "flows").symlink_to(ROOT / "flows")
    (folder / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text())
    return folder


@pytest.fixture(scope="module")
def api(prefect, repository):
    """HTTP client of the server, once the worker has deployed the flows and is ready."""
    log = repository / "worker.log"
    with log.open("w") as output:
        worker = subprocess.Popen(
            [sys.executable, "flows/worker.py"], cwd=repository, env=prefect, stdout=output, stderr=output
        )
    try:
        address = f"{prefect['PREFECT_API_URL']}/"
        with httpx.Client(base_url=address, timeout=30, transport=Patient()) as client:
            wait_for(lambda: client.post("work_pools/ferops/workers/filter", json={}).json(), 120, log)
            yield client
    finally:
        worker.terminate()
        worker.wait(30)


def wait_for(found, seconds, log=None):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (result := found()) and isinstance(result, list | dict) and "detail" not in result:
            return result
        time.sleep(0.5)
    pytest.fail(f"nothing after {seconds} s\n{log.read_text() if log else ''}")


def deployment(api, name):
    return api.get(f"deployments/name/{name}").json()


def run_to_end(api, repository, **parameters):
    """Start `train/nightly` as `prefect deployment run` does, and wait for its end."""
    nightly = deployment(api, "train/nightly")
    run = api.post(f"deployments/{nightly['id']}/create_flow_run", json={"parameters": parameters}).json()

    def ended():
        now = api.get(f"flow_runs/{run['id']}").json()
        return now if now["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    return wait_for(ended, 180, repository / "worker.log")


def stage_states(api, run):
    """State name of each stage's task run."""
    tasks = api.post("task_runs/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}}).json()
    return {task["name"]: task["state_name"] for task in tasks if task["name"] in ORDER}


def messages(api, run):
    """What the run has logged, as far as the server has it."""
    found = api.post("logs/filter", json={"logs": {"flow_run_id": {"any_": [run["id"]]}}}).json()
    return [line["message"] for line in found]


def artifacts(api, run):
    found = api.post(
        "artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [run["id"]]}}, "sort": "ID_DESC"}
    ).json()
    return {artifact["key"]: artifact["data"] for artifact in found}


def test_a_worker_brings_the_pipeline_up_to_date_and_a_second_run_has_nothing_to_do(api, repository):
    run = run_to_end(api, repository)
    assert run["state_type"] == "COMPLETED", run["state"]
    assert stage_states(api, run) == dict.fromkeys(ORDER, "Completed")
    assert (repository / "report_vit.txt").read_text() == "FACES"
    found = artifacts(api, run)
    assert "| report@vit | completed |" in found["pipeline"]
    assert "completed" in found["stage-report-patt-lite"]
    # The server gets the lines in batches, the last one maybe after the run's end.
    wait_for(lambda: [m for m in messages(api, run) if m == "epoch 1"], 30, repository / "worker.log")

    again = run_to_end(api, repository)
    assert again["state_type"] == "COMPLETED"
    assert stage_states(api, again) == dict.fromkeys(ORDER, "Up to date")
    assert "| train | up to date |" in artifacts(api, again)["pipeline"]


def test_a_failed_stage_is_tried_again_then_fails_the_run_and_the_rest_is_not_run(api, repository):
    (repository / "raw.txt").write_text("broken")
    try:
        run = run_to_end(api, repository, retries=1, retry_delay_seconds=0)
    finally:
        (repository / "raw.txt").write_text("faces")
    assert run["state_type"] == "FAILED"
    assert "the data is broken" in run["state"]["message"]
    assert stage_states(api, run) == {"ingest": "Completed", "train": "Failed"}
    tasks = api.post("task_runs/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}}).json()
    assert next(task["run_count"] for task in tasks if task["name"] == "train") == 2
    table = artifacts(api, run)["pipeline"]
    assert "| train | failed |" in table and "| report@vit | not run |" in table


def test_both_deployments_are_scheduled_and_run_where_they_were_deployed(api, repository):
    for name, cron in (("train/nightly", "0 2 * * *"), ("monitor/hourly", "0 * * * *")):
        found = deployment(api, name)
        assert found["schedules"][0]["schedule"]["cron"] == cron
        assert found["work_pool_name"] == "ferops"
        (step,) = found["pull_steps"]
        assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(repository)
    assert deployment(api, "train/nightly")["global_concurrency_limit"]["limit"] == 1


def flow(name):
    spec = importlib.util.spec_from_file_location(f"flow_{name}", ROOT / f"flows/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(prefect, monkeypatch):
    """This process as a client of the server."""
    monkeypatch.setenv("PREFECT_API_URL", prefect["PREFECT_API_URL"])
    # No logs from this process: it would go on sending them when the server has stopped.
    settings = {PREFECT_API_URL: prefect["PREFECT_API_URL"], PREFECT_LOGGING_TO_API_ENABLED: False}
    with temporary_settings(settings):
        yield


@pytest.fixture
def monitor(here, tmp_path, monkeypatch):
    """The flow `monitor`; `monitor.sees` runs it with a verdict instead of a model."""
    (tmp_path / "policy.yaml").write_text((ROOT / "monitoring/policy.yaml").read_text())
    monkeypatch.setenv("FEROPS_MONITORING_DIR", str(tmp_path))
    monkeypatch.setenv("FEROPS_SERVICE_URL", "https://fer.example.org")
    module = flow("monitor")

    def sees(given):
        monkeypatch.setattr("ferops.monitoring.monitor.monitor", lambda *paths: given)
        return module.monitor(return_state=True)

    module.sees = sees
    return module


def last_artifact(api, key="drift"):
    (found,) = api.post("artifacts/latest/filter", json={"artifacts": {"key": {"any_": [key]}}}).json()
    return found["data"]


def test_drift_that_lasts_starts_training_once_a_day_and_a_healthy_verdict_never(api, monitor, tmp_path):
    def started():
        wanted = {"flow_runs": {"tags": {"all_": ["drift"]}}, "flows": {"name": {"any_": ["train"]}}}
        return api.post("flow_runs/filter", json=wanted).json()

    for hour, (outcome, runs) in enumerate([("healthy", 0), ("drift", 0), ("drift", 1), ("drift", 1)]):
        columns = ["brightness"] if outcome == "drift" else []
        page = "https://fer.example.org/monitoring/20260301T120000.000000Z/index.html"
        assert monitor.sees(verdict(outcome, *columns, hour=hour, page=page)).is_completed()
        assert len(started()) == runs
        if hour == 2:
            told = last_artifact(api)
            assert "- brightness moved" in told and "synthetic faces" in told
            assert "Told by log, prefect: Drift (brightness)" in told
            assert f"Started train/nightly: flow run `{started()[0]['id']}`" in told
            assert f"[Report]({page}), [history](https://fer.example.org/monitoring/)" in told
            assert f"[drift]({page})" in last_artifact(api, "drift-report")
            assert [alert.status for alert in read(tmp_path).alerts] == ["detected"]


def test_what_cannot_be_started_fails_the_run_and_the_verdict_is_published(api, monitor, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no such deployment")

    monkeypatch.setattr(monitor, "run_deployment", fails)
    assert monitor.sees(verdict("drift", "contrast", version="v9-99999999")).is_completed()
    state = monitor.sees(verdict("drift", "contrast", hour=1, version="v9-99999999"))
    assert state.is_failed() and "no such deployment" in state.message
    assert "contrast moved" in last_artifact(api) and "no such deployment" in last_artifact(api)


def test_prefect_passes_alerts_on_by_the_shipped_automation(here, prefect, tmp_path):
    with listening(WebReceiver()) as receiver:
        message = {"subject": "{{subject}}", "body": "{{body}}"}
        block = CustomWebhookNotificationBlock(name="ops", url=receiver.url, json_data=message).save("ops")
        shipped = (ROOT / "monitoring/automation.yaml").read_text()
        file = tmp_path / "automation.yaml"
        file.write_text(shipped.replace("00000000-0000-0000-0000-000000000000", str(block)))
        command = [sys.executable, "-m", "prefect", "automation", "create", "--from-file", str(file)]
        subprocess.run(command, env=prefect, check=True, capture_output=True)
        policy = load_policy(ROOT / "monitoring/policy.yaml")
        for hour, outcome in enumerate(("drift", "drift", "healthy", "healthy")):
            given = verdict(outcome, *(["noise"] if outcome == "drift" else []), hour=hour)
            assert not act(given, policy, tmp_path, configured(Environment())).failed
        wait_for(lambda: receiver.taken[1:], 60)
    found, over = sorted(receiver.taken, key=lambda taken: taken["subject"])
    assert found["subject"] == "ferops.drift.detected, v3-0a1b2c3d"
    assert found["body"].startswith("Drift (noise), fer-classifier v3-0a1b2c3d\nnoise moved: mean 0.500")
    assert found["body"].endswith("report: monitoring/reports/20260301T120000.000000Z/index.html")
    assert over["body"].startswith("Over: drift, fer-classifier v3-0a1b2c3d")
