"""Panoramax: openly licensed street photographs by area and date, with no token.

Panoramax is a federation of public servers under one STAC catalogue. Their operators blur faces and
number plates before they publish, and every picture carries its licence and its author.
"""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import requests
from filelock import FileLock
from pydantic import AliasPath, BaseModel, Field, ValidationError
from pystac_client import ItemSearch
from pystac_client.stac_api_io import StacApiIO
from s2sphere import Angle, Cap, LatLng, LatLngRect

from geolib.data.folder import METADATA, folder
from geolib.data.records import GeoDataset, Skipped
from geolib.download import http
from geolib.download.collect import Summary, collect, failures
from geolib.runtime.here import cache_root, parsed_file, progress_bar
from geolib.sphere import EARTH_RADIUS_KM, s2_tokens

API = "https://api.panoramax.xyz/api"
PER_SECOND = 5.0
WORKERS = 4
# Seconds in which one answer must be whole.
DEADLINE = 120.0
# Most pictures per page of the catalogue, and for each photograph that is wanted.
PAGE = 1000
LOOKED_AT = 100
PER_AREA = 200
# Frames of one drive follow each other every few metres: one is kept per S2 cell of about 70 m.
SPACING_LEVEL = 17
# From this field of view on, degrees, a picture is a panorama and no photograph.
PANORAMA = 180.0
REQUEST = "request.json"
COLUMNS = ["file", "country", "latitude", "longitude", "licence", "attribution", "address"]
# Where an item tells of the camera.
CAMERA = "pers:interior_orientation"
# What STAC writes in place of a licence's name.
NO_LICENCE = {"", "other", "proprietary", "various"}


def panoramax(
    split: str,
    n: int | None = None,
    seed: int = 0,
    *,
    areas: Mapping[str, Sequence[float]],
    dates: str | Sequence[str] | None = None,
    per_area: int = PER_AREA,
    root: str | Path | None = None,
    api: str = API,
) -> GeoDataset:
    """Street photographs of some areas, fetched once and then read from disk.

    Splits keep places apart as :func:`geolib.data.folder` does. ``item.licence`` and
    ``item.attribution`` hold what has to be printed under a photograph. ``skipped`` lists the
    pictures that could not be fetched; :func:`prepare` tries them again.

    Parameters
    ----------
    split, n, seed : as for :func:`geolib.data.load`; ``"all"`` takes every photograph.
    areas : name of the country → where in it to look: ``(west, south, east, north)`` in degrees, or
        ``(latitude, longitude, radius)`` in degrees and kilometres. The names are the classes, in
        this order.
    dates : when the pictures were taken: ``"2023"``, ``"2023-05/2024"``, ``("2023-05-01", "..")``.
    per_area : photographs per area, at most.
    root : folder of the photographs; by default one of its own per request, in the cache.
    api : the catalogue of the federation, or that of one of its servers.

    Raises ValueError if an argument cannot be, ``root`` answers another request, or nothing was
    found; :class:`geolib.download.http.RemoteError` if photographs are missing and the catalogue
    does not answer, or not with pictures.
    """
    asked = _request(areas, dates, per_area, api)
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    place = Path(root or cache_root() / "panoramax" / digest[:16]).expanduser()
    if not _is_settled(place, asked):
        done = prepare(place, areas, dates=dates, per_area=per_area, api=api)
        if not done.complete:
            warnings.warn(f"{done}; see data.load(...).skipped", stacklevel=3)
    found = folder(split, n, seed, root=place, classes=tuple(areas))
    why = failures(place).set_index("id")["reason"]
    skipped = [Skipped(file, why.get(_id(file), reason)) for file, reason in found.skipped]
    return GeoDataset("panoramax", found.classes, split, found.records, skipped)


def prepare(
    root: str | Path,
    areas: Mapping[str, Sequence[float]],
    *,
    dates: str | Sequence[str] | None = None,
    per_area: int = PER_AREA,
    api: str = API,
) -> Summary:
    """Find photographs and fetch those that are missing; a killed run goes on where it stopped.

    The catalogue is asked once: what it answered is kept in ``ROOT/metadata.csv``, one row of
    :data:`COLUMNS` per photograph. Left out, and counted in ``ROOT/request.json``, are pictures
    without an open licence or an author, panoramas, and all but the first of each cell of about
    70 m. Pictures are taken in the catalogue's order, nearest to the middle of the area first.
    Arguments and errors are those of :func:`panoramax`.
    """
    asked = _request(areas, dates, per_area, api)
    root = Path(root).expanduser()
    if not answers(api):
        host = urlsplit(api).netloc
        raise http.Unreachable(
            f"{host} does not answer; what came is kept, try again with a network"
        )
    root.mkdir(parents=True, exist_ok=True)
    session = http.session(PER_SECOND)
    with FileLock(root / ".search.lock"):
        if not _is_answered(root, asked):
            _keep(root, asked, *_search(session, asked))
    table = _read_metadata(root)
    address = dict(zip(table["file"].map(_id), table["address"], strict=True))

    def fetch(name: str) -> bytes:
        try:
            return http.read(session, address[name], kind="image/", deadline=DEADLINE)
        except http.Refused as error:
            # No picture needs a token: storage answers so for what has been taken down.
            host = urlsplit(address[name]).netloc
            raise http.Absent(f"{host} has withdrawn the picture") from error

    return collect(address, root, fetch, WORKERS)


def answers(api: str = API, seconds: float = 3.0) -> bool:
    """Whether a server answers at all, decided within so many seconds."""
    statuses: list[int] = []

    def ask() -> None:
        with suppress(requests.RequestException):
            statuses.append(requests.head(api, timeout=seconds).status_code)

    # In a thread of its own, because no timeout of requests covers the search for the address.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(statuses)


# The request --------------------------------------------------------------------------------------


def _request(
    areas: Mapping[str, Sequence[float]], dates: str | Sequence[str] | None, per_area: int, api: str
) -> dict[str, Any]:
    """The request in JSON's types, checked."""
    if not areas:
        raise ValueError("areas is empty; expected {country: (west, south, east, north)}")
    for name, area in areas.items():
        if not name or name != name.strip():
            raise ValueError(f"areas holds the name {name!r}; expected one without outer spaces")
        _region(name, area)
    if per_area < 1:
        raise ValueError(f"per_area={per_area}; expected at least 1")
    interval = dates if dates is None or isinstance(dates, str) else "/".join(dates)
    asked = {
        "api": api.rstrip("/"),
        "areas": {name: [float(number) for number in area] for name, area in areas.items()},
        "dates": interval,
        "per_area": per_area,
    }
    try:
        ItemSearch(api, method="GET", datetime=interval)
    except Exception as error:  # pystac-client raises no kind of its own here
        wanted = "for example '2023', '2023-05/2024' or ('2023-05-01', '..')"
        raise ValueError(f"dates={dates!r}: {error}; expected {wanted}") from error
    return asked


def _region(name: str, area: Sequence[float]) -> LatLngRect | Cap:
    def wrong(expected: str) -> ValueError:
        return ValueError(f"areas[{name!r}]={area!r}; expected {expected}")

    try:
        numbers = [float(number) for number in area]
    except (TypeError, ValueError):
        raise wrong("numbers") from None
    match numbers:
        case [west, south, east, north]:
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                raise wrong(
                    "(west, south, east, north) in degrees, west < east and south < north; two "
                    "areas where one would cross the 180th meridian"
                )
            return LatLngRect(LatLng.from_degrees(south, west), LatLng.from_degrees(north, east))
        case [latitude, longitude, radius]:
            if not (abs(latitude) <= 85 and abs(longitude) <= 180 and 0 < radius <= 500):
                raise wrong("(latitude, longitude, radius): up to 85 and 180 degrees, and 500 km")
            centre = LatLng.from_degrees(latitude, longitude).to_point()
            cap = Cap.from_axis_angle(centre, Angle.from_radians(radius / EARTH_RADIUS_KM))
            if cap.get_rect_bound().lng().is_inverted():
                raise wrong("a circle that does not cross the 180th meridian")
            return cap
    raise wrong("(west, south, east, north) in degrees or (latitude, longitude, radius in km)")


def _bbox(region: LatLngRect | Cap) -> list[float]:
    """West, south, east, north in degrees."""
    bound = region.get_rect_bound() if isinstance(region, Cap) else region
    corners = (bound.lng_lo(), bound.lat_lo(), bound.lng_hi(), bound.lat_hi())
    return [round(corner.degrees, 7) for corner in corners]


# The catalogue ------------------------------------------------------------------------------------


def _at(first: str, *path: str | int, default: Any = None, **limits: Any) -> Any:
    """A field that stands at a path of the item."""
    return Field(default, validation_alias=AliasPath(first, *path), **limits)


class _Provider(BaseModel):
    name: str


class _Picture(BaseModel, allow_inf_nan=False):
    """What is read of a picture's STAC item; its EXIF block is not."""

    id: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z_-]*$")
    longitude: float = _at("geometry", "coordinates", 0, default=..., ge=-180, le=180)
    latitude: float = _at("geometry", "coordinates", 1, default=..., ge=-90, le=90)
    properties: dict[str, Any]
    licence: str | None = _at("properties", "license")
    producer: str | None = _at("properties", "geovisio:producer")
    providers: list[_Provider] = []
    # Servers of older versions write neither.
    status: str | None = _at("properties", "geovisio:status")
    visibility: str | None = _at("properties", "geovisio:visibility")
    field_of_view: float | None = _at("properties", CAMERA, "field_of_view")
    sensor: list[float | None] | None = _at("properties", CAMERA, "sensor_array_dimensions")
    address: str | None = _at("assets", "sd", "href")

    @property
    def authors(self) -> list[str]:
        names = [self.producer, *(provider.name for provider in self.providers)]
        return list(dict.fromkeys(" ".join(name.split()) for name in names if name))

    @property
    def faults(self) -> dict[str, bool]:
        """Reasons not to use it, and whether they hold."""
        sides = self.sensor or []
        # A sphere laid out flat is twice as wide as high.
        is_sphere = len(sides) == 2 and None not in sides and sides[0] == 2 * (sides[1] or 0)
        is_public = self.status in (None, "ready") and self.visibility in (None, "anyone")
        return {
            "without an open licence": (self.licence or "").strip().lower() in NO_LICENCE,
            "without an author": not self.authors,
            "not public": not is_public,
            "panorama": is_sphere or (self.field_of_view or 0) >= PANORAMA,
            "without an image": self.address is None,
        }

    def row(self, country: str) -> dict[str, object]:
        """Line of the metadata table."""
        known = self.model_dump(include={"latitude", "longitude", "licence", "address"})
        attribution = f"{', '.join(self.authors)} / Panoramax"
        return {"file": f"{self.id}.jpg", "country": country, "attribution": attribution} | known


class _Http(StacApiIO):
    """pystac-client's requests, sent through a session of ``download.http`` and checked."""

    def __init__(self, session: requests.Session) -> None:
        super().__init__(max_retries=None)
        self.session = session

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        address = requests.Request("GET", href, params=parameters).prepare().url
        body = http.read(self.session, str(address), kind="application/", deadline=DEADLINE)
        text = body.decode(errors="replace")
        with suppress(ValueError):
            page = json.loads(text)
            if isinstance(page, dict) and isinstance(page.get("features"), list):
                return text
        raise http.Broken(f"{urlsplit(href).netloc} sent something else than a list of pictures")


def _search(
    session: requests.Session, asked: Mapping[str, Any]
) -> tuple[pd.DataFrame, Counter[str]]:
    """Rows of the metadata table, and why how many pictures were left out."""
    rows: dict[str, dict[str, object]] = {}
    left_out: Counter[str] = Counter()
    for country, area in asked["areas"].items():
        region = _region(country, area)
        cells: set[str] = set()
        with progress_bar(f"searching {country}", asked["per_area"], "image") as bar:
            for item in _items(session, asked, _bbox(region)):
                try:
                    picture = _Picture.model_validate(item)
                except ValidationError:
                    left_out["damaged record"] += 1
                    continue
                (cell,) = s2_tokens([(picture.latitude, picture.longitude)], SPACING_LEVEL)
                place = LatLng.from_degrees(picture.latitude, picture.longitude)
                faults = {
                    **picture.faults,
                    "outside the area": not region.contains(place.to_point()),
                    "close to another": cell in cells,
                    "in an earlier area": picture.id in rows,
                }
                if reasons := [reason for reason, holds in faults.items() if holds]:
                    left_out[reasons[0]] += 1
                    continue
                cells.add(cell)
                rows[picture.id] = picture.row(country)
                bar.update()
                if len(cells) == asked["per_area"]:
                    break
    return pd.DataFrame(rows.values(), columns=COLUMNS), left_out


def _items(session: requests.Session, asked: Mapping[str, Any], bbox: list[float]) -> Iterator[Any]:
    """Pictures of the catalogue, each once; they may be of any type."""
    search = ItemSearch(
        f"{asked['api']}/search",
        method="GET",
        stac_io=_Http(session),
        bbox=bbox,
        datetime=asked["dates"],
        limit=min(PAGE, LOOKED_AT * asked["per_area"]),
    )
    seen: set[str] = set()
    for page in search.pages_as_dicts():
        named = {_name(item): item for item in page["features"]}
        new = named.keys() - seen
        # A page that only repeats what was there would be followed by itself, for ever.
        if not new:
            return
        seen |= new
        yield from (item for name, item in named.items() if name in new)


def _name(item: object) -> str:
    return str(item["id"]) if isinstance(item, dict) and "id" in item else repr(item)


# The folder ---------------------------------------------------------------------------------------


def _id(file: str) -> str:
    return file.removesuffix(".jpg")


def _keep(
    root: Path, asked: Mapping[str, Any], table: pd.DataFrame, left_out: Counter[str]
) -> None:
    """Keep what the catalogue answered; the request comes last and says that the table is whole."""
    if table.empty:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(
            f"areas={asked['areas']}, dates={asked['dates']!r}: no photograph was found (left out: "
            f"{reasons or 'none'}); try larger areas or other dates"
        )
    with http.whole(root / METADATA) as part:
        table.to_csv(part, index=False)
    with http.whole(root / REQUEST) as part:
        part.write_text(
            json.dumps({"asked": asked, "left_out": left_out}, indent=1), encoding="utf-8"
        )


def _is_answered(root: Path, asked: Mapping[str, Any]) -> bool:
    """Whether the folder holds the catalogue's answer to this request; ValueError if to another."""
    if not (root / REQUEST).is_file():
        return False
    earlier = parsed_file(root / REQUEST)["asked"]
    if earlier != asked:
        holds = f"root={str(root)!r} holds the answer to another request, {earlier}"
        raise ValueError(f"{holds}; give another root")
    return True


def _is_settled(root: Path, asked: Mapping[str, Any]) -> bool:
    """Whether every photograph is there, or has been asked for in vain."""
    if not _is_answered(root, asked):
        return False
    failed = failures(root)
    in_vain = set(failed["id"][failed["kind"] != "Unreachable"])
    wanted = _read_metadata(root)["file"]
    return all((root / file).is_file() or _id(file) in in_vain for file in wanted)


def _read_metadata(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / METADATA, dtype=str, keep_default_na=False)
