"""Run under JAX with two simulated devices by test_device_data.py; prints one line of JSON."""

import json
from typing import Any

import jax
import keras
import numpy as np
from test_device_data import images, recipe

from ferops.models.patt_lite import build_patt_lite
from ferops.training.device import share_batches
from ferops.training.fit import Fitted, fit
from ferops.training.fused_backbone import with_fused_backbone


def shown(fitted: Fitted) -> dict[str, Any]:
    head = fitted.model.get_layer("classification_head").get_weights()[0]
    return {"rows": fitted.rows, "head": head.tolist()}


def loss_and_gradient(policy: str, weights: list[np.ndarray] | None) -> tuple[float, list[np.ndarray], Any]:
    """Of one batch, all layers trained, nothing random; in half precision by the blocks that train."""
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    model = build_patt_lite(image_size=80, dropout=0.0)
    if weights is not None:
        model.set_weights(weights)
    if policy != "float32":
        model = with_fused_backbone(model)
    data = images(16)
    targets = np.eye(7, dtype=np.float32)[data.labels]
    rest = [variable.value for variable in model.non_trainable_variables]

    def loss(trainable: list[Any]) -> Any:
        faces = np.repeat(data.grey[..., None], 3, -1)
        given, _ = model.stateless_call(trainable, rest, faces, training=True)
        return keras.ops.mean(keras.losses.categorical_crossentropy(targets, given))

    value, gradient = jax.jit(jax.value_and_grad(loss))(
        [variable.value for variable in model.trainable_variables]
    )
    return float(value), [np.asarray(part, np.float64).ravel() for part in gradient], model


if __name__ == "__main__":
    devices = keras.distribution.list_devices("cpu")
    asked = recipe(
        augmentation={"flip": True, "mixup": 0.2},
        frozen={"epochs": 0, "learning_rate": 1e-3},
        fine_tune={
            "epochs": 1,
            "learning_rate": 1e-4,
            "unfreeze_layers": 8,
            "train_batch_norm": True,
            "dropout": 0.0,
        },
    )
    one = fit(asked, "feature", 0, images(40), images(30, seed=1), resident=True)
    reference, exact, model = loss_and_gradient("float32", None)
    loss, gradient, half = loss_and_gradient("mixed_bfloat16", model.get_weights())
    a, b = np.concatenate(exact), np.concatenate(gradient)
    keras.config.set_dtype_policy("float32")
    share_batches(devices, asked)
    two = fit(asked, "feature", 0, images(40), images(30, seed=1), resident=True)
    print(
        json.dumps(
            {
                "devices": len(devices),
                "replicas": keras.distribution.distribution().num_model_replicas,
                "one": shown(one),
                "two": shown(two),
                "bfloat16": {
                    "compute_dtype": half.get_layer("patch_extraction").compute_dtype,
                    "reference_loss": reference,
                    "loss": loss,
                    "gradient_cosine": float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
                    "gradient_error": float(np.linalg.norm(a - b) / np.linalg.norm(a)),
                },
            }
        )
    )
