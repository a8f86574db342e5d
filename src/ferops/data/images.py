"""The one way image bytes become pixels: ingest, training, evaluation and serving all come through here."""

import io
import warnings
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from ferops.data import bombs

#: FER2013's own size (Goodfellow et al. 2013); what PAtt-Lite takes.
FACE_SIDE = 48

#: Default refusal of decompression bombs, in pixels; the service and the settings can lower it.
MAX_PIXELS = 50_000_000

#: What cameras and datasets give. Pillow reads more, but some of it is a program (EPS runs Ghostscript), and
#: each rare format is one more parser open to whoever can upload. Icons are decoded to learn their size.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000")

#: Longest side, pixels, as JPEG has it: to resize one of millions takes gigabytes, however narrow it is.
MAX_SIDE = 65_535

#: Bytes of Exif data in which the orientation is looked for: what a camera can write, one JPEG segment (Exif
#: 2.32, 4.5.4). Its tags take Pillow 3 us each.
MAX_EXIF = 2**16

#: Exif's orientations and what turns a picture upright (Exif 2.32, 4.6.4, tag 274); 1 is upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

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
    try:
        bombs.look(content)
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except bombs.BombError as error:
        raise ImageError("not_an_image", str(error)) from None
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
    try:
        bombs.look_opened(image, content)
        image.load()
    except bombs.BombError as error:
        raise ImageError("not_an_image", str(error)) from None
    except Exception:  # as above: zlib, struct and index errors among them
        raise ImageError("truncated", "the image is truncated or damaged: send it again, whole") from None
    return _upright(image)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its Exif data say; damaged ones say nothing of the pixels, nor which side is up.

    Pillow's own `exif_transpose` writes all Exif data anew, which takes seconds where there are many.
    """
    turn = None
    with suppress(Exception):
        if len(image.info.get("exif", b"")) > MAX_EXIF:
            image.info["exif"] = image.info["exif"][:MAX_EXIF]
        in_digits = image.info.get("Raw profile type exif", "")  # of old PNGs, in lines of hexadecimal digits
        if len(in_digits) > 3 * MAX_EXIF:
            image.info["Raw profile type exif"] = in_digits[: 3 * MAX_EXIF].rpartition("\n")[0]
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


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
