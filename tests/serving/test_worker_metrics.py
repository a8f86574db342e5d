"""The numbers of several workers, and a disk that has no room for them."""

import os
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from ferops.serving import metrics
from ferops.serving.trial import running_service
from serving_client import png
from tiny_package import write_tiny_package

#: A worker that counts an answer and is gone.
SHORT_LIVED = """
from ferops.serving.metrics import Metrics
metrics = Metrics()
metrics.answered("/predict", "200", 0.01)
metrics.held.set(1)
print(metrics.page()[0].decode())
"""

#: No file may grow beyond some bytes, as on a disk that is full.
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))" + SHORT_LIVED


#: A server that has a worker and ends.
SHORT_LIVED_SERVER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SHORT_LIVED!r}])"

#: A worker that says that it lives, and stays until it is told to end.
LIVING = SHORT_LIVED.replace("print(", "print('counts', flush=True); input(); print(")

SERVICE = "ferops.serving.service:FerClassifier"


def worker(code, home):
    """A worker whose server is the process of this test."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=given(home), capture_output=True, text=True, check=False)


def given(home):
    return {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(home / "prometheus_multiproc_dir")}


def files_of(home):
    return list((home / "ferops_metrics").glob("*/*.db"))


@pytest.mark.server
def test_the_files_in_which_workers_count_have_no_holes_for_a_full_disk_to_kill_them_by(server):
    server.http.get("/livez")
    files = files_of(server.log_dir.parent / "bentoml")
    assert len(files) >= 4  # of each worker that has started
    assert [file.name for file in files if file.stat().st_blocks * 512 < file.stat().st_size] == []


def test_a_worker_that_starts_on_a_full_disk_counts_for_itself(tmp_path):
    done = worker(FULL_DISK, tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'ferops_requests_total{route="/predict",status="200"} 1.0' in done.stdout
    assert "metrics are of each worker alone" in done.stderr
    assert files_of(tmp_path) == [], "half a file would spoil the page of the other workers"


def test_workers_that_died_go_on_counting_in_little_space_and_hold_nothing(tmp_path):
    for _ in range(2):
        worker(SHORT_LIVED, tmp_path)
    third = worker(SHORT_LIVED, tmp_path)
    assert 'ferops_requests_total{route="/predict",status="200"} 3.0' in third.stdout, third.stderr
    assert "ferops_requests_held 1.0" in third.stdout
    newest = max(path.stem.rpartition("_")[2] for path in tmp_path.rglob("gauge_live*.db"))
    dead = [path for path in files_of(tmp_path) if not path.stem.endswith(f"_{newest}")]
    assert len(dead) == 2 * 2
    assert max(path.stat().st_size for path in dead) < 10_000


def test_a_worker_whose_end_nobody_asked_for_is_dead_all_the_same(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ended:
        file = tmp_path / f"gauge_livesum_{ended.pid}.db"
        assert not metrics._is_of_the_dead(file)
        ended.stdin.close()
        wait_until(lambda: psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE)
        assert metrics._is_of_the_dead(file)
    assert metrics._is_of_the_dead(file)


def test_what_a_server_that_ended_counted_is_neither_kept_nor_shown(tmp_path):
    first = worker(SHORT_LIVED_SERVER, tmp_path)
    assert first.returncode == 0 and len(files_of(tmp_path)) == 4, first.stderr
    second = worker(SHORT_LIVED, tmp_path)
    assert 'ferops_requests_total{route="/predict",status="200"} 1.0' in second.stdout, second.stderr
    assert len(list((tmp_path / "ferops_metrics").iterdir())) == 1


def test_a_worker_that_outlives_its_server_keeps_what_it_counts(tmp_path):
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {LIVING!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", orphan], env=given(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout.readline() == b"counts\n"
        assert server.wait(30) == 0
        second = worker(SHORT_LIVED, tmp_path)
        assert 'ferops_requests_total{route="/predict",status="200"} 1.0' in second.stdout, second.stderr
        assert len(list((tmp_path / "ferops_metrics").iterdir())) == 2
        server.stdin.write(b"\n")
        server.stdin.flush()
        assert b'ferops_requests_total{route="/predict",status="200"} 1.0' in server.stdout.read()


def served(folder, home, **more):
    folder.mkdir()
    environment = {
        "FEROPS_PACKAGE": str(write_tiny_package(folder / "package")),
        "FEROPS_LOG_DIR": str(folder / "log"),
        "BENTOML_HOME": str(home),
        **more,
    }
    return running_service(folder, environment, SERVICE)


def predict(url, times):
    for _ in range(times):
        assert httpx.post(f"{url}/predict", files={"image": png()}, timeout=60).status_code == 200


def counted(url, line='ferops_requests_total{route="/predict",status="200"}'):
    page = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(row.rpartition(" ")[2]) for row in page if row.startswith(line))


@pytest.mark.server
def test_two_services_on_one_model_store_count_each_for_itself(tmp_path):
    home = tmp_path / "home"
    with served(tmp_path / "first", home, FEROPS_WORKERS="2") as first:
        predict(first, 6)
        with served(tmp_path / "second", home) as second:
            predict(second, 2)
            predict(first, 1)
            assert (counted(first), counted(second)) == (7, 2)
        predict(first, 1)
        assert counted(first) == 8, "although the other one ended"


@pytest.mark.server
def test_a_second_start_that_finds_the_port_taken_leaves_the_metrics_of_the_first(tmp_path):
    with served(tmp_path / "first", tmp_path / "home") as first:
        predict(first, 3)
        port = first.rpartition(":")[2]
        again = subprocess.run(
            [sys.executable, "-m", "bentoml", "serve", SERVICE, "--host", "127.0.0.1", "--port", port],
            cwd=tmp_path,
            env={
                **os.environ,
                "BENTOML_HOME": str(tmp_path / "home"),
                "FEROPS_PACKAGE": str(tmp_path / "first" / "package"),
                "BENTOML_DO_NOT_TRACK": "True",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert again.returncode != 0 and "in use" in again.stdout + again.stderr
        predict(first, 1)
        assert counted(first) == 4


@pytest.mark.server
def test_in_a_container_a_worker_that_died_is_not_counted_among_those_that_answer(tmp_path):
    """BentoML starts no other one there, which would tidy up after it."""
    workers = "ferops_model_workers{"
    contained = {"FEROPS_WORKERS": "2", "BENTOML_CONTAINERIZED": "true"}
    with served(tmp_path / "container", tmp_path / "home", **contained) as url:
        wait_until(lambda: counted(url, workers) == 2)
        mine = psutil.Process().children(recursive=True)
        next(p for p in mine if "_bentoml_impl.worker.service" in p.cmdline()).kill()
        wait_until(lambda: counted(url, workers) == 1)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
