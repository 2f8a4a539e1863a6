"""Results recorded inside a notebook, and read back from its executed copy.

A result travels in the notebook itself, as an output that no front end shows, so an executed
notebook and its numbers cannot come apart.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from IPython.display import display
from nbformat import NotebookNode

MIME = "application/vnd.geolib.book.results+json"
FILES_MIME = "application/vnd.geolib.files+json"

Scalar = bool | int | float | str


def record(**values: Any) -> None:
    """Record named numbers, strings and booleans in the notebook being executed, unseen.

    ValueError if one is missing, empty, NaN or infinite: prose could not quote it.
    """
    if not values:
        raise ValueError("record() needs at least one named value, for example accuracy=0.9")
    display({MIME: {key: _scalar(key, value) for key, value in values.items()}}, raw=True)


def collect(notebook: NotebookNode, name: str) -> dict[str, Scalar]:
    """Results that an executed notebook of that name recorded, in their order; each key once."""
    results: dict[str, Scalar] = {}
    for key, value in _outputs(notebook, MIME):
        if key in results:
            raise ValueError(f"{name} records {key!r} twice; rename one")
        results[key] = _scalar(key, value)
    return results


def attach(name: str, folder: Path) -> None:
    """Let the files of a folder travel in the notebook; the book has them at ``_static/NAME``.

    A few MB at most: the notebook holds every byte.
    """
    files = {
        f"{name}/{path.relative_to(folder).as_posix()}": b64encode(path.read_bytes()).decode()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    display({FILES_MIME: files}, raw=True)


def attached(notebook: NotebookNode) -> dict[str, bytes]:
    """Files that an executed notebook attached, by their paths under ``_static``."""
    return {path: b64decode(content) for path, content in _outputs(notebook, FILES_MIME)}


def _outputs(notebook: NotebookNode, kind: str) -> Iterator[tuple[str, Any]]:
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield from output.get("data", {}).get(kind, {}).items()


def _scalar(key: str, value: Any) -> Scalar:
    if not isinstance(value, Scalar) and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"result {key!r} is {value!r}; record a number or a non-empty string")
    if not isinstance(value, Scalar):
        raise TypeError(f"result {key!r} is a {type(value).__name__}; record one number or string")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"result {key!r} is {value}; record a finite number")
    return value
