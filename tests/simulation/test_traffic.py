"""Traffic for a real service, and feedback on its answers."""

import json
import time
from pathlib import Path

import pytest

from ferops.data.sources.png import png
from ferops.data.sources.synthetic import Synthetic
from ferops.serving.trial import running_service
from ferops.settings import SyntheticSettings
from ferops.simulation.traffic import Traffic, synthetic_faces
from tiny_package import write_tiny_package

DRAW = synthetic_faces(noise=0.3, drift="darker", severity=5, seed=0)


def until(condition, patience=30.0):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traffic")
    environment = {
        "FEROPS_PACKAGE": str(write_tiny_package(folder / "package")),
        "FEROPS_LOG_DIR": str(folder / "log"),
        "BENTOML_HOME": str(folder / "bentoml"),
    }
    with running_service(folder, environment) as url:
        yield url, folder / "log"


def logged(log_dir: Path, kind: str) -> list[dict]:
    lines = [line for file in log_dir.glob(f"{kind}/*/*.jsonl") for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def test_the_faces_are_none_of_the_dataset():
    of_the_dataset = {record.image for record in Synthetic(SyntheticSettings(train=70, noise=0.3), seed=0)}
    assert not {png(DRAW(number, False)[0]) for number in range(20)} & of_the_dataset


def test_a_drifted_face_is_the_same_face_changed():
    face, emotion = DRAW(7, False)
    darker, same = DRAW(7, True)
    assert same == emotion
    assert darker.mean() == pytest.approx(0.3 * face.mean(), rel=0.02)


@pytest.mark.server
def test_every_request_is_answered_and_feedback_comes_late_and_out_of_order(service):
    url, log_dir = service
    with Traffic(url, DRAW, per_second=100, feedback=1.0, delay_s=0.3, poison=1.0) as traffic:
        until(lambda: len(traffic.answers()) >= 40)
        traffic.drifted = True
        until(lambda: traffic.labelled >= 40)
    answers = traffic.answers()
    assert traffic.problems == []
    assert all(answer.problem is None and answer.version for answer in answers)
    asked = {answer.id: answer for answer in answers}
    said = logged(log_dir, "feedback")
    assert traffic.sent == len(answers) + len(said)
    assert {record["id"] for record in logged(log_dir, "predictions")} == set(asked)
    moments = [asked[record["id"]].at for record in said]
    assert moments != sorted(moments)
    for record in said:  # all feedback on drifted faces is poisoned, and none before
        answer = asked[record["id"]]
        assert (record["emotion"] == answer.truth) != answer.drifted


@pytest.mark.server
def test_a_service_that_is_gone_shows_as_failed_requests():
    with Traffic("http://127.0.0.1:9", DRAW, per_second=50, feedback=1.0, delay_s=0.0) as traffic:
        until(lambda: len(traffic.answers()) >= 3)
    assert len(traffic.problems) == traffic.sent == len(traffic.answers())
    assert all("/predict" in answer.problem and answer.label is None for answer in traffic.answers())
