"""Photographs out of the archives of a hub, by byte range, without fetching an archive whole."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import requests
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers
from remotezip import PartialBuffer, RemoteFetcher, RemoteZip, RemoteZipError

from geolib.download import assets, http
from geolib.runtime.here import progress_bar

# The hub allows 3,000 files in five minutes without a token.
PER_SECOND = 8.0
# Where a member lies in its archive, in bytes, and how it is packed.
COLUMNS = ["id", "archive", "start", "stop", "method", "size", "crc"]


def addresses(name: str) -> dict[str, Path | str]:
    """Path of each archive of an asset that has been fetched whole, address of the others."""
    asset = assets.manifest()[name]
    return {file: assets.path(f"{name}/{file}") or asset.address(file) for file in asset.files}


def locate(
    ids: Iterable[str],
    archives: Mapping[str, Path | str],
    folder: Path,
    hub: requests.Session,
    workers: int,
) -> pd.DataFrame:
    """Where in the hub's archives images lie; each archive's directory is read once and kept.

    ``archives`` gives the path or address of each, ``folder`` keeps their directories as Parquet
    with :data:`COLUMNS`. If an archive cannot be listed, a RemoteError is raised, and the
    directories of the others are kept.
    """
    wanted = set(ids)
    found, errors = [], []
    with (
        ThreadPoolExecutor(workers) as executor,
        progress_bar("directories", len(archives), "archive") as bar,
    ):
        running = [executor.submit(_directory, hub, *item, folder) for item in archives.items()]
        for future in running:
            try:
                directory = pd.read_parquet(future.result())
                found.append(directory[directory.id.isin(wanted)])
            except http.RemoteError as error:
                errors.append(error)
            bar.update()
    if errors:
        raise type(errors[0])(
            f"{len(errors)} of {len(archives)} archives could not be listed ({errors[0]}); the "
            "lists of the others are kept: run the same again"
        ) from errors[0]
    return pd.concat(found).drop_duplicates("id")


def session() -> requests.Session:
    """Session for a hub that serves archives by range."""
    # Were a range compressed on its way, it would not be the bytes that were asked for.
    headers = build_hf_headers(library_name="geolib") | {"Accept-Encoding": "identity"}
    made = http.session(PER_SECOND, headers)
    made.hooks["response"].append(_refuse_whole_archives)
    return made


def _refuse_whole_archives(response: requests.Response, **_: Any) -> None:
    """A server that ignores a range would send gigabytes for one photograph."""
    if "Range" in response.request.headers and response.status_code == 200:
        response.close()
        raise http.Broken("the server sent a whole archive where a range of bytes was asked for")


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
        if isinstance(error.__context__, http.RemoteError):
            raise error.__context__ from None  # zipfile takes it for damage of the archive
        raise http.Broken(f"{name} is not a readable archive: {error}") from error
    rows = [
        (Path(m.filename).stem, name, start, stop, m.compress_type, m.compress_size, m.CRC)
        for m, start, stop in zip(members, starts, stops, strict=True)
        if not m.is_dir()
    ]
    path.parent.mkdir(exist_ok=True)
    with http.whole(path) as part:
        pd.DataFrame(rows, columns=COLUMNS).to_parquet(part, index=False)
    return path


def _open(hub: requests.Session, archive: Path | str) -> zipfile.ZipFile:
    if isinstance(archive, Path):
        return zipfile.ZipFile(archive)
    headers = http.head(hub, archive)
    # The hub tells the size of a file that lies in another storage in a header of its own.
    size = int(headers.get(constants.HUGGINGFACE_HEADER_X_LINKED_SIZE) or headers["Content-Length"])

    class Fetcher(RemoteFetcher):
        """Parts of the archive, read with the retries and errors of all our requests."""

        def fetch(self, data_range: tuple[int, int | None], stream: bool = False) -> PartialBuffer:
            first, last = data_range
            if last is None:
                first, last = max(size + first, 0), size - 1
            body = _read_range(hub, archive, first, last + 1)
            return PartialBuffer(io.BytesIO(body), first, len(body), stream=False)

    return RemoteZip(archive, session=hub, fetcher=Fetcher)


def reader(
    hub: requests.Session, archives: Mapping[str, Path | str], members: pd.DataFrame
) -> Callable[[str], bytes]:
    """Reader of images by id. Plain ranges: RemoteZip objects do not bear several threads."""
    known = members.set_index("id").to_dict("index")

    def fetch(name: str) -> bytes:
        if name not in known:
            raise http.Absent(f"no archive of the hub holds {name}")
        member = known[name]
        record = _read_range(hub, archives[member["archive"]], member["start"], member["stop"])
        try:
            return _unpack(record, member)
        except (struct.error, zlib.error, ValueError) as error:
            raise http.Broken(f"{name} is damaged in {member['archive']}: {error}") from error

    return fetch


def _read_range(hub: requests.Session, archive: Path | str, start: int, stop: int) -> bytes:
    if isinstance(archive, str):
        return http.read(hub, archive, headers={"Range": f"bytes={start}-{stop - 1}"})
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
