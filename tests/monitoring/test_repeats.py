"""One image or one client again and again: noticed, and no evidence of drift."""

import numpy as np
import pandas as pd
import pytest

from ferops.data.descriptors import DESCRIPTORS
from ferops.models.onnx import OnnxClassifier
from ferops.monitoring.advice import advice
from ferops.monitoring.monitor import judge
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor, Question
from serving_client import encoded
from tiny_log import CHAMPION, answers
from tiny_package import write_tiny_package


def again_and_again(rows, times, first=0):
    """The first row, `times` times, under ids of their own."""
    copies = pd.concat([rows.iloc[[first]]] * times, ignore_index=True)
    return copies.assign(id=[f"again-{first}-{n}" for n in range(times)])


def test_a_window_full_of_one_image_is_judged_by_the_others_and_says_so(workplace):
    rows = answers(400, seed=1)
    workplace.predict(rows)
    workplace.predict(again_and_again(rows, 650))
    verdict = workplace.monitor()
    assert (verdict.verdict, verdict.exit_code, verdict.action) == ("healthy", 0, "none")
    assert (verdict.window.rows, verdict.window.compared, verdict.repeats.images) == (1050, 400, 400)
    assert verdict.repeats.repeated == pytest.approx(650 / 1050)
    assert verdict.repeats.largest_image == pytest.approx(651 / 1050)
    assert verdict.repeats.noticed == ("images",)
    assert "note: one image makes 62% of the window" in verdict.sentence()


def test_some_images_in_turn_are_noticed_like_one(workplace):
    rows = answers(300, seed=2)
    workplace.predict(rows)
    for first in range(10):
        workplace.predict(again_and_again(rows, 30, first))
    verdict = workplace.monitor()
    assert verdict.verdict == "healthy"
    assert verdict.notes == (
        "50% of the predictions repeat an image; the 300 different ones were compared, each once",
    )


def test_some_repeats_are_ordinary(workplace):
    rows = answers(300, seed=3)
    workplace.predict(rows)
    workplace.predict(again_and_again(rows, 20))
    window = workplace.window()
    assert (window.repeats.noticed, len(window.rows), window.usable) == ((), 300, 320)


def test_a_handful_of_images_is_too_few_however_often_they_come(workplace):
    rows = answers(40, seed=4)
    for first in range(10):
        workplace.predict(again_and_again(rows, 30, first))
    verdict = workplace.monitor()
    assert verdict.verdict == "too_few"
    assert verdict.reasons[0].startswith("10 different images in 300 predictions")
    assert verdict.action == "none"


def test_drift_is_found_beside_an_image_that_repeats(workplace):
    rows = answers(300, seed=5).assign(brightness=lambda rows: rows["brightness"] * 0.6)
    workplace.predict(rows)
    workplace.predict(again_and_again(answers(1, seed=6), 700))
    verdict = workplace.monitor()
    assert verdict.verdict == "drift" and verdict.columns[0].name == "brightness"
    assert "images" in verdict.repeats.noticed


def test_feedback_on_one_image_counts_once_whoever_repeats_it(workplace):
    rows = answers(200, seed=7)
    workplace.predict(rows)
    copies = again_and_again(rows, 150)
    workplace.predict(copies)
    workplace.feedback(rows.iloc[:60])
    workplace.feedback(copies.assign(emotion="disgust"))
    verdict = workplace.monitor()
    assert verdict.quality.labelled == 60 == verdict.days[-1].accuracy.labelled
    assert verdict.verdict == "healthy"


@pytest.mark.parametrize(("share", "noticed"), [(0.94, True), (0.3, False)])
def test_a_client_that_sends_most_is_named_by_its_share(workplace, share, noticed):
    rows = answers(500, seed=8)
    clients = np.random.default_rng(0).integers(0, 256, 500)
    clients[: int(500 * share)] = 137
    workplace.predict(rows.assign(client=clients))
    repeats = workplace.window().repeats
    assert repeats.largest_client == pytest.approx(share, abs=0.01)
    assert ("client" in repeats.noticed) == noticed
    assert any(f"one client sent up to {share:.0%}" in said for said in repeats.sentences()) == noticed


@pytest.mark.parametrize("everybody", [False, True])
def test_drift_says_whether_the_other_clients_have_it_too(workplace, everybody):
    rows = answers(400, seed=12).assign(client=np.where(np.arange(400) < 250, 137, np.arange(400) % 97))
    dark = (rows["client"] == 137) | everybody
    rows.loc[dark, "brightness"] *= 0.6
    workplace.predict(rows)
    verdict = workplace.monitor()
    assert verdict.verdict == "drift" and verdict.columns[0].name == "brightness"
    assert verdict.without_largest == (("brightness",) if everybody else ())
    said = (
        "among the other clients brightness moved"
        if everybody
        else "among the other clients nothing has moved"
    )
    assert said in verdict.notes
    assert any("its camera alone" in sentence for sentence in advice(verdict)) != everybody


def test_a_bucket_is_another_client_on_the_next_day(workplace):
    workplace.predict(answers(100, seed=9).assign(client=[5] * 70 + list(range(30))), hours_ago=20)
    workplace.predict(answers(100, seed=10).assign(client=[9] * 50 + list(range(50))), hours_ago=1)
    assert workplace.window().repeats.largest_client == pytest.approx((71 + 51) / 200)


def test_too_few_predictions_say_nothing_of_clients(workplace):
    workplace.predict(answers(3, seed=9).assign(client=137))
    repeats = workplace.window().repeats
    assert (repeats.largest_client, repeats.noticed) == (1.0, ())


def test_a_log_that_tells_nothing_of_clients_says_so(workplace):
    workplace.predict(answers(150, seed=11))
    repeats = workplace.window().repeats
    assert repeats.largest_client is None and repeats.noticed == ()


def test_what_the_service_logs_tells_equal_images_apart_from_others(tmp_path):
    """Whatever they share a batch with, equal images have equal descriptors, and others have not."""
    write_tiny_package(tmp_path)
    log = PredictionLog(tmp_path / "log")
    predictor = Predictor(OnnxClassifier(tmp_path), CHAMPION.label, log, 10**6)
    faces = np.random.default_rng(0).integers(0, 256, (6, 48, 48), np.uint8)
    faces[1] = faces[0]
    faces[1, 20, 20] ^= 1  # one pixel, by one
    contents = [encoded(face) for face in faces]
    predictor.predict(contents)
    predictor.predict(contents[:1])
    predictor.predict_each([Question(contents[4:2:-1]), Question(contents[:3])])
    assert judged(tmp_path).repeats.images == 6


def judged(folder):
    import shutil

    from tiny_log import ROOT

    (folder / "monitoring").mkdir()
    shutil.copy(ROOT / "monitoring/policy.yaml", folder / "monitoring")
    rows = answers(200, seed=0)
    assert set(DESCRIPTORS) <= set(rows)
    rows.to_parquet(folder / "reference.parquet")
    return judge(folder / "log", CHAMPION, folder, folder / "monitoring", track=False)
