"""What can happen to the faces that a service is sent, at five severities each.

>>> darker = DRIFTS["darker"]  # factors of 0.9 to 0.3
>>> int(darker.change(np.full((48, 48), 200, np.uint8), 3, np.random.default_rng(0))[0, 0])
120
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Grey = NDArray[np.uint8]
Values = NDArray[np.floating]

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Drift:
    """One kind of change.

    Attributes:
        unit: what the levels are.
        levels: of the five severities, from just visible to hardly a face.
        apply: changes a face of grey values 0 to 255 by a level.
    """

    unit: str
    levels: tuple[float, ...]
    apply: Callable[[Values, float, np.random.Generator], Values]

    def change(self, face: Grey, severity: int, rng: np.random.Generator) -> Grey:
        """A face uint8 `[48, 48]`, changed; `severity` is 1 to 5."""
        values = self.apply(face.astype(np.float64), self.levels[severity - 1], rng)
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)

    def sentence(self, severity: int) -> str:
        """The level in words."""
        return f"{self.unit} {self.levels[severity - 1]:g}"


#: A drift is another camera, another light, other people: changes that a service meets.
#: benchmarks/corruptions.py adds more kinds, and benchmarks/drift.py measures how the monitor sees each.
DRIFTS: Mapping[str, Drift] = {
    "darker": Drift("factor", (0.9, 0.75, 0.6, 0.45, 0.3), lambda face, level, _: face * level),
    "brighter": Drift("grey values added", (15, 35, 55, 80, 110), lambda face, level, _: face + level),
    "low-contrast": Drift(
        "contrast kept",
        (0.75, 0.5, 0.4, 0.3, 0.15),
        lambda face, level, _: (face - face.mean()) * level + face.mean(),
    ),
    "blur": Drift(
        "sigma in pixels",
        (0.4, 0.7, 1.0, 1.5, 2.0),
        lambda face, level, _: ndimage.gaussian_filter(face, level),
    ),
    "noise": Drift(
        "sigma in grey values",
        (5, 10, 15, 20, 25),
        lambda face, level, rng: face + rng.normal(0, level, face.shape),
    ),
}
