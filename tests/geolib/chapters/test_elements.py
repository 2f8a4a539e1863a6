"""Segments and elements marked against planted objects, counted by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import explained

from geolib.chapters import elements as elements_
from geolib.masks import box_region
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
    assert elements_.element_kinds([nothing])["share of elements"].tolist() == [0.0] * 4
    assert elements_.cue_share([nothing]) == {"elements": 0.0, "objects": 1.0}
    bare = extracted([], elements=[SIGN])
    assert elements_.mark_elements(bare)["kind"].tolist() == ["shapeless"]


@pytest.mark.parametrize(
    ("element", "kind"),
    [
        (SIGN, "whole"),
        ((0, 0, 10, 6), "whole"),  # covers 60 % of the sign
        ((0, 0, 10, 4), "part"),  # all on the sign, of which it covers 40 %
        ((0, 0, 12, 4), "part"),  # 83 % on the sign, of which it covers 40 %
        ((0, 10, 20, 20), "shapeless"),  # on no object
        ((4, 0, 16, 10), "whole"),  # half of it on the sign, of which it covers 60 %
        ((5, 0, 17, 10), "shapeless"),  # 42 % on the sign
    ],
)
def test_kinds_of_elements(element, kind):
    one = extracted([(SIGN, True), (CAR, False)], elements=[element])
    shares = elements_.element_kinds([one])["share of elements"]
    assert shares[kind] == 1.0
    assert shares["overlapping another"] == 0.0
    assert shares[["whole", "part", "shapeless"]].sum() == 1.0


def test_overlap_is_of_own_pixels_and_cue_share_leaves_shapeless_elements_out():
    nested = extracted([(CAR, False)], elements=[CAR, (20, 20, 30, 30)])
    # The detail lies wholly in the car; a quarter of the car lies in the detail.
    assert elements_.element_kinds([nested]).loc["overlapping another"].item() == 0.5
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
