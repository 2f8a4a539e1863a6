"""Sentences, tables and galleries of the book, computed from results."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from geolib.figures import ACCENT, GUIDED, INK, RANDOM, WIDTH, styled

# Share of images without elements from which a comparison is called empty.
EMPTY = 0.5


def empty_note(comparison: pd.DataFrame, by: str) -> str:
    """Which methods kept no element at all in most images, for which no test is possible."""
    rate = comparison.groupby(by)["rate_without_elements"].max()
    empty = rate[rate > EMPTY].sort_values(ascending=False)
    if empty.empty:
        return "Every one of them kept at least one element in most images."
    named = ", ".join(f"`{name}` ({share:.0%} of the images)" for name, share in empty.items())
    return (
        f"**Kept no element:** {named}. The thresholds are chosen once, on Grad-CAM++; a map with "
        "another range of values can fall below them everywhere. Its guided region is then empty, "
        "its advantage is zero by construction, and nothing is learnt about the method."
    )


def verdict(comparison: pd.DataFrame, attribution: str, segmenter: str) -> str:
    """What a comparison (index: test) says about the claim, for one method and segmenter."""
    sentences = []
    rows: dict[Any, Any] = {row.test: row for row in comparison.reset_index().itertuples()}
    for test in ("deletion", "insertion"):
        row = rows[test]
        span = f"95 % interval {row.ci_low:+.2f} to {row.ci_high:+.2f}"
        sentences.append(
            f"**{test.capitalize()}: {_outcome(row.ci_low, row.ci_high)}.** Accuracy is "
            f"{row.guided:.2f} with guided and {row.random:.2f} with random boxes, an advantage of "
            f"{row.advantage:+.2f} ({span}, p = {row.p_value:.2g})."
        )
    row = rows["deletion"]
    return (
        f"`{attribution}` with `{segmenter}`, {row.n_images} images, boxes over "
        f"{row.coverage:.0%} of the image on average. " + " ".join(sentences)
    )


def _outcome(low: float, high: float) -> str:
    if low > 0:
        return "guided boxes carry more than random ones"
    return "random boxes carry more than guided ones" if high < 0 else "no difference can be shown"


def comparison_table(comparison: pd.DataFrame, by: str) -> Styler:
    """Guided against random, best advantage first within each test."""
    columns = {
        "guided": "guided",
        "random": "random",
        "advantage": "advantage",
        "ci_low": "low",
        "ci_high": "high",
        "p_holm": "p (Holm)",
        "coverage": "coverage",
        "random_coverage": "random coverage",
        "rate_without_elements": "no element",
        "advantage_matched": "matched only",
        "n_images": "images",
    }
    table = comparison.sort_values(["test", "advantage"], ascending=[True, False])
    table = table.set_index(["test", by])[list(columns)].rename(columns=columns)
    decimals = {name: "{:.3f}" for name in table.columns if name != "images"}
    shares = dict.fromkeys(("coverage", "random coverage", "no element"), "{:.1%}")
    formats: dict[Any, Any] = {**decimals, **shares}
    return table.style.format(formats, na_rep="–")


@styled
def guided_against_random(comparison: pd.DataFrame, by: str, original: float) -> Figure:
    """Accuracy after deletion and insertion, guided against random (Figures 2 and 3).

    Parameters
    ----------
    comparison
        Rows per ``by`` × ``test`` with ``guided``, ``guided_low``, ``guided_high``, ``random``,
        ``random_low``, ``random_high``.
    by
        Column compared: ``"attribution"`` or ``"segmenter"``.
    original
        Accuracy on the untouched images, drawn as a dashed line.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.3), sharey=True)
    reading = {"deletion": "lower is better", "insertion": "higher is better"}
    for axis, (test, hint) in zip(axes, reading.items(), strict=True):
        rows = comparison[comparison["test"] == test].reset_index(drop=True)
        places = np.arange(len(rows))
        for kind, colour, shift in (("guided", GUIDED, -0.2), ("random", RANDOM, 0.2)):
            axis.bar(places + shift, rows[kind], 0.36, color=colour, label=kind)
            axis.vlines(places + shift, rows[f"{kind}_low"], rows[f"{kind}_high"], color=INK, lw=2)
        axis.axhline(original, color=ACCENT, ls="--", lw=1.5, label="untouched image")
        axis.set_xticks(places, rows[by], rotation=25 if len(rows) > 2 else 0, ha="right")
        axis.set(title=f"{test} (guided: {hint})", ylim=(0, 1))
        axis.grid(axis="y")
    axes[0].set_ylabel("accuracy")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


@styled
def advantages(comparison: pd.DataFrame, by: str) -> Figure:
    """Advantage of guided over random regions with intervals, best on top."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.42 * comparison[by].nunique() + 1.3))
    for axis, test in zip(axes, ("deletion", "insertion"), strict=True):
        rows = comparison[comparison["test"] == test].sort_values("advantage")
        places = np.arange(len(rows))
        axis.hlines(places, rows["ci_low"], rows["ci_high"], color=GUIDED, lw=3, alpha=0.5)
        axis.plot(rows["advantage"], places, "o", color=GUIDED, ms=7)
        axis.axvline(0, color=INK, lw=1)
        axis.set_yticks(places, rows[by])
        axis.set(title=test, xlabel="advantage over random (accuracy)")
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.grid(axis="x")
    return figure
