"""Distances on the sphere and the scores made of them (§4.1 of Theiner et al., WACV 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from geolib.sphere import EARTH_RADIUS_KM, check_coordinates

# Street, city, region, country and continent level.
RADII_KM = (1, 25, 200, 750, 2500)
# Scale of the score of the game's world map.
GEOGUESSR_KM = 1492.7
GEOGUESSR_BEST = 5000.0
# A mean of unit vectors shorter than this has no direction that rounding did not make.
_NO_DIRECTION = 1e-9


def great_circle_distance(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Great-circle distance between paired points on a sphere of 6371 km (§4.1, eq. 4).

    Parameters
    ----------
    a, b : [N,2] each, degrees, latitude first; anything else is a ValueError.

    Returns
    -------
    float64 [N], kilometres, 0 to half the sphere's circumference.
    """
    first, second = check_coordinates("a", a), check_coordinates("b", b)
    if len(first) != len(second):
        raise ValueError(f"a holds {len(first)} points and b {len(second)}; expected pairs")
    return km_of_chords(np.linalg.norm(unit_vectors(first) - unit_vectors(second), axis=1))


def geolocation_accuracy(km: ArrayLike, radii: Sequence[float] = RADII_KM) -> dict[float, float]:
    """Share of the distances that are below each radius, a_r (§4.1, eq. 4).

    Parameters
    ----------
    km : [N], at least one distance in kilometres; infinite where nothing was predicted, a miss.
    radii : kilometres, above 0.

    Returns
    -------
    {radius: share}, 0…1. A distance equal to the radius is a miss. ValueError for no distances,
    negative or NaN ones, and radii that are not above 0.
    """
    distances = _check_km(km)
    if distances.size == 0:
        raise ValueError("km is empty; expected at least one distance")
    wrong = [radius for radius in radii if not radius > 0]
    if wrong:
        raise ValueError(f"radii holds {wrong[0]}; expected kilometres above 0")
    return {radius: float((distances < radius).mean()) for radius in radii}


def geoguessr_score(km: ArrayLike) -> np.ndarray:
    """Points of the game for a distance: 5000·exp(−d / 1492.7).

    float64 0…5000 of the shape of `km`, which is infinite where nothing was predicted (0 points);
    ValueError for negative or NaN distances.
    """
    return GEOGUESSR_BEST * np.exp(-_check_km(km) / GEOGUESSR_KM)


def grouped_means(points: np.ndarray, groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Direction of the mean of each group's points as unit vectors (§3.1.3: average position).

    Unlike means of angles right across the antimeridian and at the poles, and the same in any order
    of the points to the last bit. float64 [n_groups,2] in degrees of points [N,2] whose groups [N]
    are 0…n_groups-1, or -1 for points that count nowhere. ValueError for a group that is empty or
    whose points cancel out.
    """
    # One order of summation, whatever the order of the input.
    order = np.lexsort((points[:, 1], points[:, 0], groups))
    order = order[groups[order] >= 0]
    group = groups[order]
    vectors = unit_vectors(points[order]).T
    sums = np.stack([np.bincount(group, values, n_groups) for values in vectors], axis=1)
    sizes = np.bincount(group, minlength=n_groups)
    lengths = np.linalg.norm(sums, axis=1)
    undefined = np.flatnonzero(~(lengths > _NO_DIRECTION * sizes))
    if undefined.size:
        raise ValueError(
            f"the {sizes[undefined[0]]} points of group {undefined[0]} cancel out, so they have no"
            " mean direction; expected points that are not spread evenly over the globe"
        )
    return degrees_of(sums)


def unit_vectors(coordinates: np.ndarray) -> np.ndarray:
    """Points [N,2] in degrees as vectors [N,3] of the unit sphere."""
    latitude, longitude = np.radians(coordinates).T
    across = np.cos(latitude)
    return np.column_stack(
        (across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude))
    )


def km_of_chords(chords: np.ndarray) -> np.ndarray:
    """Great-circle distances in km between points of the unit sphere that are so far apart."""
    # Rounding can lift the chord of antipodes above 2.
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chords / 2, 1))


def degrees_of(vectors: np.ndarray) -> np.ndarray:
    """Directions [N,3] of any length as points [N,2] in degrees, latitude first."""
    x, y, z = vectors.T
    return np.degrees(np.column_stack((np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x))))


def _check_km(km: ArrayLike) -> np.ndarray:
    distances = np.asarray(km, dtype=np.float64)
    wrong = distances[~(distances >= 0)]
    if wrong.size:
        raise ValueError(f"km holds {wrong[0]}; expected 0 or more, inf where nothing is predicted")
    return distances
