"""Pictures to send, and one real server for every test that asks one."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from ferops.serving.trial import running_service
from tiny_package import write_tiny_package


def png(seed: int = 0, size: tuple[int, int] = (48, 48)) -> bytes:
    return encoded(np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8))


def encoded(grey: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()


class Server:
    """A running service, its log, and the package it serves."""

    def __init__(self, url: str, log_dir: Path, package: Path) -> None:
        self.http = httpx.Client(base_url=url, timeout=60)
        self.url, self.log_dir, self.package = url, log_dir, package

    def predict(self, *contents: bytes, field: str = "images") -> httpx.Response:
        return self.http.post("/predict", files=[(field, ("face.png", c, "image/png")) for c in contents])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`bentoml serve` with two workers and small limits, on a tiny package."""
    folder = tmp_path_factory.mktemp("server")
    package = write_tiny_package(folder / "package")
    environment = {
        "FEROPS_PACKAGE": str(package),
        "FEROPS_LOG_DIR": str(folder / "log"),
        "FEROPS_WORKERS": "2",
        "FEROPS_MAX_IMAGES": "8",
        "FEROPS_MAX_UPLOAD_MB": "0.1",
        "FEROPS_MAX_PIXELS": "250000",
        "BENTOML_HOME": str(folder / "bentoml"),
    }
    with running_service(folder, environment) as url:
        served = Server(url, folder / "log", package)
        yield served
        served.http.close()


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FEROPS_")]:
        if "ARCHIVE" not in name and "WEIGHTS" not in name:
            monkeypatch.delenv(name)
