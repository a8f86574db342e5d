"""The services that `benchmarks/serving.py` compares: how each is started, asked, watched and stopped."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from ferops.emotions import EMOTIONS
from serving_load import Bodies

HERE = Path(__file__).parent

#: A TensorFlow server on a busy machine.
START_TIMEOUT_S = 300

#: The most that a service works on after its load has ended.
SETTLE_S = 60

BOUNDARY = "----ferops-benchmark-7MA4YWxkTrZu0gW"

Faces = NDArray[np.uint8]  # [N, side, side, 3]


def multipart(faces: Faces, images: int) -> Bodies:
    """Requests of so many PNG files each; every face comes first in one of them."""
    files = []
    for face in faces:
        buffer = io.BytesIO()
        Image.fromarray(face[:, :, 0]).save(buffer, "PNG")
        files.append(buffer.getvalue())
    part = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="face.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode()
    contents = []
    for first in range(len(files)):
        chosen = [files[(first + n) % len(files)] for n in range(images)]
        contents.append(b"".join(part + file + b"\r\n" for file in chosen) + f"--{BOUNDARY}--\r\n".encode())
    return Bodies(f"multipart/form-data; boundary={BOUNDARY}", contents)


def mlflow_json(faces: Faces, images: int, name: str | None) -> Bodies:
    """The same faces as MLflow's scoring protocol has them, decoded by the client already."""
    contents = []
    for first in range(len(faces)):
        pixels = faces[[(first + n) % len(faces) for n in range(images)]].tolist()
        contents.append(json.dumps({"inputs": {name: pixels} if name else pixels}).encode())
    return Bodies("application/json", contents)


def named_rows(answer: Any) -> NDArray[np.float64]:
    """Probabilities `[N, 7]` of a service that answers with one object an image."""
    rows = answer["predictions"] if isinstance(answer, dict) else answer
    return np.array([[row.get("probabilities", row)[emotion] for emotion in EMOTIONS] for row in rows])


def mlflow_rows(answer: Any) -> NDArray[np.float64]:
    """Probabilities `[N, 7]` of MLflow's scoring server."""
    rows = answer["predictions"]
    return np.array(rows["probabilities"] if isinstance(rows, dict) else rows)


@dataclass(frozen=True)
class Side:
    """One service.

    Attributes:
        name: in tables.
        command: starts it; `{port}` is replaced.
        path: of the route that is asked.
        bodies: makes requests of faces and a number of images each.
        rows: reads probabilities out of an answer.
        environment: variables beside one's own.
        workers: processes that answer.
    """

    name: str
    command: Sequence[str]
    path: str
    bodies: Callable[[Faces, int], Bodies]
    rows: Callable[[Any], NDArray[np.float64]]
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1


def ours(models: Path, workers: int, environment: Mapping[str, str]) -> Side:
    """This service on the package."""
    python = sys.executable
    return Side(
        f"ferops, {workers} worker{'s'[: workers > 1]}",
        (
            *(python, "-m", "bentoml", "serve", "ferops.serving.service:FerClassifier"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
        "/predict",
        multipart,
        named_rows,
        {
            "FEROPS_PACKAGE": str(models / "package"),
            "FEROPS_WORKERS": str(workers),
            **environment,
        },
        workers,
    )


def others(models: Path) -> list[Side]:
    """The plain ways of serving the same model."""
    python = sys.executable
    address = ("--host", "127.0.0.1", "--port", "{port}")
    mlflow = (python, "-m", "mlflow", "models", "serve", "--env-manager", "local", *address, "--model-uri")
    return [
        Side(
            "plain Bento, ONNX Runtime",
            (python, "-m", "bentoml", "serve", "serving_bento:Plain", *address),
            "/predict",
            multipart,
            named_rows,
            {"FER_MODEL": str(models / "package" / "model.onnx"), "PYTHONPATH": str(HERE)},
        ),
        Side(
            "FastAPI, Keras",
            (python, "-m", "uvicorn", "serving_fastapi:app", *address, "--log-level", "warning"),
            "/predict",
            multipart,
            named_rows,
            {"FER_MODEL": str(models / "model.keras"), "PYTHONPATH": str(HERE)},
        ),
        Side(
            "mlflow models serve, Keras",
            (*mlflow, str(models / "mlflow_keras")),
            "/invocations",
            lambda faces, images: mlflow_json(faces, images, None),
            mlflow_rows,
        ),
        Side(
            "mlflow models serve, ONNX",
            (*mlflow, str(models / "mlflow_onnx")),
            "/invocations",
            lambda faces, images: mlflow_json(faces, images, "images"),
            mlflow_rows,
        ),
    ]


@dataclass
class Running:
    """A service that answers.

    Attributes:
        side: what it is.
        url: of the route that is asked.
        first_answer_s: from its start to its first answer.
        first_answer_cpu_s: processor time that its processes took until then.
        difference: of its first answers' probabilities from those expected, largest.
        peak: memory of its processes, MB, the largest that `watch` saw.
        single_peak: the same, before requests of many images.
    """

    side: Side
    url: str
    process: subprocess.Popen[bytes]
    first_answer_s: float
    first_answer_cpu_s: float
    difference: float
    peak: dict[str, float] = field(default_factory=dict)
    single_peak: dict[str, float] = field(default_factory=dict)

    def settle(self) -> None:
        """Wait until it works no more on requests whose clients have left: the next service has the cores."""
        deadline, before = time.monotonic() + SETTLE_S, processor_seconds(self.process.pid)
        while time.monotonic() < deadline:
            time.sleep(0.1)
            now = processor_seconds(self.process.pid)
            if now - before < 0.02:  # a fifth of a core
                return
            before = now

    def watch(self) -> None:
        """Remember the memory of the process tree, and that of its largest process, at their largest."""
        for name, value in memory(self.process.pid).items():
            self.peak[name] = max(self.peak.get(name, 0.0), value)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def memory(pid: int) -> dict[str, float]:
    """MB (10^6 bytes) of a process and its children: the sum of their PSS, which shares out what they share,
    that of their RSS, and the largest RSS of one of them, which is a worker.
    """
    pss, rss = [], []
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with suppress(psutil.Error):
            full = process.memory_full_info()
            pss.append(full.pss / 1e6)
            rss.append(full.rss / 1e6)
    return {"pss_mb": sum(pss), "rss_mb": sum(rss), "worker_mb": max(rss, default=0.0)}


def processor_seconds(pid: int) -> float:
    """What a process and its children that live took of the processor."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:2])
    return total


@contextmanager
def running(side: Side, faces: Faces, expected: NDArray[np.floating], folder: Path) -> Iterator[Running]:
    """Start a service, wait for its first right answer, and stop it at the end.

    Raises:
        SystemExit: if it ends or does not answer in time; the message has the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "server.log"
    tools = Path(sys.executable).parent  # MLflow calls uvicorn by its name
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FEROPS_")},
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder / "bentoml"),
        "FEROPS_LOG_DIR": str(folder / "predictions"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **side.environment,
    }
    url = f"http://127.0.0.1:{port}{side.path}"
    begin = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in side.command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its workers are stopped with it, by the group
        )
    try:
        bodies = side.bodies(faces, 1)
        answer = _first_answer(process, side, url, bodies, log)
        first = time.perf_counter() - begin
        cpu = processor_seconds(process.pid)
        rows = [side.rows(answer)[0]]
        headers = {"content-type": bodies.content_type}
        for content in bodies.contents[1:]:
            again = httpx.post(url, content=content, headers=headers, timeout=60)
            rows.append(side.rows(again.json())[0])
        difference = float(np.abs(np.array(rows) - expected).max())
        yield Running(side, url, process, first, cpu, difference)
    finally:
        _stop(process)


def _first_answer(process: subprocess.Popen[bytes], side: Side, url: str, bodies: Bodies, log: Path) -> Any:
    deadline = time.monotonic() + START_TIMEOUT_S
    said = ""
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            headers = {"content-type": bodies.content_type}
            answer = httpx.post(url, content=bodies.contents[0], headers=headers, timeout=60)
            if answer.status_code == 200:
                return answer.json()
            said = f"it answered {answer.status_code}: {answer.text[:500]}\n"
        time.sleep(0.05)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise SystemExit(f"{side.name} does not answer\n{said}{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
