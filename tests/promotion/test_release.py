"""From the pipeline's outcomes to the release folder, and what is refused on the way."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from ferops import files
from ferops.evaluation.contamination import Contamination
from ferops.evaluation.evaluate import Result
from ferops.evaluation.metrics import measure
from ferops.models import patt_lite, runtimes
from ferops.models.classifier import Card, TrainingData
from ferops.models.onnx import OnnxClassifier, Recorded
from ferops.monitoring.policy import load_policy
from ferops.monitoring.window import read_reference
from ferops.promotion.build_release import MAX_BYTES, Outcomes, build_release, drawn_faces
from ferops.promotion.champion import Champion, NoChampionError
from ferops.promotion.decision import CandidateVerdict, Decision
from ferops.promotion.package import package
from ferops.promotion.release import NoReleaseError, Release, load_release, served_model
from ferops.promotion.rules import TITLES, Rule
from ferops.promotion.variants import load_variants
from ferops.serving.runtime import open_checked
from ferops.settings import load_settings
from reduced_precision import Rounded, write_verdict
from tiny_release import write_tiny_release

ROOT = Path(__file__).parents[2]
CURVES = "epoch,stage,validation_accuracy\n1,fine_tune,0.4\n2,fine_tune,0.6\n"


def a_model():
    """PAtt-Lite untrained, but with batch norms that have seen faces, and weights that float16 holds."""
    keras.utils.set_random_seed(0)
    model = patt_lite.build_patt_lite(image_size=80)
    # Else the signal dies on its way through random layers, and all answers agree.
    for name, gain in (("patch_extraction", 4), ("classification_head", 100)):
        layer = model.get_layer(name)
        layer.set_weights([gain * w for w in layer.get_weights()])
    patt_lite.set_batch_norm_momentum(model, 0.01)
    model(drawn_faces(48), training=True)
    model.set_weights([w.astype(np.float16).astype(np.float32) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def template(tmp_path_factory, tiny_dataset) -> Path:
    """Everything that `dvc repro` leaves for a candidate which passed, in one folder. Copy it."""
    root = tmp_path_factory.mktemp("outcomes")
    trained, evaluation = root / "models", root / "evaluation"
    for folder in (trained, evaluation / "figures"):
        folder.mkdir(parents=True)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["recipes"]["synthetic"]["backbone"] = "/somewhere/private/weights.h5"
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    model = a_model()
    model.save(trained / "model.keras")
    card = Card(
        name="patt_lite",
        kind="patt_lite",
        input_side=48,
        parameters=model.count_params(),
        training_data=TrainingData(True, ("faces",), "trained_on.txt", tiny_dataset.summary.sha256),
        embedding_size=32,
        mlflow_run_id="r",
        git_commit="c" * 40,
        params_sha256=files.sha256(root / "params.yaml"),
        details={"best_epoch": 2, "backbone": {"weights": "/somewhere/private/weights.h5"}},
    )
    card.save(trained / "card.json")
    hashes = tiny_dataset.frame("train", ["pixel_hash"])["pixel_hash"]
    (trained / "trained_on.txt").write_text("\n".join(hashes))
    for path in (trained / "learning_curves.png", *(evaluation / "figures" / n for n in FIGURES)):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    labels = np.arange(70) % 7
    right = np.where(np.arange(70) < 56, labels, (labels + 1) % 7)  # 80 %
    metrics = measure(labels, np.eye(7, dtype=np.float32)[right], samples=200)
    result = Result(
        candidate="patt_lite",
        evaluated=True,
        synthetic=False,
        dataset_sha256=tiny_dataset.summary.sha256,
        rows=70,
        official=metrics,
        without_copies=metrics,
        contamination=Contamination(known=True, share=0.0, rows=0),
        mlflow_run_id="r",
    )
    files.write_json(evaluation / "result.json", result.model_dump(mode="json"))
    package(patt_lite.load(trained), evaluation, tiny_dataset, root / "package")
    files.write_json(root / "validation.json", validation_report(tiny_dataset))
    (root / "learning_curves.csv").write_text(CURVES)
    judge(root, "passed")
    return root


def validation_report(dataset) -> dict:
    """As `ferops validate` writes it: a warning's message names an image."""
    name = dataset.frame("validation", ["id"])["id"].iloc[0]
    checked = {"kind": "schema", "success": True, "observed": 0, "limit": 0, "blocking": True}
    blank = {"kind": "blank_images", "success": False, "observed": 0.1, "limit": 0.01, "blocking": False}
    return {
        "success": True,
        "blocking_failures": [],
        "warnings": ["blank_fraction"],
        "findings": {"rows": 420},
        "class_rows": [],
        "expectations": [
            {"name": "id_unique", **checked, "message": "as expected"},
            {"name": "blank_fraction", **blank, "message": f"id {name} is blank"},
        ],
        "docs": "validation/index.html",
        "dataset_sha256": dataset.summary.sha256,
        "synthetic": False,
    }


FIGURES = ("confusion_matrix.png", "reliability.png")


def judge(root: Path, verdict: str, synthetic: bool = False) -> None:
    """The gate's word on the package as it is."""
    digest = files.sha256(root / "package")
    passed = verdict == "passed"
    rules = tuple(
        Rule(rule=r, passed=passed or r != "recall", number=0.5, limit=0.1, sentence="") for r in TITLES
    )
    candidate = CandidateVerdict(
        verdict=verdict, metric=0.8, package_sha256=digest, mlflow_run_id="r", rules=rules
    )
    decision = Decision(
        decision="promote" if passed else "keep",
        winner="patt_lite" if passed else None,
        candidate="patt_lite",
        package_sha256=digest,
        reason="",
        champion=None,
        candidates={"patt_lite": candidate},
        metric="macro_f1",
        dataset_sha256=files.read_json(root / "evaluation/result.json")["dataset_sha256"],
        synthetic=synthetic,
        decided_against_version=None,
        decided_at="2026-02-28T00:00:00+00:00",
    )
    files.write_json(root / "gate.json", decision.model_dump(mode="json"))


def outcomes(root: Path) -> Outcomes:
    return Outcomes(
        trained=root / "models",
        package=root / "package",
        evaluation=root / "evaluation",
        gate=root / "gate.json",
        validation=root / "validation.json",
        curves=root / "learning_curves.csv",
        params=root / "params.yaml",
    )


@pytest.fixture(scope="module")
def released(template, tmp_path_factory) -> Release:
    return build_release(outcomes(template), tmp_path_factory.mktemp("out") / "release")


def some_faces():
    noise = np.random.default_rng(7).integers(0, 256, (11, 48, 48, 3), dtype=np.uint8)
    return np.concatenate([drawn_faces(48), noise])


def test_the_release_answers_exactly_as_the_package_that_the_gate_judged(template, released):
    judged, small = OnnxClassifier(template / "package"), OnnxClassifier(released.path)
    expected, given = judged.predict(some_faces()), small.predict(some_faces())
    np.testing.assert_allclose(given.probabilities, expected.probabilities, rtol=0, atol=1e-6)
    np.testing.assert_allclose(given.embedding, expected.embedding, rtol=0, atol=1e-6)
    assert expected.probabilities.std(axis=0).max() > 0.01  # answers that agree anyway would show nothing
    assert small.self_check() < 1e-6
    assert released.package_sha256 == files.sha256(template / "package")
    assert released.label == f"release-{released.package_sha256[:8]}"


def test_a_verdict_on_reduced_precision_is_restated_for_the_small_file(template, tmp_path, monkeypatch):
    monkeypatch.setitem(runtimes.RUNTIMES, "openvino-bf16", Rounded)
    with_verdict = replace(outcomes(template), variants=tmp_path / "variants")
    write_verdict(tmp_path / "variants", template / "package")
    released = build_release(with_verdict, tmp_path / "release")
    (variant,) = load_variants(released.path).judged.values()
    assert variant.model_sha256 == files.sha256(released.path / "model.onnx")
    assert variant.accuracy == 0.66
    assert released.damaged() == []
    assert open_checked(released.path, "openvino-bf16").choice.runtime == "openvino-bf16"

    write_verdict(tmp_path / "variants", template / "package", model_sha256="0" * 64)
    released = build_release(with_verdict, tmp_path / "release")
    assert load_variants(released.path).not_judged == {"openvino-bf16": "the verdict is on another package"}


def test_its_keras_weights_are_the_trained_ones_in_every_bit(template, released):
    trained = keras.saving.load_model(template / "models/model.keras").get_weights()
    loaded = patt_lite.load(released.path)  # the two lines that the card for people shows
    for given, expected in zip(loaded.model.get_weights(), trained, strict=True):
        np.testing.assert_array_equal(given, expected)
    np.testing.assert_allclose(
        loaded.predict(some_faces()).probabilities,
        OnnxClassifier(released.path).predict(some_faces()).probabilities,
        atol=1e-4,
    )


def test_training_can_start_from_its_backbone_and_knows_what_it_saw(released):
    backbone = patt_lite.build_backbone(80, str(released.path / "model.keras"))
    trained = patt_lite.load(released.path).model.get_layer("base_model")
    np.testing.assert_array_equal(backbone.get_weights()[0], trained.get_weights()[0])
    card = Card.load(released.path / "card.json")
    assert (released.path / card.training_data.pixel_hashes).read_text().split()


def test_both_models_take_half_the_bytes_and_the_folder_fits_into_git(template, released):
    def size(path: Path) -> int:
        return path.stat().st_size

    assert size(released.path / "model.onnx") < 0.55 * size(template / "package/model.onnx")
    assert size(released.path / "model.keras") < 0.6 * size(template / "models/model.keras")
    assert sum(size(path) for path in released.path.iterdir()) < MAX_BYTES


def test_no_image_of_the_dataset_and_no_name_of_one_is_in_it(released, tiny_dataset):
    recorded = Recorded.load(released.path).images
    np.testing.assert_array_equal(recorded, drawn_faces(48))
    assert len({face.tobytes() for face in recorded}) == 21
    assert "id" not in pd.read_parquet(released.path / "reference.parquet").columns
    name = tiny_dataset.frame("validation", ["id"])["id"].iloc[0].encode()
    assert not any(name in path.read_bytes() for path in released.path.iterdir())


def test_it_says_what_validation_found_in_its_dataset(released):
    report = files.read_json(released.path / "validation.json")
    assert report["dataset_sha256"] == released.manifest.dataset_sha256
    assert report["success"] and report["warnings"] == ["blank_fraction"]
    assert [(e["name"], e["observed"]) for e in report["expectations"]] == [
        ("id_unique", 0),
        ("blank_fraction", 0.1),
    ]
    assert "passed, 2 expectations, warnings: blank_fraction" in (released.path / "README.md").read_text()


def test_the_monitor_can_compare_with_its_reference(released, tiny_dataset):
    reference = read_reference(released.path, load_policy(ROOT / "monitoring/policy.yaml"))
    assert len(reference.rows) == len(tiny_dataset.frame("validation", ["id"]))
    assert len(reference.embedding) == 32


def test_the_card_for_people_says_what_was_measured_and_where_it_came_from(released):
    text = (released.path / "README.md").read_text()
    assert "| accuracy | 80.0 [" in text
    assert "| happy | 80.0 [" in text
    assert released.manifest.dataset_sha256 in text and "c" * 40 in text
    assert "Do not use it to judge" in text
    for name in ("confusion_matrix.png", "reliability.png", "learning_curves.png", "params.yaml"):
        assert f"({name})" in text and (released.path / name).exists()


def test_the_parameters_hold_the_recipe_and_no_path_of_the_machine(released):
    recipe = load_settings(released.path / "params.yaml")
    assert list(recipe.recipes) == [recipe.train.recipe] == ["synthetic"]
    assert recipe.recipe.backbone == "weights.h5"
    everything = b"".join(path.read_bytes() for path in released.path.iterdir())
    assert b"/somewhere/private" not in everything


def test_the_same_outcomes_give_the_same_files(template, released, tmp_path):
    again = build_release(outcomes(template), tmp_path / "release")
    assert again.manifest == released.manifest
    assert again.damaged() == []


def test_damage_is_named(released, tmp_path):
    copy = Release.load(shutil.copytree(released.path, tmp_path / "release"))
    (copy.path / "card.json").write_text("{}")
    (copy.path / "model.keras").unlink()
    assert copy.damaged() == ["card.json", "model.keras"]


# What is refused


def change_json(path: Path, **changes) -> None:
    files.write_json(path, {**files.read_json(path), **changes})


def another_package(root: Path) -> None:
    change_json(root / "package/card.json", parameters=1)


def another_evaluation(root: Path) -> None:
    change_json(root / "evaluation/result.json", rows=1)


def validation_of_another_dataset(root: Path) -> None:
    change_json(root / "validation.json", dataset_sha256="0" * 64)


def validation_that_failed(root: Path) -> None:
    change_json(root / "validation.json", success=False, blocking_failures=["image_mode"])


def another_training(root: Path) -> None:
    change_json(root / "models/card.json", mlflow_run_id="other")


def other_weights(root: Path) -> None:
    model = a_model()
    model.set_weights([w * 2 for w in model.get_weights()])
    model.save(root / "models/model.keras")


def other_parameters(root: Path) -> None:
    with (root / "params.yaml").open("a") as file:
        file.write("# lower limits\n")


def no_commit(root: Path) -> None:
    for folder in ("models", "package"):
        change_json(root / folder / "card.json", git_commit="unknown")
    judge(root, "passed")


def synthetic(root: Path) -> None:
    for path in ("models/card.json", "package/card.json", "evaluation/result.json"):
        change_json(root / path, synthetic=True)
    judge(root, "passed", synthetic=True)


def unknown_images(root: Path) -> None:
    unknown = {"known": False, "datasets": ["faces"], "pixel_hashes": None, "dataset_sha256": None}
    change_json(root / "models/card.json", training_data=unknown)
    (root / "models/trained_on.txt").unlink()


def curves_of_another_run(root: Path) -> None:
    (root / "learning_curves.csv").write_text("epoch\n1\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: judge(root, "refused"), r"refused \(recall\)"),
        (lambda root: judge(root, "already_champion"), "already_champion"),
        (synthetic, "synthetic faces"),
        (another_package, "judged another package"),
        (another_evaluation, "evaluation and that in the package"),
        (validation_of_another_dataset, "dataset of evaluation and validation"),
        (validation_that_failed, r"validation of the dataset failed \(image_mode\)"),
        (another_training, "run of model and package"),
        (other_weights, "not that of the trained model"),
        (other_parameters, "set FEROPS_PARAMS"),
        (no_commit, "which commit"),
        (curves_of_another_run, "no epoch 2"),
        (unknown_images, "may have seen any image"),
        (lambda root: (root / "models/trained_on.txt").unlink(), "trained_on.txt is absent"),
        (lambda root: (root / "gate.json").unlink(), "gate.json is absent"),
        (lambda root: (root / "validation.json").unlink(), "validation.json is absent"),
    ],
)
def test_what_does_not_belong_together_is_refused_and_the_old_release_stays(
    template, tmp_path, spoil, message
):
    root = shutil.copytree(template, tmp_path / "outcomes")
    old = tmp_path / "release" / "release.json"
    files.write_text(old, "old")
    spoil(root)
    with pytest.raises(NoReleaseError, match=message):
        build_release(outcomes(root), old.parent)
    assert old.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_would_be_too_large_for_git_is_refused(template, tmp_path):
    root = shutil.copytree(template, tmp_path / "outcomes")
    with (root / "models/trained_on.txt").open("a") as file:
        file.write("0" * MAX_BYTES)
    with pytest.raises(NoReleaseError, match=r"at most 6 MB are allowed \(trained_on.txt"):
        build_release(outcomes(root), tmp_path / "release")
    assert not (tmp_path / "release").exists()


# What is served

CHAMPION = Champion(
    "fer-classifier", "1", "fer-classifier:v1-0a1b2c3d", "0a" * 32, "r", "patt_lite", "t", True
)


def test_the_release_is_served_until_a_champion_is_promoted(tmp_path):
    release = write_tiny_release(tmp_path / "release")
    assert served_model(tmp_path / "registry", release.path) == release
    for champion in (CHAMPION, replace(CHAMPION, synthetic=False)):
        champion.save(tmp_path / "registry")
        assert served_model(tmp_path / "registry", release.path) == champion


def test_without_either_the_sentence_says_how_to_get_a_champion(tmp_path):
    assert load_release(tmp_path / "release") is None
    with pytest.raises(NoChampionError, match="make run"):
        served_model(tmp_path / "registry", tmp_path / "release")


def test_a_broken_manifest_is_no_silent_absence(tmp_path):
    write_tiny_release(tmp_path)
    change_json(tmp_path / "release.json", model=None)
    with pytest.raises(ValueError, match="git checkout"):
        load_release(tmp_path)
