"""Where files stand: the data that ship with the package, and the cache of computed stages."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

_PACKAGE = Path(__file__).resolve().parent


def repository_root() -> Path:
    """Directory that holds the package: the repository, for an editable install."""
    return _PACKAGE.parent


def data_file(name: str) -> Path:
    """Path of a file of the project's ``data/`` folder.

    An installed wheel carries the folder inside the package; an editable install reads it in place.

    Raises
    ------
    ValueError
        If no such file ships with the package.
    """
    for folder in (_PACKAGE / "_data", repository_root() / "data"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"name={name!r} is not a file of the package's data folder")


def cache_root() -> Path:
    """Folder of computed stages: ``GEOLIB_CACHE``, or the user's cache directory."""
    configured = os.environ.get("GEOLIB_CACHE")
    return Path(configured).expanduser() if configured else user_cache_path("geolib")
