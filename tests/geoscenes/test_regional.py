"""Regional GeoScenes: zones with profiles of their own, exact counterfactuals, a known ceiling."""

import hashlib
import itertools

import numpy as np
import pytest
import yaml

import geoscenes
from geolib import data
from geoscenes import COUNTRIES, Scene, gazetteer, render, table, zone_of, zone_posterior, zones
from geoscenes.layout import cue_slot
from geoscenes.scene import Item
from geoscenes.tables import data_file

ROWS = yaml.safe_load(data_file("regional-cues.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("seed", "country", "size", "all_cues", "digest"),
    [
        (0, None, 224, False, "44e4d5284df4289ce15af29bb2dcf1c9"),
        (1, None, 144, False, "7d6488c46b5c05d276b83d1f34389cdb"),
        (2, None, 112, False, "baf02a2358a590a2a97054e9e59932af"),
        (17, "France", 160, True, "6fdb5f4c519be03a58103726ba8e2021"),
        (18, "India", 160, True, "a4a85633f27bd888431829a83d9ca759"),
        (19, "Japan", 160, True, "30b11a066055ae3cb1f1989536a107dd"),
    ],
)
def test_pictures_without_regional_cues_are_as_before(seed, country, size, all_cues, digest):
    """Digests recorded before there were regional cues."""
    image = render(seed, country, size=size, all_cues=all_cues).image
    assert hashlib.sha256(image.tobytes()).hexdigest().startswith(digest)


def test_the_option_changes_cues_and_nothing_else():
    for seed in range(12):
        plain, regional = render(seed, size=64), render(seed, size=64, regional=True)
        assert plain.zone is None
        assert zone_of(regional.country, regional.region).name == regional.zone
        for name in ("country", "town", "region", "latitude", "longitude"):
            assert getattr(plain, name) == getattr(regional, name)
        neutral = {i for i in plain.items if not i.cue and i.id != "mountain"}
        assert neutral == {i for i in regional.items if not i.cue}
        own = ROWS["cues"]
        kept = [{i for i in s.items if i.cue and i.id not in own} for s in (plain, regional)]
        assert kept[0] == kept[1]


def test_zones_partition_the_regions_and_hold_towns():
    named = [(z.country, region) for z in zones().values() for region in z.regions]
    assert len(named) == len(set(named))
    assert set(named) == {(c, t.region) for c in COUNTRIES for t in gazetteer()[c]}
    for country in COUNTRIES:
        assert [z.country for z in zones().values()].count(country) >= 5
    for zone in zones().values():
        towns = [t for t in gazetteer()[zone.country] if t.region in zone.regions]
        assert len(towns) >= 3, zone.name
    with pytest.raises(ValueError, match=r"'Atlantis' of France is in no zone"):
        zone_of("France", "Atlantis")


def test_every_row_is_cited():
    rows = [row for entry in ROWS["cues"].values() for row in entry.values()]
    assert {source for row in rows for source in row["sources"]} == set(ROWS["sources"])
    assert all(len(row["fact"]) > 10 for row in rows)
    assert set(table()) <= set(table(regional=True))


def test_a_zone_inherits_its_country_where_it_has_no_look_of_its_own():
    plain, regional = table(), table(regional=True)
    for zone in zones().values():
        assert regional["bollard"].looks[zone.name] == plain["bollard"].looks[zone.country]
    assert regional["house"].probability("Bretagne", "granite_and_slate") == pytest.approx(0.60)
    assert regional["house"].probability("Bretagne", "assam_type") == 0


def test_zones_of_a_country_have_distinct_profiles():
    """Two zones differ in what they show: expected differing kinds under the best coupling."""
    kinds = [table(regional=True)[name] for name in ROWS["cues"]]
    looks = [(kind, look) for kind in kinds for look in [*kind.names(list(zones())), None]]
    profile = {z: np.array([k.probability(z, look) for k, look in looks]) for z in zones()}
    for a, b in itertools.combinations(zones().values(), 2):
        if a.country == b.country:
            difference = np.abs(profile[a.name] - profile[b.name]).sum() / 2
            assert difference > 1.5, (a.name, b.name)


@pytest.mark.parametrize("kind", list(ROWS["cues"]))
def test_looks_of_a_kind_can_be_seen_and_told_apart(kind):
    images = {}
    world = render(3, size=112, regional=True).world
    slot = cue_slot(3, world.street, kind)
    for look in ROWS["cues"][kind]:
        scene = Scene(world, [Item(slot.id, slot.category, True, look, slot.place, slot.host)])
        (o,) = scene.objects
        assert o.cue
        assert o.mask.sum() >= 60, look
        changed = (scene.without(kind).image != scene.image).any(axis=2)
        assert not (changed & ~o.footprint).any(), look
        assert (changed & o.mask).sum() > 0.6 * o.mask.sum(), look
        images[look] = (scene.image.astype(int), o.mask)
    for (a, (first, m)), (b, (second, n)) in itertools.combinations(images.items(), 2):
        assert np.abs(first - second)[m | n].mean() > 6, (a, b)


def test_swaps_into_a_zone_or_a_country():
    scenes = (render(seed, "Japan", size=96, regional=True) for seed in itertools.count())
    scene = next(scene for scene in scenes if scene.zone == "Hokkaido")
    cue = next(o for o in scene.objects if o.category == "house")
    assert np.array_equal(scene.swapped(cue.id, "Hokkaido").image, scene.image)
    assert np.array_equal(scene.swapped(cue.id, "Japan").image, scene.image)
    kerala = {look.name for look in table(regional=True)["house"].looks["Kerala"]}
    assert scene.swapped(cue.id, "Kerala").cues["house"] in kerala
    india = render(scene.seed, "India", size=96, regional=True).zone
    assert np.array_equal(scene.swapped(cue.id, "India").image, scene.swapped(cue.id, india).image)
    with pytest.raises(ValueError, match=r"country='Peru' is unknown.*Kerala"):
        scene.swapped(cue.id, "Peru")
    plain = render(0, "Japan", size=96, all_cues=True)
    with pytest.raises(ValueError, match="country='Kerala' is unknown"):
        plain.swapped("house", "Kerala")


def test_a_kind_the_zone_never_has_disappears():
    scene = render(5, "Japan", size=96, regional=True)
    place = cue_slot(5, scene.world.street, "snow_pole").place
    pole = Item("snow_pole", "snow_pole", True, "arrow_overhead", place)
    with_pole = Scene(scene.world, [*(i for i in scene.items if i.id != "snow_pole"), pole])
    gone = with_pole.swapped("snow_pole", "Kerala")
    assert gone.cues["snow_pole"] is None
    assert np.array_equal(gone.image, with_pole.without("snow_pole").image)


def test_best_guess_lies_amid_the_likeliest_zone():
    belief = {"Kerala": 0.5, "Assam": 0.2, "Kyushu": 0.3}
    # Kochi, Kozhikode and the capital
    expected = np.mean([(9.97, 76.28), (11.25, 75.78), (8.52, 76.94)], axis=0)
    assert geoscenes.best_guess(belief) == pytest.approx(tuple(expected))
    with pytest.raises(ValueError, match="regional=True"):
        zone_posterior(render(0, size=64))


def test_the_dataset_takes_the_option():
    plain = data.load("geoscenes", "train", 6, size=64)
    regional = data.load("geoscenes", "train", 6, size=64, regional=True)
    assert plain.ids == regional.ids
    for k in range(6):
        a, b = plain[k], regional[k]
        assert (a.latitude, a.longitude, a.label) == (b.latitude, b.longitude, b.label)
        assert b.scene.region in zones()[b.scene.zone].regions
        assert not np.array_equal(a.image, b.image)
        assert plain.content_key(k) != regional.content_key(k)
