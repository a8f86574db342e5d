"""Verdicts on reduced precision: which arithmetic may give a model's answers, and what it was found to do.

    >>> load_variants(Path("release")).judged["openvino-bf16"].passed  # doctest: +SKIP
    True

They lie beside the model as `variants.json`, and are no part of a package's identity: its digest leaves them
out. `ferops.promotion.judge_variants` makes them, `ferops.serving.runtime` obeys them.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ferops import files
from ferops.models.onnx import MODEL_FILE

VARIANTS_FILE = "variants.json"


class Variant(BaseModel):
    """One model file in one arithmetic, measured on the test split beside fp32.

    Attributes:
        passed: whether it may answer.
        model_sha256: of the `model.onnx` that was measured; the verdict is on no other.
        rows: test images without copies in train.
        accuracy, calibration_error: of this variant, 0 to 1.
        fp32_accuracy, fp32_calibration_error: of ONNX Runtime in fp32 on the same images.
        agreement: share of the images with the same label as fp32.
        max_difference: the largest distance of a probability from fp32's.
        speedup: images/s over fp32's, by images a call, on one thread of the machine that judged.
        runtime, machine: what computed.
        rules: every rule with its number, limit and sentence, see `ferops.promotion.rules.Rule`.
        answers: probabilities of the package's recorded images, to know it again at start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    model_sha256: str
    dataset_sha256: str
    synthetic: bool
    rows: int
    accuracy: float
    fp32_accuracy: float
    calibration_error: float
    fp32_calibration_error: float
    agreement: float
    max_difference: float
    speedup: Mapping[str, float]
    runtime: str
    machine: str
    decided_at: str
    rules: tuple[Mapping[str, Any], ...]
    answers: tuple[tuple[float, ...], ...]

    @property
    def failed(self) -> list[str]:
        """Sentences of the rules that did not pass."""
        return [str(rule["sentence"]) for rule in self.rules if not rule["passed"]]


class Variants(BaseModel):
    """What `variants.json` holds.

    Attributes:
        judged: by runtime, see `ferops.models.runtimes.RUNTIMES`.
        not_judged: why there is no verdict on the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    judged: Mapping[str, Variant] = {}
    not_judged: Mapping[str, str] = {}

    def save(self, folder: Path) -> None:
        """Write `variants.json`, atomically."""
        files.write_json(folder / VARIANTS_FILE, self.model_dump(mode="json"))

    def lines(self) -> list[str]:
        """For a terminal."""
        said = []
        for name, variant in self.judged.items():
            speed = ", ".join(f"{ratio:.2f}x at {images}" for images, ratio in variant.speedup.items())
            said.append(
                f"{name} {'passed' if variant.passed else 'was refused'}: accuracy {variant.accuracy:.4f} "
                f"(fp32 {variant.fp32_accuracy:.4f}), calibration error {variant.calibration_error:.4f} "
                f"({variant.fp32_calibration_error:.4f}), {variant.agreement:.2%} of {variant.rows} labels "
                f"as fp32, speed {speed} images a call"
            )
            said += [f"  {sentence}" for sentence in variant.failed]
        return said + [f"{name} was not judged: {reason}" for name, reason in self.not_judged.items()]


def load_variants(folder: Path) -> Variants:
    """The verdicts beside a model; none where there is no such file.

    Raises:
        ValueError: if it is not one that `save` wrote.
    """
    path = folder / VARIANTS_FILE
    if not path.is_file():
        return Variants()
    try:
        return Variants.model_validate(files.read_json(path))
    except ValidationError as error:
        raise ValueError(f"{path} cannot be read, `ferops variants` writes it anew: {error}") from error


def carry_over(source: Path | None, folder: Path) -> bool:
    """Put the verdicts of `source` (a folder) beside the model in `folder`, if they are on this very model.

    What lies there and cannot be read is written over.

    Returns:
        Whether anything was written; without a source nothing is.

    Raises:
        ValueError: if the source's `variants.json` is not one that `Variants.save` wrote.
    """
    found = load_variants(source) if source is not None else Variants()
    if not found.judged:
        return False
    digest = files.sha256(folder / MODEL_FILE)
    if any(variant.model_sha256 != digest for variant in found.judged.values()):
        return False
    with suppress(ValueError):
        if load_variants(folder) == found:
            return False
    found.save(folder)
    return True
