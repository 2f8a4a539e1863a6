"""OpenStreetView-5M: its metadata, splits that keep places apart, and its photographs.

The paper trains on 33,333 photographs per country of France, India and Japan and explains 200 per
country (§4 of arXiv 2605.00912). The data set is Astruc et al., CVPR 2024 (arXiv 2404.18873).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import requests
from babel import Locale
from filelock import FileLock
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers
from remotezip import PartialBuffer, RemoteFetcher, RemoteZip, RemoteZipError
from s2sphere import CellId, LatLng
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import BallTree

from geolib import assets, remote
from geolib.data.collect import LOCK, PART, Summary, collect, failures
from geolib.data.records import SPLITS, GeoDataset, PhotoRecord, Skipped, check_split
from geolib.paths import cache_root
from geolib.progress import progress_bar

METADATA = "osv5m-metadata"
LICENCE = "CC-BY-SA-4.0"
COUNTRIES = ("FR", "IN", "JP")
SOURCES = ("hub", "mapillary")
FETCH_ORDER = ("eval", "test", "validation", "train")
COLUMNS = ("id", "latitude", "longitude", "country", "sequence", "creator_username")
CHUNK_ROWS = 200_000
# Edges of about 1.1 km, the distance at which the authors of OSV-5M keep their own test images from
# their training images. Larger cells would chain more sequences into one place, up to whole cities.
CELL_LEVEL = 13
EARTH_RADIUS_KM = 6371.0088
# The hub allows 3,000 files in five minutes without a token; Mapillary 60,000 requests a minute.
HUB_PER_SECOND = 8.0
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
    split, n, seed
        As for :func:`geolib.data.load`.
    root
        Folder that :func:`prepare` filled; by default ``osv5m`` in the cache folder.
    countries
        ISO 3166 codes; the classes are their English names, in this order.
    source
        ``"hub"`` (the photographs as OSV-5M publishes them) or ``"mapillary"`` (originals).

    Raises
    ------
    ValueError
        If the data are not there, with the command that fetches them; or if a split, a country or
        a source is not known.
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
    there = {path.stem for path in folder.glob("*.jpg")}
    found = rows[rows.id.isin(there)]
    missing = rows.id[~rows.id.isin(there)]
    if found.empty:
        raise ValueError(f"no photograph of split={split!r} is in {folder}; fetch them: {command}")
    if len(missing):
        warnings.warn(
            f"{len(missing)} of {len(rows)} photographs of split={split!r} are not in {folder}; "
            f"to try them again: {command}",
            stacklevel=2,
        )
    records = [
        PhotoRecord(
            row["id"],
            folder / f"{row['id']}.jpg",
            classes[row["label"]],
            row["label"],
            row["latitude"],
            row["longitude"],
            LICENCE,
            f"{row['creator_username']} via Mapillary",
        )
        for row in found.to_dict("records")
    ]
    reasons = dict(failures(folder)[["id", "reason"]].itertuples(index=False, name=None))
    skipped = [Skipped(name, reasons.get(name, "not fetched yet")) for name in missing]
    return GeoDataset("osv5m", classes, split, records, skipped)


def prepare(
    root: str | Path | None = None,
    *,
    which: Sequence[str] = FETCH_ORDER,
    countries: Sequence[str] = COUNTRIES,
    seed: int = 0,
    source: str = "hub",
    n_train_per_country: int = 33_333,
    n_eval_per_country: int = 200,
    n_validation_per_country: int = 1_667,
    n_test_per_country: int = 1_667,
    parts: Sequence[str] = ("train",),
    workers: int = 8,
    progress: bool = True,
    endpoint: str | None = None,
    mapillary: str = MAPILLARY,
    token: str | None = None,
) -> Summary:
    """Fetch metadata, make the splits and fetch their photographs; goes on where it stopped.

    The metadata are about 3 GB. From the hub, photographs are read out of its archives by byte
    range: 350 MB of directories once, then the photographs alone. Originals come from Mapillary.

    Parameters
    ----------
    root
        Folder to fill; by default ``osv5m`` in the cache folder.
    which
        Splits whose photographs are fetched, in this order.
    countries, seed, n_train_per_country, n_eval_per_country
        As for :func:`splits`, like the next two.
    n_validation_per_country, n_test_per_country
        Images per country.
    source
        ``"hub"`` or ``"mapillary"``.
    parts
        Parts of OSV-5M that images are drawn from, ``"train"`` and ``"test"``. Its test part is
        left out by default, so that a model trained here can still be measured on it.
    workers
        Threads.
    progress
        Whether to show progress bars.
    endpoint, mapillary
        Addresses of the hub and of Mapillary's API.
    token
        For Mapillary; by default the environment variable ``MAPILLARY_TOKEN``.

    Returns
    -------
    Summary
        How many photographs were there, fetched, or failed. The reasons of failures are in
        ``failures.parquet`` in the folder of the photographs.

    Raises
    ------
    ValueError
        If a country has too few images, or the token is missing.
    geolib.remote.RemoteError
        If the hub's archives cannot be read, or a token is refused; what was fetched is kept.
    """
    for split in which:
        check_split(split, SPLITS)
    folder = _image_folder(root, source)
    token = token or os.environ.get(TOKEN)
    if source == "mapillary" and not token:
        raise ValueError(
            f"token is missing: set the environment variable {TOKEN} to a client token, "
            "which is free at https://www.mapillary.com/dashboard/developers"
        )
    sizes = {
        "n_train_per_country": n_train_per_country,
        "n_eval_per_country": n_eval_per_country,
        "n_validation_per_country": n_validation_per_country,
        "n_test_per_country": n_test_per_country,
    }
    asked = {"parts": list(parts), **sizes}
    path = _split_path(root, countries, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / LOCK):
        table = pd.read_parquet(path) if path.is_file() else pd.DataFrame()
        if table.attrs.get("asked") != asked:
            files = {
                part: assets.fetch(f"{METADATA}/{part}.csv", endpoint=endpoint, shown=progress)
                for part in parts
            }
            known = metadata(files, countries, progress=progress)
            table = splits(known, countries, seed=seed, **sizes)
            table.attrs["asked"] = asked
            _write(table, path)
        ids = [name for split in which for name in table.id[table.split == split]]
        if source == "mapillary":
            fetch = _from_mapillary(mapillary, str(token))
        else:
            hub = _hub_session()
            archives = _archives(parts, endpoint)
            members = locate(ids, archives, path.parent / "index", hub, workers, progress)
            fetch = _from_archives(hub, archives, members)
    return collect(ids, folder, fetch, workers=workers, progress=progress)


def split_table(
    root: str | Path | None = None, *, countries: Sequence[str] = COUNTRIES, seed: int = 0
) -> pd.DataFrame:
    """The table of :func:`splits` that :func:`prepare` has stored.

    Raises
    ------
    ValueError
        If it has not, with the command that does.
    """
    path = _split_path(root, countries, seed)
    if not path.is_file():
        command = _command(root, countries, seed, "hub")
        raise ValueError(f"OSV-5M is not in {path.parent}; fetch it with {command}")
    return pd.read_parquet(path)


def country_name(code: str) -> str:
    """English name of a country, from its ISO 3166 code of two letters.

    Raises
    ------
    ValueError
        If there is no such country.
    """
    names = Locale("en").territories
    if len(code) != 2 or code not in names:
        raise ValueError(f"countries holds {code!r}; expected ISO 3166 codes such as 'FR'")
    return names[code]


# Metadata -----------------------------------------------------------------------------------------


def metadata(
    paths: Mapping[str, Path], countries: Sequence[str] = COUNTRIES, *, progress: bool = True
) -> pd.DataFrame:
    """What is known of the images of some countries, read piece by piece.

    Parameters
    ----------
    paths
        CSV file of each part.
    countries
        ISO 3166 codes.
    progress
        Whether to show a progress bar.

    Returns
    -------
    pandas.DataFrame
        ``id`` (text), ``latitude``, ``longitude`` (degrees), ``country`` (ISO 3166 code),
        ``sequence``, ``creator_username`` and ``part``.

    Raises
    ------
    ValueError
        If a file lacks one of these columns.
    """
    types = dict.fromkeys(COLUMNS, "str") | {"latitude": "float", "longitude": "float"}
    tables = []
    for part, path in paths.items():
        if lacking := set(COLUMNS) - set(pd.read_csv(path, nrows=0).columns):
            raise ValueError(f"{path} lacks the columns {', '.join(sorted(lacking))}")
        with (
            path.open("rb") as file,
            progress_bar(path.name, path.stat().st_size, "B", progress) as bar,
        ):
            # Only empty cells are missing values: NA is Namibia.
            for chunk in pd.read_csv(
                file,
                usecols=list(COLUMNS),
                dtype=types,
                keep_default_na=False,
                na_values=[""],
                chunksize=CHUNK_ROWS,
            ):
                tables.append(chunk[chunk.country.isin(countries)].assign(part=part))
                bar.update(file.tell() - bar.n)
    table = pd.concat(tables, ignore_index=True)
    return table.fillna({"creator_username": "an unnamed author"})


# Splits -------------------------------------------------------------------------------------------


def splits(
    metadata: pd.DataFrame,
    countries: Sequence[str] = COUNTRIES,
    *,
    n_train_per_country: int = 33_333,
    n_eval_per_country: int = 200,
    n_validation_per_country: int = 1_667,
    n_test_per_country: int = 1_667,
    seed: int = 0,
) -> pd.DataFrame:
    """Splits that share neither a capture sequence nor an S2 cell (§4 of arXiv 2605.00912).

    Images that share a sequence or a cell of level 13 (about 1.1 km across) belong to one place,
    as do those that are linked through others: the connected components of the graph of sequences
    and cells. A place is in one split only. Each image outside training comes from a place of its
    own, so these images are independent of each other, and intervals that resample them hold;
    a place gets there with a chance in proportion to its size, unless it holds so many images that
    holding it out could leave too few for training.

    The paper has no word on validation, although it stops early on a validation loss, and does not
    say what its test set is. 1,667 per country, 5,000 in all, put an accuracy of 87 % between ± 0.9
    percentage points.

    Parameters
    ----------
    metadata
        Columns ``id``, ``latitude``, ``longitude``, ``country`` and ``sequence``, as from
        :func:`metadata`; the order of rows plays no role.
    countries
        ISO 3166 codes.
    n_train_per_country, n_eval_per_country, n_validation_per_country, n_test_per_country
        Images per country.
    seed
        Decides which images are drawn.

    Returns
    -------
    pandas.DataFrame
        All images of the countries in random order, with ``cell`` (S2 token), ``place`` (smallest
        id in it) and ``split``, which is missing for images that were not drawn.

    Raises
    ------
    ValueError
        If an id is listed twice, or a country has too few images or places.
    """
    held_out = {
        "eval": n_eval_per_country,
        "test": n_test_per_country,
        "validation": n_validation_per_country,
    }
    table = metadata[metadata.country.isin(countries)]
    if table.id.duplicated().any():
        raise ValueError(f"metadata lists {table.id[table.id.duplicated()].iloc[0]!r} twice")
    order = [hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name in table.id]
    table = table.iloc[np.argsort(order)].reset_index(drop=True)
    table["sequence"] = table.sequence.fillna("image " + table.id)
    table["cell"] = s2_cells(table.latitude, table.longitude)
    table["place"] = places(table)
    table["split"] = _draw(table, held_out, n_train_per_country)
    _check_enough(table, countries, {"train": n_train_per_country, **held_out})
    return table


def s2_cells(latitude: Iterable[float], longitude: Iterable[float]) -> list[str]:
    """Tokens of the S2 cells of level 13 that hold some points, given in degrees."""
    return [
        CellId.from_lat_lng(LatLng.from_degrees(north, east)).parent(CELL_LEVEL).to_token()
        for north, east in zip(latitude, longitude, strict=True)
    ]


def places(table: pd.DataFrame) -> pd.Series:
    """Place of each image: the smallest id among all that sequences and cells link it with.

    Parameters
    ----------
    table
        Columns ``id``, ``sequence`` and ``cell``.
    """
    sequence, sequences = pd.factorize(table.sequence)
    cell, cells = pd.factorize(table.cell)
    n_nodes = len(sequences) + len(cells)
    edges = (np.ones(len(table)), (sequence, len(sequences) + cell))
    _, component = connected_components(coo_array(edges, shape=(n_nodes, n_nodes)), directed=False)
    return table.groupby(component[sequence]).id.transform("min")


def leakage(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What a random split leaks from training into the other splits, and what ours does.

    The random split has the same number of images per country and split.

    Parameters
    ----------
    table
        From :func:`splits`.
    seed
        Of the random split.

    Returns
    -------
    pandas.DataFrame
        For each ``method`` (``"random"``, ``"places"``) and ``split``: ``n_images``; the shares
        ``shared_sequence`` and ``shared_cell`` of images whose sequence or cell is in training,
        too; ``km_min`` and ``km_median``, great-circle distances to the nearest training image;
        and the share ``within_1_km``.
    """
    rng = np.random.default_rng(seed)
    shuffled = table.sort_values("id")
    shuffled["split"] = shuffled.groupby("country").split.transform(rng.permutation)
    rows = []
    for method, assigned in (("random", shuffled), ("places", table)):
        train = assigned[assigned.split == "train"]
        tree = BallTree(np.radians(train[["latitude", "longitude"]]), metric="haversine")
        for split in ("validation", "test", "eval"):
            held = assigned[assigned.split == split]
            if held.empty:
                continue
            angles, _ = tree.query(np.radians(held[["latitude", "longitude"]]))
            km = angles[:, 0] * EARTH_RADIUS_KM
            rows.append(
                {
                    "method": method,
                    "split": split,
                    "n_images": len(held),
                    "shared_sequence": held.sequence.isin(train.sequence).mean(),
                    "shared_cell": held.cell.isin(train.cell).mean(),
                    "km_min": km.min(),
                    "km_median": np.median(km),
                    "within_1_km": (km <= 1).mean(),
                }
            )
    return pd.DataFrame(rows)


def _draw(table: pd.DataFrame, held_out: Mapping[str, int], n_train: int) -> pd.Series:
    """Split of each image of a table in random order; see :func:`splits` for the rules."""
    n_images = table.country.value_counts()
    largest = (n_images - n_train) // max(sum(held_out.values()), 1)
    size = table.groupby("place").id.transform("size")
    first = ~table.place.duplicated() & (size <= table.country.map(largest))
    turn = table[first].groupby("country").cumcount()
    names = np.repeat(list(held_out), list(held_out.values()))
    drawn = turn[turn < len(names)]
    split = pd.Series(None, index=table.index, dtype="str")
    split[drawn.index] = names[drawn]
    rest = table[~table.place.isin(table.place[drawn.index])]
    turn = rest.groupby("country").cumcount()
    split[turn.index[turn < n_train]] = "train"
    return split


def _check_enough(table: pd.DataFrame, countries: Sequence[str], wanted: Mapping[str, int]) -> None:
    for country in countries:
        rows = table[table.country == country]
        drawn = rows.split.value_counts()
        if any(drawn.get(split, 0) < n for split, n in wanted.items()):
            asked = ", ".join(f"n_{split}_per_country={n}" for split, n in wanted.items())
            raise ValueError(
                f"country {country!r} has {len(rows)} images in {rows.place.nunique()} places, too "
                f"few for {asked}, with a place of its own for each image outside training; ask "
                "for fewer"
            )


# The hub's archives -------------------------------------------------------------------------------


def locate(
    ids: Iterable[str],
    archives: Mapping[str, Path | str],
    folder: Path,
    hub: requests.Session,
    workers: int,
    progress: bool,
) -> pd.DataFrame:
    """Where in the hub's archives images lie; each archive's directory is read once and kept.

    Parameters
    ----------
    ids
        Of the images.
    archives
        Path or address of each archive.
    folder
        Where the directories are kept, as Parquet.
    hub
        Session for the hub.
    workers, progress
        As for :func:`prepare`.

    Returns
    -------
    pandas.DataFrame
        ``id``, ``archive``, ``start`` and ``stop`` of the member in bytes, ``method`` of packing,
        ``size`` of the packed bytes, and ``crc``.

    Raises
    ------
    geolib.remote.RemoteError
        If an archive cannot be listed; the directories of the others are kept.
    """
    wanted = set(ids)
    found, errors = [], []
    with (
        ThreadPoolExecutor(workers) as executor,
        progress_bar("directories", len(archives), "archive", progress) as bar,
    ):
        running = [executor.submit(_directory, hub, *item, folder) for item in archives.items()]
        for future in running:
            try:
                directory = pd.read_parquet(future.result())
                found.append(directory[directory.id.isin(wanted)])
            except remote.RemoteError as error:
                errors.append(error)
            bar.update()
    if errors:
        raise type(errors[0])(
            f"{len(errors)} of {len(archives)} archives could not be listed ({errors[0]}); the "
            "lists of the others are kept: run the same again"
        ) from errors[0]
    return pd.concat(found).drop_duplicates("id")


def _archives(parts: Sequence[str], endpoint: str | None) -> dict[str, Path | str]:
    """Path of each archive that has been fetched whole, address of the others."""
    known = assets.manifest()
    return {
        file: assets.path(f"{name}/{file}") or known[name].address(file, endpoint)
        for name in (f"osv5m-{part}-images" for part in parts)
        for file in known[name].files
    }


def _hub_session() -> requests.Session:
    # Were a range compressed on its way, it would not be the bytes that were asked for.
    headers = build_hf_headers(library_name="geolib") | {"Accept-Encoding": "identity"}
    made = remote.session(HUB_PER_SECOND, headers)
    made.hooks["response"].append(_refuse_whole_archives)
    return made


def _refuse_whole_archives(response: requests.Response, **_: Any) -> None:
    """A server that ignores a range would send gigabytes for one photograph."""
    if "Range" in response.request.headers and response.status_code == 200:
        response.close()
        raise remote.Broken("the server sent a whole archive where a range of bytes was asked for")


def _directory(hub: requests.Session, name: str, archive: Path | str, folder: Path) -> Path:
    """The stored directory of an archive."""
    path = folder / f"{name.replace('/', '-')}.parquet"
    if path.is_file():
        return path
    try:
        with _open(hub, archive) as opened:
            members = sorted(opened.infolist(), key=lambda member: member.header_offset)
            starts = [member.header_offset for member in members]
            stops = [*starts[1:], opened.start_dir]
    except (RemoteZipError, zipfile.BadZipFile) as error:
        if isinstance(error.__context__, remote.RemoteError):
            raise error.__context__ from None  # zipfile takes it for damage of the archive
        raise remote.Broken(f"{name} is not a readable archive: {error}") from error
    rows = [
        {
            "id": Path(member.filename).stem,
            "archive": name,
            "start": start,
            "stop": stop,
            "method": member.compress_type,
            "size": member.compress_size,
            "crc": member.CRC,
        }
        for member, start, stop in zip(members, starts, stops, strict=True)
        if not member.is_dir()
    ]
    _write(pd.DataFrame(rows), path)
    return path


def _open(hub: requests.Session, archive: Path | str) -> zipfile.ZipFile:
    if isinstance(archive, Path):
        return zipfile.ZipFile(archive)
    headers = remote.head(hub, archive)
    # The hub tells the size of a file that lies in another storage in a header of its own.
    size = headers.get(constants.HUGGINGFACE_HEADER_X_LINKED_SIZE) or headers["Content-Length"]
    return RemoteZip(archive, session=hub, fetcher=_Fetcher, size=int(size))


class _Fetcher(RemoteFetcher):
    """Parts of an archive of known size, read with the retries and errors of all our requests."""

    def __init__(
        self, url: str, session: requests.Session, support_suffix_range: bool, *, size: int
    ) -> None:
        super().__init__(url, session, support_suffix_range)
        self.url, self.session, self.size = url, session, size

    def fetch(self, data_range: tuple[int, int | None], stream: bool = False) -> PartialBuffer:
        first, last = data_range
        if last is None:
            first, last = max(self.size + first, 0), self.size - 1
        body = _read_range(self.session, self.url, first, last + 1)
        return PartialBuffer(io.BytesIO(body), first, len(body), stream=False)


def _from_archives(
    hub: requests.Session, archives: Mapping[str, Path | str], members: pd.DataFrame
) -> Callable[[str], bytes]:
    """Reader of images by id. Plain ranges: RemoteZip objects do not bear several threads."""
    known = members.set_index("id").to_dict("index")

    def fetch(name: str) -> bytes:
        if name not in known:
            raise remote.Absent(f"no archive of the hub holds {name}")
        member = known[name]
        record = _read_range(hub, archives[member["archive"]], member["start"], member["stop"])
        try:
            return _unpack(record, member)
        except (struct.error, zlib.error, ValueError) as error:
            raise remote.Broken(f"{name} is damaged in {member['archive']}: {error}") from error

    return fetch


def _read_range(hub: requests.Session, archive: Path | str, start: int, stop: int) -> bytes:
    if isinstance(archive, str):
        return remote.read(hub, archive, headers={"Range": f"bytes={start}-{stop - 1}"})
    with archive.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def _unpack(record: bytes, member: Mapping[Hashable, Any]) -> bytes:
    """Content of an archive's member, from its bytes that begin with the local header.

    The local header is read, not the directory's: their extra fields may differ in length.
    """
    name_length, extra_length = struct.unpack_from("<HH", record, 26)
    start = 30 + name_length + extra_length
    content = record[start : start + member["size"]]
    if member["method"] == zipfile.ZIP_DEFLATED:
        content = zlib.decompress(content, -zlib.MAX_WBITS)
    if zlib.crc32(content) != member["crc"]:
        raise ValueError("its checksum differs")
    return content


# Mapillary ----------------------------------------------------------------------------------------


def _from_mapillary(base: str, token: str) -> Callable[[str], bytes]:
    """Reader of originals by id. The token goes to the API only, not to the host of the images."""
    api = remote.session(MAPILLARY_PER_SECOND)
    api.hooks["response"].append(_explain)
    storage = remote.session(MAPILLARY_PER_SECOND)

    def fetch(name: str) -> bytes:
        address = f"{base}/{name}?fields=thumb_original_url"
        answer = remote.read(api, address, headers={"Authorization": f"OAuth {token}"})
        try:
            url = json.loads(answer)["thumb_original_url"]
        except (ValueError, KeyError, TypeError) as error:
            raise remote.Broken(f"Mapillary gave no address for {name}") from error
        try:
            return remote.read(storage, url, kind="image/")
        except remote.Refused as error:  # not our token, which the API has just accepted
            raise remote.Broken(f"the address that Mapillary gave for {name} is refused") from error

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
        raise remote.Refused(f"Mapillary does not accept the token in {TOKEN} (code {code})")
    if code in LIMIT_CODES:
        raise remote.Refused(f"Mapillary's request limit is reached (code {code}): wait an hour")
    if code == ABSENT_CODE:
        raise remote.Absent("Mapillary has no such image, or no longer")


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


def _write(table: pd.DataFrame, path: Path) -> None:
    """Store a table; it appears under its name only when whole."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(path.name + PART)
    table.to_parquet(part, index=False)
    part.replace(path)
