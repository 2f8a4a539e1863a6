"""The globe: its radius, coordinates on it, and the cells of S2."""

from __future__ import annotations

import numpy as np
import s2sphere
from numpy.typing import ArrayLike

EARTH_RADIUS_KM = 6371.0
LEAF_LEVEL = 30


def check_coordinates(argument: str, values: ArrayLike) -> np.ndarray:
    """Coordinates of the caller's `argument` as float64 [N,2], degrees, latitude first.

    Raises ValueError for another shape, NaN, and angles outside ±90 and ±180 degrees.
    """
    try:
        degrees = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument} holds what are no numbers: {error}") from error
    if degrees.ndim != 2 or degrees.shape[1] != 2:
        raise ValueError(f"{argument} has shape {degrees.shape}; expected [N,2], latitude first")
    # Written so that NaN fails as well.
    wrong = np.flatnonzero(~(np.abs(degrees) <= (90, 180)).all(axis=1))
    if wrong.size:
        latitude, longitude = degrees[wrong[0]].tolist()
        raise ValueError(
            f"{argument}[{wrong[0]}] is ({latitude}, {longitude}); expected degrees, latitude"
            " -90…90 first and longitude -180…180 second"
        )
    return degrees


def s2_tokens(coordinates: ArrayLike, level: int) -> list[str]:
    """Tokens of the S2 cells of a level, 0 to 30, that hold points [N,2] in degrees.

    A point has one token, be its longitude 180 or -180, or any at a pole.
    """
    latitude, longitude = check_coordinates("coordinates", coordinates).T
    longitude = np.where(longitude == -180, 180, np.where(np.abs(latitude) == 90, 0, longitude))
    ids = s2_ancestors(s2_leaves(np.column_stack([latitude, longitude])), level)
    return [s2sphere.CellId(cell).to_token() for cell in ids.tolist()]


def s2_leaves(points: np.ndarray) -> np.ndarray:
    """Leaf cell of each point [N,2] (degrees): S2 cell ids of level 30, uint64 [N]."""
    degrees = map(s2sphere.LatLng.from_degrees, *points.T.tolist())
    ids = (s2sphere.CellId.from_lat_lng(point).id() for point in degrees)
    return np.fromiter(ids, dtype=np.uint64, count=len(points))


def s2_ancestors(ids: np.ndarray, level: int) -> np.ndarray:
    """Cells of a level that hold leaves: the bits below the level become a one and zeros."""
    lowest = np.uint64(1 << 2 * (LEAF_LEVEL - level))
    return ids & ~(lowest - np.uint64(1)) | lowest
