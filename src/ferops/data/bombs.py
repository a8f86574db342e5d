"""Small files that would take much memory or time to decode, told by their headers.

Pillow reads headers in Python, step by step and while no other thread runs, and some of its libraries take
memory for what a header says, whatever the picture's size. What is refused here no camera, scanner or program
is known to write; each number says what usual files have. Headers are followed exactly as whoever decodes
them does: what is skipped here and read there would be a way around.
"""

import re
import struct
from collections.abc import Callable, Iterator

from PIL.ImageFile import ImageFile

#: Pictures written in letters, which Pillow reads in Python: 8 MB of comments take it many minutes.
IN_LETTERS = (b"P1", b"P2", b"P3")

#: Passes of a progressive JPEG, as libtiff has it; usual are ten. Each goes over all pixels and may have no
#: more than 75 bytes, so that 8 MB would take an hour.
MAX_SCANS = 100

#: Parts of a header that Pillow reads one by one (1 to 3 us each): JPEG segments and Photoshop blocks, JP2
#: boxes, TIFF tags. Usual are dozens; a colour profile and XMP of some megabytes are split into a hundred.
MAX_PARTS = 1000

#: Files smaller than this, bytes, cannot hold so many JPEG segments or GIF blocks that it matters.
SMALL = 4096

#: Segments with Exif data; usual is one. Pillow joins them by copying what it has, and 64 kB are 5,000 tags.
MAX_EXIF_SEGMENTS = 4

#: Bytes of a JPEG's quantisation tables and frame header: four tables take 524 at most (ITU T.81, B.2.4.1).
MAX_TABLES = 8192

#: Bytes between a JPEG's segments that belong to none, which Pillow reads one by one.
MAX_GAPS = 2**16

#: Of PNG chunks that are decompressed to up to 1 MB each, and files that are too small for more than that.
MAX_PACKED, SMALL_PNG = 32, 2**14

#: GIF blocks before the first frame, of at most 255 bytes each: comments, XMP and colour profiles.
MAX_BLOCKS = 2**14

#: A TIFF's strips or tiles: Pillow takes 6 us for each that is not compressed. Usual are strips of 8 kB: 50
#: million pixels in colour have 18,300 of them.
MAX_STRIPS = 20_000

#: Pixels of a TIFF's tile that are no harm in a smaller picture: usual are 256x256 and 512x512.
TILE = 1024 * 1024

#: Values of a TIFF's tags, which become Python objects; fractions take 3 us each. Cameras have some hundred,
#: a scan in 16 bits may have three curves of 65,536 (TIFF 6.0, TransferFunction).
MAX_NUMBERS, MAX_FRACTIONS = 250_000, 1000

#: Tiles of a JPEG 2000 picture, and tiles times components: OpenJPEG takes 6 to 13 kB for each tile when it
#: reads the header. Usual are one, or tiles of 256x256 and more: 763 in 50 million pixels.
MAX_TILES = 1024

#: Code blocks and precincts of one tile: OpenJPEG takes 100 to 400 bytes for each. Any tile may have the
#: first number, and one for so many of its pixels as the second says. Usual are 64x64 or 32x32; 16x16 pass.
MAX_CODE_BLOCKS, CODE_BLOCK = 2**14, 128

#: Packets of a JPEG 2000 picture (tiles times layers, precincts and components), as OpenJPEG looks for them.
MAX_PACKETS = 2**20

#: Marker segments of a JPEG 2000 picture in all its headers.
MAX_MARKERS = 20_000

#: Largest picture, pixels and bytes, that Pillow decodes in Python, in up to 0.1 s.
SLOW_PIXELS, SLOW_BYTES = 2**16, 2**18


class BombError(ValueError):
    """The picture is not given to Pillow; the text says why, and what helps."""


def look(content: bytes) -> None:
    """Look through the header of an encoded picture of any kind.

    Raises:
        BombError: it would take memory or time out of proportion.
    """
    reader = _LOOKS.get(content[:2])
    if reader is not None:
        reader(content)


def look_opened(image: ImageFile, content: bytes) -> None:
    """Look at a picture whose header Pillow has read, before its pixels are.

    Raises:
        BombError: Pillow would decode it in Python, and that for long.
    """
    decoder = image.tile[0].codec_name if image.tile else ""
    if decoder == "bmp_rle" and (image.width * image.height > SLOW_PIXELS or len(content) > SLOW_BYTES):
        raise BombError(f"compressed BMPs of more than {SLOW_PIXELS} pixels are not read: save it as PNG")
    if decoder == "ppm" and image.width * image.height > SLOW_PIXELS:
        raise BombError(
            f"PGMs and PPMs of more than {SLOW_PIXELS} pixels are read only with values up to 255 "
            "(PGM: or 65535): save it as PNG"
        )


def _pnm(content: bytes) -> None:
    if content.startswith(IN_LETTERS):
        raise BombError("pictures in letters (P1, P2, P3) are not read: save it as PNG")
    # Pillow reads the header letter by letter: magic number, width, height and, but for P4, largest value.
    header = re.sub(rb"#[^\r\n]*", b"", content[:SMALL]).split(None, 4)
    if len(content) > SMALL and len(header) < (3 if content.startswith(b"P4") else 4):
        raise BombError(f"the picture's header is longer than {SMALL} bytes: save it anew")


#: JPEG markers with a length behind them, and those that Pillow and libjpeg look for: among segments, and
#: behind a scan, in whose data `FF 00` and restarts (D0 to D7) are (ITU T.81, B.1.1).
_WITH_LENGTH = {*range(0xC0, 0xF0), 0xFE} - {0xC8, *range(0xD0, 0xDA)}
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


def _jpeg(content: bytes) -> None:
    """Up to the first scan, which is as far as Pillow reads by itself; if there may be too many, to the end.

    What comes behind the end is no part of it: phones put a film of seconds there, whose bytes look like
    anything.
    """
    many = content.count(b"\xff\xda") > MAX_SCANS
    if len(content) < SMALL and not many:
        return
    scans = segments = exif = tables = gaps = 0
    place, pattern = 2, _MARKER
    while found := pattern.search(content, place):
        gaps += 0 if scans else found.start() - place
        marker, place = content[found.start() + 1], found.end()
        segments += 1
        if marker == 0xD9 and scans:
            return
        if marker in _WITH_LENGTH:
            size = max(2, int.from_bytes(content[place : place + 2]))
            if marker == 0xDA:
                if not many:
                    return
                scans, pattern = scans + 1, _AFTER_SCAN
            elif marker == 0xDB or (marker < 0xD0 and marker not in (0xC4, 0xCC)) or marker == 0xDE:
                tables += size
            elif marker == 0xE1:
                exif += content.startswith(b"Exif\0\0", place + 2)
            elif marker == 0xED:
                segments += content.count(b"8BIM", place, place + size)
            place += size
        if scans > MAX_SCANS:
            raise BombError(f"the JPEG has more than {MAX_SCANS} scans: save it anew")
        if segments > MAX_PARTS or exif > MAX_EXIF_SEGMENTS or tables > MAX_TABLES or gaps > MAX_GAPS:
            raise BombError("the JPEG has far more in its header than a picture needs: save it anew")


def _png(content: bytes) -> None:
    if len(content) < SMALL_PNG:
        return
    place, chunks, packed = 8, 0, 0
    while place + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, place)
        if name == b"IEND":
            return
        chunks += 1
        packed += name in (b"iCCP", b"zTXt", b"iTXt")
        if chunks > MAX_PARTS + len(content) // 1024 or packed > MAX_PACKED:  # libpng writes 8 kB a chunk
            raise BombError("the PNG has far more chunks than a picture needs: save it anew")
        place += size + 12


def _gif(content: bytes) -> None:
    """Up to the first frame, block by block as Pillow goes: also over empty blocks and what is none."""
    if len(content) < SMALL:
        return
    place, blocks = 13 + (3 << (content[10] & 7) + 1 if content[10] & 128 else 0), 0

    def over(size: int) -> None:
        nonlocal blocks, place
        blocks, place = blocks + 1, place + size
        if blocks > MAX_BLOCKS:
            raise BombError("the GIF has far more in its header than a picture needs: save it anew")

    def block() -> int:
        size = content[place] if place < len(content) else 0
        over(1 + size)
        return size

    while place < len(content) and content[place] not in b",;":
        if content[place] != 0x21:
            over(1)  # no block
            continue
        comment, place = content[place + 1 : place + 2] == b"\xfe", place + 2
        loop = content.startswith(b"\xff\x0bNETSCAPE2.0", place - 1)
        more = block() or not comment
        if loop:  # whose count may be empty
            block()
        while more and block():
            pass


#: TIFF's types of whole numbers, as `struct` has them, and the bytes of a value of each type (TIFF 6.0,
#: section 2, and BigTIFF). Pillow makes a Python object of each value but of bytes and letters (1, 2, 7).
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q"}
_BYTES = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_WIDTH, _LENGTH, _STRIPS, _ROWS, _TILE_WIDTH, _TILE_LENGTH, _TILES = 256, 257, 273, 278, 322, 323, 324
_DIRECTORIES = {34665, 34853, 40965}  # Exif, GPS, interoperability


def _tiff(content: bytes) -> None:
    """The first picture's directory, and those for Exif data that Pillow reads with it."""
    if content[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
        return
    if content[:4] == b"MM\0+":  # which Pillow takes for an ordinary one, and libtiff does not
        raise BombError(
            "large TIFFs (BigTIFF) whose bytes are in Motorola's order are not read: save it as PNG"
        )
    order, big = "<" if content[:2] == b"II" else ">", content[2] == 43
    if len(content) < 16:
        return
    first = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)[0]
    entry, places, left = struct.Struct(order + ("HHQ8s" if big else "HHI4s")), [first], MAX_PARTS
    values: dict[int, list[int]] = {}
    parts = numbers = fractions = 0
    for place in places:
        size = 8 if big else 2
        count = int.from_bytes(content[place : place + size], "little" if order == "<" else "big")
        left -= min(count, len(content) // entry.size)
        if left < 0 or len(places) > 8:
            raise BombError("the TIFF has far more tags than a picture needs: save it anew")
        table = content[place + size : place + size + count * entry.size]
        for tag, kind, number, field in entry.iter_unpack(table[: len(table) // entry.size * entry.size]):
            if number * _BYTES.get(kind, 0) > len(content):  # Pillow leaves it out
                continue
            fractions += number if kind in (5, 10) else 0
            numbers += number if kind in _BYTES else 0
            parts = max(parts, number) if place == first and tag in (_STRIPS, _TILES) else parts
            if number == 1 and kind in _INTEGERS:
                value = struct.unpack_from(order + _INTEGERS[kind], field)[0] if kind != 16 or big else 0
                if place == first:
                    values.setdefault(tag, []).append(value)
                if tag in _DIRECTORIES and value not in places and 0 < value < len(content):
                    places.append(value)
    if numbers > MAX_NUMBERS or fractions > MAX_FRACTIONS:
        raise BombError("the TIFF has far more in its tags than a picture needs: save it anew")
    _tiff_parts(values, parts)


def _tiff_parts(values: dict[int, list[int]], parts: int) -> None:
    """Strips and tiles, of whose many or one libtiff and Pillow make lists and buffers.

    Of a tag that is there more than once the one counts that makes the most of it.
    """
    width, length = (max(1, min(values.get(tag, [1]))) for tag in (_WIDTH, _LENGTH))
    if _TILE_WIDTH in values or _TILE_LENGTH in values:
        tiles = [values.get(_TILE_WIDTH, [width]), values.get(_TILE_LENGTH, [length])]
        largest = max(tiles[0]) * max(tiles[1])
        whole = (width + 15 & ~15) * (length + 15 & ~15)  # sides are multiples of 16 (section 15)
        if largest > max(TILE, whole):
            raise BombError("the TIFF's tiles are far larger than the picture: save it anew")
        across, down = (max(1, min(several)) for several in tiles)
        parts = max(parts, -(-width // across) * -(-length // down))
    elif _ROWS in values:
        parts = max(parts, -(-length // max(1, min(values[_ROWS]))))
    if parts > MAX_STRIPS:
        raise BombError(f"the TIFF has more than {MAX_STRIPS} strips or tiles: save it anew, in larger ones")


def _jp2(content: bytes) -> None:
    """JPEG 2000 in boxes (ISO 15444-1, annex I), as OpenJPEG goes through them to the picture."""
    if not content.startswith(b"\0\0\0\x0cjP  \r\n\x87\n"):
        return
    for count, (level, name, place) in enumerate(_boxes(content, 0, len(content))):
        if count > MAX_PARTS:
            raise BombError("the JPEG 2000 file has far more boxes than a picture needs: save it anew")
        if level == 0 and name == b"jp2c":
            _codestream(content, place)
            return
    raise BombError("there is no picture in the JPEG 2000 file: save it anew")


def _boxes(content: bytes, place: int, end: int, level: int = 0) -> Iterator[tuple[int, bytes, int]]:
    """Level, name and the place of what is inside; those within others behind the box that they are in."""
    while place + 8 <= end:
        size, name = struct.unpack_from(">I4s", content, place)
        head = 16 if size == 1 else 8
        if size == 1:
            size = int.from_bytes(content[place + 8 : place + 16])
        elif size == 0:
            size = end - place  # the last one
        if size < head:
            return
        yield level, name, place + head
        if name in (b"jp2h", b"res ") and level < 2:
            yield from _boxes(content, place + head, min(place + size, end), level + 1)
        place += size


#: Markers that OpenJPEG takes for a segment with a length (ISO 15444-1, table A.2): it looks within others
#: for the next one. Those for transforms of components (ISO 15444-2: 74, 75, 77, 78) are copied to each tile.
_SEGMENTS = {0x50, 0x52, 0x53, 0x55, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63, 0x64, 0x90}
_TRANSFORMS = {0x74, 0x75, 0x77, 0x78}


def _codestream(content: bytes, place: int = 0) -> None:
    """Through the headers of the picture and of its tiles."""
    try:
        _headers(content, place)
    except (struct.error, IndexError):
        raise BombError("the JPEG 2000 picture's header is damaged: save it anew") from None


def _headers(content: bytes, place: int) -> None:
    if content[place : place + 4] != b"\xff\x4f\xff\x51":
        raise BombError("the JPEG 2000 picture's header is damaged: save it anew")
    siz = struct.unpack_from(">HHIIIIIIIIH", content, place + 4)
    size, (right, bottom, left, top), (across, down, x, y), components = siz[0], siz[2:6], siz[6:10], siz[10]
    if not (across and down and right > left >= x and bottom > top >= y):
        raise BombError("the JPEG 2000 picture's header is damaged: save it anew")
    tiles = -(-(right - x) // across) * -(-(bottom - y) // down)
    if tiles > MAX_TILES or tiles * components > 4 * MAX_TILES:
        raise BombError(
            f"the JPEG 2000 picture has more than {MAX_TILES} tiles: save it anew, in larger ones"
        )
    tile = min(across, right - left), min(down, bottom - top)
    place, end = place + 4 + size, len(content)
    layers = precincts = 1
    for _ in range(MAX_MARKERS):
        if place + 2 > len(content) or content[place] != 0xFF or content[place + 1] == 0xD9:
            return
        marker = content[place + 1]
        if marker == 0x93:  # data, up to the next part of a tile
            place = max(end, place + 2)
            continue
        if marker in _TRANSFORMS:
            raise BombError(
                "JPEG 2000 with transforms of components is not read: save it anew, as a plain one"
            )
        if marker not in _SEGMENTS:
            raise BombError("the JPEG 2000 picture's header is damaged: save it anew")
        (length,) = struct.unpack_from(">H", content, place + 2)
        if marker == 0x90:
            (part,) = struct.unpack_from(">I", content, place + 6)
            end = place + part if part else len(content)
        elif marker in (0x52, 0x53):
            found = _check_blocks(content, place, tile, components)
            layers, precincts = max(layers, found[0]), max(precincts, found[1])
            if tiles * layers * precincts * components > MAX_PACKETS:
                raise BombError("the JPEG 2000 picture has too many layers: save it anew, in fewer")
        place += 2 + length
    raise BombError("the JPEG 2000 picture has far more headers than it needs: save it anew")


def _check_blocks(content: bytes, place: int, tile: tuple[int, int], components: int) -> tuple[int, int]:
    """Layers and precincts; how a tile is cut, level by level (ISO 15444-1, A.6.1, A.6.2 and B.6)."""
    if content[place + 1] == 0x52:  # for all components; the other one for one of them, in as many layers
        own, layers, at = (
            bool(content[place + 4] & 1),
            int.from_bytes(content[place + 6 : place + 8]),
            place + 9,
        )
    else:
        at = place + (5 if components < 257 else 6)
        own, layers, at = bool(content[at] & 1), 1, at + 1
    levels, wide, high = content[at], content[at + 1] + 2, content[at + 2] + 2
    if levels > 32 or wide > 10 or high > 10:
        raise BombError("the JPEG 2000 picture's header is damaged: save it anew")
    blocks = precincts = 0
    for level in range(levels + 1):
        width, height = (-(-side >> levels - level) for side in tile)
        exponents = content[at + 5 + level] if own else 0xFF
        across, down = exponents & 15, exponents >> 4
        precincts += _cells(width, height, across, down)
        if level:  # three bands of half its size
            across, down = max(0, across - 1), max(0, down - 1)
            width, height = width + 1 >> 1, height + 1 >> 1
        blocks += (3 if level else 1) * _cells(width, height, min(wide, across), min(high, down))
    if (blocks + precincts - tile[0] * tile[1] // CODE_BLOCK) * components > MAX_CODE_BLOCKS:
        raise BombError("the JPEG 2000 picture's code blocks are too small: save it anew, in larger ones")
    return layers, precincts


def _cells(width: int, height: int, across: int, down: int) -> int:
    """Cells of `2 ** across` by `2 ** down` pixels in an area."""
    return -(-width >> across) * -(-height >> down)


_LOOKS: dict[bytes, Callable[[bytes], None]] = {
    b"\xff\xd8": _jpeg,
    b"\x89P": _png,
    b"GI": _gif,
    b"II": _tiff,
    b"MM": _tiff,
    b"\0\0": _jp2,
    b"\xff\x4f": _codestream,
    **dict.fromkeys((*IN_LETTERS, b"P0", b"P4", b"P5", b"P6", b"Pf", b"Py"), _pnm),
}
