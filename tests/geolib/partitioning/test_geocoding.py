"""Reverse geocoders, on the machine and on a server, and the polygons of their locations."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from servers import Answer, busy, serve
from tenacity import wait_none

from geolib.download import http
from geolib.partitioning import SemanticPartitioning, nominatim, polygons
from geolib.partitioning.distance import great_circle_distance
from geolib.partitioning.geocoding import Address, OfflineGeocoder, nearest_places, places
from geolib.partitioning.nominatim import NominatimGeocoder
from geolib.partitioning.polygons import outlines

AGENT = "geolib tests (nobody@example.org)"


# Offline: the nearest place of a table.


def reverse(*points, **options):
    return OfflineGeocoder(**options).reverse(np.array(points, dtype=float))


def anywhere(n):
    return np.random.default_rng(0).uniform((-60, -180), (70, 180), (n, 2))


def northward(n):
    return np.column_stack([np.linspace(0, n - 1, n), np.zeros(n)])


def test_an_address_goes_from_fine_to_coarse_without_levels_that_have_no_name():
    arcachon, budapest, windhoek = reverse((44.66, -1.17), (47.48, 19.09), (-22.57, 17.08))
    names = ("Arcachon", "Departement de la Gironde", "Aquitaine", "France")
    paths = ("/Departement de la Gironde/Arcachon", "/Departement de la Gironde", "")
    keys = (*(f"FR/Aquitaine{path}" for path in paths), "FR")
    assert arcachon == Address(names, keys, (False, True, True, True))
    assert budapest.names[1:] == ("Budapest", "Hungary")
    assert budapest.keys[1:] == ("HU/Budapest", "HU")
    assert windhoek.names[-1] == "Namibia"  # whose code is no missing value


@given(st.floats(-90, 90), st.floats(-180, 180))
@example(-16.9, -179.95)  # across the antimeridian, and on it
@example(-18.0, 180.0)
@example(52.0, -179.95)
@example(66.0, 180.0)
def test_the_nearest_place_is_the_nearest_on_the_sphere(latitude, longitude):
    (found,), (km,) = nearest_places(np.array([[latitude, longitude]]))
    everywhere = places()[["latitude", "longitude"]].to_numpy()
    here = np.broadcast_to([latitude, longitude], everywhere.shape)
    truth = great_circle_distance(here, everywhere)
    np.testing.assert_allclose([km, truth[found]], truth.min(), atol=1e-4)


def test_far_at_sea_there_is_no_address():
    middle_of_the_pacific, near_the_coast = (-40.0, -130.0), (44.66, -1.5)
    assert reverse(middle_of_the_pacific) == [Address()]
    assert reverse(near_the_coast)[0].names[-1] == "France"
    assert reverse(near_the_coast, max_distance=5) == [Address()]


def test_every_location_has_one_key_and_every_key_one_location():
    table = places()
    assert table["place_key"].is_unique
    levels = [set(table.loc[table[f] != "", f"{f}_key"]) for f in ("admin2", "admin1", "country")]
    assert len(set(table["place_key"]).union(*levels)) == len(table) + sum(map(len, levels))
    assert len(table) > 144_000
    assert not table.duplicated(["latitude", "longitude"]).any()


def test_namesakes_in_one_area_are_told_apart():
    table = places()
    krajan = table[(table["place"] == "Krajan") & (table["admin1"] == "East Java")]
    assert len(krajan) > 50
    found = OfflineGeocoder().reverse(krajan[["latitude", "longitude"]].to_numpy())
    assert [address.keys[0] for address in found] == list(krajan["place_key"])
    assert {address.names[0] for address in found} == {"Krajan"}


def test_an_address_does_not_depend_on_its_neighbours():
    points, geocoder = anywhere(300), OfflineGeocoder(1000)
    order = np.random.default_rng(1).permutation(300)
    whole = geocoder.reverse(points)
    assert [whole[i] for i in order] == geocoder.reverse(points[order])
    assert geocoder.reverse(points[7:8]) == whole[7:8]
    assert geocoder.reverse(points[:0]) == []


def test_twenty_five_thousand_points_take_seconds():
    started = time.process_time()
    OfflineGeocoder().reverse(anywhere(25_600))
    assert time.process_time() - started < 10


PAIR = r"coordinates\[1\].*latitude -90…90 first"
BULK = np.column_stack([np.linspace(-60, 60, nominatim.BULK + 1), np.zeros(nominatim.BULK + 1)])


def asked(**options):
    return NominatimGeocoder(**{"user_agent": AGENT} | options)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        *(
            (lambda pair=pair: reverse((0, 0), pair), PAIR)
            for pair in ((90.5, 0), (0, -180.5), (np.nan, 0), (0, np.inf), (139.7, 35.7))
        ),
        (lambda: asked().reverse([[0, 0], [0, -np.inf]]), PAIR),
        (lambda: asked().reverse([[0, 0], [None, 0]]), PAIR),
        (lambda: asked().reverse([["north", 0]]), "coordinates holds what are no numbers: .*north"),
        (lambda: reverse(44.66, -1.17), "coordinates has shape"),
        (lambda: OfflineGeocoder(max_distance=0), "max_distance"),
        (lambda: OfflineGeocoder().polygons(["FR", "FR/Atlantis"]), "FR/Atlantis"),
        (lambda: asked(rate=2), "policy"),
        (lambda: asked(areas=True), "policy"),
        *(
            (lambda name=name: asked(user_agent=name), "user_agent")
            for name in ("", " ", "my-application")
        ),
        (lambda: asked(server="localhost:8080"), "server='localhost:8080'"),
        (lambda: asked(server="http://localhost", rate=0), "rate=0"),
        (lambda: asked(server="http://localhost").polygons(["R8"]), "areas=False"),
        (lambda: asked().reverse(BULK), r"1001 points .*policy forbids bulk .*OfflineGeocoder"),
        (lambda: asked().reverse(np.array([[100.0, 0.0]])), "coordinates"),
    ],
)
def test_bad_input_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()


# Polygons of places.


@pytest.fixture(scope="module")
def french():
    """Keys of French places, departments and regions, and their polygons."""
    table = places()
    some = table["admin1"].isin(["Corsica", "Aquitaine", "Bretagne"])
    own = table[(table["code"] == "FR") & (table["admin2"] != "") & some]
    names = own[own["admin1"] == "Corsica"]["place_key"].tolist()
    keys = [*names, *own["admin2_key"].unique(), *own["admin1_key"].unique(), "FR"]
    return OfflineGeocoder().polygons(keys)


def test_cells_of_siblings_do_not_overlap_and_fill_their_parent(french):
    assert french.is_valid.all()
    depth = french.index.str.count("/")
    for level in (1, 2, 3):
        cells = french[depth == level].to_numpy()
        together = shapely.union_all(cells).area
        assert shapely.area(cells).sum() == pytest.approx(together, rel=1e-9)
    departments = french[depth == 2]
    for key, region in french[depth == 1].items():
        own = departments[departments.index.str.startswith(f"{key}/")].to_numpy()
        assert shapely.area(own).sum() == pytest.approx(region.area, rel=0.02)


def test_cells_lie_within_the_outline_or_next_to_a_place(french):
    table = places()
    own = table[table["code"] == "FR"]
    islands = shapely.buffer(shapely.points(own["longitude"], own["latitude"]), polygons.ISLAND)
    beyond = shapely.difference(french.to_numpy(), outlines().geometry["FR"])
    assert shapely.area(shapely.difference(beyond, shapely.union_all(islands))).max() < 1e-9
    assert french["FR"].area == pytest.approx(outlines().geometry["FR"].area, rel=0.05)


def test_the_cells_of_all_places_tile_the_earth():
    table, cells = places(), polygons._cells()
    points = shapely.points(table["longitude"], table["latitude"])
    assert shapely.distance(cells, points).max() < 1e-3
    assert shapely.is_valid(cells).all()
    assert shapely.area(cells).sum() == pytest.approx(360 * 180, rel=1e-9)
    assert tuple(shapely.total_bounds(cells)) == pytest.approx((-180, -90, 180, 90))


def test_a_cell_holds_the_points_that_get_its_address():
    table = places()
    some = table["code"].isin(["FJ", "NZ", "CL", "SE"]) & (table["admin1"] != "")
    keys = table.loc[some, "admin1_key"].unique().tolist()
    inside = OfflineGeocoder().polygons(keys).representative_point()
    found = OfflineGeocoder(1e5).reverse(np.column_stack([inside.y, inside.x]))
    assert [a.keys[-2] for a in found] == keys


def test_a_country_across_the_antimeridian_is_cut_there():
    fiji = OfflineGeocoder().polygons(["FJ"])["FJ"]
    assert (fiji.bounds[0], fiji.bounds[2]) == (-180, 180)
    assert fiji.area < 3
    assert not fiji.intersects(shapely.Point(0, -17))


def test_polygons_of_a_partitioning_hold_the_places_of_their_cells():
    towns = places().query("code == 'CH'")[["latitude", "longitude"]].to_numpy()
    partitioning = SemanticPartitioning.build(towns, OfflineGeocoder(), tau_min=30, tau_d=10)
    cells = partitioning.with_polygons().cells
    assert len(cells) > 10
    assert cells["approximate"].all()
    shapes = cells.geometry.to_numpy()
    classes = partitioning.assign(towns)
    assert shapely.contains(shapes[classes], shapely.points(towns[:, ::-1])).all()
    assert shapely.union_all(shapes).area == pytest.approx(shapely.area(shapes).sum(), rel=1e-9)


def test_outlines_know_their_countries():
    table = outlines()
    codes = ("FR", "GF", "RE", "XK", "TW", "UA", "SJ", "NA", "RU", "AQ")
    north = (46.6, 4.0, -21.1, 42.6, 23.7, 45.3, 78.3, -22.0, 66.5, -89.0)
    east = (2.4, -53.0, 55.5, 20.9, 121.0, 34.4, 17.4, 17.0, -172.0, 100.0)
    inside = shapely.contains_xy(table.geometry[list(codes)].to_numpy(), east, north)
    assert inside.all(), codes
    assert table.is_valid.all()
    assert table.index.is_unique
    assert table.loc["JP", "name"] == "Japan"
    assert polygons.data_file("outlines.parquet").stat().st_size < 700_000


# Nominatim, on loopback.


@pytest.fixture(autouse=True)
def impatient(own_cache, monkeypatch):
    monkeypatch.setattr(http.read.retry, "wait", wait_none())
    monkeypatch.setattr(http.Retry, "get_backoff_time", lambda policy: 0)


def answer(content):
    return Answer(json.dumps(content).encode(), kind="application/json")


STREET = {"house_number": "12", "road": "Rue du Port/Quai", "town": "Arcachon"}
REGION = {"county": "Gironde", "ISO3166-2-lvl6": "FR-33"}
REGION |= {"state": "Nouvelle-Aquitaine", "ISO3166-2-lvl4": "FR-NAQ", "postcode": "33120"}
COUNTRY = {"country": "France", "country_code": "fr"}
ARCACHON = answer({"osm_type": "way", "osm_id": 42, "address": STREET | REGION | COUNTRY})
NAMES = ("Rue du Port/Quai", "Arcachon", "Gironde", "Nouvelle-Aquitaine", "France")
PAGE = Answer(b"<html>", kind="text/html")
NOTHING = answer({"error": "Unable to geocode"})
HERE = np.array([[44.66, -1.17]])


def geocoder(server, path="", rate=1000, **options):
    return NominatimGeocoder(AGENT, server.url + path, rate=rate, **options)


def test_a_server_that_may_live_at_a_path_is_asked_in_english_and_told_who_asks():
    with serve({"/geo/nominatim/reverse": ARCACHON}) as server:
        (found,) = geocoder(server, path="/geo/nominatim/").reverse(HERE)
    (request,) = server.requests
    assert found.names == NAMES
    assert found.keys[-3:] == ("FR/Nouvelle-Aquitaine/Gironde", "FR/Nouvelle-Aquitaine", "FR")
    assert found.keys[0] == "FR/Nouvelle-Aquitaine/Gironde/Arcachon/Rue du Port-Quai"
    assert not any(found.has_area)
    assert request.headers["user-agent"] == AGENT
    assert request.query["accept-language"] == "en"
    assert float(request.query["lat"]) == 44.66
    assert request.query["format"] == "json"


def test_only_rounded_coordinates_leave_the_machine():
    close = np.array([[44.661234, -1.171234], [44.661236, -1.171231], [-0.00001, 0.00001]])
    with serve({"/reverse": ARCACHON}) as server:
        geocoder(server).reverse(close)
        geocoder(server, digits=2).reverse(close)
    sent = [(r.query["lat"], r.query["lon"]) for r in server.requests]
    assert sorted(sent[:2]) == [("0.0", "0.0"), ("44.6612", "-1.1712")]
    assert sent[-1] == ("44.66", "-1.17")


def test_addresses_come_in_the_order_of_the_points():
    def by_latitude(request):
        return answer({"address": {"town": request.query["lat"], "country_code": "fr"}})

    with serve({"/reverse": by_latitude}) as server:
        found = geocoder(server).reverse(np.array([[3.0, 1], [1.0, 1], [2.0, 1], [1.0, 1]]))
    assert [address.names for address in found] == [("3.0",), ("1.0",), ("2.0",), ("1.0",)]
    assert len(server.requests) == 3


@pytest.mark.parametrize(("first", "second"), [(ARCACHON, NOTHING), (NOTHING, ARCACHON)])
def test_no_server_is_asked_twice_and_each_has_answers_of_its_own(first, second):
    with serve({"/reverse": first}) as server, serve({"/reverse": second}) as other:
        found = geocoder(server).reverse(HERE)
        assert (found == [Address()]) == (first is NOTHING)  # nothing is known at sea
        assert geocoder(other).reverse(HERE) != found
        server.kill()
        assert geocoder(server).reverse(HERE) == found


def test_a_run_that_is_killed_loses_nothing():
    def interrupt(request):
        return Answer(status=403) if float(request.query["lat"]) == 4 else ARCACHON

    with serve({"/reverse": interrupt}) as server:
        with pytest.raises(http.Refused):
            geocoder(server).reverse(northward(6))
        server.routes["/reverse"] = ARCACHON
        assert len(geocoder(server).reverse(northward(6))) == 6
        asked = [float(request.query["lat"]) for request in server.requests]
    assert asked == [0, 1, 2, 3, 4, 4, 5]


def test_a_server_is_given_the_time_it_asks_for():
    with serve({"/reverse": [busy(1), ARCACHON]}) as server:
        started = time.monotonic()
        (found,) = geocoder(server).reverse(HERE)
        assert 1 <= time.monotonic() - started < 3
    assert found.names == NAMES


@pytest.mark.parametrize(
    "trouble", [Answer(status=500), busy(0, 503), PAGE, replace(ARCACHON, cut=5)]
)
def test_a_server_that_recovers_is_asked_again(trouble):
    with serve({"/reverse": [trouble, trouble, ARCACHON]}) as server:
        (found,) = geocoder(server).reverse(HERE)
    assert found.names == NAMES


@pytest.mark.parametrize(
    ("trouble", "error", "requests"),
    [
        *((Answer(status=500), http.Failed, 1 + http.ATTEMPTS), (PAGE, http.Broken, 3)),
        *((Answer(status=403), http.Refused, 1), (Answer(status=404), http.Absent, 1)),
        *(
            (replace(ARCACHON, body=body), http.Broken, 1)
            for body in (b"{", b"", b"<html>busy</html>")
        ),
        *(
            (answer(odd), http.Broken, 1)
            for odd in [
                *(None, [], {}, 3, "Arcachon", ["hello"], {"osm_id": 3}, [{"address": COUNTRY}]),
                *({"error": "Invalid zoom"}, {"error": {"code": 400, "message": "Invalid"}}),
                *({"address": "Arcachon, France"}, {"address": [COUNTRY]}),
                {"address": COUNTRY | {"town": {"name": "Arcachon"}}},
            ]
        ),
    ],
)
def test_a_server_that_does_not_recover_is_named(trouble, error, requests):
    with serve({"/reverse": trouble}) as server:
        with pytest.raises(error, match=server.url):
            geocoder(server).reverse(HERE)
        assert len(server.requests) == requests
        server.routes["/reverse"] = ARCACHON
        assert geocoder(server).reverse(HERE)[0].names == NAMES


SOMALILAND = {"country": "Somaliland"}


@pytest.mark.parametrize(
    ("address", "names", "keys"),
    [
        ({"road": None, "town": "Arcachon"} | COUNTRY, "Arcachon|France", "FR/Arcachon|FR"),
        ({"town": " ", "road": ""} | COUNTRY, "France", "FR"),
        ({"road": 17, "town": float("nan")} | COUNTRY, "17|France", "FR/17|FR"),
        ({"road": float("inf"), "town": True} | COUNTRY, "France", "FR"),
        ({"town": "A"} | SOMALILAND, "A|Somaliland", "Somaliland/A|Somaliland"),
        (SOMALILAND | {"country_code": None}, "Somaliland", "Somaliland"),
        ({"town": "Melilla", "country_code": "es"}, "Melilla", "ES/Melilla"),
        ({"town": "Melilla", "country": None, "country_code": "ma"}, "Melilla", "MA/Melilla"),
        ({"sea": "North Sea"}, "North Sea", "/North Sea"),
        ({"town": "FR"}, "FR", "/FR"),  # not France
        # Nothing with a name; [] is an empty object, as PHP writes it.
        *((none, "", "") for none in ({"country_code": "fr", "postcode": 33120}, {}, [], None)),
    ],
)
def test_what_an_address_lacks_is_left_out_and_no_countries_are_merged(address, names, keys):
    with serve({"/reverse": answer({"osm_id": 3, "address": address})}) as server:
        (found,) = geocoder(server).reverse(HERE)
    names, keys = (tuple(filter(None, text.split("|"))) for text in (names, keys))
    assert found == Address(names, keys, (False,) * len(names))


def test_at_sea_there_is_no_address():
    for error in ("Unable to geocode", {"message": "Unable to geocode"}):
        with serve({"/reverse": answer({"error": error})}) as server:
            assert geocoder(server).reverse(HERE) == [Address()]


def test_a_store_that_is_broken_is_named(own_cache):
    path = own_cache / "geocoding" / "nominatim.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database, whatever its name may say" * 99)
    with pytest.raises(ValueError, match=r"nominatim\.sqlite cannot be used \(file is not"):
        asked(server="http://localhost").reverse(HERE)


@pytest.mark.parametrize("gone", [True, False])
def test_a_server_that_is_not_there_or_hangs_is_unreachable(monkeypatch, gone):
    monkeypatch.setattr(http, "TIMEOUT", 0.1)
    monkeypatch.setattr(http, "ATTEMPTS", 2)

    def hang(request):
        time.sleep(0.4)
        return ARCACHON

    with serve({"/reverse": hang}) as server:
        if gone:
            server.kill()
        with pytest.raises(http.Unreachable):
            geocoder(server).reverse(HERE)


@pytest.mark.parametrize(("points", "rate", "shown"), [(1, 1, False), (30, 1000, True)])
def test_what_takes_longer_than_a_moment_has_a_bar(monkeypatch, capsys, points, rate, shown):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with serve({"/reverse": ARCACHON}) as server:
        geocoder(server, rate=rate).reverse(northward(points))
    assert ("points geocoded" in capsys.readouterr().err) == shown


def test_the_rate_of_requests_is_kept_failures_included():
    times = []

    def note(request):
        times.append(time.monotonic())
        return Answer(status=500) if len(times) == 2 else ARCACHON

    with serve({"/reverse": note}) as server:
        geocoder(server, rate=4).reverse(northward(4))
    assert len(times) == 5
    assert times[4] - times[0] > 0.95


# Nominatim with the objects of OpenStreetMap.


def row(kind, number, name, rank, **more):
    found = {"osm_type": kind, "osm_id": number, "localname": name, "rank_address": rank}
    return found | {"place_id": number, "type": "administrative", "isaddress": True} | more


SQUARE = shapely.box(-2, 44, -1, 45).__geo_interface__
LINE = shapely.LineString([(-1, 44), (-2, 45)]).__geo_interface__
PARTS = [
    row("R", 8, "Nouvelle-Aquitaine", 8),
    row(None, None, "Rue du Port", 26, place_id=42, type="residential"),
    row("N", 7, "Arcachon", 16),
    row("R", 9, "Elsewhere", 12, isaddress=False),
    row(None, None, "33120", 5, type="postcode"),
    row(None, None, "France", 4, type="country"),
    row(None, None, "fr", 4, type="country_code", isaddress=False),
]
WAY = {"place_id": 42, "osm_type": "W", "osm_id": 42, "country_code": "fr"}
DETAILS = answer(WAY | {"address": PARTS})


POINT = {"type": "Point", "coordinates": [-1.17, 44.66]}
SHAPES = {"W42": LINE, "R8": SQUARE, "N7": POINT}


def found_at(key, shape):
    long = {"W": "way", "R": "relation", "N": "node"}
    return {"osm_type": long[key[0]], "osm_id": int(key[1:]), "geojson": shape}


def lookup(request):
    keys = request.query["osm_ids"].split(",")
    return answer([found_at(key, SHAPES[key]) for key in keys])


OBJECTS = {"/reverse": ARCACHON, "/details": DETAILS, "/lookup": lookup}


def test_with_areas_locations_are_objects_from_fine_to_coarse():
    with serve(dict(OBJECTS)) as server:
        asked = geocoder(server, areas=True)
        (found,) = asked.reverse(HERE)
        assert found == Address(
            ("Rue du Port", "Arcachon", "Nouvelle-Aquitaine", "France"),
            ("W42", "N7", "R8", "FR"),
            (False, False, True, False),
        )
        shapes = asked.polygons(["R8", "N7"])
        assert shapes["R8"].equals(shapely.box(-2, 44, -1, 45))
        assert shapes["N7"] is None
        paths = [request.path for request in server.requests]
        assert paths == ["/reverse", "/details", "/lookup"]
        assert geocoder(server, areas=True).reverse(HERE) == [found]
        assert len(server.requests) == 3


@pytest.mark.parametrize("missing", [{"/details": Answer(status=404)}, {"/reverse": NOTHING}])
def test_an_object_without_details_has_no_address(missing):
    with serve(OBJECTS | missing) as server:
        assert geocoder(server, areas=True).reverse(HERE) == [Address()]


ODD_PARTS = [
    row("relation", "8", 1984, 8),
    row("N", 7, "Arcachon", None),
    row("X", 9, "Elsewhere", 12),
    row(None, None, None, 10),
    row(None, None, "Somaliland", 4, type="country", place_id=None),
]


@pytest.mark.parametrize("whose", [{"place_id": None, "country_code": None}, {}])
def test_what_an_object_lacks_is_left_out_and_none_are_merged(whose):
    way = {"osm_type": "W", "osm_id": 42} | whose
    with serve(OBJECTS | {"/details": answer(way | {"address": ODD_PARTS})}) as server:
        (found,) = geocoder(server, areas=True).reverse(HERE)
    assert found == Address(("1984", "Somaliland"), ("R8", "Somaliland"), (True, False))


NOWHERE = {"type": "Polygon", "coordinates": [[[float("nan"), 0], [1, 0], [1, 1], [0, 0]]]}
LOOKUPS = (None, {}, ["W42"], [None], [found_at("R8", "Polygon")], [found_at("R8", NOWHERE)])


@pytest.mark.parametrize(
    "routes",
    [
        *({"/lookup": answer(odd)} for odd in LOOKUPS),
        *({"/details": answer(WAY | odd)} for odd in ({}, {"address": "Arcachon"})),
        {"/details": answer(WAY | {"address": [None]})},
        {"/details": answer([])},
    ],
)
def test_objects_in_another_form_are_named_and_not_kept(routes):
    with serve(OBJECTS | routes) as server:
        with pytest.raises(http.Broken, match=f"{server.url} .*another form"):
            geocoder(server, areas=True).reverse(HERE)
        server.routes |= OBJECTS
        (found,) = geocoder(server, areas=True).reverse(HERE)
    assert found.keys == ("W42", "N7", "R8", "FR")


@pytest.mark.parametrize("shape", [None, {}, {"type": "Polygon", "coordinates": []}, POINT])
def test_an_object_without_an_outline_has_no_area(shape):
    with serve({"/lookup": answer([found_at("R8", shape)])}) as server:
        assert geocoder(server, areas=True).polygons(["R8"])["R8"] is None


def test_outlines_are_asked_for_by_the_fifty():
    def squares(request):
        return answer([found_at(key, SQUARE) for key in request.query["osm_ids"].split(",")])

    with serve({"/lookup": squares}) as server:
        found = geocoder(server, areas=True).polygons([f"R{i}" for i in range(1, 121)])
    assert [len(r.query["osm_ids"].split(",")) for r in server.requests] == [50, 50, 20]
    assert found.notna().all()
