"""What `ferops explain batch-leak` finds: everything in `batch_leak.json`, and on the page."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from ferops.evaluation.batch_invariance import Arrangement, BatchInvariance
from ferops.evaluation.metrics import Metrics
from ferops.explanation.neighbours import SharePoint

#: The companies in which the page shows single images.
COMPANIES: tuple[Arrangement, ...] = ("single", "shuffled", "class_sorted")


class Gain(BaseModel):
    """Accuracy in class-sorted batches minus accuracy alone, on the same images.

    Attributes:
        difference, interval: with `[low, high]`, paired percentile bootstrap.
        only_sorted_right, only_alone_right: images where just one of the two is right.
        p_value: exact McNemar test of equal accuracy, two-sided.
    """

    model_config = ConfigDict(frozen=True)

    difference: float
    interval: tuple[float, float]
    only_sorted_right: int
    only_alone_right: int
    p_value: float


class Measured(BaseModel):
    """One model in every company.

    Attributes:
        name: the candidate's.
        attention: a PAtt-Lite's wiring, else none.
        invariance: what the gate's rule `batch_invariance` looks at.
        metrics: by arrangement: accuracy with its interval, recall of each emotion, and the rest.
        gain: of class-sorted batches over single images.
        shares: accuracy by share of same-class neighbours.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    attention: str | None
    invariance: BatchInvariance
    metrics: Mapping[str, Metrics]
    gain: Gain
    shares: tuple[SharePoint, ...]


class Answer(BaseModel):
    """What a model said of one image in one company.

    Attributes:
        neighbours: how many other images of the batch show each emotion.
        beside: ids of some of them.
    """

    model_config = ConfigDict(frozen=True)

    predicted: str
    probabilities: Mapping[str, float]
    neighbours: Mapping[str, int]
    beside: tuple[str, ...]


class Example(BaseModel):
    """One image and the answers it got, by arrangement (`COMPANIES`)."""

    model_config = ConfigDict(frozen=True)

    id: str
    emotion: str
    answers: Mapping[str, Answer]


class Explanation(BaseModel):
    """All numbers of the page; `batch_leak.json`.

    Attributes:
        level: coverage of all intervals.
        tolerance: the gate's limit on the largest change of a probability.
        leaks: whether the model passes it.
        rows: images of the test split, of which `model.invariance.images` were drawn.
        model: the model that was asked about.
        twin: the same weights in the other wiring, where it is a PAtt-Lite: `feature`, or `batch` where the
            model is a safe one.
        trained: how the model came to be, where it was trained for this page; else none.
        pixels: the range in which the model takes pixels.
        notes: sentences of the dataset that belong with the numbers.
    """

    model_config = ConfigDict(frozen=True)

    level: float
    tolerance: float
    leaks: bool
    synthetic: bool
    source: str
    dataset_sha256: str
    rows: int
    model: Measured
    twin: Measured | None
    examples: tuple[Example, ...]
    trained: Mapping[str, Any] | None
    model_file: str | None
    pixels: str
    mlflow_run_id: str
    notes: tuple[str, ...]

    def sentence(self) -> str:
        """The outcome, for a terminal."""
        alone, ordered = (self.model.metrics[name].accuracy for name in ("single", "class_sorted"))
        verdict = "depend" if self.leaks else "do not depend"
        name = f"{self.model.name}{' (synthetic faces)' if self.synthetic else ''}"
        return (
            f"{name}: answers {verdict} on the batch; "
            f"accuracy alone {alone:.1%}, in class-sorted batches of {self.model.invariance.batch_size} "
            f"{ordered:.1%}, on {self.model.invariance.images} of {self.rows} test images"
        )
