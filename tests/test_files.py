"""Files appear whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ferops import files


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    files.write_text(path, "old")
    files.write_text(path, "neu: ä")
    assert path.read_text(encoding="utf-8") == "neu: ä"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_takes_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"accuracy": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        files.read_json(tmp_path / "a.json")
    files.write_json(tmp_path / "a.json", {"name": "Zoë"})
    assert files.read_json(tmp_path / "a.json") == json.loads('{"name": "Zoë"}')


def test_a_folder_replaces_the_old_one_only_when_all_went_well(tmp_path: Path) -> None:
    place = tmp_path / "dataset"
    with files.new_folder(place) as folder:
        (folder / "old").touch()
    with pytest.raises(RuntimeError, match="stop"), files.new_folder(place) as folder:
        (folder / "half").touch()
        raise RuntimeError("stop")
    assert [p.name for p in place.iterdir()] == ["old"]
    with files.new_folder(place) as folder:
        (folder / "new").touch()
    assert [p.name for p in place.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["dataset"]


def test_after_a_kill_the_old_folder_is_there_and_the_next_run_cleans_up(tmp_path: Path) -> None:
    place = tmp_path / "dataset"
    with files.new_folder(place) as folder:
        (folder / "old").touch()
    script = (
        "import sys, time; from pathlib import Path; from ferops import files\n"
        "with files.new_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').touch(); (folder.parent / 'started').touch(); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(place)])
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [p.name for p in place.iterdir()] == ["old"]
    with files.new_folder(place) as folder:
        (folder / "new").touch()
    assert {p.name for p in tmp_path.iterdir()} == {"dataset", "started"}


def test_a_folders_digest_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("2")
    (tmp_path / "a").write_text("1")
    before = files.sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "c")
    assert files.sha256(tmp_path) != before
    (tmp_path / "c").rename(tmp_path / "a")
    assert files.sha256(tmp_path) == before
