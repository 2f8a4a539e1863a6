"""Executes the notebooks with papermill and builds the book from the executed copies.

Everything a run writes stands under ``_build/PROFILE``: the executed notebooks, the results they
recorded, the source tree of the book and its pages (``_build/html`` for the ``default`` profile).
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import warnings
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jupytext.cli
import nbformat
import papermill
import yaml
from filelock import FileLock, Timeout
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import geolib
from geolib.book import claims, results
from geolib.runtime import cache
from geolib.runtime.here import KEEP_FREED_MEMORY, repository_root

# The ledger of claims with its verdicts, for pages and, beside them, for other programs.
CLAIMS = "claims.json"
WIDGET = "application/vnd.jupyter.widget-view+json"
KEPT_TAGS = frozenset({"nbval-check-output", "keep_output"})
# What a notebook shows does not depend on how it is started or printed.
_NOT_AN_INPUT = {
    "geolib.runtime.here",
    "geolib.cli",
    "geolib.book.run",
    "geolib.book.sphinx_claims",
    "geolib.book.sphinx_results",
}
_LIBRARIES = ("lightning", "matplotlib", "pandas", "seaborn", "statsmodels")
_console = Console(stderr=True, markup=False)


class RunError(RuntimeError):
    """A notebook or the book could not be finished; the message says where to look."""


@dataclass(frozen=True)
class Execution:
    """One executed notebook: where its copy stands and what the run took."""

    name: str
    path: Path
    seconds: float
    skipped: bool


def names(root: Path | None = None) -> list[str]:
    """Names of the notebooks, in reading order."""
    return sorted(path.stem for path in _notebooks(root).glob("[0-9][0-9]-*.ipynb"))


def build_folder(profile: str, root: Path | None = None) -> Path:
    """Folder that holds everything a run with ``profile`` writes."""
    return (root or repository_root()) / "_build" / profile


def html_folder(profile: str, root: Path | None = None) -> Path:
    """Folder of the built pages; ``default`` has the short address ``_build/html``."""
    folder = build_folder(profile, root)
    return (folder.parent if profile == "default" else folder) / "html"


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Parameters that a notebook declares, with their default values.

    Raises
    ------
    ValueError
        If a default is not a literal: a value derived inside the parameters cell would not
        follow an override.
    """
    declared = {}
    for name, parameter in papermill.inspect_notebook(notebook).items():
        try:
            declared[name] = ast.literal_eval(parameter["default"])
        except (SyntaxError, ValueError):
            raise ValueError(
                f"parameter {name!r} of {notebook.name} defaults to {parameter['default']}, "
                "which is not a literal; derive it in a later cell"
            ) from None
    return declared


def parse_value(text: str) -> Any:
    """Value of a parameter given on the command line, read as YAML, ``1e-3`` being a number."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(text)
        except ValueError:
            return value
    return value


def resolve(
    notebooks: Sequence[str],
    profile: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    root: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Parameters of each notebook: declared defaults, then the profile, then ``overrides``.

    A profile file holds ``shared`` parameters, which go to every notebook that declares them, and
    parameters of single ``notebooks``. An override goes to every selected notebook that declares
    it.

    Raises
    ------
    ValueError
        If a notebook, a profile or a parameter is unknown (the message lists the known ones), or
        a value is text where the notebook has a number, or the other way round.
    """
    known = names(root)
    for name in notebooks:
        if name not in known:
            raise ValueError(_unknown("notebook", name, known))
    declared = {name: declared_parameters(_notebooks(root) / f"{name}.ipynb") for name in known}
    settings = _read_profile(profile, root)
    shared, own = settings.get("shared") or {}, settings.get("notebooks") or {}
    for name in own:
        if name not in known:
            raise ValueError(f"profile {profile!r}: " + _unknown("notebook", name, known))
    _check_declared(f"profile {profile!r}", shared, declared)
    for name, values in own.items():
        _check_declared(f"profile {profile!r}, {name}", values or {}, {name: declared[name]})
    selected = {name: declared[name] for name in notebooks}
    _check_declared("parameters", overrides or {}, selected)
    resolved = {}
    for name, defaults in selected.items():
        given = {**shared, **(own.get(name) or {}), **(overrides or {})}
        resolved[name] = defaults | {key: given[key] for key in defaults if key in given}
        for key, value in resolved[name].items():
            _check_kind(name, key, value, defaults[key])
    return resolved


def execute(
    notebooks: Iterable[str] = (),
    profile: str = "default",
    parameters: Mapping[str, Any] | None = None,
    *,
    root: Path | None = None,
) -> list[Execution]:
    """Execute notebooks into the build folder, skipping those that nothing has changed for.

    A notebook is executed again when its source, its parameters, the files they name, the data
    that ship with the package, the package's code or a numerical library has changed. Its copy
    takes its place only when whole.

    Parameters
    ----------
    notebooks
        Names such as ``06-faithfulness``; none means all.
    profile
        Name of a file of ``notebooks/profiles``.
    parameters
        Overrides of the profile.
    root
        The repository, if not the one that holds this package.

    Returns
    -------
    list of Execution
        One per notebook, in the order given.

    Raises
    ------
    ValueError
        If a notebook, profile or parameter is unknown.
    RunError
        If a notebook fails; the message holds the error, where to look, and the path of the
        half-executed copy.
    """
    selected = list(notebooks) or names(root)
    resolved = resolve(selected, profile, parameters, root=root)
    with _locked(build_folder(profile, root)):
        return _execute(resolved, profile, root)


def book(
    profile: str = "default",
    parameters: Mapping[str, Any] | None = None,
    *,
    root: Path | None = None,
) -> Path:
    """Execute what has changed and build the book; warnings are errors.

    Returns
    -------
    Path
        The built ``index.html``.

    Raises
    ------
    ValueError
        If the profile or a parameter is unknown.
    RunError
        If a notebook fails or the book does not build.
    """
    resolved = resolve(names(root), profile, parameters, root=root)
    with _locked(build_folder(profile, root)):
        executions = _execute(resolved, profile, root)
        source = _assemble(executions, profile, root)
        return _render(source, profile, root)


def pair(root: Path | None = None) -> list[Path]:
    """Regenerate every ``.ipynb`` from its MyST source.

    Outputs survive only in cells tagged both ``nbval-check-output`` and ``keep_output``.
    """
    pairs = []
    for source in sorted(_notebooks(root).glob("[0-9][0-9]-*.md")):
        jupytext.cli.jupytext(["--quiet", "--to", "ipynb", "--update", str(source)])
        target = source.with_suffix(".ipynb")
        notebook = nbformat.read(target, as_version=4)
        _strip(notebook)
        nbformat.write(notebook, target)
        pairs.append(target)
    return pairs


def keep_outputs(profile: str = "smoke", *, root: Path | None = None) -> None:
    """Execute the notebooks and store the outputs that nbval compares in the notebooks."""
    for execution in execute(profile=profile, root=root):
        target = _notebooks(root) / f"{execution.name}.ipynb"
        notebook = nbformat.read(target, as_version=4)
        executed = {cell.id: cell for cell in nbformat.read(execution.path, as_version=4).cells}
        for cell in notebook.cells:
            if is_kept(cell):
                cell.outputs = executed[cell.id].outputs
                cell.execution_count = executed[cell.id].execution_count
        _strip(notebook)
        nbformat.write(notebook, target)


def is_kept(cell: NotebookNode) -> bool:
    """Whether the repository keeps the output of a cell."""
    return cell.cell_type == "code" and set(cell.metadata.get("tags", ())) >= KEPT_TAGS


def _strip(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code" and not is_kept(cell):
            cell.outputs, cell.execution_count = [], None


def _notebooks(root: Path | None) -> Path:
    return (root or repository_root()) / "notebooks"


def _read_profile(profile: str, root: Path | None) -> dict[str, Any]:
    folder = _notebooks(root) / "profiles"
    path = folder / f"{profile}.yaml"
    if not path.is_file():
        raise ValueError(
            _unknown("profile", profile, sorted(p.stem for p in folder.glob("*.yaml")))
        )
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for key in settings:
        if key not in ("shared", "notebooks"):
            raise ValueError(f"{path.name}: " + _unknown("section", key, ["shared", "notebooks"]))
    return settings


def _check_declared(
    where: str, given: Iterable[str], declared: Mapping[str, Mapping[str, Any]]
) -> None:
    known = sorted({name for parameters in declared.values() for name in parameters})
    for name in given:
        if name not in known:
            raise ValueError(f"{where}: " + _unknown("parameter", name, known))


def _check_kind(notebook: str, name: str, value: Any, default: Any) -> None:
    if (
        default is not None
        and value is not None
        and isinstance(value, str) != isinstance(default, str)
    ):
        raise ValueError(
            f"parameter {name!r} of {notebook} is {value!r} ({type(value).__name__}); "
            f"a {type(default).__name__} like {default!r} was expected"
        )


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}; known: {', '.join(known) or 'none'}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _console.print(f"another run writes to {folder}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _execute(
    resolved: Mapping[str, dict[str, Any]], profile: str, root: Path | None
) -> list[Execution]:
    folder = build_folder(profile, root) / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(KEEP_FREED_MEMORY)  # read by the kernels when they start
    executions = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=_console, transient=True) as progress:
        for position, (name, parameters) in enumerate(resolved.items(), start=1):
            task = progress.add_task(f"{name} ({position} of {len(resolved)})", total=1)
            executions.append(_execute_one(name, parameters, profile, folder, root))
            progress.remove_task(task)
            done = executions[-1]
            state = "unchanged" if done.skipped else f"executed in {done.seconds:.0f} s"
            progress.console.print(f"{name}: {state}")
    return executions


def _execute_one(
    name: str, parameters: dict[str, Any], profile: str, folder: Path, root: Path | None
) -> Execution:
    source = _notebooks(root) / f"{name}.ipynb"
    target = folder / f"{name}.ipynb"
    key = _key(source, parameters)
    if target.is_file():
        run = nbformat.read(target, as_version=4).metadata.get("geolib", {})
        if run.get("key") == key:
            return Execution(name, target, run["seconds"], skipped=True)
    # The name a half-executed copy keeps, so that it never counts as done.
    part = folder / f"{name}.failed.ipynb"
    started = datetime.now(UTC)
    try:
        notebook = papermill.execute_notebook(
            source,
            part,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=source.parent,
            # The kernel warns of its local sockets at every start.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        raise RunError(
            f"{name} failed: {error.ename}: {error.evalue}\n\n"
            f"See In [{error.exec_count}] of the half-executed copy: {part}"
        ) from error
    except (DeadKernelError, CellTimeoutError) as error:
        raise RunError(f"{name} failed: {error}\n\nThe half-executed copy: {part}") from error
    seconds = (datetime.now(UTC) - started).total_seconds()
    # Absolute paths of this machine have no place in a notebook that readers download.
    notebook.metadata.papermill.input_path = f"notebooks/{name}.ipynb"
    notebook.metadata.papermill.output_path = f"notebooks/{name}.ipynb"
    notebook.metadata["geolib"] = {
        "key": key,
        "profile": profile,
        "parameters": parameters,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "commit": _commit(source.parent),
        "machine": _machine(),
        "versions": _versions(),
    }
    _fold_parameters(notebook)
    _drop_progress_bars(notebook)
    nbformat.write(notebook, part)
    results.collect(part)
    part.replace(target)
    return Execution(name, target, seconds, skipped=False)


def _fold_parameters(notebook: NotebookNode) -> None:
    """Let the page show the values of the run, folded, in place of the notebook's defaults."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]
        elif "parameters" in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]


def _drop_progress_bars(notebook: NotebookNode) -> None:
    """Drop finished progress bars: no result, and a page would load their code from elsewhere."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]


def _key(source: Path, parameters: Mapping[str, Any]) -> str:
    """Hash of everything that decides what a notebook shows."""
    notebook = nbformat.read(source, as_version=4)
    content = {
        "cells": [[cell.cell_type, cell.source, cell.metadata] for cell in notebook.cells],
        "parameters": parameters,
        "inputs": [_stamp(Path(v)) for v in parameters.values() if _is_path(v, source.parent)],
        "data": _stamp(repository_root() / "data"),
        "code": cache.fingerprint(_modules()),
        "versions": _versions(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _modules() -> tuple[str, ...]:
    package = Path(geolib.__path__[0])
    paths = (path.relative_to(package.parent).with_suffix("") for path in package.rglob("*.py"))
    modules = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    return tuple(sorted(modules - _NOT_AN_INPUT))


def _is_path(value: Any, folder: Path) -> bool:
    return isinstance(value, str) and bool(value) and (folder / value).exists()


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and modification time of a file, or of every file of a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [(str(p), (s := p.stat()).st_size, s.st_mtime_ns) for p in files]


def _commit(folder: Path) -> str:
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        done = subprocess.run(describe, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not under version control"
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    import torch  # only a run that executes something pays for this import

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "cores": os.cpu_count(),
    }


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in (*cache.NUMERICAL_LIBRARIES, *_LIBRARIES)}
    return {"python": platform.python_version(), "geolib": geolib.__version__, **libraries}


def _assemble(executions: Sequence[Execution], profile: str, root: Path | None) -> Path:
    """Source tree of the book, written so that unchanged files keep their times.

    Configuration, pages and executed notebooks stand at their paths in the repository: links to
    Colab, Binder and the sources follow from these paths.
    """
    repository = root or repository_root()
    source = build_folder(profile, root) / "source"
    pages = [p for p in (repository / "book").rglob("*") if p.is_file()]
    files = {
        path.relative_to(repository).as_posix(): path.read_bytes()
        for path in (repository / "_config.yml", repository / "_toc.yml", *pages)
    }
    notebooks = {e.name: nbformat.read(e.path, as_version=4) for e in executions}
    for execution in executions:
        files[f"notebooks/{execution.name}.ipynb"] = execution.path.read_bytes()
        for path, content in results.attached(execution.path).items():
            files[f"book/_static/{path}"] = content
    figures: dict[str, dict[str, str]] = {}
    for name, notebook in notebooks.items():
        for label, (content, suffix, alt) in _figures(name, notebook).items():
            path = f"figures/{name}.{label}{suffix}"
            files[path] = content
            figures[f"{name}.{label}"] = {"path": path, "alt": alt}
    recorded = {e.name: results.collect(e.path) for e in executions}
    about_run = _run_results(profile, notebooks)
    ledger = claims.ledger(claims.findings(recorded))
    summary = {
        "results": recorded | {"run": about_run, "claims": claims.counts(ledger)},
        "figures": figures,
        "tables": _run_tables(notebooks),
    }
    files["results.json"] = json.dumps(summary, indent=1, sort_keys=True).encode()
    verdicts = {"run": about_run, "claims": ledger.to_dict("records")}
    files[CLAIMS] = json.dumps(verdicts, indent=1, ensure_ascii=False).encode()
    for old in source.rglob("*"):
        if old.is_file() and old.relative_to(source).as_posix() not in files:
            old.unlink()
    for relative, content in files.items():
        target = source / relative
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return source


def _figures(name: str, notebook: NotebookNode) -> dict[str, tuple[bytes, str, str]]:
    """Named figures of an executed notebook: content, suffix and alternative text."""
    figures = {}
    for cell in notebook.cells:
        settings = cell.metadata.get("mystnb", {})
        label = settings.get("figure", {}).get("name")
        if label is None:
            continue
        images = [o.data for o in cell.outputs if "image/png" in o.get("data", {})]
        svgs = [o.data for o in cell.outputs if "image/svg+xml" in o.get("data", {})]
        alt = settings.get("image", {}).get("alt", "")
        if svgs:
            figures[label] = (svgs[0]["image/svg+xml"].encode(), ".svg", alt)
        elif images:
            figures[label] = (b64decode(images[0]["image/png"]), ".png", alt)
        else:
            raise RunError(f"{name}: the cell of figure {label!r} shows no image")
    return figures


def _run_results(profile: str, notebooks: Mapping[str, NotebookNode]) -> dict[str, Any]:
    """What pages say about the run itself: ``run.profile``, ``run.date``, ``run.minutes`` ..."""
    runs = [notebook.metadata["geolib"] for notebook in notebooks.values()]
    latest = max(runs, key=lambda run: run["started"])
    return {
        "profile": profile,
        "date": latest["started"][:10],
        "commit": latest["commit"],
        "seconds": round(sum(run["seconds"] for run in runs), 1),
        "minutes": round(sum(run["seconds"] for run in runs) / 60, 1),
        "notebooks": len(runs),
        "geolib": latest["versions"]["geolib"],
        "python": latest["versions"]["python"],
        **latest["machine"],
    }


def _run_tables(notebooks: Mapping[str, NotebookNode]) -> dict[str, list[list[str]]]:
    """Rows, header first, of the tables on the page about the run."""
    runs = {name: notebook.metadata["geolib"] for name, notebook in notebooks.items()}
    latest = max(runs.values(), key=lambda run: run["started"])
    return {
        "notebooks": [
            ["Notebook", "Seconds", "Executed (UTC)", "Commit"],
            *(
                [
                    name,
                    f"{run['seconds']:.0f}",
                    run["started"][:16].replace("T", " "),
                    run["commit"],
                ]
                for name, run in runs.items()
            ),
        ],
        "parameters": [
            ["Notebook", "Parameter", "Value"],
            *(
                [name, parameter, json.dumps(value)]
                for name, run in runs.items()
                for parameter, value in run["parameters"].items()
            ),
        ],
        "versions": [["Package", "Version"], *map(list, latest["versions"].items())],
    }


def _render(source: Path, profile: str, root: Path | None) -> Path:
    # jupyter-book takes seconds to import; only this function needs it.
    from jupyter_book.sphinx import build_sphinx

    html = html_folder(profile, root)
    doctrees = build_folder(profile, root) / "doctrees"
    with warnings.catch_warnings():
        # An extension looks at every live object, and torch warns of being looked at.
        warnings.simplefilter("ignore", FutureWarning)
        status = build_sphinx(
            source,
            html,
            noconfig=True,
            path_config=source / "_config.yml",
            doctreedir=doctrees,
            confoverrides={
                "external_toc_path": (source / "_toc.yml").as_posix(),
                "latex_individualpages": False,
                "nitpicky": True,
            },
            warningiserror=True,
            keep_going=True,
        )
    if status:
        # Sphinx repeats no warning of a page that it does not read again: start afresh next time.
        shutil.rmtree(doctrees, ignore_errors=True)
        raise RunError(f"the book of profile {profile!r} did not build; the warnings stand above")
    shutil.copy(source / CLAIMS, html)
    # Sphinx leaves the page of a chapter that is no more.
    for page in (page for part in ("book", "notebooks") for page in (html / part).glob("*.html")):
        if not any((source / page.relative_to(html)).parent.glob(f"{page.stem}.*")):
            page.unlink()
    return html / "index.html"
