"""Segmenters compared at the same coverage (§5 of arXiv 2605.00912).

Regions grow, best element first, from nothing to the whole image, so that every segmenter is asked
at every coverage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy import ndimage

from geolib import data, statistics
from geolib.book.claims import Finding
from geolib.chapters import findings
from geolib.chapters.baselines import torus_shifts
from geolib.chapters.controls.specifications import Tested, all_elements, outcome_tables
from geolib.chapters.tables import mean_row
from geolib.masks import Array, to_numpy
from geolib.model import Classifier
from geolib.pipeline.shards import EvaluationConfig, Extracted

COVERAGES = (0.0, 0.1, 0.2, 0.3, 1.0)
# The coverage up to which segmenters are ranked: that of elements in use. Most of the area lies
# beyond it, where regions grow over segments of ever lower score, or over none at all.
UP_TO = 0.3
# The column that is drawn over coverage.
RESPONSE = "probability"
# The rows of the outcome table that make a curve, and its counterpart anywhere else.
GROWN, SHIFTED = "grown", "shifted"
# Whether more or less of the response is better.
SIGNS = {"deletion": -1, "insertion": 1}


def pixel_order(boxes: Array, shape: tuple[int, int]) -> np.ndarray:
    """The order in which pixels join a region that grows, int64 [H,W], 0 … H·W − 1: boxes [M,4],
    best first, in turn about their centres over what no earlier one has taken; then the rest, the
    nearest to them first (without a box, to the image's centre)."""
    corners = to_numpy(boxes)
    turn = np.full(shape, len(corners))
    when = np.zeros(shape)
    for number in reversed(range(len(corners))):  # so that earlier boxes overwrite later ones
        x0, y0, x1, y1 = corners[number]
        turn[y0:y1, x0:x1] = number
        when[y0:y1, x0:x1] = _from_middle(y1 - y0, x1 - x0)
    rest = turn == len(corners)
    if rest.all():
        when = _from_middle(*shape)
    else:
        when[rest] = ndimage.distance_transform_edt(rest)[rest]
    order = np.lexsort((when.ravel(), turn.ravel()))
    return np.argsort(order).reshape(shape)


def _from_middle(*sides: int) -> np.ndarray:
    """Distance of each pixel from the middle, as a share of the side along which it is larger."""
    # Whole numbers first: both sides of the middle must come out alike.
    rows, columns = (np.abs(2 * np.arange(side) + 1 - side) / (2 * side) for side in sides)
    return np.maximum.outer(rows, columns)


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
    """Deletion and insertion of regions that grow over elements of every score above zero,
    ``grown``, and of these moved as a whole, ``shifted``; those above ``s_min`` are ``guided``.
    ``segmenter`` holds the names of ``configs``."""
    runs = []
    for config in configs.values():
        once = config.model_copy(update={"repeats": 1})
        runs.append((once, {"coverages": list(coverages)}, partial(_growing, once, coverages)))
    tables = outcome_tables(dataset, classifier, "responses", __name__, runs)
    found = [table.assign(segmenter=name) for name, table in zip(configs, tables, strict=True)]
    return pd.concat(found, ignore_index=True).assign(dataset=dataset.name)


def _growing(
    config: EvaluationConfig, coverages: Sequence[float], extracted: Sequence[Extracted]
) -> Tested:
    candidates = [all_elements(one, config) for one in extracted]
    grown = [nested_regions(pixel_order(c.boxes, c.shape), coverages) for c in candidates]
    # One shift per image and seed, so these regions are nested too.
    shifted = [
        np.concatenate([torus_shifts(r, one.item.id, config.seed, 1) for r in regions])
        for one, regions in zip(extracted, grown, strict=True)
    ]
    return [one.elements for one in extracted], {GROWN: grown, SHIFTED: shifted}


# What the curves say ------------------------------------------------------------------------------


def curves(table: pd.DataFrame) -> pd.Series:
    """Mean response by test × region (grown, shifted) × segmenter × coverage."""
    rows = table[table["region"].isin([GROWN, SHIFTED])]
    return rows.groupby(["test", "region", "segmenter", "coverage"])[RESPONSE].mean()


def areas(table: pd.DataFrame) -> pd.DataFrame:
    """Mean response of each image's curve, by the trapezoid rule over coverage from 0 to ``UP_TO``:
    ``area`` for each segmenter × test × image."""
    rows = table[table["region"] == GROWN].sort_values("coverage")
    found = rows.groupby(["segmenter", "test", "image_id"])[["coverage", RESPONSE]]
    return found.apply(_mean_height).rename("area").reset_index()


def _mean_height(curve: pd.DataFrame) -> float:
    shares, values = curve.to_numpy(float).T
    places = np.append(shares[shares < UP_TO], UP_TO)
    return float(np.trapezoid(np.interp(places, shares, values), places) / UP_TO)


def ranking(per_image: pd.DataFrame) -> pd.DataFrame:
    """Segmenters by their area of :func:`areas`, best first within each test; ``behind``: how much
    worse it is than the best one's, image by image (no value for the best)."""
    rows = []
    for test, group in per_image.groupby("test"):
        wide = group.pivot(index="image_id", columns="segmenter", values="area")
        better = SIGNS[str(test)] * wide
        order = better.mean().sort_values(ascending=False).index
        for name in order:
            differences = better[order[0]] - better[name]
            behind = statistics.paired(differences if name != order[0] else differences[:0])
            row = {"test": test, "segmenter": name, **mean_row(wide[name])}
            row |= {"behind": behind.difference, "detectable": behind.detectable}
            rows.append(row | {"behind_low": behind.low, "behind_high": behind.high})
    return pd.DataFrame(rows).set_index(["test", "segmenter"])


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


def explained(own: pd.DataFrame, data: str) -> dict[str, Finding | None]:
    """Share of the differences between segmenters that coverage alone explains, for the ledger: one
    minus the sum of squares of reached − expected over that of reached, of the segmenters' means
    less what they share."""
    found = {}
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
