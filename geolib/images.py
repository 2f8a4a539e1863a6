"""Reading a photograph, whatever its format, as upright 8-bit RGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MIN_SIDE = 16
MAX_SIDE = 4096


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
    """Read an image as upright RGB.

    The EXIF rotation is applied, transparency is laid on white, 16-bit values are scaled to 8 bit,
    and a side above 4096 px is shrunk to that while it is decoded. EXIF data and GPS positions end
    here: nothing but the pixels is returned.

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
        to decode.
    TypeError : if it is none of the above.
    """
    name = _describe(source)
    try:
        # Large images are shrunk while decoding; still larger ones raise an error of their own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = _open(source)
            if min_side is not None:
                image.draft(None, (min_side, min_side))
            return _to_rgb(image, name)
    except (UnreadableImage, TypeError):
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(name, "not an image, or in a format that is not known") from None
    except FileNotFoundError:
        raise UnreadableImage(name, "no such file") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(name, f"too large to decode safely: {error}") from error
    except Exception as error:  # decoders meet damage with errors of every kind
        raise UnreadableImage(name, f"cannot be decoded: {error}") from error


def _describe(source: object) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "Pillow image"
    return "bytes" if isinstance(source, bytes) else "array"


def _open(source: object) -> Image.Image:
    if isinstance(source, str | Path):
        # Read at once: Pillow would keep the file open until the pixels are decoded.
        source = Path(source).read_bytes()
    if isinstance(source, bytes):
        return Image.open(io.BytesIO(source))
    if isinstance(source, Image.Image):
        return source.copy()
    if isinstance(source, np.ndarray) and source.dtype == np.uint16:
        source = _to_8_bit(source)
    if isinstance(source, np.ndarray) and source.dtype == np.uint8:
        return Image.fromarray(source)
    kind = f"an array of {source.dtype}" if isinstance(source, np.ndarray) else type(source)
    raise TypeError(f"source is {kind}; expected a path, bytes, Pillow image or uint8/16 array")


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    width, height = image.size
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    if min(image.size) < MIN_SIDE:
        reason = f"{width} × {height} px is too small: both sides must reach {MIN_SIDE} px"
        raise UnreadableImage(name, reason)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise UnreadableImage(name, "32-bit pixels have no fixed range; save it with 8 or 16 bit")
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """Scale 0…65535 to 0…255, rounded: 65535 = 255 · 257."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
