"""OpenStreetView-5M: its metadata, splits that keep places apart, and its photographs.

The paper trains on 33,333 photographs per country of France, India and Japan and explains 200 per
country (§4 of arXiv 2605.00912). The data set is Astruc et al., CVPR 2024 (arXiv 2404.18873).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import requests
from babel import Locale
from filelock import FileLock

from geolib.data.records import SPLITS, GeoDataset, PhotoRecord, Skipped, check_split
from geolib.data.splits import PER_COUNTRY, splits
from geolib.download import archives, assets, http
from geolib.download.collect import LOCK, Summary, collect, failures
from geolib.runtime.here import cache_root, progress_bar

METADATA, IMAGES = "osv5m-metadata/train.csv", "osv5m-train-images"
LICENCE = "CC-BY-SA-4.0"
COUNTRIES = ("FR", "IN", "JP")
SOURCES = ("hub", "mapillary")
FETCH_ORDER = ("eval", "test", "validation", "train")
COLUMNS = ("id", "latitude", "longitude", "country", "sequence", "creator_username")
CHUNK_ROWS = 200_000
WORKERS = 8
# Mapillary allows 60,000 requests a minute.
MAPILLARY_PER_SECOND = 20.0
MAPILLARY = "https://graph.mapillary.com"
TOKEN = "MAPILLARY_TOKEN"
# https://developers.facebook.com/docs/graph-api/guides/error-handling
TOKEN_CODES = (10, 102, 190)
LIMIT_CODES = (4, 17, 32, 368, 613)
ABSENT_CODE = 100


def osv5m(
    split: str,
    n: int | None = None,
    seed: int = 0,
    *,
    root: str | Path | None = None,
    countries: Sequence[str] = COUNTRIES,
    source: str = "hub",
) -> GeoDataset:
    """OSV-5M as :func:`prepare` has stored it.

    Items come country by country in turn, so the first ``n`` are balanced, and they do not depend
    on ``n``. Every photograph carries its licence and the name of its author on Mapillary.

    Parameters
    ----------
    split, n, seed : as for :func:`geolib.data.load`.
    root : folder that :func:`prepare` filled; by default ``osv5m`` in the cache folder.
    countries : ISO 3166 codes; the classes are their English names, in this order.
    source : ``"hub"`` (the photographs as OSV-5M publishes them) or ``"mapillary"`` (originals).

    Raises ValueError if the data are not there, with the command that fetches them, or if a split,
    a country or a source is not known.
    """
    check_split(split, SPLITS)
    folder = _image_folder(root, source)
    classes = [country_name(code) for code in countries]
    command = _command(root, countries, seed, source)
    table = split_table(root, countries=countries, seed=seed)
    rows = table[table.split == split]
    turn = rows.groupby("country").cumcount()
    label = rows.country.map({code: i for i, code in enumerate(countries)})
    rows = rows.assign(turn=turn, label=label).sort_values(["turn", "label"])[:n]
    there = rows.id.isin([path.stem for path in folder.glob("*.jpg")])
    missing = rows.id[~there]
    if not there.any():
        raise ValueError(f"no photograph of split={split!r} is in {folder}; fetch them: {command}")
    if len(missing):
        warnings.warn(
            f"{len(missing)} of {len(rows)} photographs of split={split!r} are not in {folder}; "
            f"to try them again: {command}",
            stacklevel=2,
        )
    known = rows[["id", "label", "latitude", "longitude"]].assign(
        country=rows.label.map(dict(enumerate(classes))),
        licence=LICENCE,
        attribution=rows.creator_username + " via Mapillary",
    )
    found: list[Any] = known[there].to_dict("records")
    records = [PhotoRecord(path=folder / f"{row['id']}.jpg", **row) for row in found]
    reasons = failures(folder).set_index("id")["reason"]
    skipped = [Skipped(name, reasons.get(name, "not fetched yet")) for name in missing]
    return GeoDataset("osv5m", classes, split, records, skipped)


def prepare(
    root: str | Path | None = None,
    *,
    which: Sequence[str] = FETCH_ORDER,
    countries: Sequence[str] = COUNTRIES,
    seed: int = 0,
    source: str = "hub",
    per_country: Mapping[str, int] = PER_COUNTRY,
) -> Summary:
    """Fetch metadata, make the splits and fetch their photographs; goes on where it stopped.

    The metadata are about 3 GB. From the hub, photographs are read out of its archives by byte
    range: 350 MB of directories once, then the photographs alone. Originals come from Mapillary.
    The test part of OSV-5M is left out, so that a model trained here can be measured on it.

    Parameters
    ----------
    root, countries, source : as for :func:`osv5m`.
    which : splits whose photographs are fetched, in this order.
    seed, per_country : as for :func:`geolib.data.splits.splits`.

    Raises ValueError if a country has too few images, or ``MAPILLARY_TOKEN`` does not hold a token;
    :class:`geolib.download.http.RemoteError` if the hub's archives cannot be read, or a token is
    refused: what was fetched is kept.
    """
    for split in which:
        check_split(split, SPLITS)
    folder = _image_folder(root, source)
    token = os.environ.get(TOKEN)
    if source == "mapillary" and not token:
        raise ValueError(
            f"token is missing: set the environment variable {TOKEN} to a client token, "
            "which is free at https://www.mapillary.com/dashboard/developers"
        )
    path = _split_path(root, countries, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / LOCK):
        table = pd.read_parquet(path) if path.is_file() else pd.DataFrame()
        if table.attrs.get("per_country") != per_country:
            rows = metadata(assets.fetch(METADATA), countries)
            table = splits(rows, countries, per_country, seed)
            table.attrs["per_country"] = dict(per_country)
            with http.whole(path) as part:
                table.to_parquet(part, index=False)
        ids = [name for split in which for name in table.id[table.split == split]]
        if source == "mapillary":
            fetch = _from_mapillary(str(token))
        else:
            hub, known = archives.session(), archives.addresses(IMAGES)
            members = archives.locate(ids, known, path.parent / "index", hub, WORKERS)
            fetch = archives.reader(hub, known, members)
    return collect(ids, folder, fetch, WORKERS)


def split_table(
    root: str | Path | None = None, *, countries: Sequence[str] = COUNTRIES, seed: int = 0
) -> pd.DataFrame:
    """The table of splits that :func:`prepare` has stored; ValueError with the command if not."""
    path = _split_path(root, countries, seed)
    if not path.is_file():
        command = _command(root, countries, seed, "hub")
        raise ValueError(f"OSV-5M is not in {path.parent}; fetch it with {command}")
    return pd.read_parquet(path)


def country_name(code: str) -> str:
    """English name of a country, from its ISO 3166 code of two letters."""
    names = Locale("en").territories
    if len(code) != 2 or code not in names:
        raise ValueError(f"countries holds {code!r}; expected ISO 3166 codes such as 'FR'")
    return names[code]


# Metadata -----------------------------------------------------------------------------------------


def metadata(path: Path, countries: Sequence[str]) -> pd.DataFrame:
    """What is known of the images of some countries, read piece by piece from a CSV file.

    Columns: ``id`` (text), ``latitude``, ``longitude`` (degrees), ``country`` (ISO 3166 code),
    ``sequence`` and ``creator_username``; ValueError if the file lacks one.
    """
    if lacking := set(COLUMNS) - set(pd.read_csv(path, nrows=0).columns):
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(lacking))}")
    types = dict.fromkeys(COLUMNS, "str") | {"latitude": "float", "longitude": "float"}
    # Only empty cells are missing values: NA is Namibia.
    cells: dict[str, Any] = {"dtype": types, "keep_default_na": False, "na_values": [""]}
    tables = []
    with path.open("rb") as file, progress_bar(path.name, path.stat().st_size, "B") as bar:
        for chunk in pd.read_csv(file, usecols=list(types), chunksize=CHUNK_ROWS, **cells):
            tables.append(chunk[chunk.country.isin(countries)])
            bar.update(file.tell() - bar.n)
    return pd.concat(tables, ignore_index=True).fillna({"creator_username": "an unnamed author"})


# Mapillary ----------------------------------------------------------------------------------------


def _from_mapillary(token: str) -> Callable[[str], bytes]:
    """Reader of originals by id. The token goes to the API only, not to the host of the images."""
    api = http.session(MAPILLARY_PER_SECOND)
    api.hooks["response"].append(_explain)
    storage = http.session(MAPILLARY_PER_SECOND)

    def fetch(name: str) -> bytes:
        address = f"{MAPILLARY}/{name}?fields=thumb_original_url"
        answer = http.read(api, address, headers={"Authorization": f"OAuth {token}"})
        try:
            url = json.loads(answer)["thumb_original_url"]
        except (ValueError, KeyError, TypeError) as error:
            raise http.Broken(f"Mapillary gave no address for {name}") from error
        try:
            return http.read(storage, url, kind="image/")
        except http.Refused as error:  # not our token, which the API has just accepted
            raise http.Broken(f"the address that Mapillary gave for {name} is refused") from error

    return fetch


def _explain(response: requests.Response, **_: Any) -> None:
    """Mapillary says with a code in the body what a status of 400 or 403 leaves open.

    Its messages are not repeated: some hold the token.
    """
    if response.ok:
        return
    try:
        code = response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return
    if code in TOKEN_CODES:
        raise http.Refused(f"Mapillary does not accept the token in {TOKEN} (code {code})")
    if code in LIMIT_CODES:
        raise http.Refused(f"Mapillary's request limit is reached (code {code}): wait an hour")
    if code == ABSENT_CODE:
        raise http.Absent("Mapillary has no such image, or no longer")


# Files --------------------------------------------------------------------------------------------


def _root(root: str | Path | None) -> Path:
    return Path(root).expanduser() if root else cache_root() / "osv5m"


def _image_folder(root: str | Path | None, source: str) -> Path:
    if source not in SOURCES:
        raise ValueError(f"source={source!r} is not known; expected one of {', '.join(SOURCES)}")
    return _root(root) / "images" / source


def _split_path(root: str | Path | None, countries: Sequence[str], seed: int) -> Path:
    return _root(root) / f"splits-{'-'.join(sorted(countries))}-{seed}.parquet"


def _command(root: str | Path | None, countries: Sequence[str], seed: int, source: str) -> str:
    given = f"geolib osv5m --countries {','.join(countries)} --seed {seed} --source {source}"
    return given + (f" --root {root}" if root else "")
