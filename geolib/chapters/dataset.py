"""Chapter 1: where the images of a dataset are from."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from geolib.data import GeoDataset
from geolib.figures import WIDTH, class_colours, styled


def positions(dataset: GeoDataset) -> pd.DataFrame:
    """``country``, ``latitude`` and ``longitude`` of the readable images that have them."""
    rows = [
        {"country": item.country, "latitude": item.latitude, "longitude": item.longitude}
        for item in (dataset[i] for i in range(len(dataset)))
    ]
    return pd.DataFrame(rows).dropna(subset=["latitude", "longitude"])


@styled
def places(positions: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Positions by longitude and latitude in degrees, a panel per country."""
    figure, axes = plt.subplots(1, len(classes), figsize=(WIDTH, 2.9), squeeze=False)
    for axis, (name, colour) in zip(axes.flat, class_colours(classes).items(), strict=True):
        rows = positions[positions["country"] == name]
        axis.scatter(rows["longitude"], rows["latitude"], s=22, color=colour, alpha=0.8, lw=0)
        # A degree of longitude is shorter than one of latitude away from the equator.
        middle = rows["latitude"].mean() if len(rows) else 0.0
        axis.set_aspect(1 / np.cos(np.radians(middle)), adjustable="datalim")
        axis.set(title=name, xlabel="longitude (°)")
        axis.grid()
    axes[0, 0].set_ylabel("latitude (°)")
    return figure
