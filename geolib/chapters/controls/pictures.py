"""Pictures of the chapter on controls."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from geolib.chapters.controls.specifications import BLIND
from geolib.figures import GUIDED, INK, RANDOM, WIDTH, dots, styled


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
