"""Sentences, tables and galleries of the book, computed from results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from geolib import figures, statistics
from geolib.book.claims import MIN_N
from geolib.chapters import tables
from geolib.chapters.decomposition import WHOLE
from geolib.chapters.findings import CONTROLS, YARDSTICKS

# Share of images without elements from which a comparison is called empty.
EMPTY = 0.5
ADVANTAGE = (("advantage", "ci_low", "ci_high"), "+.2f")


def empty_note(comparison: pd.DataFrame, by: str) -> str:
    """Which methods kept no element at all in most images, for which no test is possible."""
    rate = comparison.groupby(by)["rate_without_elements"].max()
    empty = rate[rate > EMPTY].sort_values(ascending=False)
    if empty.empty:
        return "Every one of them kept at least one element in most images."
    named = ", ".join(f"`{name}` ({share:.0%} of the images)" for name, share in empty.items())
    return (
        f"**Kept no element:** {named}. A guided region is then empty and its advantage zero by "
        "construction: nothing is learnt about the method."
    )


def headline(networks: Sequence[pd.DataFrame], parts: pd.DataFrame) -> pd.DataFrame:
    """Guided against random boxes (index: test) of outcome tables, one per network, and their
    :func:`.decomposition.summary`: means over networks, the interval over networks and images."""
    each = pd.concat([statistics.advantages(one) for one in networks])
    means = each.groupby("test")[["guided", "random", "coverage"]].mean()
    columns = {"value": "advantage", "low": "ci_low", "high": "ci_high", "n": "n_images"}
    whole = parts[parts["part"] == WHOLE].set_index("test").rename(columns=columns)
    return means.join(whole)


def verdict(comparison: pd.DataFrame, attribution: str, segmenter: str) -> str:
    """What a comparison (index: test) says about the claim, for one method and segmenter."""
    sentences = []
    rows: dict[Any, Any] = {row.test: row for row in comparison.reset_index().itertuples()}
    for test in ("deletion", "insertion"):
        row = rows[test]
        found = tables.sentence(row.advantage, row.ci_low, row.ci_high)
        carry = _outcome(row.ci_low, row.ci_high, row.n_images)
        sentences.append(
            f"**{test.capitalize()}: {carry}.** Accuracy is {row.guided:.2f} with guided and "
            f"{row.random:.2f} with random boxes, an advantage of {found}, p = {row.p_value:.2g}; "
            f"a true one of {tables.cell(row.detectable, form='.2f')} would have been shown."
        )
    row = rows["deletion"]
    return (
        f"`{attribution}` with `{segmenter}`, {row.n_images} images × {row.networks} networks, "
        f"boxes over {row.coverage:.0%} of the image on average. " + " ".join(sentences)
    )


def _outcome(low: float, high: float, n: int) -> str:
    if n < MIN_N or low <= 0 <= high:
        return "no difference can be shown"
    more, less = ("guided", "random") if low > 0 else ("random", "guided")
    return f"{more} boxes carry more than {less} ones"


def readings(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Three readings of the same tests: accuracy, agreement and log-probability."""
    compared = {
        metric: statistics.compare(outcomes, metric=metric).set_index("test")
        for metric in ("accuracy", "agreement", "log_probability")
    }
    columns = {"guided": ("guided", ".2f"), "random": ("random", ".2f"), "advantage": ADVANTAGE}
    return tables.shown(pd.concat(compared, names=["measure"]), columns)


def pairs_ahead(outcomes: pd.DataFrame) -> dict[str, int]:
    """How many pairs of the paper's kind, without controls and yardsticks, win both tests with the
    whole interval, and of how many."""
    others = outcomes["attribution"].isin(CONTROLS) | outcomes["segmenter"].isin(YARDSTICKS)
    if others.all():
        return {"methods_ahead": 0, "methods_total": 0}
    compared = statistics.compare(outcomes[~others])
    compared["ahead"] = (compared["ci_low"] > 0) & (compared["n_images"] >= MIN_N)
    ahead = compared.groupby(["attribution", "segmenter"])["ahead"].all()
    return {"methods_ahead": int(ahead.sum()), "methods_total": len(ahead)}


def comparison_table(comparison: pd.DataFrame, by: str) -> pd.DataFrame:
    """What the pictures of a comparison do not say, best advantage first within each test."""
    columns = {
        "advantage": ADVANTAGE,
        "p (Holm)": ("p_holm", ".3f"),
        "detectable": ("detectable", ".2f"),
        "matched only": ("advantage_matched", "+.2f"),
        "coverage": ("coverage", ".0%"),
        "of random boxes": ("random_coverage", ".0%"),
        "empty": ("rate_without_elements", ".0%"),
        "images": ("n_images", ".0f"),
    }
    table = comparison.sort_values(["test", "advantage"], ascending=[True, False])
    return tables.shown(table.set_index(["test", by]), columns)


def guided_against_random(outcomes: pd.DataFrame, by: str, original: float) -> Figure:
    """Accuracy after both tests, guided against random (Figures 2 and 3), and on whole images."""
    columns = {"guided": "guided boxes", "random": "random boxes"}
    each = statistics.advantages(outcomes, [by]).rename(columns=columns)
    each = each.melt([by, "test"], list(columns.values()), var_name="boxes")
    means = tables.grouped_means(each, "value", [by, "test", "boxes"])
    better = {"deletion": "lower", "insertion": "higher"}
    reading = {test: f"{test} ({which} is better)" for test, which in better.items()}
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
