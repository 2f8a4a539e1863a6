"""Scores, suppression and boxes, against cases worked by hand and a slow reference."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import center_of_mass

from geolib.masks import box_region
from geolib.scoring import (
    element_boxes,
    extract_elements,
    salient_weights,
    score_segments,
    suppress,
)
from geolib.segmentation import Segments

MAP = np.array([[1, 0.8, 0, 0], [0.6, 0.4, 0, 0], [0, 0, 0.2, 0], [0, 0, 0, 0]])


def mask(*rows):
    """A mask drawn with # and . ."""
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def rectangle(height, width, x0, y0, x1, y1):
    return box_region([[x0, y0, x1, y1]], (height, width))


few = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0])  # so that ties are the rule
maps = arrays(float, st.tuples(st.integers(2, 9), st.integers(2, 9)), elements=few)


@pytest.mark.parametrize(
    ("values", "top_p", "expected"),
    [
        # Of 16 pixels the four largest, no tie.
        (MAP, 0.25, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
        # The nine, and the three fives share one place, or two.
        ([[9, 5, 5], [5, 0, 0]], 1 / 3, [[1, 1 / 3, 1 / 3], [1 / 3, 0, 0]]),
        ([[9, 5, 5], [5, 0, 0]], 1 / 2, [[1, 2 / 3, 2 / 3], [2 / 3, 0, 0]]),
        (np.zeros((2, 4)), 0.5, np.full((2, 4), 0.5)),  # all eight pixels share four places
        ([[9, 5, 5], [5, 0, 0]], 1.0, np.ones((2, 3))),  # everything
        ([[0.7]], 0.2, [[0]]),  # k = round(0.2) = 0: nothing
    ],
)
def test_salient_weights_by_hand(values, top_p, expected):
    np.testing.assert_allclose(salient_weights(np.array(values, float), top_p), expected)


@given(maps, st.floats(0.05, 1))
def test_salient_weights_sum_to_k_and_do_not_depend_on_position(values, top_p):
    weights = salient_weights(values, top_p)
    assert weights.sum() == pytest.approx(round(top_p * values.size))
    np.testing.assert_allclose(salient_weights(values[::-1, ::-1], top_p), weights[::-1, ::-1])
    order = np.random.default_rng(0).permutation(values.size)
    shuffled = salient_weights(values.ravel()[order].reshape(values.shape), top_p)
    np.testing.assert_allclose(shuffled.ravel(), weights.ravel()[order])


@pytest.mark.parametrize(
    ("segment", "overlap", "mean", "center"),
    [
        # T (k = 4) is the upper left square. Its centroid (0.5, 0.5) rounds half up to (1, 1).
        (mask("##..", "##..", "....", "...."), 4 / 4, 2.8 / 4, 0.4),
        (mask("##..", "....", "....", "...."), 2 / 2, 1.8 / 2, 0.8),  # (0, 0.5) to (0, 1)
        # The left column: centroid (1.5, 0) rounds to (2, 0), where the map is zero.
        (mask("#...", "#...", "#...", "#..."), 2 / 4, 1.6 / 4, 0.0),
        (mask("....", "....", "..#.", "...."), 0 / 1, 0.2, 0.2),  # one pixel outside T
        (np.ones((4, 4), bool), 4 / 16, 3.0 / 16, 0.2),  # the whole image: (1.5, 1.5) to (2, 2)
        # Two corners: centroid (1, 1) falls outside; (0, 0) and (2, 2) are equally near and the
        # first in reading order counts.
        (mask("#...", "....", "..#.", "...."), 1 / 2, 1.2 / 2, 1.0),
        # An L: centroid (4/3, 1/3) rounds to (1, 0), which is inside.
        (mask("#...", "#...", "#...", ".#.."), 2 / 4, 1.6 / 4, 0.0),
        (np.zeros((4, 4), bool), 0, 0, 0),  # nothing at all scores zero
    ],
)
def test_score_by_hand(segment, overlap, mean, center):
    row = score_segments(MAP, segment[None], top_p=0.25).iloc[0]
    expected = [overlap, mean, center, (overlap * mean * center) ** (1 / 3)]
    np.testing.assert_allclose(row[["overlap", "mean", "center", "score"]].astype(float), expected)


def test_box_centre_differs_from_the_centroid():
    # An L: the box (rows 0…3, columns 0…3) has its centre at 1.5, 1.5, so pixel (2, 2), outside
    # the L; (2, 0) and (3, 2) are at distances 2 and 1, so (3, 2) counts. The centroid
    # ((0+1+2+3+3+3+3)/7, (0+0+0+0+1+2+3)/7) = (15/7, 6/7) rounds to (2, 1); nearest is (2, 0).
    shape = mask("#...", "#...", "#...", "####")
    values = np.zeros((4, 4))
    values[3, 2], values[2, 0] = 0.9, 0.3
    assert score_segments(values, shape[None], center="box")["center"].item() == 0.9
    assert score_segments(values, shape[None], center="centroid")["center"].item() == 0.3


def test_combinations_of_the_three_factors():
    segment = mask("##..", "....", "....", "....")[None]
    expected = {"overlap": 1.0, "mean": 0.9, "center": 0.8}
    expected |= {"geometric": (1.0 * 0.9 * 0.8) ** (1 / 3), "arithmetic": (1.0 + 0.9 + 0.8) / 3}
    for combine, score in expected.items():
        scores = score_segments(MAP, segment, 0.25, combine=combine)["score"]
        assert scores.item() == pytest.approx(score), combine


@given(maps, st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.2, 0.5]))
def test_scores_agree_with_a_slow_reference(values, seed, top_p):
    rng = np.random.default_rng(seed)
    masks = rng.random((6, *values.shape)) < rng.uniform(0.05, 0.9)
    masks = masks[masks.any(axis=(1, 2))]
    weights = salient_weights(values, top_p)
    table = score_segments(values, masks, top_p)
    for segment, row in zip(masks, table.itertuples(), strict=True):
        assert row.overlap == pytest.approx(weights[segment].mean())
        assert row.mean == pytest.approx(values[segment].mean())
        # center_of_mass divides floats; half-way cases are kept exact by rounding first.
        pixel = np.floor(np.round(center_of_mass(segment), 9) + 0.5).astype(int)
        distances = ((np.argwhere(segment) - pixel) ** 2).sum(axis=1)
        nearest = np.argwhere(segment)[distances == distances.min()]
        assert row.center in [values[tuple(place)] for place in nearest]
        assert row.score**3 == pytest.approx(row.overlap * row.mean * row.center)


def test_scores_do_not_depend_on_the_other_segments_or_on_the_container():
    rng = np.random.default_rng(0)
    values, masks = rng.random((12, 15)), rng.random((9, 12, 15)) < 0.3
    together = score_segments(values, masks)
    alone = [score_segments(values, masks[[index]]) for index in range(9)]
    np.testing.assert_array_equal(together, np.concatenate(alone))
    tensors = score_segments(torch.tensor(values), torch.tensor(masks))
    np.testing.assert_array_equal(together, tensors)


WHOLE = rectangle(10, 10, 0, 0, 10, 10)  # 100 pixels
ALMOST = rectangle(10, 10, 0, 0, 10, 8)  # 80 of them
LESS = rectangle(10, 10, 0, 0, 10, 7)  # 70 of them
DETAIL = rectangle(10, 10, 1, 1, 3, 3)  # 4 of them
LOWER = rectangle(10, 10, 0, 8, 10, 10)  # the 20 that ALMOST lacks


@pytest.mark.parametrize(
    ("masks", "scores", "options", "kept"),
    [
        ([WHOLE, DETAIL], [0.9, 0.5], {}, [0, 1]),  # nested detail stays: 4 / max(100, 4)
        # A near-duplicate goes: 80 / max(100, 80) = 0.8, the threshold itself counts.
        ([WHOLE, ALMOST], [0.9, 0.5], {}, [0]),
        # ... and the better one is the one that stays, whichever is larger.
        ([WHOLE, ALMOST], [0.5, 0.9], {}, [1]),
        ([WHOLE, LESS], [0.9, 0.5], {}, [0, 1]),  # 70 / 100 is below the threshold
        ([WHOLE, LESS], [0.9, 0.5], {"threshold": 0.7}, [0]),
        ([DETAIL, LOWER, LESS], [0.2, 0.9, 0.5], {}, [1, 2, 0]),  # in the order of the scores
        ([ALMOST, WHOLE], [0.5, 0.5], {}, [0]),  # equal scores: in the order given
        # Only kept segments suppress: ALMOST drops WHOLE, so LESS (70/80 of ALMOST) goes as well,
        # but with LESS best, ALMOST goes (70/80) and WHOLE (70/100) stays.
        ([WHOLE, ALMOST, LESS], [0.5, 0.9, 0.1], {}, [1]),
        ([WHOLE, ALMOST, LESS], [0.5, 0.1, 0.9], {}, [2, 0]),
        # Divided by the smaller area, nested detail goes too.
        ([WHOLE, DETAIL], [0.9, 0.5], {"criterion": "min"}, [0]),
        ([ALMOST, LESS], [0.9, 0.5], {"criterion": "iou"}, [0]),  # 70/80 = 0.875
        ([ALMOST, LESS], [0.9, 0.5], {"criterion": "iou", "threshold": 0.9}, [0, 1]),
        # Disjoint segments never suppress each other, even at threshold 0.
        ([ALMOST, LOWER], [0.9, 0.5], {"threshold": 0.0}, [0, 1]),
        ([WHOLE], [0.1], {}, [0]),
        ([], [], {}, []),
    ],
)
def test_suppression_by_hand(masks, scores, options, kept):
    found = suppress(np.array(masks, bool).reshape(-1, 10, 10), np.array(scores), **options)
    assert found.tolist() == kept
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("box", "padding", "expected"),
    [
        ((40, 40, 60, 44), 0.0, (40, 40, 60, 44)),
        ((40, 40, 60, 44), 0.05, (39, 39, 61, 45)),  # 1 on every side, also of the shorter one
        # 5 % of 10 = 0.5 rounds half up to 1, of 9 = 0.45 down to 0.
        ((40, 40, 50, 50), 0.05, (39, 39, 51, 51)),
        ((40, 40, 49, 49), 0.05, (40, 40, 49, 49)),
        # 5 % of 30 = 1.5 rounds half up to 2 and of 50 = 2.5 to 3, not to the even 2.
        ((40, 40, 70, 50), 0.05, (38, 38, 72, 52)),
        ((40, 30, 90, 50), 0.05, (37, 27, 93, 53)),
        ((40, 40, 90, 41), 0.29, (25, 25, 100, 56)),  # 14.5; in floating point 14.499…98
        # Clipped at each edge of the 100 × 80 image.
        ((0, 0, 20, 10), 0.15, (0, 0, 23, 13)),
        ((80, 70, 100, 80), 0.15, (77, 67, 100, 80)),
        ((0, 0, 100, 80), 0.05, (0, 0, 100, 80)),
    ],
)
def test_padding_by_hand(box, padding, expected):
    assert element_boxes(rectangle(80, 100, *box)[None], padding).tolist() == [list(expected)]


def test_boxes_of_scattered_pixels_enclose_them_all():
    scattered = mask("......", "..#...", "....#.", ".#....")
    assert element_boxes(scattered[None], 0).tolist() == [[1, 1, 5, 4]]


# A 20 × 20 map with one bright square, and segments around it.
SQUARE = np.zeros((20, 20))
SQUARE[4:10, 4:10] = 0.5
SQUARE[6:8, 6:8] = 1.0
BOXES = [
    (0, 10, 20, 20),  # 0: no attribution at all
    (4, 4, 10, 10),  # 1: the square
    (4, 4, 10, 9),  # 2: most of it, a near-duplicate of 1 (30/36)
    (6, 6, 8, 8),  # 3: its bright core, nested
    (0, 0, 20, 20),  # 4: everything
]
MASKS = np.stack([rectangle(20, 20, *box) for box in BOXES])


def test_elements_by_hand():
    # k = round(0.09 · 400) = 36: T is exactly the square. Every centre but that of 0 and 4 lies in
    # the core, where the map is 1 (4: pixel (10, 10), where it is 0).
    scores = {1: (1 * 20 / 36) ** (1 / 3), 2: (1 * 17 / 30) ** (1 / 3), 3: 1.0}
    found = extract_elements(SQUARE, MASKS, top_p=0.09, s_min=0.1)
    # 3 is best, then 2, which drops 1 (30 / 36 ≥ 0.8); 0 and 4 score zero.
    assert found.table["segment"].tolist() == [3, 2]
    np.testing.assert_allclose(found.table["score"], [scores[3], scores[2]])
    np.testing.assert_allclose(found.table["area"], [4 / 400, 30 / 400])
    assert found.boxes.tolist() == [[6, 6, 8, 8], [4, 4, 10, 9]]
    np.testing.assert_array_equal(found.masks, MASKS[[3, 2]])
    np.testing.assert_array_equal(found.region(), MASKS[2])
    np.testing.assert_array_equal(found.mask_region(), MASKS[2])
    assert found.coverage == pytest.approx(30 / 400)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("options", "segments"),
    [
        ({"max_elements": 1}, [3]),
        ({"s_min": 1.0}, [3]),  # a score equal to s_min is not below it
        ({"threshold": 1.0}, [3, 2, 1]),
        # Cut to the salient set, the whole image is the square again: a duplicate of 1 and worse
        # than 2, which drops both.
        ({"candidates": "salient"}, [3, 2]),
    ],
)
def test_options_of_the_whole_step(options, segments):
    found = extract_elements(SQUARE, Segments(MASKS), **{"top_p": 0.09, "s_min": 0.1, **options})
    assert found.table["segment"].tolist() == segments


def test_boxes_of_the_whole_step_are_padded_and_of_salient_segments_cut():
    # Padding 50 % of the longer side: the core grows by 1, segment 2 by 3.
    padded = extract_elements(SQUARE, MASKS, 0.09, 0.1, padding=0.5)
    assert padded.boxes.tolist() == [[5, 5, 9, 9], [1, 1, 13, 12]]
    cut = extract_elements(SQUARE, MASKS[[0, 4]], 0.09, 0.1, candidates="salient")
    assert cut.boxes.tolist() == [[4, 4, 10, 10]]


def test_a_map_of_zeros_or_no_segment_gives_no_element():
    for inputs in ((0 * SQUARE, MASKS), (SQUARE, MASKS[:0])):
        found = extract_elements(*inputs, s_min=0)
        assert len(found) == 0
        assert found.shape == (20, 20)
        assert found.coverage == 0
        assert not found.region().any()
        assert not found.mask_region().any()


def test_order_of_segments_changes_nothing_but_their_numbers():
    forward = extract_elements(SQUARE, MASKS, top_p=0.09)
    backward = extract_elements(SQUARE, MASKS[::-1], top_p=0.09)
    np.testing.assert_array_equal(forward.boxes, backward.boxes)
    np.testing.assert_array_equal(forward.table["segment"], 4 - backward.table["segment"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, s: score_segments(m * np.nan, s), ValueError, "attribution holds NaN"),
        (lambda m, s: extract_elements(m * np.nan, s), ValueError, "attribution holds NaN"),
        (lambda m, s: score_segments(m - 1, s), ValueError, "attribution goes down to -1"),
        (lambda m, s: score_segments(m[None], s), ValueError, r"attribution has shape \(1, 4, 4\)"),
        (lambda m, s: score_segments(m, s[0]), ValueError, r"masks has shape \(4, 4\)"),
        (lambda m, s: score_segments(m, s[:, :3]), ValueError, r"expected \[N,4,4\]"),
        (lambda m, s: score_segments(m, s.astype(int)), TypeError, "masks has dtype int64"),
        (lambda m, s: score_segments(m, s, 0), ValueError, "top_p=0"),
        (lambda m, s: score_segments(m, s, 20), ValueError, "top_p=20"),
        (lambda m, s: score_segments(m, s, combine="sum"), ValueError, "known: geometric"),
        (lambda m, s: score_segments(m, s, center="mass"), ValueError, "known: centroid, box"),
        (lambda m, s: suppress(s, [0.1]), ValueError, r"scores has shape \(1,\); expected \[2\]"),
        (lambda m, s: suppress(s, [0.1, np.nan]), ValueError, "scores holds NaN"),
        (lambda m, s: suppress(s, [1, 2], 80), ValueError, "threshold=80"),
        (lambda m, s: suppress(s, [1, 2], criterion="mean"), ValueError, "known: max, iou, min"),
        (lambda m, s: element_boxes(s & False), ValueError, r"masks \[0, 1\] are empty"),
        (lambda m, s: element_boxes(s, -1), ValueError, "padding=-1"),
        (lambda m, s: extract_elements(m, s, s_min=2), ValueError, "s_min=2"),
        (lambda m, s: extract_elements(m, s, max_elements=-1), ValueError, "max_elements=-1"),
        (lambda m, s: extract_elements(m, s, candidates="all"), ValueError, "known: image"),
    ],
)
def test_wrong_input_is_named(call, error, message):
    segments = np.stack([mask("##..", "....", "....", "...."), np.ones((4, 4), bool)])
    with pytest.raises(error, match=message):
        call(MAP, segments)
