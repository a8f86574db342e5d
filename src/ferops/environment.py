"""What differs between machines, and is no parameter of the pipeline: folders, addresses, limits, secrets.

>>> Environment().log_dir  # FEROPS_LOG_DIR
PosixPath('predictions')
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

#: What computes a packaged model; see `ferops.models.runtimes`.
Runtime = Literal["auto", "onnxruntime", "onnxruntime-cuda", "openvino", "openvino-bf16"]

#: Beyond so many Pillow takes every picture for a bomb: twice its `MAX_IMAGE_PIXELS`.
PILLOW_PIXELS = 178_956_970

#: Pairs of limits of which the first can be no more than the second.
WITHIN = (
    ("max_upload_mb", "max_request_mb"),
    ("max_request_mb", "queue_mb"),
    ("max_pixels", "max_request_pixels"),
)


class Environment(BaseSettings):
    """What differs between machines: `FEROPS_<NAME>` variables that are not empty, or a `.env` file."""

    model_config = SettingsConfigDict(
        env_prefix="FEROPS_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        allow_inf_nan=False,
        hide_input_in_errors=True,  # what was given has secrets in it
    )

    params: Path = Field(Path("params.yaml"), description="the parameters file")
    log_dir: Path = Field(Path("predictions"), description="where the service logs predictions")
    registry_dir: Path = Field(Path("registry"), description="champion pointer written at promotion")
    checkpoint_dir: Path = Field(Path("checkpoints"), description="where unfinished trainings are kept")
    release_dir: Path = Field(Path("release"), description="model served while there is no champion")
    monitoring_dir: Path = Field(Path("monitoring"), description="policy; reports go to reports/ in it")
    service_url: str | None = Field(
        None, pattern="^https?://", description="address of the service as people reach it, for links to it"
    )
    alert_webhook: SecretStr | None = Field(None, description="address that alerts are posted to as JSON")
    alert_urls: SecretStr | None = Field(None, description="Apprise addresses of alerts, spaces between them")
    prefect_api_url: str | None = Field(
        None, validation_alias="PREFECT_API_URL", description="Prefect's own setting; alerts are events there"
    )
    log_durability: Literal["process", "disk"] = Field(
        "process", description="what an answered prediction survives: the process's end, or the machine's"
    )
    keep_images: bool = Field(
        False, description="keep each face (grey, 48x48) beside the log: people must have agreed to it"
    )
    log_clients: bool = Field(
        True, description="note which of 256 buckets, drawn anew each day, a prediction's client falls into"
    )
    log_required: bool = Field(False, description="answer 503 rather than without a line in the log")
    max_upload_mb: float = Field(8.0, gt=0, description="one uploaded image, 10^6 bytes")
    max_request_mb: float = Field(64.0, gt=0, description="one request, 10^6 bytes")
    max_pixels: int = Field(50_000_000, ge=2304, le=PILLOW_PIXELS, description="one decoded image")
    max_request_pixels: int = Field(250_000_000, ge=2304, description="all decoded images of one request")
    max_images: int = Field(64, ge=1, description="images in one request")
    queue: int = Field(128, ge=1, description="requests that one worker holds; more get 503 at once")
    queue_mb: float = Field(256.0, gt=0, description="what these requests brought, together, 10^6 bytes")
    timeout_s: float = Field(15.0, gt=0, description="for a request to be sent and to get its turn")
    drain_s: float = Field(0.5, ge=0, description="told to end, wait so long for clients to close")
    workers: int = Field(1, ge=1, description="processes of the service")
    follow_s: float = Field(2.0, ge=0, description="look for a new champion this often; 0: only at start")
    shadow: str | None = Field(None, description="challenger beside the model: package folder or version")
    token: SecretStr | None = Field(None, description="bearer token that every client must bring")
    auth: Literal["auto", "off"] = Field("auto", description="auto: without a token only this machine asks")
    package: Path | None = Field(None, description="serve this package folder instead of the champion")
    runtime: Runtime = Field("auto", description="what computes the model; auto: the best of this machine")
    threads: int = Field(1, ge=0, description="of the runtime for one call; 0: all cores")

    @model_validator(mode="after")
    def _limits_can_be_reached(self) -> Self:
        """Refuse a limit above one that holds too: it would promise what is refused every time."""
        for less, more in WITHIN:
            if getattr(self, less) > getattr(self, more):
                first, second = (
                    f"FEROPS_{name.upper()} ({getattr(self, name):.12g})" for name in (less, more)
                )
                raise PydanticCustomError(
                    "contradiction",
                    "{first} is more than {second}, which holds for it too: raise that, or lower this",
                    {"first": first, "second": second},
                )
        return self
