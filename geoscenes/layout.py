"""Where things stand, and who draws them.

Places never depend on the country: every kind of cue has its place in every scene, whether the
country's draw fills it or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from geoscenes.camera import Span
from geoscenes.canvas import Sketch
from geoscenes.ground import Street

PARKED = 0.4  # metres outside the carriageway's edge: two wheels up on the kerb, clear of traffic
PARKED_DEPTH = (6.9, 8.5)


@dataclass(frozen=True)
class Place:
    """Spot of one object: ``side`` of the road (-1 left), foot at ``(u, z)``, and a shape index."""

    side: int
    u: float
    z: float
    street: Street
    variant: int


@dataclass(frozen=True)
class Slot:
    """A place and what may fill it. ``cue``: filled by the country's draw; else by ``category``."""

    id: str
    category: str
    cue: bool
    place: Place
    host: str | None = None  # id of the object this one is fixed to


Drawer = Callable[[Sketch, Place], None]
DRAWERS: dict[str, Drawer] = {}


def register(name: str) -> Callable[[Drawer], Drawer]:
    """Enter a drawing function as ``category``, or ``kind/look`` for a cue."""

    def enter(draw: Drawer) -> Drawer:
        DRAWERS[name] = draw
        return draw

    return enter


def stream(seed: int, name: str) -> np.random.Generator:
    """Random stream of one named thing in one scene: no stream depends on what others use."""
    return np.random.Generator(np.random.PCG64(_digest(seed, name, 16)))


def quantile(seed: int, name: str) -> float:
    """One uniform draw in 0..1 for one named choice in one scene."""
    return (_digest(seed, name, 6) + 0.5) / 2.0**48


def _digest(seed: int, name: str, size: int) -> int:
    text = f"{int(seed)}:{name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=size).digest(), "little")


def cue_slot(seed: int, street: Street, kind: str) -> Slot:
    """The place of one kind of cue, which every scene has."""
    return _cue_slot(_Plan(seed, street), kind)


def _cue_slot(plan: _Plan, kind: str) -> Slot:
    return Slot(kind, kind, True, plan.cue(kind), "car" if kind == "licence_plate" else None)


def slots(seed: int, street: Street, cue_kinds: tuple[str, ...]) -> list[Slot]:
    """All places of a scene: one for each cue kind, and the neutral objects it happens to have."""
    plan = _Plan(seed, street)
    # where the relief tells of the region, it stands in the place of the neutral mountain
    neutral = [s for s in plan.neutral() if s.id != "mountain" or "relief" not in cue_kinds]
    return neutral + [_cue_slot(plan, kind) for kind in cue_kinds]


class _Plan:
    """Sides and distances, drawn once per scene so that things stand beside one another."""

    def __init__(self, seed: int, street: Street) -> None:
        rng = self.rng = stream(seed, "layout")
        self.seed, self.street = seed, street
        self.house, self.pole, self.rail, self.box, self.car = rng.choice([-1, 1], size=5).tolist()
        # a near one farther out and a far one close to the road do not hide each other
        stations = [(s, *at) for s in (-1, 1) for at in ((0.9, 8.3), (0.5, 12.4))]
        order = rng.permutation(len(stations))
        signs = ("warning_sign", "stop_sign", "town_sign", "mirror")
        self.stations = {k: stations[int(i)] for k, i in zip(signs, order, strict=True)}

    def place(self, name: str, side: int, beyond: float, z: Span) -> Place:
        """A place ``beyond`` metres outside the carriageway's edge (negative: on it)."""
        u = side * (self.street.half_width + beyond)
        depth = z[0] + (z[1] - z[0]) * quantile(self.seed, "depth:" + name)
        variant = int(1e6 * quantile(self.seed, "variant:" + name))
        return Place(side, u, depth, self.street, variant)

    def cue(self, kind: str) -> Place:
        if kind in self.stations:
            side, beyond, near = self.stations[kind]
            return self.place(kind, side, beyond, (near, near + 1.0))
        where: dict[str, tuple[int, float, Span]] = {
            "centre_line": (1, 0, (5, 6)),
            "edge_line": (1, 0, (5, 6)),
            "kerb_paint": (-self.rail, 0.1, (3, 4)),
            "driving_side": (1, 0, (11.0, 14.0)),
            "small_vehicle": (-self.car, PARKED, (8.0, 10.5)),
            "guard_rail": (self.rail, 1.5, (4.5, 6)),
            "bollard": (-self.rail, 0.35, (6.0, 8.0)),
            "utility_pole": (self.pole, 1.5, (7.5, 10.5)),
            "direction_sign": (self.box, 1.3, (11.0, 13.5)),
            "milestone": (-self.rail, 0.75, (7.2, 9.0)),
            "street_box": (self.box, 1.9, (8.5, 11.5)),
            "shop_sign": (-self.box, 0.8, (9.6, 10.6)),
            "house": (self.house, 3.6, (11.5, 16.0)),
            "vegetation": (-self.house, 4.6, (11.0, 16.0)),
            "relief": (1, 0, (300, 400)),
            "tower": (-self.house, 9.0, (38, 50)),
            "soil": (self.house, 0.25, (3, 4)),
            "field": (-self.house, self.street.pavement + 0.2, (3, 4)),
            "snow_pole": (-self.box, 0.6, (6.5, 8.0)),
        }
        if kind == "licence_plate":
            return self.host()
        side, beyond, z = where[kind]
        return self.place(kind, side, beyond, z)

    def host(self) -> Place:
        return self.place("car", self.car, PARKED, PARKED_DEPTH)

    def neutral(self) -> list[Slot]:
        """Those that quantiles of their own let appear."""
        found = []
        for category, share, side, beyond, z, name in self._candidates():
            key = name or category
            if quantile(self.seed, "presence:" + key) < share:
                found.append(Slot(key, category, False, self.place(key, side, beyond, z)))
        return found

    def _candidates(self) -> Iterator[tuple[str, float, int, float, Span, str]]:
        """Category, probability, side, metres beyond the edge, depths, name if not alone."""
        side = 1 if quantile(self.seed, "sides") < 0.5 else -1
        yield "mountain", 0.6, 1, 0, (300, 400), ""
        for k in range(4):
            yield "cloud", 0.6, 1 if k % 2 else -1, 0, (500, 900), f"cloud-{k}"
        for s in (-1, 1):
            tag = "left" if s < 0 else "right"
            yield "treeline", 0.9, s, 4, (62, 95), f"treeline-{tag}"
            yield "building", 0.5, s, 7.0, (32, 44), f"building-{tag}"
            yield "broadleaf_tree", 0.6, s, 5.5, (19, 27), f"tree-{tag}-far"
            yield "bush", 0.5, s, 3.0, (9, 24), f"bush-{tag}"
            yield "lamp_post", 0.35, s, 0.9, (16, 24), f"lamp-{tag}"
        yield "broadleaf_tree", 0.5, self.house, 5.2, (10.7, 12.5), "tree-near"
        yield "hedge", 0.35, side, 3.0, (12, 16), ""
        yield "fence", 0.4, -side, 2.7, (9, 12), ""
        yield "bench", 0.3, self.box, 1.7, (12.5, 17), ""
        yield "bin", 0.35, -side, 1.3, (7, 14), ""
        yield "rock", 0.35, side, 3.2, (8, 14), ""
        yield "bicycle", 0.35, -self.box, 1.8, (7.2, 9.5), ""
        yield "car", 0.75, self.car, PARKED, PARKED_DEPTH, ""
        yield "lorry", 0.22, -self.car, PARKED + 0.2, (21, 30), ""
        yield "traffic_cone", 0.25, -self.car, -0.5, (5.5, 7.0), ""
        yield "manhole", 0.5, side, 1.0 - self.street.half_width, (4.5, 9), ""
        yield "puddle", 0.25, -side, -1.0, (4.5, 11), ""
