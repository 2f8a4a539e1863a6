"""Where the benchmark's own tables stand."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_file(name: str) -> Path:
    """Path of one of the benchmark's tables.

    An installed wheel carries them inside the package; a checkout keeps them in ``data/``.

    Raises
    ------
    ValueError
        If no such table ships with the package.
    """
    for folder in (_PACKAGE / "_data", _PACKAGE.parent / "data"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"name={name!r} is not a table of the benchmark")
