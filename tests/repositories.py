"""A git and DVC repository with this project's parameters, and the commands that a person gives in it."""

import shutil
import subprocess
import sys
from pathlib import Path

PARAMS = Path(__file__).parents[1] / "params.yaml"


def make_repository(root: Path) -> Path:
    root.mkdir()
    shutil.copy(PARAMS, root)
    run(root, "git", "init", "-q")
    dvc(root, "init", "-q")
    commit(root, "start")
    return root


def run(root: Path, *command: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org") if command[0] == "git" else ()
    done = subprocess.run(
        [command[0], *identity, *command[1:]], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def dvc(root: Path, *arguments: str) -> None:
    run(root, sys.executable, "-m", "dvc", *arguments)


def commit(root: Path, message: str) -> str:
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-q", "-m", message)
    return run(root, "git", "rev-parse", "HEAD")
