import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from ferops.emotions import EMOTIONS
from ferops.evaluation.calibration import expected_calibration_error, reliability
from ferops.evaluation.metrics import UnmeasurableError, bootstrap, confusion_matrix, measure, scores

Answers = tuple[NDArray[np.int64], NDArray[np.float32]]


@st.composite
def answers(draw: st.DrawFn, max_rows: int = 60) -> Answers:
    """Labels and probabilities of any skill, classes missing included."""
    rows = draw(st.integers(1, max_rows))
    classes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = generator.choice(classes, rows).astype(np.int64)
    logits = generator.normal(size=(rows, 7)) * draw(st.floats(0.1, 8))
    logits[np.arange(rows), labels] += draw(st.floats(-3, 6))
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return labels, (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


@given(answers())
@settings(deadline=None, max_examples=60)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning", "ignore::UserWarning")
def test_every_metric_equals_scikit_learn(case: Answers) -> None:
    labels, probabilities = case
    predicted = probabilities.argmax(axis=1)
    ours = measure(labels, probabilities, samples=100)
    assert ours.accuracy == pytest.approx(sk.accuracy_score(labels, predicted))
    assert ours.macro_f1 == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert ours.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert ours.negative_log_likelihood == pytest.approx(
        sk.log_loss(labels, np.clip(probabilities.astype(np.float64), 2**-23, 1), labels=range(7)), abs=1e-5
    )
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, predicted, labels=range(7), zero_division=np.nan
    )
    for theirs, mine in ((precision, ours.precision), (recall, ours.recall), (f1, ours.f1)):
        expected = [None if np.isnan(value) else pytest.approx(value) for value in theirs]
        assert [mine[emotion] for emotion in EMOTIONS] == expected
    assert (
        confusion_matrix(labels, predicted) == sk.confusion_matrix(labels, predicted, labels=range(7))
    ).all()


@given(answers(), st.integers(0, 2**32))
@settings(deadline=None)
def test_the_order_of_the_rows_changes_no_metric(case: Answers, seed: int) -> None:
    labels, probabilities = case
    order = np.random.default_rng(seed).permutation(len(labels))
    before = measure(labels, probabilities, samples=100)
    after = measure(labels[order], probabilities[order], samples=100)
    for name, value in before.model_dump().items():
        if isinstance(value, dict):
            assert after.model_dump()[name] == {key: pytest.approx(part) for key, part in value.items()}
        else:
            assert after.model_dump()[name] == pytest.approx(value, abs=1e-7)


@given(answers())
@settings(deadline=None)
def test_an_interval_contains_its_estimate_and_stays_between_0_and_1(case: Answers) -> None:
    result = measure(*case, samples=200)
    for name, (low, high) in result.intervals.items():
        assert 0 <= low <= getattr(result, name) <= high <= 1 + 1e-9
    for emotion, found in result.recall_intervals.items():
        recall = result.recall[emotion]
        assert (found is None) == (recall is None)
        if found is not None and recall is not None:
            assert 0 <= found[0] <= recall <= found[1] <= 1


def test_intervals_of_recall_and_calibration_are_those_of_drawing_rows() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(7), [200, 10, 200, 200, 200, 200, 200])
    logits = generator.normal(size=(len(labels), 7))
    logits[np.arange(len(labels)), labels] += 2
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    found = measure(labels, probabilities, samples=2000)
    errors, recalls = [], []
    for _ in range(500):
        rows = generator.integers(0, len(labels), len(labels))
        errors.append(expected_calibration_error(labels[rows], probabilities[rows]))
        angry = rows[labels[rows] == 0]
        recalls.append((probabilities[angry].argmax(axis=1) == 0).mean())
    for drawn, interval in (
        (errors, found.intervals["expected_calibration_error"]),
        (recalls, found.recall_intervals["angry"]),
    ):
        np.testing.assert_allclose(interval, np.quantile(drawn, [0.025, 0.975]), atol=0.01)
    wide, narrow = (np.ptp(found.recall_intervals[emotion] or ()) for emotion in ("disgust", "angry"))
    assert wide > 3 * narrow  # ten images tell little


@given(answers(), st.integers(2, 30))
@settings(deadline=None)
def test_calibration_error_lies_between_0_and_1_and_bins_hold_every_row(case: Answers, bins: int) -> None:
    labels, probabilities = case
    assert 0 <= expected_calibration_error(labels, probabilities, bins) <= 1
    table = reliability(labels, probabilities, bins)
    assert table.rows.sum() == len(labels)
    filled = table.rows > 0
    assert (table.confidence[filled] > table.lower[filled] - 1e-6).all()
    assert (table.confidence[filled] <= table.upper[filled] + 1e-6).all()


def _confident(rows: int, confidence: float, right: float) -> Answers:
    labels = np.arange(rows) % 7
    answer = np.where(np.arange(rows) < right * rows, labels, (labels + 1) % 7)
    probabilities = np.full((rows, 7), (1 - confidence) / 6, np.float32)
    probabilities[np.arange(rows), answer] = confidence
    return labels, probabilities


def test_a_model_as_right_as_it_is_sure_has_no_calibration_error() -> None:
    assert expected_calibration_error(*_confident(1000, 0.8, right=0.8)) == pytest.approx(0, abs=1e-6)


def test_an_overconfident_model_has_the_gap_as_its_calibration_error() -> None:
    assert expected_calibration_error(*_confident(1000, 0.99, right=0.6)) == pytest.approx(0.39, abs=1e-6)


def test_a_confidence_on_an_edge_falls_into_the_lower_bin() -> None:
    labels, probabilities = _confident(10, 0.5, right=1)
    assert reliability(labels, probabilities, bins=10).rows[4] == 10


def test_the_bootstrap_interval_is_that_of_the_binomial() -> None:
    labels, probabilities = _confident(2000, 0.9, right=0.7)
    low, high = measure(labels, probabilities, samples=4000).intervals["accuracy"]
    half = 1.96 * np.sqrt(0.7 * 0.3 / 2000)
    assert (low, high) == (pytest.approx(0.7 - half, abs=0.003), pytest.approx(0.7 + half, abs=0.003))


def test_the_bootstrap_gives_the_same_interval_for_the_same_seed() -> None:
    counts = confusion_matrix(np.arange(70) % 7, np.arange(70) % 6)
    first = bootstrap(counts, samples=300, level=0.9, seed=3)
    assert first == bootstrap(counts, samples=300, level=0.9, seed=3)
    assert first != bootstrap(counts, samples=300, level=0.9, seed=4)


def test_scores_take_many_confusion_matrices_at_once() -> None:
    counts = np.stack([np.eye(7), np.ones((7, 7))]).astype(np.int64)
    assert scores(counts)["accuracy"] == pytest.approx([1, 1 / 7])


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (np.zeros(0, np.int64), np.zeros((0, 7), np.float32), "no rows"),
        (np.zeros(2, np.int64), np.full((3, 7), 1 / 7, np.float32), r"\[2, 7\]"),
        (np.array([0, 7]), np.full((2, 7), 1 / 7, np.float32), "0 to 6"),
        (np.zeros(2, np.int64), np.full((2, 7), np.nan, np.float32), "diverged"),
        (np.zeros(2, np.int64), np.full((2, 7), 3.0, np.float32), "softmax"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels: NDArray, probabilities: NDArray, message: str) -> None:
    with pytest.raises(UnmeasurableError, match=message):
        measure(labels, probabilities)
