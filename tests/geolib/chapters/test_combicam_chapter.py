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
    weights = dict(zip(SIZES, (1, 2, 5), strict=True))
    parts = {name: torch.stack([weight * one, zero]) for name, weight in weights.items()}
    shares = combicam.block_shares(parts).set_index("block")["share"]
    assert shares.to_dict() == pytest.approx({"a": 0.125, "b": 0.25, "c": 0.625})
    figure = combicam.taken_apart(
        torch.zeros(3, 4, 4), {name: part[0] for name, part in parts.items()}, SIZES, one
    )
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["image", "4×4: 12.5%", "2×2: 87.5%", "sum"]


def test_findings_are_differences_image_by_image():
    table = pd.DataFrame(
        {
            "method": ["stage 4"] * 3 + [combicam.COMBINED] * 3,
            "image_id": [1, 2, 3] * 2,
            "frequency": [1.0, 2, 3, 3, 4, 5],
        }
    )
    outcomes = pd.DataFrame(
        [
            {
                **{"attribution": method, "segmenter": "grid", "fill": "mean", "test": test},
                **{"image_id": image, "region": region, "repeat": 0, "correct": correct},
                "coverage": 0.1,
                "coverage_gap": 0.0,
                "n_elements": 1,
            }
            for method in ("stage 4", combicam.COMBINED)
            for test in ("deletion", "insertion")
            for image in (1, 2, 3)
            for region, correct in (("guided", method == combicam.COMBINED), ("random", True))
        ]
    )
    found = combicam.findings("stage 4", outcomes, table, None, "photographs")
    assert found["combicam-finer"].value == 2
    assert found["combicam-finer"].data == "photographs, 3 images"
    assert found["combicam-deletion"].value == -1
    assert found["combicam-insertion"].value == 1
    assert "combicam-cues" not in found
