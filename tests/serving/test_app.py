"""The routes, in process: everything a client can send, without starting a server."""

import gzip
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from ferops.emotions import EMOTIONS
from ferops.environment import Environment
from ferops.models.onnx import OnnxClassifier
from ferops.serving.app import app, start
from ferops.serving.log_reader import read_feedback, read_predictions
from ferops.serving.metrics import Metrics
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from serving_client import png
from tiny_package import write_tiny_package

SOMEBODY = "0" * 32


class Client(TestClient):
    """Errors of the server come back as 500, as a real client would see them."""

    def __init__(self, folder, **changes):
        super().__init__(app, raise_server_exceptions=False)
        self.log_dir = folder / "log"
        self.classifier = OnnxClassifier(write_tiny_package(folder / "package"))
        limits = Environment(
            **{"max_upload_mb": 0.1, "max_pixels": 250_000, "max_images": 8, "max_request_mb": 0.5} | changes
        )
        metrics = Metrics()
        log = PredictionLog(self.log_dir, limits.log_durability, metrics)
        predictor = Predictor(
            self.classifier,
            "3",
            log,
            limits.max_pixels,
            log_required=limits.log_required,
            max_request_pixels=limits.max_request_pixels,
        )
        start(app, predictor, limits, metrics)
        self.serving = app.state.serving

    def request(self, *arguments, **options):
        app.state.serving = self.serving  # there is one app, and perhaps another client of it
        return super().request(*arguments, **options)

    def predict(self, *contents, field="images"):
        return self.post("/predict", files=[(field, ("face.png", c)) for c in contents])


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return Client(tmp_path_factory.mktemp("app"))


def assert_refused(response, status, code):
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert len(response.json()["message"]) > 10


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_one_image_gives_all_that_a_client_needs(client):
    response = client.predict(png())
    assert response.status_code == 200
    (answer,) = response.json()["predictions"]
    assert list(answer["probabilities"]) == list(EMOTIONS)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert answer["confidence"] == answer["probabilities"][answer["label"]]
    assert answer["model_version"] == "3"
    assert answer["synthetic"] is True
    assert len(answer["id"]) == 32


def test_many_images_are_answered_in_their_order_as_the_model_answers(client):
    grey = np.random.default_rng(5).integers(0, 256, (8, 48, 48), dtype=np.uint8)
    answers = client.predict(*(saved(Image.fromarray(g), "PNG") for g in grey)).json()["predictions"]
    expected = client.classifier.predict(np.repeat(grey[..., None], 3, axis=3)).probabilities
    given_ = [[a["probabilities"][e] for e in EMOTIONS] for a in answers]
    np.testing.assert_allclose(given_, expected, atol=1e-5)
    assert len({a["id"] for a in answers}) == 8


@pytest.mark.parametrize("field", ["images", "image", "file", "files"])
def test_the_field_may_be_named_as_people_name_it(client, field):
    assert client.predict(png(), field=field).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        saved(Image.new("RGB", (300, 200), (200, 120, 90)), "JPEG"),
        saved(Image.new("RGBA", (64, 64), (1, 2, 3, 4)), "WEBP"),
        saved(Image.new("P", (10, 10)), "GIF"),
        saved(Image.new("1", (99, 7)), "BMP"),
        saved(Image.new("CMYK", (50, 50)), "TIFF"),
        saved(Image.new("I;16", (48, 48)), "PNG"),
        saved(Image.new("L", (1, 1)), "PNG"),
    ],
    ids=["jpeg", "webp", "gif", "bmp", "tiff", "png-16-bit", "one-pixel"],
)
def test_any_picture_is_taken_whatever_its_size_mode_and_format(client, content):
    assert client.predict(content).status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "empty"),
        (b"no image at all", 422, "not_an_image"),
        (png()[:60], 422, "truncated"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", 422, "not_an_image"),  # a program
        (png(size=(600, 600))[:99_000], 413, "too_many_pixels"),
        (bytes(100_001), 413, "too_large"),
    ],
    ids=["empty", "text", "cut", "svg", "eps", "pixels", "bytes"],
)
def test_what_is_no_usable_image_is_refused_with_a_code(client, content, status, code):
    response = client.predict(png(), content)
    assert_refused(response, status, code)
    assert response.json()["index"] == 1


def test_one_bad_image_refuses_the_request_and_logs_nothing_of_it(client):
    before = len(read_predictions(client.log_dir))
    client.predict(png(), b"junk", png())
    assert len(read_predictions(client.log_dir)) == before


def test_a_request_without_an_image_is_refused(client):
    assert_refused(client.post("/predict"), 415, "unsupported_media_type")
    assert_refused(client.post("/predict", json={"images": []}), 415, "unsupported_media_type")
    assert_refused(client.post("/predict", content=png()), 415, "unsupported_media_type")
    assert_refused(client.predict(png(), field="picture"), 400, "no_image")
    closing = {"content-type": "multipart/form-data; boundary=b"}
    assert_refused(client.post("/predict", content=b"--b--\r\n", headers=closing), 400, "no_image")
    assert_refused(client.post("/predict", content=b"", headers=closing), 400, "bad_multipart")
    no_boundary = {"content-type": "multipart/form-data"}
    assert_refused(client.post("/predict", content=png(), headers=no_boundary), 400, "bad_multipart")


def test_a_wish_in_the_wrong_place_is_refused_rather_than_passed_over(client):
    form = {"files": [("images", ("face.png", png()))], "data": {"faces": "auto"}}
    refused = client.post("/predict", **form)
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_faces")
    assert "/predict?faces=auto" in refused.json()["message"]


def test_a_packed_body_is_refused_with_a_sentence_that_says_so(client):
    asked = client.build_request("POST", "/predict", files=[("images", ("face.png", png()))])
    headers = {"content-type": asked.headers["content-type"], "content-encoding": "gzip"}
    refused = client.post("/predict", content=gzip.compress(asked.read()), headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")
    assert "Content-Encoding" in refused.json()["message"]


def test_too_many_images_are_refused(client):
    assert_refused(client.predict(*[png()] * 9), 413, "too_many_images")


def test_too_many_pixels_together_are_refused(tmp_path):
    client = Client(tmp_path, max_pixels=100_000, max_request_pixels=100_000)
    picture = saved(Image.new("L", (200, 200)), "PNG")
    assert client.predict(picture, picture).status_code == 200
    response = client.predict(picture, picture, picture)
    assert_refused(response, 413, "too_many_pixels")
    assert "index" not in response.json()
    assert "more than 100000 pixels together" in response.json()["message"]


def test_the_card_says_what_answers(client):
    body = client.get("/model").json()
    assert body["model_version"] == "3"
    assert body["synthetic"] is True
    assert body["card"]["labels"] == list(EMOTIONS)
    assert body["runtime"].startswith("onnxruntime")
    assert body["log"]["failed"] == 0


def test_predictions_are_logged_once_with_what_monitoring_needs(client):
    answer = client.predict(png(seed=9)).json()["predictions"][0]
    logged = read_predictions(client.log_dir, model_version="3")
    (row,) = logged[logged["id"] == answer["id"]].to_dict("records")
    assert row["label"] == answer["label"]
    assert [row[f"p_{e}"] for e in EMOTIONS] == list(answer["probabilities"].values())
    assert 0.4 < row["brightness"] < 0.6
    assert "embedding_31" in row


@pytest.mark.parametrize(("said", "meant"), [("happy", "happy"), (" Joy ", "happy"), ("ANGER", "angry")])
def test_feedback_is_logged_in_canonical_words(client, said, meant):
    answer = client.predict(png()).json()["predictions"][0]
    response = client.post("/feedback", json={"id": answer["id"], "emotion": said})
    assert (response.status_code, response.json()["emotion"]) == (202, meant)
    feedback = read_feedback(client.log_dir).set_index("id")
    assert feedback.loc[answer["id"], "emotion"] == meant


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"id": SOMEBODY, "emotion": "bored"}, 422, "unknown_emotion"),
        ({"id": SOMEBODY, "emotion": 3}, 422, "unknown_emotion"),
        ({"id": SOMEBODY}, 422, "unknown_emotion"),
        ({"id": "x", "emotion": "happy"}, 422, "bad_id"),
        ({"emotion": "happy"}, 422, "bad_id"),
        ([1, 2], 400, "bad_json"),
        ({"id": SOMEBODY, "emotion": "happy", "note": "x" * 5000}, 413, "too_large"),
    ],
)
def test_feedback_that_means_nothing_is_refused(client, body, status, code):
    assert_refused(client.post("/feedback", json=body), status, code)


def test_the_metrics_count_requests_images_calls_and_refusals(client):
    def counted(name):
        line = next((row for row in client.get("/metrics").text.splitlines() if row.startswith(name)), "x 0")
        return float(line.split()[-1])

    for name, more in (
        ('ferops_requests_total{route="/predict",status="200"}', 1),
        ('ferops_requests_total{route="/predict",status="422"}', 1),
        ('ferops_request_seconds_count{route="/predict"}', 2),
        ("ferops_request_images_sum", 3),
        ("ferops_call_requests_sum", 2),
        ('ferops_refusals_total{code="not_an_image"}', 1),
    ):
        before = counted(name)
        client.predict(png(), png(1))
        client.predict(b"no picture")
        assert counted(name) - before == more, name


def test_another_method_is_refused_in_json(client):
    assert_refused(client.get("/predict"), 405, "method_not_allowed")


def test_a_log_that_cannot_be_written_fails_no_prediction(tmp_path):
    (tmp_path / "log").write_text("no folder")
    client = Client(tmp_path)
    assert client.predict(png(), png()).status_code == 200
    assert client.get("/model").json()["log"]["failed"] == 2
    assert client.post("/feedback", json={"id": SOMEBODY, "emotion": "sad"}).json()["logged"] is False


def test_where_the_log_is_required_no_answer_is_given_without(tmp_path):
    (tmp_path / "log").write_text("no folder")
    client = Client(tmp_path, log_required=True)
    for response in (
        client.predict(png()),
        client.post("/feedback", json={"id": SOMEBODY, "emotion": "sad"}),
    ):
        assert_refused(response, 503, "log_unavailable")
        assert response.headers["retry-after"] == "1"
    (tmp_path / "log").unlink()
    assert client.predict(png()).status_code == 200


def test_an_error_of_the_service_tells_the_client_nothing_of_its_inside(tmp_path):
    client = Client(tmp_path)
    client.classifier._session = None
    response = client.predict(png())
    assert_refused(response, 500, "internal_error")
    assert "Error" not in response.text and ".py" not in response.text


def damaged(content):
    """A picture with some bytes changed, cut or doubled: far more hostile than random bytes."""
    return st.builds(
        lambda at, junk, keep: content[:at] + junk + content[at + keep :],
        st.integers(0, len(content)),
        st.binary(max_size=40),
        st.integers(0, 40),
    )


PICTURES = [
    saved(Image.new(mode, (20, 20)), kind)
    for mode, kind in [
        ("L", "PNG"),
        ("RGB", "JPEG"),
        ("P", "GIF"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("RGB", "WEBP"),
        ("RGB", "TGA"),
        ("RGB", "PPM"),
        ("RGB", "ICO"),
        ("RGB", "JPEG2000"),
    ]
]

never_5xx = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@never_5xx
@given(st.lists(st.one_of(st.binary(max_size=300), *map(damaged, PICTURES)), min_size=1, max_size=3))
def test_whatever_is_uploaded_the_server_does_not_fail(client, contents):
    response = client.predict(*contents)
    assert response.status_code in (200, 413, 422), response.text
    assert "predictions" in response.json() or {"code", "message"} <= set(response.json())


@never_5xx
@given(
    st.one_of(
        st.binary(max_size=400),
        st.builds(
            lambda head, body: b"--b\r\n" + head + b"\r\n\r\n" + body + b"\r\n--b--\r\n",
            st.binary(max_size=80),
            st.binary(max_size=80),
        ),
    ),
    st.sampled_from(
        ["multipart/form-data; boundary=b", 'multipart/form-data; boundary="', "multipart/form-data", "", "x"]
    ),
)
@example(
    b'--b\r\nContent-Disposition: form-data; name="images"\r\n\r\nx\r\n--b--\r\n',
    "multipart/form-data; boundary=b",
)
@example(b"\x00", "multipart/form-data; boundary=" + "b" * 1000)
def test_whatever_the_body_the_server_does_not_fail(client, body, content_type):
    response = client.post("/predict", content=body, headers={"content-type": content_type})
    assert 400 <= response.status_code < 500, response.text
    assert {"code", "message"} <= set(response.json())


@never_5xx
@given(
    st.one_of(
        st.binary(max_size=100),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "emotion"]), inner)
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@example(b"[" * 4000)
def test_whatever_the_feedback_the_server_does_not_fail(client, body):
    assert 400 <= client.post("/feedback", content=body).status_code < 500
