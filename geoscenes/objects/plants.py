"""Cues that grow: rows and groups of trees that tell of a climate or a custom."""

from __future__ import annotations

from functools import partial

from geoscenes.camera import Span
from geoscenes.canvas import Sketch
from geoscenes.layout import Place, register
from geoscenes.sprites import VARIANTS, bitmap


def tree(
    s: Sketch, species: str, u: float, z: float, height: float, *, spread: float = 1.0
) -> None:
    """One plant with its shadow; bitmaps are lit from the left and turned to face the sun."""
    sprite = bitmap(species, int(s.rng.integers(VARIANTS)))
    h, w = sprite.levels[0].shape[:2]
    width = height * w / h * spread
    tint = tuple(float(k) for k in s.rng.normal(1.0, 0.035, 3) * s.rng.uniform(0.92, 1.1))
    s.part(z)
    s.shadow_disc((u, height * 0.62, z), width * 0.36, 0.75)
    s.shadow(
        [(u - 0.12, 0, z), (u + 0.12, 0, z), (u - 0.12, height / 2, z), (u + 0.12, height / 2, z)]
    )
    s.sprite(sprite, (u, 0.0, z), (width, height), tint=tint, flip=s.light.sun[0] > 0)


#: looks of vegetation: species, height in metres, gap in metres, number
ROWS = {
    "plane_trees": ("plane_tree", (7.0, 8.5), 6.5, 4),
    "poplars": ("poplar", (8.5, 11.0), 4.0, 6),
    "palms": ("palm", (6.2, 8.4), 5.5, 4),
    "bananas": ("banana", (3.6, 4.8), 4.0, 4),
    "cedars": ("cedar", (9.0, 12.0), 3.2, 7),
    "bamboo": ("bamboo", (6.5, 8.5), 3.0, 6),
    "spruces": ("spruce", (8.0, 11.0), 3.6, 6),
    "cypresses": ("cypress", (7.0, 9.5), 2.4, 8),
    "pines": ("pine", (9.0, 11.5), 3.4, 7),
    "birches": ("birch", (7.5, 9.5), 3.4, 6),
    "acacias": ("acacia", (4.2, 5.6), 6.0, 4),
    "fan_palms": ("fan_palm", (8.0, 10.5), 4.2, 5),
    "apple_trees": ("apple_tree", (3.6, 4.4), 3.8, 6),
    "citrus_trees": ("citrus_tree", (3.4, 4.2), 3.4, 6),
}


def _row(s: Sketch, place: Place, species: str, height: Span, gap: float, count: int) -> None:
    for k in range(count):
        z = place.z + gap * k + s.rng.uniform(-0.15, 0.15) * gap
        u = place.u + place.side * s.rng.uniform(-0.4, 0.8)
        tree(s, species, u, z, s.rng.uniform(*height))


for _look, (_species, _height, _gap, _count) in ROWS.items():
    register(f"vegetation/{_look}")(
        partial(_row, species=_species, height=_height, gap=_gap, count=_count)
    )
