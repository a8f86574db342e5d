"""Batches hold every image once an epoch, the same for a seed, with weights and soft targets as asked."""

import keras
import numpy as np
import pytest

from ferops.data.store import Dataset
from ferops.settings import AugmentationSettings
from ferops.training import decoding
from ferops.training.batches import (
    EvaluationBatches,
    LabelledAccuracy,
    LabelledImages,
    TrainingBatches,
    class_weights,
)
from ferops.training.decoding import decode
from ferops.training.teacher import soft_targets

PLAIN = AugmentationSettings(flip=False)
EVEN = np.ones(7, np.float32)


def smoothed(count: int) -> np.ndarray:
    return soft_targets(marked(count).labels, 0.1)


def marked(count: int) -> LabelledImages:
    """Images whose every pixel is their own number."""
    grey = np.repeat(np.arange(count, dtype=np.uint8), 48 * 48).reshape(count, 48, 48)
    return LabelledImages(grey, np.arange(count) % 7)


def test_an_epoch_holds_every_image_once_and_the_next_in_another_order() -> None:
    batches = TrainingBatches(marked(50), 8, PLAIN, smoothed(50), EVEN, seed=1)
    first = numbers(batches)
    batches.on_epoch_end()
    second = numbers(batches)
    assert set(first) == set(second) == set(range(50))
    assert first != second
    # The last batch is filled up with six images from the beginning.
    assert len(first) == len(second) == 56
    assert set(first[48:]) - {n for n in range(50) if first.count(n) == 1} <= set(first[:8])


def numbers(batches: TrainingBatches) -> list[int]:
    return [int(image[0, 0, 0]) for index in range(len(batches)) for image in batches[index][0]]


def test_an_epoch_can_be_drawn_again() -> None:
    asked = AugmentationSettings(flip=True, shift=0.2, erasing=0.5, mixup=0.4)
    one, two = (TrainingBatches(marked(50), 8, asked, smoothed(50), EVEN, seed=1) for _ in range(2))
    one.on_epoch_end()
    two.epoch = 1
    for a, b in zip(one[3], two[3], strict=True):
        np.testing.assert_array_equal(a, b)


def test_targets_are_smoothed_and_weights_follow_the_label() -> None:
    weights = np.arange(7, dtype=np.float32)
    images, targets, sample_weights = TrainingBatches(marked(14), 14, PLAIN, smoothed(14), weights, seed=0)[0]
    labels = images[:, 0, 0, 0] % 7
    np.testing.assert_array_equal(sample_weights, labels)
    np.testing.assert_array_equal(targets.argmax(1), labels)
    np.testing.assert_allclose(targets.max(1), 0.9 + 0.1 / 7, rtol=1e-6)
    assert images.dtype == np.uint8
    assert images.shape == (14, 48, 48, 3)


def test_evaluation_batches_are_not_sorted_by_emotion() -> None:
    data = LabelledImages(np.zeros((140, 48, 48), np.uint8), np.repeat(np.arange(7), 20))
    first = EvaluationBatches(data, 20)[0][1].argmax(1)
    assert len(set(first.tolist())) > 3
    total = sum(EvaluationBatches(data, 20)[i][1].sum(0) for i in range(7))
    np.testing.assert_array_equal(total, np.full(7, 20))


def test_validation_counts_every_image_once_though_the_last_batch_is_filled_up() -> None:
    rng = np.random.default_rng(0)
    data = LabelledImages(np.zeros((50, 48, 48), np.uint8), rng.integers(0, 7, 50))
    batches = EvaluationBatches(data, 16)
    answers = rng.dirichlet(np.ones(7), 50).astype(np.float32)
    accuracy, losses = LabelledAccuracy(), []
    for index in range(len(batches)):
        images, targets, weights = batches[index]
        assert len(images) == len(targets) == len(weights) == 16
        given = answers[batches.order[np.arange(index * 16, index * 16 + 16) % 50]]
        accuracy.update_state(targets, given)
        loss = keras.losses.CategoricalCrossentropy()(targets, given, weights)
        losses.append(float(loss))
    own = answers[np.arange(50), data.labels]
    assert np.mean(losses) == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert float(accuracy.result()) == pytest.approx((answers.argmax(1) == data.labels).mean())


def test_a_batch_in_parts_has_the_images_of_the_whole_one() -> None:
    whole = TrainingBatches(marked(50), 16, PLAIN, smoothed(50), EVEN, seed=1)
    parts = TrainingBatches(marked(50), 16, PLAIN, smoothed(50), EVEN, seed=1, parts=2)
    assert (len(whole), len(parts), parts.updates) == (4, 8, 4)  # the epoch ends with a whole update
    for update in range(4):
        together = np.concatenate([parts[2 * update][0], parts[2 * update + 1][0]])[:, 0, 0, 0]
        assert sorted(together) == sorted(whole[update][0][:, 0, 0, 0])


def test_class_weights_balance_the_classes() -> None:
    labels = np.repeat(np.arange(7), [10, 1, 10, 20, 10, 10, 10])
    weights = class_weights(labels)
    np.testing.assert_allclose(weights * np.bincount(labels), len(labels) / 7, rtol=1e-6)
    np.testing.assert_allclose(class_weights(labels, 0.0), 1)
    half = class_weights(labels, 0.5)
    assert half[labels].mean() == pytest.approx(1)  # the learning rate means the same at any power
    assert half.max() / half.min() == pytest.approx(np.sqrt(20))
    with pytest.raises(ValueError, match="none of: neutral"):
        class_weights(np.arange(6))


def test_decoding_gives_the_datasets_own_pixels_also_through_a_scratch_file(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = decode(tiny_dataset, "validation")
    np.testing.assert_array_equal(in_memory.grey, tiny_dataset.images("validation")[..., 0])
    np.testing.assert_array_equal(in_memory.labels, tiny_dataset.labels("validation"))
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 0)
    mapped = decode(tiny_dataset, "validation")
    assert isinstance(mapped.grey, np.memmap)
    np.testing.assert_array_equal(mapped.grey, in_memory.grey)
