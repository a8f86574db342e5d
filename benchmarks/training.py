"""The published recipe's training against ours: images a second, memory, waiting for data, time to accuracy.

    python benchmarks/training.py --quick                       # synthetic faces, under 2 minutes
    python benchmarks/training.py --dataset data/dataset --backbone mobilenet.weights.h5 --budget-minutes 60

Every measurement is a process of its own (training_sides.py), and rounds alternate between the sides, so that
noise hits both alike: trust the ratios of one run. Both sides are also measured at the other's image sizes.
Accuracy over time comes from training for real, each side until it reaches the last target or its budget is
over; what was not reached is reported as not reached. The test split (FER2013's PublicTest) only reports that
time here: nothing is chosen on it, and the clock stands still meanwhile. No GPU is used.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ferops import files
from ferops.data import images as pixels
from ferops.data.sources.synthetic import Synthetic
from ferops.data.store import SPLITS, Dataset
from ferops.emotions import EMOTIONS
from ferops.settings import SyntheticSettings, load_settings
from training_report import SIDES, Rows, plot, report, summarise_race, summarise_speed

ROOT = Path(__file__).parents[1]
ORIGINAL_SIZE = 224
#: Images of each split that are enough for a short look; an even selection of them.
QUICK_ROWS = {"train": 1050, "validation": 280, "test": 280}


def pack(dataset: Path | None, quick: bool, out: Path) -> tuple[str, Rows]:
    """Write the splits' pixels and labels as one `.npz`, decoded once for every process; if quick, few.

    Returns:
        What the dataset is, and its rows per split.
    """
    arrays: dict[str, np.ndarray] = {}
    if dataset is not None:
        opened = Dataset.open(dataset)
        name = "synthetic" if opened.summary.synthetic else opened.summary.source
        for split in SPLITS:
            arrays[f"{split}_grey"] = opened.images(split)[..., 0]
            arrays[f"{split}_labels"] = opened.labels(split)
    else:
        name = "synthetic"
        train = QUICK_ROWS["train"] if quick else 5600
        records = list(Synthetic(SyntheticSettings(train=train, validation=280, test=280, noise=0.3), 0))
        for split in SPLITS:
            chosen = [record for record in records if record.split == split]
            arrays[f"{split}_grey"] = pixels.faces([record.image for record in chosen])[..., 0]
            arrays[f"{split}_labels"] = np.array([EMOTIONS.index(record.emotion) for record in chosen])
    if quick:
        for key, array in arrays.items():
            count = QUICK_ROWS[key.split("_")[0]]
            arrays[key] = array[np.linspace(0, len(array) - 1, min(count, len(array))).astype(int)]
    np.savez(out, **arrays)
    return name, {split: len(arrays[f"{split}_labels"]) for split in SPLITS}


def run_side(
    job: Mapping[str, Any],
    folder: Path,
    loud: bool = False,
    script: str = "training_sides.py",
    backend: str = "tensorflow",
) -> dict[str, Any]:
    """Do a job in a process of its own, without a GPU.

    Args:
        job: what the script is asked; its `side` names it in messages.
        folder: for question and answer.
        loud: whether the script's own progress is shown.
        script: of this folder; it takes the files of question and answer.
        backend: Keras'.

    Raises:
        SystemExit: if it fails, with the end of what it said.
    """
    asked, answered = folder / "job.json", folder / "result.json"
    asked.write_text(json.dumps(job))
    answered.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, str(ROOT / "benchmarks" / script), str(asked), str(answered)]
    said: list[str] = []
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if loud and not line.startswith(("I0", "W0", "E0", "WARNING: All log")):  # TensorFlow's own
                print(line, end="", file=sys.stderr)
    if process.returncode:
        raise SystemExit(f"{job['side']} failed (exit code {process.returncode}):\n{''.join(said)[-3000:]}")
    result: dict[str, Any] = files.read_json(answered)
    return result


def measure_speed(
    job: Mapping[str, Any], sizes: Sequence[int], rounds: int, folder: Path
) -> list[dict[str, Any]]:
    """Every side at every size, as often as there are rounds, the order of the sides turned each time."""
    plan = [
        (turn, size, side)
        for turn in range(rounds)
        for place, size in enumerate(sizes)
        for side in (SIDES if (turn + place) % 2 == 0 else SIDES[::-1])
    ]
    records, start = [], time.monotonic()
    for done, (turn, size, side) in enumerate(plan, 1):
        result = run_side({**job, "side": side, "side_pixels": size}, folder)
        records.append({**result, "round": turn, "size": size, "side": side})
        left = (time.monotonic() - start) / done * (len(plan) - done)
        timed = result["stages"].items()
        speeds = ", ".join(f"{name} {stage['images_per_second']:.0f}" for name, stage in timed)
        print(
            f"[{done}/{len(plan)}] round {turn + 1}, {size} px, {side}: {speeds} images/s, "
            f"{result['peak_mib']:.0f} MiB; left {left / 60:.1f} min",
            file=sys.stderr,
        )
    return records


def main() -> None:
    """Measure, print, write JSON and a plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, help="Parquet dataset (default: fresh synthetic faces)")
    parser.add_argument("--backbone", help="weights file, `imagenet` or `none` (default: none for synthetic)")
    parser.add_argument("--recipe", default="fer2013_from_imagenet", help="ours, of params.yaml")
    parser.add_argument("--attention", choices=("feature", "batch"), default="feature",
                        help="the original's wiring; `batch` is the published one")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, help="of the speed measurement; 0 skips it")
    parser.add_argument("--seconds", type=float, default=15, help="that each stage is timed in each round")
    parser.add_argument("--sizes", type=int, nargs="+", help="image sides (default: both recipes' own)")
    parser.add_argument("--budget-minutes", type=float, default=60,
                        help="for each side to reach the targets; 0 skips it")  # fmt: skip
    parser.add_argument("--targets", type=float, nargs="+", default=[0.60, 0.65])
    parser.add_argument("--only-ours", action="store_true", help="leave the original's race out")
    parser.add_argument(
        "--quick", action="store_true", help="one short round at two sizes, seconds of training"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "reports/benchmarks/training")
    arguments = parser.parse_args()

    recipes = load_settings(ROOT / "params.yaml").recipes
    if arguments.recipe not in recipes:
        parser.error(f"no recipe {arguments.recipe!r}; there are {', '.join(recipes)}")
    recipe = recipes[arguments.recipe]
    first = recipe.start_image_size or recipe.image_size
    own_sizes = {
        "ours": [*range(first, recipe.image_size, 16), recipe.image_size],  # as they grow
        "original": [ORIGINAL_SIZE],
    }
    sizes = sorted({*own_sizes["ours"], ORIGINAL_SIZE})
    rounds, seconds, budget = arguments.rounds, arguments.seconds, arguments.budget_minutes
    if arguments.quick:
        rounds, seconds, budget, sizes = 1, 1.0, 0.1, [recipe.image_size, ORIGINAL_SIZE]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        name, rows = pack(arguments.dataset, arguments.quick, folder / "data.npz")
        job = {
            "data": str(folder / "data.npz"),
            "backbone": arguments.backbone or ("none" if name == "synthetic" else "imagenet"),
            "recipe": arguments.recipe,
            "attention": arguments.attention,
        }
        started = time.time()
        speed = measure_speed({**job, "seconds": seconds}, arguments.sizes or sizes, rounds, folder)
        races = {}
        if budget:
            for side in SIDES[:1] if arguments.only_ours else SIDES:
                print(f"training {side} for at most {budget:g} minutes", file=sys.stderr)
                race = {**job, "side": side, "budget_seconds": budget * 60, "targets": arguments.targets}
                races[side] = run_side(race, folder, loud=True)
    curves = {side: race["curve"] for side, race in races.items()}
    result = {
        "dataset": name,
        "recipe": arguments.recipe,
        "rows": rows,
        "machine": {"cores": os.cpu_count(), "processor": processor(), "python": platform.python_version()},
        "versions": [*speed, *races.values()][0]["versions"] if speed or races else {},
        "wiring_of_the_original": arguments.attention,
        "started_unix": started,
        "minutes": (time.time() - started) / 60,
        "own_sizes": own_sizes,
        "speed": summarise_speed(speed, rows) if speed else [],
        "input_images_per_second": [r["input_images_per_second"] for r in speed if r["side"] == "ours"],
        "accuracy": summarise_race(curves, arguments.targets) if races else {},
        "curves": curves,
        "records": speed,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    files.write_json(arguments.out / "training.json", result)
    plot(result, arguments.out / "training.png")
    print(report(result))
    print(f"written: {arguments.out}/training.json, training.png", file=sys.stderr)


def processor() -> str:
    """The processor's name where Linux tells it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
