"""Training writes a model whose card says what it is, and says plainly when it cannot."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from ferops import files, tracking
from ferops.data.ingest import ingest
from ferops.data.store import Dataset
from ferops.evaluation import contamination
from ferops.models import patt_lite
from ferops.settings import DataSettings, Settings, SyntheticSettings
from ferops.training import train as training
from ferops.training.callbacks import (
    Best,
    DivergedError,
    GrowImages,
    KeepBest,
    StopOnDivergence,
    half_precision,
)
from ferops.training.fit import Fitted
from ferops.training.teacher import TeacherError
from ferops.training.train import seen_before, train

pytestmark = pytest.mark.long

#: With few layers that train: what takes the time is making their graph.
RECIPE = {
    "description": "seconds",
    "image_size": 80,
    "backbone": "none",
    "batch_size": 35,
    "ema_momentum": 0.5,
    "precision": "float32",
    "frozen": {"epochs": 1, "learning_rate": 1e-3},
    "fine_tune": {
        "epochs": 2,
        "learning_rate": 2e-3,
        "optimizer": "adamw",
        "schedule": "cosine",
        "unfreeze_layers": 6,
        "train_batch_norm": True,
    },
}


def make_settings(**changes: object) -> Settings:
    return Settings.model_validate({"train": {"recipe": "tiny"}, "recipes": {"tiny": {**RECIPE, **changes}}})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Callable[[Path], str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_mlflow(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_a_trained_model_loads_and_its_lineage_leads_to_the_run(
    tiny_dataset: Dataset, tmp_path: Path, store: None
) -> None:
    card = train(
        make_settings(),
        tiny_dataset.folder,
        tmp_path / "model",
        tmp_path / "curves.csv",
        tmp_path / "checkpoints",
    )

    loaded = patt_lite.load(tmp_path / "model")
    assert loaded.card == card
    assert card.synthetic
    assert card.training_data.dataset_sha256 == tiny_dataset.summary.sha256
    predictions = loaded.predict(tiny_dataset.images("validation"))
    np.testing.assert_allclose(predictions.probabilities.sum(1), 1, atol=1e-5)
    assert predictions.embedding is not None
    assert predictions.embedding.shape == (len(predictions.probabilities), 32)

    seen = set((tmp_path / "model" / "trained_on.txt").read_text().split())
    assert seen == {
        *tiny_dataset.frame("train")["pixel_hash"],
        *tiny_dataset.frame("validation")["pixel_hash"],
    }

    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["stage"]) for row in rows] == [
        ("1", "frozen"),
        ("2", "fine_tune"),
        ("3", "fine_tune"),
    ]
    # The kept weights are those of the best epoch, so they score what the curve says it scored.
    labels = tiny_dataset.labels("validation")
    accuracy = float((predictions.probabilities.argmax(1) == labels).mean())
    assert accuracy == pytest.approx(max(float(row["validation_accuracy"]) for row in rows), abs=0.011)

    run = tracking.connect().get_run(card.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe.batch_size"] == "35"
    assert run.data.params["dataset.sha256"] == tiny_dataset.summary.sha256
    assert run.data.params["device.kind"] in ("cpu", "gpu")
    assert run.data.metrics["images_per_second"] > 0


@pytest.mark.parametrize(
    ("unusable", "why"),
    [
        ({"backbone": "gone.h5"}, r"gone\.h5 not found"),
        ({"teacher": "gone.keras", "teacher_share": 0.5}, r"gone\.keras not found"),
        ({"backbone": "damaged.keras"}, r"damaged\.keras does not fit"),
        ({"teacher": "damaged.keras"}, r"damaged\.keras cannot be loaded"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_before_any_work(
    tmp_path: Path, store: None, monkeypatch: pytest.MonkeyPatch, unusable: dict[str, object], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("damaged.keras").write_bytes(b"PK")
    with pytest.raises((patt_lite.BackboneUnavailableError, TeacherError), match=why):
        train(
            make_settings(**unusable),
            tmp_path / "no dataset is read",
            tmp_path / "model",
            tmp_path / "curves.csv",
            tmp_path / "checkpoints",
        )
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "damaged.keras"}  # no checkpoint
    assert tracking.connect().search_runs(search_all_experiments=True).empty


def test_a_diverging_loss_stops_the_run_and_leaves_the_old_model(
    tiny_dataset: Dataset, tmp_path: Path, store: None
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.keras").write_bytes(b"the last good one")
    settings = make_settings(
        clip_norm=None,
        fine_tune={"epochs": 0, "learning_rate": 1.0},
        frozen={"epochs": 3, "learning_rate": 1e38},
    )
    with pytest.raises(DivergedError, match="lower learning_rate"):
        train(
            settings,
            tiny_dataset.folder,
            tmp_path / "model",
            tmp_path / "curves.csv",
            tmp_path / "checkpoints",
        )
    assert (tmp_path / "model" / "model.keras").read_bytes() == b"the last good one"
    runs = tracking.connect().search_runs(search_all_experiments=True)
    assert runs["status"].tolist() == ["FAILED"]


def test_a_second_round_takes_over_the_backbone_and_what_it_saw(
    tiny_dataset: Dataset, tmp_path: Path, store: None
) -> None:
    first = patt_lite.build_patt_lite(image_size=80)
    (tmp_path / "first").mkdir()
    first.save(tmp_path / "first" / "model.keras")
    (tmp_path / "first" / "trained_on.txt").write_text("feedfacefeedfacefeedfacefeedface\n")

    short = {"frozen": {"epochs": 1, "learning_rate": 1e-3}, "fine_tune": {"epochs": 0, "learning_rate": 1.0}}
    again = make_settings(backbone=str(tmp_path / "first" / "model.keras"), **short)
    card = train(
        again, tiny_dataset.folder, tmp_path / "second", tmp_path / "curves.csv", tmp_path / "checkpoints"
    )
    assert card.training_data.known
    assert "feedface" * 4 in (tmp_path / "second" / "trained_on.txt").read_text().split()
    second = patt_lite.load(tmp_path / "second").model
    for old, new in zip(
        first.get_layer("base_model").get_weights(), second.get_layer("base_model").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(half_precision(old), new)  # the frozen stage left it as it was


def test_what_came_of_weights_of_unknown_images_stays_unknown_for_all_generations(
    tiny_dataset: Dataset, tmp_path: Path, store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that may have learned the test images must not become clean by training on from it."""
    theirs = tmp_path / "theirs.weights.h5"
    patt_lite.build_backbone(80, "none").save_weights(theirs)
    short = {"frozen": {"epochs": 1, "learning_rate": 1e-3}, "fine_tune": {"epochs": 0, "learning_rate": 1.0}}
    child = tmp_path / "child"
    places = tiny_dataset.folder, child, tmp_path / "curves.csv", tmp_path / "checkpoints"
    row = {"epoch": 1, "stage": "frozen", "image_size": 80, "images_per_second": 9.0}
    row |= dict.fromkeys(("train_accuracy", "validation_accuracy", "train_loss", "validation_loss"), 0.5)
    as_built = Fitted(patt_lite.build_patt_lite(image_size=80), 1, [row])
    with monkeypatch.context() as untrained:
        untrained.setattr(training, "fit", lambda *_: as_built)
        card = train(make_settings(backbone=str(theirs), **short), *places)
    assert not card.training_data.known
    found = contamination.measure(card, tiny_dataset, child)
    assert (found.known, found.share) == (False, None)

    assert {path.name for path in child.iterdir()} == {"card.json", "learning_curves.png", "model.keras"}
    of_the_child = str(child / "model.keras")
    assert seen_before(make_settings(backbone=of_the_child).recipe) is None
    assert seen_before(make_settings(teacher=of_the_child).recipe) is None
    files.write_text(child / "trained_on.txt", "feedface\n")
    assert seen_before(make_settings(backbone=of_the_child).recipe) is None  # says its card
    (child / "card.json").unlink()
    assert seen_before(make_settings(backbone=of_the_child, teacher=of_the_child).recipe) == ["feedface"] * 2

    assert seen_before(make_settings(backbone=str(theirs)).recipe) is None
    digest = hashlib.sha256(
        b"".join(held.tobytes() for held in patt_lite.build_backbone(80, str(theirs)).get_weights())
    )
    monkeypatch.setattr(patt_lite, "IMAGENET_SHA256", digest.hexdigest())
    assert seen_before(make_settings(backbone=str(theirs)).recipe) == []
    assert seen_before(make_settings(backbone=str(theirs), teacher=str(theirs)).recipe) is None


def test_the_best_epoch_is_kept_by_accuracy_then_loss() -> None:
    resize = keras.layers.Resizing(80, 80, name="resize")
    model = keras.Sequential([keras.Input((48, 48, 1)), resize, keras.layers.Dense(1, use_bias=False)])
    kept: list[Best] = []
    keep = KeepBest(model, Best((0.4, -2.0), [], 2, 80), 2, kept.append)
    for epoch, (accuracy, loss) in enumerate([(0.3, 1.0), (0.6, 0.9), (0.6, 0.8), (0.55, 0.1)]):
        model.set_weights([np.full((1, 1), epoch, np.float32)])
        keep.on_epoch_begin(epoch)
        keep.on_test_end({"accuracy": accuracy, "loss": loss})
    assert [best.epoch for best in kept] == [4, 5]  # counted over both stages; the first did not beat 0.4
    assert kept[-1].weights[0] == 2
    assert kept[-1].image_size == 80


def test_a_model_that_broke_in_an_epochs_last_update_is_neither_best_nor_saved() -> None:
    stop = StopOnDivergence("fine_tune")
    stop.on_epoch_begin(4)
    stop.on_train_batch_end(7, {"loss": 1.0})
    with pytest.raises(DivergedError, match="stage fine_tune, epoch 5, validation: lower learning_rate"):
        stop.on_test_end({"loss": float("nan")})


def test_a_loss_far_above_guessing_has_diverged_though_it_is_a_number() -> None:
    stop = StopOnDivergence("fine_tune")
    stop.on_epoch_begin(0)
    stop.on_train_batch_end(0, {"loss": 30.0})  # of one batch: it may yet come down
    stop.on_train_batch_end(7, {"loss": 2.5})  # the mean of all so far
    stop.on_test_begin()
    stop.on_test_end({"loss": 30.0})  # statistics that lag
    stop.on_epoch_begin(1)
    stop.on_train_batch_end(7, {"loss": 22.0})
    with pytest.raises(DivergedError, match="became 22 in stage fine_tune, epoch 2, mean of all batches"):
        stop.on_test_begin()


def test_weights_that_cannot_be_kept_stop_the_epoch_they_come_from() -> None:
    resize = keras.layers.Resizing(80, 80, name="resize")
    model = keras.Sequential([keras.Input((48, 48, 1)), resize, keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.full((1, 1), 70_000, np.float32)])
    kept: list[Best] = []
    with pytest.raises(DivergedError, match="larger than 65504: lower learning_rate"):
        KeepBest(model, None, 0, kept.append).on_test_end({"accuracy": 0.5, "loss": 1.0})
    assert not kept


def test_a_training_that_diverged_leaves_its_best_epoch_to_start_from(
    tiny_dataset: Dataset, tmp_path: Path, store: None
) -> None:
    settings = make_settings(clip_norm=None, fine_tune={"epochs": 2, "learning_rate": 1e38})
    places = (tmp_path / "model", tmp_path / "curves.csv", tmp_path / "checkpoints")
    with pytest.raises(DivergedError, match="stage fine_tune, epoch 1") as refused:
        train(settings, tiny_dataset.folder, *places)
    best = str(refused.value).split("backbone: ")[1]
    again = make_settings(backbone=best, fine_tune={"epochs": 0, "learning_rate": 1.0})
    assert train(again, tiny_dataset.folder, *places).training_data.known


JAX = """
import json, sys
from pathlib import Path
from ferops.settings import Settings
from ferops.training.train import train
settings = Settings.model_validate(json.loads(sys.argv[1]))
card = train(settings, Path(sys.argv[2]), Path("model"), Path("c.csv"), Path("checkpoints"))
print(json.dumps(card.details["device"]))
"""


def test_the_same_code_trains_under_jax(tmp_path: Path, store: None) -> None:
    pytest.importorskip("jax")
    # One stage and full batches: JAX would compile another one again.
    settings = make_settings(
        frozen={"epochs": 0, "learning_rate": 1.0}, fine_tune={**RECIPE["fine_tune"], "epochs": 1}
    )
    synthetic = SyntheticSettings(train=70, validation=35, test=35)
    ingest(DataSettings(synthetic=synthetic), out=tmp_path / "dataset")
    done = subprocess.run(
        [sys.executable, "-c", JAX, settings.model_dump_json(), str(tmp_path / "dataset")],
        cwd=tmp_path,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            # Compiling, not computing, is what takes the time.
            "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["backend"] == "jax"
    assert patt_lite.load(tmp_path / "model").card.details["device"]["backend"] == "jax"


def test_images_grow_while_training_and_the_best_epochs_size_is_kept(
    tiny_dataset: Dataset, tmp_path: Path, store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []
    before = GrowImages.on_epoch_begin

    def spy(self: GrowImages, epoch: int, logs: dict[str, float] | None = None) -> None:
        before(self, epoch, logs)
        sides.append(self.model.get_layer("resize").height)

    monkeypatch.setattr(GrowImages, "on_epoch_begin", spy)
    settings = make_settings(start_image_size=80, image_size=96)
    settings = settings.model_copy(
        update={
            "recipes": {
                "tiny": settings.recipe.model_copy(
                    update={"fine_tune": settings.recipe.fine_tune.model_copy(update={"epochs": 2})}
                )
            }
        }
    )
    card = train(
        settings, tiny_dataset.folder, tmp_path / "model", tmp_path / "curves.csv", tmp_path / "checkpoints"
    )
    assert sides == [80, 80, 96]
    with (tmp_path / "curves.csv").open() as file:
        assert [row["image_size"] for row in csv.DictReader(file)] == ["80", "80", "96"]
    # Kept as it was validated: at another size it would be another model.
    side = [80, 80, 96][card.details["best_epoch"] - 1]
    assert card.details["image_size"] == side
    assert patt_lite.load(tmp_path / "model").model.get_layer("resize").height == side
