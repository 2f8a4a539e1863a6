"""What every pixel of a scene shows, in the words of ADE20K's 150 classes.

A scene knows its geometry, so its semantic map needs no network: sky and ground come from the
camera and the street, everything else from the coverage of what stands on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from geoscenes.canvas import SUPERSAMPLING
from geoscenes.scene import Scene, World

SKY, ROAD, SIDEWALK, EARTH, GRASS = "sky", "road", "sidewalk", "earth", "grass"
# The strip beside the carriageway, by its surface.
STRIPS = {"slabs": SIDEWALK, "grass": GRASS, "gravel": EARTH}
# Of what ADE20K has no class for.
OTHER = "other"

# Class to its kinds of objects, or kinds and looks where looks differ. Paint, covers and puddles on
# a road are road there, a car's plate is car, and houses along a street are building: ADE20K's
# house is a home that stands alone.
_SIGNS = ("direction_sign", "milestone", "shop_sign", "stop_sign", "town_sign", "warning_sign")
_KINDS = {
    "bench": ("bench",),
    "bicycle": ("bicycle",),
    "ashcan": ("bin",),
    "pole": ("bollard", "snow_pole", "utility_pole"),
    "tree": ("broadleaf_tree", "treeline", "vegetation"),
    "building": ("building", "house"),
    "plant": ("bush", "hedge", "vegetation/bananas"),
    "car": ("car", "driving_side", "licence_plate", "small_vehicle"),
    ROAD: ("centre_line", "edge_line", "manhole", "puddle"),
    SKY: ("cloud",),
    "signboard": _SIGNS,
    "fence": ("fence",),
    "field": ("field",),
    GRASS: ("field/meadow",),
    "railing": ("guard_rail",),
    SIDEWALK: ("kerb_paint",),
    "streetlight": ("lamp_post",),
    "truck": ("lorry", "small_vehicle/kei_truck"),
    "mirror": ("mirror",),
    "mountain": ("mountain", "relief"),
    "sand": ("relief/dunes", "soil/sand"),
    "hill": ("relief/forested_hills", "relief/grassy_volcanoes", "relief/steep_green_hills"),
    "rock": ("rock",),
    "van": ("small_vehicle/panel_van",),
    EARTH: ("soil",),
    OTHER: ("soil/snow", "traffic_cone"),
    "box": ("street_box",),
    "tower": ("tower",),
    "palm": ("vegetation/fan_palms", "vegetation/palms"),
}
OBJECTS = {kind: label for label, kinds in _KINDS.items() for kind in kinds}
# Dirt and marks on the lens are not in the scene.
UNSEEN = ("shortcut",)

CONCEPTS = tuple(dict.fromkeys([SKY, *STRIPS.values(), ROAD, *OBJECTS.values()]))


def semantic_map(scene: Scene) -> np.ndarray:
    """Class of every pixel: the one that fills the largest part of it.

    Shadows belong to what they fall on.

    Parameters
    ----------
    scene : Scene

    Returns
    -------
    int64 ``[H, W]``
        Indices into :data:`CONCEPTS`.
    """
    labels = {
        item.id: _index(concept_of(item.category, item.look))
        for item in scene.items
        if item.category not in UNSEEN
    }
    return _fullest(scene, _ground(scene.world), labels, len(CONCEPTS))


def cue_map(scene: Scene) -> np.ndarray:
    """Pixels of which the largest part is a cue of the country or region, bool ``[H, W]``."""
    labels = {item.id: int(item.cue) for item in scene.items if item.category not in UNSEEN}
    return _fullest(scene, np.zeros((scene.size, scene.size), int), labels, 2) == 1


def _fullest(
    scene: Scene, ground: np.ndarray, labels: Mapping[str, int], n_labels: int
) -> np.ndarray:
    """Label of the largest part of every pixel, ``[H, W]``; objects without one are left out."""
    behind = np.repeat(np.repeat(ground, SUPERSAMPLING, 0), SUPERSAMPLING, 1)
    shares = (behind == np.arange(n_labels)[:, None, None]).astype(np.float32)
    for owner, cover in scene.covers:
        if owner not in labels:
            continue
        h, w = cover.alpha.shape
        patch = shares[:, cover.y : cover.y + h, cover.x : cover.x + w]
        own = cover.alpha / np.float32(255)
        patch *= 1 - own
        patch[labels[owner]] += own
    blocks = shares.reshape(n_labels, scene.size, SUPERSAMPLING, scene.size, SUPERSAMPLING)
    return blocks.sum(axis=(2, 4)).argmax(axis=0)


def concept_of(category: str, look: str | None = None) -> str:
    """Class of a kind of object.

    Raises
    ------
    ValueError
        If the kind of object has none.
    """
    for name in (f"{category}/{look}", category):
        if name in OBJECTS:
            return OBJECTS[name]
    raise ValueError(f"category={category!r} has no class of ADE20K; enter it in OBJECTS")


def _ground(world: World) -> np.ndarray:
    """Class of every pixel of the picture without any object."""
    street = world.street
    u, z = world.camera.ground(world.size)
    outside = np.abs(u) - np.float32(street.half_width)
    left, right = (_index(STRIPS[surface]) for surface in street.surfaces)
    return np.select(
        [np.isinf(z), outside < 0, outside < street.pavement],
        [_index(SKY), _index(ROAD), np.where(u < 0, left, right)],
        _index(GRASS),
    )


@cache
def _index(name: str) -> int:
    return CONCEPTS.index(name)
