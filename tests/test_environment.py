"""What differs between machines comes from variables; an empty one is none, and a limit has an end."""

from pathlib import Path

import pytest
from PIL import Image

from ferops.environment import PILLOW_PIXELS, WITHIN, Environment


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


@pytest.mark.parametrize(
    "given, said",
    [
        (
            {"MAX_UPLOAD_MB": "100"},
            r"FEROPS_MAX_UPLOAD_MB \(100\) is more than FEROPS_MAX_REQUEST_MB \(64\)",
        ),
        (
            {"MAX_REQUEST_MB": "400", "QUEUE_MB": "256"},
            r"FEROPS_MAX_REQUEST_MB \(400\) is more than FEROPS_QUEUE_MB \(256\)",
        ),
        (
            {"MAX_REQUEST_PIXELS": "1000000"},
            r"FEROPS_MAX_PIXELS \(50000000\) is more than FEROPS_MAX_REQUEST_PIXELS \(1000000\)",
        ),
    ],
)
def test_limits_that_contradict_each_other_are_refused_with_both_names_and_values(
    given: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {**given, "TOKEN": "secret"}.items():
        monkeypatch.setenv(f"FEROPS_{name}", value)
    with pytest.raises(ValueError, match=said) as refused:
        Environment()
    assert "secret" not in str(refused.value)


def test_a_limit_may_be_as_high_as_the_one_that_holds_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for _, more in WITHIN:
        monkeypatch.setenv(f"FEROPS_{more.upper()}", "100000000")
    monkeypatch.setenv("FEROPS_MAX_UPLOAD_MB", "100000000")
    assert Environment(max_pixels=100_000_000).max_upload_mb == 1e8


def test_a_picture_may_have_no_more_pixels_than_pillow_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEROPS_MAX_PIXELS", "200000000")
    with pytest.raises(ValueError, match=f"less than or equal to {PILLOW_PIXELS}"):
        Environment()
    assert Image.MAX_IMAGE_PIXELS is not None
    assert int(2 * Image.MAX_IMAGE_PIXELS) == PILLOW_PIXELS
