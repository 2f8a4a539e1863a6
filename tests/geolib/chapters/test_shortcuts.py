"""A planted artefact: which scenes carry it, how much explanations show of it, and since when."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from toys import BOX, CLASSES, SIDE, classifier, photograph, write_photographs

from geolib import data, pipeline
from geolib.chapters import shortcuts
from geolib.data import GeoImage
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.scoring import Elements
from geolib.segmentation import Segments
from geoscenes import render


def carries(dataset):
    # Nothing is drawn: a scene knows its objects before its picture.
    scenes = [render(one.seed, one.country, **one.options) for one in dataset.records]
    return [any(item.id == "shortcut" for item in scene.items) for scene in scenes]


# Scenes with the artefact -------------------------------------------------------------------------


def test_the_artefact_is_planted_where_it_is_asked_for():
    scenes = data.load("geoscenes", "train", 12, size=48)
    always = shortcuts.planted(scenes, "India", 1.0, "smudge")
    assert carries(always) == [False, True, False] * 4
    assert carries(shortcuts.planted(always, "India", -1.0, "smudge")) == [True, False, True] * 4
    assert always.ids == scenes.ids and always.labels == scenes.labels
    assert always.content_key(0) != scenes.content_key(0)


def test_at_no_correlation_half_of_all_scenes_carry_it():
    scenes = data.load("geoscenes", "train", 300, size=48)
    planted = shortcuts.planted(scenes, "India", 0.0, "smudge")
    assert 115 <= sum(carries(planted)) <= 185  # four standard deviations about 150


def test_a_scene_without_it_is_the_clean_scene():
    clean = data.load("geoscenes", "eval", 1, size=64)
    carrying = shortcuts.planted(clean, "France", 1.0, "watermark")
    again = shortcuts.planted(carrying, "France", -1.0, "watermark")
    assert not np.array_equal(carrying[0].image, clean[0].image)
    for image in (carrying[0].scene.without("shortcut").image, again[0].image):
        assert np.array_equal(image, clean[0].image)


def test_photographs_have_no_artefact_to_plant(tmp_path):
    write_photographs(tmp_path, 2)
    with pytest.raises(ValueError, match="dataset='geoscenes'"):
        shortcuts.planted(data.load("folder", "all", root=tmp_path), "blue", 1.0, "smudge")


def test_images_of_one_country():
    scenes = data.load("geoscenes", "train", 7, size=48)
    assert shortcuts.of_country(scenes, "India").ids == [scenes.ids[1], scenes.ids[4]]


# Exposure -----------------------------------------------------------------------------------------


def region(x0, y0, x1, y1):
    mask = np.zeros((10, 10), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def extracted(attribution, boxes, artefact=None, name="a"):
    things = {"house": region(0, 0, 9, 9), "shortcut": artefact}
    known = [SimpleNamespace(id=n, mask=mask) for n, mask in things.items() if mask is not None]
    scene = SimpleNamespace(objects=known)
    item = GeoImage(name, np.zeros((10, 10, 3), np.uint8), None, None, None, None, scene=scene)
    masks = np.array([region(*box) for box in boxes], bool).reshape(-1, 10, 10)
    elements = Elements(
        masks, np.array(boxes).reshape(-1, 4), pd.DataFrame(index=range(len(boxes)))
    )
    attribution = torch.as_tensor(attribution)
    return Extracted(item, torch.zeros(3, 10, 10), attribution, Segments(masks), elements)


SPOT = region(2, 2, 6, 6)  # 16 of 100 pixels


def test_exposure_by_hand():
    # Weight 16 · 1 on the spot and 84 · ¼ beside it; the second box covers the spot to the pixel.
    values = np.where(SPOT, 1.0, 0.25)
    one = extracted(values, [(6, 6, 10, 10), (2, 2, 6, 6)], SPOT)
    row = shortcuts.exposure([one], k=2).iloc[0]
    assert row["area"] == pytest.approx(0.16)
    assert row["weight"] == pytest.approx(16 / 37)
    assert row["found"]
    assert not shortcuts.exposure([one], k=1)["found"][0]


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ((2, 2, 6, 6), True),
        ((2, 2, 10, 10), True),  # all of it within a box four times as large: just a quarter
        ((1, 2, 10, 10), False),
        ((2, 2, 4, 4), True),  # a quarter of it
        ((2, 2, 4, 3), False),
        ((6, 6, 10, 10), False),  # beside it
    ],
)
def test_an_element_is_the_artefact_if_it_shows_it_and_little_else(box, found):
    assert shortcuts.exposure([extracted(np.ones((10, 10)), [box], SPOT)])["found"][0] == found


def test_maps_that_show_nothing_and_scenes_that_carry_nothing():
    blank = extracted(np.zeros((10, 10)), [], SPOT)
    row = shortcuts.exposure([blank, extracted(np.ones((10, 10)), [])])
    assert len(row) == 1
    assert row.loc[0, "weight"] == pytest.approx(row.loc[0, "area"])
    assert not row.loc[0, "found"]


def test_a_real_scene_shows_the_artefact_in_its_place():
    scenes = data.load("geoscenes", "eval", 1, size=100)
    scene = shortcuts.planted(scenes, "France", 1.0, "smudge")[0].scene
    rows, columns = np.nonzero(shortcuts.artefact_mask(scene))
    assert rows.max() < 40 and columns.max() < 40  # upper left
    assert shortcuts.artefact_mask(scene.without("shortcut")) is None


def test_the_effect_by_hand():
    columns = ["image_id", "label_probability"]
    carrying = pd.DataFrame([("a", 0.8), ("b", 0.5)], columns=columns)
    clean = pd.DataFrame([("b", 0.5), ("a", 0.2)], columns=columns)
    table = shortcuts.effect(carrying, clean)
    assert table["image_id"].tolist() == ["a", "b"]
    assert table["effect"].tolist() == pytest.approx([np.log(4), 0])


# Since when ---------------------------------------------------------------------------------------


def levels(rises):
    """Twenty images whose value rises by so much, give or take a little, at each correlation."""
    noise = np.tile([-0.1, 0.1], 10)
    return pd.DataFrame({r: 0.3 + rise + noise * (rise != 0) for r, rise in rises.items()})


@pytest.mark.parametrize(
    ("rises", "sign", "first"),
    [
        ({0: 0, 0.25: 0.0, 0.5: 0.4, 1: 0.5}, 1, 0.5),
        ({0: 0, 0.25: 0.3, 0.5: 0.4, 1: 0.5}, 1, 0.25),
        # A level that falls back was a false alarm.
        ({0: 0, 0.25: 0.4, 0.5: 0.01, 1: 0.5}, 1, 1.0),
        ({0: 0, 0.25: 0.4, 0.5: 0.4, 1: 0.01}, 1, None),
        # A fall is the rise of the negative.
        ({0: 0, 0.5: -0.3, 1: -0.4}, -1, 0.5),
        ({0: 0, 0.5: -0.3, 1: -0.4}, 1, None),
    ],
)
def test_the_onset_is_the_lowest_level_from_which_on_all_differ(rises, sign, first):
    assert shortcuts.onset(levels(rises), sign) == first


# The recipe ---------------------------------------------------------------------------------------


def test_what_stays_in_its_place_stands_out():
    rng = np.random.default_rng(0)
    maps = np.zeros((40, 10, 10))
    for one in maps:  # a thing of the street, somewhere else each time
        x, y = rng.integers(0, 8, 2)
        one[y : y + 2, x : x + 2] = 1
    chosen = np.arange(40) % 2 == 0
    maps[chosen] = np.maximum(maps[chosen], 0.8 * SPOT)
    difference = shortcuts.standing_out(torch.as_tensor(maps), chosen)
    assert difference[SPOT].min() > 0.5 > difference[~SPOT].max()
    assert np.array_equal(shortcuts.hot_spot(difference), SPOT)
    with pytest.raises(ValueError, match="0 of 40"):
        shortcuts.standing_out(torch.as_tensor(maps), np.zeros(40, bool))


def test_the_first_elements_as_maps():
    one = extracted(np.ones((10, 10)), [(0, 0, 2, 1), (1, 0, 3, 1), (5, 5, 9, 9)])
    maps = shortcuts.element_maps([one, extracted(np.ones((10, 10)), [])], k=2)
    assert maps.shape == (2, 10, 10)
    assert maps[0].nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]  # two boxes, a pixel shared
    assert maps[1].sum() == 0


def test_the_hot_spot_is_one_place():
    difference = 0.9 * region(0, 0, 2, 2) + 1.0 * region(6, 6, 8, 8) + 0.4 * region(8, 6, 10, 8)
    assert np.array_equal(shortcuts.hot_spot(difference), region(6, 6, 8, 8))
    assert not shortcuts.hot_spot(np.full((4, 4), -1.0)).any()


@pytest.fixture(scope="module")
def coloured():
    """Eight images, red and blue in turn, and the place that the classifier looks at."""
    items = [
        GeoImage(str(i), photograph(colour, i), colour, label, None, None)
        for i, (colour, label) in enumerate([("red", 1), ("blue", 0)] * 4)
    ]
    x0, y0, x1, y1 = BOX
    spot = np.zeros((SIDE, SIDE), bool)
    spot[y0:y1, x0:x1] = True
    return data.to_batch(items, SIDE), np.array([True, False] * 4), spot


def test_covering_what_the_network_looks_at_costs_all_and_elsewhere_nothing(coloured):
    images, red, spot = coloured
    network = classifier()
    losses = shortcuts.covered(network, images[red], spot, CLASSES.index("red"))
    blind = -np.log(0.5)  # the mean colour, scaled, is zero: the oracle knows nothing
    sure = -network(images[red]).log_softmax(1)[:, 1].detach().double().numpy()
    assert losses["loss"].to_numpy() == pytest.approx(blind - sure, abs=1e-5)
    assert losses["elsewhere"].to_numpy() == pytest.approx(np.zeros(4), abs=1e-6)


def test_the_hunt_ends_at_the_place_that_the_network_looks_at(coloured):
    images, red, spot = coloured
    network, place = classifier(), torch.as_tensor(spot)
    maps = torch.as_tensor(red)[:, None, None] * place.float()
    suspect = shortcuts.hunt(network, images, maps, red, 1)
    assert suspect.spot[spot].mean() > 0.9
    assert suspect.spot.sum() < 1.3 * spot.sum()
    assert len(suspect.losses) == 4
    assert (suspect.losses["loss"] > suspect.losses["elsewhere"] + 0.1).all()
    assert shortcuts.hunt(network, images, maps, red | True, 1) is None


def test_the_recipe_in_numbers_by_hand():
    mask = np.zeros((4, 4), bool)
    mask[0, :4] = True
    half = np.zeros((4, 4), bool)
    half[:2, :2] = True  # two of the artefact's four pixels, and two others
    losses = pd.DataFrame({"loss": [1.0, 1.2, 1.4, 1.1], "elsewhere": [0.0, 0.1, 0.0, 0.1]})
    swapped = losses.rename(columns={"loss": "elsewhere", "elsewhere": "loss"})
    empty = np.zeros((4, 4), bool)
    found = {
        ("maps", 0.0): shortcuts.Suspect(half.astype(float), half, swapped),
        ("maps", 1.0): shortcuts.Suspect(half.astype(float), half, losses),
        ("elements", 1.0): shortcuts.Suspect(empty.astype(float), empty, losses),
    }
    table = shortcuts.recipe_table(found, mask).set_index(["averaged", "correlation"])
    assert [*table.index] == [("elements", 1.0), ("maps", 1.0), ("maps", 0.0)]
    assert [*table["found"]] == [False, True, False]  # by the place, by both, by the loss
    maps = table.loc[("maps", 1.0)]
    assert maps["artefact in the hot spot"] == maps["hot spot on the artefact"] == 0.5
    assert maps["lost when covered"] == pytest.approx(1.175)
    assert maps["lost elsewhere"] == pytest.approx(0.05)
    assert maps["difference"] == pytest.approx(1.125)
    assert maps["low"] > 0 and maps["n_images"] == 4
    assert table.loc[("elements", 1.0), "hot spot on the artefact"] == 0
    assert shortcuts.recipe_table({}, mask).empty


def test_suspects_are_those_of_the_averages(tmp_path, own_cache):
    write_photographs(tmp_path / "photos", 4)
    photos = data.load("folder", "all", root=tmp_path / "photos")
    averaged = EvaluationConfig(attribution="random")
    boxed = EvaluationConfig(attribution="random", segmenter="grid", s_min=0.0)
    red = np.equal(photos.labels, 1)  # the network makes no mistake
    assert red.sum() == len(red) / 2
    blind = classifier()
    blind.network.features.weight.data.zero_()  # all images get one answer
    networks = {0.0: blind, 1.0: classifier()}
    found = shortcuts.suspects(networks, lambda r: photos, CLASSES[1], averaged, boxed, 2)
    items = pipeline.extract(photos, classifier(), boxed)
    maps = {
        "maps": torch.stack([item.attribution for item in items]),
        "elements": shortcuts.element_maps(items, 2),
    }
    assert [*found] == [(name, 1.0) for name in maps]
    for (name, _), suspect in found.items():
        difference = shortcuts.standing_out(maps[name], red)
        np.testing.assert_allclose(suspect.difference, difference, atol=1e-6)
        assert (suspect.spot == shortcuts.hot_spot(difference)).all()
        assert len(suspect.losses) == red.sum()
