"""The page at `/` as people use it: in a real browser where there is one, and its parts without."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from pathspec import PathSpec
from PIL import Image
from starlette.testclient import TestClient

from browser import CHROMIUM, browser
from ferops import files
from ferops.emotions import EMOTIONS
from ferops.environment import Environment
from ferops.models.onnx import OnnxClassifier
from ferops.serving.access import Access
from ferops.serving.app import app, start
from ferops.serving.log_reader import read_feedback, read_predictions
from ferops.serving.page import SWAGGER, _swagger
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from ferops.serving.runtime import Choice
from tiny_package import write_tiny_package

STATIC = Path(__file__).parents[2] / "src" / "ferops" / "serving" / "static"
PHOTO = Path(__file__).parent / "collins.jpg"


@pytest.fixture
def client(tmp_path):
    package = write_tiny_package(tmp_path / "package")
    official = {"accuracy": 0.61, "intervals": {"accuracy": [0.59, 0.63]}, "rows": 3589}
    files.write_json(package / "evaluation.json", {"official": official})
    limits = Environment(monitoring_dir=tmp_path / "monitoring")
    log = PredictionLog(tmp_path / "log")
    start(app, Predictor(OnnxClassifier(package), "3", log, limits.max_pixels), limits)
    return TestClient(app)


def test_the_page_runs_its_own_scripts_alone(client):
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=|https?://", page.text)


def test_all_that_the_pages_ask_for_is_there(client):
    for address in ("/", "/docs"):
        for name in re.findall(r'(?:src|href)="(static/[^"]+)"', client.get(address).text):
            assert client.get(f"/{name}").status_code == 200, name
    assert {name for name in SWAGGER if (_swagger() / name).is_file()} == set(SWAGGER)


def test_strangers_get_the_page_and_not_the_answers(client):
    guarded = TestClient(Access(app, token="secret"))
    assert guarded.get("/").status_code == guarded.get("/static/page.js").status_code == 200
    assert guarded.get("/openapi.json").status_code == 200
    assert {guarded.get(path).status_code for path in ("/about", "/model")} == {401}


@pytest.mark.parametrize("name", ["page.py", "..%2fpage.py", "index.html", "%2fetc%2fpasswd"])
def test_nothing_else_can_be_read(client, name):
    assert client.get(f"/static/{name}").status_code == 404


def test_a_built_bento_takes_page_and_detector_along():
    root = STATIC.parents[3]
    included = yaml.safe_load((root / "bentofile.yaml").read_text())["include"]
    taken = PathSpec.from_lines("gitwildmatch", included)
    needed = [path for path in STATIC.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert [path for path in needed if not taken.match_file(path.relative_to(root))] == []


def test_the_model_is_described_with_its_accuracy(client):
    about = client.get("/about").json()
    assert about["model"]["version"] == "3"
    assert about["model"]["synthetic"] is True
    assert about["accuracy"] == {"value": 0.61, "interval": [0.59, 0.63], "images": 3589}
    assert about["drift"] is about["history"] is None


def test_a_reduced_precision_is_described_with_its_own_accuracy(client):
    evidence = {"accuracy": 0.6, "fp32_accuracy": 0.61, "rows": 3309}
    choice = Choice("auto", "openvino-bf16", reduced=True, passed_over={}, evidence=evidence)
    app.state.serving.predictor.classifier.choice = choice
    assert client.get("/about").json()["accuracy"] == {"value": 0.6, "interval": None, "images": 3309}


def test_whether_faces_are_kept_is_told(client):
    assert client.get("/about").json()["keeps_images"] is False
    serving = app.state.serving
    serving.predictor = replace(serving.predictor, keep_images=True)
    assert client.get("/about").json()["keeps_images"] is True


def contrast(one, other):
    """WCAG 2.2's ratio of two colours #rgb or #rrggbb; 4.5 is level AA for text."""

    def luminance(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        c = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        return np.dot(
            [0.2126, 0.7152, 0.0722], np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        )

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_text_can_be_read_against_its_background(theme):
    block = re.findall(r":root \{(.*?)\}", (STATIC / "page.css").read_text(), re.DOTALL)[theme]
    colour = dict(re.findall(r"--([\w-]+): (#\w+)", block))
    for text, back in [
        *[(t, b) for t in ("text", "quiet", "accent") for b in ("back", "card")],
        ("on-accent", "accent"),
        ("warn", "warn-back"),
    ]:
        assert contrast(colour[text], colour[back]) >= 4.5, (text, back)
    assert contrast(colour["line"], colour["card"]) >= 3  # edges of controls


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def opened(page, server):
    page.problems.clear()
    page.look()
    page.open(f"{server.url}/")
    return page


@pytest.fixture
def two(tmp_path):
    photo, wall = Image.open(PHOTO), Image.new("RGB", (700, 310), (120, 140, 160))
    wall.paste(photo, (10, 5))
    wall.paste(photo, (360, 5))
    wall.save(tmp_path / "two.jpg", quality=85)
    return tmp_path / "two.jpg"


def said(page):
    return page.evaluate("document.getElementById('said').textContent")


def boxes(page):
    return page.evaluate(
        "[...document.querySelectorAll('#boxes div')].map(box => {"
        " const a = box.getBoundingClientRect();"
        " const b = document.getElementById('photo').getBoundingClientRect();"
        " return [(a.x - b.x) / b.width, (a.y - b.y) / b.height] })"
    )


@pytest.mark.server
def test_an_uploaded_photograph_gets_a_box_and_seven_bars_for_each_face(opened, two):
    opened.upload("#file", two)
    opened.wait("document.querySelectorAll('#boxes div').length === 2")
    assert opened.evaluate("document.querySelectorAll('.bars li').length") == 14
    assert said(opened).startswith("2 faces. Face 1: ")
    (left, right) = sorted(boxes(opened))
    assert left == pytest.approx([90 / 700, 71 / 310], abs=0.03)
    assert right == pytest.approx([440 / 700, 71 / 310], abs=0.03)
    assert opened.evaluate("document.getElementById('synthetic').hidden") is False
    assert opened.problems == []


@pytest.mark.server
def test_a_correction_reaches_the_log(opened, server):
    opened.upload("#file", PHOTO)
    opened.wait("document.querySelector('.feedback select') !== null")
    opened.evaluate(
        "document.querySelector('.feedback select').value = 'fear';"
        "document.querySelector('.feedback button').click()"
    )
    opened.wait("document.querySelector('.feedback span').textContent.includes('fear is noted')")
    newest = read_predictions(server.log_dir)["id"].iloc[-1]
    assert read_feedback(server.log_dir).set_index("id").loc[newest, "emotion"] == "fear"


@pytest.mark.server
def test_a_correction_that_could_not_be_logged_is_not_called_noted(opened, server):
    opened.upload("#file", PHOTO)
    opened.wait("document.querySelector('.feedback select') !== null")
    folder = server.log_dir / "feedback"
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("a file where the folder should be")
    try:
        opened.evaluate("document.querySelector('.feedback button').click()")
        opened.wait("document.querySelector('.feedback span').textContent !== ''")
    finally:
        folder.unlink()
    told = opened.evaluate("document.querySelector('.feedback span').textContent")
    assert "could not be noted" in told and "is noted" not in told


@pytest.mark.server
def test_what_is_no_picture_is_answered_with_a_sentence(opened, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    opened.upload("#file", tmp_path / "notes.png")
    opened.wait("document.getElementById('said').className === 'wrong'")
    assert "no image" in said(opened)


@pytest.mark.server
def test_the_same_picture_can_be_sent_again(opened):
    for _ in range(2):
        opened.evaluate("document.getElementById('file').click()")
        assert opened.evaluate("document.getElementById('file').value") == ""
        opened.upload("#file", PHOTO)
        opened.wait("document.getElementById('said').textContent.startsWith('1 face')")
        opened.evaluate("document.getElementById('said').textContent = ''")


@pytest.mark.server
def test_it_says_what_is_kept_only_when_it_knows(opened):
    opened.wait("document.getElementById('kept').textContent === 'Pictures are not kept.'")
    assert "kept" not in re.sub('id="kept"', "", (STATIC / "index.html").read_text())


@pytest.mark.server
def test_the_camera_takes_a_picture_and_is_turned_off(opened):
    opened.evaluate("document.getElementById('camera').click()")
    opened.wait("document.activeElement.id === 'shoot'")
    opened.evaluate(
        "document.getElementById('faces').checked = false;document.getElementById('shoot').click()"
    )
    # The test camera's picture may have more bytes or pixels than this server takes: any answer is one.
    opened.wait("!/camera|Looking/.test(document.getElementById('said').textContent)")
    assert opened.evaluate("document.getElementById('video').srcObject") is None


@pytest.mark.server
def test_the_keyboard_reaches_everything_in_reading_order(opened):
    reached = []
    for _ in range(5):
        opened.press("Tab")
        reached.append(opened.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached[:4] == ["skip", "file", "camera", "faces"]


@pytest.mark.server
def test_a_screen_reader_has_a_name_for_every_control(opened):
    opened.upload("#file", PHOTO)
    opened.wait("document.querySelector('.feedback select') !== null")
    opened.call("Accessibility.enable")
    nodes = opened.call("Accessibility.getFullAXTree")["nodes"]
    controls = [
        node
        for node in nodes
        if node.get("role", {}).get("value") in ("button", "link", "checkbox", "combobox", "textbox", "image")
    ]
    assert len(controls) >= 6
    assert [node["role"]["value"] for node in controls if not node.get("name", {}).get("value")] == []
    live = "document.getElementById('said').getAttribute('aria-live')"
    assert opened.evaluate(live) == "polite"


@pytest.mark.server
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_without_scrolling_sideways(opened, two, dark):
    opened.look(375, 700, dark)
    opened.upload("#file", two)
    opened.wait("document.querySelectorAll('article').length === 2")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.server
def test_every_emotion_can_be_told(opened):
    opened.upload("#file", PHOTO)
    opened.wait("document.querySelector('.feedback select') !== null")
    options = opened.evaluate("[...document.querySelector('.feedback select').options].map(o => o.value)")
    assert options == list(EMOTIONS)
