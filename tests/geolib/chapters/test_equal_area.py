"""Regions that grow, their areas and rankings: orders and curves by hand, planted leads."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from toys import classifier as oracle
from toys import write_photographs

from geolib import data, statistics
from geolib.book.claims import MIN_N, Finding
from geolib.chapters import equal_area
from geolib.masks import box_region
from geolib.pipeline.shards import EvaluationConfig

pytestmark = pytest.mark.usefixtures("own_cache")


def test_pixels_join_box_by_box_then_by_distance():
    # The first box grows from its middle, 2, to 1 and 3; the second has only 0 left; then 4, 5.
    two = np.array([[1, 0, 4, 1], [0, 0, 2, 1]])
    assert equal_area.pixel_order(two, (1, 6)).tolist() == [[3, 1, 0, 2, 4, 5]]
    assert equal_area.pixel_order(two[:0], (1, 5)).tolist() == [[3, 1, 0, 2, 4]]


def test_with_outlines_what_boxes_hold_beside_them_waits():
    masks = np.array([[[1, 0, 1, 1, 0, 0]], [[0, 0, 0, 0, 1, 1]]], bool)
    boxes = np.array([[0, 0, 4, 1], [4, 0, 6, 1]])
    # Of the first box its middle, 2, before 0 and 3, which are as far out; then the second; then 1.
    assert equal_area.pixel_order(boxes, (1, 6), masks).tolist() == [[1, 5, 0, 2, 3, 4]]
    assert equal_area.pixel_order(boxes, (1, 6)).tolist() == [[2, 0, 1, 3, 4, 5]]


def test_pixels_of_a_map_join_by_their_height_then_by_distance():
    values = np.array([[0, 0, 0.2, 0.9, 0.5, 0]])
    assert equal_area.map_order(values).tolist() == [[5, 3, 2, 0, 1, 4]]
    assert equal_area.map_order(np.zeros((1, 5))).tolist() == [[3, 1, 0, 2, 4]]


def test_boxes_grow_with_their_proportions_nested_and_exact():
    order = equal_area.pixel_order(np.array([[0, 0, 8, 4]]), (4, 8))
    half = equal_area.nested_regions(order, [0.25])[0]
    np.testing.assert_array_equal(half, box_region([[2, 1, 6, 3]], (4, 8)))
    boxes = np.array([[2, 2, 7, 5], [4, 4, 12, 9], [0, 10, 3, 12]])
    order = equal_area.pixel_order(boxes, (12, 12))
    assert sorted(order.ravel()) == list(range(144))
    regions = equal_area.nested_regions(order, [0, 0.1, 0.35, 0.8, 1])
    assert regions.sum(axis=(1, 2)).tolist() == [0, 14, 50, 115, 144]
    assert all((small <= large).all() for small, large in pairwise(regions))


SPOT = box_region([(4, 4, 8, 8)], (12, 12))
ALL = np.ones((12, 12), bool)


def grown_outcomes(matters, coverages=(0.0, 0.2, 0.5, 1.0)):
    """Outcomes of a network that sees what share of the pixels that matter is shown, and is surer
    of brighter images, for each segmenter's layout, which all images share."""
    rows = []
    for name, box in {"on": (4, 4, 8, 8), "off": (0, 0, 6, 3), "wide": (0, 0, 12, 7)}.items():
        grown = equal_area.nested_regions(equal_area.pixel_order([box], (12, 12)), coverages)
        regions = [("grown", one) for one in grown]
        regions += [("shifted", np.roll(one, 5, axis=1)) for one in grown]
        for region, mask in [*regions, ("guided", box_region([box], (12, 12)))]:
            for test, shown in {"deletion": ~mask, "insertion": mask}.items():
                for image, bright in enumerate((1, 0.9, 0.8, 0.7)):
                    seen = {"test": test, "probability": bright * shown[matters].mean()}
                    named = {"segmenter": name, "region": region, "image_id": str(image)}
                    rows.append(named | seen | {"coverage": mask.mean()})
    return pd.DataFrame(rows)


def test_curves_meet_at_their_ends_and_follow_coverage():
    wide = equal_area.curves(grown_outcomes(SPOT), "segmenter")["value"].unstack("segmenter")
    ends = wide[wide.index.get_level_values("coverage").isin([0.0, 1.0])]
    assert (ends.max(axis=1) - ends.min(axis=1)).max() < 1e-12
    deletion, insertion = (wide.loc[test, "grown"] for test in ("deletion", "insertion"))
    assert deletion["on"].is_monotonic_decreasing and insertion["on"].is_monotonic_increasing
    # The spot is 16 of 144 pixels: deleted by the first 20 %, before it is by the layout beside it.
    assert deletion.loc[29 / 144, "on"] == 0 < 0.7 < deletion.loc[29 / 144, "off"]


def test_areas_by_the_trapezoid_rule():
    table = grown_outcomes(SPOT)
    one = "segmenter == 'on' and image_id == '0' and test == 'insertion'"
    # All of the spot is shown from 29 of 144 pixels on: up to there a triangle, then a rectangle.
    by_hand = 29 / 144 / 2 + 0.3 - 29 / 144
    found = equal_area.areas(table, "segmenter")
    assert found.query(one)["area"].tolist() == pytest.approx([by_hand / 0.3])
    renamed = equal_area.areas(table.rename(columns={"segmenter": "attribution"}), "attribution")
    assert renamed.rename(columns={"attribution": "segmenter"}).equals(found)


def planted(leads, missing=(), n=40, seed=0):
    """Areas of both tests: what images share, a method's lead, and a little noise of its own."""
    rng = np.random.default_rng(seed)
    images = [str(image) for image in range(n)]
    shared = pd.Series(rng.normal(0.5, 0.3, n), images)
    found = []
    for test, sign in equal_area.SIGNS.items():
        for name, lead in leads.items():
            area = shared + sign * (lead + rng.normal(0, 0.02, n))
            rows = pd.DataFrame({"image_id": images, "area": area, "test": test})
            found.append(rows.assign(attribution=name)[: n // 4 if name in missing else n])
    return pd.concat(found, ignore_index=True)


def ranked(per_image):
    compared = equal_area.pairs(per_image, "attribution")
    return equal_area.ranking(per_image, compared, "attribution")


def test_the_ranking_is_paired_and_of_common_images():
    """Images differ by 0.3 and methods by 0.1: only a paired comparison tells these apart."""
    per_image = planted({"low": 0.0, "best": 0.2, "costly": 0.1, "mid": 0.1}, missing=["costly"])
    ranking = ranked(per_image)
    for test, sign in equal_area.SIGNS.items():
        found = ranking.loc[test]
        assert (found.index[0], found.index[-1]) == ("best", "low")
        assert found["images"].to_dict() == {"low": 40, "best": 40, "costly": 10, "mid": 40}
        assert found.loc["best", ["behind", "p_holm", "detectable"]].isna().all()
        wide = per_image[per_image["test"] == test].pivot(
            index="image_id", columns="attribution", values="area"
        )
        behind = (sign * (wide["best"] - wide["costly"])).dropna()
        expected = statistics.paired(behind)
        row = found.loc["costly"]
        assert (row["behind"], row["behind_low"]) == (expected.difference, expected.low)
        assert (row["detectable"], row["n"]) == (expected.detectable, 10)
        assert (found["p_holm"].dropna() < 0.05).all() and (found["behind_low"].dropna() > 0).all()


def test_holm_runs_over_all_pairs_and_every_pair_has_its_mirror():
    per_image = planted({"a": 0.0, "b": 0.004, "c": 0.009}, missing=["c"])
    found = equal_area.pairs(per_image, "attribution").set_index(["test", "one", "other"])
    for test, sign in equal_area.SIGNS.items():
        wide = sign * per_image[per_image["test"] == test].pivot(
            index="image_id", columns="attribution", values="area"
        )
        two = [("a", "b"), ("a", "c"), ("b", "c")]
        apart = [(wide[one] - wide[other]).dropna() for one, other in two]
        forth = found.loc[[(test, *names) for names in two]]
        assert forth["difference"].tolist() == pytest.approx([one.mean() for one in apart])
        known = statistics.holm([statistics.paired(one).p_value for one in apart])
        assert forth["p_holm"].tolist() == known.tolist()
        back = found.loc[[(test, other, one) for one, other in two]]
        assert back["difference"].tolist() == (-forth["difference"]).tolist()
        assert back["low"].tolist() == (-forth["high"]).tolist()
        assert back["p_holm"].tolist() == forth["p_holm"].tolist()


def test_a_ranking_of_one():
    found = ranked(planted({"a": 0.1}))
    assert found["images"].tolist() == [40, 40] and found["behind"].isna().all()


def test_the_sentence_tells_methods_from_the_best_blind_map():
    leads = {"sees": 0.2, "level": 0.1, "behind": 0.0, "random": 0.05, "edges": 0.1}
    few = equal_area.pairs(planted(leads, n=MIN_N - 1), "attribution")
    assert "etter" not in equal_area.sentence(few, ("random", "edges"))
    compared = equal_area.pairs(planted(leads, n=MIN_N), "attribution")
    said = equal_area.sentence(compared, ("random", "edges"))
    for test in ("Deletion", "Insertion"):
        assert (
            f"**{test}.** Better than the best blind map, `edges`: `sees`; not told from `edges`: "
            "`level`; worse than `edges`: `behind`."
        ) in said
    assert "It takes a method" in equal_area.sentence(compared, ())


def test_segments_are_held_against_the_bare_region_image_by_image():
    leads = {"felzenszwalb": 0.15, "none": 0.1, "grid": 0.3}
    per_image = planted(leads, n=MIN_N).rename(columns={"attribution": "segmenter"})
    found = equal_area.segmented(per_image, "felzenszwalb", "toys")
    for test, sign in equal_area.SIGNS.items():
        wide = per_image[per_image["test"] == test].pivot(
            index="image_id", columns="segmenter", values="area"
        )
        finding = found[f"object-segmented-{test}"]
        expected = sign * (wide["felzenszwalb"] - wide["none"])
        assert finding.value == pytest.approx(expected.mean()) == pytest.approx(0.05, abs=0.01)
        assert finding.low > 0 and finding.n == MIN_N
    said = equal_area.segmented_sentence(found)
    assert said.count("they do better, +0.0") == 2
    for segmenter in ("slic", "none"):
        nothing = equal_area.segmented(per_image, segmenter, "toys")
        assert set(nothing.values()) == {None}
        assert "not compared" in equal_area.segmented_sentence(nothing)


@pytest.mark.parametrize(
    ("low", "high", "n", "said"),
    [
        (-0.2, -0.1, MIN_N, "do worse"),
        (-0.1, 0.1, MIN_N, "are not told from it"),
        (0.1, 0.2, MIN_N, "do better"),
        (0.1, 0.2, MIN_N - 1, "are not told from it"),
    ],
)
def test_the_sentence_follows_the_interval(low, high, n, said):
    one = Finding(value=(low + high) / 2, low=low, high=high, n=n, data="toys")
    found = {f"object-segmented-{test}": one for test in equal_area.SIGNS}
    assert equal_area.segmented_sentence(found).count(said) == 2


EXPLAINS = "object-coverage-explains-deletion"


def test_coverage_explains_everything_where_nothing_else_matters():
    coverages = tuple(np.linspace(0, 1, 37))  # so fine that lines between them are nearly exact
    own = equal_area.by_coverage_alone(grown_outcomes(ALL, coverages))
    np.testing.assert_allclose(own["reached"], own["expected"], atol=1e-3)
    for found in equal_area.explained(own, "toys").values():
        assert found.value > 0.99 and found.low > 0.99
    # With the spot at stake, the widest region is not the one that matters.
    own = equal_area.by_coverage_alone(grown_outcomes(SPOT, coverages))
    assert max(found.value for found in equal_area.explained(own, "toys").values()) < 0.5


@pytest.mark.filterwarnings("ignore::scipy.stats.DegenerateDataWarning")
def test_coverage_explains_nothing_where_curves_are_flat():
    """Segmenters that differ, each by the same amount at every coverage: a share of zero."""
    flat = pd.DataFrame({"segmenter": ["a", "b", "c"], "probability": [0.1, 0.5, 0.9]})
    images = flat.assign(test="deletion").merge(pd.DataFrame({"image_id": ["x", "y"]}), "cross")
    shares = pd.DataFrame({"region": "grown", "coverage": [0.0, 0.5, 1.0]})
    owned = images["segmenter"].map({"a": 0.2, "b": 0.4, "c": 0.7})
    table = pd.concat(
        [images.merge(shares, "cross"), images.assign(region="guided", coverage=owned)]
    )
    own = equal_area.by_coverage_alone(table)
    assert own["expected"].tolist() == pytest.approx([0.5] * 6)
    found = equal_area.explained(own, "toys")[EXPLAINS]
    assert found.value == pytest.approx(0)
    assert (found.n, found.data) == (2, "toys, 2 images")
    assert equal_area.explained(own.assign(reached=0.5), "toys")[EXPLAINS] is None


def test_share_explained_by_hand():
    one = pd.DataFrame({"segmenter": list("abc"), "reached": [1, 2, 3], "expected": [1.5, 2, 2.5]})
    table = pd.concat(one.assign(test="deletion", image_id=name) for name in "xy")
    # Squares left: 0.25 + 0 + 0.25 of 1 + 0 + 1. What all segmenters share is no difference.
    for shared in (0, 3):
        more = equal_area.explained(table.assign(expected=table["expected"] + shared), "toys")
        assert more[EXPLAINS].value == pytest.approx(0.75)


def test_responses_of_a_network_whose_cause_is_known(tmp_path):
    write_photographs(tmp_path / "photos", 2)
    photographs = data.load("folder", "all", root=tmp_path / "photos")
    few = photographs.subset(range(1))
    experiment = SimpleNamespace(
        classifier=oracle(),
        compared_with=lambda method: few if method == "layercam" else photographs,
    )
    ours = EvaluationConfig(
        attribution="gradcam", segmenter="felzenszwalb", top_p=0.12, s_min=0.3, repeats=2
    )
    ways = {"ours": ours, "bare": ours.model_copy(update={"segmenter": "none"})}
    ways["few"] = ours.model_copy(update={"attribution": "layercam"})
    table = equal_area.responses(
        experiment, ways, "segmenter", "ours", coverages=(0.0, 0.2, 0.6, 1.0)
    )
    curves = equal_area.curves(table, "segmenter")["value"]
    whole = curves["deletion", "grown", "ours"].iloc[0]
    assert whole > 0.9
    # The cause is 16² of 48² pixels, 11 %, the best element and the map's highest pixels: gone
    # within the first fifth. Elsewhere it takes more.
    for name in ways:
        grown = curves["deletion", "grown", name]
        assert grown.index.tolist() == pytest.approx((0.0, 0.2, 0.6, 1.0), abs=1e-3)
        assert grown.iloc[1:].tolist() == pytest.approx([0.5] * 3)
        if name != "few":
            assert curves["insertion", "grown", name].iloc[1] == pytest.approx(whole)
    assert curves["insertion", "shifted", "ours"].iloc[1] < whole
    assert set(table[table["region"] == "shifted"]["segmenter"]) == {"ours"}
    own = equal_area.by_coverage_alone(table).set_index(["segmenter", "test"])
    assert own.loc[("ours", "deletion"), "reached"].tolist() == pytest.approx([0.5] * 4)
    assert len(own.loc[[("few", "deletion")]]) == 1
    # Its own elements are those of the pipeline itself, s_min applied.
    assert own.loc[("ours", "deletion"), "coverage"].max() < 0.3
    # Regions do not depend on the thresholds, and over outlines they find the cause as well.
    other = {"ours": ours.model_copy(update={"top_p": 0.05, "s_min": 0.9})}
    again = equal_area.responses(experiment, other, "segmenter", coverages=(0.0, 0.2, 0.6, 1.0))
    same = equal_area.curves(again, "segmenter")["value"]["deletion", "grown", "ours"]
    assert same.tolist() == curves["deletion", "grown", "ours"].tolist()
    drawn = equal_area.responses(
        experiment, other, "segmenter", outlines=True, coverages=(0.0, 0.2, 0.6, 1.0)
    )
    drawn = equal_area.curves(drawn, "segmenter")["value"]["deletion", "grown", "ours"]
    assert drawn.iloc[1:].tolist() == pytest.approx([0.5] * 3)
    figure = equal_area.coverage_response(table, "segmenter")
    assert sorted(axis.get_title() for axis in figure.axes) == sorted(ways)
