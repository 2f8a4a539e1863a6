"""Boxes, overlaps and run lengths, by hand and against pycocotools."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from geolib.masks import bounding_boxes, box_region, decode, encode, intersections, iou


def test_run_lengths_by_hand():
    """COCO counts down the columns, zeros first: here 2 zeros, 3 ones, 1 zero."""
    mask = np.array([[0, 1, 1], [0, 1, 0]], dtype=bool)
    code, counts = encode(mask), {"size": [2, 3], "counts": [2, 3, 1]}
    packed = coco.frPyObjects(counts, 2, 3)["counts"]
    assert code == {"size": [2, 3], "counts": packed.decode()}
    for same in (code, counts, {**code, "counts": packed}):
        np.testing.assert_array_equal(decode(same), mask)


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 300), st.integers(1, 300)))
@settings(max_examples=60, deadline=None)
def test_run_lengths_keep_every_mask(seed, shape):
    """Few large blocks: long runs, and differences of either sign in COCO's packing."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, np.array(shape) + 1, (3, 2, 2)), axis=1).reshape(3, 4)
    mask = box_region(corners[:, [1, 0, 3, 2]], shape) ^ (rng.random(shape) < rng.choice([0, 0.01]))
    np.testing.assert_array_equal(decode(encode(mask)), mask)


def test_overlaps_by_hand():
    shape = (6, 8)
    boxes = np.array([[0, 0, 4, 2], [2, 0, 6, 2], [6, 4, 8, 6], [0, 0, 0, 0]])
    masks = np.stack([box_region(box[None], shape) for box in boxes])
    assert intersections(masks[:1], masks).tolist() == [[8, 4, 0, 0]]
    assert iou(masks[:1], masks).tolist() == [[1, 4 / 12, 0, 0]]
    assert np.isnan(iou(masks[3:], masks[3:])).all()
    assert iou(masks[:0], masks).shape == (0, 4)
    np.testing.assert_array_equal(bounding_boxes(masks[:3]), boxes[:3])
    np.testing.assert_array_equal(box_region(boxes[[0, 1]], shape), masks[0] | masks[1])
