"""The page of claims shows the verdicts of the ledger, and the ledger follows the run."""

import json
from collections import Counter

import nbformat
import pytest

from geolib.book import claims, results

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def ledger(html):
    return json.loads((html / "claims.json").read_text(encoding="utf-8"))["claims"]


@pytest.fixture(scope="module")
def page(html, book):
    return book[html / "book/claims.html"]


def test_the_ledger_is_that_of_the_executed_chapters(html, ledger):
    chapters = sorted((html / "_sources/notebooks").glob("[0-9][0-9]-*.ipynb"))
    recorded = {p.stem: results.collect(nbformat.read(p, 4), p.stem) for p in chapters}
    found = claims.findings(recorded)
    assert found, "no chapter recorded a finding"
    assert claims.ledger(found).to_dict("records") == ledger


def test_the_page_shows_exactly_these_verdicts(page, ledger):
    rows = page.soup.select("table.claims tbody tr")
    badges = [row.select_one("td:last-child .claim-badge").get_text() for row in rows]
    assert [badge[2:] for badge in badges] == [row["verdict"] for row in ledger]
    assert [row["id"] for row in rows] == [f"claim-{row['name']}" for row in ledger]


def test_the_counts_above_are_those_of_the_table(page, ledger):
    counts = Counter(row["verdict"] for row in ledger)
    legend = [badge.get_text() for badge in page.soup.select(".claims-summary .claim-badge")]
    assert sorted(legend) == sorted(f"{count} {verdict}" for verdict, count in counts.items())
    pieces = [piece.get_text().split() for piece in page.soup.select(".claims-bar span")]
    assert sum(int(number) for _, number in pieces) == len(ledger)


def test_scenes_earn_no_bare_verdict(ledger):
    scenes = [row["verdict"] for row in ledger if claims.SYNTHETIC in (row["data"] or "")]
    assert scenes
    assert [v for v in scenes if not v.endswith((" on GeoScenes", "not testable here"))] == []


def test_every_finding_links_to_its_chapter(page, ledger):
    for row in ledger:
        if row["value"] is not None:
            links = page.soup.select(f"#claim-{row['name']} a")
            assert [link["href"] for link in links] == [f"../notebooks/{row['chapter']}.html"]
