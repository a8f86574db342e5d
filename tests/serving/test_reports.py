"""The monitor's pages over HTTP: who may read them, what they may do, and that nothing else can be read."""

import base64
import json
import os
from http.client import HTTPConnection

import pytest
from starlette.testclient import TestClient

from browser import CHROMIUM, browser
from ferops.environment import Environment
from ferops.models.onnx import OnnxClassifier
from ferops.monitoring.history_page import publish
from ferops.serving.access import Access
from ferops.serving.app import app, start
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from tiny_package import write_tiny_package
from tiny_verdict import verdict

OLD, NEW = "20260301T120000.000000Z", "20260301T130000.000000Z"


def write_reports(monitoring):
    """A healthy window and one with drift, as the monitor leaves them."""
    for stamp, given in ((OLD, verdict("healthy")), (NEW, verdict("drift", "noise", hour=1))):
        folder = monitoring / "reports" / stamp
        folder.mkdir(parents=True)
        private = given.model_copy(update={"report": "/somewhere/private"})
        (folder / "verdict.json").write_text(private.model_dump_json())
        (folder / "index.html").write_text(f"<h1>{given.verdict}</h1><a href='../index.html'>history</a>")
        (folder / "evidently.html").write_text("<script>document.title = 'drawn'</script>")
        (folder / "secret.txt").write_text("secret")
    (monitoring / "policy.yaml").write_text("secret")
    publish(monitoring)


@pytest.fixture
def monitoring(tmp_path):
    return tmp_path / "monitoring"


@pytest.fixture
def client(tmp_path, monitoring):
    package = write_tiny_package(tmp_path / "package")
    limits = Environment(monitoring_dir=monitoring)
    log = PredictionLog(tmp_path / "log")
    start(app, Predictor(OnnxClassifier(package), "3", log, limits.max_pixels), limits)
    return TestClient(app)


def test_what_is_shown_leads_to_the_newest_report_and_to_the_history(client, monitoring):
    write_reports(monitoring)
    (monitoring / "reports" / "20260301T140000.000000Z").mkdir()  # being written
    about = client.get("/about").json()
    assert about["drift"]["verdict"] == "drift"
    assert about["drift"]["report"] == f"./monitoring/{NEW}/index.html"
    assert "private" not in json.dumps(about)
    assert "<h1>drift</h1>" in client.get(about["drift"]["report"].removeprefix(".")).text
    history = client.get(about["history"].removeprefix("."))
    assert "Drift" in history.text and f'href="{OLD}/index.html"' in history.text


def test_without_a_monitor_there_is_nothing_to_read(client):
    for path in (
        "/monitoring/",
        "/monitoring/index.html",
        f"/monitoring/{OLD}/index.html",
        f"/monitoring/{OLD}/",
    ):
        assert client.get(path).status_code == 404


def test_pages_may_run_scripts_only_where_they_have_some_and_reach_nothing(client, monitoring):
    write_reports(monitoring)
    for path in (
        "",
        "index.html",
        f"{NEW}/",
        f"{NEW}/index.html",
        f"{NEW}/verdict.json",
        f"{NEW}/evidently.html",
    ):
        answer = client.get(f"/monitoring/{path}")
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200, path
        assert policy.startswith("default-src 'none'") and "sandbox" in policy and "same-origin" not in policy
        assert ("script-src" in policy) == ("allow-scripts" in policy) == path.endswith("evidently.html")
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "policy.yaml",
        "../policy.yaml",
        "%2e%2e/policy.yaml",
        "..%2fpolicy.yaml",
        "reports/index.html",
        ".reports/index.html",
        "20260301T130000.000000z/index.html",
        "٢٠٢٦٠٣٠١T130000.000000Z/index.html",
        f".{NEW}.tmp-1/index.html",
        f"{NEW}/secret.txt",
        f"{NEW}/../../policy.yaml",
        f"{NEW}/..%2f..%2fpolicy.yaml",
        f"{NEW}%2f..%2f..%2fpolicy.yaml",
        f"{NEW}%0a/index.html",
        f"{NEW}%00/index.html",
        f"{NEW}//index.html",
        f"{NEW}/index.html/",
    ],
)
def test_nothing_else_can_be_read(client, monitoring, path):
    write_reports(monitoring)
    answer = client.get(f"/monitoring/{path}")
    assert answer.status_code == 404 and "secret" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(client, monitoring, method):
    write_reports(monitoring)
    assert client.request(method, "/monitoring/").status_code == 405


@pytest.fixture
def unreadable(tmp_path, monitoring):
    """Reports of another user, who lets nobody read them."""
    write_reports(monitoring)
    root = os.geteuid() == 0  # who may read everything
    tmp_path.chmod(0o700)
    monitoring.chmod(0o000)
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)
    monitoring.chmod(0o700)


def test_reports_that_may_not_be_read_are_not_there(client, unreadable):
    assert client.get("/monitoring/").status_code == 404
    assert client.get(f"/monitoring/{NEW}/index.html").status_code == 404
    about = client.get("/about")
    assert about.status_code == 200
    assert about.json()["drift"] is about.json()["history"] is None


def basic(password, user="anybody"):
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_a_browser_brings_the_token_as_a_password_to_these_pages_alone(client, monitoring):
    write_reports(monitoring)
    guarded = TestClient(Access(app, token="sécret:1"))
    refused = guarded.get("/monitoring/")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Basic realm="ferops"'  # upon which a browser asks
    for path in ("", f"{NEW}/index.html"):
        assert guarded.get(f"/monitoring/{path}", headers=basic("sécret:1")).status_code == 200
    bearer = {"authorization": "Bearer sécret:1".encode()}
    assert guarded.get("/monitoring/", headers=bearer).status_code == 200
    for path in ("/model", "/about", "/metrics", "/monitoring"):
        answer = guarded.get(path, headers=basic("sécret:1"))
        assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer")
    face = {"images": b"x"}
    assert guarded.post("/predict", files=face, headers=basic("sécret:1")).status_code == 401
    assert guarded.post("/monitoring/", headers=basic("sécret:1")).status_code == 401


@pytest.mark.parametrize(
    "credentials", [basic("wrong"), basic(""), {"authorization": "Basic"}, {"authorization": "Basic %%%"}]
)
def test_a_wrong_password_opens_nothing(client, monitoring, credentials):
    write_reports(monitoring)
    guarded = TestClient(Access(app, token="secret"))
    assert guarded.get("/monitoring/", headers=credentials).status_code == 401


@pytest.mark.server
@pytest.mark.parametrize(
    "path", ["/monitoring/../policy.yaml", "/monitoring/../../package/card.json", "//monitoring/"]
)
def test_a_real_server_takes_no_address_apart_either(server, path):
    connection = HTTPConnection(server.url.removeprefix("http://"))
    connection.request("GET", path)  # as it is: other clients make it short
    assert connection.getresponse().status == 404
    connection.close()


@pytest.mark.server
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_person_clicks_from_the_service_to_the_newest_report_and_back_through_all(server, tmp_path):
    write_reports(server.monitoring_dir)
    with browser(tmp_path / "browser") as page:
        page.open(f"{server.url}/")
        page.wait("document.querySelectorAll('#model a').length === 2")
        assert page.evaluate("document.getElementById('model').textContent").count("drift found") == 1
        for link, arrived in (
            ("#model a", f"/monitoring/{NEW}/index.html"),
            ("a[href='../index.html']", "/monitoring/index.html"),
            (f"a[href='{OLD}/index.html']", f"/monitoring/{OLD}/index.html"),
        ):
            page.wait(f'document.querySelector("{link}") !== null')
            page.evaluate(f'document.querySelector("{link}").click()')
            page.wait(f"location.pathname === '{arrived}' && document.readyState === 'complete'")
        page.look(375, 700)
        page.open(f"{server.url}/monitoring/")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert page.problems == []
