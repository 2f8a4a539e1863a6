"""Cues beside the carriageway: poles, rails, bollards, milestones, boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

from geoscenes.camera import Colour, Span
from geoscenes.canvas import TOP, Sketch
from geoscenes.layout import Place, register
from geoscenes.objects.signs import write

WHITE: Colour = (238, 238, 234)
BLACK: Colour = (36, 36, 38)
STEEL: Colour = (168, 172, 176)


# -- utility poles ---------------------------------------------------------------------------------


def _poles(
    s: Sketch, place: Place, gap: Span, ends: list[Span], sag: float, foot: float, top: float
) -> Iterator[tuple[float, float]]:
    """Sagging wires from ``ends`` (offset, height), then pole after pole: where it stands."""
    u, step = place.u, s.rng.uniform(*gap)
    zs = [place.z + k * step for k in range(4)]
    for z0, z1 in pairwise([zs[0] - (zs[1] - zs[0]), *zs]):
        z0 = max(z0, 2.0)
        s.part(z0 + 0.5 * (z1 - z0))
        for du, y in ends:
            ts = [k / 6 for k in range(7)]
            points = [(u + du, y - sag * 4 * t * (1 - t), z0 + (z1 - z0) * t) for t in ts]
            s.wire(points, (52, 54, 58), 0.03)
    for z in zs:
        s.part(z)
        s.shadow([(u - foot, 0, z), (u + foot, 0, z), (u, top, z)])
        yield u, z


@register("utility_pole/concrete_guarded")
def pole_japan(s: Sketch, place: Place) -> None:
    """Round concrete, black-and-yellow guard, several cross-arms, transformers, many wires."""
    ends = [(du, y) for y in (8.7, 8.0) for du in (-0.8, 0.0, 0.8)]
    ends += [(0.2, y) for y in (5.6, 5.3, 5.0)]
    poles = _poles(s, place, (13, 16), ends, 0.45, 0.17, 9)
    for index, (u, z) in enumerate(poles):
        s.rod((u, 0, z), (u, 9.3, z), 0.36, (166, 164, 158), 0.62)
        for y in (8.7, 8.0, 7.1):
            s.box((u - 1.0, u + 1.0), (y - 0.07, y + 0.07), (z - 0.1, z), (140, 142, 142))
            for x in (-0.8, 0.8):
                at = u + x
                s.quad((at - 0.06, at + 0.06), (y + 0.07, y + 0.26), z - 0.05, (222, 222, 216))
        if index % 2 == 0 or s.rng.random() < 0.4:
            for x in (-0.42, 0.42):
                s.rod((u + x, 6.0, z - 0.1), (u + x, 6.95, z - 0.1), 0.58, (172, 176, 176))
        s.quad((u - 0.19, u + 0.19), (0.4, 2.2), z - 0.02, (246, 198, 20))
        for k in range(4):
            y = 0.4 + 0.45 * k
            band = ((-0.19, y), (0.19, y + 0.18), (0.19, y + 0.4), (-0.19, y + 0.22))
            s.board(u, z - 0.03, band, BLACK)


@register("utility_pole/wood_plain")
def pole_wood(s: Sketch, place: Place) -> None:
    """A thin creosoted trunk with one bundled cable and a short bracket."""
    for u, z in _poles(s, place, (17, 21), [(0.0, 6.6), (0.0, 6.25)], 0.5, 0.13, 7):
        s.rod((u, 0, z), (u, 7.1, z), 0.3, (122, 92, 66), 0.68)
        s.quad((u - 0.28, u + 0.1), (6.5, 6.62), z - 0.05, (60, 60, 62))
        s.quad((u - 0.1, u + 0.1), (1.8, 2.05), z - 0.06, (232, 226, 120))


@register("utility_pole/concrete_openwork")
def pole_openwork(s: Sketch, place: Place) -> None:
    """A rectangular concrete mast pierced by a ladder of holes."""
    ends = [(-0.75, 8.1), (0.0, 8.3), (0.75, 8.1)]
    for u, z in _poles(s, place, (17, 21), ends, 0.55, 0.2, 8):
        s.board(u, z, ((-0.27, 0), (0.27, 0), (0.16, 8.2), (-0.16, 8.2)), (184, 180, 170))
        for k in range(13):
            y = 0.7 + 0.56 * k
            half = (0.27 - 0.0134 * y) * 0.52
            s.quad((u - half, u + half), (y, y + 0.34), z - 0.01, (108, 106, 100))
        s.box((u - 0.95, u + 0.95), (7.96, 8.1), (z - 0.12, z), (120, 122, 122))


@register("utility_pole/steel_v_arm")
def pole_india(s: Sketch, place: Place) -> None:
    """A slender steel tube, lower part aluminium-painted, V cross-arm with three bare wires."""
    ends = [(-0.9, 7.9), (0.0, 8.4), (0.9, 7.9), (0.1, 6.2)]
    for u, z in _poles(s, place, (14, 18), ends, 0.6, 0.1, 8):
        s.rod((u, 0, z), (u, 2.6, z), 0.24, (212, 214, 216))
        s.rod((u, 2.6, z), (u, 8.4, z), 0.2, (86, 84, 86), 0.7)
        s.quad((u - 0.26, u + 0.26), (0, 0.45), z - 0.1, (176, 170, 160))
        for x in (-1, 1):
            arm = ((0, 7.1), (0, 7.3), (0.95 * x, 7.9), (0.95 * x, 7.72))
            s.board(u, z, arm, (74, 72, 74))
            s.quad((u + 0.9 * x - 0.08, u + 0.9 * x + 0.08), (7.82, 8.08), z - 0.02, (120, 66, 44))
        s.quad((u - 0.3, u + 0.3), (3.1, 3.7), z - 0.04, (96, 100, 106))


# -- guard rails -----------------------------------------------------------------------------------


_PIPE: Colour = (240, 241, 238)
_STEEL_BEAM = ((0.44, 0.55, STEEL), (0.55, 0.63, (118, 122, 126)), (0.63, 0.74, (190, 194, 198)))
_PALE, _GREY, _BRIGHT = (236, 238, 236), (196, 200, 200), (246, 247, 245)
_WHITE_BEAM = ((0.42, 0.56, _PALE), (0.56, 0.64, _GREY), (0.64, 0.8, _BRIGHT))
#: beams (from, to, colour), colour of the posts, height
RAILS: dict[str, tuple[tuple[tuple[float, float, Colour], ...], Colour, float]] = {
    "galvanised_w": (_STEEL_BEAM, (136, 140, 142), 0.72),
    "white_beam": (_WHITE_BEAM, (240, 240, 238), 0.84),
    "white_pipe": (tuple((y, y + 0.09, _PIPE) for y in (0.3, 0.58, 0.88)), _PIPE, 1.0),
}


def _rail(s: Sketch, place: Place, look: str) -> None:
    """Beams on posts two metres apart."""
    side, u, gap = place.side, place.u, 2.0
    beams, post, height = RAILS[look]
    for z in _row(place, gap, 14):
        s.part(z)
        s.box((u + side * 0.06 - 0.07, u + side * 0.06 + 0.07), (0, height), (z, z + 0.12), post)
        s.shadow_box((u - 0.02, u + 0.1), (0.3, height), (z, z + gap))
        for low, high, colour in beams:
            s.wall(u, (low, high), (z, z + gap), colour, (-0.92 * side, 0.4, 0.0))


for _look in RAILS:
    register(f"guard_rail/{_look}")(partial(_rail, look=_look))


@register("guard_rail/parapet_black_yellow")
def rail_parapet(s: Sketch, place: Place) -> None:
    """A low masonry parapet painted in bands."""
    side, u = place.side, place.u
    for k in reversed(range(18)):
        z = place.z + 1.4 * k
        colour: Colour = (242, 192, 36) if k % 2 else (44, 44, 46)
        s.part(z)
        a, b = sorted((u, u + side * 0.3))
        s.shadow_box((a, b), (0, 0.75), (z, z + 1.4))
        s.box((a, b), (0, 0.75), (z, z + 1.4), colour)


# -- bollards and milestones -----------------------------------------------------------------------


def _row(place: Place, gap: float, count: int) -> list[float]:
    return [place.z + gap * k for k in reversed(range(count))]


def _stake(s: Sketch, u: float, z: float, height: float, width: float, colour: Colour) -> None:
    s.part(z)
    s.shadow([(u - width / 2, 0, z), (u + width / 2, 0, z), (u, height, z)])
    s.rod((u, 0, z), (u, height, z), width, colour)


@register("bollard/white_red_band")
def bollard_france(s: Sketch, place: Place) -> None:
    u = place.u
    for z in _row(place, 4.0, 5):
        _stake(s, u, z, 1.15, 0.24, WHITE)
        s.disc((u, 1.15, z), 0.12, WHITE, squash=0.7)
        s.rod((u, 0.72, z - 0.02), (u, 0.98, z - 0.02), 0.25, (206, 36, 40))


@register("bollard/orange_flexible")
def bollard_orange(s: Sketch, place: Place) -> None:
    u = place.u
    orange: Colour = (244, 104, 32)
    for z in _row(place, 2.4, 7):
        _stake(s, u, z, 0.95, 0.2, orange)
        s.disc((u, 0.02, z - 0.02), 0.2, (60, 50, 46), squash=0.4)
        for y in (0.5, 0.74):
            s.rod((u, y, z - 0.02), (u, y + 0.11, z - 0.02), 0.205, (246, 246, 240))


@register("bollard/white_orange_reflector")
def bollard_delineator(s: Sketch, place: Place) -> None:
    u = place.u
    for z in _row(place, 4.0, 5):
        _stake(s, u, z, 1.15, 0.15, WHITE)
        s.disc((u, 1.12, z - 0.03), 0.17, (214, 216, 214), corners=12)
        s.disc((u, 1.12, z - 0.04), 0.13, (244, 130, 30), corners=12)


@register("bollard/black_white_stone")
def bollard_india(s: Sketch, place: Place) -> None:
    u = place.u
    for z in _row(place, 3.0, 6):
        s.part(z)
        s.shadow_box((u - 0.16, u + 0.16), (0, 0.9), (z, z + 0.3))
        for k in range(4):
            colour: Colour = (232, 230, 224) if k % 2 else (46, 46, 48)
            s.box((u - 0.16, u + 0.16), (0.24 * k, 0.24 * (k + 1)), (z, z + 0.3), colour)


#: colour of the head, script, height
MILESTONES: dict[str, tuple[Colour, str, float]] = {
    "yellow_head": ((242, 196, 34), "latin", 1.15),
    "green_head": ((34, 128, 70), "devanagari", 1.15),
    "red_head": ((204, 44, 42), "latin", 1.0),
}


def _milestone(s: Sketch, place: Place, look: str) -> None:
    """A white stone with a rounded coloured head."""
    cap, script, tall = MILESTONES[look]
    u, z, half = place.u, place.z, 0.34
    front = z - 0.01
    s.part(z)
    s.shadow_box((u - half, u + half), (0, tall), (z, z + 0.35))
    s.box((u - half, u + half), (0, tall * 0.66), (z, z + 0.35), (236, 234, 226))
    turns = [t * math.pi / 10 for t in range(11)]
    arch = [(half * math.cos(t), tall * 0.66 + (tall * 0.34) * math.sin(t)) for t in turns]
    s.board(u, z, arch, cap)
    s.quad((u - half - 0.08, u + half + 0.08), (0, 0.1), z - 0.04, (172, 168, 160))
    name, distance = (tall * 0.36, tall * 0.58), (tall * 0.14, tall * 0.32)
    write(s, script, (u - 0.26, u + 0.26), name, front, BLACK, 3, weight=0.2)
    write(s, "latin", (u - 0.2, u + 0.2), distance, front, BLACK, 2, weight=0.2)


for _look in MILESTONES:
    register(f"milestone/{_look}")(partial(_milestone, look=_look))


# -- boxes -----------------------------------------------------------------------------------------


@register("street_box/vending_machines")
def vending(s: Sketch, place: Place) -> None:
    """One to three machines in a row: lit shelves of bottles over a coin panel."""
    colours = ((206, 36, 40), (238, 238, 238), (36, 92, 178))
    bottles = ((200, 60, 50), (60, 130, 80), (230, 180, 60), (60, 90, 160), (140, 90, 60))
    n = 2 if s.rng.random() < 0.6 else 1
    for k in range(n):
        u, z = place.u + place.side * 1.12 * k, place.z
        body = s.one(colours)
        s.part(z)
        s.shadow_box((u - 0.52, u + 0.52), (0, 1.95), (z, z + 0.75))
        s.box((u - 0.54, u + 0.54), (0.05, 1.95), (z, z + 0.75), body)
        s.quad((u - 0.45, u + 0.45), (0.92, 1.82), z - 0.01, (236, 244, 248))
        for row in range(3):
            y = 0.96 + 0.29 * row
            for c in range(6):
                a = u - 0.42 + 0.143 * c
                s.quad((a, a + 0.1), (y, y + 0.2), z - 0.02, s.one(bottles))
            s.quad((u - 0.45, u + 0.45), (y + 0.22, y + 0.25), z - 0.02, (120, 130, 138))
        s.quad((u - 0.4, u + 0.4), (0.2, 0.42), z - 0.01, (46, 48, 52))
        s.quad((u + 0.12, u + 0.4), (0.54, 0.82), z - 0.01, (206, 210, 212))


@register("street_box/yellow_letterbox")
def letterbox_yellow(s: Sketch, place: Place) -> None:
    u, z = place.u, place.z
    yellow: Colour = (248, 204, 22)
    s.part(z)
    s.shadow_box((u - 0.36, u + 0.36), (0, 1.5), (z, z + 0.45))
    s.box((u - 0.14, u + 0.14), (0, 0.5), (z + 0.1, z + 0.35), (70, 74, 80))
    s.box((u - 0.42, u + 0.42), (0.45, 1.6), (z, z + 0.48), yellow)
    s.quad((u - 0.36, u + 0.36), (1.26, 1.36), z - 0.01, BLACK)
    s.quad((u - 0.3, u + 0.3), (0.86, 1.14), z - 0.01, (32, 62, 132))
    s.quad((u - 0.42, u + 0.42), (0.45, 0.52), z - 0.01, (196, 156, 20))


@register("street_box/red_pillar")
def letterbox_pillar(s: Sketch, place: Place) -> None:
    u, z = place.u, place.z
    red: Colour = (198, 34, 36)
    s.part(z)
    s.shadow_box((u - 0.34, u + 0.34), (0, 1.6), (z - 0.2, z + 0.3))
    s.rod((u, 0, z), (u, 0.22, z), 0.84, BLACK)
    s.rod((u, 0.2, z), (u, 1.55, z), 0.74, red)
    s.disc((u, 1.55, z), 0.44, (212, 48, 46), squash=0.42)
    s.rod((u, 1.46, z - 0.02), (u, 1.56, z - 0.02), 0.84, (176, 26, 30))
    s.quad((u - 0.24, u + 0.24), (1.26, 1.34), z - 0.03, BLACK)
    s.quad((u - 0.2, u + 0.2), (0.74, 1.06), z - 0.03, (238, 236, 228))


@register("street_box/red_box_on_foot")
def letterbox_japan(s: Sketch, place: Place) -> None:
    u, z = place.u, place.z
    red: Colour = (220, 40, 36)
    s.part(z)
    s.shadow_box((u - 0.34, u + 0.34), (0, 1.4), (z, z + 0.45))
    s.box((u - 0.12, u + 0.12), (0, 0.62), (z + 0.12, z + 0.3), (96, 98, 100))
    s.box((u - 0.38, u + 0.38), (0.6, 1.45), (z, z + 0.5), red)
    for x in (-0.19, 0.19):
        s.quad((u + x - 0.13, u + x + 0.13), (1.2, 1.28), z - 0.01, BLACK)
    s.quad((u - 0.16, u + 0.16), (0.78, 1.06), z - 0.01, WHITE)
    top = (u - 0.34, u + 0.34)
    s.slope((u - 0.38, u + 0.38), top, (1.45, 1.54), (z, z + 0.1), red, TOP)
