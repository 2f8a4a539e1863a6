"""What the package can use from elsewhere: where it is, on what terms, and how to get it.

The list is ``data/assets.yaml``. Files stand under ``assets/`` in the cache, in a folder per asset.
"""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import requests
from filelock import FileLock, Timeout
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from geolib.download import http
from geolib.runtime.cache import sha256
from geolib.runtime.here import cache_root, data_file, parsed_file

logger = logging.getLogger(__name__)


class File(BaseModel):
    """What is known of a file before it is here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int | None = Field(None, gt=0)  # bytes
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")


class Asset(BaseModel):
    """An entry of the manifest; the head of ``data/assets.yaml`` explains the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    needed_by: str
    licence: str
    revision: str
    files: dict[str, File] = Field(min_length=1)
    hub: str = ""
    kind: Literal["model", "dataset"] = "model"
    url: str = ""
    gated: bool = False
    about: str = ""
    by_hand: str = ""

    @field_validator("files", mode="before")
    @classmethod
    def _expand(cls, files: dict[str, Any]) -> dict[str, Any]:
        return {name: known for pattern, known in files.items() for name in _numbered(pattern)}

    @model_validator(mode="after")
    def _is_complete(self) -> Asset:
        if bool(self.hub) == bool(self.url):
            raise ValueError("an asset needs either hub or url")
        if self.gated and not self.by_hand:
            raise ValueError("a gated asset needs by_hand: how to get permission")
        return self

    @property
    def size(self) -> str:
        """Size in words: exact, as the publisher rounds it, or unknown."""
        sizes = [file.size for file in self.files.values() if file.size]
        exact = len(sizes) == len(self.files)
        return f"{sum(sizes) / 1e6:,.1f} MB" if exact else self.about or "unknown"

    def address(self, file: str) -> str:
        """Where a file is."""
        if self.url:
            return f"{self.url}/{file}"
        return hf_hub_url(self.hub, file, repo_type=self.kind, revision=self.revision)


@cache
def manifest() -> dict[str, Asset]:
    """Every asset by its name."""
    entries = parsed_file(data_file("assets.yaml"))
    return {name: Asset(**entry) for name, entry in entries.items()}


def path(name: str) -> Path | None:
    """Where an asset is, or None if it is not here.

    ``name`` is that of the manifest, for the folder of all its files (for the file, where it has
    one), or ``NAME/FILE`` for one of its files. An unknown one raises ValueError.
    """
    _, files = _find(name)
    folder = _folder(name)
    here = all((folder / file).is_file() for file in files)
    return _place(folder, files) if here else None


def fetch(name: str, *, shown: bool = True) -> Path:
    """Download what is not here, verify everything, and say where it is.

    ``name`` is that of the manifest, or ``NAME/FILE`` for one of its files; what comes back is the
    file, or the folder of an asset that has several. A download that broke off goes on. A checksum
    that the manifest does not give comes from the hub or is recorded at the first download; from
    then on it must not change. Two runs at once wait for each other. Hub and token are those of
    ``HF_ENDPOINT`` and ``HF_TOKEN``, or the official one and that of ``hf auth login``.

    Raises ValueError if there is no such asset or file, :class:`geolib.download.http.RemoteError`
    with what to do about it, and OSError if the disk is full; what has come is kept.
    """
    asset, files = _find(name)
    folder = _folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    headers = build_hf_headers(library_name="geolib") if asset.hub else None
    with _alone(folder), http.session(headers=headers) as session:
        for file in files:
            with _advice(name, asset, folder / file):
                _fetch_file(session, asset, file, folder, shown)
    return _place(folder, files)


def status() -> pd.DataFrame:
    """A row per asset: ``name, here`` (yes, no, or so many of its files), ``size`` (in words),
    ``licence, gated, needed_by``.
    """
    rows = []
    for name, asset in manifest().items():
        count = sum((_folder(name) / file).is_file() for file in asset.files)
        some = f"{count} of {len(asset.files)} files" if count else "no"
        here = "yes" if count == len(asset.files) else some
        known = asset.model_dump(include={"licence", "gated", "needed_by"})
        rows.append({"name": name, "here": here, "size": asset.size} | known)
    return pd.DataFrame(rows)


def _numbered(pattern: str) -> list[str]:
    """``{00..97}`` in a name, written out."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    return [pattern.replace(found[0], f"{number:0{len(first)}d}") for number in numbers]


def _find(name: str) -> tuple[Asset, list[str]]:
    known = manifest()
    title, _, file = name.partition("/")
    if title not in known:
        raise ValueError(f"name={title!r} is not an asset; there are {', '.join(known)}")
    files = list(known[title].files)
    if file and file not in files:
        raise ValueError(f"name={name!r}: {title} has {files[0]} to {files[-1]}, not {file}")
    return known[title], [file] if file else files


def _folder(name: str) -> Path:
    return cache_root() / "assets" / name.partition("/")[0]


def _place(folder: Path, files: list[str]) -> Path:
    return folder / files[0] if len(files) == 1 else folder


def _alone(folder: Path) -> AbstractContextManager[object]:
    """No other run fetches the same asset meanwhile."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.warning("%s is being fetched by another run: waiting for it", folder.name)
        return lock.acquire()


@contextmanager
def _advice(name: str, asset: Asset, place: Path) -> Iterator[None]:
    """What to do, added to what went wrong."""
    needs_none = "It should need none: unset or renew HF_TOKEN."
    advice = {
        http.Refused: asset.by_hand if asset.gated else needs_none,
        http.Unreachable: "What has come is kept: fetch again with a network, or bring the file "
        f"from elsewhere to {place} and fetch again to verify it.",
        http.Absent: asset.by_hand or "It may have moved.",
    }
    try:
        yield
    except http.RemoteError as error:
        text = f"{name}, {place.name}: {error}. {advice.get(type(error), '')}"
        raise type(error)(text.strip()) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        text = f"{name}: the disk is full ({error.strerror}); what has come is kept. Make room, "
        text += "or set GEOLIB_CACHE to a folder with more, and fetch again"
        raise OSError(errno.ENOSPC, text, str(place)) from error


def _fetch_file(
    session: requests.Session, asset: Asset, file: str, folder: Path, shown: bool
) -> None:
    target, known = folder / file, asset.files[file]
    record = folder.with_name(f"{folder.name}.json")
    recorded = parsed_file(record) if record.exists() else {}
    expected = known.sha256 or recorded.get(file, "")
    if target.exists():
        found = sha256(target)
        if not expected or found == expected:
            _write(record, recorded | {file: found})
            return
        logger.warning("%s is damaged: fetching it again", target)
    url = asset.address(file)
    if published := _published(session, url) if asset.hub else "":
        expected = expected or published
        _compare(published, expected, record)

    def verify(part: Path) -> None:
        size, found = part.stat().st_size, sha256(part)
        if size != (known.size or size):
            raise http.Broken(f"{size} bytes came instead of {known.size}")
        _compare(found, expected or found, record)
        _write(record, recorded | {file: found})

    http.download(session, url, target, verify=verify, shown=shown)


def _published(session: requests.Session, url: str) -> str:
    """The sha256 that the hub itself gives for a large file, or nothing."""
    etag = http.head(session, url).get(constants.HUGGINGFACE_HEADER_X_LINKED_ETAG, "")
    found = re.fullmatch('"([0-9a-f]{64})"', etag)
    return found[1] if found else ""


def _compare(found: str, expected: str, record: Path) -> None:
    if found != expected:
        raise http.Broken(
            f"its sha256 is {found}, expected {expected} (data/assets.yaml or {record}): either it "
            "was damaged on its way, or it has changed where it comes from. Fetch again; if that "
            "does not help and the change is known to be right, remove the old checksum"
        )


def _write(record: Path, checksums: dict[str, str]) -> None:
    with http.whole(record) as part:
        part.write_text(json.dumps(checksums, indent=1, sort_keys=True), encoding="utf-8")
