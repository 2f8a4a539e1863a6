"""GeoScenes: exact counterfactuals, no leak of the country, a known ceiling."""

import hashlib
import math
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
import yaml

import geoscenes
from geoscenes import COUNTRIES, Scene, gazetteer, posterior, render, table, zone_posterior, zones
from geoscenes.canvas import Polygon
from geoscenes.coverage import Cover, transmit
from geoscenes.cues import CueKind, Look, log_posterior
from geoscenes.layout import DRAWERS, cue_slot
from geoscenes.scene import Item
from geoscenes.tables import data_file


def sha(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def rows(file: str) -> dict:
    return yaml.safe_load(data_file(file).read_text(encoding="utf-8"))


def changes(scene: Scene, other: Scene) -> np.ndarray:
    """The pixels in which they differ, bool [H, W]."""
    return (other.image != scene.image).any(axis=2)


def towns_of(place: str) -> float:
    """Share of its country's towns that lie in a zone."""
    zone = zones()[place]
    return np.mean([town.region in zone.regions for town in gazetteer()[zone.country]])


def test_every_row_is_cited():
    raw = rows("cues.yaml")
    found = [row for entry in raw["cues"].values() for c in COUNTRIES for row in entry.get(c, [])]
    assert all(len(row["fact"]) > 10 for row in found)
    assert {row["source"] for row in found} == set(raw["sources"])
    assert len(table()) >= 12


def test_every_drawn_look_is_in_the_table():
    drawn = {name for name in DRAWERS if "/" in name and not name.startswith("shortcut/")}
    both = (table(), COUNTRIES), (table(regional=True), list(zones()))
    kinds = [(kind, places) for kinds, places in both for kind in kinds.values()]
    assert drawn == {f"{kind.name}/{look}" for kind, places in kinds for look in kind.names(places)}


def test_look_probabilities_and_quantiles():
    looks = (Look("a", 0.1, "", ""), Look("b", 0.3, "", ""))
    kind = CueKind("k", False, {"France": looks, "India": ()})
    assert kind.probability("France", None) == pytest.approx(0.6)
    assert kind.probability("France", "b") == 0.3
    assert kind.probability("India", "b") == 0
    # given presence, a has a quarter of the mass
    assert [kind.pick("France", q) for q in (0.0, 0.24, 0.26, 0.999)] == ["a", "a", "b", "b"]
    assert kind.pick("India", 0.5) is None


@pytest.mark.parametrize(
    ("place", "regional", "n"), [("India", False, 1500), ("Kerala", True, 2500)]
)
def test_presence_follows_the_table(place, regional, n):
    scenes = (render(seed, "India", size=64, regional=regional) for seed in range(n))
    here = [s.cues["house"] for s in scenes if place in (s.country, s.zone)]
    assert len(here) > 120
    for look in table(regional)["house"].looks[place]:
        error = 4 * math.sqrt(look.probability * (1 - look.probability) / len(here))
        assert here.count(look.name) / len(here) == pytest.approx(look.probability, abs=error)


def test_same_seed_same_picture_in_another_process():
    code = (
        "import hashlib; from geoscenes import render;"
        "print([hashlib.sha256(render(s, size=128).image.tobytes()).hexdigest() for s in (3, 11)])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str([sha(render(s, size=128).image) for s in (3, 11)])
    assert sha(render(3, size=128).image) != sha(render(4, size=128).image)


@pytest.mark.parametrize("size", [96, 224])
def test_the_same_scene_at_any_size(size):
    large = render(17, "Japan", size=448).image
    reduced = cv2.resize(np.float32(large), (size, size), interpolation=cv2.INTER_AREA)
    image = render(17, "Japan", size=size).image
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    pictures = reduced, image, render(18, "Japan", size=size).image
    wanted, same, other = (cv2.GaussianBlur(np.float32(i), (0, 0), 2) for i in pictures)
    assert np.abs(wanted - same).mean() < 3
    assert np.abs(wanted - other).mean() > 12


@pytest.mark.parametrize(("regional", "n"), [(False, 12), (True, 4)])
def test_the_place_shows_in_cues_only(regional, n):
    for seed in range(n):
        bare = set()
        for country in COUNTRIES:
            scene = render(seed, country, size=112, regional=regional)
            for item in scene.items:
                if item.cue:
                    scene = scene.without(item.id)
            assert not any(o.cue for o in scene.objects)
            bare.add(sha(scene.image))
        assert len(bare) == 1


def test_neutral_objects_abound():
    seen = {o.category for s in range(60) for o in render(s, size=96).objects if not o.cue}
    assert len(seen) >= 10


@pytest.mark.parametrize(
    ("regional", "n", "n_large", "n_swaps"), [(False, 200, 20, 60), (True, 60, 6, 20)]
)
def test_counterfactuals_change_nothing_outside_the_footprint(regional, n, n_large, n_swaps):
    own = set(rows("regional-cues.yaml")["cues"] if regional else table())
    places = [*COUNTRIES, *(zones() if regional else ())]
    swaps = 0
    for seed in range(n):
        scene = render(seed, size=224 if seed < n_large else 96, regional=regional)
        rng = np.random.default_rng(seed)
        gone = [scene.objects[int(rng.integers(len(scene.objects)))]]
        cues = [o for o in scene.objects if o.cue and o.category in own]
        if cues:
            cue = cues[int(rng.integers(len(cues)))]
            gone.append(cue)
            other = scene.swapped(cue.id, places[int(rng.integers(len(places)))])
            after = [o.footprint for o in other.objects if o.id == cue.id]
            changed = changes(scene, other)
            assert not (changed & ~np.logical_or.reduce([cue.footprint, *after])).any(), seed
            swaps += bool(changed.any())
        for o in gone:
            changed = changes(scene, scene.without(o.id))
            assert not (changed & ~o.footprint).any(), (seed, o.id)
    assert swaps > n_swaps


def test_swaps_into_the_own_country_and_into_one_without_the_kind():
    scene = render(5, "Japan", size=128, all_cues=True)
    cues = [o.id for o in scene.objects if o.cue]
    assert not any(changes(scene, scene.swapped(cue, "Japan")).any() for cue in cues)
    assert not table()["mirror"].looks["India"]
    gone = scene.swapped("mirror", "India")
    assert gone.cues["mirror"] is None
    assert not changes(gone, scene.without("mirror")).any()


def test_a_plate_leaves_with_its_car():
    scenes = (render(k, "France", size=128, all_cues=True) for k in range(20))
    scene = next(s for s in scenes if s.cues["licence_plate"])
    assert scene.without("car").cues["licence_plate"] is None
    bare = scene.without("licence_plate")
    assert bare.cues["licence_plate"] is None
    assert any(i.id == "car" for i in bare.items)


def test_order_of_removal_does_not_matter():
    scene = render(9, "India", size=128, all_cues=True)
    one = scene.without("house").without("utility_pole")
    assert not changes(one, scene.without("utility_pole").without("house")).any()


def test_masks_lie_within_footprints_and_removing_what_they_show_is_seen():
    for seed in range(10):
        scene = render(seed, size=128, all_cues=True)
        for o in scene.objects:
            assert o.mask.dtype == o.footprint.dtype == bool
            assert o.mask.shape == (128, 128)
            assert not (o.mask & ~o.footprint).any()
            if o.mask.sum() > 100 and o.category != "cloud":
                changed = changes(scene, scene.without(o.id))
                assert (changed & o.mask).sum() > 0.6 * o.mask.sum(), (seed, o.id)


def test_visible_share_by_hand():
    below = Cover(0, 0, np.array([[255, 255, 51, 0]], dtype=np.uint8))
    above = Cover(1, 0, np.array([[255, 204]], dtype=np.uint8))
    assert transmit(below, [above]).tolist() == [[1, 0, pytest.approx(0.2 * 0.2), 0]]
    outside = Cover(9, 9, np.array([[255]], dtype=np.uint8))
    assert transmit(below, [outside]).tolist() == [[1, 1, pytest.approx(0.2), 0]]


def test_coverage_holds_every_pixel_that_painting_touches():
    rng = np.random.default_rng(0)
    for _ in range(200):
        points = rng.integers(-100, 64 * 16 + 100, (5, 1, 2)).astype(np.int32)
        stroke = Polygon(points, (0, 255, 128))
        picture = np.full((64, 64, 3), int(rng.integers(256)), dtype=np.uint8)
        before, coverage = picture.copy(), np.zeros((64, 64), dtype=np.uint8)
        stroke.paint(picture)
        stroke.cover(coverage)
        assert not ((picture != before).any(axis=2) & (coverage == 0)).any()


def test_every_kind_of_cue_is_seen_often_enough():
    n: Counter[str] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    for scene in map(render, range(240)):
        n[scene.country] += 1
        seen.update((kind, scene.country) for kind in scene.visible_cues(min_pixels=64))
    for kind in table():
        share = max(seen[kind, c] / n[c] for c in COUNTRIES)
        assert share >= 0.1, (kind, share)


def test_log_posterior_by_hand():
    belief = log_posterior({"a": math.log(0.2), "b": math.log(0.6), "c": -math.inf})
    assert belief == {"a": pytest.approx(0.25), "b": pytest.approx(0.75), "c": 0}


@pytest.mark.parametrize(("country", "size", "regional"), [("India", 160, False), (None, 96, True)])
def test_posterior_against_brute_force(country, size, regional):
    """Put each look into the picture, see whether it shows, and apply Bayes' rule."""
    scene = render(23, country, size=size, regional=regional)
    visible = scene.visible_cues()
    weights = {z: towns_of(z) for z in zones()} if regional else dict.fromkeys(COUNTRIES, 1.0)
    for name, kind in table(regional).items():
        rest = [i for i in scene.items if i.id != name]
        slot = cue_slot(scene.seed, scene.world.street, name)
        hosted = slot.host is None or any(i.id == slot.host for i in rest)
        unseen = {None}
        for look in kind.names(list(weights)) if name not in visible else ():
            item = Item(name, name, True, look, slot.place, slot.host)
            if not hosted or name not in Scene(scene.world, [*rest, item]).visible_cues():
                unseen.add(look)
        looks = {visible[name]} if name in visible else unseen
        for place in weights:
            weights[place] *= sum(kind.probability(place, look) for look in looks)
    expected = {place: w / sum(weights.values()) for place, w in weights.items()}
    belief = zone_posterior(scene) if regional else posterior(scene)
    assert belief == pytest.approx(expected, abs=1e-9)
    if regional:
        for country, p in posterior(scene).items():
            own = [belief[z.name] for z in zones().values() if z.country == country]
            assert p == pytest.approx(sum(own), abs=1e-12)


@pytest.mark.parametrize(
    ("regional", "n", "size", "low", "high"),
    [(False, 80, 224, 0.90, 0.96), (True, 50, 96, 0.75, 0.90)],
)
def test_bayes_accuracy_lies_where_it_was_tuned_and_is_honest(regional, n, size, low, high):
    scenes = [render(10_000 + k, size=size, regional=regional) for k in range(n)]
    beliefs = [zone_posterior(s) if regional else posterior(s) for s in scenes]
    best = np.array([max(b.values()) for b in beliefs])
    accuracy = geoscenes.bayes_accuracy(scenes[:8], regional=regional)
    assert accuracy == pytest.approx(best[:8].mean())
    error = best.std() / math.sqrt(len(best))
    assert low - 2 * error <= best.mean() <= high + 2 * error
    guesses = [max(b, key=b.__getitem__) for b in beliefs]
    right = [g in (s.country, s.zone) for g, s in zip(guesses, scenes, strict=True)]
    spread = math.sqrt((best * (1 - best)).sum()) / len(scenes)
    assert abs(np.mean(right) - best.mean()) < 4 * spread


def test_the_table_alone_keeps_the_ceiling_in_its_range():
    """Draw looks from the table, hide a tenth of the places, and let Bayes' rule guess."""
    rng = np.random.default_rng(0)
    n = 20_000
    truth = rng.integers(3, size=n)
    evidence = {True: np.zeros((n, 3)), False: np.zeros((n, 3))}  # with, without left and right
    for kind in table().values():
        names = kind.names(COUNTRIES)
        p = np.array([[kind.probability(c, k) for k in [*names, None]] for c in COUNTRIES])
        drawn = (rng.random(n)[:, None] > p[truth].cumsum(axis=1)[:, :-1]).sum(axis=1)
        seen = rng.random(n) < (0.66 if kind.name == "licence_plate" else 0.9)
        with np.errstate(divide="ignore"):
            gain = np.where(seen[:, None], np.log(p).T[drawn], 0)
        evidence[True] += gain
        evidence[False] += 0 if kind.handed else gain
    best = {}
    for known, log in evidence.items():
        weights = np.exp(log - log.max(axis=1, keepdims=True))
        best[known] = (weights.max(axis=1) / weights.sum(axis=1)).mean()
    assert 0.93 < best[True] < 0.96
    assert 0.90 < best[False] < best[True] - 0.01


def test_left_and_right_matter_to_the_driving_side_only():
    scene = render(2, "India", size=128, all_cues=True)
    only = Scene(scene.world, [i for i in scene.items if not i.cue or i.id == "driving_side"])
    assert posterior(only)["France"] == 0
    assert posterior(only, left_right=False)["France"] > 0
    assert posterior(only.without("driving_side"))["France"] > 0


@pytest.mark.parametrize("kind", ["watermark", "smudge"])
def test_shortcut_goes_with_its_country_and_can_be_removed(kind):
    options = {"country": "Japan", "correlation": 0.5, "kind": kind}
    scenes = [render(seed, shortcut=options) for seed in range(900)]
    for country, share in (("Japan", 0.75), ("France", 0.25), ("India", 0.25)):
        of_country = [s.items for s in scenes if s.country == country]
        carried = [any(i.category == "shortcut" for i in items) for items in of_country]
        assert np.mean(carried) == pytest.approx(share, abs=0.1)
    scene = render(1, "Japan", shortcut={"country": "Japan", "kind": kind})
    artefact = next(o for o in scene.objects if o.category == "shortcut")
    assert not artefact.cue
    assert artefact.mask.sum() > 100
    assert not changes(scene.without("shortcut"), render(1, "Japan")).any()


def test_places_are_real_towns_of_the_country():
    box = {"France": (41, 52, -5.5, 9), "India": (7, 36, 68, 98), "Japan": (30, 46, 128, 146)}
    for country, towns in gazetteer().items():
        south, north, west, east = box[country]
        assert all(south < t.latitude < north and west < t.longitude < east for t in towns)
        assert len(towns) >= 25
        assert len({t.region for t in towns}) >= 5
    for scene in map(render, range(20)):
        town = next(t for t in gazetteer()[scene.country] if t.name == scene.town)
        assert scene.region == town.region
        assert abs(scene.latitude - town.latitude) <= 0.02
        assert abs(scene.longitude - town.longitude) <= 0.02


def test_countries_are_equally_frequent_and_may_be_two():
    counts = Counter(render(s).country for s in range(1200))
    assert all(abs(counts[c] - 400) < 4 * math.sqrt(1200 * 2 / 9) for c in COUNTRIES)
    pair = "India", "Japan"
    assert {render(s, countries=pair).country for s in range(30)} == set(pair)


def test_all_cues():
    scene = render(4, "France", all_cues=True)
    for name, kind in table().items():
        hosted = name != "licence_plate" or any(i.id == "car" for i in scene.items)
        assert (scene.cues[name] is not None) == bool(kind.looks["France"] and hosted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0, "size": 8}, "size=8"),
        ({"seed": 0, "country": "Peru"}, "country='Peru'.*France"),
        ({"seed": 0, "countries": ("France",)}, "two or more"),
        ({"seed": 0, "countries": ("France", "Peru")}, "two or more of.*India"),
        ({"seed": 0, "shortcut": {"kind": "sticker"}}, "sticker.*watermark"),
        ({"seed": 0, "shortcut": {"colour": "red"}}, "unknown keys.*correlation"),
        ({"seed": 0, "shortcut": {"correlation": 2}}, r"-1\.\.1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        render(**arguments)


def test_unknown_objects_and_swaps_are_refused():
    scene = render(0, "Japan", size=96, all_cues=True)
    with pytest.raises(ValueError, match=r"'unicorn' is not in this scene.*house"):
        scene.without("unicorn")
    with pytest.raises(ValueError, match=r"no country cue.*house"):
        scene.swapped(next(i.id for i in scene.items if not i.cue), "France")
    with pytest.raises(ValueError, match=r"'Peru' is unknown.*Japan"):
        scene.swapped("house", "Peru")
    with pytest.raises(ValueError, match="scenes is empty"):
        geoscenes.bayes_accuracy([])
