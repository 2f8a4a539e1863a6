"""Notebooks are executed when something changed, and the book shows what was executed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
import yaml
from filelock import FileLock

from geolib.book import pages, provenance, run
from geolib.book.sphinx_results import format_result

REPOSITORY = Path(__file__).parents[2]

TOY = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Toy

The total is {result}`01-toy.total`.

```{code-cell} ipython3
:tags: [parameters]

n = 3
rate = 0.5
word = "a"
```

```{code-cell} ipython3
from geolib.book import results

total = sum(range(n))
results.record(total=total)
```

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-toy
    caption: A square.
  image:
    alt: A red square
---
from IPython.display import SVG

SVG(f"<svg xmlns='http://www.w3.org/2000/svg' width='{10 * n}' height='9'></svg>")
```

```{code-cell} ipython3
from tqdm.notebook import tqdm

print(len(list(tqdm(range(n)))))
```

```{code-cell} ipython3
:tags: [nbval-check-output, keep_output]

print("total", total)
```
"""


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Fingerprint of the package's code, which tests change at will."""
    state = {"fingerprint": "one"}
    monkeypatch.setattr(provenance.cache, "fingerprint", lambda modules: state["fingerprint"])
    return state


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with two notebooks and three profiles."""
    notebooks = tmp_path / "notebooks"
    (notebooks / "profiles").mkdir(parents=True)
    (notebooks / "01-toy.md").write_text(TOY)
    (notebooks / "02-other.md").write_text(TOY.replace("rate = 0.5\n", "").replace("toy", "other"))
    for profile, n in (("smoke", 3), ("default", 5)):
        (notebooks / "profiles" / f"{profile}.yaml").write_text(
            yaml.safe_dump({"shared": {"n": n}, "notebooks": {"02-other": {"word": "b"}}})
        )
    run.pair(tmp_path)
    return tmp_path


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Papermill replaced by a copy; returns the names of what was executed."""
    executed: list[str] = []

    def copy(source: Path, target: Path, **options: Any) -> nbformat.NotebookNode:
        executed.append(source.stem)
        notebook = nbformat.read(source, as_version=4)
        notebook.metadata["papermill"] = {"parameters": options["parameters"]}
        nbformat.write(notebook, target)
        return notebook

    monkeypatch.setattr(run.papermill, "execute_notebook", copy)
    return executed


# Parameters


def test_parameters_come_from_notebook_then_profile_then_command_line(project: Path) -> None:
    resolved = run.resolve(
        ["01-toy", "02-other"], "default", {"word": "c", "rate": 1.0}, root=project
    )
    assert resolved == {
        "01-toy": {"n": 5, "rate": 1.0, "word": "c"},
        "02-other": {"n": 5, "word": "c"},
    }
    resolved = run.resolve(["01-toy", "02-other"], "default", root=project)
    assert resolved == {
        "01-toy": {"n": 5, "rate": 0.5, "word": "a"},
        "02-other": {"n": 5, "word": "b"},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["01-tyo"], "smoke", {}), r"unknown notebook '01-tyo' \(did you mean '01-toy'.*02-other"),
        ((["01-toy"], "smok", {}), r"unknown profile 'smok' \(did you mean 'smoke'.*default"),
        ((["01-toy"], "smoke", {"nn": 1}), r"unknown parameter 'nn'.*known: n, rate, word"),
        ((["02-other"], "smoke", {"rate": 1.0}), r"unknown parameter 'rate'.*known: n, word"),
        ((["01-toy"], "smoke", {"n": "many"}), r"parameter 'n' of 01-toy is 'many' \(str\)"),
        ((["01-toy"], "smoke", {"word": 3}), r"parameter 'word' of 01-toy is 3 \(int\)"),
    ],
)
def test_what_is_unknown_or_misfit_is_an_error(
    arguments: tuple, message: str, project: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run.resolve(*arguments, root=project)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared": {"gone": 1}}, "profile 'smoke': unknown parameter 'gone'"),
        ({"notebooks": {"03-gone": {}}}, "profile 'smoke': unknown notebook '03-gone'"),
        ({"seconds": {"03-gone": 9}}, "profile 'smoke': unknown notebook '03-gone'"),
        ({"notebooks": {"02-other": {"rate": 1}}}, "02-other: unknown parameter 'rate'"),
        ({"mine": {}}, "unknown section 'mine'; known: shared, notebooks, seconds"),
    ],
)
def test_a_profile_holds_no_unknown_name(settings: dict, message: str, project: Path) -> None:
    (project / "notebooks/profiles/smoke.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=message):
        run.resolve(["01-toy"], "smoke", root=project)


def test_a_derived_default_is_refused(project: Path) -> None:
    source = project / "notebooks/01-toy.md"
    source.write_text(source.read_text().replace("rate = 0.5", "rate = n / 2"))
    run.pair(project)
    with pytest.raises(ValueError, match=r"'rate' of 01-toy\.ipynb defaults to n / 2"):
        run.resolve(["01-toy"], "smoke", root=project)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("null", None),
        ("scorecam", "scorecam"),
        ("gradcam++", "gradcam++"),
        ("[a, b]", ["a", "b"]),
        ("'3'", "3"),
    ],
)
def test_values_of_the_command_line(text: str, value: Any) -> None:
    parsed = run.parse_value(text)
    assert parsed == value and type(parsed) is type(value)


# What is executed again


def _skipped(project: Path, **options: Any) -> list[bool]:
    return [e.skipped for e in run.execute(profile="smoke", root=project, jobs=1, **options)]


def test_nothing_is_executed_twice(project: Path, executions: list[str]) -> None:
    assert _skipped(project) == [False, False]
    assert _skipped(project) == [True, True]
    assert executions == ["01-toy", "02-other"]


def _edit_source(project: Path) -> None:
    source = project / "notebooks/02-other.md"
    source.write_text(source.read_text().replace("sum(", "max("))
    run.pair(project)


def _edit_kept_output(project: Path) -> None:
    path = project / "notebooks/01-toy.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="total 3\n")]
    nbformat.write(notebook, path)


@pytest.mark.parametrize(
    ("edit", "options", "skipped"),
    [
        (None, {"parameters": {"rate": 0.75}}, [False, True]),  # the second has no such parameter
        (_edit_source, {}, [True, False]),
        (_edit_kept_output, {}, [True, True]),
        ("code", {}, [False, False]),
    ],
)
def test_a_change_executes_the_notebooks_that_it_concerns(
    edit: Any, options: dict, skipped: list[bool], project: Path, executions: list[str], code: dict
) -> None:
    _skipped(project)
    if edit == "code":
        code["fingerprint"] = "two"
    elif edit:
        edit(project)
    assert _skipped(project, **options) == skipped


def test_moved_and_fresh_clones_execute_nothing(
    project: Path, executions: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    _skipped(project)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "clone"
    # Without copying times: every file is new, as in a fresh clone beside an old build.
    shutil.copytree(project, elsewhere, copy_function=shutil.copyfile)
    assert _skipped(elsewhere) == [True, True]
    shutil.rmtree(project)
    elsewhere.rename(project)
    assert _skipped(project) == [True, True]


def test_a_dry_run_says_what_would_run_and_why(
    project: Path, executions: list[str], code: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def why(**options: Any) -> list[list[str]]:
        return [one.why for one in run.plan(profile="smoke", root=project, **options)]

    assert why() == [["it has not run yet"]] * 2
    assert executions == []
    _skipped(project)
    assert why() == [[], []]
    assert why(parameters={"rate": 0.75}) == [["its parameters"], []]
    code["fingerprint"] = "two"
    assert why() == [["the package's code"]] * 2
    assert all(one.seconds is not None for one in run.plan(profile="smoke", root=project))


def test_a_notebook_depends_on_the_code_that_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of ``partitioning`` leaves chapters 1 to 8 alone; a docstring leaves all alone."""
    monkeypatch.undo()
    cache = provenance.cache
    notebooks = sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]-*.ipynb"))
    assert len(notebooks) > 10

    def prints(edit: Callable[[str], str] = lambda source: source) -> list[str]:
        folder = REPOSITORY / "geolib" / "partitioning"
        read = Path.read_text

        def edited(path: Path, *args: Any, **options: Any) -> str:
            text = read(path, *args, **options)
            return edit(text) if folder in path.parents else text

        cache.fingerprint.cache_clear()
        cache.module_code.cache_clear()
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Path, "read_text", edited)
                found = [provenance.modules(nbformat.read(p, as_version=4)) for p in notebooks]
                return [cache.fingerprint(tuple(sorted(modules))) for modules in found]
        finally:
            cache.fingerprint.cache_clear()
            cache.module_code.cache_clear()

    before = prints()
    assert prints(lambda source: source.replace('"""', '"""Once more: ', 1)) == before
    after = prints(lambda source: source + "\nEDITED = 1\n")
    differ = [path.stem for path, a, b in zip(notebooks, before, after, strict=True) if a != b]
    assert differ == ["09-partitioning", "10-concept-influence"]


def test_a_changed_file_that_a_parameter_names_executes(
    project: Path, executions: list[str]
) -> None:
    photos = project / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"a")
    options = {"parameters": {"word": str(photos)}}
    _skipped(project, **options)
    assert _skipped(project, **options) == [True, True]
    (photos / "b.jpg").write_bytes(b"b")
    assert _skipped(project, **options) == [False, False]


def test_profiles_have_their_own_folders(project: Path, executions: list[str]) -> None:
    _skipped(project)
    run.execute(profile="default", root=project, jobs=1)
    assert _skipped(project) == [True, True]
    assert len(executions) == 4


def test_a_killed_run_leaves_nothing_that_counts_as_done(
    project: Path, executions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run.papermill.execute_notebook

    def killed(source: Path, target: Path, **options: Any) -> None:
        whole(source, target, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(run.papermill, "execute_notebook", killed)
    with pytest.raises(KeyboardInterrupt):
        run.execute(["01-toy"], "smoke", root=project, jobs=1)
    assert not (run.build_folder("smoke", project) / "notebooks/01-toy.ipynb").exists()
    monkeypatch.setattr(run.papermill, "execute_notebook", whole)
    assert _skipped(project) == [False, False]


def test_two_runs_at_once_take_turns(project: Path, executions: list[str]) -> None:
    folder = run.build_folder("smoke", project)
    folder.mkdir(parents=True)
    second = threading.Thread(target=_skipped, args=(project,))
    with FileLock(folder / ".lock"):
        second.start()
        time.sleep(0.5)
        assert executions == []
    second.join(timeout=30)
    assert executions == ["01-toy", "02-other"]


# A real kernel


def test_a_notebook_is_executed_and_a_failure_shows_where(project: Path) -> None:
    (done,) = run.execute(["01-toy"], "default", root=project)
    executed = nbformat.read(done.path, as_version=4)
    assert executed.cells[-1].outputs[0].text == "total 10\n"
    assert executed.metadata["geolib"]["parameters"] == {"n": 5, "rate": 0.5, "word": "a"}
    assert str(project) not in json.dumps(executed.metadata), "a path of this machine leaks"
    assert "widgets" not in executed.metadata and "widget-view" not in done.path.read_text()
    assert executed.cells[-2].outputs[0].text == "5\n", "a bar's cell keeps what it printed"
    tags = [set(cell.metadata.get("tags", ())) for cell in executed.cells]
    assert {"parameters", "remove-cell"} in tags
    assert {"injected-parameters", "hide-input"} in tags

    with pytest.raises(run.RunError) as failure:
        run.execute(["01-toy"], "default", {"n": -0.5}, root=project)
    message = str(failure.value)
    assert message.startswith("01-toy failed: TypeError: 'float' object cannot be interpreted")
    count = int(re.search(r"See In \[(\d+)\] of the half-executed copy", message)[1])
    half = Path(message.rsplit(": ", 1)[1])
    assert half != done.path
    cells = nbformat.read(half, as_version=4).cells
    (failed,) = [cell for cell in cells if cell.get("execution_count") == count]
    assert "total = sum(range(n))" in failed.source
    assert run.execute(["01-toy"], "default", root=project)[0].skipped


def test_two_at_a_time_and_one_that_fails(project: Path) -> None:
    """The other one is finished, and an order of any kind gives the same copies."""
    with pytest.raises(run.RunError, match=r"0\d-\w+ failed: TypeError"):
        run.execute((), "smoke", {"n": -0.5}, root=project)
    folder = run.build_folder("smoke", project) / "notebooks"
    assert not (folder / "01-toy.ipynb").exists()
    done = run.execute(profile="smoke", root=project, jobs=2)
    assert [execution.name for execution in done] == ["01-toy", "02-other"]
    texts = [nbformat.read(e.path, as_version=4).cells[-1].outputs[0].text for e in done]
    assert texts == ["total 3\n", "total 3\n"]


def test_the_longest_start_first(project: Path, executions: list[str]) -> None:
    profile = project / "notebooks/profiles/smoke.yaml"
    profile.write_text(profile.read_text() + "seconds: {02-other: 9}\n")
    done = run.execute(profile="smoke", root=project, jobs=1)
    assert executions == ["02-other", "01-toy"]
    assert [execution.name for execution in done] == ["01-toy", "02-other"]


def test_an_interrupted_run_leaves_no_kernel(project: Path) -> None:
    source = project / "notebooks/01-toy.md"
    pid = project / "pid"
    waits = f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
    waits += "time.sleep(99)\n"
    source.write_text(source.read_text().replace("total = sum", f"{waits}total = sum"))
    run.pair(project)
    code = (
        "import sys; from pathlib import Path; from geolib.book import run; "
        "run.execute(['01-toy'], 'smoke', root=Path(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(project)], stderr=subprocess.DEVNULL
    )
    _wait_until(lambda: pid.is_file() and pid.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0
    _wait_until(lambda: not _runs(int(pid.read_text())))
    assert not (run.build_folder("smoke", project) / "notebooks/01-toy.ipynb").exists()


def _wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_no_jobs_are_refused(project: Path) -> None:
    with pytest.raises(ValueError, match="jobs=0; expected at least 1"):
        run.execute(root=project, jobs=0)


# Pairs


def test_pairing_changes_nothing_the_second_time(project: Path) -> None:
    before = {path: path.read_bytes() for path in (project / "notebooks").glob("*.ipynb")}
    run.pair(project)
    assert before == {path: path.read_bytes() for path in before}
    assert len(before) == 2


def test_pairing_keeps_tagged_outputs_and_strips_the_others(project: Path) -> None:
    path = project / "notebooks/01-toy.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="kept\n")]
            cell.execution_count = 7
    nbformat.write(notebook, path)
    run.pair(project)
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [len(cell.outputs) for cell in code] == [0, 0, 0, 0, 1]
    assert [cell.execution_count for cell in code] == [None, None, None, None, 7]


def test_kept_outputs_come_from_the_executed_copy(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def executed(source: Path, target: Path, **options: Any) -> nbformat.NotebookNode:
        notebook = nbformat.read(source, as_version=4)
        notebook.metadata["papermill"] = {}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.v4.new_output("stream", text=f"{source.stem}\n")]
                cell.execution_count = 1
        return notebook

    monkeypatch.setattr(run.papermill, "execute_notebook", executed)
    monkeypatch.setattr(run.os, "cpu_count", lambda: 1)  # one job runs in this process
    run.keep_outputs(root=project)
    for name in ("01-toy", "02-other"):
        cells = nbformat.read(project / f"notebooks/{name}.ipynb", as_version=4).cells
        kept = [cell.outputs[0].text for cell in cells if cell.get("outputs")]
        assert kept == [f"{name}\n"]


# Results in prose


RESULTS = {"06-x": {"advantage": 0.34567, "n_images": 100, "best": "gradcam++", "whole": 12.0}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("06-x.advantage:.2f", "0.35"),
        ("06-x.advantage:+.0%", "+35%"),
        ("06-x.advantage", "0.346"),
        ("06-x.n_images", "100"),
        ("06-x.n_images:,d", "100"),
        ("06-x.best", "gradcam++"),
        ("06-x.whole", "12"),
    ],
)
def test_a_result_is_quoted_in_its_format(text: str, expected: str) -> None:
    assert format_result(text, RESULTS) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("06-x.advantag", r"no result '06-x\.advantag'; close ones: 06-x\.advantage"),
        ("advantage", "no result 'advantage'"),
        ("05-y.advantage", r"no result '05-y\.advantage'"),
        ("06-x.best:.2f", r"format '\.2f' does not fit 06-x\.best"),
    ],
)
def test_a_missing_result_or_a_misfit_format_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        format_result(text, RESULTS)


# The book


@pytest.fixture
def small_book(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """A book of one page and one chapter, whose chapter is executed without a kernel."""
    (project / "notebooks/02-other.md").unlink()
    (project / "notebooks/02-other.ipynb").unlink()
    for profile in ("smoke", "default"):
        (project / f"notebooks/profiles/{profile}.yaml").write_text("shared: {n: 3}\n")
    shutil.copy(REPOSITORY / "_config.yml", project)
    shutil.copytree(REPOSITORY / "book/_static", project / "book/_static")
    (project / "book/references.bib").touch()
    (project / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nparts:\n- chapters:\n  - file: notebooks/01-toy\n"
    )
    (project / "book/index.md").write_text(
        "# Home\n\n{result}`run.profile` {result}`01-toy.total:.1f` "
        "{repository}`data/cues.yaml` $a^2$\n\n```{result-figure} 01-toy.fig-toy\nOf {doc}"
        "`the chapter </notebooks/01-toy>`.\n```\n\n```{run-table} parameters\n```\n"
    )

    def executed(source: Path, target: Path, **options: Any) -> nbformat.NotebookNode:
        n = options["parameters"]["n"]
        notebook = nbformat.read(source, as_version=4)
        notebook.metadata["papermill"] = {}
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        svg = f"<svg xmlns='http://www.w3.org/2000/svg' width='{10 * n}' height='9'></svg>"
        outputs = [{run.results.MIME: {"total": n}}, {"image/svg+xml": svg}]
        for cell, data in zip(code[1:], outputs, strict=False):
            cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
        return notebook

    monkeypatch.setattr(run.papermill, "execute_notebook", executed)
    return lambda **options: pages.book(root=project, jobs=1, **options)


def test_the_book_shows_the_run_and_follows_it(
    small_book: Callable[..., Path], project: Path
) -> None:
    index = small_book(profile="smoke")
    assert index == project / "_build/smoke/html/index.html"
    home, chapter = index.parent / "book/index.html", index.parent / "notebooks/01-toy.html"
    text = home.read_text()
    for expected in (
        '<span class="result">smoke</span>',
        '<span class="result">3.0</span>',
        'alt="A red square"',
        "/blob/main/data/cues.yaml",
        "<math",
        "<p>rate</p>",
    ):
        assert expected in text
    assert 'alt="A red square"' in chapter.read_text()

    # Nothing changed: no page is read again.
    parsed = sorted((project / "_build/smoke/doctrees").rglob("*.doctree"))
    before = [path.stat().st_mtime_ns for path in parsed]
    small_book(profile="smoke")
    assert before == [path.stat().st_mtime_ns for path in parsed]
    assert len(before) == 2

    # Another value: the number and the figure change on the page that only quotes them.
    small_book(profile="smoke", parameters={"n": 4})
    assert '<span class="result">4.0</span>' in home.read_text()
    shown = [p.read_text() for p in (index.parent / "_images").glob("01-toy.fig-toy*")]
    assert any("width='40'" in svg for svg in shown)

    # A missing result fails the build, and goes on failing until it is mended.
    page = project / "book/index.md"
    sound = page.read_text()
    page.write_text(sound + "\n{result}`01-toy.gone`\n")
    for _ in range(2):
        with pytest.raises(run.RunError, match="did not build"):
            small_book(profile="smoke")
    page.write_text(sound)
    assert small_book(profile="smoke").is_file()


def test_the_default_book_has_the_short_address(project: Path) -> None:
    assert run.html_folder("default", project) == project / "_build/html"


def test_a_named_figure_without_an_image_is_an_error() -> None:
    cell = nbformat.v4.new_code_cell(metadata={"mystnb": {"figure": {"name": "fig-a"}}})
    with pytest.raises(run.RunError, match="'fig-a' shows no image"):
        pages._figures("06-x", nbformat.v4.new_notebook(cells=[cell]))


def test_the_toy_source_is_a_notebook() -> None:
    assert [c.cell_type for c in jupytext.reads(TOY, fmt="md:myst").cells].count("code") == 5
