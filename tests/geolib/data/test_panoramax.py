"""Panoramax: from a server that misbehaves, every photograph once, with its licence and author."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from itertools import compress
from types import ModuleType
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
import requests
from servers import Answer, Request, Route, jpeg, serve

from geolib import data, images
from geolib.download import http
from geolib.download.collect import failures

# The package's attribute of that name is the dataset's function.
panoramax: ModuleType = importlib.import_module("geolib.data.panoramax")

NAMES = [f"0000-{number:04}" for number in range(40)]
CAMERA = "pers:interior_orientation"
FRANCE, JAPAN = (2.0, 48.0, 3.0, 49.0), (139.0, 35.0, 140.0, 36.0)


def item(number: int, south: float = 48.0, west: float = 2.0, **properties) -> dict:
    """A picture as the catalogue describes it; numbers lie 1.1 km apart from south to north."""
    name = NAMES[number]
    known = {
        "license": "CC-BY-SA-4.0",
        "geovisio:producer": "Ada",
        "geovisio:status": "ready",
        "geovisio:visibility": "anyone",
        CAMERA: {"field_of_view": 70, "sensor_array_dimensions": [4000, 3000]},
        "exif": {"Exif.Photo.BodySerialNumber": "SECRET-4711"},
    }
    return {
        "id": name,
        "providers": [{"name": "Ada", "roles": ["producer"]}],
        "properties": known | properties,
        "assets": {"sd": {"href": f"/pictures/{name}.jpg"}, "thumb": {"href": "/thumb.jpg"}},
        **place(west + 0.5, south + 0.005 + 0.01 * number),
    }


def place(*coordinates: object) -> dict:
    return {"geometry": {"type": "Point", "coordinates": coordinates}}


def catalogue(items: list[dict]) -> dict[str, Route]:
    """Routes of a server that knows some pictures and lists them page by page."""

    def search(request: Request) -> Answer:
        bbox = request.query["bbox"]
        west, south, east, north = map(float, bbox.split(","))
        spots = (one["geometry"]["coordinates"] for one in items)
        hits = (west <= spot[0] <= east and south <= spot[1] <= north for spot in spots)
        inside = list(compress(items, hits))
        limit, start = int(request.query["limit"]), int(request.query.get("from", 0))
        stop = start + limit
        more = f"/api/search?bbox={bbox}&limit={limit}&from={stop}" if stop < len(inside) else None
        return page(request, inside[start:stop], more)

    pictures: dict[str, Route] = {f"/pictures/{one['id']}.jpg": photo(one["id"]) for one in items}
    return pictures | {"/api/search": search}


def photo(name: str) -> Answer:
    return Answer(jpeg(name), kind="image/jpeg")


def page(request: Request, items: list, following: str | None = None) -> Answer:
    """Pictures with addresses of this server, and where the next ones are."""
    host = f"http://{request.headers['host']}"
    links = [{"rel": "root", "href": f"{host}/api"}]
    links += [{"rel": "next", "href": host + following}] if following else []
    text = json.dumps({"features": items, "links": links})
    text = text.replace('"/pictures/', f'"{host}/pictures/')
    return Answer(text.encode(), kind="application/geo+json")


@contextmanager
def pictures(amount: int, **properties):
    """A server with so many pictures."""
    with serve(catalogue([item(i, **properties) for i in range(amount)])) as server:
        yield server


def files(*span: int) -> list[str]:
    return [f"{NAMES[i]}.jpg" for i in range(*span)]


def asked(server, prefix: str = "/pictures/") -> Counter[str]:
    """How often each address was asked for."""
    paths = (request.path for request in server.requests)
    return Counter(path for path in paths if path.startswith(prefix))


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(panoramax, "PER_SECOND", None)
    # Waiting is the business of the tests of geolib.download.http.
    monkeypatch.setattr(http.read.retry, "sleep", lambda seconds: None)


def options(server, **more) -> dict:
    return {"areas": {"France": FRANCE}, "api": f"{server.url}/api"} | more


def left_out(root) -> dict[str, int]:
    return json.loads((root / "request.json").read_text())["left_out"]


def load(server, split="all", **more) -> data.GeoDataset:
    return data.load("panoramax", split, **options(server, **more))


# What comes back ----------------------------------------------------------------------------------


def test_photographs_know_country_place_licence_and_author(tmp_path):
    tokyo = item(1, 35.0, 139.0, **{"license": "etalab-2.0", "geovisio:producer": "Bo"})
    tokyo["providers"] = [{"name": "Bo"}, {"name": "Cy  Co."}]
    with serve(catalogue([item(0), tokyo])) as server:
        found = load(server, areas={"Japan": JAPAN, "France": FRANCE}, root=tmp_path)
    assert found.name == "panoramax"
    assert found.classes == ("Japan", "France")
    items = {one.country: one for one in (found[i] for i in range(2))}
    for country, number, *known in [
        ("France", 0, 1, 48.005, 2.5, "CC-BY-SA-4.0", "Ada / Panoramax"),
        ("Japan", 1, 0, 35.015, 139.5, "etalab-2.0", "Bo, Cy Co. / Panoramax"),
    ]:
        one = items[country]
        found = [one.label, one.latitude, one.longitude, one.licence, one.attribution]
        assert found == known
        np.testing.assert_array_equal(one.image, images.read(jpeg(NAMES[number])))


def test_a_folder_holds_one_request_and_nothing_private_and_is_a_dataset_too(tmp_path):
    with pictures(3) as server:
        load(server, root=tmp_path)
        with pytest.raises(ValueError, match=r"root=.* another request, .*give another root"):
            load(server, root=tmp_path, dates="2023")
    again = data.load("folder", "all", root=tmp_path)
    assert sorted(again.ids) == files(3)
    assert {again[i].attribution for i in range(3)} == {"Ada / Panoramax"}
    texts = [p.read_bytes() for p in tmp_path.iterdir() if p.suffix in (".csv", ".json")]
    assert len(texts) == 2
    assert not any(b"SECRET" in text for text in texts)
    table = pd.read_csv(tmp_path / "metadata.csv")
    columns = "file country latitude longitude licence attribution address"
    assert table.columns.tolist() == columns.split()
    assert table["file"].is_unique and len(table) == 3


def test_every_page_is_read_and_every_picture_taken_once(monkeypatch, tmp_path):
    monkeypatch.setattr(panoramax, "PAGE", 7)
    # A catalogue that grows while it is read shows some pictures on two pages.
    items = [item(i) for i in range(18)]
    items.insert(9, items[3])
    with serve(catalogue(items)) as server:
        found = load(server, root=tmp_path, dates=("2023-05", "2024"))
    assert sorted(found.ids) == files(18)
    searches = [r for r in server.requests if r.path == "/api/search"]
    assert {request.method for request in searches} == {"GET"}
    assert [request.query.get("from") for request in searches] == [None, "7", "14"]
    assert searches[0].query == {
        "bbox": "2.0,48.0,3.0,49.0",
        "datetime": "2023-05-01T00:00:00Z/2024-12-31T23:59:59Z",
        "limit": "7",
    }
    assert set(asked(server).values()) == {1}


def test_a_next_page_that_is_the_same_page_ends_the_search(tmp_path):
    def endless(request: Request) -> Answer:
        return page(request, [item(0), item(1)], "/api/search?bbox=2,48,3,49&limit=5")

    with serve(catalogue([item(0), item(1)]) | {"/api/search": endless}) as server:
        assert len(load(server, root=tmp_path)) == 2
    assert asked(server, "/api/search").total() == 2


def test_per_area_ends_the_search_early(monkeypatch, tmp_path):
    monkeypatch.setattr(panoramax, "LOOKED_AT", 2)
    with pictures(30) as server:
        found = load(server, root=tmp_path, per_area=3)
    assert sorted(found.ids) == files(3)
    assert asked(server, "/api/search").total() == 1


@pytest.mark.parametrize(
    ("unwanted", "reason"),
    [
        *((item(5, license=it), "without an open licence") for it in (None, " ", "proprietary")),
        (item(5, **{"geovisio:producer": None}) | {"providers": []}, "without an author"),
        (item(5, **{"geovisio:visibility": "owner-only"}), "not public"),
        (item(5, **{"geovisio:status": "broken"}), "not public"),
        (item(5, **{CAMERA: {"field_of_view": 360}}), "panorama"),
        (item(5, **{CAMERA: {"sensor_array_dimensions": [5760, 2880]}}), "panorama"),
        (item(5) | {"assets": {"thumb": {"href": "/thumb.jpg"}}}, "without an image"),
        *(
            (item(5) | damage, "damaged record")
            for damage in ({"id": "../../escape"}, {"id": 7}, {"properties": None})
        ),
        *((item(5) | place(2.5, north), "damaged record") for north in (480.0, "north")),
        (["not", "a", "record"], "damaged record"),
        (item(5) | place(2.5, 47.9), "outside the area"),
        (item(5) | place(2.5, 48.00518), "close to another"),  # 20 m north of it
        (item(5) | place(2.5, 48.007), None),  # 200 m are far enough
        # Older servers write no more than this.
        (item(5) | {"properties": {"license": "CC0", "geovisio:producer": "Ada"}}, None),
    ],
)
def test_what_cannot_be_used_is_left_out_and_counted(tmp_path, unwanted, reason):
    routes = {
        "/api/search": lambda request: page(request, [item(0), unwanted, item(1)]),
        "/pictures/*": photo("any"),
    }
    with serve(routes) as server:
        assert panoramax.prepare(tmp_path, **options(server)).complete
    assert left_out(tmp_path) == ({reason: 1} if reason else {})
    kept = {NAMES[0], NAMES[1]} if reason else {NAMES[0], NAMES[1], NAMES[5]}
    assert {p.stem for p in tmp_path.glob("*.jpg")} == kept


def test_a_picture_of_two_areas_belongs_to_the_first(tmp_path):
    areas = {"West": FRANCE, "East": (2.4, 48.0, 2.6, 49.0)}
    with pictures(4) as server:
        found = load(server, root=tmp_path, areas=areas)
    assert [found[i].country for i in range(len(found))] == ["West"] * 4


def test_a_circle_of_100_km_by_hand(tmp_path):
    # A degree on a sphere of 6371 km is 111.195 km: 0.8993° are 100 km.
    spots = {"near": (0.89, 0), "far": (0.91, 0), "corner": (0.7, 0.7), "inner": (0.6, 0.6)}
    items = []
    for name, (latitude, longitude) in spots.items():
        image = {"assets": {"sd": {"href": f"/pictures/{name}.jpg"}}}
        items.append(item(0) | place(longitude, latitude, 35.0) | image | {"id": name})
    with serve(catalogue(items)) as server:
        panoramax.prepare(tmp_path, **options(server, areas={"Sea": (0, 0, 100)}))
    assert {p.stem for p in tmp_path.glob("*.jpg")} == {"near", "inner"}
    # The server was asked for the box around the circle, which leaves out "far".
    assert left_out(tmp_path) == {"outside the area": 1}
    search = next(r for r in server.requests if r.path == "/api/search")
    bbox = np.array(search.query["bbox"].split(","), float)
    np.testing.assert_allclose(bbox, [-0.89932, -0.89932, 0.89932, 0.89932], atol=2e-5)


def test_splits_share_no_place_and_lose_nothing(tmp_path):
    with pictures(40) as server:
        parts = [load(server, split) for split in ("train", "validation", "test")]
        whole = load(server)
    ids = [set(part.ids) for part in parts]
    assert sum(map(len, ids)) == len(set.union(*ids)) == len(whole) == 40
    assert [len(part) for part in parts] == [28, 6, 6]
    # The second to fourth call read what the first had fetched, in a folder of the cache.
    assert set(asked(server).values()) == {1}
    assert asked(server, "/api/search").total() == 1


# A bad server -------------------------------------------------------------------------------------


def test_what_cannot_be_had_is_listed_and_asked_for_again_only_on_demand(tmp_path):
    whole = catalogue([item(i) for i in range(6)])
    bad = {
        "/pictures/0000-0000.jpg": Answer(b"gone", 403, "text/plain"),
        "/pictures/0000-0001.jpg": Answer(b"<html>", kind="text/html"),
        "/pictures/0000-0002.jpg": Answer(b"no picture at all", kind="image/jpeg"),
    }
    with serve(whole | bad) as server:
        with pytest.warns(UserWarning, match=r"6 images wanted: 0 were there, 3 fetched, 3 failed"):
            found = load(server, root=tmp_path)
        assert sorted(found.ids) == files(3, 6)
        reasons = dict(found.skipped)
        assert sorted(reasons) == files(3)
        assert "withdrawn" in reasons["0000-0000.jpg"]
        assert failures(tmp_path)["id"].tolist() == NAMES[:3]
        assert failures(tmp_path)["kind"].tolist() == ["Absent", "Broken", "UnreadableImage"]
        before = len(server.requests)
        assert len(load(server, root=tmp_path)) == 3
        assert len(server.requests) == before
        server.routes.update(whole)
        done = panoramax.prepare(tmp_path, **options(server))
        assert (done.present, done.fetched) == (3, 3)
        assert len(load(server, root=tmp_path)) == 6
    assert load(server, root=tmp_path).skipped == []


def test_a_server_that_is_killed_half_way(tmp_path):
    with pictures(12) as server:
        server.die_at(6, "/pictures/")
        with pytest.warns(UserWarning, match="Unreachable"):
            part = load(server, root=tmp_path)
        assert 0 < len(part) < 12
        server.revive()
        whole = load(server, root=tmp_path)
    assert sorted(whole.ids) == files(12)
    assert len(failures(tmp_path)) == 0
    assert all(asked(server)[f"/pictures/{name}"] == 1 for name in part.ids)
    # The catalogue had been read before, and is not asked again.
    assert asked(server, "/api/search").total() == 1


def test_no_answer_is_noticed_at_once_and_said(tmp_path):
    with serve({}) as server:
        pass
    started = time.monotonic()
    with pytest.raises(http.Unreachable, match=r"127\.0\.0\.1.* does not answer"):
        load(server, root=tmp_path)
    assert time.monotonic() - started < 3


def test_a_search_for_the_address_that_hangs_is_given_up(monkeypatch):
    released = threading.Event()

    def hang(address, timeout):
        released.wait(20)
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", hang)
    started = time.monotonic()
    assert not panoramax.answers(seconds=0.2)
    assert time.monotonic() - started < 2
    released.set()


@pytest.mark.parametrize("body", [b"[]", b'{"features": 3}', b'{"features": [', b"\xff\xfe"])
def test_an_answer_that_is_no_list_of_pictures(tmp_path, body):
    answer = Answer(body, kind="application/json")
    refused = pytest.raises(http.Broken, match="something else than a list of pictures")
    with serve({"/api/search": answer}) as server, refused:
        load(server, root=tmp_path)


def test_rate_and_deadline_hold_for_catalogue_and_pictures(monkeypatch, tmp_path):
    rates, deadlines, session, read = [], {}, http.session, http.read

    def watched(session, address, **options):
        deadlines[urlsplit(address).path] = options["deadline"]
        return read(session, address, **options)

    monkeypatch.setattr(panoramax, "PER_SECOND", 500.0)
    monkeypatch.setattr(http, "session", lambda rate: rates.append(rate) or session(rate))
    monkeypatch.setattr(http, "read", watched)
    with pictures(1) as server:
        load(server, root=tmp_path)
    assert rates == [500.0]
    assert deadlines == dict.fromkeys(["/api/search", f"/pictures/{NAMES[0]}.jpg"], 120.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"areas": {}}, "areas is empty"),
        ({"areas": {" France": FRANCE}}, "' France'"),
        ({"areas": {"France": "Paris"}}, r"areas\['France'\]='Paris'; expected numbers"),
        ({"areas": {"France": (3, 48, 2, 49)}}, "west < east"),
        ({"areas": {"Fiji": (-17, 180, 50)}}, "180th meridian"),
        ({"areas": {"France": (48, 2, -1)}}, "latitude, longitude, radius"),
        ({"areas": {"France": (48, 2)}}, r"west, south, east, north.* or "),
        ({"areas": {"France": FRANCE}, "per_area": 0}, "per_area=0"),
        ({"areas": {"France": FRANCE}, "dates": "last year"}, "dates='last year'.*'2023'"),
    ],
)
def test_wrong_arguments_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        data.load("panoramax", **options)


def test_an_area_without_photographs(tmp_path):
    found_none = r"no photograph was found \(left out: 1 without an open"
    with pictures(1, license=None) as server, pytest.raises(ValueError, match=found_none):
        load(server, root=tmp_path)
