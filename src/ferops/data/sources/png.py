"""Pixels to PNG, for sources whose images have no file format of their own."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def png(grey: NDArray[np.uint8]) -> bytes:
    """Grey uint8 `[H, W]` as PNG, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
