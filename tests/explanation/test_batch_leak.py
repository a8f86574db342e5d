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
from ferops.data.store import Dataset
from ferops.evaluation import batch_invariance
from ferops.explanation.batch_leak import SUFFIXES, explain, explain_file
from ferops.explanation.model import PARTS, Demonstration, rewired, train_published_wiring, wiring
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
CARD = Card("theirs", "keras", 48, 1_102_664, TrainingData(known=False))
SETTINGS = Settings(
    recipes={"synthetic": RECIPE},
    evaluation=EvaluationSettings(bootstrap_samples=200, invariance_images=210, batch_size=16),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return planted_dataset(tmp_path_factory.mktemp("leak") / "dataset", test=210)


@pytest.fixture(scope="module")
def published(tiny_dataset: Dataset) -> tuple[KerasClassifier, Demonstration]:
    """PAtt-Lite in the published wiring, its head trained for a moment."""
    return train_published_wiring(tiny_dataset, RECIPE, None, seed=0, steps=12)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Callable[[Path], str]) -> Path:
    empty_mlflow(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def saved(model: keras.Model, path: Path) -> Path:
    model.save(path)
    return path


def some_faces(dataset: Dataset) -> np.ndarray:
    """uint8 `[9, 48, 48, 3]` of the test split, of all emotions."""
    return dataset.images("test")[::13][:9]


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


def test_what_16_bits_round_is_no_leak_and_the_page_says_so(dataset: Dataset, workspace: Path) -> None:
    images = keras.Input((48, 48, 3), dtype="uint8")
    rounded = keras.layers.Rescaling(1.0, dtype="mixed_bfloat16")(reader()(images))
    path = saved(keras.Model(images, rounded), workspace / "short.keras")
    found = explain_file(path, dataset, SETTINGS, out=workspace / "out", images=14, batch_size=7)
    assert (found.leaks, found.tolerance) == (False, 0.01)
    assert "computes in 16 bits" in text_of(workspace / "out" / "batch_leak.html")


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
    tiny_dataset: Dataset, workspace: Path, published: tuple[KerasClassifier, Demonstration]
) -> None:
    classifier, trained = published
    assert (trained.images, trained.available, trained.backbone) == (210, 210, "none")
    assert wiring(classifier, some_faces(tiny_dataset)) == "batch"

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
    model, faces = build_patt_lite(image_size=80, attention=attention), some_faces(tiny_dataset)
    ours = KerasClassifier(model, CARD)
    assert wiring(ours, faces) == attention
    for other in ("feature", "patch", "batch"):
        twin = rewired(ours, other)
        assert twin.card.details == {"attention": other}
        for part in PARTS:
            for first, second in zip(
                model.get_layer(part).get_weights(), twin.model.get_layer(part).get_weights(), strict=True
            ):
                assert np.array_equal(first, second)
        if other == attention:
            assert np.array_equal(ours.predict(faces).probabilities, twin.predict(faces).probabilities)
    assert wiring(KerasClassifier(reader(), CARD), faces) is None


def derived(
    model: keras.Model,
    attend: Callable[[keras.KerasTensor, keras.Layer], keras.KerasTensor],
    dtype: str = "uint8",
    white: float = 255.0,
    **others: keras.Layer,
) -> keras.Model:
    """What somebody makes of the public notebook: its layers' names, some of its layers, and other ones."""
    part = {name: others.get(name, model.get_layer(name)) for name in PARTS}
    images = keras.Input((48, 48, 3), dtype=dtype)
    x = keras.layers.Rescaling(2 / white, offset=-1.0)(images)
    x = keras.layers.Resizing(80, 80)(x)
    x = keras.layers.GlobalAveragePooling2D()(part["patch_extraction"](part["base_model"](x)))
    x = attend(part["pre_classification"](x), part["attention"])
    return keras.Model(images, part["classification_head"](x))


def among_the_batch(x: keras.KerasTensor, attention: keras.Layer) -> keras.KerasTensor:
    batch = keras.ops.expand_dims(x, 0)
    return keras.ops.squeeze(attention([batch, batch]), 0)


def among_own_features(x: keras.KerasTensor, attention: keras.Layer) -> keras.KerasTensor:
    features = keras.ops.expand_dims(x, -1)
    return keras.ops.squeeze(attention([features, features]), -1)


def added_to_its_input(x: keras.KerasTensor, attention: keras.Layer) -> keras.KerasTensor:
    return x + among_own_features(x, attention)


def another(part: str) -> keras.Layer:
    layers = keras.layers
    if part == "base_model":
        images = keras.Input((80, 80, 3))
        pooled = layers.AveragePooling2D(16)(images)
        return keras.Model(images, layers.Conv2D(512, 1, activation="relu")(pooled), name=part)
    if part == "pre_classification":
        return keras.Sequential([layers.Dense(64, activation="relu"), layers.BatchNormalization()], name=part)
    return layers.Dense(7, activation="softmax", name=part)


@pytest.mark.parametrize(
    "parts", [["base_model"], ["pre_classification", "classification_head"]], ids=lambda parts: parts[0]
)
def test_another_network_under_the_same_names_is_explained_without_a_twin(
    parts: list[str],
    tiny_dataset: Dataset,
    workspace: Path,
    published: tuple[KerasClassifier, Demonstration],
) -> None:
    theirs = derived(published[0].model, among_the_batch, **{part: another(part) for part in parts})
    path = saved(theirs, workspace / "theirs.keras")
    found = explain_file(path, tiny_dataset, SETTINGS, out=workspace / "out", images=14, batch_size=4)
    assert (found.model.attention, found.twin) == (None, None)
    assert "14 of the 105 test images" in text_of(workspace / "out" / "batch_leak.html")


def test_a_network_that_computes_something_else_with_the_same_weights_has_no_twin(
    tiny_dataset: Dataset, published: tuple[KerasClassifier, Demonstration]
) -> None:
    theirs = derived(published[0].model, added_to_its_input)
    assert wiring(KerasClassifier(theirs, CARD), some_faces(tiny_dataset)) is None


def test_a_safe_model_without_our_names_is_not_taken_for_the_published_wiring(
    tiny_dataset: Dataset, workspace: Path, published: tuple[KerasClassifier, Demonstration]
) -> None:
    path = saved(derived(published[0].model, among_own_features), workspace / "theirs.keras")
    found = explain_file(path, tiny_dataset, SETTINGS, out=workspace / "out", images=14, batch_size=4)
    assert not found.leaks
    assert found.model.attention == "feature"
    assert found.twin is not None and found.twin.attention == "batch"


def test_the_published_wiring_is_known_in_a_file_that_takes_scaled_pixels(
    tiny_dataset: Dataset, published: tuple[KerasClassifier, Demonstration]
) -> None:
    theirs = derived(published[0].model, among_the_batch, dtype="float32", white=1.0)
    faces = some_faces(tiny_dataset)
    assert wiring(KerasClassifier(theirs, CARD, "0..1"), faces) == "batch"
    assert wiring(KerasClassifier(theirs, CARD, "0..255"), faces) is None  # read so, it is another network


@pytest.mark.parametrize("inside", [None, 64])
def test_sides_that_no_patt_lite_has_are_no_error(inside: int | None, tiny_dataset: Dataset) -> None:
    ours = build_patt_lite(image_size=80)
    images, resized = keras.Input((48, 48, 3), dtype="uint8"), keras.Input((inside, inside, 3))
    base = keras.Model(resized, keras.layers.Conv2D(512, 1)(resized), name="base_model")
    x = keras.layers.Resizing(5, 5)(base(keras.layers.Resizing(64, 64)(images)))
    x = keras.layers.GlobalAveragePooling2D()(ours.get_layer("patch_extraction")(x))
    x = among_own_features(ours.get_layer("pre_classification")(x), ours.get_layer("attention"))
    theirs = KerasClassifier(keras.Model(images, ours.get_layer("classification_head")(x)), CARD)
    assert wiring(theirs, some_faces(tiny_dataset)) is None


def test_options_that_contradict_each_other_are_refused() -> None:
    for options in (["--pixels", "0..1"], ["--model", "m.keras", "--weights", "w.h5"]):
        done = CliRunner().invoke(app, ["explain", "batch-leak", *options])
        assert done.exit_code == 2
        assert "--model" in done.output


def test_numbers_are_written_as_a_person_reads_them() -> None:
    assert [percent(0.58342), percent(0.5, 0), percent(None)] == ["58.3\u00a0%", "50\u00a0%", "–"]
    assert [points(0.129), points(-0.0041), points(0.0), points(-0.0001)] == ["+12.9", "−0.4", "0.0", "0.0"]
    assert span((0.503, 0.5341)) == "50.3 to 53.4\u00a0%"
