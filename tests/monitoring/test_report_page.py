"""The page says what it is, since when, what moved, how it looks and what to do."""

import re
from datetime import timedelta

import pytest

from ferops.monitoring.advice import IMAGES, advice
from ferops.monitoring.alerts import ANSWERS
from ferops.monitoring.history import summary
from ferops.monitoring.page import since
from ferops.monitoring.policy import WATCHABLE
from tiny_log import answers
from tiny_verdict import verdict


def earlier(*seen):
    """Verdicts of consecutive hours: the drifted columns of each, or an outcome."""
    given = [
        verdict(what, hour=hour) if isinstance(what, str) else verdict("drift", *what, hour=hour)
        for hour, what in enumerate(seen)
    ]
    return [summary(each, each.report) for each in given]


def test_drift_began_with_the_first_window_in_a_row_that_named_it():
    before = earlier(["noise"], "healthy", ["brightness"], ["brightness", "noise"])
    now = verdict("drift", "brightness", "noise", hour=4)
    assert since(now, before) == {
        "brightness": "2026-03-01T14:00:00.000Z",
        "noise": "2026-03-01T15:00:00.000Z",
    }


def test_a_night_with_too_few_predictions_does_not_end_a_drift():
    now = verdict("drift", "brightness", hour=4)
    assert since(now, earlier(["brightness"], "too_few", "too_few", ["brightness"]))["brightness"].startswith(
        "2026-03-01T12:00"
    )


def test_another_version_of_the_model_begins_anew():
    now = verdict("drift", "brightness", hour=2, version="v4-11111111")
    assert since(now, earlier(["brightness"], ["brightness"])) == {"brightness": now.time}


def test_too_few_and_healthy_have_a_beginning_and_none():
    before = earlier("healthy", "too_few", "too_few")
    assert since(verdict("too_few", hour=3), before) == {"predictions": "2026-03-01T13:00:00.000Z"}
    assert since(verdict("healthy", hour=3), before) == {}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (("brightness",), "images are darker; exposure"),
        (("contrast", "entropy"), "camera and the light"),
        (("noise",), "focus and compression"),
        (("symmetry",), "how faces are cut out"),
        (("confidence",), "the model sees them differently"),
        (("label",), "ask whether the occasion did"),
        (("p_happy", "p_sad", "label"), "ask whether the occasion did"),
    ],
)
def test_what_moved_says_what_to_look_at(columns, says):
    said = " ".join(advice(verdict("drift", *columns)))
    assert says in said and "Collect labels" in said


def test_every_watched_column_has_advice_of_its_own():
    for column in WATCHABLE:
        assert len(advice(verdict("drift", column))) == 2, column
    assert set(WATCHABLE) - IMAGES == {"confidence"} | ANSWERS


def test_a_healthy_window_asks_for_nothing_and_repeats_for_a_look_at_the_sender():
    assert advice(verdict("healthy")) == ()
    (sentence,) = advice(verdict("healthy", repeated=0.5))
    assert "again and again" in sentence
    assert "is asked" in advice(verdict("too_few"))[0]


def shown(workplace):
    folder = max(path for path in (workplace.monitoring / "reports").iterdir() if path.is_dir())
    return (folder / "index.html").read_text()


def text(page):
    """What a person reads."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL))


def test_the_page_of_a_drift_can_be_read_from_the_top(workplace):
    rows = answers(300, seed=1)
    rows["brightness"] *= 0.6
    workplace.predict(rows)
    workplace.monitor()
    workplace.now += timedelta(hours=1)
    workplace.monitor()
    page = shown(workplace)
    said = text(page)
    order = ["Drift", "brightness moved", "Since 2026-03-01 12:00 UTC", "What to do", "images are darker"]
    order += ["train/nightly", "What moved", "Examples", "low middle high", "How often it is right", "Tests"]
    places = [said.find(part) for part in order]
    assert -1 not in places and places == sorted(places), dict(zip(order, places, strict=True))
    assert "<script" not in page and "http" not in page


def test_days_with_few_labels_are_called_so_and_the_others_have_an_interval(workplace):
    workplace.feedback(workplace.predict(answers(200, seed=2), hours_ago=48))
    workplace.feedback(workplace.predict(answers(15, seed=3), hours_ago=24))
    workplace.predict(answers(150, seed=4))
    verdict = workplace.monitor()
    assert [day.accuracy.labelled for day in verdict.days] == [200, 15]
    page = shown(workplace)
    first, second = re.findall(r"<tr><td>2026-02-2\d.*?</tr>", page, re.DOTALL)
    assert "2026-02-28" in first and "too few" in first and "%" not in first
    assert re.search(r"\d+\s% \(\d+–\d+\)", second)
    assert page.count("<circle") == 1
