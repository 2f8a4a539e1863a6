"""Segments and elements marked against planted objects, counted by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from toys import classifier, explained, write_photographs

from geolib import data, pipeline
from geolib.chapters import elements as elements_
from geolib.chapters import findings
from geolib.masks import box_region
from geolib.pipeline import EvaluationConfig
from geoscenes import Scene

SIDE = 40
SIGN, CAR = (0, 0, 10, 10), (20, 20, 40, 40)


class PlantedScene(Scene):
    objects = ()

    def __init__(self, objects):
        self.objects = tuple(
            SimpleNamespace(mask=box_region([box], (SIDE, SIDE)), cue=cue, category="thing")
            for box, cue in objects
        )


def extracted(objects, segments=(), elements=()):
    return explained(torch.zeros(SIDE, SIDE), elements, PlantedScene(objects), segments)


def test_recall_counts_objects_matched_by_half_and_averages_the_best():
    # The sign is found exactly; half of the car is found: IoU 1 and 1/2, both count.
    one = extracted([(SIGN, True), (CAR, False)], [SIGN, (20, 20, 40, 30)])
    # The sign within a segment four times its size: IoU 1/4, not found; the car has no segment.
    other = extracted([(SIGN, True), (CAR, False)], [(0, 0, 20, 20)])
    table = elements_.object_recall({"good": [one], "bad": [other]})
    assert list(table.index) == ["good", "bad"]
    assert table.loc["good"].tolist() == pytest.approx([1.0, 0.75])
    assert table.loc["bad"].tolist() == pytest.approx([0.0, 0.125])
    small = extracted([((0, 0, 7, 9), True), (CAR, False)], [CAR])  # 63 pixels: too few to see
    assert elements_.object_recall({"a": [small]}).loc["a", "objects found"] == 1.0


def test_nothing_is_found_without_segments_and_no_share_without_elements():
    nothing = extracted([(SIGN, True)])
    assert elements_.object_recall({"a": [nothing]}).loc["a"].tolist() == [0.0, 0.0]
    assert elements_.cue_share([nothing]) == {"elements": 0.0, "objects": 1.0}
    bare = extracted([], elements=[SIGN])
    assert elements_.mark_elements(bare)["kind"].tolist() == ["shapeless"]


NEAR = (10, 0, 17, 10)  # beside the sign


@pytest.mark.parametrize(
    ("element", "kind"),
    [
        (SIGN, "one object"),
        ((0, 0, 10, 6), "one object"),  # covers 60 % of the sign
        ((0, 0, 10, 4), "part"),  # all on the sign, of which it covers 40 %
        ((0, 0, 12, 4), "part"),  # 83 % on the sign, of which it covers 40 %
        ((20, 20, 32, 31), "part"),  # all on the car, of which it covers a third
        ((0, 10, 20, 20), "shapeless"),  # on no object
        ((4, 0, 16, 10), "one object"),  # half of it on the sign, half on what is near
        ((2, 0, 20, 10), "several"),  # 44 % on the sign, 39 % on what is near
        ((0, 6, 20, 16), "shapeless"),  # 20 % on the sign, 14 % on what is near
    ],
)
def test_kinds_of_elements(element, kind):
    one = extracted([(SIGN, True), (CAR, False), (NEAR, False)], elements=[element])
    marked = elements_.mark_elements(one)
    assert (marked["kind"].tolist(), marked["overlapping"].tolist()) == ([kind], [False])
    assert (marked["category"][0] is None) == (kind in ("shapeless", "several"))


def test_kinds_are_counted_over_elements_with_intervals_over_images():
    images = [extracted([(CAR, False)], elements=one) for one in ([CAR], [CAR, (20, 20, 30, 30)])]
    table = findings.element_kinds([*images, extracted([(CAR, False)])]).set_index("kind")
    assert table["value"].to_dict() == pytest.approx(
        {
            "one object": 2 / 3,
            "part": 1 / 3,
            "several": 0,
            "shapeless": 0,
            "overlapping another": 1 / 3,
        }
    )
    assert table.loc["part", ["low", "high"]].tolist() == [0, 0.5]
    assert findings.element_kinds([images[0]]).empty  # one image has no interval


def test_spread_of_a_map_over_objects_by_hand():
    """The fifth is 320 of 1,600 pixels; the sign has 100, the car 400."""
    car, both, spot = torch.zeros(3, SIDE, SIDE)
    car[20:36, 20:40] = 1  # a fifth, all on the car
    both[0:10, 0:10] = 1
    both[20:31, 20:40] = 0.5  # 220 pixels
    spot[38:40, 0:2] = 1
    objects = [(SIGN, True), (CAR, False), ((30, 0, 35, 5), True)]  # 25 pixels are too few
    found = [
        explained(values, [SIGN, (5, 5, 40, 40)], PlantedScene(objects))
        for values in (car, both, spot)
    ]
    table = elements_.spread([*found, extracted([])])
    assert table["touches"].tolist() == [1, 2, 2]  # of a map without weight, anywhere
    assert table["element touches"].tolist() == [1.5] * 3
    assert table["beside"][:2].tolist() == pytest.approx([0, 0])
    assert table["on one"][:2].tolist() == pytest.approx([1, 220 / 320])
    # At the car's own size 320 of its pixels are found, and of the other 1,280 the places of 80 are
    # drawn, 80 of them on the car; the sign is found exactly.
    assert table["match"][:2].tolist() == pytest.approx([(320 + 80 * 80 / 1280) / 400, 1])
    # Four pixels of a map on nothing: what is left is drawn from 1,596 that are tied.
    assert table["match"][2] == pytest.approx((400 - 4) / 1596)
    assert "touches 1.7 objects, an element 1.5" in elements_.spread_note(table)
    assert elements_.spread([]).empty


def test_overlap_is_of_own_pixels_and_cue_share_leaves_shapeless_elements_out():
    nested = extracted([(CAR, False)], elements=[CAR, (20, 20, 30, 30)])
    # The detail lies wholly in the car; a quarter of the car lies in the detail.
    assert elements_.mark_elements(nested)["overlapping"].tolist() == [False, True]
    objects = [(SIGN, True), (CAR, False), ((0, 30, 10, 40), False)]
    one = extracted(objects, elements=[SIGN, (0, 10, 20, 20)])
    assert elements_.cue_share([one]) == {"elements": 1.0, "objects": pytest.approx(1 / 3)}


def test_localisation_by_hand():
    """The sign is a cue of 100 of 1,600 pixels, the car is none; the fifth is 320 pixels."""
    item = extracted([(SIGN, True), (CAR, False)]).item
    at_sign, at_car, half = torch.zeros(3, 1, SIDE, SIDE)
    at_sign[0, 0:10, 0:10] = 1
    at_car[0, 20:40, 20:40] = 1
    half[0, 0:6, 0:10] = 0.5  # 60 of the sign's pixels
    half[0, 39, 39] = 1
    maps = {"sign": at_sign, "car": at_car, "half": half, "zero": torch.zeros(1, SIDE, SIDE)}
    table = elements_.localisation(maps, [item]).set_index("method")
    assert table["area"].unique().tolist() == [1 / 16]
    assert table["pointing"].to_dict() == {"sign": 1, "car": 0, "half": 0, "zero": 1 / 16}
    assert table["weight"].tolist() == pytest.approx([1, 0, 30 / 31, 1 / 16])
    # Of "half", the pixels tied at zero share the 259 places that are left among 1,539.
    assert table["found"].to_dict() == {"sign": 1, "car": 0, "half": 1, "zero": 0}


def test_localisation_counts_each_cue_and_leaves_out_what_cannot_be_seen():
    item = extracted([(SIGN, True), (CAR, True), ((30, 0, 35, 5), True)]).item  # 25 pixels
    none = extracted([(CAR, False), ((30, 0, 35, 5), True)]).item
    one = torch.zeros(2, SIDE, SIDE)
    one[:, 0:10, 0:10] = 1
    table = elements_.localisation({"a": one}, [item, none])
    assert table["found"].tolist() == [0.5]
    assert table["area"].tolist() == [500 / 1600]


def test_localisation_of_maps_at_another_size():
    item = extracted([(SIGN, True), (CAR, False)]).item
    small = torch.zeros(1, SIDE // 2, SIDE // 2)
    small[0, 2, 2] = 1
    found = elements_.localisation({"a": small}, [item]).iloc[0]
    assert (found["area"], found["pointing"], found["weight"]) == (1 / 16, 1, 1)


def test_photographs_have_no_truth():
    one = extracted([(SIGN, True)])
    photograph = replace(one, item=replace(one.item, scene=None))
    assert elements_.has_truth([one]) and not elements_.has_truth([photograph])
    for mark in (
        lambda: elements_.object_recall({"a": [photograph]}),
        lambda: elements_.localisation({"a": torch.zeros(1, SIDE, SIDE)}, [photograph.item]),
    ):
        with pytest.raises(ValueError, match="not a scene"):
            mark()


@pytest.mark.parametrize("corners", [(0, 0, 4, 2), (10, 10, 14, 40), (0, 0, 40, 40)])
def test_spotlight_is_square_and_dims_all_but_the_box(corners):
    image = np.full((40, 40, 3), 0.9)
    shown = elements_.spotlight(image, corners)
    assert shown.shape[0] == shown.shape[1]
    x0, y0, x1, y1 = corners
    assert (shown == 0.9).all(-1).sum() == (x1 - x0) * (y1 - y0)


def test_thresholds_stand_beside_untuned_ones(tmp_path, own_cache):
    write_photographs(tmp_path, 2)
    images = data.load("folder", "all", root=tmp_path)
    base = EvaluationConfig(attribution="random", segmenter="grid")
    chosen = base.model_copy(update={"top_p": 0.1, "s_min": 0.25})
    experiment = SimpleNamespace(
        classifier=classifier(),
        compared_with=lambda method: images,
        config=lambda *pair, tuned: chosen if tuned else base.model_copy(update={"s_min": 1.0}),
    )
    (row,) = elements_.thresholds(experiment, [("random", "grid")]).to_dict("records")
    used = pipeline.extract(images, classifier(), chosen)
    coverage, empty = np.mean([(e.elements.coverage, len(e.elements) == 0) for e in used], axis=0)
    assert row["p"] == "10%" and row["s_min"] == "0.25"
    assert (row["coverage"], row["no element"]) == (f"{coverage:.0%}", f"{empty:.0%}")
    assert (row["untuned: coverage"], row["untuned: no element"]) == ("0%", "100%")


def test_the_picture_of_tuning_shows_every_setting_and_circles_the_choice():
    rows = [(0.1, 0.3, 0.25, 0.4), (0.1, 0.5, 0.1, 0.2), (0.2, 0.4, 0.2, 0.5)]
    curve = pd.DataFrame(rows, columns=["top_p", "s_min", "coverage", "insertion_advantage"])
    tuned = pipeline.Tuned(EvaluationConfig(), "", curve, curve.iloc[2].to_dict())
    lines = elements_.tuning(tuned).axes[0].lines
    drawn = {tuple(xy) for line in lines[:2] for xy in line.get_xydata()}
    assert drawn == {(coverage, value) for *_, coverage, value in rows}
    assert lines[-1].get_xydata().tolist() == [[0.2, 0.5]]
