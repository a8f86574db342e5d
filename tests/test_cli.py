"""The command line: instant help, an example for every command, errors in one sentence."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ferops.cli import app
from tiny_release import write_tiny_release

ROOT = Path(__file__).parents[1]

#: Libraries that take seconds to import; help must not.
HEAVY = ("tensorflow", "keras", "mlflow", "great_expectations", "evidently", "prefect", "bentoml", "pandas")


def commands() -> dict[str, typer.models.CommandInfo]:
    found = {c.name or c.callback.__name__: c for c in app.registered_commands}
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands:
            found[f"{group.name} {command.name}"] = command
    return found


def ferops(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ferops.cli", *arguments],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith("FEROPS_")},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from ferops.cli import app\n"
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_has_a_sentence_and_an_example() -> None:
    for name, command in commands().items():
        assert command.callback.__doc__, name
        assert f"ferops {name}" in (command.epilog or ""), name


def test_every_command_is_in_the_documentation() -> None:
    text = "\n".join(
        p.read_text() for p in [ROOT / "README.md", ROOT / "dvc.yaml", *(ROOT / "docs").glob("*.md")]
    )
    for name in commands():
        assert f"ferops {name}" in text, name


def test_every_link_in_the_documentation_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("command", ["train", "validate", "gate", "ingest"])
def test_outside_a_repository_one_sentence_says_what_to_do(command: str, tmp_path: Path) -> None:
    done = ferops(command, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: params.yaml not found: run from the repository root" in done.stderr


def test_an_unknown_candidate_is_refused(tmp_path: Path) -> None:
    done = ferops("evaluate", "resnet", cwd=tmp_path)
    assert done.returncode == 2
    assert "patt_lite" in done.stderr


def test_status_before_anything_ran(tmp_path: Path) -> None:
    done = ferops("status", cwd=tmp_path)
    assert done.returncode == 0
    assert "none yet" in done.stdout
    assert "served       nothing" in done.stdout


def test_status_of_a_clone_with_a_release_says_that_it_is_served(tmp_path: Path) -> None:
    release = write_tiny_release(tmp_path / "release")
    done = ferops("status", cwd=tmp_path)
    assert f"served       {release.label}, the release" in done.stdout
    assert "bentoml serve" in done.stdout
