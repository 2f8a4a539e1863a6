"""The ledger of claims: rules by hand, verdicts that follow the data, and a page made of them."""

import json
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sphinx.cmd.build import build_main

from geolib.book import claims, results
from geolib.book.claims import Claim, Finding, Rule

ROOT = Path(__file__).parents[2]
R, N, OPEN = "reproduced", "not reproduced", "inconclusive"
NUMBERS = st.floats(-1e6, 1e6)


def finding(low, high, data="GeoScenes, 60 images"):
    return Finding(value=(low + high) / 2, low=low, high=high, n=60, data=data)


def claim(rule, **more):
    return Claim(source="s2026, §1", claim="A", measure="a", unit="u", rule=Rule(**rule), **more)


# Rules


@pytest.mark.parametrize(
    ("rule", "low", "high", "status"),
    [
        *(({"above": 0.02}, 0.03, 0.10, R), ({"above": 0.02}, -0.10, 0.01, N)),
        ({"above": 0.02}, -0.10, 0.03, OPEN),
        ({"above": 0.02}, 0.02, 0.10, OPEN),  # touches the margin from above
        ({"above": 0.02}, -0.10, 0.02, N),  # and from below: no value is above it
        ({"above": 0.02}, 0.005, 0.015, N),  # positive, and too small to matter
        ({"above": -0.05}, -0.04, -0.01, R),  # a loss that is small enough
        ({"below": 0.25}, 0.0, 0.2, R),
        *(({"below": 0.25}, low, high, N) for low, high in [(0.3, 0.9), (0.25, 0.3)]),
        *(({"below": 0.25}, low, high, OPEN) for low, high in [(0.2, 0.3), (0.1, 0.25)]),
        # It may differ from zero, by little, or hold zero, and everything else.
        *(({"within": [-4, 4]}, low, high, R) for low, high in [(-3, 3), (1, 2)]),
        *(({"within": [-4, 4]}, low, high, OPEN) for low, high in [(-9, 9), (3, 5), (-4, 3)]),
        *(({"within": [-4, 4]}, low, high, N) for low, high in [(5, 6), (4, 6), (-9, -4)]),
        ({"above": 0.02}, 0.5, 0.5, OPEN),  # no width: the images were all alike
        ({"within": [-4, 4]}, 0.0, 0.0, OPEN),
    ],
)
def test_the_rule_decides_by_hand(rule, low, high, status):
    assert claims.status(claim(rule), finding(low, high)) == status


@given(margin=NUMBERS, ends=st.tuples(NUMBERS, NUMBERS).map(sorted))
def test_above_and_below_mirror_each_other(margin, ends):
    low, high = ends
    assert Rule(above=margin).status(low, high) is Rule(below=-margin).status(-high, -low)


@given(margins=st.tuples(NUMBERS, NUMBERS).map(sorted), ends=st.tuples(NUMBERS, NUMBERS))
def test_within_holds_when_both_sides_hold(margins, ends):
    (a, b), (low, high) = margins, sorted(ends)
    if a == b:
        return
    sides = {Rule(above=a).status(low, high), Rule(below=b).status(low, high)}
    expected = N if N in sides else OPEN if OPEN in sides else R
    assert Rule(within=(a, b)).status(low, high) == expected


@pytest.mark.parametrize(
    "rule",
    [
        *({}, {"above": None}, {"above": float("nan")}, {"above": 1, "below": 2}),
        *({"within": [2, 1]}, {"within": [1, 1]}, {"over": 1}),
    ],
)
def test_a_rule_says_one_thing(rule):
    with pytest.raises(ValidationError):
        Rule(**rule)


def test_a_rule_in_words():
    rules = [Rule(above=0.02), Rule(below=-1), Rule(within=(-4, 4))]
    assert [*map(str, rules)] == ["above 0.02", "below -1", "between -4 and 4"]


# Verdicts


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("GeoScenes, 40 images", "GeoScenes"),
        ("training coordinates of GeoScenes, 40 tested", "GeoScenes"),
        ("photographs of a folder, 40 images", "photographs of a folder"),
        ("OSV-5M", "OSV-5M"),
    ],
)
def test_a_verdict_names_its_data(data, named):
    beats = claim({"above": 0})
    assert claims.verdict(beats, finding(1, 2, data)) == f"reproduced on {named}"
    assert claims.verdict(beats, finding(-2, -1, data)) == f"not reproduced on {named}"
    assert claims.verdict(beats, finding(-1, 1, data)) == f"inconclusive on {named}"
    assert claims.verdict(beats, None) == "not testable here"


def test_what_belongs_to_other_data_is_not_tested_by_these():
    accuracy = claim({"within": [86, 90]}, only_on="OSV-5M")
    assert claims.verdict(accuracy, finding(87, 89)) == "not testable here"
    assert claims.verdict(accuracy, finding(10, 20)) == "not testable here"
    assert claims.verdict(accuracy, finding(87, 89, "OSV-5M, 9 images")) == "reproduced on OSV-5M"


@given(name=st.sampled_from(sorted(claims.claims())), ends=st.tuples(NUMBERS, NUMBERS).map(sorted))
def test_scenes_never_earn_a_bare_verdict(name, ends):
    said = claims.verdict(claims.claims()[name], finding(*ends))
    assert said == "not testable here" or said.endswith(" on GeoScenes")


@pytest.mark.parametrize(
    "change",
    [
        *({"value": float("nan")}, {"low": 2.0}, {"n": 0}, {"detectable": 0.0}),
        *({"data": ""}, {"data": ", 40 images"}, {"data": " GeoScenes"}),
    ],
)
def test_a_finding_is_finite_and_in_order_and_names_its_data(change):
    sound = {"value": 0.5, "low": 0.0, "high": 1.0, "n": 3, "data": "x"}
    assert Finding(**sound)
    with pytest.raises(ValidationError):
        Finding(**sound | change)


# What the papers print, by hand: values that must agree with their claim, and one that must not.
PRINTED = {
    "object-accuracy-train": ([88], 80),
    "object-accuracy-test": ([87.42], 80),
    "object-accuracy-pipeline": ([86.3], 80),
    # Table 2: Im2GPS3k, YFCC4k, Im2GPS; the best of others there are ISN, PlaNet and ISN.
    "theiner-semp-s2": ([36.7 - 36.5, 23.9 - 24.1, 48.1 - 51.9], -10),
    "theiner-state-of-the-art": ([36.7 - 36.6, 23.9 - 22.2, 48.1 - 51.9], -10),
    # Table 1
    "theiner-f-fstar": ([23.8 - 18.5], -5),
    "theiner-more-classes": ([8.9 - 6.6, 8.9 - 7.5], -1),
    "theiner-area-only-fine": ([16.1 - 16.4], 0.3),
    "theiner-area-only-coarse": ([38.0 - 37.6], -5),
    "theiner-thresholds": ([24.1 - 23.8], 5),
    # Table 3, medians
    "influence-sky": ([1.22], 0.1),
    "influence-building": ([1.06], 0.1),
    "influence-mountain": ([1.03], 0.1),
    "influence-animal": ([1.22], 0.1),
    "influence-road": ([0.08], 1),
    "influence-grass": ([0.12], 1),
    "influence-earth": ([0.18], 1),
    "influence-sand": ([0.10], 1),
    "influence-water": ([0.18], 1),
    "influence-wrong-person": ([1.14 - 0.92], -0.2),
    "influence-wrong-animal": ([1.51 - 1.22], -0.2),
    "influence-wrong-car": ([0.58 - 0.50], -0.2),
    "influence-wrong-floor": ([0.35 - 0.24], -0.2),
    # Tables 3 and 4
    "influence-dilation-sky": ([1.39 - 1.22], -0.2),
}
# What they say without a number: one value that agrees and one that does not, by hand.
SAID = {
    name: values
    for values, names in {
        (0.3, -0.3): [
            f"object-{test}{what}"
            for test in ("deletion", "insertion")
            for what in (
                *("", "-configurations", "-gradcam", "-gradcampp", "-smoothgrad", "-scorecam"),
                *("-mobilesam", "-sam2", "-sam3", "-blind", "-confirmed"),
            )
        ],
        (0.0, -0.4): ["object-keeps-information"],
        (-20, 20): ["object-sam2-few"],
        (-0.1, 0.1): ["object-sam2-coverage", "object-sam2-deletion-worst"],
        (20, -20): ["object-sam3-many"],
        (0.1, -0.1): [
            *("object-sam3-coverage", "object-sam3-deletion-best", "object-sam3-insertion-best"),
            *("object-segmented-deletion", "object-segmented-insertion"),
            *("combicam-more-cues", "combicam-cues", "combicam-deletion", "combicam-insertion"),
        ],
        (0.9, -0.9): ["object-coverage-deletion", "object-coverage-insertion"],
        (0.9, 0.1): [f"object-coverage-explains-{test}" for test in ("deletion", "insertion")],
        (0.2, 0.9): ["object-diverse", "object-diffuse"],
        (0.2, 0.01): ["object-overlap", "object-part", "object-shapeless"],
        (0.8, 0.2): ["object-perceptible", "theiner-comprehensible", "combicam-insight"],
        (0.2, -0.2): ["influence-people-wrong"],
        (2, -2): ["combicam-finer"],
    }.items()
    for name in names
}


def test_every_claim_has_values_by_hand():
    assert sorted([*PRINTED, *SAID]) == sorted(claims.claims())
    # Of people the paper prints numbers of images, from which the measure does not follow.
    printed = {name for name, known in claims.claims().items() if known.printed}
    assert printed == {*PRINTED, "influence-people-wrong"}


@pytest.mark.parametrize(
    ("name", "agreeing", "opposed"),
    [(name, value, no) for name, (values, no) in PRINTED.items() for value in values]
    + [(name, *values) for name, values in SAID.items()],
)
def test_every_verdict_flips_with_its_data(name, agreeing, opposed):
    """The paper's own value earns its claim the verdict "reproduced"; the opposite does not."""
    known = claims.claims()[name]
    data = known.only_on or "GeoScenes"
    for value, status in ((agreeing, R), (opposed, N)):
        found = finding(value - 0.001, value + 0.001, f"{data}, 40 images")
        assert claims.status(known, found) == status
        row = claims.ledger({name: found}).set_index("name").loc[name]
        assert row["verdict"] == f"{status} on {data}"


@pytest.mark.parametrize(("n", "status"), [(1, OPEN), (59, OPEN), (60, R), (61, R)])
def test_a_handful_of_images_decides_nothing(n, status):
    few = finding(1, 2).model_copy(update={"n": n})
    assert claims.status(claim({"above": 0}), few) == status
    assert claims.status(claim({"above": 0}, only_on="OSV-5M"), few) == "not testable here"


def test_the_page_and_the_ledger_say_how_many_images_it_takes():
    for file in ("book/claims.md", "data/claims.yaml"):
        text = re.sub(r"[\s#]+", " ", (ROOT / file).read_text(encoding="utf-8"))
        assert f"fewer than {claims.MIN_N} images" in text


# The ledger


def test_the_accuracies_are_the_papers():
    for split, value in {"train": 88, "test": 87.42, "pipeline": 86.3}.items():
        known = claims.claims()[f"object-accuracy-{split}"]
        assert known.printed == f"{value} %"
        assert sum(known.rule.bounds) / 2 == pytest.approx(value)


def test_rows_name_papers_of_the_bibliography_and_can_be_addresses():
    bibliography = (ROOT / "book/references.bib").read_text(encoding="utf-8")
    for name, known in claims.claims().items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name)
        assert f"{{{known.source.split(', ')[0]}," in bibliography
    measures = [(known.measure, known.claim) for known in claims.claims().values()]
    assert len(set(measures)) == len(measures), "two rows say the same"


def test_the_ledger_is_whole_and_sorted():
    found = {
        "influence-road": finding(0.3, 0.5),
        "influence-sky": finding(0.9, 1.2),
        "combicam-finer": finding(0.1, 0.9),
    }
    table = claims.ledger(found)
    assert sorted(table["name"]) == sorted(claims.claims())
    assert list(table["paper"].unique()) == [
        "durrieu2026objectlevel",
        "theiner2022interpretable",
        "faget2026combicam",
    ]
    theiner = table[table["paper"] == "theiner2022interpretable"]
    assert theiner[["name", "verdict"]].head(2).to_numpy().tolist() == [
        ["influence-sky", "reproduced on GeoScenes"],
        ["influence-road", "not reproduced on GeoScenes"],
    ]
    measured = theiner[["low", "high", "n", "rule", "place"]].to_numpy().tolist()[0]
    assert measured == [0.9, 1.2, 60, "between 0.75 and 1.25", "§4.2.2 and Table 3"]
    assert claims.counts(table) == {
        "total": len(claims.claims()),
        "reproduced_on_geoscenes": 1,
        "not_reproduced_on_geoscenes": 1,
        "inconclusive_on_geoscenes": 1,
        "not_testable_here": len(claims.claims()) - 3,
    }


def test_nothing_that_is_exported_says_reproduced_without_its_data():
    road = finding(0.3, 0.5, "OSV-5M, 40 images")
    found = {"influence-sky": finding(0.9, 1.2), "influence-road": road}
    table = claims.ledger(found)
    words = {*claims.counts(table), *table.to_numpy().ravel(), *table.columns}
    assert not words & {R, N, OPEN, "not_reproduced"}
    assert {"reproduced on GeoScenes", "not reproduced on OSV-5M"} <= words


def test_an_unknown_claim_is_refused():
    known = {"influence-rode": finding(0, 1)}
    values = finding(0, 1).model_dump(exclude={"chapter"})
    recorded = {"10-a": {f"claim.influence-rode.{key}": v for key, v in values.items()}}
    for take, found in (claims.ledger, known), (claims.record, known), (claims.findings, recorded):
        with pytest.raises(ValueError, match=r"influence-rode.*claims\.yaml"):
            take(found)


def test_the_claims_that_chapters_name_are_there():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.md")]
    pattern = r'"((?:object|theiner|influence|combicam)-[a-z0-9-]+)"'
    assert set(re.findall(pattern, "".join(texts))) <= set(claims.claims())


# From chapters to the ledger


@pytest.fixture
def recorded(monkeypatch):
    values: dict = {}
    monkeypatch.setattr(results, "record", lambda **new: values.update(new))
    return values


def test_what_a_chapter_records_comes_back(recorded):
    table = claims.record({"influence-sky": finding(0.9, 1.2), "influence-road": None})
    assert table["verdict"].tolist() == ["reproduced on GeoScenes", "not testable here"]
    assert table.loc[0, ["claim", "low", "high", "unit", "rule"]].tolist() == [
        "The concept sky has an influence of about 1 on predictions that are right",
        0.9,
        1.2,
        "ci",
        "between 0.75 and 1.25",
    ]
    assert recorded["claim.influence-sky.n"] == 60
    assert not [key for key in recorded if "road" in key]
    assert "claim.influence-sky.detectable" not in recorded
    found = claims.findings({"10-a": {"other": 1, **recorded}, "11-b": {"other": 2}})
    assert found == {"influence-sky": finding(0.9, 1.2).model_copy(update={"chapter": "10-a"})}


def test_two_chapters_do_not_measure_one_claim(recorded):
    claims.record({"influence-sky": finding(0.9, 1.2)})
    with pytest.raises(ValueError, match="10-a and 11-b both record 'influence-sky'"):
        claims.findings({"10-a": recorded, "11-b": recorded})


# The page


@pytest.fixture
def page(tmp_path):
    """Build a page of the ledger with some findings; its HTML."""
    source, html = tmp_path / "source", tmp_path / "html"
    for folder in ("notebooks", "book"):
        (source / folder).mkdir(parents=True)
    (source / "conf.py").write_text(
        "extensions = ['geolib.book.sphinx_results']\nhtml_theme = 'basic'"
    )
    (source / "index.rst").write_text(
        "Index\n=====\n\n.. toctree::\n\n   book/claims\n   notebooks/10-a\n"
    )
    papers = dict.fromkeys(known.source.split(", ")[0] for known in claims.claims().values())
    directives = "".join(f"\n.. claims:: {name}\n" for name in ("summary", *papers))
    (source / "book/claims.rst").write_text(f"Claims\n======\n{directives}")
    (source / "notebooks/10-a.rst").write_text("Chapter\n=======\n\nText.\n")

    def build(table):
        (source / "claims.json").write_text(json.dumps({"claims": table.to_dict("records")}))
        doctrees = str(tmp_path / "doctrees")
        assert build_main(["-q", "-W", "-d", doctrees, str(source), str(html)]) == 0
        return BeautifulSoup((html / "book/claims.html").read_text("utf-8"), "html.parser")

    return build


def test_the_page_follows_the_data(page):
    for sign, verdict in ((1, "reproduced on GeoScenes"), (-1, "not reproduced on GeoScenes")):
        known = {"chapter": "10-a", "detectable": 0.15 if sign == 1 else None}
        found = finding(*sorted((0.1 * sign, 0.3 * sign))).model_copy(update=known)
        table = claims.ledger({"object-deletion": found})
        soup = page(table)
        rows = soup.select("table.claims tbody tr")
        shown = {row["id"]: row.select_one(".claim-badge").get_text()[2:] for row in rows}
        assert shown == {f"claim-{row['name']}": row["verdict"] for _, row in table.iterrows()}
        assert shown["claim-object-deletion"] == verdict
        first = soup.select_one("#claim-object-deletion")
        assert first.select_one("a")["href"] == "../notebooks/10-a.html"
        assert ("0.200 (0.100 to 0.300) accuracy" in first.get_text()) == (sign == 1)
        assert ("−0.200 (−0.300 to −0.100) accuracy" in first.get_text()) == (sign == -1)
        least = "A true difference of 0.150 would have been shown"
        assert (least in first.get_text()) == (sign == 1)
        legend = [badge.get_text() for badge in soup.select(".claims-summary .claim-badge")]
        assert legend == [f"1 {verdict}", f"{len(table) - 1} not testable here"]
        bar = soup.select_one(".claims-bar")
        assert str(bar["aria-label"]).startswith(f"1 {verdict}, ")
        assert bar.select("span")[0].get_text() == ("✓ 1" if sign == 1 else "✗ 1")
    unmeasured = soup.select_one("#claim-object-deletion-gradcam").get_text()
    assert "Not measured in this run" in unmeasured
    assert "Needs weights of SAM 2" in soup.select_one("#claim-object-deletion-sam2").get_text()
    assert "Printed there: 1.22" in soup.select_one("#claim-influence-sky").get_text()
    assert soup.select_one("a[href='../claims.json']") is not None
