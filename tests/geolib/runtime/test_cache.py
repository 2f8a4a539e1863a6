"""The stage store: keys follow content, killed or damaged work is never taken for whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from geolib.runtime import cache

pytestmark = pytest.mark.usefixtures("own_cache")


def _write(text):
    return lambda folder: (folder / "value.txt").write_text(text)


def _forbidden(folder):
    raise AssertionError("a finished stage was computed again")


MODULES = ("geolib.runtime.here",)


def test_a_finished_stage_is_found_again():
    folder = cache.compute("toy", {"a": 1}, MODULES, _write("one"))
    again = cache.compute("toy", {"a": 1}, MODULES, _forbidden)
    assert again == folder
    assert (again / "value.txt").read_text() == "one"


@pytest.mark.parametrize(
    ("stage", "params", "modules"),
    [
        ("other", {"a": 1}, MODULES),
        ("toy", {"a": 2}, MODULES),
        ("toy", {"a": 1}, ("geolib.runtime.cache",)),
    ],
)
def test_key_follows_stage_parameters_and_code(stage, params, modules):
    assert cache.key(stage, params, modules) != cache.key("toy", {"a": 1}, MODULES)


def test_key_ignores_the_order_of_parameters():
    one = cache.key("toy", {"a": 1, "b": 2}, MODULES)
    assert one == cache.key("toy", {"b": 2, "a": 1}, MODULES)


def _fingerprint_of(tmp_path: Path, leaf: str) -> str:
    """Fingerprint, in a fresh process, of a package in which ``top`` imports ``leaf``."""
    package = tmp_path / "toypackage"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "top.py").write_text("from toypackage.leaf import f\n")
    (package / "leaf.py").write_text(textwrap.dedent(leaf))
    code = "from geolib.runtime import cache; print(cache.fingerprint(('toypackage.top',)))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return run.stdout


def test_fingerprint_follows_imported_code_but_not_comments(tmp_path):
    plain = _fingerprint_of(tmp_path, "def f():\n    return 1\n")
    described = _fingerprint_of(
        tmp_path, 'def f():\n    """Say one."""\n    # why\n\n    return 1\n'
    )
    changed = _fingerprint_of(tmp_path, "def f():\n    return 2\n")
    assert plain == described
    assert plain != changed


@pytest.mark.parametrize(
    ("use", "slow"),
    [
        ("from geolib.runtime import cache as c; c.fingerprint(('geolib.pipeline',))", "torch"),
        ("from geolib import pipeline", "lightning"),
        ("from geolib import pipeline", "transformers"),
    ],
)
def test_what_takes_seconds_to_import_is_imported_when_it_is_used(use, slow):
    """Every notebook pays for imports once more."""
    code = f"import sys; {use}; print({slow!r} in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


def test_code_of_no_module_is_an_error():
    with pytest.raises(ValueError, match="not a module of the package"):
        cache.fingerprint(("geolib.scorring",))


def test_a_damaged_file_is_reported_and_computed_again():
    folder = cache.compute("toy", {}, MODULES, _write("good"))
    manifest = folder / cache.MANIFEST
    (folder / "value.txt").write_text("bad!")
    os.utime(manifest, ns=(1, 1))  # a new process would not remember the earlier check
    with pytest.warns(UserWarning, match="damaged"):
        again = cache.compute("toy", {}, MODULES, _write("good"))
    assert (again / "value.txt").read_text() == "good"


def test_a_failing_build_leaves_nothing_behind(tmp_path):
    def fail(folder):
        (folder / "half.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        cache.compute("toy", {}, MODULES, fail)
    assert not list((tmp_path / "cache").rglob("half.txt"))
    folder = cache.compute("toy", {}, MODULES, _write("whole"))
    assert (folder / "value.txt").read_text() == "whole"


def test_a_killed_build_is_started_again(tmp_path):
    code = """
        import time
        from geolib.runtime import cache
        def build(folder):
            (folder / "value.txt").write_text("half")
            print("building", flush=True)
            time.sleep(60)
        cache.compute("toy", {}, ("geolib.runtime.here",), build)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = cache.compute("toy", {}, MODULES, _write("whole"))
    assert (folder / "value.txt").read_text() == "whole"
    assert not list(folder.parent.glob("*.part-*"))


def _count(folder, log):
    with Path(log).open("a") as file:
        file.write("built\n")
    time.sleep(0.5)
    (folder / "value.txt").write_text("one")


def _compute(log):
    cache.compute("toy", {}, MODULES, lambda folder: _count(folder, log))


def test_two_runs_at_once_compute_a_stage_once(tmp_path):
    log = tmp_path / "log.txt"
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_compute, args=(log,)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    assert log.read_text() == "built\n"


def test_an_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match="GEOLIB_CACHE"):
        cache.compute("toy", {}, MODULES, _write("x"))


def test_a_table_and_arrays_come_back_and_are_made_once():
    frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    tensors = {"t": torch.arange(6).reshape(2, 3).T}
    for make_table, make_arrays in ((lambda: frame, lambda: tensors), (_forbidden, _forbidden)):
        pd.testing.assert_frame_equal(cache.table("toy", {}, MODULES, make_table), frame)
        assert torch.equal(cache.arrays("toys", {}, MODULES, make_arrays)["t"], tensors["t"])


def test_the_manifest_says_what_made_the_result():
    folder = cache.compute("toy", {"a": 1}, MODULES, _write("one"))
    manifest = json.loads((folder / cache.MANIFEST).read_text())
    assert manifest["code"] == cache.fingerprint(MODULES)
    expected = {"stage": "toy", "params": {"a": 1}, "device": cache.device_name()}
    assert expected.items() <= manifest.items()
    assert {"seconds", "python", "libraries", "sha256"} <= set(manifest)


def test_where_results_are_kept_is_no_part_of_what_made_them(monkeypatch):
    read = []
    code = cache.module_code
    monkeypatch.setattr(cache, "module_code", lambda name: read.append(name) or code(name))
    cache.fingerprint(("geolib.data.records", "geolib.runtime.here"))
    assert "geolib.runtime.cache" in code("geolib.data.records")[1]
    assert [name for name in read if "runtime" in name] == ["geolib.runtime.here"]
