"""Figures of a simulation, in the terminal and on the page."""

import re

import pytest

from ferops import files
from ferops.cli.production import simulate
from ferops.simulation import page
from ferops.simulation.drifts import DRIFTS
from ferops.simulation.timeline import EXIT_CODES, Event, Look, Plan, Span, Timeline, curve
from ferops.simulation.traffic import Answer

BEGIN = 1_000_000.0


def answer(at, right=True, drifted=False, version="v1-aaaaaaaa", truth="happy", problem=None):
    label = None if problem else truth if right else "sad"
    return Answer(BEGIN + at, drifted, truth, label, None if problem else version, "0", problem, 5.0)


def answers():
    """A minute each: right, half right on drifted faces, right again by another model."""
    yield from (answer(at) for at in range(60))
    yield from (answer(at, right=at % 2 == 0, drifted=True) for at in range(60, 120))
    yield from (answer(at, drifted=True, version="v2-bbbbbbbb") for at in range(120, 180))


@pytest.fixture
def timeline():
    every = list(answers())
    return Timeline(
        plan=Plan(day_s=48, requests=48),
        drift="faces darker (factor 0.3)",
        outcome="recovered",
        events=(Event(at=60.0, act="drift", text="from now on the faces are darker"),),
        looks=(
            Look(
                at=50,
                verdict="healthy",
                model_version="v1-aaaaaaaa",
                rows=48,
                labelled=60,
                accuracy=0.98,
            ),
            Look(at=66, verdict="drift", model_version="v1-aaaaaaaa", rows=48, labelled=60, accuracy=0.8),
        ),
        curve=curve(every, BEGIN, 6),
        before=Span.of(every[:60], BEGIN),
        during=Span.of(every[60:120], BEGIN),
        after=Span.of(every[120:], BEGIN),
        requests=250,
        failed=0,
        problems=(),
        drift_at=60.0,
        noticed_at=64.0,
        alarm_at=66.0,
        learning_at=80.0,
        swap_at=120.0,
        swap_s=1.5,
        windows_to_detection=3,
        dataset_before="a" * 64,
        dataset_after="b" * 64,
        collected="c" * 64,
        version_before="v1-aaaaaaaa",
        version_after="v2-bbbbbbbb",
        gate=("macro_f1 is 0.9 against 0.8 of champion <b>1</b>.",),
        processor_s=100.0,
    )


def test_the_figures_that_a_person_wants_are_told(timeline):
    figures = dict(timeline.figures())
    assert figures["detection"] == "3 windows, 0.1 minutes (3.0 hours of the policy)"
    assert figures["recovery"] == "1.0 minutes (30.0 hours of the policy)"
    assert figures["accuracy before"].startswith("100.0% of 60")
    assert figures["accuracy during"].startswith("50.0% of 60")
    assert figures["accuracy after"].startswith("100.0% of 60")
    assert figures["requests"] == "250 sent, 0 failed"
    assert figures["dataset"].startswith("aaaaaaaaaaaa → bbbbbbbbbbbb")
    assert figures["model"] == "v1-aaaaaaaa → v2-bbbbbbbb"


def test_a_loop_that_did_not_close_has_an_exit_code_of_its_own():
    assert EXIT_CODES["recovered"] == 0
    others = [code for outcome, code in EXIT_CODES.items() if outcome != "recovered"]
    assert len(set(others)) == len(others)
    assert not {0, 1, 2, 3, 4}.intersection(others)


def test_without_a_swap_no_recovery_is_claimed(timeline):
    stopped = timeline.model_copy(
        update={"outcome": "feedback_stopped", "swap_at": None, "after": None, "version_after": None}
    )
    figures = dict(stopped.figures())
    assert "recovery" not in figures
    assert "accuracy after" not in figures
    assert figures["model"] == "v1-aaaaaaaa → no other"


def test_failed_requests_count_as_no_answers():
    span = Span.of([answer(0), answer(1, problem="/predict: HTTP 503"), answer(2, right=False)], BEGIN)
    assert (span.answers, span.accuracy) == (2, 0.5)
    assert Span.of([answer(0, problem="gone")], BEGIN) is None


def test_recall_is_told_by_emotion():
    span = Span.of([answer(0, truth="fear"), answer(1, truth="fear", right=False), answer(2)], BEGIN)
    assert span.recall == {"fear": 0.5, "happy": 1.0}


def test_the_curve_falls_and_rises_with_the_model_that_answered():
    spans = curve(list(answers()), BEGIN, 20)
    assert [span.accuracy for span in spans] == [1.0] * 3 + [0.5] * 3 + [1.0] * 3
    assert [span.model_version for span in spans[::4]] == ["v1-aaaaaaaa", "v1-aaaaaaaa", "v2-bbbbbbbb"]


def test_the_page_stands_alone_and_says_what_is_not_real(timeline, tmp_path):
    html = page.write(timeline, tmp_path).read_text()
    assert "drawn faces" in html
    assert "A day of the monitor's policy lasts 48 seconds" in html
    assert "<b>1</b>" not in html
    assert not re.search(r'(src|href)="(?!#)', html)
    assert files.read_json(tmp_path / "simulation.json")["windows_to_detection"] == 3
    assert (tmp_path / "simulation.png").stat().st_size > 10_000


def test_help_names_every_drift():
    named = simulate.__annotations__["drift"].__metadata__[0].help
    assert all(name in named for name in DRIFTS)
