"""What is served under a name is what the name promises."""

from pathlib import Path

import pytest

from ferops.environment import Environment
from ferops.models.onnx import BrokenPackageError
from ferops.serving.source import find_source
from tiny_release import write_tiny_release


def test_a_release_whose_files_were_exchanged_is_not_served_under_its_name(tmp_path: Path) -> None:
    release = write_tiny_release(tmp_path / "release")
    environment = Environment(registry_dir=tmp_path / "registry", release_dir=release.path)
    assert find_source(environment).version == release.label
    (release.path / "README.md").write_text("a correction for people")
    assert find_source(environment).version == release.label
    card = release.path / "card.json"
    card.write_text(card.read_text().replace("patt_lite", "another"))
    with pytest.raises(BrokenPackageError, match=r"card\.json: `git checkout"):
        find_source(environment)
