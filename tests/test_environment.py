"""What differs between machines comes from variables; an empty one is none, and a limit has an end."""

from pathlib import Path

import pytest

from ferops.environment import Environment


def test_the_environment_overrides_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEROPS_LOG_DIR", "/logs")
    assert Environment().log_dir == Path("/logs")
    monkeypatch.setenv("FEROPS_LOG_DIR", "")
    assert Environment().log_dir == Path("predictions")


def test_a_limit_is_a_finite_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEROPS_MAX_REQUEST_MB", "inf")
    with pytest.raises(ValueError, match="finite"):
        Environment()
