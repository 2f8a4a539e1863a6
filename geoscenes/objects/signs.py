"""Cues on posts: traffic signs, direction and town signs, shop boards, mirrors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from geoscenes.camera import Colour, Span
from geoscenes.canvas import Sketch
from geoscenes.layout import Place, register
from geoscenes.objects.glyphs import SCRIPTS, STOP, TOMARE, Stroke

WHITE: Colour = (238, 238, 236)
BLACK: Colour = (34, 34, 38)
RED: Colour = (200, 34, 38)
STEEL: Colour = (150, 153, 156)


def write(
    s: Sketch,
    script: str,
    u: Span,
    y: Span,
    z: float,
    ink: Sequence[float],
    letters: int,
    *,
    upright: bool = False,
    weight: float = 0.13,
) -> None:
    """A row (or, ``upright``, a column) of random letters that fills a rectangle."""
    glyphs = [SCRIPTS[script](s.rng) for _ in range(letters)]
    pad = 0.0 if script == "devanagari" else 0.1
    spell(s, glyphs, u, y, z, ink, upright=upright, weight=weight, pad=pad)


def spell(
    s: Sketch,
    glyphs: Sequence[Sequence[Stroke]],
    u: Span,
    y: Span,
    z: float,
    ink: Sequence[float],
    *,
    upright: bool = False,
    weight: float = 0.13,
    pad: float = 0.1,
) -> None:
    """The given letters in a row or column that fills a rectangle."""
    w, h = u[1] - u[0], y[1] - y[0]
    cell = (w, h / len(glyphs)) if upright else (w / len(glyphs), h)
    for k, glyph in enumerate(glyphs):
        x0 = u[0] if upright else u[0] + k * cell[0]
        y0 = y[1] - (k + 1) * cell[1] if upright else y[0]
        for stroke in glyph:
            points = [
                (x0 + cell[0] * (pad + (1 - 2 * pad) * a), y0 + cell[1] * (0.08 + 0.84 * b), z)
                for a, b in stroke
            ]
            s.wire(points, ink, weight * min(cell))


def _post(
    s: Sketch, u: float, z: float, top: float, colour: Colour = STEEL, width: float = 0.09
) -> None:
    s.rod((u, 0, z + 0.05), (u, top, z + 0.05), width, colour)
    s.shadow([(u - width, 0, z), (u + width, 0, z), (u - width, top, z), (u + width, top, z)])


# -- warning and stop ------------------------------------------------------------------------------

Face = tuple[float, Colour]  # radius, colour


def _shield(
    s: Sketch, place: Place, corners: int, turn: float, rim: Face, inner: Face
) -> tuple[float, float, float]:
    """A regular polygon with a rim on a post; its centre."""
    at = (place.u, s.rng.uniform(1.95, 2.2), place.z)
    s.part(place.z)
    _post(s, place.u, place.z, at[1])
    s.shadow_disc(at, 0.4)
    for radius, colour in (rim, inner):
        s.disc(at, radius, colour, corners=corners, turn=turn)
    return at


@register("warning_sign/red_triangle")
def warning_triangle(s: Sketch, place: Place) -> None:
    u, y, z = _shield(s, place, 3, math.pi / 2, (0.68, RED), (0.44, (246, 246, 240)))
    s.quad((u - 0.05, u + 0.05), (y - 0.06, y + 0.2), z, BLACK)
    s.quad((u - 0.05, u + 0.05), (y - 0.17, y - 0.1), z, BLACK)


@register("warning_sign/yellow_diamond")
def warning_diamond(s: Sketch, place: Place) -> None:
    u, y, z = _shield(s, place, 4, 0, (0.64, BLACK), (0.58, (250, 200, 24)))
    lean = 0.16 if s.rng.random() < 0.5 else -0.16
    bend = ((-lean, -0.26), (-lean, 0), (lean, 0.06), (lean * 0.6, 0.28))
    s.wire([(u + du, y + dy, z) for du, dy in bend], BLACK, 0.1)


@register("stop_sign/octagon")
def stop_octagon(s: Sketch, place: Place) -> None:
    u, y, z = _shield(s, place, 8, math.pi / 8, (0.54, WHITE), (0.48, RED))
    spell(s, STOP, (u - 0.42, u + 0.42), (y - 0.17, y + 0.17), z, WHITE, weight=0.2)


@register("stop_sign/inverted_triangle")
def stop_triangle(s: Sketch, place: Place) -> None:
    u, y, z = _shield(s, place, 3, -math.pi / 2, (0.7, WHITE), (0.6, RED))
    spell(s, TOMARE, (u - 0.36, u + 0.36), (y, y + 0.24), z, WHITE, weight=0.17)


# -- directions and towns --------------------------------------------------------------------------


def _panel(
    s: Sketch,
    at: tuple[float, float, float],
    size: Span,
    colour: Colour,
    rim: Colour,
    edge: float = 0.05,
) -> None:
    """A rectangular board with a rim; ``at`` is its centre."""
    u, y, z = at
    w, h = size[0] / 2, size[1] / 2
    s.shadow_box((u - w, u + w), (y - h, y + h), (z, z + 0.05))
    s.quad((u - w, u + w), (y - h, y + h), z, rim)
    s.quad((u - w + edge, u + w - edge), (y - h + edge, y + h - edge), z, colour)


@register("direction_sign/arrow_board")
def direction_arrow(s: Sketch, place: Place) -> None:
    """Stacked boards whose end is a point: white, green or blue, dark or white lettering."""
    u, z = place.u, place.z
    styles = ((WHITE, BLACK), ((24, 112, 70), WHITE), ((28, 78, 160), WHITE))
    turn = 1 if s.rng.random() < 0.5 else -1
    s.part(z)
    _post(s, u, z, 4.0)
    for k in range(2):
        ground, ink = styles[int(s.rng.integers(3))]
        y, w, h = 3.7 - 0.56 * k, 1.0, 0.24
        s.shadow_box((u - w, u + w), (y - h, y + h), (z, z + 0.05))
        for grow, colour in ((0.045, ink), (0.0, ground)):
            a, b = u - turn * (w + grow * 0.7), u + turn * (w - 0.2)
            tip = u + turn * (w + 0.1 + grow * 1.4)
            g = h + grow
            outline = ((a, y - g), (b, y - g), (tip, y), (b, y + g), (a, y + g))
            s.board(0, z, outline, colour)
        write(s, "latin", (u - 0.8, u + 0.72), (y - 0.14, y + 0.14), z, ink, 7, weight=0.22)


@register("direction_sign/blue_board")
def direction_blue(s: Sketch, place: Place) -> None:
    """A blue board with a junction's arrows and square characters over small Latin ones."""
    u, z, y = place.u, place.z, 3.9
    s.part(z)
    _post(s, u - 0.5, z, 3.3)
    _post(s, u + 0.5, z, 3.3)
    _panel(s, (u, y, z), (2.1, 1.5), (20, 70, 156), WHITE)
    s.wire([(u - 0.1, y - 0.66, z), (u - 0.1, y + 0.2, z)], WHITE, 0.15)
    s.disc((u - 0.1, y + 0.24, z), 0.16, WHITE, corners=3, turn=math.pi / 2)
    s.wire([(u - 0.1, y - 0.28, z), (u + 0.5, y - 0.28, z)], WHITE, 0.13)
    s.disc((u + 0.56, y - 0.28, z), 0.15, WHITE, corners=3, turn=0)
    write(s, "japanese", (u - 0.42, u + 0.42), (y + 0.4, y + 0.68), z, WHITE, 3, weight=0.16)
    write(s, "japanese", (u + 0.26, u + 0.92), (y - 0.14, y + 0.16), z, WHITE, 2, weight=0.16)


@register("direction_sign/green_board")
def direction_green(s: Sketch, place: Place) -> None:
    """A green board on two posts, lettered in Devanagari above and Latin below, with arrows."""
    u, z, y = place.u, place.z, 3.8
    s.part(z)
    _post(s, u - 0.8, z, 3.1)
    _post(s, u + 0.8, z, 3.1)
    _panel(s, (u, y, z), (2.3, 1.4), (18, 104, 62), WHITE)
    write(s, "devanagari", (u - 0.98, u + 0.42), (y + 0.16, y + 0.54), z, WHITE, 4, weight=0.17)
    write(s, "latin", (u - 0.98, u + 0.42), (y - 0.2, y + 0.06), z, WHITE, 6, weight=0.2)
    write(s, "devanagari", (u - 0.98, u + 0.2), (y - 0.58, y - 0.28), z, WHITE, 4, weight=0.17)
    s.wire([(u + 0.76, y - 0.3, z), (u + 0.76, y + 0.3, z)], WHITE, 0.12)
    s.disc((u + 0.76, y + 0.34, z), 0.18, WHITE, corners=3, turn=math.pi / 2)


@register("town_sign/white_red_border")
def town_sign(s: Sketch, place: Place) -> None:
    u, z, y = place.u, place.z, 2.15
    s.part(z)
    _post(s, u - 0.6, z, 1.9)
    _post(s, u + 0.6, z, 1.9)
    _panel(s, (u, y, z), (1.9, 0.68), WHITE, RED, edge=0.1)
    write(s, "latin", (u - 0.74, u + 0.74), (y - 0.15, y + 0.15), z, BLACK, 8, weight=0.22)
    if s.rng.random() < 0.6:
        top = y + 0.34
        s.quad((u - 0.3, u + 0.3), (top + 0.03, top + 0.3), z, (224, 190, 50))
        write(s, "latin", (u - 0.24, u + 0.24), (top + 0.08, top + 0.25), z, WHITE, 4, weight=0.22)


@register("town_sign/blue_boundary")
def town_boundary(s: Sketch, place: Place) -> None:
    """An upright blue boundary board with a pictorial emblem and square characters."""
    u, z, y = place.u, place.z, 2.0
    s.part(z)
    _post(s, u, z, 2.6)
    _panel(s, (u, y, z), (1.0, 1.5), (26, 84, 168), WHITE)
    s.disc((u, y + 0.36, z), 0.26, (238, 150, 170), corners=5, turn=math.pi / 2)
    s.disc((u, y + 0.36, z), 0.1, (246, 226, 120), corners=8)
    write(s, "japanese", (u - 0.36, u + 0.36), (y - 0.24, y + 0.06), z, WHITE, 2, weight=0.16)
    write(s, "latin", (u - 0.36, u + 0.36), (y - 0.54, y - 0.34), z, WHITE, 5, weight=0.2)


@register("town_sign/yellow_slab")
def town_slab(s: Sketch, place: Place) -> None:
    """A yellow masonry name slab on short legs, black letters in two scripts."""
    u, z, y = place.u, place.z, 1.35
    s.part(z)
    for x in (-0.7, 0.7):
        s.box((u + x - 0.1, u + x + 0.1), (0, 1.0), (z, z + 0.2), (196, 192, 184))
    s.shadow_box((u - 0.95, u + 0.95), (0.9, 1.8), (z, z + 0.2))
    s.box((u - 0.95, u + 0.95), (0.88, 1.82), (z, z + 0.2), (244, 200, 44))
    across, front = (u - 0.76, u + 0.76), z - 0.01
    write(s, "devanagari", across, (y + 0.02, y + 0.4), front, BLACK, 5, weight=0.17)
    write(s, "latin", across, (y - 0.38, y - 0.1), front, BLACK, 7, weight=0.2)


# -- shops -----------------------------------------------------------------------------------------

_BOARDS: tuple[tuple[Colour, Colour], ...] = (
    ((196, 40, 42), WHITE),
    ((24, 92, 160), WHITE),
    ((240, 200, 50), (160, 30, 34)),
    ((238, 236, 228), (30, 60, 130)),
    ((30, 110, 76), (248, 236, 190)),
    ((238, 236, 228), (170, 34, 40)),
)


def _shop(s: Sketch, place: Place, script: str, letters: int, upright: bool = False) -> None:
    """A board on two posts; its colours are the same everywhere, only the script differs."""
    u, z = place.u, place.z
    ground, ink = _BOARDS[place.variant % len(_BOARDS)]
    w, h, y = (1.1, 3.0, 3.6) if upright else (2.6, 1.05, 3.6)
    s.part(z)
    for x in (-0.3 * w, 0.3 * w):
        _post(s, u + x, z, y - h / 2, (112, 114, 118), 0.12)
    s.shadow_box((u - w / 2, u + w / 2), (y - h / 2, y + h / 2), (z, z + 0.2))
    s.box((u - w / 2, u + w / 2), (y - h / 2, y + h / 2), (z, z + 0.25), ground)
    a, b = 0.88 * w / 2, 0.88 * h / 2
    across, up = (u - a, u + a), (y - b, y + b)
    write(s, script, across, up, z - 0.01, ink, letters, upright=upright, weight=0.15)


register("shop_sign/latin")(partial(_shop, script="latin", letters=5))
register("shop_sign/devanagari")(partial(_shop, script="devanagari", letters=4))


@register("shop_sign/japanese")
def shop_japanese(s: Sketch, place: Place) -> None:
    _shop(s, place, "japanese", 3, s.rng.random() < 0.6)


# -- mirrors ---------------------------------------------------------------------------------------


def _mirror(s: Sketch, place: Place, rim: Colour, post: Colour, round_glass: bool) -> None:
    u, z, y = place.u, place.z, 2.3
    s.part(z)
    _post(s, u, z, y, post, 0.13)
    s.shadow_disc((u, y, z), 0.5)
    if round_glass:
        s.disc((u, y, z), 0.56, rim)
        s.disc((u, y, z - 0.01), 0.46, (176, 196, 212))
        s.disc((u - 0.02, y - 0.16, z - 0.01), 0.34, (112, 124, 112), squash=0.7)
        s.disc((u + 0.1, y + 0.2, z - 0.01), 0.16, (226, 234, 240), squash=0.6)
    else:
        s.quad((u - 0.6, u + 0.6), (y - 0.46, y + 0.46), z, BLACK)
        for k in range(6):
            s.quad((u - 0.6 + 0.2 * k, u - 0.5 + 0.2 * k), (y - 0.46, y + 0.46), z, WHITE)
        s.disc((u, y, z - 0.01), 0.42, (176, 196, 212), squash=0.84)
        s.disc((u, y - 0.14, z - 0.01), 0.3, (112, 124, 112), squash=0.6)


_ORANGE: Colour = (240, 118, 24)
register("mirror/orange_round")(partial(_mirror, rim=_ORANGE, post=_ORANGE, round_glass=True))
register("mirror/striped_square")(partial(_mirror, rim=BLACK, post=STEEL, round_glass=False))
