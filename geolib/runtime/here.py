"""Where files stand: the data that ship with the package, and the cache of computed stages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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


def cache_root() -> Path:
    """Folder of computed stages: ``GEOLIB_CACHE``, or the user's cache directory."""
    configured = os.environ.get("GEOLIB_CACHE")
    return Path(configured).expanduser() if configured else user_cache_path("geolib")


def progress_bar(description: str, total: int, unit: str, shown: bool = True) -> tqdm[Any]:
    """A bar that is advanced with ``update``; to be used as a context.

    ``TQDM_DISABLE=1`` hides it: tqdm itself forgets that variable in notebooks.
    """
    hidden = not shown or bool(os.environ.get("TQDM_DISABLE"))
    return tqdm(total=total, desc=description, unit=unit, disable=hidden)


KEEP_FREED_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
