"""Training that is killed goes on from its last whole epoch, and ends as if nothing had happened.

    >>> with Checkpoint.claim(Path("checkpoints"), identity) as checkpoint:  # doctest: +SKIP
    ...     fit(recipe, attention, seed, data, validation, checkpoint=checkpoint)
    ...     checkpoint.finish()

A checkpoint holds everything that later epochs depend on: weights, the optimiser's variables (moments, step
of the schedule, averaged weights), the state of every random generator, patience, curves and the best weights
so far. Each folder belongs to one identity (recipe, data, code), so nothing is continued with other settings.
"""

import io
import json
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ferops import files
from ferops.errors import reason
from ferops.training.callbacks import Best, Row

STATE, RUN, LOCK = "state.npz", "run.json", "lock"

#: Key in `run.json` of a training that ended: its MLflow run.
FINISHED = "finished"

#: Unfinished trainings of other recipes, data or code that are kept; each takes some 20 MB.
KEPT = 5

#: How long to wait for a folder: another process may be looking after it (`tidy`).
PATIENCE_SECONDS = 3

#: What patience consists of in Keras' own callbacks.
PATIENCE = ("best", "wait", "cooldown_counter")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or another training holds it; the message says what to do."""


@dataclass(frozen=True)
class State:
    """A training after a whole epoch.

    Attributes:
        stage: position of the stage that was running, 0 or 1.
        epoch: epochs done in it.
        stopped: whether patience ended the stage at that epoch.
        rows: of every epoch so far, over both stages.
        best: the best epoch so far.
        variables: of the model: weights and the states of its random generators.
        optimizer: the optimiser's.
        patience: counters by callback's class.
    """

    stage: int
    epoch: int
    stopped: bool
    rows: list[Row]
    best: Best
    variables: list[NDArray[Any]]
    optimizer: list[NDArray[Any]]
    patience: Mapping[str, Mapping[str, float | None]]

    def restore(self, network: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        """Put weights, random generators and optimiser of that stage back."""
        optimizer.build(network.trainable_variables)
        _assign(network.variables, self.variables)
        _assign(optimizer.variables, self.optimizer)


@dataclass(frozen=True)
class Checkpoint:
    """One training's folder, held by this process while it runs (`claim`).

    Attributes:
        folder: holds `state.npz` once an epoch is done, and `run.json`.
    """

    folder: Path

    @staticmethod
    @contextmanager
    def claim(root: Path, identity: str) -> Iterator["Checkpoint"]:
        """Hold the folder of an identity against other processes; a killed one's hold ends with it.

        Args:
            root: folder of all checkpoints.
            identity: hex digest of all that the training depends on.

        Raises:
            CheckpointError: if another process trains the same, or the folder cannot be written.
        """
        folder = root / identity[:16]
        lock = FileLock(folder / LOCK)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=PATIENCE_SECONDS)
        except Timeout:
            raise CheckpointError(
                f"another process is training this very recipe on this data (it holds {folder}): "
                "wait for it, or change train.seed"
            ) from None
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            checkpoint = Checkpoint(folder)
            checkpoint.sweep_up()
            yield checkpoint
        finally:
            lock.release()

    @property
    def finished(self) -> str | None:
        """MLflow run of a training that ended and whose outcome was written; none of others."""
        return (self.origin or {}).get(FINISHED)

    def last_saved(self) -> float:
        """When the training last came to something: its last epoch's end, or its beginning."""
        state = self.folder / STATE
        return (state if state.exists() else self.folder / RUN).stat().st_mtime

    @property
    def origin(self) -> dict[str, str] | None:
        """What `begin` noted; none before the training began, or where it is damaged."""
        path = self.folder / RUN
        try:
            noted = files.read_json(path) if path.exists() else None
        except ValueError as error:
            print(f"{error}: the training gets a new MLflow run", file=sys.stderr)
            return None
        return noted if noted and "attempt" in noted else None  # earlier code noted no attempt

    def begin(self, lineage: Mapping[str, str]) -> dict[str, str]:
        """Note the lineage that the training begins with, and under `attempt` an identity for its MLflow run.

        Returns:
            What was noted: of a training that is resumed, when it began.

        Raises:
            CheckpointError: if it cannot be noted.
        """
        origin = self.origin
        if origin is None:
            origin = {"attempt": uuid.uuid4().hex, **lineage}
            self._note(origin)
        return origin

    def save(self, state: State) -> None:
        """Replace the checkpoint; the old one stays until the new one is whole on disk.

        Raises:
            CheckpointError: if it cannot be written (a full disk).
        """
        meta = {
            "stage": state.stage,
            "epoch": state.epoch,
            "stopped": state.stopped,
            "rows": state.rows,
            "best": {
                "score": state.best.score,
                "epoch": state.best.epoch,
                "image_size": state.best.image_size,
            },
            "patience": state.patience,
            "arrays": {kind: len(group) for kind, group in _groups(state).items()},
        }
        arrays = {
            f"{kind}_{i:03d}": array
            for kind, group in _groups(state).items()
            for i, array in enumerate(group)
        }
        content = io.BytesIO()
        np.savez(content, meta=np.array(json.dumps(meta)), **arrays)  # type: ignore[arg-type]
        try:
            files.write_bytes(self.folder / STATE, content.getvalue())
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of epoch {len(state.rows)} cannot be written to {self.folder} ({error}): "
                "make room, then train again; it goes on from the epoch before"
            ) from error

    def load(self) -> State | None:
        """The last saved state, or none when no epoch was finished or the file is damaged.

        Raises:
            CheckpointError: if the file cannot be read.
        """
        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            content = path.read_bytes()
        except OSError as error:  # it may be whole: the next epoch must not replace it
            raise CheckpointError(
                f"the checkpoint {path} cannot be read ({error}): let this user read it, or delete it to "
                "start anew"
            ) from error
        try:
            return self._read(content)
        except Exception as error:  # zipfile, zlib and numpy raise nearly anything on damaged bytes
            print(f"{path} is damaged ({reason(error)}): training starts anew", file=sys.stderr)
            return None

    @staticmethod
    def _read(content: bytes) -> State:
        with np.load(io.BytesIO(content)) as saved:
            meta = json.loads(str(saved["meta"]))
            groups = {
                kind: [saved[f"{kind}_{i:03d}"] for i in range(count)]
                for kind, count in meta["arrays"].items()
            }
        of_best = meta["best"]
        best = Best(tuple(of_best["score"]), groups["best"], of_best["epoch"], of_best["image_size"])
        return State(
            meta["stage"],
            meta["epoch"],
            meta["stopped"],
            meta["rows"],
            best,
            groups["variables"],
            groups["optimizer"],
            meta["patience"],
        )

    def finish(self, run_id: str) -> None:
        """Note that the training is finished, and keep it until another begins (`tidy`).

        Its outcome is written, but DVC may be killed before it notes so. It then throws the outcome away and
        asks for it again: hours need not be repeated for that.

        Args:
            run_id: the training's MLflow run.
        """
        with suppress(OSError):  # a full disk: then it goes on from its last epoch, which is the end too
            files.write_json(self.folder / RUN, {**(self.origin or {}), FINISHED: run_id})

    def reopen(self) -> None:
        """Note that the training is not finished: its outcome was lost, and is to be written again.

        Raises:
            CheckpointError: if it cannot be noted.
        """
        self._note({key: value for key, value in (self.origin or {}).items() if key != FINISHED})

    def _note(self, origin: Mapping[str, str]) -> None:
        try:
            files.write_json(self.folder / RUN, origin)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def sweep_up(self) -> None:
        """Remove files and folders that a killed process was writing."""
        for torn in self.folder.glob(".*.tmp-*"):
            if torn.is_dir():
                shutil.rmtree(torn, ignore_errors=True)
            else:
                torn.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget the training, all but the best model of one that diverged."""
        self.sweep_up()
        for name in (STATE, RUN):
            (self.folder / name).unlink(missing_ok=True)


def tidy(root: Path, close: Callable[[str], None]) -> None:
    """Look after trainings that no process holds.

    MLflow runs of unfinished ones are closed, and only the newest are kept; finished ones are forgotten. The
    best epoch of one that diverged stays: its user was told to start from it.

    Args:
        root: folder of all checkpoints.
        close: called with the `attempt` of each, while it cannot be resumed by others.
    """
    unfinished: list[tuple[float, Path]] = []
    for folder in sorted(path.parent for path in root.glob(f"*/{RUN}")):
        with _held(folder) as checkpoint:
            if checkpoint is None:
                continue
            if checkpoint.finished:
                checkpoint.clear()
                continue
            if origin := checkpoint.origin:
                close(origin["attempt"])
            unfinished.append((checkpoint.last_saved(), folder))
    for saved, folder in sorted(unfinished)[:-KEPT]:
        with _held(folder) as checkpoint:
            if checkpoint is not None and checkpoint.last_saved() == saved:  # nobody went on with it
                print(
                    f"{folder}: forgetting an unfinished training; {KEPT} newer ones are kept",
                    file=sys.stderr,
                )
                checkpoint.clear()


@contextmanager
def _held(folder: Path) -> Iterator[Checkpoint | None]:
    """The training of a folder, held while it is looked at; none where a process holds it or it is gone."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield None
        return
    try:
        yield Checkpoint(folder) if (folder / RUN).exists() else None
    finally:
        lock.release()


class Task(Protocol):
    """What a training has come to: the curves and the best epoch."""

    rows: list[Row]
    best: Best | None


class SaveCheckpoint(keras.callbacks.Callback):
    """Save after every epoch; the last of the callbacks, so that it sees what the others made of the epoch.

    Args:
        checkpoint: where to.
        stage: position of the stage.
        network: the model of this `fit`, or the one inside it without the images.
        task: holds rows and best.
        callbacks: of this `fit`; the patience among them is saved, and restored from `resumed`.
        resumed: the state that this `fit` continues.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        stage: int,
        network: keras.Model,
        task: Task,
        callbacks: Sequence[keras.callbacks.Callback],
        resumed: State | None,
    ) -> None:
        super().__init__()
        self.checkpoint, self.stage, self.task, self.resumed = checkpoint, stage, task, resumed
        self.network = network
        kinds = (keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau)
        self.patient = {type(one).__name__: one for one in callbacks if isinstance(one, kinds)}

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Restore patience, which Keras has just reset."""
        for name, counters in (self.resumed.patience if self.resumed else {}).items():
            for key, value in counters.items():
                setattr(self.patient[name], key, value)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save."""
        assert self.task.best is not None  # every epoch is validated, and the first is the best so far
        patience = {
            name: {key: _number(getattr(one, key)) for key in PATIENCE if hasattr(one, key)}
            for name, one in self.patient.items()
        }
        self.checkpoint.save(
            State(
                self.stage,
                epoch + 1,
                bool(self.model.stop_training),
                self.task.rows,
                self.task.best,
                [_numpy(variable) for variable in self.network.variables],
                [_numpy(variable) for variable in self.model.optimizer.variables],
                patience,
            )
        )


def identity(*parts: Any) -> str:
    """Digest of what a training depends on: JSON-like values, dataclasses too."""
    content = json.dumps(parts, sort_keys=True, default=asdict)
    return files.sha256_of(content.encode())


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"checkpoints cannot be written to {folder} ({error}): make room, or let FEROPS_CHECKPOINT_DIR name "
        "a folder that can be written"
    )


def _groups(state: State) -> dict[str, list[NDArray[Any]]]:
    return {"variables": state.variables, "optimizer": state.optimizer, "best": state.best.weights}


def _assign(variables: Sequence[Any], values: Sequence[NDArray[Any]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _numpy(variable: Any) -> NDArray[Any]:
    return np.array(keras.ops.convert_to_numpy(variable))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
