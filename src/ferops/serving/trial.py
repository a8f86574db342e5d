"""A real server started on a package, asked, and stopped: what the gate trusts instead of a promise.

>>> probabilities = serve_on_trial(Path("packages/patt_lite"), [png])  # float32 [1, 7]  # doctest: +SKIP
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx
import numpy as np
from numpy.typing import NDArray

from ferops.emotions import EMOTIONS

#: A cold start takes some 5 s on two cores; a busy machine takes several times that.
START_TIMEOUT_S = 120.0

#: Time to finish requests before the server is killed.
STOP_TIMEOUT_S = 10.0

IMAGES_PER_REQUEST = 16


class TrialError(RuntimeError):
    """The server did not start or did not answer; the message ends with its log."""


def serve_on_trial(
    package: Path, images: Sequence[bytes], runtime: str = "onnxruntime"
) -> NDArray[np.float32]:
    """Start `bentoml serve` on a package folder, post encoded images, stop it.

    The port is free and on the loopback interface; predictions are logged to a folder that is thrown away.
    What was evaluated is fp32, so ONNX Runtime computes unless another runtime is on trial.

    Returns:
        Probabilities float32 `[N, 7]`, canonical order.

    Raises:
        TrialError: if it does not start within `START_TIMEOUT_S`, or answers anything but 200.
    """
    with tempfile.TemporaryDirectory(prefix="ferops-trial-") as folder:
        scratch = Path(folder)
        environment = {
            "FEROPS_PACKAGE": str(package.resolve()),
            "FEROPS_LOG_DIR": str(scratch / "predictions"),
            "FEROPS_MAX_IMAGES": str(IMAGES_PER_REQUEST),
            "FEROPS_WORKERS": "1",
            "FEROPS_TOKEN": "",  # it is asked from this machine, by nobody else
            "FEROPS_SHADOW": "",
            "FEROPS_RUNTIME": runtime,
            "BENTOML_HOME": str(scratch / "bentoml"),  # nothing of it is to stay
        }
        rows: list[list[float]] = []
        with running_service(scratch, environment) as url, httpx.Client(base_url=url, timeout=60) as client:
            for start in range(0, len(images), IMAGES_PER_REQUEST):
                batch = images[start : start + IMAGES_PER_REQUEST]
                answer = client.post("/predict", files=[("images", ("face", content)) for content in batch])
                if answer.status_code != 200:
                    raise TrialError(f"the service answered {answer.status_code}: {answer.text[:500]}")
                for prediction in answer.json()["predictions"]:
                    rows.append([prediction["probabilities"][emotion] for emotion in EMOTIONS])
    return np.asarray(rows, np.float32).reshape(-1, len(EMOTIONS))


@contextmanager
def running_service(
    folder: Path, environment: Mapping[str, str], target: str = "ferops.serving.service:FerClassifier"
) -> Iterator[str]:
    """A `bentoml serve` process in a folder, ready to answer; gives its address and stops it at the end.

    It ends with this process too, however that ends.

    Args:
        folder: where it runs and writes `serve.log`.
        environment: variables beside the caller's own.
        target: what to serve; `.` is a `bentofile.yaml` in the folder.

    Raises:
        TrialError: if it ends, or is not ready within `START_TIMEOUT_S`.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    log = folder / "serve.log"
    command = [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = start(command, folder, {"BENTOML_DO_NOT_TRACK": "True", **environment}, output)
    try:
        _wait_until_ready(process, url, log)
        try:
            yield url
        except httpx.HTTPError as error:
            raise TrialError(f"the service did not answer: {error!r}\n{_tail(log)}") from error
    finally:
        _stop(process)


def start(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, which ends with this process, however that ends.

    Nobody cleans up after SIGKILL. So a second process of the group reads a pipe whose other end is held here
    alone: when it is closed, which the kernel does in any case, the group is stopped.

    Args:
        command: what to run.
        folder: where.
        environment: variables beside this process's own.
        output: takes what it prints.
    """
    last_will = f"trap '' TERM; cat; kill -TERM 0; sleep {STOP_TIMEOUT_S:g}; kill -KILL 0"
    together = 'exec 3<&0 </dev/null; sh -c "$0" <&3 & exec "$@" 3<&-'
    return subprocess.Popen(
        ["sh", "-c", together, last_will, *command],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TrialError(f"the service ended with {process.returncode} at start:\n{_tail(log)}")
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        time.sleep(0.1)
    raise TrialError(f"the service was not ready after {START_TIMEOUT_S:.0f} s:\n{_tail(log)}")


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    # A worker may outlive the first process by a moment; the group is ours alone.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin:
        process.stdin.close()
