"""Addresses and outlines of OpenStreetMap from a Nominatim server.

The only stage of the package that sends coordinates to another machine, rounded. Answers are kept,
so that no point is asked for twice, and a run that was killed goes on where it stood.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from geopy.adapters import get_retry_after
from geopy.exc import (
    ConfigurationError,
    GeocoderAuthenticationFailure,
    GeocoderInsufficientPrivileges,
    GeocoderServiceError,
    GeocoderTimedOut,
    GeocoderUnavailable,
)
from geopy.extra.rate_limiter import RateLimiter
from geopy.geocoders import Nominatim
from tenacity import (
    RetryCallState,
    retry,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

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
TIMEOUT = 30.0
ANSWER = 0.1  # seconds that an answer may well take
LOOKUP = 50  # OSM objects in one request
TOLERANCE = 0.001  # degrees by which outlines may be simplified, as in the paper's code
# Parts of an answer's address that are no locations.
NO_LOCATION = ("house_number", "house_name", "postcode", "country_code", "continent")
_passing = wait_random_exponential(multiplier=0.5, max=30)


class NominatimGeocoder:
    """The addresses that a Nominatim server knows, in English.

    One request per distinct point. The policy of the public server allows one request a second
    from an application that names itself, no bulk work, and no use of ``/details``.

    Parameters
    ----------
    user_agent : names your application, best with a way to reach you, "my-study (me@example.org)".
    server : its address.
    rate : requests per second, at most.
    areas : as in the paper, locations are known by their OSM objects, and whether each has an area,
        and which, is asked, too. Takes a server of your own: ``/details`` is asked for every
        object. Otherwise a location is known by its path of names, and none counts as an area.
    digits : decimals of a degree that are sent; four are eleven metres.

    Raises
    ------
    ValueError : for an address that is none, an application without a name, and what the public
        server's policy forbids.
    """

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
            raise ValueError(
                f"server={server!r} is no address; one begins with https:// or http://"
            )
        if not rate > 0:
            raise ValueError(f"rate={rate!r} must be positive: requests per second")
        if not user_agent.strip():
            raise ValueError("user_agent is empty; servers want the name of the application")
        self.public = parts.hostname == urlsplit(PUBLIC_SERVER).hostname
        if self.public and (rate > PUBLIC_RATE or areas):
            raise ValueError(
                f"rate={rate:g}, areas={areas}: the policy of {parts.hostname} allows one request "
                "a second and none for details; give the address of a server of your own"
            )
        self.server = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.name = f"nominatim {self.server}"
        self.areas = areas
        self.digits = digits
        self._ask = _patient(self.server, user_agent, rate)
        self._wait = 1 / rate
        self._answers = _Answers(self.server)

    def reverse(self, coordinates: np.ndarray) -> list[Address]:
        """Addresses of points [N,2] (degrees, latitude first), from a building to the country.

        Empty where the server has nothing. ValueError for a coordinate out of range, and for more
        than a thousand new points for the public server; Unreachable, Refused or Broken after all
        attempts, with what has been answered kept.
        """
        points = np.round(check_coordinates("coordinates", coordinates), self.digits) + 0.0
        distinct, position = np.unique(points, axis=0, return_inverse=True)
        requests = [{"lat": lat, "lon": lon, "zoom": 18} for lat, lon in distinct.tolist()]
        new = len(self._missing("reverse", requests))
        if self.public and new > BULK:
            raise ValueError(
                f"coordinates holds {new} points that the public server was not asked for yet; its "
                f"policy forbids bulk work (here: more than {BULK}). Use OfflineGeocoder, or "
                "server= with the address of one of your own"
            )
        found = self._all("reverse", requests, "points geocoded")
        addresses = self._with_areas(found) if self.areas else [_by_names(p) for p in found]
        return [addresses[i] for i in position.reshape(-1)]

    def polygons(self, keys: Sequence[str]) -> gpd.GeoSeries:
        """Outlines of locations such as "R7404" in degrees, by key; None for one without area.

        Simplified by at most a thousandth of a degree. ValueError for a geocoder that was not made
        with ``areas=True``; Unreachable, Refused or Broken after all attempts.
        """
        import geopandas as gpd
        from shapely.geometry import shape

        if not self.areas:
            raise ValueError("areas=False: only a NominatimGeocoder(areas=True) knows outlines")
        outlines = self._outlines(keys)
        shapes = [shape(outlines[key]) if outlines[key] else None for key in keys]
        return gpd.GeoSeries(shapes, index=list(keys), crs=CRS)

    def _with_areas(self, found: Sequence[Any]) -> list[Address]:
        objects = [_object(place) for place in found]
        known = dict.fromkeys(key for key in objects if key)
        requests = {k: {"osmtype": k[0], "osmid": k[1:], "addressdetails": 1} for k in known}
        details = self._all("details", list(requests.values()), "addresses")
        addresses = dict(zip(requests, map(_by_objects, details), strict=True))
        outlines = self._outlines({key for a in addresses.values() for key in a.keys})
        for key, one in addresses.items():
            area = tuple(bool(outlines[k]) for k in one.keys)
            addresses[key] = one._replace(has_area=area)
        return [addresses.get(key, Address()) for key in objects]

    def _outlines(self, keys: Iterable[str]) -> dict[str, Any]:
        """GeoJSON polygons by key, None where there is no area."""
        wanted = sorted({key for key in keys if _is_object(key)})
        missing = [key for key in wanted if ("outline", key) not in self._answers]
        options = {"polygon_geojson": 1, "polygon_threshold": TOLERANCE}
        with self._bar("outlines", len(missing)) as bar:
            for start in range(0, len(missing), LOOKUP):
                some = missing[start : start + LOOKUP]
                answer = self._get("lookup", {"osm_ids": ",".join(some), **options})
                found = {_object(place): place.get("geojson") for place in answer}
                self._answers.add("outline", {key: _area(found.get(key)) for key in some})
                bar.update(len(some))
        return {key: self._answers["outline", key] if _is_object(key) else None for key in keys}

    def _all(self, endpoint: str, requests: Sequence[Mapping[str, Any]], what: str) -> list[Any]:
        """Answers to requests, from the store where they are known."""
        missing = self._missing(endpoint, requests)
        with self._bar(what, len(missing)) as bar:
            for request in missing:
                self._answers.add(endpoint, {_text(request): self._get(endpoint, request)})
                bar.update()
        return [self._answers[endpoint, _text(request)] for request in requests]

    def _missing(self, endpoint: str, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
        return [r for r in requests if (endpoint, _text(r)) not in self._answers]

    def _get(self, endpoint: str, request: Mapping[str, Any]) -> Any:
        try:
            answer = self._ask(f"{self.server}/{endpoint}", request)
        except GeocoderServiceError as error:
            if endpoint == "details" and _status(error) == 404:
                return None  # an interpolated house number, for example
            raise _meaning(error)(f"{self.server} {endpoint}: {error}") from error
        if isinstance(answer, dict) and "error" in answer:
            if answer["error"] == "Unable to geocode":
                return None
            raise http.Broken(f"{self.server} {endpoint} answered {answer['error']!r}")
        expected = list if endpoint == "lookup" else dict
        if not isinstance(answer, expected) or (expected is dict and "address" not in answer):
            raise http.Broken(f"{self.server} {endpoint} answered in another form than Nominatim")
        return answer

    def _bar(self, what: str, total: int) -> Any:
        return progress_bar(what, total, "", shown=total * max(self._wait, ANSWER) > 2)


def _patient(server: str, user_agent: str, rate: float) -> Callable[[str, Mapping[str, Any]], Any]:
    """Requests to endpoints, every attempt within the rate, repeated where a server is busy."""
    scheme, domain = server.split("://")
    try:
        client = Nominatim(scheme=scheme, domain=domain, user_agent=user_agent, timeout=TIMEOUT)
    except ConfigurationError as error:
        raise ValueError(f"user_agent={user_agent!r} does not name the application") from error

    def get(address: str, request: Mapping[str, Any]) -> Any:
        # geopy knows neither /details nor /lookup.
        params = {"format": "json", "accept-language": "en", **request}
        return client._call_geocoder(client._construct_url(address, params), lambda answer: answer)

    slowly = RateLimiter(
        get,
        min_delay_seconds=1 / rate,
        error_wait_seconds=1 / rate,
        max_retries=0,
        swallow_exceptions=False,
    )

    return retry(
        retry=retry_if_exception(_may_pass),
        wait=_as_told,
        stop=stop_after_attempt(http.ATTEMPTS),
        reraise=True,
    )(slowly)


def _may_pass(error: BaseException) -> bool:
    status = _status(error)
    return isinstance(error, GeocoderServiceError) and (status in http.PASSING or status is None)


def _status(error: BaseException) -> int | None:
    return getattr(error.__cause__, "status_code", None)


def _as_told(state: RetryCallState) -> float:
    """Seconds that the server asks to wait, or ever more."""
    error = state.outcome.exception() if state.outcome else None
    told = get_retry_after(getattr(getattr(error, "__cause__", None), "headers", {}))
    return _passing(state) if told is None else told


def _meaning(error: GeocoderServiceError) -> type[http.RemoteError]:
    if isinstance(error, (GeocoderAuthenticationFailure, GeocoderInsufficientPrivileges)):
        return http.Refused
    if isinstance(error, (GeocoderUnavailable, GeocoderTimedOut)):
        return http.Unreachable
    return http.Broken


class _Answers:
    """What a server has answered, on disk as soon as it came."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.path = cache_root() / "geocoding" / "nominatim.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as base:
            base.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                "(server TEXT, endpoint TEXT, request TEXT, answer TEXT, "
                "PRIMARY KEY (server, endpoint, request))"
            )

    def __contains__(self, key: tuple[str, str]) -> bool:
        return bool(self._find(key))

    def __getitem__(self, key: tuple[str, str]) -> Any:
        return json.loads(self._find(key)[0][0])

    def add(self, endpoint: str, answers: Mapping[str, Any]) -> None:
        """Keep the answers to requests, all of them or none."""
        rows = [
            (self.server, endpoint, request, json.dumps(answer, ensure_ascii=False))
            for request, answer in answers.items()
        ]
        with self._open() as base:
            base.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)

    def _find(self, key: tuple[str, str]) -> list[tuple[str]]:
        where = "server = ? AND endpoint = ? AND request = ?"
        command = f"SELECT answer FROM answers WHERE {where}"
        with self._open() as base:
            return base.execute(command, (self.server, *key)).fetchall()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=60)) as base, base:
            yield base


def _text(request: Mapping[str, Any]) -> str:
    return json.dumps(request, sort_keys=True)


def _object(place: Mapping[str, Any] | None) -> str:
    """Key of an OSM object, for example ``R7404``; empty where there is none."""
    if not place or "osm_id" not in place:
        return ""
    return f"{place['osm_type'][0].upper()}{place['osm_id']}"


def _is_object(key: str) -> bool:
    return key[:1] in "NWR" and key[1:].isdigit()


def _area(geometry: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return geometry if geometry and geometry["type"] in ("Polygon", "MultiPolygon") else None


def _by_names(place: Mapping[str, Any] | None) -> Address:
    """The address in an answer to ``/reverse``, which lists it from fine to coarse."""
    if not place:
        return Address()
    parts = {
        label: name
        for label, name in place["address"].items()
        if label not in NO_LOCATION and not label.startswith("ISO3166")
    }
    names = tuple(parts.values())
    steps = parts | {"country": place["address"].get("country_code", "").upper()}
    path = [steps[label].replace("/", "-") for label in parts]
    keys = accumulate(reversed(path), "{}/{}".format)
    return Address(names, tuple(keys)[::-1], (False,) * len(names))


def _by_objects(details: Mapping[str, Any] | None) -> Address:
    """The address in an answer to ``/details``; whether they have areas is yet to be asked."""
    if not details:
        return Address()
    rows = sorted(details["address"], key=lambda row: -row["rank_address"])
    named = {
        _row_key(row, details): row["localname"]
        for row in rows
        if row["isaddress"] and row["localname"] and row["type"] not in NO_LOCATION
    }
    named.pop("", None)
    return Address(tuple(named.values()), tuple(named), (False,) * len(named))


def _row_key(row: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    if row.get("osm_id"):
        return _object(row)
    # Old servers leave out the number of the object itself, all of them that of some countries.
    if row.get("place_id") == details["place_id"]:
        return _object(details)
    return details["country_code"].upper() if row["type"] == "country" else ""
