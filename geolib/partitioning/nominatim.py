"""Addresses and outlines of OpenStreetMap from a Nominatim server.

The only stage of the package that sends coordinates to another machine, rounded. Answers are kept,
so that no point is asked for twice, and a run that was killed goes on where it stood.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from geolib.download import http
from geolib.partitioning.cells import CRS
from geolib.partitioning.geocoding import Address
from geolib.runtime.here import cache_root, progress_bar
from geolib.sphere import check_coordinates

if TYPE_CHECKING:
    import geopandas as gpd

PUBLIC_SERVER = "https://nominatim.openstreetmap.org"
PUBLIC_RATE = 1.0
BULK = 1000
# What manuals call an application; such requests are blocked.
SAMPLES = ("my-application", "my_app/1", "my_user_agent/1.0", "specify_your_app_name_here")
ANSWER = 0.1  # seconds that an answer may well take
LOOKUP = 50  # OSM objects in one request
TOLERANCE = 0.001  # degrees by which outlines may be simplified, as in the paper's code
# Parts of an answer's address that are no locations.
NO_LOCATION = ("house_number", "house_name", "postcode", "country_code", "continent")


class NominatimGeocoder:
    """The addresses that a Nominatim server knows, in English.

    One request per distinct point. The policy of the public server allows one request a second
    from an application that names itself, no bulk work, and no use of ``/details``.

    Parameters
    ----------
    user_agent : names your application, best with a way to reach you, "my-study (me@example.org)".
    server : its address.
    rate : requests per second, at most, repeated ones included.
    areas : as in the paper, locations are known by their OSM objects, and whether each has an area,
        and which, is asked, too. Takes a server of your own: ``/details`` is asked for every
        object. Otherwise a location is known by its path of names, and none counts as an area.
    digits : decimals of a degree that are sent; four are eleven metres.

    ValueError for an address that is none, an application without a name, and what the public
    server's policy forbids.
    """

    approximate = False

    def __init__(
        self,
        user_agent: str,
        server: str = PUBLIC_SERVER,
        *,
        rate: float = PUBLIC_RATE,
        areas: bool = False,
        digits: int = 4,
    ) -> None:
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"server={server!r} is no address with https:// or http://")
        if not rate > 0:
            raise ValueError(f"rate={rate!r} must be positive: requests per second")
        if not user_agent.strip() or user_agent in SAMPLES:
            raise ValueError(f"user_agent={user_agent!r} does not name the application")
        self.public = parts.hostname == urlsplit(PUBLIC_SERVER).hostname
        if self.public and (rate > PUBLIC_RATE or areas):
            raise ValueError(
                f"rate={rate:g}, areas={areas}: the policy of {parts.hostname} allows one request "
                "a second and none for details; give the address of a server of your own"
            )
        self.server = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.name = f"nominatim {self.server}"
        self.areas, self.digits = areas, digits
        self._session = http.session(rate, {"User-Agent": user_agent})
        self._seconds = max(1 / rate, ANSWER)

    def reverse(self, coordinates: np.ndarray) -> list[Address]:
        """Addresses of points [N,2] (degrees, latitude first), from a building to the country.

        Empty where the server has nothing. ValueError for a coordinate out of range, and for more
        than a thousand new points for the public server; a RemoteError after all attempts, with
        what has been answered kept.
        """
        points = np.round(check_coordinates("coordinates", coordinates), self.digits) + 0.0
        distinct, position = np.unique(points, axis=0, return_inverse=True)
        requests = [f"lat={lat}&lon={lon}&zoom=18" for lat, lon in distinct.tolist()]
        new = len(set(requests) - self._kept("reverse").keys())
        if self.public and new > BULK:
            raise ValueError(
                f"coordinates holds {new} points that the public server was not asked for yet; its "
                f"policy forbids bulk work (here: more than {BULK}). Use OfflineGeocoder, or "
                "server= with the address of one of your own"
            )
        found = self._answers("reverse", requests, "points geocoded")
        addresses = self._with_areas(found) if self.areas else [_by_names(p) for p in found]
        return [addresses[i] for i in position.reshape(-1)]

    def polygons(self, keys: Sequence[str]) -> gpd.GeoSeries:
        """Outlines of locations such as "R7404" in degrees, by key; None for one without area.

        Simplified by at most a thousandth of a degree. ValueError for a geocoder that was not made
        with ``areas=True``; a RemoteError after all attempts.
        """
        import geopandas as gpd
        from shapely.geometry import shape

        if not self.areas:
            raise ValueError("areas=False: only a NominatimGeocoder(areas=True) knows outlines")
        outlines = self._outlines(keys)
        shapes = [shape(outlines[key]) if outlines.get(key) else None for key in keys]
        return gpd.GeoSeries(shapes, index=list(keys), crs=CRS)

    def _with_areas(self, found: Sequence[Any]) -> list[Address]:
        objects = [_object(place) for place in found]
        known = list(dict.fromkeys(key for key in objects if key))
        requests = [f"osmtype={key[0]}&osmid={key[1:]}&addressdetails=1" for key in known]
        details = self._answers("details", requests, "addresses")
        found_at = dict(zip(known, map(_by_objects, details), strict=True))
        outlines = self._outlines({key for one in found_at.values() for key in one.keys})
        addresses = {"": Address()}
        for key, one in found_at.items():
            area = tuple(bool(outlines.get(k)) for k in one.keys)
            addresses[key] = one._replace(has_area=area)
        return [addresses[key] for key in objects]

    def _outlines(self, keys: Iterable[str]) -> dict[str, Any]:
        """GeoJSON polygons of those that are OSM objects, None where there is no area."""
        wanted = sorted({key for key in keys if key[:1] in "NWR" and key[1:].isdigit()})
        return dict(zip(wanted, self._answers("outline", wanted, "outlines"), strict=True))

    def _answers(self, endpoint: str, requests: Sequence[str], what: str) -> list[Any]:
        """Answers to requests, from the store where they are known."""
        kept = self._kept(endpoint)
        missing = [request for request in requests if request not in kept]
        at_once = LOOKUP if endpoint == "outline" else 1
        with progress_bar(what, len(missing), "", len(missing) * self._seconds > 2) as bar:
            for start in range(0, len(missing), at_once):
                some = missing[start : start + at_once]
                if endpoint == "outline":
                    new = self._look_up(some)
                else:
                    new = {some[0]: self._get(endpoint, some[0])}
                self._keep(endpoint, new)
                kept |= new
                bar.update(len(some))
        return [kept[request] for request in requests]

    def _look_up(self, keys: Sequence[str]) -> dict[str, Any]:
        options = f"polygon_geojson=1&polygon_threshold={TOLERANCE}"
        areas = _areas(self._get("lookup", f"osm_ids={','.join(keys)}&{options}"))
        return {key: areas.get(key) for key in keys}

    def _get(self, endpoint: str, request: str) -> Any:
        address = f"{self.server}/{endpoint}?format=json&accept-language=en&{request}"
        asked = f"{self.server} {endpoint}"
        try:
            answer = json.loads(http.read(self._session, address, kind="application/json"))
        except http.RemoteError as error:
            if endpoint == "details" and isinstance(error, http.Absent):
                return None  # an interpolated house number, for example
            raise type(error)(f"{asked}: {error}") from error
        except ValueError as error:
            raise http.Broken(f"{asked} answered with broken JSON") from error
        if isinstance(answer, dict) and "error" in answer:
            if "Unable to geocode" in str(answer["error"]):
                return None
            raise http.Broken(f"{asked} answered {answer['error']!r}")
        try:  # what cannot be read is not kept
            if not isinstance(answer, list if endpoint == "lookup" else dict):
                raise TypeError(f"a {type(answer).__name__}")
            _READERS[endpoint](answer)
        except Exception as error:  # a stranger's JSON fails in many ways
            raise http.Broken(f"{asked} answered in another form than Nominatim") from error
        return answer

    def _kept(self, endpoint: str) -> dict[str, Any]:
        """What this server has answered, by request."""
        asked = "SELECT request, answer FROM answers WHERE server = ? AND endpoint = ?"
        with _store() as base:
            rows = base.execute(asked, (self.server, endpoint))
            return {request: json.loads(answer) for request, answer in rows}

    def _keep(self, endpoint: str, answers: Mapping[str, Any]) -> None:
        """Keep the answers to requests, all of them or none."""
        rows = [(self.server, endpoint, key, json.dumps(one)) for key, one in answers.items()]
        with _store() as base:
            base.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)


@contextmanager
def _store() -> Iterator[sqlite3.Connection]:
    """What servers have answered, on disk as soon as it came."""
    path = cache_root() / "geocoding" / "nominatim.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=60)) as base, base:
            base.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                "(server TEXT, endpoint TEXT, request TEXT, answer TEXT, "
                "PRIMARY KEY (server, endpoint, request))"
            )
            yield base
    except sqlite3.Error as error:
        raise ValueError(
            f"{path} cannot be used ({error}); it needs room, or go so that its answers are asked "
            "for again"
        ) from error


def _text(value: Any) -> str:
    """A name, a number in the place of one, or nothing for what names no location."""
    if isinstance(value, dict | list):
        raise TypeError(f"{value!r} is no name")
    unknown = value is None or isinstance(value, bool)
    return "" if unknown or value in (math.inf, -math.inf) or value != value else str(value).strip()


def _object(place: Mapping[str, Any] | None) -> str:
    """Key of an OSM object, for example ``R7404``; empty where there is none."""
    kind, number = (_text((place or {}).get(field)) for field in ("osm_type", "osm_id"))
    known = kind[:1].upper() in ("N", "W", "R") and number.isdigit()
    return f"{kind[0].upper()}{number}" if known else ""


def _by_names(place: Mapping[str, Any] | None) -> Address:
    """The address in an answer to ``/reverse``, which lists it from fine to coarse.

    Keys begin with the country's code, with its name where it has none, and with nothing where both
    are missing: locations of one name in two countries stay apart.
    """
    if place is None or not place["address"]:
        return Address()
    found = {label: _text(value) for label, value in place["address"].items()}
    parts = {
        label: name
        for label, name in found.items()
        if name and label not in NO_LOCATION and not label.startswith("ISO3166")
    }
    country = found.get("country_code", "").upper() or found.get("country", "")
    below = [name for label, name in parts.items() if label != "country"]
    path = [*below, country]
    keys = [*accumulate((one.replace("/", "-") for one in reversed(path)), "{}/{}".format)][::-1]
    names = (*below, *([parts["country"]] if "country" in parts else []))
    return Address(names, tuple(keys[: len(names)]), (False,) * len(names))


def _by_objects(details: Mapping[str, Any] | None) -> Address:
    """The address in an answer to ``/details``; whether they have areas is yet to be asked."""
    if details is None or not details["address"]:
        return Address()

    def key(row: Mapping[str, Any]) -> str:
        if found := _object(row):
            return found
        # Old servers leave out the number of the object itself, all of them that of some countries.
        if row.get("place_id") and row["place_id"] == details.get("place_id"):
            return _object(details)
        is_country = row.get("type") == "country"
        return (_text(details.get("country_code")).upper() or name(row)) if is_country else ""

    def name(row: Mapping[str, Any]) -> str:
        return _text(row.get("localname"))

    ranked = (row for row in details["address"] if row.get("rank_address"))
    rows = sorted(ranked, key=lambda row: -float(row["rank_address"]))
    named = {
        key(row): name(row)
        for row in rows
        if row.get("isaddress", True) and name(row) and row.get("type") not in NO_LOCATION
    }
    named.pop("", None)
    return Address(tuple(named.values()), tuple(named), (False,) * len(named))


def _areas(places: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """GeoJSON polygons in an answer to ``/lookup``, by key; objects without area are left out."""
    from shapely import get_coordinates
    from shapely.geometry import shape

    outlines = {_object(place): place.get("geojson") or {} for place in places}
    kinds = ("Polygon", "MultiPolygon")
    areas = {k: s for k, s in outlines.items() if s.get("type") in kinds and s["coordinates"]}
    if not all(np.isfinite(get_coordinates(shape(s))).all() for s in areas.values()):
        raise ValueError("NaN or infinite coordinates")
    return areas


_READERS: Mapping[str, Callable[[Any], object]] = {
    "reverse": _by_names,
    "details": _by_objects,
    "lookup": _areas,
}
