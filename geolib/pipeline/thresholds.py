"""The salient share p and the score threshold s_min of one attribution method with one segmenter.

Scores of different methods have different ranges, so that one absolute cut keeps most segments of
one method and none of another (§3.2 and §3.3 of arXiv 2605.00912 leave both values open).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from geolib import data, statistics
from geolib.model import Classifier
from geolib.pipeline.shards import (
    EvaluationConfig,
    Extracted,
    ablate_batch,
    choices,
    config_key,
    shards,
    true_labels,
)
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import Elements
from geolib.segmentation import Segments

TOP_P = (0.05, 0.1, 0.2)
MAX_COVERAGE = 0.25
MIN_KEPT = 0.95
# Where others are to keep an element, too: nearly all images on which s_min is chosen have a score
# that lies above it by a tenth.
NEARLY_ALL, MARGIN = 0.98, 0.9
# Quantiles of the scores at which s_min keeps both bounds, that are tried.
CUTS = (0.0, 0.5)
REPEATS = 2
# A few dozen images flip too few decisions to tell settings apart by accuracy.
METRIC = "log_probability"
COLUMNS = ["top_p", "s_min", "coverage", "kept", "n_images"]


@dataclass(frozen=True)
class Tuned:
    """Chosen thresholds.

    Attributes
    ----------
    config : the settings with the chosen ``top_p`` and ``s_min``.
    note : the thresholds and how they were chosen, in words.
    curve : every pair tried, with ``coverage`` and ``kept`` (the share of images with an element),
        and, where labels decided, ``insertion_advantage``; empty where nothing was chosen.
    chosen : the row of the curve that was chosen; empty where nothing was.
    """

    config: EvaluationConfig
    note: str
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)
    chosen: dict[str, Any] = field(default_factory=dict)


def as_given(config: EvaluationConfig) -> Tuned:
    """The thresholds of a configuration as they stand."""
    return Tuned(config, f"p = {config.top_p:g} and s_min = {config.s_min:g}, as given")


def tune(
    validation: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None = None,
    *,
    top_p: float | None = None,
    s_min: float | None = None,
    progress: bool = True,
) -> Tuned:
    """Choose p and s_min for a method and a segmenter on validation images (§3.2, §3.3).

    Taken is the highest insertion advantage over random boxes, in log-probability of the true
    class, among the settings whose elements cover at most a quarter of the image on average and
    that keep an element in at least 95 % of the images. For each p two values of s_min are tried,
    both scores that the method's segments have: the lowest that keeps the first bound, and the
    median of the scores between that and nine tenths of what nearly all images reach. With no such
    setting it is the one of least coverage among those that keep the second.

    Parameters
    ----------
    validation : images that are in no other split. Without labels, or with classes that the
        classifier does not know, or with ``label="predicted"``, `by_coverage` chooses.
    classifier, config, progress : as for :func:`evaluate`; the result is found again in the cache.
    top_p, s_min : a value that is given is kept, and the other one chosen.
    """
    config = config or EvaluationConfig()
    given = {name: v for name, v in {"top_p": top_p, "s_min": s_min}.items() if v is not None}
    config = config.model_copy(update=given)
    if not judged(validation, classifier, config):
        return by_coverage(validation, classifier, config, s_min=s_min, progress=progress)
    shares = TOP_P if top_p is None else (top_p,)
    few = {"repeats": REPEATS, "tests": ("insertion",), "individual": False, "s_min": 0.0}
    configs = [config.model_copy(update={**few, "top_p": p}) for p in shares]
    labels = true_labels(validation, classifier)

    def make() -> pd.DataFrame:
        found = _found(validation, classifier, configs, progress)
        ranked = [[_rank(one.elements) for one in images] for images in found]
        cuts = [
            _cuts(images) if s_min is None else [s_min] * (len(images) > 0) for images in ranked
        ]
        pairs = [(i, s) for i, some in enumerate(cuts) for s in some]
        rows = [_row(ranked[i], shares[i], s) for i, s in pairs]
        curve = pd.concat(rows or [_EMPTY], ignore_index=True)
        elements = [[_above(one, s) for one in found[i]] for i, s in pairs]
        known = [labels[one.item.id] for one in found[0]]
        outcomes = ablate_batch(classifier, elements, known, configs[0]) if elements else []
        advantages = [_advantage(table) for table in outcomes]
        return curve.assign(insertion_advantage=np.array(advantages, float))

    params = {
        "images": validation.identity,
        "labels": labels,
        "classifier": classifier.weights_sha256,
        "configs": [config_key(one) for one in configs],
        "s_min": s_min,
    }
    curve = cache.table("thresholds", params, (__name__,), make)
    if curve.empty:
        return _nothing(config, len(validation))
    chosen = statistics.choose(curve, MAX_COVERAGE, MIN_KEPT)
    how = f"chosen on {chosen['n_images']:.0f} validation images: "
    if chosen["within"]:
        how += (
            f"highest insertion advantage in log-probability at a coverage of at most "
            f"{MAX_COVERAGE:.0%}, with an element in at least {MIN_KEPT:.0%} of the images"
        )
    else:
        how += (
            f"none tried both covers at most {MAX_COVERAGE:.0%} and keeps an element in "
            f"{MIN_KEPT:.0%} of the images; this one covers {chosen['coverage']:.0%} and keeps one "
            f"in {chosen['kept']:.0%}"
        )
    return _tuned(config, how, curve, chosen)


def by_coverage(
    images: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None = None,
    *,
    s_min: float | None = None,
    progress: bool = True,
) -> Tuned:
    """Choose s_min without labels, at the configuration's p: by the coverage of the elements.

    Taken is the lowest s_min at which elements cover at most a quarter of the image on average; a
    lower one where it takes that to keep an element in 95 % of the images. Of a single photograph,
    elements are taken best first up to that coverage, and at least one. No outcome is looked at,
    so that the images may be those that are to be explained; the others are as for `tune`.
    """
    config = config or EvaluationConfig()
    if s_min is not None:
        return as_given(config.model_copy(update={"s_min": s_min}))
    whole = config.model_copy(update={"s_min": 0.0})

    def make() -> pd.DataFrame:
        (found,) = _found(images, classifier, [whole], progress)
        ranked = [_rank(one.elements) for one in found]
        scores = _scores(ranked)
        if not scores.size:
            return _EMPTY
        allowed = scores[_at(ranked, scores)[0] <= MAX_COVERAGE]
        return _row(ranked, config.top_p, min([*allowed[:1], _reached(ranked)]))

    params = {
        "images": images.identity,
        "classifier": classifier.weights_sha256,
        "config": config_key(whole),
    }
    curve = cache.table("thresholds", params, (__name__,), make)
    if curve.empty:
        return _nothing(config, len(images))
    chosen = curve.to_dict("records")[0]
    n = chosen["n_images"]
    kind = "validation image" if images.split == "validation" else "image"
    how = (
        f"chosen without labels on {n} {kind}{'s' * (n > 1)}: elements cover "
        f"{chosen['coverage']:.0%} of the image on average, "
    )
    near, kept = f"the target of {MAX_COVERAGE:.0%}", f"an element in {chosen['kept']:.0%}"
    below = chosen["coverage"] <= MAX_COVERAGE
    how += f"nearest below {near}" if below else f"above {near}, which leaves {kept} of the images"
    return _tuned(config, how, curve, {str(name): value for name, value in chosen.items()})


def judged(images: data.GeoDataset, classifier: Classifier, config: EvaluationConfig) -> bool:
    """Whether outcomes can be judged by the images' labels."""
    known = set(images.classes) <= set(classifier.classes) and None not in images.labels
    return config.label == "true" and known and len(images) > 0


def _tuned(
    config: EvaluationConfig, how: str, curve: pd.DataFrame, chosen: dict[str, Any]
) -> Tuned:
    update = {name: float(chosen[name]) for name in ("top_p", "s_min")}
    note = f"p = {update['top_p']:g} and s_min = {update['s_min']:.3f}, {how}"
    return Tuned(config.model_copy(update=update), note, curve, chosen)


def _nothing(config: EvaluationConfig, n: int) -> Tuned:
    note = (
        f"p = {config.top_p:g} and s_min = {config.s_min:g}, the defaults: no segment "
        f"scores above zero in the {n} images to choose on"
    )
    return Tuned(config, note)


# Elements of any score above zero, best first: those above an s_min are the first of them ---------


def _found(
    images: data.GeoDataset,
    classifier: Classifier,
    configs: Sequence[EvaluationConfig],
    progress: bool,
) -> list[list[Extracted]]:
    """Readable images with all their elements under each configuration, without what takes room."""
    found: list[list[Extracted]] = [[] for _ in configs]
    title = f"thresholds of {configs[0].attribution} × {configs[0].segmenter}"
    with progress_bar(title, len(images), "image", progress) as bar:
        for shard in shards(images, classifier, configs[0].shard_size):
            for kept, extracted in zip(found, choices(shard, classifier, configs), strict=True):
                kept += [_light(one) for one in extracted]
            bar.update(len(shard.dataset))
    return found


def _light(one: Extracted) -> Extracted:
    none = np.zeros((0, *one.elements.shape), bool)
    elements = Elements(none, one.elements.boxes, one.elements.table)
    item = replace(one.item, image=np.zeros((0, 0, 3), np.uint8), scene=None)
    return Extracted(item, one.image, one.attribution, Segments(none), elements)


def _above(one: Extracted, s_min: float) -> Extracted:
    found = one.elements
    n = int((found.table["score"] >= s_min).sum())
    return replace(one, elements=Elements(found.masks, found.boxes[:n], found.table[:n]))


class _Ranked(NamedTuple):
    """Scores ``[M]`` of an image's elements, best first, and the coverage ``[M + 1]`` of the first
    0 to M of them."""

    scores: np.ndarray
    coverage: np.ndarray


def _rank(elements: Elements) -> _Ranked:
    covered, coverage = np.zeros(elements.shape, bool), [0.0]
    for x0, y0, x1, y1 in elements.boxes.tolist():
        covered[y0:y1, x0:x1] = True
        coverage.append(float(covered.mean()))
    return _Ranked(elements.table["score"].to_numpy(float), np.array(coverage))


def _scores(images: Sequence[_Ranked]) -> np.ndarray:
    """The scores that occur, ascending; rounded down, so that they are reached on any machine."""
    every = np.concatenate([one.scores for one in images] or [np.zeros(0)])
    return np.unique(np.floor(every * 1e6) / 1e6)


def _at(images: Sequence[_Ranked], s_min: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean coverage, and the share of images that keep an element, at each ``s_min``."""
    kept = [len(one.scores) - np.searchsorted(one.scores[::-1], s_min) for one in images]
    coverage = [one.coverage[n] for one, n in zip(images, kept, strict=True)]
    return np.mean(coverage, axis=0).round(9), np.mean(np.array(kept) > 0, axis=0)


def _reached(images: Sequence[_Ranked], share: float = MIN_KEPT) -> float:
    """The highest score that a share of the images reaches. Those without any can reach none: they
    are the first of those that may be left out."""
    best = np.sort([one.scores[0] for one in images if len(one.scores)])
    spare = int((1 - share) * len(images) + 1e-9) - (len(images) - len(best))
    return float(np.floor(best[max(spare, 0)] * 1e6) / 1e6)


def _cuts(images: Sequence[_Ranked]) -> list[float]:
    scores = _scores(images)
    if not scores.size:
        return []
    highest = MARGIN * _reached(images, NEARLY_ALL)
    within = scores[(_at(images, scores)[0] <= MAX_COVERAGE) & (scores <= highest)]
    if not within.size:
        return [highest]
    return np.unique(np.quantile(within, CUTS, method="nearest")).tolist()


def _row(images: Sequence[_Ranked], top_p: float, s_min: float) -> pd.DataFrame:
    coverage, kept = _at(images, np.array([s_min]))
    row = (top_p, s_min, coverage[0], kept[0], len(images))
    return pd.DataFrame([row], columns=COLUMNS)


def _advantage(outcomes: pd.DataFrame) -> float:
    found = statistics.advantages(outcomes, metric=METRIC)["advantage"]
    return float(np.sort(found).mean())


_EMPTY = pd.DataFrame(columns=COLUMNS, dtype=float)
