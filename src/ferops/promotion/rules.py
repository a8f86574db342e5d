"""The gate's rules: each takes measured numbers and the limit, and gives a verdict with a sentence.

Nothing is measured here, so that a rule can be read and tested alone. `ferops.promotion.gate` measures.
"""

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from ferops.evaluation.contamination import Contamination
from ferops.evaluation.paired import Comparison
from ferops.settings import GateSettings


class Rule(BaseModel):
    """One rule's verdict.

    Attributes:
        rule: stable name, one of `TITLES`.
        passed: None when the rule was not run.
        number, limit: what was measured and what it was held against, where that is one number.
        sentence: the verdict in words.
        advice: what to do about it; none unless it failed.
    """

    model_config = ConfigDict(frozen=True)

    rule: str
    passed: bool | None
    number: float | None
    limit: float | None
    sentence: str
    advice: str | None = None


#: Every rule, in the order of judgement, with its heading. The first group reads files; the second runs
#: models and servers, and is not started for a candidate that failed in the first.
CHEAP: Mapping[str, str] = {
    "evaluated": "Evaluated on this dataset",
    "real_faces": "No drawings over real faces",
    "training_data": "Training data known",
    "contamination": "Not trained on test images",
    "minimum": "Minimum of the metric",
    "recall": "Recall of every emotion",
    "calibration": "Calibration",
    "batch_invariance": "Batch invariance, trained model",
    "packaged": "Packaged",
    "size": "Size of the package",
}
EXPENSIVE: Mapping[str, str] = {
    "improvement": "Better than the champion",
    "old_distribution": "Nothing lost on any source",
    "package_agreement": "Package answers like the trained model",
    "batch_invariance_package": "Batch invariance, package",
    "latency": "Latency",
    "service": "Service on trial",
}
TITLES: Mapping[str, str] = {**CHEAP, **EXPENSIVE}

#: How a number is held against its limit, and its unit; for the page.
BOUNDS: Mapping[str, tuple[str, str]] = {
    "contamination": ("≤", ""),
    "minimum": ("≥", ""),
    "recall": ("≥", ""),
    "calibration": ("≤", ""),
    "batch_invariance": ("≤", ""),
    "size": ("≤", "MB"),
    "improvement": (">", ""),
    "old_distribution": ("≥", ""),
    "package_agreement": ("≤", ""),
    "batch_invariance_package": ("≤", ""),
    "latency": ("≤", "ms"),
    "service": ("≤", ""),
}

ADVICE: Mapping[str, str] = {
    "evaluated": "Run `dvc repro`; for the ViT, set vit.checkpoint in params.yaml.",
    "training_data": "Say what the model was trained on: the ViT by vit.trained_on in params.yaml; weights "
    "that a recipe starts or learns from by the list of their images beside them (trained_on.txt). Or accept "
    "the risk with gate.unknown_training_data: allow.",
    "contamination": "Measure it on images that it has surely not seen: another test split or dataset.",
    "minimum": "Train longer, or with a better recipe (train.recipe); look at the confusion matrix first.",
    "recall": "Look at the emotion's row in the confusion matrix; give it more images or a class weight.",
    "calibration": "Train with label smoothing, or for fewer epochs; look at the reliability diagram.",
    "batch_invariance": "Train with train.attention: feature or patch. With `batch` the images of a batch "
    "see each other, and no test accuracy of such a model means anything.",
    "packaged": "Run `dvc repro package` and read its message.",
    "size": "Train a smaller model, or raise gate.max_size_mb if the service can afford it.",
    "improvement": "Nothing is broken: the champion stays. Try another recipe, or more data; a larger test "
    "split makes smaller improvements visible.",
    "old_distribution": "What was known is forgotten for what is new: keep more of the old images in train, "
    "or fewer of the new; raise gate.max_loss_by_source if the loss is accepted.",
    "package_agreement": "The export to ONNX changed the model: run `dvc repro --force package`, and if it "
    "stays, compare the two models layer by layer.",
    "batch_invariance_package": "The export to ONNX ties the images of a batch together: look for layers "
    "that run in training mode or have a fixed batch size.",
    "latency": "Train with a smaller image_size, or raise gate.max_latency_ms if the service can afford it.",
    "service": "Start the service on the package by hand and read its log; the message above is its own.",
}


def evaluated(reason: str | None) -> Rule:
    """Fails with the reason why there is no evaluation to judge."""
    return _rule("evaluated", reason is None, None, None, reason or "It was evaluated on this test split.")


def training_data(found: Contamination, settings: GateSettings) -> Rule:
    """Policy for a candidate of which nobody knows what it was trained on."""
    if found.known:
        return _rule("training_data", True, None, None, "It is known what it was trained on.")
    allowed = settings.unknown_training_data == "allow"
    return _rule(
        "training_data",
        allowed,
        None,
        None,
        "It is not known what it was trained on, so it may have seen the test images: "
        + ("allowed" if allowed else "refused")
        + f" by gate.unknown_training_data. {_joined(found)}".rstrip(),
    )


def contamination(found: Contamination, settings: GateSettings) -> Rule:
    """A candidate known to have trained on test images cannot win on them."""
    if found.share is None:
        return _not_run("contamination", settings.max_contaminated, "the training data is not known")
    return _rule(
        "contamination",
        found.share <= settings.max_contaminated,
        found.share,
        settings.max_contaminated,
        f"{found.share:.1%} of the test rows ({found.rows}) were in its training data; "
        f"at most {settings.max_contaminated:.1%} may be. {_joined(found)}".rstrip(),
    )


def minimum(value: float, rows: int, settings: GateSettings) -> Rule:
    """Floor of the metric on the rows without copies."""
    return _rule(
        "minimum",
        value >= settings.minimum,
        value,
        settings.minimum,
        f"{settings.metric} is {value:.4f} on {rows} test rows without copies in train; "
        f"the floor is {settings.minimum:g}.",
    )


def recall(values: Mapping[str, float | None], settings: GateSettings) -> Rule:
    """Floor of the recall of each emotion that the test rows hold."""
    known = {emotion: value for emotion, value in values.items() if value is not None}
    worst = min(known, key=lambda emotion: known[emotion])
    absent = [emotion for emotion, value in values.items() if value is None]
    return _rule(
        "recall",
        known[worst] >= settings.min_recall and not absent,
        known[worst],
        settings.min_recall,
        f"The lowest recall is {known[worst]:.3f} ({worst}); the floor of every emotion is "
        f"{settings.min_recall:g}."
        + (f" There is no test row of {', '.join(absent)}, so it cannot be judged." if absent else ""),
    )


def calibration(error: float, settings: GateSettings) -> Rule:
    """Ceiling of the expected calibration error."""
    return _rule(
        "calibration",
        error <= settings.max_calibration_error,
        error,
        settings.max_calibration_error,
        f"Confidence and accuracy differ by {error:.3f} on average; at most "
        f"{settings.max_calibration_error:g} is allowed.",
    )


def batch_invariance(rule: str, difference: float, images: int, settings: GateSettings) -> Rule:
    """An answer must not depend on the other images of its batch."""
    passed = difference <= settings.invariance_tolerance
    return _rule(
        rule,
        passed,
        difference,
        settings.invariance_tolerance,
        f"Alone, shuffled, class-sorted or in another batch size, a probability of the same image changes "
        f"by up to {difference:.2g} ({images} images); {settings.invariance_tolerance:g} is allowed."
        + ("" if passed else " Its answers depend on what else is in the batch."),
    )


def packaged(reason: str | None) -> Rule:
    """Fails with the reason why there is no package to serve."""
    return _rule("packaged", reason is None, None, None, reason or "It is packaged as ONNX.")


def size(megabytes: float, settings: GateSettings) -> Rule:
    """Ceiling of the packaged model's size."""
    return _rule(
        "size",
        megabytes <= settings.max_size_mb,
        megabytes,
        settings.max_size_mb,
        f"The packaged model has {megabytes:.2f} MB; at most {settings.max_size_mb:g} MB are allowed.",
    )


def improvement(
    comparison: Comparison, champion: str, settings: GateSettings, champion_is_older: bool = False
) -> Rule:
    """The paired interval of candidate minus champion must lie above the required improvement.

    A champion of another dataset may have trained on some of today's test rows, which favours it.
    """
    low, high = comparison.interval
    return _rule(
        "improvement",
        low > settings.min_improvement,
        low,
        settings.min_improvement,
        f"{comparison.metric} is {comparison.candidate:.4f} against {comparison.champion:.4f} of champion "
        f"{champion} on the same {comparison.rows} rows: {comparison.difference:+.4f}, paired interval "
        f"[{low:+.4f}, {high:+.4f}], whose lower end must exceed {settings.min_improvement:+g}. Only the "
        f"candidate is right on {comparison.only_candidate_right} rows, only the champion on "
        f"{comparison.only_champion_right} (McNemar p = {comparison.p_value:.2g})."
        + (
            " The champion comes from another dataset: if it trained on some of these rows, it is favoured."
            if champion_is_older
            else ""
        ),
    )


def no_champion(settings: GateSettings) -> Rule:
    """Without a champion there is nothing to be better than."""
    sentence = "There is no champion yet, so there is nothing to be better than."
    return _rule("improvement", True, None, settings.min_improvement, sentence)


def old_distribution(comparisons: Mapping[str, Comparison], champion: str, settings: GateSettings) -> Rule:
    """On no source's test rows may the candidate be worse than the champion by more than the policy allows.

    A loss counts when it is larger than allowed and its paired interval lies below zero: a source with few
    rows must not refuse a candidate by chance.

    Args:
        comparisons: by source, of the answers to its test rows.
        champion: as a reader knows it.
        settings: the limit.
    """
    allowed = settings.max_loss_by_source
    lost = {name for name, c in comparisons.items() if c.difference < -allowed and c.interval[1] < 0}
    worst = min(lost or comparisons, key=lambda name: comparisons[name].difference)
    each = "; ".join(
        f"{name} ({c.rows} rows) {c.difference:+.4f} [{c.interval[0]:+.4f}, {c.interval[1]:+.4f}]"
        for name, c in comparisons.items()
    )
    return _rule(
        "old_distribution",
        not lost,
        comparisons[worst].difference,
        -allowed,
        f"{settings.metric} against champion {champion}, source by source: {each}. No source may lose more "
        f"than {allowed:g}, unless the interval says that it may be chance.",
    )


def no_other_source(settings: GateSettings) -> Rule:
    """With one source of test images, `improvement` has compared them all."""
    return _rule(
        "old_distribution",
        True,
        None,
        -settings.max_loss_by_source,
        "All test rows are of one source: nothing older can be lost.",
    )


def nothing_to_lose(settings: GateSettings) -> Rule:
    """Without a champion nothing was learnt before."""
    sentence = "There is no champion yet, so there is nothing to lose."
    return _rule("old_distribution", True, None, -settings.max_loss_by_source, sentence)


def real_faces(synthetic: bool, champion_is_real: bool) -> Rule:
    """A model measured on synthetic faces says nothing against a champion that was trained on real ones."""
    passed = not (synthetic and champion_is_real)
    return Rule(
        rule="real_faces",
        passed=passed,
        number=None,
        limit=None,
        sentence="The champion was trained on real faces; this dataset is synthetic and says nothing of it."
        if not passed
        else "The dataset is synthetic, and so is what it competes with."
        if synthetic
        else "The dataset holds real faces.",
        advice=None if passed else "Point data.source at a real dataset, or use another FEROPS_REGISTRY_DIR.",
    )


def already_champion(champion: str, settings: GateSettings) -> Rule:
    """The candidate's package is the champion's own: nothing to promote."""
    return Rule(
        rule="improvement",
        passed=False,
        number=0.0,
        limit=settings.min_improvement,
        sentence=f"It is the champion already ({champion}, the same package): there is nothing to promote.",
    )


def champion_unreadable(champion: str, reason: str, settings: GateSettings) -> Rule:
    """Fails closed: who cannot be compared cannot be better."""
    return Rule(
        rule="improvement",
        passed=False,
        number=None,
        limit=settings.min_improvement,
        sentence=f"Champion {champion} could not be measured on these rows: {reason}",
        advice="Run `ferops promote`, which restores a lost champion, then the gate again.",
    )


def package_agreement(difference: float, labels_changed: int, rows: int, settings: GateSettings) -> Rule:
    """The package must give the probabilities that were evaluated."""
    return _rule(
        "package_agreement",
        difference <= settings.service_tolerance,
        difference,
        settings.service_tolerance,
        f"The package's probabilities differ from the evaluated ones by up to {difference:.2g} on {rows} "
        f"test rows ({settings.service_tolerance:g} is allowed); {labels_changed} predicted emotions differ.",
    )


def latency(median_ms: float, p95_ms: float, calls: int, runtime: str, settings: GateSettings) -> Rule:
    """Ceiling of the median time for one image."""
    return _rule(
        "latency",
        median_ms <= settings.max_latency_ms,
        median_ms,
        settings.max_latency_ms,
        f"One image takes {median_ms:.2f} ms (median of {calls} calls after warm-up, p95 {p95_ms:.2f} ms, "
        f"{runtime}, this machine); at most {settings.max_latency_ms:g} ms are allowed.",
    )


def service(difference: float, images: int, settings: GateSettings) -> Rule:
    """A real service on the package must answer as the offline model does."""
    return _rule(
        "service",
        difference <= settings.service_tolerance,
        difference,
        settings.service_tolerance,
        f"A service started on the package answered {images} test images with probabilities that differ "
        f"from the evaluated ones by up to {difference:.2g}; {settings.service_tolerance:g} is allowed.",
    )


def broken(rule: str, reason: str) -> Rule:
    """A measurement that could not be made fails its rule."""
    return _rule(rule, False, None, None, reason)


def not_run(rule: str, because: str) -> Rule:
    """Neither passed nor failed."""
    return _not_run(rule, None, because)


def _rule(rule: str, passed: bool, number: float | None, limit: float | None, sentence: str) -> Rule:
    finite = number if number is not None and math.isfinite(number) else None
    advice = None if passed else ADVICE[rule]
    return Rule(rule=rule, passed=bool(passed), number=finite, limit=limit, sentence=sentence, advice=advice)


def _not_run(rule: str, limit: float | None, because: str) -> Rule:
    return Rule(rule=rule, passed=None, number=None, limit=limit, sentence=f"Not run: {because}.")


def _joined(found: Contamination) -> str:
    return " ".join(found.evidence)
