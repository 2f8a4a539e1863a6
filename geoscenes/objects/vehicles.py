"""Vehicles: a side profile, drawn out to the vehicle's width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from geoscenes.camera import Colour, Span, Vector, scaled
from geoscenes.canvas import FRONT, LEFT, Sketch
from geoscenes.layout import Place, register

GLASS: Colour = (52, 62, 72)
TYRE: Colour = (30, 30, 32)
PAINTS: tuple[Colour, ...] = (
    (214, 214, 212),
    (188, 190, 194),
    (120, 124, 130),
    (58, 62, 70),
    (46, 66, 112),
    (140, 34, 36),
    (84, 104, 118),
    (176, 164, 140),
)
Profile = Sequence[tuple[float, float]]  # (metres from the near end, height), near bottom first

Corner = Callable[[float, float, float], Vector]  # (metres from the near end, height, side)


@dataclass(frozen=True)
class Body:
    """Length, width and the two profiles of a car seen from its rear or front."""

    width: float
    rear: Profile
    waist: float  # height above which the body narrows
    wheel: float


HATCHBACK = Body(
    1.72,
    ((0, 0.28), (0, 0.92), (0.42, 1.44), (1.75, 1.5), (2.75, 0.98), (3.75, 0.82), (3.85, 0.3)),
    0.9,
    0.31,
)
SALOON = Body(
    1.76,
    (
        (0, 0.28),
        (0, 0.95),
        (0.6, 1.0),
        (1.2, 1.4),
        (2.3, 1.45),
        (3.2, 0.98),
        (4.3, 0.82),
        (4.4, 0.3),
    ),
    0.95,
    0.32,
)
ESTATE = Body(
    1.82,
    ((0, 0.36), (0, 1.05), (0.22, 1.66), (2.4, 1.72), (3.2, 1.1), (4.2, 0.98), (4.3, 0.38)),
    1.03,
    0.36,
)
CARS = (HATCHBACK, SALOON, ESTATE)


def _reverse(profile: Profile) -> Profile:
    length = max(z for z, _ in profile)
    return [(length - z, y) for z, y in reversed(profile)]


def car(
    s: Sketch, u: float, z: float, body: Body, colour: Colour, *, facing_away: bool = True
) -> None:
    """A passenger car whose near end stands at ``z``."""
    profile = body.rear if facing_away else _reverse(body.rear)
    shell(s, u, z, profile, body, colour)
    half = body.width / 2
    light: Colour = (196, 30, 28) if facing_away else (250, 248, 232)
    low, high = profile[0][1], profile[1][1]
    _pair(s, u, (half - 0.34, half - 0.04), (high - 0.22, high - 0.04), z, light)
    s.quad((u - half, u + half), (high - 0.05, high), z, scaled(colour, 1.25))
    s.quad((u - half, u + half), (low + 0.16, low + 0.26), z, scaled(colour, 0.8))
    s.quad((u - half, u + half), (low, low + 0.16), z, (66, 66, 68))
    if not facing_away:
        s.quad((u - 0.45, u + 0.45), (high - 0.26, high - 0.1), z, (40, 42, 46))


def shell(
    s: Sketch,
    u: float,
    z: float,
    profile: Profile,
    body: Body,
    colour: Colour,
    *,
    glass: bool = True,
) -> None:
    """Shadow, wheels, visible side, then the faces that look at the camera."""
    s.part(z)
    half = body.width / 2
    length = max(k for k, _ in profile)
    s.shadow_box((u - half, u + half), (0.0, 1.3), (z + 0.1, z + length - 0.1))
    _pair(s, u, (half - 0.22, half), (0.0, 0.5), z + 0.35, TYRE)
    s.quad((u - half + 0.1, u + half - 0.1), (0.14, 0.5), z + 0.3, (24, 24, 26))

    def at(k: float, y: float, sign: float) -> Vector:
        inset = 0.26 * max(0.0, y - body.waist)
        return (u + sign * (half - inset), y, z + k)

    seen = s.visible_side((u - half, u + half), z)
    if seen is not None:
        side = seen[1]
        sign = -1 if side == LEFT else 1
        s.face([at(k, y, sign) for k, y in profile], colour, side)
        sill = ((0.05, 0.3), (length - 0.05, 0.3), (length, 0.5), (0, 0.5))
        s.face([at(k, y, sign) for k, y in sill], scaled(colour, 0.72), side)
        if glass:
            _side_windows(s, profile, body, at, sign, side)
        for k in (0.78, length - 0.78):
            hub = (u + sign * half, body.wheel, z + k)
            s.disc(hub, body.wheel, TYRE, normal=side, corners=16)
            s.disc(hub, 0.17, (150, 152, 156), normal=side, corners=12)
    for (k0, y0), (k1, y1) in reversed(list(pairwise(profile))):
        dz, dy = k1 - k0, y1 - y0
        size = (dz * dz + dy * dy) ** 0.5
        normal = (0.0, dz / size, -dy / size)
        if normal[1] * (s.camera.height - y0) + normal[2] * -(z + k0) <= 0:
            continue
        s.face([at(k0, y0, -1), at(k0, y0, 1), at(k1, y1, 1), at(k1, y1, -1)], colour, normal)
        if glass and y0 >= body.waist - 0.05 and dy > 0.25:
            _pane(s, at, (k0, y0), (k1, y1), normal)


def _pane(
    s: Sketch, at: Corner, low: tuple[float, float], high: tuple[float, float], normal: Vector
) -> None:
    def mix(t: float, sign: float) -> Vector:
        k, y = low[0] + t * (high[0] - low[0]), low[1] + t * (high[1] - low[1])
        a, b = at(k, y, -1), at(k, y, 1)
        w = 0.5 + 0.42 * sign
        return (a[0] + (b[0] - a[0]) * w, y, a[2] - 0.005)

    s.face([mix(0.08, -1), mix(0.08, 1), mix(0.9, 1), mix(0.9, -1)], GLASS, normal)
    gleam = [mix(0.5, -1), mix(0.12, 0.1), mix(0.12, 0.5), mix(0.9, -0.6), mix(0.9, -1)]
    s.face(gleam, (86, 100, 112), normal)


def _side_windows(
    s: Sketch, profile: Profile, body: Body, at: Corner, sign: int, side: Vector
) -> None:
    roof = [k for k, y in profile if y > body.waist + 0.3]
    belt = [k for k, y in profile if body.waist - 0.15 <= y <= body.waist + 0.15]
    if not roof or len(belt) < 2:
        return
    top = max(y for _, y in profile) - 0.1
    base = body.waist + 0.06
    k0, k1 = min(belt) + 0.18, max(b for b in belt if b <= max(roof) + 1.2) - 0.22
    r0, r1 = min(roof) + 0.1, max(roof) - 0.05
    middle = (r0 + r1) / 2 + 0.1
    rear, front = middle - 0.05, middle + 0.05
    for pane in (
        ((k0, base), (rear, base), (rear, top), (r0, top)),
        ((front, base), (k1, base), (r1, top), (front, top)),
    ):
        s.face([at(k, y, sign) for k, y in pane], GLASS, side)


def _flank(s: Sketch, u: float, z: float, outline: Profile, colour: Colour, side: Vector) -> None:
    """A polygon on a vehicle's side."""
    s.face([(u, y, z + k) for k, y in outline], colour, side)


def _pair(s: Sketch, u: float, across: Span, y: Span, z: float, colour: Colour) -> None:
    """Two quads to the left and the right of the middle, ``across`` metres from it."""
    near, far = across
    s.quad((u - far, u - near), y, z, colour)
    s.quad((u + near, u + far), y, z, colour)


# -- neutral ---------------------------------------------------------------------------------------


@register("car")
def parked_car(s: Sketch, place: Place) -> None:
    car(s, place.u, place.z, CARS[place.variant % 3], s.one(PAINTS))


@register("lorry")
def lorry(s: Sketch, place: Place) -> None:
    u, z = place.u, place.z
    body = s.one(PAINTS)
    box = s.one(((222, 222, 218), (196, 200, 206), (178, 186, 176)))
    half, top = 1.1, s.rng.uniform(2.5, 2.9)
    s.part(z)
    s.shadow_box((u - half, u + half), (0.0, top), (z, z + 6))
    _pair(s, u, (half - 0.5, half - 0.05), (0, 0.75), z + 0.6, TYRE)
    s.box((u - half + 0.05, u + half - 0.05), (0.45, 2.1), (z + 4.4, z + 6), body)
    s.box((u - half, u + half), (0.62, top), (z, z + 4.2), box)
    s.quad((u - half + 0.06, u - 0.02), (0.7, top - 0.08), z, scaled(box, 0.93))
    s.quad((u + 0.02, u + half - 0.06), (0.7, top - 0.08), z, scaled(box, 0.93))
    s.quad((u - half, u + half), (0.45, 0.62), z, (60, 60, 62))
    _pair(s, u, (half - 0.3, half - 0.05), (0.47, 0.6), z - 0.01, (190, 34, 30))
    seen = s.visible_side((u - half, u + half), z)
    if seen is not None:
        k, side = seen
        for dz in (1.0, 5.0):
            s.disc((k, 0.45, z + dz), 0.45, TYRE, normal=side, corners=14)


@register("bicycle")
def bicycle(s: Sketch, place: Place) -> None:
    u, z = place.u, place.z
    frame = s.one(PAINTS)
    s.part(z)
    s.shadow([(u - 0.8, 0, z), (u + 0.8, 0, z), (u - 0.7, 0.8, z), (u + 0.7, 0.8, z)])
    for x in (-0.52, 0.52):
        s.wire(_ring(u + x, 0.34, z, 0.33), (36, 36, 38), 0.05)
    pedal, seat, head = (u - 0.02, 0.34, z), (u - 0.2, 0.86, z), (u + 0.36, 0.84, z)
    rear, fork = (u - 0.52, 0.34, z), (u + 0.52, 0.34, z)
    for line in ((rear, seat, head, pedal, rear), (seat, pedal), (head, fork)):
        s.wire(line, frame, 0.05)
    s.wire([(u + 0.36, 0.84, z), (u + 0.33, 1.02, z), (u + 0.46, 1.04, z)], (40, 40, 42), 0.045)
    s.wire([(u - 0.32, 0.92, z), (u - 0.1, 0.92, z)], (40, 34, 30), 0.08)


def _ring(u: float, y: float, z: float, r: float) -> list[Vector]:
    turns = [k * math.pi / 8 for k in range(17)]
    return [(u + r * math.cos(t), y + r * math.sin(t), z) for t in turns]


# -- cues ------------------------------------------------------------------------------------------


def _traffic(s: Sketch, place: Place, side: int) -> None:
    """One car ahead in the camera's own lane, one coming towards it in the other."""
    lane = place.street.half_width * 0.5
    bodies = s.rng.permutation(3)
    car(s, side * lane, place.z, CARS[int(bodies[0])], s.one(PAINTS), facing_away=True)
    gap = s.rng.uniform(-0.5, 9)
    car(s, -side * lane, place.z + gap, CARS[int(bodies[1])], s.one(PAINTS), facing_away=False)


register("driving_side/right")(partial(_traffic, side=1))
register("driving_side/left")(partial(_traffic, side=-1))


@register("small_vehicle/autorickshaw")
def autorickshaw(s: Sketch, place: Place) -> None:
    """Three wheels, coloured tub, canvas canopy, open sides."""
    u, z = place.u, place.z
    tub = s.one(((232, 182, 34), (44, 122, 62), (226, 188, 40)))
    canopy = s.one(((34, 34, 36), (232, 190, 44), (40, 40, 42)))
    if tub[1] < 140:
        canopy = (232, 190, 44)
    body = Body(
        1.36, ((0, 0.32), (0, 0.95), (0.1, 1.0), (1.9, 0.95), (2.5, 0.9), (2.65, 0.4)), 3.0, 0.26
    )
    half = body.width / 2
    s.shadow_box((u - half, u + half), (0.0, 1.7), (z, z + 2.4))
    shell(s, u, z, body.rear, body, tub, glass=False)
    # seats seen through the open side, then the canopy on its posts
    seen = s.visible_side((u - half, u + half), z)
    s.quad((u - half + 0.06, u + half - 0.06), (0.95, 1.6), z + 1.1, (38, 34, 34))
    if seen is not None:
        k, side = seen
        flap = ((0.1, 0.98), (0.75, 0.98), (0.6, 1.7), (0.06, 1.62))
        roof = ((0, 1.52), (2.1, 1.52), (1.9, 1.66), (0.9, 1.78), (0.05, 1.66))
        _flank(s, k, z, flap, canopy, side)
        _flank(s, k, z, roof, canopy, side)
        for dz in (1.25, 2.1):
            s.wire([(k, 0.95, z + dz), (k, 1.6, z + dz - 0.15)], (50, 50, 50), 0.07)
        door = ((0.9, 0.36), (1.5, 0.36), (1.6, 0.9), (0.85, 0.9))
        _flank(s, k, z, door, (46, 42, 40), side)
    s.flat((u - half, u + half), (z, z + 1.9), canopy, 1.74)
    top = (u - half * 0.86, u + half * 0.86)
    s.slope((u - half, u + half), top, (0.98, 1.74), (z, z + 0.12), canopy)
    s.quad((u - 0.34, u + 0.34), (1.24, 1.54), z - 0.01, (92, 104, 110))
    s.quad((u - half, u + half), (0.62, 0.7), z - 0.01, scaled(tub, 0.6))
    _pair(s, u, (0.44, 0.6), (0.72, 0.88), z - 0.01, (200, 36, 30))
    s.quad((u - 0.3, u + 0.3), (0.4, 0.56), z - 0.01, (238, 200, 60))


@register("small_vehicle/kei_truck")
def kei_truck(s: Sketch, place: Place) -> None:
    """A small flat-faced cab and a low drop-side bed."""
    u, z = place.u, place.z
    colour = s.one(((236, 237, 236), (228, 230, 230), (196, 206, 214)))
    half = 0.74
    s.part(z)
    s.shadow_box((u - half, u + half), (0.0, 1.5), (z + 0.2, z + 3.2))
    _pair(s, u, (half - 0.24, half - 0.04), (0, 0.5), z + 0.3, TYRE)
    s.quad((u - half + 0.1, u + half - 0.1), (0.2, 0.6), z + 0.2, (34, 34, 36))
    seen = s.visible_side((u - half, u + half), z)
    cab = ((1.95, 0.35), (1.95, 1.76), (2.2, 1.82), (2.75, 1.8), (3.2, 1.1), (3.25, 0.4))
    if seen is not None:
        window = ((2.25, 1.12), (2.98, 1.12), (2.68, 1.68), (2.25, 1.68))
        _flank(s, seen[0], z, cab, colour, seen[1])
        _flank(s, seen[0], z, window, GLASS, seen[1])
    s.quad((u - half, u + half), (0.6, 1.78), z + 1.95, colour)
    s.quad((u - half + 0.14, u + half - 0.14), (1.2, 1.62), z + 1.94, GLASS)
    for x in (-0.62, 0.6):
        s.quad((u + x, u + x + 0.05), (1.0, 1.76), z + 1.9, (120, 124, 126))
    if seen is not None:
        far = u + half if seen[1] == LEFT else u - half
        s.wall(far, (0.66, 0.98), (z, z + 1.9), scaled(colour, 0.7), FRONT)
    s.flat((u - half, u + half), (z, z + 1.9), (112, 116, 116), 0.68)
    if s.rng.random() < 0.6:
        load = s.one(((44, 92, 158), (150, 112, 70), (74, 120, 72)))
        s.box((u - 0.5, u + 0.42), (0.68, 1.18), (z + 0.5, z + 1.5), load)
    if seen is not None:
        k, side = seen
        s.wall(k, (0.62, 0.98), (z, z + 1.9), colour, side)
        for dz in (0.55, 2.75):
            s.disc((k, 0.27, z + dz), 0.27, TYRE, normal=side, corners=14)
            s.disc((k, 0.27, z + dz), 0.13, (170, 172, 174), normal=side, corners=10)
    s.quad((u - half, u + half), (0.62, 0.98), z, colour)
    s.quad((u - half, u + half), (0.6, 0.64), z - 0.01, (96, 98, 98))
    _pair(s, u, (0.48, 0.7), (0.42, 0.56), z, (196, 40, 34))
    s.quad((u - 0.2, u + 0.2), (0.36, 0.57), z - 0.01, (238, 200, 40))


@register("small_vehicle/panel_van")
def panel_van(s: Sketch, place: Place) -> None:
    """A small high-roofed van, white or postal yellow, rear doors split in the middle."""
    u, z = place.u, place.z
    colour = s.one(((246, 202, 30), (234, 235, 234), (246, 202, 30), (206, 212, 220)))
    body = Body(
        1.78,
        ((0, 0.32), (0, 1.0), (0.06, 1.82), (2.3, 1.84), (3.0, 1.06), (3.9, 0.9), (4.0, 0.34)),
        1.0,
        0.32,
    )
    half = body.width / 2
    shell(s, u, z, body.rear, body, colour, glass=False)
    seen = s.visible_side((u - half, u + half), z)
    if seen is not None:
        edge, side = seen
        k = u - half * 0.93 if side == LEFT else u + half * 0.93
        window = ((1.9, 1.08), (2.85, 1.08), (2.25, 1.7), (1.9, 1.7))
        _flank(s, k, z, window, GLASS, side)
        s.wall(edge, (0.7, 0.82), (z + 0.1, z + 3.4), (40, 66, 134), side)
    for sign in (-1, 1):
        a, b = sorted((u + sign * 0.05, u + sign * 0.64))
        s.quad((a, b), (1.14, 1.62), z - 0.01, GLASS)
        a, b = sorted((u + sign * (half - 0.03), u + sign * (half - 0.17)))
        s.quad((a, b), (0.72, 1.06), z - 0.01, (200, 34, 30))
    s.quad((u - 0.015, u + 0.015), (0.5, 1.74), z - 0.01, scaled(colour, 0.5))
    s.quad((u - half, u + half), (0.32, 0.46), z - 0.01, (62, 62, 64))
    s.quad((u - 0.27, u + 0.27), (0.56, 0.68), z - 0.01, (240, 240, 238))


#: width and height in metres, colours of the ground and of the ink
PLATES: dict[str, tuple[Span, Colour, Colour]] = {
    "white_blue_bands": ((0.72, 0.2), (242, 242, 240), (40, 40, 44)),
    "yellow_rear_wide": ((0.72, 0.2), (246, 196, 24), (34, 34, 34)),
    "white_wide": ((0.7, 0.2), (242, 242, 240), (34, 34, 34)),
    "white_green_ink": ((0.5, 0.26), (240, 242, 238), (30, 96, 62)),
    "yellow_short": ((0.5, 0.26), (246, 206, 34), (34, 34, 34)),
}


def _plate(s: Sketch, place: Place, look: str) -> None:
    """A rear plate with a row of characters; drawn a little larger than life."""
    (w, h), ground, ink = PLATES[look]
    u, z = place.u, place.z - 0.02
    y = CARS[place.variant % 3].rear[1][1] - 0.3
    left, right, low, high = u - w / 2, u + w / 2, y - h / 2, y + h / 2
    s.part(z)
    s.quad((left - 0.015, right + 0.015), (low - 0.015, high + 0.015), z, (40, 40, 40))
    s.quad((left, right), (low, high), z, ground)
    reach = 0.42 * w
    if look == "white_blue_bands":
        _pair(s, u, (0.4 * w, w / 2), (low, high), z, (28, 66, 170))
        reach = 0.36 * w
    wide = h < 0.3 * w  # a single row
    n = 7 if wide else 4
    step = (u + reach - (u - reach)) / n
    text = (y - 0.26 * h, y + 0.26 * h) if wide else (y - 0.34 * h, y + 0.1 * h)
    for k in range(n):
        if s.rng.random() < 0.9:
            a = u - reach + step * (k + 0.2)
            s.quad((a, a + 0.6 * step), text, z, ink)
    if not wide:
        s.quad((u - 0.2 * w, u + 0.22 * w), (y + 0.2 * h, y + 0.34 * h), z, ink)


for _look in PLATES:
    register(f"licence_plate/{_look}")(partial(_plate, look=_look))
