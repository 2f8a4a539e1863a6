"""Adaptive S2 cells: a quadtree over the globe, finer where there are more images.

Weyand et al., PlaNet, ECCV 2016, section 3; thresholds of Müller-Budack et al., ECCV 2018.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import s2sphere
from numpy.typing import ArrayLike

from geolib.partitioning.cells import UNASSIGNED, Partitioning, make_cells
from geolib.partitioning.distance import degrees_of
from geolib.sphere import LEAF_LEVEL, check_coordinates, s2_ancestors, s2_leaves

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from shapely.geometry.base import BaseGeometry

TAU_MIN = 50
# Fine, middle and coarse partitioning of Müller-Budack et al., "M" in Theiner et al., Table 1.
TAU_MAXS = (1000, 2000, 5000)
# Edges of S2 cells are arcs; this many chords stand for one.
_CHORDS = 16


class S2Partitioning(Partitioning):
    """S2 cells of τ_min to τ_max images; only images at one point can be more.

    Build one with `build`, several at once with `s2_partitionings`.
    """

    kind = "s2"

    def __init__(self, cells: GeoDataFrame, parameters: dict[str, int]) -> None:
        super().__init__(cells, parameters)
        ids = [s2sphere.CellId.from_token(token).id() for token in cells["key"]]
        self._ranges = _leaf_ranges(np.array(ids, dtype=np.uint64))

    @classmethod
    def build(
        cls, coordinates: ArrayLike, tau_min: int = TAU_MIN, tau_max: int = TAU_MAXS[0]
    ) -> S2Partitioning:
        """Partition at one τ_max; see `s2_partitionings`."""
        return s2_partitionings(coordinates, [tau_max], tau_min)[0]

    def assign(self, coordinates: ArrayLike) -> np.ndarray:
        """Class of each point ``[N,2]``: the cell among its ancestors in the quadtree, or -1."""
        ids = s2_leaves(check_coordinates("coordinates", coordinates))
        return _locate(self._ranges, ids, ids)

    def _parents_in(self, coarser: Self) -> np.ndarray:
        return _locate(coarser._ranges, *self._ranges)

    def with_polygons(self) -> Self:
        """The same partitioning with ``cells.geometry``, cut at the antimeridian."""
        polygons = [_cell_polygon(token) for token in self.cells["key"]]
        return type(self)(self.cells.set_geometry(polygons, crs=self.cells.crs), self.parameters)

    @classmethod
    def load(cls, path: str | Path) -> S2Partitioning:
        """Read a file that `save` wrote; ValueError for one of another kind."""
        return cls(*cls._read(path))


def s2_partitionings(
    coordinates: ArrayLike, tau_maxs: Collection[int] = TAU_MAXS, tau_min: int = TAU_MIN
) -> list[S2Partitioning]:
    """Partition the globe at one or several τ_max.

    The six faces of the cube are split while they hold more than τ_max images; cells with fewer
    than τ_min are left out, and so are the images in them. More than τ_max images at one and the
    same point stay together in a leaf cell (1 cm).

    Of coordinates [N,2] in degrees, latitude first, one per image; 1 ≤ τ_min ≤ every τ_max. One
    partitioning per τ_max from fine to coarse, that is in rising order of τ_max. ValueError for
    invalid coordinates or thresholds, and when no cell holds τ_min images.
    """
    if not tau_maxs or not 1 <= tau_min <= min(tau_maxs):
        raise ValueError(
            f"tau_min={tau_min} and tau_maxs={tau_maxs}; expected 1 ≤ tau_min ≤ every tau_max"
        )
    points = check_coordinates("coordinates", coordinates)
    ids = s2_leaves(points)
    tree, low, high = _quadtree(ids, tau_min)
    partitionings = []
    for tau_max in sorted(tau_maxs):
        found = np.sort(tree[(low <= tau_max) & (tau_max < high)])
        if not found.size:
            raise ValueError(
                f"tau_min={tau_min} and tau_max={tau_max} leave no cell of {len(points)} images;"
                " lower tau_min, or give more coordinates"
            )
        classes = _locate(_leaf_ranges(found), ids, ids)
        named = [s2sphere.CellId(cell) for cell in found.tolist()]
        keys = [cell.to_token() for cell in named]
        names = [f"S2 cell {cell.to_token()} (level {cell.level()})" for cell in named]
        parameters = {"tau_min": tau_min, "tau_max": tau_max, "n_samples": len(points)}
        parameters["n_unassigned"] = int((classes == UNASSIGNED).sum())
        cells = make_cells(keys, names, points, classes)
        partitionings.append(S2Partitioning(cells, parameters))
    return partitionings


def matching_tau_max(coordinates: ArrayLike, n_classes: int, tau_min: int = TAU_MIN) -> int:
    """The τ_max whose number of cells comes closest to n_classes; of equals, the smallest.

    As `s2_partitionings`; ValueError also for fewer coordinates than tau_min.
    """
    points = check_coordinates("coordinates", coordinates)
    if not 1 <= tau_min <= len(points):
        raise ValueError(f"tau_min={tau_min}; expected 1 to {len(points)}, the number of images")
    _, low, high = _quadtree(s2_leaves(points), tau_min)
    # The number of cells changes only where the interval of a cell begins or is over.
    bounds = np.unique(np.concatenate(([tau_min], low, high)))
    candidates = bounds[(bounds >= tau_min) & (bounds <= len(points))]
    begun = np.sort(low).searchsorted(candidates, side="right")
    over = np.sort(high).searchsorted(candidates, side="right")
    return int(candidates[np.abs(begun - over - n_classes).argmin()])


def _quadtree(ids: np.ndarray, tau_min: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All cells with τ_min images or more; each is a class for low ≤ τ_max < high.

    That is when it need not be split (its images are at most τ_max, or it is a leaf) and its
    parent must be. Images are counted level by level on sorted leaves.
    """
    ordered = np.sort(ids)
    in_parent = np.full(len(ordered), np.iinfo(np.int64).max)
    levels = []
    for level in range(LEAF_LEVEL + 1):
        ancestors = s2_ancestors(ordered, level)
        cells, first, n = np.unique(ancestors, return_index=True, return_counts=True)
        kept = n >= tau_min
        low = n if level < LEAF_LEVEL else np.zeros_like(n)
        levels.append((cells[kept], low[kept], in_parent[first[kept]]))
        in_parent = np.repeat(n, n)
    cells, low, high = map(np.concatenate, zip(*levels, strict=True))
    return cells, low, high


def _leaf_ranges(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last leaf inside each cell."""
    one = np.uint64(1)
    below = (ids & (~ids + one)) - one
    return ids - below, ids + below


def _locate(
    ranges: tuple[np.ndarray, np.ndarray], first: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """Class whose sorted, disjoint range of leaves holds first…last, -1 where none does."""
    starts, ends = ranges
    classes = starts.searchsorted(first, side="right") - 1
    return np.where((classes >= 0) & (last <= ends[classes]), classes, UNASSIGNED)


def _cell_polygon(token: str) -> BaseGeometry:
    """Outline of a cell in degrees (x longitude, y latitude), cut at the antimeridian.

    Each edge, an arc on the sphere, becomes a line through 17 of its points.
    """
    from shapely import Polygon

    from geolib.partitioning.polygons import within_map

    cell = s2sphere.Cell(s2sphere.CellId.from_token(token))
    corners = np.array([[*cell.get_vertex(i)] for i in range(4)])
    share = np.arange(_CHORDS)[:, None] / _CHORDS
    arcs = corners[:, None] * (1 - share) + np.roll(corners, -1, axis=0)[:, None] * share
    ring = degrees_of(arcs.reshape(-1, 3))[:, ::-1]
    # A corner at a pole has no longitude: on the map it is the line between its neighbours'.
    for i in np.flatnonzero(np.abs(ring[:, 1]) > 90 - 1e-9):
        sides = [(ring[i - 1, 0], ring[i, 1]), (ring[(i + 1) % len(ring), 0], ring[i, 1])]
        ring = np.vstack((ring[:i], sides, ring[i + 1 :]))
    ring = np.vstack((ring, ring[:1]))
    ring[:, 0] = np.unwrap(ring[:, 0], period=360)
    if abs(ring[-1, 0] - ring[0, 0]) > 180:  # around a pole: down to it and back
        pole = np.copysign(90, ring[0, 1])
        ring = np.vstack((ring, (ring[-1, 0], pole), (ring[0, 0], pole)))
    return within_map(Polygon(ring))
