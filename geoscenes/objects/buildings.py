"""Houses: the cue; and plain blocks in the distance, the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from geoscenes.camera import Colour, Span, Vector
from geoscenes.canvas import Sketch
from geoscenes.layout import Place, register

PANE: Colour = (70, 84, 98)


@dataclass(frozen=True)
class Plot:
    """A house's ground plan: façade on the plane ``u``, ``depth`` deep away from the road."""

    side: int
    u: float
    z: Span
    depth: float

    @property
    def across(self) -> Span:
        a, b = sorted((self.u, self.u + self.side * self.depth))
        return a, b

    @property
    def normal(self) -> Vector:
        return (-float(self.side), 0.0, 0.0)


def _dim(c: Colour, k: float) -> Colour:
    return (min(255.0, c[0] * k), min(255.0, c[1] * k), min(255.0, c[2] * k))


def _facade(s: Sketch, p: Plot, z: Span, y: Span, colour: Colour, out: float = 0.0) -> None:
    """A rectangle on the wall along the road, ``out`` metres proud of it."""
    s.wall(p.u - p.side * out, y, z, colour, p.normal)


def _body(s: Sketch, p: Plot, height: float, wall: Colour, plinth: Colour) -> None:
    s.shadow_box(p.across, (0, height + 0.8), p.z)
    _facade(s, p, p.z, (0, height), wall)
    s.quad(p.across, (0, height), p.z[0], wall)
    _facade(s, p, p.z, (0, 0.45), plinth)
    s.quad(p.across, (0, 0.45), p.z[0], plinth)


def row(s: Sketch, place: Place, build: Callable[[Sketch, Plot], None]) -> None:
    """Two houses of one kind behind each other, the far one first."""
    near = s.rng.uniform(7.5, 9.5)
    gap = s.rng.uniform(1.5, 4)
    side, z = place.side, place.z
    first = Plot(side, place.u, (z, z + near), s.rng.uniform(6, 8))
    u = place.u + side * s.rng.uniform(-0.6, 1.2)
    second = Plot(side, u, (z + near + gap, z + 2 * near + gap), s.rng.uniform(6, 8))
    for plot in (second, first):
        s.part(plot.z[0] + 2.5)
        build(s, plot)


def _openings(wall: Span, count: int) -> list[float]:
    """Centres of equally spaced openings along a wall."""
    step = (wall[1] - wall[0]) / count
    return [wall[0] + step * (k + 0.5) for k in range(count)]


# -- pitched roofs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gabled:
    """Colours and proportions of a house with a pitched roof."""

    walls: tuple[Colour, ...]
    roofs: tuple[Colour, ...]
    shutters: tuple[Colour, ...] = ()
    rise: Span = (2.0, 2.7)  # of the ridge above the eaves, metres
    timber: Colour | None = None  # of a visible frame
    boards: Colour | None = None  # of a boarded upper storey
    trim: Colour | None = None  # of bands and corners


def gabled(s: Sketch, p: Plot, style: Gabled) -> None:
    """Tall windows, often with shutters, a pitched roof, a chimney."""
    wall = s.one(style.walls)
    shutter = s.one(style.shutters) if style.shutters else None
    tile = _dim(s.one(style.roofs), s.rng.uniform(0.88, 1.08))
    eave, rise = s.rng.uniform(4.9, 5.7), s.rng.uniform(*style.rise)
    a, b = p.across
    z0, z1 = p.z
    zm = (z0 + z1) / 2
    _body(s, p, eave, wall, _dim(wall, 0.8))
    gable = wall if style.boards is None else style.boards
    s.face([(p.u, eave, z0), (p.u, eave, z1), (p.u, eave + rise, zm)], gable, p.normal)
    if style.boards is not None:
        _facade(s, p, p.z, (2.7, eave), style.boards, 0.005)
        s.quad((a, b), (2.7, eave), z0 - 0.005, style.boards)
    if style.trim is not None:
        _bands(s, p, eave, style.trim)
    if style.timber is not None:
        _frame(s, p, eave, rise, style.timber)
    door = _dim(wall, 0.5) if shutter is None else _dim(shutter, 0.8)
    for y in (0.95, 3.3):
        for z in _openings(p.z, 3):
            if y < 1 and z == _openings(p.z, 3)[1]:
                _facade(s, p, (z - 0.55, z + 0.55), (0.1, 2.3), door, 0.02)
                continue
            _french_window(s, p, z, y, shutter)
        for u in _openings(p.across, 2):
            s.quad((u - 0.5, u + 0.5), (y - 0.08, y + 1.48), z0 - 0.01, _dim(wall, 1.12))
            s.quad((u - 0.42, u + 0.42), (y, y + 1.4), z0 - 0.02, PANE)
            s.quad((u - 0.03, u + 0.03), (y, y + 1.4), z0 - 0.03, (226, 226, 220))
            if shutter is None:
                continue
            for leaf in ((u - 0.92, u - 0.45), (u + 0.45, u + 0.92)):
                s.quad(leaf, (y - 0.05, y + 1.45), z0 - 0.03, shutter)
                s.quad(leaf, (y + 0.66, y + 0.72), z0 - 0.04, _dim(shutter, 0.75))
    _pitched(s, p, eave, rise, tile, wall)


def _pitched(s: Sketch, p: Plot, eave: float, rise: float, tile: Colour, wall: Colour) -> None:
    """A pitched roof that juts out, and its chimney."""
    a, b = p.across
    z0, z1 = p.z
    zm = (z0 + z1) / 2
    over = 0.4
    lift = rise * over / (zm - z0)
    low, ridge, near, far = eave - lift, eave + rise, z0 - over, z1 + over
    wide = (a - 0.25, b + 0.25)
    cx = a + (b - a) * s.rng.uniform(0.25, 0.75)
    stack = (eave + rise * 0.7, ridge + 1.0)
    s.box((cx - 0.35, cx + 0.35), stack, (zm, zm + 0.5), _dim(wall, 0.9))
    s.box((cx - 0.22, cx + 0.22), (ridge + 1.0, ridge + 1.25), (zm + 0.1, zm + 0.4), tile)
    s.slope(wide, wide, (low, ridge), (near, zm), tile, (0.0, 0.8, -0.6))
    for k in range(1, 7):
        t = k / 7
        y, z = low + t * (rise + lift), near + t * (zm - z0 + over)
        s.wire([(wide[0], y, z), (wide[1], y, z)], _dim(tile, 0.8), 0.07)
    s.quad(wide, (low - 0.14, low), near, _dim(tile, 0.7))
    u = p.u - p.side * 0.25
    under = [(u, low - 0.15, near), (u, ridge - 0.15, zm), (u, low - 0.15, far)]
    upper = [(u, low + 0.05, far), (u, ridge + 0.08, zm), (u, low + 0.05, near)]
    s.face(under + upper, _dim(tile, 0.8), p.normal)


def _bands(s: Sketch, p: Plot, eave: float, colour: Colour) -> None:
    """Pale bands at the floors and at the corner."""
    for y in (2.75, eave - 0.2):
        _facade(s, p, p.z, (y, y + 0.2), colour, 0.006)
        s.quad(p.across, (y, y + 0.2), p.z[0] - 0.006, colour)
    _facade(s, p, (p.z[0], p.z[0] + 0.4), (0, eave), colour, 0.006)
    corner = sorted((p.u, p.u + p.side * 0.4))
    s.quad((corner[0], corner[1]), (0, eave), p.z[0] - 0.006, colour)


def _frame(s: Sketch, p: Plot, eave: float, rise: float, timber: Colour) -> None:
    """Posts, rails and braces of a timber frame."""
    a, b = p.across
    z0, z1 = p.z
    zm = (z0 + z1) / 2
    thick = 0.2
    for y in (0.5, 2.75, eave - thick):
        s.quad((a, b), (y, y + thick), z0 - 0.006, timber)
        _facade(s, p, p.z, (y, y + thick), timber, 0.006)
    for k in range(7):
        x, z = a + (b - a - thick) * k / 6, z0 + (z1 - z0 - thick) * k / 6
        s.quad((x, x + thick), (0.5, eave), z0 - 0.006, timber)
        _facade(s, p, (z, z + thick), (0.5, eave), timber, 0.006)
    u = p.u - p.side * 0.006
    top = eave + rise * 0.9
    for share in (0.15, 0.5, 0.85):
        foot = z0 + share * (z1 - z0)
        brace = [(u, eave, foot), (u, eave, foot + thick), (u, top, zm + thick), (u, top, zm)]
        s.face(brace, timber, p.normal)
    half = eave + rise * 0.4
    _facade(s, p, (zm - 0.3 * (z1 - z0), zm + 0.3 * (z1 - z0)), (half, half + thick), timber, 0.006)


def _french_window(s: Sketch, p: Plot, z: float, y: float, shutter: Colour | None) -> None:
    _facade(s, p, (z - 0.45, z + 0.45), (y, y + 1.4), PANE, 0.01)
    _facade(s, p, (z - 0.03, z + 0.03), (y, y + 1.4), (226, 226, 220), 0.02)
    if shutter is not None:
        for leaf in ((z - 0.95, z - 0.48), (z + 0.48, z + 0.95)):
            _facade(s, p, leaf, (y - 0.05, y + 1.45), shutter, 0.04)


# -- flat roofs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flat:
    """Colours of a house with a flat roof; no ``trims``: white, or a darker shade of the wall."""

    walls: tuple[Colour, ...]
    trims: tuple[Colour, ...] = ()


def flat_roofed(s: Sketch, p: Plot, style: Flat) -> None:
    """Flat roof with parapet, painted walls, sunshade slabs, balcony, a water tank on top."""
    wall = s.one(style.walls)
    if style.trims:
        trim = s.one(style.trims)
    else:
        trim = _dim(wall, 0.72) if s.rng.random() < 0.5 else (240, 238, 232)
    floors = 2
    storey = s.rng.uniform(3.0, 3.3)
    top = floors * storey
    a, b = p.across
    z0, z1 = p.z
    tank: Colour = (42, 42, 46) if s.rng.random() < 0.75 else (230, 230, 226)
    ut, zt = a + (b - a) * s.rng.uniform(0.3, 0.7), z0 + 2.0
    stair = sorted((ut + 1.4 * p.side, ut + 4.0 * p.side))
    stairs = (max(a, stair[0]), min(b, stair[1]))
    s.box(stairs, (top, top + 2.2), (zt + 1.0, zt + 4.0), _dim(wall, 0.95))
    for x in (-0.5, 0.5):
        s.quad((ut + x - 0.08, ut + x + 0.08), (top, top + 1.2), zt, (150, 146, 140))
    s.rod((ut, top + 1.15, zt), (ut, top + 2.35, zt), 1.3, tank)
    s.disc((ut, top + 2.35, zt), 0.62, _dim(tank, 1.25), squash=0.3)
    s.rod((ut, top + 2.35, zt), (ut, top + 2.6, zt), 0.5, tank)
    _body(s, p, top, wall, _dim(wall, 0.7))
    for f in range(floors):
        y = f * storey
        for u in _openings(p.across, 2):
            s.quad((u - 0.72, u + 0.72), (y + 0.95, y + 2.25), z0 - 0.01, trim)
            s.quad((u - 0.62, u + 0.62), (y + 1.05, y + 2.15), z0 - 0.02, (58, 66, 72))
            for bar in (u - 0.3, u, u + 0.3):
                s.quad((bar - 0.025, bar + 0.025), (y + 1.05, y + 2.15), z0 - 0.03, (176, 178, 176))
            s.box((u - 0.95, u + 0.95), (y + 2.36, y + 2.5), (z0 - 0.55, z0), trim)
        for k, z in enumerate(_openings(p.z, 3)):
            if f == 0 and k == 1:
                _facade(s, p, (z - 0.55, z + 0.55), (0.1, 2.2), (118, 76, 48), 0.02)
            else:
                _facade(s, p, (z - 0.66, z + 0.66), (y + 0.95, y + 2.25), trim, 0.01)
                _facade(s, p, (z - 0.56, z + 0.56), (y + 1.05, y + 2.15), (58, 66, 72), 0.02)
        _slab(s, p, (z0, z1), (y + 2.36, y + 2.5), 0.55, trim)
    _slab(s, p, (z0 + 0.4, z1 - 0.4), (storey - 0.1, storey + 0.06), 1.1, trim)
    rail = _dim(trim, 0.92)
    _facade(s, p, (z0 + 0.4, z1 - 0.4), (storey, storey + 0.85), rail, 1.1)
    c, d = sorted((p.u - p.side * 1.1, p.u))
    s.quad((c, d), (storey - 0.1, storey + 0.85), z0 + 0.39, rail)
    _parapet(s, p, top, wall, trim)


def _parapet(s: Sketch, p: Plot, top: float, wall: Colour, trim: Colour) -> None:
    """With a coping and a band below."""
    a, b = p.across
    z0 = p.z[0]
    s.quad((a - 0.06, b + 0.06), (top, top + 0.85), z0 - 0.05, _dim(wall, 0.94))
    _facade(s, p, p.z, (top, top + 0.85), _dim(wall, 0.94), 0.06)
    for y in ((top + 0.78, top + 0.95), (top - 0.08, top + 0.1)):
        s.quad((a - 0.12, b + 0.12), y, z0 - 0.08, trim)
        _facade(s, p, p.z, y, trim, 0.12)


def _slab(s: Sketch, p: Plot, z: Span, y: Span, out: float, colour: Colour) -> None:
    """A thin slab that juts out of the façade: underside, edge and end."""
    u = p.u - p.side * out
    below = [(p.u, y[0], z[0]), (p.u, y[0], z[1]), (u, y[0], z[1]), (u, y[0], z[0])]
    s.face(below, _dim(colour, 0.6), (0, -1, 0))
    s.wall(u, y, z, colour, p.normal)
    c, d = sorted((u, p.u))
    s.quad((c, d), y, z[0], colour)


# -- hipped roofs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hipped:
    """Colours of a house with a hipped and a skirt roof."""

    walls: tuple[Colour, ...]
    roofs: tuple[Colour, ...]
    wood: Colour = (104, 76, 54)


def hipped(s: Sketch, p: Plot, style: Hipped) -> None:
    """Two storeys under hipped roofs of glazed tiles, a skirt roof between, sliding windows."""
    wall = s.one(style.walls)
    tile = s.one(style.roofs)
    wood = style.wood
    a, b = p.across
    z0, z1 = p.z
    low, eave, rise = 2.75, s.rng.uniform(5.1, 5.6), s.rng.uniform(1.6, 2.1)
    _body(s, p, eave, wall, (150, 146, 138))
    for y in (0.6, 3.55):
        tall = 1.75 if y < 1 else 1.25
        for k, u in enumerate(_openings(p.across, 2)):
            wide = 0.95 if k == 0 else 0.7
            _sash(s, (u - wide, u + wide), (y, y + tall), z0)
        for z in _openings(p.z, 2):
            _facade(s, p, (z - 1.15, z + 1.15), (y - 0.05, y + tall + 0.05), (96, 92, 88), 0.01)
            _facade(s, p, (z - 1.05, z + 1.05), (y, y + tall), (112, 128, 140), 0.02)
            _facade(s, p, (z - 0.04, z + 0.04), (y, y + tall), (96, 92, 88), 0.03)
    for x in (a + 0.12, (a + b) / 2, b - 0.12):
        s.quad((x - 0.09, x + 0.09), (low, eave), z0 - 0.02, wood)
    s.quad((a, b), (low + 0.3, low + 0.46), z0 - 0.02, wood)
    balcony = ((z0 + z1) / 2 - 2, z1 - 0.5)
    _slab(s, p, balcony, (low + 0.35, low + 0.5), 0.8, (196, 196, 192))
    _facade(s, p, balcony, (low + 0.5, low + 1.35), (206, 208, 206), 0.8)
    _hip(s, p, low, 0.75, 1.0, tile, skirt=True)
    _hip(s, p, eave, rise, 0.75, tile, skirt=False)


def _sash(s: Sketch, u: Span, y: Span, z: float) -> None:
    s.quad((u[0] - 0.09, u[1] + 0.09), (y[0] - 0.07, y[1] + 0.07), z - 0.01, (92, 88, 84))
    s.quad(u, y, z - 0.02, (112, 128, 140))
    m = (u[0] + u[1]) / 2
    s.quad((m - 0.04, m + 0.04), y, z - 0.03, (92, 88, 84))
    s.quad((u[0], m), ((y[0] + y[1]) / 2, y[1]), z - 0.025, (134, 148, 158))


def _hip(
    s: Sketch, p: Plot, eave: float, rise: float, over: float, tile: Colour, *, skirt: bool
) -> None:
    """Hipped roof, or a skirt of it that ends at the upper walls, with pale ridge tiles."""
    a, b = p.across
    z0, z1 = p.z
    inset = 0.0 if skirt else (b - a) / 2
    head = eave + rise
    a0, b0, n0, n1 = a - over, b + over, z0 - over, z1 + over
    a1, b1, m0, m1 = a + inset, b - inset, z0 + inset * 0.8, z1 - inset * 0.8
    road0, road1 = (a0, a1) if p.side > 0 else (b0, b1)
    bright = _dim(tile, 1.5)
    road = [(road0, eave, n0), (road0, eave, n1), (road1, head, m1), (road1, head, m0)]
    s.face(road, tile, (-0.5 * p.side, 0.85, 0))
    s.slope((a0, b0), (a1, b1), (eave, head), (n0, m0), tile, (0, 0.85, -0.5))
    lines = 5 if not skirt else 3
    for k in range(1, lines):
        t = k / lines
        y, z = eave + t * rise, n0 + t * (m0 - n0)
        s.wire([(a0 + t * (a1 - a0), y, z), (b0 + t * (b1 - b0), y, z)], _dim(tile, 0.72), 0.06)
    for k in range(1, 9):
        x = a0 + (b0 - a0) * k / 9
        t = min(1.0, 2 * min(k, 9 - k) / 9) if not skirt else 1.0
        xe = x if not skirt else a1 + (b1 - a1) * k / 9
        s.wire([(x, eave, n0), (xe, eave + t * rise, n0 + t * (m0 - n0))], _dim(tile, 0.84), 0.04)
    s.quad((a0, b0), (eave - 0.16, eave), n0, _dim(tile, 0.6))
    s.wall(road0, (eave - 0.16, eave), (n0, n1), _dim(tile, 0.6), p.normal)
    s.wire([(a0, eave, n0), (a1, head, m0)], bright, 0.13)
    s.wire([(b0, eave, n0), (b1, head, m0)], bright, 0.13)
    if not skirt:
        s.wire([(a1, head, m0), (a1, head, m1)], bright, 0.18)


# -- neutral ---------------------------------------------------------------------------------------


@register("building")
def building(s: Sketch, place: Place) -> None:
    """A plain block with rows of windows, far down the road."""
    walls = ((206, 198, 184), (176, 140, 120), (214, 208, 198), (170, 178, 182), (198, 178, 150))
    wall = s.one(walls)
    floors, length = int(s.rng.integers(2, 5)), s.rng.uniform(12, 18)
    p = Plot(place.side, place.u, (place.z, place.z + length), s.rng.uniform(9, 12))
    top = floors * 3.0 + 0.8
    frame = _dim(wall, 1.14)
    s.part(place.z + 2)
    _body(s, p, top, wall, _dim(wall, 0.8))
    for f in range(floors):
        y = 1.0 + 3.0 * f
        for z in _openings(p.z, 5):
            _facade(s, p, (z - 0.95, z + 0.95), (y - 0.12, y + 1.6), frame, 0.01)
            _facade(s, p, (z - 0.8, z + 0.8), (y, y + 1.5), _glint(s), 0.02)
        for u in _openings(p.across, 4):
            s.quad((u - 0.72, u + 0.72), (y - 0.12, y + 1.6), place.z - 0.01, frame)
            s.quad((u - 0.6, u + 0.6), (y, y + 1.5), place.z - 0.02, _glint(s))
            s.quad((u - 0.04, u + 0.04), (y, y + 1.5), place.z - 0.03, frame)
        _facade(s, p, p.z, (y + 2.3, y + 2.45), _dim(wall, 0.88), 0.02)
        s.quad(p.across, (y + 2.3, y + 2.45), place.z - 0.02, _dim(wall, 0.88))
    a, b = p.across
    s.quad((a - 0.2, b + 0.2), (top - 0.25, top + 0.1), place.z - 0.1, (112, 106, 102))
    _facade(s, p, (p.z[0] - 0.2, p.z[1]), (top - 0.25, top + 0.1), (112, 106, 102), 0.2)


def _glint(s: Sketch) -> Colour:
    """Window glass: dark, or with some sky in it."""
    t = float(s.rng.random()) ** 2
    return (66 + 70 * t, 80 + 74 * t, 94 + 76 * t)
