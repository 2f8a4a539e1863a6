"""Attribution methods, and segmenters, compared at the same area (§5 of arXiv 2605.00912).

Regions grow, best element first, from nothing to the whole image, so that each is asked at every
coverage. ``by`` names the column that tells them apart: "attribution" or "segmenter".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import combinations
from math import ceil
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike
from scipy import ndimage

from geolib import statistics
from geolib.book.claims import MIN_N
from geolib.chapters import findings, tables
from geolib.chapters.baselines import torus_shifts
from geolib.chapters.controls.specifications import Tested, outcome_tables
from geolib.chapters.experiment import Experiment
from geolib.chapters.findings import Found
from geolib.figures import GUIDED, INK, RANDOM, WIDTH, styled
from geolib.masks import Array, to_numpy
from geolib.pipeline.shards import EvaluationConfig, Extracted, extract_batch

COVERAGES = (0.0, 0.1, 0.2, 0.3, 1.0)
# The coverage up to which they are ranked: that of elements in use. Most of the area lies beyond
# it, where regions grow over segments of ever lower score, or over none at all.
UP_TO = 0.3
# The column that is drawn over coverage.
RESPONSE = "probability"
# The rows of the outcome table that make a curve, and its counterpart anywhere else.
GROWN, SHIFTED = "grown", "shifted"
# Whether more or less of the response is better.
SIGNS = {"deletion": -1, "insertion": 1}
READINGS = {"deletion": ("lower is better", GUIDED), "insertion": ("higher is better", RANDOM)}
ALPHA = 0.05
# Of a ranking: its headings, columns and formats.
SHOWN = {
    "mean up to 30 %": ((), ".3f"),
    "behind the best": ("behind", ".3f"),
    "p (Holm)": ("p_holm", ".3f"),
    "detectable": ("detectable", ".3f"),
    "images": ("images", ".0f"),
}


def pixel_order(
    boxes: Array, shape: tuple[int, int], masks: np.ndarray | None = None
) -> np.ndarray:
    """The order in which pixels join a region that grows, int64 [H,W], 0 … H·W − 1: boxes [M,4],
    best first, in turn about their centres over what no earlier one has taken; then the rest, the
    nearest to them first (without a box, to the image's centre). With ``masks`` [M,H,W], what lies
    in these alone."""
    corners = to_numpy(boxes)
    turn = np.full(shape, len(corners))
    when = np.zeros(shape)
    for number in reversed(range(len(corners))):  # so that earlier boxes overwrite later ones
        x0, y0, x1, y1 = corners[number]
        box = slice(y0, y1), slice(x0, x1)
        within = ... if masks is None else masks[number][box]
        turn[box][within] = number
        when[box][within] = _from_middle(y1 - y0, x1 - x0)[within]
    return _joining(turn, when, turn == len(corners))


def map_order(attribution: Array) -> np.ndarray:
    """The same without segments: the pixels of a map [H,W], highest first, so that the region at
    each coverage is the salient one; then its zeros, the nearest to the others first."""
    values = to_numpy(attribution)
    return _joining(-values, np.zeros(values.shape), values == 0)


def _joining(turn: np.ndarray, when: np.ndarray, rest: np.ndarray) -> np.ndarray:
    if rest.all():
        when = _from_middle(*rest.shape)
    else:
        when[rest] = ndimage.distance_transform_edt(rest)[rest]
    order = np.lexsort((when.ravel(), turn.ravel()))
    return np.argsort(order).reshape(rest.shape)


def _from_middle(*sides: int) -> np.ndarray:
    """Distance of each pixel from the middle, as a share of the side along which it is larger."""
    # Whole numbers first: both sides of the middle must come out alike.
    rows, columns = (np.abs(2 * np.arange(side) + 1 - side) / (2 * side) for side in sides)
    return np.maximum.outer(rows, columns)


def nested_regions(order: np.ndarray, coverages: Sequence[float]) -> np.ndarray:
    """Regions of the first round(c·H·W) pixels of an order, for each coverage c; bool [C,H,W]."""
    return np.stack([order < round(share * order.size) for share in coverages])


def responses(
    experiment: Experiment,
    configs: Mapping[str, EvaluationConfig],
    by: str,
    moved: str = "",
    *,
    outlines: bool = False,
    coverages: Sequence[float] = COVERAGES,
) -> pd.DataFrame:
    """Deletion and insertion of regions that grow over elements of every score above zero,
    ``grown``, for the one called ``moved`` also moved as a whole, ``shifted``; its own elements
    are ``guided``. ``outlines`` grows over segments in place of their boxes; without
    segments (``none``) regions grow over the map's own pixels. ``by`` is the column that holds the
    names of ``configs``; costly methods see fewer images."""
    found = []
    for name, config in configs.items():
        once = config.model_copy(update={"repeats": 0})
        ways: Any = {"shifted": name == moved, "outlines": outlines}
        run = partial(_growing, config, coverages, **ways)
        runs = [(once, {"coverages": list(coverages), **ways}, run)]
        images = experiment.compared_with(config.attribution)
        (table,) = outcome_tables(images, experiment.classifier, "responses", __name__, runs)
        found.append(table.assign(**{by: name}))
    return pd.concat(found, ignore_index=True)


def _growing(
    config: EvaluationConfig,
    coverages: Sequence[float],
    extracted: Sequence[Extracted],
    shifted: bool,
    outlines: bool,
) -> Tested:
    # One salient share for all: under a small one most segments would score zero and have no order.
    every = config.model_copy(update={"top_p": UP_TO, "s_min": 0.0})
    orders = []
    for one in extracted:
        if config.segmenter == "none":
            orders.append(map_order(one.attribution))
            continue
        parts = [one.item], one.image[None], one.attribution[None], [one.segments]
        found = extract_batch(*parts, every)[0].elements
        masks = found.masks if outlines else None
        orders.append(pixel_order(found.boxes, found.shape, masks))
    regions = {GROWN: [nested_regions(order, coverages) for order in orders]}
    if shifted:  # one shift per image and seed, so these regions are nested too
        regions[SHIFTED] = [
            np.concatenate([torus_shifts(r, one.item.id, config.seed, 1) for r in grown])
            for one, grown in zip(extracted, regions[GROWN], strict=True)
        ]
    return [one.elements for one in extracted], regions


# What the curves say ------------------------------------------------------------------------------


def curves(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean response with its interval, by test × region (grown, shifted) × ``by`` × coverage."""
    keys = ["test", "region", by, "coverage"]
    rows = table[table["region"].isin([GROWN, SHIFTED])].sort_values(keys)
    return tables.grouped_means(rows, RESPONSE, keys).set_index(keys)


def areas(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean response of each image's curve, by the trapezoid rule over coverage from 0 to ``UP_TO``:
    ``area`` for each ``by`` × test × image."""
    rows = table[table["region"] == GROWN].sort_values("coverage")
    found = rows.groupby([by, "test", "image_id"])[["coverage", RESPONSE]]
    return found.apply(_mean_height).rename("area").reset_index()


def _mean_height(curve: pd.DataFrame) -> float:
    shares, values = curve.to_numpy(float).T
    places = np.append(shares[shares < UP_TO], UP_TO)
    return float(np.trapezoid(np.interp(places, shares, values), places) / UP_TO)


def pairs(per_image: pd.DataFrame, by: str) -> pd.DataFrame:
    """How much better ``one`` is than the ``other`` in :func:`areas`, for every two of them, on the
    images that both have. Holm's correction runs over all pairs of a test, for which is best is
    seen on the same images."""
    found = []
    for test, group in per_image.groupby("test"):
        better = _better(group, by)
        for one, other in combinations(better, 2):
            apart = statistics.paired((better[one] - better[other]).dropna())
            found.append({"test": test, "one": one, "other": other, **apart._asdict()})
    forth = pd.DataFrame(found, columns=["test", "one", "other", *statistics.Paired._fields])
    forth["p_holm"] = forth.groupby("test")["p_value"].transform(statistics.holm)
    turned = {"one": "other", "other": "one", "low": "high", "high": "low"}
    back = forth.rename(columns=turned)
    back[["difference", "low", "high"]] *= -1
    return pd.concat([forth, back], ignore_index=True)


def _better(group: pd.DataFrame, by: str) -> pd.DataFrame:
    """Areas of one test, image × ``by``, so signed that more is better."""
    wide = group.pivot(index="image_id", columns=by, values="area")
    return SIGNS[group["test"].iloc[0]] * wide


def _best(rows: pd.DataFrame) -> str:
    """The one that lags least behind any other; on images that all have, that of the best mean."""
    return str(rows.groupby("one")["difference"].min().idxmax())


def ranking(per_image: pd.DataFrame, compared: pd.DataFrame, by: str) -> pd.DataFrame:
    """The means of :func:`areas`, best first within each test; ``behind``: how much worse than the
    best of the :func:`pairs`, image by image (no value for the best), on ``images``."""
    found = {}
    for test, group in per_image.groupby("test"):
        rows = compared[compared["test"] == test]
        behind = rows[rows["one"] == _best(rows)] if len(rows) else rows
        names = {"difference": "behind", "low": "behind_low", "high": "behind_high"}
        behind = behind.rename(columns=names).set_index("other")
        columns = [*names.values(), "p_holm", "detectable", "n_images"]
        table = tables.grouped_means(group, "area", by).set_index(by).join(behind[columns])
        table["images"] = table["n_images"].fillna(table["n"])
        found[test] = table.sort_values("behind", na_position="first")
    return pd.concat(found, names=["test"])


def sentence(compared: pd.DataFrame, blind: Collection[str]) -> str:
    """Which methods of :func:`pairs` are told from the best one that does not look at the network,
    after Holm's correction and on enough images, and which are not."""
    parts = []
    for test, rows in compared.groupby("test"):
        blinded, seeing = (rows[rows["one"].isin(blind) == chosen] for chosen in (True, False))
        if blinded.empty or seeing.empty:
            return "It takes a method that looks at the network and a blind one to compare."
        best = _best(blinded)
        against = seeing[seeing["other"] == best].sort_values("difference", ascending=False)
        told = (against["p_holm"] < ALPHA) & (against["n_images"] >= MIN_N)
        groups = {
            f"better than the best blind map, `{best}`": told & (against["difference"] > 0),
            f"not told from `{best}`": ~told,
            f"worse than `{best}`": told & (against["difference"] < 0),
        }
        named = {
            what: ", ".join(map("`{}`".format, against["one"][g])) for what, g in groups.items()
        }
        said = "; ".join(f"{what}: {who}" for what, who in named.items() if who)
        parts.append(f"**{str(test).capitalize()}.** {said[0].upper()}{said[1:]}.")
    return " ".join(parts)


# Segments against none, and coverage alone --------------------------------------------------------


def segmented(per_image: pd.DataFrame, segmenter: str, data: str) -> Found:
    """A segmenter against the bare salient region at equal area, image by image, for the ledger."""
    found: Found = {}
    for test, group in per_image.groupby("test"):
        better = _better(group, "segmenter")
        known = {segmenter, "none"} <= set(better) and segmenter != "none"
        values: ArrayLike = (better[segmenter] - better["none"]).dropna() if known else []
        found[f"object-segmented-{test}"] = findings.mean(values, data)
    return found


def segmented_sentence(found: Found) -> str:
    """What :func:`segmented` found, for the first page."""
    parts = []
    for test in SIGNS:
        one = found[f"object-segmented-{test}"]
        if one is None:
            return "Segments were not compared with the bare salient region."
        told = one.n >= MIN_N and (one.low > 0 or one.high < 0)
        outcome = "are not told from it" if not told else "do better" if one.low > 0 else "do worse"
        value = tables.sentence(one.value, one.low, one.high, "+.3f")
        parts.append(f"in {test} they {outcome}, {value}")
    return (
        "Segments against the bare salient region at equal area, up to "
        f"{UP_TO:.0%} of the image: {'; '.join(parts)}, in probability of the true class."
    )


def by_coverage_alone(table: pd.DataFrame) -> pd.DataFrame:
    """What each segmenter ``reached`` with its own elements, and what their coverage alone would
    give: ``expected``, the mean of all segmenters' curves of the same image at that coverage."""
    keys = ["test", "image_id"]
    grown = table[table["region"] == GROWN]
    # All, this one's own among them: of curves that coverage leaves alone, the mean of the others
    # would be lower for the higher ones, and mislead.
    mean = grown.groupby([*keys, "coverage"])[RESPONSE].mean()
    own = table[table["region"] == "guided"].reset_index(drop=True)
    expected = []
    for row in own.to_dict("records"):
        curve = mean[row["test"], row["image_id"]]
        expected.append(float(np.interp(row["coverage"], curve.index, curve)))
    kept = own[["segmenter", *keys, "coverage"]]
    return kept.assign(reached=own[RESPONSE].astype(float), expected=expected)


def explained(own: pd.DataFrame, data: str) -> Found:
    """Share of the differences between segmenters that coverage alone explains, for the ledger: one
    minus the sum of squares of reached − expected over that of reached, of the segmenters' means
    less what they share."""
    found: Found = {}
    for test, group in own.groupby("test"):
        wide = group.pivot(index="image_id", columns="segmenter", values=["reached", "expected"])
        both = np.stack([wide["reached"], wide["expected"]])
        share = partial(_share_explained, both)
        found[f"object-coverage-explains-{test}"] = findings.over_images(share, len(wide), data)
    return found


def _share_explained(both: np.ndarray, chosen: np.ndarray) -> float:
    """Of some images, from what is reached and expected ``[2, images, segmenters]``."""
    means = both[:, chosen].mean(axis=1)
    reached, expected = means - means.mean(axis=1, keepdims=True)
    return 1 - ((reached - expected) ** 2).sum() / (reached**2).sum()


# The picture --------------------------------------------------------------------------------------


@styled
def coverage_response(table: pd.DataFrame, by: str) -> Figure:
    """Both tests while regions grow, a panel for each of :func:`responses`, the one with most room
    between its curves first. Dots are what its own elements reach, dashed is what regions moved
    elsewhere do, grey are the others."""
    per_image, lines = areas(table, by), curves(table, by).reset_index("coverage")
    drawn: dict[Any, pd.DataFrame] = dict(list(lines.groupby(level=["test", "region", by])))
    signed = per_image["area"] * per_image["test"].map(SIGNS)
    names = list(signed.groupby(per_image[by]).mean().sort_values(ascending=False).index)
    guided = table[table["region"] == "guided"].groupby([by, "test"])[["coverage", RESPONSE]]
    own: dict[Any, Any] = guided.mean().to_dict("index")
    columns = min(5, max(ceil(len(names) / 2), min(4, len(names))))
    n_rows = ceil(len(names) / columns)
    shared: Any = {"sharex": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(n_rows, columns, figsize=(WIDTH, 1.75 * n_rows + 0.7), **shared)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for axis in axes.flat[: len(names)][-columns:]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
    for axis in axes[-1]:
        axis.set_xlabel("coverage", fontsize=9.5)
    for axis, name in zip(axes.flat, names, strict=False):
        for (_, region, other), curve in drawn.items():
            if region == GROWN and other != name:
                _line(axis, curve, color=INK, lw=0.7, alpha=0.35, label="the others")
        for test, (hint, colour) in READINGS.items():
            for key in (key for key in drawn if key[:2] == (test, SHIFTED)):
                _line(axis, drawn[key], color=INK, ls="--", lw=1.2, label="moved elsewhere")
            curve = drawn[test, GROWN, name]
            band = {"color": colour, "alpha": 0.2, "lw": 0}
            axis.fill_between(curve["coverage"], curve["low"], curve["high"], **band)
            _line(axis, curve, color=colour, lw=2, label=f"{test} ({hint})")
            dot = {"color": colour, "ms": 6, "mec": "white", "label": "its own elements"}
            axis.plot(*own[name, test].values(), "o", **dot)
        axis.set_title(name, fontsize=9)
        axis.grid()
    end = 1.08 * max(UP_TO, *(one["coverage"] for one in own.values()))
    axes[0, 0].set(xlim=(0, min(1, end)))
    axes[0, 0].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.supylabel("probability of the true class", fontsize=10)
    found = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    figure.legend(found.values(), found, loc="outside lower center", ncols=3, fontsize=9.5)
    return figure


def _line(axis: Axes, curve: pd.DataFrame, **look: Any) -> None:
    axis.plot(curve["coverage"], curve["value"], **look)
