"""The one way bytes become pixels: formats, modes, and hostile bytes."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ferops.data.images import ImageError, decode, face, faces, grey

RAMP = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (48, 1))


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_grey_face_looks_the_same_in_every_lossless_format(kind: str, mode: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    content = _encoded(Image.fromarray(RAMP).convert(mode), kind, **options)
    pixels = face(decode(content))
    assert pixels.shape == (48, 48, 3)
    assert (pixels == RAMP[:, :, None]).all()


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_every_mode_becomes_8_bit_grey(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(RAMP.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(RAMP.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(RAMP.astype(np.float32))
    else:
        image = Image.fromarray(RAMP).convert("RGB").convert(mode)
    flat = grey(image)
    assert flat.mode == "L"
    values = np.asarray(flat).astype(int)
    assert values[:, -8:].mean() > values[:, :8].mean() + 100


def test_sixteen_bits_are_scaled_not_cut() -> None:
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    assert np.asarray(grey(image)).tolist() == [[0, 100, 255]]


def test_a_photograph_is_turned_upright_by_its_exif() -> None:
    sideways = Image.fromarray(RAMP)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to view
    upright = np.asarray(grey(decode(_encoded(sideways, "PNG", exif=exif))))
    assert (upright == np.rot90(RAMP, -1)).all()


def test_size_is_changed_only_when_it_differs() -> None:
    assert face(Image.fromarray(RAMP).resize((200, 96))).shape == (48, 48, 3)
    assert face(Image.fromarray(RAMP), side=224).shape == (224, 224, 3)
    assert faces([_encoded(Image.fromarray(RAMP), "PNG")] * 3).shape == (3, 48, 48, 3)


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _with_scans(more: int) -> bytes:
    """A progressive JPEG that goes over its pixels so many times more than it needs."""
    content = _encoded(Image.fromarray(RAMP), "JPEG", progressive=True)
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * more + content[-2:]


def test_a_progressive_jpeg_is_read() -> None:
    assert decode(_with_scans(0)).size == (48, 48)


def test_a_photo_with_a_film_behind_it_is_read() -> None:
    photo = _encoded(Image.fromarray(RAMP), "JPEG", progressive=True, restart_marker_rows=1)
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda..." * 400
    assert np.array_equal(face(decode(photo + film)), face(decode(photo)))


@pytest.mark.parametrize("before", [b"\xff\xff", b"\xff\xe1\x00\x06\xff\xd9..", b"...."])
def test_scans_are_counted_whatever_stands_before_them(before: bytes) -> None:
    content = _with_scans(400)
    at = content.index(b"\xff\xda") if before == b"...." else 2
    with pytest.raises(ImageError, match="100 scans"):
        decode(content[:at] + before + content[at:])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0" + b"\xff" * 50, b"Exif\0\0MM\0*\0\0", b"Exif\0\0"])
def test_a_picture_whose_exif_data_are_damaged_is_taken_as_it_lies(kind: str, exif: bytes) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    whole, damaged = (
        _encoded(Image.fromarray(RAMP), kind, **more) for more in (options, options | {"exif": exif})
    )
    assert np.array_equal(face(decode(damaged)), face(decode(whole)))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        (b"hello", "not_an_image"),
        (b"\x89PNG\r\n\x1a\n", "not_an_image"),
        (_cut(_encoded(Image.fromarray(RAMP), "PNG")), "truncated"),
        (_encoded(Image.fromarray(RAMP), "JPEG")[:-40], "truncated"),
        (_encoded(Image.new("1", (8000, 8000)), "PNG"), "too_many_pixels"),
        (_encoded(Image.new("1", (20000, 20000)), "PNG"), "too_many_pixels"),
        (_encoded(Image.new("1", (1, 70_000)), "PNG"), "too_many_pixels"),
        (b"P2 2 1 255 0 255", "not_an_image"),
        (b"P1 9 9\n" + b"#\n" * 100_000, "not_an_image"),
        (_encoded(Image.fromarray(RAMP), "ICO", sizes=[(48, 48)]), "not_an_image"),
        (_with_scans(400), "not_an_image"),
    ],
)
def test_what_is_no_image_has_a_code(content: bytes, code: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(content)
    assert caught.value.code == code


@settings(deadline=None)  # a busy machine is no bug
@given(st.binary(max_size=300), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
def test_no_bytes_raise_anything_but_an_image_error(noise: bytes, kind: str) -> None:
    content = _encoded(Image.fromarray(RAMP), kind)
    for hostile in (noise, content[:20] + noise, content[: len(content) // 2] + noise + content[-50:]):
        try:
            pixels = face(decode(hostile))
        except ImageError as error:
            assert str(error)
        else:
            assert pixels.shape == (48, 48, 3)
