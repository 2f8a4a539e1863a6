"""The row, the cell and the sentence of a mean with its interval."""

import numpy as np
import pandas as pd
import pytest

from geolib.chapters import tables


def test_means_and_differences_are_taken_image_by_image():
    rows = [("a", 1, 0.5), ("a", 2, 0.7), ("a", 3, 0.9), ("b", 2, 0.6), ("b", 1, 0.1)]
    marks = pd.DataFrame(rows, columns=["method", "image_id", "mark"])
    found = tables.grouped_means(marks, "mark", "method").set_index("method")
    assert found["value"].to_dict() == pytest.approx({"a": 0.7, "b": 0.35})
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
    differences = tables.difference(marks, "mark", "method", "a", "b")
    assert differences.to_dict() == pytest.approx({1: 0.4, 2: 0.1})


def test_missing_values_are_left_out_of_a_row():
    row = tables.mean_row([1.0, np.nan, 0.0])
    assert (row["value"], row["n"]) == (0.5, 2)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.25, 0.125, 0.5), "0.250 (0.125\u00a0to 0.500)"),
        ((0.25,), "0.250"),
        ((0.25, np.nan, np.nan), "0.250"),
        ((np.nan, 0.1, 0.2), "–"),
    ],
)
def test_a_cell(numbers, text):
    assert tables.cell(*numbers) == text
    row = dict(zip(["value", "low", "high"], (*numbers, np.nan, np.nan), strict=False))
    assert tables.cells(pd.DataFrame([row])).tolist() == [text]


def test_a_column_is_shown_with_its_bounds_if_it_has_any():
    columns = ["bias", "bias_low", "bias_high", "n", "p"]
    table = pd.DataFrame([(0.5, 0.0, 1.0, 3, 0.2)], columns=columns)
    columns = {"bias": ("bias", "+.1f"), "images": ("n", ".0f"), "own": (("p", "bias", "n"), ".1f")}
    shown = tables.shown(table, columns).iloc[0].tolist()
    assert shown == ["+0.5 (+0.0\u00a0to +1.0)", "3", "0.2 (0.5\u00a0to 3.0)"]
    with pytest.raises(KeyError, match="bais"):
        tables.shown(table, {"bias": ("bais", ".1f")})


def test_folded_tables_are_whole_and_hold_no_markup_of_their_own():
    table = pd.DataFrame({"photograph": ["<b>a</b>"]})
    html = tables.folded(table, table.style.format("{}"), title="Verdicts").data
    assert html.startswith('<details class="numbers"><summary>Verdicts</summary>')
    assert html.count("<table") == html.count("</table>") == 2 and html.endswith("</details>")
    assert "&lt;b&gt;a&lt;/b&gt;" in html


def test_a_sentence_names_the_interval_if_there_is_one():
    assert tables.sentence(0.5, -0.25, 1) == "+0.50 (95 % interval -0.25\u00a0to +1.00)"
    assert tables.sentence(3, unit="points", form=".0f") == "3 points"
