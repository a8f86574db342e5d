"""`ferops explain batch-leak`: any Keras classifier, and a page that says what the neighbours did."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from fake_classifiers import planted_dataset
from ferops.cli import app
from ferops.data import images as pixels
from ferops.data.store import Dataset
from ferops.evaluation import batch_invariance
from ferops.explanation.batch_leak import SUFFIXES, explain, explain_file
from ferops.explanation.model import PARTS, rewired, train_published_wiring, wiring
from ferops.explanation.page import percent, points, span
from ferops.explanation.result import Explanation
from ferops.models.classifier import Card, TrainingData
from ferops.models.keras_classifier import KerasClassifier, UnusableModelError, load
from ferops.models.patt_lite import BackboneUnavailableError, build_patt_lite
from ferops.settings import EvaluationSettings, Recipe, Settings, StageSettings
from keras_readers import reader

RECIPE = Recipe(
    description="tiny", image_size=80, backbone="none", fine_tune=StageSettings(epochs=1, learning_rate=1e-3)
)
SETTINGS = Settings(
    recipes={"synthetic": RECIPE},
    evaluation=EvaluationSettings(bootstrap_samples=200, invariance_images=210, batch_size=16),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return planted_dataset(tmp_path_factory.mktemp("leak") / "dataset", test=210)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Callable[[Path], str]) -> Path:
    empty_mlflow(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def saved(model: keras.Model, path: Path) -> Path:
    model.save(path)
    return path


def text_of(page: Path) -> str:
    """What a reader sees, without tags and styles, blanks as one."""

    class Words(HTMLParser):
        found = ""
        style = False

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.style = tag == "style"

        def handle_data(self, data: str) -> None:
            self.found += "" if self.style else data

    words = Words()
    words.feed(page.read_text())
    return re.sub(r"\s+", " ", words.found)


def test_a_model_that_mixes_its_batch_is_explained_with_the_numbers_of_the_gate(
    dataset: Dataset, workspace: Path
) -> None:
    path = saved(reader(leak=0.9), workspace / "leaky.keras")
    found = explain_file(path, dataset, SETTINGS, out=workspace / "out")
    assert found.leaks
    assert found.model.gain.interval[0] > 0
    assert found.model.gain.difference == pytest.approx(
        found.model.metrics["class_sorted"].accuracy - found.model.metrics["single"].accuracy
    )
    accuracies = [point.accuracy for point in found.model.shares]
    assert accuracies[-1] > accuracies[0] + 0.2

    # What the gate's rule is given, for the same images and seed.
    labels = dataset.labels("test")
    gate = batch_invariance.check(load(path), dataset.images("test"), labels, batch_size=16, seed=0)
    assert found.model.invariance == gate

    page = text_of(workspace / "out" / "batch_leak.html")
    alone, ordered = (f"{gate.accuracy[name]:.1%}".replace("%", " %") for name in ("single", "class_sorted"))
    assert f"different neighbours: {alone} or {ordered}" in page
    assert "flow_from_directory(shuffle=False)" in page
    assert "What a user of one photograph gets " + alone in page
    for example in found.examples:
        assert example.answers["single"].predicted != example.emotion
        assert example.answers["class_sorted"].predicted == example.emotion
        assert example.answers["single"].neighbours == {}


def test_a_sound_model_is_told_that_the_order_does_not_matter(dataset: Dataset, workspace: Path) -> None:
    path = saved(reader(dtype="float32", channels=1, logits=True), workspace / "sound.keras")
    found = explain_file(path, dataset, SETTINGS, out=workspace / "out", images=70, batch_size=8)
    assert not found.leaks
    assert (found.model.invariance.images, found.model.invariance.batch_size) == (70, 8)
    assert len({point.accuracy for point in found.model.shares}) == 1
    page = text_of(workspace / "out" / "batch_leak.html")
    assert "different neighbours: the same answers" in page
    assert "70 of the 210 test images" in page


def test_the_page_is_one_file_and_the_run_is_tracked(dataset: Dataset, workspace: Path) -> None:
    import mlflow

    path = saved(reader(leak=0.9), workspace / "leaky.keras")
    found = explain_file(path, dataset, SETTINGS, out=workspace / "out", images=35)
    page = (workspace / "out" / "batch_leak.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"@import|<script|url\((?!#)", page)
    assert (
        Explanation.model_validate(json.loads((workspace / "out" / "batch_leak.json").read_text())) == found
    )
    assert (workspace / "out" / "batch_leak.png").read_bytes().startswith(b"\x89PNG")
    run = mlflow.get_run(found.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["accuracy/class_sorted"] == found.model.metrics["class_sorted"].accuracy
    kept = {artifact.path for artifact in mlflow.MlflowClient().list_artifacts(found.mlflow_run_id)}
    assert kept == {f"batch_leak{suffix}" for suffix in SUFFIXES}


def test_other_files_beside_the_page_stay(dataset: Dataset, workspace: Path) -> None:
    (workspace / "mine.txt").write_text("keep")
    path = saved(reader(), workspace / "sound.keras")
    explain_file(path, dataset, SETTINGS, out=workspace, images=14)
    assert (workspace / "mine.txt").read_text() == "keep"


def test_a_file_that_is_read_the_wrong_way_is_refused_before_any_work(
    dataset: Dataset, workspace: Path
) -> None:
    path = saved(reader(dtype="float32", white=1.0), workspace / "scaled.keras")
    with pytest.raises(UnusableModelError, match=r"add --pixels 0\.\.1"):
        explain_file(path, dataset, SETTINGS, out=workspace / "out")
    assert not (workspace / "out").exists()


def test_without_a_model_the_published_wiring_is_trained_and_its_twin_is_safe(
    tiny_dataset: Dataset, workspace: Path
) -> None:
    classifier, trained = train_published_wiring(tiny_dataset, RECIPE, None, seed=0, steps=12)
    assert (trained.images, trained.available, trained.backbone) == (210, 210, "none")
    assert wiring(classifier.model) == "batch"

    found = explain(
        classifier, tiny_dataset, SETTINGS, out=workspace, images=21, batch_size=4, trained=trained
    )
    assert found.leaks
    assert found.twin is not None and found.twin.attention == "feature"
    assert found.twin.invariance.max_difference < 1e-4
    page = text_of(workspace / "batch_leak.html")
    assert "Synthetic faces" in page
    assert "No model was given, so this one was trained for this page" in page
    assert "The same weights, neighbours unable to help" in page


def test_only_the_head_is_trained_on_the_spot(tiny_dataset: Dataset) -> None:
    keras.utils.set_random_seed(3)
    before = build_patt_lite(image_size=80, attention="batch")
    classifier, _ = train_published_wiring(tiny_dataset, RECIPE, None, seed=3, steps=6)

    def moved(part: str) -> bool:
        pairs = zip(
            before.get_layer(part).get_weights(), classifier.model.get_layer(part).get_weights(), strict=True
        )
        # Not vectors: a random backbone's batch norms do take their statistics from the images.
        return any((first != second).any() for first, second in pairs if first.ndim != 1)

    assert [part for part in PARTS if moved(part)] == [part for part in PARTS if part != "base_model"]


def test_backbone_weights_that_cannot_be_had_say_what_to_give(tiny_dataset: Dataset) -> None:
    with pytest.raises(BackboneUnavailableError, match=r"absent\.h5 not found: give `backbone` the path"):
        train_published_wiring(tiny_dataset, RECIPE, "absent.h5", seed=0)


@pytest.mark.parametrize("attention", ["feature", "patch", "batch"])
def test_rewiring_changes_no_weight(attention: str, tiny_dataset: Dataset) -> None:
    model = build_patt_lite(image_size=80, attention=attention)
    assert wiring(model) == attention
    card = Card("patt_lite", "patt_lite", 48, model.count_params(), TrainingData(known=True))
    faces = pixels.faces([row.as_py() for row in next(tiny_dataset.batches("test", ["image"]))["image"]][:5])
    ours = KerasClassifier(model, card)
    for other in ("feature", "patch", "batch"):
        twin = rewired(ours, other)
        assert wiring(twin.model) == other
        for part in PARTS:
            for first, second in zip(
                model.get_layer(part).get_weights(), twin.model.get_layer(part).get_weights(), strict=True
            ):
                assert np.array_equal(first, second)
        if other == attention:
            assert np.array_equal(ours.predict(faces).probabilities, twin.predict(faces).probabilities)
    assert wiring(reader()) is None


def test_options_that_contradict_each_other_are_refused() -> None:
    for options in (["--pixels", "0..1"], ["--model", "m.keras", "--weights", "w.h5"]):
        done = CliRunner().invoke(app, ["explain", "batch-leak", *options])
        assert done.exit_code == 2
        assert "--model" in done.output


def test_numbers_are_written_as_a_person_reads_them() -> None:
    assert [percent(0.58342), percent(0.5, 0), percent(None)] == ["58.3\u00a0%", "50\u00a0%", "–"]
    assert [points(0.129), points(-0.0041), points(0.0), points(-0.0001)] == ["+12.9", "−0.4", "0.0", "0.0"]
    assert span((0.503, 0.5341)) == "50.3 to 53.4\u00a0%"
