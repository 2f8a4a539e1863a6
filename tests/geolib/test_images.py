"""Every kind of file that photographs come in, made here."""

import io
import itertools
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features
from PIL.PngImagePlugin import PngInfo
from toys import peak_memory

from geolib import images
from geolib.images import MAX_SIDE, UnreadableImage, read

# Left half red, right half blue; 24 wide, 16 high.
HALVES = np.zeros((16, 24, 3), np.uint8)
HALVES[:, :12, 0] = HALVES[:, 12:, 2] = 255
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
RAMP = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (32, 1))
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 32896)], axis=-1)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
LETTERS = {"A": (255, 0, 0), "B": (0, 200, 0), "C": (0, 0, 255), "D": (255, 255, 255)}
# Formats that hold EXIF, at their sharpest.
SHARP = {"quality": 95, "subsampling": "4:4:4"}
TWO = {"save_all": True, "append_images": [Image.new("RGB", (24, 16))]}
FORMATS = {"JPEG": SHARP, "MPO": SHARP | TWO, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
if features.check("avif"):
    FORMATS["AVIF"] = SHARP


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def blank(mode: str, *size: int) -> bytes:
    return encoded(Image.new(mode, size))


def letters(rows: str) -> np.ndarray:
    """The picture "AB CD", each letter 12 wide and 8 high; turned by a quarter, 8 wide, 12 high."""
    grid = np.array([[LETTERS[letter] for letter in row] for row in rows.split()], np.uint8)
    height, width = (8, 12) if rows[:2] in ("AB", "BA", "CD", "DC") else (12, 8)
    return grid.repeat(height, axis=0).repeat(width, axis=1)


def assert_near(found: np.ndarray, expected: np.ndarray, tolerance: int = 12) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.astype(int), expected, atol=tolerance)


def tag(number: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI4s", number, kind, count, value)


def tiff(*tags: bytes, n: int | None = None, following: int = 0, data: bytes = b"") -> bytes:
    """Directory that says to have ``n`` tags, and values after it."""
    head = b"II*\0" + struct.pack("<IH", 8, len(tags) if n is None else n)
    return head + b"".join(tags) + struct.pack("<I", following) + data.ljust(40, b"\0")


def png(bits: int, kind: int, row: bytes, *before: tuple[str, bytes], after=()) -> bytes:
    """PNG of 16 equal rows with chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", 16, 16, bits, kind, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * 16)
    file = b"\x89PNG\r\n\x1a\n"
    for name, data in [("IHDR", header), *before, ("IDAT", pixels), *after, ("IEND", b"")]:
        chunk = name.encode() + data
        file += struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return file


def test_every_kind_of_source_gives_the_same_pixels_and_is_left_alone(tmp_path):
    image = Image.fromarray(HALVES)
    image.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), encoded(image), image, HALVES):
        pixels = read(source)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, HALVES)
    image = Image.new("RGB", (MAX_SIDE + 904, 20))
    read(image)
    assert image.size == (MAX_SIDE + 904, 20)


# What a viewer that follows the orientation tag shows of "AB CD".
SHOWN = ["AB CD", "BA DC", "DC BA", "CD AB", "AC BD", "CA DB", "DB CA", "BD AC"]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_orientation_in_every_format(kind):
    for orientation, shown in enumerate(SHOWN, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = encoded(letters("AB CD"), kind, exif=exif, **FORMATS[kind])
        assert_near(read(file), letters(shown))
        with Image.open(io.BytesIO(file)) as image:
            assert_near(read(image), letters(shown))


SIX = tag(0x0112, 3, 1, b"\6")
ONE_HALF = struct.pack("<II", 1, 2)
ODD = {
    "resolution-text": tiff(SIX, tag(0x011A, 2, 3, b"72")),
    "resolution-empty-text": tiff(SIX, tag(0x011A, 2, 1, b"")),
    "resolution-bytes": tiff(SIX, tag(0x011A, 7, 4, b"7272")),
    "resolution-one-short": tiff(SIX, tag(0x011A, 3, 1, b"H")),
    "resolution-three-fractions": tiff(SIX, tag(0x011A, 5, 3, b"\x26"), data=3 * ONE_HALF),
    "resolution-0/0": tiff(SIX, tag(0x011A, 5, 1, b"\x26")),
    "resolution-double": tiff(SIX, tag(0x011A, 12, 1, b"\x26"), data=b"\xff" * 8),
    "unknown-type": tiff(SIX, tag(0x011A, 99, 1, b"")),
    "maker-beyond-the-block": tiff(tag(0x010F, 2, 90, b"\0\xff"), SIX),
    "maker-of-4-gigabytes": tiff(tag(0x010F, 2, 2**32 - 1, b""), SIX),
    "directory-in-itself": tiff(SIX, tag(0x8769, 4, 1, b"\x08"), following=8),
    "directory-as-text": tiff(SIX, tag(0x8769, 2, 4, b"abc")),
    "places-as-text": tiff(SIX, tag(0x8825, 2, 4, b"abc")),
    "maker-note": tiff(SIX, tag(0x927C, 7, 4, b"Niko")),
    "too-many-tags-announced": tiff(SIX, n=65535),
    "ends-after-the-orientation": tiff(SIX)[:22],
    "prefix-twice": b"Exif\0\0" + tiff(SIX),
    "big-endian": b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0),
    "orientation-long": tiff(tag(0x0112, 4, 1, b"\6")),
    "orientation-byte": tiff(tag(0x0112, 1, 1, b"\6")),
    "orientation-text": tiff(tag(0x0112, 2, 2, b"6")),
    "orientation-fraction": tiff(tag(0x0112, 5, 1, b"\x1a"), data=struct.pack("<II", 6, 1)),
    "orientation-twice": tiff(tag(0x0112, 3, 2, b"\6\0\6\0")),
    "orientation-thrice": tiff(tag(0x0112, 3, 3, b"\x1a"), data=b"\6\0\6\0\6\0"),
    "orientation-miscounted": tiff(tag(0x0112, 3, 1000, b"\6")),
}
UNKNOWN = {
    "empty": b"",
    "garbage": NOISE.tobytes()[:500],
    "directory-beyond-the-block": b"II*\0\xff\xff\xff\xff",
    "ends-before-the-orientation": tiff(SIX)[:14],
    "no-tags-announced": tiff(SIX, n=0),
    "orientation-0": tiff(tag(0x0112, 3, 1, b"")),
    "orientation-262": tiff(tag(0x0112, 3, 1, b"\6\1")),
    "orientation-word": tiff(tag(0x0112, 2, 4, b"top")),
    "orientation-unknown-type": tiff(tag(0x0112, 99, 1, b"\6")),
}


# AVIF has a test of its own; a TIFF's own tags are its EXIF. Every format hands on the same block.
ELSEWHERE = {"resolution-text", "directory-in-itself", "big-endian", "ends-before-the-orientation"}


@pytest.mark.parametrize("name", [*ODD, *UNKNOWN])
def test_odd_exif_leaves_a_photograph_upright_or_as_it_is_stored(name):
    block, shown = (ODD | UNKNOWN)[name], "CA DB" if name in ODD else "AB CD"
    for kind in ("JPEG", "MPO", "PNG", "WEBP") if name in ELSEWHERE else ("JPEG",):
        file = encoded(letters("AB CD"), kind, exif=b"Exif\0\0" + block, **FORMATS[kind])
        assert_near(read(file), letters(shown))


@pytest.mark.skipif("AVIF" not in FORMATS, reason="Pillow without AVIF")
def test_avif_with_broken_exif():
    exif = Image.Exif()
    exif[0x0112], exif[0x0131] = 6, "software"
    file = encoded(letters("AB CD"), "AVIF", exif=exif, **SHARP)
    assert file.count(b"MM\0*") == 1
    assert_near(read(file.replace(b"MM\0*", b"none")), letters("CA DB"))


XMP = [
    ('tiff:Orientation="6"/>', {}, "CA DB"),
    ("><tiff:Orientation>8</tiff:Orientation>", {}, "BD AC"),
    ('tiff:Orientation="9"/>', {}, "AB CD"),
    ('tiff:Orientation="6"/>', {0x0131: "software"}, "CA DB"),
    ('tiff:Orientation="6"/>', {0x0112: 3}, "DC BA"),  # EXIF is asked first
]


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "MPO"])
def test_orientation_by_xmp(kind):
    for said, exif, shown in XMP:
        xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {said}</x:xmpmeta>'
        options = FORMATS[kind] | {"exif": Image.Exif(), "xmp": xmp.encode()}
        options["exif"].update(exif)
        if kind == "TIFF":
            options = {"tiffinfo": {700: xmp.encode(), **exif}}
        if kind == "PNG":
            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp)
        assert_near(read(encoded(letters("AB CD"), kind, **options)), letters(shown))


RAW_PROFILE = f"\nexif\n{len(tiff(SIX)):8}\n{tiff(SIX).hex()}\n".encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("eXIf", tiff(SIX)),
        ("zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_PROFILE)),
        ("tEXt", b"Raw profile type APP1\0" + RAW_PROFILE),
        ("iTXt", b'XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation="6"'),
    ],
)
def test_orientation_in_a_png_before_and_after_the_pixels(name, data):
    row = bytes(range(0, 256, 16))
    for file in (png(8, 0, row, (name, data)), png(8, 0, row, after=[(name, data)])):
        assert read(file)[:, 0, 0].tolist() == list(row)


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


@pytest.mark.parametrize("kind", ["P2", "P5", "P6"])
def test_portable_maps_of_any_white(kind):
    for white in (65535, 4095, 1023, 256, 255, 100):
        values = np.round(RAMP * (white / 65535)).astype(int)
        data = " ".join(map(str, values.flat)).encode()
        if kind != "P2":
            channels = np.stack([values] * (3 if kind == "P6" else 1), axis=-1)
            data = channels.astype(">u2" if white > 255 else "u1").tobytes()
        file = f"{kind} 64 32 {white}\n".encode() + data
        assert_near(read(file), np.stack([values / white * 255] * 3, axis=-1), 1)
        assert read(file)[0, [0, -1], 0].tolist() == [0, 255]
        with Image.open(io.BytesIO(file)) as image:
            np.testing.assert_array_equal(read(image), read(file))


def test_tiff_of_12_bits():
    sizes = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 16, 279: 384}
    tags = [tag(number, 4, 1, struct.pack("<I", value)) for number, value in sizes.items()]
    pixels = read(tiff(*tags, data=b"\xff\xff\xff" * 64 + b"\x80\x08\x00" * 64))
    assert pixels[[0, -1], [0, -1]].tolist() == [[255] * 3, [128] * 3]


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


WORDS = struct.Struct(">HHH")
PALETTE, WHITE = ("PLTE", bytes([200, 100, 50])), [255] * 3


def clear(value: bytes) -> list[tuple[str, bytes]]:
    return [("tRNS", value)]


@pytest.mark.parametrize(
    ("bits", "kind", "row", "chunks", "expected"),
    [
        # Of each depth, the value that is transparent, and the next one that is not.
        *((1, 0, b"\0\0", clear(b"\0\0"), WHITE), (1, 0, b"\0\0", clear(b"\0\1"), [0] * 3)),
        *(
            (2, 0, b"\x55" * 4, clear(b"\0\1"), WHITE),
            (2, 0, b"\x55" * 4, clear(b"\0\2"), [85] * 3),
        ),
        *(
            (4, 0, b"\x33" * 8, clear(b"\0\3"), WHITE),
            (4, 0, b"\x33" * 8, clear(b"\0\x33"), [51] * 3),
        ),
        (8, 0, b"\x33" * 16, clear(b"\0\x33"), WHITE),
        (8, 0, b"\x33" * 16, clear(b"\0\x34"), [51] * 3),
        (16, 0, b"\x80\x12" * 16, clear(b"\x80\x12"), WHITE),
        (16, 0, b"\x80\x12" * 16, clear(b"\x80\x13"), [128] * 3),
        (8, 2, b"\1\2\3" * 16, clear(WORDS.pack(1, 2, 3)), WHITE),
        (8, 2, b"\1\2\3" * 16, clear(WORDS.pack(1, 2, 4)), [1, 2, 3]),
        (16, 2, b"\x80\x12" * 48, clear(WORDS.pack(*[0x8012] * 3)), WHITE),
        (16, 2, b"\x80\x12" * 48, clear(WORDS.pack(*[0x1280] * 3)), [128] * 3),
        (16, 2, b"\xff\xff\x80\x80\0\0" * 16, [], [255, 128, 0]),
        (16, 4, b"\0\0\x33\x33" * 16, [], [204, 204, 204]),
        (16, 6, b"\xff\xff\0\0\0\0\x33\x33" * 16, [], [255, 204, 204]),
        (8, 3, b"\0" * 16, [PALETTE], [200, 100, 50]),
        (8, 3, b"\0" * 16, [PALETTE, *clear(b"\0")], WHITE),
        (8, 3, b"\0" * 16, [PALETTE, *clear(b"\x33")], [244, 224, 214]),
        (1, 3, b"\0" * 2, [PALETTE, *clear(b"\x33")], [244, 224, 214]),
    ],
)
def test_depths_and_transparency_of_png(bits, kind, row, chunks, expected):
    pixels = read(png(bits, kind, row, *chunks))
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (16, 16, 3)))


@pytest.mark.parametrize("mode", ["RGBX", "HSV", "YCbCr", "LAB", "CMYK", "P"])
def test_colours_of_other_modes(mode):
    image = Image.fromarray(letters("AB CD")).convert(mode, palette=Image.Palette.ADAPTIVE)
    tolerance = 25 if mode == "LAB" else 2  # eight bits of it are coarse
    assert_near(read(image), letters("AB CD"), tolerance)
    if mode not in ("RGBX", "HSV"):  # TIFF has no such colours
        assert_near(read(encoded(image, "TIFF")), letters("AB CD"), tolerance)


def test_transparency_of_other_modes():
    red, grey = (244, 204, 204), (216, 216, 216)
    for modes, expected in (("RGBa", red), ("PA", red), ("LA", grey), ("LA La", grey)):
        image = Image.new("RGBA", (16, 16), (200, 0, 0, 51))
        for mode in modes.split():
            image = image.convert(mode)
        assert_near(read(image), np.broadcast_to(expected, (16, 16, 3)), 1)


@pytest.mark.parametrize(
    ("name", "megabytes"), [("iCCP", 20), ("zTXt", 20), ("iTXt", 2), ("tEXt", 2)]
)
def test_large_chunks_of_png(name, megabytes):
    content = NOISE[:16].tobytes() * (megabytes * 1_000_000 // 3072)
    data = {
        "iCCP": b"profile\0\0" + zlib.compress(content, 1),
        "zTXt": b"Comment\0\0" + zlib.compress(content, 1),
        "iTXt": b"Comment\0\1\0\0\0" + zlib.compress(content.hex().encode(), 1),
        "tEXt": b"Comment\0" + content.hex().encode(),
    }[name]
    row = bytes(range(16))
    after = [] if name == "iCCP" else [(name, data)]
    for file in (png(8, 0, row, (name, data)), png(8, 0, row, after=after)):
        assert read(file)[0, :, 0].tolist() == list(row)


def icc(space: bytes, **tags: bytes) -> bytes:
    """Profile of a display, or of a printer if it has a table."""
    kind, between = (b"prtr", b"Lab ") if "A2B0" in tags else (b"mntr", b"XYZ ")
    white = struct.pack(">3i", 63190, 65536, 54061)
    tags["wtpt"] = b"XYZ \0\0\0\0" + white
    start = 132 + 12 * len(tags)
    table, values = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += struct.pack(">4sII", name.encode(), start + len(values), len(value))
        values += value + bytes(-len(value) % 4)
    length, version = start + len(values), 0x02400000
    head = struct.pack(">I4xI4s4s4s12x4s28x", length, version, kind, space, between, b"acsp")
    return (head + white).ljust(128, b"\0") + table + values


def gamma(exponent: float) -> bytes:
    return b"curv" + struct.pack(">4xIH", 1, round(256 * exponent))


def rgb(primaries: np.ndarray, exponent: float) -> bytes:
    """Profile of a matrix whose columns are the primaries, under D50."""
    tags = {f"{c}TRC": gamma(exponent) for c in "rgb"}
    for c, xyz in zip("rgb", np.round(primaries.T * 65536).astype(int), strict=True):
        tags[f"{c}XYZ"] = b"XYZ " + struct.pack(">4x3i", *xyz)
    return icc(b"RGB ", **tags)


SRGB, P3, ADOBE = (
    np.array(list(map(float, numbers.split()))).reshape(3, 3)
    for numbers in (
        "0.43607 0.38515 0.14307 0.22249 0.71687 0.06061 0.01392 0.09708 0.7141",
        "0.51512 0.29198 0.1571 0.2412 0.69225 0.06657 -0.00105 0.04189 0.78407",
        "0.60974 0.20528 0.14919 0.31111 0.62567 0.06322 0.01947 0.06087 0.74457",
    )
)


def srgb(linear: np.ndarray) -> np.ndarray:
    """sRGB values 0…255 of linear light (IEC 61966-2-1)."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", FORMATS)
def test_profiles_are_converted_to_srgb(kind):
    lossless = kind in ("PNG", "TIFF", "WEBP")
    colours = [(150, 130, 110), (90, 120, 200)] + [(0, 255, 0)] * lossless
    profiles = [(P3, 2), (ADOBE, 2.2), (SRGB, 1)]
    for (primaries, exponent), colour in itertools.product(profiles, colours):
        photo = Image.new("RGB", (24, 16), colour)
        pixels = read(encoded(photo, kind, icc_profile=rgb(primaries, exponent), **FORMATS[kind]))
        light = (np.array(colour) / 255) ** (round(256 * exponent) / 256)
        expected = srgb(np.linalg.solve(SRGB, primaries @ light))
        assert_near(pixels, np.broadcast_to(expected, pixels.shape), 2 if lossless else 8)


LINEAR = icc(b"GRAY", kTRC=gamma(1))
# Inks as a table between two levels each: paper is white, black ink black, any other half grey.
INKS = [0 if k else 128 if c + m + y else 255 for c, m, y, k in itertools.product((0, 1), repeat=4)]
PRINTER = icc(
    b"CMYK",
    A2B0=b"mft1\0\0\0\0\4\3\2\0"
    + struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).flat)
    + bytes(range(256)) * 4
    + b"".join(bytes([light, 128, 128]) for light in INKS)
    + bytes(range(256)) * 3,
)


@pytest.mark.parametrize(
    ("mode", "colour", "profile", "kind", "expected"),
    [
        *(("L", 55, LINEAR, "PNG", [128] * 3), ("LA", (55, 51), LINEAR, "PNG", [229] * 3)),
        ("I;16", 55 * 257, LINEAR, "PNG", [128] * 3),
        ("RGBA", (55, 55, 55, 51), rgb(SRGB, 1), "PNG", [229] * 3),
        ("CMYK", (255, 0, 0, 0), PRINTER, "TIFF", [120] * 3),
        ("CMYK", (255, 0, 0, 0), PRINTER, "JPEG", [120] * 3),
        ("CMYK", (0, 0, 0, 0), PRINTER, "JPEG", WHITE),
        # Profiles that are not for these colours, or for none, are ignored.
        ("L", 55, rgb(SRGB, 1), "PNG", [55] * 3),
        ("CMYK", (255, 0, 0, 0), rgb(P3, 2), "TIFF", (0, 255, 255)),
        *(
            ("RGB", (55, 60, 65), profile, kind, (55, 60, 65))
            for profile, kind in [
                *((LINEAR, "PNG"), (PRINTER, "PNG"), (rgb(P3, 2)[:300], "PNG")),
                *((b"no profile", "TIFF"), (NOISE.tobytes(), "PNG")),
            ]
        ),
    ],
)
def test_profiles_of_grey_and_inks_and_useless_ones(mode, colour, profile, kind, expected):
    pixels = read(encoded(Image.new(mode, (16, 16), colour), kind, icc_profile=profile))
    assert_near(pixels, np.broadcast_to(expected, (16, 16, 3)), 2)


def test_a_profile_of_srgb_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(read(encoded(NOISE, icc_profile=profile)), NOISE)


def test_threads_may_share_a_profile():
    file = encoded(NOISE, icc_profile=rgb(P3, 2))
    expected = read(file)
    with ThreadPoolExecutor(8) as threads:
        for pixels in threads.map(read, [file] * 32):
            np.testing.assert_array_equal(pixels, expected)


def box(kind: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + kind + bytes(64)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("float.tif", encoded(Image.new("F", (20, 20)), "TIFF"), "32-bit"),
        ("half.jpg", encoded(NOISE, "JPEG")[:2000], "cannot be .*truncated"),
        *(("notes.jpg", b"not a picture", "not an image"), ("empty.jpg", b"", "not an image")),
        ("absent.jpg", None, "no such file"),
        ("thin.png", blank("RGB", 20_000, 30), "20000 × 30 px is too small"),
        ("bomb.png", blank("1", 20_000, 20_000), "too large to decode"),
        ("dot.png", blank("RGB", 1, 1), "1 × 1 px is too small"),
        ("narrow.png", blank("RGB", 15, 80), "15 × 80 px is too small"),
        ("low.jpg", encoded(Image.new("L", (20_000, 30)), "JPEG"), "20000 × 30 px is too small"),
        ("photo.heic", box(b"heic"), "HEIC cannot .* convert it to JPEG"),
        *(("a.heif", box(b"mif1"), "HEIC cannot"), ("a.avif", box(b"avif"), "AVIF cannot")),
        ("photo.jxl", b"\xff\x0a" + bytes(64), "JPEG XL cannot"),
        ("box.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64), "JPEG XL cannot"),
        ("photo.cr3", box(b"crx "), "camera raw cannot"),
        ("photo.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(64), "camera raw cannot"),
        ("photo.raf", b"FUJIFILMCCD-RAW 0201" + bytes(64), "camera raw cannot"),
        ("photo.rw2", b"IIU\0\x18\0\0\0" + bytes(64), "camera raw cannot"),
        ("photo.dng", encoded(HALVES, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "camera raw"),
        ("photo.nef", encoded(HALVES, "TIFF", tiffinfo={254: 1, 330: 8}), "camera raw"),
        ("mosaic.dng", tiff(tag(262, 3, 1, b"\x23\x80")), "camera raw"),
        ("a_folder", ..., "is a directory"),
    ],
)
def test_what_cannot_be_used_is_named(name, content, message, tmp_path):
    path = tmp_path / name
    if content is ...:
        path.mkdir()
    elif content is not None:
        assert len(content) < 100_000
        path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=f"{name}: {message}"):
        read(path)


def test_a_large_jpeg_is_shrunk_while_decoding(tmp_path):
    Image.new("L", (20_000, 10_000), 90).save(tmp_path / "wide.jpg")
    pixels, megabytes = peak_memory(lambda: read(tmp_path / "wide.jpg"))
    assert pixels.shape == (2048, MAX_SIDE, 3)
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(0), 90, atol=3)
    assert megabytes < 120  # decoded whole, it would take 200


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, TWO], ids=["plain", "progressive", "MPO"]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_only_a_jpeg_may_exceed_what_is_decoded_at_once(mode, options, monkeypatch):
    photo = Image.fromarray(letters("AB CD")).resize((240, 160)).convert(mode)
    file = encoded(photo, "MPO" if options is TWO else "JPEG", quality=95, **options)
    expected, other = read(file), encoded(photo.convert("L"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    np.testing.assert_array_equal(read(file), expected)
    monkeypatch.setattr(images, "MAX_JPEG_PIXELS", 1000)
    for source, why in (
        (other, ".*38400 pixels.* save it as JPEG"),
        (file, "240 × 160 px; shrink"),
    ):
        with pytest.raises(UnreadableImage, match=f"too large to decode: {why}"):
            read(source)


@pytest.mark.parametrize("source", [np.zeros((20, 20, 3)), 3, None])
def test_other_sources_are_type_errors(source):
    with pytest.raises(TypeError, match="source is"):
        read(source)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged headers
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_never_escapes_as_another_error(data):
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"]))
    damaged = bytearray(encoded(RAMP.astype(np.uint8), kind))
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=8)):
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        pixels = read(bytes(damaged))
    except UnreadableImage:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
