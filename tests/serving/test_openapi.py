"""The description for programs: valid, true, and complete."""

import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.testclient import TestClient

from ferops.emotions import EMOTIONS
from ferops.environment import Environment
from ferops.models.onnx import OnnxClassifier
from ferops.serving import reports
from ferops.serving.app import app, start
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from serving_client import png
from tiny_package import write_tiny_package

ROOT = Path(__file__).parents[2]
PHOTO = Path(__file__).parent / "collins.jpg"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openapi")
    classifier = OnnxClassifier(write_tiny_package(folder / "package"))
    limits = Environment(max_images=2, monitoring_dir=folder)
    start(app, Predictor(classifier, "3", PredictionLog(folder / "log"), limits.max_pixels), limits)
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


def assert_as_described(document, response, path):
    """The answer's status is listed, and its body is as the schema there says."""
    operation = document["paths"][path][response.request.method.lower()]
    listed = operation["responses"][str(response.status_code)]
    schema = listed["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": document["components"]}).validate(response.json())
    if response.status_code >= 400:
        assert f"`{response.json()['code']}`" in listed["description"]


def test_the_document_is_valid_openapi(document):
    validate(document)


@pytest.mark.parametrize(
    ("query", "files"),
    [
        ("", [png()]),
        ("", [png(), png(1)]),
        ("?faces=auto", [PHOTO.read_bytes()]),
        ("?faces=auto", [png()]),
        ("?faces=auto", [png(size=(300, 200))]),
        ("?faces=all", [png()]),
        ("", [b"no image"]),
        ("", [b""]),
        ("", [png()[:60]]),
        ("", [png()] * 3),
    ],
)
def test_what_predict_answers_is_as_described(client, document, query, files):
    response = client.post(f"/predict{query}", files=[("images", ("f", content)) for content in files])
    assert_as_described(document, response, "/predict")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data", "multipart/form-data; boundary=b"]
)
def test_what_predict_refuses_is_as_described(client, document, content_type):
    response = client.post("/predict", content=b"x", headers={"content-type": content_type})
    assert response.status_code >= 400
    assert_as_described(document, response, "/predict")


@pytest.mark.parametrize(
    "body",
    [{"id": "0" * 32, "emotion": "joy"}, {"id": "0"}, {"id": "0" * 32, "emotion": "x"}, [], "x" * 5000],
)
def test_what_feedback_answers_is_as_described(client, document, body):
    assert_as_described(document, client.post("/feedback", json=body), "/feedback")


def test_what_is_answered_when_the_log_is_required_and_cannot_be_written_is_as_described(tmp_path, document):
    (tmp_path / "log").write_text("a file where the folder should be")
    classifier = OnnxClassifier(write_tiny_package(tmp_path / "package"))
    limits, log = Environment(log_required=True), PredictionLog(tmp_path / "log")
    before = app.state.serving
    start(app, Predictor(classifier, "3", log, limits.max_pixels, log_required=True), limits)
    try:
        strict = TestClient(app, raise_server_exceptions=False)
        answers = {
            "/feedback": strict.post("/feedback", json={"id": "0" * 32, "emotion": "joy"}),
            "/predict": strict.post("/predict", files={"image": png()}),
        }
    finally:
        app.state.serving = before
    for path, answer in answers.items():
        assert answer.status_code == 503
        assert_as_described(document, answer, path)


@pytest.mark.parametrize("path", ["/model", "/about"])
def test_what_can_be_read_is_as_described(client, document, path):
    assert_as_described(document, client.get(path), path)


def test_the_examples_work(client, document):
    body = document["paths"]["/feedback"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/feedback", json=body).status_code == 202


def test_every_address_of_the_service_is_described(document):
    for_people = {"/", "/docs", "/openapi.json", "/docs.json", "/static/{name}"}
    for_people |= {route.path for route in reports.routes}
    of_bentoml = {"/schema.json", "/healthz"}
    assert {route.path for route in app.routes} - for_people - of_bentoml == set(document["paths"])


def test_every_code_of_the_documentation_is_described(document):
    """405 belongs to no operation."""
    table = (ROOT / "docs" / "serving.md").read_text().split("## Refusals")[1].split("\n## ")[0]
    documented = set(
        re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| \d+ \|([^|]*)\|", table, re.MULTILINE)))
    )
    described = set()
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status >= "400" and "content" in answer:
                    described |= set(re.findall(r"`([a-z_]+)`", answer["description"].split("Codes:")[1]))
    assert described - {"internal_error"} == documented - {"method_not_allowed"}


def test_the_emotions_are_those_of_the_model(document):
    assert document["components"]["schemas"]["Emotion"]["enum"] == list(EMOTIONS)
