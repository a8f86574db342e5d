"""The monitor from the log to the verdict."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ferops import tracking
from ferops.emotions import EMOTIONS
from ferops.monitoring.history import read
from ferops.monitoring.monitor import judge, monitor
from ferops.monitoring.window import NoReferenceError
from ferops.promotion import versions
from ferops.promotion.champion import NoChampionError
from ferops.serving.report_folder import stamped
from tiny_log import CHAMPION, answers
from tiny_release import write_tiny_release


def darkened(rows):
    return rows.assign(brightness=rows["brightness"] * 0.6, contrast=rows["contrast"] * 0.85)


def test_healthy_predictions_give_a_quiet_verdict(workplace):
    workplace.predict(answers(600, seed=1))
    verdict = workplace.monitor()
    assert (verdict.verdict, verdict.exit_code, verdict.action) == ("healthy", 0, "none")
    assert verdict.window.rows == 600
    assert verdict.embedding is not None and not verdict.embedding.drifted
    assert verdict.synthetic


def test_darkened_images_are_named_first_and_start_training(workplace):
    workplace.predict(darkened(answers(300, seed=2)))
    verdict = workplace.monitor()
    assert (verdict.verdict, verdict.exit_code, verdict.action) == ("drift", 3, "train/nightly")
    assert verdict.columns[0].name == "brightness"
    assert verdict.columns[0].current < verdict.columns[0].reference
    assert [c.name for c in verdict.columns if c.drifted] == ["brightness", "contrast"]
    assert verdict.reasons[0].startswith("brightness moved: mean 0.50")


def test_faces_that_the_model_has_learnt_are_no_drift_although_they_are_a_minority_of_its_reference(
    workplace,
):
    old, learnt = answers(500, seed=0), darkened(answers(200, seed=8))
    known = [old.assign(source="fer2013"), learnt.assign(source="collected")]
    pd.concat(known).to_parquet(workplace.package / "reference.parquet", index=False)
    workplace.predict(darkened(answers(300, seed=2)))
    verdict = workplace.monitor()
    assert (verdict.verdict, verdict.like, verdict.reference_rows) == ("healthy", "collected", 200)
    assert "source collected alone" in verdict.reasons[0]

    workplace.predict(answers(300, seed=9).assign(brightness=0.9))
    assert (workplace.monitor().verdict, workplace.monitor().like) == ("drift", None)


def test_another_mix_of_answers_is_drift_though_the_images_look_alike(workplace):
    rows = answers(400, seed=3)
    happy = rows["emotion"] == "happy"
    workplace.predict(rows[happy | (np.arange(400) % 4 == 0)])
    verdict = workplace.monitor()
    assert verdict.verdict == "drift"
    assert verdict.columns[0].name == "p_happy"
    (label,) = [column for column in verdict.columns if column.name == "label"]
    assert label.drifted
    assert any(reason.startswith("label moved: happy went from") for reason in verdict.reasons)


def test_an_embedding_that_moved_as_a_whole_is_drift(workplace):
    rows = answers(400, seed=4)
    rows[[f"embedding_{i}" for i in range(8)]] += 1.0
    workplace.predict(rows)
    verdict = workplace.monitor()
    assert verdict.verdict == "drift"
    assert not any(column.drifted for column in verdict.columns)
    assert verdict.embedding.drifted
    assert verdict.reasons[0].startswith("the embedding moved")


@pytest.mark.parametrize("rows", [0, 99])
def test_too_few_predictions_say_so(workplace, rows):
    if rows:
        workplace.predict(answers(rows, seed=5))
    verdict = workplace.monitor()
    assert (verdict.verdict, verdict.exit_code, verdict.action) == ("too_few", 4, "none")
    assert verdict.columns == ()
    assert f"{rows} predictions" in verdict.reasons[0]


def test_only_the_champion_and_the_last_hours_count(workplace):
    workplace.predict(answers(150, seed=6))
    moved = answers(150, seed=7).assign(brightness=0.05)
    workplace.predict(moved, version="2")
    workplace.predict(moved.assign(id=moved["id"] + "-old"), hours_ago=30)
    verdict = workplace.monitor()
    assert verdict.verdict == "healthy"
    assert (verdict.window.rows, verdict.window.other_versions_ignored) == (150, 150)


def test_a_torn_line_is_counted_and_does_no_harm(workplace):
    workplace.predict(answers(150, seed=8))
    path = next((workplace.log / "predictions").rglob("*.jsonl"))
    path.write_text(path.read_text() + '{"id": "half a li')
    verdict = workplace.monitor()
    assert (verdict.verdict, verdict.window.rows, verdict.window.torn_lines) == ("healthy", 150, 1)


def test_feedback_gives_accuracy_with_its_interval(workplace):
    rows = workplace.predict(answers(300, seed=9))
    workplace.feedback(rows.iloc[:120])
    quality = workplace.monitor().quality
    assert quality.labelled == 120
    low, high = quality.interval
    assert low < quality.accuracy < high
    assert low < quality.reference_accuracy < high
    assert quality.drifted is False


def test_a_model_that_became_wrong_is_drift_by_feedback_alone(workplace):
    rows = workplace.predict(answers(200, seed=10))
    workplace.feedback(rows.iloc[:100].assign(emotion="disgust"))
    verdict = workplace.monitor()
    assert verdict.verdict == "drift"
    assert verdict.quality.drifted and verdict.quality.accuracy < 0.2
    assert verdict.reasons[0].startswith("accuracy fell")


def test_a_handful_of_corrections_proves_nothing(workplace):
    rows = workplace.predict(answers(200, seed=11))
    workplace.feedback(rows.iloc[:10].assign(emotion="disgust"))
    verdict = workplace.monitor()
    assert verdict.verdict == "healthy"
    assert verdict.quality.drifted is None and verdict.quality.labelled == 10


def test_the_report_holds_the_verdict_and_pages_that_need_no_network(workplace):
    rows = workplace.predict(answers(200, seed=12))
    workplace.feedback(rows.iloc[:60])
    verdict = workplace.monitor()
    (folder,) = stamped(workplace.monitoring)
    assert str(folder) == verdict.report
    assert json.loads((folder / "verdict.json").read_text()) == json.loads(verdict.model_dump_json())
    page = (folder / "index.html").read_text()
    assert "Healthy" in page and "synthetic faces" in page and "<svg" in page
    assert "http" not in page
    assert {path.name for path in folder.iterdir()} == {
        "index.html", "verdict.json", "evidently.html", "quality.html",
    }  # fmt: skip


def test_old_reports_are_forgotten_and_nothing_else(workplace):
    workplace.policy(lambda raw: raw.update(keep_reports=2))
    keep = workplace.monitoring / "reports" / "notes"
    keep.mkdir(parents=True)
    for _ in range(3):
        verdict = workplace.monitor()
        workplace.now = workplace.now.replace(microsecond=workplace.now.microsecond + 1)
    assert [Path(verdict.report).name] == [folder.name for folder in stamped(workplace.monitoring)[1:]]
    assert keep.is_dir()
    assert len(read(workplace.monitoring).verdicts) == 3
    assert str(Path(verdict.report).name) in (keep.parent / "index.html").read_text()


def test_the_verdict_becomes_an_mlflow_run_and_a_tag_of_the_model_version(
    workplace, monkeypatch, empty_mlflow
):
    monkeypatch.chdir(workplace.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_mlflow(workplace.folder))
    monkeypatch.setenv("FEROPS_SERVICE_URL", "https://fer.example.org/")
    client = versions.connect()
    for digest in ("f" * 64, "e" * 64, CHAMPION.package_sha256):
        client.create_model_version(
            tracking.REGISTERED_MODEL, source="package", tags={versions.DIGEST_TAG: digest}
        )
    workplace.predict(answers(150, seed=13))
    verdict = workplace.monitor(track=True)
    run = tracking.connect().get_run(verdict.mlflow_run_id)
    assert run.data.tags["model_version"] == CHAMPION.label and run.data.tags["verdict"] == "healthy"
    assert run.data.metrics["rows"] == 150 and "size.brightness" in run.data.metrics
    experiment = tracking.connect().get_experiment(run.info.experiment_id)
    assert experiment.name == tracking.MONITORING_EXPERIMENT
    report = f"https://fer.example.org/monitoring/{Path(verdict.report).name}/index.html"
    assert verdict.page == report
    assert run.data.tags["mlflow.note.content"].startswith(f"**healthy**, {report}")
    judged, other = (versions.get(client, number).tags for number in ("3", "2"))
    assert judged["ferops.last_verdict"] == f"healthy, {verdict.time}"
    assert judged["ferops.last_report"] == report
    assert "ferops.last_verdict" not in other


def test_a_model_without_embedding_is_judged_by_the_rest(workplace):
    reference = answers(700, seed=0)
    reference = reference.drop(columns=[name for name in reference if name.startswith("embedding")])
    reference.to_parquet(workplace.package / "reference.parquet")
    workplace.predict(answers(150, seed=14))
    verdict = workplace.monitor()
    assert verdict.verdict == "healthy" and verdict.embedding is None


def test_a_package_without_reference_is_refused_with_what_to_do(workplace):
    (workplace.package / "reference.parquet").unlink()
    with pytest.raises(NoReferenceError, match="dvc repro package"):
        workplace.monitor()


def test_without_a_champion_there_is_nothing_to_judge(workplace):
    with pytest.raises(NoChampionError, match="no champion yet"):
        folder = workplace.folder
        monitor(workplace.log, folder / "registry", folder / "release", workplace.monitoring)


def test_without_a_champion_the_release_is_judged(workplace):
    release = write_tiny_release(workplace.folder / "release")
    answers(700, seed=0).drop(columns="id").to_parquet(release.path / "reference.parquet", index=False)
    workplace.predict(answers(300, seed=16), version=release.label)
    verdict = judge(
        workplace.log, release, release.folder(), workplace.monitoring, workplace.now, track=False
    )
    assert (verdict.verdict, verdict.window.rows) == ("healthy", 300)
    assert (verdict.champion, verdict.window.model_version) == ("fer-classifier", release.label)
    assert not verdict.synthetic
    today = monitor(
        workplace.log, workplace.folder / "registry", release.path, workplace.monitoring, track=False
    )
    assert today.window.model_version == release.label


def test_every_emotion_is_in_the_label_shares(workplace):
    workplace.predict(answers(150, seed=15))
    label = next(column for column in workplace.monitor().columns if column.name == "label")
    assert tuple(label.current) == EMOTIONS
    assert sum(label.current.values()) == pytest.approx(1)
