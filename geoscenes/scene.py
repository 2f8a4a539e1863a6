"""A scene: its objects, its picture, its masks and its counterfactuals."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial

import cv2
import numpy as np

from geoscenes.camera import Camera, Light
from geoscenes.canvas import GROUND, SUPERSAMPLING, Part, Sketch, finish
from geoscenes.coverage import Cover, cover, shadow_sheet, soften, touched, transmit, visible_mask
from geoscenes.cues import COUNTRIES, CueKind, table, zone_of, zones
from geoscenes.ground import Street, background
from geoscenes.layout import Place, quantile, slots, stream
from geoscenes.objects import DRAWERS
from geoscenes.shortcut import Shortcut
from geoscenes.tables import data_file

MIN_PIXELS = 30  # visible pixels from which on a cue counts as seen


@dataclass(frozen=True)
class Item:
    """What fills a place: a neutral object, or a cue in one country's look."""

    id: str
    category: str
    cue: bool
    look: str | None
    place: Place
    host: str | None = None

    @property
    def drawer(self) -> str:
        return f"{self.category}/{self.look}" if self.look else self.category


@dataclass(frozen=True)
class World:
    """Everything of a scene but its objects."""

    seed: int
    country: str
    size: int
    camera: Camera
    light: Light
    street: Street
    town: str
    region: str
    latitude: float
    longitude: float
    zone: str | None  # None: cues follow the country alone

    @property
    def place(self) -> str:
        """The row of the cue table it draws from."""
        return self.zone or self.country

    @property
    def table(self) -> Mapping[str, CueKind]:
        return table(self.zone is not None)


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes
    ----------
    id, category : str
        Name within the scene, and kind of object (for a cue: the kind of cue).
    cue : bool
        Whether its presence or look depends on the country or region.
    look : str or None
        The look a cue takes.
    """

    id: str
    category: str
    cue: bool
    look: str | None
    _scene: Scene = field(repr=False, compare=False)

    @property
    def mask(self) -> np.ndarray:
        """Its visible pixels, bool ``[H, W]``: those of which it fills at least an eighth."""
        return self._scene._mask(self.id)

    @property
    def footprint(self) -> np.ndarray:
        """Every pixel it touches, occluded or not, soft edge and shadow included; bool [H, W]."""
        return self._scene._footprint(self.id)


class Scene:
    """A street scene whose causal answer is known. Made by :func:`geoscenes.render`.

    Attributes
    ----------
    seed, size : int
        Number of the scene, and side of the picture in pixels.
    country, town, region : str
        Country whose cues it carries, town of the gazetteer it is placed in, the town's region.
    zone : str or None
        The zone whose cues it carries; None unless rendered with ``regional=True``.
    latitude, longitude : float
        Degrees north and east.
    """

    def __init__(
        self, world: World, items: Sequence[Item], sketches: dict[Item, Sketch] | None = None
    ) -> None:
        self.world = world
        self.seed, self.size = world.seed, world.size
        self.country, self.town, self.region = world.country, world.town, world.region
        self.zone = world.zone
        self.latitude, self.longitude = world.latitude, world.longitude
        self.items = tuple(items)
        self._sketches = {} if sketches is None else sketches  # shared with counterfactuals
        self._masks: dict[str, np.ndarray] = {}
        self._footprints: dict[str, np.ndarray] = {}

    def __repr__(self) -> str:
        return f"Scene(seed={self.seed}, country={self.country!r}, size={self.size})"

    @cached_property
    def objects(self) -> tuple[SceneObject, ...]:
        """Objects that touch the picture."""
        drawn = {owner for owner, _, _ in self._covers}
        return tuple(
            SceneObject(i.id, i.category, i.cue, i.look, self) for i in self.items if i.id in drawn
        )

    @property
    def cues(self) -> dict[str, str | None]:
        """Look of every kind of cue, None where the scene has none."""
        present = {i.category: i.look for i in self.items if i.cue}
        return {kind: present.get(kind) for kind in self.world.table}

    def visible_cues(self, min_pixels: int = MIN_PIXELS) -> dict[str, str]:
        """Looks of the cues of which at least ``min_pixels`` pixels are visible."""
        return {
            o.category: o.look
            for o in self.objects
            if o.cue and o.look is not None and int(o.mask.sum()) >= min_pixels
        }

    # -- counterfactuals -----------------------------------------------------------------------

    def without(self, id: str) -> Scene:
        """The same scene without one object (and without what is fixed to it: a car's plate).

        No pixel outside the object's footprint changes.

        Raises
        ------
        ValueError
            If the scene has no such object.
        """
        self._item(id)
        return self._with([i for i in self.items if id not in (i.id, i.host)])

    def swapped(self, id: str, country: str) -> Scene:
        """The same scene with one cue in another country's look, at the same place.

        The look is the one this seed gives that country. A kind of cue that the country never has
        disappears. Only pixels in the footprints of the two looks change.

        In a regional scene ``country`` may also be a zone; a country stands for the zone of the
        town that this seed draws there.

        Raises
        ------
        ValueError
            If the scene has no such object, the object is no cue, or the country is unknown.
        """
        item = self._item(id)
        if not item.cue:
            cues = sorted(i.id for i in self.items if i.cue)
            raise ValueError(
                f"id={id!r} is no country cue and looks alike everywhere; cues: {cues}"
            )
        known = [*COUNTRIES, *(zones() if self.zone else ())]
        if country not in known:
            raise ValueError(f"country={country!r} is unknown; known: {known}")
        place = country
        if self.zone and country in COUNTRIES:
            place = _zone(_town(stream(self.seed, "town"), country))
        look = pick_look(self.seed, self.world.table[item.category], place)
        if look is None:
            return self.without(id)
        other = dataclasses.replace(item, look=look)
        return self._with([other if i is item else i for i in self.items])

    def _with(self, items: Sequence[Item]) -> Scene:
        return Scene(self.world, items, self._sketches)

    def _item(self, id: str) -> Item:
        for item in self.items:
            if item.id == id:
                return item
        raise ValueError(f"id={id!r} is not in this scene; it has {[i.id for i in self.items]}")

    # -- picture -------------------------------------------------------------------------------

    @cached_property
    def image(self) -> np.ndarray:
        """The picture, uint8 RGB ``[size, size, 3]``."""
        w = self.world
        side = w.size * SUPERSAMPLING
        sheet = background(w.camera, w.light, w.street, w.size)
        sheet = cv2.resize(sheet, (side, side), interpolation=cv2.INTER_NEAREST)
        parts = self._parts
        ground = [part for _, part in parts if part.layer <= GROUND]
        above = [part for _, part in parts if part.layer > GROUND]
        for part in ground:
            for stroke in part.strokes:
                stroke.paint(sheet)
        self._cast_shadows(sheet)
        for part in above:
            for stroke in part.strokes:
                stroke.paint(sheet)
        return _develop(cv2.resize(sheet, (w.size, w.size), interpolation=cv2.INTER_AREA), w)

    @property
    def _parts(self) -> list[tuple[str, Part]]:
        """All parts with their owners, far to near."""
        parts = [(id, part) for id, sketch in self._drawn.items() for part in sketch.parts]
        return sorted(parts, key=lambda p: (p[1].layer, -p[1].depth))

    @cached_property
    def _drawn(self) -> dict[str, Sketch]:
        """Sketch of every item by its id."""
        return dict(zip([i.id for i in self.items], self._sketch(*self.items), strict=True))

    def _sketch(self, *items: Item) -> list[Sketch]:
        """Sketches of items, those of this scene or others at its places."""
        w = self.world
        fresh = {}
        for item in items:
            if item not in self._sketches:
                random = partial(stream, w.seed, "draw:" + item.id)
                fresh[item] = Sketch(w.camera, w.light, w.size * SUPERSAMPLING, random)
                DRAWERS[item.drawer](fresh[item], item.place)
        finish(list(fresh.values()))
        self._sketches |= fresh
        return [self._sketches[item] for item in items]

    def _cast_shadows(self, sheet: np.ndarray) -> None:
        hulls = [hull for sketch in self._drawn.values() for hull in sketch.shadows]
        if not hulls:
            return
        top = max(0, min(int(h[..., 1].min()) for h in hulls) // 16 - 8)
        dark = soften(shadow_sheet(hulls, sheet.shape[0]))[top:]
        strength = round(self.world.light.shadow * 256)
        keep = 256 - ((dark.astype(np.uint16) * strength) >> 8)
        lit = sheet[top:] * cv2.merge([keep] * 3)
        np.right_shift(lit, 8, out=sheet[top:], casting="unsafe")

    # -- masks ---------------------------------------------------------------------------------

    @property
    def covers(self) -> list[tuple[str, Cover]]:
        """Coverage of every drawn part, far to near, with the object's id."""
        return [(owner, cover) for owner, _, cover in self._covers]

    @cached_property
    def _covers(self) -> list[tuple[str, Part, Cover]]:
        side = self.size * SUPERSAMPLING
        covers = [(owner, part, cover(part, side)) for owner, part in self._parts]
        return [(owner, part, c) for owner, part, c in covers if c is not None and c.alpha.any()]

    def _mask(self, id: str) -> np.ndarray:
        if id not in self._masks:
            covers = self._covers
            own = [
                (c, transmit(c, [above for _, _, above in covers[k + 1 :]]))
                for k, (owner, _, c) in enumerate(covers)
                if owner == id
            ]
            self._masks[id] = visible_mask(own, self.size * SUPERSAMPLING)
        return self._masks[id]

    def _footprint(self, id: str) -> np.ndarray:
        if id not in self._footprints:
            names = {i.id for i in self.items if id in (i.id, i.host)}
            covers = [c for owner, _, c in self._covers if owner in names]
            shadows = [hull for name in names for hull in self._drawn[name].shadows]
            self._footprints[id] = touched(covers, shadows, self.size * SUPERSAMPLING)
        return self._footprints[id]


def render(
    seed: int,
    country: str | None = None,
    *,
    size: int = 224,
    countries: Sequence[str] = COUNTRIES,
    shortcut: Mapping[str, object] | None = None,
    all_cues: bool = False,
    regional: bool = False,
) -> Scene:
    """Scene number ``seed``.

    Parameters
    ----------
    seed : int
        Non-negative; the same seed gives the same scene at any size.
    country : str, optional
        Country to draw; by default the seed draws one of ``countries``, each equally often.
    size : int
        Side of the picture in pixels, 32 to 1024.
    countries : sequence of str
        At least two of France, India, Japan.
    shortcut : mapping, optional
        Plants an artefact that says nothing about geography: ``country``, ``correlation`` in -1..1
        (share of that country's scenes that carry it minus the share elsewhere) and ``kind``
        ("watermark" or "smudge").
    all_cues : bool
        Show every kind of cue that the country has.
    regional : bool
        Cues also tell the region: house, vegetation, relief, soil, field and others follow the
        scene's zone (``data/regional-cues.yaml``). Town and coordinates do not depend on it.

    Returns
    -------
    Scene

    Raises
    ------
    ValueError
        If an argument is out of its range or a country is unknown.
    """
    _check(seed, country, size, countries)
    plant = None if shortcut is None else Shortcut.parse(shortcut, countries)
    if country is None:
        country = list(countries)[int(quantile(seed, "country") * len(countries))]
    world = _world(seed, country, size, regional)
    items = []
    everything = slots(seed, world.street, tuple(world.table))
    neutral = {slot.id for slot in everything if not slot.cue}
    for slot in everything:
        look = None
        if slot.cue:
            if slot.host is not None and slot.host not in neutral:
                continue
            look = draw_look(seed, world.table[slot.id], world.place, all_cues)
            if look is None:
                continue
        items.append(Item(slot.id, slot.category, slot.cue, look, slot.place, slot.host))
    if plant is not None and plant.present(seed, country):
        anywhere = items[0].place
        items.append(Item("shortcut", "shortcut", False, plant.kind, anywhere))
    return Scene(world, items)


def draw_look(seed: int, kind: CueKind, place: str, certain: bool = False) -> str | None:
    """Look of a kind of cue in a scene of this place, None where it is absent."""
    present = quantile(seed, "presence:" + kind.name) < kind.presence(place)
    return pick_look(seed, kind, place) if present or certain else None


def pick_look(seed: int, kind: CueKind, place: str) -> str | None:
    """The look it has when it is present."""
    return kind.pick(place, quantile(seed, "look:" + kind.name))


def _town(rng: np.random.Generator, country: str) -> Town:
    towns = gazetteer()[country]
    return towns[int(rng.random() * len(towns))]


def _zone(town: Town) -> str:
    return zone_of(town.country, town.region).name


def _world(seed: int, country: str, size: int, regional: bool) -> World:
    rng = stream(seed, "town")
    town = _town(rng, country)
    return World(
        seed=seed,
        country=country,
        size=size,
        camera=Camera.draw(stream(seed, "camera")),
        light=Light.draw(stream(seed, "light")),
        street=Street.draw(stream(seed, "street")),
        town=town.name,
        region=town.region,
        latitude=round(town.latitude + rng.uniform(-0.02, 0.02), 5),
        longitude=round(town.longitude + rng.uniform(-0.02, 0.02), 5),
        zone=_zone(town) if regional else None,
    )


@dataclass(frozen=True)
class Town:
    """One row of the gazetteer; degrees north and east."""

    name: str
    region: str
    country: str
    latitude: float
    longitude: float


@cache
def gazetteer() -> Mapping[str, tuple[Town, ...]]:
    """Real towns by country."""
    with data_file("gazetteer.csv").open(encoding="utf-8", newline="") as file:
        towns = [
            Town(r["name"], r["region"], r["country"], float(r["latitude"]), float(r["longitude"]))
            for r in csv.DictReader(file)
        ]
    return {c: tuple(t for t in towns if t.country == c) for c in COUNTRIES}


@cache
def _grain(size: int) -> np.ndarray:
    """Sensor noise of unit variance, some pixels larger than the picture."""
    rng = np.random.Generator(np.random.PCG64(size))
    return rng.standard_normal((size + 64, size + 64, 3), dtype=np.float32)


@cache
def _vignette(size: int) -> np.ndarray:
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - 0.5
    fall = 1 - np.float32(0.16) * (axis[:, None] ** 2 + axis[None] ** 2)
    return cv2.merge([fall] * 3)


def _develop(picture: np.ndarray, world: World) -> np.ndarray:
    """Lens and sensor: fall-off, exposure and noise, pixel by pixel and blind to the content."""
    rng = stream(world.seed, "sensor")
    exposure = np.float32(rng.uniform(0.98, 1.12))
    sigma = np.float32(rng.uniform(0.8, 2.6) * math.sqrt(world.size / 224))
    x, y = rng.integers(0, 64, size=2)
    noise = _grain(world.size)[y : y + world.size, x : x + world.size]
    out = picture * (_vignette(world.size) * exposure) + noise * sigma
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def _check(seed: int, country: str | None, size: int, countries: Sequence[str]) -> None:
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed={seed!r} must be a non-negative integer")
    if not 32 <= size <= 1024:
        raise ValueError(f"size={size!r} must lie within 32..1024 pixels")
    unknown = [c for c in countries if c not in COUNTRIES]
    if unknown or len(set(countries)) < 2:
        raise ValueError(f"countries={list(countries)} must be two or more of {list(COUNTRIES)}")
    if country is not None and country not in countries:
        raise ValueError(f"country={country!r} is not one of {list(countries)}")
