"""Every channel takes an alert once, whatever happens to channels and monitors in between."""

import json
import logging
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ferops.cli import app
from ferops.environment import Environment
from ferops.monitoring import channels as rooms
from ferops.monitoring.acting import STATE_FILE, act
from ferops.monitoring.channels import Channel, configured
from ferops.monitoring.policy import load_policy
from receivers import MailReceiver, WebReceiver, listening
from tiny_verdict import verdict

ROOT = Path(__file__).parents[2]
POLICY = load_policy(ROOT / "monitoring/policy.yaml")


@pytest.fixture
def web():
    with listening(WebReceiver()) as receiver:
        yield receiver


@pytest.fixture
def mail():
    with listening(MailReceiver()) as receiver:
        yield receiver


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """`Environment` with these settings and no others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)

    def settings(**given):
        for name, value in given.items():
            monkeypatch.setenv(f"FEROPS_{name.upper()}", value)
        return Environment()

    return settings


# Channels that fail, monitors that are killed or run at the same time


def finding(folder, channels, hours=2, outcome="drift", since=0):
    """Let a monitor with these channels see some hours of drift; what it did in the last."""
    for hour in range(hours):
        given = verdict(outcome, *(["noise"] if outcome == "drift" else []), hour=since + hour)
        reaction = act(given, POLICY, folder, channels)
    return reaction


def test_a_channel_that_fails_stops_no_other_and_is_told_next_time_once(tmp_path, environment, web, mail):
    settings = environment(
        alert_webhook=web.url, alert_urls=f"mailto://{mail.address}?from=ferops@here.test&to=ops@here.test"
    )
    web.status = 500
    reaction = finding(tmp_path, configured(settings))
    assert reaction.failed == {"webhook": "the receiver answered HTTP 500"}
    assert len(mail.mails) == 1 and web.taken == []
    web.status = 204
    assert not finding(tmp_path, configured(settings), hours=3, since=2).failed
    assert len(mail.mails) == 1 and len(web.taken) == 1


def test_after_an_outage_alerts_come_in_their_order(tmp_path, environment, web):
    channels = configured(environment(alert_webhook=web.url))
    web.status = 503
    finding(tmp_path, channels)
    finding(tmp_path, channels, outcome="healthy", since=2)
    assert (web.offered, web.taken) == (3, [])  # nobody waits for the second where the first is refused
    web.status = 200
    finding(tmp_path, channels, hours=1, outcome="healthy", since=4)
    assert [alert["status"] for alert in web.taken] == ["detected", "recovered"]


def test_an_alert_that_is_history_is_not_sent(tmp_path, environment, web):
    channels = configured(environment(alert_webhook=web.url))
    web.status = 503
    finding(tmp_path, channels)
    finding(tmp_path, channels, outcome="healthy", since=2)
    web.status = 200
    finding(tmp_path, channels, hours=1, outcome="healthy", since=100)
    assert web.taken == []


def test_a_finding_at_hand_is_told_to_a_channel_that_was_set_up_later(tmp_path, environment, web):
    finding(tmp_path, configured(environment()), hours=90)
    finding(tmp_path, configured(environment(alert_webhook=web.url)), hours=3, since=90)
    assert [alert["status"] for alert in web.taken] == ["detected"]


def test_a_monitor_that_is_killed_while_it_tells_goes_on_with_what_is_left(tmp_path, web, environment):
    class Killed(BaseException):
        pass

    def kills(_):
        raise Killed

    first = configured(environment(alert_webhook=web.url))
    with pytest.raises(Killed):
        finding(tmp_path, [*first, Channel("last", kills)])
    taken = []
    finding(tmp_path, [*first, Channel("last", taken.append)], hours=1, since=2)
    assert len(web.taken) == 1
    assert [alert.id for alert in taken] == [web.taken[0]["id"]]


def test_monitors_at_the_same_time_tell_and_start_it_once(tmp_path, web, environment):
    channels = configured(environment(alert_webhook=web.url))
    finding(tmp_path, channels, hours=1)
    started = []

    def one_of_many(_):
        return act(
            verdict("drift", "noise", hour=1),
            POLICY,
            tmp_path,
            channels,
            lambda _, key: started.append(key) or "run",
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one_of_many, range(8)))
    assert len(web.taken) == 1 and len(started) == 1


def test_a_state_that_cannot_be_read_is_set_aside_and_the_finding_told_again(tmp_path, caplog):
    told = []
    finding(tmp_path, [Channel("list", told.append)])
    (tmp_path / STATE_FILE).write_text('{"outbox": [')
    finding(tmp_path, [Channel("list", told.append)], since=2)
    assert len(told) == 2
    assert (tmp_path / "alerts.broken.json").read_text() == '{"outbox": ['
    assert "cannot be read" in caplog.text


def test_what_cannot_be_remembered_is_not_told(tmp_path):
    (tmp_path / "file").write_text("where a folder should be")
    told = []
    reaction = finding(tmp_path / "file", [Channel("list", told.append)])
    assert told == [] and list(reaction.failed) == ["state"]


# The channels, each with a receiver


def test_only_what_is_set_up_is_told(environment):
    assert [channel.name for channel in configured(environment())] == ["log"]
    settings = environment(alert_webhook="http://here", alert_urls="ntfy://x/y  mailto://h?to=a@b.c")
    names = [channel.name.split()[0] for channel in configured(settings)]
    assert names == ["log", "webhook", "ntfy", "mailto"]


def test_the_log_has_one_line_for_each_alert(tmp_path, environment, caplog):
    with caplog.at_level(logging.INFO, "ferops.alerts"):
        finding(tmp_path, configured(environment()), hours=4)
        finding(tmp_path, configured(environment()), outcome="healthy", since=4)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.messages[0].startswith("Drift (noise), fer-classifier v3-0a1b2c3d: noise moved: mean")


def test_the_webhook_gets_the_documented_json(tmp_path, environment, web):
    finding(tmp_path, configured(environment(alert_webhook=f"{web.url}/hooks/abc")))
    (taken,) = web.taken
    assert taken.pop("path") == "/hooks/abc"
    example = (ROOT / "docs/alerts.md").read_text().split("```json")[1].split("```")[0]
    assert set(taken) == set(json.loads(example))
    assert (taken["event"], taken["status"], taken["new"]) == ("ferops.drift.detected", "detected", ["noise"])
    assert taken["text"].splitlines()[0] == "Drift (noise), fer-classifier v3-0a1b2c3d"
    assert "prediction" not in {key.removesuffix("_id") for key in taken}  # nothing of single people


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("hooks.here.test/s3cret", "unsupported|http"),
        ("http://127.0.0.1:1/s3cret", "ConnectError"),
        ("http://here.test:s3cret", "FEROPS_ALERT_WEBHOOK"),
        ("mailto://s3cret", "did not take|no Apprise address|Errno"),
        ("nothing://s3cret", "no Apprise address"),
    ],
)
def test_a_wrong_address_is_said_and_never_repeated(tmp_path, environment, caplog, url, says):
    kind = "alert_urls" if url.startswith(("mailto", "nothing")) else "alert_webhook"
    reaction = finding(tmp_path, configured(environment(**{kind: url})))
    (why,) = reaction.failed.values()
    assert re.search(says, why)
    told = caplog.text + json.dumps(reaction.complaints()) + (tmp_path / STATE_FILE).read_text()
    assert "s3cret" not in told


def test_a_receiver_that_never_answers_is_given_up_in_time(tmp_path, environment, monkeypatch):
    monkeypatch.setattr(rooms, "PATIENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        reaction = finding(tmp_path, configured(environment(alert_webhook=address)))
    assert reaction.failed["webhook"].startswith("ReadTimeout")


def test_a_mail_arrives_as_text_with_the_reasons(tmp_path, environment, mail):
    url = f"mailto://{mail.address}?from=ferops@here.test&to=ops@here.test,me@here.test&format=text"
    assert not finding(tmp_path, configured(environment(alert_urls=url))).failed
    assert sorted(mail.recipients) == ["me@here.test", "ops@here.test"]
    message = mail.mails[0]
    assert message["Subject"] == "Drift (noise), fer-classifier v3-0a1b2c3d"
    assert "ferops@here.test" in message["From"]
    assert message.get_content_type() == "text/plain"
    lines = message.get_content().splitlines()
    assert "noise moved: mean 0.500 to 0.300 (6.0 times its threshold)" in [line.strip() for line in lines]


def test_every_message_leads_to_the_report(tmp_path, environment, web, mail, caplog):
    page = "https://fer.example.org/monitoring/20260301T130000.000000Z/index.html"
    urls = f"mailto://{mail.address}?from=ferops@here.test&to=ops@here.test&format=text"
    channels = configured(environment(alert_webhook=web.url, alert_urls=urls))
    for hour in range(2):
        assert not act(verdict("drift", "noise", hour=hour, page=page), POLICY, tmp_path, channels).failed
    assert web.taken[0]["report"] == page and web.taken[0]["text"].endswith(f"report: {page}")
    assert f"report: {page}" in mail.mails[0].get_content()
    assert f"report: {page}" in caplog.text


def test_a_mail_server_wants_the_password_and_its_refusal_is_told(tmp_path, environment, mail):
    mail.password = "right"
    query = "?from=ferops@here.test&to=ops@here.test&mode=insecure"
    reaction = finding(
        tmp_path, configured(environment(alert_urls=f"mailto://me:wrong@{mail.address}{query}"))
    )
    assert "wrong password" in str(reaction.failed) and mail.mails == []
    finding(tmp_path, configured(environment(alert_urls=f"mailto://me:right@{mail.address}{query}")), since=2)
    assert len(mail.mails) == 1
    assert "right" not in (tmp_path / STATE_FILE).read_text()


def test_the_command_tries_every_channel_and_touches_no_state(tmp_path, environment, web, mail):
    urls = f"mailto://{mail.address}?from=a@here.test&to=b@here.test"
    environment(alert_webhook=web.url, alert_urls=urls, monitoring_dir=str(tmp_path / "monitoring"))
    result = CliRunner().invoke(app, ["monitor", "--test-alert"])
    assert result.exit_code == 0, result.output
    assert "webhook" in result.output and "mailto" in result.output
    assert web.taken[0]["text"].startswith("Test alert") and mail.mails[0]["Subject"].startswith("Test alert")
    assert not (tmp_path / "monitoring").exists()
    assert web.taken[0]["report"] == str(tmp_path / "monitoring/reports/index.html")
    environment(service_url="https://fer.example.org")
    CliRunner().invoke(app, ["monitor", "--test-alert"])
    assert web.taken[1]["report"] == "https://fer.example.org/monitoring/"
    web.status = 404
    result = CliRunner().invoke(app, ["monitor", "--test-alert"])
    assert result.exit_code == 1 and "HTTP 404" in result.output


def test_the_monitor_on_the_command_line_tells_and_its_exit_code_stays_the_verdicts(
    tmp_path, environment, web, monkeypatch
):
    (tmp_path / "policy.yaml").write_text((ROOT / "monitoring/policy.yaml").read_text())
    environment(alert_webhook=web.url, monitoring_dir=str(tmp_path))
    for hour, status in enumerate((200, 500, 200)):
        web.status = status
        given = verdict("drift", "noise", hour=hour)
        monkeypatch.setattr("ferops.monitoring.monitor.monitor", lambda *_, given=given: given)
        result = CliRunner().invoke(app, ["monitor"])
        assert result.exit_code == 3 and "drift (synthetic faces)" in result.output
        assert ("not told by webhook, offered again next time" in result.output) == (status == 500)
    assert len(web.taken) == 1
