"""Files that people, programs and attackers upload: Hypothesis strategies.

    >>> files().example().content[:4]  # doctest: +SKIP
    b'GIF8'

Pictures written without loss from known pixels, in every format and mode, know their right answer. Of the
others, damaged, bombs or no pictures at all, the offline decoder knows it.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.uint8]

#: EXIF orientation to what a camera that wrote it did to the upright picture: the inverse of what viewers do.
TURNED: dict[int, Callable[[Grey], Grey]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.T,
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).T,
    8: lambda upright: np.rot90(upright, 3),
}


@dataclass(frozen=True)
class File:
    """One file to upload.

    Attributes:
        content: its bytes.
        pixels: the upright grey picture `[H, W]` that it shows, where that is known without decoding.
    """

    content: bytes
    pixels: Grey | None = None


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _palette(grey: Grey) -> Image.Image:
    """A palette whose entries are in disorder: who takes indices for grey values is wrong."""
    image = Image.fromarray(255 - grey).convert("P")
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    return image


def _rgba(grey: Grey) -> Image.Image:
    """Half of it transparent, which does not change its grey."""
    alpha = np.where(np.arange(grey.size).reshape(grey.shape) % 2, 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([grey, grey, grey, alpha]))


def _frames(grey: Grey, kind: str, **options: object) -> bytes:
    """Animated, or of several pages: the first frame counts."""
    others = [Image.fromarray(np.full_like(grey, value)) for value in (0, 255)]
    return saved(Image.fromarray(grey), kind, save_all=True, append_images=others, **options)


def _turned(grey: Grey, orientation: int, kind: str, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = np.ascontiguousarray(TURNED[orientation](grey))
    return saved(Image.fromarray(turned).convert("RGB"), kind, exif=exif, **options)


#: Ways to write a grey picture so that nothing of it is lost.
LOSSLESS: dict[str, Callable[[Grey], bytes]] = {
    "png": lambda grey: saved(Image.fromarray(grey), "PNG"),
    "png rgb": lambda grey: saved(Image.fromarray(grey).convert("RGB"), "PNG"),
    "png rgba": lambda grey: saved(_rgba(grey), "PNG"),
    "png grey with alpha": lambda grey: saved(_rgba(grey).convert("LA"), "PNG"),
    "png palette": lambda grey: saved(_palette(grey), "PNG"),
    "png 16 bit": lambda grey: saved(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
    "png 1 bit": lambda grey: saved(Image.fromarray(grey > 127), "PNG"),
    "png animated": lambda grey: _frames(grey, "PNG"),
    "bmp": lambda grey: saved(Image.fromarray(grey), "BMP"),
    "bmp rgb": lambda grey: saved(Image.fromarray(grey).convert("RGB"), "BMP"),
    "gif": lambda grey: saved(Image.fromarray(grey), "GIF"),
    "gif animated": lambda grey: _frames(grey, "GIF"),
    "tiff": lambda grey: saved(Image.fromarray(grey), "TIFF"),
    "tiff lzw": lambda grey: saved(Image.fromarray(grey), "TIFF", compression="tiff_lzw"),
    "tiff deflate": lambda grey: saved(Image.fromarray(grey), "TIFF", compression="tiff_adobe_deflate"),
    "tiff palette": lambda grey: saved(_palette(grey), "TIFF"),
    "tiff 16 bit": lambda grey: saved(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
    "tiff pages": lambda grey: _frames(grey, "TIFF"),
    "pgm": lambda grey: saved(Image.fromarray(grey), "PPM"),
    "ppm": lambda grey: saved(Image.fromarray(grey).convert("RGB"), "PPM"),
    "tga": lambda grey: saved(Image.fromarray(grey), "TGA"),
    "tga rle": lambda grey: saved(Image.fromarray(grey), "TGA", compression="tga_rle"),
    "webp": lambda grey: saved(Image.fromarray(grey).convert("RGB"), "WEBP", lossless=True),
    "webp animated": lambda grey: _frames(grey, "WEBP", lossless=True),
    "jpeg 2000": lambda grey: saved(Image.fromarray(grey), "JPEG2000"),
    **{
        f"{kind} exif {orientation}": lambda grey, orientation=orientation, kind=kind: _turned(
            grey, orientation, kind, **({"lossless": True} if kind == "WEBP" else {})
        )
        for kind in ("PNG", "TIFF", "WEBP")
        for orientation in TURNED
    },
}

#: Ways that change the picture: what they show is what the decoder says.
LOSSY: dict[str, Callable[[Grey], bytes]] = {
    "jpeg": lambda grey: saved(Image.fromarray(grey), "JPEG"),
    "jpeg progressive": lambda grey: saved(Image.fromarray(grey).convert("RGB"), "JPEG", progressive=True),
    "jpeg cmyk": lambda grey: saved(Image.fromarray(grey).convert("CMYK"), "JPEG"),
    "jpeg exif": lambda grey: _turned(grey, 6, "JPEG"),
    "tiff cmyk": lambda grey: saved(Image.fromarray(grey).convert("CMYK"), "TIFF"),
    "tiff float": lambda grey: saved(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"),
    "tiff jpeg": lambda grey: saved(Image.fromarray(grey).convert("RGB"), "TIFF", compression="jpeg"),
    "webp lossy": lambda grey: saved(_rgba(grey), "WEBP"),
    "jpeg 2000 lossy": lambda grey: saved(Image.fromarray(grey), "JPEG2000", irreversible=True),
    "gif of colours": lambda grey: saved(_rgba(grey), "GIF"),
}


def png_of(width: int, height: int, data: bytes, depth: int = 1, kind: int = 0) -> bytes:
    """A PNG file of these bytes of (compressed) picture data, whether they fit or not."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunk(name: bytes, data: bytes) -> bytes:
    """One chunk with its length and its sum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def ico_of(picture: bytes) -> bytes:
    """An icon that says to be 16x16, whatever picture is inside."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


def bombs() -> dict[str, bytes]:
    """Small files that would take more memory or time than a service has."""
    rows = zlib.compress(bytes((9000 // 8 + 1) * 9000), 9)
    jpeg = bytearray(LOSSY["jpeg"](np.zeros((8, 8), np.uint8)))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = b"\xff\xff\xff\xff"
    flat = saved(Image.new("L", (3000, 3000), 128), "JPEG", progressive=True)
    return {
        "jpeg of 10,000 scans": flat[:-2] + flat[flat.rindex(b"\xff\xda") : -2] * 10_000 + flat[-2:],
        "pgm of comments": b"P2 9 9 255\n" + b"#\n" * 200_000,
        "column": png_of(1, 40_000_000, rows),
        "row": png_of(40_000_000, 1, rows),
        "png": png_of(9000, 9000, rows),
        "png beyond Pillow's limit": png_of(60_000, 60_000, rows),
        "png of 2 GB": png_of(2**31 - 1, 1, rows),
        "png in an icon": ico_of(png_of(9000, 9000, rows)),
        "gif": b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x08\x00;",
        "gif of a large frame": b"GIF89a\x01\x00\x01\x00\x00\x00\x00,\x00\x00\x00\x00"
        + b"\xff\xff\xff\xff\x00\x08\x01\x00\x00;",
        "bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIIIII", 100, 0, 0, 54, 40, 30_000, 30_000, 1, 8, 1, 0, 0, 0, 0, 0),
        "jpeg": bytes(jpeg),
        "pgm": b"P5 99999 99999 255\n\x00",
        "tga": struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65_535, 65_535, 24, 0)
        + b"\xff\0\0\0" * 9,
        "tiff": b"II*\0\x08\0\0\0"
        + struct.pack("<H", 5)
        + b"".join(
            struct.pack("<HHII", *tag)
            for tag in (
                (256, 4, 1, 90_000),
                (257, 4, 1, 90_000),
                (258, 3, 1, 8),
                (262, 3, 1, 1),
                (273, 4, 1, 8),
            )
        )
        + bytes(4),
        "webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0VP8 \0\0\0\0",
    }


@st.composite
def greys(draw: st.DrawFn) -> Grey:
    """Pictures of 1 to 64 pixels a side, drawn by numbers so that they shrink."""
    height, width = draw(st.integers(1, 64)), draw(st.integers(1, 64))
    return np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (height, width), dtype=np.uint8)


@st.composite
def pictures(draw: st.DrawFn) -> File:
    """Of which every pixel is known."""
    grey, kind = draw(greys()), draw(st.sampled_from(sorted(LOSSLESS)))
    shown = (np.uint8(255) * (grey > 127)).astype(np.uint8) if kind == "png 1 bit" else grey
    return File(LOSSLESS[kind](grey), shown)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Cut, doubled, overwritten, with numbers as large as they can be: far more hostile than random bytes."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        junk = draw(
            st.one_of(
                st.binary(max_size=24),
                st.sampled_from(
                    [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\xff" * 2]
                ),
                st.just(content[at // 2 : at // 2 + 64]),
            )
        )
        keep = draw(st.sampled_from([0, len(junk), len(junk), draw(st.integers(0, 64)), len(content)]))
        content = content[:at] + junk + content[at + keep :]
    return content


@st.composite
def damaged_png(draw: st.DrawFn) -> bytes:
    """Damaged within its chunks, whose sums are right: it comes further than one that is damaged anywhere."""
    content, chunks, at = draw(pictures().filter(lambda file: file.content[:4] == b"\x89PNG")).content, [], 8
    while at < len(content):
        size, name = struct.unpack(">I4s", content[at : at + 8])
        chunks.append((name, content[at + 8 : at + 8 + size]))
        at += size + 12
    which = draw(st.integers(0, len(chunks) - 1))
    chunks[which] = (chunks[which][0], draw(damaged(chunks[which][1])))
    return content[:8] + b"".join(png_chunk(*chunk) for chunk in draw(st.permutations(chunks)))


@st.composite
def files(draw: st.DrawFn) -> File:
    """Whatever is uploaded."""
    kind = draw(
        st.sampled_from(
            ["picture", "picture", "lossy", "damaged", "damaged", "png", "bomb", "bytes", "known"]
        )
    )
    if kind == "picture":
        return draw(pictures())
    if kind == "lossy":
        return File(LOSSY[draw(st.sampled_from(sorted(LOSSY)))](draw(greys())))
    if kind == "damaged":
        ways = LOSSLESS | LOSSY
        return File(draw(damaged(ways[draw(st.sampled_from(sorted(ways)))](draw(greys())))))
    if kind == "png":
        return File(draw(damaged_png()))
    if kind == "bomb":
        return File(draw(st.sampled_from(sorted(BOMBS.values()))))
    if kind == "bytes":
        return File(draw(st.binary(max_size=400)))
    return File(draw(st.sampled_from(KNOWN)))


BOMBS = bombs()

#: What people send by mistake, and what is a program to some decoder.
KNOWN = (
    b"",
    b"no image at all",
    b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n",
    b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    b"PK\x03\x04" + bytes(40),
    b"\x00\x00\x00\x1cftypheic" + bytes(40),
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xd9",
    b"GIF89a",
    b"BM" + bytes(52),
    b"RIFF\x04\x00\x00\x00WEBP",
)
