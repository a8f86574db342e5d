"""The training benchmark measures what it says, and claims no more than it measured."""

import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import backends
import published_notebook
import training_report
import training_sides
from ferops.training.batches import LabelledImages
from training_sides import FinishedError, Race, Stopwatch


def faces(count: int) -> LabelledImages:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (count, 48, 48), dtype=np.uint8)
    return LabelledImages(grey, np.arange(count) % 7)


def tiny_model() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((48, 48, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(7, activation="softmax"),
        ]
    )
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


class Batches(keras.utils.PyDataset):
    """Batches that take `seconds` each to make."""

    def __init__(self, data: LabelledImages, seconds: float) -> None:
        super().__init__()
        self.data, self.seconds = data, seconds

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int):
        time.sleep(self.seconds)
        return published_notebook.rgb(self.data.grey), self.data.labels


def timed(seconds_per_batch: float) -> Stopwatch:
    stopwatch = Stopwatch(seconds=0.1, validation_rows=70)
    data = faces(70)
    with training_sides.watched(stopwatch):
        tiny_model().fit(
            Batches(data, seconds_per_batch),
            validation_data=(published_notebook.rgb(data.grey), data.labels),
            epochs=1000,
            verbose=0,
        )
    return stopwatch


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the benchmark is TensorFlow's")
def test_a_slow_input_shows_as_waiting():
    slow = timed(seconds_per_batch=0.4)
    assert slow.stages[0]["waiting_share"] > 0.5
    assert slow.input_speed < 70 / 0.4


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the benchmark is TensorFlow's")
def test_the_watch_ends_a_fit_and_leaves_the_next_one_alone():
    stages = timed(seconds_per_batch=0).stages
    assert len(stages) == 1
    assert stages[0]["steps"] >= training_sides.LEAST_STEPS
    history = tiny_model().fit(np.zeros((8, 48, 48, 3)), np.zeros(8), epochs=3, verbose=0)
    assert len(history.epoch) == 3


def test_the_original_is_the_published_network(monkeypatch):
    """1,102,664 parameters, of which the notebook's first stage trains 280,648."""
    fitted: list[tuple[int, int]] = []

    def fit(model: keras.Model, **arguments: object) -> SimpleNamespace:
        trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        fitted.append((model.count_params(), trained))
        assert arguments["batch_size"] == 8
        return SimpleNamespace(epoch=[0, 1])

    monkeypatch.setattr(keras.Model, "fit", fit)
    published_notebook.train_original(faces(14), faces(7), backbone="none")
    total, frozen = fitted[0]
    assert (total, frozen) == (1_102_664, 280_648)
    assert fitted[1][0] == total
    assert fitted[1][1] > 1_000_000  # all but the batch norms


def test_the_race_ends_at_the_target_and_keeps_every_point(monkeypatch):
    data = faces(70)
    kept: list[int] = []
    race = Race(data, targets=[0.0], budget=60, on_point=lambda curve: kept.append(len(curve)))
    model = tiny_model()
    with pytest.raises(FinishedError), training_sides.watched(race):
        model.fit(published_notebook.rgb(data.grey), data.labels, epochs=5, verbose=0)
    assert kept == [1]
    right = np.argmax(model.predict(published_notebook.rgb(data.grey), verbose=0), axis=1) == data.labels
    assert race.curve[0]["test_accuracy"] == pytest.approx(right.mean())


def test_the_race_measures_the_averaged_weights_that_a_training_keeps():
    grey = faces(70).grey
    model = tiny_model()
    model.set_weights([np.zeros((3, 7)), 0.1 * np.eye(7)[6]])  # all are neutral, as after the first step too
    optimizer = keras.optimizers.SGD(1e-6, use_ema=True, ema_momentum=0.999999)  # the first step's weights
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    race = Race(LabelledImages(grey, np.full(70, 6)), targets=[1.1], budget=60, on_point=lambda curve: None)
    angry = published_notebook.rgb(grey), np.zeros(70)
    averaged = keras.callbacks.SwapEMAWeights()
    with training_sides.watched(race):
        model.fit(*angry, 7, epochs=2, validation_data=angry, callbacks=[averaged], verbose=0)
    points = [(point["test_accuracy"], point["validation_accuracy"]) for point in race.curve]
    assert points == [(1.0, 0.0), (1.0, 0.0)]


def test_a_spent_budget_ends_the_race_within_an_epoch():
    data = faces(70)
    race = Race(data, targets=[1.1], budget=0, on_point=lambda curve: None)
    with pytest.raises(FinishedError), training_sides.watched(race):
        tiny_model().fit(published_notebook.rgb(data.grey), data.labels, batch_size=7, epochs=5, verbose=0)
    assert race.curve[0]["epochs"] == pytest.approx(0.1)


def test_backends_are_told_by_setting_and_size_and_what_was_not_measured_is_left_empty():
    records = [
        {"side": "one", "size": 80, "images_per_second": 10.0},
        {"side": "one", "size": 80, "images_per_second": 30.0},
        {"side": "two", "size": 96, "images_per_second": 7.0},
    ]
    assert backends.table(records, (80, 96)).splitlines()[2:] == ["| one | 20 |  |", "| two |  | 7 |"]


def curve(*accuracies: float) -> list[dict[str, float]]:
    return [
        {
            "minutes": 10.0 * (i + 1),
            "processor_minutes": 20.0 * (i + 1),
            "epochs": i + 1.0,
            "test_accuracy": a,
        }
        for i, a in enumerate(accuracies)
    ]


def test_what_was_not_reached_is_a_bound_and_no_time():
    summary = training_report.summarise_race(
        {"ours": curve(0.5, 0.61, 0.64), "original": curve(0.3, 0.4, 0.45, 0.5, 0.5)}, [0.60, 0.65]
    )
    sixty, sixty_five = (row["minutes"] for row in summary["targets"])
    assert sixty["ours"] == 20.0
    assert sixty["original"] is None
    assert (sixty["times_sooner"], sixty["lower_bound"]) == (2.5, True)
    assert sixty_five["times_sooner"] is None
    told = training_report.report(result(summary))
    assert "original not reached in 50.0 min, 5.0 epochs (best 50.0%)" in told
    assert "not shown: the original's budget was too short" in told


def test_without_the_original_ours_has_its_time_and_no_ratio(tmp_path: Path):
    summary = training_report.summarise_race({"ours": curve(0.5, 0.61, 0.66)}, [0.60, 0.65])
    assert [row["minutes"]["ours"] for row in summary["targets"]] == [20.0, 30.0]
    told = training_report.report(result(summary))
    assert "65%: ours 30.0 min" in told
    assert "times sooner at 60%: not measured" in told
    training_report.plot({**result(summary), "curves": {"ours": curve(0.5, 0.61, 0.66)}}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size


def result(accuracy: dict) -> dict:
    machine = {"cores": 2, "processor": "some"}
    rows = {"train": 700, "validation": 70, "test": 70}
    return {
        "dataset": "synthetic",
        "recipe": "fer2013",
        "rows": rows,
        "machine": machine,
        "speed": [],
        "accuracy": accuracy,
    }


def record(side: str, speed: float, **others: float) -> dict:
    stages = {
        name: {
            "images_per_second": images,
            "validation_images_per_second": images,
            "waiting_share": 0.01,
            "processor_seconds_per_image": 1.0,
            "peak_mib": 100.0,
        }
        for name, images in {"frozen": speed, "fine_tune": speed, **others}.items()
    }
    return {"side": side, "size": 112, "stages": stages}


def test_frozen_batch_norms_are_held_against_the_notebooks():
    records = [record("ours", 50, **{training_sides.AS_FROZEN: 150}), record("original", 75)]
    rows = {"train": 500, "validation": 0}
    table = {row["stage"]: row for row in training_report.summarise_speed(records, rows)}
    assert list(table) == ["frozen", "fine_tune", training_sides.AS_FROZEN]
    assert table["fine_tune"]["epoch_ratio"]["median"] == pytest.approx(50 / 75)
    assert table[training_sides.AS_FROZEN]["epoch_ratio"]["median"] == pytest.approx(2)


def test_ratios_are_taken_round_by_round():
    """Noise that slows both sides of a round alike leaves the ratio alone."""
    records = [record("ours", 200), record("original", 100), record("ours", 20), record("original", 10)]
    row = training_report.summarise_speed(records, {"train": 900, "validation": 100})[0]
    assert row["speed_ratio"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert row["ours"]["epoch_seconds"] == {"median": 27.5, "low": 5.0, "high": 50.0}
