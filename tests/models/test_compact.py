"""Half the bytes, the same numbers: what is stored small must compute what the large file computes."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ferops import files
from ferops.models.compact import compact_keras, compact_onnx, convolution_kernels


def rounded(*shape, seed=0):
    values = np.random.default_rng(seed).normal(0, 0.1, shape)
    return values.astype(np.float16).astype(np.float32)


def one_convolution(path, weights):
    """images float32 [N, 8, 6, 6] -> answers [N, 64, 4, 4]."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "weights"], ["answers"], name="conv")],
        "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 8, 6, 6])],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, ["N", 64, 4, 4])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def answers(path):
    images = np.random.default_rng(1).normal(0, 1, (4, 8, 6, 6)).astype(np.float32)
    return onnxruntime.InferenceSession(str(path)).run(None, {"images": images})[0]


def types(path):
    return {constant.name: constant.data_type for constant in onnx.load(path).graph.initializer}


def test_weights_that_float16_holds_take_half_the_bytes_and_answer_the_same(tmp_path):
    large = one_convolution(tmp_path / "large.onnx", rounded(64, 8, 3, 3))
    compact_onnx(large, tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size < 0.55 * large.stat().st_size
    np.testing.assert_array_equal(answers(tmp_path / "small.onnx"), answers(large))


def test_a_kernel_with_a_batch_norms_scale_in_it_is_stored_as_its_factors(tmp_path):
    kernel = rounded(64, 8, 3, 3)
    kernel[5] = 0  # a dead channel has no scale to be found
    scale = np.random.default_rng(2).uniform(-3, 3, (64, 1, 1, 1)).astype(np.float32)
    large = one_convolution(tmp_path / "large.onnx", kernel * scale)
    compact_onnx(large, tmp_path / "small.onnx", [rounded(64, 8, 3, 3, seed=9), kernel])
    assert types(tmp_path / "small.onnx") == {
        "weights/half": TensorProto.FLOAT16,
        "weights/scale": TensorProto.FLOAT,
    }
    np.testing.assert_array_equal(answers(tmp_path / "small.onnx"), answers(large))


@pytest.mark.parametrize("value", [0.1, 1e6, 1e-9])
def test_one_value_that_float16_does_not_hold_keeps_the_whole_constant(tmp_path, value):
    weights = rounded(64, 8, 3, 3)
    weights[3, 2, 1, 0] = value
    large = one_convolution(tmp_path / "large.onnx", weights)
    compact_onnx(large, tmp_path / "small.onnx", [rounded(64, 8, 3, 3)])
    assert types(tmp_path / "small.onnx") == {"weights": TensorProto.FLOAT}
    np.testing.assert_array_equal(answers(tmp_path / "small.onnx"), answers(large))


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    model = keras.Sequential(
        [keras.Input((6, 6, 8)), keras.layers.Conv2D(64, 3), keras.layers.BatchNormalization()]
    )
    weights = [rounded(*w.shape, seed=i) for i, w in enumerate(model.get_weights())]
    model.set_weights(weights)
    path = tmp_path_factory.mktemp("keras") / "model.keras"
    model.save(path)
    return path, weights


def test_a_keras_file_loads_as_before_from_fewer_bytes(tmp_path, keras_file):
    path, weights = keras_file
    compact_keras(path, tmp_path / "small.keras")
    assert (tmp_path / "small.keras").stat().st_size < 0.7 * path.stat().st_size
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    for given, expected in zip(loaded.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(given, expected)


def test_the_same_weights_give_the_same_file(tmp_path, keras_file):
    for name in ("once", "again"):
        compact_keras(keras_file[0], tmp_path / name)
    assert files.sha256(tmp_path / "once") == files.sha256(tmp_path / "again")


def test_the_kernels_come_as_onnx_lays_them_out(keras_file):
    path, weights = keras_file
    (kernel,) = convolution_kernels(path)
    np.testing.assert_array_equal(kernel, weights[0].transpose(3, 2, 0, 1))
