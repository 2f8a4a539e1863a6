"""Builds the pages of the book from executed notebooks."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from base64 import b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from geolib.book import claims, results
from geolib.book.run import Plan, RunError, build_folder, execute, html_folder, locked
from geolib.runtime.here import repository_root

# The ledger of claims with its verdicts, for pages and, beside them, for other programs.
CLAIMS = "claims.json"


def book(
    profile: str = "default",
    parameters: Mapping[str, Any] | None = None,
    *,
    jobs: int | None = None,
    root: Path | None = None,
) -> Path:
    """Execute what has changed and build the book; the path of its ``index.html``.

    Arguments and errors are those of :func:`geolib.book.run.execute`; warnings of the pages are
    errors, too.
    """
    executed = execute((), profile, parameters, jobs=jobs, root=root)
    with locked(build_folder(profile, root)):
        return _render(_assemble(executed, profile, root), profile, root)


def _assemble(executed: Sequence[Plan], profile: str, root: Path | None) -> Path:
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
    copies = {f"notebooks/{one.name}.ipynb": one.target for one in executed}
    files |= {relative: path.read_bytes() for relative, path in copies.items()}
    notebooks: dict[str, NotebookNode] = {}
    recorded: dict[str, dict[str, results.Scalar]] = {}
    figures: dict[str, dict[str, str]] = {}
    for one in executed:
        text = files[f"notebooks/{one.name}.ipynb"].decode()
        notebook = notebooks[one.name] = nbformat.reads(text, as_version=4)
        recorded[one.name] = results.collect(notebook, one.name)
        attached = results.attached(notebook)
        files |= {f"book/_static/{path}": content for path, content in attached.items()}
        for label, (content, suffix, alt) in _figures(one.name, notebook).items():
            path = f"figures/{one.name}.{label}{suffix}"
            files[path] = content
            figures[f"{one.name}.{label}"] = {"path": path, "alt": alt}
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
        if target.is_file() and target.read_bytes() == content:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:  # executed copies are large: one file under two names, where the disk can
            os.link(copies[relative], target)
        except (KeyError, OSError):
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
        # Of each kind the first.
        shown = {k: v for o in reversed(cell.outputs) for k, v in o.get("data", {}).items()}
        alt = settings.get("image", {}).get("alt", "")
        if "image/svg+xml" in shown:
            figures[label] = (shown["image/svg+xml"].encode(), ".svg", alt)
        elif "image/png" in shown:
            figures[label] = (b64decode(shown["image/png"]), ".png", alt)
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
        "minutes": round(sum(run["seconds"] for run in runs) / 60, 1),
        "geolib": latest["versions"]["geolib"],
        "python": latest["versions"]["python"],
        **latest["machine"],
    }


def _run_tables(notebooks: Mapping[str, NotebookNode]) -> dict[str, list[list[str]]]:
    """Rows, header first, of the tables on the page about the run."""
    runs = {name: notebook.metadata["geolib"] for name, notebook in notebooks.items()}
    latest = max(runs.values(), key=lambda run: run["started"])
    executed = [["Notebook", "Seconds", "Executed (UTC)", "Commit"]]
    parameters = [["Notebook", "Parameter", "Value"]]
    for name, run in runs.items():
        started = run["started"][:16].replace("T", " ")
        executed.append([name, f"{run['seconds']:.0f}", started, run["commit"]])
        parameters += [[name, key, json.dumps(value)] for key, value in run["parameters"].items()]
    versions = [["Package", "Version"], *map(list, latest["versions"].items())]
    return {"notebooks": executed, "parameters": parameters, "versions": versions}


def _render(source: Path, profile: str, root: Path | None) -> Path:
    # jupyter-book takes seconds to import; only this function needs it.
    from jupyter_book.sphinx import build_sphinx

    html = html_folder(profile, root)
    doctrees = build_folder(profile, root) / "doctrees"
    with warnings.catch_warnings():
        # An extension looks at every live object, and torch warns of being looked at.
        warnings.simplefilter("ignore", FutureWarning)
        # Another calls docutils by an old name.
        warnings.simplefilter("ignore", PendingDeprecationWarning)
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
    # Copies that nobody reads: those beside the pages are for download.
    for copy in (html.parent / "jupyter_execute").rglob("*.ipynb"):
        copy.unlink()
    # Sphinx leaves the page of a chapter that is no more.
    for page in (page for part in ("book", "notebooks") for page in (html / part).glob("*.html")):
        if not any((source / page.relative_to(html)).parent.glob(f"{page.stem}.*")):
            page.unlink()
    return html / "index.html"
