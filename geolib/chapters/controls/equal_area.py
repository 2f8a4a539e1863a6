"""Segmenters compared at the same coverage (§5 of arXiv 2605.00912).

The paper finds that a segmenter with more segments does better in both tests, and takes coverage
for the reason. Here regions grow, best element first, from nothing to the whole image, so that
every segmenter is asked at every coverage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from geolib import data, statistics
from geolib.chapters.baselines import torus_shifts
from geolib.chapters.controls.specifications import OutcomeTables, Tested, all_elements
from geolib.chapters.tables import grouped_means, mean_row
from geolib.masks import Array, to_numpy
from geolib.model import Classifier
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.runtime.here import progress_bar

COVERAGES = (0.0, 0.1, 0.2, 0.3, 1.0)
# The coverage up to which segmenters are ranked: that of elements in use. Most of the area lies
# beyond it, where regions grow over segments of ever lower score, or over none at all.
UP_TO = 0.3
# The column that is drawn over coverage.
RESPONSE = "probability"
# A standard normal estimate of this mean is told from zero, at 5 %, in four of five samples.
TOLD = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
# The rows of the outcome table that make a curve, and its counterpart anywhere else.
GROWN, SHIFTED = "grown", "shifted"


def pixel_order(boxes: Array, shape: tuple[int, int]) -> np.ndarray:
    """The order in which pixels join a region that grows box by box, int64 [H,W], 0 … H·W − 1.

    Boxes, int [M,4], best first, are taken in turn; each grows about its centre, with its
    proportions, over what no earlier one has taken. The rest follows, the nearest to them first;
    without any box, the nearest to the image's centre.
    """
    corners = to_numpy(boxes)
    turn = np.full(shape, len(corners))
    when = np.zeros(shape)
    for number in reversed(range(len(corners))):  # so that earlier boxes overwrite later ones
        x0, y0, x1, y1 = corners[number]
        turn[y0:y1, x0:x1] = number
        when[y0:y1, x0:x1] = np.maximum.outer(_from_middle(y1 - y0), _from_middle(x1 - x0))
    rest = turn == len(corners)
    if rest.all():
        when = np.maximum.outer(*(_from_middle(side) for side in shape))
    else:
        when[rest] = ndimage.distance_transform_edt(rest)[rest]
    order = np.lexsort((when.ravel(), turn.ravel()))
    place = np.empty(turn.size, dtype=np.int64)
    place[order] = np.arange(turn.size)
    return place.reshape(shape)


def _from_middle(side: int) -> np.ndarray:
    """Distance of each pixel of a side from its middle, as a share of the side."""
    # Whole numbers first: both sides of the middle must come out alike.
    return np.abs(2 * np.arange(side) + 1 - side) / (2 * side)


def nested_regions(order: np.ndarray, coverages: Sequence[float]) -> np.ndarray:
    """Regions of the first round(c·H·W) pixels of an order, for each coverage c; bool [C,H,W]."""
    return np.stack([order < round(share * order.size) for share in coverages])


def responses(
    dataset: data.GeoDataset,
    classifier: Classifier,
    configs: Mapping[str, EvaluationConfig],
    *,
    coverages: Sequence[float] = COVERAGES,
) -> pd.DataFrame:
    """Deletion and insertion of regions that grow from nothing to the whole image.

    Elements of every score above zero make the curve, ``grown``, and the same one moved as a whole
    (wrapping round the edges), ``shifted``; those above ``s_min`` are the ``guided`` region.
    ``segmenter`` holds the names of ``configs``, ``runs_out`` the coverage of all elements.
    """
    tables = OutcomeTables(dataset, classifier, configs.values())
    ways = {"coverages": list(coverages)}
    found = []
    with progress_bar("growing regions", len(configs), "segmenter", True) as bar:
        for name, config in configs.items():
            once = config.model_copy(update={"repeats": 1})
            choose = partial(_growing, once, coverages)
            table = tables.table("responses", __name__, once, ways, choose)
            found.append(table.assign(segmenter=name))
            bar.update()
    return pd.concat(found, ignore_index=True).assign(dataset=dataset.name)


def _growing(
    config: EvaluationConfig, coverages: Sequence[float], extracted: Sequence[Extracted]
) -> Tested:
    ids = [e.item.id for e in extracted]
    candidates = [all_elements(e, config) for e in extracted]
    grown = [nested_regions(pixel_order(c.boxes, c.shape), coverages) for c in candidates]
    # One shift per image and seed, so these regions are nested too.
    shifted = [
        np.concatenate([torus_shifts(one, name, config.seed, 1) for one in regions])
        for name, regions in zip(ids, grown, strict=True)
    ]
    runs_out = {name: one.coverage for name, one in zip(ids, candidates, strict=True)}
    return Tested([e.elements for e in extracted], {GROWN: grown, SHIFTED: shifted}, runs_out)


# What the curves say ------------------------------------------------------------------------------


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Mean response of each segmenter × test × region (grown, shifted) at each coverage."""
    rows = table[table["region"].isin([GROWN, SHIFTED])]
    return grouped_means(rows, RESPONSE, ["segmenter", "test", "region", "coverage"])


def areas(table: pd.DataFrame) -> pd.DataFrame:
    """Mean response of each image's curve, by the trapezoid rule over coverage from 0 to ``UP_TO``.

    ``area`` for each segmenter × test × image, and ``whole_area``, up to coverage 1.
    """
    keys = ["segmenter", "test", "image_id"]
    rows = []
    for key, group in table[table["region"] == GROWN].groupby(keys, sort=False):
        curve = group.sort_values("coverage")[["coverage", RESPONSE]].to_numpy(dtype=float)
        found = {"area": _mean_height(curve, UP_TO), "whole_area": _mean_height(curve, 1)}
        rows.append(dict(zip(keys, key, strict=True)) | found)
    return pd.DataFrame(rows)


def _mean_height(curve: np.ndarray, end: float) -> float:
    shares, values = curve.T
    places = np.append(shares[shares < end], end)
    return float(np.trapezoid(np.interp(places, shares, values), places) / end)


def ranking(per_image: pd.DataFrame) -> pd.DataFrame:
    """Segmenters by their area of :func:`areas`, best first within each test.

    ``behind`` is how much worse it is than the best one's, image by image (no value for the best).
    """
    rows = []
    for test, group in per_image.groupby("test"):
        wide = group.pivot(index="image_id", columns="segmenter", values="area")
        whole = group.groupby("segmenter")["whole_area"].mean()
        sign = 1 if test == "insertion" else -1
        order = (sign * wide.mean()).sort_values(ascending=False).index
        for name in order:
            row = {"test": test, "segmenter": name, **mean_row(wide[name])}
            row["whole_area"] = whole[name]
            differences = sign * (wide[order[0]] - wide[name])
            behind = statistics.paired(differences if name != order[0] else differences[:0])
            row |= {"behind": behind.difference, "detectable": behind.detectable}
            rows.append(row | {"behind_low": behind.low, "behind_high": behind.high})
    return pd.DataFrame(rows).set_index(["test", "segmenter"])


def by_coverage_alone(table: pd.DataFrame) -> pd.DataFrame:
    """What each segmenter reaches with its own elements, and what its coverage alone would give.

    The latter, ``expected``, is the mean of all segmenters' curves of the same image, at the
    coverage of this segmenter's elements. One row per segmenter × test × image.
    """
    own = table[table["region"] == "guided"]
    grown = table[table["region"] == GROWN].pivot_table(
        index=["test", "image_id", "coverage"], columns="segmenter", values=RESPONSE
    )
    expected = []
    for row in own.to_dict("records"):
        # All, this one's own among them: of curves that coverage leaves alone, the mean of the
        # others would be lower for the higher ones, and mislead.
        curve = grown.loc[(row["test"], row["image_id"])].mean(axis=1)
        expected.append(float(np.interp(row["coverage"], curve.index, curve)))
    kept = own[["segmenter", "test", "image_id", "coverage", "n_elements", "runs_out"]]
    kept = kept.assign(reached=own[RESPONSE].astype(float), expected=expected)
    return kept.reset_index(drop=True)


def explained(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the differences between segmenters that coverage alone explains, for each test.

    Of the segmenters' means of reached and expected, each less its own mean (what all segmenters
    share sets none apart): one minus the sum of squares of their difference over that of reached.
    1 when all segmenters share one curve, 0 when coverage is worth no more than calling them equal,
    negative when it misleads; no value where segmenters do not differ. The percentile interval is
    over images; ``detectable`` takes the bootstrap's distribution as normal.
    """
    rows = {}
    for test, group in table.groupby("test"):
        reached, expected = (
            group.pivot(index="image_id", columns="segmenter", values=name).to_numpy()
            for name in ("reached", "expected")
        )
        draws = np.random.default_rng(0).integers(len(reached), size=(999, len(reached)))
        found = _share_explained(reached[draws].mean(axis=1), expected[draws].mean(axis=1))
        low, high = np.quantile(found, [0.025, 0.975])
        rows[test] = {
            "value": float(_share_explained(reached.mean(axis=0), expected.mean(axis=0))),
            "low": low,
            "high": high,
            "detectable": TOLD * found.std(ddof=1),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _share_explained(reached: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Of means [..., segmenters]."""
    a, b = (means - means.mean(axis=-1, keepdims=True) for means in (reached, expected))
    differences = (a**2).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        share = 1 - ((a - b) ** 2).sum(axis=-1) / np.where(differences, differences, np.nan)
    return share


def contrast(own: pd.DataFrame, per_image: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """How much better one segmenter does than another, with their own elements and at equal area.

    From :func:`by_coverage_alone` and :func:`areas`: for each test "own elements", "equal area",
    and the "change" from the former to the latter, image by image; positive: ``one`` is better.
    """
    keys = ["test", "image_id"]
    reached = own.pivot(index=keys, columns="segmenter", values="reached")
    area = per_image.pivot(index=keys, columns="segmenter", values="area")
    rows = []
    for test in reached.index.unique("test"):
        sign = 1 if test == "insertion" else -1
        better = {
            "own elements": sign * (reached[one] - reached[other]).loc[test],
            "equal area": sign * (area[one] - area[other]).loc[test],
        }
        better["change"] = better["equal area"] - better["own elements"]
        for name, values in better.items():
            rows.append({"test": test, "compared": name, **statistics.paired(values)._asdict()})
    return pd.DataFrame(rows).set_index(["test", "compared"])
