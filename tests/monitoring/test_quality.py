"""Accuracy by day: feedback comes late and in any order, and counts for the day of its prediction."""

from datetime import timedelta

import pytest

from ferops.emotions import EMOTIONS
from ferops.monitoring.compaction import compact
from ferops.monitoring.policy import load_policy
from ferops.monitoring.quality import by_day
from tiny_log import answers


@pytest.fixture
def days(workplace):
    """Gives a function: accuracy and labelled predictions of each day, as a report of now shows them."""

    def read():
        policy = load_policy(workplace.monitoring / "policy.yaml").quality
        return {
            day.day: (day.accuracy.labelled, day.accuracy.right)
            for day in by_day(workplace.log, policy, workplace.now)
        }

    return read


def true(rows):
    """What the model says is what people say."""
    return rows.assign(emotion=[EMOTIONS[i] for i in rows[[f"p_{e}" for e in EMOTIONS]].to_numpy().argmax(1)])


def wrong(rows):
    said = true(rows)["emotion"]
    return rows.assign(emotion=["sad" if emotion == "happy" else "happy" for emotion in said])


def test_feedback_that_comes_late_changes_its_own_day(workplace, days):
    old = workplace.predict(answers(60, seed=1), hours_ago=5 * 24)
    new = workplace.predict(answers(60, seed=2))
    workplace.feedback(true(new.iloc[:30]))
    assert days() == {"2026-03-01": (30, 30)}
    workplace.now += timedelta(days=3)
    workplace.feedback(wrong(old.iloc[:20]))
    workplace.feedback(true(old.iloc[20:60]))
    assert days() == {"2026-02-24": (60, 40), "2026-03-01": (30, 30)}


def test_the_last_word_counts_in_whichever_order_it_is_written(workplace, days):
    rows = workplace.predict(answers(30, seed=3), hours_ago=30)
    workplace.feedback(wrong(rows))
    assert days() == {"2026-02-28": (30, 0)}
    workplace.now -= timedelta(hours=1)  # written by another worker, and found later
    workplace.feedback(true(rows))
    workplace.now += timedelta(hours=1)
    assert days() == {"2026-02-28": (30, 0)}
    workplace.now += timedelta(hours=1)
    workplace.feedback(true(rows))
    assert days() == {"2026-02-28": (30, 30)}


def test_compacted_or_not_the_days_are_the_same(workplace, days):
    rows = workplace.predict(answers(50, seed=4), hours_ago=40)
    workplace.feedback(true(rows.iloc[:25]))
    before = days()
    compact(workplace.log, load_policy(workplace.monitoring / "policy.yaml").log, workplace.now)
    assert days() == before == {"2026-02-27": (25, 25)}
    workplace.feedback(wrong(rows.iloc[25:]))
    assert days() == {"2026-02-27": (50, 25)}


def test_a_report_shows_so_many_days_as_the_policy_says(workplace, days):
    workplace.policy(lambda raw: raw["quality"].update(days=3))
    for ago in range(6):
        workplace.feedback(true(workplace.predict(answers(10, seed=20 + ago), hours_ago=24 * ago)))
    assert list(days()) == ["2026-02-27", "2026-02-28", "2026-03-01"]


def test_versions_of_one_day_are_kept_apart(workplace):
    workplace.feedback(true(workplace.predict(answers(30, seed=5))))
    workplace.feedback(wrong(workplace.predict(answers(30, seed=6), version="v2-00000000")))
    policy = load_policy(workplace.monitoring / "policy.yaml").quality
    found = by_day(workplace.log, policy, workplace.now)
    assert [(d.model_version, d.accuracy.value) for d in found] == [("v2-00000000", 0), ("v3-0a1b2c3d", 1)]


def test_recall_is_by_true_emotion_with_its_interval(workplace):
    rows = answers(200, seed=7)
    workplace.feedback(workplace.predict(rows))
    (day,) = workplace.monitor().days
    labels = true(rows)["emotion"]
    for emotion in EMOTIONS:
        mine = rows["emotion"] == emotion
        share = day.recall[emotion]
        assert (share.labelled, share.right) == (mine.sum(), (labels[mine] == emotion).sum())
        assert share.interval[0] < share.value < share.interval[1]


def test_what_was_forgotten_leaves_its_day(workplace, days):
    from ferops.monitoring.forgetting import forget

    rows = workplace.predict(answers(30, seed=8))
    workplace.feedback(true(rows))
    forget(workplace.log, rows["id"][3], workplace.now)
    assert days() == {"2026-03-01": (29, 29)}


def test_without_feedback_there_are_no_days(workplace, days):
    workplace.predict(answers(30, seed=9))
    assert days() == {}
