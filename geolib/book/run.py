"""Executes the notebooks with papermill, several at a time, and skips what has not changed.

Everything a run writes stands under ``_build/PROFILE``: the executed notebooks, the results they
recorded, the source tree of the book and its pages (``_build/html`` for the ``default`` profile).
"""

from __future__ import annotations

import difflib
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import jupytext.cli
import nbformat
import papermill
from filelock import FileLock, Timeout
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.translators import translate_parameters
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from geolib.book import provenance, results
from geolib.book.parameters import by_name, declared_parameters, files, fitted, read_yaml
from geolib.runtime.here import KEEP_FREED_MEMORY, check_folder, repository_root

WIDGET = "application/vnd.jupyter.widget-view+json"
KEPT_TAGS = frozenset({"nbval-check-output", "keep_output"})
# The others wait for the network that it trains: it runs before them, with all cores.
FIRST = "02-classifier"
SECONDS_BETWEEN_LOOKS = 1.0
ROOM = 1e7  # bytes: of executed notebooks and their figures
# Of a profile's file; `seconds` is what each notebook takes, until there is an earlier run to say.
_SECTIONS = ("shared", "notebooks", "seconds")
_console = Console(stderr=True, markup=False, emoji=False)


class RunError(RuntimeError):
    """A notebook or the book could not be finished; the message says where to look."""


@dataclass(frozen=True)
class Plan:
    """What a run does for a notebook; its executed copy is ``target``.

    ``why`` lists what has changed since its last run, and is empty if nothing has; ``seconds`` is
    what that run took, None if there was none, and ``expected`` this or what its profile says.
    """

    name: str
    source: Path
    parameters: dict[str, Any]
    inputs: dict[str, str]
    target: Path
    why: list[str]
    seconds: float | None
    expected: float

    @property
    def part(self) -> Path:
        """A half-executed copy; by another name, so that it never counts as done."""
        return self.target.with_name(f"{self.name}.failed.ipynb")


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
    it. Paths of overrides are as seen from the working directory, those of a profile from the
    repository; they come back absolute. ValueError for what is unknown, a value that is not what
    its parameter is, and a path where nothing is.
    """
    known = names(root)
    _check_known("notebook", notebooks, known)
    declared = {name: declared_parameters(_notebooks(root) / f"{name}.ipynb") for name in known}
    settings = _read_profile(profile, root)
    shared, own = settings.get("shared") or {}, settings.get("notebooks") or {}
    where = f"profile {profile!r}"
    _check_known("notebook", (*own, *(settings.get("seconds") or {})), known, f"{where}: ")
    _check_known("parameter", shared, sorted(set().union(*declared.values())), f"{where}: ")
    for name, values in own.items():
        _check_known("parameter", values or {}, sorted(declared[name]), f"{where}, {name}: ")
    selected = {name: declared[name] for name in notebooks}
    _check_known("parameter", overrides or {}, sorted(set().union(*selected.values())))
    resolved: dict[str, dict[str, Any]] = {}
    for name, parameters in selected.items():
        layers = (
            ({key: one.default for key, one in parameters.items()}, _notebooks(root)),
            (shared | (own.get(name) or {}), root or repository_root()),
            (overrides or {}, Path.cwd()),
        )
        given = {key: (value, base) for values, base in layers for key, value in values.items()}
        resolved[name] = {}
        for key, parameter in parameters.items():
            value, base = given[key]
            try:
                resolved[name][key] = fitted(value, parameter, base)
            except ValueError as error:
                came = f"{value!r} ({type(value).__name__.lower()})"
                raise ValueError(f"parameter {key!r} of {name} is {came}: {error}") from None
    return resolved


def plan(
    notebooks: Iterable[str] = (),
    profile: str = "default",
    parameters: Mapping[str, Any] | None = None,
    *,
    root: Path | None = None,
) -> list[Plan]:
    """What :func:`execute` would do with the same arguments, and why, notebook by notebook."""
    selected = list(notebooks) or names(root)
    resolved = resolve(selected, profile, parameters, root=root)
    folder = build_folder(profile, root) / "notebooks"
    expected = _read_profile(profile, root).get("seconds") or {}
    provenance.content.cache_clear()  # of an earlier plan
    plans = []
    for name, values in resolved.items():
        source, target = _notebooks(root) / f"{name}.ipynb", folder / f"{name}.ipynb"
        inputs = provenance.inputs(source, values)
        why, seconds = ["it has not run yet"], None
        if target.is_file():
            earlier = nbformat.read(target, as_version=4).metadata.get("geolib", {})
            why = provenance.changed(inputs, earlier.get("inputs", {}))
            seconds = earlier.get("seconds")
        likely = seconds or float(expected.get(name, 0))
        plans.append(Plan(name, source, values, inputs, target, why, seconds, likely))
    return plans


def execute(
    notebooks: Iterable[str] = (),
    profile: str = "default",
    parameters: Mapping[str, Any] | None = None,
    *,
    jobs: int | None = None,
    root: Path | None = None,
) -> list[Plan]:
    """Execute notebooks into the build folder, skipping those that nothing has changed for.

    A notebook is executed again when its source, its parameters, the content of the files they
    name or of the project's data, the code it imports or a library has changed. Its copy takes its
    place only when whole. No ``notebooks`` means all; ``parameters`` override those of the profile;
    ``jobs`` notebooks run at a time and share the cores, by default two where there are two.

    ValueError if a notebook, profile or parameter is unknown, or ``jobs`` is less than 1; RunError
    if a notebook fails: the message says where to look, and those beside it are finished first.
    """
    jobs = min(2, os.cpu_count() or 1) if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"jobs={jobs}; expected at least 1")
    check_folder(build_folder(profile, root), ROOM)
    with locked(build_folder(profile, root)):
        plans = plan(notebooks, profile, parameters, root=root)
        (build_folder(profile, root) / "notebooks").mkdir(exist_ok=True)
        for one in plans:
            if not one.why:
                _console.print(f"{one.name}: unchanged")
        # The longest first: none is then left to run alone in the end.
        due = sorted((one for one in plans if one.why), key=lambda one: -one.expected)
        first = [one for one in due if one.name == FIRST]
        rest = [one for one in due if one.name != FIRST]
        for batch, at_once in ((first, 1), (rest, jobs)):
            if batch:
                _run(batch, profile, at_once)
    return plans


def _run(plans: Sequence[Plan], profile: str, jobs: int) -> None:
    """Execute notebooks, each in its kernel's process, as many at a time as there are jobs."""
    about = {"profile": profile, "machine": provenance.machine()}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    failed: RunError | None = None
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=_console, transient=True) as progress,
        ThreadPoolExecutor(jobs) as executor,
        _kernels(threads) as kernel,
    ):
        waiting = list(plans)
        running: dict[Future[float], tuple[Plan, Any]] = {}
        while waiting or running:
            while waiting and len(running) < jobs and failed is None:
                one = waiting.pop(0)
                one.part.unlink(missing_ok=True)
                task = progress.add_task(one.name, total=None)
                running[executor.submit(_execute_one, one, about, kernel)] = one, task
            if not running:
                break
            finished, _ = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
            for one, task in running.values():
                progress.update(task, **_state(one))
            for future in finished:
                one, task = running.pop(future)
                progress.remove_task(task)
                try:
                    seconds = future.result()
                except RunError as error:
                    failed = failed or error
                    continue
                _console.print(f"{one.name}: executed in {seconds:.0f} s")
    if failed is not None:
        raise failed


@contextmanager
def _kernels(threads: int) -> Iterator[type[AsyncKernelManager]]:
    """Class of kernels with so many threads each; an error, or Ctrl-C, ends what they run."""
    environment = os.environ | KEEP_FREED_MEMORY
    environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONUTF8": "1"}
    started: list[AsyncKernelManager] = []
    ended = False

    def end() -> None:
        for process in [cast(Any, one.provisioner) for one in started if one.has_kernel]:
            with suppress(ProcessLookupError):
                os.killpg(process.pgid, signal.SIGKILL)  # its workers, too

    async def start(manager: AsyncKernelManager, **options: Any) -> None:
        # Without folders to look in, python3 is the interpreter that runs this.
        manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
        if not ended:
            await AsyncKernelManager.start_kernel(manager, env=environment, **options)
            started.append(manager)
        if ended:  # a client of a kernel that is no more would wait for it
            end()
            await manager.cleanup_resources()
            raise RuntimeError("the run was interrupted before this kernel had started")

    try:
        yield type("Kernel", (AsyncKernelManager,), {"start_kernel": start})
    except BaseException:
        ended = True
        end()
        raise


def _state(one: Plan) -> dict[str, Any]:
    """How far a notebook is: papermill saves the copy as each cell begins."""
    try:
        cells = nbformat.read(one.part, as_version=4).cells
    except (OSError, ValueError):
        return {}
    states = [c.metadata.get("papermill", {}) for c in cells if c.cell_type == "code"]
    done = [float(s.get("duration") or 0) for s in states if s.get("status") == "completed"]
    left = f", about {max(one.expected - sum(done), 1):.0f} s left" if one.expected else ""
    text = f"{one.name}: cell {min(len(done) + 1, len(states))} of {len(states)}{left}"
    return {"description": text, "completed": len(done), "total": len(states)}


def _execute_one(one: Plan, about: Mapping[str, Any], kernel: type[AsyncKernelManager]) -> float:
    """Execute one notebook; the seconds it took."""
    started = datetime.now(UTC)
    try:
        notebook = papermill.execute_notebook(
            one.source,
            one.part,
            parameters=one.parameters,
            kernel_name="python3",
            progress_bar=False,
            # `cwd` would change the working directory of this process.
            resources={"metadata": {"path": str(one.source.parent)}},
            kernel_manager_class=kernel,
            # The kernel warns of its local sockets at every start.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        raise RunError(
            f"{one.name} failed: {error.ename}: {error.evalue}\n\n"
            f"See In [{error.exec_count}] of the half-executed copy: {one.part}"
        ) from None
    except (DeadKernelError, CellTimeoutError) as error:
        message = f"{one.name} failed: {error}\n\nThe half-executed copy: {one.part}"
        raise RunError(message) from None
    seconds = round((datetime.now(UTC) - started).total_seconds(), 1)
    notebook.metadata.papermill.input_path = f"notebooks/{one.name}.ipynb"
    notebook.metadata.papermill.output_path = f"notebooks/{one.name}.ipynb"
    notebook.metadata.papermill.parameters = by_name(one.parameters)
    notebook.metadata["geolib"] = {
        **about,
        "inputs": one.inputs,
        "parameters": by_name(one.parameters),
        "started": started.isoformat(timespec="seconds"),
        "seconds": seconds,
        "commit": provenance.commit(one.source.parent),
        "versions": provenance.versions(),
    }
    _tidy(notebook, one.parameters)
    nbformat.write(notebook, one.part)
    results.collect(notebook, one.name)
    one.part.replace(one.target)
    return seconds


def _tidy(notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Fold the values of the run, shown in place of the defaults, and drop progress bars.

    A finished bar is no result, and a page would load its code from elsewhere. Absolute paths of
    this machine have no place in a notebook that readers download.
    """
    places = {str(repository_root()): ".", os.environ.get("HOME", ""): "~"}
    places |= {str(file): by_name(file) for file in files(parameters)}
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]
            cell.source = translate_parameters(
                "python3", "python", by_name(parameters), "Parameters"
            )
        elif "parameters" in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]
        if cell.cell_type == "code":
            kept = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
            cell.outputs = _without(places, kept)


def _without(places: Mapping[str, str], shown: Any) -> Any:
    """Outputs that call files and folders of this machine by their names."""
    if isinstance(shown, dict):
        for key in shown.keys() - {"image/png"}:
            shown[key] = _without(places, shown[key])
    if isinstance(shown, list):
        return [_without(places, item) for item in shown]
    if isinstance(shown, str):
        for place in sorted(places, key=len, reverse=True):
            if len(Path(place).parts) > 1:
                shown = places[place].join(re.split(rf"(?<!\w){re.escape(place)}(?!\w)", shown))
    return shown


def pair(root: Path | None = None) -> None:
    """Regenerate every ``.ipynb`` from its MyST source.

    Outputs survive only in cells tagged both ``nbval-check-output`` and ``keep_output``.
    """
    for source in sorted(_notebooks(root).glob("[0-9][0-9]-*.md")):
        jupytext.cli.jupytext(["--quiet", "--to", "ipynb", "--update", str(source)])
        target = source.with_suffix(".ipynb")
        notebook = nbformat.read(target, as_version=4)
        _strip(notebook)
        nbformat.write(notebook, target)


def keep_outputs(root: Path | None = None) -> None:
    """Execute the notebooks and store the outputs that nbval compares in the notebooks."""
    for one in execute(profile="smoke", root=root):
        notebook = nbformat.read(one.source, as_version=4)
        executed = {cell.id: cell for cell in nbformat.read(one.target, as_version=4).cells}
        for cell in notebook.cells:
            if is_kept(cell):
                cell.outputs = executed[cell.id].outputs
                cell.execution_count = executed[cell.id].execution_count
        _strip(notebook)
        nbformat.write(notebook, one.source)


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
    _check_known("profile", [profile], sorted(p.stem for p in folder.glob("*.yaml")))
    file = folder / f"{profile}.yaml"
    try:
        settings = read_yaml(file.read_bytes()) or {}
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    _check_known("section", settings, _SECTIONS, f"{profile}.yaml: ")
    return settings


def _check_known(kind: str, given: Iterable[str], known: Sequence[str], where: str = "") -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            listed = ", ".join(known) or "none"
            raise ValueError(f"{where}unknown {kind} {name!r}{hint}; known: {listed}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other run writes to the folder meanwhile."""
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
