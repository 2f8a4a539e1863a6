"""Notebooks are executed when something changed, and the book shows what was executed."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import UserList
from pathlib import Path

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
photos: "Path" = None
```

```{code-cell} ipython3
from geolib.book import results

total = sum(range(n)) + range(n)[0]
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
def code(monkeypatch):
    """Fingerprint of the package's code, which tests change at will."""
    state = {"now": "one"}
    monkeypatch.setattr(provenance.cache, "fingerprint", lambda modules: state["now"])
    return state


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A repository with two notebooks, two profiles and photographs in two places."""
    root = tmp_path_factory.mktemp("template")
    notebooks = root / "notebooks"
    (notebooks / "profiles").mkdir(parents=True)
    for folder in (root, notebooks):
        (folder / "photos/more").mkdir(parents=True)
        (folder / "photos/more/a.jpg").write_bytes(b"a")
    (notebooks / "01-toy.md").write_text(TOY)
    other = TOY.replace("rate = 0.5\n", "").replace('photos: "Path" = None\n', "")
    (notebooks / "02-other.md").write_text(other.replace("toy", "other"))
    for profile, n in (("smoke", 3), ("default", 5)):
        _write_profile(root, profile, shared={"n": n}, notebooks={"02-other": {"word": "b"}})
    run.pair(root)
    return root


@pytest.fixture
def project(template, tmp_path):
    """A copy of the template."""
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)


def _write_profile(project, profile, **settings):
    (project / f"notebooks/profiles/{profile}.yaml").write_text(yaml.safe_dump(settings))


def _edit(project, name, old, new):
    source = project / f"notebooks/{name}.md"
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))
    run.pair(project)


def _code(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def _stream(text):
    return [nbformat.v4.new_output("stream", text=text)]


@pytest.fixture
def executed(monkeypatch):
    """Papermill replaced by a copy whose code cells show ``shows(name, parameters)``; the names."""
    names = UserList()
    names.shows = lambda name, parameters: []

    def copy(source, target, **options):
        names.append(source.stem)
        notebook = nbformat.read(source, as_version=4)
        notebook.metadata["papermill"] = {"parameters": options["parameters"]}
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        shown = names.shows(source.stem, options["parameters"])
        for cell, outputs in zip(cells, shown, strict=False):
            cell.outputs, cell.execution_count = outputs, 1
        nbformat.write(notebook, target)
        return notebook

    monkeypatch.setattr(run.papermill, "execute_notebook", copy)
    return names


# Parameters


def test_parameters_come_from_notebook_then_profile_then_command_line(project):
    both = ["01-toy", "02-other"]
    assert run.resolve(both, "default", {"word": "c", "rate": 1.0}, root=project) == {
        "01-toy": {"n": 5, "rate": 1.0, "word": "c", "photos": None},
        "02-other": {"n": 5, "word": "c"},
    }
    assert run.resolve(both, "default", root=project) == {
        "01-toy": {"n": 5, "rate": 0.5, "word": "a", "photos": None},
        "02-other": {"n": 5, "word": "b"},
    }


@pytest.mark.parametrize(
    ("name", "profile", "given", "message"),
    [
        ("01-tyo", "smoke", {}, r"unknown notebook '01-tyo' \(did you mean '01-toy'.*02-other"),
        ("01-toy", "smok", {}, r"unknown profile 'smok' \(did you mean 'smoke'.*default"),
        ("01-toy", "smoke", {"nn": 1}, r"unknown parameter 'nn'.*known: n, photos, rate, word"),
        ("02-other", "smoke", {"rate": 1.0}, r"unknown parameter 'rate'.*known: n, word"),
        ("01-toy", "smoke", {"n": "many"}, r"parameter 'n' of 01-toy is 'many' \(str\)"),
        ("01-toy", "smoke", {"word": 3}, r"parameter 'word' of 01-toy is 3 \(int\)"),
        ("01-toy", "smoke", {"photos": "x"}, r"parameter 'photos' of 01-toy is 'x' .*looked for"),
    ],
)
def test_what_is_unknown_or_misfit_is_an_error(name, profile, given, message, project):
    with pytest.raises(ValueError, match=message):
        run.resolve([name], profile, given, root=project)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared": {"gone": 1}}, "profile 'smoke': unknown parameter 'gone'"),
        ({"notebooks": {"03-gone": {}}}, "profile 'smoke': unknown notebook '03-gone'"),
        ({"seconds": {"03-gone": 9}}, "profile 'smoke': unknown notebook '03-gone'"),
        ({"notebooks": {"02-other": {"rate": 1}}}, "02-other: unknown parameter 'rate'"),
        ({"mine": {}}, "unknown section 'mine'; known: shared, notebooks, seconds"),
        ({"shared": {"n": "many"}}, r"parameter 'n' of 01-toy is 'many' \(text\)"),
        ({"shared": {"photos": "gone"}}, "parameter 'photos' of 01-toy is 'gone' .*looked for in"),
    ],
)
def test_a_profile_holds_no_unknown_name(settings, message, project):
    _write_profile(project, "smoke", **settings)
    with pytest.raises(ValueError, match=message):
        run.resolve(["01-toy"], "smoke", root=project)


def test_a_derived_default_is_refused_and_a_profile_that_is_no_yaml_named(project):
    (project / "notebooks/profiles/smoke.yaml").write_bytes(b"shared: {word: R\xe9union}")
    with pytest.raises(ValueError, match=r"profiles/smoke\.yaml cannot be read: no YAML"):
        run.resolve(["01-toy"], "smoke", root=project)
    _edit(project, "01-toy", "rate = 0.5", "rate = n / 2")
    with pytest.raises(ValueError, match=r"'rate' of 01-toy\.ipynb defaults to n / 2"):
        run.resolve(["01-toy"], "smoke", root=project)


def test_paths_are_as_seen_from_the_caller_and_those_of_a_profile_from_the_repository(
    project, monkeypatch
):
    def photos(**given):
        return run.resolve(["01-toy"], "smoke", given, root=project)["01-toy"]["photos"]

    monkeypatch.chdir(project / "notebooks")
    assert photos(photos="photos") == str(project / "notebooks/photos")
    _write_profile(project, "smoke", shared={"photos": "photos"})
    assert photos() == str(project / "photos")
    monkeypatch.chdir(project / "notebooks/profiles")
    with pytest.raises(ValueError, match=f"looked for in {re.escape(str(Path.cwd()))}"):
        photos(photos="photos")


# What is executed again


def _skipped(project, profile="smoke", **options):
    return [not one.why for one in run.execute((), profile, root=project, jobs=1, **options)]


def test_nothing_is_executed_twice_and_profiles_have_their_own_folders(project, executed):
    assert _skipped(project) == [False, False]
    assert _skipped(project) == [True, True]
    assert executed == ["01-toy", "02-other"]
    assert _skipped(project, "default") == [False, False]
    assert _skipped(project) == [True, True]
    assert len(executed) == 4


def _edit_kept_output(project, code):
    path = project / "notebooks/01-toy.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = _stream("total 3\n")
    nbformat.write(notebook, path)


def _photograph(path):
    return lambda project, code: (project / path).write_bytes(b"b")


@pytest.mark.parametrize(
    ("before", "edit", "after", "why"),
    [
        ({}, None, {"rate": 0.75}, [["its parameters"], []]),  # the second has no such parameter
        ({}, lambda p, _: _edit(p, "02-other", "sum(", "max("), {}, [[], ["its source"]]),
        ({}, _edit_kept_output, {}, [[], []]),
        ({}, lambda _, code: code.update(now="two"), {}, [["the package's code"]] * 2),
        *(
            ({key: "photos"}, add, {key: "photos"}, [why, []])
            for key, add, why in (
                ("photos", _photograph("photos/more/b.jpg"), ["the files it is given"]),
                ("photos", _photograph("photos/more/a.jpg"), ["the files it is given"]),
                ("photos", _photograph("linked/b.jpg"), ["the files it is given"]),
                ("photos", _photograph("notebooks/photos/more/a.jpg"), []),
                ("word", _photograph("photos/more/b.jpg"), []),
            )
        ),
    ],
)
def test_a_change_executes_the_notebooks_that_it_concerns(
    before, edit, after, why, project, executed, code, monkeypatch
):
    monkeypatch.chdir(project)
    (project / "linked").mkdir()
    (project / "photos/linked").symlink_to(project / "linked")
    (project / "photos/more/again").symlink_to(project / "photos")
    (project / "photos/more/broken.jpg").symlink_to(project / "nowhere")

    def planned(parameters):
        return run.plan(profile="smoke", parameters=parameters, root=project)

    assert [one.why for one in planned(before)] == [["it has not run yet"]] * 2
    assert executed == []
    _skipped(project, parameters=before)
    assert [(one.why, one.seconds is None) for one in planned(before)] == [([], False)] * 2
    if edit:
        edit(project, code)
    assert [one.why for one in planned(after)] == why
    assert _skipped(project, parameters=after) == [not reasons for reasons in why]


def test_each_plan_reads_each_file_once(project, monkeypatch):
    read = []
    whole = provenance.cache.sha256
    monkeypatch.setattr(provenance.cache, "sha256", lambda p: read.append(p) or whole(p))
    for n in (1, 2):
        run.plan(profile="smoke", parameters={"photos": project / "photos"}, root=project)
        assert project / "photos/more/a.jpg" in read
        assert {read.count(path) for path in read} == {n}


def test_moved_and_fresh_clones_execute_nothing(project, executed, tmp_path_factory):
    _write_profile(project, "smoke", shared={"photos": "photos"})
    _skipped(project)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "clone"
    # Without copying times: every file is new, as in a fresh clone beside an old build.
    shutil.copytree(project, elsewhere, copy_function=shutil.copyfile)
    assert _skipped(elsewhere) == [True, True]
    shutil.rmtree(project)
    elsewhere.rename(project)
    assert _skipped(project) == [True, True]


def test_a_notebook_depends_on_the_code_that_it_imports(monkeypatch):
    """An edit of ``partitioning`` leaves chapters 1 to 8 alone; a docstring leaves all alone."""
    monkeypatch.undo()
    cache = provenance.cache
    notebooks = sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]-*.ipynb"))
    found = [provenance.modules(nbformat.read(path, as_version=4)) for path in notebooks]
    assert len(notebooks) > 10

    def prints(edit=lambda source: source):
        folder = REPOSITORY / "geolib" / "partitioning"
        read = Path.read_text

        def edited(path, *args, **options):
            text = read(path, *args, **options)
            return edit(text) if folder in path.parents else text

        cache.fingerprint.cache_clear()
        cache.module_code.cache_clear()
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Path, "read_text", edited)
                return [cache.fingerprint(tuple(sorted(modules))) for modules in found]
        finally:
            cache.fingerprint.cache_clear()
            cache.module_code.cache_clear()

    before = prints()
    assert prints(lambda source: source.replace('"""', '"""Once more: ', 1)) == before
    after = prints(lambda source: source + "\nEDITED = 1\n")
    differ = [path.stem for path, a, b in zip(notebooks, before, after, strict=True) if a != b]
    assert differ == ["09-partitioning", "10-concept-influence"]


def test_a_killed_run_leaves_nothing_that_counts_as_done(project, executed, monkeypatch):
    whole = run.papermill.execute_notebook

    def killed(source, target, **options):
        whole(source, target, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(run.papermill, "execute_notebook", killed)
    with pytest.raises(KeyboardInterrupt):
        run.execute(["01-toy"], "smoke", root=project, jobs=1)
    assert not (run.build_folder("smoke", project) / "notebooks/01-toy.ipynb").exists()
    monkeypatch.setattr(run.papermill, "execute_notebook", whole)
    assert _skipped(project) == [False, False]


def test_two_runs_at_once_take_turns(project, executed):
    folder = run.build_folder("smoke", project)
    folder.mkdir(parents=True)
    second = threading.Thread(target=_skipped, args=(project,))
    with FileLock(folder / ".lock"):
        second.start()
        time.sleep(0.5)
        assert executed == []
    second.join(timeout=30)
    assert executed == ["01-toy", "02-other"]


def test_the_longest_start_first(project, executed):
    _write_profile(project, "smoke", seconds={"02-other": 9})
    done = run.execute(profile="smoke", root=project, jobs=1)
    assert executed == ["02-other", "01-toy"]
    assert [one.name for one in done] == ["01-toy", "02-other"]
    with pytest.raises(ValueError, match="jobs=0; expected at least 1"):
        run.execute(root=project, jobs=0)


# A real kernel


def test_a_notebook_is_executed_and_a_failure_shows_where(project, monkeypatch):
    # Another interpreter's kernel by the same name, where Jupyter looks first.
    foreign = project / "jupyter/kernels/python3/kernel.json"
    foreign.parent.mkdir(parents=True)
    command = {"argv": ["/no/python", "{connection_file}"], "language": "python"}
    foreign.write_text(json.dumps(command | {"display_name": ""}))
    monkeypatch.setenv("JUPYTER_PATH", str(project / "jupyter"))
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.chdir(project)
    prints = "import sys\nprint(sys.executable, sys.flags.utf8_mode, photos)\ntotal = sum"
    _edit(project, "01-toy", "total = sum", prints)
    (done,) = run.execute(["01-toy"], "default", {"photos": "photos/more/a.jpg"}, root=project)
    notebook = nbformat.read(done.target, as_version=4)
    assert notebook.cells[-1].outputs[0].text == "total 10\n"
    given = {"n": 5, "rate": 0.5, "word": "a", "photos": "a.jpg"}
    assert notebook.metadata["geolib"]["parameters"] == given
    assert str(project) not in done.target.read_text(), "a path of this machine leaks"
    own = Path(sys.executable).name
    assert _code(done.target)[2].outputs[0].text.endswith(f"{own} 1 a.jpg\n")
    assert 'photos = "a.jpg"' in _code(done.target)[1].source
    assert "widgets" not in notebook.metadata and "widget-view" not in done.target.read_text()
    assert notebook.cells[-2].outputs[0].text == "5\n", "a bar's cell keeps what it printed"
    tags = [set(cell.metadata.get("tags", ())) for cell in notebook.cells]
    assert {"parameters", "remove-cell"} in tags
    assert {"injected-parameters", "hide-input"} in tags

    with pytest.raises(run.RunError) as failure:
        run.execute(["01-toy"], "default", {"n": -1}, root=project)
    message = str(failure.value)
    assert message.startswith("01-toy failed: IndexError: range object index out of range")
    count = int(re.search(r"See In \[(\d+)\] of the half-executed copy", message)[1])
    half = Path(message.rsplit(": ", 1)[1])
    assert half != done.target
    (failed,) = [cell for cell in _code(half) if cell.get("execution_count") == count]
    assert "total = sum(range(n))" in failed.source
    again = run.execute(["01-toy"], "default", {"photos": "photos/more/a.jpg"}, root=project)
    assert not again[0].why


def test_two_at_a_time_and_one_that_fails(project):
    """The other one is finished, and an order of any kind gives the same copies."""
    with pytest.raises(run.RunError, match=r"0\d-\w+ failed: IndexError"):
        run.execute((), "smoke", {"n": -1}, root=project)
    folder = run.build_folder("smoke", project) / "notebooks"
    assert not (folder / "01-toy.ipynb").exists()
    done = run.execute(profile="smoke", root=project, jobs=2)
    assert [one.name for one in done] == ["01-toy", "02-other"]
    assert [_code(one.target)[-1].outputs[0].text for one in done] == ["total 3\n"] * 2


INTERRUPTED = """
import signal, sys
from pathlib import Path
from geolib.book import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in background
run.execute(["01-toy"], "smoke", root=Path(sys.argv[1]))
"""


def test_an_interrupted_run_leaves_no_kernel(project):
    pid = project / "pid"
    waits = f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
    _edit(project, "01-toy", "total = sum", f"{waits}time.sleep(99)\ntotal = sum")
    command = [sys.executable, "-c", INTERRUPTED, str(project)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (pid.is_file() and pid.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=90) != 0  # the cell alone would sleep longer
    with pytest.raises(ProcessLookupError):
        for _ in range(600):
            os.kill(int(pid.read_text()), 0)
            time.sleep(0.1)
    assert not (run.build_folder("smoke", project) / "notebooks/01-toy.ipynb").exists()


def test_neither_a_starting_nor_a_later_kernel_outlives_an_interruption(monkeypatch):
    start = run.AsyncKernelManager.start_kernel
    interrupted = run._kernels(1).gen
    launched = []

    async def interrupt_while_it_starts(manager, **options):
        await start(manager, **options)
        launched.append(manager.provisioner.process)
        with pytest.raises(KeyboardInterrupt):
            interrupted.throw(KeyboardInterrupt)

    monkeypatch.setattr(run.AsyncKernelManager, "start_kernel", interrupt_while_it_starts)
    kernel = next(interrupted)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="interrupted"):
            asyncio.run(kernel(kernel_name="python3").start_kernel())
    (process,) = launched
    assert process.wait(timeout=90) == -signal.SIGKILL


# Pairs


def test_pairing_keeps_tagged_outputs_strips_the_others_and_changes_nothing_more(project):
    before = {path: path.read_bytes() for path in (project / "notebooks").glob("*.ipynb")}
    run.pair(project)
    assert before == {path: path.read_bytes() for path in before}
    assert len(before) == 2
    path = project / "notebooks/01-toy.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = _stream("kept\n"), 7
    nbformat.write(notebook, path)
    run.pair(project)
    assert [len(cell.outputs) for cell in _code(path)] == [0, 0, 0, 0, 1]
    assert [cell.execution_count for cell in _code(path)] == [None, None, None, None, 7]


def test_kept_outputs_come_from_the_executed_copy(project, executed, monkeypatch):
    executed.shows = lambda name, parameters: [_stream(f"{name}\n")] * 5
    monkeypatch.setattr(run.os, "cpu_count", lambda: 1)  # one job runs in this process
    run.keep_outputs(project)
    for name in ("01-toy", "02-other"):
        cells = _code(project / f"notebooks/{name}.ipynb")
        assert [cell.outputs[0].text for cell in cells if cell.outputs] == [f"{name}\n"]


# Results in prose


RESULTS = {"06-x": {"advantage": 0.34567, "n_images": 100, "best": "gradcam++", "whole": 12.0}}


def test_a_result_is_quoted_in_its_format():
    texts = {"advantage:.2f": "0.35", "advantage:+.0%": "+35%", "advantage": "0.346"}
    texts |= {"n_images": "100", "n_images:,d": "100", "best": "gradcam++", "whole": "12"}
    assert {text: format_result(f"06-x.{text}", RESULTS) for text in texts} == texts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("06-x.advantag", r"no result '06-x\.advantag'; close ones: 06-x\.advantage"),
        ("advantage", "no result 'advantage'"),
        ("05-y.advantage", r"no result '05-y\.advantage'"),
        ("06-x.best:.2f", r"format '\.2f' does not fit 06-x\.best"),
    ],
)
def test_a_missing_result_or_a_misfit_format_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        format_result(text, RESULTS)


# The book


@pytest.fixture
def small_book(project, executed):
    """A book of one page and one chapter, whose chapter is executed without a kernel."""
    for suffix in ("md", "ipynb"):
        (project / f"notebooks/02-other.{suffix}").unlink()
    for profile in ("smoke", "default"):
        _write_profile(project, profile, shared={"n": 3})
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

    def shows(name, parameters):
        n = parameters["n"]
        svg = f"<svg xmlns='http://www.w3.org/2000/svg' width='{10 * n}' height='9'></svg>"
        for data in ({}, {run.results.MIME: {"total": n}}, {"image/svg+xml": svg}):
            yield [nbformat.v4.new_output("display_data", data=data)]

    executed.shows = shows
    return lambda **options: pages.book("smoke", root=project, jobs=1, **options)


def test_the_book_shows_the_run_and_follows_it(small_book, project):
    index = small_book()
    assert index == project / "_build/smoke/html/index.html"
    home, chapter = index.parent / "book/index.html", index.parent / "notebooks/01-toy.html"
    text = home.read_text()
    for expected in (
        *('<span class="result">smoke</span>', '<span class="result">3.0</span>'),
        *('alt="A red square"', "/blob/main/data/cues.yaml", "<math", "<p>rate</p>"),
    ):
        assert expected in text
    assert 'alt="A red square"' in chapter.read_text()

    # Nothing changed: no page is read again.
    parsed = sorted((project / "_build/smoke/doctrees").rglob("*.doctree"))
    before = [path.stat().st_mtime_ns for path in parsed]
    small_book()
    assert before == [path.stat().st_mtime_ns for path in parsed]
    assert len(before) == 2

    # Another value: the number and the figure change on the page that only quotes them.
    small_book(parameters={"n": 4})
    assert '<span class="result">4.0</span>' in home.read_text()
    shown = [p.read_text() for p in (index.parent / "_images").glob("01-toy.fig-toy*")]
    assert any("width='40'" in svg for svg in shown)

    # A missing result fails the build, and goes on failing until it is mended.
    page = project / "book/index.md"
    sound = page.read_text()
    page.write_text(sound + "\n{result}`01-toy.gone`\n")
    for _ in range(2):
        with pytest.raises(run.RunError, match="did not build"):
            small_book()
    page.write_text(sound)
    assert small_book().is_file()
    assert run.html_folder("default", project) == project / "_build/html"


def test_a_named_figure_without_an_image_is_an_error():
    cell = nbformat.v4.new_code_cell(metadata={"mystnb": {"figure": {"name": "fig-a"}}})
    with pytest.raises(run.RunError, match="'fig-a' shows no image"):
        pages._figures("06-x", nbformat.v4.new_notebook(cells=[cell]))
