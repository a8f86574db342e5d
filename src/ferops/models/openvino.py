"""The packaged classifier on OpenVINO: the same `model.onnx` in fp32, or in bf16 where the CPU computes it.

    >>> OpenVinoClassifier(Path("packages/patt_lite")).self_check()  # doctest: +SKIP

bf16 rounds the factors of every product to 8 bits, so that labels near a border change: its answers are to be
judged (`ferops.promotion.judge_variants`) before they are given.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ferops.models.classifier import Images
from ferops.models.cores import cores
from ferops.models.onnx import OnnxClassifier, RuntimeUnavailableError, Signature

#: Linux' word for instructions that multiply bf16. OpenVINO also says BF16 of CPUs that only emulate it,
#: which is slower than fp32.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


class OpenVinoClassifier(OnnxClassifier):
    """A package folder as a `Classifier`, in fp32; see `OnnxClassifier` for arguments and errors."""

    #: OpenVINO's name of the arithmetic.
    precision: ClassVar[str] = "f32"

    def _open(self, model: Path, threads: int) -> Signature:
        openvino = _openvino()
        core = openvino.Core()
        # As many calls at one time as there are cores for; by itself OpenVINO counts the machine's. The batch
        # stays free: compiled for a fixed number of images it takes other kernels, and in bf16 gives other
        # answers.
        threads = min(threads or cores(), cores())
        streams = cores() // threads
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.precision,
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(streams * threads),
        }
        self._compiled = core.compile_model(core.read_model(model), "CPU", options)
        self._idle: list[Any] = []
        self._runtime = f"openvino {openvino.__version__.split('-')[0]} (CPU, {self.precision})"
        inputs = {
            port.any_name: (
                port.element_type.to_dtype().name,
                [size.get_length() if size.is_static else None for size in list(port.partial_shape)[1:]],
            )
            for port in self._compiled.inputs
        }
        return Signature(inputs, [name for port in self._compiled.outputs for name in port.names])

    def _compute(self, images: Images) -> Sequence[NDArray[np.float32]]:
        try:
            request = self._idle.pop()  # one call at a time may use it
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            computed = request.infer({"images": images})
            return [computed[name] for name in self._outputs]  # copies
        finally:
            self._idle.append(request)


class OpenVinoBf16Classifier(OpenVinoClassifier):
    """The same in bf16, on CPUs with AMX or AVX512-BF16."""

    reduced = True
    precision = "bf16"

    def _open(self, model: Path, threads: int) -> Signature:
        if not cpu_flags() & BF16_FLAGS:
            raise RuntimeUnavailableError("this CPU has no instructions for bf16 (AMX or AVX512-BF16)")
        return super()._open(model, threads)


def cpu_flags() -> frozenset[str]:
    """What the first CPU can do, in the words of Linux; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), []))


def _openvino() -> Any:
    # `import openvino` sends a message to its makers where this package is installed, and asks nobody.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise RuntimeUnavailableError("OpenVINO is not installed") from error
    return openvino
