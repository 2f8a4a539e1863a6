"""How well any classifier could do with a partitioning: the price of predicting cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from geolib.partitioning.cells import UNASSIGNED, Partitioning, n_unique_classes
from geolib.partitioning.distance import (
    RADII_KM,
    geolocation_accuracy,
    great_circle_distance,
    unit_vectors,
)
from geolib.sphere import check_coordinates


def own_cell_km(partitioning: Partitioning, coordinates: ArrayLike) -> np.ndarray:
    """Distance of each point to the coordinate of its own cell: what a faultless classifier errs.

    float64 [N] in kilometres for points [N,2] in degrees, latitude first; infinite for a point in
    no cell. ValueError for coordinates of another shape or out of range.
    """
    points = check_coordinates("coordinates", coordinates)
    classes = partitioning.assign(points)
    km = great_circle_distance(points, partitioning.coordinates[classes])
    return np.where(classes == UNASSIGNED, np.inf, km)


def nearest_cell_km(partitioning: Partitioning, coordinates: ArrayLike) -> np.ndarray:
    """Distance of each point to the nearest coordinate of any cell: no prediction errs less.

    A cell's coordinate need not be the nearest one to a point inside it, so this is the bound for
    every classifier, also one that is never right about the cell. Otherwise as `own_cell_km`.
    """
    points = check_coordinates("coordinates", coordinates)
    # Chords order as great circles do; a tree of chords is thirty times faster than one of angles.
    _, nearest = cKDTree(unit_vectors(partitioning.coordinates)).query(unit_vectors(points))
    return great_circle_distance(points, partitioning.coordinates[nearest])


def ceiling_table(
    configurations: Mapping[str, Sequence[Partitioning]],
    points: Mapping[str, ArrayLike],
    radii: Sequence[float] = RADII_KM,
) -> pd.DataFrame:
    """Classes, unassigned points and quantisation ceilings, in the form of Table 1 (§4.1).

    The finest partitioning of a configuration, which stands first, predicts, so it sets the
    ceiling. A row per configuration and data set of points [N,2]: ``classes`` (distinct over the
    partitionings), ``fine`` (of the finest), ``unassigned`` (share of the points), then for every
    radius r in km ``best r`` (share of the points with the coordinate of any cell within r: the
    best a_r that any classifier could reach) and ``faultless r`` (share within r of their own
    cell's coordinate; points in no cell are misses).
    """
    rows = []
    pairs = product(configurations.items(), points.items())
    for (name, partitionings), (data, coordinates) in pairs:
        finest, classes = partitionings[0], n_unique_classes(partitionings)
        own, nearest = own_cell_km(finest, coordinates), nearest_cell_km(finest, coordinates)
        row = {"configuration": name, "data": data, "classes": classes, "fine": finest.n_classes}
        row["unassigned"] = float(np.isinf(own).mean())
        for bound, km in (("best", nearest), ("faultless", own)):
            shares = geolocation_accuracy(km, radii)
            row |= {f"{bound} {radius}": share for radius, share in shares.items()}
        rows.append(row)
    return pd.DataFrame(rows)
