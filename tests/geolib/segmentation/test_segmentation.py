"""Segmenters without weights: what they must find, their exact partitions, their errors.

And what every segmenter shares: run lengths, sizes, and where a network's weights come from.
"""

import json
import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import data, transform
from torch import nn
from toys import SIDE, classifier, one_of_each

import geoscenes
from geolib import pipeline, segmentation
from geolib.masks import decode, encode, iou
from geolib.pipeline import shards
from geolib.segmentation import Segments, salient_region
from geolib.segmentation.networks.base import NetworkSegmenter

NESTED = ["felzenszwalb", "slic"]


def rectangle(shape, y0, x0, y1, x1):
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def scaled(size, *box):
    return rectangle((size, size), *(round(share * size) for share in box))


def planted(size, seed=0):
    """A red square and a blue square with a yellow one inside, on noisy grey."""
    red = scaled(size, 0.15, 0.1, 0.4, 0.35)
    blue = scaled(size, 0.4, 0.45, 0.9, 0.9)
    yellow = scaled(size, 0.55, 0.6, 0.75, 0.8)
    image = np.full((size, size, 3), 128.0)
    for mask, colour in ((red, (200, 40, 40)), (blue, (40, 60, 190)), (yellow, (230, 210, 30))):
        image[mask] = colour
    image += np.random.default_rng(seed).normal(0, 8, image.shape)
    return image.clip(0, 255).astype(np.uint8), {"red": red, "blue": blue, "yellow": yellow}


def best_iou(masks, wanted):
    return iou(masks, wanted[None]).max()


@pytest.fixture(scope="module")
def photograph():
    small = transform.resize(data.coffee(), (160, 160), anti_aliasing=True)
    return (255 * small).astype(np.uint8)


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize(("size", "factor"), [(96, 1), (160, 1), (224, 1), (640, 1), (160, 8)])
def test_planted_objects_are_found_at_every_size(name, size, factor):
    image, objects = planted(size)
    masks = segmentation.load(name)(image.repeat(factor, axis=0).repeat(factor, axis=1)).masks
    assert masks.shape[1:] == (factor * size, factor * size)
    objects = {what: mask.repeat(factor, 0).repeat(factor, 1) for what, mask in objects.items()}
    for what, mask in objects.items():
        if what == "blue":  # found with the yellow part of it, or with a hole where that lies
            mask = max((mask, mask & ~objects["yellow"]), key=lambda m: best_iou(masks, m))
        assert best_iou(masks, mask) > 0.9, what


@pytest.mark.parametrize("name", NESTED)
def test_segments_nest_and_are_few_where_there_are_few_objects(name, photograph):
    """Some segments hold others whole: a partition into superpixels would have none."""
    assert 3 <= len(segmentation.load(name)(planted(160)[0])) <= 12
    masks = segmentation.load(name)(photograph).masks.reshape(-1, photograph[..., 0].size)
    inter = masks.astype(np.float32) @ masks.T.astype(np.float32)  # exact: below 2^24
    inside = inter == np.diag(inter)[:, None]
    assert (inside.sum() - len(masks)) > len(masks)
    crossing = (inter > 0) & ~inside & ~inside.T
    assert not crossing.any()  # a tree: two segments nest or are disjoint


@pytest.mark.parametrize("name", NESTED)
def test_segments_are_connected_distinct_and_of_sensible_size(name, photograph):
    masks = segmentation.load(name, min_area=0.002, max_area=0.5)(photograph).masks
    share = masks.mean(axis=(1, 2))
    assert len(masks) > 20
    assert share.min() >= 0.002 and share.max() <= 0.5 and (np.diff(share) <= 0).all()
    assert all(ndimage.label(mask, structure=np.ones((3, 3)))[1] == 1 for mask in masks)
    assert (iou(masks, masks) < 0.9).sum() == len(masks) * (len(masks) - 1)


@pytest.mark.parametrize("name", NESTED)
def test_contrast_removes_segments_and_adds_none(name, photograph):
    """What stands out strongly also stands out weakly, near-duplicates aside."""
    weak, strong = (segmentation.load(name, contrast=c)(photograph).masks for c in (10, 40))
    assert 0 < len(strong) < len(weak)
    assert (iou(weak, strong).max(axis=0) >= 0.9).all()


@pytest.mark.parametrize("name", [*NESTED, "grid"])
def test_same_image_same_segments_whatever_came_before(name, photograph):
    first = segmentation.load(name)(photograph).masks
    segment = segmentation.load(name)
    np.random.default_rng(1).random(5)
    segment(planted(96)[0])
    np.testing.assert_array_equal(segment(photograph.copy()).masks, first)


@pytest.mark.parametrize("name", NESTED)
def test_constant_image_has_no_segments_and_tiny_noise_is_no_error(name):
    segment = segmentation.load(name)
    for shape in ((1, 1), (1, 9), (9, 1), (2, 3), (40, 40), (7, 300), (4, 3000)):
        assert segment(np.full((*shape, 3), 90, np.uint8)).masks.shape == (0, *shape)
        noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        assert segment(noise).masks.shape[1:] == shape


def test_grid_by_hand():
    # rows 0…4 fall into cells 0 0 0 1 1, columns 0…2 into 0 0 1
    masks = segmentation.load("grid", cells=2)(np.zeros((5, 3, 3), np.uint8)).masks
    cells = np.array([[0, 0, 1]] * 3 + [[2, 2, 3]] * 2)
    np.testing.assert_array_equal(masks, [cells == i for i in range(4)])


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_grid_tiles_the_image_with_rectangles(height, width, cells):
    masks = segmentation.load("grid", cells=cells)(np.zeros((height, width, 3), np.uint8)).masks
    assert len(masks) == min(height, cells) * min(width, cells)
    assert (masks.sum(axis=0) == 1).all()
    rows, columns = masks.any(axis=2).sum(axis=1), masks.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(masks.sum(axis=(1, 2)), rows * columns)
    assert max(np.ptp(rows), np.ptp(columns)) <= 1


MAP = np.array([[9, 9, 0, 0, 1], [8, 0, 0, 0, 7], [0, 0, 6, 0, 7], [0, 0, 0, 0, 0]], np.float32)


def none(attribution, **options):
    image = np.zeros((*attribution.shape, 3), np.uint8)
    return segmentation.load("none", **options)(image, attribution=attribution)


def test_none_by_hand():
    # k = 6 of 20: 9 9 8 7 7 6; the 6 touches a 7 only by a corner
    expected = [np.isin(MAP, (8, 9)), MAP == 7, MAP == 6]
    np.testing.assert_array_equal(none(MAP / 9, top_p=0.3).masks, expected)
    assert none(MAP / 9, top_p=0.3).note == ""
    # k = 4: 9 9 8 and one of the two 7s, so both
    np.testing.assert_array_equal(none(MAP, top_p=0.2).masks.any(axis=0), MAP >= 7)
    # k = 10, but only seven pixels are above zero
    short, empty = none(MAP, top_p=0.5), none(np.zeros((6, 6), np.float32))
    np.testing.assert_array_equal(short.masks.any(axis=0), MAP > 0)
    assert "short of 3 of 10 pixels" in short.note
    assert empty.masks.shape == (0, 6, 6)
    assert "short of 7 of 7" in empty.note


def test_none_leaves_out_specks():
    attribution = np.zeros((100, 100), np.float32)
    attribution[10:20, 10:20] = 1
    attribution[50, 50:54] = 1
    (kept,) = none(attribution, min_area=0.001).masks
    np.testing.assert_array_equal(kept, rectangle((100, 100), 10, 10, 20, 20))
    assert len(none(attribution, min_area=0.0004)) == 2


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_none_is_the_labelled_salient_set(seed, top_p, levels):
    """Independently: the k-th largest value of a sorted list, scipy's labels."""
    attribution = np.random.default_rng(seed).integers(0, levels, (12, 17)).astype(np.float32)
    k = round(top_p * attribution.size)
    region = (attribution >= sorted(attribution.flat)[-k]) & (attribution > 0)
    labels, n = ndimage.label(region)
    masks = none(attribution, top_p=top_p, min_area=0).masks
    np.testing.assert_array_equal(masks, [labels == i + 1 for i in range(n)] or masks[:0])
    np.testing.assert_array_equal(salient_region(attribution, top_p), region)


def scene_item(*things):
    objects = [SimpleNamespace(category=c, mask=m) for c, m in things]
    return SimpleNamespace(id="scene-7", scene=SimpleNamespace(objects=objects))


def test_truth_follows_the_image_s_size():
    car, speck = rectangle((8, 8), 4, 4, 8, 8), rectangle((8, 8), 0, 0, 1, 1)
    item = scene_item(("car", car), ("speck", speck))
    half = segmentation.load("truth")(np.zeros((4, 4, 3), np.uint8), item=item)
    np.testing.assert_array_equal(half.masks, [rectangle((4, 4), 2, 2, 4, 4)])  # the speck is gone
    assert half.labels == ["car"]
    double = segmentation.load("truth")(np.zeros((16, 16, 3), np.uint8), item=item)
    np.testing.assert_array_equal(double.masks[0], rectangle((16, 16), 8, 8, 16, 16))
    assert len(segmentation.load("truth")(np.zeros((4, 4, 3), np.uint8), item=scene_item())) == 0


@pytest.fixture(scope="module")
def scenes():
    return [geoscenes.render(seed, size=160) for seed in range(8)]


def test_truth_gives_the_visible_objects_of_geoscenes(scenes):
    for scene in scenes:
        visible = [(thing.category, thing.mask) for thing in scene.objects if thing.mask.any()]
        hidden = "hidden", np.zeros((160, 160), bool)
        segments = segmentation.load("truth")(scene.image, item=scene_item(hidden, *visible))
        np.testing.assert_array_equal(segments.masks, [mask for _, mask in visible])
        assert segments.labels == [category for category, _ in visible]


@pytest.mark.parametrize("name", NESTED)
def test_segments_are_nearer_to_true_objects_than_cells_are(name, scenes):
    """Best IoU with each object of at least 64 pixels, averaged; the grid has as many masks."""

    def quality(segment):
        found = []
        for scene in scenes:
            large = np.stack([o.mask for o in scene.objects if o.mask.sum() >= 64])
            found += iou(large, segment(scene.image).masks).max(axis=1).tolist()
        return np.mean(found)

    ours = quality(segmentation.load(name))
    assert ours > 0.4
    assert ours > 1.8 * quality(segmentation.load("grid", cells=11))


def test_a_new_segmenter_is_a_function_and_a_line(monkeypatch):
    def halves(image, *, columns=2):
        return segmentation.load("grid", cells=columns)(image)

    monkeypatch.setitem(segmentation.SEGMENTERS, "halves", halves)
    segment = segmentation.load("halves", columns=3)
    assert len(segment(np.zeros((9, 9, 3), np.uint8))) == 9
    assert segment.uses == {"image"}
    assert segment.options == {"columns": 3}
    assert segmentation.available()["halves"] == ""


def test_what_each_segmenter_reads_and_that_its_key_names_the_options():
    reads = {name: {"image"} for name in ("felzenszwalb", "slic", "grid")}
    reads |= {"truth": {"image", "item"}, "none": {"attribution"}}
    assert {name: segmentation.load(name).uses for name in reads} == reads
    key = segmentation.load("slic").key
    assert segmentation.load("slic", n_segments=400).key == key
    assert segmentation.load("slic", n_segments=401).key != key
    assert segmentation.load("felzenszwalb").key != key


IMAGE = np.zeros((8, 8, 3), np.uint8)
NO_SCENE = SimpleNamespace(id="a", scene=None)


@pytest.mark.parametrize(
    ("name", "options", "given", "words"),
    [
        ("felzenswalb", {}, {}, "'felzenswalb'; known: felzenszwalb, slic, grid, truth"),
        ("slic", {"segments": 3}, {}, "'segments' of segmenter 'slic'; known: n_segments"),
        ("truth", {"image": 3}, {}, "takes no options"),
        ("grid", {"cells": 0}, {}, "cells must be above 0"),
        ("slic", {"n_segments": -1}, {}, "n_segments must be above 0"),
        ("felzenszwalb", {"scale": 0}, {}, "scale must be above 0"),
        ("felzenszwalb", {"min_area": 0.7}, {}, "min_area and max_area"),
        ("none", {"top_p": 0}, {}, r"top_p must be in \(0, 1\]"),
        ("none", {"top_p": 1.5}, {}, r"top_p must be in \(0, 1\]"),
        ("grid", {}, {"image": IMAGE[..., 0]}, "grey"),
        ("grid", {}, {"image": np.zeros((8, 8, 4), np.uint8)}, "alpha"),
        ("grid", {}, {"image": IMAGE[:0]}, r"\(0, 8, 3\)"),
        ("none", {}, {"attribution": None}, "'none' reads the attribution: pass attr"),
        ("none", {}, {"attribution": np.ones((4, 4))}, r"\(8, 8\), got.* \(4, 4\)"),
        ("none", {}, {"attribution": np.full((8, 8), np.nan)}, "NaN"),
        ("truth", {}, {}, "'truth' reads the item"),
        ("truth", {}, {"item": NO_SCENE}, "'a' has none.*geo"),
    ],
)
def test_bad_names_options_and_inputs(name, options, given, words):
    with pytest.raises(ValueError, match=words):
        segment = segmentation.load(name, **options)
        segment(**{"image": IMAGE, "attribution": np.ones((8, 8)), **given})


def test_types_and_what_segments_hold_are_checked():
    floats, words = IMAGE.astype(float), IMAGE.astype(np.uint16)
    for image, kind in ((floats, "float64"), (words, "uint16"), ("photo.jpg", "str")):
        with pytest.raises(TypeError, match=f"uint8.*{kind}"):
            segmentation.load("grid")(image)
    with pytest.raises(TypeError, match="bool"):
        Segments(IMAGE)
    with pytest.raises(ValueError, match="N, H, W"):
        Segments(np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match="scores has 3 entries for 2 masks"):
        Segments(np.zeros((2, 4, 4), bool), scores=np.zeros(3))


def test_resize_keeps_pixels_covered_by_half():
    # columns 0…2 of 8 → 4 columns: the first is covered whole, the second by half, exactly
    (small,) = Segments(rectangle((8, 8), 0, 0, 8, 3)[None]).resize((4, 4)).masks
    np.testing.assert_array_equal(small, rectangle((4, 4), 0, 0, 4, 2))


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=40, deadline=None)
def test_run_lengths_keep_every_mask(seed, shape):
    masks = np.random.default_rng(seed).random((4, *shape)) < 0.4
    rles = json.loads(json.dumps([encode(mask) for mask in masks]))
    scores, labels = np.arange(4.0), list("abcd")
    kept = masks.any(axis=(1, 2))  # a mask without a pixel is no segment
    segments = Segments.fitted(map(decode, rles), shape, scores, labels, note="short")
    again = Segments.from_json(json.loads(json.dumps(segments.to_json())), shape)
    assert again.note == segments.note == "short"
    for found in (segments, again):
        np.testing.assert_array_equal(found.masks, masks[kept])
        np.testing.assert_array_equal(found.scores, scores[kept])
        np.testing.assert_array_equal(found.labels, np.array(labels)[kept])
    twice = (2 * shape[0], 2 * shape[1])
    double = Segments.fitted(map(decode, rles), twice, scores, labels)
    np.testing.assert_array_equal(double.masks, Segments(masks).resize(twice).masks)


@pytest.mark.parametrize("native", [True, False])
def test_networks_are_shown_the_photograph_the_others_what_the_classifier_sees(
    native, monkeypatch, tmp_path, own_cache
):
    """A segmenter that takes a size is native; it returns masks of that size."""
    shown = []

    def left_half(image, size):
        shown.append(image.shape)
        return Segments(rectangle(size, 0, 0, size[0], size[1] // 2)[None], labels=["left"])

    functions = {True: left_half, False: lambda image: left_half(image, image.shape[:2])}
    monkeypatch.setitem(segmentation.SEGMENTERS, "left", functions[native])
    assert segmentation.load("left").native is native
    dataset = one_of_each(tmp_path / "photos", {"blue": np.full((100, 300, 3), 200, np.uint8)})
    config = shards.EvaluationConfig(segmenter="left", precision="fp32")
    (shard,) = shards.shards(dataset, classifier(), 1)
    (found,) = shards.segments(shard, classifier(), config)
    half = rectangle((SIDE, SIDE), 0, 0, SIDE, SIDE // 2)
    np.testing.assert_array_equal(found.masks, [half])
    assert found.labels == ["left"]
    assert shown == [(100, 300, 3) if native else (SIDE, SIDE, 3)]
    pipeline.explain(classifier(), dataset[0], config)
    assert shown[1:] == shown[:1]


def test_masks_of_another_size_are_mapped_and_a_network_must_return_the_size(monkeypatch):
    def deaf(image, size):
        return Segments(np.ones((1, 8, 8), dtype=bool))

    image = np.zeros((8, 8, 3), np.uint8)
    cells = segmentation.load("grid", cells=2)(image, size=(4, 6))
    np.testing.assert_array_equal(cells.masks[1], rectangle((4, 6), 0, 3, 2, 6))
    monkeypatch.setitem(segmentation.SEGMENTERS, "deaf", deaf)
    with pytest.raises(ValueError, match=r"'deaf' returned masks of \(8, 8\).* of \(4, 6\)"):
        segmentation.load("deaf")(image, size=(4, 6))


def test_a_shared_segmenter_is_loaded_once_while_its_files_stand(monkeypatch, tmp_path):
    loaded = []

    @dataclass
    class Counting(NetworkSegmenter):
        asset, published = "mobile-sam", "a file with anything in it"
        concepts: Any = None

        def open(self, checkpoint):
            loaded.append(checkpoint.read_text())
            return nn.Identity()

        def __call__(self, image, size):
            return Segments(np.zeros((0, *size), dtype=bool))

    monkeypatch.setitem(segmentation.SEGMENTERS, "counting", Counting)
    path = tmp_path / "weights"
    path.write_text("one")
    options = {"checkpoint": path, "concepts": ["a", "b"]}
    first = segmentation.shared("counting", **options)
    assert segmentation.shared("counting", **options) is first
    assert segmentation.load("counting", **options) is not first
    assert segmentation.shared("counting", checkpoint=path, concepts=["b"]) is not first
    segmentation.shared("counting", **options)
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert segmentation.shared("counting", **options).key != first.key
    assert loaded == ["one"] * 4 + ["two"]
    path.unlink()
    with pytest.raises(ValueError, match=r"no checkpoint at .*run `geolib fetch mobile-sam`"):
        segmentation.shared("counting", **options)


def test_what_geolib_fetch_left_is_the_default(own_cache):
    absent = segmentation.available()
    for name, asset in (("mobilesam", "mobile-sam"), ("sam", "sam-vit-b"), ("sam3", "sam3")):
        assert f"run `geolib fetch {asset}`" in absent[name]
    assert "run `geolib fetch sam2.1-hiera-" in absent["sam2"]
    ready = {name for name, reason in absent.items() if not reason}
    assert ready == {"felzenszwalb", "slic", "grid", "truth", "none"}
    place = own_cache / "assets" / "mobile-sam" / "mobile_sam.pt"
    place.parent.mkdir(parents=True)
    place.write_text("not a network")
    assert segmentation.available()["mobilesam"] == ""
    with pytest.raises(ValueError, match=f"{place} cannot be read"):
        segmentation.load("mobilesam")
