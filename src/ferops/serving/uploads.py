"""Images out of a multipart request, refused as soon as they are too many or too large."""

import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from starlette.types import Receive

#: Form fields that hold images; all mean the same.
FIELDS = ("images", "image", "file", "files")

#: Headers and boundaries of one part, bytes; a request may hold as much more than its images.
PART_OVERHEAD = 4096

#: Fields beside the images, which are passed over: a form has some, and a million of them cost ten seconds.
MAX_OTHER_FIELDS = 64

#: Of those, named in the refusal of a form without an image, and letters of a name.
NAMED_FIELDS, NAME_LETTERS = 5, 40

#: A body of at most so many bytes waits until it is whole, so that it can be cut; a larger one is parsed as
#: it comes.
CUT_BYTES = 1_000_000

#: A form's type, and the head of a file in it, as browsers, curl and Python's clients write them.
_PLAIN_TYPE = re.compile(rb"multipart/form-data; ?boundary=([0-9A-Za-z-]+)")
_PLAIN_HEAD = re.compile(
    rb'\r\n(?i:Content-Disposition): form-data; name="(?:%b)"(?:; filename="[^"\\\r\n]*")?\r\n'
    rb"(?:(?i:Content-Type): [!-~ ]*\r\n)?\r\n" % "|".join(FIELDS).encode()
)

# It would write a line for each damaged form; its client is told.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class UploadError(ValueError):
    """The request is refused: HTTP `status`, stable `code`, and a message that says what to do."""

    def __init__(self, status: int, code: str, message: str, **details: str | int) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details


@dataclass
class _Part:
    name: str = ""
    filename: str | None = None
    content: bytearray = field(default_factory=bytearray)


class _Parts:
    """Callbacks of the parser; holds the images that came in so far, each within the limit."""

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self.images: list[bytes] = []
        self.other_fields: set[str] = set()
        self.complete = False
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._other = 0
        self._part = _Part()
        self._header = bytearray()
        self._value = bytearray()

    def on_part_begin(self) -> None:
        self._part = _Part()
        if self._other > MAX_OTHER_FIELDS:
            raise UploadError(
                413, "too_many_images", f"more than {MAX_OTHER_FIELDS} fields without an image in one form"
            )

    def on_headers_finished(self) -> None:
        if self._part.name == "faces":  # passed over, the whole photograph would be taken for a face
            raise UploadError(422, "bad_faces", "`faces` belongs into the address: /predict?faces=auto")
        if self._part.name in FIELDS and len(self.images) >= self._max_images:
            raise UploadError(
                413,
                "too_many_images",
                f"more than {self._max_images} images in one request: send them in several",
            )

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
            if b"filename" in options:
                self._part.filename = options[b"filename"].decode("utf-8", "replace")
        self._header.clear()
        self._value.clear()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.name not in FIELDS:
            return
        self._part.content += data[start:end]
        if len(self._part.content) > self._max_bytes:
            raise UploadError(
                413,
                "too_large",
                f"image {len(self.images)} has more than {self._max_bytes} bytes: send a smaller one",
                index=len(self.images),
            )

    def on_part_end(self) -> None:
        if self._part.name not in FIELDS:
            self._other += 1
            if len(self.other_fields) < NAMED_FIELDS:
                self.other_fields.add(self._part.name[:NAME_LETTERS])
        elif self._part.content or self._part.filename:
            self.images.append(bytes(self._part.content))
        else:  # a file input left empty
            self._other += 1

    def on_end(self) -> None:
        self.complete = True


#: What the parser calls; looked up once, for it is a fifth of the parsing of one image.
CALLBACKS = tuple(name for name in vars(_Parts) if name.startswith("on_"))


async def read_images(
    headers: Mapping[bytes, bytes],
    receive: "Receive",
    max_images: int,
    max_bytes: int,
    max_request_bytes: int,
    take: Callable[[int], None] = lambda size: None,
) -> list[bytes]:
    """The images of a `multipart/form-data` request, in the order they came; they never touch the disk.

    Args:
        headers: of the request, their names in lower case.
        receive: gives the request's body, of which nothing was read yet.
        max_images: in one request.
        max_bytes: of one image.
        max_request_bytes: of the request.
        take: called with the size of each piece that comes in; may refuse the request.

    Raises:
        UploadError: 415 for another content type or a packed body, 422 for `faces` in the form, 413 for too
            much, 400 for a damaged body or no image.
    """
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UploadError(
            415, "unsupported_media_type", "send the body as it is, without a `Content-Encoding`"
        )
    boundary = _boundary(headers.get(b"content-type", b""))
    parts = _Parts(max_images, max_bytes)
    try:
        if not boundary:
            raise FormParserError("no boundary in the content type")
        limit = min(max_request_bytes, max_images * (max_bytes + PART_OVERHEAD))
        body = _limited(headers.get(b"content-length", b""), receive, limit, take)
        held = bytearray()
        async for chunk in body:
            held += chunk
            if len(held) > CUT_BYTES:
                break
        else:
            images = cut(bytes(held), boundary)
            if images and len(images) <= max_images and max(map(len, images)) <= max_bytes:
                return images
        callbacks = {name: getattr(parts, name) for name in CALLBACKS}
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(bytes(held))
        async for chunk in body:
            parser.write(chunk)
        parser.finalize()
    except (FormParserError, UnicodeError) as error:
        raise UploadError(
            400, "bad_multipart", f"the body is no valid multipart/form-data: {error}"
        ) from None
    if not parts.complete:
        raise UploadError(400, "bad_multipart", "the body ends before its closing boundary")
    if not parts.images:
        found = f"; found only {', '.join(sorted(parts.other_fields))}" if parts.other_fields else ""
        raise UploadError(400, "no_image", f"no image file in the field `{FIELDS[0]}`{found}")
    return parts.images


def cut(body: bytes, boundary: bytes) -> list[bytes] | None:
    """The files of a form that has nothing but images in the plainest of forms, else nothing.

    It gives what the parser gives, in a sixth of the time: that one goes through a form in Python.
    """
    before, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if before or not parts or parts.pop() not in (b"--", b"--\r\n"):
        return None
    images = []
    for part in parts:
        head = _PLAIN_HEAD.match(part)
        if head is None or head.end() == len(part):  # a file input left empty is no image
            return None
        images.append(part[head.end() :])
    return images


def _boundary(content_type: bytes) -> bytes | None:
    plain = _PLAIN_TYPE.fullmatch(content_type)
    if plain:
        return plain[1]
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UploadError(
            415,
            "unsupported_media_type",
            f"send multipart/form-data with image files in the field `{FIELDS[0]}`: "
            f"curl -F {FIELDS[0]}=@face.png …/predict",
        )
    return options.get(b"boundary")


async def _limited(
    announced: bytes, receive: "Receive", limit: int, take: Callable[[int], None]
) -> AsyncIterator[bytes]:
    received, more = 0, True
    # No need to wait for all that; a number of thousands of digits is none to Python.
    if announced.isdigit() and (len(announced) > 20 or int(announced) > limit):
        raise _too_large(limit)
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise UploadError(400, "incomplete", "the client left before the request was complete")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        received += len(chunk)
        if received > limit:
            raise _too_large(limit)
        take(len(chunk))
        yield chunk


def _too_large(limit: int) -> UploadError:
    return UploadError(413, "too_large", f"the request has more than {limit} bytes: send fewer images in one")
