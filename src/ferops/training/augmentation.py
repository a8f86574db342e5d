"""Random changes to training images, in numpy on the 48x48 pixels: cheap beside the model's own step.

Done as Keras layers at the model's input size the same changes halve the training speed on a CPU.
"""

import numpy as np
from numpy.typing import NDArray

from ferops.settings import AugmentationSettings

#: Share of the image's area that an erased rectangle covers (Zhong et al. 2020, "Random Erasing").
ERASED_AREA = (0.02, 0.2)

#: Width over height of the rectangle, drawn on a log scale (same source).
ERASED_ASPECT = (0.3, 3.3)


def augment(
    images: NDArray[np.uint8], settings: AugmentationSettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Augment grey images, each with its own draw.

    Args:
        images: uint8 `[N, H, W]`.
        settings: which changes, how far.
        rng: source of all randomness.

    Returns:
        float32 `[N, H, W]`, 0 to 255.
    """
    out = images.astype(np.float32)
    if settings.rotation or settings.zoom or settings.shift:
        out = _warp(out, settings, rng)
    if settings.flip:
        mirrored = rng.random(len(out)) < 0.5
        out[mirrored] = out[mirrored, :, ::-1]
    if settings.contrast:
        factor = rng.uniform(1 - settings.contrast, 1 + settings.contrast, (len(out), 1, 1))
        mean = out.mean((1, 2), keepdims=True)
        out = (out - mean) * factor.astype(np.float32) + mean
    if settings.brightness:
        out += rng.uniform(-settings.brightness, settings.brightness, (len(out), 1, 1)) * 255
    out = np.clip(out, 0, 255).astype(np.float32)
    if settings.erasing:
        _erase(out, settings.erasing, rng)
    return out


def mix(
    images: NDArray[np.float32], targets: NDArray[np.float32], alpha: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mixup (Zhang et al. 2018): blend each image and its target with another of the batch.

    Args:
        images: float32 `[N, H, W]`.
        targets: float32 `[N, classes]`.
        alpha: of the Beta distribution of the blend; 0 changes nothing.
        rng: source of all randomness.
    """
    if alpha == 0:
        return images, targets
    share = rng.beta(alpha, alpha, len(images)).astype(np.float32)
    share = np.maximum(share, 1 - share)  # the image's own label stays the larger one
    other = rng.permutation(len(images))
    mixed = share[:, None, None] * images + (1 - share[:, None, None]) * images[other]
    return mixed, share[:, None] * targets + (1 - share[:, None]) * targets[other]


def _warp(
    images: NDArray[np.float32], settings: AugmentationSettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Rotate, zoom and shift about the centre; bilinear, edges repeated."""
    count, height, width = images.shape
    angle = np.radians(rng.uniform(-settings.rotation, settings.rotation, count))
    scale = rng.uniform(1 - settings.zoom, 1 + settings.zoom, count)
    shift_y = rng.uniform(-settings.shift, settings.shift, count) * height
    shift_x = rng.uniform(-settings.shift, settings.shift, count) * width
    cos, sin = (np.cos(angle) / scale)[:, None, None], (np.sin(angle) / scale)[:, None, None]
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    source_y = sin * x + cos * y + (height - 1) / 2 + shift_y[:, None, None]
    source_x = cos * x - sin * y + (width - 1) / 2 + shift_x[:, None, None]
    source_y = np.clip(source_y, 0, height - 1)
    source_x = np.clip(source_x, 0, width - 1)
    top = np.minimum(source_y.astype(np.int64), height - 2)
    left = np.minimum(source_x.astype(np.int64), width - 2)
    down = (source_y - top).astype(np.float32)
    right = (source_x - left).astype(np.float32)
    flat = images.reshape(count, -1)
    corner = top * width + left

    def at(offset: int) -> NDArray[np.float32]:
        picked = np.take_along_axis(flat, (corner + offset).reshape(count, -1), axis=1)
        return picked.reshape(count, height, width)

    upper = at(0) * (1 - right) + at(1) * right
    lower = at(width) * (1 - right) + at(width + 1) * right
    warped: NDArray[np.float32] = upper * (1 - down) + lower * down
    return warped


def _erase(images: NDArray[np.float32], probability: float, rng: np.random.Generator) -> None:
    """Fill one random rectangle of some images with noise, in place."""
    _, height, width = images.shape
    for row in np.flatnonzero(rng.random(len(images)) < probability):
        area = rng.uniform(*ERASED_AREA) * height * width
        aspect = np.exp(rng.uniform(*np.log(ERASED_ASPECT)))
        tall = int(np.clip(round(np.sqrt(area / aspect)), 1, height))
        wide = int(np.clip(round(np.sqrt(area * aspect)), 1, width))
        top = rng.integers(0, height - tall + 1)
        left = rng.integers(0, width - wide + 1)
        images[row, top : top + tall, left : left + wide] = rng.uniform(0, 255, (tall, wide))
