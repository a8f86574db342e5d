"""One finding is one alert, however often it is seen, and starts what the policy says."""

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferops.monitoring.acting import act
from ferops.monitoring.alerts import HEADLINES, Alert, Watch, advance
from ferops.monitoring.channels import Channel
from ferops.monitoring.policy import Policy, Response, load_policy
from tiny_verdict import verdict

ROOT = Path(__file__).parents[2]


def shipped() -> Policy:
    return load_policy(ROOT / "monitoring/policy.yaml")


class Monitor:
    """A monitor that is asked hour by hour; `alerts` are what its only channel took."""

    def __init__(self, folder):
        self.folder, self.policy, self.hour = folder, shipped(), 0.0
        self.alerts: list[Alert] = []
        self.starts: list[str] = []

    def sees(self, outcome, *columns, times=1, after=1.0, **about):
        for _ in range(times):
            self.hour += after
            given = verdict(outcome, *columns, hour=self.hour, **about)
            reaction = act(given, self.policy, self.folder, [self.channel()], self.start)
        return reaction

    def channel(self):
        return Channel("list", self.alerts.append)

    def start(self, deployment, key):
        self.starts.append(f"{deployment} {key}")
        return "run"

    def told(self):
        return [(alert.status, *alert.parts) for alert in self.alerts]


@pytest.fixture
def monitor(tmp_path):
    return Monitor(tmp_path)


# One finding, one alert


def test_drift_that_lasts_is_told_once_and_so_is_its_end(monitor):
    monitor.sees("drift", "brightness", times=30)
    monitor.sees("healthy", times=30)
    assert monitor.told() == [("detected", "brightness"), ("recovered", "brightness")]
    first, last = monitor.alerts
    assert first.incident == last.incident and first.id != last.id
    assert (first.since, first.time) == ("2026-03-01T13:00:00.000Z", "2026-03-01T14:00:00.000Z")
    assert first.title == "Drift (brightness), fer-classifier v3-0a1b2c3d"
    assert "brightness moved: mean 0.500 to 0.300" in first.body and "synthetic faces" in first.body
    assert last.title == "Over: drift, fer-classifier v3-0a1b2c3d"


def test_a_title_stays_short_whatever_has_moved(monitor):
    monitor.sees("drift", "brightness", "contrast", "noise", "entropy", "symmetry", times=2)
    (alert,) = monitor.alerts
    assert alert.title == "Drift (brightness, contrast, noise and 2 more), fer-classifier v3-0a1b2c3d"
    assert "symmetry moved" in alert.body and alert.parts[-1] == "symmetry"


def test_a_single_window_is_not_told_and_a_single_quiet_one_is_no_end(monitor):
    monitor.sees("drift", "brightness")
    monitor.sees("healthy")
    assert monitor.told() == []
    monitor.sees("drift", "brightness", times=2)
    monitor.sees("healthy")
    monitor.sees("drift", "brightness", times=5)
    assert monitor.told() == [("detected", "brightness")]


def test_asking_again_at_once_makes_nothing_surer(monitor):
    monitor.sees("drift", "brightness")
    monitor.sees("drift", "brightness", times=20, after=0.02)
    assert monitor.told() == []
    monitor.sees("drift", "brightness", after=0.98)
    assert monitor.told() == [("detected", "brightness")]


def test_a_schedule_that_is_a_little_early_still_counts_every_hour(monitor):
    monitor.sees("drift", "brightness", times=2, after=0.99)
    assert len(monitor.alerts) == 1


def test_a_clock_that_was_ahead_silences_nothing(monitor):
    monitor.hour = 1000.0
    monitor.sees("healthy")
    monitor.hour = 0.0
    monitor.sees("drift", "brightness", times=2)
    assert monitor.told() == [("detected", "brightness")]


def test_a_column_that_joins_is_a_new_alert_and_one_that_flickers_is_not(monitor):
    monitor.sees("drift", "brightness", times=3)
    monitor.sees("drift", "brightness", "noise")
    assert len(monitor.alerts) == 1
    monitor.sees("drift", "brightness", "noise")
    assert monitor.told()[1:] == [("detected", "brightness", "noise")]
    assert monitor.alerts[1].new == ("noise",) and "new since the last alert: noise" in monitor.alerts[1].body
    for _ in range(5):
        monitor.sees("drift", "brightness", times=2)
        monitor.sees("drift", "noise", "brightness", times=2)
    assert len(monitor.alerts) == 2


def test_columns_that_take_turns_are_drift_that_lasts(monitor):
    monitor.sees("drift", "brightness")
    monitor.sees("drift", "contrast")
    assert monitor.told() == [("detected", "contrast")]


def test_another_model_version_is_another_finding_and_ends_the_one_before(monitor):
    monitor.sees("drift", "brightness", times=2)
    monitor.sees("drift", "brightness", times=2, version="v4-11111111")
    assert [(a.status, a.model_version) for a in monitor.alerts] == [
        ("detected", "v3-0a1b2c3d"),
        ("recovered", "v3-0a1b2c3d"),
        ("detected", "v4-11111111"),
    ]
    assert monitor.alerts[1].reasons == ("v4-11111111 is served now, and judged afresh",)


def test_what_comes_back_soon_is_silent_and_later_it_is_told(monitor):
    monitor.sees("drift", "brightness", times=2)
    for _ in range(4):  # every few hours, all day long
        monitor.sees("healthy", times=2)
        monitor.sees("drift", "brightness", times=3)
    assert monitor.told() == [("detected", "brightness"), ("recovered", "brightness")]
    monitor.sees("drift", "brightness", times=24)
    assert monitor.told()[2:] == [("detected", "brightness")]


def test_too_few_predictions_are_neither_drift_nor_its_end_and_are_told_after_a_day(monitor):
    monitor.sees("drift", "brightness", times=2)
    monitor.sees("too_few", times=23)
    monitor.sees("drift", "brightness", times=2)
    assert monitor.told() == [("detected", "brightness")]
    monitor.sees("too_few", times=60)
    assert monitor.told()[1:] == [("detected", "predictions")]
    assert monitor.alerts[1].title == "Too few predictions, fer-classifier v3-0a1b2c3d"
    monitor.sees("healthy", times=24)
    assert [alert.title for alert in monitor.alerts[2:]] == [
        "Over: drift, fer-classifier v3-0a1b2c3d",
        "Over: too few predictions, fer-classifier v3-0a1b2c3d",
    ]


def test_a_policy_can_keep_quiet(monitor):
    quiet = monitor.policy.actions.drift.model_copy(update={"alert": False})
    actions = monitor.policy.actions.model_copy(update={"drift": quiet})
    monitor.policy = monitor.policy.model_copy(update={"actions": actions})
    monitor.sees("drift", "brightness", times=5)
    monitor.sees("healthy", times=5)
    assert monitor.told() == [] and len(monitor.starts) == 1


def test_the_mix_of_answers_is_one_finding_whichever_of_its_columns_moves(monitor):
    monitor.sees("drift", "p_happy", times=2)
    monitor.sees("drift", "p_happy", "p_sad", "label", times=4)
    (alert,) = monitor.alerts
    assert alert.parts == alert.new == ("answers",)


ANYTHING = st.tuples(
    st.sampled_from(["healthy", "too_few", "drift"]),
    st.sets(st.sampled_from(["noise", "label", "p_sad", "entropy"]), min_size=1),
    st.sampled_from(["v3", "v4"]),
)


@given(st.lists(ANYTHING, max_size=60), st.integers(1, 3), st.integers(0, 12))
def test_whatever_is_seen_no_part_is_told_twice_in_a_finding_or_in_the_hours_of_silence(
    seen, windows, silence
):
    response = Response(alert=True, start="none", windows=windows, silence_hours=silence)
    watch, alerts = Watch(), []
    for hour, (outcome, columns, version) in enumerate(seen):
        given_ = verdict(outcome, *(columns if outcome == "drift" else ()), hour=hour, version=version)
        watch, more = advance("drift", watch, given_, response)
        alerts += more
    open_incidents: dict[str, set[str]] = {}
    last: dict[tuple[str, str], datetime] = {}
    for alert in alerts:
        now = datetime.fromisoformat(alert.time)
        if alert.status == "recovered":
            assert open_incidents.pop(alert.incident) == set(alert.parts)
            last = {key: then for key, then in last.items() if key[0] == alert.model_version}
            continue
        assert len(open_incidents) == (alert.incident in open_incidents)  # one at a time
        already = open_incidents.setdefault(alert.incident, set())
        assert alert.new and not already & set(alert.new) and set(alert.new) <= set(alert.parts)
        for part in alert.new:
            key = (alert.model_version, part)
            assert key not in last or (now - last[key]).total_seconds() >= silence * 3600
        already |= set(alert.parts)
        last |= {(alert.model_version, part): now for part in alert.parts}


# What is started


def test_lasting_drift_starts_training_once_a_day(monitor):
    assert monitor.sees("drift", "brightness").started is None
    assert monitor.sees("drift", "brightness").started == "run"
    monitor.sees("drift", "brightness", times=23)
    assert len(monitor.starts) == 1
    monitor.sees("drift", "brightness", times=24)
    assert len(monitor.starts) == 2 and len(set(monitor.starts)) == 2
    assert len(monitor.alerts) == 1


def test_neither_health_nor_too_few_predictions_start_anything(monitor):
    monitor.sees("healthy", times=3)
    monitor.sees("too_few", times=30)
    assert monitor.starts == []


def test_a_start_that_failed_is_tried_again_under_the_same_key(monitor):
    def fails(deployment, key):
        monitor.starts.append(f"{deployment} {key}")
        raise RuntimeError("no such deployment")

    works, monitor.start = monitor.start, fails
    reaction = monitor.sees("drift", "brightness", times=2)
    assert reaction.not_started == "no such deployment" and "no such deployment" in reaction.complaints()[0]
    assert monitor.told() == [("detected", "brightness")]
    monitor.start = works
    assert monitor.sees("drift", "brightness").started == "run"
    assert len(monitor.starts) == 2 and len(set(monitor.starts)) == 1  # Prefect takes both for one


def test_an_image_that_is_sent_again_and_again_is_told_once_and_starts_nothing(monitor):
    monitor.sees("healthy", repeated=0.62, times=30)
    assert monitor.told() == [("detected", "images")]
    (alert,) = monitor.alerts
    assert alert.title == "Repeated images, fer-classifier v3-0a1b2c3d"
    assert alert.reasons == (
        "one image makes 62% of the window; the 190 different ones were compared, each once",
    )
    assert (alert.event, alert.start) == ("ferops.repeats.detected", "none")
    monitor.sees("healthy", times=2)
    assert monitor.told()[1:] == [("recovered", "images")]
    assert monitor.starts == []


def test_drift_beside_repeated_images_is_a_finding_of_its_own_that_names_them(monitor):
    monitor.sees("drift", "brightness", repeated=0.3, times=2)
    assert monitor.told() == [("detected", "brightness"), ("detected", "images")]
    assert "one image makes 30%" in monitor.alerts[0].body


def test_every_kind_of_finding_has_a_headline():
    assert set(HEADLINES) == set(type(shipped().actions).model_fields) - {
        "windows_apart_hours",
        "retry_hours",
    }
