"""Segments and elements marked against planted objects, counted by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import torch

from geolib.chapters import elements as elements_
from geolib.data import GeoImage
from geolib.pipeline.shards import Extracted
from geolib.scoring import Elements, element_boxes
from geolib.segmentation import Segments
from geoscenes import Scene

SIDE = 40


def box(x0, y0, x1, y1):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


@dataclass
class Planted:
    mask: np.ndarray
    cue: bool
    category: str = "thing"


@dataclass
class PlantedScene(Scene):
    planted: list[Planted] = field(default_factory=list)

    @property
    def objects(self):
        return tuple(self.planted)


def extracted(objects, segments=(), elements=()):
    scene = object.__new__(PlantedScene)
    scene.planted = [Planted(mask, cue) for mask, cue in objects]
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    item = GeoImage("a", image, None, None, None, None, scene=scene)
    kept = np.array(elements, bool).reshape(-1, SIDE, SIDE)
    return Extracted(
        item,
        torch.zeros(3, SIDE, SIDE),
        torch.zeros(SIDE, SIDE),
        Segments(np.array(segments).reshape(-1, SIDE, SIDE).astype(bool)),
        Elements(kept, element_boxes(kept), pd.DataFrame(index=range(len(kept)))),
    )


SIGN, CAR = box(0, 0, 10, 10), box(20, 20, 40, 40)


def test_recall_counts_objects_matched_by_half_and_averages_the_best():
    # The sign is found exactly; half of the car is found: IoU 1 and 1/2, both count.
    one = extracted([(SIGN, True), (CAR, False)], [SIGN, box(20, 20, 40, 30)])
    # The sign within a segment four times its size: IoU 1/4, not found; the car has no segment.
    other = extracted([(SIGN, True), (CAR, False)], [box(0, 0, 20, 20)])
    table = elements_.object_recall({"good": [one], "bad": [other]})
    assert list(table.index) == ["good", "bad"]
    assert table.loc["good"].tolist() == pytest.approx([1.0, 0.75])
    assert table.loc["bad"].tolist() == pytest.approx([0.0, 0.125])


def test_objects_too_small_to_see_do_not_count():
    one = extracted([(box(0, 0, 7, 9), True), (CAR, False)], [CAR])  # 63 pixels
    assert elements_.object_recall({"a": [one]}).loc["a", "objects found"] == 1.0


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
        (box(0, 0, 10, 6), "whole"),  # covers 60 % of the sign
        (box(0, 0, 10, 4), "part"),  # all on the sign, of which it covers 40 %
        (box(0, 0, 12, 4), "part"),  # 83 % on the sign, of which it covers 40 %
        (box(0, 10, 20, 20), "shapeless"),  # on no object
        (box(4, 0, 16, 10), "whole"),  # half of it on the sign, of which it covers 60 %
        (box(5, 0, 17, 10), "shapeless"),  # 42 % on the sign
    ],
)
def test_kinds_of_elements(element, kind):
    one = extracted([(SIGN, True), (CAR, False)], elements=[element])
    shares = elements_.element_kinds([one])["share of elements"]
    assert shares[kind] == 1.0
    assert shares["overlapping another"] == 0.0
    assert shares[["whole", "part", "shapeless"]].sum() == 1.0


def test_overlap_is_of_the_elements_own_pixels():
    nested = extracted([(CAR, False)], elements=[CAR, box(20, 20, 30, 30)])
    # The detail lies wholly in the car; a quarter of the car lies in the detail.
    assert elements_.element_kinds([nested]).loc["overlapping another"].item() == 0.5


def test_cue_share_leaves_shapeless_elements_out():
    one = extracted(
        [(SIGN, True), (CAR, False), (box(0, 30, 10, 40), False)],
        elements=[SIGN, box(0, 10, 20, 20)],
    )
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
    item = extracted([(SIGN, True), (CAR, True), (box(30, 0, 35, 5), True)]).item  # 25 pixels
    none = extracted([(CAR, False), (box(30, 0, 35, 5), True)]).item
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
    photograph = replace(one, item=GeoImage("a", one.item.image, None, None, None, None))
    assert elements_.has_truth([one])
    assert not elements_.has_truth([photograph])
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
