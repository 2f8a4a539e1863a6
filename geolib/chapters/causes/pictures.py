from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from geolib.figures import ACCENT, GUIDED, INK, RANDOM, WIDTH, styled


@styled
def causal_effects(table: pd.DataFrame) -> Figure:
    """What each kind of object does to the prediction: removed, and swapped where it is a cue.

    Parameters
    ----------
    table
        Columns ``category``, ``cue``, ``intervention``, ``value``, ``low``, ``high``; categories
        are drawn in its order.
    """
    order = list(dict.fromkeys(table["category"]))
    kinds = {
        "cue, removed": (table["cue"] & (table["intervention"] == "without"), GUIDED, 0.0),
        "cue, in another country's look": (table["intervention"] == "swapped", ACCENT, 0.22),
        "no cue, removed": (~table["cue"], RANDOM, 0.0),
    }
    figure, axis = plt.subplots(figsize=(WIDTH, 0.27 * len(order) + 1.2))
    for label, (rows, colour, shift) in kinds.items():
        places = np.array([order.index(name) for name in table.loc[rows, "category"]]) + shift
        axis.hlines(
            places, table.loc[rows, "low"], table.loc[rows, "high"], color=colour, lw=3, alpha=0.5
        )
        axis.plot(table.loc[rows, "value"], places, "o", color=colour, ms=6, label=label)
    axis.axvline(0, color=INK, lw=1)
    names = [name.replace("_", " ") for name in order]
    axis.set(yticks=range(len(order)), yticklabels=names, xlabel="log-probability lost")
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.grid(axis="x")
    axis.legend(loc="lower right")
    return figure


@styled
def against_controls(
    tables: Mapping[str, pd.DataFrame], by: str, controls: Sequence[str]
) -> Figure:
    """Marks of several methods with intervals, a panel per mark; controls in blue.

    Parameters
    ----------
    tables
        Heading of each panel and its marks: columns ``by``, ``value``, ``low``, ``high``. Methods
        stand in the order of the first panel, best on top; a panel may lack some of them.
    by
        Column that names the methods.
    controls
        Methods that know nothing of the network; a dashed line marks the best of them.
    """
    first = next(iter(tables.values()))
    order = list(first.sort_values("value", ascending=False)[by])
    figure, axes = plt.subplots(
        1, len(tables), figsize=(WIDTH, 0.36 * len(order) + 1.1), sharey=True, squeeze=False
    )
    for axis, (title, table) in zip(axes.flat, tables.items(), strict=True):
        rows = table.set_index(by).reindex(order)
        colours = [RANDOM if name in controls else GUIDED for name in order]
        axis.hlines(range(len(order)), rows["low"], rows["high"], color=colours, lw=3, alpha=0.5)
        axis.scatter(rows["value"], range(len(order)), color=colours, s=45, zorder=2)
        known = rows["value"].reindex(list(controls)).max()
        axis.axvline(known, color=RANDOM, ls="--", lw=1.3)
        axis.set(title=title, yticks=range(len(order)), yticklabels=order)
        axis.set_ylim(len(order) - 0.4, -0.6)
        axis.grid(axis="x")
    return figure
