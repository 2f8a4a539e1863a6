"""Semantic partitioning: cells are places that have names (§3.1 of Theiner et al., WACV 2022)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import shapely
from numpy.typing import ArrayLike

from geolib.partitioning.cells import UNASSIGNED, Partitioning, make_cells
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

    def __str__(self) -> str:
        name = "SemP_a" if self.area_only else "SemP"
        return f"{name} {{{', '.join(map(str, self.tau_mins))}}}"

    def scaled(self, tau_min: int) -> Preset:
        """The same for fewer images: its 100 becomes ``tau_min``."""
        taus = [max(1, round(tau * tau_min / 100)) for tau in (*self.tau_mins, self.tau_d)]
        return Preset(tuple(taus[:-1]), taus[-1], self.area_only)


# The configurations of Table 1, for 4.7 million images. The last one doubles the classes.
PAPER_PRESETS = (
    Preset((100, 125, 150)),
    Preset((100, 150, 250), area_only=True),
    Preset((100, 150, 250)),
    Preset((100, 125, 250)),
    Preset((75, 100, 150), area_only=True),
    Preset((50, 75, 100)),
)


class SemanticPartitioning(Partitioning):
    """Places from countries to quarters as classes; each point belongs to the finest one it is in.

    A class is a location whose path carries at least τ_min images, without the finer classes
    inside it: what is left can be fewer images than τ_min, and is no class if it is none.
    ``hierarchy`` holds finer locations, too; ``geocoder`` gives the addresses of new points. Build
    one with `build`, several with `semantic_partitionings`.
    """

    kind = "semantic"

    def __init__(
        self,
        cells: GeoDataFrame,
        hierarchy: Hierarchy,
        geocoder: Geocoder,
        parameters: dict[str, Any],
    ) -> None:
        super().__init__(cells, parameters)
        self.hierarchy, self.geocoder = hierarchy, geocoder
        classes: dict[str | None, int] = {key: i for i, key in enumerate(cells["key"])}
        classes[None] = UNASSIGNED
        found = hierarchy.within(cells["key"])
        self._class_of = {key: classes[place] for key, place in found.items()}

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
        finest = self.hierarchy.finest(self.geocoder.reverse(points))
        return np.array([self._class_of[key] for key in finest], dtype=np.int64)

    def _parents_in(self, coarser: Self) -> np.ndarray:
        keys = self.cells["key"]
        return np.array([coarser._class_of.get(key, UNASSIGNED) for key in keys], np.int64)

    def with_polygons(self) -> Self:
        """The same partitioning with ``cells.geometry``: each place without the classes inside it.

        None where the geocoder has no polygon; ``cells.approximate`` where it knows points only.
        ValueError for a geocoder that knows no polygons.
        """
        if not hasattr(self.geocoder, "polygons"):
            raise ValueError(f"geocoder {self.geocoder.name!r} knows no polygons of its locations")
        places = self.geocoder.polygons(self.cells["key"].tolist())
        inside: defaultdict[int, list[BaseGeometry]] = defaultdict(list)
        for key, shape in places.items():
            inside[self._class_of[self.hierarchy.parents[key]]].append(shape)
        shapes = [
            shapely.difference(shape, shapely.union_all(inside[i])) if i in inside else shape
            for i, shape in enumerate(places)
        ]
        cells = self.cells.set_geometry(shapes, crs=places.crs)
        cells["approximate"] = self.geocoder.approximate
        return type(self)(cells, self.hierarchy, self.geocoder, self.parameters)

    def _more(self) -> dict[str, Any]:
        return {"hierarchy": [self.hierarchy.parents, self.hierarchy.names]}

    @classmethod
    def load(cls, path: str | Path, geocoder: Geocoder | None = None) -> SemanticPartitioning:
        """Read a file that `save` wrote, of a partitioning built with this or the offline geocoder.

        Raises ValueError for a file of another kind, and for another geocoder.
        """
        cells, parameters = cls._read(path)
        geocoder = OfflineGeocoder() if geocoder is None else geocoder
        if geocoder.name != parameters["geocoder"]:
            needed = parameters["geocoder"]
            raise ValueError(f"geocoder is {geocoder.name!r}; the cells need {needed!r}")
        return cls(cells, Hierarchy(*parameters.pop("hierarchy")), geocoder, parameters)


def semantic_partitionings(
    coordinates: ArrayLike,
    geocoder: Geocoder,
    tau_mins: Collection[int],
    tau_d: int = TAU_D,
    area_only: bool = False,
    addresses: Sequence[Address] | None = None,
) -> list[SemanticPartitioning]:
    """Partition the earth at one or several τ_min, geocoding once (§3.1.1, §3.1.2).

    Of coordinates [N,2] in degrees, latitude first, one per image, and their addresses, if the
    geocoder has given them. τ_min is the fewest images on the paths through a location that becomes
    a class; locations of fewer than τ_D are dropped first, with ``area_only`` (SemP_a) also those
    without an area. One partitioning per τ_min, in rising order, that is from fine to coarse; finer
    cells lie in coarser ones. ValueError for invalid coordinates or thresholds, and when no
    location carries τ_min images.
    """
    points = check_coordinates("coordinates", coordinates)
    if not tau_mins or min(tau_mins) < 1:
        raise ValueError(f"tau_mins={tau_mins}; expected one or more thresholds of at least 1")
    addresses = geocoder.reverse(points) if addresses is None else addresses
    hierarchy = build_hierarchy(addresses, tau_d, area_only)
    finest = hierarchy.finest(addresses)
    images: Counter[str] = Counter()
    for key, n in Counter(filter(None, finest)).items():
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
        place = hierarchy.within(available)
        samples = [place[key] for key in finest]
        keys = sorted(set(filter(None, samples)))
        number = {None: UNASSIGNED} | {key: i for i, key in enumerate(keys)}
        classes = np.array([number[key] for key in samples])
        cells = make_cells(keys, [hierarchy.label(key) for key in keys], points, classes)
        parameters = {"geocoder": geocoder.name, "tau_min": tau_min, "tau_d": tau_d}
        parameters |= {"area_only": area_only, "n_samples": len(points)}
        parameters["n_unassigned"] = samples.count(None)
        partitionings.append(SemanticPartitioning(cells, hierarchy, geocoder, parameters))
    return partitionings
