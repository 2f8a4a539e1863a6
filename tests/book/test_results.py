"""Results recorded in a notebook come back as they were, and what prose cannot quote is refused."""

from __future__ import annotations

from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output

from geolib.book import results


def _executed(path, *bundles):
    outputs = [new_output("display_data", data={results.MIME: bundle}) for bundle in bundles]
    nbformat.write(new_notebook(cells=[new_code_cell("x", outputs=outputs)]), path)
    return path


@pytest.fixture
def shown(monkeypatch):
    bundles: list[dict[str, Any]] = []
    monkeypatch.setattr(results, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def test_recorded_values_come_back(tmp_path, shown):
    results.record(share=np.float32(0.5), n=np.int64(3), word="slic", ahead=np.bool_(True))
    results.record(loss=torch.tensor(0.25))
    assert shown[1] == {results.MIME: {"loss": 0.25}}, "nothing but the result is displayed"
    path = _executed(tmp_path / "a.ipynb", *(bundle[results.MIME] for bundle in shown))
    assert results.collect(path) == {
        "share": 0.5,
        "n": 3,
        "word": "slic",
        "ahead": True,
        "loss": 0.25,
    }


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_scalars_survive_the_file(value):
    with pytest.MonkeyPatch.context() as patch:
        shown: list[Any] = []
        patch.setattr(results, "display", lambda bundle, raw: shown.append(bundle))
        results.record(value=value)
    text = nbformat.writes(
        new_notebook(cells=[new_code_cell(outputs=[new_output("display_data", data=shown[0])])])
    )
    back = nbformat.reads(text, as_version=4).cells[0].outputs[0].data[results.MIME]["value"]
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), np.float32("nan"), "", "  "])
def test_missing_values_are_refused(value, shown):
    with pytest.raises(ValueError, match="result 'advantage'"):
        results.record(advantage=value)
    assert shown == []


@pytest.mark.parametrize("value", [[1.0], {"a": 1}, np.ones(2), object()])
def test_only_scalars_are_recorded(value, shown):
    with pytest.raises(TypeError, match="result 'advantage'"):
        results.record(advantage=value)


def test_record_needs_a_value():
    with pytest.raises(ValueError, match="at least one"):
        results.record()


@pytest.mark.parametrize(
    ("bundles", "message"),
    [
        (({"n": 1}, {"n": 2}), r"06-x\.ipynb records 'n' twice"),
        (({"n": None},), "result 'n' is None"),
    ],
)
def test_what_is_recorded_twice_or_damaged_is_refused(bundles, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        results.collect(_executed(tmp_path / "06-x.ipynb", *bundles))


def test_attached_files_come_back(tmp_path, shown):
    (tmp_path / "page" / "deep").mkdir(parents=True)
    (tmp_path / "page" / "index.html").write_text("<p>")
    (tmp_path / "page" / "deep" / "a.png").write_bytes(bytes(range(256)))
    results.attach("study", tmp_path / "page")
    outputs = [new_output("display_data", data=shown[0])]
    path = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("x", outputs=outputs)]), path)
    assert results.attached(path) == {
        "study/deep/a.png": bytes(range(256)),
        "study/index.html": b"<p>",
    }
    assert results.collect(path) == {}
