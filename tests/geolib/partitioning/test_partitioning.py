"""Distances, semantic and S2 partitionings, ceilings: by hand, against slow references, as laws."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import s2sphere
import shapely
from geopandas import GeoSeries
from geopandas.testing import assert_geodataframe_equal
from geopy.distance import great_circle
from hypothesis import assume, example, given
from hypothesis import strategies as st

from geolib.partitioning import (
    PAPER_PRESETS,
    UNASSIGNED,
    OfflineGeocoder,
    S2Partitioning,
    SemanticPartitioning,
    ceiling_table,
    geoguessr_score,
    geolocation_accuracy,
    great_circle_distance,
    matching_tau_max,
    nearest_cell_km,
    own_cell_km,
    s2_partitionings,
    semantic_partitionings,
)
from geolib.partitioning.cells import n_unique_classes
from geolib.partitioning.distance import grouped_means, unit_vectors
from geolib.partitioning.geocoding import Address
from geolib.partitioning.hierarchy import build_hierarchy
from geolib.sphere import s2_tokens

COORDINATES = Path(__file__).parents[4] / "shared" / "coordinates"

latitudes, longitudes = st.floats(-90, 90), st.floats(-180, 180)
points = st.tuples(latitudes, longitudes)


class Toy:
    """A geocoder that looks addresses up in a table of coordinates."""

    name, approximate = "toy", True

    def __init__(self, table):
        self.table = table

    def reverse(self, coordinates):
        return [self.table.get(tuple(point), Address()) for point in coordinates.tolist()]


def address(*keys, points=""):
    """An address whose names are its keys in capitals; those in `points` have no area."""
    names = (*map(str.upper, keys),)
    return Address(names, keys, tuple(key not in points for key in keys))


def world(addresses):
    """One place per address, all on a meridian and far from each other's antipodes."""
    places = [(latitude, 9.0) for latitude in np.linspace(-40, 40, len(addresses)).tolist()]
    return np.array(places), Toy(dict(zip(places, addresses, strict=True)))


def same(some, others):
    for one, other in zip(some, others, strict=True):
        assert_geodataframe_equal(one.cells, other.cells)
        assert (one.coordinates == other.coordinates).all()
        assert one.parameters == other.parameters


def parents_hold_children(finer, coarser, coordinates):
    parents = np.append(finer.parents_in(coarser), UNASSIGNED)
    classes = coarser.assign(coordinates)
    np.testing.assert_array_equal(parents[finer.assign(coordinates)], classes)


def mean(points):
    return grouped_means(np.array(points, float).reshape(-1, 2), np.zeros(len(points), int), 1)[0]


# Few keys in any order: several parents, shortcuts, cycles and repetitions are the rule.
messy = st.lists(
    st.lists(st.sampled_from("abcdef"), max_size=4).map(lambda k: address(*k)),
    min_size=1,
    max_size=40,
)


# --- distances and scores --------------------------------------------------------------------


@given(a=points, b=points)
@example(a=(0.0, 0.0), b=(0.0, 180.0))
@example(a=(90.0, 0.0), b=(-90.0, 77.0))  # pole to pole
@example(a=(0.0, 179.5), b=(0.0, -179.5))  # across the antimeridian
@example(a=(60.0, 0.0), b=(60.0, 180.0))  # over the pole, not along the parallel
@example(a=(12.0, 34.0), b=(12.0, 34.0))
def test_distance_is_geopys_great_circle(a, b):
    km = great_circle_distance([a], [b])[0]
    # Near antipodes the haversine is flat: half a metre is what double precision leaves.
    assert km == pytest.approx(great_circle(a, b, radius=6371).km, abs=5e-4)
    assert km == great_circle_distance([b], [a])[0]


def test_distance_and_scores_by_hand():
    quarter = 6371 * math.pi / 2
    assert great_circle_distance([(0, 0)], [(0, 90)]) == pytest.approx([quarter], rel=1e-12)
    km = [[0, math.inf], [1492.7, 1492.7 * math.log(2)]]
    np.testing.assert_allclose(geoguessr_score(km), [[5000, 0], [5000 / math.e, 2500]])
    km = [0, 1, 24.9, 25, 2500, math.inf]  # a distance equal to the radius is a miss
    assert geolocation_accuracy(km) == {1: 1 / 6, 25: 3 / 6, 200: 4 / 6, 750: 4 / 6, 2500: 4 / 6}
    assert geolocation_accuracy([5], radii=(5, 5.1)) == {5: 0, 5.1: 1}


@pytest.mark.parametrize(
    ("measure", "arguments", "message"),
    [
        (great_circle_distance, ([[0, 0]], [[0, 0], [1, 1]]), "a holds 1 points and b 2"),
        (great_circle_distance, ([0, 0], [0, 0]), r"a has shape \(2,\)"),
        (great_circle_distance, ([[0, 0]], [[0, 0, 0]]), r"b has shape \(1, 3\)"),
        (great_circle_distance, ([[0, 0]], [[91, 0]]), r"b\[0\] is \(91.0, 0.0\)"),
        (great_circle_distance, ([[0, 0], [0, 181]], [[0, 0]] * 2), r"a\[1\] is \(0.0, 181.0\)"),
        (great_circle_distance, ([[0, math.nan]], [[0, 0]]), r"a\[0\] is \(0.0, nan\)"),
        (geolocation_accuracy, ([], (1,)), "km is empty"),
        (geolocation_accuracy, ([-1], (1,)), "-1"),
        (geolocation_accuracy, ([math.nan], (1,)), "nan"),
        (geolocation_accuracy, ([1], (0,)), "radii"),
        (mean, ([(0, 0), (0, 180)],), "2 points of group 0 cancel out"),
        (mean, ([],), "0 points of group 0 cancel out"),
    ],
)
def test_distances_and_means_refuse(measure, arguments, message):
    with pytest.raises(ValueError, match=message):
        measure(*arguments)


@pytest.mark.parametrize(
    ("coordinates", "expected"),
    [
        ([(10, 20)], (10, 20)),
        ([(0, 0), (0, 90)], (0, 45)),
        ([(0, 0), (90, 123)], (45, 0)),
        # Either side of the antimeridian, a quarter of the parallel apart: tan 45° / cos 45°.
        ([(45, 135), (45, -135)], (math.degrees(math.atan(math.sqrt(2))), 180)),
        ([(80, 0), (80, 90), (80, 180), (80, -90)], (90, None)),
    ],
)
def test_spherical_mean(coordinates, expected):
    latitude, longitude = mean(coordinates)
    assert latitude == pytest.approx(expected[0])
    if expected[1] is not None:
        assert abs((longitude - expected[1] + 180) % 360 - 180) < 1e-9


@given(cluster=st.lists(points, min_size=2, max_size=20), seed=st.integers(0, 9))
def test_spherical_mean_is_the_same_in_every_order_to_the_last_bit(cluster, seed):
    shuffled = np.random.default_rng(seed).permutation(cluster)
    assume(np.linalg.norm(unit_vectors(np.array(cluster)).mean(axis=0)) > 1e-6)
    assert (mean(cluster) == mean(shuffled)).all()


# --- hierarchy -------------------------------------------------------------------------------


def test_most_frequent_parent_wins_over_errors_and_missing_levels():
    seen = [
        *[address("arcachon", "gironde", "aquitaine", "france")] * 3,
        *[address("arcachon", "aquitaine", "france")] * 2,  # the county is missing
        *[address("gironde", "france")] * 2,  # the region is missing
        address("arcachon", "landes", "aquitaine", "france"),  # the county is wrong
    ]
    hierarchy = build_hierarchy(seen)
    assert hierarchy.path("arcachon") == ("arcachon", "gironde", "aquitaine", "france")
    assert hierarchy.path("landes") == ("landes", "aquitaine", "france")
    assert hierarchy.label("arcachon") == "ARCACHON, GIRONDE, AQUITAINE, FRANCE"
    # Every address is known by its finest location, whatever else it says.
    asked = [address("bay", "arcachon", "france"), address("bay"), Address()]
    assert hierarchy.finest(asked) == ["arcachon", None, None]


@pytest.mark.parametrize(
    ("addresses", "parents"),
    [
        # a→b three times, b→a twice, b→c once: b→a goes, b falls back on c, or becomes a root.
        *(("ab ab ab ba ba bc", "ab bc c"), ("ab ab ab ba ba", "ab b")),
        ("ab ba", "a ba"),  # equally weak edges: the first one by key goes
        # A cycle of three, then one of two that the fallback c→b closes with b→c.
        ("ab " * 5 + "bc " * 4 + "ca " * 3 + "cb " * 2 + "cd", "ab bc cd d"),
        ("aab", "ab b"),  # a location inside itself
        # Without any cycle: of equally frequent parents the first by key, in either order.
        *(("ab ac", "ab b c"), ("ac ab", "ab b c")),
    ],
)
def test_cycles_lose_their_weakest_edge(addresses, parents):
    expected = {pair[0]: pair[1:] or None for pair in parents.split()}
    assert build_hierarchy([address(*keys) for keys in addresses.split()]).parents == expected


def test_rare_locations_and_points_are_dropped_before_the_graph_is_made():
    addresses = [address("a", "b", "c", points="b")] * 2 + [address("x", "b", "c", points="b")]
    assert build_hierarchy(addresses, 2).parents == {"a": "b", "b": "c", "c": None}
    assert build_hierarchy(addresses, 3).parents == {"b": "c", "c": None}
    # Without the point in between, its neighbours touch.
    assert build_hierarchy(addresses, 2, area_only=True).parents == {"a": "c", "c": None}
    with pytest.raises(ValueError, match="tau_d=0"):
        build_hierarchy(addresses, 0)


def test_a_location_is_called_what_it_is_called_most_often():
    addresses = [Address((name,), ("k",), (True,)) for name in ("Wien", "Vienna", "Wien")]
    assert build_hierarchy(addresses).names == {"k": "Wien"}


@given(addresses=messy, tau_d=st.integers(1, 4), seed=st.integers(0, 9))
def test_hierarchy_is_a_forest_of_the_frequent_locations(addresses, tau_d, seed):
    hierarchy = build_hierarchy(addresses, tau_d)
    counts = Counter(key for a in addresses for key in set(a.keys))
    assert set(hierarchy.parents) == {key for key, n in counts.items() if n >= tau_d}
    for key in hierarchy.parents:
        # path() would not end if there were a cycle.
        assert len(set(hierarchy.path(key))) == len(hierarchy.path(key))
    order = np.random.default_rng(seed).permutation(len(addresses))
    shuffled = build_hierarchy([addresses[i] for i in order], tau_d)
    assert list(shuffled.parents.items()) == list(hierarchy.parents.items())


# --- semantic partitioning -------------------------------------------------------------------

# Two towns, one village and a place in the fields, in one region of one country; one at sea.
FRANCE = [
    *[address("lyon", "rhone", "france")] * 4,
    *[address("oullins", "rhone", "france")] * 2,
    address("rhone", "france"),
    *[address("nice", "alpes", "france")] * 2,
    Address(),
]


def test_semantic_partitioning_by_hand():
    coordinates, geocoder = world(FRANCE)
    fine, middle, coarse = semantic_partitionings(coordinates, geocoder, [9, 3, 4], tau_d=1)
    # At 3: lyon (4), rhone (7 on its paths, 3 of them left), france (9, 2 left); at 4 the same.
    assert fine.cells["key"].tolist() == middle.cells["key"].tolist() == ["france", "lyon", "rhone"]
    assert fine.labels == ["FRANCE", "LYON, RHONE, FRANCE", "RHONE, FRANCE"]
    assert fine.cells["n_samples"].tolist() == [2, 4, 3]
    assert fine.assign(coordinates).tolist() == [1] * 4 + [2] * 3 + [0] * 2 + [UNASSIGNED]
    assert (fine.parameters["n_unassigned"], fine.n_classes) == (1, 3)
    np.testing.assert_allclose(fine.coordinates[1], mean(coordinates[:4]))
    assert coarse.cells["key"].tolist() == ["france"]
    assert fine.parents_in(coarse).tolist() == [0, 0, 0]
    assert fine.parents_in(middle).tolist() == [0, 1, 2]
    assert coarse.parents_in(fine).tolist() == [0]
    assert n_unique_classes([fine, middle, coarse]) == 3


def test_a_location_of_which_nothing_is_left_is_no_class():
    coordinates, geocoder = world(FRANCE)
    fine = SemanticPartitioning.build(coordinates, geocoder, tau_min=2, tau_d=2)
    # alpes carries two images, all of them in nice; rhone keeps the one in its fields.
    assert fine.cells["key"].tolist() == ["lyon", "nice", "oullins", "rhone"]
    middle = SemanticPartitioning.build(coordinates, geocoder, tau_min=4, tau_d=2)
    # The classes of both together: lyon and rhone are counted once.
    assert n_unique_classes([fine, middle]) == 5
    # A new place in alpes finds no class on its path but what is left of a coarser one.
    new = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    geocoder.table[1.0, 1.0] = address("menton", "alpes", "france")
    geocoder.table[2.0, 2.0] = address("paris", "france")
    geocoder.table[3.0, 3.0] = address("rome", "italy")
    assert fine.assign(new).tolist() == [UNASSIGNED] * 3
    assert middle.assign(new).tolist() == [0, 0, UNASSIGNED]


@pytest.mark.parametrize(
    ("area_only", "label"), [(True, "RHONE, FRANCE"), (False, "LYON, RHONE, FRANCE")]
)
def test_area_only_leaves_points_out(area_only, label):
    coordinates, geocoder = world([address("lyon", "rhone", "france", points="lyon")] * 3)
    built = SemanticPartitioning.build(coordinates, geocoder, 2, tau_d=1, area_only=area_only)
    assert built.labels == [label]
    assert built.assign(coordinates).tolist() == [0, 0, 0]


@given(
    addresses=messy,
    tau_mins=st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True),
    tau_d=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_laws_of_semantic_partitionings(addresses, tau_mins, tau_d, seed):
    coordinates, geocoder = world(addresses)
    hierarchy = build_hierarchy(addresses, tau_d)
    finest = hierarchy.finest(addresses)
    paths = [() if key is None else hierarchy.path(key) for key in finest]
    carried = Counter(key for path in paths for key in path)
    assume(max(carried.values(), default=0) >= max(tau_mins))
    built = semantic_partitionings(coordinates, geocoder, tau_mins, tau_d)
    for tau_min, partitioning in zip(sorted(tau_mins), built, strict=True):
        # Each sample is in the finest location that is frequent enough, or nowhere.
        places = [next((k for k in path if carried[k] >= tau_min), None) for path in paths]
        keys = [*partitioning.cells["key"], None]
        classes = partitioning.assign(coordinates)
        assert [keys[i] for i in classes] == places
        assert all(carried[key] >= tau_min for key in keys[:-1])
        assert partitioning.parameters["n_unassigned"] == places.count(None)
        assert partitioning.cells["n_samples"].sum() + places.count(None) == len(addresses)
        assert partitioning.cells["n_samples"].min() > 0
        assert partitioning.cells["key"].is_unique
    for finer, coarser in pairwise(built):
        parents_hold_children(finer, coarser, coordinates)
    order = np.random.default_rng(seed).permutation(len(addresses))
    same(built, semantic_partitionings(coordinates[order], geocoder, tau_mins[::-1], tau_d))


APART = [(30, 30), (30, -30), (-30, 30)]  # on one face of the cube, in three children of it


def france(**options):
    return SemanticPartitioning.build(*world(FRANCE), **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: semantic_partitionings(*world(FRANCE), []), "tau_mins"),
        (lambda: france(tau_min=0), "tau_mins"),
        (lambda: france(tau_min=10, tau_d=1), "no location carries more than 9 of the 10 images"),
        (lambda: france(tau_min=1, tau_d=0), "tau_d=0"),
        (lambda: s2_partitionings(APART, []), "tau_maxs"),
        (lambda: S2Partitioning.build(APART, 4, 3), "tau_min=4"),
        (lambda: S2Partitioning.build(APART, 0, 3), "tau_min=0"),
        (lambda: S2Partitioning.build(APART, 4, 9), "leave no cell of 3 images"),
        # Three images are too many for one cell, and one each is too few for its children.
        (lambda: S2Partitioning.build(APART, 2, 2), "leave no cell of 3 images"),
        (lambda: matching_tau_max(APART, 5, tau_min=4), "expected 1 to 3"),
        (lambda: S2Partitioning.build(APART, 1, 1).assign([(120, 30)]), r"coordinates\[0\]"),
        (lambda: S2Partitioning.build(APART, 1, 1).save("a.csv"), "'.csv'; expected .parquet or"),
        (lambda: france(tau_min=3, tau_d=1).with_polygons(), "'toy' knows no polygons"),
    ],
)
def test_partitionings_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_cell_is_its_place_without_the_classes_inside():
    partitioning = france(tau_min=3, tau_d=1)
    # lyon (2 × 2) in rhone (4 × 4); of france there is no polygon.
    squares = {"lyon": shapely.box(1, 1, 3, 3), "rhone": shapely.box(0, 0, 4, 4), "france": None}
    series = GeoSeries(squares, crs="EPSG:4326")
    partitioning.geocoder.polygons = lambda keys: series[keys]
    cells = partitioning.with_polygons().cells.set_index("key")
    assert cells.geometry["lyon"].equals(squares["lyon"])
    assert cells.geometry["rhone"].equals(squares["rhone"].difference(squares["lyon"]))
    assert cells.geometry["france"] is None
    assert cells["approximate"].all()
    # What was there before is as it was.
    assert partitioning.cells.geometry.isna().all()
    assert not partitioning.cells["approximate"].any()


# --- S2 --------------------------------------------------------------------------------------


@st.composite
def clusters(draw):
    """Points around a few centres, poles and antimeridian included, some of them repeated."""
    seed, n = draw(st.integers(0, 10**6)), draw(st.integers(1, 30))
    rng = np.random.default_rng(seed)
    centres = np.array([(90, 0), (-90, 0), (0, 180), (10, -180), (48, 2), (48.1, 2), (0, 45)])
    spread = rng.choice([0, 1e-5, 0.1, 20], (n, 1))
    latitude, longitude = (centres[rng.integers(0, 7, n)] + spread * rng.normal(size=(n, 2))).T
    latitude = np.clip(latitude, -90, 90)
    return np.column_stack((latitude, (longitude + 180) % 360 - 180))


def leaf(point):
    return s2sphere.CellId.from_lat_lng(s2sphere.LatLng.from_degrees(*point))


@pytest.mark.parametrize("level", [0, 13, 30])
def test_tokens_of_cells_at_a_level(level):
    points = [(48.85, 2.35), (-17.0, 180.0), (90.0, 0.0)]
    assert s2_tokens(points, level) == [leaf(point).parent(level).to_token() for point in points]


FACES = [s2sphere.CellId.from_face_pos_level(face, 0, 0) for face in range(6)]


def slow_quadtree(leaves, tau_min, tau_max):
    """Tokens by the definition: split while more than tau_max, drop below tau_min."""

    def visit(cells, inside):
        for cell in cells:
            own = [x for x in inside if cell.contains(x)]
            if len(own) > tau_max and not cell.is_leaf():
                yield from visit(cell.children(), own)
            elif len(own) >= tau_min:
                yield cell.to_token()

    return list(visit(FACES, leaves))


@given(
    coordinates=clusters(),
    tau_min=st.integers(1, 4),
    more=st.lists(st.integers(0, 12), min_size=1, max_size=3, unique=True),
)
def test_laws_of_s2_partitionings(coordinates, tau_min, more):
    tau_maxs = [tau_min + extra for extra in more]
    leaves = [leaf(point) for point in coordinates]
    slow = [slow_quadtree(leaves, tau_min, tau_max) for tau_max in sorted(tau_maxs)]
    assume(all(slow))
    built = s2_partitionings(coordinates, tau_maxs, tau_min)
    for tokens, partitioning in zip(slow, built, strict=True):
        assert partitioning.cells["key"].tolist() == tokens
        classes = partitioning.assign(coordinates)
        cells = [s2sphere.CellId.from_token(token) for token in tokens]
        for x, i in zip(leaves, classes, strict=True):
            holding = [k for k, cell in enumerate(cells) if cell.contains(x)]
            assert holding == [i] or (holding == [] and i == UNASSIGNED)
        assert partitioning.parameters["n_unassigned"] == (classes == UNASSIGNED).sum()
        sizes = np.bincount(classes[classes >= 0], minlength=len(tokens))
        assert partitioning.cells["n_samples"].tolist() == sizes.tolist()
        assert sizes.min() >= tau_min
    for finer, coarser in pairwise(built):
        assert (finer.parents_in(coarser) >= 0).all()
        parents_hold_children(finer, coarser, coordinates[finer.assign(coordinates) >= 0])
    same(built, s2_partitionings(coordinates[::-1], tau_maxs, tau_min))


@given(coordinates=clusters(), wanted=st.integers(1, 20), tau_min=st.integers(1, 3))
def test_matching_tau_max_is_the_best_of_all(coordinates, wanted, tau_min):
    assume(len(coordinates) >= tau_min)
    leaves = [leaf(point) for point in coordinates]
    misses = {
        tau_max: abs(len(slow_quadtree(leaves, tau_min, tau_max)) - wanted)
        for tau_max in range(tau_min, len(coordinates) + 1)
    }
    assert matching_tau_max(coordinates, wanted, tau_min) == min(misses, key=misses.__getitem__)


def test_cell_coordinates_across_the_antimeridian():
    coordinates = [(-17, 179.9), (-17, -179.9), (-17.1, 179.8), (-17.1, -179.8)]
    partitioning = S2Partitioning.build(coordinates, tau_min=1, tau_max=4)
    assert partitioning.n_classes == 1
    latitude, longitude = partitioning.coordinates[0]
    assert abs(abs(longitude) - 180) < 1e-9
    assert latitude == pytest.approx(-17.05, abs=1e-3)
    table = {tuple(map(float, point)): address("fiji") for point in coordinates}
    fiji = SemanticPartitioning.build(coordinates, Toy(table), tau_min=4, tau_d=4)
    np.testing.assert_array_equal(fiji.coordinates, partitioning.coordinates)


@pytest.mark.parametrize("level", [0, 1, 3])
def test_polygons_of_a_level_tile_the_map(level):
    cells = FACES
    for _ in range(level):
        cells = [child for cell in cells for child in cell.children()]
    centres = [(c.to_lat_lng().lat().degrees, c.to_lat_lng().lng().degrees) for c in cells]
    repeated = np.repeat(centres, 3, axis=0)
    # Three images in the middle of each cell of the level: split down to it, and no further.
    partitioning = S2Partitioning.build(repeated, tau_min=3, tau_max=3).with_polygons()
    shapes = partitioning.cells.geometry.to_numpy()
    assert len(shapes) == len(cells)
    assert shapely.is_valid(shapes).all()
    assert shapely.total_bounds(shapes) == pytest.approx([-180, -90, 180, 90])
    # No gaps and no overlaps: the areas add up to the map's, and so does their union.
    assert shapely.area(shapes).sum() == pytest.approx(360 * 180, rel=1e-9)
    assert shapely.union_all(shapes).area == pytest.approx(360 * 180, rel=1e-9)
    if level:  # the middle of a polar face is a pole, which has no single place on the map
        middles = shapely.points(partitioning.coordinates[:, ::-1])
        assert shapely.dwithin(shapes, middles, 1e-6).all()


def test_a_full_parent_stays_whole_where_its_children_would_be_too_few():
    assert S2Partitioning.build(APART, tau_min=2, tau_max=3).n_classes == 1


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".geojson"])
def test_semantic_partitioning_comes_back_whole(tmp_path, suffix):
    areas = (False, True, True)
    orleans = Address(("Orléans", "Loiret", "France"), ("o", "l", "f"), areas)
    gien = Address(("Gien", "Loiret", "France"), ("g", "l", "f"), areas)
    coordinates, geocoder = world([orleans] * 3 + [gien] * 2 + [Address()])
    saved = SemanticPartitioning.build(coordinates, geocoder, tau_min=3, tau_d=1)
    saved.save(tmp_path / f"cells{suffix}")
    loaded = SemanticPartitioning.load(tmp_path / f"cells{suffix}", geocoder)
    same([loaded], [saved])
    assert loaded.hierarchy == saved.hierarchy
    # Gien is no class, yet its images must be known to lie in Loiret.
    assert loaded.assign(coordinates).tolist() == saved.assign(coordinates).tolist()
    assert saved.assign(coordinates).tolist() == [1] * 3 + [0] * 2 + [UNASSIGNED]
    with pytest.raises(ValueError, match="geocoder is 'geonames'"):
        SemanticPartitioning.load(tmp_path / f"cells{suffix}")
    (tmp_path / f"broken{suffix}").write_text("{}")
    with pytest.raises(ValueError, match=f"broken{suffix}' holds no partitioning"):
        SemanticPartitioning.load(tmp_path / f"broken{suffix}", geocoder)
    with pytest.raises(ValueError, match="kind 'semantic'; S2Partitioning expects"):
        S2Partitioning.load(tmp_path / f"cells{suffix}")


@pytest.mark.parametrize("suffix", [".parquet", ".geojson"])
@pytest.mark.parametrize("polygons", [False, True])
def test_s2_partitioning_comes_back_whole(tmp_path, suffix, polygons):
    coordinates = np.random.default_rng(0).uniform((-90, -180), (90, 180), (300, 2))
    saved = S2Partitioning.build(coordinates, tau_min=3, tau_max=9)
    saved = saved.with_polygons() if polygons else saved
    saved.save(tmp_path / f"cells{suffix}")
    loaded = S2Partitioning.load(tmp_path / f"cells{suffix}")
    same([loaded], [saved])
    assert loaded.cells.geometry.isna().all() != polygons
    np.testing.assert_array_equal(loaded.assign(coordinates), saved.assign(coordinates))


def test_partitionings_of_other_kinds_hold_no_cells():
    kinds = S2Partitioning.build(APART, tau_min=1, tau_max=1), france(tau_min=3, tau_d=1)
    for one, other in (kinds, kinds[::-1]):
        with pytest.raises(TypeError, match=f"coarser is a {type(other).__name__}"):
            one.parents_in(other)


# --- ceilings --------------------------------------------------------------------------------


def test_ceilings_by_hand():
    # Cells a (samples at 0° and 8° of the equator, so coordinate 4°) and b (9°).
    table = {(0.0, 0.0): address("a"), (0.0, 8.0): address("a"), (0.0, 9.0): address("b")}
    partitioning = SemanticPartitioning.build(list(table), Toy(table), tau_min=1, tau_d=1)
    degree = math.pi * 6371 / 180
    asked = np.array([(0, 8), (0, 9), (0, 30)], dtype=float)
    # The point at 8° belongs to a, 4° away, though b's coordinate is 1° away; 30° is nowhere.
    own, nearest = own_cell_km(partitioning, asked), nearest_cell_km(partitioning, asked)
    np.testing.assert_allclose(own, [4 * degree, 0, math.inf], atol=1e-9)
    np.testing.assert_allclose(nearest, [degree, 0, 21 * degree], atol=1e-9)
    row = ceiling_table({"toy": [partitioning]}, {"three": asked}, (1, 200, 2500)).iloc[0]
    expected = {"configuration": "toy", "data": "three", "classes": 2, "fine": 2}
    expected |= {"unassigned": 1 / 3, "best 1": 1 / 3, "best 200": 2 / 3, "best 2500": 1}
    expected |= {"faultless 1": 1 / 3, "faultless 200": 1 / 3, "faultless 2500": 2 / 3}
    assert row.to_dict() == pytest.approx(expected)


@given(cells=clusters(), asked=clusters())
def test_no_cell_is_nearer_than_the_nearest(cells, asked):
    partitioning = S2Partitioning.build(cells, tau_min=1, tau_max=2)
    km = [
        great_circle_distance([point] * partitioning.n_classes, partitioning.coordinates).min()
        for point in asked
    ]
    np.testing.assert_allclose(nearest_cell_km(partitioning, asked), km, atol=1e-6)
    assert (nearest_cell_km(partitioning, asked) <= own_cell_km(partitioning, asked) + 1e-6).all()


# --- presets and real coordinates ------------------------------------------------------------


def test_presets_are_those_of_table_1():
    taus = [(100, 125, 150), *[(100, 150, 250)] * 2, (100, 125, 250), (75, 100, 150), (50, 75, 100)]
    expected = [(tau, 50, i in (1, 4)) for i, tau in enumerate(taus)]
    assert [tuple(preset) for preset in PAPER_PRESETS] == expected


@pytest.mark.skipif(not COORDINATES.is_dir(), reason=f"{COORDINATES} is absent")
def test_real_coordinates():
    yfcc, im2gps = (
        pd.read_csv(COORDINATES / f"{name}.csv")[["latitude", "longitude"]].to_numpy()
        for name in ("yfcc25600", "im2gps")
    )
    geocoder = OfflineGeocoder()
    fine, middle, coarse = semantic_partitionings(yfcc, geocoder, (100, 125, 250), 50)
    assert 100 < fine.n_classes < 130
    assert fine.n_classes > middle.n_classes > coarse.n_classes > 30
    assert "San Francisco, San Francisco County, California, United States" in fine.labels
    for finer, coarser in ((fine, middle), (middle, coarse)):
        parents_hold_children(finer, coarser, np.vstack([yfcc, im2gps]))
    assert (fine.assign(im2gps) >= 0).mean() > 0.6
