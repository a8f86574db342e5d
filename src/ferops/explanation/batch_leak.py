"""Same weights, same images, different neighbours: what a model's answers owe to the rest of the batch.

    >>> explain_trained(dataset, settings, out=Path("reports/batch_leak"))  # doctest: +SKIP

The published PAtt-Lite figures were read from class-sorted batches of a model whose images attend to each
other. This measures the same on any Keras classifier, by the code that the gate's rule uses, and explains it
on a page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ferops import files, tracking
from ferops.data import images as pixels
from ferops.data.store import Dataset
from ferops.emotions import EMOTIONS
from ferops.evaluation import batch_invariance
from ferops.evaluation.batch_invariance import ARRANGEMENTS, Arrangement
from ferops.evaluation.metrics import measure
from ferops.evaluation.paired import compare
from ferops.evaluation.predictions import PROBABILITY_COLUMNS, encoded_images
from ferops.explanation.model import Demonstration, rewired, train_published_wiring, wiring
from ferops.explanation.neighbours import Rows, SharePoint, accuracy_by_share
from ferops.explanation.result import COMPANIES, Answer, Example, Explanation, Gain, Measured
from ferops.models.classifier import Images
from ferops.models.keras_classifier import (
    ROUNDED,
    KerasClassifier,
    PixelRange,
    load,
    refuse_chance,
    refuse_misreading,
)
from ferops.settings import Attention, EvaluationSettings, Settings

#: At most so many images are predicted among each share of same-class neighbours; each costs 40 predictions.
PROBES = 512

#: Images shown with their answers in three companies, and how many neighbours are shown of each.
EXAMPLES, BESIDE = 3, 6

#: Validation images on which a file's order of outputs and pixel range are tried.
READING_IMAGES = 210

#: Test images, in one batch, on which a copy of a PAtt-Lite must answer as the model does.
TRIED_IMAGES = 32

#: Said of a model with layers in 16 bits.
SHORT = (
    f"The model computes in 16 bits: changes of a probability up to {ROUNDED} are taken for rounding, which "
    "differs with the size of a batch. The gate allows less."
)

SUFFIXES = (".html", ".json", ".png", ".svg")

Answers = Mapping[Arrangement, NDArray[np.float32]]


def explain_trained(
    dataset: Dataset, settings: Settings, weights: str | None = None, **options: Any
) -> Explanation:
    """`explain` PAtt-Lite in the published wiring, its head trained now; see `train_published_wiring`.

    Raises:
        BackboneUnavailableError: if the backbone's weights cannot be had.
    """
    classifier, trained = train_published_wiring(dataset, settings.recipe, weights, settings.train.seed)
    return explain(classifier, dataset, settings, trained=trained, **options)


def explain_file(
    path: Path,
    dataset: Dataset,
    settings: Settings,
    labels: Sequence[str] | None = None,
    pixel_range: PixelRange = "0..255",
    **options: Any,
) -> Explanation:
    """`explain` a saved Keras classifier; see `ferops.models.keras_classifier.load`.

    Raises:
        FileNotFoundError: if there is none.
        UnusableModelError: if it is no classifier of the seven emotions, or is not read as it should be.
    """
    classifier = load(path, labels=labels, pixels=pixel_range)
    known = dataset.labels("validation")
    rows = batch_invariance.stratified(known, READING_IMAGES, settings.train.seed)
    encoded = encoded_images(dataset, "validation").take(pa.array(rows)).to_pylist()
    refuse_misreading(classifier, pixels.faces(encoded, classifier.card.input_side), known[rows])
    return explain(classifier, dataset, settings, model_file=path, **options)


def explain(
    classifier: KerasClassifier,
    dataset: Dataset,
    settings: Settings,
    *,
    out: Path,
    images: int | None = None,
    batch_size: int | None = None,
    trained: Demonstration | None = None,
    model_file: Path | None = None,
) -> Explanation:
    """Measure the model, and its twin if it is a PAtt-Lite; write page, plots and numbers to `out`.

    Args:
        classifier: any Keras classifier.
        dataset: whose test split is used.
        settings: `evaluation` for sizes and bootstrap, `gate` for the tolerance, `train.seed`.
        out: folder for `batch_leak.html`, `.json`, `.png` and `.svg`; other files in it stay.
        images: how many test images, stratified by emotion; none: as many as the gate's rule.
        batch_size: none: `evaluation.batch_size`, as the gate's rule.
        trained: how the model was trained, if that was for this page.
        model_file: where it was loaded from, otherwise.

    Raises:
        ValueError: fewer than two images, a batch of one, or answers that are no probabilities.
        UnusableModelError: if the model answers the same batch differently each time.
    """
    from ferops.explanation import figures, page

    evaluation, seed = settings.evaluation, settings.train.seed
    size = batch_size or evaluation.batch_size
    ids = dataset.frame("test", ["id"])["id"].to_numpy()
    labels, encoded = dataset.labels("test"), encoded_images(dataset, "test")
    count = images or batch_invariance.affordable(evaluation.invariance_images, classifier.card.parameters)
    chosen = batch_invariance.stratified(labels, count, seed)
    side = classifier.card.input_side

    def fetch(rows: Rows) -> Images:
        return pixels.faces(encoded.take(pa.array(rows)).to_pylist(), side)

    def measured(one: KerasClassifier, wired: str | None) -> tuple[Measured, Answers]:
        answers = batch_invariance.arrangements(
            one, fetch(chosen), labels[chosen], batch_size=size, seed=seed
        )
        shares = accuracy_by_share(
            one,
            fetch,
            labels,
            batch_invariance.stratified(labels, min(PROBES, (len(chosen) + 1) // 2), seed),
            batch_size=size,
            samples=evaluation.bootstrap_samples,
            level=evaluation.confidence_level,
            seed=seed,
        )
        return _measured(
            one.card.name, wired, answers, labels[chosen], shares, size, evaluation, seed
        ), answers

    # Before the long measurement: what a model is called does not tell whether it can have a twin.
    tried = fetch(batch_invariance.stratified(labels, TRIED_IMAGES, seed))
    limit = max(settings.gate.invariance_tolerance, ROUNDED if classifier.short_floats else 0.0)
    refuse_chance(classifier, tried, limit)
    attention = wiring(classifier, tried)
    model, answers = measured(classifier, attention)
    twin = None
    if attention is not None:
        other: Attention = "feature" if attention == "batch" else "batch"
        twin, _ = measured(rewired(classifier, other), other)
    tags = {"dataset": dataset.summary.source, "model": classifier.card.name}
    # Not before: killed while it measured, it would leave a run that seems to go on.
    with tracking.run("batch-leak", tags=tags) as run_id:
        explanation = Explanation(
            level=evaluation.confidence_level,
            tolerance=limit,
            leaks=model.invariance.max_difference > limit,
            synthetic=dataset.summary.synthetic or classifier.card.synthetic,
            source=dataset.summary.source,
            dataset_sha256=dataset.summary.sha256,
            rows=len(ids),
            model=model,
            twin=twin,
            examples=tuple(_examples(answers, labels[chosen], ids[chosen], size, seed)),
            trained=asdict(trained) if trained else None,
            model_file=str(model_file) if model_file else None,
            pixels=classifier.pixels,
            mlflow_run_id=run_id,
            notes=(*dataset.summary.notes, *([SHORT] if classifier.short_floats else [])),
        )
        positions = {identity: row for row, identity in enumerate(ids)}
        faces = {
            identity: pixels.face(pixels.decode(encoded[positions[identity]].as_py()))[..., 0]
            for example in explanation.examples
            for identity in [example.id, *(b for answer in example.answers.values() for b in answer.beside)]
        }
        figures.save(explanation, out)
        files.write_text(out / "batch_leak.html", page.render(explanation, faces))
        files.write_json(out / "batch_leak.json", explanation.model_dump(mode="json"))
        _log(explanation, seed, out)
    return explanation


def _measured(
    name: str,
    attention: str | None,
    answers: Answers,
    labels: NDArray[np.int64],
    shares: Sequence[SharePoint],
    batch_size: int,
    settings: EvaluationSettings,
    seed: int,
) -> Measured:
    options: dict[str, Any] = {
        "samples": settings.bootstrap_samples,
        "level": settings.confidence_level,
        "seed": seed,
    }
    tables = {
        which: pd.DataFrame(answers[which], columns=list(PROBABILITY_COLUMNS)).assign(
            id=np.arange(len(labels)), emotion=np.array(EMOTIONS)[labels]
        )
        for which in ("class_sorted", "single")
    }
    compared = compare(tables["class_sorted"], tables["single"], "accuracy", **options)
    return Measured(
        name=name,
        attention=attention,
        invariance=batch_invariance.summarise(answers, labels, batch_size),
        metrics={
            which: measure(labels, answers[which], bins=settings.calibration_bins, **options)
            for which in ARRANGEMENTS
        },
        gain=Gain(
            difference=compared.difference,
            interval=compared.interval,
            only_sorted_right=compared.only_candidate_right,
            only_alone_right=compared.only_champion_right,
            p_value=compared.p_value,
        ),
        shares=tuple(shares),
    )


def _examples(
    answers: Answers, labels: NDArray[np.int64], ids: NDArray, batch_size: int, seed: int
) -> list[Example]:
    """The images whose true emotion gains most from class-sorted neighbours, one of an emotion.

    They are chosen to show the effect, and the page says so. Of a sound model it is any image.
    """
    plan = batch_invariance.plan(labels, batch_size=batch_size, seed=seed)
    seats = {name: np.argsort(plan[name][0]) for name in COMPANIES}
    rows = np.arange(len(labels))
    gained = answers["class_sorted"][rows, labels] - answers["single"][rows, labels]
    right = {name: answers[name].argmax(axis=1) == labels for name in COMPANIES}
    turned = ~right["single"] & ~right["shuffled"] & right["class_sorted"]
    order = np.lexsort((-gained, ~turned))  # first those that only their own kind turned right
    _, first = np.unique(labels[order], return_index=True)
    found = []
    for row in order[np.sort(first)][:EXAMPLES]:
        told = {}
        for name in COMPANIES:
            reading, size = plan[name]
            start = seats[name][row] // size * size
            others = [int(other) for other in reading[start : start + size] if other != row]
            counts = np.bincount(labels[others], minlength=len(EMOTIONS)) if others else np.zeros(7, int)
            told[name] = Answer(
                predicted=EMOTIONS[int(answers[name][row].argmax())],
                probabilities=dict(zip(EMOTIONS, answers[name][row].tolist(), strict=True)),
                neighbours={e: int(n) for e, n in zip(EMOTIONS, counts, strict=True) if n},
                beside=tuple(str(ids[other]) for other in others[:BESIDE]),
            )
        found.append(Example(id=str(ids[row]), emotion=EMOTIONS[labels[row]], answers=told))
    return found


def _log(explanation: Explanation, seed: int, out: Path) -> None:
    """Settings, headline numbers and the written files, to the open MLflow run."""
    import mlflow

    model, trained = explanation.model, explanation.trained or {}
    mlflow.log_params(
        {
            "model": explanation.model_file or model.name,
            "images": model.invariance.images,
            "batch_size": model.invariance.batch_size,
            "seed": seed,
            "dataset.sha256": explanation.dataset_sha256,
            "dataset.synthetic": explanation.synthetic,
            **{f"trained.{key}": value for key, value in trained.items()},
        }
    )
    for prefix, one in (("", model), ("twin/", explanation.twin)):
        if one is None:
            continue
        logged = {f"accuracy/{name}": one.metrics[name].accuracy for name in ARRANGEMENTS}
        logged |= {f"labels_changed/{name}": share for name, share in one.invariance.labels_changed.items()}
        logged |= {"max_difference": one.invariance.max_difference, "gain": one.gain.difference}
        mlflow.log_metrics({prefix + name: value for name, value in logged.items()})
        for point in one.shares:
            mlflow.log_metric(f"{prefix}accuracy_by_share", point.accuracy, step=round(100 * point.share))
    for suffix in SUFFIXES:
        mlflow.log_artifact(str(out / f"batch_leak{suffix}"))
