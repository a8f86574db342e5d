"""Augmentation changes faces only as far as its settings say."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ferops.settings import AugmentationSettings
from ferops.training.augmentation import NOISE, apply, draw, mix_targets

OFF = AugmentationSettings(flip=False)


def faces(count: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), dtype=np.uint8)


def augment(images: np.ndarray, asked: AugmentationSettings, rng: np.random.Generator) -> np.ndarray:
    return apply(images.astype(np.float32), draw(len(images), images.shape[1:], asked, rng), asked)


def test_nothing_asked_for_changes_nothing() -> None:
    images = faces()
    np.testing.assert_array_equal(augment(images, OFF, np.random.default_rng(0)), images)


def test_flip_gives_the_image_or_its_mirror() -> None:
    images = faces(64)
    out = augment(images, AugmentationSettings(flip=True), np.random.default_rng(0))
    mirrored = (out == images[:, :, ::-1]).all((1, 2))
    kept = (out == images).all((1, 2))
    assert (mirrored ^ kept).all()
    assert 16 < mirrored.sum() < 48


def test_a_shift_moves_a_dot_by_at_most_the_share_of_the_side() -> None:
    images = np.zeros((100, 48, 48), np.uint8)
    images[:, 24, 24] = 255
    out = augment(images, AugmentationSettings(flip=False, shift=0.1), np.random.default_rng(0))
    rows, columns = np.mgrid[:48, :48]
    mass = out.sum((1, 2))
    y, x = (out * rows).sum((1, 2)) / mass, (out * columns).sum((1, 2)) / mass
    assert np.abs([y - 24, x - 24]).max() <= 4.8 + 0.5
    assert np.std(x) > 1


def test_rotation_keeps_the_centre_and_the_angle_bound() -> None:
    images = np.zeros((100, 49, 49), np.uint8)
    images[:, 24, 40] = 255  # 16 pixels right of the centre
    out = augment(images, AugmentationSettings(flip=False, rotation=10), np.random.default_rng(0))
    rows, columns = np.mgrid[:49, :49] - 24
    mass = out.sum((1, 2))
    angle = np.degrees(np.arctan2((out * rows).sum((1, 2)) / mass, (out * columns).sum((1, 2)) / mass))
    assert np.abs(angle).max() < 10.5
    assert angle.min() < -5 < 5 < angle.max()


def test_erasing_covers_at_most_a_fifth_of_the_image() -> None:
    images = np.full((200, 48, 48), 7, np.uint8)
    out = augment(images, AugmentationSettings(flip=False, erasing=1.0), np.random.default_rng(0))
    share = (out != 7).mean((1, 2))
    assert share.min() > 0.005
    assert share.max() < 0.23


@settings(max_examples=40, deadline=None)
@given(
    st.builds(
        AugmentationSettings,
        flip=st.booleans(),
        contrast=st.floats(0, 1),
        brightness=st.floats(0, 1),
        shift=st.floats(0, 1),
        rotation=st.floats(0, 180),
        zoom=st.floats(0, 0.9),
        erasing=st.floats(0, 1),
    ),
    st.integers(0, 2**32 - 1),
)
def test_any_setting_gives_valid_pixels_and_the_same_for_the_same_seed(
    asked: AugmentationSettings, seed: int
) -> None:
    images = faces(4)
    out = augment(images, asked, np.random.default_rng(seed))
    assert out.shape == images.shape
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 255
    np.testing.assert_array_equal(out, augment(images, asked, np.random.default_rng(seed)))
    np.testing.assert_array_equal(images, faces(4))  # the input is left alone


@given(st.floats(0.01, 5), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_mixup_keeps_targets_a_distribution_and_the_own_label_largest(alpha: float, seed: int) -> None:
    asked = AugmentationSettings(flip=False, mixup=alpha)
    images = faces(7, seed).astype(np.float32)
    draws = draw(7, (48, 48), asked, np.random.default_rng(seed))
    mixed, targets = apply(images, draws, asked), mix_targets(np.eye(7, dtype=np.float32), draws, asked)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-5)
    assert (targets.diagonal() >= 0.5 - 1e-6).all()
    # Images are blended as their targets are.
    np.testing.assert_allclose(mixed, np.tensordot(targets, images, 1), atol=0.05)


def test_erased_rectangles_show_noise_and_others_are_left() -> None:
    asked = AugmentationSettings(flip=False, erasing=0.5)
    out = augment(np.full((400, 48, 48), 300, np.int32), asked, np.random.default_rng(0))
    erased = (out != 255).any((1, 2))  # 300 is clipped to 255, which the noise seldom is
    assert 150 < erased.sum() < 250
    values = np.concatenate([image[image != 255] for image in out[erased]])
    assert 110 < values.mean() < 145
    assert len(np.unique(values)) > 250
    assert np.unique(NOISE).size > 250


def test_contrast_and_brightness_reach_as_far_as_asked() -> None:
    images = np.full((300, 48, 48), 100, np.uint8)
    images[:, :, 24:] = 140
    out = augment(images, AugmentationSettings(flip=False, contrast=0.5), np.random.default_rng(0))
    spread = out[:, 0, 47] - out[:, 0, 0]
    assert 20 <= spread.min() < 22
    assert 58 < spread.max() <= 60
    out = augment(images, AugmentationSettings(flip=False, brightness=0.1), np.random.default_rng(0))
    change = out[:, 0, 0] - 100
    assert -25.5 <= change.min() < -24
    assert 24 < change.max() <= 25.5
