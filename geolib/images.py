"""Reading a photograph, whatever its format, as upright 8-bit sRGB."""

from __future__ import annotations

import io
import re
import struct
import warnings
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from geolib.runtime.here import printable

MIN_SIDE = 16
MAX_SIDE = 4096
# A progressive JPEG takes up to six bytes of memory per pixel, however small it is decoded.
MAX_JPEG_PIXELS = 2**29
# Large pictures are read or raise an error; so are large profiles and texts of a PNG.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

NOT_DECODED = "{} cannot be decoded here; convert it to JPEG, as with ImageMagick"
_FOREIGN = {  # how files begin that Pillow cannot decode
    rb"....ftyp(hei|hev|mif1|msf1)": "HEIC",
    rb"....ftypavi": "AVIF",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "JPEG XL",
    rb"....ftypcrx|II\*\0....CR|II\x1a\0|IIU\0|IIR[OS]|MMOR|FUJIFILMCCD|FOVb|\0MRM": "camera raw",
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_TYPES = dict(enumerate("BsHIIbBhiifd", start=1))


class UnreadableImage(ValueError):
    """A file that cannot be used as a photograph; the message names it and says why."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source, self.reason = source, reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def read(
    source: str | Path | bytes | Image.Image | np.ndarray, *, min_side: int | None = None
) -> np.ndarray:
    """Read an image as upright sRGB.

    The orientation that EXIF or XMP gives is applied and an embedded colour profile converted, both
    only as far as they can be read; transparency is laid on white, 16-bit values are scaled to
    8 bit, and a side above 4096 px is shrunk to that, in a JPEG while it is decoded. EXIF data and
    GPS positions end here: nothing but the pixels is returned.

    Parameters
    ----------
    source : path, bytes of an image file, Pillow image, or ``uint8`` or ``uint16`` array
        ``[H,W]``, ``[H,W,3]`` or ``[H,W,4]``.
    min_side : least pixels of a side to which a JPEG file may be decoded at a fraction of its
        resolution, and of the time.

    Returns
    -------
    ``uint8 [H,W,3]``, both sides between 16 and 4096 px.

    Raises
    ------
    UnreadableImage : if the source is missing, damaged, no image, smaller than 16 px, or too large
        to decode (above 178 megapixels, or 536 in a JPEG).
    TypeError : if it is none of the above.
    """
    name = _describe(source)
    try:
        if isinstance(source, str | Path):
            # Read at once: Pillow would keep the file open until the pixels are decoded.
            path = Path(source)
            if path.exists() and not (path.is_file() or path.is_dir()):  # one may be read for ever
                raise UnreadableImage(name, "a pipe, socket or device, not a file")
            source = path.read_bytes()
        return _to_rgb(_open(source), name, min_side)
    except UnreadableImage:
        raise
    except Exception as error:  # decoders meet damage with errors of every kind
        raise UnreadableImage(name, _reason(error, source)) from error


def _describe(source: object) -> str:
    if isinstance(source, str | Path):
        return printable(str(source))
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "Pillow image"
    if isinstance(source, np.ndarray) and source.dtype in (np.uint8, np.uint16):
        return "array"
    if isinstance(source, bytes):
        return "bytes"
    kind = f"an array of {source.dtype}" if isinstance(source, np.ndarray) else type(source)
    raise TypeError(f"source is {kind}; expected a path, bytes, Pillow image or uint8/16 array")


def _reason(error: Exception, source: object) -> str:
    data = source if isinstance(source, bytes) else b""
    unknown = isinstance(error, UnidentifiedImageError)
    kinds = [kind for start, kind in _FOREIGN.items() if re.match(start, data, re.DOTALL)]
    if unknown and data[:4] in (b"II*\0", b"MM\0*"):
        kinds.append("camera raw (DNG, NEF, ARW) or TIFF of a rare kind")
    if kinds:
        return NOT_DECODED.format(kinds[0])
    if unknown:
        return "not an image, or in a format that is not known"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.DecompressionBombError):
        size = str(error).partition(",")[0]
        return f"too large to decode: {size}; shrink it, or save it as JPEG"
    return f"cannot be decoded: {error}"


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG, or the first of an MPO, opened whatever its size and whatever EXIF says."""

    def _read_dpi_from_exif(self) -> None:
        """Leave EXIF alone."""


def _open(source: bytes | Image.Image | np.ndarray) -> Image.Image:
    if isinstance(source, Image.Image):
        image = source.copy()
        image.format = source.format
        return image
    if isinstance(source, np.ndarray):
        return Image.fromarray(_to_8_bit(source) if source.dtype == np.uint16 else source)
    if source.startswith(b"\xff\xd8\xff"):
        image = _Jpeg(io.BytesIO(source))
        if image.width * image.height > MAX_JPEG_PIXELS:
            raise Image.DecompressionBombError(f"{image.width} × {image.height} px")
        return image
    if source[4:8] == b"ftyp":
        # AVIF tells the orientation by itself; Pillow refuses the file when EXIF is broken.
        source = re.sub(rb"(infe.{8,10})Exif", rb"\1none", source, flags=re.DOTALL)
    image = Image.open(io.BytesIO(source))
    tags = getattr(image, "tag_v2", {})
    # CR2; DNG; a thumbnail that precedes other images, as in NEF and ARW: previews of what is raw.
    if tags and (source[8:10] == b"CR" or 50706 in tags or (tags.get(254) == 1 and 330 in tags)):
        raise UnidentifiedImageError
    return image


def _to_rgb(image: Image.Image, name: str, min_side: int | None) -> np.ndarray:
    width, height = image.size
    scale = Fraction(MAX_SIDE, max(width, height))
    if min_side is not None:
        scale = min(scale, Fraction(min_side, min(width, height)))
    # Decodes a JPEG at 1/2, 1/4 or 1/8, but at no less than this size.
    image.draft(None, (max(1, int(width * scale)), max(1, int(height * scale))))
    tile = getattr(image, "tile", None)
    stored = str(tile[0][3]) if tile else ""
    image.load()
    orientation, profile = _orientation(image), image.info.get("icc_profile") or b""
    image = _plain(image, stored, name)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    if min(image.size) < MIN_SIDE:
        reason = f"{width} × {height} px is too small: both sides must reach {MIN_SIDE} px"
        raise UnreadableImage(name, reason)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    alpha = image.getchannel("A") if image.mode.endswith("A") else None
    if alpha is not None:
        image = image.convert(image.mode.removesuffix("A"))
    if to_srgb := _to_srgb(profile, image.mode):
        image = to_srgb.apply(image)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.array(image)


def _plain(image: Image.Image, stored: str, name: str) -> Image.Image:
    """The image, of raw mode ``stored``, with 8 bits and no palette: L, LA, RGB, RGBA or CMYK."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        pixels = np.asarray(image)
        image = Image.fromarray(_to_8_bit(pixels, 4095 if "I;12" in stored else 65535))
        if clear is not None:
            image.putalpha(Image.fromarray((pixels != clear).astype(np.uint8) * 255))
    if image.mode in ("I", "F"):
        raise UnreadableImage(name, "32-bit pixels have no fixed range; save it with 8 or 16 bit")
    # The transparent value of a PNG has the file's bit depth, the pixels have eight.
    if clear is not None and stored in ("L;2", "L;4"):
        image.info["transparency"] = clear * {"L;2": 85, "L;4": 17}[stored]
    if clear is not None and stored == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    mode = "L" if Image.getmodebase(image.mode) == "L" else "RGB"
    mode += "A" if image.has_transparency_data else ""
    return image if image.mode in (mode, "CMYK") else image.convert(mode)


def _orientation(image: Image.Image) -> int:
    """Orientation 1…8 by EXIF, else by XMP, read past whatever else is broken there; else 1."""
    if image.format == "TIFF":  # Pillow turns it while decoding
        return 1
    info = image.info
    with suppress(Exception):
        raw = info.get("Raw profile type exif") or info.get("Raw profile type APP1", "")
        exif = info.get("exif") or bytes.fromhex("".join(raw.split("\n")[3:]))
        exif = re.sub(rb"^(Exif\0\0)+", b"", exif)
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (first,) = struct.unpack_from(order + "I", exif, 4)
        (n_tags,) = struct.unpack_from(order + "H", exif, first)
        for at in range(first + 2, first + 2 + 12 * n_tags, 12):
            tag, kind, _, offset = struct.unpack_from(order + "HHII", exif, at)
            # In its place, or, if it has too many values or too long ones, where that points.
            for place in (at + 8, offset) if tag == 0x0112 else ():
                value = float(struct.unpack_from(order + _EXIF_TYPES[kind], exif, place)[0])
                if value in range(1, 9):
                    return int(value)
    with suppress(Exception):
        xmp = info.get("xmp") or info["XML:com.adobe.xmp"].encode()
        return int(re.findall(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])", xmp)[0])
    return 1


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Conversion by a profile; None if there is none, it is broken, of other inks, or sRGB."""
    with suppress(Exception):
        srgb = ImageCms.createProfile("sRGB")
        flags = ImageCms.Flags.NOCACHE  # one conversion may run in several threads
        to_srgb = ImageCms.buildTransform(io.BytesIO(profile), srgb, mode, "RGB", flags=flags)
        levels = np.arange(0, 256, 17, dtype=np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, -1, 3)
        probe = Image.fromarray(cube).convert(mode)
        changed, plain = to_srgb.apply(probe), probe.convert("RGB")
        change = np.asarray(changed, np.int16) - np.asarray(plain, np.int16)
        return to_srgb if np.abs(change).max() > 2 else None
    return None


def _to_8_bit(pixels: np.ndarray, white: int = 65535) -> np.ndarray:
    """Scale 0…white to 0…255, rounded."""
    return ((pixels.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
