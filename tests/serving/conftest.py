"""One real server for every test that asks one."""

import os
from collections.abc import Iterator

import pytest

from ferops.serving.trial import running_service
from serving_client import Server
from tiny_package import write_tiny_package


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`bentoml serve` with two workers and small limits, on a tiny package."""
    folder = tmp_path_factory.mktemp("server")
    package = write_tiny_package(folder / "package")
    environment = {
        "FEROPS_PACKAGE": str(package),
        "FEROPS_LOG_DIR": str(folder / "log"),
        "FEROPS_MONITORING_DIR": str(folder / "monitoring"),
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
