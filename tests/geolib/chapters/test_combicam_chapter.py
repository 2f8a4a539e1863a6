"""What each block adds to Combi-CAM, by hand."""

from itertools import product

import pandas as pd
import pytest
import torch

from geolib.chapters import combicam

SIZES = {"network.a": (4, 4), "network.b": (2, 2), "network.c": (2, 2)}


def test_the_last_block_of_each_size_is_a_stage():
    assert combicam.last_blocks(SIZES) == {(4, 4): "network.a", (2, 2): "network.c"}


def test_shares_of_the_blocks_sum_to_one_and_leave_empty_maps_out():
    one, zero = torch.ones(4, 4), torch.zeros(4, 4)
    weights = dict(zip(SIZES, (1, 2, 5), strict=True))
    parts = {name: torch.stack([weight * one, zero]) for name, weight in weights.items()}
    shares = combicam.block_shares(parts).set_index("block")["share"]
    assert shares.to_dict() == pytest.approx({"a": 0.125, "b": 0.25, "c": 0.625})


def test_findings_are_differences_image_by_image():
    methods, tests = ("stage 4", combicam.COMBINED), ("deletion", "insertion")
    table = pd.DataFrame(product(methods, (1, 2, 3)), columns=["method", "image_id"])
    table["frequency"] = table["image_id"] + 2.0 * (table["method"] != "stage 4")
    columns = ["attribution", "image_id", "test", "region"]
    outcomes = pd.DataFrame(
        product(methods, (1, 2, 3), tests, ("guided", "random")), columns=columns
    )
    kept = (outcomes["region"] == "random") | (outcomes["attribution"] == combicam.COMBINED)
    row = {"segmenter": "grid", "fill": "mean", "coverage": 0.1, "coverage_gap": 0, "n_elements": 1}
    outcomes = outcomes.assign(correct=kept, **row)
    found = combicam.findings("stage 4", outcomes, table, None, "photographs")
    values = {name: one.value for name, one in found.items()}
    assert values == {"combicam-finer": 2, "combicam-deletion": -1, "combicam-insertion": 1}
    assert found["combicam-finer"].data == "photographs, 3 images"
    assert "differs by +2.00 (95 %" in combicam.answer(found)
    assert combicam.answer({}).endswith("nothing that one image could show.")
