"""Semantic maps of scenes: the concept of each pixel, and which pixels are cues."""

import numpy as np
import pytest
from scipy import ndimage

import geoscenes
from geoscenes import layout, semantic

CONCEPT = {name: i for i, name in enumerate(semantic.CONCEPTS)}


@pytest.fixture(scope="module")
def scene():
    return geoscenes.render(4, "France", size=96)


def test_every_kind_of_object_has_a_class():
    for drawer in layout.DRAWERS:
        category, _, look = drawer.partition("/")
        if category not in semantic.UNSEEN:
            assert semantic.concept_of(category, look or None) in CONCEPT
    kinds = {name for drawer in layout.DRAWERS for name in (drawer, drawer.split("/")[0])}
    assert set(semantic.OBJECTS) <= kinds
    with pytest.raises(ValueError, match="submarine"):
        semantic.concept_of("submarine")


def test_ground_lies_where_the_camera_puts_it():
    """Points of the road's geometry, projected by the camera, fall on their surface."""
    seen = set()
    for seed in range(6):
        bare = geoscenes.render(seed, "Japan", size=128)
        for thing in bare.items:
            if thing.host is None:
                bare = bare.without(thing.id)
        shown, street = semantic.semantic_map(bare), bare.world.street
        strips = [semantic.STRIPS[surface] for surface in street.surfaces]
        for side, strip in zip((-1, 1), strips, strict=True):
            edge = street.half_width
            for outside, name in [(-0.3, "road"), (0.5, strip), (street.pavement + 0.5, "grass")]:
                for z in (5.0, 7.0, 9.0):
                    u = side * (edge + outside)
                    x, y = bare.world.camera.project(np.array([[u, 0, z]]))[0] * 128
                    if 0 <= x < 128 and 0 <= y < 128:
                        assert shown[int(y), int(x)] == CONCEPT[name]
                        seen.add(name)
        assert (shown[0] == CONCEPT["sky"]).all()
    assert seen >= {"road", "sidewalk", "grass"}


def test_objects_are_where_their_masks_are(scene):
    """A pixel shows what fills most of it; the masks hold those filled to an eighth."""
    shown = semantic.semantic_map(scene)
    masks = {}
    for thing in scene.objects:
        name = semantic.concept_of(thing.category, thing.look)
        masks[name] = masks.get(name, False) | thing.mask
    for name in ("building", "car", "truck", "signboard"):  # without gaps to see through
        others = np.any([masks[other] for other in masks if other != name], axis=0)
        inner = ndimage.binary_erosion(masks[name], np.ones((3, 3))) & ~others
        assert inner.sum() >= 30
        assert (shown[inner] == CONCEPT[name]).all()
        assert not ((shown == CONCEPT[name]) & ~masks[name]).any()


def test_what_is_taken_away_changes_the_map_only_there(scene):
    named = [(semantic.concept_of(o.category, o.look), o) for o in scene.objects]
    largest = max((o for name, o in named if name == "building"), key=lambda o: o.mask.sum())
    without = semantic.semantic_map(scene.without(largest.id))
    changed = semantic.semantic_map(scene) != without
    assert changed.sum() > 0.5 * largest.mask.sum()
    assert not (changed & ~largest.footprint).any()


def test_cue_maps_hold_what_fills_most_of_a_pixel(scene):
    found = semantic.cue_map(scene)
    cues = np.any([o.mask for o in scene.objects if o.cue], axis=0)
    others = np.any([o.mask for o in scene.objects if not o.cue], axis=0)
    assert not (found & ~cues).any()
    inner = ndimage.binary_erosion(cues, np.ones((3, 3))) & ~others
    assert inner.sum() > 100 and found[inner].mean() > 0.95
    plain = scene
    for thing in scene.objects:
        if thing.cue:
            plain = plain.without(thing.id)
    assert not semantic.cue_map(plain).any()


def test_a_watermark_is_not_in_the_scene():
    shortcut = {"country": "France", "correlation": 1.0, "kind": "watermark"}
    marked = geoscenes.render(3, "France", size=96, shortcut=shortcut)
    assert any(thing.category == "shortcut" for thing in marked.items)
    plain = marked.without("shortcut")
    np.testing.assert_array_equal(semantic.semantic_map(marked), semantic.semantic_map(plain))
