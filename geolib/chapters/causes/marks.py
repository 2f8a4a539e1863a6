"""Whether explanations find the causes: elements and maps marked against causal effects."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from geolib import segmentation, statistics
from geolib.chapters.causes.effects import object_effects, scene_of, shard_effects
from geolib.chapters.experiment import Experiment
from geolib.chapters.tables import mean_row
from geolib.concepts import concept_influence, scaled_k
from geolib.data import GeoImage
from geolib.masks import intersections
from geolib.model import Classifier
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Shard
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import check_choice, score_segments, suppress
from geoscenes import MIN_PIXELS

# An object is a cause when the prediction loses at least this much log-probability without it: a
# tenth of the probability.
CAUSAL = 0.1
TOP_K = (1, 3, 5)
# An object is found when one of so many best elements lies on it.
FOUND_AT = 5

# What orders the segments: the score of §3.3, concept influence, the causal effect itself, or the
# number of their pixels, which knows neither map nor network.
SCORES = ("element", "influence", "effect", "size")
MEASURES = {
    "rank": "rank correlation",
    "rank_objects": "rank correlation over objects",
    "rank_shares": "rank correlation, effects shared out by pixels",
    "rank_size": "rank correlation with the size of the effect",
    **{f"precision_{k}": f"precision at {k}" for k in TOP_K},
    **{f"recall_{k}": f"recall at {k}" for k in TOP_K},
    "flips_found": "flipping objects found",
    "pointing": "maximum on a cause",
    "mass": "weight on causes",
    "area": "causes' share of the image",
}
METHOD = ["attribution", "segmenter"]


@dataclass(frozen=True)
class Objects:
    """The visible objects of a scene, and what they do to the prediction."""

    masks: np.ndarray  # bool [N,H,W], visible pixels
    cue: np.ndarray  # bool [N]
    effect: np.ndarray  # float [N], log-probability lost when the object goes, or is swapped
    flips: np.ndarray  # bool [N], whether the decision changes

    def effect_of(self, on: np.ndarray) -> np.ndarray:
        """Effects of what elements lie on, int [K] of :func:`lies_on`; zero on the ground."""
        return np.append(self.effect, 0.0)[on]


# One scene ----------------------------------------------------------------------------------------


def lies_on(masks: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Index of the object, of bool [M,H,W], that each element, bool [N,H,W], lies on: the first
    with the most pixels in common; −1 where more of the element's show no object at all."""
    if not len(masks) or not len(objects):
        return np.full(len(masks), -1)
    shared = intersections(masks, objects)
    bare = (masks & ~objects.any(0)).sum((1, 2))
    most = shared.max(1)
    return np.where((most > 0) & (most >= bare), shared.argmax(1), -1)


def rank_correlation(scores: np.ndarray, effects: np.ndarray) -> float:
    """Spearman's rank correlation of scores with effects. Scores that tell nothing apart earn zero;
    NaN only where there is nothing to find, for fewer than two effects or equal ones."""
    if len(effects) < 2 or np.ptp(effects) == 0:
        return np.nan
    if np.ptp(scores) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(scores), rankdata(effects))[0, 1])


def mark(scores: np.ndarray, masks: np.ndarray, objects: Objects) -> dict[str, float]:
    """How well a ranking of segments, ``scores`` [N] best first, finds the causes in one scene.

    The ``MEASURES`` of a ranking, NaN where undefined. A segment has the effect of the object that
    it lies on, zero on the ground, and is an element where it scores above zero.
    """
    on = lies_on(masks, objects.masks)
    effect = objects.effect_of(on)
    best = np.full(len(objects.effect), -np.inf)  # score on each object, zero where none lies on it
    np.maximum.at(best, on[on >= 0], scores[on >= 0])
    best[np.isinf(best)] = 0
    shares = intersections(masks, objects.masks) / objects.masks.sum((1, 2))
    marks = {
        "rank": rank_correlation(scores, effect),
        "rank_objects": rank_correlation(best, objects.effect),
        "rank_shares": rank_correlation(scores, shares @ objects.effect),
        "rank_size": rank_correlation(scores, abs(effect)),
    }
    found = on[scores > 0]
    on_cue = np.append(objects.cue, False)[found]  # −1, the ground, is the last
    for k in TOP_K:
        seen = bool(objects.cue.any() and len(found))
        marks[f"precision_{k}"] = float(on_cue[:k].mean()) if seen else np.nan
        marks[f"recall_{k}"] = _share_found(objects.cue, found[:k])
    marks["flips_found"] = _share_found(objects.flips, found[:FOUND_AT])
    return marks


def _share_found(wanted: np.ndarray, found: np.ndarray) -> float:
    """Share of the wanted objects, bool [M], that are among those found, int [K]."""
    return float(np.isin(np.flatnonzero(wanted), found).mean()) if wanted.any() else np.nan


def mark_map(attribution: np.ndarray, objects: Objects) -> dict[str, float]:
    """How well a map [H,W] finds the causes in one scene; NaN where no object is a cause.

    ``pointing``: share of its maxima on a cause; ``mass``: share of its sum (of zeros: as an even
    map); ``area``: the causes' share of the image, which is what a blind map scores in both.
    """
    causes = np.any(objects.masks[objects.effect >= CAUSAL], axis=0)
    if not causes.any():
        return dict.fromkeys(("pointing", "mass", "area"), np.nan)
    values = attribution.astype(float)
    even = values if values.max() > 0 else np.ones_like(values)
    return {
        "pointing": float(causes[values == values.max()].mean()),
        "mass": float(even[causes].sum() / even.sum()),
        "area": float(causes.mean()),
    }


# A dataset ----------------------------------------------------------------------------------------


def causal_objects(item: GeoImage, found: pd.DataFrame) -> Objects:
    """Objects of a scene that show at least 30 pixels; ``found`` are the effects of all of them."""
    scene = scene_of(item)
    seen = [o for o in scene.objects if int(o.mask.sum()) >= MIN_PIXELS]
    rows = found.loc[[o.id for o in seen]]
    masks = np.array([o.mask for o in seen], bool).reshape(-1, scene.size, scene.size)
    columns = {"cue": bool, "effect": float, "flips": bool}
    return Objects(masks, *(rows[name].to_numpy(kind) for name, kind in columns.items()))


def experiment_marks(
    experiment: Experiment,
    methods: Iterable[str],
    segmenters: Sequence[str],
    costly: Collection[str] = (),
    *,
    scores: str = "element",
    **reading: str,
) -> pd.DataFrame:
    """How well attribution methods with segmenters find the causes, a row per method and scene.

    All segments are ranked by one of ``SCORES`` at the untuned p, near-duplicates removed
    (§3.3 of arXiv 2605.00912). ``costly`` methods see the compared scenes, the others all.
    ``reading`` are the options of :func:`object_effects`.
    """
    check_choice("scores", scores, SCORES)
    tables, size = [], EvaluationConfig().shard_size
    for name in methods:
        images = experiment.compared if name in costly else experiment.evaluation
        with progress_bar(f"marking {name}", len(images), "scene", True) as bar:
            for shard in shards.shards(images, experiment.classifier, size):
                for segmenter in segmenters:
                    config = experiment.config(name, segmenter, tuned=False)
                    marked = _shard_marks(shard, experiment.classifier, config, scores, reading)
                    tables.append(marked)
                bar.update(len(shard.dataset))
    if not tables:
        raise ValueError("methods, segmenters and the evaluation images must each hold some")
    table = pd.concat(tables, ignore_index=True)
    if scores in ("size", "effect"):  # neither needs a map
        table[["pointing", "mass", "area"]] = np.nan
    return table


def _shard_marks(
    shard: Shard,
    classifier: Classifier,
    config: EvaluationConfig,
    scores: str,
    reading: Mapping[str, str],
) -> pd.DataFrame:
    def make() -> pd.DataFrame:
        maps = shards.attribution_maps(shard, classifier, config).numpy()
        segments = shards.segments(shard, classifier, config)
        effects = object_effects(shard_effects(shard, classifier), **reading)
        method = {"attribution": config.attribution, "segmenter": config.segmenter}
        rows = []
        for item, one, found in zip(shard.items, maps, segments, strict=True):
            objects = causal_objects(item, effects.loc[[item.id]].droplevel(0))
            ranking, masks = _rank(one, found.masks, objects, config, scores)
            marks = mark(ranking, masks, objects) | mark_map(one, objects)
            rows.append({**method, "image_id": item.id, **marks})
        return pd.DataFrame(rows)

    used = {"attribution", "attribution_options", "segmenter", "segmenter_options"}
    used |= {"top_p", "suppression", "precision"}
    params = {
        "images": shard.identity,
        "classifier": shard.weights_sha256,
        "config": config.model_dump(mode="json", include=used),
        "segmenter": segmentation.shared(config.segmenter, **config.segmenter_options).key,
        "marks": [scores, reading],
    }
    return cache.table("marks", params, (__name__,), make)


def _rank(
    attribution: np.ndarray,
    masks: np.ndarray,
    objects: Objects,
    config: EvaluationConfig,
    scores: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and masks of the segments, best first, without near-duplicates."""
    if scores == "element":
        values = score_segments(attribution, masks, config.top_p)["score"].to_numpy()
    elif scores == "influence":
        k = scaled_k(*attribution.shape)
        values = np.array([concept_influence(attribution, m, k, min_size=0) for m in masks])
    elif scores == "size":
        values = masks.mean((1, 2))
    else:
        values = objects.effect_of(lies_on(masks, objects.masks))
    kept = suppress(masks, values, config.suppression)
    return values[kept], masks[kept]


def against_reference(
    table: pd.DataFrame, measure: str, against: Mapping[str, str]
) -> pd.DataFrame:
    """A mark of every method, and its difference from a reference where both are defined.

    ``against`` is what the reference has otherwise: ``{"attribution": "random"}`` is a random map
    with the same segmenter. Best first, those that are ``undefined`` in most scenes last.
    """
    check_choice("measure", measure, MEASURES)
    for column in against:
        check_choice("against", column, METHOD)
    wide = table.pivot(index="image_id", columns=METHOD, values=measure)
    n_images = table.groupby(METHOD)["image_id"].count()
    rows = []
    for method in wide.columns:
        reference = tuple({**dict(zip(METHOD, method, strict=True)), **against}.values())
        gaps = pd.Series(dtype=float)
        if reference != method and reference in wide.columns:
            gaps = (wide[method] - wide[reference]).dropna()
        undefined = n_images[method] - wide[method].count()
        values = mean_row(wide[method]).values()
        rows.append([*method, *values, undefined, *statistics.paired(gaps)])
    columns = [*METHOD, "value", "low", "high", "n", "undefined", "difference", "difference_low"]
    columns += ["difference_high", "p_value", "detectable", "n_pairs"]
    marked = pd.DataFrame(rows, columns=columns)
    marked["p_holm"] = statistics.holm(marked["p_value"])
    marked["rare"] = marked["undefined"] > marked["n"]
    order = marked.sort_values(["rare", "value"], ascending=[True, False], kind="stable")
    return order.drop(columns="rare").reset_index(drop=True)
