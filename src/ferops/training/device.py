"""Which devices train, in which precision, and whether the images live on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import keras

from ferops.settings import Recipe

#: Decoded grey images above this many bytes go to a memory-mapped scratch file, and are not put on a device:
#: 870,000 faces, which every card that trains at all can hold beside the model.
IN_MEMORY_BYTES = 2_000_000_000


class DeviceError(ValueError):
    """The recipe does not fit the devices; the message says what to change."""


@dataclass(frozen=True)
class Device:
    """Where a run computed.

    Attributes:
        backend: Keras' backend: tensorflow, jax or torch.
        kind: `gpu` or `cpu`.
        count: how many of them.
        precision: Keras' dtype policy.
        name: the card's own, such as `NVIDIA H200`; `cpu` where there is none.
    """

    backend: str
    kind: str
    count: int
    precision: str
    name: str


def prepare(recipe: Recipe) -> Device:
    """Choose devices and precision, and set Keras' global dtype policy and distribution accordingly.

    A visible GPU is used without being asked: every backend does. Several share each batch under JAX; Keras
    has no such distribution for TensorFlow and PyTorch, which use the first one. `auto` precision is
    mixed_bfloat16 on a GPU, else float32: on CPUs TensorFlow runs bfloat16 slower than float32.

    Raises:
        DeviceError: if the batch cannot be shared evenly.
    """
    gpus = _gpus()
    precision = recipe.precision
    if precision == "auto":
        precision = "mixed_bfloat16" if gpus else "float32"
    keras.config.set_dtype_policy(precision)
    backend = keras.backend.backend()
    if not gpus:
        return Device(backend, "cpu", 1, precision, "cpu")
    used = gpus if backend == "jax" else gpus[:1]
    share_batches(used, recipe)
    return Device(backend, "gpu", len(used), precision, _name())


def share_batches(devices: Sequence[str], recipe: Recipe) -> None:
    """Let several devices compute each batch together (`keras.distribution.DataParallel`); one needs nothing.

    To be called before the model is built: its variables are then copied to every device.

    Args:
        devices: as `keras.distribution.list_devices` names them.
        recipe: its batches must divide evenly.

    Raises:
        DeviceError: if they do not.
    """
    if len(devices) == 1:
        return
    part = recipe.batch_size // recipe.accumulation_steps
    if part % len(devices):
        step = len(devices) * recipe.accumulation_steps
        raise DeviceError(
            f"{part} images (batch_size {recipe.batch_size} in {recipe.accumulation_steps} parts) cannot be "
            f"shared evenly by {len(devices)} devices: let batch_size be a multiple of {step}, "
            f"such as {math.ceil(recipe.batch_size / step) * step}"
        )
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=list(devices), auto_shard_dataset=False)
    )


def keeps_images(pixels: int) -> bool:
    """Whether this many bytes of grey images should live where the model trains: on a GPU, where they fit."""
    return bool(_gpus()) and pixels <= IN_MEMORY_BYTES


def sharers() -> int:
    """How many devices share a batch."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.num_model_replicas)


def compile_steps() -> bool | Literal["auto"]:
    """Whether XLA compiles the training step: Keras' choice, except on TensorFlow's CPU.

    There plain oneDNN kernels are faster: XLA's ran ten times slower in inference (docs/training.md).
    """
    on_cpu = not _gpus()
    return False if on_cpu and keras.backend.backend() == "tensorflow" else "auto"


def _gpus() -> list[str]:
    if keras.backend.backend() == "torch":  # for which Keras has no distribution, and lists no devices
        import torch

        return [f"gpu:{index}" for index in range(torch.cuda.device_count())]
    try:
        return keras.distribution.list_devices("gpu")
    except RuntimeError:  # JAX raises when its build knows no GPU at all
        return []


def _name() -> str:
    """The first GPU's name, as its driver tells it."""
    if keras.backend.backend() == "jax":
        import jax

        return str(jax.devices("gpu")[0].device_kind)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpu = tf.config.list_physical_devices("GPU")[0]
        return str(tf.config.experimental.get_device_details(gpu).get("device_name", "gpu"))
    import torch

    return str(torch.cuda.get_device_name(0))
