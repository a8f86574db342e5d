"""How fast a training step is, beside what the device's arithmetic and memory would allow.

Both ceilings are measured first: a large bfloat16 matrix product and a large copy. The model's operations
and bytes are counted from its layers. Speeds are of Keras' own `fit`, without the epoch that compiles.
"""

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np

from ferops import files
from ferops.settings import Recipe
from ferops.training.batches import LabelledImages
from ferops.training.device import prepare
from ferops.training.fit import prepare_stage

#: Transfers of each layer's output: written and read in the forward pass, read again in the backward pass,
#: where its gradient is written and read. Weights are small beside them. Fewer bytes are hardly possible.
TRANSFERS = 5

#: The backward pass computes two products for every one of the forward pass.
PASSES = 3


class Setting(NamedTuple):
    """What is measured: side in pixels, images a batch, dtype policy, and where the images live."""

    side: int
    batch: int
    precision: str
    resident: bool = True


#: In order of interest: the time may not suffice for all.
SETTINGS = (
    Setting(112, 128, "mixed_bfloat16"),
    Setting(112, 64, "mixed_bfloat16"),
    Setting(112, 512, "mixed_bfloat16"),
    Setting(112, 128, "float32"),
    Setting(112, 128, "mixed_bfloat16", resident=False),
    Setting(96, 128, "mixed_bfloat16"),
    Setting(224, 128, "mixed_bfloat16"),
    Setting(160, 128, "mixed_bfloat16"),
    Setting(112, 2048, "mixed_bfloat16"),
    Setting(80, 128, "mixed_bfloat16"),
)
QUICK = (Setting(80, 32, "float32"), Setting(80, 32, "float32", resident=False))


class Times(keras.callbacks.Callback):
    """Seconds of every epoch; its results have arrived when it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._start)


class Repeated(keras.utils.PyDataset):
    """One batch again and again: what is left when nothing has to be prepared."""

    def __init__(self, batch: Any, count: int) -> None:
        super().__init__(workers=1)
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.batch


def cost(network: keras.Model) -> tuple[float, float]:
    """Forward operations (a multiply-add is two) and layer outputs, in numbers, of one image."""
    operations = outputs = 0.0
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.SeparableConv2D):
            height, width, filters = layer.output.shape[1:]
            channels = layer.input.shape[-1]
            operations += 2 * height * width * channels * (math.prod(layer.kernel_size) + filters)
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            operations += 2 * math.prod(layer.output.shape[1:]) * math.prod(layer.kernel_size)
        elif isinstance(layer, keras.layers.Conv2D):
            inside = math.prod(layer.kernel_size) * layer.input.shape[-1]
            operations += 2 * math.prod(layer.output.shape[1:]) * inside
        elif isinstance(layer, keras.layers.Dense):
            operations += 2 * math.prod(layer.kernel.shape)
        elif not isinstance(layer, keras.layers.BatchNormalization):
            continue
        outputs += math.prod(layer.output.shape[1:])
    return operations, outputs


def ceilings(quick: bool) -> dict[str, float]:
    """Measured: bfloat16 operations per second of a matrix product, and bytes per second of a copy."""
    side, size = (512, 1 << 20) if quick else (8192, 1 << 28)
    keys = jax.random.split(jax.random.key(0), 2)
    a, b = (jax.random.normal(key, (side, side), jnp.bfloat16) for key in keys)
    x = jax.random.normal(keys[0], (size,), jnp.float32)
    return {
        "bfloat16_flops": 2 * side**3 / median_seconds(jax.jit(jnp.matmul), a, b),
        "memory_bytes_per_second": 2 * x.nbytes / median_seconds(jax.jit(lambda values: values + 1), x),
    }


def median_seconds(function: Any, *arguments: Any) -> float:
    """Of ten calls after three."""
    seconds = []
    for _ in range(13):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[3:]))


def one(setting: Setting, recipe: Recipe, splits: dict[str, LabelledImages], quick: bool) -> dict[str, Any]:
    """Images per second of a setting, and what of the time goes into preparing batches."""
    changed = recipe.model_copy(
        update={
            "image_size": setting.side,
            "batch_size": setting.batch,
            "precision": setting.precision,
            "accumulation_steps": 1,
        }
    )
    prepare(changed)
    ready = prepare_stage(
        changed,
        "feature",
        changed.fine_tune,
        splits["train"],
        splits["validation"],
        weights=None,
        seed=0,
        resident=setting.resident,
    )
    operations, outputs = cost(ready.network)
    steps = 3 if quick else math.ceil(20_000 / setting.batch)
    seconds = {}
    first = 0.0
    for kind in ("real", "repeated"):
        times = Times()
        data = ready.batches if kind == "real" else Repeated(ready.batches[0], steps)
        count = min(steps, len(ready.batches))
        ready.model.fit(data, epochs=3, steps_per_epoch=count, callbacks=[times], shuffle=False, verbose=0)
        first = first or times.seconds[0]
        seconds[kind] = min(times.seconds[1:]) / count
    width = 2 if setting.precision == "mixed_bfloat16" else 4
    return {
        **setting._asdict(),
        "images_per_second": setting.batch / seconds["real"],
        "step_ms": seconds["real"] * 1e3,
        "share_preparing_data": max(0.0, 1 - seconds["repeated"] / seconds["real"]),
        "first_epoch_seconds": first,
        "training_flops_per_image": PASSES * operations,
        "training_bytes_per_image": TRANSFERS * outputs * width,
    }


def measure_speed(request: dict[str, Any], splits: dict[str, LabelledImages], folder: Path) -> dict[str, Any]:
    """Every setting that the time allows; print a table."""
    started = time.monotonic()
    recipe, quick = Recipe.model_validate(request["recipe"]), request["quick"]
    device = prepare(recipe)
    limits = ceilings(quick)
    found: dict[str, Any] = {"device": device.name, "ceilings": limits, "settings": []}
    print(
        f"| {device.name}: measured {limits['bfloat16_flops'] / 1e12:.1f} TFLOP/s bfloat16, "
        f"{limits['memory_bytes_per_second'] / 1e9:.0f} GB/s | images/s | of arithmetic | of memory "
        "| preparing data |"
    )
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    longest = 0.0
    for setting in QUICK if quick else SETTINGS:
        if time.monotonic() - started + longest > request["seconds"]:
            found["no_time_for"] = [*found.get("no_time_for", []), setting._asdict()]
            continue
        begun = time.monotonic()
        entry = one(setting, recipe, splits, quick)
        longest = max(longest, time.monotonic() - begun)
        speed = entry["images_per_second"]
        entry["share_of_arithmetic"] = speed * entry["training_flops_per_image"] / limits["bfloat16_flops"]
        moved = speed * entry["training_bytes_per_image"]
        entry["share_of_memory"] = moved / limits["memory_bytes_per_second"]
        found["settings"].append(entry)
        place = "on the device" if setting.resident else "from the host"
        print(
            f"| {setting.side} px, batch {setting.batch}, {setting.precision}, images {place} "
            f"| {speed:.0f} | {entry['share_of_arithmetic']:.1%} | {entry['share_of_memory']:.1%} | "
            f"{entry['share_preparing_data']:.1%} |",
            flush=True,
        )
        files.write_json(folder / "result.json", found)  # what is known, should the time end here
    return found
