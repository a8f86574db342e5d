"""Which device trains, and in which precision."""

from dataclasses import dataclass
from typing import Literal

import keras

from ferops.settings import Recipe


@dataclass(frozen=True)
class Device:
    """Where a run computed.

    Attributes:
        backend: Keras' backend: tensorflow, jax or torch.
        kind: `gpu` or `cpu`.
        count: how many of them.
        precision: Keras' dtype policy.
    """

    backend: str
    kind: str
    count: int
    precision: str


def prepare(recipe: Recipe) -> Device:
    """Choose device and precision, and set Keras' global dtype policy accordingly.

    A visible GPU is used without being asked: every backend does. `auto` precision is mixed_bfloat16 on a
    GPU, else float32: on CPUs TensorFlow runs bfloat16 slower than float32.
    """
    gpus = _gpus()
    kind = "gpu" if gpus else "cpu"
    precision = recipe.precision
    if precision == "auto":
        precision = "mixed_bfloat16" if gpus else "float32"
    keras.config.set_dtype_policy(precision)
    count = len(gpus) if gpus else 1
    return Device(keras.backend.backend(), kind, count, precision)


def compile_steps() -> bool | Literal["auto"]:
    """Whether XLA compiles the training step: Keras' choice, except on TensorFlow's CPU.

    There plain oneDNN kernels are faster: XLA's ran ten times slower in inference (docs/training.md).
    """
    on_cpu = not _gpus()
    return False if on_cpu and keras.backend.backend() == "tensorflow" else "auto"


def _gpus() -> list[str]:
    try:
        return keras.distribution.list_devices("gpu")
    except RuntimeError:  # JAX raises when its build knows no GPU at all
        return []
