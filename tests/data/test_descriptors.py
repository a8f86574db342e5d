"""Hashes that find copies, numbers that find drift."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ferops.data.descriptors import DESCRIPTORS, describe, is_blank, perceptual_hash, pixel_hash
from ferops.data.store import Dataset

IMAGES = arrays(np.uint8, st.tuples(st.integers(3, 60), st.integers(3, 60)), fill=st.integers(0, 255))


@given(IMAGES)
def test_descriptors_of_any_image_are_finite_and_in_range(grey: np.ndarray) -> None:
    found = describe(grey)
    assert found._fields == DESCRIPTORS
    assert np.isfinite(found).all()
    assert 0 <= found.brightness <= 1
    assert 0 <= found.contrast <= 0.5 + 1e-6
    assert -1.001 <= found.symmetry <= 1.001
    assert 0 <= found.entropy <= 6
    assert found.dark_fraction + found.bright_fraction <= 1 + 1e-6


def test_brightness_and_contrast_of_a_known_image() -> None:
    half = np.zeros((48, 48), np.uint8)
    half[:, 24:] = 255
    found = describe(half)
    assert found.brightness == pytest.approx(0.5)
    assert found.contrast == pytest.approx(0.5)
    assert found.symmetry == pytest.approx(-1)
    assert found.entropy == pytest.approx(1)
    assert (found.dark_fraction, found.bright_fraction) == (0.5, 0.5)


@pytest.mark.parametrize("sigma", [2.0, 8.0, 20.0])
def test_noise_is_estimated_in_the_scale_of_its_standard_deviation(sigma: float) -> None:
    noisy = np.clip(128 + np.random.default_rng(0).normal(0, sigma, (64, 64)), 0, 255).astype(np.uint8)
    assert describe(noisy).noise == pytest.approx(sigma / 255, rel=0.1)


def test_blur_lowers_sharpness(tiny_dataset: Dataset) -> None:
    from PIL import Image, ImageFilter

    sharp = tiny_dataset.images("test")[0, :, :, 0]
    blurred = np.asarray(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(1.5)))
    assert describe(blurred).sharpness < 0.5 * describe(sharp).sharpness


@given(IMAGES, st.integers(0, 10_000))
def test_the_pixel_hash_changes_with_any_pixel(grey: np.ndarray, where: int) -> None:
    other = grey.copy()
    other.flat[where % other.size] ^= 1
    assert pixel_hash(grey) == pixel_hash(grey.copy(order="F")) != pixel_hash(other)


def test_the_pixel_hash_tells_shapes_apart() -> None:
    assert pixel_hash(np.zeros((4, 9), np.uint8)) != pixel_hash(np.zeros((6, 6), np.uint8))


@given(IMAGES)
def test_the_perceptual_hash_is_always_16_hex_digits(grey: np.ndarray) -> None:
    assert len(perceptual_hash(grey)) == 16
    assert int(perceptual_hash(grey), 16) >= 0


def test_the_perceptual_hash_ignores_light_and_survives_scaling(tiny_dataset: Dataset) -> None:
    from PIL import Image

    for image in tiny_dataset.images("test")[:10, :, :, 0]:
        own = int(perceptual_hash(image), 16)
        darker = (image.astype(float) * 0.7 + 10).astype(np.uint8)
        larger = np.asarray(Image.fromarray(image).resize((96, 96), Image.Resampling.BICUBIC))
        assert (own ^ int(perceptual_hash(darker), 16)).bit_count() <= 4
        assert (own ^ int(perceptual_hash(larger), 16)).bit_count() <= 8


def test_blank_is_one_value_only() -> None:
    blank = np.full((48, 48), 7, np.uint8)
    assert is_blank(blank)
    blank[0, 0] = 8
    assert not is_blank(blank)
