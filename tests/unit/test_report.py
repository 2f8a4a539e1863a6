"""Sentences and tables follow the numbers they are made of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from geolib import report
from geolib.study import Study


def comparison(low, high):
    row = {
        **{"guided": 0.5, "random": 0.8, "advantage": 0.3, "ci_low": low, "ci_high": high},
        **{
            "p_value": 0.01,
            "p_holm": 0.02,
            "coverage": 0.12,
            "random_coverage": 0.12,
            "rate_without_elements": 0.0,
        },
        **{"advantage_matched": 0.3, "n_images": 40, "segmenter": "grid"},
    }
    rows = [{**row, "test": test} for test in ("deletion", "insertion")]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.4, "guided boxes carry more"),
        (-0.1, 0.4, "no difference can be shown"),
        (0.0, 0.4, "no difference can be shown"),
        (-0.4, -0.1, "random boxes carry more"),
    ],
)
def test_the_verdict_flips_with_the_interval(low, high, words):
    text = report.verdict(comparison(low, high).set_index("test"), "gradcam", "grid")
    assert text.count(words) == 2
    assert "40 images" in text
    assert "12%" in text


def test_comparison_table_is_sorted_best_first():
    table = pd.concat([comparison(0, 1), comparison(0, 1).assign(segmenter="slic", advantage=0.4)])
    shown = report.comparison_table(table, "segmenter").data
    assert shown.loc["deletion"].index.tolist() == ["slic", "grid"]


def test_training_note_names_each_departure_and_only_those():
    paper = {
        **{"arch": "resnet50", "weights": "imagenet", "image_size": 224, "max_epochs": 300},
        **{"patience": 30, "schedule": "constant", "batch_size": 64, "horizontal_flip": True},
        **{"learning_rate": 3e-4},
    }
    assert "exactly as the paper" in report.training_note(Study(**paper))
    changed = report.training_note(Study(**paper | {"max_epochs": 9}))
    assert "most epochs 9 instead of 300" in changed
    assert ";" not in changed
    assert "nothing was trained" in report.training_note(Study(checkpoint="x.safetensors"))


def test_accuracy_note_states_the_gap_in_points():
    assert "4.0 percentage points" in report.accuracy_note(0.90, {"upright": 0.94})
    assert "unknown" in report.accuracy_note(0.90, {})


def test_map_agreement_is_rank_correlation():
    ramp = torch.arange(16.0).reshape(1, 4, 4) / 15
    maps = {"up": ramp, "squared": ramp**2, "down": 1 - ramp, "flat": torch.zeros(1, 4, 4)}
    table = report.map_agreement(maps)
    assert table.loc["up", "squared"] == pytest.approx(1)
    assert table.loc["up", "down"] == pytest.approx(-1)
    assert np.isnan(table.loc["up", "flat"])


def test_map_concentration_by_hand():
    spike = torch.zeros(1, 4, 5)
    spike[0, 0, 0], spike[0, 0, 1], spike[0, 0, 2] = 1.0, 0.5, 0.5
    table = report.map_concentration({"spike": spike, "flat": torch.zeros(1, 4, 5)})
    assert table.to_dict("records") == [{"method": "spike", "share": pytest.approx(0.75)}]


def test_a_method_without_elements_is_named():
    table = pd.concat([comparison(0, 1), comparison(0, 1).assign(segmenter="slic")])
    assert "at least one element" in report.empty_note(table, "segmenter")
    table.loc[table["segmenter"] == "slic", "rate_without_elements"] = 0.9
    note = report.empty_note(table, "segmenter")
    assert "`slic` (90% of the images)" in note
    assert "grid" not in note
