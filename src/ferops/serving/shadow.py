"""A challenger on live traffic: it sees what the model sees, its answers go to a log and to nobody else.

    >>> shadow = Shadow(classifier, "package-0a1b2c3d", log)  # doctest: +SKIP
    >>> shadow.offer(faces, records)  # returns at once  # doctest: +SKIP
    >>> [print(agreement.table()) for agreement in read_agreements(Path("predictions"))]  # doctest: +SKIP

It runs on one thread of low priority. When it cannot follow, images pass it by and are counted.
"""

import logging
import os
import queue
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferops.emotions import EMOTIONS
from ferops.models.classifier import Images
from ferops.models.onnx import OnnxClassifier
from ferops.serving.log_reader import read_log
from ferops.serving.prediction_log import PredictionLog

if TYPE_CHECKING:
    from ferops.serving.metrics import Metrics

#: Images that may wait for the challenger: 256 of them are 2 MB at 48x48, 39 MB at 224x224.
ROOM = 256

logger = logging.getLogger("bentoml.ferops")


class Shadow:
    """A challenger, the images that wait for it, and the log of what both said.

    Args:
        challenger: checked, and on one thread.
        version: of the challenger, as the log names it.
        log: gets one record an image.
        metrics: told of agreement and of images that were dropped.
        room: images that may wait.
    """

    def __init__(
        self,
        challenger: OnnxClassifier,
        version: str,
        log: PredictionLog,
        metrics: "Metrics | None" = None,
        room: int = ROOM,
    ) -> None:
        self.version = version
        self.side = challenger.card.input_side
        self.dropped = 0
        self._challenger = challenger
        self._log = log
        self._metrics = metrics
        self._room = room
        self._waiting = 0
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[tuple[Images, Sequence[Mapping[str, Any]]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="shadow", daemon=True).start()

    def offer(self, faces: Images, records: Sequence[Mapping[str, Any]]) -> None:
        """Show images uint8 `[N, side, side, 3]` and the model's records of them; never waits."""
        with self._lock:
            if self._waiting + len(records) > self._room:
                self._drop(len(records))
                return
            self._waiting += len(records)
        self._work.put((faces, records))

    def _drop(self, images: int) -> None:
        self.dropped += images
        if self._metrics:
            self._metrics.shadow_dropped.inc(images)

    def _run(self) -> None:
        with suppress(OSError, AttributeError):  # only Linux has priorities of threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        failing = False
        while True:
            faces, records = self._work.get()
            try:
                self._compare(faces, records)
                failing = False
            except Exception as error:  # a challenger that fails is a finding, and nothing to stop for
                if not failing:
                    logger.warning("challenger %s failed: %s", self.version, error)
                failing = True
                with self._lock:
                    self._drop(len(records))
            finally:
                with self._lock:
                    self._waiting -= len(records)

    def _compare(self, faces: Images, records: Sequence[Mapping[str, Any]]) -> None:
        answers = self._challenger.predict(faces).probabilities
        compared = []
        for record, probabilities in zip(records, answers, strict=True):
            label = EMOTIONS[int(probabilities.argmax())]
            compared.append(
                {
                    "id": record["id"],
                    "time": record["time"],
                    "model_version": record["model_version"],
                    "label": record["label"],
                    "probabilities": record["probabilities"],
                    "challenger_version": self.version,
                    "challenger_label": label,
                    "challenger_probabilities": [float(f"{p:.7g}") for p in probabilities],
                }
            )
            if self._metrics:
                self._metrics.shadow_images.labels(str(label == record["label"]).lower()).inc()
        self._log.shadow(compared)


@dataclass
class Agreement:
    """How far a challenger agrees with the model that answered, over the same images.

    Attributes:
        model_version, challenger_version: who was compared.
        images: how many.
        distance: sum of the total variation distances of the probabilities, each 0 (equal) to 1.
        labels: images by (label of the model, label of the challenger).
    """

    model_version: str
    challenger_version: str
    images: int = 0
    distance: float = 0.0
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def agreed(self) -> int:
        """Images with the same label."""
        return sum(count for (mine, theirs), count in self.labels.items() if mine == theirs)

    @property
    def mean_distance(self) -> float:
        """Mean total variation distance, 0 to 1."""
        return self.distance / self.images

    def table(self) -> str:
        """The whole and each emotion, for a terminal."""
        lines = [
            f"{self.challenger_version} beside {self.model_version}: {self.agreed} of {self.images} images "
            f"with the same label ({self.agreed / self.images:.1%}), mean distance of the probabilities "
            f"{self.mean_distance:.4f} (0 equal, 1 disjoint)",
            f"{'label':<10}{'images':>8}{'same':>8}{'share':>8}  the challenger said instead",
        ]
        for emotion in EMOTIONS:
            said = Counter({theirs: n for (mine, theirs), n in self.labels.items() if mine == emotion})
            images, same = said.total(), said.pop(emotion, 0)
            others = ", ".join(f"{label} {n}" for label, n in said.most_common())
            share = f"{same / images:.1%}" if images else ""
            lines.append(f"{emotion:<10}{images:>8}{same:>8}{share:>8}  {others}".rstrip())
        return "\n".join(lines)


def read_agreements(log_dir: Path) -> list[Agreement]:
    """One for each pair of versions that the shadow log knows, the pair that was seen last at the end."""
    gaps = "list_transform(list_zip(probabilities, challenger_probabilities), lambda p: abs(p[1] - p[2]))"
    counted = read_log(
        log_dir,
        lambda log: log.execute(
            "SELECT model_version, challenger_version, label, challenger_label, "
            f"count(*), sum(list_sum({gaps}) / 2), max(time) FROM shadow WHERE id IS NOT NULL GROUP BY ALL"
        ).fetchall(),
    )
    found: dict[tuple[str, str], Agreement] = {}
    last: dict[tuple[str, str], datetime] = {}
    for model, challenger, label, theirs, images, distance, time in counted:
        pair = model, challenger
        agreement = found.setdefault(pair, Agreement(*pair))
        agreement.images += images
        agreement.distance += distance
        agreement.labels[label, theirs] = images
        last[pair] = max(last.get(pair, time), time)
    return sorted(found.values(), key=lambda a: last[a.model_version, a.challenger_version])
