"""What can go wrong with the images that a service is sent, at five severities each.

    >>> darker = corrupt("darker", 3, greys, np.random.default_rng(0))  # doctest: +SKIP

Most kinds are those of ImageNet-C (Hendrycks and Dietterich 2019, arXiv:1903.12261). Levels for faces of
48x48 pixels were set once, by eye, from just visible (1) to hardly a face (5), before any detector was run.
"""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ferops.simulation.drifts import DRIFTS

Grey = NDArray[np.uint8]
Change = Callable[[NDArray[np.float64], float, np.random.Generator], NDArray[np.floating]]


def _jpeg(face: NDArray[np.float64], quality: float, rng: np.random.Generator) -> NDArray[np.floating]:
    buffer = io.BytesIO()
    Image.fromarray(face.astype(np.uint8)).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer), np.float64)


def _rotated(face: NDArray[np.float64], degrees: float, rng: np.random.Generator) -> NDArray[np.floating]:
    return ndimage.rotate(face, degrees * rng.choice([-1, 1]), reshape=False, order=1, mode="nearest")


def _shifted(face: NDArray[np.float64], pixels: float, rng: np.random.Generator) -> NDArray[np.floating]:
    angle = rng.uniform(0, 2 * np.pi)
    return ndimage.shift(face, (pixels * np.sin(angle), pixels * np.cos(angle)), order=1, mode="nearest")


def _occluded(face: NDArray[np.float64], share: float, rng: np.random.Generator) -> NDArray[np.floating]:
    side = round(np.sqrt(share) * face.shape[0])
    top, left = rng.integers(0, face.shape[0] - side + 1, 2)
    out = face.copy()
    out[top : top + side, left : left + side] = rng.uniform(0, 255)
    return out


def _tiny(face: NDArray[np.float64], side: float, rng: np.random.Generator) -> NDArray[np.floating]:
    small = Image.fromarray(face.astype(np.uint8)).resize((int(side), int(side)), Image.Resampling.BOX)
    return np.asarray(small.resize(face.shape[::-1], Image.Resampling.BILINEAR), np.float64)


def _tone_curve(face: NDArray[np.float64], steep: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """An S-curve about the middle grey, as cameras' picture styles have it, with lifted shadows."""
    middle = np.tanh(steep * (face / 255 - 0.5)) / np.tanh(steep / 2) / 2 + 0.5
    return 255 * (0.02 * steep + (1 - 0.02 * steep) * middle)


def _uncropped(face: NDArray[np.float64], share: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """The face fills `share` of the picture's side; the rest is a background without structure."""
    side = round(face.shape[0] * share)
    out = _cloud(face.shape, rng)
    top, left = rng.integers(0, face.shape[0] - side + 1, 2)
    small = Image.fromarray(face.astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
    out[top : top + side, left : left + side] = small
    return out


def _cloud(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise with the 1/f spectrum of natural pictures, of random mean and contrast."""
    rows, columns = (np.fft.fftfreq(n)[:, None] if i == 0 else np.fft.fftfreq(n) for i, n in enumerate(shape))
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(shape))
    values = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) / frequency).real
    values = (values - values.mean()) / values.std()
    return np.clip(rng.uniform(70, 180) + rng.uniform(20, 60) * values, 0, 255)


def _no_face(face: NDArray[np.float64], share: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """With the probability `share`, a picture of no face: a cloud, or the face's own blocks shuffled."""
    if rng.random() >= share:
        return face
    if rng.random() < 0.5:
        return _cloud(face.shape, rng)
    side = face.shape[0] // 4
    blocks = face.reshape(4, side, 4, side).swapaxes(1, 2).reshape(16, side, side)
    return rng.permutation(blocks).reshape(4, 4, side, side).swapaxes(1, 2).reshape(face.shape)


#: Kind: what its five levels mean, the levels, and the change of one face float [48, 48], 0 to 255.
KINDS: dict[str, tuple[str, tuple[float, ...], Change]] = {
    **{name.replace("-", " "): (drift.unit, drift.levels, drift.apply) for name, drift in DRIFTS.items()},
    "JPEG": ("quality", (60, 40, 25, 15, 8), _jpeg),
    "rotation": ("degrees", (5, 10, 20, 30, 45), _rotated),
    "shift": ("pixels", (2, 4, 6, 9, 12), _shifted),
    "occlusion": ("share of the area", (0.04, 0.1, 0.2, 0.3, 0.45), _occluded),
    "tiny faces": ("side before enlarging", (32, 24, 18, 14, 10), _tiny),
    "tone curve": ("steepness", (1.5, 3, 4.5, 6, 9), _tone_curve),
    "not cropped": ("face's share of the side", (0.9, 0.8, 0.7, 0.55, 0.4), _uncropped),
    "no faces": ("share of the pictures", (0.05, 0.1, 0.2, 0.4, 0.8), _no_face),
}


def corrupt(kind: str, severity: int, faces: Grey, rng: np.random.Generator) -> Grey:
    """Change faces uint8 `[N, 48, 48]`; `severity` is 1 to 5."""
    _, levels, change = KINDS[kind]
    changed = [change(face.astype(np.float64), levels[severity - 1], rng) for face in faces]
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)
