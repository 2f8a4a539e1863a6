"""Cues that grow: rows and groups of trees that tell of a climate or a custom."""

from __future__ import annotations

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


def row(
    s: Sketch, place: Place, species: str, height: tuple[float, float], gap: float, count: int
) -> None:
    for k in range(count):
        z = place.z + gap * k + s.rng.uniform(-0.15, 0.15) * gap
        u = place.u + place.side * s.rng.uniform(-0.4, 0.8)
        tree(s, species, u, z, s.rng.uniform(*height))


@register("vegetation/plane_trees")
def plane_trees(s: Sketch, place: Place) -> None:
    row(s, place, "plane_tree", (7.0, 8.5), 6.5, 4)


@register("vegetation/poplars")
def poplars(s: Sketch, place: Place) -> None:
    row(s, place, "poplar", (8.5, 11.0), 4.0, 6)


@register("vegetation/palms")
def palms(s: Sketch, place: Place) -> None:
    row(s, place, "palm", (6.2, 8.4), 5.5, 4)


@register("vegetation/bananas")
def bananas(s: Sketch, place: Place) -> None:
    row(s, place, "banana", (3.6, 4.8), 4.0, 4)


@register("vegetation/cedars")
def cedars(s: Sketch, place: Place) -> None:
    row(s, place, "cedar", (9.0, 12.0), 3.2, 7)


@register("vegetation/bamboo")
def bamboo(s: Sketch, place: Place) -> None:
    row(s, place, "bamboo", (6.5, 8.5), 3.0, 6)
