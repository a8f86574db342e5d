"""A form of plain images is cut, any other is parsed, and it makes no difference to what comes out of it."""

import asyncio
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferops.serving import uploads
from ferops.serving.uploads import UploadError, cut, read_images

BOUNDARY = b"--b0-B"

HEADS = st.sampled_from(
    [
        b'Content-Disposition: form-data; name="images"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n',
        b'content-disposition: form-data; name="file"; filename=""\r\ncontent-type: image/png\r\n\r\n',
        b'Content-Disposition: form-data; name="image"\r\n\r\n',
        b'Content-Disposition: form-data; name="files"; filename="\xc3\xa4\xff.png"\r\n\r\n',
        b'Content-Disposition: form-data; name="IMAGES"; filename="a"\r\n\r\n',
        b'Content-Disposition: form-data; name="title"\r\n\r\n',
        b'Content-Type: image/png\r\nContent-Disposition: form-data; name="images"\r\n\r\n',
        b"Content-Disposition: form-data; name=images\r\n\r\n",
        b'Content-Disposition: form-data; name="images"; filename="a\\"b"\r\n\r\n',
        b'Content-Disposition: form-data; name="images"\r\nX: \r\n\r\n',
        b'Content-Disposition: form-data; name="images"\r\n',
        b"\r\n",
        b"",
    ]
)
CONTENTS = st.lists(
    st.sampled_from([b"x", b"\r\n", b"--", b"\r\n--" + BOUNDARY, b"\r\n--" + BOUNDARY[:-1], b"\r", b"\n"])
    | st.binary(max_size=4),
    max_size=4,
).map(b"".join)
PARTS = st.tuples(HEADS, CONTENTS).map(lambda part: b"--" + BOUNDARY + b"\r\n" + b"".join(part) + b"\r\n")
FORMS = st.tuples(
    st.sampled_from([b"", b"", b"", b"\r\n", b"preamble\r\n"]),
    st.lists(PARTS, max_size=4).map(b"".join),
    st.sampled_from([b"--", b"--\r\n", b"--\r\nepilogue", b"", b"\r\n", b"-"]).map(
        lambda end: b"--" + BOUNDARY + end
    ),
).map(b"".join)


def read(body, pieces=1, max_images=3, max_bytes=6):
    """The images, or the refusal's status, code and details."""
    size = max(1, -(-len(body) // pieces))
    messages = [
        {"type": "http.request", "body": body[start : start + size], "more_body": True}
        for start in range(0, len(body), size)
    ] + [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        return messages.pop(0)

    headers = {b"content-type": b"multipart/form-data; boundary=" + BOUNDARY}
    try:
        return asyncio.run(read_images(headers, receive, max_images, max_bytes, 100_000))
    except UploadError as error:
        return error.status, error.code, error.details


@settings(max_examples=400, deadline=None)
@given(FORMS, st.integers(1, 3))
def test_a_form_gives_the_same_whether_it_is_cut_or_parsed(body, pieces):
    with mock.patch.object(uploads, "cut", lambda *_: None):
        parsed = read(body)
    assert read(body, pieces) == parsed


def test_a_form_too_large_to_wait_for_gives_the_same():
    part = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="images"\r\n\r\n%b\r\n'
    body = part % b"one" + part % b"two" + b"--" + BOUNDARY + b"--\r\n"
    with mock.patch.object(uploads, "CUT_BYTES", 30):
        assert read(body, pieces=7) == [b"one", b"two"]


@pytest.mark.parametrize("client", ["curl", "requests", "browser"])
def test_forms_of_common_clients_are_cut(client):
    head = {
        "curl": b'Content-Disposition: form-data; name="images"; filename="face.png"\r\n'
        b"Content-Type: image/png\r\n\r\n",
        "requests": b'Content-Disposition: form-data; name="images"; filename="face.png"\r\n\r\n',
        "browser": b'Content-Disposition: form-data; name="images"; filename="Me, 2026.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n",
    }[client]
    body = b"--" + BOUNDARY + b"\r\n" + head + b"\x89PNG\r\n\x1a\n" + b"\r\n--" + BOUNDARY + b"--\r\n"
    assert cut(body, BOUNDARY) == [b"\x89PNG\r\n\x1a\n"]
