"""A planted artefact: which scenes carry it, how much explanations show of it, and since when."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from toys import BOX, CLASSES, SIDE, classifier, explained, photograph, write_photographs

from geolib import data, pipeline
from geolib.chapters import shortcuts
from geolib.data import GeoImage
from geolib.masks import box_region
from geolib.pipeline.shards import EvaluationConfig
from geoscenes import render


def carries(dataset):
    # Nothing is drawn: a scene knows its objects before its picture.
    scenes = [render(one.seed, one.country, **one.options) for one in dataset.records]
    return [any(item.id == "shortcut" for item in scene.items) for scene in scenes]


# Scenes with the artefact -------------------------------------------------------------------------


def test_the_artefact_is_planted_where_it_is_asked_for():
    scenes = data.load("geoscenes", "train", 300, size=48)
    few = scenes.subset(range(12))
    always = shortcuts.planted(few, "India", 1.0, "smudge")
    assert carries(always) == [False, True, False] * 4
    assert carries(shortcuts.planted(always, "India", -1.0, "smudge")) == [True, False, True] * 4
    assert always.ids == few.ids and always.labels == few.labels
    assert always.content_key(0) != few.content_key(0)
    half = shortcuts.planted(scenes, "India", 0.0, "smudge")
    assert 115 <= sum(carries(half)) <= 185  # four standard deviations about 150
    assert shortcuts.of_country(few, "India").ids == few.ids[1::3]


def test_a_scene_without_it_is_the_clean_scene_and_photographs_have_none(tmp_path):
    write_photographs(tmp_path, 2)
    with pytest.raises(ValueError, match="dataset='geoscenes'"):
        shortcuts.planted(data.load("folder", "all", root=tmp_path), "blue", 1.0, "smudge")
    clean = data.load("geoscenes", "eval", 1, size=64)
    carrying = shortcuts.planted(clean, "France", 1.0, "watermark")
    again = shortcuts.planted(carrying, "France", -1.0, "watermark")
    assert not np.array_equal(carrying[0].image, clean[0].image)
    for image in (carrying[0].scene.without("shortcut").image, again[0].image):
        assert np.array_equal(image, clean[0].image)


# Exposure -----------------------------------------------------------------------------------------


def region(*box, side=10):
    return box_region([box], (side, side))


def extracted(attribution, boxes, artefact=None):
    things = {"house": region(0, 0, 9, 9), "shortcut": artefact}
    known = [SimpleNamespace(id=n, mask=mask) for n, mask in things.items() if mask is not None]
    return explained(attribution, boxes, SimpleNamespace(objects=known))


SPOT = region(2, 2, 6, 6)  # 16 of 100 pixels


def test_exposure_by_hand():
    # Weight 16 · 1 on the spot and 84 · ¼ beside it; the second box covers the spot to the pixel.
    values = np.where(SPOT, 1.0, 0.25)
    one = extracted(values, [(6, 6, 10, 10), (2, 2, 6, 6)], SPOT)
    row = shortcuts.exposure([one], k=2).iloc[0]
    assert row[["area", "weight", "found"]].tolist() == pytest.approx([0.16, 16 / 37, 1])
    assert not shortcuts.exposure([one], k=1)["found"][0]
    # A map that shows nothing counts as an even one; a scene that carries nothing is left out.
    empty = extracted(np.zeros((10, 10)), [], SPOT), extracted(np.ones((10, 10)), [])
    table = shortcuts.exposure(empty)[["area", "weight", "found"]]
    assert table.to_numpy().tolist() == [pytest.approx([0.16, 0.16, 0])]


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


def test_a_real_scene_shows_the_artefact_in_its_place():
    scenes = data.load("geoscenes", "eval", 1, size=100)
    scene = shortcuts.planted(scenes, "France", 1.0, "smudge")[0].scene
    rows, columns = np.nonzero(shortcuts.artefact_mask(scene))
    assert rows.max() < 40 and columns.max() < 40  # upper left
    assert shortcuts.artefact_mask(scene.without("shortcut")) is None


def test_the_effect_by_hand(monkeypatch):
    tables = {
        name: pd.DataFrame({"image_id": list(ids), "label_probability": values})
        for name, ids, values in (("carrying", "ab", [0.8, 0.5]), ("clean", "ba", [0.5, 0.2]))
    }
    monkeypatch.setattr(shortcuts.shards, "predictions", lambda images, network: tables[images])
    table = shortcuts.effects({0.5: classifier()}, "carrying", "clean")
    assert table["image_id"].tolist() == ["a", "b"] and set(table["correlation"]) == {0.5}
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


def test_the_answer_names_what_warns_first():
    firsts = {("elements", "cam"): 0.5, ("elements", "edges"): 0.2, ("map", "cam"): np.nan}
    found = pd.DataFrame({"from": firsts | {("accuracy", "clean"): 1.0}})
    answer = shortcuts.answer(found)
    assert "fall from a correlation of 100% on" in answer
    told = "earliest of all, with cam from a correlation of 50% on, maps with no method at any"
    assert told in answer


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


def test_the_first_elements_as_maps_and_the_hot_spot_as_one_place():
    one = extracted(np.ones((10, 10)), [(0, 0, 2, 1), (1, 0, 3, 1), (5, 5, 9, 9)])
    maps = shortcuts.element_maps([one, extracted(np.ones((10, 10)), [])], k=2)
    assert maps.shape == (2, 10, 10)
    assert maps[0].nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]  # two boxes, a pixel shared
    assert maps[1].sum() == 0
    difference = 0.9 * region(0, 0, 2, 2) + 1.0 * region(6, 6, 8, 8) + 0.4 * region(8, 6, 10, 8)
    assert np.array_equal(shortcuts.hot_spot(difference), region(6, 6, 8, 8))
    assert not shortcuts.hot_spot(np.full((4, 4), -1.0)).any()


@pytest.fixture(scope="module")
def coloured():
    """Eight images, red and blue in turn, and the place that the classifier looks at."""
    colours = enumerate([("red", 1), ("blue", 0)] * 4)
    items = [GeoImage(str(i), photograph(c, i), c, label, None, None) for i, (c, label) in colours]
    return data.to_batch(items, SIDE), np.array([True, False] * 4), region(*BOX, side=SIDE)


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
    assert suspect.spot[spot].mean() > 0.9 and suspect.spot.sum() < 1.3 * spot.sum()
    assert len(suspect.losses) == 4
    assert (suspect.losses["loss"] > suspect.losses["elsewhere"] + 0.1).all()
    with pytest.raises(ValueError, match="8 of 8"):
        shortcuts.hunt(network, images, maps, red | True, 1)


def test_the_recipe_in_numbers_by_hand():
    mask = region(0, 0, 4, 1, side=4)
    half = region(0, 0, 2, 2, side=4)  # two of the artefact's four pixels, and two others
    empty = np.zeros((4, 4), bool)
    losses = pd.DataFrame({"loss": [1.0, 1.2, 1.4, 1.1] * 2, "elsewhere": [0.0, 0.1] * 4})
    swapped = losses.set_axis(["elsewhere", "loss"], axis=1)
    found = {
        ("maps", 0.0): shortcuts.Suspect(half * 1.0, half, swapped),
        ("maps", 1.0): shortcuts.Suspect(half * 1.0, half, losses),
        ("elements", 1.0): shortcuts.Suspect(empty * 1.0, empty, losses),
    }
    table = shortcuts.recipe_table(found, mask).set_index(["averaged", "correlation"])
    assert [*table.index] == [("elements", 1.0), ("maps", 1.0), ("maps", 0.0)]
    assert [*table["found"]] == [False, True, False]  # by the place, by both, by the loss
    maps = table.loc[("maps", 1.0)]
    assert maps["artefact in the hot spot"] == maps["hot spot on the artefact"] == 0.5
    lost = maps[["lost when covered", "lost elsewhere", "difference"]].tolist()
    assert lost == pytest.approx([1.175, 0.05, 1.125])
    assert maps["low"] > 0 and maps["n_images"] == 8
    assert table.loc[("elements", 1.0), "hot spot on the artefact"] == 0
    assert shortcuts.recipe_table({}, mask).empty


def test_suspects_are_those_of_the_averages(tmp_path, own_cache, monkeypatch):
    monkeypatch.setattr(shortcuts, "planted", lambda scenes, *artefact: scenes)
    write_photographs(tmp_path / "photos", 4)
    photos = data.load("folder", "all", root=tmp_path / "photos")
    averaged = EvaluationConfig(attribution="random")
    boxed = EvaluationConfig(attribution="random", segmenter="grid", s_min=0.0)
    red = np.equal(photos.labels, 1)  # the network makes no mistake
    assert red.sum() == len(red) / 2
    blind = classifier()
    blind.network.features.weight.data.zero_()  # all images get one answer
    networks = {0.0: blind, 1.0: classifier()}
    found = shortcuts.suspects(
        networks, photos, CLASSES[1], "smudge", averaged, boxed, 2, s_min=0.0
    )
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
