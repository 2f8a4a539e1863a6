"""Sentences and tables follow the numbers they are made of."""

import pandas as pd
import pytest

from geolib.chapters import faithfulness
from geolib.chapters.tables import TO


def comparison(low, high, n=80):
    row = {"guided": 0.5, "random": 0.8, "advantage": 0.3, "ci_low": low, "ci_high": high}
    row |= {"p_value": 0.01, "p_holm": 0.02, "coverage": 0.12, "random_coverage": 0.12}
    row |= {
        "rate_without_elements": 0.0,
        "advantage_matched": 0.3,
        "n_images": n,
        "detectable": 0.15,
        "networks": 3,
    }
    row |= {"segmenter": "grid"}
    return pd.DataFrame({**row, "test": test} for test in ("deletion", "insertion"))


@pytest.mark.parametrize(
    ("low", "high", "n", "words"),
    [
        (0.1, 0.4, 80, "guided boxes carry more than random ones"),
        (0.1, 0.4, 59, "no difference can be shown"),
        (-0.1, 0.4, 80, "no difference can be shown"),
        (0.0, 0.4, 80, "no difference can be shown"),
        (-0.4, -0.1, 80, "random boxes carry more than guided ones"),
        (-0.4, -0.1, 20, "no difference can be shown"),
    ],
)
def test_the_verdict_flips_with_the_interval_and_takes_sixty_images(low, high, n, words):
    text = faithfulness.verdict(comparison(low, high, n).set_index("test"), "gradcam", "grid")
    assert text.count(words) == 2 and f"{n} images" in text and "12%" in text
    assert text.count("a true one of 0.15 would have been shown") == 2


def test_comparison_table_is_sorted_best_first():
    table = pd.concat([comparison(0, 1), comparison(0, 1).assign(segmenter="slic", advantage=0.4)])
    shown = faithfulness.comparison_table(table, "segmenter")
    assert shown.loc["deletion"].index.tolist() == ["slic", "grid"]
    assert shown.loc["deletion", "advantage"]["slic"] == f"+0.40 (+0.00{TO}+1.00)"
    assert shown.loc["insertion", "images"].tolist() == ["80", "80"]


def test_a_method_without_elements_is_named():
    table = pd.concat([comparison(0, 1), comparison(0, 1).assign(segmenter="slic")])
    assert "at least one element" in faithfulness.empty_note(table, "segmenter")
    table.loc[table["segmenter"] == "slic", "rate_without_elements"] = 0.9
    note = faithfulness.empty_note(table, "segmenter")
    assert "`slic` (90% of the images)" in note and "grid" not in note
