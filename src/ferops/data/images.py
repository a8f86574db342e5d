"""The one way image bytes become pixels: ingest, training, evaluation and serving all come through here."""

import io
import warnings
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

#: FER2013's own size (Goodfellow et al. 2013); what PAtt-Lite takes.
FACE_SIDE = 48

#: Default refusal of decompression bombs, in pixels; the service and the settings can lower it.
MAX_PIXELS = 50_000_000

#: What cameras and datasets give. Pillow reads more, but some of it is a program (EPS runs Ghostscript), and
#: each rare format is one more parser open to whoever can upload. Icons are decoded to learn their size.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000")

#: Pictures written in letters, which Pillow reads in Python: 8 MB of comments take it many minutes.
IN_LETTERS = (b"P1", b"P2", b"P3")

#: Longest side, pixels, as JPEG has it: to resize one of millions takes gigabytes, however narrow it is.
MAX_SIDE = 65_535

#: Passes of a progressive JPEG, as libtiff has it; usual are ten. Each goes over all pixels and may have no
#: more than 75 bytes, so that 8 MB would take an hour.
MAX_SCANS = 100

#: Pixels that are made 8-bit at one time: the arithmetic takes some 20 bytes for each.
BAND_PIXELS = 2**20
# What Pillow warns of is refused here, or harmless (damaged EXIF data). Once and for all: to change what is
# ignored during a call is slow and concerns all threads.
warnings.filterwarnings("ignore", module=r"PIL\b")

Image.init()  # Pillow looks for a plug-in it has not loaded only when no formats are named


class ImageError(ValueError):
    """The bytes are not an image that can be used. `code` is stable and machine-readable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode bytes to a fully loaded picture: first frame, upright (EXIF), its own mode.

    Raises:
        ImageError: `empty`, `not_an_image`, `too_many_pixels` or `truncated`.
    """
    if not content:
        raise ImageError("empty", "the file is empty: send a picture")
    if content.startswith(IN_LETTERS):
        raise ImageError("not_an_image", "pictures in letters (P1, P2, P3) are not read: save it as PNG")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError("too_many_pixels", f"the image has more than {max_pixels} pixels") from None
    except Exception:  # Pillow's plug-ins raise nearly anything on hostile bytes
        raise ImageError(
            "not_an_image",
            f"the file is no image that can be read: send {', '.join(FORMATS[:6])} or the like",
        ) from None
    if image.width * image.height > max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"the image is {image.width}x{image.height}: more than {max_pixels} pixels",
        )
    if max(image.size) > MAX_SIDE:
        raise ImageError(
            "too_many_pixels", f"the image is {image.width}x{image.height}: more than {MAX_SIDE} pixels long"
        )
    if content.startswith(b"\xff\xd8") and _scans(content) > MAX_SCANS:
        raise ImageError("not_an_image", f"the JPEG has more than {MAX_SCANS} scans: save it anew")
    try:
        image.load()
    except Exception:  # as above: zlib, struct and index errors among them
        raise ImageError("truncated", "the image is truncated or damaged: send it again, whole") from None
    with suppress(Exception):  # damaged EXIF data say nothing of the pixels, nor which side is up
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _scans(jpeg: bytes) -> int:
    """Scans of a JPEG up to its end, counted no further than one too many.

    What comes behind the end is no part of it: phones put a film of seconds there, whose bytes look like
    anything. Segments have their length behind the marker, a scan's data go on to the next one; `FF 00`
    and restarts (D0 to D7) are within them (ITU T.81, B.1.1).
    """
    if jpeg.count(b"\xff\xda") <= MAX_SCANS:  # as in nearly all: no need to look closer
        return 0
    scans, place = 0, 2
    while scans <= MAX_SCANS and (place := jpeg.find(b"\xff", place)) >= 0:
        marker = jpeg[place + 1 : place + 2]
        if marker == b"\xff":
            place += 1
        elif marker in (b"", b"\xd9"):
            break
        elif marker <= b"\x01" or b"\xd0" <= marker <= b"\xd8":
            place += 2
        else:
            scans += marker == b"\xda"
            place += 2 + int.from_bytes(jpeg[place + 2 : place + 4])
    return scans


def grey(image: Image.Image) -> Image.Image:
    """8-bit greyscale, as FER images are: alpha over black is dropped, 16 bits are scaled to 8."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(image))
    if image.mode == "L" and "transparency" not in image.info:
        return image
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Integers of 16 bits, and floats up to their largest, scaled to 0 to 255; what is no number is 0."""
    top = 65535.0 if image.mode.startswith("I") else max(float(image.getextrema()[1]), 1.0)  # type: ignore[arg-type]
    flat = np.empty((image.height, image.width), np.uint8)
    rows = max(1, BAND_PIXELS // image.width)
    for start in range(0, image.height, rows):
        end = min(start + rows, image.height)
        values = np.asarray(image.crop((0, start, image.width, end)), dtype=np.float64)
        flat[start:end] = np.nan_to_num(np.clip(values * (255.0 / top), 0, 255)).astype(np.uint8)
    return flat


def flat(image: Image.Image, side: int = FACE_SIDE) -> NDArray[np.uint8]:
    """A grey square uint8 `[side, side]`, as faces in the datasets are.

    A colour photograph is made to look like them, so that the model never sees a kind of input that it was
    not trained on. Resizing (only when the size differs) is bilinear with antialiasing.
    """
    square = grey(image)
    if square.size != (side, side):
        square = square.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(square, dtype=np.uint8)


def rgb(squares: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A classifier's input: uint8 `[..., side, side, 3]`, the same three times, of `[..., side, side]`."""
    out = np.empty((*squares.shape, 3), np.uint8)
    for channel in range(3):  # five times as fast as one assignment to all
        out[..., channel] = squares
    return out


def face(image: Image.Image, side: int = FACE_SIDE) -> NDArray[np.uint8]:
    """A classifier's input of one face: `flat`, as `rgb`."""
    return rgb(flat(image, side))


def faces(contents: list[bytes], side: int = FACE_SIDE) -> NDArray[np.uint8]:
    """`face` of many encoded images: uint8 `[N, side, side, 3]`."""
    out = np.empty((len(contents), side, side, 3), np.uint8)
    for row, content in enumerate(contents):
        out[row] = face(decode(content), side)
    return out
