"""Polygons of locations, and the outlines of countries.

A geocoder that knows points has no borders. What it does have is the cell of each place, the part
of the earth nearer to it than to any other: the very points to which it gives that address. Cut off
at the country's outline, cells stand for areas, and are labelled approximate.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cache

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy.spatial import SphericalVoronoi

from geolib.partitioning.cells import CRS
from geolib.partitioning.distance import degrees_of, unit_vectors
from geolib.partitioning.geocoding import LEVELS, nearest_places, places
from geolib.runtime.here import data_file

EDGE = 0.5  # degrees, the longest straight piece of an edge
ISLAND = 0.02  # degrees of land round a place that the coarse outline leaves in the sea


@cache
def outlines() -> gpd.GeoDataFrame:
    """Outlines of countries and dependent territories (Natural Earth 1:50m), by ISO alpha-2 code.

    ``name`` in English, and ``geometry`` in degrees, cut at the antimeridian, exact to about 1 km.
    """
    return gpd.read_parquet(data_file("outlines.parquet")).set_index("code")


def polygons_of_places(keys: Sequence[str]) -> gpd.GeoSeries:
    """Areas of the offline geocoder's locations: cells of their places within the country.

    Spherical Voronoi cells, dissolved where a location holds several places and clipped to the
    outline of its country; a place that the outline leaves out keeps what lies within two
    kilometres. In degrees, by key, cut at the antimeridian; locations of one level do not overlap.
    ValueError for a key that is none of :class:`OfflineGeocoder`'s.
    """
    rows: dict[Hashable, pd.Index] = {}
    for level in LEVELS:
        column = places()[f"{level}_key"]
        wanted = column[column.isin(keys)]
        rows |= wanted.groupby(wanted).groups
    if unknown := [key for key in keys if key not in rows]:
        raise ValueError(f"keys holds {unknown[:3]}, which are no locations of OfflineGeocoder")
    shapes = np.array([shapely.coverage_union_all(_cells()[rows[key]]) for key in keys])
    codes = places()["code"].to_numpy()[[rows[key][0] for key in keys]]
    for code in np.unique(codes):
        land = _land(code)
        shapely.prepare(land)
        across = (codes == code) & ~shapely.contains_properly(land, shapes)
        shapes[across] = shapely.intersection(shapes[across], land)
    # Where a cell and an outline only touch there is a line, which a buffer of nothing drops.
    mixed = shapely.get_type_id(shapes) == shapely.GeometryType.GEOMETRYCOLLECTION
    shapes[mixed] = shapely.buffer(shapes[mixed], 0)
    return gpd.GeoSeries(shapes, index=list(keys), crs=CRS)


def _land(code: str) -> shapely.Geometry:
    """Outline of a country, with small islands for the places that it leaves out."""
    table = places()
    own = table[table["code"] == code]
    points = shapely.points(own["longitude"], own["latitude"])
    outline = outlines()["geometry"].get(code, shapely.MultiPolygon())
    shapely.prepare(outline)
    outside = points[~shapely.contains_properly(outline, points)]
    return shapely.union_all([outline, *shapely.buffer(outside, ISLAND)])


@cache
def _cells() -> np.ndarray:
    """Voronoi cells of all places, in degrees, in the order of their table."""
    points = places()[["latitude", "longitude"]].to_numpy()
    voronoi = SphericalVoronoi(unit_vectors(points), threshold=1e-9)
    voronoi.sort_vertices_of_regions()
    corners, owner = _boundaries(voronoi.vertices, voronoi.regions)
    # On the same side of the antimeridian as the place: an edge across it would circle the earth.
    corners[:, 0] += 360 * np.round((points[owner, 1] - corners[:, 0]) / 360)
    cells = shapely.polygons(shapely.linearrings(corners, indices=owner))
    for pole in (-90.0, 90.0):
        index = nearest_places(np.array([[pole, 0.0]]))[0][0]
        cells[index] = _round_pole(corners[owner == index], pole)
    west, _, east, _ = shapely.bounds(cells).T
    for index in np.flatnonzero((west < -180) | (east > 180)):
        cells[index] = within_map(cells[index])
    broken = ~shapely.is_valid(cells)
    cells[broken] = shapely.make_valid(cells[broken])
    return cells


def _boundaries(vertices: np.ndarray, regions: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Corners of all regions, longitude first, in degrees, and the region of each.

    Long edges get corners between, or they would be far from their great circles; the same ones
    from both sides, so that regions stay adjacent.
    """
    sizes = np.array([len(region) for region in regions])
    owner = np.repeat(np.arange(len(regions)), sizes)
    start = np.concatenate(regions)
    end = np.roll(start, -1)
    end[np.cumsum(sizes) - 1] = start[np.cumsum(sizes) - sizes]
    length = np.linalg.norm(vertices[start] - vertices[end], axis=1)
    pieces = np.maximum(np.ceil(length / np.radians(EDGE)).astype(int), 1)
    edge = np.repeat(np.arange(len(start)), pieces)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first, second = np.minimum(start, end)[edge], np.maximum(start, end)[edge]
    share = np.where(start[edge] == first, step, pieces[edge] - step) / pieces[edge]
    between = ((1 - share) * vertices[first].T + share * vertices[second].T).T
    return degrees_of(between)[:, ::-1], owner[edge]


def _round_pole(corners: np.ndarray, pole: float) -> shapely.Polygon:
    """The cell that holds a pole: what lies between its corners, in turn, and the pole."""
    around = corners[np.argsort(corners[:, 0])]
    west, latitude = around[0]
    east = west + 360
    return shapely.Polygon([*around, (east, latitude), (east, pole), (west, pole)])


def within_map(cell: shapely.Geometry) -> shapely.Geometry:
    """A polygon whose longitudes go past ±180 degrees, with its parts where they belong."""
    parts = [
        shapely.transform(
            shapely.intersection(cell, shapely.box(turn - 180, -90, turn + 180, 90)),
            lambda xy, turn=turn: xy - (turn, 0),
        )
        for turn in (-360, 0, 360)
    ]
    return shapely.union_all(parts)
