"""Regions and images that stand in for an image's own."""

import numpy as np
import pytest

from geolib.chapters.baselines import donor_indices, torus_shifts
from geolib.masks import box_region


def test_torus_shifts_keep_area_and_layout():
    region = box_region([[0, 0, 3, 2]], (6, 8)) | box_region([[5, 4, 6, 5]], (6, 8))
    shifted = torus_shifts(region, "a", repeats=5)
    assert (shifted.sum(axis=(1, 2)) == 7).all()
    for mask in shifted:
        rolls = [np.roll(region, (dy, dx), (0, 1)) for dy in range(6) for dx in range(8)]
        assert any((mask == roll).all() for roll in rolls)
    assert len({mask.tobytes() for mask in shifted}) > 1


def test_donors_are_others_and_do_not_depend_on_the_order():
    names = [f"image {i}" for i in range(6)]
    donors = donor_indices(names, seed=3, repeats=5)
    for index, row in enumerate(donors):
        assert sorted(row) == [i for i in range(6) if i != index]  # every other one, once
    assert (donors != donor_indices(names, seed=4, repeats=5)).any()
    backwards = donor_indices(names[::-1], seed=3, repeats=5)[::-1]
    np.testing.assert_array_equal(5 - backwards, donors)
    assert donor_indices(["a", "b"], repeats=3).tolist() == [[1, 1, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="expected at least 2, all different"):
        donor_indices(["a", "a"])
