"""The numbers of several workers, and a disk that has no room for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def worker(code, folder):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.server
def test_the_files_in_which_workers_count_have_no_holes_for_a_full_disk_to_kill_them_by(server):
    server.http.get("/livez")
    files = list((server.log_dir.parent / "bentoml" / "prometheus_multiproc_dir").glob("*.db"))
    assert len(files) >= 4  # of each worker that has started
    assert [file.name for file in files if file.stat().st_blocks * 512 < file.stat().st_size] == []


def test_a_worker_that_starts_on_a_full_disk_counts_for_itself(tmp_path):
    done = worker(FULL_DISK, tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'ferops_requests_total{route="/predict",status="200"} 1.0' in done.stdout
    assert "metrics are of each worker alone" in done.stderr
    assert list(Path(tmp_path).iterdir()) == [], "half a file would spoil the page of the other workers"


def test_workers_that_died_go_on_counting_in_little_space_and_hold_nothing(tmp_path):
    for _ in range(2):
        worker(SHORT_LIVED, tmp_path)
    third = worker(SHORT_LIVED, tmp_path)
    assert 'ferops_requests_total{route="/predict",status="200"} 3.0' in third.stdout, third.stderr
    assert "ferops_requests_held 1.0" in third.stdout
    newest = max(path.stem.rpartition("_")[2] for path in tmp_path.glob("gauge_live*.db"))
    dead = [path for path in tmp_path.iterdir() if not path.stem.endswith(f"_{newest}")]
    assert len(dead) == 2 * 2
    assert max(path.stat().st_size for path in dead) < 10_000
