"""Accuracy without labels: what it sees, and what it cannot see."""

import json

import numpy as np
import pytest

from ferops.emotions import EMOTIONS
from ferops.monitoring.expected_accuracy import estimate
from ferops.monitoring.verdict import Verdict
from tiny_log import answers
from tiny_verdict import verdict

SHARES = [f"p_{emotion}" for emotion in EMOTIONS]


def unsure(rows, power):
    """The same answers, less sure: each probability to a power under 1."""
    flat = rows[SHARES].to_numpy() ** power
    return rows.assign(**dict(zip(SHARES, (flat / flat.sum(1, keepdims=True)).T, strict=True)))


def seen(rows):
    """With the columns that a reference and a window have."""
    shares = rows[SHARES].to_numpy()
    return rows.assign(confidence=shares.max(1), label=np.asarray(EMOTIONS)[shares.argmax(1)])


def test_on_healthy_windows_the_interval_holds_what_labels_would_show():
    reference, inside = seen(answers(700, seed=0)), 0
    for seed in range(1, 11):
        window = seen(answers(200, seed=seed))
        expected = estimate(reference, window, max_drop=0.05, seed=0)
        assert expected.rows == 200 and not expected.fell
        accuracy = (window["label"] == window["emotion"]).mean()
        inside += expected.interval[0] <= accuracy <= expected.interval[1]
    assert inside >= 8


def test_a_model_that_is_less_sure_is_said_to_be_right_less_often(workplace):
    workplace.predict(unsure(answers(300, seed=1), 0.4))
    verdict = workplace.monitor()
    assert verdict.expected.fell and verdict.expected.value < verdict.expected.reference_accuracy - 0.1
    assert any("an estimate without labels" in note for note in verdict.notes)
    assert "an estimate without labels" in verdict.sentence()


def test_a_model_that_is_confidently_wrong_is_not_found_out(workplace):
    """The limit of the method, which page and documentation name."""
    rows = answers(300, seed=2)
    workplace.predict(rows)
    workplace.feedback(rows.iloc[:100].assign(emotion="disgust"))
    verdict = workplace.monitor()
    assert not verdict.expected.fell and verdict.quality.drifted


def test_the_same_window_gives_the_same_estimate():
    sides = seen(answers(300, seed=0)), seen(answers(150, seed=3))
    assert estimate(*sides, 0.05, seed=0) == estimate(*sides, 0.05, seed=0)


def test_too_few_predictions_and_an_unwatched_quality_give_none(workplace):
    workplace.predict(answers(50, seed=4))
    assert workplace.monitor().expected is None
    workplace.predict(answers(100, seed=5))
    workplace.policy(lambda raw: raw.update(quality=None))
    workplace.now = workplace.now.replace(microsecond=1)
    assert workplace.monitor().expected is None


@pytest.mark.parametrize("absent", ["expected", "repeats", "days"])
def test_verdicts_that_were_written_before_it_can_be_read(absent):
    written = json.loads(verdict("drift", "noise").model_dump_json())
    del written[absent]
    assert Verdict.model_validate(written).notes == ()
