"""The real thing: `bentoml serve` over HTTP, `bentoml build`, and a service that cannot start."""

import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ferops import files
from ferops.emotions import EMOTIONS
from ferops.models.onnx import OnnxClassifier
from ferops.promotion.champion import Champion
from ferops.serving.log_reader import read_feedback, read_predictions
from ferops.serving.trial import TrialError, running_service, serve_on_trial
from serving_client import Server, encoded, png
from tiny_package import write_tiny_package
from tiny_release import write_tiny_release

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.server


def test_the_service_answers_like_the_offline_model(server):
    grey = np.random.default_rng(3).integers(0, 256, (8, 48, 48), dtype=np.uint8)
    answers = server.predict(*map(encoded, grey)).json()["predictions"]
    expected = OnnxClassifier(server.package).predict(np.repeat(grey[..., None], 3, axis=3)).probabilities
    served = [[answer["probabilities"][e] for e in EMOTIONS] for answer in answers]
    np.testing.assert_allclose(served, expected, atol=1e-5)


def test_health_metrics_and_card_are_there(server):
    assert server.http.get("/livez").status_code == 200
    assert server.http.get("/readyz").status_code == 200
    assert "ferops_unlogged_records" in server.http.get("/metrics").text
    card = server.http.get("/model").json()
    assert card["model_version"] == f"package-{files.sha256(server.package)[:8]}"
    assert card["source"] == "package"
    assert card["synthetic"] is True


def test_two_workers_log_every_prediction_once(server):
    answered, lock = [], threading.Lock()

    def a_client(seed):
        for n in range(10):
            mine = Server(
                server.url, server.log_dir, server.package
            )  # each connection may get another worker
            predictions = mine.predict(png(seed), png(n)).json()["predictions"]
            mine.http.close()
            with lock:
                answered.extend(p["id"] for p in predictions)

    def both_workers_logged():
        return len(list(server.log_dir.glob("predictions/*/*.jsonl"))) == 2

    deadline = time.monotonic() + 60  # the second worker may still be starting
    while not (answered and both_workers_logged()) and time.monotonic() < deadline:
        clients = [threading.Thread(target=a_client, args=(seed,)) for seed in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    logged = read_predictions(server.log_dir)
    assert both_workers_logged()
    assert len(answered) == len(set(answered)) >= 80
    assert logged["id"].is_unique
    assert set(answered) <= set(logged["id"])
    assert logged.attrs["torn_lines"] == 0


def test_feedback_reaches_the_log_whichever_worker_takes_it(server):
    answer = server.predict(png()).json()["predictions"][0]
    for emotion in ("sad", "joy"):
        response = server.http.post("/feedback", json={"id": answer["id"], "emotion": emotion})
        assert response.status_code == 202
    feedback = read_feedback(server.log_dir).set_index("id")
    assert feedback.loc[answer["id"], "emotion"] == "happy"


def test_an_upload_that_is_too_large_is_refused_and_the_next_is_answered(server):
    response = server.predict(bytes(3_000_000))
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert server.predict(png()).status_code == 200


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.binary(max_size=2000) | st.binary(max_size=500).map(lambda b: png()[:40] + b),
        min_size=1,
        max_size=9,
    )
)
def test_junk_over_http_never_fails_the_server(server, contents):
    response = server.predict(*contents)
    assert response.status_code in (200, 413, 422), response.text
    assert "code" in response.json()


def test_the_service_imports_no_training_framework(tmp_path):
    package = write_tiny_package(tmp_path / "package")
    code = (
        "import sys, ferops.serving.service, ferops.serving.trial; "
        "heavy = {'tensorflow', 'keras', 'mlflow', 'sklearn', 'matplotlib', 'pandas', 'scipy'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "FEROPS_PACKAGE": str(package)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]", done.stderr


def started_with(settings, folder):
    """What a start that fails says."""
    code = (
        "import bentoml\ntry:\n import ferops.serving.service\n"
        "except bentoml.exceptions.BentoMLException as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        cwd=folder,
    )
    assert done.stderr == ""
    return done.stdout


def test_a_setting_that_means_nothing_ends_the_start_with_a_sentence_that_names_it(tmp_path):
    wrong = {"FEROPS_WORKERS": "two", "FEROPS_TIMEOUT_S": "inf", "FEROPS_RUNTIME": "fastest"}
    said = started_with(wrong, tmp_path)
    for name in wrong:
        assert f"{name}: Input should be " in said


def test_limits_that_contradict_each_other_end_the_start_with_a_sentence_that_names_both(tmp_path):
    assert started_with({"FEROPS_MAX_UPLOAD_MB": "100"}, tmp_path) == (
        "FEROPS_MAX_UPLOAD_MB (100) is more than FEROPS_MAX_REQUEST_MB (64), which holds for it too:"
        " raise that, or lower this\n"
    )


@pytest.fixture
def checkout(tmp_path):
    """The files that `bentoml serve` and `bentoml build` read, as in a clone, with nothing promoted."""
    for name in ("service.py", "bentofile.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "src" / "ferops", tmp_path / "src" / "ferops", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path


def bento(checkout, *arguments, home=None):
    environment = {
        **os.environ,
        "BENTOML_HOME": str(home or checkout / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "NO_COLOR": "1",
    }
    command = [sys.executable, "-m", "bentoml", *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)


def test_without_a_champion_the_start_fails_with_one_sentence(checkout):
    done = bento(checkout, "serve")
    said = (done.stdout + done.stderr).strip()
    assert done.returncode != 0
    assert "no champion yet" in said and "make run" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


def test_the_release_is_served_from_a_fresh_clone_and_from_a_bento_built_there(checkout, tmp_path):
    release = write_tiny_release(checkout / "release")
    environment = {"BENTOML_HOME": str(checkout / "bentoml"), "FEROPS_LOG_DIR": str(tmp_path / "log")}
    with running_service(checkout, environment, target=".") as url:
        server = Server(url, tmp_path / "log", release.path)
        from_root = server.predict(png()).json()["predictions"][0]
        model = server.http.get("/model").json()
    assert (from_root["model_version"], from_root["synthetic"]) == (release.label, False)
    assert (model["model_version"], model["source"]) == (release.label, "release")
    log = (checkout / "serve.log").read_text()
    assert log.count(f"serving {release.label}: the released model") == 1

    built = bento(checkout, "build", "--output", "tag")
    assert built.returncode == 0, built.stderr
    shutil.rmtree(release.path)
    tag = built.stdout.strip().splitlines()[-1].removeprefix("__tag__:")
    with running_service(tmp_path, environment, target=tag) as url:
        from_bento = Server(url, tmp_path / "log", release.path).predict(png()).json()["predictions"][0]
    assert from_bento["probabilities"] == from_root["probabilities"]
    assert from_bento["model_version"] == release.label


def promoted(checkout):
    """A champion in the store and its pointer, without the registry's other half."""
    package = write_tiny_package(checkout / "package")
    digest = files.sha256(package)
    tag = f"fer-classifier:v7-{digest[:8]}"
    code = (
        "import bentoml, shutil, sys\n"
        "with bentoml.models.create(sys.argv[1]) as model:\n"
        "    shutil.copytree(sys.argv[2], model.path, dirs_exist_ok=True)\n"
    )
    environment = {**os.environ, "BENTOML_HOME": str(checkout / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    subprocess.run([sys.executable, "-c", code, tag, str(package)], env=environment, check=True)
    pointer = Champion(
        "fer-classifier", "7", tag, digest, "run", "patt_lite", "2026-01-31T00:00:00+00:00", True
    )
    pointer.save(checkout / "registry")
    return package


def test_a_champion_that_the_store_lost_fails_the_start_with_one_sentence(checkout):
    promoted(checkout)
    shutil.rmtree(checkout / "bentoml" / "models")
    done = bento(checkout, "serve")
    assert done.returncode != 0
    assert "ferops promote" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_champion_is_served_from_the_root_and_elsewhere_from_an_exported_bento(
    checkout, tmp_path, tmp_path_factory
):
    package = promoted(checkout)
    write_tiny_release(checkout / "release")  # which a champion displaces
    label = Champion.load(checkout / "registry").label
    environment = {"BENTOML_HOME": str(checkout / "bentoml"), "FEROPS_LOG_DIR": str(tmp_path / "log")}
    with running_service(checkout, environment, target=".") as url:
        from_root = Server(url, tmp_path / "log", package).predict(png()).json()["predictions"][0]
    assert from_root["model_version"] == label

    built = bento(checkout, "build", "--output", "tag")
    assert built.returncode == 0, built.stderr
    tag = built.stdout.strip().splitlines()[-1].removeprefix("__tag__:")
    assert tag.startswith("fer_classifier:")

    elsewhere = tmp_path_factory.mktemp("elsewhere")  # which has the exported file, and no model in its store
    exported = bento(checkout, "export", "fer_classifier:latest", str(elsewhere / "x.bento"))
    assert exported.returncode == 0, exported.stderr
    shutil.rmtree(checkout / "bentoml")
    shutil.rmtree(checkout / "registry")
    with tarfile.open(elsewhere / "x.bento") as archive:
        archive.extractall(elsewhere / "unpacked", filter="data")
    imported = bento(checkout, "import", str(elsewhere / "x.bento"), home=elsewhere / "filled")
    assert imported.returncode == 0, imported.stderr
    for home, target in (("empty", str(elsewhere / "unpacked")), ("filled", "fer_classifier:latest")):
        there = {"BENTOML_HOME": str(elsewhere / home), "FEROPS_LOG_DIR": str(elsewhere / "log")}
        with running_service(elsewhere, there, target=target) as url:
            answer = Server(url, elsewhere / "log", package).predict(png()).json()["predictions"][0]
        assert answer["probabilities"] == from_root["probabilities"]
        assert answer["model_version"] == label


def test_a_trial_gives_what_the_real_server_answers(tmp_path):
    package = write_tiny_package(tmp_path / "package")
    contents = [png(seed) for seed in range(20)]
    served = serve_on_trial(package, contents)
    assert served.shape == (20, 7)
    np.testing.assert_allclose(served.sum(axis=1), 1, atol=1e-5)


def test_a_trial_of_a_broken_package_ends_with_the_servers_log(tmp_path):
    package = write_tiny_package(tmp_path / "package")
    (package / "model.onnx").write_bytes(b"junk")
    with pytest.raises(TrialError, match=r"model\.onnx cannot be loaded"):
        serve_on_trial(package, [png()])
