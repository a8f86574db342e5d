"""A teacher's answers are blended into the targets, and what it saw counts as seen."""

from pathlib import Path

import numpy as np
import pytest
from keras import Input, Model, layers, ops

from ferops.training.teacher import TeacherError, ask, soft_targets


def brightness_teacher(path: Path, outputs: int = 7) -> Path:
    """Says `angry` as far as the image's left edge is bright."""
    inputs = Input((48, 48, 3), dtype="uint8")
    left = ops.mean(ops.cast(inputs, "float32")[:, :, 0], axis=(1, 2))[:, None] / 255
    rest = layers.RepeatVector(outputs - 1)((1 - left) / (outputs - 1))
    Model(inputs, layers.Concatenate()([left, layers.Flatten()(rest)])).save(path)
    return path


def test_targets_without_a_teacher_are_smoothed_labels() -> None:
    targets = soft_targets(np.arange(7), 0.1)
    np.testing.assert_allclose(targets.diagonal(), 0.9 + 0.1 / 7, rtol=1e-6)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)


def test_a_teachers_answer_has_its_share() -> None:
    answers = np.full((7, 7), 1 / 7, np.float32)
    targets = soft_targets(np.arange(7), 0.0, answers, share=0.25)
    np.testing.assert_allclose(targets.diagonal(), 0.75 + 0.25 / 7, rtol=1e-6)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)


def test_the_teacher_is_asked_about_an_image_and_its_mirror(tmp_path: Path) -> None:
    grey = np.zeros((130, 48, 48), np.uint8)  # more than one batch
    grey[1, :, 0] = 255
    answers = ask(brightness_teacher(tmp_path / "model.keras"), grey)
    assert answers.shape == (130, 7)
    assert answers[0, 0] == 0
    assert answers[1, 0] == pytest.approx(0.5)  # bright on the left, and dark there in the mirror


def test_a_teacher_whose_images_attend_to_each_other_is_not_told_the_answers_by_their_order(
    tmp_path: Path,
) -> None:
    inputs = Input((48, 48, 3), dtype="uint8")
    mean = ops.mean(ops.cast(inputs, "float32"), axis=(1, 2))[:, :1] / 255
    company = ops.mean(mean, axis=0, keepdims=True) + 0 * mean  # says of each image what its batch is like
    rest = layers.RepeatVector(6)((1 - company) / 6)
    Model(inputs, layers.Concatenate()([company, layers.Flatten()(rest)])).save(tmp_path / "model.keras")
    grey = np.zeros((256, 48, 48), np.uint8)
    grey[128:] = 255  # as datasets lie: one emotion after the other
    answers = ask(tmp_path / "model.keras", grey)[:, 0]
    assert abs(answers[:128].mean() - answers[128:].mean()) < 0.1


def test_what_is_no_teacher_is_refused_with_advice(tmp_path: Path) -> None:
    grey = np.zeros((1, 48, 48), np.uint8)
    with pytest.raises(TeacherError, match="not found: give the path"):
        ask(tmp_path / "model.keras", grey)
    with pytest.raises(TeacherError, match=r"\(None, 8\)"):
        ask(brightness_teacher(tmp_path / "other.keras", outputs=8), grey)
    (tmp_path / "damaged.keras").write_bytes(brightness_teacher(tmp_path / "model.keras").read_bytes()[:900])
    with pytest.raises(TeacherError, match=r"damaged\.keras cannot be loaded"):
        ask(tmp_path / "damaged.keras", grey)
    inputs = Input((48, 48, 3), dtype="uint8")
    flat = layers.Flatten()(ops.cast(inputs, "float32"))
    Model(inputs, layers.Dense(7)(flat)).save(tmp_path / "logits.keras")
    with pytest.raises(TeacherError, match="gives no probabilities"):
        ask(tmp_path / "logits.keras", grey)
