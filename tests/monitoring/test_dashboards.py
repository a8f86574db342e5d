"""The Grafana dashboard and the alert rules speak of metrics that the service really has."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from ferops.serving.metrics import Metrics
from tiny_log import ROOT

ALERTS = ROOT / "monitoring/prometheus/alerts.yaml"
DASHBOARD = ROOT / "monitoring/grafana/service.json"


def alerts():
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels():
    return json.loads(DASHBOARD.read_text())["panels"]


def queries():
    """Each PromQL expression with where it stands."""
    yield from ((f"alert {rule['alert']}", rule["expr"]) for rule in alerts())
    for panel in panels():
        yield from ((f"panel {panel['title']}", target["expr"]) for target in panel["targets"])


@pytest.fixture(scope="module")
def exposed():
    """Sample names with their labels, of a service in which everything has happened once."""
    metrics = Metrics()
    for metric in vars(metrics).values():
        names = getattr(metric, "_labelnames", None)
        if names:
            metric.labels(*names)
    lines = metrics.page()[0].decode().splitlines()
    samples = {}
    for line in lines:
        if not line.startswith("#"):
            name, labels = re.fullmatch(r"(\w+)(\{.*\})? \S+", line).groups()
            samples.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    return samples


def test_every_metric_that_they_name_is_told_by_the_service_with_those_labels(exposed):
    known = exposed | {"up": {"job"}}
    asked = 0
    for where, query in queries():
        for name, labels in re.findall(r"\b(ferops_\w+|up)\b(?:\{([^}]*)\})?", query):
            assert name in known, f"{where}: the service has no {name}"
            used = set(re.findall(r"(\w+)\s*[=!]", labels))
            assert used <= known[name] | {"instance"}, f"{where}: {name} has no {used - known[name]}"
            asked += 1
    assert asked > 30


def test_everything_that_the_service_tells_is_on_the_dashboard(exposed):
    shown = " ".join(query for where, query in queries() if where.startswith("panel"))
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exposed}
    assert not [name for name in families if name.removesuffix("_total") not in shown]


def test_every_alert_says_what_is_wrong_and_what_to_do():
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]


def test_panels_have_names_of_their_own_and_do_not_overlap():
    assert len({panel["title"] for panel in panels()}) == len({panel["id"] for panel in panels()})
    taken = set()
    for place in (panel["gridPos"] for panel in panels()):
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, part of Prometheus, is not installed")
def test_prometheus_takes_the_rules_and_they_fire_when_they_should(tmp_path):
    def promtool(*arguments):
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    promtool("check", "rules", str(ALERTS))
    promtool("test", "rules", str(ALERTS.with_name("alerts_test.yaml")))
    promtool("check", "config", str(ALERTS.with_name("prometheus.yaml")))
    named = {"$__rate_interval": "5m", "$instance": ".*"}
    rules = []
    for number, (_, query) in enumerate(queries()):
        for name, value in named.items():
            query = query.replace(name, value)
        rules.append({"record": f"query_{number}", "expr": query})
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", str(path))
