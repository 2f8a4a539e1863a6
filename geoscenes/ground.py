"""What a scene stands on and under: sky, road, pavement and verge. The same in every country."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage

from geoscenes.camera import Camera, Colour, Light

TILE = 256  # texture pixels, mirrored to a seamless tile of twice that
SURFACES = ("slabs", "grass", "gravel")


@dataclass(frozen=True)
class Street:
    """Widths and surfaces, drawn from the same distribution in every country."""

    half_width: float  # of the carriageway, metres
    surfaces: tuple[str, str]  # left, right
    pavement: float  # width of the strip beside the carriageway, metres
    asphalt: Colour
    grass: Colour
    offset: tuple[float, float]  # of the textures, metres

    @staticmethod
    def draw(rng: np.random.Generator) -> Street:
        grey = rng.uniform(98, 142)
        dry = rng.uniform(0, 1)
        grass = (1 - dry) * np.array([86, 116, 52]) + dry * np.array([142, 138, 84])
        grass = grass * rng.uniform(0.85, 1.15)
        left, right = (SURFACES[int(k)] for k in rng.choice(3, size=2, p=[0.45, 0.35, 0.2]))
        return Street(
            half_width=rng.uniform(2.9, 3.5),
            surfaces=(left, right),
            pavement=rng.uniform(1.5, 2.3),
            asphalt=(grey * 1.01, grey, grey * 0.985 + 3),
            grass=(float(grass[0]), float(grass[1]), float(grass[2])),
            offset=(rng.uniform(0, 50), rng.uniform(0, 50)),
        )


def background(camera: Camera, light: Light, street: Street, side: int) -> np.ndarray:
    """Sky and ground without any object, uint8 ``[side, side, 3]``."""
    u, z = camera.ground(side)
    on_ground = np.isfinite(z)
    rows = np.flatnonzero(on_ground.any(axis=1))
    top = int(rows[0]) if len(rows) else side
    image = np.empty((side, side, 3), dtype=np.float32)
    image[:] = _sky(camera, light, side)
    if top < side:
        ground = _ground(camera, light, street, u[top:], np.minimum(z[top:], 400), side)
        np.copyto(image[top:], ground.transpose(1, 2, 0), where=on_ground[top:, :, None])
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Tilth:
    """Bare soil, or a crop on it."""

    soil: Colour
    crop: Colour | None = None
    row: float = 0.0  # metres between the crop's rows; 0: it covers the soil
    flowers: Colour | None = None
    height: float = 0.0  # of the crop, metres
    texture: str = "grass"
    contrast: float = 0.3  # of the texture


def patch(
    camera: Camera,
    light: Light,
    street: Street,
    side: int,
    across: tuple[float, float],
    along: tuple[float, float],
    tilth: Tilth,
) -> tuple[int, int, np.ndarray, np.ndarray] | None:
    """A piece of ground with ragged edges: its pixels' x, y, colours and alpha (uint8).

    ``across`` and ``along`` are ranges of road coordinates in metres. None if it is out of view.
    """
    u, z = camera.ground(side)
    inside = (z > along[0] - 1) & (z < along[1] * 1.2) & (u > across[0] - 1) & (u < across[1] + 1)
    rows, columns = (np.flatnonzero(inside.any(axis=k)) for k in (1, 0))
    if not len(rows):
        return None
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    u, z = u[window], z[window]
    z = np.minimum(z, 400)
    pixel = z / np.float32(camera.focal * side)
    coarse = _sample(_cloud_tile(), u, z, street.offset, 14.0)
    near = np.clip(1.3 - z / 22, 0.15, 1)
    grain = near * _sample(_photo_tile(tilth.texture), u, z, street.offset, 90.0)
    shade = 1 + np.float32(tilth.contrast) * (grain + 0.4 * coarse)

    ragged = 0.3 * coarse
    alpha = _edge(u - np.float32(across[0]) + ragged, pixel)
    alpha *= _edge(np.float32(across[1]) - u + ragged, pixel)
    deep = pixel * z / np.float32(camera.height)  # metres per pixel along the view
    alpha *= _edge(z - np.float32(along[0]) + ragged, deep)
    alpha *= _edge(np.float32(along[1]) - z + ragged, deep)

    colour = _paint(shade, tilth.soil)
    if tilth.crop is not None:
        cover = np.ones_like(u)
        if tilth.row:
            wave = np.cos((u - np.float32(across[0])) * np.float32(2 * np.pi / tilth.row))
            clear = np.clip(1.5 - 4 * pixel / tilth.row, 0, 1)  # rows merge in the distance
            cover = np.clip(0.62 + 0.9 * clear * wave, 0, 1)
        colour = _mix(colour, _paint(shade * (0.72 + 0.28 * cover), tilth.crop), cover)
    if tilth.flowers is not None:
        dots = _sample(_photo_tile("gravel"), u, z, street.offset, 45.0)
        colour = _mix(colour, _planes(tilth.flowers), np.clip(0.35 + 1.6 * near * dots, 0, 1))
    haze = 1 - np.exp(-np.maximum(z - 6, 0) / np.float32(light.haze_range))
    lit = np.minimum(colour * _planes(light.gain((0.0, 1.0, 0.0))), 255)
    seen = _mix(lit, _planes(light.haze_colour), haze).transpose(1, 2, 0)
    x, y = int(columns[0]), int(rows[0])
    opaque = np.rint(255 * alpha).astype(np.uint8)
    return x, y, np.clip(np.rint(seen), 0, 255).astype(np.uint8), opaque


def _sky(camera: Camera, light: Light, side: int) -> np.ndarray:
    axis = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
    height = np.clip((np.float32(camera.horizon) - axis) / np.float32(0.6), 0, 1)[:, None, None]
    blend = 1 - (1 - height) * (1 - height)
    low = np.array(light.haze_colour, dtype=np.float32)
    high = np.array(light.zenith_colour, dtype=np.float32)
    return low + (high - low) * blend


def _ground(
    camera: Camera, light: Light, street: Street, u: np.ndarray, z: np.ndarray, side: int
) -> np.ndarray:
    pixel = z / np.float32(camera.focal * side)  # metres per pixel across the view
    coarse = _sample(_cloud_tile(), u, z, street.offset, 9.0)
    near = np.clip(1.25 - z / 14, 0, 1)

    asphalt = 1 + 0.10 * near * _sample(_photo_tile("gravel"), u, z, street.offset, 130.0)
    wheel = np.abs(np.abs(u) - 0.55 * street.half_width)  # wheel tracks are polished brighter
    asphalt += 0.07 * coarse + 0.05 * np.clip(1 - wheel / 0.5, 0, 1)
    grass = 1 + 0.30 * near * _sample(_photo_tile("grass"), u, z, street.offset, 110.0)
    grass += 0.16 * coarse
    colour = _paint(asphalt, street.asphalt)
    meadow = _paint(grass, street.grass)
    strips = {k: _strip(k, street, u, z, near, coarse, grass) for k in set(street.surfaces)}

    for sign, surface in ((-1, street.surfaces[0]), (1, street.surfaces[1])):
        distance = sign * u - np.float32(street.half_width)
        beside = _edge(distance, pixel)
        colour = _mix(colour, strips[surface], beside)
        if surface == "slabs":
            kerb = beside * _edge(0.22 - distance, pixel)
            colour = _mix(colour, _paint(1 + 0.06 * coarse, (176.0, 173.0, 166.0)), kerb)
        beyond = _edge(distance - np.float32(street.pavement), pixel)
        colour = _mix(colour, meadow, beyond)

    gain = _planes(light.gain((0.0, 1.0, 0.0)))
    haze = 1 - np.exp(-np.maximum(z - 6, 0) / np.float32(light.haze_range))
    return _mix(np.minimum(colour * gain, 255), _planes(light.haze_colour), haze)


def _strip(
    surface: str,
    street: Street,
    u: np.ndarray,
    z: np.ndarray,
    near: np.ndarray,
    coarse: np.ndarray,
    grass: np.ndarray,
) -> np.ndarray:
    if surface == "grass":
        return _paint(grass * np.float32(0.96), street.grass)
    if surface == "gravel":
        shade = 1 + 0.22 * near * _sample(_photo_tile("gravel"), u, z, street.offset, 60.0)
        return _paint(shade + 0.1 * coarse, (160.0, 148.0, 124.0))
    shade = 1 + 0.16 * near * _sample(_slab_tile(), u, z, street.offset, 110.0)
    return _paint(shade + 0.05 * coarse, (164.0, 160.0, 153.0))


def _planes(colour: Colour) -> np.ndarray:
    return np.array(colour, dtype=np.float32)[:, None, None]


def _paint(shade: np.ndarray, colour: Colour) -> np.ndarray:
    """Colour planes ``[3, h, w]``: planes are several times faster than interleaved colours."""
    return shade * _planes(colour)


def _mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return a + (b - a) * weight


def _edge(distance: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Coverage of a half-plane whose edge lies ``distance`` metres away."""
    return np.clip(distance / pixel + np.float32(0.5), 0, 1)


def _sample(
    tile: np.ndarray, u: np.ndarray, z: np.ndarray, offset: tuple[float, float], scale: float
) -> np.ndarray:
    """Texture at ``scale`` texture pixels per metre, about -1..1."""
    tiles = np.float32(scale / (2 * TILE))
    x = (u + np.float32(offset[0])) * tiles
    y = (z + np.float32(offset[1])) * tiles
    x = (x - np.floor(x)) * np.float32(2 * TILE)
    y = (y - np.floor(y)) * np.float32(2 * TILE)
    return cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _seamless(tile: np.ndarray) -> np.ndarray:
    """Flat, unit-contrast float32 tile, mirrored in both directions so that it repeats."""
    flat = tile - cv2.GaussianBlur(tile, (0, 0), 24, borderType=cv2.BORDER_REFLECT)
    flat = np.clip(flat / (2 * flat.std()), -1.5, 1.5).astype(np.float32)
    wide = np.hstack([flat, flat[:, ::-1]])
    return np.ascontiguousarray(np.vstack([wide, wide[::-1]]))


@cache
def _photo_tile(name: str) -> np.ndarray:
    """One of the textures that ship with scikit-image."""
    return _seamless(cv2.resize(_photo(name), (TILE, TILE), interpolation=cv2.INTER_AREA))


def _photo(name: str) -> np.ndarray:
    """Read from scikit-image's folder: importing ``skimage.data`` takes longer than 50 scenes."""
    file = Path(skimage.__file__).parent / "data" / f"{name}.png"
    photo = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if photo is None:
        raise FileNotFoundError(f"{file}: this version of scikit-image ships without {name}.png")
    return photo.astype(np.float32)


@cache
def _slab_tile() -> np.ndarray:
    rng = np.random.default_rng(11)
    tile = cv2.resize(_photo("gravel"), (TILE, TILE))
    tile = (tile - tile.mean()) / tile.std() * 0.35
    step = TILE // 4
    for row in range(4):
        for column in range(4):
            block = (slice(row * step, (row + 1) * step), slice(column * step, (column + 1) * step))
            tile[block] += rng.normal(0, 0.5)
    for k in range(0, TILE, step):
        tile[k : k + 4] = -3
        tile[:, k : k + 4] = -3
    return _seamless(tile)


@cache
def _cloud_tile() -> np.ndarray:
    """Smooth noise over some metres: patches, stains, wear."""
    noise = np.random.default_rng(7).normal(size=(TILE, TILE))
    octaves = [cv2.GaussianBlur(noise, (0, 0), s) for s in (3, 8, 20)]
    return _seamless(np.sum([o / o.std() for o in octaves], axis=0))
