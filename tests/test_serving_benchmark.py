"""The serving benchmark measures what it says, and claims no more than it measured."""

import asyncio
import copy
import io
import os
import time

import numpy as np
import pytest
from PIL import Image
from python_multipart.multipart import parse_options_header

import serving_inprocess
import serving_load
import serving_models
import serving_report
import serving_sides
import soak
from ferops import files
from ferops.emotions import EMOTIONS
from ferops.models.onnx import Recorded
from ferops.promotion.variants import Variants, load_variants
from ferops.serving.uploads import read_images
from serving_load import Bodies, Tally
from tiny_package import write_tiny_package

OURS, BENTO, MLFLOW = "ferops, 1 worker", "plain Bento, ONNX Runtime", "mlflow models serve, Keras"


def burst(side, clients, speed, p50=3.0, p99=9.0, errors=0, images=1):
    return {
        "side": side,
        "clients": clients,
        "images": images,
        "round": 0,
        "requests_per_second": speed,
        "p50_ms": p50,
        "p95_ms": p99,
        "p99_ms": p99,
        "max_ms": p99,
        "requests": 100,
        "errors": errors,
        "service_cpu_s": 0.25,
        "generator_cpu_s": 0.01,
    }


def about(first=3.0, worker=200.0):
    memory = {"worker_mb": worker, "pss_mb": 250.0, "rss_mb": 300.0}
    return {
        "first_answer_s": [first],
        "first_answer_cpu_s": [2.0],
        "difference": 1e-6,
        "memory_single": memory,
        "memory": memory,
    }


@pytest.fixture
def result():
    """A run in which every goal is met."""
    return {
        "image_size": 224,
        "runtime": "onnxruntime 1 (CPU)",
        "quick": False,
        "machine": {"cores": 2, "processor": "a processor", "load_before": 0.1, "time": "2026-01-31"},
        "ours": [OURS],
        "sides": {OURS: about(), BENTO: about(), MLFLOW: about()},
        "single": [
            *(burst(OURS, 1, 300.0, p50=5.0), burst(OURS, 8, 600.0)),
            *(burst(BENTO, 1, 150.0, p99=20.0), burst(BENTO, 8, 200.0, p99=20.0)),
            *(burst(MLFLOW, 1, 15.0, p99=90.0), burst(MLFLOW, 8, 20.0, p99=90.0)),
        ],
        "limit": [
            {"batch": 1, "callers": 1, "images_per_second": 500.0},
            {"batch": 8, "callers": 1, "images_per_second": 700.0},
        ],
        "many": [burst(OURS, 4, 20.0, images=32)],
    }


def missed(result):
    return [goal.asked for goal in serving_report.goals(result, OURS) if not goal.met]


def test_a_run_that_meets_every_goal_says_so(result):
    assert missed(result) == []
    assert "MISSED" not in serving_report.goals_met(result)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda r: r["single"].append(burst(MLFLOW, 8, 60.0, p99=90.0)), "mlflow"),
        (lambda r: r["single"].append(burst(BENTO, 8, 500.0, p99=90.0)), "Bento"),
        (lambda r: r["limit"].append({"batch": 32, "callers": 1, "images_per_second": 900.0}), "limit"),
        (lambda r: r["single"].__setitem__(1, burst(OURS, 8, 600.0, p99=21.0)), "p99"),
        (lambda r: r["single"].__setitem__(0, burst(OURS, 1, 300.0, p50=6.5)), "p50"),
        (lambda r: r["sides"].__setitem__(OURS, about(first=5.5)), "first answer"),
        (lambda r: r["sides"].__setitem__(OURS, about(worker=450.0)), "resident"),
        (lambda r: r["many"].append(burst(OURS, 4, 20.0, errors=1, images=64)), "errors"),
    ],
)
def test_each_goal_can_be_missed(result, change, word):
    changed = copy.deepcopy(result)
    change(changed)
    assert any(word in asked for asked in missed(changed))


def test_the_share_of_the_limit_is_also_told_of_what_the_load_generator_leaves(result):
    (share,) = [goal.found for goal in serving_report.goals(result, OURS) if "limit" in goal.asked]
    # 600 of 700 images a second; the generator took 100 us of each of 600 requests, on two cores
    assert share.startswith("86%;") and share.endswith(" 88%")


def test_goals_of_speed_are_for_224_pixels_and_a_quick_run_is_no_result(result):
    other = result | {"image_size": 96, "quick": True}
    assert not any("times those" in goal.asked for goal in serving_report.goals(other, OURS))
    assert "no result" in serving_report.goals_met(other)


def test_a_service_that_answers_nothing_in_a_burst_is_not_the_quickest(result):
    result["single"].append({**burst(MLFLOW, 32, 0.0, p50=0.0, p99=0.0), "requests": 0})
    result["single"].append(burst(OURS, 32, 600.0, p99=50.0))
    result["single"].append(burst(BENTO, 32, 200.0, p99=150.0))
    assert missed(result) == []


def test_table_and_plot_show_every_side(result, tmp_path):
    said = serving_report.table(result)
    assert all(side in said for side in result["sides"])
    assert "640.0      91%" in said  # 20 requests of 32 images a second, of 700
    assert "2500     100" in said  # microseconds of processor time, of 100 requests
    serving_report.draw([result, result], tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 500


def test_requests_are_read_by_the_service_as_the_faces_they_are():
    faces = np.repeat(np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), dtype=np.uint8), 3, axis=3)
    bodies = serving_sides.multipart(faces, 2)
    assert parse_options_header(bodies.content_type)[1][b"boundary"].decode() == serving_sides.BOUNDARY

    async def received(content):
        async def receive():
            return {"type": "http.request", "body": content, "more_body": False}

        headers = {b"content-type": bodies.content_type.encode()}
        return await read_images(headers, receive, 8, 10**6, 10**6)

    for first, content in enumerate(bodies.contents):
        images = [np.asarray(Image.open(io.BytesIO(one))) for one in asyncio.run(received(content))]
        np.testing.assert_array_equal(images, faces[[first, (first + 1) % 3], :, :, 0])


def test_answers_of_all_kinds_of_service_are_read_alike():
    named = {emotion: n / 28 for n, emotion in enumerate(EMOTIONS)}
    rows = [[n / 28 for n in range(7)]]
    for read, answer in (
        (serving_sides.named_rows, {"predictions": [{"probabilities": named, "label": "happy"}]}),
        (serving_sides.named_rows, [named]),
        (serving_sides.mlflow_rows, {"predictions": rows}),
        (serving_sides.mlflow_rows, {"predictions": {"probabilities": rows, "embedding": [[0.0]]}}),
    ):
        np.testing.assert_allclose(read(answer), rows)


def test_what_wrk_says_is_read_without_its_errors():
    said = 'x\nRESULT {"requests": 110, "microseconds": 2000000, "p50": 1500, "p95": 2000, "p99": 3000, '
    found = serving_load.read_wrk(said + '"max": 9000, "errors": 10}\n')
    assert (found.requests_per_second, found.p50_ms, found.max_ms, found.errors) == (50.0, 1.5, 9.0, 10)


def test_the_runtime_in_process_is_measured_by_images(tmp_path):
    rows = serving_inprocess.measure(write_tiny_package(tmp_path / "package"), "onnxruntime", 0.02)
    assert {row["batch"] for row in rows} == {1, 8, 32}
    assert all(row["images_per_second"] > 0 for row in rows)


def test_at_a_constant_rate_a_stall_delays_all_that_were_due_meanwhile():
    async def story():
        stalled = asyncio.Event()

        async def serve(reader, writer):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
                if not stalled.is_set():
                    stalled.set()
                    time.sleep(0.3)  # the whole server stands
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        tally = await serving_load.constant_rate(
            f"http://127.0.0.1:{port}/predict", Bodies("text/plain", [b"x", b"yz"]), 100, 0.5, connections=4
        )
        server.close()
        return tally

    tally = asyncio.run(story())
    assert len(tally.due) == 50
    assert tally.errors == []
    assert sum(ms > 100 for ms in tally.latency_ms) >= 15  # not the first alone


def tally(seconds=100.0, slower=1.0, errors=()):
    due = np.arange(0, seconds, 0.1)
    latency = np.where(due > seconds * 0.75, 5.0 * slower, 5.0)
    return Tally(due.tolist(), latency.tolist(), list(errors))


def watched(grows=0.0, costlier=1.0, seconds=100):
    used = np.cumsum([0.01 * (costlier if t > seconds * 0.75 else 1) for t in range(seconds)])
    return [(float(t), 300.0 * (1 + grows * t / seconds), float(used[t])) for t in range(seconds)]


@pytest.mark.parametrize(
    ("load", "memory", "broken"),
    [
        (tally(), watched(), []),
        (tally(errors=["status 503"]), watched(), ["no error"]),
        (tally(), watched(grows=0.1), ["memory"]),
        (tally(slower=1.5), watched(), ["median latency"]),
        (tally(), watched(costlier=1.5), ["processor time"]),
    ],
)
def test_a_soak_holds_or_says_what_does_not(load, memory, broken, tmp_path):
    found = soak.verdict(load, memory, 100.0)
    said = [what for what, holds in found["holds"].items() if not holds]
    assert len(said) == len(broken)
    assert all(what.startswith(word) for what, word in zip(said, broken, strict=True))
    soak.draw(load, memory, 100.0, tmp_path / "soak.png")
    assert Image.open(tmp_path / "soak.png").width > 500


def test_memory_is_that_of_all_processes():
    found = serving_sides.memory(os.getpid())
    assert 20 < found["worker_mb"] <= found["rss_mb"]
    assert found["pss_mb"] <= found["rss_mb"]


def test_verdicts_on_reduced_precision_are_taken_over_for_another_size(tmp_path):
    package, other = (write_tiny_package(tmp_path / name, seed) for seed, name in enumerate(("a", "b")))
    verdict = dict.fromkeys(("dataset_sha256", "runtime", "machine", "decided_at"), "x") | dict.fromkeys(
        ("accuracy", "fp32_accuracy", "calibration_error", "fp32_calibration_error", "agreement"), 0.9
    )
    verdict |= {
        "synthetic": True,
        "rows": 9,
        "max_difference": 0.0,
        "speedup": {},
        "rules": [],
        "answers": [],
    }
    judged = {
        name: {**verdict, "passed": name == "onnxruntime", "model_sha256": "of the package"}
        for name in ("onnxruntime", "openvino")
    }
    Variants.model_validate({"judged": judged}).save(package)
    images = Recorded.load(other).images
    serving_models.take_verdicts(package, other, images)
    (taken,) = load_variants(other).judged.values()
    assert taken.model_sha256 == files.sha256(other / "model.onnx")
    np.testing.assert_allclose(taken.answers, Recorded.load(other).probabilities, atol=1e-5)
