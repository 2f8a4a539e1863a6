"""Figures show what they are given; style leaves the caller's settings alone."""

from __future__ import annotations

import io
import warnings
from functools import cache
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from geolib import figures
from geolib.chapters import classifier, faithfulness


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


AWKWARD = ["日本", "भारत", "عربي", "A$B$C", "_x_^2", r"\alpha", r"$\frac$", "a\nb"]
TABLE = pd.DataFrame({"name": AWKWARD, "value": 0.5, "low": 0.4, "high": 0.6})


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.images([np.zeros((8, 8, 3), np.uint8)] * len(AWKWARD), AWKWARD),
        lambda: figures.dots(TABLE, "name", label="$x$", by="name"),
        lambda: figures.heatmap(pd.DataFrame(0.5, AWKWARD, AWKWARD), label="$x$"),
    ],
    ids=["images", "dots", "heatmap"],
)
def test_names_are_drawn_as_they_stand_without_a_warning_per_glyph(draw):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        figure = draw()
        figure.savefig(io.BytesIO())
    for legend in figure.legends:
        assert texts(legend.get_texts()) == AWKWARD
    drawn = figure.findobj(Text)
    assert set(AWKWARD) <= set(texts(drawn))
    assert not any(text.get_parse_math() for text in drawn if text.get_text() in AWKWARD)


def test_what_no_font_has_is_said_once(monkeypatch, caplog):
    here = [font for font in fontManager.ttflist if font.name in (figures.FONT, "STIXGeneral")]
    monkeypatch.setattr(fontManager, "ttflist", here)
    other = figures._glyphs("STIXGeneral") - figures._glyphs(figures.FONT)
    other = min(filter(str.isprintable, map(chr, other)))
    monkeypatch.setattr(figures, "_fallbacks", cache(figures._fallbacks.__wrapped__))
    for names in (["A$B"], ["日本"], ["日本"], [other]):
        figure = figures.images([np.zeros((8, 8, 3), np.uint8)], names)
    assert caplog.messages == [
        "no installed font has 日本: boxes stand in figures for these characters"
    ]
    assert figure.axes[0].title.get_fontfamily() == [figures.FONT, "STIXGeneral"]


def texts(found):
    return [text.get_text() for text in found]


def test_dots_stand_at_their_values_in_rows_groups_and_panels():
    first = {("deletion", "guided"): 0.4, ("deletion", "random"): 0.9}
    values = {**first, ("insertion", "guided"): 0.7, ("insertion", "random"): 0.5}
    rows = [(*key, method, value, 0.3, 1) for key, value in values.items() for method in "ab"]
    # Tables that were put together may hold an index twice.
    columns = ["test", "kind", "method", "value", "low", "high"]
    table = pd.DataFrame(rows, [0] * len(rows), columns)
    more = {"by": "kind", "panels": "test", "label": "x", "lines": {"whole": 0.95}}
    figure = figures.dots(table, "method", **more)
    assert [axis.get_title() for axis in figure.axes] == ["deletion", "insertion"]
    assert texts(figure.axes[0].get_yticklabels()) == ["a", "b"]
    for axis in figure.axes:
        drawn = {line.get_label(): line for line in axis.lines if line.get_marker() == "o"}
        for kind in ("guided", "random"):
            x, y = drawn[kind].get_data()
            assert (list(x), list(np.round(y))) == ([values[axis.get_title(), kind]] * 2, [0, 1])
        # No two dots of a row cover each other.
        places = np.concatenate([line.get_ydata() for line in drawn.values()])
        assert np.diff(np.sort(places)).min() > 0.2
    assert texts(figure.legends[0].get_texts()) == ["guided", "random", "whole"]


def test_dots_without_groups_carry_their_values_and_marks():
    table = pd.DataFrame({"set": ["a", "b"], "value": [0.5, 0.25], "low": np.nan, "high": np.nan})
    table["paper"] = [0.6, np.nan]
    figure = figures.dots(table, "set", label="x", marks={"paper": "the paper"}, form=".0%")
    axis = figure.axes[0]
    assert texts(axis.texts) == ["50%", "25%"]
    diamonds = next(line for line in axis.lines if line.get_marker() == "D")
    assert diamonds.get_xdata()[0] == 0.6 and np.isnan(diamonds.get_xdata()[1])
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first row on top


def test_a_heatmap_may_show_other_numbers_than_it_colours():
    counts = pd.DataFrame({"a": [3, 1], "b": [1, 0]}, index=["a", "b"])
    axis = classifier.confusion(counts).axes[0]
    assert texts(axis.texts) == ["3", "1", "1", "0"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "true")


def test_advantages_put_the_best_on_top():
    rows = [("deletion", 0.1, 0.3), ("insertion", 0.2, 0.1)]
    table = pd.DataFrame(rows, columns=["test", "a", "b"])
    table = table.melt("test", var_name="segmenter", value_name="advantage")
    figure = faithfulness.advantages(table.assign(ci_low=0.0, ci_high=0.5), "segmenter")
    order = [texts(axis.get_yticklabels()) for axis in figure.axes]
    assert order == [["b", "a"], ["a", "b"]]  # downwards


def test_overlay_leaves_the_values_in_range_and_colours_the_salient():
    attribution = np.zeros((4, 4))
    attribution[0, 0] = 1
    shown = figures.overlay(np.full((4, 4, 3), 0.5), attribution)
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


def test_nothing_to_show_is_still_a_figure():
    assert figures.images([], []).axes


def test_headings_of_many_images_do_not_run_into_each_other():
    line = [np.zeros((4, 4, 3))] * 10
    figure = figures.image_table([line], ["smoothgrad"] * len(line))
    figure.savefig(io.BytesIO())  # which lays it out
    places = [axis.title.get_window_extent() for axis in figure.axes]
    assert all(one.x1 < other.x0 for one, other in pairwise(places))
