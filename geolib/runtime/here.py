"""Where files stand: the data that ship with the package, and the cache of computed stages."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from platformdirs import user_cache_path
from tqdm.auto import tqdm

_PACKAGE = Path(__file__).resolve().parents[1]


def repository_root() -> Path:
    """Directory that holds the package: the repository, for an editable install."""
    return _PACKAGE.parent


def data_file(name: str) -> Path:
    """Path of a file of the project's ``data/`` folder; ValueError if there is no such file.

    An installed wheel carries the folder inside the package; an editable install reads it in place.
    """
    for folder in (_PACKAGE / "_data", repository_root() / "data"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"name={name!r} is not a file of the package's data folder")


def parsed_file(path: Path) -> Any:
    """Content of a JSON or YAML file; ValueError that names a file that is broken.

    What people write for parameters is YAML of another kind, in which NO is Norway:
    :func:`geolib.book.parameters.read_yaml`.
    """
    parse = json.loads if path.suffix == ".json" else yaml.safe_load
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def cache_root() -> Path:
    """Folder of computed stages: ``GEOLIB_CACHE``, or the user's cache directory."""
    configured = os.environ.get("GEOLIB_CACHE")
    return Path(configured).expanduser() if configured else user_cache_path("geolib")


def printable(name: str) -> str:
    """A file's name that can be written anywhere: what is no UTF-8, or no sign, as ``\\xe9``."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda sign: repr(sign[0])[1:-1], text)


def check_file(path: Path, n_bytes: float) -> None:
    """ValueError where a file of that size cannot be written; before the work it is to hold."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a file")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{path} may not be overwritten; choose another name")
    check_folder(path.parent, n_bytes)


def check_folder(path: Path, n_bytes: float) -> None:
    """ValueError where so many bytes cannot be written into a folder, or into one made there."""
    found = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=found):
            pass
    except OSError as error:
        reason = f"{path}: nothing can be written there ({error.strerror})"
        raise ValueError(f"{reason}; choose another folder") from error
    if (free := shutil.disk_usage(found).free) < n_bytes:
        space = f"{free / 1e6:,.0f} MB are free there, {n_bytes / 1e6:,.0f} MB are needed"
        raise ValueError(f"{path}: {space}; make room or choose another folder")


def progress_bar(description: str, total: int, unit: str, shown: bool = True) -> tqdm[Any]:
    """A bar that is advanced with ``update``; to be used as a context.

    ``TQDM_DISABLE=1`` hides it: tqdm itself forgets that variable in notebooks.
    """
    hidden = not shown or bool(os.environ.get("TQDM_DISABLE"))
    return tqdm(total=total, desc=description, unit=unit, disable=hidden)


KEEP_FREED_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
