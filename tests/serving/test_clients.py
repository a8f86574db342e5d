"""The examples of docs/clients.md, as they stand there, against a real server."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ferops.emotions import EMOTIONS
from ferops.serving.log_reader import read_feedback
from serving_client import png

TEXT = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
RUNNERS = {"sh": ["bash", "-euo", "pipefail"], "python": [sys.executable], "js": ["node"]}
ENDINGS = {"sh": "sh", "python": "py", "js": "mjs"}

pytestmark = pytest.mark.server


@pytest.fixture
def run(server, tmp_path):
    """Runs the example that holds a phrase, where its pictures are, and gives what it printed."""
    (tmp_path / "face.png").write_bytes(png())
    shutil.copy(Path(__file__).parent / "collins.jpg", tmp_path / "photo.jpg")

    def run_example(phrase):
        ((language, code),) = [
            (language, code)
            for language, code in re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
            if phrase in code
        ]
        for program in {"sh": ["curl", "python3"], "js": ["node"]}.get(language, []):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        code = code.replace("localhost:3000", server.url.removeprefix("http://"))
        script = tmp_path / f"example.{ENDINGS[language]}"
        script.write_text(code)
        command = [*RUNNERS[language], str(script)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_example


def test_curl_sends_a_face_and_a_photograph(run):
    face, photo = re.findall(r'\{"predictions":.*?\]\}', run("# one prediction an image"))
    assert json.loads(face)["predictions"][0]["label"] in EMOTIONS
    assert json.loads(photo)["predictions"][0]["box"]["width"] > 50


def test_curl_sends_a_correction(run, server):
    taken = json.loads(run("/feedback"))
    assert read_feedback(server.log_dir).set_index("id").loc[taken["id"], "emotion"] == "happy"


def test_bentos_client_has_the_methods_and_says_what_is_refused(run, server):
    before = len(read_feedback(server.log_dir))
    face, photo, refusal = run("SyncHTTPClient").splitlines()
    assert face.split()[0] in EMOTIONS
    assert "'width'" in photo
    assert refusal.startswith("422") and "not_an_image" in refusal
    assert len(read_feedback(server.log_dir)) == before + 1


def test_the_typed_client_answers_for_each_face(run):
    (line,) = run("class Prediction(TypedDict)").splitlines()
    assert line.split()[0] in EMOTIONS


def test_javascript_answers_for_each_face(run):
    assert run("openAsBlob").split()[0] in EMOTIONS


def test_every_example_is_tested():
    tested = Path(__file__).read_text()
    for language, code in re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL):
        assert language in RUNNERS
        assert any(phrase in code for phrase in re.findall(r'run\("([^"]+)"\)', tested)), code
