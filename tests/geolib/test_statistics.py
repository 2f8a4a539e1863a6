"""Statistics, against hand-worked tables, exact enumeration and closed forms."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from geolib import statistics
from geolib.statistics import (
    accuracy_interval,
    advantages,
    against_layouts,
    choose,
    compare,
    detectable_effect,
    holm,
    interval,
    paired,
    two_way,
)

CURVE = ["top_p", "s_min", "insertion_advantage", "coverage", "kept"]


def outcomes(*images, attribution="gradcam", test="insertion", copies=1):
    """An outcome table: one (guided, [random repeats]) pair of 0 or 1 per image."""
    rows = [
        (f"i{index}", region, repeat, value)
        for index, (guided, repeats) in enumerate(images)
        for region, values in (("guided", [guided]), ("random", repeats * copies))
        for repeat, value in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["image_id", "region", "repeat", "value"])
    guided, value = table["region"] == "guided", table.pop("value")
    table["coverage"] = np.where(guided, 0.2, 0.205)
    table["coverage_gap"] = np.where(guided, 0, 0.005)
    table = table.assign(attribution=attribution, segmenter="grid", fill="mean", test=test)
    table = table.assign(n_elements=2, correct=value == 1, agrees=value == 0)
    probability = 0.25 + value / 2
    return table.assign(probability=probability, log_probability=np.log(probability))


def drawn(n, seed=0, guided=0.8, random=0.5, **names):
    """Outcomes of n images with the given rates of correct predictions, ten repeats each."""
    rng = np.random.default_rng(seed)
    guided_right, random_right = rng.random(n) < guided, rng.random((n, 10)) < random
    return outcomes(*zip(guided_right, random_right.tolist(), strict=True), **names)


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("insertion", [0.75, -0.5, 0.0]),  # g − r̄ per image: 1 − 1/4, 0 − 1/2, 1 − 1
        ("deletion", [-0.75, 0.5, 0.0]),  # r̄ − g: the signs are turned round
    ],
)
def test_advantage_by_hand(test, expected):
    table = outcomes((1, [0, 0, 1, 0]), (0, [1, 0, 1, 0]), (1, [1, 1, 1, 1]), test=test)
    per_image = advantages(table)
    rates = per_image[["image_id", "guided", "random"]].to_numpy().tolist()
    assert rates == [["i0", 1, 0.25], ["i1", 0, 0.5], ["i2", 1, 1]]
    sign = 1 if test == "insertion" else -1
    assert per_image["layouts"][1] == tuple(sign * np.array([0, 1, 0, 1, 0]))
    assert per_image["advantage"].tolist() == expected
    # What one step is: log 3 = log(3/4) − log(1/4).
    steps = {"agreement": -1, "probability": 1 / 2, "log_probability": np.log(3)}
    for metric, step in steps.items():
        found = advantages(table, metric=metric)["advantage"]
        np.testing.assert_allclose(found, step * np.array(expected), atol=1e-12)


def test_other_regions_do_not_enter_and_controls_can_be_the_baseline():
    table = outcomes((1, [0, 0]), (1, [0, 1]))
    other = table[table["region"] == "guided"].assign(correct=False)
    names = ("original", "element", "torus")
    mixed = pd.concat([table, *(other.assign(region=name) for name in names)])
    pd.testing.assert_frame_equal(advantages(mixed), advantages(table))
    assert advantages(mixed, baseline="torus")["advantage"].tolist() == [1, 1]


def test_bootstrap_is_close_to_the_t_interval_of_a_normal_sample():
    values = np.random.default_rng(0).normal(0.3, 1.0, 400)
    found = interval(values)
    expected = stats.t.interval(0.95, 399, loc=values.mean(), scale=stats.sem(values))
    assert found.method == "BCa"
    assert found.mean == pytest.approx(values.mean())
    # The width is 0.2; bootstrap noise with 9,999 samples is about 0.002.
    assert found[1:3] == pytest.approx(expected, abs=0.01)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    skewed = np.random.default_rng(0).random((300, 40)) < 0.3
    hits = [one.low <= 0.3 <= one.high for one in (interval(row, 0.8, 299) for row in skewed)]
    # Binomial(300, 0.8) lies in 218…261 with probability 0.998.
    assert 218 <= sum(hits) <= 261


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.25] * 6, (0.25, 0.25, 0.25, "percentile")),
        ([0.0] * 2, (0.0, 0.0, 0.0, "percentile")),
        ([0.5], (0.5, np.nan, np.nan, "undefined")),
        ([], (np.nan, np.nan, np.nan, "undefined")),
    ],
)
def test_undefined_bootstraps_fall_back_and_say_so(values, expected):
    found = interval(values)
    np.testing.assert_equal(found[:3], expected[:3])
    assert found.method == expected[3]


def test_wilson_interval_by_hand():
    # 8 of 10 at z = 1.96: centre (0.8 + z²/20) / (1 + z²/10) = 0.7167, half-width 0.2265.
    found = accuracy_interval([True] * 8 + [False] * 2)
    assert found[:3] == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert found.method == "Wilson"
    # All correct: the interval still has a width, down to n / (n + z²).
    assert accuracy_interval([True] * 20).low == pytest.approx(20 / (20 + 1.959964**2))


def test_signs_are_flipped_in_every_way_or_at_random():
    values = np.random.default_rng(0).normal(0.2, 1, 80)
    expected = stats.ttest_1samp(values, 0).pvalue
    assert paired(values).p_value == pytest.approx(expected, abs=0.01)
    assert paired(np.zeros(9)).p_value == 1.0
    assert paired([0.7]).p_value == 1.0  # either sign is as extreme
    assert paired([1] * 8).p_value == paired([-1] * 8).p_value == 2 / 2**8


def test_holm_runs_over_the_methods_within_each_test():
    parts = [
        drawn(25, seed, guided, attribution=name, test=test)
        for seed, (name, guided) in enumerate([("a", 0.9), ("b", 0.75), ("c", 0.7)])
        for test in ("insertion", "deletion")
    ]
    table = compare(pd.concat(parts), n_resamples=999)
    for _, rows in table.groupby("test"):
        assert len(rows) == 3
        # Holm: the smallest p times 3, the next times 2, the largest times 1, never decreasing.
        p = rows["p_value"].sort_values()
        stepped = np.minimum(1, np.maximum.accumulate(p.to_numpy() * [3, 2, 1]))
        np.testing.assert_allclose(rows.loc[p.index, "p_holm"], stepped)
    assert (table["p_holm"] > table["p_value"]).any()


def test_comparison_is_of_images_not_of_rows():
    images = [(1, [0, 1, 0, 0, 1]), (0, [0, 1, 1, 0, 0]), (1, [1, 0, 0, 0, 0])] * 8
    once, copied = (compare(outcomes(*images, copies=copies)) for copies in (1, 20))
    # Twenty times the repeats carry no more information about images.
    widths = [table["ci_high"].item() - table["ci_low"].item() for table in (once, copied)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)
    assert once["advantage"].item() == pytest.approx(copied["advantage"].item())
    assert once["n_images"].item() == 24
    values = advantages(outcomes(*images))["advantage"]
    low, high = stats.t.interval(0.95, 23, loc=values.mean(), scale=stats.sem(values))
    assert once["ci_high"].item() - once["ci_low"].item() == pytest.approx(high - low, rel=0.15)


def test_comparison_by_hand():
    table = compare(outcomes((1, [0, 0]), (1, [0, 1]), (0, [0, 0]), (1, [1, 1])))
    row = table.iloc[0]
    names = ["attribution", "segmenter", "fill", "test", "interval"]
    assert row[names].tolist() == ["gradcam", "grid", "mean", "insertion", "BCa and label swap"]
    assert row[["guided", "random", "advantage"]].tolist() == [0.75, 0.375, 0.375]
    # Label by label the first image has 1, −½, −½, the second ½, −1, ½: 2 of 9 pairs reach 1 + ½.
    assert row[["p_value", "p_holm"]].tolist() == pytest.approx([4 / 9, 4 / 9])
    differences = [1, 0.5, 0, 0]
    assert row["detectable"] == pytest.approx(detectable_effect(differences))
    assert row[["coverage", "random_coverage"]].tolist() == pytest.approx([0.2, 0.205])
    assert row["ci_low"] <= 0.375 <= row["ci_high"]


def test_images_with_mismatched_coverage_are_left_out_of_the_matched_columns():
    table = outcomes((1, [0, 0]), (1, [0, 0]), (0, [1, 1]), (0, [0, 0]))
    # One bad repeat is enough; the sign of the gap does not matter; 1 pp itself is still matched.
    bad = (table["image_id"] == "i2") & (table["repeat"] == 1)
    table.loc[bad, "coverage_gap"] = -0.012
    edge = (table["image_id"] == "i0") & (table["region"] == "random")
    table.loc[edge, "coverage_gap"] = 0.36 - 0.35  # a hair more than 0.01 in floating point
    row = compare(table).iloc[0]
    counts = row[["advantage", "n_images", "n_matched"]].tolist()
    assert counts == [(1 + 1 - 1 + 0) / 4, 4, 3]
    assert row["advantage_matched"] == pytest.approx(2 / 3)
    assert row["ci_low_matched"] <= 2 / 3 <= row["ci_high_matched"]


def test_images_without_elements_are_counted_and_constant_advantages_name_the_fallback():
    table = outcomes(*[(1, [0, 0])] * 4)
    table.loc[table["image_id"] == "i2", ["n_elements", "coverage"]] = 0
    row = compare(table).iloc[0]
    assert row[["n_images", "rate_without_elements"]].tolist() == [4, 0.25]
    assert row["coverage"] == pytest.approx(0.15)
    bounds = row[["advantage", "ci_low", "ci_high", "interval"]].tolist()
    # Each image has 1, −½, −½. Of the 81 labellings two may lie beyond either end: the third from
    # above has one wrong label, (1 + 1 + 1 − ½) / 4, and the third from below none that is right.
    assert bounds == [1, 1 - 0.625, 1 + 0.5, "label swap"]


def test_order_of_rows_and_other_methods_change_nothing():
    a, b = drawn(30, 0, attribution="a"), drawn(30, 1, attribution="b", guided=0.6)
    together = compare(pd.concat([a, b]))
    shuffled = compare(pd.concat([a, b]).sample(frac=1, random_state=0))
    shuffled = shuffled.sort_values(["attribution", "test"], ignore_index=True)
    pd.testing.assert_frame_equal(together, shuffled, check_exact=False, rtol=1e-12)
    alone = compare(a).drop(columns="p_holm")
    pd.testing.assert_frame_equal(together.iloc[[0]].drop(columns="p_holm"), alone)


def test_seed_and_resamples_are_used():
    table = drawn(30, guided=0.6)

    def row(**options):
        return compare(table, **{"n_resamples": 299, **options}).iloc[0]

    assert row(seed=1)["ci_low"] == row(seed=1)["ci_low"]
    assert len({row(seed=seed)["p_value"] for seed in range(3)}) > 1
    assert len({row(n_resamples=count)["p_value"] for count in (99, 199)}) > 1
    wide, narrow = row(confidence=0.99), row(confidence=0.5)
    assert wide["ci_low"] < narrow["ci_low"] < narrow["ci_high"] < wide["ci_high"]


def test_an_effect_is_found():
    # An effect of 0.3 on 100 images is found.
    found = compare(drawn(100, guided=0.8, random=0.5), n_resamples=999).iloc[0]
    assert found["ci_low"] > 0
    assert found["p_value"] <= 0.002


@pytest.mark.parametrize(
    ("rows", "expected", "within"),
    [  # insertion advantage, coverage, kept
        # The best advantage covers too much, the next one leaves images empty.
        ([(0.9, 0.3, 1), (0.8, 0.1, 0.9), (0.3, 0.25, 0.95), (0.2, 0.1, 1)], 2, True),
        ([(0.3, 0.2, 1), (0.3, 0.1, 1), (0.2, 0.05, 1)], 1, True),  # equal: the smaller coverage
        ([(0.3, 0.2, 1), (0.3, 0.2, 1)], 0, True),  # equal in both: the first
        # Nothing within both bounds: elements in enough images, then the smallest coverage.
        ([(0.9, 0.1, 0.9), (0.3, 0.5, 1), (0.1, 0.4, 0.96)], 2, False),
        ([(0.9, 0.1, 0.5), (0.1, 0.5, 0.9), (0.3, 0.4, 0.9)], 2, False),
        # A setting without an advantage cannot be chosen.
        ([(np.nan, 0.1, 1), (-0.1, 0.2, 1)], 1, True),
    ],
)
def test_choice_by_hand(rows, expected, within):
    settings = [(0.1 * i, 0.2, *row) for i, row in enumerate(rows)]
    curve = pd.DataFrame(settings, columns=CURVE, dtype=float)
    wanted = {**dict(zip(CURVE, settings[expected], strict=True)), "within": within}
    assert choose(curve) == wanted
    # Another bound: every curve scaled to it chooses the same setting.
    scaled = choose(curve.assign(coverage=curve["coverage"] * 2), max_coverage=0.5)
    assert scaled == {**wanted, "coverage": 2 * wanted["coverage"]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: compare(t, metric="f1"), "metric='f1' is unknown; known: accuracy, agreement"),
        (lambda t: compare(t, baseline="torus"), "no region 'torus'; known: guided, random"),
        (lambda t: compare(t.drop(columns="correct")), r"lacks the columns \['correct'\]"),
        (lambda t: compare(t, by=["model"]), r"lacks the columns \['model'\]"),
        (lambda t: compare(pd.concat([t, t]), by=["attribution"]), "several guided rows"),
        (lambda t: compare(t.drop([1, 2])), "only one of guided and random for .*'i0'"),
        (lambda t: compare(t, confidence=95), "confidence=95"),
        (lambda t: interval([0.1, np.nan]), "expected finite values"),
        (lambda t: interval([[0.1]]), r"values has shape \(1, 1\)"),
        (lambda t: two_way([0.1, 0.2]), r"shape \(2,\); expected finite values \[networks, images"),
        (lambda t: two_way([[0.1, np.nan]]), r"shape \(1, 2\); expected finite values"),
        (lambda t: against_layouts([[1, 0], [1]]), "an image without a guided value, or"),
        (lambda t: against_layouts([[np.nan, 0, 1]]), "an image without a guided value, or"),
        (lambda t: accuracy_interval([]), r"correct has shape \(0,\)"),
        (lambda t: choose(pd.DataFrame({"top_p": [0.1]})), "curve lacks the columns"),
        (lambda t: choose(pd.DataFrame(columns=CURVE, dtype=float)), "curve has no setting"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(outcomes((1, [0, 1]), (0, [0, 0])))


@pytest.mark.parametrize("n", [3, 12, 84, 120])
def test_detectable_effect_has_the_power_that_was_asked_for(n):
    """The power of a t-test from the noncentral t distribution, at the effect that was found."""
    values = np.random.default_rng(n).normal(0.3, 2.0, n)
    effect = detectable_effect(values)
    shift = effect / values.std(ddof=1) * np.sqrt(n)
    cut = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(cut, n - 1, shift) + stats.nct.cdf(-cut, n - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_detectable_effect_is_in_the_unit_of_the_differences_and_undefined_without_spread():
    values = np.array([0.0, 0.1, 0.3, -0.2, 0.5])
    assert detectable_effect(10 * values) == pytest.approx(10 * detectable_effect(values))
    assert detectable_effect(values + 3) == pytest.approx(detectable_effect(values))
    assert detectable_effect(np.tile(values, 4)) < detectable_effect(values) / 2
    assert np.isnan(detectable_effect([0.1] * 3))  # their mean is not quite 0.1 in floating point
    assert np.isnan(detectable_effect([0.4]))
    assert detectable_effect([0.0, 0.0, 1.0]) > 0


def test_paired_differences_are_layouts_in_pairs():
    values = np.random.default_rng(1).normal(0.2, 1, 30)
    found, bootstrap = paired(values), interval(values)
    shifted = np.stack([values + 3, np.full(30, 3.0)], axis=1)
    assert found == pytest.approx(against_layouts(shifted))
    assert found[0] == pytest.approx(values.mean())
    assert found.low <= bootstrap.low < bootstrap.high <= found.high
    assert found[4:] == (detectable_effect(values), 30)
    # Of little skew, the sign flips ask for no more than the bootstrap has.
    assert found.high - found.low == pytest.approx(bootstrap.high - bootstrap.low, rel=0.1)
    assert paired(-values).p_value == pytest.approx(found.p_value, abs=0.02)
    assert np.isnan(paired([])[:5]).all() and paired([]).n_images == 0


def every_labelling(layouts):
    """Mean difference of the guided layout from the others, for all that could be called guided."""
    differences = [[v - (sum(row) - v) / (len(row) - 1) for v in row] for row in layouts]
    return np.array([np.mean(chosen) for chosen in product(*differences)])


VALUES = st.integers(-2, 2).map(float)
LAYOUTS = st.lists(st.lists(VALUES, min_size=2, max_size=5), min_size=2, max_size=5)


@given(LAYOUTS)
def test_labels_are_swapped_in_every_way(layouts):
    found, null = against_layouts(layouts, n_resamples=5**5), every_labelling(layouts)
    observed = null[0]  # the first of each image
    above, below = np.mean(null >= observed - 1e-9), np.mean(null <= observed + 1e-9)
    assert found.difference == pytest.approx(observed)
    assert found.p_value == pytest.approx(min(1, 2 * min(above, below)))
    # Above zero only if the one-sided test rejects at 2.5 %, and never the other way round.
    assert found.low <= 1e-9 or above <= 0.025
    assert found.high >= -1e-9 or below <= 0.025
    inner = interval([row[0] - np.mean(row[1:]) for row in layouts], n_resamples=5**5)
    assert found.low <= inner.low + 1e-9 and found.high >= inner.high - 1e-9


@given(LAYOUTS, st.randoms(), st.integers(-3, 3))
def test_order_and_level_of_layouts_play_no_part(layouts, random, level):
    def shuffled(row):
        return [row[0] + level, *random.sample([v + level for v in row[1:]], len(row) - 1)]

    rows = [shuffled(row) for row in layouts]
    padded = [[*row, *[np.nan] * (5 - len(row))] for row in random.sample(rows, len(rows))]
    for n_resamples in (9, 5**5):  # drawn at random, and in every way
        one, other = (against_layouts(some, 0.9, n_resamples) for some in (layouts, padded))
        assert one == pytest.approx(other, nan_ok=True, abs=1e-9)


FEW = 39  # draws: with the observed one forty, of which one may lie beyond an end


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("n", [20, 30, 84, 150])
def test_an_advantage_is_not_found_where_there_is_none(n, rate):
    """A guided layout like the ten random ones, of images all alike and of easy and hard ones: the
    interval lies above zero in at most 3 % of 2,000 samples."""
    rng = np.random.default_rng([n, round(100 * rate)])
    rates = np.full((2000, n, 1), rate)
    rates[::2] = rng.beta(8 * rate, 8 * (1 - rate), (1000, n, 1))
    tables = (rng.random((2000, n, 11)) < rates).astype(float)
    sizes = np.full(n, 11)
    fired = []
    for seed, table in enumerate(tables):
        differences = (table - table.mean(axis=1, keepdims=True)) * 11 / 10
        null = statistics._label_swaps(differences, sizes, FEW, seed)
        fired.append(round(differences[:, 0].mean(), 12) > null[-2])
    assert np.mean(fired) <= 0.03
    assert np.mean(fired) >= 0.005 or rate > 0.5, "what is never found shows nothing"
    # The interval lies above zero at most where the test fires.
    chosen = [*np.flatnonzero(fired)[:20], *np.flatnonzero(~np.array(fired))[:20]]
    above = [against_layouts(tables[i], n_resamples=FEW, seed=int(i)).low > 0 for i in chosen]
    assert (np.array(above) <= np.array(fired)[chosen]).all()


def test_networks_and_images_both_count():
    rng = np.random.default_rng(0)
    networks, images = rng.normal(0, 0.3, (40, 1)), rng.normal(0.5, 1, (1, 60))
    found = two_way(networks + images)
    # Parts that add up: the variance of either mean, and a normal distribution of their sum.
    deviation = np.sqrt(networks.var() / 40 + images.var() / 60)
    assert found.mean == pytest.approx(networks.mean() + images.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.05)
    # What a network makes of single images counts up to three times, and never less than once.
    noise = rng.normal(0, 1, (40, 60))
    single = 2 * 1.96 * noise.std() / np.sqrt(40 * 60)
    spread = two_way(noise)
    assert single < spread.high - spread.low < 1.1 * np.sqrt(3) * single


def test_networks_that_agree_add_nothing_and_their_order_plays_no_part():
    images = np.random.default_rng(0).normal(0.2, 1, 80)
    one, same = two_way(images[None]), two_way(np.tile(images, (3, 1)))
    assert one == interval(images)
    assert same[:3] == pytest.approx(one[:3], abs=0.02) and same.method == "pigeonhole"
    apart = np.add.outer([-1, 0, 1], images)
    assert two_way(apart).high - two_way(apart).low > 2 * (same.high - same.low)
    shuffled = apart[[2, 0, 1]][:, np.random.default_rng(1).permutation(80)]
    assert two_way(shuffled) == pytest.approx(two_way(apart), abs=1e-9)


def test_holm_by_hand():
    # Smallest first: 3 × .01, then 2 × .03, then the larger of .06 and 1 × .04.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert holm([]).size == 0
    # What was not tested counts for nothing.
    wanted = pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.01, np.nan, 0.04, 0.03]) == wanted
    assert np.isnan(holm([np.nan])).all()
