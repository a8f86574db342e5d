"""The monitor's answer: a small typed record that scripts read as JSON or as an exit code.

    healthy  0   nothing watched has moved
    drift    3   something has; `columns` says what, most moved first
    too_few  4   not enough predictions in the window to say

1 and 2 stay what they are everywhere: a failure, and wrong usage.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ferops.monitoring.policy import Action

Outcome = Literal["healthy", "drift", "too_few"]

HEALTHY_EXIT = 0
DRIFT_EXIT = 3
TOO_FEW_EXIT = 4
EXIT_CODES: dict[Outcome, int] = {"healthy": HEALTHY_EXIT, "drift": DRIFT_EXIT, "too_few": TOO_FEW_EXIT}


class Record(BaseModel):
    """Base of the verdict's parts: they do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WindowSummary(Record):
    """The predictions that were judged.

    Attributes:
        rows: usable predictions of the champion in the window.
        compared: rows drawn from them for the tests.
        start, end: times of the first and last, ISO UTC.
        other_versions_ignored, unusable, torn_lines: what was left out.
    """

    rows: int
    compared: int
    start: str | None
    end: str | None
    model_version: str
    other_versions_ignored: int
    unusable: int
    torn_lines: int


class Repeats(Record):
    """How far the window is one image, or one client, again and again.

    Attributes:
        images: different ones among the usable predictions; each counts once in the tests.
        repeated: share of the predictions that repeat another one's image.
        largest_image: share of the image that came most often.
        largest_client: at most this share came from one client; none when the log does not tell.
        noticed: which of them are over the policy's limit.
    """

    images: int
    repeated: float
    largest_image: float
    largest_client: float | None
    noticed: tuple[Literal["images", "client"], ...]

    def sentences(self) -> tuple[str, ...]:
        """What was noticed, for a person."""
        said = []
        if "images" in self.noticed:
            said.append(
                f"one image makes {self.largest_image:.0%} of the window"
                if self.largest_image > self.repeated / 2
                else f"{self.repeated:.0%} of the predictions repeat an image"
            )
            said[-1] += f"; the {self.images} different ones were compared, each once"
        if "client" in self.noticed and self.largest_client is not None:
            said.append(f"one client sent up to {self.largest_client:.0%} of the predictions")
        return tuple(said)


class ColumnDrift(Record):
    """One watched column.

    Attributes:
        test, p_value, significance: drifted needs p_value under significance, and
        effect, size, threshold: size over threshold.
        reference, current: means of a number; shares per emotion of the label.
    """

    name: str
    test: str
    p_value: float
    significance: float
    effect: str
    size: float
    threshold: float
    drifted: bool
    reference: float | dict[str, float]
    current: float | dict[str, float]

    @property
    def moved(self) -> float:
        """Size in units of its threshold: comparable between columns."""
        return self.size / self.threshold


class EmbeddingDrift(Record):
    """The embedding as a whole; fields as in `ColumnDrift`, `rows` of each side that were compared."""

    test: str
    p_value: float
    significance: float
    effect: str
    size: float
    threshold: float
    drifted: bool
    rows: int


class Quality(Record):
    """Accuracy where feedback came in.

    Attributes:
        labelled: images with feedback; one that was sent repeatedly counts once.
        accuracy, interval: of those, with its 95 % interval (Wilson); none without any.
        reference_accuracy: on the validation split, which model selection saw: a little flattering.
        recall: per true emotion that was fed back.
        p_value: one-sided Fisher test of a lower accuracy than the reference's.
        drifted: none while there are fewer labels than the policy asks for.
    """

    labelled: int
    accuracy: float | None
    interval: tuple[float, float] | None
    reference_accuracy: float
    recall: dict[str, float]
    p_value: float | None
    significance: float
    max_drop: float
    drifted: bool | None


class ExpectedAccuracy(Record):
    """How often the model is right by its own calibrated confidence: an estimate, made without any label.

    It is mostly too high when faces change in a way that the model is confidently wrong about.

    Attributes:
        value: 0 to 1.
        interval: for what labels of these images would show, 95 %, as long as confidence means what it meant.
        rows: images that it was made of.
        reference_accuracy: with labels, on the reference.
        fell: whether it is below that by more than the policy passes over.
    """

    value: float
    interval: tuple[float, float]
    rows: int
    reference_accuracy: float
    fell: bool

    def sentence(self) -> str:
        """For a person."""
        return (
            f"by its own confidence the model is right on {self.value:.0%} of these images, an estimate "
            f"without labels; {self.reference_accuracy:.0%} on the reference"
        )


class Share(Record):
    """A share of right answers among some with feedback, with its 95 % interval (Wilson).

    Attributes:
        labelled: how many have feedback.
        right: how many of them were right.
    """

    labelled: int
    right: int
    interval: tuple[float, float]

    @property
    def value(self) -> float:
        """0 to 1."""
        return self.right / self.labelled


class DayQuality(Record):
    """Accuracy of one version's predictions of one day, as far as feedback has come until now.

    Attributes:
        day: UTC, ISO; of the prediction, whenever its feedback came.
        accuracy: of the images with feedback.
        recall: per true emotion that was fed back.
    """

    day: str
    model_version: str
    accuracy: Share
    recall: dict[str, Share]


class Verdict(Record):
    """What the monitor found; `verdict.json` in the report's folder.

    Attributes:
        action: what the policy sets in motion for this verdict.
        synthetic: True when the champion was trained on the synthetic faces.
        reasons: sentences for a person, most important first.
        columns: most moved first; empty when there were too few predictions.
        repeats: of images and clients; none in verdicts before these were counted.
        without_largest: what drifted without the client that sent most, where it sent enough to be noticed
            and the others enough to be judged; none where that was not looked at.
        expected: accuracy without labels; none with too few predictions.
        days: accuracy by day, oldest first; a day's figures change while feedback to it comes in.
        like: the source whose faces the window is like, where it is unlike all sources together.
        reference_sha256, policy_sha256: what it was compared with, and by which rules.
        report: the folder with index.html, verdict.json and Evidently's own pages.
        page: where people read that index.html: at the service, when `FEROPS_SERVICE_URL` says where that is,
            else the file; empty in verdicts before it was noted.
    """

    verdict: Outcome
    time: str
    action: Action
    synthetic: bool
    reasons: tuple[str, ...]
    window: WindowSummary
    columns: tuple[ColumnDrift, ...]
    embedding: EmbeddingDrift | None
    quality: Quality | None
    reference_rows: int
    reference_sha256: str
    policy_sha256: str
    champion: str
    mlflow_run_id: str | None
    report: str
    repeats: Repeats | None = None
    without_largest: tuple[str, ...] | None = None
    expected: ExpectedAccuracy | None = None
    days: tuple[DayQuality, ...] = ()
    like: str | None = None
    page: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that qualify the verdict."""
        said = list(self.repeats.sentences() if self.repeats else ())
        if self.without_largest is not None:
            moved = (
                f"{', '.join(self.without_largest)} moved" if self.without_largest else "nothing has moved"
            )
            said.append(f"among the other clients {moved}")
        if self.expected and self.expected.fell:
            said.append(self.expected.sentence())
        return tuple(said)

    @property
    def exit_code(self) -> int:
        """0 healthy, 3 drift, 4 too few."""
        return EXIT_CODES[self.verdict]

    def sentence(self) -> str:
        """One line for a terminal: the verdict, why, on what, and where to read more."""
        data = " (synthetic faces)" if self.synthetic else ""
        why = "; ".join(self.reasons[:3])
        notes = "".join(f"; note: {note}" for note in self.notes)
        action = "" if self.action == "none" else f"; asks for {self.action}"
        return f"{self.verdict}{data}: {why}{notes}{action}; report: {self.report}/index.html"
