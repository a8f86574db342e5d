"""The packaged classifier: one ONNX file with its preprocessing inside, run by ONNX Runtime alone.

    >>> classifier = OnnxClassifier(Path("packages/patt_lite"))  # doctest: +SKIP
    >>> classifier.self_check()  # doctest: +SKIP
    >>> classifier.predict(images).probabilities  # float32 [N, 7]  # doctest: +SKIP

Gate, service and monitor use this one, so that what is judged is what is served. Other runtimes that compute
the same file derive from it, see `ferops.models.runtimes`. No training framework is imported here, and ONNX
Runtime only where it computes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ferops.emotions import EMOTIONS, NUM_EMOTIONS
from ferops.models.classifier import Card, Images, Predictions
from ferops.models.cores import cores

MODEL_FILE = "model.onnx"
CARD_FILE = "card.json"
RECORDED_FILE = "recorded.npz"

#: Largest difference to the recorded probabilities at load. ONNX Runtime picks its kernels by the machine,
#: which moves float32 sums by about 1e-6; a damaged or exchanged model moves them by far more.
SELF_CHECK_TOLERANCE = 1e-4


class BrokenPackageError(RuntimeError):
    """A package folder is incomplete, damaged, or does not answer as it did when it was written."""


@dataclass(frozen=True)
class Recorded:
    """Images and the probabilities the model gave for them when it was packaged.

    Attributes:
        images: uint8 `[N, side, side, 3]`.
        probabilities: float32 `[N, 7]`.
    """

    images: Images
    probabilities: NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Write `recorded.npz`."""
        np.savez_compressed(folder / RECORDED_FILE, images=self.images, probabilities=self.probabilities)

    @classmethod
    def load(cls, folder: Path) -> "Recorded":
        """Read `recorded.npz`.

        Raises:
            BrokenPackageError: if it is absent or damaged.
        """
        path = folder / RECORDED_FILE
        try:
            with np.load(path) as arrays:
                return cls(arrays["images"], arrays["probabilities"])
        except Exception as error:
            raise BrokenPackageError(f"{path} cannot be read ({error}): run `dvc repro package`") from error


class RuntimeUnavailableError(RuntimeError):
    """The runtime cannot compute on this machine; says why. The package may be in order."""


@dataclass(frozen=True)
class Signature:
    """What a loaded model takes and gives.

    Attributes:
        inputs: name to element type and shape less the batch, such as `("uint8", [48, 48, 3])`.
        outputs: names.
    """

    inputs: dict[str, tuple[str, list[Any]]]
    outputs: list[str]


class OnnxClassifier:
    """A package folder as a `Classifier`.

    Args:
        folder: holds `model.onnx`, `card.json` and `recorded.npz`.
        threads: of the runtime for one call; 0 lets it take every core.

    Attributes:
        choice: why this runtime computes, where it was chosen by `ferops.serving.runtime`.

    Raises:
        BrokenPackageError: if a file is absent or damaged, or the model's inputs and outputs are not those
            of the card.
        RuntimeUnavailableError: if the runtime cannot compute on this machine.
    """

    #: Whether its answers differ visibly from those that were evaluated, by its arithmetic.
    reduced: ClassVar[bool] = False

    #: ONNX Runtime's execution provider, and its options.
    provider: ClassVar[str] = "CPUExecutionProvider"
    provider_options: ClassVar[Mapping[str, str]] = {}

    choice: Any = None

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.folder = folder
        for name in (MODEL_FILE, CARD_FILE):
            if not (folder / name).is_file():
                raise BrokenPackageError(f"{folder} is no model package, it has no {name}: run `dvc repro`")
        try:
            self._card = Card.load(folder / CARD_FILE)
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenPackageError(f"{folder / CARD_FILE} cannot be read: {error}") from error
        try:
            signature = self._open(folder / MODEL_FILE, threads)
        except RuntimeUnavailableError:
            raise
        except Exception as error:  # each runtime raises its own, undocumented classes
            raise BrokenPackageError(f"{folder / MODEL_FILE} cannot be loaded: {error}") from error
        self._check_signature(signature)

    def _open(self, model: Path, threads: int) -> Signature:
        """Load the model; raises whatever the runtime does."""
        import onnxruntime

        if self.provider not in onnxruntime.get_available_providers():
            raise RuntimeUnavailableError(f"this build of ONNX Runtime has no {self.provider}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()  # by itself it counts the machine's
        options.log_severity_level = 3
        # Spinning threads would take the cores from the service that shares them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            str(model), options, providers=[(self.provider, dict(self.provider_options))]
        )
        if session.get_providers()[0] != self.provider:  # it falls back to the CPU by itself
            raise RuntimeUnavailableError(f"ONNX Runtime could not start its {self.provider}")
        self._session = session
        self._runtime = f"onnxruntime {onnxruntime.__version__} ({self.provider})"
        return Signature(
            {n.name: (n.type[len("tensor(") : -1], list(n.shape)[1:]) for n in session.get_inputs()},
            [node.name for node in session.get_outputs()],
        )

    def _compute(self, images: Images) -> Sequence[NDArray[np.float32]]:
        """One batch through the model: the arrays of `self._outputs`, in that order."""
        computed: list[NDArray[np.float32]] = self._session.run(self._outputs, {"images": images})
        return computed

    def _check_signature(self, signature: Signature) -> None:
        side = self._card.input_side
        if signature.inputs != {"images": ("uint8", [side, side, 3])}:
            raise BrokenPackageError(
                f"{self.folder / MODEL_FILE} takes {signature.inputs}, "
                f"but must take images uint8 [N, {side}, {side}, 3]"
            )
        wanted = ["probabilities", *(["embedding"] if self._card.embedding_size else [])]
        if not set(wanted) <= set(signature.outputs):
            raise BrokenPackageError(
                f"{self.folder / MODEL_FILE} gives {signature.outputs}, but must give {wanted}"
            )
        if self._card.labels != EMOTIONS:
            raise BrokenPackageError(f"{self.folder / CARD_FILE}: labels must be {', '.join(EMOTIONS)}")
        self._outputs = wanted

    @property
    def card(self) -> Card:
        """Who it is; `card.kind` is `onnx`."""
        return self._card

    @property
    def runtime(self) -> str:
        """Name and version of what computes, such as `onnxruntime 1.32.0 (CPUExecutionProvider)`."""
        return self._runtime

    def predict(self, images: Images, batch_size: int = 32) -> Predictions:
        """Classify uint8 `[N, side, side, 3]` in batches cut front to back. Safe to call from many threads.

        Raises:
            ValueError: if `images` has another dtype or shape.
        """
        side = self._card.input_side
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
            raise ValueError(
                f"{self._card.name} takes uint8 [N, {side}, {side}, 3], "
                f"not {images.dtype} {list(images.shape)}"
            )
        parts = [
            self._compute(images[start : start + batch_size]) for start in range(0, len(images), batch_size)
        ]
        size = self._card.embedding_size
        if not parts:
            return Predictions(
                np.empty((0, NUM_EMOTIONS), np.float32), np.empty((0, size), np.float32) if size else None
            )
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return Predictions(columns[0], columns[1] if size else None)

    def self_check(
        self, tolerance: float = SELF_CHECK_TOLERANCE, expected: NDArray[np.float32] | None = None
    ) -> float:
        """Compare with `recorded.npz` and give the largest difference of a probability.

        Args:
            tolerance: how large it may be.
            expected: float32 `[N, 7]` for the recorded images, instead of what was recorded.

        Raises:
            BrokenPackageError: if it exceeds `tolerance`, or nothing was recorded.
        """
        recorded = Recorded.load(self.folder)
        expected = recorded.probabilities if expected is None else expected
        probabilities = self.predict(recorded.images).probabilities
        if probabilities.shape != expected.shape or not len(probabilities):
            raise BrokenPackageError(
                f"{self.folder / RECORDED_FILE} holds probabilities {list(expected.shape)} "
                f"for {len(probabilities)} images"
            )
        difference = float(np.abs(probabilities - expected).max())
        if not difference <= tolerance:  # also true for NaN
            raise BrokenPackageError(
                f"{self.folder} does not answer as it did when it was packaged: a probability differs by "
                f"{difference:.2g}, more than {tolerance:g} ({self.runtime}). The file was exchanged or "
                "damaged: run `dvc repro package`"
            )
        return difference


class CudaClassifier(OnnxClassifier):
    """A package folder on a GPU of NVIDIA, where this build of ONNX Runtime has the provider."""

    provider = "CUDAExecutionProvider"
    #: TF32 would round the factors of every product to 10 bits: that is no fp32.
    provider_options: ClassVar[Mapping[str, str]] = {"use_tf32": "0"}
