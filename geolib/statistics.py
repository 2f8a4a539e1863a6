"""Advantage of guided over random regions, with intervals and tests over images (§5)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from geolib.scoring import check_choice

# What is compared, and the column of the outcome table that holds it.
METRICS = {
    "accuracy": "correct",
    "agreement": "agrees",
    "probability": "probability",
    "log_probability": "log_probability",
}
BY = ("attribution", "segmenter", "fill")

# Resampled values held at once: bounds the memory of a bootstrap over many images.
CHUNK = 4_000_000


class Interval(NamedTuple):
    """A mean, its confidence interval, and how the interval was made."""

    mean: float
    low: float
    high: float
    method: str


def interval(
    values: ArrayLike, confidence: float = 0.95, n_resamples: int = 9999, seed: int = 0
) -> Interval:
    """Bootstrap interval of a mean: BCa (Efron 1987), or percentile where that is undefined.

    Parameters
    ----------
    values : [n], one independent value per image; their order plays no part.
    confidence : level, between 0 and 1.
    n_resamples, seed : number of bootstrap samples, and of which draw.

    Returns
    -------
    Interval; its method is "percentile" on constant data, and "undefined" (its bounds NaN) for
    fewer than two values.

    Raises
    ------
    ValueError : for values that are not finite or not [n], or a level outside 0…1.
    """
    from scipy import stats  # a second to import

    tails = _tails(confidence)
    sample = np.sort(np.asarray(values, dtype=float))
    if sample.ndim != 1 or not np.isfinite(sample).all():
        raise ValueError(f"values has shape {sample.shape}; expected finite values [n]")
    if len(sample) < 2:
        return Interval(float(sample.sum()) if sample.size else np.nan, np.nan, np.nan, "undefined")
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (sample,),
            _mean,
            confidence_level=confidence,
            n_resamples=n_resamples,
            batch=max(1, CHUNK // len(sample)),
            rng=np.random.default_rng(seed),
        )
    ends, method = np.array(found.confidence_interval), "BCa"
    if not np.isfinite(ends).all() or np.ptp(sample) == 0:
        ends, method = np.quantile(found.bootstrap_distribution, tails), "percentile"
    return Interval(float(sample.mean()), float(ends[0]), float(ends[1]), method)


def _tails(confidence: float) -> list[float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; expected a level between 0 and 1, like 0.95")
    return [(1 - confidence) / 2, (1 + confidence) / 2]


def _mean(samples: np.ndarray, axis: int) -> np.ndarray:
    """Means, rounded: those of equal samples in another order are to count as equal."""
    return np.round(samples.mean(axis=axis), 12)


def two_way(
    values: ArrayLike, confidence: float = 0.95, n_resamples: int = 9999, seed: int = 0
) -> Interval:
    """Interval of a mean over networks and images: the pigeonhole bootstrap (Owen 2007).

    Networks and images are both drawn with replacement, and each drawn image counts for every drawn
    network; the ends are percentiles. With the parts a of networks and b of images alone the
    variance is var(a) / networks + var(b) / images; what a network makes of single images comes on
    top, up to three times.

    Three networks tell whether the value hangs on the training, not how far a fourth could be off:
    drawn from three, their share of the variance comes out a third too small, and of one draw in
    nine all three are the same. One network says nothing of the training; the interval is then that
    of `interval`, over images.

    Parameters
    ----------
    values : [networks, images], all there; neither order plays a part.
    confidence, n_resamples, seed : see `interval`.

    Raises
    ------
    ValueError : for values that are not finite or not [networks, images], or a level outside 0…1.
    """
    tails, table = _tails(confidence), np.asarray(values, dtype=float)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(
            f"values has shape {table.shape}; expected finite values [networks, images]"
        )
    if len(table) == 1:
        return interval(table[0], confidence, n_resamples, seed)
    table = table[np.lexsort(np.sort(table, axis=1).T[::-1])]
    table = table[:, np.lexsort(table[::-1])]
    rng, step = np.random.default_rng(seed), max(1, CHUNK // table.size)
    means = []
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        networks, images = (rng.integers(n, size=(size, n)) for n in table.shape)
        of_each = table.T[images].mean(axis=1)  # of the drawn images, for each network
        means.append(np.take_along_axis(of_each, networks, axis=1).mean(axis=1))
    low, high = np.quantile(np.round(np.concatenate(means), 12), tails)
    return Interval(float(table.mean()), float(low), float(high), "pigeonhole")


def accuracy_interval(correct: ArrayLike, confidence: float = 0.95) -> Interval:
    """Share of correct predictions, bool [n], one per image, with its Wilson interval."""
    from statsmodels.stats.proportion import proportion_confint  # a second to import

    hits = np.asarray(correct, dtype=bool)
    if hits.ndim != 1 or not hits.size:
        raise ValueError(f"correct has shape {hits.shape}; expected at least one value [n]")
    low, high = proportion_confint(hits.sum(), hits.size, alpha=1 - confidence, method="wilson")
    return Interval(float(hits.mean()), float(low), float(high), "Wilson")


def detectable_effect(differences: ArrayLike) -> float:
    """Smallest mean difference that a sample of this size and spread would have shown.

    A larger true difference would have been told from zero by a two-sided paired t-test, at level
    0.05, in four samples of five: what a null result rules out. In the unit of the differences [n],
    one per image; NaN for fewer than two and for constant ones, which say nothing of the spread.
    """
    sample = np.asarray(differences, dtype=float)
    if len(sample) < 2 or np.ptp(sample) == 0:
        return np.nan
    return float(sample.std(ddof=1)) * _detectable(len(sample))


@cache
def _detectable(n: int) -> float:
    """Of differences with a standard deviation of 1."""
    from statsmodels.stats.power import TTestPower

    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    return float(np.squeeze(effect))  # of some sizes, as 120, an array [1]


class Paired(NamedTuple):
    """A mean difference over images, its interval, its test, and the smallest that would show."""

    difference: float
    low: float
    high: float
    p_value: float
    detectable: float
    n_images: int


def paired(differences: ArrayLike) -> Paired:
    """A mean of paired differences [n], one per image, tested by flipping their signs.

    :func:`against_layouts` of two layouts: under the null either could have been called the first.
    """
    sample = np.asarray(differences, dtype=float)
    return against_layouts(np.stack([sample, np.zeros_like(sample)], axis=1))


def against_layouts(
    values: Iterable[Sequence[float] | np.ndarray],
    confidence: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
) -> Paired:
    """The guided layout of each image against its others, by swapping labels (§5).

    With v_ij the value of layout j of image i, d_ij = v_ij − mean of v_ik over k ≠ j; the
    difference T is the mean of d_i0. If the guided layout were no better than the others, any of an
    image's layouts could have been called guided: the null draws one for each image, in all ways
    where there are at most `n_resamples`, else at random with the observed one among them. The test
    is exact, however skewed d_i0 is (its sign flipped is not).

    Parameters
    ----------
    values : [n, 1 + R], the guided layout first, higher is better; rows may differ in R, or end in
        NaN. The order of images, and of an image's other layouts, plays no part.
    confidence, n_resamples, seed : see `interval`.

    Returns
    -------
    Paired. The p-value is two-sided, twice the smaller one-sided one. The interval reaches as far
    as the BCa interval of d_i0 and as T minus the quantiles of the null: if it lies above zero, the
    one-sided test rejects, at 2.5 % for a level of 95 %. NaN for no image; for one, the bounds.

    Raises
    ------
    ValueError : for an image without a guided or another value, or a level outside 0…1.
    """
    table = np.array([*zip_longest(*values, fillvalue=np.nan)], dtype=float).T
    tail = _tails(confidence)[0]
    if not len(table):
        return Paired(np.nan, np.nan, np.nan, np.nan, np.nan, 0)
    sizes = np.isfinite(table).sum(axis=1)
    if not np.isfinite(table[:, 0]).all() or sizes.min() < 2:
        raise ValueError("values has an image without a guided value, or without another to hold")
    others = (np.nansum(table, axis=1, keepdims=True) - table) / (sizes - 1)[:, None]
    swapped = table - others
    sample = np.sort(swapped[:, 0])
    mean, low, high, _ = interval(sample, confidence, n_resamples, seed)
    null, observed = _label_swaps(swapped, sizes, n_resamples, seed), float(_mean(sample, 0))
    p_value = 2 * min(float(np.mean(null >= observed)), float(np.mean(null <= observed)))
    k = int(round(tail * len(null), 9))
    low, high = min(low, observed - null[-1 - k]), max(high, observed - null[k])
    return Paired(mean, low, high, min(p_value, 1.0), detectable_effect(sample), len(sample))


def _label_swaps(
    differences: np.ndarray, sizes: np.ndarray, n_resamples: int, seed: int
) -> np.ndarray:
    """Mean difference with another layout of each image called guided, sorted, what was observed
    among them; differences [n, 1 + R] are of each layout from the others, NaN where there is none.
    """
    n = len(differences)
    ordered = np.sort(differences, axis=1)
    order = np.lexsort(np.round(ordered, 9).T[::-1])  # equal up to rounding counts as equal
    ordered, sizes, images = ordered[order], sizes[order], np.arange(n)
    if (total := math.prod(sizes.tolist())) <= n_resamples:
        chosen = np.stack(np.unravel_index(np.arange(total), tuple(sizes.tolist())), axis=1)
        return np.sort(_mean(ordered[images, chosen], 1))
    rng, step = np.random.default_rng(seed), max(1, CHUNK // n)
    found = [_mean(np.sort(differences[:, 0]), 0)[None]]
    for start in range(0, n_resamples, step):
        draws = rng.random((min(step, n_resamples - start), n))
        found.append(_mean(ordered[images, (draws * sizes).astype(int)], 1))
    return np.sort(np.concatenate(found))


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values [n] corrected for their number (Holm's step-down); NaN stays, and does not count."""
    values = np.asarray(p_values, dtype=float)
    corrected, tested = np.full(values.shape, np.nan), ~np.isnan(values)
    if tested.any():
        from statsmodels.stats.multitest import multipletests

        corrected[tested] = multipletests(values[tested], method="holm")[1]
    return corrected


def advantages(
    outcomes: pd.DataFrame,
    by: Sequence[str] = BY,
    metric: str = "accuracy",
    baseline: str = "random",
) -> pd.DataFrame:
    """Advantage of the guided region over a baseline, one row per method × test × image (§5).

    With g the guided value and r̄ the mean over the baseline's repeats: r̄ − g for deletion,
    g − r̄ for insertion. Positive is better in both.

    Parameters
    ----------
    outcomes : the table of `geolib.ablation.faithfulness`.
    by : columns that tell methods apart.
    metric : "accuracy" (against the label), "agreement" (with the original prediction),
        "probability" or "log_probability" (of the label).
    baseline : the region compared with, "random" or the name of a control.

    Returns
    -------
    DataFrame: `by`, test, image_id, guided, random (the baseline's mean), advantage, coverage (of
    the guided region), random_coverage, gap (in coverage, the largest of any repeat), n_elements,
    and layouts, the guided value and each repeat's, as `against_layouts` takes them.

    Raises
    ------
    ValueError : for an unknown metric or baseline, missing columns, or an image with one region
        only or several guided rows in one method.
    """
    check_choice("metric", metric, METRICS)
    keys = [*by, "test", "image_id"]
    needed = [*keys, "region", "coverage", "coverage_gap", "n_elements", METRICS[metric]]
    if missing := [column for column in needed if column not in outcomes]:
        raise ValueError(f"outcomes lacks the columns {missing}; expected a faithfulness table")
    regions = outcomes["region"].unique()
    for region in ("guided", baseline):
        if region not in regions:
            raise ValueError(f"outcomes has no region {region!r}; known: {', '.join(regions)}")
    value, gap = outcomes[METRICS[metric]].astype(float), outcomes["coverage_gap"].abs()
    rows = outcomes.assign(value=value, gap=gap)
    guided = rows[rows["region"] == "guided"].set_index(keys)
    if len(twice := guided.index[guided.index.duplicated()]):
        raise ValueError(
            f"outcomes has several guided rows for {twice[0]}; name in `by` what tells them apart"
        )
    repeats = rows[rows["region"] == baseline].groupby(keys, sort=False)
    random = repeats.agg(
        random=("value", "mean"),
        random_coverage=("coverage", "mean"),
        gap=("gap", "max"),
        layouts=("value", tuple),
    )
    if len(alone := guided.index.symmetric_difference(random.index)):
        raise ValueError(f"outcomes has only one of guided and {baseline} for {alone[0]}")
    table = guided[["value", "coverage", "n_elements"]].rename(columns={"value": "guided"})
    table = table.join(random).reset_index()
    sign = np.where(table["test"] == "insertion", 1.0, -1.0)
    table["advantage"] = sign * (table["guided"] - table["random"])
    signed = zip(sign, table["guided"], table["layouts"], strict=True)
    table["layouts"] = [tuple(s * v for v in (one, *others)) for s, one, others in signed]
    shown = ["guided", "random", "advantage", "coverage", "random_coverage", "gap", "n_elements"]
    return table[[*keys, *shown, "layouts"]]


def compare(
    outcomes: pd.DataFrame,
    by: Sequence[str] = BY,
    metric: str = "accuracy",
    *,
    baseline: str = "random",
    confidence: float = 0.95,
    n_resamples: int = 9999,
    tolerance: float = 0.01,
    seed: int = 0,
) -> pd.DataFrame:
    """Guided against random regions for each method and test (Figures 2 and 3).

    Intervals and tests are those of `against_layouts`, over images; Holm's correction runs over the
    methods compared within each test.

    Parameters
    ----------
    outcomes, by, metric, baseline : see `advantages`.
    confidence, n_resamples, seed : see `interval`.
    tolerance : the coverage gap in any repeat above which an image is not well matched.

    Returns
    -------
    DataFrame, one row per method × test: `by`, test; guided and random (means over images);
    advantage, ci_low, ci_high, interval (its method: without "BCa" on constant data), p_value,
    detectable; p_holm; n_images; rate_without_elements, coverage and random_coverage (0…1); and of
    the well-matched images n_matched, advantage_matched, ci_low_matched, ci_high_matched.
    """
    table = advantages(outcomes, by, metric, baseline)
    # 0.99 − 0.98 is more than 0.01.
    table["matched"] = table["gap"] <= tolerance + 1e-9
    groups = table.assign(none=table["n_elements"] == 0).groupby([*by, "test"], sort=False)
    result = groups[["guided", "random"]].mean()
    everyone, well = (
        pd.DataFrame(
            [against_layouts(rows, confidence, n_resamples, seed) for rows in samples], result.index
        )
        for samples in (
            [rows["layouts"] for _, rows in groups],
            [rows.loc[rows["matched"], "layouts"] for _, rows in groups],
        )
    )
    ends = ["difference", "low", "high"]
    result[["advantage", "ci_low", "ci_high"]] = everyone[ends]
    constant = groups["advantage"].nunique() == 1
    result["interval"] = np.where(constant, "label swap", "BCa and label swap")
    result[["p_value", "detectable", "n_images"]] = everyone[["p_value", "detectable", "n_images"]]
    result["p_holm"] = result.groupby("test")["p_value"].transform(holm)
    shares = groups[["none", "coverage", "random_coverage"]].mean()
    result[["rate_without_elements", "coverage", "random_coverage"]] = shares
    result["n_matched"] = groups["matched"].sum()
    result[["advantage_matched", "ci_low_matched", "ci_high_matched"]] = well[ends]
    return result.reset_index()


def choose(
    curve: pd.DataFrame, max_coverage: float = 0.25, min_kept: float = 0.95
) -> dict[str, Any]:
    """The top-p level and s_min of the highest insertion advantage within two bounds (§3.2).

    Parameters
    ----------
    curve : one row per setting on the validation split: top_p, s_min, insertion_advantage,
        coverage (mean share of the image covered by the guided regions), kept (share of the images
        with an element).
    max_coverage, min_kept : bounds on `coverage` and `kept`, 0…1.

    Returns
    -------
    The chosen row as a dict, of equal advantages that of smaller coverage. If no setting keeps both
    bounds its `within` is False: it is the smallest coverage of those that keep `min_kept`, or of
    those that keep an element in the most images.

    Raises
    ------
    ValueError : for a missing column, or no setting with all of these.
    """
    needed = ["top_p", "s_min", "insertion_advantage", "coverage", "kept"]
    if missing := [column for column in needed if column not in curve]:
        raise ValueError(f"curve lacks the columns {missing}; expected {', '.join(needed)}")
    settings = curve.dropna(subset=needed).sort_values("coverage", kind="stable")
    if settings.empty:
        raise ValueError(f"curve has no setting with {', '.join(needed[2:])} to choose from")
    within = (settings["coverage"] <= max_coverage) & (settings["kept"] >= min_kept)
    if within.any():
        settings = settings[within]
        order = settings["insertion_advantage"]
    else:
        order = settings["kept"].clip(upper=min_kept)
    best = settings.iloc[np.argsort(-order.to_numpy(), kind="stable")[0]]
    return {str(k): v for k, v in best.items()} | {"within": bool(within.any())}
