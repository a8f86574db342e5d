"""The two tests of our own hold their level and see what they should."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency

from ferops.emotions import EMOTIONS
from ferops.monitoring.significance import chi_square_p_value, mean_discrepancy

SHARES = [0.14, 0.015, 0.14, 0.25, 0.17, 0.11, 0.175]  # FER2013's, disgust rare


def labels(rng, rows, shares=SHARES):
    return pd.Series(rng.choice(EMOTIONS, rows, p=shares))


@pytest.mark.parametrize("rows", [100, 5000])
def test_chi_square_holds_its_level_with_a_small_reference(rows):
    rng = np.random.default_rng(0)
    values = [chi_square_p_value(labels(rng, 700), labels(rng, rows), tables=999) for _ in range(300)]
    assert 0.02 < np.mean(np.array(values) < 0.05) < 0.085  # 0.05 ± 3 standard errors


def test_chi_square_agrees_with_the_textbook_where_cells_are_large():
    rng = np.random.default_rng(1)
    reference, current = labels(rng, 3000), labels(rng, 2000, [0.15, 0.03, 0.13, 0.25, 0.17, 0.10, 0.17])
    table = pd.concat([reference.value_counts(), current.value_counts()], axis=1)
    textbook = chi2_contingency(table).pvalue
    assert 1e-3 < textbook < 0.5  # else this test would show little
    assert chi_square_p_value(reference, current) == pytest.approx(textbook, rel=0.15)


def test_chi_square_sees_twice_as_many_happy_faces():
    rng = np.random.default_rng(1)
    happier = [0.10, 0.01, 0.10, 0.50, 0.11, 0.08, 0.10]
    assert chi_square_p_value(labels(rng, 700), labels(rng, 400, happier)) <= 1e-5


def test_chi_square_of_one_class_only_or_equal_counts_is_no_news():
    same = pd.Series(["happy"] * 50)
    assert chi_square_p_value(same, same) == 1.0
    both = pd.Series(["happy", "sad"] * 50)
    assert chi_square_p_value(both, both) > 0.9


@pytest.mark.parametrize(("reference", "current"), [(200, 40), (60, 200)])
def test_mean_discrepancy_holds_its_level_for_unequal_sizes(reference, current):
    rng = np.random.default_rng(2)
    values = [
        mean_discrepancy(rng.normal(size=(reference, 8)), rng.normal(size=(current, 8)), 99, seed)[1]
        for seed in range(150)
    ]
    assert np.mean(np.array(values) <= 0.05) < 0.11  # 0.05 + 3 standard errors


def test_mean_discrepancy_agrees_with_its_definition():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(12, 3)), rng.normal(1, 1, size=(9, 3))
    both = np.concatenate([y, x]) / x.std(axis=0)
    squared = ((both[:, None] - both[None]) ** 2).sum(axis=2)
    kernel = np.exp(-squared / np.median(squared[np.triu_indices(21, 1)]))
    off = ~np.eye(21, dtype=bool)
    yy, xx = kernel[:9, :9][off[:9, :9]].mean(), kernel[9:, 9:][off[9:, 9:]].mean()
    assert mean_discrepancy(x, y, 0, 0)[0] == pytest.approx(yy + xx - 2 * kernel[:9, 9:].mean())


def test_mean_discrepancy_sees_a_wider_spread_about_the_same_mean():
    rng = np.random.default_rng(4)
    shift, p_value = mean_discrepancy(rng.normal(size=(300, 4)), rng.normal(0, 2, (200, 4)), 1999, 0)
    assert shift > 0.01 and p_value == pytest.approx(1 / 2000)


def test_the_rounding_of_a_feature_that_never_changes_is_no_drift():
    rng = np.random.default_rng(5)
    reference, current = rng.normal(size=(300, 4)), rng.normal(size=(300, 4))
    reference[:, 0], current[:, 0] = 0.3, 0.3001  # another runtime's digits
    shift, p_value = mean_discrepancy(reference, current, 999, 0)
    assert shift < 0.005 and p_value > 0.01
    current[:, 0] = 1.3
    assert mean_discrepancy(reference, current, 999, 0)[0] > 0.1
