"""What happens between epochs: the best weights are kept, curves are logged, the time left is told."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ferops.emotions import NUM_EMOTIONS

#: An epoch's numbers, as `Curves` makes them.
Row = dict[str, Any]


#: Mean training loss of an epoch beyond which it has diverged: three times what guessing costs, 1.95.
#: The project's own choice: a sound training stays below 3 even in its first epoch.
LARGEST_LOSS = 3 * math.log(NUM_EMOTIONS)

#: What to do about it.
REMEDY = "lower learning_rate or set clip_norm in the recipe"


class DivergedError(RuntimeError):
    """The loss is no number or far above guessing, or weights outgrew float16; training stopped."""


def half_precision(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the nearest float16, kept as float32.

    Raises:
        DivergedError: if a weight is NaN, or beyond float16's range (65504).
    """
    with np.errstate(over="ignore"):
        rounded = weight.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise DivergedError(f"a weight is NaN or larger than 65504: {REMEDY}")
    return rounded


class StopOnDivergence(keras.callbacks.Callback):
    """Raise `DivergedError` at a loss that is not a number or far too large; the first of the callbacks.

    A batch's loss says nothing of the update that follows it, so validation's is looked at too, before an
    epoch can become the best or a checkpoint. That may be large: moving statistics lag at first. On JAX
    some steps may have followed by the time a batch's loss is known: the loop does not wait for it.

    Args:
        stage: name of the stage, for the message.
    """

    async_safe = True  # else Keras waits for every step's result before it starts the next

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self._epoch = 0
        self._mean = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self._epoch, self._mean = epoch, 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Check the loss, which is the mean over the epoch so far."""
        self._mean = (logs or {}).get("loss", 0.0)
        self._check(logs, f"batch {batch + 1}")

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Check the mean loss of the epoch's training, which is over."""
        if self._mean > LARGEST_LOSS:
            self._stop(self._mean, "mean of all batches")

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Check the loss of the validation pass."""
        self._check(logs, "validation")

    def _check(self, logs: dict[str, float] | None, where: str) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            self._stop(loss, where)

    def _stop(self, loss: float, where: str) -> None:
        raise DivergedError(
            f"the loss became {loss:.4g} in stage {self.stage}, epoch {self._epoch + 1}, {where}: {REMEDY}"
        )


@dataclass(frozen=True)
class Best:
    """The best epoch so far.

    Attributes:
        score: validation accuracy and, to break ties, the negative loss.
        weights: as `Model.get_weights` gives them; averaged ones, if there are any.
        epoch: counted from 1 over both stages.
        image_size: side that it was validated at, pixels; at another side it is another model.
    """

    score: tuple[float, float]
    weights: list[NDArray[Any]]
    epoch: int
    image_size: int


class KeepBest(keras.callbacks.Callback):
    """Hand on the weights of every epoch that is better than all before (validation accuracy, then loss).

    It looks at the end of the validation pass, while averaged weights (EMA), if any, are in place, so it
    must stand before `SwapEMAWeights` in the list of callbacks.

    Args:
        network: whose weights: the model of this `fit`, or the one inside it.
        best: what there is to beat.
        first_epoch: epochs done in earlier stages.
        on_best: called with each better one.
    """

    def __init__(
        self, network: keras.Model, best: Best | None, first_epoch: int, on_best: Callable[[Best], None]
    ) -> None:
        super().__init__()
        self.network = network
        self.score = best.score if best else (-1.0, -math.inf)
        self.first_epoch, self.on_best = first_epoch, on_best
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note which epoch the coming validation pass belongs to."""
        self._epoch = epoch

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Copy the weights when this pass is the best so far."""
        values = logs or {}
        score = (float(values["accuracy"]), -float(values["loss"]))
        if score > self.score:
            self.score = score
            weights = [np.array(weight) for weight in self.network.get_weights()]
            for weight in weights:
                half_precision(weight)  # told now: what cannot be kept is no reason to train on
            side = self.network.get_layer("resize").height
            self.on_best(Best(score, weights, self.first_epoch + self._epoch + 1, side))


class GrowImages(keras.callbacks.Callback):
    """Let the model's own resize grow over a stage: early epochs are cheap, the last ones see what is served.

    Progressive learning (Tan and Le 2021, "EfficientNetV2"), without its growing augmentation.

    Args:
        network: the PAtt-Lite that is trained: the model of this `fit`, or the one inside it.
        start: side of the first epochs, pixels.
        end: side of the last ones; reached in steps of 16, with equal shares of the epochs.
        epochs: of the stage.
    """

    STEP = 16  # the backbone's stride: sizes that are multiples give whole maps

    def __init__(self, network: keras.Model, start: int, end: int, epochs: int) -> None:
        super().__init__()
        self.network = network
        self.sides = [*range(start, end, self.STEP), end]
        self.epochs = epochs

    def _side(self, epoch: int) -> int:
        # Counted from the end, so that the last epoch has the largest side however few epochs there are.
        left = self.epochs - 1 - epoch
        return self.sides[len(self.sides) - 1 - left * len(self.sides) // self.epochs]

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Let the backbone, which refuses other sizes than it was built for, take any."""
        any_size = keras.layers.InputSpec(shape=(None, None, None, 3))
        self.network.get_layer("base_model").input_spec = any_size

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Set the side of the coming epoch."""
        side = self._side(epoch)
        resize = self.network.get_layer("resize")
        if resize.height != side:
            resize.height = resize.width = side
            # The size is a constant of the compiled steps, so these are compiled again.
            self.model.make_train_function(force=True)
            self.model.make_test_function(force=True)


class Progress(keras.callbacks.Callback):
    """One line an epoch and, within an epoch, one every few seconds, with the time left of the stage.

    Args:
        stage: name shown.
        epochs: of the stage.
        batches: per epoch.
        first: epochs of the stage that an earlier, interrupted training has done.
        every: seconds between lines within an epoch.
    """

    async_safe = True  # else Keras waits for every step's result before it starts the next

    def __init__(self, stage: str, epochs: int, batches: int, first: int = 0, every: float = 10.0) -> None:
        super().__init__()
        self.stage, self.epochs, self.batches, self.every = stage, epochs, batches, every
        self.first = first
        self._epoch = 0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Start the clock."""
        self._start = self._shown = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Tell where training is, now and then."""
        now = time.monotonic()
        if now - self._shown >= self.every:
            self._shown = now
            values = logs or {}
            self._say(
                f"batch {batch + 1}/{self.batches}  loss {values.get('loss', math.nan):.3f}  "
                f"accuracy {values.get('accuracy', math.nan):.3f}",
                self._epoch + (batch + 1) / self.batches,
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Tell how the epoch went."""
        values = logs or {}
        self._say(
            f"loss {values['loss']:.3f}  accuracy {values['accuracy']:.3f}  "
            f"validation loss {values['val_loss']:.3f}  accuracy {values['val_accuracy']:.3f}",
            epoch + 1,
        )

    def _say(self, text: str, done: float) -> None:
        elapsed = time.monotonic() - self._start
        left = elapsed / (done - self.first) * (self.epochs - done)
        print(
            f"{self.stage} epoch {self._epoch + 1}/{self.epochs}  {text}  "
            f"left {int(left) // 60}:{int(left) % 60:02d}",
            file=sys.stderr,
            flush=True,
        )


class Curves(keras.callbacks.Callback):
    """Collect one row an epoch and hand it on.

    Args:
        stage: name of the stage, kept in each row.
        first_epoch: epochs done in earlier stages.
        images: train images per epoch, for the throughput.
        network: whose size of images is told.
        on_row: called with each row.
    """

    def __init__(
        self,
        stage: str,
        first_epoch: int,
        images: int,
        network: keras.Model,
        on_row: Callable[[Row], None],
    ) -> None:
        super().__init__()
        self.network = network
        self.stage, self.first_epoch, self.images, self.on_row = stage, first_epoch, images, on_row
        self._train_seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Validation begins: the epoch's training is over."""
        self._train_seconds = time.monotonic() - self._start

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Hand on the epoch's row."""
        values = logs or {}
        self.on_row(
            {
                "epoch": self.first_epoch + epoch + 1,
                "stage": self.stage,
                "image_size": self.network.get_layer("resize").height,
                "train_loss": float(values["loss"]),
                "train_accuracy": float(values["accuracy"]),
                "validation_loss": float(values["val_loss"]),
                "validation_accuracy": float(values["val_accuracy"]),
                "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
                "images_per_second": self.images / max(self._train_seconds, 1e-9),
            }
        )
