"""The stage store: keys follow content, killed or damaged work is never taken for whole."""

import json
import multiprocessing
import os
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from geolib.runtime import cache

pytestmark = pytest.mark.usefixtures("own_cache")


def _write(text):
    return lambda folder: (folder / "value.txt").write_text(text)


def _forbidden(*arguments):
    raise AssertionError("a finished stage was computed again")


MODULES = ("geolib.runtime.here",)


def _toy(build, **params):
    return cache.compute("toy", params, MODULES, build)


def test_a_finished_stage_is_found_again():
    folder = _toy(_write("one"), a=1)
    again = _toy(_forbidden, a=1)
    assert again == folder
    assert (again / "value.txt").read_text() == "one"


def test_key_follows_stage_parameters_and_code_and_not_their_order():
    one = cache.key("toy", {"a": 1, "b": 2}, MODULES)
    assert one == cache.key("toy", {"b": 2, "a": 1}, MODULES)
    assert one != cache.key("other", {"a": 1, "b": 2}, MODULES)
    assert one != cache.key("toy", {"a": 2, "b": 2}, MODULES)
    assert one != cache.key("toy", {"a": 1, "b": 2}, ("geolib.runtime.cache",))


def _printed(code):
    """What code prints in a fresh process."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_fingerprint_follows_imported_code_but_not_comments(tmp_path, monkeypatch):
    package = tmp_path / "toypackage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "top.py").write_text("from toypackage.leaf import f\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    plain = "def f():\n    return 1\n"
    described = 'def f():\n    """Say one."""\n    # why\n\n    return 1\n'
    prints = []
    for leaf in (plain, described, plain.replace("1", "2")):
        (package / "leaf.py").write_text(leaf)
        use = "from geolib.runtime import cache; print(cache.fingerprint(('toypackage.top',)))"
        prints.append(_printed(use))
    assert prints[0] == prints[1] != prints[2]


def test_what_takes_seconds_to_import_is_imported_when_it_is_used():
    """Every notebook pays for imports once more."""
    key = "from geolib.runtime import cache as c; c.fingerprint(('geolib.pipeline',))"
    for use, slow in (
        (key, {"torch"}),
        ("from geolib import pipeline", {"lightning", "transformers"}),
    ):
        assert _printed(f"import sys; {use}; print({slow} & sys.modules.keys())") == "set()"


def test_code_of_no_module_is_an_error():
    with pytest.raises(ValueError, match="not a module of the package"):
        cache.fingerprint(("geolib.scorring",))


def test_a_damaged_file_is_reported_and_computed_again():
    folder = _toy(_write("good"))
    manifest = folder / cache.MANIFEST
    (folder / "value.txt").write_text("bad!")
    os.utime(manifest, ns=(1, 1))  # a new process would not remember the earlier check
    with pytest.warns(UserWarning, match="damaged"):
        again = _toy(_write("good"))
    assert (again / "value.txt").read_text() == "good"


def test_a_failing_build_leaves_nothing_behind(tmp_path):
    def fail(folder):
        (folder / "half.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        _toy(fail)
    assert not list((tmp_path / "cache").rglob("half.txt"))
    assert (_toy(_write("whole")) / "value.txt").read_text() == "whole"


def test_a_killed_build_is_started_again(tmp_path):
    def half(folder):
        (folder / "value.txt").write_text("half")
        (tmp_path / "building").touch()
        time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=_toy, args=(half,))
    process.start()
    while not (tmp_path / "building").exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    folder = _toy(_write("whole"))
    assert (folder / "value.txt").read_text() == "whole"
    assert not list(folder.parent.glob("*.part-*"))


def test_two_runs_at_once_compute_a_stage_once(tmp_path):
    log = tmp_path / "log.txt"

    def count(folder):
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.5)
        (folder / "value.txt").write_text("one")

    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_toy, args=(count,)) for _ in range(2)]
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
        _toy(_write("x"))


def test_a_table_and_arrays_come_back_and_are_made_once():
    frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    tensors = {"t": torch.arange(6).reshape(2, 3).T}
    for make_table, make_arrays in ((lambda: frame, lambda: tensors), (_forbidden, _forbidden)):
        pd.testing.assert_frame_equal(cache.table("toy", {}, MODULES, make_table), frame)
        assert torch.equal(cache.arrays("toys", {}, MODULES, make_arrays)["t"], tensors["t"])


def test_the_manifest_says_what_made_the_result():
    folder = _toy(_write("one"), a=1)
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
