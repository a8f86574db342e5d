"""The history of verdicts, and the page that a person reads it on."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from html import unescape

import pytest

from ferops import files
from ferops.monitoring.acting import act
from ferops.monitoring.channels import Channel
from ferops.monitoring.history import HISTORY_FILE, History, Judged, read, record, summary
from ferops.monitoring.history_page import publish, render
from ferops.monitoring.history_plots import Axis, mattered
from ferops.monitoring.policy import load_policy
from ferops.serving.prediction_log import timestamp
from tiny_log import NOW, ROOT
from tiny_verdict import verdict

POLICY = load_policy(ROOT / "monitoring/policy.yaml")


def report(monitoring, given):
    """A report as `ferops monitor` leaves it, without its plots; gives its folder."""
    stamp = datetime.fromisoformat(given.time).strftime("%Y%m%dT%H%M%S.%fZ")
    folder = monitoring / "reports" / stamp
    files.write_json(folder / "verdict.json", given.model_dump(mode="json"))
    files.write_text(folder / "index.html", "<h1>report</h1>")
    return folder


def judged(outcome, *columns, hour=0.0, version="v3-0a1b2c3d", **more):
    given = summary(verdict(outcome, *columns, hour=hour, version=version), f"at-{hour}")
    return given.model_copy(update=more)


def page(*verdicts, alerts=(), at_hand=frozenset()):
    return render(History(verdicts, alerts), set(at_hand))


def text(html):
    """What a person reads of it, tags gone and spaces made one."""
    bare = re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(bare))


def test_a_verdict_outlives_its_report(tmp_path):
    folders = [report(tmp_path, verdict("healthy", hour=hour)) for hour in range(3)]
    publish(tmp_path)
    shutil.rmtree(folders[0])
    shown = publish(tmp_path).read_text()
    assert len(read(tmp_path).verdicts) == 3
    linked = re.findall(r'href="([^"]+)"', shown)
    assert set(linked) == {f"{folder.name}/index.html" for folder in folders[1:]}
    assert all((tmp_path / "reports" / link).is_file() for link in linked)
    assert "2026-03-01 12:00" in shown  # the window whose report is gone


def test_the_same_verdict_is_one_line_however_often_it_is_met(tmp_path):
    report(tmp_path, verdict("drift", "noise"))
    for _ in range(3):
        publish(tmp_path)
    assert len((tmp_path / HISTORY_FILE).read_text().splitlines()) == 1


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_line_that_a_kill_cut_short_is_written_again(tmp_path, share):
    for hour in range(2):
        report(tmp_path, verdict("healthy", hour=hour))
        record(tmp_path)
    path = tmp_path / HISTORY_FILE
    first, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + last[: int(share * len(last))])
    assert len(read(tmp_path).verdicts) == 1
    report(tmp_path, verdict("drift", "noise", hour=2))
    assert [v.verdict for v in record(tmp_path).verdicts] == ["healthy", "healthy", "drift"]
    assert read(tmp_path) == record(tmp_path)


def test_monitors_at_one_time_write_each_verdict_once(tmp_path):
    for hour in range(12):
        report(tmp_path, verdict("healthy", hour=hour))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: publish(tmp_path), range(8)))
    assert len((tmp_path / HISTORY_FILE).read_text().splitlines()) == 12


def test_what_another_version_wrote_is_passed_over(tmp_path):
    broken = report(tmp_path, verdict("healthy"))
    files.write_json(broken / "verdict.json", {"verdict": "sunny"})
    report(tmp_path, verdict("healthy", hour=1))
    record(tmp_path)
    with (tmp_path / HISTORY_FILE).open("a") as file:
        file.write('{"weather": "sunny"}\nno JSON\n\n')
    assert len(record(tmp_path).verdicts) == 1


def test_a_history_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    report(tmp_path, verdict("healthy"))
    (tmp_path / HISTORY_FILE).mkdir()
    publish(tmp_path)
    assert "the history is not up to date" in caplog.text


def test_alerts_that_were_told_outlive_the_state_of_alerting(tmp_path):
    def silent(_):
        raise RuntimeError("nobody listens")

    for hour, listens in enumerate([False, False, True]):
        given = verdict("drift", "noise", hour=hour)
        report(tmp_path, given)
        channel = Channel("log", (lambda _: None) if listens else silent)
        act(given, POLICY, tmp_path, [channel])
        assert len(record(tmp_path).alerts) == listens  # told by nobody is not told
    (tmp_path / "alerts.json").unlink()
    (alert,) = record(tmp_path).alerts
    assert (alert.status, alert.parts) == ("detected", ("noise",))


def test_the_top_says_how_things_stand_and_since_when():
    drifted = [judged("drift", "brightness", "noise", hour=hour) for hour in (1, 2)]
    calm = [judged("healthy", hour=hour, version="v4-11112222") for hour in range(3, 78)]
    said = text(page(judged("healthy"), *drifted, *calm))
    assert "Healthy for 3 days" in said
    assert "Last drift: brightness, noise, 2 windows until 2026-03-01 14:00, 3 days before" in said
    assert "Model: fer-classifier v4-11112222 since 2026-03-01 15:00, before it v3-0a1b2c3d" in said
    assert "synthetic faces" in said


def test_drift_at_hand_is_named_with_its_size():
    said = text(
        page(judged("healthy"), judged("drift", "brightness", hour=1), judged("drift", "noise", hour=6))
    )
    assert "Drift for 5 hours" in said and "noise 6.0× (× its threshold)" in said
    assert "Last drift" not in said


def test_a_first_verdict_has_no_before():
    said = text(page(judged("too_few")))
    assert "Too few predictions to say" in said and " for " not in said.split("Last window")[0]
    assert "No drift in 1 window" in said


def test_before_the_first_verdict_the_page_says_what_to_do():
    assert "ferops monitor" in text(page())


def test_accuracy_is_shown_where_people_told_the_truth():
    fed = {"labelled": 120, "accuracy": 0.6, "interval": (0.51, 0.68), "reference_accuracy": 0.66}
    assert "60 % (51 to 68 %) of 120 predictions; reference 66 %" in text(page(judged("healthy", **fed)))
    assert "Accuracy" not in text(page(judged("healthy")))


def test_without_feedback_the_accuracy_that_confidence_lets_expect_is_shown():
    said = text(page(judged("healthy", expected=0.61, reference_accuracy=0.66)))
    assert "Accuracy expected from its confidence, without labels: 61 %; reference 66 %" in said
    assert "dotted: expected from confidence, last 61 %; dashed: the reference, 66 %" in said
    assert "by feedback" not in said


def test_images_and_clients_that_come_again_and_again_are_noticed_beside_the_verdict():
    given = verdict("healthy", repeated=0.6)
    said = text(page(summary(given, "at-0")))
    assert "Noticed: images repeat" in said


def test_models_served_in_turn_are_marked_where_they_began():
    versions = ["release-57cedbab"] * 10 + ["v1-0a1b2c3d"] * 10 + ["v2-aaaabbbb"] * 10 + ["v1-0a1b2c3d"] * 10
    shown = page(*(judged("healthy", hour=hour, version=name) for hour, name in enumerate(versions)))
    marks = re.findall(r'<span class="version" style="left:([\d.]+)%"[^>]*>([^<]+)<', shown)
    assert [(round(float(left)), name) for left, name in marks] == [
        *((0, "release"), (25, "v1"), (50, "v2"), (75, "v1")),
    ]
    assert 'class="version" d="M10 0V100M20 0V100M30 0V100"' in shown


def test_an_alert_that_is_not_over_is_said_at_the_top(tmp_path):
    verdicts = [
        verdict(outcome, "noise", hour=hour) for hour, outcome in enumerate(["drift"] * 2 + ["healthy"] * 2)
    ]
    for given in verdicts[:3]:
        report(tmp_path, given)
        act(given, POLICY, tmp_path, [Channel("log", lambda _: None)])
    shown = publish(tmp_path).read_text()
    assert "Told and not over: drift (noise), v3-0a1b2c3d" in text(shown) and "▲</span>" in shown
    report(tmp_path, verdicts[3])
    act(verdicts[3], POLICY, tmp_path, [Channel("log", lambda _: None)])
    shown = publish(tmp_path).read_text()
    assert "Told and not over" not in shown and "▽</span>" in shown


def test_the_columns_that_drifted_most_often_are_plotted_first():
    still = {"entropy": 0.1, "contrast": 0.2}
    verdicts = [
        judged("drift", "noise", hour=0, moved={"noise": 1.5, "label": 0.9, **still}),
        judged("drift", "brightness", hour=1, moved={"brightness": 9.0, **still}),
        judged("drift", "noise", hour=2, moved={"noise": 1.5, **still}),
    ]
    assert mattered(verdicts) == ["noise", "brightness", "label"]
    assert mattered([judged("healthy", moved=still)]) == ["contrast", "entropy"]


def test_a_window_that_says_nothing_of_a_column_draws_nothing_there():
    sizes = [0.5, None, 7.0]
    verdicts = [
        judged("too_few" if size is None else "healthy", hour=hour, moved={"noise": size} if size else {})
        for hour, size in enumerate(sizes)
    ]
    shown = page(*verdicts)
    (size,), (over,) = (re.findall(f'<path class="{name}" d="([^"]*)"', shown) for name in ("size", "over"))
    assert re.findall(r"M(\d+) [\d.]+V[\d.]+H(\d+)", size) == [("0", "1"), ("2", "3")]
    assert re.findall(r"M(\d+) [\d.]+V0H(\d+)", over) == [("2", "3")]  # cut at the plot's upper edge


def test_a_year_of_hours_stays_a_small_page_and_shows_every_hour_of_drift():
    version = "v3-0a1b2c3d"
    names = ("brightness", "contrast", "noise", "label", "embedding")
    verdicts = [
        Judged(
            report=f"{hour}",
            time=timestamp(NOW + timedelta(hours=hour)),
            verdict="drift" if hour == 3000 else "healthy",
            model="fer-classifier",
            model_version=version,
            synthetic=False,
            rows=1000 + hour % 24,
            parts=("noise",) if hour == 3000 else (),
            moved=dict.fromkeys(names, 0.1 + 0.01 * (hour % 50)),
        )
        for hour in range(8760)
    ]
    shown = page(*verdicts, at_hand={verdict.report for verdict in verdicts[-168:]})
    assert len(shown.encode()) < 1_000_000
    assert "The last 14 days" in shown and "8,759 healthy, 1 drift" in shown
    assert shown.count('<path class="drift"') == 1
    assert shown.count("/index.html") == 168 + 1  # each report at hand, and the last at the top


def test_time_is_cut_so_that_regular_windows_have_a_place_each():
    hours = [NOW + timedelta(hours=hour) for hour in (0, 1, 2, 3, 10)]
    axis = Axis.of(hours)
    assert [axis.bucket(moment) for moment in hours] == [0, 1, 2, 3, 10]
    assert Axis.of([NOW]).count == 1
    assert Axis.of([NOW, NOW]).count == 1


def test_the_page_needs_no_script_and_no_network():
    shown = page(judged("healthy"), judged("drift", "<script>alert(1)</script>", hour=1))
    assert not re.search(r"<script|https?://|\son\w+=|<link|@import", shown)
    assert "&lt;script&gt;" in shown
