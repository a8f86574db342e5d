"""Does the accelerator compute what a CPU computes? Loss, gradients and augmentation of one batch of faces.

The reference is float32 on the same machine's CPU, by Keras' own layers, where the ways are the blocks that
train (`with_fused_backbone`): same weights, same images, no dropout, training mode. The error of
a gradient is ||g - reference|| / ||reference|| over all of its numbers together.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import keras
import numpy as np

from ferops.models.patt_lite import build_patt_lite, set_trainable
from ferops.settings import Recipe
from ferops.training.augmentation import apply, draw, to_pixels
from ferops.training.batches import LabelledImages
from ferops.training.device import prepare
from ferops.training.fused_backbone import with_fused_backbone

ROWS = 64


class Way(NamedTuple):
    """A way to compute the step, and what is allowed to it.

    Attributes:
        policy: Keras' dtype policy.
        precision: JAX's matmul precision; none leaves the device's default (tf32 on NVIDIA).
        loss: largest relative error of the loss.
        gradient: largest relative error of the gradient, from ImageNet weights; from random ones, where batch
            norms amplify what is hardly a signal, bfloat16's is shown and not judged.
        frozen: whether the backbone's batch norms are.
    """

    policy: str
    precision: str | None
    loss: float
    gradient: float
    frozen: bool = False


#: The limits are this project's choice, with room above what docs/benchmarks.md says was measured.
WAYS = {
    "float32": Way("float32", "highest", 1e-4, 1e-2),
    "float32, the device's default": Way("float32", None, 3e-3, 1e-1),
    "mixed_bfloat16": Way("mixed_bfloat16", None, 2e-2, 5e-1),
    "mixed_bfloat16, frozen batch norms": Way("mixed_bfloat16", None, 2e-2, 5e-1, frozen=True),
}


def step(
    policy: str,
    faces: np.ndarray,
    targets: np.ndarray,
    weights: Sequence[np.ndarray],
    side: int,
    device: Any,
    frozen: bool,
    fused: bool = True,
) -> tuple[float, np.ndarray]:
    """Loss and flat gradient of one batch on a device, by the blocks that train or by Keras' own layers."""
    keras.config.set_dtype_policy(policy)
    model = build_patt_lite(image_size=side, dropout=0.0)
    model.set_weights(weights)
    set_trainable(model, "all", train_batch_norm=not frozen)
    if fused:
        model = with_fused_backbone(model)
    rest = [jax.device_put(variable.value, device) for variable in model.non_trainable_variables]
    trainable = [jax.device_put(variable.value, device) for variable in model.trainable_variables]

    def loss(values: list[Any], others: list[Any], images: Any, wanted: Any) -> Any:
        given, _ = model.stateless_call(values, others, images, training=True)
        return keras.ops.mean(keras.losses.categorical_crossentropy(wanted, given))

    compute = jax.jit(jax.value_and_grad(loss))
    value, gradient = compute(trainable, rest, jax.device_put(faces, device), jax.device_put(targets, device))
    return float(value), np.concatenate([np.asarray(part, np.float64).ravel() for part in gradient])


def check(request: dict[str, Any], splits: dict[str, LabelledImages], copies: np.ndarray) -> dict[str, Any]:
    """Compare every way with the reference; print a table."""
    recipe = Recipe.model_validate(request["recipe"])
    device = prepare(recipe)
    side = 80 if request["quick"] else recipe.image_size
    count = 8 if request["quick"] else ROWS
    rows = np.random.default_rng(0).permutation(len(splits["train"]))[:count]
    grey, labels = splits["train"].grey[rows], splits["train"].labels[rows]
    faces, targets = np.repeat(grey[..., None], 3, -1), np.eye(7, dtype=np.float32)[labels]
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    weights = build_patt_lite(image_size=side, backbone=request["backbone"]).get_weights()
    card, cpu = jax.devices()[0], jax.devices("cpu")[0]
    references = {
        frozen: step("float32", faces, targets, weights, side, cpu, frozen, fused=False)
        for frozen in (False, True)
    }
    found = []
    trained = request["backbone"] != "none"
    print(
        f"| {device.name}, {side} px, {len(rows)} faces, {'ImageNet' if trained else 'random'} weights "
        "| loss error | limit | gradient error | limit | cosine |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name, way in WAYS.items():
        with jax.default_matmul_precision(way.precision) if way.precision else nullcontext():
            loss, gradient = step(way.policy, faces, targets, weights, side, card, frozen=way.frozen)
        reference_loss, reference = references[way.frozen]
        limit = way.gradient if trained or way.policy == "float32" else 1.0
        loss_error = abs(loss - reference_loss) / abs(reference_loss)
        error = float(np.linalg.norm(gradient - reference) / np.linalg.norm(reference))
        cosine = float(gradient @ reference / np.linalg.norm(gradient) / np.linalg.norm(reference))
        found.append(
            {
                "way": name,
                "loss": loss,
                "loss_error": loss_error,
                "gradient_error": error,
                "gradient_cosine": cosine,
                "limits": {"loss": way.loss, "gradient": limit},
                "passed": bool(loss_error <= way.loss and error <= limit),  # NaN does not pass
            }
        )
        print(
            f"| {name} | {loss_error:.1e} | {way.loss:.0e} | {error:.1e} | {limit:.0e} | {cosine:.5f} |",
            flush=True,
        )
    changed = augmentation(grey, recipe)
    print(
        f"| augmentation against numpy | {changed['largest']} grey levels | 1 | "
        f"{changed['pixels_that_differ']:.1e} of the pixels | 1e-02 | |",
        flush=True,
    )
    return {
        "device": device.name,
        "backend": {"jax": jax.__version__, "keras": keras.__version__, "platform": card.platform},
        "image_size": side,
        "weights": "ImageNet" if trained else "random",
        "reference_loss": references[False][0],
        "ways": found,
        "augmentation": changed,
        "passed": all(way["passed"] for way in found) and changed["passed"],
    }


def augmentation(grey: np.ndarray, recipe: Recipe) -> dict[str, Any]:
    """The recipe's changes on the device against numpy's."""
    faces = grey.astype(np.float32)
    draws = draw(len(faces), (48, 48), recipe.augmentation, np.random.default_rng(1))
    host = to_pixels(apply(faces, draws, recipe.augmentation)).astype(int)
    on_device = jax.jit(
        lambda images, drawn: to_pixels(apply(images, drawn, recipe.augmentation, keras.ops), keras.ops)
    )
    difference = np.abs(np.asarray(on_device(faces, draws)).astype(int) - host)
    largest, share = int(difference.max()), float((difference > 0).mean())
    return {"largest": largest, "pixels_that_differ": share, "passed": largest <= 1 and share <= 0.01}
