"""What each block adds to Combi-CAM, by hand."""

from __future__ import annotations

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
    methods = ("stage 4", combicam.COMBINED)
    images = (1, 2, 3)
    table = pd.DataFrame(
        {"method": method, "image_id": image, "frequency": image + 2.0 * (method != "stage 4")}
        for method in methods
        for image in images
    )
    row = {"segmenter": "grid", "fill": "mean", "repeat": 0}
    row |= {"coverage": 0.1, "coverage_gap": 0.0, "n_elements": 1}
    outcomes = pd.DataFrame(
        {"attribution": method, "test": test, "image_id": image, "region": region}
        | {"correct": region == "random" or method == combicam.COMBINED, **row}
        for method in methods
        for test in ("deletion", "insertion")
        for image in images
        for region in ("guided", "random")
    )
    found = combicam.findings("stage 4", outcomes, table, None, "photographs")
    assert found["combicam-finer"].value == 2
    assert found["combicam-finer"].data == "photographs, 3 images"
    assert found["combicam-deletion"].value == -1
    assert found["combicam-insertion"].value == 1
    assert "combicam-cues" not in found
