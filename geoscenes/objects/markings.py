"""Cues painted on the carriageway and its kerb."""

from __future__ import annotations

from geoscenes.camera import Colour
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
    k = s.rng.uniform(0.86, 1.0)
    return (colour[0] * k, colour[1] * k, colour[2] * k)


@register("centre_line/white_dashed")
def centre_white_dashed(s: Sketch, place: Place) -> None:
    _line(s, 0, 0.17, _worn(s, WHITE), 3.0, s.rng.uniform(3.5, 7))


@register("centre_line/white_solid")
def centre_white_solid(s: Sketch, place: Place) -> None:
    _line(s, 0, 0.17, _worn(s, WHITE))


@register("centre_line/yellow_solid")
def centre_yellow_solid(s: Sketch, place: Place) -> None:
    _line(s, 0, 0.18, _worn(s, ORANGE))


@register("centre_line/yellow_dashed")
def centre_yellow_dashed(s: Sketch, place: Place) -> None:
    _line(s, 0, 0.18, _worn(s, YELLOW), 3.0, s.rng.uniform(3.5, 6))


@register("centre_line/yellow_double")
def centre_yellow_double(s: Sketch, place: Place) -> None:
    colour = _worn(s, YELLOW)
    _line(s, -0.16, 0.13, colour)
    _line(s, 0.16, 0.13, colour)


def _both_edges(
    s: Sketch, place: Place, colour: Colour, dash: float = 0.0, gap: float = 0.0
) -> None:
    for sign in (-1, 1):
        _line(s, sign * (place.street.half_width - 0.3), 0.16, colour, dash, gap)


@register("edge_line/white_solid")
def edge_white_solid(s: Sketch, place: Place) -> None:
    _both_edges(s, place, _worn(s, WHITE))


@register("edge_line/white_dashed")
def edge_white_dashed(s: Sketch, place: Place) -> None:
    _both_edges(s, place, _worn(s, WHITE), 3.0, 3.5)


@register("edge_line/yellow_solid")
def edge_yellow_solid(s: Sketch, place: Place) -> None:
    _both_edges(s, place, _worn(s, YELLOW))


def _kerb(s: Sketch, place: Place, colours: tuple[Colour, Colour], block: float) -> None:
    """A raised kerb of painted blocks along both sides."""
    height, width = 0.24, 0.26
    for side in (-1, 1):
        u = side * place.street.half_width
        a, b = sorted((u, u + side * width))
        s.part(NEAR, GROUND)
        n = int((34 - NEAR) / block)
        for k in reversed(range(n)):
            z0, z1 = NEAR + k * block, NEAR + (k + 1) * block
            s.veil(z1)
            s.flat((a, b), (z0, z1), colours[k % 2], height)
            s.face(
                [(u, 0, z0), (u, 0, z1), (u, height, z1), (u, height, z0)],
                colours[k % 2],
                (-side, 0, 0),
            )


@register("kerb_paint/black_white")
def kerb_black_white(s: Sketch, place: Place) -> None:
    _kerb(s, place, ((40, 40, 42), (232, 231, 226)), 1.1)


@register("kerb_paint/black_yellow")
def kerb_black_yellow(s: Sketch, place: Place) -> None:
    _kerb(s, place, ((40, 40, 42), (240, 192, 40)), 1.1)


@register("kerb_paint/yellow_dashed")
def kerb_yellow_dashed(s: Sketch, place: Place) -> None:
    _kerb(s, place, ((240, 190, 50), (186, 183, 176)), 1.3)


@register("kerb_paint/yellow_solid")
def kerb_yellow_solid(s: Sketch, place: Place) -> None:
    _kerb(s, place, ((238, 186, 46), (234, 182, 42)), 2.0)
