"""Pictures to send, and a client that sends them as people do."""

import io
from pathlib import Path

import httpx
import numpy as np
from PIL import Image


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
        self.monitoring_dir = log_dir.parent / "monitoring"

    def predict(self, *contents: bytes, field: str = "images") -> httpx.Response:
        return self.http.post("/predict", files=[(field, ("face.png", c, "image/png")) for c in contents])
