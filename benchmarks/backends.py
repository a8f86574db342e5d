"""What a training step costs on each of Keras' backends: images/s by image size, batch norms and precision.

    python benchmarks/backends.py                    # some 10 minutes on two cores that do nothing else
    python benchmarks/backends.py --quick            # that it works; measures nothing

Every measurement is a process of its own and times the steps of the project's own fine-tuning stage, all
layers trained, by the recipe `fer2013_from_imagenet`. The images are noise: no step takes longer for what it
is shown. A backend that is not installed is left out, and said so. No GPU is used.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import numpy as np

from ferops import files
from ferops.settings import load_settings

ROOT = Path(__file__).parents[1]
SIZES = (80, 96, 112)

#: The modules that a backend needs.
MODULES = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}
NAMES = {"tensorflow": "TensorFlow", "torch": "PyTorch", "jax": "JAX"}


class Setting(NamedTuple):
    """What is measured: `plain` are Keras' own layers, the others the blocks that `ferops train` has."""

    backend: str
    batch_norms: Literal["frozen", "plain", "trained"]
    precision: Literal["float32", "mixed_bfloat16"] = "float32"

    def __str__(self) -> str:
        norms = {
            "frozen": "batch norms frozen",
            "plain": "Keras' own batch norms trained",
            "trained": "batch norms trained",
        }
        precision = "" if self.precision == "float32" else f", {self.precision}"
        return f"{NAMES[self.backend]}, {norms[self.batch_norms]}{precision}"


SETTINGS = (
    Setting("tensorflow", "plain"),
    Setting("tensorflow", "trained"),
    Setting("tensorflow", "frozen"),
    Setting("tensorflow", "trained", "mixed_bfloat16"),
    Setting("torch", "trained"),
    Setting("jax", "trained"),
)


def measure(setting: Setting, size: int, batch: int, warm_up: int, steps: int) -> dict[str, Any]:
    """Time the steps of a stage on the backend of this process.

    Args:
        setting: what to measure.
        size: side of the images inside the model, pixels.
        batch: images of a step.
        warm_up: first steps, which are compiled and not timed.
        steps: that are timed.
    """
    import keras

    from ferops.training import fit
    from ferops.training.batches import LabelledImages
    from ferops.training.device import prepare

    class Steps(keras.callbacks.Callback):
        """When each step's result had arrived: as a callback that is not async-safe, it is waited for."""

        def __init__(self) -> None:
            super().__init__()
            self.ends: list[float] = []

        def on_train_batch_end(self, step: int, logs: dict[str, float] | None = None) -> None:
            self.ends.append(time.perf_counter())

    recipe = load_settings(ROOT / "params.yaml").recipes["fer2013_from_imagenet"]
    stage = recipe.fine_tune.model_copy(update={"train_batch_norm": setting.batch_norms != "frozen"})
    recipe = recipe.model_copy(
        update={
            "image_size": size,
            "start_image_size": None,
            "batch_size": batch,
            "precision": setting.precision,
        }
    )
    prepare(recipe)
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    count = (warm_up + steps) * batch
    noise = generator.integers(0, 256, (count, 48, 48)).astype(np.uint8)
    data = LabelledImages(noise, np.arange(count) % 7)
    with ExitStack() as stack:
        if setting.batch_norms == "plain":
            stack.enter_context(mock.patch.object(fit, "with_fused_backbone", lambda model: model))
        ready = fit.prepare_stage(recipe, "feature", stage, data, data, weights=None, seed=0, resident=False)
    timed = Steps()
    ready.model.fit(ready.batches, epochs=1, shuffle=False, verbose=0, callbacks=[timed])
    seconds = timed.ends[-1] - timed.ends[warm_up - 1]
    version = importlib.import_module(MODULES[setting.backend]).__version__
    return {
        "images_per_second": steps * batch / seconds,
        "versions": {"keras": keras.__version__, setting.backend: version},
    }


def table(records: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> str:
    """The medians as Markdown: a line for each setting, a column for each size."""
    lines = [
        f"| images/s | {' | '.join(f'{size} px' for size in sizes)} |",
        f"|---|{'---:|' * len(sizes)}",
    ]
    for name in dict.fromkeys(record["side"] for record in records):
        cells = []
        for size in sizes:
            found = [r["images_per_second"] for r in records if (r["side"], r["size"]) == (name, size)]
            cells.append(f"{np.median(found):.0f}" if found else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure each setting at each size, print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12, help="timed in each process, after 4 to warm up")
    parser.add_argument("--rounds", type=int, default=1, help="more: medians, the order turned each time")
    parser.add_argument("--quick", action="store_true", help="two steps of 7 images at the smallest size")
    parser.add_argument("--out", type=Path, default=ROOT / "reports/benchmarks/backends")
    arguments = parser.parse_args()
    sizes, batch, steps, warm_up = arguments.sizes, arguments.batch, arguments.steps, 4
    if arguments.quick:
        sizes, batch, steps, warm_up = [min(sizes)], 7, 2, 1

    from training import processor, run_side

    absent = [name for name in arguments.backends if importlib.util.find_spec(MODULES[name]) is None]
    for name in absent:
        print(f"{NAMES[name]} is not installed: left out", file=sys.stderr)
    settings = [s for s in SETTINGS if s.backend in arguments.backends and s.backend not in absent]
    plan = [
        (turn, setting, size)
        for turn in range(arguments.rounds)
        for setting in (settings if turn % 2 == 0 else settings[::-1])
        for size in sizes
    ]
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for done, (turn, setting, size) in enumerate(plan, 1):
            asked = {
                "side": str(setting),
                "setting": setting,
                "size": size,
                "batch": batch,
                "warm_up": warm_up,
                "steps": steps,
            }
            found = run_side(asked, Path(scratch), script="backends.py", backend=setting.backend)
            records.append({**asked, **found, "round": turn})
            print(
                f"[{done}/{len(plan)}] {setting}, {size} px: {found['images_per_second']:.0f} images/s",
                file=sys.stderr,
            )
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "processor": processor(), "python": platform.python_version()}
    result = {"machine": machine, "quick": arguments.quick, "left_out": absent, "records": records}
    files.write_json(arguments.out / "backends.json", result)
    print(table(records, sizes))
    print(f"written: {arguments.out}/backends.json", file=sys.stderr)


def answer(asked_path: Path, answer_path: Path) -> None:
    """One measurement, in the process that `main` starts for it."""
    asked = json.loads(asked_path.read_text())
    sizes = {name: asked[name] for name in ("size", "batch", "warm_up", "steps")}
    files.write_json(answer_path, measure(Setting(*asked["setting"]), **sizes))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith("job.json"):
        answer(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
