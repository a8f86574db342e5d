"""Make the release: the candidate that the gate passed, small enough for git and complete in one folder.

    >>> build_release(Outcomes(...), Path("release")).label  # doctest: +SKIP
    'release-0a1b2c3d'

Nothing is trained, exported or measured here. The files of training, packaging, evaluation and gate are
checked to be of one model, stored in half the bytes without loss, and described.
"""

import csv
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ferops import files, tracking
from ferops.data import images as pixels
from ferops.data.sources.png import png
from ferops.data.sources.synthetic import draw
from ferops.emotions import EMOTIONS
from ferops.evaluation.evaluate import RESULT_FILE, EvaluationError, Result
from ferops.models.classifier import TRAINED_ON_FILE, Card, Images
from ferops.models.compact import compact_keras, compact_onnx, convolution_kernels
from ferops.models.onnx import CARD_FILE, MODEL_FILE, OnnxClassifier, Recorded, RuntimeUnavailableError
from ferops.models.runtimes import RUNTIMES
from ferops.promotion import model_card
from ferops.promotion.decision import CandidateVerdict, Decision
from ferops.promotion.package import EVALUATION_FILE, EXPORT_TOLERANCE, REFERENCE_FILE
from ferops.promotion.release import MANIFEST_FILE, VALIDATION_FILE, Manifest, NoReleaseError, Release
from ferops.promotion.variants import Variant, Variants, load_variants
from ferops.settings import Settings, load_settings

KERAS_FILE = "model.keras"
GATE_FILE = "gate.json"
PARAMS_FILE = "params.yaml"
CURVES_FILE = "learning_curves.csv"
CARD_FOR_PEOPLE = "README.md"

#: Of the whole folder: what one may put into a git repository without a thought.
MAX_BYTES = 6_000_000

#: Largest difference of an answer to that of the package. It is 0 where it was measured; a runtime that does
#: the sums of the small file in another order would move it by about 1e-7.
COMPACT_TOLERANCE = 1e-6

#: Drawn faces with recorded answers, and how hard they are to read (0 to 1).
RECORDED_PER_EMOTION, RECORDED_NOISE = 3, 0.3

#: Colours of a figure in the release; those of the charts are far fewer.
FIGURE_COLOURS = 128


@dataclass(frozen=True)
class Outcomes:
    """What the pipeline left of one candidate.

    Attributes:
        trained: folder of `model.keras`, `card.json`, `trained_on.txt`, `learning_curves.png`.
        package: folder that `ferops package` wrote.
        evaluation: folder of `result.json` and `figures/`.
        gate: `gate.json`.
        validation: `validation.json`.
        curves: CSV with one row an epoch.
        params: the parameters file of the training.
        variants: folder of the verdicts on reduced precision, where there are any.
    """

    trained: Path
    package: Path
    evaluation: Path
    gate: Path
    validation: Path
    curves: Path
    params: Path
    variants: Path | None = None


def build_release(outcomes: Outcomes, out: Path) -> Release:
    """Check, store and describe; `out` is replaced whole, or left as it was.

    Raises:
        NoReleaseError: if the gate refused the candidate, it is synthetic, the files are not of one model,
            or the folder would be larger than `MAX_BYTES`.
    """
    settings = load_settings(outcomes.params)
    card, result, decision, verdict = _checked(outcomes)
    with files.new_folder(out) as folder:
        compact_keras(outcomes.trained / KERAS_FILE, folder / KERAS_FILE)
        kernels = convolution_kernels(outcomes.trained / KERAS_FILE)
        compact_onnx(outcomes.package / MODEL_FILE, folder / MODEL_FILE, kernels)
        released = replace(
            card,
            training_data=replace(card.training_data, pixel_hashes=TRAINED_ON_FILE),
            details=_portable(card.details),
        )
        released.save(folder / CARD_FILE)
        shutil.copy(outcomes.trained / TRAINED_ON_FILE, folder / TRAINED_ON_FILE)
        _record(outcomes.package, folder, drawn_faces(card.input_side))
        _carry_variants(outcomes, folder)
        _reference(outcomes.package / REFERENCE_FILE, folder / REFERENCE_FILE)
        files.write_json(folder / EVALUATION_FILE, files.read_json(outcomes.evaluation / RESULT_FILE))
        files.write_json(
            folder / GATE_FILE, {"decided_at": decision.decided_at, **verdict.model_dump(mode="json")}
        )
        validation = _nameless(files.read_json(outcomes.validation))
        files.write_json(folder / VALIDATION_FILE, validation)
        files.write_text(folder / PARAMS_FILE, _params(settings))
        epochs = _curves(outcomes.curves, card)
        shutil.copy(outcomes.curves, folder / CURVES_FILE)
        figures = [outcomes.trained / "learning_curves.png"]
        figures += [outcomes.evaluation / "figures" / name for name in model_card.FIGURES]
        for figure in figures:
            _few_colours(figure, folder / figure.name)
        manifest = Manifest(
            candidate=card.name,
            model=tracking.REGISTERED_MODEL,
            package_sha256=files.sha256(outcomes.package),
            trained_sha256=files.sha256(outcomes.trained / KERAS_FILE),
            dataset_sha256=result.dataset_sha256,
            params_sha256=card.params_sha256 or "",
            git_commit=card.git_commit or "",
            mlflow_run_id=card.mlflow_run_id or "",
            synthetic=False,
            decided_at=decision.decided_at,
            files={},
        )
        text = model_card.render(
            manifest, released, result, verdict, validation, settings, epochs, _sizes(folder)
        )
        files.write_text(folder / CARD_FOR_PEOPLE, text)
        digests = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
        digests.pop(CARD_FOR_PEOPLE)  # prose, that may be corrected
        manifest = manifest.model_copy(update={"files": digests})
        files.write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))
        _check_size(folder)
    return Release.load(out)


def _checked(outcomes: Outcomes) -> tuple[Card, Result, Decision, CandidateVerdict]:
    """The package's card, the evaluation and the gate's word on it, if all of them are of one model."""
    for path in (
        outcomes.trained / KERAS_FILE,
        outcomes.package / MODEL_FILE,
        outcomes.gate,
        outcomes.validation,
        outcomes.curves,
    ):
        if not path.is_file():
            raise NoReleaseError(f"nothing to release: {path} is absent, run `dvc repro`")
    trained, card = Card.load(outcomes.trained / CARD_FILE), Card.load(outcomes.package / CARD_FILE)
    if not trained.training_data.known:
        raise NoReleaseError(
            "nothing is released of a model that may have seen any image: its backbone or teacher is of "
            "unknown training data (docs/training.md)"
        )
    if not (outcomes.trained / TRAINED_ON_FILE).is_file():
        raise NoReleaseError(
            f"nothing to release: {outcomes.trained / TRAINED_ON_FILE} is absent, run `dvc repro`"
        )
    try:
        result = Result.load(outcomes.evaluation)
    except EvaluationError as error:
        raise NoReleaseError(f"nothing to release: {error}") from error
    decision = Decision.load(outcomes.gate)
    if trained.synthetic or card.synthetic or result.synthetic or decision.synthetic:
        raise NoReleaseError(
            f"{card.name} was trained on synthetic faces or measured on them: only a model of real faces is "
            "released, so bring a dataset (`ferops data add`) and run `dvc repro`"
        )
    verdict = decision.candidates.get(card.name)
    digest = files.sha256(outcomes.package)
    if verdict is None or verdict.package_sha256 != digest:
        raise NoReleaseError(
            f"the gate ({outcomes.gate}) judged another package of {card.name} than {outcomes.package}: "
            "run `dvc repro gate`"
        )
    if verdict.verdict != "passed":
        failed = ", ".join(rule.rule for rule in verdict.failed)
        advice = (
            f"its rules were not run again: take the {outcomes.gate} of the day when it was promoted"
            if verdict.verdict == "already_champion"
            else "only a candidate that the gate passed is released, its page says what to do"
        )
        raise NoReleaseError(f"the gate's verdict on {card.name} is {verdict.verdict} ({failed}): {advice}")
    _one_model(outcomes, trained, card, result, decision)
    return card, result, decision, verdict


def _one_model(outcomes: Outcomes, trained: Card, card: Card, result: Result, decision: Decision) -> None:
    validation = files.read_json(outcomes.validation)
    pairs: Mapping[str, tuple[Any, Any]] = {
        "run of model and package": (trained.mlflow_run_id, card.mlflow_run_id),
        "commit of model and package": (trained.git_commit, card.git_commit),
        "parameters of model and package": (trained.params_sha256, card.params_sha256),
        "run of model and evaluation": (trained.mlflow_run_id, result.mlflow_run_id),
        "dataset of training and evaluation": (card.training_data.dataset_sha256, result.dataset_sha256),
        "dataset of evaluation and gate": (result.dataset_sha256, decision.dataset_sha256),
        "dataset of evaluation and validation": (result.dataset_sha256, validation["dataset_sha256"]),
        "evaluation and that in the package": (
            files.read_json(outcomes.evaluation / RESULT_FILE),
            files.read_json(outcomes.package / EVALUATION_FILE),
        ),
    }
    different = [name for name, (first, second) in pairs.items() if first != second]
    if different:
        raise NoReleaseError(
            f"not all files are of one model, for these differ: {', '.join(different)}: run `dvc repro`"
        )
    if not validation["success"]:
        raise NoReleaseError(
            f"validation of the dataset failed ({', '.join(validation['blocking_failures'])}), says "
            f"{outcomes.validation}: only a model of validated data is released"
        )
    if files.sha256(outcomes.params) != card.params_sha256:
        raise NoReleaseError(
            f"{outcomes.params} is not the parameters file that {card.name} was trained with "
            f"({(card.params_sha256 or '')[:8]}): set FEROPS_PARAMS to it, as it was then"
        )
    if not card.git_commit or card.git_commit == "unknown":
        raise NoReleaseError(f"it is not known which commit trained {card.name}: train it in a git checkout")


def drawn_faces(side: int) -> Images:
    """Faces to record answers for, uint8 `[21, side, side, 3]`, drawn: photographs have owners."""
    drawn = [
        draw(emotion, RECORDED_NOISE, np.random.default_rng([row, number]))
        for row, emotion in enumerate(EMOTIONS)
        for number in range(RECORDED_PER_EMOTION)
    ]
    return pixels.faces([png(face) for face in drawn], side)


def _record(package: Path, folder: Path, images: Images) -> None:
    """Write `recorded.npz`, after comparing both small models with the package and with each other."""
    from ferops.models import patt_lite

    judged, small = OnnxClassifier(package), OnnxClassifier(folder)
    judged.self_check()
    tested = np.concatenate([images, Recorded.load(package).images])
    expected, given = judged.predict(tested), small.predict(tested)
    difference = _gap(expected.probabilities, given.probabilities)
    if expected.embedding is not None and given.embedding is not None:
        difference = max(difference, _gap(expected.embedding, given.embedding))
    if not difference <= COMPACT_TOLERANCE:
        raise NoReleaseError(f"storing {MODEL_FILE} in half changed its answers by {difference:.2g}")
    difference = _gap(patt_lite.load(folder).predict(tested).probabilities, given.probabilities)
    if not difference <= EXPORT_TOLERANCE:
        raise NoReleaseError(
            f"the package is not that of the trained model: their answers differ by {difference:.2g}, run "
            "`dvc repro package`"
        )
    Recorded(images, small.predict(images).probabilities).save(folder)


def _carry_variants(outcomes: Outcomes, folder: Path) -> None:
    """Restate the verdicts on reduced precision for the small file, where it gives the same answers."""
    found = load_variants(outcomes.variants) if outcomes.variants else Variants()
    judged = files.sha256(outcomes.package / MODEL_FILE)
    restated: dict[str, Variant] = {}
    refused = dict(found.not_judged)
    images = Recorded.load(folder).images
    for name, variant in found.judged.items():
        try:
            expected = RUNTIMES[name](outcomes.package).predict(images).probabilities
            given = RUNTIMES[name](folder).predict(images).probabilities
        except RuntimeUnavailableError as error:
            refused[name] = str(error)
            continue
        difference = _gap(expected, given)
        if variant.model_sha256 != judged:
            refused[name] = "the verdict is on another package"
        elif not difference <= COMPACT_TOLERANCE:
            refused[name] = f"storing {MODEL_FILE} in half changed its answers by {difference:.2g}"
        else:
            answers = tuple(tuple(map(float, row)) for row in given)
            digest = files.sha256(folder / MODEL_FILE)
            restated[name] = variant.model_copy(update={"model_sha256": digest, "answers": answers})
    if restated or refused:
        Variants(judged=restated, not_judged=refused).save(folder)


def _gap(first: Any, second: Any) -> float:
    return float(np.abs(first - second).max())


def _reference(source: Path, out: Path) -> None:
    """What monitoring compares with, less the names of the images."""
    import pandas as pd

    rows = pd.read_parquet(source).drop(columns="id")
    rows.to_parquet(out, index=False, compression="zstd", compression_level=19)


def _nameless(report: Mapping[str, Any]) -> dict[str, Any]:
    """Validation's report, less its pages, which stay behind, and its messages, which may name images."""
    expectations = [
        {key: value for key, value in expectation.items() if key != "message"}
        for expectation in report["expectations"]
    ]
    kept = {key: value for key, value in report.items() if key != "docs"}
    return {**kept, "expectations": expectations}


def _params(settings: Settings) -> str:
    content = _portable(settings.model_dump(mode="json"))
    content["recipes"] = {settings.train.recipe: content["recipes"][settings.train.recipe]}
    return (
        "# The parameters that trained and measured this model; gate.json has the limits that it passed.\n"
        f"{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}"
    )


def _portable(value: Any) -> Any:
    """The same, where a path of this machine is the file's name alone."""
    if isinstance(value, Mapping):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _curves(path: Path, card: Card) -> int:
    """How many epochs the curves have."""
    with path.open() as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
    best = card.details.get("best_epoch")
    if best not in epochs:
        raise NoReleaseError(f"{path} has no epoch {best}, which {card.name} was taken from: run `dvc repro`")
    return len(epochs)


def _few_colours(source: Path, out: Path) -> None:
    from PIL import Image

    if not source.is_file():
        raise NoReleaseError(f"nothing to release: {source} is absent, run `dvc repro`")
    with Image.open(source) as image:
        image.convert("RGB").quantize(FIGURE_COLOURS).save(out, optimize=True)


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def _check_size(folder: Path) -> None:
    sizes = _sizes(folder)
    total = sum(sizes.values())
    if total > MAX_BYTES:
        largest = ", ".join(
            f"{name} {size / 1e6:.2f} MB"
            for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:4]
        )
        raise NoReleaseError(
            f"the release would have {total / 1e6:.2f} MB, at most {MAX_BYTES / 1e6:g} MB are allowed "
            f"({largest}). Weights halve only when float16 holds them, which training sees to"
        )
