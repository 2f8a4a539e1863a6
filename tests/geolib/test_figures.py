"""Figures show what they are given; style leaves the caller's settings alone."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from geolib import figures
from geolib.chapters import faithfulness


def _luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("background", ["#ffffff", "#121212"])
@pytest.mark.parametrize("colour", [figures.INK, figures.GUIDED, figures.RANDOM])
def test_ink_and_marks_are_legible_on_light_and_dark_pages(colour, background):
    light, dark = sorted((_luminance(colour), _luminance(background)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3  # WCAG 2.1, large text and graphics


def test_style_is_transparent_and_stays_inside_the_figure():
    before = dict(plt.rcParams)
    figure = figures.images([np.zeros((8, 8, 3), np.uint8)], ["a"])
    assert figure.get_facecolor()[3] == 0
    assert dict(plt.rcParams) == before
    assert not plt.get_fignums()


def test_guided_and_random_bars_end_at_their_means():
    rows = [
        {
            **{"test": test, "segmenter": "grid", "guided": 0.4, "random": 0.9},
            **{"guided_low": 0.3, "guided_high": 0.5, "random_low": 0.8, "random_high": 1.0},
        }
        for test in ("deletion", "insertion")
    ]
    figure = faithfulness.guided_against_random(pd.DataFrame(rows), "segmenter", 0.95)
    for axis in figure.axes:
        bars = [p.get_height() for p in axis.patches if isinstance(p, Rectangle)]
        assert bars == [0.4, 0.9]


def test_advantages_put_the_best_on_top():
    table = pd.DataFrame(
        {
            "test": ["deletion", "deletion", "insertion", "insertion"],
            "segmenter": ["a", "b"] * 2,
            "advantage": [0.1, 0.3, 0.2, 0.1],
            "ci_low": 0.0,
            "ci_high": 0.5,
        }
    )
    figure = faithfulness.advantages(table, "segmenter")
    order = [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes]
    assert order == [["a", "b"], ["b", "a"]]  # upwards


def test_overlay_leaves_the_values_in_range_and_colours_the_salient():
    image = np.full((4, 4, 3), 0.5)
    attribution = np.zeros((4, 4))
    attribution[0, 0] = 1
    shown = figures.overlay(image, attribution)
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert np.abs(shown[0, 0] - 0.5).max() > np.abs(shown[3, 3] - 0.5).max()


def test_outline_changes_only_pixels_at_the_masks():
    image = np.full((480, 480, 3), 0.5, np.float32)
    mask = np.zeros((1, 480, 480), bool)
    mask[0, 30:70, 30:70] = True
    changed = (figures.outline(image, mask) != image).any(-1)
    assert changed[mask[0]].all()
    assert not changed[:28].any()
    assert not changed[72:].any()


@pytest.mark.parametrize("box", [(0, 0, 4, 2), (10, 10, 14, 40), (0, 0, 40, 40)])
def test_spotlight_is_square_and_dims_all_but_the_box(box):
    image = np.full((40, 40, 3), 0.9)
    shown = figures.spotlight(image, box)
    assert shown.shape[0] == shown.shape[1]
    x0, y0, x1, y1 = box
    assert (shown == 0.9).all(-1).sum() == (x1 - x0) * (y1 - y0)


def test_nothing_to_show_is_still_a_figure():
    assert figures.images([], []).axes
