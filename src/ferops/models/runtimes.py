"""What can compute a package, by name; `FEROPS_RUNTIME` takes these.

>>> RUNTIMES["openvino"](Path("packages/patt_lite"), threads=1).runtime  # doctest: +SKIP
'openvino 2026.4.1 (CPU, f32)'
"""

from collections.abc import Mapping

from ferops.models.onnx import CudaClassifier, OnnxClassifier
from ferops.models.openvino import OpenVinoBf16Classifier, OpenVinoClassifier

#: Runs everywhere, and gives the answers that were evaluated.
REFERENCE = "onnxruntime"

RUNTIMES: Mapping[str, type[OnnxClassifier]] = {
    REFERENCE: OnnxClassifier,
    "onnxruntime-cuda": CudaClassifier,
    "openvino": OpenVinoClassifier,
    "openvino-bf16": OpenVinoBf16Classifier,
}

#: What `auto` takes: the first that this machine has and that this model may be computed by. By order and not
#: by stopwatch, so that each worker and each start gives the same answers; docs/runtime.md has the figures.
PREFERENCE = ("onnxruntime-cuda", "openvino-bf16", REFERENCE)

#: Their answers differ from the evaluated ones, so that each needs a verdict of its own on each model.
REDUCED = tuple(name for name, kind in RUNTIMES.items() if kind.reduced)
