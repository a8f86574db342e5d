"""The benchmark of the log's cost compares like with like, and claims no more than it measured."""

import numpy as np
import pytest

from logging_cost import LOADS, MODES, Burst, Ratio, report, verdict


def bursts(cost, noise=0.0, rounds=18, slowdown=0.0):
    """Bursts of a service that the log costs a share of its throughput, on a machine that gets slower."""
    rng = np.random.default_rng(0)
    return [
        Burst(
            clients,
            images,
            number,
            mode,
            speed := 1000
            * (1 - slowdown * number)
            * (1 - cost * (mode == MODES[0]))
            * float(np.exp(noise * rng.normal())),
            1e3 / speed,
            0,
        )
        for clients, images in LOADS
        for number in range(rounds)
        for mode in MODES
    ]


def test_the_cost_is_found_though_the_machine_gets_slower():
    for row in report(bursts(0.05, slowdown=0.02)):
        assert row["throughput"].median == pytest.approx(0.95)
        assert row["processor_time"].median == pytest.approx(1 / 0.95)
        assert row["errors"] == 0


@pytest.mark.parametrize(
    ("cost", "noise", "said"), [(0.0, 0.01, "met"), (0.1, 0.01, "missed"), (0.03, 0.1, "undecided")]
)
def test_the_goal_is_judged_as_far_as_the_interval_tells(cost, noise, said):
    judged = {verdict(row["throughput"]) for row in report(bursts(cost, noise)) if row["against"] == MODES[1]}
    assert judged == {said}


def test_few_rounds_judge_nothing():
    assert verdict(Ratio.of([0.5] * 5)) == "too few rounds"
    assert str(Ratio.of([1.0] * 5)) == "1.000"


def test_the_interval_holds_the_true_ratio_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [Ratio.of(np.exp(0.2 * rng.standard_t(2, 18)).tolist()) for _ in range(500)]
    held = sum(found.low <= 1 <= found.high for found in intervals)
    assert held >= 0.93 * len(intervals)
