"""Random changes to training images: drawn on the host, applied to the 48x48 pixels where the images are.

    >>> draws = draw(len(faces), (48, 48), settings, rng)  # doctest: +SKIP
    >>> changed = apply(faces, draws, settings)  # numpy, on the host  # doctest: +SKIP
    >>> changed = apply(faces, draws, settings, keras.ops)  # in a compiled step  # doctest: +SKIP

The draws are a few numbers an image. Both places compute the same images from them, and a training that
is resumed draws what an unbroken one would have drawn. As Keras layers at the model's input size the same
changes halve the training speed on a CPU.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferops.settings import AugmentationSettings

#: Share of the image's area that an erased rectangle covers (Zhong et al. 2020, "Random Erasing").
ERASED_AREA = (0.02, 0.2)

#: Width over height of the rectangle, drawn on a log scale (same source).
ERASED_ASPECT = (0.3, 3.3)

#: An erased rectangle shows a random cut of this noise, so that no draw is needed for each of its pixels.
NOISE = np.random.default_rng(0).integers(0, 256, (128, 128)).astype(np.float32)

#: Columns of the draws: the affine map from a pixel to its source (2x2 matrix about the centre, shift in
#: pixels), contrast, brightness, the erased box (top, left, bottom, right; empty where none), the noise's
#: corner, and mixup's own share and partner.
COLUMNS = 16
MATRIX, SHIFT, CONTRAST, BRIGHTNESS, BOX, CORNER, SHARE, PARTNER = (
    slice(0, 4),
    slice(4, 6),
    6,
    7,
    slice(8, 12),
    slice(12, 14),
    14,
    15,
)


def draw(
    count: int, size: tuple[int, int], settings: AugmentationSettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw each image's changes.

    Args:
        count: images of the batch; mixup's partners are among them.
        size: height and width, pixels.
        settings: which changes, how far.
        rng: source of all randomness.

    Returns:
        float32 `[count, COLUMNS]`.
    """
    height, width = size

    def within(reach: float) -> NDArray[np.float64]:
        return rng.uniform(-reach, reach, count)

    angle = np.radians(within(settings.rotation))
    scale = 1 + within(settings.zoom)
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0) if settings.flip else np.ones(count)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    out = np.zeros((count, COLUMNS), np.float32)
    # y' = cos y + sin x, x' = cos x - sin y, after x was mirrored.
    out[:, MATRIX] = np.stack([cos, sin * mirror, -sin, cos * mirror], 1)
    out[:, SHIFT] = np.stack([within(settings.shift) * height, within(settings.shift) * width], 1)
    out[:, CONTRAST] = 1 + within(settings.contrast)
    out[:, BRIGHTNESS] = within(settings.brightness) * 255
    if settings.erasing:
        out[:, BOX] = _boxes(count, height, width, rng) * (rng.random((count, 1)) < settings.erasing)
        corners = (NOISE.shape[0] - height + 1, NOISE.shape[1] - width + 1)
        out[:, CORNER] = rng.integers(0, corners, (count, 2))
    if settings.mixup:
        share = rng.beta(settings.mixup, settings.mixup, count)
        out[:, SHARE] = np.maximum(share, 1 - share)  # the image's own label stays the larger one
        out[:, PARTNER] = rng.permutation(count)
    return out


def _boxes(count: int, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Random rectangles `[count, 4]`: top, left, bottom, right."""
    area = rng.uniform(*ERASED_AREA, count) * height * width
    narrow, broad = np.log(ERASED_ASPECT)
    aspect = np.exp(rng.uniform(narrow, broad, count))
    tall = np.clip(np.rint(np.sqrt(area / aspect)), 1, height)
    wide = np.clip(np.rint(np.sqrt(area * aspect)), 1, width)
    top = np.floor(rng.random(count) * (height - tall + 1))
    left = np.floor(rng.random(count) * (width - wide + 1))
    return np.stack([top, left, top + tall, left + wide], 1)


def apply(images: Any, draws: Any, settings: AugmentationSettings, ops: Any = np) -> Any:
    """Change grey images as drawn.

    Args:
        images: float32 `[N, H, W]`, 0 to 255; H and W at most those of `NOISE` where erasing is asked for.
        draws: from `draw`, for these images with these settings.
        settings: what is off is left out.
        ops: `numpy`, or `keras.ops` for tensors in a compiled step.

    Returns:
        float32 `[N, H, W]`, 0 to 255.
    """
    if settings.flip or settings.rotation or settings.zoom or settings.shift:
        images = warp(images, draws[:, MATRIX], draws[:, SHIFT], ops)
    if settings.contrast:
        mean = ops.mean(images, axis=(1, 2), keepdims=True)
        images = (images - mean) * draws[:, CONTRAST, None, None] + mean
    if settings.brightness:
        images = images + draws[:, BRIGHTNESS, None, None]
    images = ops.clip(images, 0.0, 255.0)
    if settings.erasing:
        images = _erase(images, draws, ops)
    if settings.mixup:
        share = draws[:, SHARE, None, None]
        partner = ops.take(images, _whole(draws[:, PARTNER], ops), axis=0)
        images = share * images + (1 - share) * partner
    return images


def mix_targets(
    targets: NDArray[np.float32], draws: NDArray[np.float32], settings: AugmentationSettings
) -> NDArray[np.float32]:
    """Mixup (Zhang et al. 2018) of targets float32 `[N, classes]`, as `apply` mixes their images."""
    if not settings.mixup:
        return targets
    share = draws[:, SHARE, None]
    mixed: NDArray[np.float32] = share * targets + (1 - share) * targets[draws[:, PARTNER].astype(int)]
    return mixed


def to_pixels(images: Any, ops: Any = np) -> Any:
    """Round float `[N, H, W]` to uint8 `[N, H, W, 3]`, the model's input: three equal channels."""
    whole = np.rint(images).astype(np.uint8) if ops is np else ops.cast(ops.round(images), "uint8")
    return ops.repeat(whole[..., None], 3, axis=-1)


def warp(images: Any, matrix: Any, shift: Any, ops: Any = np) -> Any:
    """Read every pixel at its source, bilinear, edges repeated.

    Args:
        images: float32 `[N, H, W]`.
        matrix: float32 `[N, 4]`: yy, yx, xy, xx of the map from offsets about the centre to source offsets.
        shift: float32 `[N, 2]`: added to the source, y and x, pixels.
        ops: `numpy` or `keras.ops`.
    """
    count, height, width = ops.shape(images)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y = ops.arange(height, dtype="float32")[None, :, None] - middle_y
    x = ops.arange(width, dtype="float32")[None, None, :] - middle_x
    yy, yx, xy, xx = (matrix[:, column, None, None] for column in range(4))
    source_y = ops.clip(yy * y + yx * x + middle_y + shift[:, 0, None, None], 0.0, height - 1.0)
    source_x = ops.clip(xy * y + xx * x + middle_x + shift[:, 1, None, None], 0.0, width - 1.0)
    top = ops.clip(ops.floor(source_y), 0.0, height - 2.0)
    left = ops.clip(ops.floor(source_x), 0.0, width - 2.0)
    down, right = source_y - top, source_x - left
    flat = ops.reshape(images, (-1,))
    first = ops.arange(count, dtype="int32")[:, None, None] * (height * width)
    corner = first + _whole(top, ops) * width + _whole(left, ops)
    upper = ops.take(flat, corner) * (1 - right) + ops.take(flat, corner + 1) * right
    lower = ops.take(flat, corner + width) * (1 - right) + ops.take(flat, corner + width + 1) * right
    return upper * (1 - down) + lower * down


def _erase(images: Any, draws: Any, ops: Any) -> Any:
    """Show noise within the boxes."""
    _, height, width = ops.shape(images)
    top, left, bottom, right = (draws[:, column, None, None] for column in range(BOX.start, BOX.stop))
    y = ops.arange(height, dtype="float32")[None, :, None]
    x = ops.arange(width, dtype="float32")[None, None, :]
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    noise_y = _whole(draws[:, CORNER.start, None, None] + y, ops)
    noise_x = _whole(draws[:, CORNER.start + 1, None, None] + x, ops)
    flat = NOISE.reshape(-1) if ops is np else ops.convert_to_tensor(NOISE.reshape(-1))
    noise = ops.take(flat, noise_y * NOISE.shape[1] + noise_x)
    return ops.where(inside, noise, images)


def _whole(values: Any, ops: Any) -> Any:
    return values.astype(np.int32) if ops is np else ops.cast(values, "int32")
