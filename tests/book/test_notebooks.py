"""The notebooks of the repository: pairs, kept outputs, parameters and figures."""

import configparser
import json
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
import yaml

from geolib.book import run

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.md"))
PROFILES = ("smoke", "default", "paper", "theiner")


def _notebook(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def _compared(outputs):
    """Outputs as nbval compares them: without what may differ between two replays."""
    rules = configparser.RawConfigParser()
    rules.read(ROOT / "notebooks/nbval-sanitize.cfg")
    shown: list[Any] = []
    for output in outputs:
        if shown and "text" in output and isinstance(shown[-1], str):
            shown[-1] += output["text"]  # one stream, which came in pieces
        else:
            shown.append(output.get("data", output.get("text")))
    text = json.dumps(shown)
    for rule in map(rules.__getitem__, rules.sections()):
        text = re.sub(rule["regex"], rule["replace"], text)
    return json.loads(text)


def _tags(cell):
    return set(cell.metadata.get("tags", ()))


def test_every_source_has_its_notebook_and_its_place_in_the_book_and_the_reverse():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    named = [Path(entry["file"]) for part in toc["parts"] for entry in part["chapters"]]
    in_book = [path.name for path in named if path.parent.name == "notebooks"]
    assert len(CHAPTERS) == 15
    assert run.names(ROOT) == CHAPTERS == sorted(in_book)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_pair_has_not_drifted(name):
    source = jupytext.read(ROOT / "notebooks" / f"{name}.md")
    paired = _notebook(name)
    assert [(c.cell_type, c.source, c.metadata) for c in paired.cells] == [
        (c.cell_type, c.source, c.metadata) for c in source.cells
    ], "run `make notebooks`"


@pytest.mark.parametrize("name", CHAPTERS)
def test_kept_outputs_are_there_name_no_machine_and_are_no_others(name):
    code = [cell for cell in _notebook(name).cells if cell.cell_type == "code"]
    kept = [cell for cell in code if run.is_kept(cell)]
    assert kept, "nbval compares nothing"
    for cell in kept:
        # nbval passes over a cell that has neither output nor count.
        assert cell.outputs and cell.execution_count is not None, cell.source
    assert [cell.source for cell in code if cell not in kept and cell.outputs] == []
    half_tagged = [cell.source for cell in code if len(_tags(cell) & run.KEPT_TAGS) == 1]
    assert half_tagged == []
    text = json.dumps([cell.outputs for cell in kept])
    assert "image/png" not in text
    assert not any(f"/{top}/" in text for top in ("home", "root", "tmp", "Users"))


@pytest.mark.book
@pytest.mark.parametrize("name", CHAPTERS)
def test_kept_outputs_are_those_of_the_smoke_run(name):
    """What nbval checks, on the copies that the smoke book is built from: none is run twice."""
    executed = ROOT / "_build/smoke/notebooks" / f"{name}.ipynb"
    if not executed.is_file():
        pytest.skip("no executed copy; run `geolib run --profile smoke` first")
    again = {cell.id: cell for cell in nbformat.read(executed, as_version=4).cells}
    for cell in filter(run.is_kept, _notebook(name).cells):
        assert cell.source == again[cell.id].source, "the executed copy is of another source"
        assert _compared(again[cell.id].outputs) == _compared(cell.outputs), "run `make notebooks`"


def test_outputs_are_compared_as_nbval_compares_them():
    def printed(text):
        return [nbformat.v4.new_output("stream", text=text)]

    sound = printed("3 images in 20 s, at /tmp/a/b\n")
    assert _compared(sound) == _compared(printed("3 images in 4.5 s, at /srv/c\n"))
    assert _compared(sound) != _compared(printed("4 images in 20 s, at /tmp/a/b\n"))
    assert _compared(sound) == _compared([*printed("3 images in "), *printed("2 s, at /x/y\n")])
    assert _compared(sound) != _compared([]) != _compared([*sound, *sound])


@pytest.mark.parametrize("name", CHAPTERS)
def test_parameters_come_first_with_the_values_of_the_smoke_profile(name):
    first = next(cell for cell in _notebook(name).cells if cell.cell_type == "code")
    assert "parameters" in _tags(first)
    declared = run.declared_parameters(ROOT / "notebooks" / f"{name}.ipynb")
    defaults = {key: one.default for key, one in declared.items()}
    assert defaults, "the notebook declares no parameter"
    assert run.resolve([name], "smoke", root=ROOT)[name] == defaults
    unknown = [key for key, one in declared.items() if one.kind in (Any, list[Any])]
    assert unknown == [], 'annotate what a default does not say, as in root: "Path" = None'


def test_profiles_name_known_parameters_and_smoke_sets_all_that_are_shared():
    shared = {}
    for profile in PROFILES:
        assert set(run.resolve(CHAPTERS, profile, root=ROOT)) == set(CHAPTERS)
        text = (ROOT / f"notebooks/profiles/{profile}.yaml").read_text(encoding="utf-8")
        shared[profile] = set(yaml.safe_load(text)["shared"])
    assert shared["default"] | shared["paper"] <= shared["smoke"]


@pytest.mark.parametrize("name", CHAPTERS)
def test_figures_have_alternative_texts_and_captions(name):
    figures = 0
    for cell in _notebook(name).cells:
        settings = cell.metadata.get("mystnb", {})
        if not settings and not (cell.cell_type == "code" and "figures." in cell.source):
            continue
        figures += 1
        alt = settings.get("image", {}).get("alt", "")
        assert len(alt.split()) >= 4, f"alt text {alt!r} of the cell\n{cell.source}"
        # A gallery shows several images from one cell: a text, but no number and caption.
        if "figure" in settings:
            assert settings["figure"]["caption"].strip(), cell.source
            assert settings["figure"]["name"].startswith("fig-"), cell.source
    assert figures, "the chapter shows no figure"


def test_names_of_figures_are_unique():
    settings = [c.metadata.get("mystnb", {}) for name in CHAPTERS for c in _notebook(name).cells]
    labels = [one["figure"]["name"] for one in settings if one.get("figure")]
    assert len(labels) == len(set(labels))
