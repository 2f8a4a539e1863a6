"""What the two partitionings of the earth have in common."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from geolib.partitioning.distance import grouped_means

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

UNASSIGNED = -1
SUFFIXES = (".parquet", ".geojson")
CRS = "EPSG:4326"


class Partitioning(ABC):
    """Cells of the earth, each of them a class of a classifier.

    Attributes
    ----------
    cells
        GeoDataFrame, index = class 0…C-1: ``key`` (unique), ``name`` (for people), ``latitude``
        and ``longitude`` (spherical mean of the cell's samples, degrees), ``n_samples``,
        ``approximate`` (whether the polygon is), ``geometry`` (None before `with_polygons`).
    parameters
        What it was built with, and ``n_unassigned``, the samples in no cell.
    """

    kind: str

    def __init__(self, cells: GeoDataFrame, parameters: dict[str, Any]) -> None:
        self.cells = cells
        self.parameters = parameters

    @property
    def n_classes(self) -> int:
        """Number of cells C."""
        return len(self.cells)

    @property
    def coordinates(self) -> np.ndarray:
        """Coordinate that stands for each class, float64 [C,2] in degrees, latitude first."""
        return self.cells[["latitude", "longitude"]].to_numpy()

    @property
    def labels(self) -> list[str]:
        """Name of each class for people."""
        return self.cells["name"].tolist()

    @abstractmethod
    def assign(self, coordinates: ArrayLike) -> np.ndarray:
        """Class of each point [N,2] (degrees, latitude first): int64 [N], -1 for one in no cell.

        Raises ValueError for coordinates of another shape or out of range.
        """

    def parents_in(self, coarser: Partitioning) -> np.ndarray:
        """Class of each cell in a coarser partitioning of the same samples and kind (§3.1.3).

        int64 [C], -1 for a cell that the coarser one does not cover; TypeError for another kind.
        """
        own, other = type(self), type(coarser)
        if not issubclass(other, own):
            raise TypeError(f"coarser is a {other.__name__}; expected a {own.__name__}")
        return self._parents_in(coarser)

    @abstractmethod
    def _parents_in(self, coarser: Self) -> np.ndarray:
        """As `parents_in`, for a partitioning of this kind."""

    @abstractmethod
    def with_polygons(self) -> Self:
        """The same partitioning with the cells' polygons in ``cells.geometry`` (degrees)."""

    def _more(self) -> dict[str, Any]:
        """What `assign` needs besides cells and parameters, as JSON."""
        return {}

    def save(self, path: str | Path) -> None:
        """Write GeoParquet (.parquet) or GeoJSON (.geojson), with all that `assign` needs."""
        target = _check_suffix(path)
        table = self.cells.copy()
        table.attrs = {"partitioning": self.kind, **self.parameters, **self._more()}
        if target.suffix == ".parquet":
            table.to_parquet(target)
            return
        collection = json.loads(table.to_json(drop_id=True, to_wgs84=True))
        # A member that GeoJSON does not know is allowed (RFC 7946, section 6.1).
        collection["partitioning"] = table.attrs
        target.write_text(json.dumps(collection, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def _read(cls, path: str | Path) -> tuple[GeoDataFrame, dict[str, Any]]:
        """Cells of a saved partitioning of this kind, and what else was saved."""
        import geopandas

        source = _check_suffix(path)
        try:
            if source.suffix == ".parquet":
                table = geopandas.read_parquet(source)
                saved, table.attrs = table.attrs, {}
            else:
                collection = json.loads(source.read_text(encoding="utf-8"))
                table = geopandas.GeoDataFrame.from_features(collection, crs=CRS)
                table = table[[*table.columns.drop("geometry"), "geometry"]]
                saved = collection.get("partitioning", {})
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"path={str(path)!r} holds no partitioning: {error}") from error
        kind = saved.pop("partitioning", None)
        if kind != cls.kind:
            found = "no partitioning" if kind is None else f"kind {kind!r}"
            raise ValueError(
                f"path={str(path)!r} holds {found}; {cls.__name__} expects {cls.kind!r}"
            )
        return table, saved


def make_cells(
    keys: list[str], names: list[str], points: np.ndarray, classes: np.ndarray
) -> GeoDataFrame:
    """Table of cells, each with a key, a name and samples: points [N,2] and their classes [N]."""
    import geopandas

    latitude, longitude = grouped_means(points, classes, len(keys)).T
    columns = {"key": keys, "name": names, "latitude": latitude, "longitude": longitude}
    columns["n_samples"] = np.bincount(classes[classes >= 0], minlength=len(keys))
    columns["approximate"] = np.zeros(len(keys), bool)
    return geopandas.GeoDataFrame(columns, geometry=[None] * len(keys), crs=CRS)


def n_unique_classes(partitionings: Iterable[Partitioning]) -> int:
    """Number of distinct cells in several partitionings, ``|C|`` of Table 1."""
    return len({key for partitioning in partitionings for key in partitioning.cells["key"]})


def _check_suffix(path: str | Path) -> Path:
    checked = Path(path)
    if checked.suffix not in SUFFIXES:
        raise ValueError(f"path ends in {checked.suffix!r}; expected {' or '.join(SUFFIXES)}")
    return checked
