"""Advantage of guided over random regions, with intervals and tests over images (§5)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
    return intervals([values], confidence, n_resamples, seed)[0]


def intervals(
    samples: Sequence[ArrayLike], confidence: float = 0.95, n_resamples: int = 9999, seed: int = 0
) -> list[Interval]:
    """`interval` of each of many samples [n] at once; n may differ between them."""
    from scipy import stats  # a second to import

    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; expected a level between 0 and 1, like 0.95")
    ordered = [np.sort(np.asarray(values, dtype=float)) for values in samples]
    for sample in ordered:
        if sample.ndim != 1 or not np.isfinite(sample).all():
            raise ValueError(f"values has shape {sample.shape}; expected finite values [n]")
    sizes = [len(sample) for sample in ordered]
    single = [float(sample[0]) if len(sample) == 1 else np.nan for sample in ordered]
    found = [Interval(mean, np.nan, np.nan, "undefined") for mean in single]
    for n in set(sizes) - {0, 1}:
        places = np.flatnonzero(np.equal(sizes, n))
        matrix = np.stack([ordered[place] for place in places])
        with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                (matrix,),
                _mean,
                axis=-1,
                confidence_level=confidence,
                n_resamples=n_resamples,
                batch=max(1, CHUNK // matrix.size),
                rng=np.random.default_rng(seed),
            )
        levels = [(1 - confidence) / 2, (1 + confidence) / 2]
        tails = np.quantile(result.bootstrap_distribution, levels, axis=-1)
        bounds = np.array(result.confidence_interval)
        bca = np.isfinite(bounds).all(axis=0) & (np.ptp(matrix, axis=1) > 0)
        ends = np.where(bca, bounds, tails).T.tolist()
        for place, mean, (low, high), good in zip(places, matrix.mean(1), ends, bca, strict=True):
            found[place] = Interval(float(mean), low, high, "BCa" if good else "percentile")
    return found


def _mean(samples: np.ndarray, axis: int) -> np.ndarray:
    """Means, rounded: those of equal samples in another order are to count as equal."""
    return np.round(samples.mean(axis=axis), 12)


def accuracy_interval(correct: ArrayLike, confidence: float = 0.95) -> Interval:
    """Share of correct predictions, bool [n], one per image, with its Wilson interval."""
    from statsmodels.stats.proportion import proportion_confint  # a second to import

    hits = np.asarray(correct, dtype=bool)
    if hits.ndim != 1 or not hits.size:
        raise ValueError(f"correct has shape {hits.shape}; expected at least one value [n]")
    low, high = proportion_confint(hits.sum(), hits.size, alpha=1 - confidence, method="wilson")
    return Interval(float(hits.mean()), float(low), float(high), "Wilson")


def paired_p_value(differences: ArrayLike, n_resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided paired permutation test of a zero mean of differences [n], one per image.

    Signs are flipped: in every pattern where there are at most `n_resamples`, else in random ones.
    p is in 0…1, and NaN for no value.
    """
    sample = np.sort(np.asarray(differences, dtype=float))  # the order of images plays no part
    if not sample.size:
        return np.nan
    if len(sample) == 1 or not sample.any():
        return 1.0
    from scipy import stats

    result = stats.permutation_test(
        (sample,),
        np.mean,
        permutation_type="samples",
        n_resamples=n_resamples,
        batch=max(1, CHUNK // len(sample)),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def detectable_effect(differences: ArrayLike) -> float:
    """Smallest mean difference that a sample of this size and spread would have shown.

    A larger true difference would have been told from zero by a two-sided paired t-test, at level
    0.05, in four samples of five: what a null result rules out. In the unit of the differences [n],
    one per image; NaN for fewer than two and for constant ones, which say nothing of the spread.
    """
    sample = np.asarray(differences, dtype=float)
    if len(sample) < 2 or np.ptp(sample) == 0:
        return np.nan
    from statsmodels.stats.power import TTestPower

    effect = TTestPower().solve_power(nobs=len(sample), alpha=0.05, power=0.8)
    return float(sample.std(ddof=1) * np.squeeze(effect))  # of some sizes, as 120, an array [1]


class Paired(NamedTuple):
    """A mean difference over images, its interval, its test, and the smallest that would show."""

    difference: float
    low: float
    high: float
    p_value: float
    detectable: float
    n_images: int


def paired(differences: ArrayLike) -> Paired:
    """`interval`, `paired_p_value` and `detectable_effect` of differences [n], one per image."""
    sample = np.asarray(differences, dtype=float)
    ends = interval(sample)[:3]
    return Paired(*ends, paired_p_value(sample), detectable_effect(sample), len(sample))


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
    the guided region), random_coverage, gap (in coverage, the largest of any repeat), n_elements.

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
        random=("value", "mean"), random_coverage=("coverage", "mean"), gap=("gap", "max")
    )
    if len(alone := guided.index.symmetric_difference(random.index)):
        raise ValueError(f"outcomes has only one of guided and {baseline} for {alone[0]}")
    table = guided[["value", "coverage", "n_elements"]].rename(columns={"value": "guided"})
    table = table.join(random).reset_index()
    sign = np.where(table["test"] == "insertion", 1.0, -1.0)
    table["advantage"] = sign * (table["guided"] - table["random"])
    shown = ["guided", "random", "advantage", "coverage", "random_coverage", "gap", "n_elements"]
    return table[[*keys, *shown]]


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

    Intervals and tests resample images, never the repeats of an image. p-values are two-sided;
    Holm's correction runs over the methods compared within each test.

    Parameters
    ----------
    outcomes, by, metric, baseline : see `advantages`.
    confidence, n_resamples, seed : see `interval` and `paired_p_value`.
    tolerance : the coverage gap in any repeat above which an image is not well matched.

    Returns
    -------
    DataFrame, one row per method × test: `by`, test; guided and random (means over images);
    advantage, ci_low, ci_high, interval (its method); p_value, p_holm; n_images;
    rate_without_elements, coverage and random_coverage (0…1); and of the well-matched images
    n_matched, advantage_matched, ci_low_matched, ci_high_matched.
    """
    table = advantages(outcomes, by, metric, baseline)
    # 0.99 − 0.98 is more than 0.01.
    table["matched"] = table["gap"] <= tolerance + 1e-9
    groups = table.assign(none=table["n_elements"] == 0).groupby([*by, "test"], sort=False)
    advantage = [rows["advantage"] for _, rows in groups]
    matched = [rows.loc[rows["matched"], "advantage"] for _, rows in groups]
    result = groups[["guided", "random"]].mean()
    everyone, well = (
        pd.DataFrame(intervals(samples, confidence, n_resamples, seed), result.index)
        for samples in (advantage, matched)
    )
    result[["advantage", "ci_low", "ci_high", "interval"]] = everyone
    result["p_value"] = [paired_p_value(sample, n_resamples, seed) for sample in advantage]
    result["p_holm"] = result.groupby("test")["p_value"].transform(holm)
    result["n_images"] = groups.size()
    shares = groups[["none", "coverage", "random_coverage"]].mean()
    result[["rate_without_elements", "coverage", "random_coverage"]] = shares
    result["n_matched"] = groups["matched"].sum()
    columns = ["advantage_matched", "ci_low_matched", "ci_high_matched"]
    result[columns] = well[["mean", "low", "high"]]
    return result.reset_index()


def choose(curve: pd.DataFrame, max_coverage: float = 0.25) -> dict[str, Any]:
    """The top-p level and s_min of the highest insertion advantage at bounded coverage (§3.2).

    Parameters
    ----------
    curve : one row per setting on the validation split: top_p, s_min, insertion_advantage,
        coverage (mean share of the image covered by the guided regions).
    max_coverage : bound on `coverage`, 0…1.

    Returns
    -------
    The chosen row as a dict, of equal advantages that of smaller coverage. If no setting keeps the
    bound, the smallest coverage is taken and its `within_coverage` is False.

    Raises
    ------
    ValueError : for a missing column, or no setting with an advantage and a coverage.
    """
    needed = ("top_p", "s_min", "insertion_advantage", "coverage")
    if missing := [column for column in needed if column not in curve]:
        raise ValueError(f"curve lacks the columns {missing}; expected {', '.join(needed)}")
    settings = curve.dropna(subset=list(needed)).sort_values("coverage", kind="stable")
    if settings.empty:
        raise ValueError("curve has no setting with an advantage and a coverage to choose from")
    within = settings[settings["coverage"] <= max_coverage]
    ranked = within.sort_values("insertion_advantage", ascending=False, kind="stable")
    best = (settings if within.empty else ranked).iloc[0]
    return {str(k): v for k, v in best.items()} | {"within_coverage": not within.empty}
