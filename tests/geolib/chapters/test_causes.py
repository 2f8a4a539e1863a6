"""Causal effects against a linear classifier whose answers are worked out on paper, and marks
against segments and objects counted by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from geolib import data
from geolib.attribution import attribute
from geolib.chapters.causes import effects, marks
from geolib.chapters.causes.marks import Objects
from geolib.concepts import concept_influence, scaled_k
from geolib.data import COUNTRIES, GeoImage
from geolib.model import Classifier
from geolib.model.classifier import Card
from geolib.pipeline.shards import EvaluationConfig
from geolib.scoring import score_segments
from geoscenes import render

SIZE = 48


class Linear(nn.Module):
    """Weighs every pixel; `block` (rows, columns) hides the others."""

    def __init__(self, block=(slice(None), slice(None)), gain=4.0, bias=(0.0, 0.0, 0.0)):
        super().__init__()
        weight = torch.zeros(3, 3, SIZE, SIZE)
        drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        weight[:, :, *block] = drawn[:, :, *block]
        self.map = nn.Identity()  # a classifier needs a layer whose maps can be read
        self.layer = nn.Linear(3 * SIZE * SIZE, 3)
        self.layer.weight.data = gain * weight.flatten(1) / SIZE
        self.layer.bias.data = torch.tensor(bias)
        self.batches: list[int] = []

    def forward(self, images):
        self.batches.append(len(images))
        return self.layer(self.map(images).flatten(1))


class Restless(Linear):
    """Gives every picture of a batch another answer, as rounding may."""

    def forward(self, images):
        return super().forward(images) + torch.arange(len(images))[:, None] * torch.eye(3)[0]


def classifier(network):
    """The network in the package's clothes; images reach it as they are."""
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return Classifier(network, Card("linear", COUNTRIES, SIZE, **plain))


def log_probabilities(network, image):
    """By hand: z = W x + b, log p = z − log Σ exp z, in double precision."""
    x = image.transpose(2, 0, 1).ravel() / 255
    z = network.layer.weight.detach().double().numpy() @ x
    z += network.layer.bias.detach().double().numpy()
    return z - np.log(np.exp(z - z.max()).sum()) - z.max()


@pytest.fixture(scope="module")
def scenes():
    dataset = data.load("geoscenes", n=3, size=SIZE)
    return [dataset[i] for i in range(3)]


def by_key(table):
    return table.set_index(["image_id", "object", "intervention"]).sort_index()


def measured(network, items, **options):
    """The effects on the true class, by scene, object and intervention."""
    wrapped = network if isinstance(network, Classifier) else classifier(network)
    labels = [item.label for item in items]
    return by_key(effects.scene_effects(wrapped, items, labels, **options))


def removals_where(scenes, holds):
    """Keys of the removals of which something holds, given the item and the object."""
    every = ((item, thing) for item in scenes for thing in item.scene.objects)
    return [(item.id, thing.id, "without") for item, thing in every if holds(item, thing)]


def test_effects_of_a_linear_classifier_are_those_worked_out_by_hand(scenes):
    network = Linear()
    rows = measured(network, scenes)
    assert rows.index.is_unique and len(rows) > 50
    numbers = ["log_probability", "log_probability_after", "effect", "effect_on_prediction"]
    for item in scenes:
        before, label = log_probabilities(network, item.image), item.label
        for thing in item.scene.objects:
            elsewhere = [c for c in COUNTRIES if c != item.scene.country] if thing.cue else []
            others = {"without": item.scene.without(thing.id)}
            others |= {f"swapped:{c}": item.scene.swapped(thing.id, c) for c in elsewhere}
            assert set(rows.loc[item.id, thing.id].index) == set(others)
            for intervention, other in others.items():
                row = rows.loc[item.id, thing.id, intervention]
                after = log_probabilities(network, other.image)
                lost = before - after
                by_hand = [before[label], after[label], lost[label], lost[before.argmax()]]
                assert row[numbers].tolist() == pytest.approx(by_hand, abs=1e-4)
                known = [before.argmax(), thing.mask.sum(), thing.category, thing.cue]
                assert row[["prediction", "pixels", "category", "cue"]].tolist() == known


def test_objects_outside_of_what_is_looked_at_have_no_effect(scenes):
    block = slice(30, 44), slice(4, 20)
    table = measured(Linear(block), scenes)
    outside = removals_where(scenes, lambda _, thing: not thing.footprint[block].any())
    assert len(outside) > 5
    # A sum over pixels may round otherwise at another place of the batch.
    assert (table.loc[outside, "effect"].abs() < 1e-5).all()
    assert (table["effect"] != 0).any()


def test_removing_what_cannot_be_seen_changes_nothing_at_all(scenes):
    table = measured(Restless(), scenes, batch_size=5)
    unseen = removals_where(
        scenes, lambda item, o: np.array_equal(item.scene.without(o.id).image, item.image)
    )
    assert unseen
    assert (table.loc[unseen, ["effect", "effect_on_prediction", "flipped"]] == 0).all(axis=None)


def test_every_picture_goes_through_once_in_full_batches(scenes):
    network = Linear()
    wrapped = classifier(network)
    network.batches.clear()
    table = measured(wrapped, scenes, batch_size=16)
    changes = [(item, effects.counterfactuals(item.scene)) for item in scenes]
    pictures = {(item.id, o.image.tobytes()) for item, others in changes for _, _, o in others}
    pictures |= {(item.id, item.image.tobytes()) for item in scenes}
    *full, rest = network.batches
    assert set(full) == {16} and 0 < rest <= 16
    assert sum(network.batches) == len(pictures) < len(table) + len(scenes)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_and_order_do_not_matter(scenes, batch_size):
    one = measured(Linear(), scenes)
    other = measured(Linear(), scenes[::-1], batch_size=batch_size)
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-5)


def test_a_decision_flips_exactly_where_the_margin_is_crossed(scenes):
    """Two classes; the first leads by just less than one object's share of the lead."""
    network, scene = Linear(gain=1.0), scenes[0].scene
    network.layer.weight.data[2], network.layer.bias.data[2] = 0, -100

    def lead(image):
        first, second, _ = log_probabilities(network, image)
        return first - second

    drops = {o.id: lead(scene.image) - lead(scene.without(o.id).image) for o in scene.objects}
    largest, next_one = sorted(drops.values())[:-3:-1]
    assert largest > next_one > 0
    # The lead becomes the middle of the two largest drops: only the largest one crosses it.
    network.layer.bias.data[0] += (largest + next_one) / 2 - lead(scene.image)
    table = effects.scene_effects(classifier(network), scenes[:1], [0])
    removed = table[table["intervention"] == "without"].set_index("object")
    assert removed["flipped"].to_dict() == {id: drop == largest for id, drop in drops.items()}
    assert set(removed["prediction"]) == {0}
    assert removed.loc[removed["flipped"], "prediction_after"].tolist() == [1]


def test_a_cue_that_another_country_never_has_goes_when_swapped():
    scene = render(0, size=SIZE, all_cues=True)
    item = GeoImage("all", scene.image, scene.country, 0, None, None, scene=scene)
    effect = measured(Linear(), [item]).loc["all", "effect"]
    changes = [(o.id, name, other) for o, name, other in effects.counterfactuals(scene)]
    gone = [(id, name) for id, name, other in changes if id not in {o.id for o in other.objects}]
    swapped_away = [key for key in gone if key[1] != "without"]
    assert swapped_away
    assert all(effect[key] == effect[key[0], "without"] for key in swapped_away)


def test_what_uncovers_a_cue_is_known(scenes):
    """Cues change their visible pixels only where an object before them goes, or their host."""
    covers = measured(Linear(), scenes)["covers_cue"]
    uncovering = 0
    for item in scenes:
        cues = {o.id: o.mask for o in item.scene.objects if o.cue}
        for thing in item.scene.objects:
            after = {o.id: o.mask for o in item.scene.without(thing.id).objects}
            others = [(after.get(id, ~mask), mask) for id, mask in cues.items() if id != thing.id]
            changed = any(not np.array_equal(now, mask) for now, mask in others)
            covers_cue = covers[item.id, thing.id, "without"]
            assert covers_cue or not changed
            uncovering += changed
            if thing.category in ("cloud", "treeline", "manhole"):
                assert not covers_cue  # they lie behind everything, or flat on the road
    assert uncovering > 3


def csv(text):
    return pd.read_csv(io.StringIO(text), skipinitialspace=True)


def some_effects():
    """A sign worth 0.5, or 0.2 and 0.6 elsewhere, which flips the decision in Japan's look only; a
    bush of −0.1 whose removal flips it; both in scene a."""
    table = csv(
        """object,cue,pixels,intervention,effect,effect_on_prediction,flipped
        sign,True,40,without,0.5,0.4,False
        sign,True,40,swapped:India,0.2,0.0,False
        sign,True,40,swapped:Japan,0.6,0.1,True
        bush,False,90,without,-0.1,0.3,True"""
    )
    return table.assign(image_id="a", category=table["object"], look=None, covers_cue=False)


def test_one_effect_per_object():
    for intervention, target, sign, bush in [
        *(("without", "label", 0.5, -0.1), ("without", "prediction", 0.4, 0.3)),
        *(("swapped", "label", 0.4, 0.0), ("swapped", "prediction", 0.05, 0.0)),  # means of two
    ]:
        table = effects.object_effects(some_effects(), intervention, target)
        assert table.loc["a", "effect"].to_dict() == pytest.approx({"sign": sign, "bush": bush})
        # One try for everything that is removed; swaps count for themselves.
        swapped = intervention == "swapped"
        assert table.loc["a", "flips"].to_dict() == {"sign": swapped, "bush": not swapped}


def test_categories_average_scenes_and_leave_out_what_is_too_small():
    """Scene a holds two bushes of 0.2 and 0.4, scene b one of 0.5, another that hides a cue, and a
    sign of 29 pixels."""
    table = csv(
        """image_id,object,effect,pixels,covers_cue
        a,bush-1,0.2,30,False
        a,bush-2,0.4,30,False
        b,bush-1,0.5,30,False
        b,bush-2,7.0,30,True
        b,sign,9.0,29,False"""
    )
    table = table.assign(category=[*["bush"] * 4, "sign"], cue=[*[False] * 4, True], look=None)
    table = table.assign(intervention="without", effect_on_prediction=0.0, flipped=False)
    found = effects.by_category(table, min_images=2)
    assert found["category"].tolist() == ["bush"]
    assert found.loc[0, ["value", "n"]].tolist() == pytest.approx([0.4, 2])
    assert effects.by_category(table, min_images=3).empty


def box(x0, y0, x1, y1):
    mask = np.zeros((20, 20), bool)
    mask[y0:y1, x0:x1] = True
    return mask


SIGN, CAR, BUSH = box(0, 0, 4, 5), box(10, 10, 20, 20), box(0, 10, 4, 14)
KNOWN = Objects(
    np.array([SIGN, CAR, BUSH]),
    cue=np.array([True, False, True]),
    effect=np.array([0.6, 0.2, -0.4]),
    flips=np.array([True, False, False]),
)


def test_elements_lie_on_what_makes_up_most_of_them():
    lies_on = [
        (SIGN, 0),
        (box(0, 0, 8, 5), 0),  # half of it on the sign, half on the ground
        (box(0, 0, 9, 5), -1),  # 20 pixels of the sign, 25 of the ground
        (box(12, 12, 15, 15), 1),  # a part of the car
        (box(6, 0, 9, 5), -1),
        (box(0, 0, 20, 20), -1),  # 264 of 400 pixels show no object
        (box(0, 0, 4, 5) | box(0, 10, 4, 13), 0),  # 20 pixels of the sign, 12 of the bush
    ]
    elements, things = zip(*lies_on, strict=True)
    assert marks.lies_on(np.array(elements), KNOWN.masks).tolist() == list(things)
    both = elements[-1][None]
    assert marks.lies_on(both, KNOWN.masks[[2]]).tolist() == [-1]
    assert marks.lies_on(both, KNOWN.masks[:0]).tolist() == [-1]
    assert marks.lies_on(KNOWN.masks[:0], KNOWN.masks).tolist() == []


def test_rank_correlation_by_hand():
    for a, b, expected in [
        ([1, 2, 3, 4], [10, 30, 20, 40], 0.8),  # 1 − 6·(1 + 1) / (4·15)
        ([3, 2, 1], [1, 2, 3], -1.0),
        # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
        ([0, 1, 1, 2], [1, 2, 3, 4], 4.5 / np.sqrt(4.5 * 5)),
        *(([1], [2], np.nan), ([], [], np.nan)),
        *(([1, 2], [3, 3], np.nan), ([3, 3], [4, 4], np.nan)),  # nothing to find
        ([3, 3], [1, 2], 0.0),  # something to find, and nothing told apart
    ]:
        found = marks.rank_correlation(np.array(a, float), np.array(b, float))
        assert found == pytest.approx(expected, nan_ok=True), (a, b)


def test_marks_by_hand():
    """Best first: the car (0.2), the ground (0), the sign (0.6), a part of the bush (−0.4)."""
    masks = np.array([CAR, box(6, 0, 9, 5), SIGN, box(0, 10, 4, 12)])
    found = marks.mark(np.array([0.9, 0.8, 0.7, 0.0]), masks, KNOWN)
    by_hand = {
        # Ranks of the scores 4 3 2 1, of the effects 3 2 4 1: differences 1, 1, −2, 0.
        "rank": 1 - 6 * 6 / (4 * 15),
        # Objects by score: car 0.9, sign 0.7, bush 0; by effect sign, car, bush.
        "rank_objects": 0.5,
        # Half of the bush: effects 0.2, 0, 0.6, −0.2, in the same order.
        "rank_shares": 0.4,
        # Sizes 0.2, 0, 0.6, 0.4 have ranks 2 1 4 3: differences 2, 2, −2, −2.
        "rank_size": 1 - 6 * 16 / 60,
        # The bush scores zero and is no element: three are left.
        **{"precision_1": 0, "precision_3": 1 / 3, "precision_5": 1 / 3},
        **{"recall_1": 0, "recall_3": 0.5, "recall_5": 0.5, "flips_found": 1},
    }
    assert found == pytest.approx(by_hand)


def test_objects_within_two_segments_share_their_effect():
    """A segment with a quarter of the sign and half the car: 0.15 + 0.1; one with 3/4 of each."""
    few = box(0, 0, 1, 5) | box(10, 10, 15, 20)
    many = box(0, 0, 3, 5) | box(10, 10, 20, 15) | box(10, 15, 15, 20)
    found = marks.mark(np.array([0.9, 0.8]), np.array([few, many]), KNOWN)
    assert found["rank_shares"] == pytest.approx(-1)
    assert np.isnan(found["rank"])  # both lie on the car


EMPTY = np.zeros((0, 20, 20), bool)


def test_marks_of_no_segments_and_of_segments_on_the_ground():
    nothing = marks.mark(np.zeros(0), EMPTY, KNOWN)
    assert np.isnan([nothing["rank"], nothing["rank_shares"], nothing["precision_1"]]).all()
    assert (nothing["recall_5"], nothing["flips_found"], nothing["rank_objects"]) == (0, 0, 0)
    ground = np.array([box(6, 0, 9, 5), box(6, 10, 9, 15)])
    found = marks.mark(np.array([0.9, 0.8]), ground, KNOWN)
    assert found["rank_objects"] == 0
    assert np.isnan(found["rank"])  # of its own segments none has an effect


def test_where_nothing_is_a_cause_marks_are_undefined():
    for n in (3, 0):  # harmless objects, and none
        none = Objects(KNOWN.masks[:n], *(np.zeros(n, kind) for kind in (bool, float, bool)))
        found = marks.mark(np.array([0.9, 0.8]), KNOWN.masks[:2], none)
        found |= marks.mark_map(np.ones((20, 20)), none)
        assert np.isnan(list(found.values())).all()


def test_a_perfect_and_a_reversed_ranking():
    order, scores = np.argsort(-KNOWN.effect), np.array([0.9, 0.8, 0.7])
    best, worst = (marks.mark(scores, KNOWN.masks[i], KNOWN) for i in (order, order[::-1]))
    assert (best["rank"], worst["rank"]) == (pytest.approx(1), pytest.approx(-1))
    assert (best["precision_1"], best["recall_1"], best["recall_3"]) == (1, 0.5, 1)


def test_maps_by_hand():
    """Causes are sign and car, 120 of 400 pixels; the bush misleads and is none."""
    one = np.zeros((20, 20))
    one[SIGN], one[BUSH] = 0.5, 0.25
    found = marks.mark_map(one, KNOWN)
    assert found == {"pointing": 1, "mass": pytest.approx(10 / 14), "area": 0.3}
    one[19, 0] = 0.5  # a twenty-first maximum, on the ground
    assert marks.mark_map(one, KNOWN)["pointing"] == pytest.approx(20 / 21)
    even = marks.mark_map(np.zeros((20, 20)), KNOWN)
    assert even == pytest.approx({"pointing": 0.3, "mass": 0.3, "area": 0.3})


RANDOM = {"attribution": "random"}


def marked(**methods):
    rows = [(name, f"i{i}", v) for name, values in methods.items() for i, v in enumerate(values)]
    table = pd.DataFrame(rows, columns=["attribution", "image_id", "rank"])
    return table.assign(segmenter="grid")


def test_comparison_by_hand():
    table = marked(
        cam=[0.5, 0.7, 0.9, np.nan], random=[0.1, 0.2, np.nan, 0.3], edges=[0.4, 0.2, 0.0, 0.2]
    )
    found = marks.against_reference(table, "rank", RANDOM).set_index("attribution")
    assert list(found.index) == ["cam", "random", "edges"]  # random and edges: 0.2 each
    cam = found.loc["cam"]
    assert (cam["value"], cam["n"], cam["undefined"]) == (pytest.approx(0.7), 3, 1)
    # Both are defined in the first two scenes only: 0.4 and 0.5 more.
    assert (cam["difference"], cam["n_pairs"]) == (pytest.approx(0.45), 2)
    assert cam["p_value"] == pytest.approx(0.5)  # 2 of 4 sign patterns
    assert found.loc["edges", "difference"] == pytest.approx(0.2 / 3)
    assert np.isnan(found.loc["random", "difference"])
    assert found["p_holm"].max() == pytest.approx(1.0)
    # The order of scenes and methods plays no part.
    again = marks.against_reference(table.sample(frac=1, random_state=0), "rank", RANDOM)
    pd.testing.assert_frame_equal(again.set_index("attribution"), found)


def test_methods_that_are_undefined_in_most_scenes_come_last():
    table = marked(cam=[0.5, 0.7, 0.9], few=[np.nan, 1.0, np.nan], random=[0.1, 0.2, np.nan])
    found = marks.against_reference(table, "rank", RANDOM)
    assert found["attribution"].tolist() == ["cam", "random", "few"]
    assert found["undefined"].tolist() == [0, 1, 2]
    assert np.isnan(found.loc[2, "low"])  # a single scene has no interval


def test_a_reference_may_be_a_segmenter():
    grid = marked(cam=[0.1, 0.3])
    table = pd.concat([grid, grid.assign(segmenter="truth", rank=[0.5, 0.9])])
    found = marks.against_reference(table, "rank", {"segmenter": "truth"}).set_index("segmenter")
    assert found.loc["grid", "difference"] == pytest.approx(-0.5)
    assert np.isnan(found.loc["truth", "difference"])


def marks_of(dataset, *methods, **options):
    """Marks with the objects themselves for segments, under a linear classifier."""
    common = {"segmenter": "truth", "suppression": 1.0}
    experiment = SimpleNamespace(
        evaluation=dataset,
        classifier=classifier(Linear()),
        config=lambda name, segmenter, tuned: EvaluationConfig(attribution=name, **common),
    )
    return marks.experiment_marks(experiment, methods, ["truth"], **options)


def effects_of(labels=(0,), bias=0.0, size=SIZE, **changed):
    """Effects in one scene, of which something may be changed."""
    item = replace(data.load("geoscenes", n=1, size=size)[0], **changed)
    items, network = [item] if labels else [], Linear(bias=(bias, 0.0, 0.0))
    return effects.scene_effects(classifier(network), items, labels)


def test_no_scene_gives_an_empty_table():
    table = effects_of(labels=[])
    assert table.empty and list(table) == list(effects.COLUMNS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: effects_of(scene=None), " is not a scene"),
        (lambda: effects_of([0, 0, 0]), "labels has 3 entries for 1 items"),
        (lambda: effects_of([3]), "labels holds 3; the classifier has classes 0…2"),
        (lambda: effects_of(size=64), "64 pixels a side, the classifier sees 48"),
        (lambda: effects_of(bias=np.nan), "NaN"),
        (lambda: effects.object_effects(some_effects(), "moved"), "'moved' is unknown; known: wit"),
        (lambda: effects.object_effects(some_effects(), target="best"), "target='best' is unknown"),
        (lambda: marks.against_reference(marked(cam=[1, 2]), "speed", {}), "'speed' is unknown"),
        (lambda: marks.against_reference(marked(cam=[1, 2]), "rank", {"map": "random"}), "'map'"),
        (lambda: marks_of([], "edges"), "must each hold some"),
        (lambda: marks_of([], scores="colour"), "scores='colour' is unknown; known: element"),
        (lambda: effects.dataset_effects([], None), "holds no images"),
    ],
)
def test_what_is_unknown_or_empty_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("own_cache")
def test_neither_shards_nor_other_scenes_matter():
    dataset, network = data.load("geoscenes", n=4, size=SIZE), classifier(Linear())
    found = by_key(effects.dataset_effects(dataset, network))
    direct = measured(network, [dataset[i] for i in range(4)])
    pd.testing.assert_frame_equal(found, direct, rtol=0, atol=1e-5)

    whole = marks_of(dataset, "edges", "random").query("attribution == 'edges'")
    assert whole["image_id"].tolist() == dataset.ids
    # Other scenes beside it change nothing in a scene's marks.
    alone = marks_of(dataset.subset([2]), "edges")
    pd.testing.assert_frame_equal(alone, whole.iloc[[2]].reset_index(drop=True))


@pytest.mark.parametrize("scores", marks.SCORES)
@pytest.mark.usefixtures("own_cache")
def test_marks_of_a_scene_are_those_of_its_parts(scores):
    """The stage's row against the same steps taken one by one."""
    dataset, network = data.load("geoscenes", n=1, size=SIZE), classifier(Linear())
    row = marks_of(dataset, "edges", scores=scores).iloc[0]
    item = dataset[0]
    one = attribute(network, data.to_batch([item], SIZE), "edges")[0].numpy()
    table = effects.object_effects(effects.dataset_effects(dataset, network))
    objects = marks.causal_objects(item, table.loc[item.id])
    assert len(objects.masks) == sum(o.mask.sum() >= 30 for o in item.scene.objects)
    masks = np.array([o.mask for o in item.scene.objects if o.mask.any()])
    k = scaled_k(SIZE, SIZE)
    values = {
        "element": lambda: score_segments(one, masks)["score"],
        "influence": lambda: [concept_influence(one, mask, k, min_size=0) for mask in masks],
        "effect": lambda: np.append(objects.effect, 0)[marks.lies_on(masks, objects.masks)],
        "size": lambda: [mask.sum() for mask in masks],
    }
    ranking = np.asarray(values[scores](), dtype=float)
    order = np.argsort(-ranking, kind="stable")
    expected = marks.mark(ranking[order], masks[order], objects) | marks.mark_map(one, objects)
    if scores in ("effect", "size"):  # no map is needed
        expected |= dict.fromkeys(("pointing", "mass", "area"), np.nan)
    assert row[list(expected)].to_dict() == pytest.approx(expected, nan_ok=True)
