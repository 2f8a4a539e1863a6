"""Findings of the object-level chapters: by hand, and turned over with their data."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from geolib import statistics
from geolib.book import claims
from geolib.chapters import elements, findings
from geolib.chapters import faithfulness as chapter

N = 80
SAMS = ("mobilesam", "sam2", "sam3")
PAIRS = [(method, "felzenszwalb") for method in ("gradcam++", "smoothgrad", "random")]
PAIRS += [("gradcam++", name) for name in ("slic", "grid", *SAMS)]
COLUMNS = ["image_id", "attribution", "segmenter", "test", "region", "coverage", "correct"]


def table_of(wins, coverage=None) -> pd.DataFrame:
    """Outcomes by whether guided boxes do what a test asks (or else random ones), by pair."""
    rows = []
    for pair, of_pair in wins.items():
        share = (coverage or {}).get(pair[1], 0.2)
        for i, wins_here in enumerate(of_pair):
            rows.append((f"{i:04}", *pair, "original", "original", share, True))
            for test, region in product(("deletion", "insertion"), ("guided", "random")):
                correct = bool(wins_here) ^ (test == "deletion") ^ (region == "random")
                rows.append((f"{i:04}", *pair, test, region, share, correct))
    return pd.DataFrame(rows, columns=COLUMNS).assign(coverage_gap=0.0, n_elements=3)


def outcomes(guided_wins: bool, pairs=PAIRS, coverage=None) -> pd.DataFrame:
    """Outcomes in which guided boxes win, or lose, on all images but every fifth."""
    wins = [guided_wins == (i % 5 > 0) for i in range(N)]
    return table_of(dict.fromkeys(pairs, wins), coverage)


def faithfulness(table, segmenter="felzenszwalb") -> findings.Found:
    chosen = table[(table["attribution"] == "gradcam++") & (table["segmenter"] == segmenter)]
    return findings.faithfulness(table, chosen, "gradcam++", segmenter, "GeoScenes")


def named(*endings):
    return [f"object-{test}{end}" for test in ("deletion", "insertion") for end in endings]


def test_verdicts_flip_when_the_data_do():
    tested = named("-configurations", "-gradcampp", "-smoothgrad", "-sam2", "-sam3")
    for wins, status in ((True, "reproduced"), (False, "not reproduced")):
        found = faithfulness(outcomes(wins))
        table = claims.ledger({k: v for k, v in found.items() if v}).set_index("name")
        assert table.loc[tested, "verdict"].unique().tolist() == [f"{status} on GeoScenes"]


def test_advantages_by_hand():
    # 64 of 80 images win by one, 16 lose by one.
    found = faithfulness(outcomes(True))
    main = found["object-deletion-gradcampp"]
    assert main.value == pytest.approx(0.6)
    assert main.low < 0.6 < main.high and main.n == N
    each = statistics.paired([1.0] * 64 + [-1.0] * 16)
    assert (main.low, main.high, main.detectable) == pytest.approx([*each[1:3], each.detectable])
    assert main.data == "GeoScenes, felzenszwalb, no element in 0% of the images, 80 images"
    # Right on all images before, on 64 of 80 when only the elements are shown.
    assert found["object-keeps-information"].value == pytest.approx(-0.2)


def test_controls_and_yardsticks_are_no_pairs_of_the_papers_kind():
    others = [
        ("edges", "felzenszwalb"),
        *(("gradcam++", name) for name in ("grid", "none", "truth")),
    ]
    table = pd.concat([outcomes(True, [*PAIRS[:1], *others]), outcomes(False, PAIRS[1:2])])
    table = table.assign(fill="mean", agrees=True)
    counted = {"methods_ahead": 1, "methods_total": 2}
    assert chapter.pairs_ahead(table) == counted
    only = table[table["segmenter"] == "grid"]
    assert chapter.pairs_ahead(only) == dict.fromkeys(counted, 0)


def test_every_name_is_a_claim_and_what_was_not_run_has_no_finding():
    found = faithfulness(outcomes(True, PAIRS[:3]))
    assert set(found) <= set(claims.claims())
    known = {name for name, finding in found.items() if finding}
    tested = named("-configurations", "-gradcampp", "-smoothgrad")
    assert known == {*tested, "object-keeps-information"}


def test_the_weakest_configuration_leaves_controls_out():
    good = outcomes(True, PAIRS[:2])
    bad = outcomes(False, [("random", "felzenszwalb"), ("gradcam++", "grid")])
    alone = good[good["attribution"] == "gradcam++"]
    worse = pd.concat([good, outcomes(False, [("gradcam++", "slic")])])
    found, one, weakest = (
        faithfulness(table)["object-deletion-configurations"]
        for table in (pd.concat([good, bad]), alone, worse)
    )
    assert (found.value, weakest.value) == pytest.approx((0.6, -0.6))
    told = "GeoScenes, 2 configurations, no element in up to 0% of the images, 80 images"
    assert found.data == told
    assert found.low < one.low, "two configurations need a wider interval"


def without_elements(n: int) -> pd.DataFrame:
    """SmoothGrad keeps no element in ``n`` images, so that guided and random are alike there."""
    table = outcomes(True, PAIRS[:2])
    none = (table["attribution"] == "smoothgrad") & (table["image_id"].astype(int) < n)
    table.loc[none, "n_elements"] = 0
    table.loc[none, "correct"] = table["test"][none] != "insertion"
    return table


def test_configurations_without_elements_stay_in():
    found = faithfulness(without_elements(60))
    for test in ("deletion", "insertion"):
        alone, every = (found[f"object-{test}-{name}"] for name in ("smoothgrad", "configurations"))
        # 16 of the other 20 images win, 4 lose.
        assert (alone.value, every.value) == pytest.approx((12 / 80, 12 / 80)) and alone.n == N
        assert alone.data == "GeoScenes, felzenszwalb, no element in 75% of the images, 80 images"
        told = "GeoScenes, 2 configurations, no element in up to 75% of the images, 80 images"
        assert every.data == told
    # A configuration that never keeps an element decides nothing.
    found = faithfulness(without_elements(N))
    for name in ("object-deletion-smoothgrad", "object-deletion-configurations"):
        verdict = claims.verdict(claims.claims()[name], found[name])
        assert verdict == "inconclusive on GeoScenes"


FIVE = ("felzenszwalb", "slic", *SAMS)


def covered(names: tuple[str, ...]) -> pd.DataFrame:
    """Segmenters that cover 0.1, 0.2, …; deletion makes every sixth, fifth, … image wrong."""
    covers = {name: (i + 1) / 10 for i, name in enumerate(names)}
    table = outcomes(True, [("gradcam++", name) for name in names], covers)
    wrong = {name: 6 - i for i, name in enumerate(names)}
    guided = (table["test"] == "deletion") & (table["region"] == "guided")
    number = table["image_id"].astype(int)
    table.loc[guided, "correct"] = number[guided] % table["segmenter"][guided].map(wrong) != 0
    return table


def test_coverage_goes_with_what_the_tests_do():
    found = faithfulness(covered(FIVE))
    finding = found["object-coverage-deletion"]
    wrong = [14, 16, 20, 27, 40]
    assert finding.value == pytest.approx(np.corrcoef(range(5), wrong)[0, 1])
    assert finding.low > 0.5
    names = "felzenszwalb; mobilesam; sam2; sam3; slic"
    told = f"GeoScenes, gradcam++, these segmenters only: {names}, 80 images"
    assert finding.data == told
    yardstick = findings.only_these(["slic", "grid"])
    assert yardstick == "these segmenters only: slic; grid; yardsticks included"
    # In the insertion test all segmenters do the same: there is no correlation to speak of.
    assert found["object-coverage-insertion"] is None
    # Yardsticks make none; four segmenters are too few.
    assert faithfulness(covered((*FIVE, "grid")))["object-coverage-deletion"] == finding
    few = covered((*FIVE[:4], "grid", "none"))
    assert faithfulness(few)["object-coverage-deletion"] is None


def test_the_means_of_segmenters_are_compared_and_not_the_best_of_each_image():
    """Independent shares of 0.6, 0.5 and 0.4: the others' maximum image by image would be 0.7."""
    # Every combination of outcomes, as often as independence makes it: 400 images.
    draws = np.tile(np.indices((2, 5, 5)).reshape(3, -1).T, (8, 1))
    effects = pd.DataFrame(draws < [1, 2, 3], columns=SAMS).astype(float)
    table = table_of({("gradcam++", name): hits for name, hits in effects.items()})
    found = faithfulness(table, "sam3")
    apart = [
        statistics.paired(effects[one] - effects[other])
        for one, other in (("sam3", "mobilesam"), ("sam3", "sam2"), ("sam2", "mobilesam"))
    ]
    for name, value, ends in (
        ("sam3-deletion-best", 0.1, apart[0]),
        ("sam3-insertion-best", 0.1, apart[0]),
        ("sam2-deletion-worst", -0.1, apart[2]),
    ):
        finding = found[f"object-{name}"]
        measured = finding.value, finding.low, finding.high
        assert measured == pytest.approx((value, ends.low, ends.high))
        known = claims.claims()[f"object-{name}"]
        assert claims.verdict(known, finding) == "reproduced on GeoScenes"
    assert (apart[0].low, apart[0].high) < (apart[1].low, apart[1].high)


def kept(n_segments, coverage):
    """Stands in for an extracted image."""
    return SimpleNamespace(segments=range(n_segments), elements=SimpleNamespace(coverage=coverage))


@pytest.mark.parametrize("missing", SAMS)
def test_sams_are_judged_only_when_all_are_there(missing):
    names = [name for name in SAMS if name != missing]
    found = faithfulness(outcomes(True, [("gradcam++", n) for n in ("felzenszwalb", *names)]))
    judged = ("sam3-deletion-best", "sam3-insertion-best", "sam2-deletion-worst")
    assert {found[f"object-{name}"] for name in judged} == {None}
    segments = findings.segments({n: [kept(4, 0.1), kept(8, 0.3)] for n in names}, "GeoScenes")
    assert len(segments) == 4 and not any(segments.values())


def test_segments_are_compared_by_their_means():
    images = {
        "mobilesam": [kept(10, 0.2), kept(30, 0.3)],
        "sam2": [kept(4, 0.1), kept(8, 0.1)],
        "sam3": [kept(50, 0.4), kept(20, 0.4)],
        "grid": [kept(1, 0.9), kept(99, 0.9)],
    }
    found = findings.segments(images, "GeoScenes")
    values = {name: finding.value for name, finding in found.items() if finding}
    numbers = {"sam2-few": 6 - 20, "sam3-many": 35 - 20}  # 35 with SAM 3, the larger
    numbers |= {"sam2-coverage": 0.1 - 0.25, "sam3-coverage": 0.4 - 0.25}
    assert values == pytest.approx({f"object-{name}": value for name, value in numbers.items()})
    few = found["object-sam2-few"]
    # −6 and −22: of two images either sign could have come.
    assert (few.low, few.high, few.data) == (-28, 0, "GeoScenes, 2 images")


def test_elements_are_counted_over_images(monkeypatch):
    marks = {
        1: (["one object", "part"], [True, False], ["sign", "car"]),
        2: (["shapeless"], [False], [None]),
        3: (["part", "part", "part"], [False, True, True], ["sign", "sign", "sign"]),
        4: ([], [], []),
    }
    images = [SimpleNamespace(number=n, elements=range(len(marks[n][0]))) for n in marks]

    def mark(one):
        columns = ("kind", "overlapping", "category")
        return pd.DataFrame(dict(zip(columns, marks[one.number], strict=True)))

    monkeypatch.setattr(elements, "has_truth", lambda extracted: True)
    monkeypatch.setattr(elements, "mark_elements", mark)
    spread = pd.DataFrame({"match": [0.2, 0.4, 0.3, 0.3]})
    monkeypatch.setattr(elements, "spread", lambda extracted: spread)
    found = findings.elements(images, "GeoScenes")
    values = {name: finding.value for name, finding in found.items() if finding}
    shares = {"overlap": 3 / 6, "part": 4 / 6, "shapeless": 1 / 6, "diverse": 4 / 5, "diffuse": 0.3}
    assert values == pytest.approx({f"object-{name}": share for name, share in shares.items()})
    assert found["object-part"].data == "GeoScenes, 6 elements, 3 images"
    assert found["object-diverse"].n == 2, "one image shows no object"
    # Of photographs the outlines are not known.
    monkeypatch.undo()
    photograph = SimpleNamespace(item=SimpleNamespace(scene=None), elements=range(3))
    assert set(findings.elements([photograph], "photographs of a folder").values()) == {None}


def test_accuracies_are_per_cent_and_belong_to_their_photographs():
    row = {"value": 0.874, "low": 0.868, "high": 0.88, "n_images": 600.0}
    found = findings.accuracies({"test": row}, "OSV-5M")
    finding = found["object-accuracy-test"]
    assert (finding.low, finding.n) == (pytest.approx(86.8), 600)
    known = claims.claims()["object-accuracy-test"]
    assert claims.verdict(known, finding) == "reproduced on OSV-5M"
    scenes = findings.accuracies({"test": row}, "GeoScenes")["object-accuracy-test"]
    assert claims.verdict(known, scenes) == "not testable here"


def test_one_image_has_no_interval_and_only_scenes_are_called_scenes():
    for values in ([], [0.3]):
        assert findings.mean(values, "GeoScenes") is None
        assert findings.over_images(lambda chosen: 1.0, len(values), "GeoScenes") is None
    names = {"geoscenes": "GeoScenes", "osv5m": "OSV-5M", "folder": "photographs of a folder"}
    assert {dataset: findings.dataset_name(dataset) for dataset in names} == names
