"""The files of a trained model in half the bytes, without loss.

    >>> compact_keras(Path("models/patt_lite/model.keras"), Path("small.keras"))  # doctest: +SKIP
    >>> compact_onnx(onnx_file, Path("small.onnx"), convolution_kernels(keras_file))  # doctest: +SKIP

It works on weights that training rounded to values which float16 holds. Everything is still read as float32:
the small files load with plain Keras and ONNX Runtime, into the same numbers as the large ones. A weight that
float16 does not hold is kept as it is.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]

#: Values in a constant below which another node costs more bytes than it saves.
SMALLEST = 256

#: Float32 neighbours that are tried on either side of an estimated scale.
NEIGHBOURS = 4


def compact_keras(source: Path, out: Path) -> None:
    """Write a `.keras` file anew so that it compresses well; `keras.saving.load_model` reads it as any other.

    HDF5's shuffle filter puts the lower bytes of the weights beside each other. They are zero where float16
    holds the weight, and the archive's own deflate removes them.
    """
    with (
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new,
    ):
        for entry in old.infolist():
            content = old.read(entry)
            # An entry made from a name alone would hold the present time, and each file would be another.
            fixed = zipfile.ZipInfo(entry.filename)
            fixed.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(fixed, _shuffled(content) if entry.filename.endswith(".h5") else content)


def _shuffled(content: bytes) -> bytes:
    import h5py

    out = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as old, h5py.File(out, "w") as new:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                large = item.size >= SMALLEST
                filters = {"shuffle": True, "chunks": item.shape} if large else {}
                written = new.create_dataset(name, data=item[()], **filters)
            else:
                written = new.require_group(name)
            written.attrs.update(item.attrs)

        old.visititems(copy)
        new.attrs.update(old.attrs)
    return out.getvalue()


def convolution_kernels(keras_file: Path) -> list[Weights]:
    """The convolutions of a `.keras` file as ONNX lays them out, float32 `[out, in, h, w]` each."""
    import h5py

    kernels: list[Weights] = []
    with zipfile.ZipFile(keras_file) as archive:
        content = next(archive.read(name) for name in archive.namelist() if name.endswith(".h5"))

    def collect(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 4:
            kernels.append(item[()].transpose(3, 2, 0, 1))

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(collect)
    return kernels


def compact_onnx(source: Path, out: Path, kernels: Sequence[Weights] = ()) -> None:
    """Write an ONNX model with its large constants in float16, each cast back to float32.

    Export multiplies the scale of a batch norm into the kernel before it, and float16 does not hold the
    products. Such a constant is stored as its two factors. ONNX Runtime and OpenVINO compute cast and product
    once, at load.

    Args:
        source: the model, its weights inside the file.
        out: where the small one goes.
        kernels: what batch norms may have been multiplied into, from `convolution_kernels`.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    constants, nodes = [], []
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant)
        parts = _factors(values, kernels) if values.dtype == np.float32 and values.size >= SMALLEST else None
        if parts is None:
            constants.append(constant)
            continue
        half, scale = parts
        name = constant.name
        constants.append(numpy_helper.from_array(half, f"{name}/half"))
        cast = name if scale is None else f"{name}/kernel"
        nodes.append(
            helper.make_node("Cast", [f"{name}/half"], [cast], name=f"{name}/cast", to=TensorProto.FLOAT)
        )
        if scale is not None:
            constants.append(numpy_helper.from_array(scale, f"{name}/scale"))
            nodes.append(helper.make_node("Mul", [cast, f"{name}/scale"], [name], name=f"{name}/multiply"))
    nodes += model.graph.node  # a node stands behind those it reads from
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(constants)
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    out.write_bytes(model.SerializeToString())


def _factors(
    values: Weights, kernels: Sequence[Weights]
) -> tuple[NDArray[np.float16], Weights | None] | None:
    """Values as float16, or as float16 times a float32 scale of each row; none where neither is exact."""
    half = _halved(values)
    if half is not None:
        return half, None
    for kernel in kernels:
        if kernel.shape != values.shape:
            continue
        half, scale = _halved(kernel), _scale(values, kernel)
        if half is not None and scale is not None:
            return half, scale
    return None


def _halved(values: Weights) -> NDArray[np.float16] | None:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else None


def _scale(values: Weights, kernel: Weights) -> Weights | None:
    """float32 `[out, 1, 1, 1]` with `values == kernel * scale` in every bit, or none."""
    rows = len(values)
    products, factors = values.reshape(rows, -1), kernel.reshape(rows, -1)
    squares = (factors.astype(np.float64) ** 2).sum(axis=1)
    sums = (products.astype(np.float64) * factors).sum(axis=1)
    guess = np.divide(sums, squares, out=np.zeros(rows), where=squares > 0).astype(np.float32)
    for _ in range(NEIGHBOURS):
        guess = np.nextafter(guess, np.float32(-np.inf))
    scale, found = np.zeros(rows, np.float32), np.zeros(rows, bool)
    for _ in range(2 * NEIGHBOURS + 1):
        exact = ~found & (factors * guess[:, None] == products).all(axis=1)
        scale[exact], found = guess[exact], found | exact
        guess = np.nextafter(guess, np.float32(np.inf))
    return scale.reshape(rows, *[1] * (values.ndim - 1)) if found.all() else None
