from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_classifiers import FakeClassifier, planted_dataset
from ferops.evaluation.paired import UnequalRowsError, compare, mcnemar
from ferops.evaluation.predictions import predict_split


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    dataset = planted_dataset(tmp_path_factory.mktemp("paired") / "dataset", test=420)
    return {
        name: predict_split(FakeClassifier(skill=skill), dataset, "test", batch_size=32, seed=0)
        for name, skill in (("weak", 0.6), ("fair", 0.7), ("good", 0.9))
    }


def test_a_clearly_better_candidate_has_an_interval_above_zero(tables: dict[str, pd.DataFrame]) -> None:
    result = compare(tables["good"], tables["weak"], "macro_f1")
    assert result.interval[0] > 0.2
    assert result.p_value < 1e-6
    assert result.only_champion_right == 0


def test_a_model_is_no_better_than_itself(tables: dict[str, pd.DataFrame]) -> None:
    result = compare(tables["fair"], tables["fair"], "accuracy")
    assert (result.difference, result.interval, result.p_value) == (0, (0, 0), 1)


def test_pairing_sees_a_difference_that_two_separate_intervals_would_hide(
    tables: dict[str, pd.DataFrame],
) -> None:
    result = compare(tables["fair"], tables["weak"], "accuracy")
    separate = 1.96 * np.sqrt(2 * 0.65 * 0.35 / 420)
    assert result.difference < 2 * separate
    assert result.interval[0] > result.difference - separate


@given(st.integers(0, 2**32 - 1), st.sampled_from(["accuracy", "macro_f1", "balanced_accuracy"]))
@settings(deadline=None, max_examples=20)
def test_row_order_does_not_matter_and_the_interval_holds_the_estimate(
    tables: dict[str, pd.DataFrame], seed: int, metric: str
) -> None:
    shuffled = tables["good"].sample(frac=1, random_state=seed)
    result = compare(shuffled, tables["fair"], metric, samples=200)  # type: ignore[arg-type]
    assert result == compare(tables["good"], tables["fair"], metric, samples=200)  # type: ignore[arg-type]
    assert result.interval[0] <= result.difference <= result.interval[1]


def test_swapping_the_two_turns_the_sign(tables: dict[str, pd.DataFrame]) -> None:
    ahead = compare(tables["good"], tables["fair"], "macro_f1")
    behind = compare(tables["fair"], tables["good"], "macro_f1")
    assert ahead.difference == pytest.approx(-behind.difference)
    assert ahead.p_value == pytest.approx(behind.p_value)


def test_unequal_rows_are_refused_by_count_and_example(tables: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(UnequalRowsError, match=r"1 ids only in the candidate's, 0 only .*planted/test/00419"):
        compare(tables["good"], tables["fair"].iloc[:-1], "accuracy")


def test_other_labels_for_the_same_ids_are_refused(tables: dict[str, pd.DataFrame]) -> None:
    relabelled = tables["fair"].assign(emotion="happy")
    with pytest.raises(UnequalRowsError, match="different true emotions"):
        compare(tables["good"], relabelled, "accuracy")


def test_repeated_ids_are_refused(tables: dict[str, pd.DataFrame]) -> None:
    doubled = pd.concat([tables["good"], tables["good"].iloc[:1]])
    with pytest.raises(UnequalRowsError, match="more than once"):
        compare(doubled, tables["fair"], "accuracy")


def test_mcnemar_is_the_exact_sign_test() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 0) == pytest.approx(2 * 0.5**5)


def test_predictions_come_back_in_dataset_order_from_whole_batches(tmp_path: Path) -> None:
    dataset = planted_dataset(tmp_path / "dataset", test=300)
    classifier = FakeClassifier(skill=1)
    table = predict_split(classifier, dataset, "test", batch_size=16, seed=1)
    assert list(table["id"]) == list(dataset.frame("test", ["id"])["id"])
    assert (table[[c for c in table if c.startswith("p_")]].to_numpy().argmax(1) == np.arange(300) % 7).all()
    assert classifier.batches == [16] * 18 + [12]
