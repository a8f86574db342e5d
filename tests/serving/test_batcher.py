"""Requests that wait together share a call, and nobody is the worse for it."""

import asyncio
import json
import threading

import numpy as np
import pytest

from ferops.emotions import EMOTIONS
from ferops.models.onnx import OnnxClassifier
from ferops.serving.batcher import SMALL, TOGETHER, Batcher
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor, Question, UnusableImageError
from ferops.serving.uploads import UploadError
from serving_client import png
from tiny_package import write_tiny_package

SOON = 20.0


class Gate:
    """Answers each question with its own contents, once it is opened."""

    def __init__(self):
        self.open = threading.Event()
        self.calls = []

    def __call__(self, questions):
        self.calls.append(len(questions))
        assert self.open.wait(20)
        return [[{"contents": question.contents}] for question in questions]


def ask_all(batcher, gate, questions, seconds=SOON):
    """Outcomes of one question a thread, which the gate holds up, and of all that come meanwhile."""

    async def story():
        loop = asyncio.get_running_loop()
        first = []
        for number in range(1, batcher.threads + 1):
            first.append(asyncio.create_task(batcher.ask(Question([b"first"]), loop.time() + SOON)))
            while len(gate.calls) < number:
                await asyncio.sleep(0.001)
        rest = [asyncio.create_task(batcher.ask(each, loop.time() + seconds)) for each in questions]
        await asyncio.sleep(0)
        if seconds < SOON:
            await asyncio.wait(rest)
        gate.open.set()
        return await asyncio.gather(*first, *rest, return_exceptions=True)

    return asyncio.run(story())


def test_what_waits_shares_the_next_call_and_each_gets_its_own_answer():
    gate = Gate()
    questions = [Question([bytes([n])]) for n in range(TOGETHER + 2)]
    outcomes = ask_all(Batcher(gate, threads=1), gate, questions)
    assert [outcome[0]["contents"] for outcome in outcomes[1:]] == [q.contents for q in questions]
    assert gate.calls == [1, TOGETHER, 2]


def test_a_call_leaves_the_other_threads_their_share():
    gate = Gate()
    questions = [Question([bytes([n])]) for n in range(7)]
    outcomes = ask_all(Batcher(gate, threads=2), gate, questions)
    assert [outcome[0]["contents"] for outcome in outcomes[2:]] == [q.contents for q in questions]
    assert gate.calls[:4] == [1, 1, 4, 2] and sum(gate.calls) == 9


@pytest.mark.parametrize(
    "large", [Question([b"x", b"y"]), Question([b"x"], find_faces=True), Question([bytes(SMALL + 1)])]
)
def test_what_takes_longer_goes_alone(large):
    gate = Gate()
    outcomes = ask_all(
        Batcher(gate, threads=1), gate, [Question([b"a"]), Question([b"b"]), large, Question([b"c"])]
    )
    assert gate.calls == [1, 2, 1, 1]
    assert not any(isinstance(outcome, Exception) for outcome in outcomes)


def test_who_waits_too_long_is_turned_away_and_not_computed():
    gate = Gate()
    outcomes = ask_all(Batcher(gate, threads=1), gate, [Question([b"late"])], seconds=0.05)
    assert outcomes[0] == [{"contents": [b"first"]}]
    assert isinstance(outcomes[1], UploadError)
    assert outcomes[1].status == 503
    assert gate.calls == [1]


def test_a_call_that_fails_fails_those_in_it_and_no_later_one():
    failing = [True]

    def answer(questions):
        if failing.pop() if failing else False:
            raise MemoryError("too much")
        return [[] for _ in questions]

    async def story():
        batcher, loop = Batcher(answer, threads=1), asyncio.get_running_loop()
        with pytest.raises(MemoryError):
            await batcher.ask(Question([b"x"]), loop.time() + SOON)
        assert await batcher.ask(Question([b"x"]), loop.time() + SOON) == []

    asyncio.run(story())


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor")
    classifier = OnnxClassifier(write_tiny_package(folder / "package"))
    return Predictor(classifier, "1", PredictionLog(folder / "log"), 10**6)


def test_an_image_has_the_same_probabilities_alone_in_a_batch_and_beside_other_clients(predictor):
    images = [png(seed, size) for seed, size in enumerate([(48, 48), (48, 48), (99, 64), (30, 40)])]
    alone = [predictor.predict([image])[0] for image in images]
    together = predictor.predict(images)
    beside = [answers[0] for answers in predictor.predict_each([Question([image]) for image in images])]
    expected = [[answer["probabilities"][e] for e in EMOTIONS] for answer in alone]
    for answers in (together, beside):
        given = [[answer["probabilities"][e] for e in EMOTIONS] for answer in answers]
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)
        assert [answer["label"] for answer in answers] == [answer["label"] for answer in alone]


def test_a_bad_image_refuses_its_own_request_and_no_other_clients(predictor):
    good, bad, also_good = predictor.predict_each(
        [Question([png(1)]), Question([png(2), b"junk"]), Question([png(3), png(4)])]
    )
    assert isinstance(bad, UnusableImageError)
    assert (bad.index, bad.code) == (1, "not_an_image")
    assert (len(good), len(also_good)) == (1, 2)
    files = predictor.log.folder.rglob("*.jsonl")
    logged = {json.loads(line)["id"] for file in files for line in file.open()}
    assert {answer["id"] for answer in (*good, *also_good)} <= logged
