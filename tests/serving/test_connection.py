"""Connections of clients that are slow, endless or half gone, on real sockets."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn

import fuzz_wire
from ferops.environment import Environment
from ferops.models.onnx import OnnxClassifier
from ferops.serving.app import app, start
from ferops.serving.connection import Bounded, bound_connections
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from tiny_package import write_tiny_package

SECONDS = 0.5


@pytest.fixture(scope="module")
def bounded(tmp_path_factory):
    """The address of the app behind bounded connections, and the codes that they refused with."""
    before = getattr(app.state, "serving", None)
    folder = tmp_path_factory.mktemp("connection")
    classifier = OnnxClassifier(write_tiny_package(folder / "package"))
    limits = Environment(timeout_s=SECONDS)
    start(app, Predictor(classifier, "1", PredictionLog(folder / "log"), limits.max_pixels), limits)
    refused = []
    with running(app, refused.append) as (url, _):
        yield url, refused
    app.state.serving = before


@contextmanager
def running(asgi, refused=lambda code: None, loop="auto"):
    """The address of an app behind bounded connections, and what ends it as SIGTERM does."""
    config = uvicorn.Config(
        asgi,
        port=0,
        log_config=None,
        lifespan="off",
        loop=loop,
        http=lambda **given: Bounded(SECONDS, refused, **given),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def end():
        server.should_exit = True
        thread.join(20)
        return not thread.is_alive()

    try:
        yield f"http://127.0.0.1:{port}", end
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.mark.parametrize("scene", fuzz_wire.SCENES, ids=lambda scene: scene.__name__)
def test_every_connection_comes_to_a_good_end(bounded, monkeypatch, caplog, scene):
    monkeypatch.setattr(fuzz_wire, "TIMEOUT_S", SECONDS)
    assert scene(bounded[0]), scene.__doc__
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_refusals_of_a_connection_are_counted_by_code(bounded):
    url, refused = bounded
    refused.clear()
    assert fuzz_wire.other_protocols(url)
    assert fuzz_wire.endless_head(url)
    assert set(refused) == {"bad_http", "headers_too_large"}


@pytest.mark.parametrize("ask, status", [("HEAD /livez", 200), ("GET /nothing", 404), ("GET /livez", 200)])
def test_an_answer_is_sent_at_once_whether_a_body_follows_its_head_or_not(bounded, ask, status):
    wire = fuzz_wire.Wire(bounded[0])
    for _ in range(2):  # on one connection, which stays open
        wire.send(f"{ask} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert wire.socket.recv(65_536).startswith(b"HTTP/1.1 %d" % status)


def test_a_client_that_asks_whether_it_may_send_is_told_to(bounded):
    wire = fuzz_wire.Wire(bounded[0])
    wire.send(b"POST /feedback HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
    wire.send(b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    assert wire.socket.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.send(b"{}")
    assert wire.socket.recv(65_536).startswith(b"HTTP/1.1 422")


@pytest.mark.parametrize("garbage", [b"\0\0\0", b"--xyz\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000])
def test_what_came_whole_is_answered_although_garbage_follows(bounded, garbage):
    wire = fuzz_wire.Wire(bounded[0])
    wire.send(fuzz_wire.WHOLE * 3 + garbage)
    assert everything(wire).count(b'{"predictions"') == 3


def test_what_came_whole_is_answered_although_the_last_is_cut_off(bounded):
    wire = fuzz_wire.Wire(bounded[0])
    half = fuzz_wire.WHOLE[: len(fuzz_wire.WHOLE) - 20]
    wire.send(fuzz_wire.WHOLE * 3 + half)
    wire.socket.shutdown(socket.SHUT_WR)
    assert everything(wire).count(b'{"predictions"') == 3


@pytest.mark.parametrize(
    "damaged, code",
    [
        (b"content-length: 1000\r\n\r\nhalf", b"incomplete"),
        (b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"incomplete"),
        (b"transfer-encoding: chunked\r\n\r\nno number\r\n", b"bad_http"),
        (b"half-a-hea", b"incomplete"),
    ],
)
def test_a_request_that_cannot_become_whole_is_answered_with_a_code(bounded, damaged, code):
    wire = fuzz_wire.Wire(bounded[0])
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x\r\n"
    wire.send(head + damaged)
    wire.socket.shutdown(socket.SHUT_WR)
    said = everything(wire)
    assert said.startswith(b"HTTP/1.1 400") and said.count(b"HTTP/1.1 4") == 1
    assert b'"code": "%b"' % code in said


async def large_answers(scope, receive, send):
    """8 MB, more than the operating system takes for a client: at one time, or one after the other."""
    part = bytes(8_000_000 if scope["path"] == "/whole" else 100_000)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for rest in range(8_000_000 // len(part) - 1, -1, -1):
        await send({"type": "http.response.body", "body": part, "more_body": rest > 0})


def ask_for(path, url, room=65_536, segment=None):
    wire = fuzz_wire.Wire(url, room=room, segment=segment)
    wire.send(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path)
    return wire


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("path", [b"/whole", b"/in-parts"])
def test_an_answer_that_its_client_does_not_read_is_given_up(path, loop):
    with running(large_answers, loop=loop) as (url, _):
        assert ask_for(path, url).is_reset()


@pytest.mark.parametrize("path", [b"/whole", b"/in-parts"])
def test_the_end_does_not_wait_for_a_client_that_does_not_read_its_answer(path):
    with running(large_answers) as (url, end):
        wire = ask_for(path, url)
        assert wire.socket.recv(1)
        assert end()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("path", [b"/whole", b"/in-parts"])
def test_the_end_waits_for_a_client_that_reads_its_answer_slowly(path, loop):
    with running(large_answers, loop=loop) as (url, end):
        wire = ask_for(path, url)
        got = len(wire.socket.recv(1))
        ending = threading.Thread(target=end)
        ending.start()
        begin = time.monotonic()
        while more := wire.socket.recv(65_536):
            got += len(more)
            if time.monotonic() - begin < 1.2 * SECONDS:  # longer than a client may take nothing at all
                time.sleep(SECONDS / 5)
        ending.join()
        assert got > 8_000_000


def test_the_end_does_not_wait_for_ever_for_a_client_that_reads_slowly():
    with running(large_answers) as (url, end):
        wire = ask_for(b"/whole", url)
        assert wire.socket.recv(1)
        ending = threading.Thread(target=end)
        ending.start()
        with pytest.raises(ConnectionResetError):
            while wire.socket.recv(65_536):
                time.sleep(SECONDS / 2)  # some MB would take a minute
        ending.join()


def test_a_client_that_takes_a_little_now_and_then_is_given_up():
    with running(large_answers) as (url, _):
        # Small packets, else its system tells of what was taken only now and then.
        wire = ask_for(b"/whole", url, room=8192, segment=536)
        got = 0
        with pytest.raises(ConnectionResetError):
            while more := wire.socket.recv(1000):
                got += len(more)
                time.sleep(SECONDS / 5)
        assert got < 100_000


def everything(wire):
    said = b""
    while more := wire.socket.recv(65_536):
        said += more
    return said


def test_without_a_server_there_is_nothing_to_bound():
    assert bound_connections(1.0) is False


@pytest.mark.server
def test_the_service_says_what_is_wrong_with_what_is_no_http(server):
    wire = fuzz_wire.Wire(server.url)
    wire.send(b"hello\r\n\r\n")
    head, _, body = everything(wire).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["code"] == "bad_http"
    assert 'ferops_refusals_total{code="bad_http"}' in server.http.get("/metrics").text
