"""Cues painted on the carriageway and its kerb."""

from __future__ import annotations

from functools import partial

from geoscenes.camera import Colour, Span, scaled
from geoscenes.canvas import GROUND, Sketch
from geoscenes.layout import Place, register

NEAR, FAR = 2.0, 70.0  # metres
WHITE: Colour = (234, 234, 228)
YELLOW: Colour = (240, 188, 44)
ORANGE: Colour = (238, 150, 40)


def _line(
    s: Sketch, u: float, width: float, colour: Colour, dash: float = 0.0, gap: float = 0.0
) -> None:
    """A line along the road, a little wider than life; ``dash`` and ``gap`` in metres."""
    s.part(NEAR, GROUND)
    if not dash:
        z = NEAR
        while z < FAR:
            _piece(s, u, width, z, min(FAR, z * 1.35), colour)
            z *= 1.35
        return
    z = NEAR - s.rng.uniform(0, dash + gap)
    while z < FAR:
        if z + dash > NEAR:
            _piece(s, u, width, max(z, NEAR), z + dash, colour)
        z += dash + gap


def _piece(s: Sketch, u: float, width: float, z0: float, z1: float, colour: Colour) -> None:
    s.veil(z0)
    s.flat((u - width / 2, u + width / 2), (z0, z1), colour, steps=2)


def _worn(s: Sketch, colour: Colour) -> Colour:
    return scaled(colour, s.rng.uniform(0.86, 1.0))


#: colour, width in metres, range of the gap between dashes (none: solid)
CENTRES: dict[str, tuple[Colour, float, Span | None]] = {
    "white_dashed": (WHITE, 0.17, (3.5, 7)),
    "white_solid": (WHITE, 0.17, None),
    "yellow_solid": (ORANGE, 0.18, None),
    "yellow_dashed": (YELLOW, 0.18, (3.5, 6)),
}
EDGES = {"white_solid": (WHITE, 0.0), "white_dashed": (WHITE, 3.0), "yellow_solid": (YELLOW, 0.0)}
_DARK: Colour = (40, 40, 42)
#: colours and length of the blocks
KERBS: dict[str, tuple[Colour, Colour, float]] = {
    "black_white": (_DARK, (232, 231, 226), 1.1),
    "black_yellow": (_DARK, (240, 192, 40), 1.1),
    "yellow_dashed": ((240, 190, 50), (186, 183, 176), 1.3),
    "yellow_solid": ((238, 186, 46), (234, 182, 42), 2.0),
}


def _centre(s: Sketch, place: Place, colour: Colour, width: float, gap: Span | None) -> None:
    worn = _worn(s, colour)
    if gap is None:
        _line(s, 0, width, worn)
    else:
        _line(s, 0, width, worn, 3.0, s.rng.uniform(*gap))


@register("centre_line/yellow_double")
def centre_yellow_double(s: Sketch, place: Place) -> None:
    colour = _worn(s, YELLOW)
    _line(s, -0.16, 0.13, colour)
    _line(s, 0.16, 0.13, colour)


def _edge(s: Sketch, place: Place, colour: Colour, dash: float) -> None:
    worn = _worn(s, colour)
    for sign in (-1, 1):
        _line(s, sign * (place.street.half_width - 0.3), 0.16, worn, dash, 3.5)


def _kerb(s: Sketch, place: Place, first: Colour, second: Colour, block: float) -> None:
    """A raised kerb of painted blocks along both sides."""
    height, width = 0.24, 0.26
    for side in (-1, 1):
        u = side * place.street.half_width
        a, b = sorted((u, u + side * width))
        s.part(NEAR, GROUND)
        for k in reversed(range(int((34 - NEAR) / block))):
            z = NEAR + k * block, NEAR + (k + 1) * block
            colour = second if k % 2 else first
            s.veil(z[1])
            s.flat((a, b), z, colour, height)
            s.wall(u, (0, height), z, colour, (-side, 0, 0))


for _look, (_colour, _width, _gap) in CENTRES.items():
    register(f"centre_line/{_look}")(partial(_centre, colour=_colour, width=_width, gap=_gap))
for _look, (_colour, _dash) in EDGES.items():
    register(f"edge_line/{_look}")(partial(_edge, colour=_colour, dash=_dash))
for _look, (_first, _second, _block) in KERBS.items():
    register(f"kerb_paint/{_look}")(partial(_kerb, first=_first, second=_second, block=_block))
