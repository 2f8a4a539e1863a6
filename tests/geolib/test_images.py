"""Every kind of file that photographs come in, made here."""

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geolib.images import MAX_SIDE, UnreadableImage, read

# Left half red, right half blue; 24 wide, 16 high.
HALVES = np.zeros((16, 24, 3), np.uint8)
HALVES[:, :12, 0] = HALVES[:, 12:, 2] = 255
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
RAMP = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (32, 1))
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 32896)], axis=-1)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def blank(mode: str, *size: int) -> bytes:
    return encoded(Image.new(mode, size))


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    image = Image.fromarray(HALVES)
    image.save(tmp_path / "a.png")
    sources = [tmp_path / "a.png", str(tmp_path / "a.png"), encoded(image), image, HALVES]
    for source in sources:
        pixels = read(source)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, HALVES)


def test_the_source_image_is_left_alone():
    image = Image.new("RGB", (MAX_SIDE + 904, 20))
    read(image)
    assert image.size == (MAX_SIDE + 904, 20)


# Where the red half goes when a viewer follows the orientation tag.
@pytest.mark.parametrize(
    ("orientation", "shape", "red"),
    [
        (1, (16, 24), np.s_[:, :12]),
        (2, (16, 24), np.s_[:, 12:]),  # mirrored
        (3, (16, 24), np.s_[:, 12:]),  # turned by 180°
        (6, (24, 16), np.s_[:12, :]),  # left side becomes the top
        (8, (24, 16), np.s_[12:, :]),  # left side becomes the bottom
    ],
)
def test_exif_rotation(orientation, shape, red):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read(encoded(HALVES, "JPEG", exif=exif, quality=95, subsampling=0))
    expected = np.full((*shape, 3), (False, False, True))
    expected[red] = (True, False, False)
    np.testing.assert_array_equal(pixels > 127, expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (GREY, GREY[..., None]),
        (encoded(GREY), GREY[..., None]),
        # 16 bits are scaled, not clipped.
        (encoded(RAMP), np.round(RAMP / 257)[..., None]),
        (encoded(RAMP, "TIFF"), np.round(RAMP / 257)[..., None]),
        (COLOURS, np.round(COLOURS / 257)),
    ],
)
def test_grey_and_16_bits(source, expected):
    pixels = read(source)
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, pixels.shape))
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)


@pytest.mark.parametrize(
    ("mode", "color", "kind", "expected", "tolerance"),
    [
        ("CMYK", (255, 0, 0, 0), "JPEG", (0, 255, 255), 6),
        ("RGBA", (255, 0, 0, 255), "PNG", (255, 0, 0), 0),
        ("RGBA", (255, 0, 0, 0), "PNG", (255, 255, 255), 0),  # transparent: the white behind it
        ("RGBA", (0, 0, 0, 51), "PNG", (204, 204, 204), 0),  # a fifth of black on white
        ("LA", (0, 51), "PNG", (204, 204, 204), 0),
    ],
)
def test_inks_become_colours_and_alpha_is_laid_on_white(mode, color, kind, expected, tolerance):
    pixels = read(encoded(Image.new(mode, (16, 16), color), kind))
    np.testing.assert_allclose(pixels, np.broadcast_to(expected, (16, 16, 3)), atol=tolerance)


def test_palette_with_a_transparent_entry():
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 16, 8))
    pixels = read(encoded(image, transparency=0))
    assert pixels[0, 0].tolist() == [200, 100, 50]
    assert pixels[15, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("float.tif", encoded(Image.new("F", (20, 20)), "TIFF"), "32-bit"),
        ("half.jpg", encoded(NOISE, "JPEG")[:2000], "cannot be .*truncated"),
        ("notes.jpg", b"not a picture", "not an image"),
        ("empty.jpg", b"", "not an image"),
        ("absent.jpg", None, "no such file"),
        ("thin.png", blank("RGB", 20_000, 30), "20000 × 30 px is too small"),
        ("bomb.png", blank("1", 20_000, 20_000), "too large to decode"),
        ("dot.png", blank("RGB", 1, 1), "1 × 1 px is too small"),
        ("narrow.png", blank("RGB", 15, 80), "15 × 80 px is too small"),
    ],
)
def test_what_cannot_be_used_is_named(name, content, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        assert len(content) < 100_000
        path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=f"{name}: {message}"):
        read(path)


def test_20000_pixels_wide_is_shrunk_while_decoding(tmp_path):
    path = tmp_path / "wide.jpg"
    Image.new("RGB", (20_000, 4_000), (40, 80, 120)).save(path)
    pixels = read(path)
    assert pixels.shape == (819, MAX_SIDE, 3)
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(0), (40, 80, 120), atol=3)
    # Decoded whole, it would take 240 MB.
    code = f"""
import resource
from geolib.images import read
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
read({str(path)!r})
print(peak() - before)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 120 * (1024 if sys.platform == "linux" else 1024**2)


@pytest.mark.parametrize("source", [np.zeros((20, 20, 3)), 3, None])
def test_other_sources_are_type_errors(source):
    with pytest.raises(TypeError, match="source is"):
        read(source)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged headers
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_never_escapes_as_another_error(data):
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP"]))
    damaged = bytearray(encoded(RAMP.astype(np.uint8), kind))
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=8)):
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        pixels = read(bytes(damaged))
    except UnreadableImage:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
