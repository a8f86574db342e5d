"""Which runtime computes a model on this machine, and why; shown in `GET /model` as `inference`.

    >>> classifier = open_checked(Path("release"), "auto")  # doctest: +SKIP
    >>> classifier.choice.runtime, classifier.choice.passed_over  # doctest: +SKIP
    ('openvino-bf16', {'onnxruntime-cuda': 'this build of ONNX Runtime has no CUDAExecutionProvider'})

A runtime that cannot compute here, does not answer as recorded, or has no passing verdict where it needs one,
is passed over; ONNX Runtime in fp32 is the last resort, and if that fails the model is broken.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferops import files
from ferops.models.onnx import MODEL_FILE, BrokenPackageError, OnnxClassifier, RuntimeUnavailableError
from ferops.models.runtimes import PREFERENCE, REFERENCE, RUNTIMES
from ferops.promotion.variants import Variant, load_variants

logger = logging.getLogger("bentoml.ferops")

#: Largest difference of a probability between a reduced precision here and where it was judged. bf16 kernels
#: for AMX and for AVX-512 add in another order and round to 8 bits: 0.007 on the 3,589 images of FER2013.
REDUCED_TOLERANCE = 0.02


@dataclass(frozen=True)
class Choice:
    """What computes, and why nothing else.

    Attributes:
        asked: `FEROPS_RUNTIME`.
        runtime: name, one of `ferops.models.runtimes.RUNTIMES`.
        reduced: True when its answers differ visibly from fp32.
        passed_over: what would have been preferred, and why it does not compute.
        evidence: of a reduced precision, what it was found to do on the test split.
    """

    asked: str
    runtime: str
    reduced: bool
    passed_over: Mapping[str, str]
    evidence: Mapping[str, Any] | None


def open_checked(folder: Path, asked: str, threads: int = 0) -> OnnxClassifier:
    """The model in a package folder on the runtime that is asked for, or `auto`; checked and warmed up.

    Args:
        folder: of the package.
        asked: a runtime or `auto`.
        threads: of one call; 0 lets it take every core.

    Raises:
        BrokenPackageError: if the model is broken.
    """
    order = PREFERENCE if asked == "auto" else dict.fromkeys((asked, REFERENCE))
    passed_over: dict[str, str] = {}
    for name in order:
        try:
            classifier, evidence = _opened(name, folder, threads)
        except RuntimeUnavailableError as error:
            reason, worth_a_warning = str(error), asked != "auto"
        except (BrokenPackageError, ValueError) as error:
            if name == REFERENCE:
                raise
            logger.warning("%s does not compute this model: %s", name, error)
            reason, worth_a_warning = "it does not answer as recorded, the log says more", False
        else:
            shown = evidence.model_dump(exclude={"answers"}) if evidence else None
            classifier.choice = Choice(asked, name, classifier.reduced, passed_over, shown)
            return classifier
        passed_over[name] = reason
        if worth_a_warning:
            logger.warning("FEROPS_RUNTIME=%s does not compute this model: %s", name, reason)
    raise AssertionError("the reference runtime answers or raises")


def _opened(name: str, folder: Path, threads: int) -> tuple[OnnxClassifier, Variant | None]:
    kind = RUNTIMES[name]
    if not kind.reduced:
        classifier = kind(folder, threads)
        classifier.self_check()
        return classifier, None
    variants = load_variants(folder)
    evidence = variants.judged.get(name)
    if evidence is None:
        reason = variants.not_judged.get(name, "`ferops variants` was not run")
        raise RuntimeUnavailableError(f"there is no verdict on this precision of the model: {reason}")
    if evidence.model_sha256 != files.sha256(folder / MODEL_FILE):
        raise RuntimeUnavailableError("the verdict on this precision is on another model")
    if not evidence.passed:
        raise RuntimeUnavailableError(f"this precision of the model was refused: {' '.join(evidence.failed)}")
    classifier = kind(folder, threads)
    classifier.self_check(REDUCED_TOLERANCE, np.asarray(evidence.answers, np.float32))
    return classifier, evidence
