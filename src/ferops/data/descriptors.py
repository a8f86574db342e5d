"""What can be said of an image without a model: hashes that find copies, and numbers that find drift."""

import functools
import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn


class Descriptors(NamedTuple):
    """Numbers of one grey image `[H, W]`, all float.

    Attributes:
        brightness: mean, 0 to 1.
        contrast: standard deviation, 0 to 0.5.
        sharpness: standard deviation of the 4-neighbour Laplacian of values in 0 to 1.
        noise: robust estimate of the noise's standard deviation (Immerkaer 1996), values in 0 to 1.
        dark_fraction: share of pixels under 0.1.
        bright_fraction: share of pixels over 0.9.
        symmetry: correlation of the image with its mirror, -1 to 1; upright faces are near symmetric.
        entropy: of the 64-bin histogram, bits, 0 to 6.
    """

    brightness: float
    contrast: float
    sharpness: float
    noise: float
    dark_fraction: float
    bright_fraction: float
    symmetry: float
    entropy: float


DESCRIPTORS: tuple[str, ...] = Descriptors._fields


def describe(grey: NDArray[np.uint8]) -> Descriptors:
    """Descriptors of a grey uint8 image `[H, W]`, at least 3x3."""
    values = grey.astype(np.float32) / 255.0
    centre = values[1:-1, 1:-1]
    cross = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    diagonal = values[:-2, :-2] + values[:-2, 2:] + values[2:, :-2] + values[2:, 2:]
    noise_map = 4 * centre - 2 * cross + diagonal
    contrast = float(values.std())
    counts = np.bincount(grey.ravel() >> 2, minlength=64)
    shares = counts[counts > 0] / grey.size
    mean = float(values.mean())
    mirrored = float(((values - mean) * (values[:, ::-1] - mean)).mean())
    return Descriptors(
        brightness=mean,
        contrast=contrast,
        sharpness=float((cross - 4 * centre).std()),
        noise=float(np.sqrt(np.pi / 2) / 6 * np.abs(noise_map).mean()),
        dark_fraction=float((values < 0.1).mean()),
        bright_fraction=float((values > 0.9).mean()),
        symmetry=mirrored / contrast**2 if contrast > 1e-6 else 1.0,
        entropy=float(-(shares * np.log2(shares)).sum() + 0.0),
    )


def pixel_hash(grey: NDArray[np.uint8]) -> str:
    """Hash of size and pixels, 32 hex digits: equal for exact copies, whatever the file format."""
    digest = hashlib.blake2b(f"{grey.shape[0]}x{grey.shape[1]}:".encode(), digest_size=16)
    digest.update(grey.tobytes())
    return digest.hexdigest()


def perceptual_hash(grey: NDArray[np.uint8]) -> str:
    """64-bit DCT hash, 16 hex digits: near copies differ in few bits (Zauner 2010, "pHash").

    The image is averaged down to 32x32 cells (or taken as it is when smaller), and the signs of the
    8x8 lowest frequencies without the mean are kept, relative to their median.
    """
    rows, columns, area = _grid(*grey.shape)
    cells = np.add.reduceat(np.add.reduceat(grey.astype(np.float64), rows, 0), columns, 1)
    low = dctn(cells / area, norm="ortho")[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return f"{int.from_bytes(np.packbits(bits).tobytes(), 'big'):016x}"


@functools.lru_cache(maxsize=64)  # most datasets have one size, and this is a third of the work
def _grid(height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """First row and first column of each of 32x32 cells, and the cells' areas in pixels."""
    rows = np.linspace(0, height, 33).astype(np.intp)[:-1]
    columns = np.linspace(0, width, 33).astype(np.intp)[:-1]
    area = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    return rows, columns, np.maximum(area, 1)


def is_blank(grey: NDArray[np.uint8]) -> bool:
    """True when every pixel has one value: no face can be there."""
    return bool(grey.min() == grey.max())
