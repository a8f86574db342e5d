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


def bmp_rle_of(width: int, height: int, data: bytes, compression: int) -> bytes:
    """A compressed BMP in colours: run lengths of 8 (1) or 4 (2) bits a pixel."""
    depth = 8 // compression
    palette = bytes(value for index in range(1 << depth) for value in (index, 0, index, 0))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, compression, len(data), 0, 0, 0, 0)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def jpeg_of(before: bytes) -> bytes:
    """A JPEG with this in its header."""
    picture = saved(Image.new("L", (48, 48), 90), "JPEG")
    return picture[:2] + before + picture[2:]


def jpeg_segment(marker: int, data: bytes = b"") -> bytes:
    """One segment of a JPEG's header."""
    return struct.pack(">BBH", 255, marker, len(data) + 2) + data


def exif_of(orientation: int, fractions: int) -> bytes:
    """Exif data (TIFF inside) with a long list of fractions behind the orientation."""
    table = struct.pack("<HHHIIHHIII", 2, 0x0112, 3, 1, orientation, 0xC000, 5, fractions, 38, 0)
    return b"II*\0\x08\0\0\0" + table + struct.pack("<II", 1, 3) * fractions


def tiff_of(
    width: int, height: int, tags: dict[int, tuple[int, int, int | None]], data: bytes, compression: int = 1
) -> bytes:
    """A grey TIFF with these tags: type, number of values, and the value or None for where the data begin."""
    usual = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 277: 1}
    table = {tag: (4 if tag < 258 else 3, 1, value) for tag, value in usual.items()} | tags
    start = 14 + 12 * len(table)
    entries = (
        struct.pack("<HHII", tag, kind, number, start if value is None else value)
        for tag, (kind, number, value) in sorted(table.items())
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(table)) + b"".join(entries) + bytes(4) + data


def tiff_tile_of(width: int, height: int, side: int) -> bytes:
    """A grey TIFF of one compressed tile."""
    data = zlib.compress(bytes(side * side), 9)
    tags = {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, None), 325: (4, 1, len(data))}
    return tiff_of(width, height, tags, data, compression=8)


def jpeg_2000_of(
    size: int, tile: int, header: bytes = b"", layers: int = 1, block: int = 64, before: bytes = b""
) -> bytes:
    """A JPEG 2000 picture in colour and alpha, in tiles, without data: all of it is of one colour."""
    siz = struct.pack(">HHIIIIIIIIH", 50, 0, size, size, 0, 0, tile, tile, 0, 0, 4) + b"\7\1\1" * 4
    exponent = block.bit_length() - 3
    cod = struct.pack(">HHBBHBBBBBB", 0xFF52, 12, 0, 0, layers, 0, 5, exponent, exponent, 0, 1)
    qcd = b"\xff\x5c\0\x13\x40\x40" + b"\x48\x48\x50" * 5
    data = struct.pack(">HHHIBB", 0xFF90, 10, 0, 0, 0, 1) + before + b"\xff\x93" + bytes(64) + b"\xff\xd9"
    return b"\xff\x4f\xff\x51" + siz + cod + qcd + header + data


def long_headers() -> dict[str, bytes]:
    """Whose headers Pillow would read for seconds, were they as long as an upload may be."""
    exif, packed = jpeg_segment(0xE1, b"Exif\0\0x"), zlib.compress(bytes(2**20), 9)
    png, gif = saved(Image.new("L", (48, 48), 90), "PNG"), saved(Image.new("L", (48, 48), 90), "GIF")
    frame, data = gif.index(b",\0\0\0\0"), png.index(b"IDAT") - 4
    jp2 = saved(Image.new("L", (48, 48), 90), "JPEG2000")
    quantisation = jpeg_segment(0xDB, (b"\0" + bytes(range(1, 65))) * 1000)
    photoshop = jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4".ljust(12, b"\0") * 5000)
    progressive = saved(Image.new("L", (48, 48), 90), "JPEG", progressive=True)
    gif_with = {
        "comments": b"!\xfe" + b"\1a" * 100_000 + b"\0",
        "an application": b"!\xff\x0bNETSCAPE2.0\0" + b"\1,\0" + b"!\xff" + b"\1a" * 100_000 + b"\0",
        "bytes between": b"\1" * 200_000,
        "a byte and a comment": b"\7!\xfe" + b"\1a" * 200_000 + b"\0",
        "many bytes between": bytes(range(3, 33)) * 6000,
        "a hidden frame": b"!\1\0" + b",".ljust(45, b"x") + b"\1a" * 100_000 + b"\0",
    }
    return {
        "jpeg of 90,000 exif segments": jpeg_of(exif * 90_000),
        "jpeg of large exif segments": jpeg_of(jpeg_segment(0xE1, b"Exif\0\0".ljust(60_000, b"\0")) * 12),
        "jpeg of comments": jpeg_of(jpeg_segment(0xFE) * 100_000),
        "jpeg of quantisation tables": jpeg_of(quantisation * 10),
        "jpeg of frame headers": jpeg_of(
            jpeg_segment(0xC0, b"\x08\0\x30\0\x30\1" + b"\1\x11\0" * 20_000) * 9
        ),
        "jpeg of photoshop blocks": jpeg_of(photoshop * 10),
        "jpeg of bytes between": jpeg_of(b"\xff" * 300_000),
        "jpeg of restarts": jpeg_of(b"\xff\xd0" * 100_000),
        "jpeg of comments between scans": progressive[:-2]
        + jpeg_segment(0xFE) * 50_000
        + progressive[progressive.rindex(b"\xff\xda") : -2] * 101
        + progressive[-2:],
        "png of texts": png[:33] + png_chunk(b"tEXt", b"a") * 20_000 + png[33:],
        "png of packed texts": png[:33] + png_chunk(b"zTXt", b"\0\0" + packed) * 500 + png[33:],
        "png of profiles": png[:33] + png_chunk(b"iCCP", b"a\0\0" + packed) * 500 + png[33:],
        "png of empty data": png[:data] + png_chunk(b"IDAT", b"") * 20_000 + png[data:],
        **{f"gif of {kind}": gif[:frame] + more + gif[frame:] for kind, more in gif_with.items()},
        "pgm of one comment": b"P5 #" + b"x" * 400_000 + b"\n8 8 255\n" + bytes(64),
        "pgm of spaces": b"P5" + b" " * 400_000 + b"8 8 255\n" + bytes(64),
        "tiff of strips": tiff_of(
            1, 2, {278: (4, 1, 1), 273: (4, 90_000, None)}, struct.pack("<I", 8) * 90_000
        ),
        "tiff of tiles": tiff_of(
            1400,
            1400,
            {322: (4, 1, 1), 323: (4, 1, 1), 324: (4, 50_000, None)},
            struct.pack("<I", 8) * 50_000,
        ),
        "tiff of fractions": tiff_of(
            48, 48, {282: (5, 60_000, None), 273: (4, 1, 8)}, struct.pack("<II", 1, 3) * 60_000
        ),
        "tiff of tags": tiff_of(
            48, 48, {273: (4, 1, 8), **dict.fromkeys(range(300, 30000), (3, 1, 1))}, bytes(3000)
        ),
        "tiff of exif fractions": tiff_of(
            48,
            48,
            {273: (4, 1, 8), 34665: (4, 1, None)},
            struct.pack("<HHHIII", 1, 40_000, 5, 50_000, 200, 0)
            + bytes(182)
            + struct.pack("<II", 1, 3) * 50_000,
        ),
        "jpeg 2000 of markers": jpeg_2000_of(48, 48, header=b"\xff\x55\0\2" * 50_000),
        "jpeg 2000 of boxes": jp2[:12] + struct.pack(">I4s", 8, b"free") * 50_000 + jp2[12:],
    }


def out_of_proportion() -> dict[str, bytes]:
    """Of some bytes to some kB, for which a decoder takes hundreds of MB, or seconds in Python."""
    small_blocks = b"\xff\x52\0\x0c\0\0\0\1\0\5\0\0\0\1"
    transform = b"\xff\x74" + struct.pack(">HHHH", 20_006, 0, 1, 0) + bytes(20_000)
    jpeg_2000 = jpeg_2000_of(255, 1)
    box = saved(Image.new("RGBA", (255, 255)), "JPEG2000")
    return {
        "bmp rle8": bmp_rle_of(60_000, 800, b"\0\0\1\0" * 1000, 1),
        "bmp rle8 skipping": bmp_rle_of(7000, 7000, b"\0\2\xff\xff" * 100, 1),
        "bmp rle4": bmp_rle_of(255, 65_000, b"\xff\x12\0\0" * 65_000, 2),
        "bmp rle8 in place": bmp_rle_of(255, 250, b"\xff\x12" * 300_000, 1),
        "pgm to 254": b"P5 600 600 254\n" + bytes(360_000),
        "ppm to 65535": b"P6 300 300 65535\n" + bytes(540_000),
        "tiff of a large tile": tiff_tile_of(1, 1, 4096),
        "jpeg 2000 of tiles": jpeg_2000,
        "jpeg 2000 of tiles in boxes": box[: box.index(b"\xff\x4f\xff\x51")] + jpeg_2000,
        "jpeg 2000 of transforms": jpeg_2000_of(1024, 32, header=transform),
        "jpeg 2000 of small blocks": jpeg_2000_of(7000, 7000, block=4),
        "jpeg 2000 of small blocks in a tile": jpeg_2000_of(7000, 7000, before=small_blocks),
        "jpeg 2000 of layers": jpeg_2000_of(7000, 7000, layers=65_535),
        "jpeg 2000 of hidden tiles": jpeg_2000_of(1024, 32, header=b"\xff\x30\x4e\x26" + transform),
    }


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
        "png of exif fractions": png_of(1, 1, zlib.compress(bytes(2)), depth=8)[:33]
        + png_chunk(b"eXIf", exif_of(6, 50_000))
        + png_of(1, 1, zlib.compress(bytes(2)), depth=8)[33:],
        **long_headers(),
        **out_of_proportion(),
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
