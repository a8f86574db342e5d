import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fake_classifiers import FakeClassifier, planted_dataset
from ferops import files
from ferops.data import images as pixels
from ferops.data.store import Dataset
from ferops.evaluation.evaluate import evaluate, not_evaluated
from ferops.evaluation.paired import Comparison
from ferops.models.classifier import Predictions, TrainingData
from ferops.models.onnx import OnnxClassifier
from ferops.promotion.champion import Champion, NoChampionError
from ferops.promotion.decision import Decision
from ferops.promotion.gate import decide
from ferops.promotion.rules import EXPENSIVE, TITLES, old_distribution
from ferops.settings import GateSettings
from gate_line import EVALUATION, GateLine, failed, rule
from tiny_package import write_tiny_package


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return planted_dataset(tmp_path_factory.mktemp("gate") / "dataset", test=280, synthetic=True)


@pytest.fixture(scope="module", autouse=True)
def tracking_store(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Callable[[Path], str]) -> Any:
    """One MLflow store for the module."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tracking")
        empty_mlflow(folder)
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture
def line(dataset: Dataset, tmp_path: Path) -> GateLine:
    return GateLine(dataset, tmp_path)


def test_a_good_first_candidate_is_promoted_and_every_rule_is_shown(line: GateLine) -> None:
    line.candidate("patt_lite", skill=0.8, confidence=0.8)
    decision = line.gate()
    assert (decision.decision, decision.winner, decision.decided_against_version) == (
        "promote",
        "patt_lite",
        None,
    )
    rules = decision.candidates["patt_lite"].rules
    assert [r.rule for r in rules] == list(TITLES)
    assert all(r.passed for r in rules)
    assert "no champion yet" in rule(decision, "patt_lite", "improvement").sentence
    assert line.trials == [line.root / "packages" / "patt_lite"]


def test_the_json_is_what_promotion_reads(line: GateLine) -> None:
    line.candidate("patt_lite")
    champion = line.champion(skill=0.4)
    decision = line.gate(champion)
    written = json.loads((line.root / "gate.json").read_text())
    assert Decision.load(line.root / "gate.json") == decision
    assert (written["decision"], written["winner"], written["candidate"]) == (
        "promote",
        "patt_lite",
        "patt_lite",
    )
    assert written["package_sha256"] == files.sha256(line.root / "packages" / "patt_lite")
    assert (written["decided_against_version"], written["champion"]["version"]) == ("3", "3")
    assert written["synthetic"] is True
    assert set(written["candidates"]["patt_lite"]["rules"][0]) >= {
        "rule",
        "passed",
        "number",
        "limit",
        "sentence",
    }


def test_a_better_candidate_replaces_the_champion(line: GateLine) -> None:
    line.candidate("patt_lite", skill=0.85)
    decision = line.gate(line.champion(skill=0.6))
    found = rule(decision, "patt_lite", "improvement")
    assert decision.decision == "promote"
    assert found.number is not None and 0.1 < found.number < 0.25
    assert "paired interval" in found.sentence


def test_a_candidate_that_is_no_better_is_refused_and_the_champion_stays(line: GateLine) -> None:
    line.candidate("patt_lite", skill=0.7)
    decision = line.gate(line.champion(skill=0.7))
    assert (decision.decision, decision.winner) == ("keep", None)
    assert failed(decision, "patt_lite") == ["improvement"]
    assert decision.candidate == "patt_lite"  # the challenger
    assert rule(decision, "patt_lite", "service").passed is None


@pytest.mark.parametrize("same", [True, False])
def test_a_champion_of_another_dataset_is_said_to_be_favoured(line: GateLine, same: bool) -> None:
    line.candidate("patt_lite", skill=0.85)
    champion = line.champion(skill=0.6)
    digest = line.dataset.summary.sha256 if same else "f" * 64
    files.write_json(champion.folder() / "evaluation.json", {"dataset_sha256": digest})
    sentence = rule(line.gate(champion), "patt_lite", "improvement").sentence
    assert ("another dataset" in sentence) is not same


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """210 test rows of the main source and 70 of labelled traffic."""
    folder = tmp_path_factory.mktemp("gate") / "two"
    return planted_dataset(folder, test=280, collected=70, synthetic=True, seed=1)


def test_a_candidate_that_lost_what_the_champion_knew_is_refused(
    two_sources: Dataset, tmp_path: Path
) -> None:
    line = GateLine(two_sources, tmp_path)
    line.candidate("patt_lite", skill=0.6, confidence=0.6)
    decision = line.gate(line.champion(skill=0.9))
    found = rule(decision, "patt_lite", "old_distribution")
    assert found.passed is False
    assert "planted (" in found.sentence and "collected (70 rows)" in found.sentence
    assert "more of the old images" in (found.advice or "")


def test_a_candidate_that_is_better_on_every_source_passes(two_sources: Dataset, tmp_path: Path) -> None:
    line = GateLine(two_sources, tmp_path)
    line.candidate("patt_lite", skill=0.9, confidence=0.9)
    decision = line.gate(line.champion(skill=0.6))
    assert decision.decision == "promote"
    assert rule(decision, "patt_lite", "old_distribution").passed


def a_comparison(difference: float, low: float, high: float, rows: int = 1000) -> Comparison:
    return Comparison(
        metric="macro_f1",
        rows=rows,
        candidate=0.6 + difference,
        champion=0.6,
        difference=difference,
        interval=(low, high),
        only_candidate_right=0,
        only_champion_right=0,
        p_value=1.0,
    )


@pytest.mark.parametrize(
    ("old", "passed"),
    [
        (a_comparison(-0.05, -0.07, -0.03), False),
        (a_comparison(-0.01, -0.015, -0.005), True),  # a loss, but an allowed one
        (a_comparison(-0.05, -0.15, 0.05, rows=40), True),  # may be chance
    ],
)
def test_better_on_new_faces_is_no_excuse_for_worse_on_old_ones(old: Comparison, passed: bool) -> None:
    new = a_comparison(+0.3, 0.2, 0.4)
    found = old_distribution({"fer2013": old, "collected": new}, "patt_lite version 3", GateSettings())
    assert found.passed is passed
    assert found.number == old.difference


def test_one_source_alone_has_nothing_older_to_lose(line: GateLine) -> None:
    line.candidate("patt_lite", skill=0.9, confidence=0.9)
    found = rule(line.gate(line.champion(skill=0.6)), "patt_lite", "old_distribution")
    assert found.passed and "one source" in found.sentence


def test_a_required_improvement_is_held_against_the_lower_bound(line: GateLine) -> None:
    line.candidate("patt_lite", skill=0.75)
    champion = line.champion(skill=0.6)
    assert line.gate(champion, min_improvement=0.05).decision == "promote"
    decision = line.gate(champion, min_improvement=0.2)
    assert (decision.decision, rule(decision, "patt_lite", "improvement").limit) == ("keep", 0.2)


def test_drawn_faces_do_not_replace_a_champion_of_real_ones(line: GateLine) -> None:
    line.candidate("patt_lite", skill=0.9)
    decision = line.gate(replace(line.champion(skill=0.4), synthetic=False))
    assert decision.decision == "keep"
    assert rule(decision, "patt_lite", "real_faces").passed is False
    assert rule(decision, "patt_lite", "improvement").passed is None


def test_the_champion_is_not_replaced_by_itself(line: GateLine) -> None:
    line.candidate("patt_lite")
    sha256 = files.sha256(line.root / "packages" / "patt_lite")
    decision = line.gate(replace(line.champion(), package_sha256=sha256))
    assert decision.candidates["patt_lite"].verdict == "already_champion"
    assert decision.decision == "keep"
    assert "the champion already" in decision.sentence()


def test_a_champion_that_cannot_be_loaded_is_kept(line: GateLine) -> None:
    class Lost(Champion):
        def folder(self) -> Path:
            raise NoChampionError("BentoML's model store has no intact fer-classifier:v3-aa")

    line.candidate("patt_lite")
    decision = line.gate(Lost(**asdict(line.champion())))
    assert decision.decision == "keep"
    assert "no intact" in rule(decision, "patt_lite", "improvement").sentence


def test_a_model_that_mixes_its_batch_is_refused_without_starting_anything_expensive(line: GateLine) -> None:
    line.candidate("patt_lite", skill=0.9, confidence=0.8, leak=0.3)
    decision = line.gate()
    assert decision.decision == "no_champion"
    assert "batch_invariance" in failed(decision, "patt_lite")
    assert "train.attention" in str(rule(decision, "patt_lite", "batch_invariance").advice)
    assert all(rule(decision, "patt_lite", name).passed is None for name in EXPENSIVE)
    assert line.trials == []


def test_a_package_that_mixes_its_batch_is_refused_although_the_trained_model_does_not(
    line: GateLine,
) -> None:
    line.candidate("patt_lite", packaged=FakeClassifier("patt_lite", leak=0.01))
    assert set(failed(line.gate(), "patt_lite")) == {"package_agreement", "batch_invariance_package"}


def test_a_candidate_that_trained_on_test_images_cannot_win(line: GateLine) -> None:
    seen = list(line.dataset.frame("test", ["pixel_hash"])["pixel_hash"])[:28]
    line.candidate("cheat", skill=0.99, confidence=0.9, seen=seen)
    line.candidate("honest", skill=0.7)
    decision = line.gate()
    assert decision.winner == "honest"
    found = rule(decision, "cheat", "contamination")
    assert (found.passed, found.number) == (False, 0.1)
    assert "28" in found.sentence


def test_unknown_training_data_is_refused_or_allowed_by_policy(line: GateLine) -> None:
    line.candidate("vit", training_data=TrainingData(known=False))
    decision = line.gate()
    assert failed(decision, "vit") == ["training_data"]
    assert rule(decision, "vit", "contamination").passed is None
    assert line.gate(unknown_training_data="allow").winner == "vit"


def test_the_better_of_two_that_pass_wins(line: GateLine) -> None:
    line.candidate("first", skill=0.7)
    line.candidate("second", skill=0.8)
    decision = line.gate()
    assert (decision.winner, decision.candidates["first"].verdict) == ("second", "passed")


@pytest.mark.parametrize(
    ("fake", "settings", "name"),
    [
        ({"skill": 0.2, "confidence": 0.3}, {}, "minimum"),
        ({"confused": ["disgust"]}, {}, "recall"),
        ({"skill": 0.5, "confidence": 0.95}, {}, "calibration"),
        ({}, {"max_size_mb": 1e-6}, "size"),
        ({}, {"max_latency_ms": 1e-6}, "latency"),
    ],
)
def test_each_limit_refuses(
    line: GateLine, fake: dict[str, Any], settings: dict[str, Any], name: str
) -> None:
    line.candidate("patt_lite", **fake)
    decision = line.gate(**settings)
    found = rule(decision, "patt_lite", name)
    assert (found.passed, decision.decision) == (False, "no_champion")
    assert found.number is not None and found.limit is not None and found.advice


def test_a_candidate_that_was_not_evaluated_is_shown_with_its_reason(line: GateLine) -> None:
    line.candidate("patt_lite")
    line.evaluations["vit"] = line.root / "evaluations" / "vit"
    not_evaluated("vit", "vit.checkpoint is not set", line.dataset, line.evaluations["vit"], line.root / "v")
    decision = line.gate()
    assert (decision.winner, decision.candidates["vit"].verdict) == ("patt_lite", "not_evaluated")
    assert "vit.checkpoint is not set" in rule(decision, "vit", "evaluated").sentence
    assert len(decision.candidates["vit"].rules) == len(TITLES)


def test_an_evaluation_of_another_dataset_is_not_judged(line: GateLine, tmp_path: Path) -> None:
    line.candidate("patt_lite")
    line.dataset = planted_dataset(tmp_path / "other", seed=1)
    decision = line.gate()
    assert decision.candidates["patt_lite"].verdict == "not_evaluated"
    assert "another dataset" in rule(decision, "patt_lite", "evaluated").sentence


def test_a_candidate_without_package_says_why(line: GateLine) -> None:
    line.candidate("patt_lite")
    (line.root / "packages" / "patt_lite" / "model.onnx").unlink()
    entry = {"packaged": False, "reason": "packaging failed: no such operator", "sha256": None}
    files.write_json(line.root / "packages" / "index.json", {"candidates": {"patt_lite": entry}})
    decision = line.gate()
    assert "no such operator" in rule(decision, "patt_lite", "packaged").sentence
    assert decision.candidate is None  # nothing that could be a challenger


def test_a_service_that_does_not_start_fails_with_its_reason(line: GateLine) -> None:
    def broken(package: Path, images: list[bytes]) -> NDArray[np.float32]:
        raise RuntimeError("port 3000 is in use")

    line.candidate("patt_lite")
    decision = line.gate(trial=broken)
    assert failed(decision, "patt_lite") == ["service"]
    assert "port 3000 is in use" in rule(decision, "patt_lite", "service").sentence


def test_a_service_that_answers_otherwise_than_the_model_fails(line: GateLine) -> None:
    def reversed_columns(package: Path, images: list[bytes]) -> NDArray[np.float32]:
        return line.trial(package, images)[:, ::-1]

    line.candidate("patt_lite")
    found = rule(line.gate(trial=reversed_columns), "patt_lite", "service")
    assert (found.passed, found.number) == (False, pytest.approx(0.7667, abs=1e-3))


def test_a_service_that_answers_too_little_fails(line: GateLine) -> None:
    line.candidate("patt_lite")
    decision = line.gate(trial=lambda package, images: line.trial(package, images)[:-1])
    assert "for 16 images" in rule(decision, "patt_lite", "service").sentence


def test_a_package_that_gives_nan_fails_and_the_report_is_still_json(line: GateLine) -> None:
    class Broken(FakeClassifier):
        def predict(self, images: NDArray[np.uint8], batch_size: int = 32) -> Predictions:
            return Predictions(np.full((len(images), 7), np.nan, np.float32))

    line.candidate("patt_lite", packaged=Broken("patt_lite"))
    decision = line.gate()
    assert {"package_agreement", "batch_invariance_package"} <= set(failed(decision, "patt_lite"))
    assert json.loads((line.root / "gate.json").read_text())["decision"] == "no_champion"


def test_the_verdict_is_logged_to_the_candidates_run(line: GateLine) -> None:
    import mlflow

    line.candidate("patt_lite", confused=["happy"])
    decision = line.gate()
    client = mlflow.MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")  # MLflow keeps stores by address
    run_id = decision.candidates["patt_lite"].mlflow_run_id
    tags = client.get_run(run_id).data.tags
    assert (tags["ferops.gate"], "recall" in tags["ferops.gate.failed"]) == ("refused", True)
    assert {Path(a.path).name for a in client.list_artifacts(run_id, "gate")} == {"gate.json", "gate.html"}


def test_a_real_onnx_package_is_judged_by_onnx_runtime(line: GateLine) -> None:
    package = write_tiny_package(line.root / "packages" / "patt_lite")
    classifier = OnnxClassifier(package)
    line.evaluations["patt_lite"] = line.root / "evaluation"
    evaluate(classifier, line.dataset, EVALUATION, 0, line.root / "evaluation", line.root / "metrics.json")
    decision = decide(
        line.evaluations,
        line.root / "packages",
        None,
        line.dataset,
        GateSettings(minimum=0, min_recall=0, max_calibration_error=1, unknown_training_data="allow"),
        lambda package, images: OnnxClassifier(package).predict(pixels.faces(images)).probabilities,
        line.root / "gate.json",
        line.root / "gate.html",
        evaluation=EVALUATION,
    )
    assert failed(decision, "patt_lite") == []
    assert "onnxruntime" in rule(decision, "patt_lite", "latency").sentence
