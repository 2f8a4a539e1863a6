"""Maps: where a model thinks a photograph was taken (Figure 3 of Theiner et al., WACV 2022)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from geolib.figures import GUIDED, INK, RANDOM, WIDTH, as_image, styled

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

NAMED = 3  # cells whose names stand on the map
LETTERING = (0.5, 0.08)  # room of a name, as shares of the map's width and height
LAND, SEA, HALO = "#e8e6df", "#f7f9fb", "#ffffff"
DARK = "#26323d"  # lettering on the light map
CELLS = "YlGnBu"


@dataclass(frozen=True)
class Guess:
    """What one model says of one photograph: ``predicted`` lies ``km`` from the ``truth``;
    ``cells`` are the most probable ones, best first: ``name``, ``latitude``, ``longitude``,
    ``probability``, and ``geometry`` in degrees, None for a cell without polygon."""

    model: str
    cells: GeoDataFrame
    truth: tuple[float, float]
    predicted: tuple[float, float]
    km: float


@styled
def guesses(image: Any, models: Sequence[Guess], credit: str = "") -> Figure:
    """A photograph with its credit and each model's answer in words, and below it a map per model
    of the same part of the world, with cells coloured by probability."""
    figure = plt.figure(figsize=(WIDTH, 6.2))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(2.1, 4.1))[:, 0]
    photo, words = above.subplots(1, 2, width_ratios=(1, 1.9))
    photo.imshow(as_image(image), interpolation="lanczos")
    for axis in (photo, words):
        axis.axis("off")
    photo.text(0, -0.03, credit, transform=photo.transAxes, va="top", fontsize=8.5)
    lines = [
        f"{guess.model}, {guess.km:,.0f} km off:\n{textwrap.fill(guess.cells['name'].iloc[0], 40)}"
        for guess in models
    ]
    words.text(0, 1, "\n\n".join(lines), va="top", fontsize=12)
    view = _view(models)
    norm = Normalize(0, max(guess.cells["probability"].max() for guess in models))
    axes = below.subplots(1, len(models), squeeze=False)[0]
    for axis, guess in zip(axes, models, strict=True):
        _map(axis, guess, view, norm)
    bar = {"location": "bottom", "aspect": 45, "pad": 0.02, "format": PercentFormatter(1)}
    below.colorbar(ScalarMappable(norm, CELLS), ax=axes, label="probability of the cell", **bar)
    handles, labels = axes[0].get_legend_handles_labels()
    words.legend(handles, labels, loc="lower left", ncols=2, fontsize=12, borderaxespad=0)
    return figure


def _map(
    axis: Axes, guess: Guess, view: tuple[float, float, float, float], norm: Normalize
) -> None:
    from geolib.partitioning.polygons import outlines

    west, south, east, north = view
    axis.set_facecolor(SEA)
    # A little beyond the frame, so that no cut edge is seen.
    land = outlines().geometry.clip_by_rect(west - 1, south - 1, east + 1, north + 1)
    land = land[~land.is_empty]
    if len(land):
        land.plot(ax=axis, color=LAND, aspect=None)
    cells = guess.cells.iloc[::-1]  # the most probable on top
    areas = cells[cells.geometry.notna()]
    style: dict[str, Any] = {"cmap": CELLS, "norm": norm, "edgecolor": INK}
    if len(areas):
        areas.plot(ax=axis, column="probability", lw=0.3, alpha=0.9, aspect=None, **style)
    if len(land):
        land.boundary.plot(ax=axis, color=INK, lw=0.7, aspect=None)
    # A town is too small to be seen on the map of a country.
    axis.scatter("longitude", "latitude", c="probability", data=cells, s=30, lw=0.7, **style)
    dot: dict[str, Any] = {"marker": "o", "ls": "", "mec": HALO, "mew": 1.4, "ms": 9}
    axis.plot(*guess.truth[::-1], color=RANDOM, label="true place", **dot)
    axis.plot(*guess.predicted[::-1], color=GUIDED, label="predicted", **dot)
    lettering: dict[str, Any] = {"fontsize": 10.5, "color": DARK, "clip_on": True}
    lettering |= {"path_effects": [withStroke(linewidth=2.5, foreground=HALO)]}
    for row in _apart(guess.cells, view).head(NAMED).itertuples():
        place, name = (row.longitude, row.latitude), re.split(r",| \(", str(row.name))[0]
        side, shift = ("right", -7) if row.longitude > (west + east) / 2 else ("left", 7)
        axis.annotate(name, place, (shift, 7), textcoords="offset points", ha=side, **lettering)
    axis.set(xlim=(west, east), ylim=(south, north), xticks=[], yticks=[], xlabel="", ylabel="")
    # A degree of longitude is shorter than one of latitude away from the equator.
    axis.set_aspect(1 / np.cos(np.radians((south + north) / 2)))
    axis.spines[:].set_visible(True)
    axis.set_title(guess.model, loc="left", fontsize=12)


def _apart(cells: GeoDataFrame, view: tuple[float, float, float, float]) -> GeoDataFrame:
    """The cells in view, best first, without those whose name would lie on a better one's."""
    west, south, east, north = view
    cells = cells[cells["longitude"].between(west, east) & cells["latitude"].between(south, north)]
    kept: list[int] = []
    places = cells[["longitude", "latitude"]].to_numpy() / (east - west, north - south)
    for i, place in enumerate(places):
        near = np.abs(places[kept] - place) < LETTERING
        if not near.all(axis=1).any():
            kept.append(i)
    return cells.iloc[kept]


def _view(models: Sequence[Guess]) -> tuple[float, float, float, float]:
    """West, south, east and north of the part that holds the true place and the answers, about
    square on the page. Less probable cells may lie outside: a network that hesitates between
    continents would make every map one of the world."""
    places = [guess.truth for guess in models] + [guess.predicted for guess in models]
    latitude, longitude = np.array(places).T
    middle = (latitude.min() + latitude.max()) / 2
    stretch = np.cos(np.radians(np.clip(middle, -75, 75)))
    half = max(np.ptp(latitude), np.ptp(longitude) * stretch, 6.0) * 0.8
    centre = (longitude.min() + longitude.max()) / 2
    west, east = np.clip([centre - half / stretch, centre + half / stretch], -180, 180)
    south, north = np.clip([middle - half, middle + half], -90, 90)
    return west, south, east, north
