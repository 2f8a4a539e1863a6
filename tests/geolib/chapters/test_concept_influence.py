"""Concept influence: values worked out by hand, invariances, and semantic maps that are known."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import IntegratedGradients
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from torch import nn
from torch.nn import functional as F
from toys import lively, picture, write_photographs
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

import geoscenes
from geolib import concepts, data, figures
from geolib.attribution import METHODS
from geolib.chapters import concept_influence as room
from geolib.concepts import concept_influence, concept_influences
from geolib.segmentation.networks import ade20k
from geolib.segmentation.networks.ade20k import SemanticNetwork
from geoscenes import layout, semantic

pytestmark = pytest.mark.usefixtures("own_cache")


# --- One concept in one image ---------------------------------------------------------------------

# 4 × 5 pixels; the five largest values are 9, 8, 7, 6, 5.
MAP = np.array(
    [
        [9.0, 8.0, 0.0, 0.0, 0.0],
        [7.0, 0.0, 0.0, 6.0, 0.0],
        [0.0, 0.0, 5.0, 0.0, 1.0],
        [2.0, 0.0, 3.0, 0.0, 4.0],
    ]
)


def box(top, bottom, left, right, shape=(4, 5)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


TIED = np.zeros((4, 5))  # of three places the 9 takes one, and four pixels of 5 share two
TIED[[0, 1, 2, 3], [1, 1, 4, 4]] = 5
TIED[0, 0] = 9


@pytest.mark.parametrize(
    ("values", "mask", "k", "expected"),
    [
        (MAP, box(0, 2, 0, 2), 5, (3 / 5) / (4 / 20)),  # 9, 8, 7 of five, on 4 of 20 pixels
        (MAP, box(0, 2, 0, 2), 3, 1 / (4 / 20)),  # all three of three: the largest value possible
        (MAP, box(2, 4, 0, 5), 5, (1 / 5) / (10 / 20)),  # only the 5
        (MAP, box(0, 1, 2, 5), 5, 0.0),
        (MAP, box(0, 4, 0, 5), 5, 1.0),  # everything is on the whole image
        (TIED, box(0, 4, 0, 2), 3, (2 / 3) / (8 / 20)),
        (TIED, box(0, 4, 2, 5), 3, (1 / 3) / (12 / 20)),
        # A map without contrast prefers no place: the top half and the bottom half alike.
        (np.zeros((4, 5)), box(0, 2, 0, 5), 7, 1.0),
        (np.ones((4, 5)), box(2, 4, 0, 5), 7, 1.0),
        (np.ones((4, 5)), box(0, 4, 1, 2), 7, 1.0),
    ],
)
def test_influence_by_hand(values, mask, k, expected):
    assert concept_influence(values, mask, k=k) == pytest.approx(expected, abs=1e-12)
    as_tensors = torch.tensor(values), torch.tensor(mask)
    assert concept_influence(*as_tensors, k=k) == pytest.approx(expected)


maps = arrays(float, (5, 7), elements=st.integers(0, 6).map(float))
masks = arrays(bool, (5, 7))


@given(maps, masks)
def test_with_k_of_all_pixels_the_influence_is_one(values, mask):
    mask[0] = True
    assert concept_influence(values, mask, k=35) == pytest.approx(1)


@given(maps, masks, st.integers(1, 35), st.sampled_from([np.exp, np.cbrt, lambda v: 3 * v - 7]))
def test_only_ranks_matter(values, mask, k, monotone):
    found = concept_influence(values, mask, k=k, min_size=0)
    np.testing.assert_equal(concept_influence(monotone(values), mask, k=k, min_size=0), found)


@given(maps, masks, st.integers(1, 35), st.integers(0, 3))
def test_position_plays_no_part(values, mask, k, turns):
    """Turning or mirroring image and mask together changes nothing, whatever is tied."""
    found = concept_influence(values, mask, k=k, min_size=0)
    turned = [np.rot90(np.fliplr(array), turns) for array in (values, mask)]
    assert concept_influence(*turned, k=k, min_size=0) == pytest.approx(found, nan_ok=True)


@given(maps, masks, st.integers(1, 35))
def test_concepts_share_the_explanation(values, mask, k):
    """Shares of the top-k pixels over concepts that fill the image sum to one."""
    sizes = mask.mean(), (~mask).mean()
    parts = [concept_influence(values, part, k=k, min_size=0) for part in (mask, ~mask)]
    assert np.nansum(np.multiply(parts, sizes)) == pytest.approx(1)


RISING = np.arange(100.0).reshape(10, 10)
SPOT = np.zeros((10, 10))
SPOT[2, 2] = 1


@pytest.mark.parametrize(
    ("values", "corners", "k", "options", "expected"),
    [
        (RISING, (0, 0, 0, 0), 10, {}, np.nan),
        (RISING, (0, 0, 0, 0), 10, {"min_size": 0}, np.nan),
        (RISING, (9, 10, 1, 10), 10, {}, np.nan),
        (RISING, (9, 10, 1, 10), 10, {"min_size": 0.09}, 0.9 / 0.09),
        (RISING, (9, 10, 0, 10), 10, {}, 10),  # s̄ = 0.1 is large enough
        # A corner pixel grows to 2 × 2, then to 3 × 3, which is 0.09 of the image.
        (SPOT, (0, 1, 0, 1), 1, {"min_size": 0.01}, 0),
        (SPOT, (0, 1, 0, 1), 1, {"min_size": 0.01, "dilation": 1}, 0),
        (SPOT, (0, 1, 0, 1), 1, {"min_size": 0.09, "dilation": 2}, 1 / 0.09),
        (SPOT, (0, 1, 0, 1), 1, {"min_size": 0.1, "dilation": 2}, np.nan),
    ],
)
def test_empty_and_tiny_masks_have_no_influence_unless_grown(values, corners, k, options, expected):
    found = concept_influence(values, box(*corners, (10, 10)), k=k, **options)
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 13), (13, 7), (16, 16)])
@pytest.mark.parametrize("dilation", [1, 2, 3, 20])
def test_dilation_is_that_of_a_full_square_up_to_the_border(shape, dilation):
    rng = np.random.default_rng(0)
    for density in (0.0, 0.03, 0.3):
        mask = rng.random(shape) < density
        expected = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=dilation)
        np.testing.assert_array_equal(concepts.dilate(mask, dilation), expected)
    np.testing.assert_array_equal(concepts.dilate(mask, 0), mask)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"k": 21}, ValueError, r"k=21.*20 pixels.*scaled_k"),
        ({"k": concepts.K}, ValueError, "k=1000.*20 pixels"),
        ({"k": 0}, ValueError, "k=0"),
        ({"k": 2.5}, TypeError, "float"),
        ({"min_size": 1.5}, ValueError, r"min_size=1\.5"),
        ({"dilation": -1}, ValueError, "dilation=-1"),
        ({"mask": box(0, 1, 0, 1, (5, 4))}, ValueError, r"mask.*\(5, 4\).*\(4, 5\)"),
        ({"mask": np.ones((4, 5))}, TypeError, "mask.*float64.*bool"),
        ({"attribution": MAP[0]}, ValueError, r"attribution.*\(5,\)"),
        ({"attribution": MAP * np.nan}, ValueError, "attribution.*NaN"),
        ({"semantic_map": MAP}, TypeError, r"semantic_map.*float64"),
        ({"semantic_map": np.zeros((5, 4), int)}, ValueError, r"semantic_map.*\(5, 4\)"),
        ({"shifted": box(0, 0, 0, 0)}, ValueError, "mask is empty"),
    ],
)
def test_errors_name_the_argument(changes, error, words):
    with pytest.raises(error, match=words):
        if "semantic_map" in changes:
            concept_influences(MAP, k=5, **changes)
        elif "shifted" in changes:
            concepts.shifted_influences(MAP, changes["shifted"], k=5)
        else:
            concept_influence(**{"attribution": MAP, "mask": box(0, 2, 0, 2), "k": 5} | changes)


def test_k_scales_with_the_image():
    assert concepts.scaled_k(224, 224) == 1000
    assert concepts.scaled_k(144, 144) == 413  # 0.01993 of 20,736


# --- All concepts of an image ---------------------------------------------------------------------


@settings(deadline=None)
@given(
    maps,
    arrays(np.int16, (5, 7), elements=st.integers(-1, 3)),
    st.integers(1, 35),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.1, 0.4]),
)
def test_batched_form_agrees_with_the_single_one(values, semantic_map, k, dilation, min_size):
    table = concept_influences(values, semantic_map, k, min_size, dilation)
    assert sorted(table.index) == sorted(set(semantic_map.ravel().tolist()) - {-1})
    for concept, row in table.iterrows():
        mask = semantic_map == concept
        expected = concept_influence(values, mask, k, min_size, dilation)
        np.testing.assert_equal(row["influence"], expected)
        assert row["size"] == concepts.dilate(mask, dilation).mean()


# --- Shifts ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(maps, masks, st.integers(1, 35), st.integers(0, 1))
def test_all_shifts_at_once_are_those_one_by_one(values, mask, k, dilation):
    mask[2, 3] = True
    found = concepts.shifted_influences(values, mask, k, dilation)
    assert found.mean() == pytest.approx(1)  # a place at random prefers no concept
    for y, x in [(0, 0), (1, 0), (0, 1), (4, 6), (2, 3)]:
        moved = np.roll(values, (y, x), axis=(0, 1))
        expected = concept_influence(moved, mask, k, 0, dilation)
        assert found[y, x] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("observed", "expected"), [(1.5, 0.4), (9.0, 0.2), (0.0, 0.2), (1.0, 1)])
def test_p_value_by_hand(observed, expected):
    shifted = np.array([0.5, 0.8, 1.0, 1.2, 1.5, 1.0, 1.0, 1.0, 1.0])
    assert room.shift_p_value(observed, shifted) == pytest.approx(expected)


# --- A dataset ------------------------------------------------------------------------------------

NAMES = ("sky", "road", "tree")
SIDE = 20


def scenes(n, seed=0):
    """Sky over road, a tree in some; explanations on the sky, elsewhere without reason."""
    rng = np.random.default_rng(seed)
    shown = np.zeros((n, SIDE, SIDE), np.int16)
    shown[:, 10:] = 1
    shown[: n // 2, 5:15, 5:10] = 2
    return rng.random((n, SIDE, SIDE)), shown, [f"image-{i}" for i in range(n)]


def test_dataset_finds_where_explanations_lie():
    values, shown, ids = scenes(12)
    values += (shown == 0) * 0.3
    groups = ["within"] * 8 + ["beyond"] * 4
    found = room.influences(values, shown, NAMES, ids, groups, k=40, n_shifts=1999)
    table = room.summarise(found, min_images=4, n_resamples=999).set_index(
        ["dilation", "group", "concept"]
    )
    assert table.loc[(0, "within", "sky"), "images"] == 8
    assert table.loc[(0, "within", "tree"), "images"] == 6
    for group in ("within", "beyond"):
        sky, road = table.loc[(0, group, "sky")], table.loc[(0, group, "road")]
        assert sky["low"] > 1 > road["high"]
        assert sky["p_holm"] < 0.02 and road["p_holm"] < 0.02
        assert sky["low"] <= sky["median"] <= sky["high"]
    rows = found.rows
    sky = rows[(rows.concept == "sky") & (rows.group == "within") & (rows.dilation == 3)]
    expected = [
        concept_influence(values[i], shown[i] == 0, k=40, dilation=3)
        for i in sorted(range(8), key=lambda i: ids[i])
    ]
    np.testing.assert_allclose(sky["influence"], expected)
    assert table.loc[(3, "within", "sky"), "median"] == pytest.approx(np.median(expected))
    assert table.loc[(3, "within", "sky"), "mean"] == pytest.approx(np.mean(expected))


def test_order_of_images_and_other_images_play_no_part():
    values, shown, ids = scenes(8)

    def of(some):
        return room.influences(values[some], shown[some], NAMES, ids[some], k=40, n_shifts=199)

    one, other, alone = of(slice(None)), of(slice(None, None, -1)), of(slice(1))
    pd.testing.assert_frame_equal(one.rows, other.rows)
    for key, shifted in one.shifted.items():
        np.testing.assert_array_equal(shifted, other.shifted[key])
    pd.testing.assert_frame_equal(*(room.summarise(f, 4, n_resamples=199) for f in (one, other)))
    shared = one.rows[one.rows.image_id == ids[0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.rows, shared)


def test_random_shifts_of_one_image_are_shared_by_its_concepts():
    """Sky and road fill the image, so at every shift their sizes weigh up their influences to 1."""
    values, shown, ids = scenes(1)
    found = room.influences(values, shown, NAMES, ids, k=40, n_shifts=50, dilations=(0,))
    sky, road = (found.shifted[(0, "all", name)] for name in ("sky", "road"))
    np.testing.assert_allclose((sky + road) / 2, 1)
    assert np.ptp(sky) > 0.2


def test_explanations_at_random_are_seldom_called_significant():
    """Of 60 explanations without reason, p < 0.05 for about three."""
    p_values = []
    for trial in range(60):
        rng = np.random.default_rng(trial)
        smooth = ndimage.gaussian_filter(rng.normal(size=(6, SIDE, SIDE)), (0, 3, 3), mode="wrap")
        _, shown, ids = scenes(6)
        found = room.influences(
            smooth, shown, NAMES, ids, k=40, n_shifts=199, dilations=(0,), seed=trial
        )
        mean = found.rows.loc[found.rows.concept == "sky", "influence"].mean()
        p_values.append(room.shift_p_value(mean, found.shifted[(0, "all", "sky")]))
    assert (np.array(p_values) < 0.05).sum() <= 8
    assert 0.3 < np.mean(p_values) < 0.7


def test_rare_concepts_stay_in_the_table_untested():
    values, shown, ids = scenes(5)
    found = room.influences(values, shown, NAMES, ids, k=40, n_shifts=99)
    table = room.summarise(found, min_images=3, n_resamples=199).set_index(["dilation", "concept"])
    tree = table.loc[(0, "tree")]
    assert tree["images"] == 2 and tree["rare"] and np.isnan(tree["p_value"])
    assert not table.loc[(0, "sky"), "rare"]
    # Holm over the two that are left: the smaller p doubles.
    tested = table.loc[0][~table.loc[0]["rare"].astype(bool)].sort_values("p_value")
    assert tested["p_holm"].iloc[0] == pytest.approx(min(1, 2 * tested["p_value"].iloc[0]))
    none = room.influences(values, shown - 9, NAMES, ids, k=40, n_shifts=9)
    assert room.summarise(none).empty


def test_right_and_wrong_images_the_first_of_each():
    images = data.load("geoscenes", "eval", n=6, size=64)
    km = pd.Series([10.0, 900.0, 20.0, 30.0, 800.0], images.ids[:5])  # nothing is known of the last
    explained, group = room.right_and_wrong(images, km, 750, 2)
    assert explained.ids == [images.ids[i] for i in (0, 2, 1, 4)]
    assert group == ["within", "within", "beyond", "beyond"]
    assert len(room.right_and_wrong(images, km, 750, None)[1]) == 5


def test_colour_alone_needs_no_network():
    """Images of the baseline's colour but for a bright sky: colour finds the sky in all of them."""
    values, shown, ids = scenes(6)
    batch = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].repeat(6, 1, SIDE, SIDE)
    batch[:, 1, :10] = torch.linspace(0.9, 1, 10 * SIDE).reshape(10, SIDE)
    found = room.influences(values, shown, NAMES, ids, k=40, n_shifts=9, min_size=0.05)
    table, alike = room.colour_alone(found, batch, shown, NAMES, 3, 40, 0.05)
    assert sorted(table.index) == ["road", "sky", "tree"]
    assert table.loc["sky", "colour alone"] > 1 and table.loc["road", "colour alone"] == 0
    assert table["network"].is_monotonic_decreasing and -1 <= alike <= 1
    few, alike = room.colour_alone(found, batch, shown, NAMES, 4, 40, 0.05)
    assert list(few.columns) == ["network", "colour alone"] and len(few) == 2 and np.isnan(alike)


def test_cues_of_scenes_beside_the_influence():
    images = data.load("geoscenes", "eval", n=4, size=64)
    shown, names = room.semantic_maps(images, 64, progress=False)
    cues = np.stack([semantic.cue_map(images[i].scene) for i in range(4)])
    found = room.influences(cues.astype(float), shown, names, images.ids, ["within"] * 4, k=80)
    table, _, on_cues = room.of_cues(
        room.summarise(found, 1), images, ["within"] * 3 + ["beyond"], cues * 1.0, shown, names, 20
    )
    name = table.index[0]
    where = shown[:3] == names.index(name)
    assert table.iloc[0, 0] == pytest.approx(cues[:3][where].mean())
    np.testing.assert_allclose(on_cues, [1 / one.mean() for one in cues[:3]])
    nothing, rank, on_cues = room.of_cues(
        room.summarise(found, 1), None, [], cues, shown, names, 20
    )
    assert nothing.empty and np.isnan(rank) and not len(on_cues)


def test_the_ledger_gets_the_first_size_that_enough_images_reach():
    rows = [
        (f"{group}{i}", group, concept, dilation, 0.2, value + i, 1.0)
        for group, concept, dilation, value, n in [
            ("within", "sky", 0, 1.0, 5),
            ("within", "sky", 3, 1.5, 5),
            ("within", "road", 0, 0.1, 2),
            ("within", "car", 0, 2.0, 4),
            ("beyond", "car", 0, 5.0, 3),
        ]
        for i in range(n)
    ]
    more = [(f"x{i}", "within", "road", 0, 0.05, 0.5, 1.0) for i in range(3)]
    large, small = (
        room.Influences(pd.DataFrame(some, columns=room.COLUMNS), {})
        for some in (rows, rows + more)
    )
    measured = room.findings({0.1: large, 0.02: small}, 3, "GeoScenes", 0)
    found = {claim: (one.value, one.n, one.data) for claim, one in measured.items()}
    assert found == {
        "influence-sky": (3.0, 5, "GeoScenes, 5 images, at least 10% in size"),
        "influence-road": (0.5, 5, "GeoScenes, 5 images, at least 2% in size"),
        "influence-wrong-car": (
            6.0 - 3.5,
            3,
            "GeoScenes, 3 images, the smaller group, at least 10% in size",
        ),
        "influence-dilation-sky": (0.5, 5, "GeoScenes, 5 images, at least 10% in size"),
    }


def test_medians_and_their_differences():
    one, other = np.arange(1.0, 42), np.arange(11.0, 52)
    value, low, high = room.median_interval(one)
    assert value == 21 and 11 < low < 21 < high < 31
    value, low, high = room.median_interval(one, other, statistic=room.median_difference)
    assert value == -10 and low < -10 < high < 2
    assert np.isnan(room.median_interval(np.array([2.0]))[1])
    assert np.isnan(room.median_interval(np.array([]))[0])


# --- The explanation ------------------------------------------------------------------------------


class Curved(nn.Module):
    """A small smooth network, for which a gradient differs from point to point."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, images):
        return self.layers(images)


def test_squared_integrated_gradients_are_captums_on_the_same_noise():
    torch.manual_seed(1)
    images, network = torch.rand(2, 3, 8, 8), Curved()
    options = {"steps": 6, "n_samples": 3, "sigma": 0.2, "seed": 7}
    raw = METHODS["integrated_gradients_squared"](network, images, torch.tensor([2, 0]), **options)
    generator = torch.Generator().manual_seed(7)
    squares = []
    for _ in range(3):
        noisy = images + 0.2 * torch.randn(3, 8, 8, generator=generator)
        baseline = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].expand(2, 3, 8, 8)
        gradients = IntegratedGradients(network).attribute(
            noisy, baseline, target=torch.tensor([2, 0]), n_steps=6
        )
        squares.append(gradients**2)
    expected = torch.stack(squares).mean(0).amax(1)
    torch.testing.assert_close(raw.detach(), expected.detach(), rtol=1e-4, atol=1e-9)
    assert not torch.allclose(raw, squares[0].amax(1), rtol=0.1)


# --- Semantic maps of scenes ----------------------------------------------------------------------

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
    shown = semantic.semantic_map(scene)
    largest = max(
        (o for o in scene.objects if semantic.concept_of(o.category, o.look) == "building"),
        key=lambda o: o.mask.sum(),
    )
    without = semantic.semantic_map(scene.without(largest.id))
    changed = shown != without
    assert changed.sum() > 0.5 * largest.mask.sum()
    assert not (changed & ~largest.footprint).any()


def test_cue_maps_hold_what_fills_most_of_a_pixel(scene):
    found = semantic.cue_map(scene)
    masks = {
        cue: np.any([o.mask for o in scene.objects if o.cue == cue], 0) for cue in (True, False)
    }
    assert not (found & ~masks[True]).any()
    inner = ndimage.binary_erosion(masks[True], np.ones((3, 3))) & ~masks[False]
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


def test_maps_of_a_dataset_of_scenes_are_kept():
    dataset = data.load("geoscenes", "eval", n=3, size=64)
    found, names = room.semantic_maps(dataset, 64, progress=False)
    assert names == semantic.CONCEPTS
    np.testing.assert_array_equal(found[2], semantic.semantic_map(dataset[2].scene))
    dataset_again = data.load("geoscenes", "eval", n=3, size=64)
    for record in dataset_again.records:
        object.__setattr__(record, "read", None)  # nothing is rendered again
    again, _ = room.semantic_maps(dataset_again, 64, progress=False)
    np.testing.assert_array_equal(found, again)
    half, _ = room.semantic_maps(dataset, 32, progress=False)
    np.testing.assert_array_equal(half[0], found[0, ::2, ::2])


# --- Semantic maps of photographs -----------------------------------------------------------------

LABELS = ["wall", "building, edifice", "sky", "bed ", "signboard;sign"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random SegFormer with names of ADE20K."""
    folder = tmp_path_factory.mktemp("ade20k")
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    lively(SegformerForSemanticSegmentation(config)).save_pretrained(folder)
    processor = SegformerImageProcessor(size={"height": 32, "width": 32}, do_reduce_labels=True)
    processor.save_pretrained(folder)
    return folder


def test_maps_are_the_networks_largest_scores(folder):
    network = SemanticNetwork(folder, device="cpu")
    assert network.names == ("wall", "building", "sky", "bed", "signboard")
    image = picture(32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (torch.from_numpy(image) / 255 - mean) / std
    with torch.no_grad():
        logits = network.model(pixel_values=pixels.permute(2, 0, 1)[None]).logits
    assert logits.shape[-2:] == (8, 8)
    for size in (None, (24, 40)):
        expected = F.interpolate(logits, size or (32, 32), mode="bilinear").argmax(1)[0]
        found = network(image, size)
        assert (found == expected.numpy()).mean() > 0.995
        assert len(np.unique(found)) > 1


def test_maps_of_photographs(folder, tmp_path):
    write_photographs(tmp_path, 5)
    photographs = data.load("folder", "train", root=tmp_path)
    network = SemanticNetwork(folder, device="cpu")
    found, names = room.semantic_maps(photographs, 40, network, progress=False)
    assert names == network.names
    np.testing.assert_array_equal(found[0], network(photographs[0].image, (40, 40)))
    with pytest.raises(ValueError, match=r"photograph.*geolib fetch ade20k-upernet"):
        room.semantic_maps(photographs, 40, progress=False)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", {"model_type": "sam2"}, "model_type is 'sam2'"),
        ("preprocessor_config.json", {"do_center_crop": True}, "do_center_crop"),
        ("config.json", None, r"no checkpoint at .*openmmlab/upernet"),
    ],
)
def test_a_missing_network_and_another_are_refused(folder, tmp_path, file, change, words):
    shutil.copytree(folder, tmp_path / "network")
    path = tmp_path / "network" / file
    changed = json.dumps(json.loads(path.read_text()) | (change or {}))
    path.unlink()
    if change is not None:
        path.write_text(changed)
    with pytest.raises(ValueError, match=words):
        SemanticNetwork(tmp_path / "network")
    with pytest.raises(ValueError, match="geolib fetch ade20k-upernet"):
        SemanticNetwork()


def test_a_name_of_the_hub_is_looked_up_there(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        ade20k, "snapshot_download", lambda name, **options: asked.append(name) or str(folder)
    )
    network = SemanticNetwork("someone/some-network", device="cpu")
    assert asked == ["someone/some-network"]
    assert network.key == SemanticNetwork(folder, device="cpu").key


# --- Tables and figures ---------------------------------------------------------------------------

GROUPS = {"within": "within 750 km", "beyond": "beyond 750 km"}


def summary():
    """Road above sky where right; trees only where wrong; a car too rare for a test."""
    rows = [
        (0, "within", "road", 9, 1.2, False),
        (0, "within", "sky", 8, 0.9, False),
        (0, "within", "car", 2, 3.0, True),
        (0, "beyond", "sky", 7, 1.4, False),
        (0, "beyond", "tree", 5, 0.3, False),
        (3, "within", "sky", 8, 1.1, False),
    ]
    table = pd.DataFrame(rows, columns=[*concepts.CELL, "images", "median", "rare"])
    table = table.assign(by_chance=0.8, p_value=0.01, p_holm=0.02)
    for column, beside in (("low", -0.1), ("high", 0.2), ("mean", 0.5)):
        table[column] = table["median"] + beside
    return table


def test_table_has_a_row_per_concept_and_a_block_per_group():
    styled = room.influence_table(summary(), 0, GROUPS)
    table = styled.data
    assert list(table.index) == ["road", "sky", "tree"]  # largest median of the first group first
    assert table.loc["sky", ("within 750 km", "images")] == 8
    assert table.loc["sky", ("beyond 750 km", "mean")] == 1.9
    assert table.loc["road", ("within 750 km", "median (95 %)")] == "1.20 (1.10\u00a0to\u00a01.40)"
    assert np.isnan(table.loc["road", ("beyond 750 km", "mean")])
    assert "nan" not in styled.to_html()
    assert list(room.influence_table(summary(), 3, GROUPS).data.index) == ["sky"]
    rare = room.rare_concepts(summary(), 5, GROUPS)
    assert "fewer than 5 images" in rare
    assert "within 750 km: car (2: 3.00)" in rare
    assert "beyond 750 km: none" in rare


def test_figure_shows_each_influence_as_a_bar():
    shown = np.zeros((8, 8), int)
    shown[4:] = 1
    influences = [pd.Series({"sky": 0.5, "road": 1.5}), pd.Series({"sky": 2.0, "road": np.nan})]
    figure = room.concept_influences(
        [np.zeros((8, 8, 3))] * 2, [np.eye(8)] * 2, [shown] * 2, NAMES, influences, ["a", "b"]
    )
    bars = [axis for axis in figure.axes if axis.patches]
    assert [[bar.get_width() for bar in axis.patches] for axis in bars] == [[0.5, 1.5], [2.0]]
    assert [label.get_text() for label in bars[0].get_yticklabels()] == ["sky", "road"]
    panels = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    sky = bars[0].patches[0].get_facecolor()[:3]
    np.testing.assert_allclose(panels[2][0, 0], sky)  # the map has the bars' colours
    np.testing.assert_allclose(panels[5][7, 7], figures.to_rgb("#9aa4ae"))


def test_figure_of_medians_keeps_the_order_of_the_table():
    table = summary().query("dilation == 0")
    axis = room.concept_medians(table, GROUPS).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["road", "sky", "car", "tree"]
    labelled = {line.get_label(): line.get_xdata() for line in axis.get_lines()}
    np.testing.assert_allclose(labelled["within 750 km"], [1.2, 0.9, 3.0])
    np.testing.assert_allclose(labelled["beyond 750 km"], [1.4, 0.3])
