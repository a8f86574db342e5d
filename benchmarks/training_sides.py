"""One side of `benchmarks/training.py`, alone in its process: the published notebook's training, or ours.

    python benchmarks/training_sides.py job.json result.json

The original is the notebook's training (published_notebook.py). Ours is `ferops.training.fit.fit` as
`ferops train` calls it. Both are watched through Keras' callbacks.
"""

import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from ferops import files
from ferops.settings import Recipe, load_settings
from ferops.training.batches import LabelledImages
from ferops.training.device import prepare
from ferops.training.fit import fit
from published_notebook import ENDLESS, NOTEBOOK_SIZE, rgb, train_original

Side = Literal["ours", "original"]
STAGES = ("frozen", "fine_tune")
#: Ours with frozen batch norms, as the notebook's are, where the recipe's train.
AS_FROZEN = "fine_tune, frozen norms"
ROOT = Path(__file__).parents[1]
#: Steps that are not timed: the first is traced by TensorFlow, the next fill its caches.
WARM_UP_STEPS = 3
#: Fewest steps and validation images that a speed is taken from.
LEAST_STEPS, VALIDATION_IMAGES = 3, 1024


@dataclass(frozen=True)
class Job:
    """What one process measures.

    Attributes:
        side: whose training.
        data: `.npz` with grey `[N, 48, 48]` and labels of `train`, `validation` and `test`.
        backbone: `imagenet`, `none`, or a weights file.
        recipe: ours, one of `params.yaml`.
        attention: the original's wiring, `feature` or `batch`.
        side_pixels: image size of both stages; none: the recipe's own.
        seconds: how long each stage is timed. 0: train for accuracy instead.
        budget_seconds: how long to train for accuracy.
        targets: accuracies on the test split; training ends at the highest.
    """

    side: Side
    data: str
    backbone: str
    recipe: str
    attention: Literal["feature", "batch"] = "feature"
    side_pixels: int | None = None
    seconds: float = 0.0
    budget_seconds: float = 0.0
    targets: Sequence[float] = (0.60, 0.65)


class FinishedError(Exception):
    """The measurement has what it wants."""


class Stopwatch(keras.callbacks.Callback):
    """Times the steps of each `fit` and how long each waited for its batch, then ends that `fit`.

    A step runs from the end of the one before, so that all callbacks and the input count. The batch is
    taken from the input's iterator by itself, outside the compiled step; the time until it is there is the
    waiting. Elsewhere `fit` does the same inside the compiled step.

    Args:
        seconds: how long to time the steps of each `fit`.
        validation_rows: images of a validation pass.
    """

    def __init__(self, seconds: float, validation_rows: int) -> None:
        super().__init__()
        self.seconds, self.validation_rows = seconds, validation_rows
        self.stages: list[dict[str, float]] = []
        self.input_speed: float | None = None

    def time_input(self, data: Any) -> None:
        """How many images a second the input makes while nothing else runs, if it makes batches on demand."""
        if not isinstance(data, keras.utils.PyDataset):
            return
        made, start = 0, time.perf_counter()
        for index in itertools.cycle(range(len(data))):
            made += len(data[index][0])
            spent = time.perf_counter() - start
            if spent >= min(2, self.seconds):
                break
        self.input_speed = made / spent

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Take batches and steps apart."""
        self._steps = self._images = 0
        self._time = self._waited = self._processor = 0.0
        step = tf.function(
            self.model.train_step,
            reduce_retracing=True,
            jit_compile=self.model.jit_compile,
            autograph=False,
        )

        def train_function(iterator: Iterator[Any]) -> Any:
            asked = time.perf_counter()
            batch = next(iterator)
            self._wait = time.perf_counter() - asked
            self._batch = len(batch[0])
            return step(batch)

        self.model.train_function = train_function

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the first step's clock."""
        self._last, self._last_processor = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Add the step, unless it is a warm-up; end when there are enough."""
        now, processor = time.perf_counter(), time.process_time()
        self._steps += 1
        if self._steps > WARM_UP_STEPS:
            self._time += now - self._last
            self._processor += processor - self._last_processor
            self._waited += self._wait
            self._images += self._batch
        self._last, self._last_processor = now, processor
        if self._time >= self.seconds and self._steps >= WARM_UP_STEPS + LEAST_STEPS:
            self.model.stop_training = True

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Validation begins."""
        self._test_started = 0.0

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock after the first batch, which is traced."""
        now = time.perf_counter()
        if not self._test_started:
            self._test_started, self._test_first = now, batch
        self._test_seconds = now - self._test_started
        self._test_images = self.validation_rows * (batch - self._test_first) / (batch + 1)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Keep what was measured."""
        self.stages.append(
            {
                "images_per_second": self._images / self._time,
                "validation_images_per_second": self._test_images / self._test_seconds,
                "waiting_share": self._waited / self._time,
                "processor_seconds_per_image": self._processor / self._images,
                "steps": self._steps - WARM_UP_STEPS,
                "peak_mib": peak_mib(),
            }
        )


class Race(keras.callbacks.Callback):
    """Measures accuracy on the test split after every epoch, off the clock, until the targets or the budget.

    It looks at the end of the validation pass, while averaged weights, if any, are in place: those are what a
    training keeps. So it must be the first of the callbacks.

    Args:
        test: the split; nothing is chosen on it.
        targets: accuracies; the highest ends the race.
        budget: seconds on the clock.
        on_point: called with the curve so far.
    """

    def __init__(
        self,
        test: LabelledImages,
        targets: Sequence[float],
        budget: float,
        on_point: Callable[[list[dict[str, float]]], None],
    ) -> None:
        super().__init__()
        self.test, self.goal, self.budget, self.on_point = test, max(targets), budget, on_point
        self.curve: list[dict[str, float]] = []
        self._measured = False
        self._start, self._paused, self._epochs = time.perf_counter(), 0.0, 0
        self._processor, self._processor_paused = time.process_time(), 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """End in the middle of an epoch when the budget is spent."""
        if time.perf_counter() - self._start - self._paused >= self.budget:
            if not self.model.optimizer.use_ema:  # averaged weights are in place at validation alone
                self._measure(self._epochs + (batch + 1) / self.params["steps"], {})
            raise FinishedError

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Its point is to come."""
        self._measured = False

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Add a point to the curve."""
        self._add((logs or {}).get("accuracy"))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Add the point of an epoch that was not validated."""
        if not self._measured:
            self._add(None)

    def _add(self, validation: float | None) -> None:
        self._epochs += 1
        self._measured = True
        self._measure(self._epochs, {} if validation is None else {"validation_accuracy": float(validation)})
        if self.curve[-1]["test_accuracy"] >= self.goal:
            raise FinishedError

    def _measure(self, epochs: float, validation: dict[str, float]) -> None:
        now, processor = time.perf_counter(), time.process_time()
        minutes = (now - self._start - self._paused) / 60
        processor_minutes = (processor - self._processor - self._processor_paused) / 60
        self.model.make_predict_function(force=True)  # the image size may have grown
        order = np.random.default_rng(0).permutation(len(self.test))
        right = 0
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            scores = self.model.predict_on_batch(rgb(self.test.grey[rows]))
            right += int((np.argmax(scores, axis=1) == self.test.labels[rows]).sum())
        accuracy = right / len(order)
        self.curve.append(
            {
                "minutes": minutes,
                "processor_minutes": processor_minutes,
                "epochs": epochs,
                "test_accuracy": accuracy,
                **validation,
            }
        )
        print(f"{minutes:6.1f} min  {epochs:5.2f} epochs  test accuracy {accuracy:.3f}", file=sys.stderr)
        self.on_point(self.curve)
        self._paused += time.perf_counter() - now
        self._processor_paused += time.process_time() - processor


def peak_mib() -> float:
    """Highest resident memory of this process so far, MiB.

    From Linux' VmHWM where there is one: `ru_maxrss` may be inherited from the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, on macOS


@contextmanager
def watched(callback: keras.callbacks.Callback) -> Iterator[None]:
    """Give every `Model.fit` this callback, so that the real training is timed, not a copy.

    A `Stopwatch` is the last, and times what the others do too; a `Race` the first.
    """
    plain = keras.Model.fit

    def watched_fit(model: keras.Model, x: Any, *args: Any, callbacks: Any = (), **kwargs: Any) -> Any:
        if isinstance(callback, Stopwatch):
            callback.time_input(x)
            return plain(model, x, *args, callbacks=[*callbacks, callback], **kwargs)
        return plain(model, x, *args, callbacks=[callback, *callbacks], **kwargs)

    with mock.patch.object(keras.Model, "fit", watched_fit):
        yield


def train_ours(job: Job, data: LabelledImages, validation: LabelledImages) -> None:
    """A recipe by the project's own training."""
    recipe = load_settings(ROOT / "params.yaml").recipes[job.recipe]
    changes: dict[str, Any] = {"backbone": job.backbone}
    if job.side_pixels is not None:
        changes |= {"image_size": job.side_pixels, "start_image_size": None}
        changes |= {name: getattr(recipe, name).model_copy(update={"epochs": ENDLESS}) for name in STAGES}
    recipe = Recipe.model_validate(recipe.model_copy(update=changes).model_dump())
    prepare(recipe)
    fit(recipe, "feature", 0, data, validation)
    if job.seconds and recipe.fine_tune.train_batch_norm:
        frozen_norms = recipe.fine_tune.model_copy(update={"train_batch_norm": False})
        skipped = recipe.frozen.model_copy(update={"epochs": 0})
        recipe = recipe.model_copy(update={"frozen": skipped, "fine_tune": frozen_norms})
        fit(recipe, "feature", 0, data, validation)


def load(path: str, split: str, rows: int | None = None) -> LabelledImages:
    """A split of the packed dataset, or an even selection of so many of its rows."""
    with np.load(path) as packed:
        grey, labels = packed[f"{split}_grey"], packed[f"{split}_labels"]
    if rows is not None and rows < len(labels):
        chosen = np.linspace(0, len(labels) - 1, rows).astype(int)
        grey, labels = grey[chosen], labels[chosen]
    return LabelledImages(grey, labels)


def run(job: Job, on_change: Callable[[dict[str, Any]], None] = lambda result: None) -> dict[str, Any]:
    """Do a job.

    Args:
        job: what to measure.
        on_change: called with the result so far.

    Returns:
        The job's settings, `stages` (speed) or `curve` (accuracy), `versions` and `peak_mib`.
    """
    result: dict[str, Any] = {
        "job": asdict(job),
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
    }
    data = load(job.data, "train")

    def train(validation: LabelledImages) -> None:
        if job.side == "ours":
            train_ours(job, data, validation)
        else:
            endless = job.side_pixels is not None
            size = job.side_pixels or NOTEBOOK_SIZE
            train_original(data, validation, job.backbone, job.attention, size, endless)

    if job.seconds:
        validation = load(job.data, "validation", VALIDATION_IMAGES)
        stopwatch = Stopwatch(job.seconds, len(validation))
        with watched(stopwatch):
            train(validation)
        timed = (*STAGES, AS_FROZEN) if len(stopwatch.stages) > len(STAGES) else STAGES
        result["stages"] = dict(zip(timed, stopwatch.stages, strict=True))
        result["input_images_per_second"] = stopwatch.input_speed
    else:
        validation, test = load(job.data, "validation"), load(job.data, "test")

        def on_point(curve: list[dict[str, float]]) -> None:
            on_change({**result, "curve": curve, "peak_mib": peak_mib()})

        race = Race(test, job.targets, job.budget_seconds, on_point)
        try:
            with watched(race):
                train(validation)
        except FinishedError:
            pass
        result["curve"] = race.curve
    return {**result, "peak_mib": peak_mib()}


def main() -> None:
    """Read a job, write its result; while it trains for accuracy, after every point."""
    job, out = Job(**json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2])
    files.write_json(out, run(job, lambda result: files.write_json(out, result)))


if __name__ == "__main__":
    main()
