import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fake_classifiers import FakeClassifier, planted_face
from ferops.evaluation.batch_invariance import affordable, arrangements, check, stratified
from ferops.models.classifier import Predictions


def faces(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 7
    grey = [planted_face(int(label), int(generator.integers(256)), generator) for label in labels]
    return np.repeat(np.stack(grey)[..., None], 3, axis=3), labels


@given(st.integers(2, 60), st.integers(2, 40), st.integers(0, 100))
@settings(deadline=None, max_examples=25)
def test_a_batch_safe_model_gives_no_difference_at_all(count: int, batch_size: int, seed: int) -> None:
    result = check(FakeClassifier(), *faces(count), batch_size=batch_size, seed=seed)
    assert result.max_difference == 0
    assert set(result.labels_changed.values()) == {0.0}
    assert len(set(result.accuracy.values())) == 1


def test_a_model_that_mixes_its_batch_is_caught_and_gains_from_class_sorted_batches() -> None:
    result = check(FakeClassifier(skill=0.5, confidence=0.4, leak=0.7), *faces(448), batch_size=32, seed=0)
    assert result.max_difference > 0.1
    assert result.accuracy["class_sorted"] > result.accuracy["single"] + 0.15
    assert result.labels_changed["class_sorted"] > 0.2


def test_even_a_weak_leak_shows() -> None:
    result = check(FakeClassifier(leak=0.001), *faces(64), batch_size=32, seed=0)
    assert result.max_difference > 1e-4


def test_a_model_that_depends_on_the_batch_size_alone_is_caught() -> None:
    class Sized(FakeClassifier):
        def predict(self, images: NDArray[np.uint8], batch_size: int = 32) -> Predictions:
            answer = np.full((len(images), 7), 1 / 7, np.float32)
            answer[:, 0] += 0.01 * (batch_size == 15)
            return Predictions(answer)

    result = check(Sized(), *faces(64), batch_size=32, seed=0)
    assert (result.difference["shuffled"], result.difference["other_size"] > 0.009) == (0, True)


def test_nan_counts_as_the_largest_difference() -> None:
    class Broken(FakeClassifier):
        def predict(self, images: NDArray[np.uint8], batch_size: int = 32) -> Predictions:
            return Predictions(np.full((len(images), 7), np.nan if batch_size == 1 else 1 / 7, np.float32))

    assert check(Broken(), *faces(14), batch_size=4, seed=0).max_difference == 1


def test_progress_cuts_no_batch_short() -> None:
    class Counting(FakeClassifier):
        def predict(self, images: NDArray[np.uint8], batch_size: int = 32) -> Predictions:
            self.sizes.setdefault(batch_size, []).extend(
                len(images[start : start + batch_size]) for start in range(0, len(images), batch_size)
            )
            return super().predict(images, batch_size)

        sizes: dict[int, list[int]]

    model = Counting()
    model.sizes = {}
    check(model, *faces(150), batch_size=32, seed=0)
    assert model.sizes == {1: [1] * 150, 32: 2 * [32, 32, 32, 32, 22], 15: [15] * 10}


def test_a_long_check_says_how_far_it_is(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ferops.data.progress.SECONDS_BETWEEN_LINES", 0.0)
    images, labels = faces(150)
    arrangements(FakeClassifier("slow"), images, labels, batch_size=32, seed=0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("slow, the same 150 images in different company")
    assert "12 of 12, 0 s left" in lines[-1]


def test_a_large_model_is_checked_on_fewer_images() -> None:
    assert (affordable(512, 1_102_664), affordable(512, 85_804_039), affordable(64, 85_804_039)) == (
        512,
        128,
        64,
    )


def test_one_image_cannot_be_checked() -> None:
    with pytest.raises(ValueError, match="no neighbours"):
        check(FakeClassifier(), *faces(1), batch_size=32, seed=0)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=300), st.integers(1, 300), st.integers(0, 9))
def test_a_stratified_sample_keeps_the_proportions(labels: list[int], count: int, seed: int) -> None:
    values = np.array(labels)
    rows = stratified(values, count, seed)
    assert len(set(rows.tolist())) == len(rows) == min(count, len(values))
    classes, totals = np.unique(values, return_counts=True)
    drawn = np.array([(values[rows] == label).sum() for label in classes])
    assert (np.abs(drawn - totals * len(rows) / len(values)) <= len(classes)).all()
    if len(rows) >= len(classes):
        assert drawn.min() >= 1
