"""Concept influence: values worked out by hand, invariances, all shifts at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from geolib import concepts
from geolib.concepts import concept_influence, concept_influences, shifted_influences

# 4 × 5 pixels; the five largest values are 9, 8, 7, 6, 5.
MAP = np.array([[9.0, 8, 0, 0, 0], [7, 0, 0, 6, 0], [0, 0, 5, 0, 1], [2, 0, 3, 0, 4]])
# Of three places the 9 takes one, and four pixels of 5 share two.
TIED = np.array([[9.0, 5, 0, 0, 0], [0, 5, 0, 0, 0], [0, 0, 0, 0, 5], [0, 0, 0, 0, 5]])
RISING = np.arange(100.0).reshape(10, 10)
SPOT = np.zeros((10, 10))
SPOT[2, 2] = 1


def box(top, bottom, left, right, shape=(4, 5)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("values", "corners", "k", "options", "expected"),
    [
        (MAP, (0, 2, 0, 2), 5, {}, (3 / 5) / (4 / 20)),  # 9, 8, 7 of five, on 4 of 20 pixels
        (MAP, (0, 2, 0, 2), 3, {}, 1 / (4 / 20)),  # all three of three: the largest value possible
        (MAP, (2, 4, 0, 5), 5, {}, (1 / 5) / (10 / 20)),  # only the 5
        (MAP, (0, 1, 2, 5), 5, {}, 0.0),
        (MAP, (0, 4, 0, 5), 5, {}, 1.0),  # everything is on the whole image
        (TIED, (0, 4, 0, 2), 3, {}, (2 / 3) / (8 / 20)),
        (TIED, (0, 4, 2, 5), 3, {}, (1 / 3) / (12 / 20)),
        # A map without contrast prefers no place: the top half and the bottom half alike.
        (np.zeros((4, 5)), (0, 2, 0, 5), 7, {}, 1.0),
        (np.ones((4, 5)), (2, 4, 0, 5), 7, {}, 1.0),
        (np.ones((4, 5)), (0, 4, 1, 2), 7, {}, 1.0),
        # Empty and tiny masks have none, unless grown.
        (RISING, (0, 0, 0, 0), 10, {}, np.nan),
        (RISING, (0, 0, 0, 0), 10, {"min_size": 0}, np.nan),
        (RISING, (9, 10, 1, 10), 10, {}, np.nan),
        (RISING, (9, 10, 1, 10), 10, {"min_size": 0.09}, 0.9 / 0.09),
        (RISING, (9, 10, 0, 10), 10, {}, 10),  # s̄ = 0.1 is large enough
        # A corner pixel grows to 2 × 2, then to 3 × 3, which is 0.09 of the image.
        (SPOT, (0, 1, 0, 1), 1, {"min_size": 0.01}, 0),
        (SPOT, (0, 1, 0, 1), 1, {"min_size": 0.01, "dilation": 1}, 0),
        (SPOT, (0, 1, 0, 1), 1, {"min_size": 0.09, "dilation": 2}, 1 / 0.09),
        (SPOT, (0, 1, 0, 1), 1, {"min_size": 0.1, "dilation": 2}, np.nan),
    ],
)
def test_influence_by_hand(values, corners, k, options, expected):
    mask, expected = box(*corners, values.shape), pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert concept_influence(values, mask, k, **options) == expected
    assert concept_influence(torch.tensor(values), torch.tensor(mask), k, **options) == expected


maps = arrays(float, (5, 7), elements=st.integers(0, 6).map(float))
masks = arrays(bool, (5, 7))
semantic_maps = arrays(np.int16, (5, 7), elements=st.integers(-1, 3))


@given(maps, masks, st.integers(1, 35), st.integers(0, 3), st.sampled_from([np.exp, np.cbrt]))
def test_only_ranks_matter_and_not_where_they_lie(values, mask, k, turns, monotone):
    found = concept_influence(values, mask, k, min_size=0)
    for same in (monotone(values), 3 * values - 7):
        np.testing.assert_equal(concept_influence(same, mask, k, min_size=0), found)
    # Turning or mirroring image and mask together changes nothing, whatever is tied.
    turned = [np.rot90(np.fliplr(array), turns) for array in (values, mask)]
    assert concept_influence(*turned, k, min_size=0) == pytest.approx(found, nan_ok=True)


@given(maps, masks, st.integers(1, 35))
def test_concepts_share_the_explanation(values, mask, k):
    """Shares of the top-k pixels over concepts that fill the image sum to one."""
    mask[0] = True
    parts = [concept_influence(values, part, k, min_size=0) for part in (mask, ~mask)]
    assert np.nansum(np.multiply(parts, [mask.mean(), (~mask).mean()])) == pytest.approx(1)
    assert concept_influence(values, mask, k=35) == pytest.approx(1)  # of all pixels


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 13), (13, 7), (16, 16)])
@pytest.mark.parametrize("dilation", [1, 2, 3, 20])
def test_dilation_is_that_of_a_full_square_up_to_the_border(shape, dilation):
    rng = np.random.default_rng(0)
    for density in (0.0, 0.03, 0.3):
        mask = rng.random(shape) < density
        expected = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=dilation)
        np.testing.assert_array_equal(concepts.dilate(mask, dilation), expected)
    np.testing.assert_array_equal(concepts.dilate(mask, 0), mask)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: concept_influence(MAP, m, 21), ValueError, r"k=21.*20 pixels.*scaled_k"),
        (lambda m: concept_influence(MAP, m), ValueError, "k=1000.*20 pixels"),
        (lambda m: concept_influence(MAP, m, 0), ValueError, "k=0"),
        (lambda m: concept_influence(MAP, m, 2.5), TypeError, "float"),
        (lambda m: concept_influence(MAP, m, 5, min_size=1.5), ValueError, r"min_size=1\.5"),
        (lambda m: concept_influence(MAP, m, 5, dilation=-1), ValueError, "dilation=-1"),
        (lambda m: concept_influence(MAP, m.T, 5), ValueError, r"mask.*\(5, 4\).*\(4, 5\)"),
        (lambda m: concept_influence(MAP, m * 1.0, 5), TypeError, "mask.*float64.*bool"),
        (lambda m: concept_influence(MAP[0], m, 5), ValueError, r"attribution.*\(5,\)"),
        (lambda m: concept_influence(MAP * np.nan, m, 5), ValueError, "attribution.*NaN"),
        (lambda m: concept_influences(MAP, MAP, 5), TypeError, "semantic_map.*float64"),
        (lambda m: concept_influences(MAP, 1 * m.T, 5), ValueError, r"semantic_map.*\(5, 4\)"),
        (lambda m: shifted_influences(MAP, m & False, 5), ValueError, "mask is empty"),
    ],
)
def test_errors_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call(box(0, 2, 0, 2))


def test_k_scales_with_the_image():
    assert concepts.scaled_k(224, 224) == 1000
    assert concepts.scaled_k(144, 144) == 413  # 0.01993 of 20,736


@settings(deadline=None)
@given(maps, semantic_maps, st.integers(1, 35), st.integers(0, 2), st.sampled_from([0, 0.1, 0.4]))
def test_batched_form_agrees_with_the_single_one(values, semantic_map, k, dilation, min_size):
    table = concept_influences(values, semantic_map, k, min_size, dilation)
    assert sorted(table.index) == sorted(set(semantic_map.ravel().tolist()) - {-1})
    for concept, row in table.iterrows():
        mask = semantic_map == concept
        expected = concept_influence(values, mask, k, min_size, dilation)
        np.testing.assert_equal(row["influence"], expected)
        assert row["size"] == concepts.dilate(mask, dilation).mean()


@settings(deadline=None, max_examples=30)
@given(maps, masks, st.integers(1, 35), st.integers(0, 1))
def test_all_shifts_at_once_are_those_one_by_one(values, mask, k, dilation):
    mask[2, 3] = True
    found = shifted_influences(values, mask, k, dilation)
    assert found.mean() == pytest.approx(1)  # a place at random prefers no concept
    for y, x in [(0, 0), (1, 0), (0, 1), (4, 6), (2, 3)]:
        moved = np.roll(values, (y, x), axis=(0, 1))
        expected = concept_influence(moved, mask, k, 0, dilation)
        assert found[y, x] == pytest.approx(expected, abs=1e-9)
