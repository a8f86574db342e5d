"""The flow `compact`, as a worker loads it; what compaction does is tested in tests/monitoring."""

import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.logging import disable_run_logger

from tiny_log import ROOT, Workplace, answers


def test_the_flow_compacts_the_log_and_its_deployment_runs_once_a_day(tmp_path, monkeypatch):
    workplace = Workplace(tmp_path)
    workplace.policy(lambda raw: raw["log"].update(keep_days=100_000))
    workplace.predict(answers(5, seed=1))
    monkeypatch.setenv("FEROPS_LOG_DIR", str(workplace.log))
    monkeypatch.setenv("FEROPS_MONITORING_DIR", str(workplace.monitoring))
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (daily,) = (d for d in deployments if d["name"] == "daily")
    flow = load_flow_from_entrypoint(str(ROOT / daily["entrypoint"]))
    with disable_run_logger():
        assert flow.fn().startswith("5 records of 1 closed days compacted")
    assert len(list(workplace.log.rglob("*.parquet"))) == 1
