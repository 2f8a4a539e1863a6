"""Pictures of the chapter on controls."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from geolib.chapters.controls.specifications import BLIND
from geolib.figures import GUIDED, INK, RANDOM, WIDTH, class_colours, dots, styled


@styled
def specification_curve(curve: pd.DataFrame, choices: Mapping[str, str]) -> Figure:
    """Advantage under every specification, smallest first, above the choices that make it:
    columns of the ``curve`` with their headings."""
    rows = curve.sort_values("value", kind="stable").reset_index(drop=True)
    rows = rows.astype(dict.fromkeys(choices, str))
    labels = [(column, value) for column in choices for value in sorted(rows[column].unique())]
    heights = 2.6, 0.2 * len(labels)
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(WIDTH, sum(heights)), height_ratios=heights, sharex=True
    )
    blind, holds = rows["map"] == BLIND, rows["verdict"] == "holds"
    groups = {
        "the claim holds": (~blind & holds, GUIDED, 1.0),
        "it does not": (~blind & ~holds, INK, 0.55),
        "a map that ignores the network": (blind, RANDOM, 0.9),
    }
    for label, (chosen, colour, alpha) in groups.items():
        part = rows[chosen]
        above.vlines(part.index, part["low"], part["high"], color=colour, lw=0.8, alpha=0.35)
        above.plot(part.index, part["value"], ".", color=colour, ms=3.5, label=label)
        for height, (column, value) in enumerate(labels):
            here = part.index[part[column] == value]
            below.vlines(here, height - 0.32, height + 0.32, color=colour, lw=0.8, alpha=alpha)
    above.axhline(0, color=INK, lw=1)
    above.set(ylabel="advantage over\nthe baseline")
    above.grid(axis="y")
    above.legend(loc="upper left", markerscale=3, fontsize=9.5)
    first = {column: place for place, (column, _) in reversed(list(enumerate(labels)))}
    names = [
        f"{choices[column]}:  {value}" if first[column] == place else value
        for place, (column, value) in enumerate(labels)
    ]
    for place in first.values():
        below.axhline(place - 0.5, color=INK, lw=0.6, alpha=0.5)
    below.set_yticks(range(len(labels)), names, fontsize=10)
    below.set(xlabel="specifications, smallest advantage first", xlim=(-1, len(rows)))
    below.set_ylim(len(labels) - 0.4, -0.6)
    below.tick_params(axis="y", length=0)
    return figure


def fill_agreement(agreement: pd.DataFrame) -> Figure:
    """How each fill agrees with true removal, and its bias: of ``removal.agreement``."""
    bias = agreement[["fill", "region", "bias", "bias_low", "bias_high"]]
    bias = bias.set_axis(["fill", "region", "value", "low", "high"], axis=1)
    panels = {"rank correlation with true removal": agreement, "bias (log-probability)": bias}
    both = pd.concat(panels, names=["panel"]).reset_index("panel")
    label, lines = "mean over scenes", {"": 0}
    figure = dots(both, "fill", by="region", panels="panel", label=label, lines=lines)
    for axis in figure.axes:
        axis.locator_params(axis="x", nbins=4)
    return figure


@styled
def coverage_response(curves: pd.Series, own: pd.DataFrame, label: str) -> Figure:
    """Response to a growing region, a panel per test and a line per segmenter; dots are what their
    own elements reach, dashed is what other places do."""
    names = list(dict.fromkeys(own["segmenter"]))
    dots = own.groupby(["test", "segmenter"])[["coverage", "reached"]].mean()
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.8), sharey=True)
    reading = {"deletion": "lower is better", "insertion": "higher is better"}
    for axis, (test, hint) in zip(axes, reading.items(), strict=True):
        chance = curves[test, "shifted"].groupby("coverage").mean()
        axis.plot(chance.index, chance, color=INK, ls="--", lw=1.8, label="moved elsewhere")
        for name, colour in class_colours(names).items():
            line = curves[test, "grown", name]
            axis.plot(line.index, line, color=colour, lw=1.8, label=name)
            dot = dots.loc[[(test, name)]]
            axis.plot(dot["coverage"], dot["reached"], "o", color=colour, ms=8, mec="white")
        axis.set(title=f"{test} ({hint})", xlabel="coverage of the image", xlim=(0, 1))
        axis.grid()
    axes[0].set_ylabel(label)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9.5)
    return figure
