"""Images on the device, batches in parts, several devices and half precision train what one CPU trains."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferops.settings import AugmentationSettings, Recipe
from ferops.training.augmentation import apply, draw, to_pixels
from ferops.training.batches import (
    EvaluationBatches,
    LabelledImages,
    TooFewImagesError,
    TrainingBatches,
)
from ferops.training.checkpoint import Checkpoint
from ferops.training.device import DeviceError, share_batches
from ferops.training.fit import Fitted, fit, prepare_stage
from ferops.training.resident import ImagesOnDevice
from ferops.training.teacher import soft_targets

pytestmark = pytest.mark.long

EVERYTHING = AugmentationSettings(
    flip=True, contrast=0.4, brightness=0.2, shift=0.1, rotation=20, zoom=0.2, erasing=0.5, mixup=0.3
)


def images(count: int, seed: int = 0) -> LabelledImages:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 7
    grey = rng.integers(0, 120, (count, 48, 48)) + labels[:, None, None] * 18
    return LabelledImages(grey.astype(np.uint8), labels)


def recipe(**changes: Any) -> Recipe:
    stage = {"epochs": 2, "learning_rate": 1e-3, "schedule": "cosine", "dropout": 0.0}
    return Recipe.model_validate(
        {
            "description": "tiny",
            "image_size": 80,
            "backbone": "none",
            "batch_size": 16,
            "augmentation": {"flip": False},
            "precision": "float32",
            "frozen": stage,
            **changes,
        }
    )


@given(
    st.builds(
        AugmentationSettings,
        flip=st.booleans(),
        contrast=st.sampled_from([0, 0.4]),
        brightness=st.sampled_from([0, 0.3]),
        shift=st.sampled_from([0, 0.2]),
        rotation=st.sampled_from([0, 30]),
        zoom=st.sampled_from([0, 0.3]),
        erasing=st.sampled_from([0, 0.7]),
        mixup=st.sampled_from([0, 0.4]),
    ),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_the_device_changes_images_as_numpy_does(asked: AugmentationSettings, seed: int) -> None:
    grey = images(12, seed % 1000).grey.astype(np.float32)
    draws = draw(12, (48, 48), asked, np.random.default_rng(seed))
    host = apply(grey, draws, asked)
    tensor = apply(keras.ops.convert_to_tensor(grey), keras.ops.convert_to_tensor(draws), asked, keras.ops)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(tensor), host, atol=0.02)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(to_pixels(keras.ops.convert_to_tensor(host), keras.ops)), to_pixels(host)
    )


def test_a_step_on_the_device_sees_the_batch_that_numpy_makes() -> None:
    train, validation = images(40), images(20, seed=1)
    seen = ImagesOnDevice(Shown(), train, validation, EVERYTHING)
    host, device = (
        TrainingBatches(
            train,
            16,
            EVERYTHING,
            soft_targets(train.labels, 0.1),
            np.ones(7, np.float32),
            seed=3,
            resident=resident,
        )
        for resident in (False, True)
    )
    for index in range(len(host)):
        expected, given = host[index], device[index]
        for one, other in zip(expected[1:], given[1:], strict=True):
            np.testing.assert_array_equal(one, other)
        difference = np.abs(to_int(seen(given[0], training=True)) - expected[0].astype(int))
        assert difference.max() <= 1  # rounding to whole grey values
        assert (difference > 0).mean() < 0.01
    unchanged = EvaluationBatches(validation, 8), EvaluationBatches(validation, 8, first_row=len(train))
    for index in range(3):
        on_host, on_device = (batches[index] for batches in unchanged)
        np.testing.assert_array_equal(to_int(seen(on_device[0], training=False)), on_host[0])


class Shown(keras.Model):
    """Gives back what it is shown."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return inputs


def to_int(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor).astype(int)


def train(asked: Recipe, **options: Any) -> Fitted:
    return fit(asked, "feature", 0, images(40), images(30, seed=1), **options)


def assert_same(one: Fitted, other: Fitted, rel: float = 1e-3) -> None:
    for ours, theirs in zip(one.rows, other.rows, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=rel)
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=rel)
        assert ours["learning_rate"] == pytest.approx(theirs["learning_rate"], rel=1e-5)


def test_training_on_the_device_gives_the_curves_of_the_host_and_a_plain_model() -> None:
    asked = recipe(
        augmentation={"flip": True, "shift": 0.1, "erasing": 0.5, "mixup": 0.2},
        ema_momentum=0.5,
        frozen={"epochs": 0, "learning_rate": 1e-3},
        fine_tune={"epochs": 2, "learning_rate": 1e-4, "unfreeze_layers": 6, "train_batch_norm": True},
    )
    host, device = train(asked, resident=False), train(asked, resident=True)
    assert_same(host, device, rel=2e-2)  # a grey value apart here and there
    assert type(device.model) is type(host.model)
    assert device.model.count_params() == 1_102_664
    assert not any("grey" in weight.path for weight in device.model.weights)


def test_training_on_the_device_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    asked = recipe(augmentation=EVERYTHING.model_dump(), ema_momentum=0.5)
    asked = asked.model_copy(update={"frozen": asked.frozen.model_copy(update={"dropout": 0.3, "epochs": 3})})
    unbroken = train(asked, resident=True)
    with Checkpoint.claim(tmp_path, "0" * 64) as checkpoint:
        with pytest.raises(KilledError):
            train(asked, resident=True, checkpoint=checkpoint, on_row=kill_in_the_second_epoch)
        assert (checkpoint.folder / "state.npz").stat().st_size < 20e6  # without the images
        resumed = train(asked, resident=True, checkpoint=checkpoint)
    assert_same(unbroken, resumed, rel=1e-4)


class KilledError(Exception):
    pass


def kill_in_the_second_epoch(row: Mapping[str, Any]) -> None:
    if row["epoch"] == 2:
        raise KilledError


@pytest.mark.parametrize("resident", [False, True])
def test_a_batch_in_parts_trains_as_the_whole_one(resident: bool) -> None:
    # The head's own batch norm takes its statistics from each part, so that it stands still here.
    whole, parts = (still_head(recipe(accumulation_steps=n), resident) for n in (1, 2))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)


def still_head(asked: Recipe, resident: bool) -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    data = images(64)
    stage = asked.frozen
    ready = prepare_stage(asked, "feature", stage, data, images(14), weights=None, seed=0, resident=resident)
    before = ready.network.get_weights()
    for layer in ready.network.get_layer("pre_classification").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    ready.model.compile(optimizer=ready.model.optimizer, loss="categorical_crossentropy", jit_compile=False)
    ready.model.fit(ready.batches, epochs=2, verbose=0, shuffle=False)
    after = ready.network.get_weights()
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(before, after, strict=True))
    return after


def test_a_batch_that_devices_cannot_share_is_refused_with_advice() -> None:
    with pytest.raises(DeviceError, match="let batch_size be a multiple of 6, such as 12"):
        share_batches(["gpu:0", "gpu:1", "gpu:2"], recipe(batch_size=8, accumulation_steps=2))


def test_pytorch_finds_its_devices() -> None:
    """Keras lists none for it: the whole training is too slow there for a test, this is where it broke."""
    pytest.importorskip("torch")
    code = (
        "from ferops.settings import Recipe\n"
        "from ferops.training.device import keeps_images, prepare, sharers\n"
        "recipe = Recipe(description='x', frozen={'epochs': 1, 'learning_rate': 1})\n"
        "print(prepare(recipe).kind, keeps_images(1), sharers())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["cpu", "False", "1"], done.stderr[-3000:]


def test_a_split_without_images_is_named() -> None:
    with pytest.raises(TooFewImagesError, match="the validation split has no image"):
        fit(recipe(), "feature", 0, images(7), images(0))


def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be cut into 3 equal parts"):
        recipe(batch_size=16, accumulation_steps=3)


OTHER_BACKEND = Path(__file__).with_name("jax_devices.py")


@pytest.fixture(scope="module")
def jax_devices() -> dict[str, Any]:
    """What `jax_devices.py` measured on two simulated devices."""
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, str(OTHER_BACKEND)],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            # Two devices; and compiling, not computing, is what takes the time.
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
            "--xla_llvm_disable_expensive_passes=true",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_two_devices_train_as_one(jax_devices: dict[str, Any]) -> None:
    assert jax_devices["devices"] == 2
    assert jax_devices["replicas"] == 2
    one, two = jax_devices["one"], jax_devices["two"]
    for ours, theirs in zip(one["rows"], two["rows"], strict=True):
        for key in ("train_loss", "validation_loss", "validation_accuracy"):
            assert ours[key] == pytest.approx(theirs[key], rel=2e-3)
    np.testing.assert_allclose(one["head"], two["head"], rtol=1e-2, atol=1e-3)


def test_bfloat16_steps_agree_with_float32(jax_devices: dict[str, Any]) -> None:
    """A random network on noise is the hardest case: 60 layers amplify the 8 bits of a bfloat16.

    On faces from ImageNet weights the two are far closer (docs/benchmarks.md).
    """
    half = jax_devices["bfloat16"]
    assert half["compute_dtype"] == "bfloat16"
    assert half["loss"] == pytest.approx(half["reference_loss"], rel=0.005)
    assert half["gradient_cosine"] > 0.7


def test_fitting_needs_keras_and_the_settings_alone() -> None:
    """A machine with an accelerator may have nothing else."""
    code = (
        "import sys\n"
        "absent = 'pandas pyarrow PIL mlflow great_expectations matplotlib sklearn bentoml dvc tensorflow'\n"
        "sys.modules.update(dict.fromkeys(absent.split()))\n"  # importing them fails
        "import ferops.training.fit, ferops.training.device, ferops.evaluation.metrics\n"
    )
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
