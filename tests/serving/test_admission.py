"""Overload: who is turned away, how fast, and that it ends."""

import asyncio
import threading
import time

import httpx
import pytest

from ferops.environment import Environment
from ferops.models.onnx import OnnxClassifier
from ferops.serving.app import app, start
from ferops.serving.metrics import Metrics
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from serving_client import png
from tiny_package import write_tiny_package


class SlowClassifier(OnnxClassifier):
    """Answers when it is let."""

    def __init__(self, folder):
        super().__init__(folder)
        self.go = threading.Event()
        self.began = threading.Semaphore(0)

    def predict(self, images, batch_size=32):
        self.began.release()
        assert self.go.wait(20)
        return super().predict(images, batch_size)


@pytest.fixture
def slow(tmp_path):
    """An app whose model is slow, with room for 4 requests of 20 kB together."""
    before = getattr(app.state, "serving", None)
    classifier = SlowClassifier(write_tiny_package(tmp_path / "package"))
    small = {"queue_mb": 0.02, "max_request_mb": 0.02, "max_upload_mb": 0.02}
    limits = Environment(queue=4, timeout_s=0.5, max_images=3, **small)
    predictor = Predictor(classifier, "1", PredictionLog(tmp_path / "log"), limits.max_pixels)
    start(app, predictor, limits, Metrics())
    yield classifier
    classifier.go.set()
    app.state.serving = before


def client():
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://here", timeout=30)


def body(*contents):
    return {"files": [("images", ("face.png", content)) for content in contents]}


def held():
    return app.state.serving.admission


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


def assert_turned_away(response):
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert int(response.headers["retry-after"]) >= 1


def test_beyond_the_queue_requests_are_turned_away_at_once_and_the_others_answered(slow):
    async def story():
        async with client() as http:
            app.state.serving.limits.timeout_s = 30
            taken = [asyncio.create_task(http.post("/predict", **body(png(n)))) for n in range(4)]
            await until(lambda: held().requests == 4)
            begin = time.monotonic()
            for _ in range(10):
                assert_turned_away(await http.post("/predict", **body(png())))
            assert time.monotonic() - begin < 5  # while the model did not answer at all
            slow.go.set()
            answers = await asyncio.gather(*taken)
            assert [answer.status_code for answer in answers] == [200] * 4
            assert (await http.post("/predict", **body(png()))).status_code == 200
            page = (await http.get("/metrics")).text
            assert 'ferops_refusals_total{code="overloaded"} 10.0' in page
            assert 'ferops_requests_total{route="/predict",status="200"} 5.0' in page

    asyncio.run(story())
    assert (held().requests, held().bytes) == (0, 0)


def test_a_request_that_does_not_get_its_turn_in_time_is_turned_away(slow):
    async def story():
        async with client() as http:
            working = []
            for _ in range(app.state.serving.batcher.threads):  # one after the other, or they share a call
                working.append(asyncio.create_task(http.post("/predict", **body(png()))))
                await until(lambda: slow.began.acquire(blocking=False))
            assert_turned_away(await http.post("/predict", **body(png())))
            slow.go.set()
            assert {answer.status_code for answer in await asyncio.gather(*working)} == {200}

    asyncio.run(story())


def test_requests_that_bring_too_much_together_are_turned_away(slow):
    async def story():
        async with client() as http:
            with held().place() as another:
                another.take(15_000)
                assert_turned_away(await http.post("/predict", **body(bytes(15_000))))
            assert (await http.post("/predict", **body(bytes(15_000)))).status_code == 422

    asyncio.run(story())
    assert held().bytes == 0


def test_a_request_that_announces_too_much_is_refused_before_it_is_sent(slow):
    async def story():
        async with client() as http:
            response = await http.post("/predict", **body(bytes(60_000), bytes(60_000)))
            assert (response.status_code, response.json()["code"]) == (413, "too_large")

    asyncio.run(story())
    assert held().bytes == 0


@pytest.mark.parametrize(
    "route, kind",
    [("/predict", "multipart/form-data; boundary=b"), ("/feedback", "application/json")],
)
def test_a_client_that_does_not_finish_is_given_up(slow, route, kind):
    async def half_a_request():
        yield b'--b\r\nContent-Disposition: form-data; name="images"; filename="f"\r\n\r\n'
        await asyncio.sleep(60)

    async def story():
        async with client() as http:
            headers = {"content-type": kind}
            response = await http.post(route, content=half_a_request(), headers=headers)
            assert (response.status_code, response.json()["code"]) == (408, "timeout")
            assert response.headers["connection"] == "close"

    asyncio.run(story())
    assert held().requests == 0
