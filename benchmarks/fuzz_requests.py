"""Requests that people, programs and attackers send to the service: Hypothesis strategies.

    >>> requests().example().path  # doctest: +SKIP
    '/predict'

Well-formed forms know their right answer, that of their files. The others must be answered or refused, no
more: damaged forms, other paths, methods and headers, feedback, requests that end halfway.
"""

import json
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from ferops.serving.uploads import FIELDS
from fuzz_files import File, damaged, files, pictures


@dataclass(frozen=True)
class Sent:
    """One request.

    Attributes:
        path: not quoted, without the query.
        chunks: of the body, as they come in.
        complete: false when the client leaves after the last chunk, in the middle of its request.
        files: those of a well-formed form in their order, which must be answered rightly; or none.
    """

    method: str
    path: str
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    chunks: tuple[bytes, ...] = ()
    complete: bool = True
    files: tuple[File, ...] | None = None


@st.composite
def forms(draw: st.DrawFn, given: tuple[File, ...]) -> tuple[bytes, bytes, bool]:
    """A form with these files: content type, body, and whether every file is in a field that counts."""
    boundary = draw(
        st.sampled_from([b"b", b"----WebKitFormBoundary7MA4YWxkTrZu0gW", b"'()+_,-./:=?", b"x" * 70])
    )
    body, counts = bytearray(), True
    for file in given:
        name = draw(st.sampled_from([*FIELDS, *FIELDS, *FIELDS, *FIELDS, "picture", "", "im\xe4ge"]))
        counts = counts and name in FIELDS and b"--" + boundary not in file.content
        if draw(st.integers(0, 5)) == 0:  # what other fields a form may have
            body += b'--%b\r\ncontent-disposition: form-data; name="note"\r\n\r\nhello\r\n' % boundary
        body += b'--%b\r\nContent-Disposition: form-data; name="%b"' % (boundary, name.encode())
        body += draw(
            st.sampled_from(
                [b'; filename="face.png"', b"; filename=face.png", b'; filename="../../etc/passwd"',
                 b'; filename="f\xc3\xa4ce\\".png"', b"; filename*=utf-8''f%C3%A4ce.png; filename=\"f\""]
            )
        )  # fmt: skip
        body += (
            b"\r\n"
            + draw(st.sampled_from([b"", b"Content-Type: image/png\r\n", b"X-Note: \xff\r\n"]))
            + b"\r\n"
        )
        body += file.content + b"\r\n"
    body += b"--%b--\r\n" % boundary
    return b'multipart/form-data; boundary="%b"' % boundary, bytes(body), counts


@st.composite
def cut(draw: st.DrawFn, body: bytes) -> tuple[bytes, ...]:
    """In chunks, as the network may bring them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
    return tuple(body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True))


@st.composite
def uploads(draw: st.DrawFn) -> Sent:
    """Well-formed: the answer is known."""
    given = draw(
        st.one_of(st.lists(pictures(), min_size=1, max_size=5), st.lists(files(), max_size=5)).map(tuple)
    )
    kind, body, counts = draw(forms(given))
    odd = st.sampled_from([b"faces=none", b"faces=auto", b"faces=all", b"faces", b"%ff&&=&faces="])
    query = draw(st.one_of(st.just(b""), st.just(b""), st.just(b""), odd))
    known = counts and given and query in (b"", b"faces=none", b"faces=auto")
    length = (b"content-length", str(len(body)).encode())
    return Sent(
        "POST",
        "/predict",
        query,
        ((b"content-type", kind), length),
        draw(cut(body)),
        files=given if known else None,
    )


KINDS = (
    *(b"multipart/form-data", b"multipart/form-data; boundary=", b'multipart/form-data; boundary="'),
    *(b"multipart/form-data; boundary=" + b"b" * 9999, b"multipart/mixed; boundary=b", b"; ="),
    *(b"image/png", b"application/json", b"\xff", b"", b"multipart/form-data; boundary*=utf-8''%FF"),
)


@st.composite
def broken_uploads(draw: st.DrawFn) -> Sent:
    """A form that is damaged, cut off, or announced as something else."""
    sent = draw(uploads())
    body = b"".join(sent.chunks)
    headers = dict(sent.headers)
    how = draw(st.sampled_from(["damaged", "cut", "left", "kind", "length", "line ends"]))
    complete = True
    if how == "damaged":
        body = draw(damaged(body))
    elif how == "cut":
        body = body[: draw(st.integers(0, len(body)))]
    elif how == "left":
        body, complete = body[: draw(st.integers(0, len(body)))], False
    elif how == "line ends":
        body = body.replace(b"\r\n", draw(st.sampled_from([b"\n", b"\r", b"\r\n\r\n", b""])))
    if how == "length":
        lies = [b"-1", b"0", b"1e9", b"9" * 30, b"9" * 5000, b"\xb2", b"", b"1, 1"]
        headers[b"content-length"] = draw(st.sampled_from(lies))
    else:
        headers.pop(b"content-length")
    if how == "kind":
        odd = st.binary(max_size=40).filter(lambda value: b"\n" not in value)
        headers[b"content-type"] = draw(st.sampled_from(KINDS) | odd)
    return replace(
        sent, headers=tuple(headers.items()), chunks=draw(cut(body)), complete=complete, files=None
    )


@st.composite
def feedback(draw: st.DrawFn) -> Sent:
    """True emotions of predictions, or what looks like it."""
    emotions = st.sampled_from(["happy", "Joy ", "ANGER", "bored", "", "\ud800", "ha\x00ppy"])
    identities = st.sampled_from(["0" * 32, "f" * 32, "F" * 32, "0" * 31, "", "../" * 9])
    values = st.none() | st.booleans() | st.floats() | st.text(max_size=9) | st.integers()
    nested = st.recursive(
        values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
    )
    given = draw(
        st.one_of(
            st.fixed_dictionaries({"id": identities, "emotion": emotions}),
            st.fixed_dictionaries({}, optional={"id": identities | nested, "emotion": emotions | nested}),
            nested,
        )
    )
    body = json.dumps(given).encode()
    odd = st.one_of(
        damaged(body), st.binary(max_size=99), st.sampled_from([b"[" * 4000, b"9" * 4096, b"{" * 5000])
    )
    body = draw(st.one_of(st.just(body), st.just(body), odd))
    kind = draw(st.sampled_from([*[b"application/json"] * 40, b"Application/JSON; charset=utf-8", *KINDS]))
    return Sent(
        "POST",
        "/feedback",
        headers=((b"content-type", kind),),
        chunks=draw(cut(body)),
        complete=draw(st.integers(0, 9)) > 0,
    )


PATHS = (
    *("/", "/predict", "/predict/", "/feedback", "/model", "/about", "/metrics", "/openapi.json", "/docs"),
    *("/docs.json", "/monitoring", "/monitoring/", "/monitoring/index.html", "/monitoring/../secret"),
    *(
        "/static/page.js",
        "/static/",
        "/static/../page.py",
        "/static/%2e%2e/app.py",
        "/nowhere",
        "//predict",
        "/predict/\x00",
    ),
    *("/\ud800", "/" + "a" * 9000, "*", ""),
)

HEADERS = (
    b"host authorization accept range if-none-match if-modified-since cookie x content-type content-length "
    b"content-encoding x-forwarded-for traceparent origin accept-encoding expect baggage te"
).split()

VALUES = (
    *(b"", b"[", b"a b", b"localhost:99999", b"bytes=0-", b"bytes=9-1,-5,0-0", b"bytes=-", b"*", b"\xff\xfe"),
    *(b"=", b"Bearer", b"Basic \xff", b"gzip", b"00-" + b"f" * 32 + b"-" + b"f" * 16 + b"-ff", b"a" * 5000),
    b"Thu, 99 Jan 1970",
)

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "BREW")


@st.composite
def strangers(draw: st.DrawFn) -> Sent:
    """Any method on any path with any headers."""
    path = draw(st.sampled_from(PATHS) | st.text(max_size=20).map(lambda text: "/" + text))
    one = st.tuples(st.sampled_from(HEADERS), st.sampled_from(VALUES))
    headers = draw(st.lists(one, max_size=5).map(tuple))
    body = draw(st.sampled_from([b"", b"", b"x", b"{}", b"\x00" * 5000]))
    return Sent(draw(st.sampled_from(METHODS)), path, draw(st.binary(max_size=9)), headers, draw(cut(body)))


def requests() -> st.SearchStrategy[Sent]:
    """Any of these; half of them are well-formed uploads."""
    return st.one_of(
        uploads(), uploads(), uploads(), broken_uploads(), broken_uploads(), feedback(), strangers()
    )
