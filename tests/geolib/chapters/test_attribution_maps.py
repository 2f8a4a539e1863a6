"""Marks of maps, by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from geolib.chapters import attribution_maps


def test_map_agreement_is_rank_correlation():
    ramp = torch.arange(16.0).reshape(1, 4, 4) / 15
    maps = {"up": ramp, "squared": ramp**2, "down": 1 - ramp, "flat": torch.zeros(1, 4, 4)}
    table = attribution_maps.map_agreement(maps)
    assert table.loc["up", "squared"] == pytest.approx(1)
    assert table.loc["up", "down"] == pytest.approx(-1)
    assert np.isnan(table.loc["up", "flat"])


def test_the_note_names_the_closest_the_farthest_and_what_is_near_a_blind_map():
    names = ["a", "b", "c", "edges"]
    numbers = [[1, 0.9, 0.1, 0.2], [0.9, 1, 0.3, 0.5], [0.1, 0.3, 1, 0.4], [0.2, 0.5, 0.4, 1]]
    note = attribution_maps.agreement_note(pd.DataFrame(numbers, names, names), ("edges", "random"))
    assert "Most alike are `a` and `b` (rank correlation +0.90)" in note
    assert "least alike `a` and `c` (+0.10)" in note
    assert "`edges`, which ignores the network, is `b` (+0.50)" in note and "random" not in note
    alone = pd.DataFrame([[1.0]], ["a"], ["a"])
    assert attribution_maps.agreement_note(alone, ("edges",)) == "No two methods were compared."


def test_map_concentration_by_hand():
    spike = torch.zeros(1, 4, 5)
    spike[0, 0, 0], spike[0, 0, 1], spike[0, 0, 2] = 1.0, 0.5, 0.5
    table = attribution_maps.map_concentration({"spike": spike, "flat": torch.zeros(1, 4, 5)})
    assert table.to_dict("records") == [{"method": "spike", "share": pytest.approx(0.75)}]


def test_fineness_is_the_frequency_of_a_cosine():
    """The k-th cosine of the transform makes k / 2 cycles; of two equally strong ones, the mean."""
    x = (torch.arange(32) + 0.5) / 32
    three, eight = (0.5 + 0.5 * torch.cos(torch.pi * k * x) for k in (6, 16))
    maps = {
        "down": three[:, None].expand(1, 32, 20),
        "both": ((three + eight) / 2)[None, :, None].expand(1, 32, 32),
        "flat": torch.full((1, 32, 32), 0.3),
    }
    table = attribution_maps.map_fineness(maps).set_index("method")["frequency"]
    assert table.to_dict() == pytest.approx({"down": 3, "both": 5.5}, abs=1e-5)
