"""A real server under load: new champions, strangers, too much to do, signals. No request is lost."""

import functools
import itertools
import shutil
import signal
import threading
import time
from collections import Counter

import httpx
import psutil
import pytest

from ferops import files
from ferops.data import images as pixels
from ferops.emotions import EMOTIONS
from ferops.models.onnx import OnnxClassifier
from ferops.promotion.champion import Champion
from ferops.serving.log_reader import read_predictions
from ferops.serving.shadow import read_agreements
from ferops.serving.trial import running_service
from serving_client import png
from tiny_package import tiny_onnx, write_tiny_package
from tiny_release import write_tiny_release

pytestmark = pytest.mark.server

SERVICE = "ferops.serving.service:FerClassifier"


class Load:
    """Clients that ask without pause until they are told to end, or the server is gone."""

    def __init__(self, url, clients=4, images=2):
        self.url, self.images = url, images
        self.answered, self.refused, self.broken = [], Counter(), []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, seed):
        pictures = [("images", ("face.png", png(seed + n))) for n in range(self.images)]
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self._ended.is_set():
                try:
                    response = http.post("/predict", files=pictures)
                except httpx.ConnectError:
                    return  # there is no server any more
                except httpx.TransportError as error:
                    self.broken.append(error)
                    return
                if response.status_code == 200:
                    said = response.json()["predictions"]
                    self.answered.append([{**one, "picture": seed + n} for n, one in enumerate(said)])
                else:
                    self.refused[response.status_code] += 1

    def ids(self):
        return {prediction["id"] for answer in self.answered for prediction in answer}

    def until(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.02)


class Registry:
    """Champions in a model store and their pointer, as promotion leaves them."""

    def __init__(self, folder):
        self.folder = folder
        self.stored = {}
        self.environment = {
            "BENTOML_HOME": str(folder / "bentoml"),
            "FEROPS_REGISTRY_DIR": str(folder / "registry"),
            "FEROPS_RELEASE_DIR": str(write_tiny_release(folder / "release").path),
            "FEROPS_LOG_DIR": str(folder / "log"),
            "FEROPS_FOLLOW_S": "0.1",
            "FEROPS_WORKERS": "2",
        }

    def promote(self, version, broken=False):
        package = write_tiny_package(self.folder / "package", seed=version)
        label = f"v{version}-{files.sha256(package)[:8]}"
        if broken:
            tiny_onnx(package / "model.onnx", seed=version + 1)
        stored = self.folder / "bentoml" / "models" / "fer-classifier" / label
        shutil.copytree(package, stored)
        self.stored[label] = stored
        (stored / "model.yaml").write_text(MODEL_YAML.format(label=label))
        tag = f"fer-classifier:{label}"
        Champion("fer-classifier", str(version), tag, "d" * 64, "run", "patt_lite", "", True).save(
            self.folder / "registry"
        )
        return label


#: What BentoML writes beside a stored model.
MODEL_YAML = """\
name: fer-classifier
version: {label}
module: ''
labels: {{}}
options: {{}}
metadata: {{}}
context:
  framework_name: ''
  framework_versions: {{}}
  bentoml_version: 1.4.39
  python_version: 3.11.0
signatures: {{}}
api_version: v2
creation_time: '2026-01-31T00:00:00.000000+00:00'
"""


def gauge(http, line):
    found = [row for row in http.get("/metrics").text.splitlines() if row.startswith(line)]
    return float(found[0].split()[-1]) if found else 0.0


def test_champions_take_over_under_load_without_a_failed_request(tmp_path):
    registry = Registry(tmp_path)
    challenger = write_tiny_package(tmp_path / "challenger", seed=77)
    environment = registry.environment | {"FEROPS_SHADOW": str(challenger)}
    with running_service(tmp_path, environment, SERVICE) as url, httpx.Client(base_url=url) as http:
        release = http.get("/model").json()["model_version"]
        assert release.startswith("release-")

        def workers(label):
            return gauge(http, f'ferops_model_workers{{model_version="{label}",source="champion"}}')

        with Load(url) as load:
            load.until(lambda: len(load.answered) >= 10)
            first = registry.promote(1)
            load.until(lambda: workers(first) == 2)
            second = registry.promote(2)
            load.until(lambda: workers(second) == 2)
            broken = registry.promote(3, broken=True)
            load.until(lambda: gauge(http, "ferops_refused_champions_total") == 2)  # by both workers
            assert gauge(http, "ferops_champion_refused ") == 1
            (tmp_path / "registry" / "champion.json").unlink()
            asked = len(load.answered)
            load.until(lambda: len(load.answered) >= asked + 20)
            assert http.get("/model").json()["model_version"] == second
            fourth = registry.promote(4)
            load.until(lambda: workers(fourth) == 2)
            load.until(lambda: gauge(http, "ferops_champion_refused ") == 0)
            asked = len(load.answered)
            load.until(lambda: len(load.answered) >= asked + 20)

        assert (load.refused, load.broken) == (Counter(), [])
        versions = [{prediction["model_version"] for prediction in answer} for answer in load.answered]
        assert all(len(of_one_request) == 1 for of_one_request in versions)
        answered_by = set.union(*versions)
        assert {release, second, fourth} <= answered_by <= {release, first, second, fourth}
        assert broken not in answered_by
        models = {label: OnnxClassifier(registry.stored[label]) for label in answered_by - {release}}

        @functools.cache
        def expected(label, picture):
            faces = pixels.faces([png(picture)], models[label].card.input_side)
            return dict(zip(EMOTIONS, models[label].predict(faces).probabilities[0].tolist(), strict=True))

        assert expected(second, 0) != pytest.approx(expected(fourth, 0), abs=1e-3)
        for one in itertools.chain.from_iterable(load.answered):
            if one["model_version"] != release:  # who is named is who answered
                label, picture = one["model_version"], one["picture"]
                assert one["probabilities"] == pytest.approx(expected(label, picture), abs=1e-5)
        assert gauge(http, "ferops_refused_champions_total") == 2
        assert gauge(http, 'ferops_requests_total{route="/predict",status="200"}') >= len(load.answered)
        assert 'route="/nowhere"' not in (http.get("/nowhere"), http.get("/metrics"))[1].text
    log = (tmp_path / "serve.log").read_text()
    assert "ALERT: the new champion was refused" in log
    assert load.ids() <= set(read_predictions(tmp_path / "log")["id"])
    assert read_agreements(tmp_path / "log")[-1].images > 0


def served(tmp_path, **settings):
    package = write_tiny_package(tmp_path / "package")
    environment = {
        "FEROPS_PACKAGE": str(package),
        "FEROPS_LOG_DIR": str(tmp_path / "log"),
        "FEROPS_WORKERS": "2",
        "BENTOML_HOME": str(tmp_path / "bentoml"),
    } | {f"FEROPS_{name.upper()}": str(value) for name, value in settings.items()}
    return running_service(tmp_path, environment, SERVICE)


def processes(url):
    """Of the server that listens there: the first, and its workers."""
    port = int(url.rpartition(":")[2])
    mine = psutil.Process().children(recursive=True)
    first = next(p for p in mine if str(port) in p.cmdline() and "serve" in p.cmdline())
    return first, [p for p in first.children() if "_bentoml_impl.worker.service" in p.cmdline()]


@pytest.mark.parametrize("whom", ["the first process", "all of them"])
def test_sigterm_finishes_what_was_accepted(tmp_path, whom):
    with served(tmp_path, drain_s=10) as url, Load(url, clients=8, images=16) as load:
        with httpx.Client(base_url=url) as http:
            load.until(lambda: gauge(http, "ferops_model_workers") == 2)
        first, workers = processes(url)
        load.until(lambda: len(load.answered) >= 24)
        for process in [first] if whom == "the first process" else [first, *workers]:
            process.send_signal(signal.SIGTERM)
        first.wait(60)
        assert not psutil.wait_procs(workers, 10)[1]
    logged = read_predictions(tmp_path / "log")
    assert load.refused == Counter()
    assert set(logged["id"]) == load.ids()  # nothing that was worked on went unanswered
    assert len(load.ids()) == 16 * len(load.answered)
    assert logged.attrs["torn_lines"] == 0
    # The operating system takes one connection more, in the name of a server that is not there any more.
    assert len(load.broken) <= 2, load.broken


def test_sigkill_loses_nothing_that_was_answered(tmp_path):
    with served(tmp_path) as url, Load(url, clients=6) as load:
        _, workers = processes(url)
        load.until(lambda: len(load.answered) >= 50)
        for worker in workers:
            worker.kill()
    assert load.broken  # the clients did feel it
    assert load.ids() <= set(read_predictions(tmp_path / "log")["id"])


def test_too_many_at_one_time_are_turned_away_and_it_recovers(tmp_path):
    with served(tmp_path, queue=1, workers=1, token="secret") as url:
        bearer = {"authorization": "Bearer secret"}
        with httpx.Client(base_url=url, timeout=60) as http:
            assert http.post("/predict").status_code == 401
            assert http.get("/metrics").status_code == 401
            page = http.get("/metrics", headers=bearer).text
            assert 'ferops_refusals_total{code="unauthorized"} 2.0' in page
            pictures = [("images", ("face.png", png(n))) for n in range(32)]
            statuses = Counter()

            def ask():
                for _ in range(10):
                    response = httpx.post(f"{url}/predict", files=pictures, headers=bearer, timeout=60)
                    statuses[response.status_code] += 1
                    if response.status_code == 503:
                        assert response.json()["code"] == "overloaded"
                        assert response.headers["retry-after"] == "1"

            clients = [threading.Thread(target=ask) for _ in range(6)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            assert set(statuses) == {200, 503}
            assert statuses.total() == 60
            assert http.post("/predict", files=pictures[:1], headers=bearer).status_code == 200
