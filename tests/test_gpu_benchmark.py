"""The accelerator's benchmark: its sweep is sound, its counts are right, and its models can be taken over."""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml

from ferops import files, tracking
from ferops.data.packed import Packed, pack
from ferops.data.store import Dataset
from ferops.models import patt_lite
from ferops.settings import load_settings

ROOT = Path(__file__).parents[1]
pytest.importorskip("jax")
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu  # noqa: E402
import gpu_jobs  # noqa: E402
import gpu_speed  # noqa: E402
from ferops.training.adopt import AdoptError, adopt  # noqa: E402
from ferops.training.callbacks import Best, DivergedError  # noqa: E402
from ferops.training.checkpoint import State  # noqa: E402
from ferops.training.sweep import read_sweep  # noqa: E402

PARAMS = ROOT / "params.yaml"
SWEEP = ROOT / "sweeps" / "fer2013.yaml"


def test_operations_are_counted_layer_by_layer() -> None:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, strides=2, padding="same"),
            layers.SeparableConv2D(6, 2, padding="same"),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )
    conv, depthwise = 2 * 8 * 8 * 4 * 9 * 3, 2 * 4 * 4 * 4 * 9
    separable, dense = 2 * 4 * 4 * 4 * (4 + 6), 2 * 96 * 5
    outputs = 2 * 8 * 8 * 4 + 4 * 4 * 4 + 4 * 4 * 6 + 5
    assert gpu_speed.cost(model) == (conv + depthwise + separable + dense, outputs)


def test_the_whole_networks_operations_are_those_of_its_paper() -> None:
    """569 million multiply-adds, 1 million of them in the classifier (Howard et al. 2017, table 4)."""
    model = keras.applications.MobileNet((224, 224, 3), weights=None, include_top=False)
    operations, _ = gpu_speed.cost(model)
    assert operations / 2 == pytest.approx(569e6 - 1.02e6, rel=0.01)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Callable[[Path], str]) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_mlflow(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def miniature(dataset: Dataset, folder: Path, **changes: Any) -> dict[str, Any]:
    """What a job of the miniature's first training is asked, in a folder that gets its data."""
    pack(dataset, folder / "tiny.npz")
    gpu.unpack(Packed.load(folder / "tiny.npz"), folder / "data.npz", quick=True)
    run = read_sweep(SWEEP, ["quick"], load_settings(PARAMS).recipes)[0]
    return {
        "data": str(folder / "data.npz"),
        "quick": True,
        "attention": run.attention,
        "seed": run.seed,
        "final": run.final,
        "recipe": run.recipe.model_dump(mode="json"),
        "until": math.inf,
        **changes,
    }


@pytest.fixture(scope="module")
def results(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of one short training leaves, made in this process."""
    folder = tmp_path_factory.mktemp("gpu")
    request = miniature(tiny_dataset, folder)
    run, killed = read_sweep(SWEEP, ["quick"], load_settings(PARAMS).recipes)
    arguments = argparse.Namespace(seconds=100.0, out=folder / "results", keep=1, workers=1)
    arguments.out.mkdir()
    about = {
        "dataset_sha256": tiny_dataset.summary.sha256,
        "git_commit": "c0ffee",
        "source_sha256": "5eed",
        "backbone_sha256": None,
        "quick": False,
    }
    bench = gpu.Bench(arguments, folder, about)
    job = gpu.Job(run.key, folder / run.key, {}, started=time.monotonic())
    job.folder.mkdir()
    outcome = gpu_jobs.train(request, job.folder)
    # The miniature validates on a part; the whole is what a real run measures.
    weights = [value.astype(np.float32) for value in np.load(job.folder / "weights.npz").values()]
    model = patt_lite.build_patt_lite(image_size=80)
    model.set_weights(weights)
    answers = model.predict_on_batch(tiny_dataset.images("validation"))
    right = np.asarray(answers).argmax(1) == tiny_dataset.labels("validation")
    outcome["validation_float32"]["accuracy"] = float(right.mean())
    files.write_json(job.folder / "result.json", outcome)
    bench.keep(run, job)
    stopped = gpu.Job(killed.key, folder / killed.key, {}, started=time.monotonic())
    stopped.folder.mkdir()
    (stopped.folder / "log.txt").write_text("stopped")
    (stopped.folder / "rows.jsonl").write_text(json.dumps(outcome["rows"][0]) + "\n")
    bench.keep(killed, stopped)
    return arguments.out


NOT_INSTALLED = """
import runpy, sys
from pathlib import Path
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path[:] = [path for path in sys.path if not (Path(path) / "ferops").is_dir()]
runpy.run_path(sys.argv[1])
print(sys.modules["ferops"].__file__, *sorted(sys.modules))
"""


def test_it_starts_where_the_project_is_not_installed_and_loads_no_more_than_it_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", NOT_INSTALLED, str(ROOT / "benchmarks" / "gpu.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    place, *loaded = done.stdout.split()
    assert Path(place) == ROOT / "src" / "ferops" / "__init__.py"
    assert not {"pandas", "pyarrow", "mlflow", "tensorflow", "matplotlib", "scipy"} & {*loaded}


def test_what_cannot_come_to_an_end_is_refused_before_the_clock_runs(tmp_path: Path) -> None:
    """No commit, no weights file, and results that would be written over."""

    def refused(*more: str) -> str:
        command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "faces.npz", *more]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        return done.stderr

    assert "give --commit" in refused()
    assert "no weights file gone.h5" in refused("--commit", "c0ffee", "--backbone", "gone.h5")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "gpu.json").write_text("{}")
    assert "results of an earlier run" in refused("--commit", "c0ffee")


def test_weights_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    assert gpu_jobs.missing_weights([["none", ""]]) == ""
    assert "gone.keras not found" in gpu_jobs.missing_weights(
        [["none", ""], [str(tmp_path / "gone.keras"), ""]]
    )
    assert "gone.keras not found" in gpu_jobs.missing_weights([["none", str(tmp_path / "gone.keras")]])


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"checks": {"passed": True}, "speed": {}, "runs": [{"finished": True}]}, []),
        ({"checks": {"passed": False}, "speed": {"log_end": "killed"}, "runs": [{"finished": False}]},
         ["SPEED DID NOT END", "THE CHECKS DID NOT PASS", "NO TRAINING ENDED"]),
        ({"checks": None, "speed": None, "runs": []},
         ["CHECKS DID NOT END", "SPEED DID NOT END", "NO TRAINING ENDED"]),
    ],
)  # fmt: skip
def test_what_failed_is_said_at_the_end(found: dict, told: list[str]) -> None:
    assert list(gpu.failed(found, gpu.STAGES)) == told
    assert list(gpu.failed({**found, "runs": []}, [])) == []


def test_what_comes_back_are_curves_results_and_weights(results: Path) -> None:
    found = files.read_json(results / "gpu.json")
    done, stopped = found["runs"]
    assert done["finished"]
    assert not done["ended_by_the_clock"]
    assert not stopped["finished"]
    assert len((results / "curves.csv").read_text().splitlines()) == 3  # an epoch of each, and the header
    assert set(done["test"]) == {"single", "flipped", "ten_crop"}
    for measured in done["test"]["single"].values():
        assert {"macro_f1", "recall", "expected_calibration_error", "intervals"} <= set(measured)
    assert [path.name for path in results.glob("weights-*")] == [done["weights"]]
    assert (results / done["weights"]).stat().st_size < 2.5e6
    table = "\n".join(gpu.summary(found))
    assert "not finished | 1 done" in table


def test_a_training_that_diverges_in_its_first_epoch_says_so(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise DivergedError("the loss became nan")

    monkeypatch.setattr(gpu_jobs, "fit", diverge)
    found = gpu_jobs.train(miniature(tiny_dataset, tmp_path, final=False), tmp_path)
    assert (found["finished"], found["rows"], found["log_end"]) == (False, [], "the loss became nan")


def test_a_training_that_diverges_later_gives_the_best_epoch_that_it_had(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = Best((0.5, -1.0), patt_lite.build_patt_lite(image_size=80).get_weights(), 1, 80)
    row = {"validation_accuracy": 0.5, "images_per_second": 9.0}

    def diverge(*asked: Any) -> None:
        asked[6].save(State(1, 1, False, [row], best, [], [], {}))
        raise DivergedError("the loss became nan")

    monkeypatch.setattr(gpu_jobs, "fit", diverge)
    found = gpu_jobs.train(miniature(tiny_dataset, tmp_path, final=False), tmp_path)
    assert (found["finished"], found["best_epoch"], found["diverged"]) == (True, 1, "the loss became nan")
    assert (tmp_path / "weights.npz").exists()


def test_a_training_that_the_clock_ends_gives_the_best_epoch_that_it_had(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    request = miniature(tiny_dataset, tmp_path, final=False, until=0.0)
    request["recipe"]["fine_tune"]["epochs"] = 50
    found = gpu_jobs.train(request, tmp_path)
    assert (found["finished"], found["ended_by_the_clock"]) == (True, True)
    assert (len(found["rows"]), found["best_epoch"]) == (1, 1)
    weights = [value.astype(np.float32) for value in np.load(tmp_path / "weights.npz").values()]
    model = patt_lite.build_patt_lite(image_size=80)
    model.set_weights(weights)
    with np.load(tmp_path / "data.npz") as held:
        images = np.repeat(held["validation_grey"][..., None], 3, -1)
        right = np.asarray(model.predict_on_batch(images)).argmax(1) == held["validation_labels"]
    assert found["validation_float32"]["accuracy"] == pytest.approx(right.mean())


def parameters(folder: Path, **changes: Any) -> Path:
    """A params.yaml with the recipe of the finished training."""
    recipe = read_sweep(SWEEP, ["quick"], load_settings(PARAMS).recipes)[0].recipe.model_dump(mode="json")
    content = {"train": {"recipe": "tiny"}, "recipes": {"tiny": {**recipe, **changes}}}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def take(results: Path, dataset: Dataset, key: str = "quick-tiny-0") -> Any:
    out = Path("model")
    return adopt(results, key, load_settings(Path("params.yaml")), dataset.folder, out, Path("curves.csv"))


def test_a_training_from_elsewhere_is_taken_over_with_its_lineage(
    results: Path, tiny_dataset: Dataset, store: Path
) -> None:
    path = parameters(store)
    card = take(results, tiny_dataset)
    assert patt_lite.load(store / "model").card == card
    assert (card.git_commit, card.params_sha256) == ("c0ffee", files.sha256(path))
    assert card.training_data.known
    assert card.training_data.dataset_sha256 == tiny_dataset.summary.sha256
    assert len((store / "model" / "trained_on.txt").read_text().split()) > 200
    assert card.details["adopted"]["run"] == "quick-tiny-0"
    assert card.details["device"]["name"] == "cpu"  # of this test
    run = tracking.connect().get_run(card.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["git_commit"] == "c0ffee"
    assert run.data.metrics["validation_accuracy"] == pytest.approx(
        files.read_json(results / "gpu.json")["runs"][0]["rows"][-1]["validation_accuracy"]
    )


def test_a_model_whose_images_grew_is_built_at_the_size_it_was_best_at(
    results: Path, tiny_dataset: Dataset, store: Path, tmp_path: Path
) -> None:
    found = files.read_json(results / "gpu.json")
    grew = {"start_image_size": 80, "image_size": 96}
    found["runs"][0]["recipe"] |= grew  # its one epoch was at 80
    del found["runs"][0]["recipe"]["teacher_share"]  # as of a version that had no such setting
    copy = tmp_path / "copy"
    files.write_json(copy / "gpu.json", found)
    files.write_bytes(
        copy / found["runs"][0]["weights"], (results / found["runs"][0]["weights"]).read_bytes()
    )
    parameters(store, **grew)
    assert take(copy, tiny_dataset).details["image_size"] == 80


def test_what_cannot_be_vouched_for_is_not_taken_over(
    results: Path, tiny_dataset: Dataset, store: Path, tmp_path: Path
) -> None:
    parameters(store, label_smoothing=0.3)
    with pytest.raises(AdoptError, match=r"label_smoothing: here 0.3, there 0.1"):
        take(results, tiny_dataset)
    parameters(store, backbone="trained.keras")  # whose images the model would be said to have seen
    with pytest.raises(AdoptError, match=r"backbone: here trained\.keras, there none"):
        take(results, tiny_dataset)
    (store / "teacher.keras").write_bytes(b"that saw other images")
    learnt = {"teacher": "teacher.keras", "teacher_share": 0.5}
    parameters(store, **learnt)
    found = files.read_json(results / "gpu.json")
    found["runs"][0]["recipe"] |= learnt
    found["runs"][0]["teacher_sha256"] = "0" * 64
    files.write_json(tmp_path / "learnt" / "gpu.json", found)
    with pytest.raises(AdoptError, match=r"another teacher than teacher\.keras"):
        take(tmp_path / "learnt", tiny_dataset)
    parameters(store)
    with pytest.raises(AdoptError, match="they were kept of quick-tiny-0"):
        take(results, tiny_dataset, "quick-tiny_with_ema-1")

    copy = tmp_path / "copy"
    for changes, message in (
        ({"quick": True}, "in miniature"),
        ({"git_commit": None}, "--commit"),
        ({"dataset_sha256": "0" * 64}, "trained on dataset 00000000"),
    ):
        found = files.read_json(results / "gpu.json")
        found["about"] |= changes
        files.write_json(copy / "gpu.json", found)
        with pytest.raises(AdoptError, match=message):
            take(copy, tiny_dataset)

    found = files.read_json(results / "gpu.json")
    found["runs"][0]["recipe"]["of_tomorrow"] = True
    files.write_json(copy / "gpu.json", found)
    with pytest.raises(AdoptError, match=r"is none of this version:\n.*of_tomorrow"):
        take(copy, tiny_dataset)

    found = files.read_json(results / "gpu.json")
    found["runs"][0]["backbone"] = {"sha256": "0" * 64, "imagenet": False}
    files.write_json(copy / "gpu.json", found)
    with pytest.raises(AdoptError, match=r"weights that are not those of none.*trained_on\.txt"):
        take(copy, tiny_dataset)

    found = files.read_json(results / "gpu.json")
    name = found["runs"][0]["weights"]
    with np.load(results / name) as held:
        np.savez(copy / name, **{key: np.roll(held[key], 1) for key in held.files})
    found["runs"][0]["validation_float32"]["accuracy"] = 0.99
    files.write_json(copy / "gpu.json", found)
    with pytest.raises(AdoptError, match="the weights are damaged"):
        take(copy, tiny_dataset)
    assert not (store / "model").exists()
