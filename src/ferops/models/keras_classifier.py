"""Any Keras image classifier of the seven emotions as a `Classifier`: `.keras` files that others trained.

    >>> classifier = load(Path("theirs.keras"), labels=["anger", "disgust", ...])  # doctest: +SKIP
    >>> classifier.predict(images).probabilities  # doctest: +SKIP

The input may be uint8 or float, square of any side, with one channel or three; the output probabilities or
logits. What a file does not tell (the order of its outputs, the range of its pixels) is the caller's to say.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import keras
import numpy as np
from numpy.typing import NDArray

from ferops.data.images import FACE_SIDE
from ferops.emotions import EMOTIONS, NUM_EMOTIONS, permutation
from ferops.errors import reason
from ferops.models.classifier import Card, Images, Predictions, TrainingData

#: What a model takes a pixel for: grey values as they are, or scaled outside the model.
PixelRange = Literal["0..255", "0..1", "-1..1"]
PIXEL_RANGES: tuple[PixelRange, ...] = get_args(PixelRange)

#: How much more often another reading must be right before the given one counts as a mistake: at least this,
#: and four standard errors of the difference between two that guess, for few images say little.
MISREAD = 0.1

#: How far from 1 the sum of a row of probabilities may be: a softmax in bfloat16, which has 8 bits, misses it
#: by up to 0.0033. And from where on a row is divided by its sum: float32's own rounding stays below.
ROUNDED, EXACT = 1e-2, 1e-6


class UnusableModelError(ValueError):
    """The model is no classifier of square images into the seven emotions; the message says what it is."""


class KerasClassifier:
    """A `keras.Model` as a `Classifier`.

    Args:
        model: `[N, side, side, 1 or 3]` to `[N, 7]` probabilities or logits.
        card: who it is; `card.own_labels` names the model's outputs in their order.
        pixels: the range in which a float input expects grey values; uint8 inputs take `0..255`.

    Raises:
        UnusableModelError: if the shapes are others.
    """

    def __init__(self, model: keras.Model, card: Card, pixels: PixelRange = "0..255") -> None:
        side, self._channels = input_size(model)
        self.model = model
        self._card = card
        self.pixels = pixels
        self._dtype = str(model.inputs[0].dtype)
        if pixels not in PIXEL_RANGES:
            raise UnusableModelError(f"pixels {pixels!r} is none of {', '.join(PIXEL_RANGES)}")
        if self.takes_integers and pixels != "0..255":
            raise UnusableModelError(f"the model takes {self._dtype} images: their pixels are 0..255")
        self._order = permutation(card.own_labels)
        # Asked once, on noise: whether the rows are distributions must not change from batch to batch.
        noise = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
        answer = self._outputs(noise)
        self._logits = not (_nearly_one(answer.sum(axis=1)) & (answer >= 0).all(axis=1)).all()

    @property
    def card(self) -> Card:
        """Who it is."""
        return self._card

    @property
    def takes_integers(self) -> bool:
        """Whether the input is of an integer type, so that its pixels can only be 0 to 255."""
        return "int" in self._dtype

    @property
    def short_floats(self) -> bool:
        """Whether a layer computes in 16 bits: its rounding then depends on the size of the batch."""
        return any(layer.compute_dtype in ("bfloat16", "float16") for layer in self.model._flatten_layers())

    def predict(self, images: Images, batch_size: int = 32) -> Predictions:
        """Classify uint8 `[N, side, side, 3]`, batches cut front to back; see `Classifier.predict`.

        Probabilities that a short float type rounded are made to sum to 1; others are given as they are.
        """
        if len(images) == 0:
            return Predictions(np.empty((0, NUM_EMOTIONS), np.float32))
        answers = [
            self._outputs(images[start : start + batch_size]) for start in range(0, len(images), batch_size)
        ]
        outputs = np.concatenate(answers)
        if self._logits:
            outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            outputs /= outputs.sum(axis=1, keepdims=True)
        else:
            sums = outputs.sum(axis=1)
            # A row that is far off is no rounding: it stays as it is, for whoever measures to refuse.
            rounded = (np.abs(sums - 1) > EXACT) & _nearly_one(sums)
            outputs[rounded] /= sums[rounded, None]
        return Predictions(outputs[:, self._order])

    def _outputs(self, images: Images) -> NDArray[np.float32]:
        """The model's own output float32 `[N, 7]` of one batch."""
        batch: NDArray = images[..., : self._channels]  # faces are grey: their channels are equal
        if not self.takes_integers:
            batch = batch.astype(np.float32)
            if self.pixels == "0..1":
                batch /= 255
            elif self.pixels == "-1..1":
                batch = batch / 127.5 - 1
        (answer,) = keras.tree.flatten(self.model.predict_on_batch(batch))  # a dictionary's one value too
        outputs = np.asarray(answer, np.float32)
        if not np.isfinite(outputs).all():
            raise UnusableModelError(
                f"{self._card.name} answers NaN or infinity to images in a batch of {len(images)}: it has "
                "diverged, or cannot answer batches of that size"
            )
        return outputs


def input_size(model: keras.Model) -> tuple[int, int]:
    """Side and channels of the images that a model takes; a free side is read as 48, FER2013's.

    Raises:
        UnusableModelError: if it does not map square images of one or three channels to seven outputs.
    """
    try:
        inputs, outputs = model.inputs or [], model.outputs or []
    except AttributeError:  # Keras knows them of functional models alone
        raise UnusableModelError(
            "the model does not tell what it takes (a subclassed one, or a Sequential without Input): save "
            "`keras.Model(x, model(x))` with `x = keras.Input((side, side, channels))` instead"
        ) from None
    if len(inputs) != 1 or len(outputs) != 1:
        raise UnusableModelError(
            f"the model has {len(inputs)} inputs and {len(outputs)} outputs: "
            "give one that maps one batch of images to one tensor"
        )
    taken, given = tuple(inputs[0].shape), tuple(outputs[0].shape)
    if len(taken) != 4 or taken[1] != taken[2] or taken[3] not in (1, 3):
        raise UnusableModelError(f"the model takes {_shown(taken)}: expected [N, side, side, 1 or 3]")
    if taken[0] is not None:
        raise UnusableModelError(
            f"the model takes batches of exactly {taken[0]}: save it with a free batch size, `[N, …]`"
        )
    if given != (None, NUM_EMOTIONS):
        raise UnusableModelError(
            f"the model gives {_shown(given)}: expected [N, {NUM_EMOTIONS}], one output for each of "
            + ", ".join(EMOTIONS)
        )
    return taken[1] or FACE_SIDE, taken[3]


def load(
    path: Path, *, labels: Sequence[str] | None = None, pixels: PixelRange = "0..255"
) -> KerasClassifier:
    """Load a `.keras` or `.h5` file, or a folder with `model.keras`; a `card.json` beside it tells who it is.

    Args:
        path: the file or the folder.
        labels: the emotions in the order of the model's outputs; none: the card's, else the canonical order.
        pixels: see `KerasClassifier`.

    Raises:
        FileNotFoundError: if there is no such file.
        UnusableModelError: if Keras cannot read it, it is no classifier of the seven emotions, or `labels` do
            not name each of them once.
    """
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"no model at {file}: give a .keras or .h5 file, or a folder with model.keras"
        )
    try:
        model = keras.saving.load_model(file, compile=False)
    except Exception as error:  # unknown layers, Lambda layers, other formats: Keras raises many kinds
        raise UnusableModelError(f"Keras {keras.__version__} cannot load {file}: {reason(error)}") from error
    try:
        side, _ = input_size(model)
        card = _card(file, model, side, asked=path.is_dir())
        return KerasClassifier(model, replace(card, own_labels=tuple(labels or card.own_labels)), pixels)
    except ValueError as error:
        raise UnusableModelError(f"{file} cannot be used: {error}") from error


def refuse_misreading(classifier: KerasClassifier, images: Images, labels: NDArray[np.int64]) -> None:
    """Say so when a model would be far better with another order of its outputs or another pixel range.

    A file that others trained tells neither, and a wrong guess makes a good model look random. Keras' own
    `flow_from_directory` numbers classes alphabetically, so that this is the order to expect beside ours.

    Args:
        classifier: as it is read now.
        images: uint8 `[N, side, side, 3]`, some hundred that are not the test split's.
        labels: int64 `[N]`.

    Raises:
        UnusableModelError: if another reading is right more often by `MISREAD`, and surely so.
    """
    given = (classifier.card.own_labels, classifier.pixels)
    ranges = ("0..255",) if classifier.takes_integers else PIXEL_RANGES
    right: dict[tuple[tuple[str, ...], PixelRange], float] = {}
    for order, pixels in itertools.product({given[0], EMOTIONS, tuple(sorted(EMOTIONS))}, ranges):
        card = replace(classifier.card, own_labels=order)
        try:
            answer = KerasClassifier(classifier.model, card, pixels).predict(images).probabilities
        except UnusableModelError:  # a root or logarithm of pixels that this reading makes negative
            if (order, pixels) == given:
                raise
            continue
        right[order, pixels] = float((answer.argmax(axis=1) == labels).mean())
    best = max(right, key=lambda reading: (right[reading], reading == given))
    guess = 1 / NUM_EMOTIONS
    noise = 4 * math.sqrt(2 * guess * (1 - guess) / len(labels))
    if right[best] > right[given] + max(MISREAD, noise):
        advice = [f"--labels {','.join(best[0])}"] if best[0] != given[0] else []
        advice += [f"--pixels {best[1]}"] if best[1] != given[1] else []
        raise UnusableModelError(
            f"{classifier.card.name} is right on {right[given]:.0%} of {len(labels)} validation images, "
            f"but on {right[best]:.0%} if its file is read otherwise: add {' '.join(advice)}"
        )


def refuse_chance(classifier: KerasClassifier, images: Images, tolerance: float) -> None:
    """Say so when a model answers the same batch differently each time: nothing is said then of neighbours.

    Args:
        classifier: any.
        images: uint8 `[N, side, side, 3]`, one batch.
        tolerance: of a probability, between two calls.

    Raises:
        UnusableModelError: if its answers differ by more.
    """
    first, second = (classifier.predict(images, len(images)).probabilities for _ in range(2))
    change = float(np.abs(first - second).max())
    if change > tolerance:
        raise UnusableModelError(
            f"{classifier.card.name} answers the same images differently each time (by up to {change:.2g}): "
            "it has dropout, noise or augmentation that is on when it predicts; save it without"
        )


def _nearly_one(sums: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.abs(sums - 1) <= ROUNDED


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('N' if size is None else str(size) for size in shape)}]"


def _card(file: Path, model: keras.Model, side: int, asked: bool) -> Card:
    """The card beside the file, else one that says what the file itself tells.

    Args:
        file: the model's.
        model: of the file.
        side: of its images.
        asked: whether its folder was named, so that the card is its own. Beside a file lies what happens to.

    Raises:
        ValueError: if the folder that was named has something else as its card.
    """
    beside = file.with_name("card.json")
    if beside.is_file():
        try:
            return replace(Card.load(beside), input_side=side)
        except ValueError:
            if asked:
                raise
    return Card(
        name=file.stem,
        kind="keras",
        input_side=side,
        parameters=model.count_params(),
        training_data=TrainingData(known=False),
    )
