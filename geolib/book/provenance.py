"""What a run of a notebook depends on, and what it ran on."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

import geolib
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
    named = {k: v for k, v in parameters.items() if _is_path(v, source.parent)}
    content = {
        "its source": [[cell.cell_type, cell.source, cell.metadata] for cell in notebook.cells],
        "its parameters": dict(parameters),
        "the files it is given": {k: _content(source.parent / v) for k, v in named.items()},
        "the project's data": _content(repository_root() / "data"),
        "the package's code": cache.fingerprint(tuple(sorted(modules(notebook)))),
        "the libraries": versions(),
    }
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        for name, value in content.items()
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
        done = subprocess.run(describe, cwd=folder, capture_output=True, text=True, check=True)
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


def _is_path(value: Any, folder: Path) -> bool:
    return isinstance(value, str) and bool(value) and (folder / value).exists()


def _content(path: Path) -> list[tuple[str, str]]:
    """Name and hash of a file, or of every file of a folder."""
    files: Iterable[Path] = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
    return [(p.relative_to(path.parent).as_posix(), cache.sha256(p)) for p in files]
