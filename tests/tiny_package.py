"""A packaged model in milliseconds: a random two-layer network over 3x3 cell means, in plain ONNX."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ferops import files
from ferops.models.classifier import Card, TrainingData
from ferops.models.onnx import OnnxClassifier, Recorded


def tiny_card(**changes) -> Card:
    card = Card(
        name="patt_lite",
        kind="onnx",
        input_side=48,
        parameters=27 * 32 + 32 * 7,
        training_data=TrainingData(known=True, datasets=("synthetic",), dataset_sha256="d" * 64),
        embedding_size=32,
        synthetic=True,
        git_commit="c" * 40,
    )
    return replace(card, **changes)


def tiny_onnx(path: Path, seed: int = 0, side: int = 48) -> None:
    """uint8 [N, side, side, 3] -> probabilities [N, 7], embedding [N, 32]."""
    rng = np.random.default_rng(seed)
    constants = {
        "scale": np.array(1 / 255, np.float32),
        "w1": rng.normal(0, 1, (27, 32)).astype(np.float32),
        "w2": rng.normal(0, 1, (32, 7)).astype(np.float32),
    }
    cell = side // 3
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["nchw"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "w2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 7]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 32]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_tiny_package(folder: Path, seed: int = 0, **card_changes) -> Path:
    """A whole package folder but for its monitoring reference; another seed is another model."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_onnx(folder / "model.onnx", seed)
    tiny_card(**card_changes).save(folder / "card.json")
    images = np.random.default_rng(99).integers(0, 256, (16, 48, 48, 3), dtype=np.uint8)
    Recorded(images, OnnxClassifier(folder).predict(images).probabilities).save(folder)
    files.write_json(folder / "evaluation.json", {"candidate": "patt_lite", "evaluated": True})
    return folder
