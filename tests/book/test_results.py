"""Results recorded in a notebook come back as they were, and what prose cannot quote is refused."""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output

from geolib.book import results


def _executed(path, *bundles):
    """An executed notebook, as it comes back from its file."""
    outputs = [new_output("display_data", data=bundle) for bundle in bundles]
    nbformat.write(new_notebook(cells=[new_code_cell("x", outputs=outputs)]), path)
    return nbformat.read(path, as_version=4)


@pytest.fixture
def shown(monkeypatch):
    bundles = []
    monkeypatch.setattr(results, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def test_recorded_values_come_back(tmp_path, shown):
    results.record(share=np.float32(0.5), n=np.int64(3), word="slic", ahead=np.bool_(True))
    results.record(loss=torch.tensor(0.25))
    assert shown[1] == {results.MIME: {"loss": 0.25}}, "nothing but the result is displayed"
    known = {"share": 0.5, "n": 3, "word": "slic", "ahead": True, "loss": 0.25}
    assert results.collect(_executed(tmp_path / "a.ipynb", *shown), "a") == known


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_scalars_survive_the_file(value):
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        shown = []
        patch.setattr(results, "display", lambda bundle, raw: shown.append(bundle))
        results.record(value=value)
        back = results.collect(_executed(Path(folder) / "a.ipynb", *shown), "a")["value"]
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize(
    ("error", "value"),
    [
        *((ValueError, v) for v in (None, float("nan"), float("inf"), np.float32("nan"), "", "  ")),
        *((TypeError, v) for v in ([1.0], {"a": 1}, np.ones(2), object())),
    ],
)
def test_only_scalars_that_are_there_are_recorded(error, value, shown):
    with pytest.raises(error, match="result 'advantage'"):
        results.record(advantage=value)
    with pytest.raises(ValueError, match="at least one"):
        results.record()
    assert shown == []


@pytest.mark.parametrize(
    ("bundles", "message"),
    [
        ([{"n": 1}, {"n": 2}], r"06-x records 'n' twice"),
        ([{"n": None}], "result 'n' is None"),
    ],
)
def test_what_is_recorded_twice_or_damaged_is_refused(bundles, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        bundles = ({results.MIME: bundle} for bundle in bundles)
        results.collect(_executed(tmp_path / "06-x.ipynb", *bundles), "06-x")


def test_attached_files_come_back(tmp_path, shown):
    (tmp_path / "page" / "deep").mkdir(parents=True)
    (tmp_path / "page" / "index.html").write_text("<p>")
    (tmp_path / "page" / "deep" / "a.png").write_bytes(bytes(range(256)))
    results.attach("study", tmp_path / "page")
    notebook = _executed(tmp_path / "a.ipynb", *shown)
    files = {"study/deep/a.png": bytes(range(256)), "study/index.html": b"<p>"}
    assert results.attached(notebook) == files
    assert results.collect(notebook, "a") == {}
