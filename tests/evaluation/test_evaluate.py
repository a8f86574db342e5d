import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_classifiers import FakeClassifier, planted_dataset
from ferops.data.store import Dataset
from ferops.evaluation.evaluate import (
    FIGURES,
    EvaluationError,
    Result,
    evaluate,
    load_predictions,
    not_evaluated,
)
from ferops.models.classifier import TrainingData
from ferops.settings import EvaluationSettings

SETTINGS = EvaluationSettings(bootstrap_samples=200, invariance_images=70)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return planted_dataset(tmp_path_factory.mktemp("evaluate") / "dataset", synthetic=True)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Callable[[Path], str]) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    empty_mlflow(folder)
    return folder


@pytest.fixture(scope="module")
def result(dataset: Dataset, here: Path) -> Result:
    classifier = FakeClassifier("patt_lite", training_data=TrainingData(known=False), synthetic=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return evaluate(classifier, dataset, SETTINGS, 0, here / "evaluations", here / "metrics.json")


def test_the_folder_holds_the_result_the_predictions_and_the_figures(
    result: Result, dataset: Dataset, here: Path
) -> None:
    assert Result.load(here / "evaluations") == result
    table = load_predictions(here / "evaluations")
    assert list(table["id"]) == list(dataset.frame("test", ["id"])["id"])
    for name in FIGURES:
        assert (here / "evaluations" / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_results_are_given_with_and_without_copies_and_say_that_faces_are_synthetic(result: Result) -> None:
    assert result.official is not None and result.without_copies is not None
    assert (result.rows, result.official.rows, result.without_copies.rows) == (210, 210, 196)
    assert result.official.accuracy == pytest.approx(0.8, abs=0.08)
    assert result.synthetic
    assert any("synthetic faces" in note for note in result.notes)


def test_each_source_of_test_images_is_measured_alone(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    two = planted_dataset(tmp_path / "two", collected=70, synthetic=True)
    settings = SETTINGS.model_copy(update={"views": ()})
    found = evaluate(FakeClassifier(), two, settings, 0, tmp_path / "evaluation", tmp_path / "m.json")
    assert {name: metrics.rows for name, metrics in found.by_source.items()} == {
        "planted": 126,
        "collected": 70,
    }
    shown = json.loads((tmp_path / "m.json").read_text())["by_source"]
    assert shown["collected"]["macro_f1"] == found.by_source["collected"].macro_f1


def test_averages_over_views_stand_beside_the_single_prediction(result: Result) -> None:
    assert set(result.views) == {"flipped", "ten_crop"}
    # The planted faces carry their answer in one corner, which a mirror moves: only the single view reads it.
    assert result.official is not None
    assert result.views["flipped"].official.rows == result.official.rows
    assert result.views["flipped"].without_copies.accuracy < result.official.accuracy


def test_the_metrics_file_holds_the_numbers_for_dvc(result: Result, here: Path) -> None:
    shown = json.loads((here / "metrics.json").read_text())
    assert shown["without_copies"]["macro_f1"] == result.without_copies.macro_f1  # type: ignore[union-attr]
    assert shown["batch_invariance"]["max_difference"] == 0
    assert shown["contamination"] == {"known": False, "share": None}


def test_the_run_of_the_candidate_holds_metrics_and_figures(
    result: Result, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    run = client.get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/accuracy"] == pytest.approx(result.official.accuracy)  # type: ignore[union-attr]
    assert "test_without_copies/recall/happy" in run.data.metrics
    figures = client.list_artifacts(result.mlflow_run_id, "evaluation/figures")
    assert {Path(figure.path).name for figure in figures} == set(FIGURES)


def test_a_large_model_is_checked_on_fewer_images_and_the_result_says_so(
    dataset: Dataset, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    settings = SETTINGS.model_copy(update={"invariance_images": 512})
    classifier = FakeClassifier("vit", parameters=85_804_039, training_data=TrainingData(known=False))
    found = evaluate(classifier, dataset, settings, 0, tmp_path / "evaluation", tmp_path / "metrics.json")
    assert found.batch_invariance is not None and found.batch_invariance.images == 128
    assert any("128 instead of 512" in note for note in found.notes)


def test_a_candidate_without_evaluation_has_the_same_shape_and_a_reason(
    dataset: Dataset, tmp_path: Path
) -> None:
    found = not_evaluated("vit", "no checkpoint", dataset, tmp_path / "vit", tmp_path / "vit.json")
    assert Result.load(tmp_path / "vit") == found
    shown = json.loads((tmp_path / "vit.json").read_text())
    assert (shown["evaluated"], shown["reason"], shown["official"]) == (False, "no checkpoint", None)


def test_an_absent_evaluation_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="dvc repro"):
        Result.load(tmp_path)


def test_a_test_split_of_copies_alone_is_refused(tmp_path: Path) -> None:
    copies = planted_dataset(tmp_path / "dataset", test=14, copies=14)
    with pytest.raises(EvaluationError, match="without a copy"):
        evaluate(FakeClassifier(), copies, SETTINGS, 0, tmp_path / "evaluation", tmp_path / "m.json")
    assert not (tmp_path / "evaluation").exists()
