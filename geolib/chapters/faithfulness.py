"""Sentences, tables and galleries of the book, computed from results."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from geolib import figures, statistics
from geolib.chapters import tables

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
        found = tables.sentence(row.advantage, row.ci_low, row.ci_high)
        sentences.append(
            f"**{test.capitalize()}: {_outcome(row.ci_low, row.ci_high)}.** Accuracy is "
            f"{row.guided:.2f} with guided and {row.random:.2f} with random boxes, an advantage of "
            f"{found}, p = {row.p_value:.2g}."
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


def readings(outcomes: pd.DataFrame) -> Styler:
    """Three readings of the same tests: accuracy, agreement and log-probability."""
    columns = ["guided", "random", "advantage", "ci_low", "ci_high"]
    compared: dict[Any, pd.DataFrame] = {
        metric: statistics.compare(outcomes, metric=metric).set_index("test")[columns]
        for metric in ("accuracy", "agreement", "log_probability")
    }
    table = pd.concat(compared, names=["measure"])
    return table.style.format("{:.3f}").format("{:+.3f}", subset=columns[2:])


def facts(main: pd.DataFrame) -> dict[str, float]:
    """Numbers of a comparison (index: test) that pages quote, by name."""
    columns = {"advantage": "advantage", "ci_low": "low", "ci_high": "high"}
    columns |= {"guided": "guided", "random": "random"}
    rows: dict[Any, Any] = main[list(columns)].rename(columns=columns).to_dict("index")
    return {f"{test}_{name}": value for test, row in rows.items() for name, value in row.items()}


def comparison_table(comparison: pd.DataFrame, by: str) -> Styler:
    """What the pictures of a comparison do not say, best advantage first within each test."""
    columns = {
        "advantage": "advantage",
        "p_holm": "p (Holm)",
        "advantage_matched": "matched only",
        "coverage": "coverage",
        "random_coverage": "random coverage",
        "rate_without_elements": "no element",
        "n_images": "images",
    }
    table = comparison.sort_values(["test", "advantage"], ascending=[True, False])
    table = table.set_index(["test", by])[list(columns)].rename(columns=columns)
    formats: dict[Any, Any] = dict.fromkeys(("coverage", "random coverage", "no element"), "{:.1%}")
    formats |= dict.fromkeys(("advantage", "p (Holm)", "matched only"), "{:.3f}")
    return table.style.format(formats, na_rep="–")


def guided_against_random(outcomes: pd.DataFrame, by: str, original: float) -> Figure:
    """Accuracy after deletion and insertion, guided against random (Figures 2 and 3).

    ``original`` is the accuracy on the untouched images.
    """
    columns = {"guided": "guided boxes", "random": "random boxes"}
    each = statistics.advantages(outcomes).rename(columns=columns)
    each = each.melt([by, "test"], list(columns.values()), var_name="boxes")
    means = tables.grouped_means(each, "value", [by, "test", "boxes"])
    reading = {
        "deletion": "deletion (lower is better)",
        "insertion": "insertion (higher is better)",
    }
    return figures.dots(
        means.replace({"test": reading}),
        by,
        by="boxes",
        panels="test",
        label="accuracy",
        lines={"untouched image": original},
        limits=(0, 1.02),
    )


def advantages(comparison: pd.DataFrame, by: str, groups: str | None = None) -> Figure:
    """Advantage of guided over random regions with intervals, best on top in each group."""
    columns = {"advantage": "value", "ci_low": "low", "ci_high": "high"}
    table = comparison.rename(columns=columns).sort_values("value", ascending=False)
    table = table.sort_values(["test", groups] if groups else "test", kind="stable")
    label = "advantage over random (accuracy)"
    return figures.dots(table, by, by=groups, panels="test", label=label, lines={"": 0.0})
