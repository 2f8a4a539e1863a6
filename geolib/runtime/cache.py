"""A content-addressed store of computed stages.

A stage is a folder of files in open formats, found by the hash of everything its content depends
on: its parameters, the code that computes it and the versions of the numerical libraries. It is
written beside its place and moved there when whole, so a killed run leaves nothing half done, and
two runs at once compute it once.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from geolib.runtime.here import cache_root

if TYPE_CHECKING:  # keys are made without either, and notebooks start sooner
    import pandas as pd
    import torch

NUMERICAL_LIBRARIES = (
    *("captum", "numpy", "opencv-python-headless", "pillow", "pycocotools"),
    *("scikit-image", "scikit-learn", "scipy", "segment-anything", "timm", "torch"),
    *("torchvision", "transformers"),
)
MANIFEST = "manifest.json"
# Whose code counts in keys.
PACKAGES = ("geolib", "geoscenes")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key(stage: str, params: Mapping[str, Any], modules: Sequence[str]) -> str:
    """Content key of a stage: what the result depends on, hashed, as 64 hexadecimal digits.

    ``params`` are JSON-serialisable, the keys of upstream stages among them; ``modules`` are those
    whose code computes the stage, for example ``geolib.scoring``.
    """
    content = json.dumps(_content(stage, params, modules), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _content(stage: str, params: Mapping[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    code = fingerprint(tuple(modules))
    return {"stage": stage, "params": params, "code": code, "libraries": _library_versions()}


@cache
def fingerprint(modules: tuple[str, ...]) -> str:
    """Hash of the code of ``modules`` and of every module of the package they import.

    Code is compared as syntax trees without docstrings, so comments, layout and documentation
    change nothing. Where results are kept decides nothing about them: ``geolib.runtime`` counts
    only where it is named itself.
    """
    found: dict[str, str] = {}
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found[name], imports = module_code(name)
        pending.extend(one for one in imports if not one.startswith("geolib.runtime."))
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def compute(
    stage: str, params: Mapping[str, Any], modules: Sequence[str], build: Callable[[Path], None]
) -> Path:
    """Folder of a finished stage, with ``manifest.json``: found in the cache, or built there.

    ``build`` is called with an empty folder and writes the stage's files into it; the rest is as
    for :func:`key`. Raises ValueError if the cache folder cannot be written.
    """
    place = _place(stage, params, modules)
    if _is_whole(place):
        return place
    with _lock(place):
        if not _is_whole(place):
            _build(place, _content(stage, params, modules), build)
    return place


def table(
    stage: str, params: Mapping[str, Any], modules: Sequence[str], make: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """A table from the cache, or made and kept there as Parquet; see :func:`compute`."""
    import pandas as pd

    def build(folder: Path) -> None:
        make().to_parquet(folder / "table.parquet")

    return pd.read_parquet(compute(stage, params, modules, build) / "table.parquet")


def arrays(
    stage: str,
    params: Mapping[str, Any],
    modules: Sequence[str],
    make: Callable[[], Mapping[str, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """Tensors from the cache, or made and kept there as safetensors; see :func:`compute`."""
    from safetensors.torch import load_file, save_file

    def build(folder: Path) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in make().items()}
        save_file(tensors, folder / "arrays.safetensors")

    return load_file(compute(stage, params, modules, build) / "arrays.safetensors")


def find(stage: str, params: Mapping[str, Any], modules: Sequence[str]) -> Path | None:
    """Folder of a finished stage, as :func:`compute` gives it; None where it is yet to be built."""
    place = _place(stage, params, modules)
    return place if _is_whole(place) else None


def device_name() -> str:
    """What networks of this process run on: the name of its GPU, or ``CPU``."""
    torch = sys.modules.get("torch")  # importing it takes seconds
    if torch is None or not torch.accelerator.is_available():
        return "CPU"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "Apple GPU"


def seconds(folder: Path) -> float:
    """How long a finished stage took to compute."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["seconds"]


def _place(stage: str, params: Mapping[str, Any], modules: Sequence[str]) -> Path:
    identity = key(stage, params, modules)
    return cache_root() / stage / identity[:2] / identity


def _build(place: Path, made_by: Mapping[str, Any], build: Callable[[Path], None]) -> None:
    for abandoned in place.parent.glob(f"{place.name}.part-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f"{place.name}.part-", dir=place.parent))
    try:
        started = time.perf_counter()
        build(part)
        manifest = {
            **made_by,
            "seconds": round(time.perf_counter() - started, 3),
            "device": device_name(),
            "python": sys.version.split()[0],
            "sha256": {p.name: sha256(p) for p in sorted(part.iterdir())},
        }
        (part / MANIFEST).write_text(
            json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8"
        )
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _lock(place: Path) -> FileLock:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place.parent).close()
    except OSError as error:
        raise ValueError(
            f"the cache folder {cache_root()} cannot be written; "
            "set the environment variable GEOLIB_CACHE to a folder that can"
        ) from error
    return FileLock(place.with_suffix(".lock"))


def _is_whole(place: Path) -> bool:
    manifest = place / MANIFEST
    if not manifest.is_file():
        return False
    try:
        _verify(place, manifest.stat().st_mtime_ns)
    except (OSError, ValueError) as damage:
        warnings.warn(f"damaged cache entry is computed again: {place}: {damage}", stacklevel=3)
        return False
    return True


@cache
def _verify(place: Path, modified: int) -> None:
    """Compare files with the manifest; remembered per process, since hashing reads everything."""
    expected = json.loads((place / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    for name, digest in expected.items():
        if sha256(place / name) != digest:
            raise ValueError(f"checksum of {name} differs")


@cache
def _library_versions() -> dict[str, str]:
    return {name: version(name) for name in NUMERICAL_LIBRARIES}


@cache
def module_code(module: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a module's syntax tree, and the modules of the package that it imports."""
    source = _source(module)
    if source is None:
        raise ValueError(f"modules holds {module!r}, which is not a module of the package")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    imports: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body.pop(0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += imported(node, {*PACKAGES, module.partition(".")[0]})
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(imports)


def imported(node: ast.Import | ast.ImportFrom, packages: Collection[str]) -> Iterator[str]:
    """Modules of some packages that a statement imports."""
    if isinstance(node, ast.Import):
        candidates = [alias.name for alias in node.names]
    elif node.module and node.level == 0:
        candidates = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    else:
        return
    yield from (n for n in candidates if n.partition(".")[0] in packages and _source(n))


@cache
def _source(module: str) -> Path | None:
    """File of a module; found without importing its parents, which can take seconds."""
    package, *parts = module.split(".")
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations if spec else None) or ():
        place = Path(root, *parts)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None
