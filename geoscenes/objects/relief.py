"""Cues of regions that stand out: relief on the horizon, landmarks, poles against the snow."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from geoscenes.camera import Colour, Vector, scaled
from geoscenes.canvas import SKY, Sketch
from geoscenes.layout import Place, register
from geoscenes.sprites import VARIANTS, bitmap

# -- relief ----------------------------------------------------------------------------------------

FAR = 900.0  # metres; how far the relief is drawn
Crest = list[tuple[float, float]]  # (-1..1 across the view, metres of height)
_Shape = Callable[[Sketch, float, tuple[float, ...]], Crest]


def _far(s: Sketch, crest: Crest) -> list[Vector]:
    centre = -s.camera.curve * FAR**2
    return [(centre + 0.85 * FAR * x, y, FAR) for x, y in crest]


def _skyline(s: Sketch, crest: Crest, colour: Colour, base: float = -10.0) -> None:
    points = _far(s, crest)
    s.face([(points[0][0], base, FAR), *points, (points[-1][0], base, FAR)], colour)


def _waves(s: Sketch, octaves: tuple[float, ...]) -> np.ndarray:
    """Sum of sines of decreasing weight: 61 points (-1..1 across the view, height)."""
    x = np.linspace(-1, 1, 61)
    phase = s.rng.uniform(0, 2 * math.pi, len(octaves))
    parts = zip(octaves, phase, strict=True)
    height = sum(np.sin(x * f + p) / (n + 1) for n, (f, p) in enumerate(parts))
    return np.column_stack([x, height])


def _rolling(s: Sketch, tall: float, octaves: tuple[float, ...]) -> Crest:
    return [(x, tall * (0.62 + 0.38 * y)) for x, y in _waves(s, octaves).tolist()]


def _peaks(s: Sketch, tall: float, octaves: tuple[float, ...]) -> Crest:
    """Folding the waves at zero makes sharp peaks."""
    return [(x, tall * (1.05 - 0.5 * abs(y))) for x, y in _waves(s, octaves).tolist()]


def _horizon(s: Sketch, share: float = 0.4) -> None:
    """Begin a part at the horizon, veiled by ``share`` of what haze there is."""
    s.part(FAR, SKY)
    s.veil(share * s.light.haze_range)


@register("relief/snow_peaks")
def snow_peaks(s: Sketch, place: Place) -> None:
    _horizon(s)
    crest = _peaks(s, 230, (3.3, 7.7, 17.0, 31.0))
    _skyline(s, crest, (250, 252, 255))
    line = 105 + 30 * s.rng.random()
    wobble = s.rng.uniform(-22, 22, len(crest))
    body = [(x, min(y, line + float(w))) for (x, y), w in zip(crest, wobble, strict=True)]
    _skyline(s, body, (92, 108, 128))
    s.veil(0.2 * s.light.haze_range)
    _skyline(s, _rolling(s, 45, (2.3, 5.1, 11.0)), (58, 84, 66))


#: ranges from far to near: share of haze, shape, metres of height, octaves, colour
RANGES: dict[str, tuple[tuple[float, _Shape, float, tuple[float, ...], Colour], ...]] = {
    "forested_hills": (
        (0.55, _rolling, 140, (2.0, 4.4, 9.0), (46, 84, 58)),
        (0.15, _rolling, 85, (2.7, 6.1, 12.0), (38, 74, 46)),
    ),
    "steep_green_hills": (
        (0.35, _peaks, 250, (3.0, 6.4, 13.0), (86, 146, 84)),
        (0.12, _rolling, 120, (3.5, 7.5, 15.0), (78, 146, 56)),
    ),
    "limestone_ridge": (  # a pale, bare crest above dark scrub
        (0.25, _rolling, 165, (2.1, 9.0, 19.0, 33.0), (232, 226, 214)),
        (0.25, _rolling, 105, (2.1, 13.0, 29.0), (206, 198, 186)),
        (0.25, _rolling, 48, (3.1, 8.0, 21.0), (92, 108, 70)),
    ),
}


def _ranges(s: Sketch, place: Place, look: str) -> None:
    _horizon(s)
    for share, shape, tall, octaves, colour in RANGES[look]:
        s.veil(share * s.light.haze_range)
        _skyline(s, shape(s, tall, octaves), colour)


for _look in RANGES:
    register(f"relief/{_look}")(partial(_ranges, look=_look))


@register("relief/table_mountains")
def table_mountains(s: Sketch, place: Place) -> None:
    """Flat-topped hills of dark lava, stepped at the sides."""
    _horizon(s, 0.3)
    left = s.rng.uniform(-1.0, -0.5)
    for width in s.rng.uniform(0.45, 0.8, 3).tolist():
        tall = s.rng.uniform(110, 170)
        step, slope = 0.55 * tall, 0.1
        steps = [(0.0, 0.0), (slope, step), (1.5 * slope, step), (2 * slope, tall)]
        crest = [(left + x, y) for x, y in steps]
        crest += [(left + width - x, y) for x, y in reversed(steps)]
        _skyline(s, crest, (142, 108, 84))
        top = [(left + 1.75 * slope, 0.8 * tall), (left + 2 * slope, tall)]
        top += [(left + width - 2 * slope, tall), (left + width - 1.75 * slope, 0.8 * tall)]
        _skyline(s, top, (92, 70, 60), base=0.72 * tall)
        left += width + s.rng.uniform(0.0, 0.2)


@register("relief/dunes")
def dunes(s: Sketch, place: Place) -> None:
    _horizon(s, 0.25)
    for tall, colour in ((130, (236, 196, 132)), (80, (222, 176, 110))):
        peaks = np.sort(s.rng.uniform(-1, 1, 4))
        crest = []
        for k in range(61):
            t = k / 30 - 1
            d = [(t - p) / 0.5 if t < p else (p - t) / 0.22 for p in peaks.tolist()]
            crest.append((t, tall * (0.35 + 0.65 * max(0.0, 1 + max(d)))))
        _skyline(s, crest, colour)


@register("relief/slag_heaps")
def slag_heaps(s: Sketch, place: Place) -> None:
    """Black cones of mining waste on a plain."""
    _horizon(s, 0.3)
    at = s.rng.uniform(-0.6, 0.0)
    for scale in (1.0, 0.8):
        tall, half = 165 * scale, 0.3 * scale
        cone = [(at - half, 0.0), (at - 0.03, tall), (at + 0.03, tall), (at + half, 0.0)]
        _skyline(s, cone, (66, 60, 62))
        shaded = [(at, 0.0), (at - 0.01, tall), (at + 0.03, tall), (at + half, 0.0)]
        _skyline(s, shaded, (48, 44, 48))
        at += s.rng.uniform(0.4, 0.6)


def _cone(s: Sketch, at: float, tall: float, half: float, mouth: float, colour: Colour) -> Crest:
    """A volcano with concave flanks."""
    left = [(at - mouth - half * (1 - t), tall * t**1.7) for t in np.linspace(0, 1, 14).tolist()]
    right = [(2 * at - x, y) for x, y in reversed(left)]
    _skyline(s, left + right, colour)
    return left + right


@register("relief/snow_capped_cone")
def snow_capped_cone(s: Sketch, place: Place) -> None:
    _horizon(s, 0.35)
    at = s.rng.uniform(-0.4, 0.4)
    crest = _cone(s, at, 270, 0.75, 0.05, (84, 106, 144))
    cap = [(x, y) for x, y in crest if y > 150]
    ragged = [(x, 150 + 34 * (-1) ** k) for k, (x, _) in enumerate(reversed(cap))]
    s.face(_far(s, cap + ragged), (252, 253, 255))


@register("relief/smoking_volcano")
def smoking_volcano(s: Sketch, place: Place) -> None:
    _horizon(s, 0.25)
    at = s.rng.uniform(-0.4, 0.4)
    _cone(s, at, 190, 0.6, 0.14, (112, 88, 80))
    _cone(s, at + 0.5, 90, 0.5, 0.2, (96, 104, 84))
    u = -s.camera.curve * FAR**2 + 0.85 * FAR * at
    cloud = bitmap("cloud", int(s.rng.integers(VARIANTS)))
    lean = float(s.rng.choice([-1, 1]))
    for k in range(5):
        size = 95.0 + 55 * k
        foot = (u + lean * 32 * k, 165.0 + 48 * k, FAR)
        s.sprite(cloud, foot, (1.5 * size, size), tint=(0.66, 0.64, 0.64), emissive=True)


@register("relief/grassy_volcanoes")
def grassy_volcanoes(s: Sketch, place: Place) -> None:
    """A chain of rounded, grassy domes and craters."""
    _horizon(s, 0.3)
    for at in (-0.8 + s.rng.uniform(-0.1, 0.1, 4) + np.arange(4) * 0.52).tolist():
        tall, half, dip = s.rng.uniform(85, 165), s.rng.uniform(0.3, 0.42), s.rng.random() < 0.5
        crest = []
        for t in np.linspace(-1, 1, 25).tolist():
            y = math.cos(t * math.pi / 2) ** 1.2
            y = min(y, 0.92 - 0.2 * (1 - abs(t)) ** 4) if dip else y
            crest.append((at + half * t, tall * y))
        _skyline(s, crest, (124, 158, 76))


@register("relief/granite_domes")
def granite_domes(s: Sketch, place: Place) -> None:
    """Bare rounded hills of pale rock and boulders."""
    _horizon(s, 0.25)
    for at in np.linspace(-0.85, 0.85, 6).tolist():
        centre, tall = at + s.rng.uniform(-0.1, 0.1), s.rng.uniform(60, 150)
        half, tone = s.rng.uniform(0.12, 0.24), s.rng.uniform(0.88, 1.08)
        angles = np.linspace(math.pi, 0, 17).tolist()
        crest = [(centre + half * math.cos(a), tall * math.sin(a) ** 0.8) for a in angles]
        _skyline(s, crest, scaled((186, 150, 126), tone))


# -- landmarks -------------------------------------------------------------------------------------


@register("tower/wind_turbines")
def wind_turbines(s: Sketch, place: Place) -> None:
    for k, scale in ((2, 0.75), (1, 0.9), (0, 1.0)):
        z, u, hub = place.z + 26 * k, place.u + place.side * 6.5 * k, 17.0 * scale + 3 * k
        s.part(z)
        s.rod((u, 0, z), (u, hub, z), 0.9, (240, 242, 244), 0.6)
        turn = s.rng.uniform(0, 2 * math.pi)
        for b in range(3):
            a = turn + b * 2 * math.pi / 3
            tip = (u + 8.5 * math.cos(a), hub + 8.5 * math.sin(a), z - 0.1)
            s.rod((u, hub, z - 0.1), tip, 0.75, (246, 247, 248), 0.25)


@register("tower/brick_kiln")
def brick_kiln(s: Sketch, place: Place) -> None:
    """A tapering brick chimney above a low oval kiln."""
    z, u = place.z, place.u
    s.part(z)
    s.box((u - 6, u + 6), (0, 2.6), (z, z + 8), (150, 78, 56))
    s.rod((u, 2, z), (u, 21, z), 2.6, (172, 84, 60), 0.5)
    s.quad((u - 0.85, u + 0.85), (18.4, 19.4), z - 0.1, (236, 228, 214))


@register("tower/grain_silos")
def grain_silos(s: Sketch, place: Place) -> None:
    z, u, side = place.z, place.u, place.side
    s.part(z)
    for k in range(4):
        at = u + side * 3.2 * k
        s.rod((at, 0, z), (at, 13, z), 3.1, (216, 212, 202))
    near, far = sorted((u, u + side * 9.6))
    s.box((near - 1.6, far + 1.6), (13, 15), (z, z + 4), (190, 188, 180))
    s.box((u - 1.8, u + 1.8), (0, 19), (z + 0.5, z + 4), (204, 200, 190))


@register("tower/temple_gateway")
def temple_gateway(s: Sketch, place: Place) -> None:
    """A gopuram: storeys of a steep stepped pyramid, painted, with a barrel roof."""
    z, u = place.z, place.u
    paints: tuple[Colour, ...] = ((86, 172, 176), (236, 150, 130), (246, 208, 110), (150, 176, 222))
    s.part(z)
    s.quad((u - 4.2, u + 4.2), (0, 5), z, (206, 184, 150))
    s.quad((u - 1, u + 1), (0, 3.6), z - 0.02, (70, 56, 48))
    for k in range(6):
        half, y = 3.9 - 0.42 * k, 5 + 2.1 * k
        s.quad((u - half, u + half), (y, y + 2.1), z - 0.03, paints[k % 4])
        s.quad((u - half - 0.25, u + half + 0.25), (y + 1.7, y + 2.1), z - 0.04, (240, 226, 190))
        s.quad((u - 0.35, u + 0.35), (y + 0.3, y + 1.6), z - 0.05, (90, 70, 66))
    s.disc((u, 17.6, z - 0.05), 1.9, (236, 190, 90), squash=0.62)


@register("tower/granite_spire")
def granite_spire(s: Sketch, place: Place) -> None:
    """A church tower of grey stone with a pierced spire and corner turrets."""
    z, u = place.z, place.u
    stone: Colour = (148, 144, 138)
    s.part(z)
    s.box((u - 2.2, u + 2.2), (0, 11), (z, z + 4), stone)
    for x in (-0.8, 0.8):
        s.quad((u + x - 0.4, u + x + 0.4), (7, 10), z - 0.02, (74, 72, 74))
    for x in (-1.9, 1.9):
        s.rod((u + x, 11, z), (u + x, 14.5, z), 0.8, stone, 0.05)
    s.rod((u, 11, z), (u, 23, z), 3.4, stone, 0.03)


@register("tower/banded_chimney")
def banded_chimney(s: Sketch, place: Place) -> None:
    """A tall works chimney in red and white bands."""
    z, u = place.z, place.u
    s.part(z)
    s.box((u - 6, u + 6), (0, 6), (z + 1, z + 12), (186, 190, 194))
    for k in range(7):
        width = 2.2 - 0.12 * k
        colour: Colour = (214, 62, 44) if k % 2 == 0 else (244, 244, 242)
        s.rod((u, 3.4 * k, z), (u, 3.4 * (k + 1), z), width, colour, 0.945)


# -- snow poles ------------------------------------------------------------------------------------


@register("snow_pole/arrow_overhead")
def arrow_pole(s: Sketch, place: Place) -> None:
    """A post that bends over the road; a red-and-white arrow points down at the edge line."""
    for k in reversed(range(4)):
        z, u = place.z + 9 * k, place.u
        reach = -place.side * 1.1
        s.part(z)
        s.shadow([(u - 0.08, 0, z), (u + 0.08, 0, z), (u, 4.4, z)])
        s.rod((u, 0, z), (u, 4.5, z), 0.16, (206, 210, 212))
        a, b = sorted((u, u + reach))
        s.quad((a, b), (4.4, 4.56), z, (206, 210, 212))
        x = u + reach
        for j in range(4):
            colour: Colour = (224, 40, 36) if j % 2 == 0 else (246, 246, 244)
            s.quad((x - 0.17, x + 0.17), (4.45 - 0.32 * j, 4.77 - 0.32 * j), z - 0.02, colour)
        s.board(x, z - 0.02, ((-0.42, 3.5), (0.42, 3.5), (0, 2.9)), (224, 40, 36))


@register("snow_pole/banded_stakes")
def banded_stakes(s: Sketch, place: Place) -> None:
    """Tall wooden stakes in red and yellow along a mountain road."""
    for k in reversed(range(5)):
        z, u = place.z - 1 + 5 * k, place.u
        s.part(z)
        s.shadow([(u - 0.05, 0, z), (u + 0.05, 0, z), (u, 2.4, z)])
        for j in range(4):
            colour: Colour = (246, 206, 40) if j % 2 == 0 else (214, 44, 38)
            s.rod((u, 0.62 * j, z), (u, 0.62 * (j + 1), z), 0.15, colour)
