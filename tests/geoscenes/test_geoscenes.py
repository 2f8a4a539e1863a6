"""GeoScenes: exact counterfactuals, no leak of the country, a known ceiling."""

from __future__ import annotations

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
from geolib.runtime.here import data_file
from geoscenes import COUNTRIES, Scene, posterior, render, table, zones
from geoscenes.canvas import Polygon
from geoscenes.coverage import Cover, transmit
from geoscenes.cues import CueKind, Look, log_posterior
from geoscenes.layout import DRAWERS, cue_slot
from geoscenes.scene import Item


def sha(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def with_item(scene: Scene, item: Item) -> Scene:
    """The scene with one more cue, through the public parts only."""
    return Scene(scene.world, [*scene.items, item])


# -- the table -------------------------------------------------------------------------------------


def test_every_row_is_drawn_and_cited():
    raw = yaml.safe_load(data_file("cues.yaml").read_text(encoding="utf-8"))
    rows = [
        (kind, country, row)
        for kind, entry in raw["cues"].items()
        for country in COUNTRIES
        for row in entry.get(country, [])
    ]
    assert all(row["source"] in raw["sources"] for _, _, row in rows)
    assert all(len(row["fact"]) > 10 for _, _, row in rows)
    assert {f"{kind}/{row['look']}" for kind, _, row in rows} <= set(DRAWERS)
    assert {row["source"] for _, _, row in rows} == set(raw["sources"])
    assert len(table()) >= 12


def test_every_drawn_look_is_in_the_table():
    drawn = {name for name in DRAWERS if "/" in name and not name.startswith("shortcut/")}
    named = {f"{k.name}/{look}" for k in table().values() for look in k.names(COUNTRIES)}
    for kind in table(regional=True).values():
        named |= {f"{kind.name}/{look}" for look in kind.names(list(zones()))}
    assert drawn == named


def test_look_probabilities_and_quantiles():
    looks = (Look("a", 0.1, "", ""), Look("b", 0.3, "", ""))
    kind = CueKind("k", False, {"France": looks, "India": ()})
    assert kind.probability("France", None) == pytest.approx(0.6)
    assert kind.probability("France", "b") == 0.3
    assert kind.probability("India", "b") == 0
    # given presence, a has a quarter of the mass
    assert [kind.pick("France", q) for q in (0.0, 0.24, 0.26, 0.999)] == ["a", "a", "b", "b"]
    assert kind.pick("India", 0.5) is None


def test_presence_follows_the_table():
    counts: Counter[str] = Counter()
    n = 1500
    for seed in range(n):
        counts.update(item.look for item in render(seed, "India").items if item.category == "house")
    for look in table()["house"].looks["India"]:
        error = 4 * math.sqrt(look.probability * (1 - look.probability) / n)
        assert counts[look.name] / n == pytest.approx(look.probability, abs=error)


# -- pictures --------------------------------------------------------------------------------------


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
    large = render(17, "Japan", size=448).image.astype(np.float32)
    reduced = cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)
    image = render(17, "Japan", size=size).image
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    smooth = [cv2.GaussianBlur(i.astype(np.float32), (0, 0), 2) for i in (reduced, image)]
    assert np.abs(smooth[0] - smooth[1]).mean() < 3
    other = cv2.GaussianBlur(render(18, "Japan", size=size).image.astype(np.float32), (0, 0), 2)
    assert np.abs(smooth[0] - other).mean() > 12


def test_the_country_shows_in_cues_only():
    for seed in range(12):
        bare = []
        for country in COUNTRIES:
            scene = render(seed, country, size=112)
            for item in scene.items:
                if item.cue:
                    scene = scene.without(item.id)
            assert not any(o.cue for o in scene.objects)
            bare.append(sha(scene.image))
        assert len(set(bare)) == 1


def test_neutral_objects_abound():
    seen = {o.category for s in range(60) for o in render(s, size=96).objects if not o.cue}
    assert len(seen) >= 10


# -- counterfactuals -------------------------------------------------------------------------------


def test_counterfactuals_change_nothing_outside_the_footprint():
    swaps = 0
    for seed in range(200):
        scene = render(seed, size=224 if seed < 20 else 96)
        rng = np.random.default_rng(seed)
        gone = scene.objects[int(rng.integers(len(scene.objects)))]
        changed = (scene.without(gone.id).image != scene.image).any(axis=2)
        assert not (changed & ~gone.footprint).any(), (seed, gone.id)
        cues = [o for o in scene.objects if o.cue]
        if not cues:
            continue
        cue = cues[int(rng.integers(len(cues)))]
        other = scene.swapped(cue.id, COUNTRIES[int(rng.integers(3))])
        after = [o.footprint for o in other.objects if o.id == cue.id]
        allowed = np.logical_or.reduce([cue.footprint, *after])
        changed = (other.image != scene.image).any(axis=2)
        assert not (changed & ~allowed).any(), (seed, cue.id)
        swaps += bool(changed.any())
    assert swaps > 60


def test_removing_a_visible_object_shows():
    for seed in range(10):
        scene = render(seed, size=160)
        for o in scene.objects:
            if o.mask.sum() > 100 and o.category != "cloud":
                changed = (scene.without(o.id).image != scene.image).any(axis=2)
                assert (changed & o.mask).sum() > 0.6 * o.mask.sum(), (seed, o.id)


def test_swapping_into_the_own_country_is_the_identity():
    scene = render(5, "Japan", size=128, all_cues=True)
    for o in scene.objects:
        if o.cue:
            assert np.array_equal(scene.swapped(o.id, "Japan").image, scene.image)


def test_a_kind_the_other_country_never_has_disappears():
    scene = render(5, "Japan", size=128, all_cues=True)
    assert not table()["mirror"].looks["India"]
    gone = scene.swapped("mirror", "India")
    assert gone.cues["mirror"] is None
    assert np.array_equal(gone.image, scene.without("mirror").image)


def test_a_plate_leaves_with_its_car():
    scene = next(
        s
        for s in (render(k, "France", size=128, all_cues=True) for k in range(20))
        if s.cues["licence_plate"]
    )
    bare = scene.without("car")
    assert bare.cues["licence_plate"] is None
    assert scene.without("licence_plate").cues["licence_plate"] is None
    assert any(i.id == "car" for i in scene.without("licence_plate").items)


def test_order_of_removal_does_not_matter():
    scene = render(9, "India", size=128, all_cues=True)
    a, b = "house", "utility_pole"
    assert np.array_equal(scene.without(a).without(b).image, scene.without(b).without(a).image)


# -- masks -----------------------------------------------------------------------------------------


def test_masks_lie_within_footprints():
    for seed in range(10):
        for o in render(seed, size=128, all_cues=True).objects:
            assert o.mask.dtype == o.footprint.dtype == bool
            assert o.mask.shape == (128, 128)
            assert not (o.mask & ~o.footprint).any()


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
    for seed in range(240):
        scene = render(seed)
        n[scene.country] += 1
        seen.update((kind, scene.country) for kind in scene.visible_cues(min_pixels=64))
    for kind in table():
        share = max(seen[kind, c] / n[c] for c in COUNTRIES)
        assert share >= 0.1, (kind, share)


# -- the ceiling -----------------------------------------------------------------------------------


def test_log_posterior_by_hand():
    belief = log_posterior({"a": math.log(0.2), "b": math.log(0.6), "c": -math.inf})
    assert belief == {"a": pytest.approx(0.25), "b": pytest.approx(0.75), "c": 0}


def test_posterior_against_brute_force():
    """Put each look into the picture, see whether it shows, and apply Bayes' rule."""
    scene = render(23, "India", size=160)
    visible = scene.visible_cues()
    weights = dict.fromkeys(COUNTRIES, 1.0)
    for name, kind in table().items():
        unseen = {None}
        if name not in visible:
            for look in kind.names(COUNTRIES):
                slot = cue_slot(scene.seed, scene.world.street, name)
                rest = Scene(scene.world, [i for i in scene.items if i.id != name])
                item = Item(name, name, True, look, slot.place, slot.host)
                hosted = slot.host is None or any(i.id == slot.host for i in rest.items)
                if not hosted or name not in with_item(rest, item).visible_cues():
                    unseen.add(look)
        for c in COUNTRIES:
            weights[c] *= (
                kind.probability(c, visible[name])
                if name in visible
                else sum(kind.probability(c, look) for look in unseen)
            )
    total = sum(weights.values())
    assert posterior(scene) == pytest.approx({c: w / total for c, w in weights.items()}, abs=1e-9)


def test_bayes_accuracy_lies_where_it_was_tuned_and_is_honest():
    scenes = [render(seed) for seed in range(10_000, 10_080)]
    beliefs = [posterior(s) for s in scenes]
    best = np.array([max(b.values()) for b in beliefs])
    accuracy = geoscenes.bayes_accuracy(scenes[:8])
    assert accuracy == pytest.approx(best[:8].mean())
    error = best.std() / math.sqrt(len(best))
    assert 0.90 - 2 * error <= best.mean() <= 0.96 + 2 * error
    right = [max(b, key=b.__getitem__) == s.country for b, s in zip(beliefs, scenes, strict=True)]
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
    only = scene
    for item in scene.items:
        if item.cue and item.id != "driving_side":
            only = only.without(item.id)
    assert posterior(only)["France"] == 0
    assert posterior(only, left_right=False)["France"] > 0
    bare = only.without("driving_side")
    assert posterior(bare)["France"] > 0


# -- shortcut, places, arguments -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["watermark", "smudge"])
def test_shortcut_goes_with_its_country_and_can_be_removed(kind):
    options = {"country": "Japan", "correlation": 0.5, "kind": kind}
    carried: Counter[str] = Counter()
    n: Counter[str] = Counter()
    for seed in range(900):
        scene = render(seed, shortcut=options)
        n[scene.country] += 1
        carried[scene.country] += any(i.category == "shortcut" for i in scene.items)
    for country, share in (("Japan", 0.75), ("France", 0.25), ("India", 0.25)):
        assert carried[country] / n[country] == pytest.approx(share, abs=0.1)
    scene = render(1, "Japan", shortcut={"country": "Japan", "kind": kind})
    artefact = next(o for o in scene.objects if o.category == "shortcut")
    assert not artefact.cue
    assert artefact.mask.sum() > 100
    assert np.array_equal(scene.without("shortcut").image, render(1, "Japan").image)


def test_places_are_real_towns_of_the_country():
    box = {"France": (41, 52, -5.5, 9), "India": (7, 36, 68, 98), "Japan": (30, 46, 128, 146)}
    for country, towns in geoscenes.gazetteer().items():
        south, north, west, east = box[country]
        assert all(south < t.latitude < north and west < t.longitude < east for t in towns)
        assert len(towns) >= 25
        assert len({t.region for t in towns}) >= 5
    for seed in range(20):
        scene = render(seed)
        town = next(t for t in geoscenes.gazetteer()[scene.country] if t.name == scene.town)
        assert scene.region == town.region
        assert abs(scene.latitude - town.latitude) <= 0.02
        assert abs(scene.longitude - town.longitude) <= 0.02


def test_countries_are_equally_frequent_and_may_be_two():
    counts = Counter(render(s).country for s in range(1200))
    assert all(abs(counts[c] - 400) < 4 * math.sqrt(1200 * 2 / 9) for c in COUNTRIES)
    pair = {render(s, countries=("India", "Japan")).country for s in range(30)}
    assert pair == {"India", "Japan"}


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
        ({"seed": 0, "shortcut": {"correlation": 2}}, "0..1"),
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
