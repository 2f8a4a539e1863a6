"""What a run of a notebook depends on, and what it ran on."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

import geolib
from geolib.book.parameters import by_name, files
from geolib.runtime import cache
from geolib.runtime.here import repository_root

_LIBRARIES = ("lightning", "matplotlib", "pandas", "seaborn", "statsmodels")
# Lines that only a notebook understands.
_MAGIC = re.compile(r"^\s*[%!].*$", re.MULTILINE)


def inputs(source: Path, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Hash of each kind of thing that decides what a notebook shows.

    Nothing counts by its place or time: a moved or fresh clone has the same hashes. Code counts as
    far as the notebook imports it, transitively, and as syntax trees without docstrings.
    """
    notebook = nbformat.read(source, as_version=4)
    kinds = {
        "its source": [[cell.cell_type, cell.source, cell.metadata] for cell in notebook.cells],
        "its parameters": by_name(dict(parameters)),
        "the files it is given": [content(Path(file)) for file in files(dict(parameters))],
        "the project's data": content(repository_root() / "data"),
        "the package's code": cache.fingerprint(tuple(sorted(modules(notebook)))),
        "the libraries": versions(),
    }
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        for name, value in kinds.items()
    }


def modules(notebook: NotebookNode) -> set[str]:
    """Modules of the project that the cells of a notebook import."""
    found: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(_MAGIC.sub("", cell.source))):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    found.update(cache.imported(node, cache.PACKAGES))
    return found


def changed(now: Mapping[str, str], earlier: Mapping[str, str]) -> list[str]:
    """Kinds of inputs whose hashes differ from those of an earlier run."""
    return [name for name, digest in now.items() if earlier.get(name) != digest]


def commit(folder: Path) -> str:
    """Version of a checkout, for people."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        done = subprocess.run(
            describe, cwd=folder, capture_output=True, encoding="utf-8", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "not under version control"
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """System, device and number of cores."""
    import_module("torch")  # whose devices are then named
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": cache.device_name(),
        "cores": os.cpu_count(),
    }


def versions() -> dict[str, str]:
    """Versions of Python, the package and what its numbers come from."""
    libraries = {name: version(name) for name in (*cache.NUMERICAL_LIBRARIES, *_LIBRARIES)}
    return {"python": platform.python_version(), "geolib": geolib.__version__, **libraries}


@functools.cache
def content(path: Path) -> list[tuple[str, str]]:
    """Name and hash of a file, or of every file of a folder and of folders that it links to."""
    if not path.is_dir():
        return [(path.name, cache.sha256(path))]
    found, seen = [], set()
    for folder, folders, names in os.walk(path, followlinks=True):
        real = Path(folder).resolve()
        folders[:] = [] if real in seen else sorted(folders)
        for name in [] if real in seen else sorted(names):
            file = Path(folder, name)
            with suppress(OSError):  # what cannot be read is skipped by all who look at it
                shown = file.relative_to(path.parent).as_posix()
                found.append((shown, cache.sha256(file) if file.is_file() else ""))
        seen.add(real)
    return found
