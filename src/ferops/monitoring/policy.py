"""The drift policy (`monitoring/policy.yaml`), typed: an unknown key or a wrong value is refused.

>>> policy = load_policy(Path("monitoring/policy.yaml"))  # doctest: +SKIP
>>> policy.columns["brightness"].threshold  # doctest: +SKIP
0.25
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ferops.data.descriptors import DESCRIPTORS
from ferops.evaluation.predictions import PROBABILITY_COLUMNS
from ferops.settings import Fraction, Section, read_yaml

#: Watched columns that hold names, not numbers.
CATEGORICAL = ("label",)

#: Every column that a policy can watch.
WATCHABLE = (*DESCRIPTORS, *PROBABILITY_COLUMNS, "confidence", *CATEGORICAL)

Action = Literal["none", "train/nightly"]
Significance = Annotated[float, Field(ge=0.001, lt=0.5)]  # under it the simulated p-values are too coarse


class PolicyError(ValueError):
    """The policy cannot be used; the message names each offending key."""


class WindowPolicy(Section):
    """Which predictions are the current window."""

    hours: float = Field(gt=0, description="predictions of the last so many hours")
    minimum_predictions: int = Field(ge=20, description="fewer give the verdict too_few")
    sample: int = Field(ge=20, description="rows drawn at random when there are more")
    seed: int = Field(ge=0, description="of the draw and of the permutations")

    @model_validator(mode="after")
    def _sample_is_enough(self) -> "WindowPolicy":
        if self.sample < self.minimum_predictions:
            raise ValueError("sample is smaller than minimum_predictions")
        return self


class ColumnPolicy(Section):
    """A pinned significance test and a pinned effect size; a column drifts when both say so."""

    test: Literal["ks", "chi2"]
    effect: Literal["wasserstein", "jensenshannon"]
    threshold: float = Field(gt=0, description="of the effect")


class EmbeddingPolicy(Section):
    """Maximum mean discrepancy of the embedding, with a permutation test."""

    threshold: float = Field(gt=0, description="of MMD^2, Gaussian kernel of median width")
    sample: int = Field(ge=50, le=5000, description="rows of each side")
    permutations: int = Field(ge=99)


class QualityPolicy(Section):
    """Accuracy where feedback came in, against the reference's."""

    minimum_labelled: int = Field(ge=10)
    max_accuracy_drop: Fraction
    max_expected_drop: Fraction = Field(description="of the estimate without labels; more is said")
    days: int = Field(ge=1, le=90, description="UTC days that the report shows one by one")
    minimum_daily: int = Field(ge=1, description="a day's share of fewer labels is not shown")


class RepeatsPolicy(Section):
    """From when on a window is said to be one image or one client again and again."""

    images: Fraction = Field(description="share of the predictions that repeat another one's image")
    client: Fraction = Field(description="share of the predictions that the largest client sent")


class Response(Section):
    """What a verdict sets in motion once it has lasted; see `ferops.monitoring.alerts`."""

    alert: bool = Field(description="tell it by every channel that is set up")
    start: Action = Field(description="the deployment to start")
    windows: int = Field(ge=1, description="in a row before it counts, and without it before it is over")
    silence_hours: float = Field(ge=0, description="before the same is told, or started, once more")


class Actions(Section):
    """What the verdicts set in motion; a healthy one ends what another began."""

    drift: Response
    too_few: Response
    repeats: Response
    windows_apart_hours: float = Field(ge=0, description="verdicts closer together are one window")
    retry_hours: float = Field(ge=0, description="an alert that a channel refused is offered to it so long")

    @model_validator(mode="after")
    def _repeats_start_nothing(self) -> "Actions":
        if self.repeats.start != "none":
            raise ValueError("repeats.start must be none: one image again and again teaches no model")
        return self


class LogPolicy(Section):
    """What becomes of the prediction log."""

    keep_days: int = Field(ge=1, description="records of days before that are deleted at compaction")


class Policy(Section):
    """All of `monitoring/policy.yaml`."""

    window: WindowPolicy
    significance: Significance = Field(description="of any false alarm in one window")
    correction: Literal["bonferroni", "none"]
    columns: Mapping[str, ColumnPolicy]
    embedding: EmbeddingPolicy | None = Field(description="null does not watch it")
    quality: QualityPolicy | None = Field(description="null does not watch it")
    repeats: RepeatsPolicy
    actions: Actions
    log: LogPolicy
    keep_reports: int = Field(ge=1, description="report folders kept; older ones are deleted")

    @model_validator(mode="after")
    def _columns_fit_their_tests(self) -> "Policy":
        if not self.columns:
            raise ValueError("columns is empty: nothing would be watched")
        for name, column in self.columns.items():
            if name not in WATCHABLE:
                raise ValueError(f"columns.{name}: no such column; there are {', '.join(WATCHABLE)}")
            categorical = name in CATEGORICAL
            if (column.test == "chi2") != categorical or (column.effect == "jensenshannon") != categorical:
                pair = "chi2 and jensenshannon" if categorical else "ks and wasserstein"
                raise ValueError(f"columns.{name}: needs {pair}, not {column.test} and {column.effect}")
        if self.embedding and 1 / (self.embedding.permutations + 1) > self.level:
            raise ValueError(
                f"embedding.permutations: {self.embedding.permutations} can give no p-value under "
                f"{self.level:.2g}, the significance of one test"
            )
        return self

    def start(self, outcome: Literal["healthy", "drift", "too_few"]) -> Action:
        """The deployment that a verdict starts once it has lasted."""
        return "none" if outcome == "healthy" else getattr(self.actions, outcome).start

    @property
    def numerical(self) -> tuple[str, ...]:
        """The watched columns that hold numbers."""
        return tuple(name for name in self.columns if name not in CATEGORICAL)

    @property
    def level(self) -> float:
        """Significance level of each single test: watched columns, embedding and quality count one each."""
        if self.correction == "none":
            return self.significance
        return self.significance / (len(self.columns) + bool(self.embedding) + bool(self.quality))


def load_policy(path: Path) -> Policy:
    """Read and check a policy file.

    Raises:
        PolicyError: if it is absent, not YAML, or any key or value is wrong; names them all.
    """
    return read_yaml(path, Policy, PolicyError, "FEROPS_MONITORING_DIR")
