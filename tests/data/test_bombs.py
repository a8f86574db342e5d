"""Small files that would take gigabytes or seconds are refused; whatever people really send is read."""

import io
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import fuzz_files
from ferops.data.images import ImageError, decode
from fuzz_files import jpeg_of, jpeg_segment, png_chunk, saved, tiff_of, tiff_tile_of

BOMBS = fuzz_files.long_headers() | fuzz_files.out_of_proportion()

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (300, 400, 3), dtype=np.uint8))
FACE = Image.fromarray(RNG.integers(0, 256, (48, 48), dtype=np.uint8))


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_with_a_sentence_that_helps(content: bytes) -> None:
    with pytest.raises(ImageError, match="save it") as caught:
        decode(content)
    assert caught.value.code == "not_an_image"


def test_no_bomb_takes_memory_or_time() -> None:
    code = """if True:
        import resource, time
        from fuzz_files import BOMBS
        from ferops.data.images import ImageError, decode
        before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        for content in BOMBS.values():
            try:
                decode(content)
            except ImageError:
                pass
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - begin)
    """
    folder = Path(fuzz_files.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    kilobytes, seconds = map(float, done.stdout.split())
    assert kilobytes < 64_000
    assert seconds < 3  # 0.1 on an idle machine


def test_a_long_list_in_exif_data_is_not_written_anew() -> None:
    png = saved(Image.new("L", (20, 10)), "PNG")
    content = png[:33] + png_chunk(b"eXIf", fuzz_files.exif_of(6, 900_000)) + png[33:]
    begin = time.process_time()
    assert decode(content).size == (10, 20)
    assert time.process_time() - begin < 2  # 10 if it is


def _icc(size: int) -> bytes:
    return RNG.bytes(size)


def _xmp(segments: int) -> bytes:
    return jpeg_segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0".ljust(60_000, b"x")) * segments


def _png() -> bytes:
    texts = PngImagePlugin.PngInfo()
    for name in range(20):
        texts.add_itxt(f"Title{name}", "in several languages", zip=True)
    return saved(PHOTO, "PNG", pnginfo=texts, icc_profile=_icc(30_000))


def _in_small_chunks(png: bytes) -> bytes:
    """Picture data in chunks smaller than the usual 8 kB."""
    parts, at, first = [], 33, png.index(b"IDAT") - 4
    while at < len(png):
        size, name = struct.unpack_from(">I4s", png, at)
        parts += [png[at + 8 : at + 8 + size]] if name == b"IDAT" else []
        at += size + 12
    data = b"".join(parts)
    chunks = (png_chunk(b"IDAT", data[i : i + 2048]) for i in range(0, len(data), 2048))
    return png[:first] + b"".join(chunks) + png[-12:]


def _tile(side: int) -> bytes:
    return tiff_tile_of(48, 48, side)


def _rows(compression: int = 1) -> bytes:
    """One strip, of 2^32 - 1 rows, as many write it."""
    data = FACE.tobytes()
    return tiff_of(
        48,
        48,
        {273: (4, 1, None), 278: (4, 1, 2**32 - 1), 279: (4, 1, len(data))},
        data + bytes(8),
        compression,
    )


def _gps() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 8
    exif.get_ifd(0x8825).update({2: (47.0, 22.0, 11.5), 4: (8.0, 32.0, 30.0)})
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2024:01:01 00:00:00"})
    return exif


LARGE = Image.new("RGBA", (3000, 2000), (200, 30, 60, 255))
READ = {
    "jpeg with a large profile": saved(PHOTO, "JPEG", icc_profile=_icc(3_000_000)),
    "jpeg with large xmp": jpeg_of(_xmp(120)),
    "jpeg with exif in two segments": jpeg_of(
        jpeg_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0".ljust(60_000, b"\0")) * 2
    ),
    "jpeg with restarts": saved(PHOTO, "JPEG", restart_marker_blocks=1),
    "jpeg progressive": saved(PHOTO, "JPEG", progressive=True, exif=_gps()),
    "jpeg padded": jpeg_of(b"\xff" * 4000),
    "png with texts": _png(),
    "png in small chunks": _in_small_chunks(saved(PHOTO, "PNG")),
    "gif with a comment": saved(PHOTO.convert("P"), "GIF", comment=b"by me " * 2000),
    "gif with loops": saved(
        PHOTO.convert("P"), "GIF", save_all=True, append_images=[PHOTO.convert("L")], loop=3
    ),
    "gif with stray bytes": saved(PHOTO.convert("P"), "GIF").replace(b",\0\0\0\0", b"\1\7,\0\0\0\0", 1),
    "bmp rle8": fuzz_files.bmp_rle_of(48, 48, b"\x30\x05\0\0" * 48 + b"\0\1", 1),
    "bmp rle4": fuzz_files.bmp_rle_of(48, 48, b"\x30\x12\0\0" * 48 + b"\0\1", 2),
    "pgm to 200": b"P5\n# made by hand\n48 48\n200\n" + bytes(48 * 48),
    "pgm of 16 bits": saved(Image.fromarray(RNG.integers(0, 2**16, (500, 400), dtype=np.uint16)), "PPM"),
    "ppm of 16 bits": b"P6 48 48 65535\n" + bytes(48 * 48 * 6),
    "pbm": saved(PHOTO.convert("1"), "PPM"),
    "tiff tile of 64": _tile(64),
    "tiff tile of 256": _tile(256),
    "tiff tile of 1024": _tile(1024),
    "tiff of one strip": _rows(),
    "tiff of many strips": saved(LARGE.resize((200, 9000)), "TIFF", strip_size=800),
    "tiff large": saved(PHOTO, "TIFF", big_tiff=True),
    "tiff with places": saved(PHOTO, "TIFF", exif=_gps()),
    **{
        f"tiff {kind}": saved(PHOTO, "TIFF", compression=kind)
        for kind in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", "lzma", "zstd")
    },
    "tiff fax": saved(PHOTO.convert("1"), "TIFF", compression="group4"),
    "jpeg 2000 raw": saved(PHOTO, "JPEG2000", no_jp2=True),
    "jpeg 2000 tiles": saved(LARGE, "JPEG2000", tile_size=(256, 256)),
    "jpeg 2000 small blocks": saved(LARGE, "JPEG2000", codeblock_size=(16, 16)),
    "jpeg 2000 precincts": saved(LARGE, "JPEG2000", codeblock_size=(32, 32), precinct_size=(128, 128)),
    "jpeg 2000 layers": saved(PHOTO, "JPEG2000", quality_layers=[80, 40, 20, 10, 5], irreversible=True),
    "jpeg 2000 in parts": saved(PHOTO, "JPEG2000", tile_size=(64, 64), progression="RPCL", plt=True),
    "jpeg 2000 face of tiny blocks": saved(FACE, "JPEG2000", codeblock_size=(4, 4)),
}


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_usual_pictures_are_read_as_pillow_reads_them(content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image)
        orientation = image.getexif().get(0x0112, 1)
    assert np.array_equal(np.asarray(decode(content)), np.rot90(expected) if orientation == 8 else expected)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "GIF", "PPM"])
def test_a_file_that_is_cut_off_anywhere_is_refused_like_any_damaged_one(kind: str) -> None:
    content = saved(PHOTO, kind)
    for length in range(400):
        with pytest.raises(ImageError):
            decode(content[:length])
