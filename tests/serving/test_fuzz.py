"""A slice of `benchmarks/fuzz.py`, and what that found, so that it stays away."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import fuzz
from ferops.emotions import EMOTIONS
from ferops.serving.app import app
from fuzz_files import LOSSLESS, File
from fuzz_requests import Sent

RELEASE = Path(__file__).parents[2] / "release"


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The app with the released model, and what its answers must be."""
    before = getattr(app.state, "serving", None)
    yield fuzz.started(RELEASE, tmp_path_factory.mktemp("fuzz") / "log")
    app.state.serving = before


def form(*files, field=b"images", note=b""):
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%b"; filename="f"\r\n\r\n%b\r\n'
        % (field, file.content)
        for file in files
    )
    headers = ((b"content-type", b"multipart/form-data; boundary=b"),)
    return Sent("POST", "/predict", headers=headers, chunks=(note + body + b"--b--\r\n",), files=files)


def asked(*several):
    """Answers to requests that come at one time."""

    async def all_of_them():
        return await asyncio.gather(*(fuzz.ask(app, sent) for sent in several))

    return asyncio.run(all_of_them())


def probabilities(answer):
    assert answer.status == 200, answer.body
    return [[one["probabilities"][name] for name in EMOTIONS] for one in answer.json()["predictions"]]


def test_whatever_is_sent_is_answered_rightly_or_refused(offline):
    record = fuzz.Record()
    fuzz.fuzz(200, 0, offline, record)
    assert record.statuses["200"] > 20
    assert record.right > 20
    assert len(record.statuses) > 10


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(LOSSLESS)), st.integers(0, 9), st.integers(1, 90), st.integers(1, 90)
        ),
        min_size=2,
        max_size=12,
        unique=True,
    ).filter(lambda drawn: all(kind != "png 1 bit" for kind, *_ in drawn))
)
def test_an_image_has_one_answer_alone_in_a_batch_beside_others_and_offline(offline, drawn):
    greys = [
        np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
        for _, seed, height, width in drawn
    ]
    files = [File(LOSSLESS[kind](grey), grey) for (kind, *_), grey in zip(drawn, greys, strict=True)]
    expected = offline.expected(form(*files))
    (batch,) = asked(form(*files))
    beside = asked(*(form(file) for file in files))
    alone = [asked(form(file))[0] for file in files]
    np.testing.assert_allclose(probabilities(batch), expected, atol=fuzz.TOLERANCE)
    np.testing.assert_allclose([probabilities(a)[0] for a in beside], expected, atol=fuzz.TOLERANCE)
    np.testing.assert_allclose([probabilities(a)[0] for a in alone], expected, atol=fuzz.TOLERANCE)


def test_the_fuzz_notices_wrong_answers(offline):
    greys = [np.full((48, 48), value, np.uint8) for value in (0, 200)]
    greys[1][:20] = 30
    sent = form(*(File(LOSSLESS["png"](grey), grey) for grey in greys))
    (answer,) = asked(sent)
    assert fuzz.complaints(sent, answer, offline) == []

    def wrong(status=200, **body):
        changed = fuzz.Answer(status, {}, json.dumps(body).encode(), 0.1)
        return fuzz.complaints(sent, changed, offline)

    predictions = answer.json()["predictions"]
    assert "off by" in wrong(predictions=predictions[::-1])[0]
    assert "1 answers to 2" in wrong(predictions=predictions[:1])[0]
    assert "was due" in wrong(422, code="truncated", message="a sentence that would help if it were true")[0]
    assert "without a code" in wrong(400, detail="bad")[0]
    assert "without a sentence" in wrong(400, code="bad", message="Error in app.py, line 3: ValueError(1)")[0]
    assert "500" in wrong(500, code="internal_error", message="the service failed; its log says why")[0]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (form(*[File(b"")] * 100_000), 413, "too_many_images"),
        (form(*[File(b"x")] * 100_000, field=b"other"), 413, "too_many_images"),
        (form(File(b"x"), note=b"--b\r\n\r\n\r\n" * 100_000), 413, "too_many_images"),
        (form(File(b"x"), field=b"n" * 3000), 400, "no_image"),
        (
            Sent("POST", "/predict", headers=((b"content-length", b"9" * 5000), *form().headers)),
            413,
            "too_large",
        ),
        (Sent("GET", "/predict/", headers=((b"host", b"["),)), 404, "not_found"),
        (Sent("PUT", "/predict"), 405, "method_not_allowed"),
    ],
    ids=["empty files", "other fields", "nameless fields", "long name", "long length", "slash", "method"],
)
def test_what_the_fuzz_found_is_refused_soon_and_in_few_words(offline, sent, status, code):
    (answer,) = asked(sent)
    assert (answer.status, answer.json()["code"]) == (status, code)
    assert 20 <= len(answer.json()["message"]) < 200


def test_pages_are_given_whole_whatever_part_is_asked_for(offline):
    for part in (b"", b"bytes=5-1", b"bytes=0-0", b"bytes=999999-"):
        (answer,) = asked(Sent("GET", "/", headers=((b"range", part),)))
        assert answer.status == 200
        assert b"</html>" in answer.body


def test_a_16_bit_picture_is_the_same_in_bands(monkeypatch):
    from ferops.data import images

    grey = np.random.default_rng(0).integers(0, 65536, (50, 40), dtype=np.uint16)
    whole = images.face(Image.fromarray(grey))
    monkeypatch.setattr(images, "BAND_PIXELS", 100)
    assert (images.face(Image.fromarray(grey)) == whole).all()
