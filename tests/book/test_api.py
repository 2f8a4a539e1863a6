"""The API page: a short list that somebody chose, and references that lead somewhere."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
# Relied on from outside.
CONTRACTS = """
data.load model.load model.train attribution.attribute attribution.METHODS segmentation.load
scoring.score_segments scoring.suppress scoring.element_boxes scoring.extract_elements
ablation.ablate ablation.random_boxes ablation.faithfulness statistics.compare
concepts.concept_influence partitioning.great_circle_distance partitioning.geolocation_accuracy
partitioning.geoguessr_score partitioning.S2Partitioning partitioning.SemanticPartitioning
pipeline.evaluate pipeline.explain
"""
LISTED = [
    f"{module}.{name}"
    for module, block in re.findall(r"currentmodule:: (\S+)(.*?)```", PAGE, re.DOTALL)
    for name in re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)$", block, re.MULTILINE)
]


def locate(name):
    """The object of a dotted name; its longest importable beginning is a module."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            fields = getattr(found, "model_fields", {}) | getattr(found, "__annotations__", {})
            found = fields[part] if part in fields else getattr(found, part)
        return found
    raise AssertionError(f"nothing is called {name}")


def test_the_list_is_short_and_holds_the_contracts():
    assert len(LISTED) == len(set(LISTED)) <= 75
    assert {f"geolib.{name}" for name in CONTRACTS.split()} <= set(LISTED)


@pytest.mark.parametrize("name", LISTED)
def test_every_public_name_says_what_it_is(name):
    found = locate(name)
    if not name.rsplit(".", 1)[1].isupper():
        assert (found.__doc__ or "").strip(), name


def test_references_of_docstrings_and_pages_lead_somewhere():
    role = re.compile(r"(?::|\{py:)(?:func|class|mod|data|meth|attr|exc)[:}]`~?\.?([\w.]+)`")
    texts = [*ROOT.glob("geolib/**/*.py"), *ROOT.glob("geoscenes/**/*.py")]
    texts += [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.md")]
    found = {n for path in texts for n in role.findall(path.read_text(encoding="utf-8"))}
    named = {name for name in found if name.startswith(("geolib.", "geoscenes."))}
    assert len(named) > 20
    broken = []
    for name in sorted(named):
        try:
            locate(name)
        except (AttributeError, AssertionError):
            broken.append(name)
    assert broken == []
