"""Measure a candidate on the test split and write everything the gate, and a person, needs to judge it.

    >>> evaluate(classifier, dataset, settings, 0, Path("evaluations/patt_lite"),
    ...          Path("reports/metrics_patt_lite.json"))  # doctest: +SKIP

The test split is read here and nowhere before.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from ferops import files, tracking
from ferops.data import images as pixels
from ferops.data.store import Dataset
from ferops.emotions import EMOTIONS
from ferops.evaluation import batch_invariance, contamination
from ferops.evaluation.batch_invariance import BatchInvariance
from ferops.evaluation.contamination import Contamination
from ferops.evaluation.metrics import Metrics, confusion_matrix, measure
from ferops.evaluation.predictions import encoded_images, labels_of, predict_split, probabilities_of
from ferops.evaluation.views import Averaged
from ferops.models.classifier import Classifier
from ferops.settings import EvaluationSettings

RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.parquet"
FIGURES = ("confusion_matrix.png", "reliability.png", "batch_invariance.png")


class EvaluationError(RuntimeError):
    """An evaluation cannot be made or read; the message says what to do."""


class Measured(BaseModel):
    """The same predictions, on all test rows and without copies of training images."""

    model_config = ConfigDict(frozen=True)

    official: Metrics
    without_copies: Metrics


class Result(BaseModel):
    """`result.json`: what was measured, or why nothing was.

    Attributes:
        reason: why there is no evaluation; none where there is one.
        rows: test rows as used.
        official: metrics on the whole test split.
        without_copies: metrics without the rows that have a copy in the source's own training split.
        by_source: the second for each source's rows alone, where the test split has more than one.
        views: the same two for averages over several views of each image; what is served predicts once.
        mlflow_run_id: the run that holds these results.
        notes: sentences that belong with the numbers.
    """

    model_config = ConfigDict(frozen=True)

    candidate: str
    evaluated: bool
    reason: str | None = None
    synthetic: bool
    dataset_sha256: str
    rows: int
    official: Metrics | None = None
    without_copies: Metrics | None = None
    by_source: Mapping[str, Metrics] = {}
    views: Mapping[str, Measured] = {}
    batch_invariance: BatchInvariance | None = None
    contamination: Contamination
    mlflow_run_id: str | None = None
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        """The outcome, for a terminal."""
        if self.official is None or self.without_copies is None:
            return f"{self.candidate} was not evaluated: {self.reason}"
        best, low, high = self.without_copies, *self.without_copies.intervals["accuracy"]
        return (
            f"{self.candidate}{' (synthetic faces)' if self.synthetic else ''}: without copies of training "
            f"images accuracy {best.accuracy:.1%} [{low:.1%}, {high:.1%}], macro-F1 {best.macro_f1:.1%} on "
            f"{best.rows} rows; on all {self.rows} test rows accuracy {self.official.accuracy:.1%}, "
            f"macro-F1 {self.official.macro_f1:.1%}"
        )

    @classmethod
    def load(cls, folder: Path) -> "Result":
        """Read the result of an evaluation folder.

        Raises:
            EvaluationError: if there is none or it cannot be understood.
        """
        path = folder / RESULT_FILE
        try:
            return cls.model_validate(files.read_json(path))
        except FileNotFoundError:
            raise EvaluationError(f"no evaluation in {folder}: run `dvc repro` first") from None
        except (ValidationError, ValueError) as error:
            raise EvaluationError(f"{path} cannot be read, run `dvc repro`: {error}") from error


def load_predictions(folder: Path) -> pd.DataFrame:
    """The table that `predict_split` gave, from an evaluation folder."""
    return pq.read_table(folder / PREDICTIONS_FILE).to_pandas()


def evaluate(
    classifier: Classifier,
    dataset: Dataset,
    settings: EvaluationSettings,
    seed: int,
    out: Path,
    metrics_path: Path,
    model_folder: Path | None = None,
) -> Result:
    """Measure `classifier` on the test split; write `out` and `metrics_path`, and log to its MLflow run.

    Args:
        classifier: the candidate; its card names it.
        dataset: whose used test rows are measured.
        settings: batch size, bootstrap, bins and size of the batch-invariance check.
        seed: of the bootstrap, the order of prediction and the drawn subset.
        out: folder for `result.json`, `predictions.parquet` and `figures/`; replaced whole.
        metrics_path: the headline numbers, for `dvc metrics`.
        model_folder: where the candidate's card lies, for the list of its training images.

    Raises:
        EvaluationError: if the test split is empty, or holds nothing but copies of training images.
        UnmeasurableError: if the model's answers are no probabilities.
    """
    card = classifier.card
    synthetic = dataset.summary.synthetic or card.synthetic

    def predict(one: Classifier) -> pd.DataFrame:
        return predict_split(one, dataset, "test", batch_size=settings.batch_size, seed=seed)

    frame = predict(classifier)
    fresh = ~frame["copy_in_train"].to_numpy(bool)
    if not fresh.any():
        raise EvaluationError(
            f"{dataset.folder}: none of the {len(frame)} test rows is without a copy in the training split, "
            "so nothing can be measured honestly; check the source's splits"
        )
    labels, probabilities = labels_of(frame), probabilities_of(frame)
    options: dict[str, Any] = {
        "bins": settings.calibration_bins,
        "samples": settings.bootstrap_samples,
        "level": settings.confidence_level,
        "seed": seed,
    }

    def measured(answers: np.ndarray) -> Measured:
        return Measured(
            official=measure(labels, answers, **options),
            without_copies=measure(labels[fresh], answers[fresh], **options),
        )

    single = measured(probabilities)
    sources = dataset.frame("test", ["source"])["source"].to_numpy(str)
    several: set[str] = set(sources[fresh]) if len(set(sources)) > 1 else set()
    by_source = {
        str(name): measure(
            labels[fresh & (sources == name)], probabilities[fresh & (sources == name)], **options
        )
        for name in sorted(several)
    }
    notes = list(_notes(card.synthetic, dataset))
    views: dict[str, Measured] = {}
    if card.parameters <= batch_invariance.LARGE_MODEL:
        for name in settings.views:
            views[name] = measured(probabilities_of(predict(Averaged(classifier, name))))
    elif settings.views:
        notes.append(f"Averages over views were left out: the model has {card.parameters:,} parameters.")
    count = batch_invariance.affordable(settings.invariance_images, card.parameters)
    if count < settings.invariance_images:
        notes.append(
            f"Batch invariance was measured on {count} instead of {settings.invariance_images} images: "
            f"the model has {card.parameters:,} parameters."
        )
    chosen = batch_invariance.stratified(labels, count, seed)
    answers = batch_invariance.arrangements(
        classifier,
        pixels.faces(encoded_images(dataset, "test").take(pa.array(chosen)).to_pylist(), card.input_side),
        labels[chosen],
        batch_size=settings.batch_size,
        seed=seed,
    )

    with tracking.run(card.name, run_id=card.mlflow_run_id) as run_id:
        result = Result(
            candidate=card.name,
            evaluated=True,
            synthetic=synthetic,
            dataset_sha256=dataset.summary.sha256,
            rows=len(frame),
            official=single.official,
            without_copies=single.without_copies,
            by_source=by_source,
            views=views,
            batch_invariance=batch_invariance.summarise(answers, labels[chosen], settings.batch_size),
            contamination=contamination.measure(card, dataset, model_folder),
            mlflow_run_id=run_id,
            notes=tuple(notes),
        )
        with files.new_folder(out) as folder:
            frame.to_parquet(folder / PREDICTIONS_FILE, index=False)
            _draw(folder / "figures", result, frame, answers, labels[chosen], settings)
            files.write_json(folder / RESULT_FILE, result.model_dump(mode="json"))
        _log(result, out)
    files.write_json(metrics_path, metrics_of(result))
    return result


def not_evaluated(candidate: str, reason: str, dataset: Dataset, out: Path, metrics_path: Path) -> Result:
    """Write the same shape for a candidate that could not be measured, with the reason."""
    result = Result(
        candidate=candidate,
        evaluated=False,
        reason=reason,
        synthetic=dataset.summary.synthetic,
        dataset_sha256=dataset.summary.sha256,
        rows=len(dataset.frame("test", ["id"])),
        contamination=Contamination(known=False, evidence=[f"{candidate} was not evaluated."]),
    )
    with files.new_folder(out) as folder:
        files.write_json(folder / RESULT_FILE, result.model_dump(mode="json"))
    files.write_json(metrics_path, metrics_of(result))
    return result


#: What `dvc metrics` compares between commits, of each set of rows. All else is in `result.json`: a table of
#: eighty columns is read by nobody.
HEADLINES = (
    "rows",
    "accuracy",
    "macro_f1",
    "balanced_accuracy",
    "expected_calibration_error",
    "negative_log_likelihood",
)


def metrics_of(result: Result) -> dict[str, Any]:
    """The headline numbers, under the names that `result.json` has for them."""
    return result.model_dump(
        mode="json",
        include={
            "candidate": True,
            "evaluated": True,
            "reason": True,
            "synthetic": True,
            "official": set(HEADLINES),
            "without_copies": set(HEADLINES),
            "by_source": {source: set(HEADLINES) for source in result.by_source},
            "batch_invariance": {"max_difference"},
            "contamination": {"known", "share"},
        },
    )


def _notes(trained_on_synthetic: bool, dataset: Dataset) -> Iterator[str]:
    if dataset.summary.synthetic:
        yield "Measured on synthetic faces: the numbers say nothing about photographs of people."
    elif trained_on_synthetic:
        yield "Trained on synthetic faces and measured on photographs."
    yield from dataset.summary.notes


def _draw(
    folder: Path,
    result: Result,
    frame: pd.DataFrame,
    answers: Mapping[Any, np.ndarray],
    chosen_labels: np.ndarray,
    settings: EvaluationSettings,
) -> None:
    from ferops.evaluation import figures

    labels, probabilities = labels_of(frame), probabilities_of(frame)
    name, synthetic = result.candidate, result.synthetic
    drawn = (
        figures.confusion(confusion_matrix(labels, probabilities.argmax(axis=1)), name, synthetic),
        figures.calibration(labels, probabilities, settings.calibration_bins, name, synthetic),
        figures.batch_invariance(answers, chosen_labels, settings.batch_size, name, synthetic),
    )
    for file, figure in zip(FIGURES, drawn, strict=True):
        figures.save(figure, folder / file)


def _log(result: Result, out: Path) -> None:
    """Final metrics, overall and per class, and the whole folder, to the open MLflow run."""
    import mlflow

    logged: dict[str, float] = {}
    for rows, metrics in (("test", result.official), ("test_without_copies", result.without_copies)):
        if metrics is None:
            continue
        for name in HEADLINES:
            logged[f"{rows}/{name}"] = getattr(metrics, name)
        for name in ("recall", "precision", "f1"):
            for emotion in EMOTIONS:
                value = getattr(metrics, name)[emotion]
                if value is not None:
                    logged[f"{rows}/{name}/{emotion}"] = value
    for source, found in result.by_source.items():
        for name in ("rows", "accuracy", "macro_f1", "balanced_accuracy"):
            logged[f"test_without_copies/{source}/{name}"] = getattr(found, name)
    for name, view in result.views.items():
        logged[f"test/{name}/accuracy"] = view.official.accuracy
        logged[f"test_without_copies/{name}/accuracy"] = view.without_copies.accuracy
    if result.batch_invariance is not None:
        logged["test/batch_max_difference"] = result.batch_invariance.max_difference
    if result.contamination.share is not None:
        logged["test/contaminated_share"] = result.contamination.share
    mlflow.log_metrics(logged)
    mlflow.set_tag("ferops.dataset_sha256", result.dataset_sha256)
    mlflow.set_tag("ferops.synthetic", str(result.synthetic))
    mlflow.log_artifacts(str(out), "evaluation")
