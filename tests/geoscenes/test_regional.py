"""Regional GeoScenes: zones with profiles of their own, exact counterfactuals, a known ceiling."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import yaml

import geoscenes
from geolib import data
from geolib.runtime.here import data_file
from geoscenes import (
    COUNTRIES,
    Scene,
    gazetteer,
    posterior,
    render,
    table,
    zone_of,
    zone_posterior,
    zones,
)
from geoscenes.layout import DRAWERS, cue_slot
from geoscenes.scene import Item

ROWS = yaml.safe_load(data_file("regional-cues.yaml").read_text(encoding="utf-8"))
LOOKS = [(kind, look) for kind, entry in ROWS["cues"].items() for look in entry]


def sha(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def in_zone(zone: str, *, size: int = 96) -> Scene:
    """The first scene of a zone."""
    country = zones()[zone].country
    scenes = (render(seed, country, size=size, regional=True) for seed in itertools.count())
    return next(scene for scene in scenes if scene.zone == zone)


def alone(seed: int, kind: str, look: str, *, size: int) -> Scene:
    """A regional scene whose only object is one cue in one look."""
    world = render(seed, size=size, regional=True).world
    slot = cue_slot(seed, world.street, kind)
    return Scene(world, [Item(slot.id, slot.category, True, look, slot.place, slot.host)])


# -- without regional cues -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "country", "size", "options", "digest"),
    [
        (0, None, 224, {}, "44e4d5284df4289ce15af29bb2dcf1c9f1fff3523e229062b631f927b495bc75"),
        (1, None, 144, {}, "7d6488c46b5c05d276b83d1f34389cdbe472394dd982318f80a4ffb6669d624a"),
        (2, None, 112, {}, "baf02a2358a590a2a97054e9e59932affe5669e32809c30690b8c923c759b589"),
        (
            17,
            "France",
            160,
            {"all_cues": True},
            "6fdb5f4c519be03a58103726ba8e2021516250975e4cc6686c4747da4ee16ddb",
        ),
        (
            18,
            "India",
            160,
            {"all_cues": True},
            "a4a85633f27bd888431829a83d9ca75998bd0e38d1a9d649893aab59397a0523",
        ),
        (
            19,
            "Japan",
            160,
            {"all_cues": True},
            "30b11a066055ae3cb1f1989536a107dd6be8362dcfea88ade6da172bec9f022c",
        ),
    ],
)
def test_pictures_without_regional_cues_are_as_before(seed, country, size, options, digest):
    """Digests recorded before there were regional cues."""
    assert sha(render(seed, country, size=size, **options).image) == digest


def test_the_option_changes_cues_and_nothing_else():
    for seed in range(12):
        plain, regional = render(seed, size=64), render(seed, size=64, regional=True)
        assert plain.zone is None
        assert zone_of(regional.country, regional.region).name == regional.zone
        for name in ("country", "town", "region", "latitude", "longitude"):
            assert getattr(plain, name) == getattr(regional, name)
        neutral = {i for i in plain.items if not i.cue and i.id != "mountain"}
        assert neutral == {i for i in regional.items if not i.cue}
        own = set(ROWS["cues"])
        assert {i for i in plain.items if i.cue and i.id not in own} == {
            i for i in regional.items if i.cue and i.id not in own
        }


# -- the table -------------------------------------------------------------------------------------


def test_zones_partition_the_regions_and_hold_towns():
    named = [(z.country, region) for z in zones().values() for region in z.regions]
    assert len(named) == len(set(named))
    assert set(named) == {(c, t.region) for c in COUNTRIES for t in gazetteer()[c]}
    for country in COUNTRIES:
        own = [z for z in zones().values() if z.country == country]
        assert len(own) >= 5
        for zone in own:
            towns = [t for t in gazetteer()[country] if t.region in zone.regions]
            assert len(towns) >= 3, zone.name
    with pytest.raises(ValueError, match=r"'Atlantis' of France is in no zone"):
        zone_of("France", "Atlantis")


def test_every_row_is_drawn_and_cited():
    rows = [row for entry in ROWS["cues"].values() for row in entry.values()]
    assert {source for row in rows for source in row["sources"]} == set(ROWS["sources"])
    assert all(len(row["fact"]) > 10 for row in rows)
    assert {f"{kind}/{look}" for kind, look in LOOKS} <= set(DRAWERS)
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
    for a, b in itertools.combinations(zones().values(), 2):
        if a.country == b.country:
            difference = sum(
                abs(kind.probability(a.name, look) - kind.probability(b.name, look)) / 2
                for kind in kinds
                for look in [*kind.names([a.name, b.name]), None]
            )
            assert difference > 1.5, (a.name, b.name)


def test_presence_follows_the_zone():
    n, counts = 0, Counter()
    for seed in range(2500):
        scene = render(seed, "India", size=64, regional=True)
        if scene.zone == "Kerala":
            n += 1
            counts.update(i.look for i in scene.items if i.category == "house")
    assert n > 120
    for look in table(regional=True)["house"].looks["Kerala"]:
        error = 4 * math.sqrt(look.probability * (1 - look.probability) / n)
        assert counts[look.name] / n == pytest.approx(look.probability, abs=error)


# -- pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(ROWS["cues"]))
def test_looks_of_a_kind_can_be_seen_and_told_apart(kind):
    images = {}
    for look in ROWS["cues"][kind]:
        scene = alone(3, kind, look, size=112)
        (o,) = scene.objects
        assert o.cue
        assert o.mask.sum() >= 60, look
        changed = (scene.without(kind).image != scene.image).any(axis=2)
        assert not (changed & ~o.footprint).any(), look
        assert (changed & o.mask).sum() > 0.6 * o.mask.sum(), look
        images[look] = (scene.image.astype(int), o.mask)
    for (a, (first, m)), (b, (second, n)) in itertools.combinations(images.items(), 2):
        assert np.abs(first - second)[m | n].mean() > 6, (a, b)


def test_the_zone_shows_in_cues_only():
    for seed in range(4):
        bare = set()
        for country in COUNTRIES:
            scene = render(seed, country, size=96, regional=True)
            for item in scene.items:
                if item.cue:
                    scene = scene.without(item.id)
            bare.add(sha(scene.image))
        assert len(bare) == 1


def test_counterfactuals_change_nothing_outside_the_footprint():
    swaps = 0
    for seed in range(60):
        scene = render(seed, size=224 if seed < 6 else 96, regional=True)
        rng = np.random.default_rng(seed)
        regional = [o for o in scene.objects if o.category in ROWS["cues"]]
        if not regional:
            continue
        cue = regional[int(rng.integers(len(regional)))]
        changed = (scene.without(cue.id).image != scene.image).any(axis=2)
        assert not (changed & ~cue.footprint).any(), (seed, cue.id)
        place = [*COUNTRIES, *zones()][int(rng.integers(len(COUNTRIES) + len(zones())))]
        other = scene.swapped(cue.id, place)
        after = [o.footprint for o in other.objects if o.id == cue.id]
        changed = (other.image != scene.image).any(axis=2)
        assert not (changed & ~np.logical_or.reduce([cue.footprint, *after])).any(), (seed, cue.id)
        swaps += bool(changed.any())
    assert swaps > 20


def test_swaps_into_a_zone_or_a_country():
    scene = in_zone("Hokkaido")
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
    pole = Item(
        "snow_pole",
        "snow_pole",
        True,
        "arrow_overhead",
        cue_slot(5, scene.world.street, "snow_pole").place,
    )
    with_pole = Scene(scene.world, [*(i for i in scene.items if i.id != "snow_pole"), pole])
    gone = with_pole.swapped("snow_pole", "Kerala")
    assert gone.cues["snow_pole"] is None
    assert np.array_equal(gone.image, with_pole.without("snow_pole").image)


# -- the ceiling -----------------------------------------------------------------------------------


def test_zone_posterior_against_brute_force():
    """Put each look into the picture, see whether it shows, and apply Bayes' rule."""
    scene = render(23, size=96, regional=True)
    visible = scene.visible_cues()
    weights = {}
    for z in zones().values():
        towns = gazetteer()[z.country]
        weights[z.name] = sum(t.region in z.regions for t in towns) / len(towns)
    for name, kind in table(regional=True).items():
        rest = Scene(scene.world, [i for i in scene.items if i.id != name])
        slot = cue_slot(scene.seed, scene.world.street, name)
        unseen = {None}
        for look in kind.names(list(zones())) if name not in visible else ():
            hosted = slot.host is None or any(i.id == slot.host for i in rest.items)
            item = Item(name, name, True, look, slot.place, slot.host)
            if not hosted or name not in Scene(rest.world, [*rest.items, item]).visible_cues():
                unseen.add(look)
        for zone in weights:
            weights[zone] *= (
                kind.probability(zone, visible[name])
                if name in visible
                else sum(kind.probability(zone, look) for look in unseen)
            )
    total = sum(weights.values())
    belief = zone_posterior(scene)
    assert belief == pytest.approx({z: w / total for z, w in weights.items()}, abs=1e-9)
    for country, p in posterior(scene).items():
        own = [belief[z.name] for z in zones().values() if z.country == country]
        assert p == pytest.approx(sum(own), abs=1e-12)


def test_zone_accuracy_is_honest_and_lies_where_it_was_tuned():
    scenes = [render(seed, size=96, regional=True) for seed in range(10_000, 10_050)]
    beliefs = [zone_posterior(s) for s in scenes]
    best = np.array([max(b.values()) for b in beliefs])
    accuracy = geoscenes.bayes_accuracy(scenes[:3], regional=True)
    assert accuracy == pytest.approx(best[:3].mean())
    error = best.std() / math.sqrt(len(best))
    assert 0.75 - 2 * error <= best.mean() <= 0.90 + 2 * error
    right = [max(b, key=b.__getitem__) == s.zone for b, s in zip(beliefs, scenes, strict=True)]
    spread = math.sqrt((best * (1 - best)).sum()) / len(scenes)
    assert abs(np.mean(right) - best.mean()) < 4 * spread


def test_best_guess_lies_amid_the_likeliest_zone():
    belief = {"Kerala": 0.5, "Assam": 0.2, "Kyushu": 0.3}
    towns = {"Kochi": (9.97, 76.28), "Kozhikode": (11.25, 75.78), "capital": (8.52, 76.94)}
    expected = np.mean(list(towns.values()), axis=0)
    assert geoscenes.best_guess(belief) == pytest.approx(tuple(expected))
    with pytest.raises(ValueError, match="regional=True"):
        zone_posterior(render(0, size=64))


# -- the dataset -----------------------------------------------------------------------------------


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
