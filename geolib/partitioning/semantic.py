"""Semantic partitioning: cells are places that have names (§3.1 of Theiner et al., WACV 2022)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import pandas as pd
import shapely
from numpy.typing import ArrayLike

from geolib.partitioning.cells import COLUMNS, UNASSIGNED, Partitioning, make_cells, with_geometry
from geolib.partitioning.geocoding import Address, Geocoder, OfflineGeocoder
from geolib.partitioning.hierarchy import Hierarchy, build_hierarchy
from geolib.sphere import check_coordinates

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from shapely.geometry.base import BaseGeometry

TAU_D = 50


class Preset(NamedTuple):
    """Thresholds of one row of Table 1: τ_min from fine to coarse, τ_D, area-only (SemP_a)."""

    tau_mins: tuple[int, ...]
    tau_d: int = TAU_D
    area_only: bool = False


# The configurations of Table 1, for 4.7 million images. The last one doubles the classes.
PAPER_PRESETS = {
    "SemP {100,125,150}": Preset((100, 125, 150)),
    "SemP_a {100,150,250}": Preset((100, 150, 250), area_only=True),
    "SemP {100,150,250}": Preset((100, 150, 250)),
    "SemP {100,125,250}": Preset((100, 125, 250)),
    "SemP_a {75,100,150}": Preset((75, 100, 150), area_only=True),
    "SemP {50,75,100}": Preset((50, 75, 100)),
}


class SemanticPartitioning(Partitioning):
    """Places from countries to quarters as classes; each point belongs to the finest one it is in.

    A class is a location whose path carries at least τ_min images, without the finer classes
    inside it; what is left of a coarse location can therefore be fewer images than τ_min. A
    location of which nothing is left is no class. ``hierarchy`` holds finer locations, too;
    ``geocoder`` gives the addresses of new points. Build one with `build`, several with
    `semantic_partitionings`.
    """

    kind = "semantic"

    def __init__(
        self,
        cells: GeoDataFrame,
        hierarchy: Hierarchy,
        geocoder: Geocoder,
        parameters: dict[str, int | bool | str],
    ) -> None:
        super().__init__(cells, parameters)
        self.hierarchy = hierarchy
        self.geocoder = geocoder
        classes = {key: i for i, key in enumerate(cells["key"])}
        self._class_of = {
            key: UNASSIGNED if place is None else classes[place]
            for key, place in _places(hierarchy, classes).items()
        }

    @classmethod
    def build(
        cls,
        coordinates: ArrayLike,
        geocoder: Geocoder,
        tau_min: int,
        tau_d: int = TAU_D,
        area_only: bool = False,
    ) -> SemanticPartitioning:
        """Partition at one τ_min; see `semantic_partitionings`."""
        return semantic_partitionings(coordinates, geocoder, [tau_min], tau_d, area_only)[0]

    def assign(self, coordinates: ArrayLike) -> np.ndarray:
        """Class of each point ``[N,2]``: the finest one on its location's path, or -1 (§3.1.2)."""
        points = check_coordinates("coordinates", coordinates)
        finest = _finest(self.hierarchy, self.geocoder.reverse(points))
        return np.array(
            [UNASSIGNED if key is None else self._class_of[key] for key in finest], dtype=np.int64
        )

    def _parents_in(self, coarser: Self) -> np.ndarray:
        return np.array(
            [coarser._class_of.get(key, UNASSIGNED) for key in self.cells["key"]], dtype=np.int64
        )

    def with_polygons(self) -> Self:
        """The same partitioning with ``cells.geometry``: each place without the classes inside it.

        None where the geocoder has no polygon; ``cells.approximate`` where it knows points only.
        ValueError for a geocoder that knows no polygons.
        """
        from geolib.partitioning.polygons import location_polygons

        keys = self.cells["key"].tolist()
        places = location_polygons(keys, self.geocoder)
        inside: defaultdict[int, list[BaseGeometry]] = defaultdict(list)
        for key, shape in zip(keys, places.geometry, strict=True):
            parent = self.hierarchy.parents[key]
            if parent is not None:
                inside[self._class_of[parent]].append(shape)
        shapes = [
            shapely.difference(shape, shapely.union_all(inside[i])) if i in inside else shape
            for i, shape in enumerate(places.geometry)
        ]
        cells = self.cells.assign(approximate=places["approximate"].to_numpy())
        return type(self)(
            with_geometry(cells, shapes), self.hierarchy, self.geocoder, self.parameters
        )

    def _table(self) -> GeoDataFrame:
        locations = pd.DataFrame(
            {
                "key": list(self.hierarchy.parents),
                "parent": list(self.hierarchy.parents.values()),
                "location": [self.hierarchy.names[key] for key in self.hierarchy.parents],
            }
        )
        return self.cells.merge(locations, on="key", how="right")

    @classmethod
    def load(cls, path: str | Path, geocoder: Geocoder | None = None) -> SemanticPartitioning:
        """Read a file that `save` wrote, of a partitioning built with this or the offline geocoder.

        Raises ValueError for a file of another kind, and for another geocoder.
        """
        table, parameters = cls._read(path)
        geocoder = OfflineGeocoder() if geocoder is None else geocoder
        if geocoder.name != parameters["geocoder"]:
            raise ValueError(
                f"geocoder is {geocoder.name!r}, but the partitioning was built with"
                f" {parameters['geocoder']!r}; pass that one"
            )
        parents = {
            key: parent if isinstance(parent, str) else None
            for key, parent in zip(table["key"], table["parent"], strict=True)
        }
        hierarchy = Hierarchy(parents, dict(zip(table["key"], table["location"], strict=True)))
        rows = table[table["name"].notna()].reset_index(drop=True)
        frame = rows[list(COLUMNS)].astype({"n_samples": np.int64, "approximate": bool})
        return cls(with_geometry(frame, rows.geometry), hierarchy, geocoder, parameters)


def semantic_partitionings(
    coordinates: ArrayLike,
    geocoder: Geocoder,
    tau_mins: Collection[int],
    tau_d: int = TAU_D,
    area_only: bool = False,
) -> list[SemanticPartitioning]:
    """Partition the earth at one or several τ_min, geocoding once (§3.1.1, §3.1.2).

    Parameters
    ----------
    coordinates : [N,2], degrees, latitude first; one per image.
    geocoder : gives an address for each point.
    tau_mins : fewest images on the paths through a location that becomes a class; each at least 1.
    tau_d : locations of fewer images are dropped first.
    area_only : use locations that have an area only (SemP_a).

    Returns
    -------
    One partitioning per τ_min from fine to coarse, that is in rising order of τ_min; cells of a
    finer one lie in cells of a coarser one. ValueError for invalid coordinates or thresholds, and
    when no location carries τ_min images.
    """
    points = check_coordinates("coordinates", coordinates)
    addresses = geocoder.reverse(points)
    return from_addresses(points, addresses, geocoder, tau_mins, tau_d, area_only)


def from_addresses(
    points: np.ndarray,
    addresses: Sequence[Address],
    geocoder: Geocoder,
    tau_mins: Collection[int],
    tau_d: int = TAU_D,
    area_only: bool = False,
) -> list[SemanticPartitioning]:
    """As `semantic_partitionings`, of points [N,2] whose addresses the geocoder has given."""
    if not tau_mins or min(tau_mins) < 1:
        raise ValueError(f"tau_mins={tau_mins}; expected one or more thresholds of at least 1")
    hierarchy = build_hierarchy(addresses, tau_d, area_only)
    finest = _finest(hierarchy, addresses)
    images: Counter[str] = Counter()
    for key, n in Counter(finest).items():
        if key is not None:
            images.update(dict.fromkeys(hierarchy.path(key), n))
    partitionings = []
    for tau_min in sorted(tau_mins):
        available = {key for key, n in images.items() if n >= tau_min}
        if not available:
            most = max(images.values(), default=0)
            raise ValueError(
                f"tau_mins holds {tau_min}, but no location carries more than {most} of the"
                f" {len(points)} images; lower it, or give more coordinates"
            )
        place = _places(hierarchy, available)
        cells, n_unassigned = _cells(hierarchy, points, [key and place[key] for key in finest])
        parameters: dict[str, int | bool | str] = {
            "geocoder": geocoder.name,
            "tau_min": tau_min,
            "tau_d": tau_d,
            "area_only": area_only,
            "n_samples": len(points),
            "n_unassigned": n_unassigned,
        }
        partitionings.append(SemanticPartitioning(cells, hierarchy, geocoder, parameters))
    return partitionings


def _cells(
    hierarchy: Hierarchy, points: np.ndarray, samples: Sequence[str | None]
) -> tuple[GeoDataFrame, int]:
    """Cells from the location of each point, and the number of points without one."""
    keys = sorted({key for key in samples if key is not None})
    number: dict[str | None, int] = {key: i for i, key in enumerate(keys)}
    classes = np.array([number.get(key, UNASSIGNED) for key in samples], dtype=np.int64)
    cells = make_cells(keys, [hierarchy.label(key) for key in keys], points, classes)
    return cells, int((classes == UNASSIGNED).sum())


def _places(hierarchy: Hierarchy, available: Container[str]) -> dict[str, str | None]:
    """The finest available location on each location's path, None without any."""
    return {
        key: next((step for step in hierarchy.path(key) if step in available), None)
        for key in hierarchy.parents
    }


def _finest(hierarchy: Hierarchy, addresses: Sequence[Address]) -> list[str | None]:
    """Finest known location of each address; images at one place share the look-up."""
    known = {address: hierarchy.finest(address) for address in set(addresses)}
    return [known[address] for address in addresses]
