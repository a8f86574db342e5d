"""The way back from a prediction: whole, and with links missing."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner

from ferops import files, tracking
from ferops.cli import app
from ferops.data.descriptors import DESCRIPTORS
from ferops.models.classifier import TrainingData
from ferops.monitoring.forgetting import UnknownPredictionError, forget
from ferops.monitoring.trace import Workspace, trace
from ferops.promotion import versions
from ferops.promotion.release import MANIFEST_FILE
from ferops.serving.prediction_log import PredictionLog, timestamp
from tiny_package import write_tiny_package
from tiny_release import write_tiny_release


def git(*arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def log_prediction(name, version):
    said = {"label": "happy", "confidence": 0.4, "probabilities": [0.1] * 3 + [0.4] + [0.1] * 3}
    said |= {"embedding": None, "descriptors": dict.fromkeys(DESCRIPTORS, 0.5)}
    PredictionLog(Path("predictions")).predictions(
        [{"id": name, "time": timestamp(), "model_version": version, **said}]
    )


@pytest.fixture(scope="module")
def line(tmp_path_factory, tiny_dataset, empty_mlflow):
    """A repository with a committed recipe, a validated dataset, a run, its package, and a prediction `a`."""
    folder = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("MLFLOW_TRACKING_URI", empty_mlflow(folder))
        git("init", "-q")
        shutil.copytree(tiny_dataset.folder, "data/dataset")
        digest = tiny_dataset.summary.sha256
        report = {"success": True, "warnings": ["blank_fraction"], "expectations": [{}] * 12}
        files.write_json(Path("reports/validation.json"), {**report, "dataset_sha256": digest})
        Path("params.yaml").write_text("train: {recipe: synthetic}\n")
        git("add", "params.yaml")
        git("commit", "-q", "-m", "Train longer")
        with tracking.run("patt_lite") as run_id:
            mlflow.log_params({"train.recipe": "synthetic", "dataset.sha256": digest})
        package = write_tiny_package(
            Path("packages/patt_lite"),
            mlflow_run_id=run_id,
            git_commit=git("rev-parse", "HEAD"),
            params_sha256=files.sha256(Path("params.yaml")),
            training_data=TrainingData(known=True, datasets=("synthetic",), dataset_sha256=digest),
        )
        sha = files.sha256(package)
        versions.connect().create_model_version(
            tracking.REGISTERED_MODEL,
            source=str(package.resolve()),
            run_id=run_id,
            tags={versions.DIGEST_TAG: sha, versions.GATE_TAG: "promote"},
        )
        log_prediction("a", f"v1-{sha[:8]}")
        PredictionLog(Path("predictions")).feedback({"id": "a", "time": timestamp(), "emotion": "sad"})
        yield run_id


def found(name, workspace=None):
    return {link.name: link for link in trace(name, workspace or Workspace())}


def test_every_link_leads_to_the_next(line):
    links = found("a")
    assert [link.missing for link in links.values()] == [None] * 8
    assert list(links) == [
        *("prediction", "feedback", "model version", "mlflow run"),
        *("git commit", "params", "dataset", "validation"),
    ]
    assert "happy, confidence 0.400, by v1-" in links["prediction"].found
    assert links["feedback"].found.endswith("sad")
    assert (
        "version 1 of fer-classifier in MLflow, gate: promote; packages/patt_lite"
        in links["model version"].found
    )
    assert links["mlflow run"].found == f"{line} (patt_lite, FINISHED, recipe synthetic)"
    assert links["git commit"].found.endswith("Train longer")
    assert links["params"].found.startswith("params.yaml of that commit")
    assert "synthetic, 420 images" in links["dataset"].found
    assert links["validation"].found.startswith("passed, 12 expectations, warnings: blank_fraction")


def test_a_dataset_and_a_report_that_are_gone_are_named_and_the_rest_is_shown(line, tmp_path):
    links = found("a", replace(Workspace(), dataset=tmp_path / "none", reports=tmp_path))
    assert [name for name, link in links.items() if link.missing] == ["dataset", "validation"]
    assert "none is absent; check out the commit, then `dvc checkout`" in links["dataset"].line()
    assert "MISSING: no report on dataset" in links["validation"].line()


def test_without_any_package_mlflow_still_knows(line, tmp_path):
    links = found("a", replace(Workspace(), packages=tmp_path))
    assert [name for name, link in links.items() if link.missing] == []
    assert "packages" not in links["model version"].found


def test_a_run_a_commit_and_parameters_that_nobody_has_are_named(line, tmp_path):
    package = write_tiny_package(tmp_path / "other", seed=5, mlflow_run_id="0" * 32, params_sha256="e" * 64)
    log_prediction("b", f"package-{files.sha256(package)[:8]}")
    links = found("b", replace(Workspace(), packages=tmp_path))
    missing = {name: link.missing for name, link in links.items() if link.missing}
    assert list(missing) == ["mlflow run", "git commit", "params", "dataset", "validation"]
    assert "it was deleted, or the model was trained elsewhere" in missing["mlflow run"]
    assert "which this repository does not have" in missing["git commit"]
    assert "is another one now" in missing["dataset"]


@pytest.fixture
def released(tmp_path):
    """A release that was trained elsewhere: its run, parameters and dataset are not at hand."""
    folder = tmp_path / "release"
    files.write_text(folder / "trained_on.txt", "a\nb\nc\n")
    write_tiny_package(
        folder,
        seed=6,
        mlflow_run_id="1" * 32,
        params_sha256="9a" * 32,
        training_data=TrainingData(True, ("fer2013_images",), "trained_on.txt", "da" * 32),
        details={"recipe": "fer2013", "best_epoch": 2},
    )
    files.write_json(folder / "evaluation.json", {"official": {"accuracy": 0.6694}, "rows": 3589})
    report = {"success": True, "warnings": [], "expectations": [{}] * 40, "dataset_sha256": "da" * 32}
    files.write_json(folder / "validation.json", report)
    files.write_text(folder / "params.yaml", "train: {recipe: fer2013}\n")
    files.write_text(folder / "learning_curves.csv", "epoch,loss\n1,2\n2,1\n3,1\n")
    origin = {"dataset_sha256": "da" * 32, "params_sha256": "9a" * 32, "mlflow_run_id": "1" * 32}
    manifest = write_tiny_release(tmp_path / "other").manifest.model_dump(mode="json")
    digests = {path.name: files.sha256(path) for path in folder.iterdir()}
    files.write_json(folder / MANIFEST_FILE, {**manifest, **origin, "files": digests})
    return folder


def test_of_a_release_that_was_trained_elsewhere_its_own_files_tell(line, released):
    log_prediction("r", "release-5e1ea5ed")
    links = found("r", replace(Workspace(), release=released))
    assert [name for name, link in links.items() if link.missing] == ["git commit"]
    assert "1" * 32 + ", in the store of whoever trained it" in links["mlflow run"].found
    assert "recipe (fer2013), 3 epochs (kept: 2) and the results" in links["mlflow run"].found
    assert "accuracy 0.669 on 3589 test images" in links["mlflow run"].found
    assert links["params"].found.startswith(f"{released}/params.yaml, made of the file with sha256 9a9a")
    assert links["dataset"].found.startswith(
        "fer2013_images, sha256 dadadadadada: the pixel hashes of its 3 "
    )
    assert (
        links["validation"].found == f"passed, 40 expectations, warnings: none ({released}/validation.json)"
    )


def test_a_release_from_before_it_carried_its_validation_says_that_there_is_no_report(line, released):
    manifest = files.read_json(released / MANIFEST_FILE)
    del manifest["files"]["validation.json"]
    files.write_json(released / MANIFEST_FILE, manifest)
    log_prediction("o", "release-5e1ea5ed")
    links = found("o", replace(Workspace(), release=released))
    assert "no report on dataset dadadadadada" in links["validation"].missing


def test_what_a_release_says_is_believed_only_as_it_was_released(line, released):
    (released / "params.yaml").write_text("train: {recipe: another}\n")
    (released / "trained_on.txt").unlink()
    files.write_json(released / "validation.json", {"dataset_sha256": "da" * 32})
    log_prediction("s", "release-5e1ea5ed")
    links = found("s", replace(Workspace(), release=released))
    expected = {"params": "params.yaml", "dataset": "trained_on.txt", "validation": "validation.json"}
    for name, file in expected.items():
        assert f"{file} is not as it was released: `git checkout" in links[name].missing
    assert links["mlflow run"].found


def test_a_model_that_nobody_knows_breaks_every_link_but_the_prediction(line):
    log_prediction("c", "v7-ffffffff")
    links = found("c")
    assert sum(link.missing is not None for link in links.values()) == 6
    assert "whose digest begins with ffffffff" in links["model version"].missing


def test_a_prediction_that_is_unknown_or_forgotten_is_said_to_be(line):
    with pytest.raises(UnknownPredictionError, match="predictions holds no prediction nobody"):
        trace("nobody", Workspace())
    log_prediction("d", "v1-00000000")
    forget(Path("predictions"), "d")
    with pytest.raises(UnknownPredictionError, match="prediction d was forgotten"):
        trace("d", Workspace())


def test_the_command_prints_each_link_and_fails_where_one_is_missing(line):
    whole = CliRunner().invoke(app, ["trace", "a"])
    assert whole.exit_code == 0 and len(whole.stdout.splitlines()) == 8
    log_prediction("e", "v7-ffffffff")
    broken = CliRunner().invoke(app, ["trace", "e"])
    assert broken.exit_code == 1 and "MISSING" in broken.stdout
