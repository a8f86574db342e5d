"""Synthetic faces: the embedded default dataset, drawn so that the line runs anywhere.

They are cartoons, not people: a result on them says that the machinery works, nothing about real faces.
A face is a set of facial actions (brows, lids, nose, mouth; after Ekman & Friesen's Facial Action Coding
System, 1978) on a random head (shape, skin, hair, glasses) under random pose, light, blur and sensor noise.
Expressions come in all strengths, and the pairs people confuse (fear and surprise, angry and disgust,
sad and neutral) overlap when weak, so that no classifier can be right every time.

    >>> len(list(Synthetic(SyntheticSettings(train=70, validation=35, test=35), seed=0)))
    140
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ferops.data.images import FACE_SIDE
from ferops.data.sources.png import png
from ferops.data.sources.source import Record
from ferops.data.store import SPLITS, Split
from ferops.emotions import EMOTIONS
from ferops.settings import SyntheticSettings

#: Raise when the drawing changes: the dataset's digest must change with it.
GENERATOR_VERSION = 1

#: Share of each emotion; FER2013's order of sizes (happy most, disgust least), but milder.
SHARES = {
    "angry": 0.14,
    "disgust": 0.07,
    "fear": 0.13,
    "happy": 0.22,
    "sad": 0.16,
    "surprise": 0.12,
    "neutral": 0.16,
}

#: Facial actions, in the order of the columns of `PROTOTYPES`. Positive raises, opens or widens.
ACTIONS = (
    "brow_inner",
    "brow_outer",
    "furrow",
    "lid",
    "cheek",
    "nose",
    "lip_corner",
    "mouth_open",
    "mouth_width",
    "upper_lip",
    "lip_press",
)

#: Each emotion at full strength, one row an emotion in canonical order.
PROTOTYPES = np.array(
    [
        # inner outer furrow lid cheek nose corner open width upper press
        [-1.0, 0.3, 1.0, 0.1, 0.0, 0.3, -0.5, 0.0, -0.1, 0.0, 1.0],  # angry
        [-0.5, -0.2, 0.4, -0.5, 0.5, 1.0, -0.4, 0.2, 0.0, 1.0, 0.0],  # disgust
        [0.9, 0.2, 0.6, 0.7, 0.0, 0.0, -0.4, 0.4, 0.4, 0.1, 0.0],  # fear
        [0.1, 0.1, 0.0, -0.3, 1.0, 0.0, 1.0, 0.4, 0.6, 0.2, 0.0],  # happy
        [0.8, -0.4, 0.3, -0.4, 0.0, 0.0, -1.0, 0.0, -0.2, 0.0, 0.2],  # sad
        [0.9, 1.0, 0.0, 0.9, 0.0, 0.0, 0.0, 1.0, -0.5, 0.0, 0.0],  # surprise
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # neutral
    ]
)

#: The emotion that a face of each emotion may be mixed with.
CONFUSED_WITH = {
    "angry": "disgust",
    "disgust": "angry",
    "fear": "surprise",
    "surprise": "fear",
    "sad": "neutral",
    "neutral": "sad",
    "happy": "neutral",
}

#: Drawn at this multiple of the final side, then averaged down.
SUPERSAMPLING = 3

Grey = NDArray[np.uint8]


class Synthetic:
    """The generator as a source; record names are `train/00001` and so on."""

    synthetic = True
    notes: Sequence[str] = ("Synthetic faces drawn by ferops: results say nothing about photographs.",)

    def __init__(self, settings: SyntheticSettings, seed: int) -> None:
        self._settings = settings
        self._seed = seed

    def sha256(self) -> str:
        """Digest of settings, seed and generator version."""
        text = f"{GENERATOR_VERSION}:{self._seed}:{self._settings.model_dump_json()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        """Images in all splits."""
        return self._settings.train + self._settings.validation + self._settings.test

    def __iter__(self) -> Iterator[Record]:
        """Draw the faces, split by split."""
        counts = {"train": self._settings.train, "validation": self._settings.validation}
        counts["test"] = self._settings.test
        for split in SPLITS:
            for index, emotion in enumerate(self._emotions(split, counts[split]), start=1):
                face = draw(emotion, self._settings.noise, self._rng(split, index))
                yield Record(f"{split}/{index:05d}", split, split, emotion, png(face))

    def _rng(self, split: Split, index: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, SPLITS.index(split), index])

    def _emotions(self, split: Split, count: int) -> list[str]:
        """Exactly the shares of `SHARES` (rounded, at least one each), shuffled."""
        counts = {emotion: max(1, int(share * count)) for emotion, share in SHARES.items()}
        counts["happy"] += count - sum(counts.values())
        emotions = [emotion for emotion in EMOTIONS for _ in range(counts[emotion])]
        order = self._rng(split, 0).permutation(count)
        return [emotions[i] for i in order]


def actions(emotion: str, noise: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Facial actions float64 `[11]` of one face, in the order of `ACTIONS`.

    The strength of the expression, the share of a second emotion, the person's resting face and the
    uncontrolled rest all vary more with `noise`.
    """
    own = PROTOTYPES[EMOTIONS.index(emotion)]
    other = PROTOTYPES[EMOTIONS.index(CONFUSED_WITH[emotion])]
    strength = 1.1 - (0.2 + 1.2 * noise) * rng.beta(1.3, 1.3)
    mixed = 0.95 * noise * rng.beta(1.2, 1.6)
    person = rng.normal(0, 0.03 + 0.28 * noise, len(ACTIONS))
    return strength * ((1 - mixed) * own + mixed * other) + person


def draw(emotion: str, noise: float, rng: np.random.Generator) -> Grey:
    """One face, uint8 `[48, 48]`: drawn large, averaged down, lit, blurred and made noisy."""
    side = FACE_SIDE * SUPERSAMPLING
    canvas = _Head(rng, noise, side).draw(actions(emotion, noise, rng))
    small = canvas.resize((FACE_SIDE, FACE_SIDE), Image.Resampling.BOX)
    blur = rng.uniform(0, 0.3 + 0.9 * noise)
    if blur > 0.25:
        small = small.filter(ImageFilter.GaussianBlur(blur))
    return _photograph(np.asarray(small, np.float32), noise, rng)


def _photograph(values: NDArray[np.float32], noise: float, rng: np.random.Generator) -> Grey:
    """Light from one side, exposure, an occluding bar now and then, sensor noise."""
    across = np.linspace(-1, 1, FACE_SIDE, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (0.1 + 0.5 * noise) * rng.uniform()
    light = 1 + slope * (np.cos(angle) * across[None, :] + np.sin(angle) * across[:, None])
    lit = (values - 128) * rng.uniform(1 - 0.5 * noise, 1.1) + 128 + 30 * noise * rng.normal()
    lit = lit * light
    if rng.uniform() < 0.2 * noise:  # a hand, a scarf, a microphone
        x, y = rng.integers(0, FACE_SIDE - 12, 2)
        width, height = rng.integers(6, 18, 2)
        lit[y : y + height, x : x + width] = rng.uniform(20, 220)
    lit = lit + rng.normal(0, 1 + 14 * noise * rng.uniform(), lit.shape)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


class _Head:
    """One person in one pose; `draw` gives the picture for a set of facial actions.

    Positions are in units of half the face's width, centred between the eyes, y downwards.
    """

    def __init__(self, rng: np.random.Generator, noise: float, side: int) -> None:
        self.unit = side * rng.uniform(0.33, 0.40)
        self.centre = side * (0.5 + rng.normal(0, 0.012 + 0.02 * noise, 2) + [0, -0.08])
        roll = rng.normal(0, 0.02 + 0.14 * noise)
        self.cosine, self.sine = float(np.cos(roll)), float(np.sin(roll))
        self.yaw = float(np.clip(rng.normal(0, 0.04 + 0.18 * noise), -0.35, 0.35))
        self.length = rng.uniform(1.15, 1.4)
        self.skin = rng.uniform(95, 215)
        self.dark = self.skin * rng.uniform(0.25, 0.45)
        self.hair = float(np.clip(rng.normal(55, 45), 8, 200))
        self.background = rng.uniform(10, 245)
        self.eye_distance = rng.uniform(0.40, 0.47)
        self.eye_size = rng.uniform(0.16, 0.20)
        self.brow_weight = rng.uniform(0.06, 0.12)
        self.mouth_size = rng.uniform(0.34, 0.42)
        self.lip = self.skin * rng.uniform(0.55, 0.8)
        self.fringe = rng.uniform(-0.95, -0.6)
        self.long_hair = rng.uniform() < 0.4
        self.glasses = rng.uniform() < 0.12
        self.beard = rng.uniform() < 0.12
        self.side = side

    def draw(self, act: NDArray[np.float64]) -> Image.Image:
        """The head with these facial actions, mode L, `side` x `side`."""
        self.act = dict(zip(ACTIONS, act.tolist(), strict=True))
        image = Image.new("L", (self.side, self.side), int(self.background))
        self.pen = ImageDraw.Draw(image)
        self._skull()
        for eye in (-1, 1):
            self._eye(eye)
            self._brow(eye)
        self._nose()
        self._mouth()
        return image

    # Geometry

    def _at(self, points: NDArray[np.float64], depth: float = 1.0) -> list[tuple[float, float]]:
        """Face units to pixels; `depth` is how far the feature stands out, and so moves in a turn."""
        x, y = points[:, 0] * (1 - 0.25 * abs(self.yaw)) + depth * self.yaw, points[:, 1]
        turned_x, turned_y = x * self.cosine - y * self.sine, x * self.sine + y * self.cosine
        return list(
            zip(
                (self.centre[0] + turned_x * self.unit).tolist(),
                (self.centre[1] + turned_y * self.unit).tolist(),
                strict=True,
            )
        )

    def _fill(self, points: NDArray[np.float64], tone: float, depth: float = 1.0) -> None:
        self.pen.polygon(self._at(points, depth), fill=int(np.clip(tone, 0, 255)))

    def _stroke(self, points: NDArray[np.float64], tone: float, weight: float, depth: float = 1.0) -> None:
        width = max(1, round(weight * self.unit))
        self.pen.line(self._at(points, depth), fill=int(np.clip(tone, 0, 255)), width=width, joint="curve")

    # Features

    def _skull(self) -> None:
        self._fill(_oval(0, 0.15, 1.12, self.length + 0.12), self.hair, 0.0)
        if self.long_hair:
            self._fill(np.array([[-1.12, 0], [1.12, 0], [1.05, 2.2], [-1.05, 2.2]]), self.hair, 0.0)
        neck = np.array([[-0.45, 1.0], [0.45, 1.0], [0.5, 2.4], [-0.5, 2.4]])
        self._fill(neck, self.skin * 0.82, 0.0)
        self._fill(_oval(0, 0.35, 0.95, self.length, jaw=0.12), self.skin, 0.2)
        brow_line = np.array([[-1.0, self.fringe], [0, self.fringe - 0.12], [1.0, self.fringe]])
        top = np.array([[0.62, 0.1 - self.length], [0.0, 0.03 - self.length], [-0.62, 0.1 - self.length]])
        self._fill(np.concatenate([brow_line, top]), self.hair, 0.2)
        if self.beard:
            self._fill(_oval(0, 1.12, 0.66, 0.5, jaw=0.1), 0.4 * self.hair + 0.45 * self.skin, 0.6)

    def _eye(self, eye: int) -> None:
        act, x = self.act, eye * self.eye_distance
        opening = self.eye_size * float(np.clip(0.55 + 0.5 * act["lid"], 0.08, 1.15))
        lower = self.eye_size * float(np.clip(0.45 + 0.15 * act["lid"] - 0.3 * act["cheek"], 0.05, 0.7))
        shape = _lens(x, 0.0, self.eye_size * 1.2, opening, lower)
        self._fill(shape, min(255, self.skin + 70))
        iris = min(self.eye_size * 0.62, 0.9 * (opening + lower))
        self._fill(
            _oval(x, 0.5 * (lower - opening), iris, min(iris, 0.5 * (opening + lower))), self.dark * 0.5
        )
        upper_lid = shape[: len(shape) // 2]
        self._stroke(upper_lid, self.dark, 0.05)
        if act["cheek"] > 0.3:  # the cheek pushes a fold up under the eye
            fold = _arc(x, 0.2, self.eye_size * 1.3, -0.08)
            self._stroke(fold, self.skin * 0.75, 0.03)
        if self.glasses:
            ring = _oval(x, 0.02, 0.36, 0.3)
            self._stroke(np.concatenate([ring, ring[:1]]), 40, 0.04)

    def _brow(self, eye: int) -> None:
        act = self.act
        pinch = 0.08 * act["furrow"]
        inner = [eye * (0.17 - pinch), -0.33 - 0.17 * act["brow_inner"]]
        outer = [eye * 0.75, -0.33 - 0.15 * act["brow_outer"]]
        middle = [eye * 0.48, 0.5 * (inner[1] + outer[1]) - 0.09]
        self._stroke(np.array([inner, middle, outer]), min(self.hair, self.dark), self.brow_weight)
        if act["furrow"] > 0.35:
            crease = np.array([[eye * 0.07, -0.42], [eye * 0.06, -0.16]])
            self._stroke(crease, self.skin * (0.85 - 0.2 * act["furrow"]), 0.035)

    def _nose(self) -> None:
        wrinkle = max(self.act["nose"], 0.0)
        tip = 0.62 - 0.08 * wrinkle
        wing = 0.16 + 0.06 * wrinkle
        shade = self.skin * 0.7
        self._stroke(
            np.array([[-wing, tip], [-0.05, tip + 0.06], [0.05, tip + 0.06], [wing, tip]]), shade, 0.05, 1.2
        )
        self._stroke(np.array([[0.07, 0.05], [0.1, tip - 0.1]]), self.skin * 0.85, 0.04, 1.15)
        if wrinkle > 0.3:
            for y in (0.1, 0.22):
                self._stroke(_arc(0, y, 0.14, -0.05), self.skin * (0.9 - 0.3 * min(wrinkle, 1)), 0.03, 1.1)
            for s in (-1, 1):
                fold = np.array([[s * (wing + 0.04), tip - 0.12], [s * 0.45, tip + 0.35]])
                self._stroke(fold, self.skin * (0.92 - 0.25 * min(wrinkle, 1)), 0.035)

    def _mouth(self) -> None:
        act = self.act
        half = self.mouth_size * (1 + 0.35 * act["mouth_width"])
        corner = -0.17 * act["lip_corner"]
        gap = 0.30 * max(act["mouth_open"], 0.0)
        raise_ = 0.13 * max(act["upper_lip"], 0.0)
        press = float(np.clip(act["lip_press"], 0, 1))
        y = 1.0
        x = np.linspace(-1, 1, 13)
        bend = x**2
        top = np.stack([half * x, y + corner * bend - (gap * 0.35 + raise_) * (1 - bend)], 1)
        bottom = np.stack([half * x, y + corner * bend + gap * (1 - bend)], 1)[::-1]
        thick = 0.09 * (1 - 0.6 * press)
        if gap + raise_ > 0.04:
            self._fill(np.concatenate([top, bottom]), self.dark * 0.45)
            if act["lip_corner"] > 0.2 or raise_ > 0.03 or act["mouth_width"] > 0.25:
                teeth = top.copy()
                teeth[:, 1] += 0.4 * (gap + raise_) * (1 - bend)
                self._fill(np.concatenate([top, teeth[::-1]]), min(255, self.skin + 90))
            self._stroke(np.concatenate([top, bottom, top[:1]]), self.lip, thick * 0.7)
        else:
            self._stroke(top, self.lip, thick)
            self._stroke(top, self.dark, 0.035)
        if act["lip_corner"] > 0.4:  # folds from nose to mouth
            for s in (-1, 1):
                fold = np.array([[s * 0.26, 0.62], [s * (half + 0.08), y + corner]])
                self._stroke(fold, self.skin * 0.78, 0.035)


def _oval(x: float, y: float, width: float, height: float, jaw: float = 0.0) -> NDArray[np.float64]:
    """Closed curve `[24, 2]`; `jaw` narrows the lower half."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    narrowed = 1 - jaw * np.clip(np.sin(angle), 0, 1)
    return np.stack([x + width * narrowed * np.cos(angle), y + height * np.sin(angle)], 1)


def _lens(x: float, y: float, width: float, up: float, down: float) -> NDArray[np.float64]:
    """Eye shape `[18, 2]`: the upper lid first, left to right, then the lower one back."""
    t = np.linspace(-1, 1, 9)
    arch = 1 - t**2
    upper = np.stack([x + width * t, y - up * arch], 1)
    lower = np.stack([x + width * t, y + down * arch], 1)[::-1]
    return np.concatenate([upper, lower])


def _arc(x: float, y: float, width: float, sag: float) -> NDArray[np.float64]:
    """Open curve `[7, 2]` that sags by `sag` in the middle."""
    t = np.linspace(-1, 1, 7)
    return np.stack([x + width * t, y + sag * (1 - t**2)], 1)
