"""Whether explanations find the causes: elements and maps marked against causal effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler
from scipy.stats import spearmanr

from geolib import segmentation, statistics
from geolib.chapters.causes.effects import WITHOUT, scene_effects, scene_of
from geolib.concepts import concept_influence, scaled_k
from geolib.data import GeoDataset, GeoImage
from geolib.model import Classifier
from geolib.model.device import choose_device
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Shard
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import check_choice, score_segments, suppress
from geoscenes import MIN_PIXELS


def causes_table(comparison: pd.DataFrame) -> Styler:
    """How well methods find causes, best first, beside their differences from a reference.

    ``comparison`` is that of :func:`geolib.chapters.causes.compare`, with a column ``method``.
    """
    columns = {
        "value": "mark",
        "low": "low",
        "high": "high",
        "n_images": "scenes",
        "undefined": "undefined",
        "difference": "more than reference",
        "difference_low": "low ",
        "difference_high": "high ",
        "p_holm": "p (Holm)",
        "detectable": "detectable",
    }
    table = comparison.set_index("method")[list(columns)].rename(columns=columns)
    forms = dict.fromkeys(table.columns, "{:.3f}")
    forms |= dict.fromkeys(("scenes", "undefined"), "{:.0f}")
    forms |= dict.fromkeys(("more than reference", "low ", "high "), "{:+.3f}")
    formats: dict[Any, Any] = {**forms, "p (Holm)": "{:.4f}"}
    return table.rename_axis(index=None).style.format(formats, na_rep="–")


# An object is a cause when the prediction loses at least this much log-probability without it: a
# tenth of the probability.
CAUSAL = 0.1
TOP_K = (1, 3, 5)
# An object is found when one of so many best elements lies on it.
FOUND_AT = 5

# What orders the segments: the score of §3.3, concept influence, the causal effect itself, or the
# number of their pixels, which knows neither map nor network.
SCORES = ("element", "influence", "effect", "size")
INTERVENTIONS = (WITHOUT, "swapped")
TARGETS = {"label": "effect", "prediction": "effect_on_prediction"}
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
METHOD = ["attribution", "segmenter", "scores"]
# Columns of the difference from a reference, beside those of the mark itself.
PAIRED = {
    "difference": "difference",
    "low": "difference_low",
    "high": "difference_high",
    "n_images": "n_pairs",
    "p_value": "p_value",
    "detectable": "detectable",
}


@dataclass(frozen=True)
class Objects:
    """The visible objects of a scene, and what they do to the prediction.

    Attributes
    ----------
    masks : bool [N,H,W], visible pixels.
    cue : bool [N].
    effect : float [N], log-probability lost when the object goes (or is swapped).
    flips : bool [N], whether that changes the decision.
    """

    masks: np.ndarray
    cue: np.ndarray
    effect: np.ndarray
    flips: np.ndarray

    @property
    def causes(self) -> np.ndarray:
        """Where the objects are whose effect is at least ``CAUSAL``, bool [H,W]."""
        return np.any(self.masks[self.effect >= CAUSAL], axis=0)


# One scene ----------------------------------------------------------------------------------------


def _shared_pixels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Number of pixels that masks [N,H,W] and [M,H,W] share, [N,M]."""
    flat = [masks.reshape(len(masks), masks[0].size).astype(np.float32) for masks in (a, b)]
    return flat[0] @ flat[1].T


def lies_on(masks: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Which object each element lies on.

    An element lies on the object that it shares the most pixels with, unless more of its pixels
    show no object at all: then it lies on the ground or the sky.

    Parameters
    ----------
    masks : bool [N,H,W], elements.
    objects : bool [M,H,W].

    Returns
    -------
    int [N], index of the object, the first of equals; −1 for none.
    """
    if not len(masks) or not len(objects):
        return np.full(len(masks), -1)
    shared = _shared_pixels(masks, objects)
    bare = (masks & ~objects.any(0)).sum((1, 2))
    most = shared.max(1)
    return np.where((most > 0) & (most >= bare), shared.argmax(1), -1)


def rank_correlation(scores: np.ndarray, effects: np.ndarray) -> float:
    """Spearman's rank correlation of scores with effects.

    Scores that tell nothing apart are a failure to find effects that differ, not a missing value:
    they earn zero. NaN only where there is nothing to find, for fewer than two effects or equal
    ones.
    """
    if len(effects) < 2 or np.ptp(effects) == 0:
        return np.nan
    return float(spearmanr(scores, effects).statistic) if np.ptp(scores) > 0 else 0.0


def mark(scores: np.ndarray, masks: np.ndarray, objects: Objects) -> dict[str, float]:
    """How well the ranking of some segments finds the causes in one scene.

    Segments with a score of zero, or below, take part in the rank correlation, but are no elements.

    Parameters
    ----------
    scores : [N], best first.
    masks : bool [N,H,W].
    objects : the visible ones.

    Returns
    -------
    dict, NaN where a mark is undefined:
        rank, Spearman's correlation between score and causal effect, which is that of the object
        that the segment lies on (see `lies_on`), and zero on the ground; rank_objects, the
        correlation over objects, the same for every segmenter, each with the best score of the
        segments that lie on it, zero if none does;
        rank_shares, the same with the effects of all objects, each by the share of its pixels that
        the segment holds; rank_size, as rank, with the size of the effect whatever its sign
        (zero where all scores are equal, undefined for fewer than two segments, or objects, and
        where all effects are equal);
        precision_k, share of the k best elements (of all, where there are fewer) that lie on a
        cue; recall_k, share of the cues that one of the k best lies on (both undefined without a
        visible cue, the first also without elements);
        flips_found, share of the objects that flip the decision that one of the five best lies on
        (undefined where none does).
    """
    on = lies_on(masks, objects.masks)
    effect = _effect_of(on, objects)
    found = on[scores > 0]
    marks = {
        "rank": rank_correlation(scores, effect),
        "rank_objects": rank_correlation(_best_on(on, scores, objects), objects.effect),
        "rank_shares": rank_correlation(scores, _shared_effect(masks, objects)),
        "rank_size": rank_correlation(scores, abs(effect)),
    }
    on_cue = np.append(objects.cue, False)[found]  # −1, the ground, is the last
    for k in TOP_K:
        seen = bool(objects.cue.any() and len(found))
        marks[f"precision_{k}"] = float(on_cue[:k].mean()) if seen else np.nan
        marks[f"recall_{k}"] = _share_found(objects.cue, found[:k])
    marks["flips_found"] = _share_found(objects.flips, found[:FOUND_AT])
    return marks


def _effect_of(on: np.ndarray, objects: Objects) -> np.ndarray:
    return np.append(objects.effect, 0.0)[on]


def _best_on(on: np.ndarray, scores: np.ndarray, objects: Objects) -> np.ndarray:
    """Best score of the segments that lie on each object, zero where none does."""
    best = np.full(len(objects.effect), -np.inf)
    np.maximum.at(best, on[on >= 0], scores[on >= 0])
    return np.where(np.isfinite(best), best, 0.0)


def _shared_effect(masks: np.ndarray, objects: Objects) -> np.ndarray:
    if not len(masks) or not len(objects.masks):
        return np.zeros(len(masks))
    shares = _shared_pixels(masks, objects.masks) / objects.masks.sum((1, 2))
    return shares @ objects.effect


def _share_found(wanted: np.ndarray, found: np.ndarray) -> float:
    """Share of the wanted objects, bool [M], that are among those found, int [K]."""
    return float(np.isin(np.flatnonzero(wanted), found).mean()) if wanted.any() else np.nan


def mark_map(attribution: np.ndarray, objects: Objects) -> dict[str, float]:
    """How well a map finds the causes in one scene.

    Parameters
    ----------
    attribution : [H,W] in 0…1; a map of zeros points nowhere, and counts as an even one.
    objects : the visible ones.

    Returns
    -------
    dict, NaN where no object is a cause:
        pointing, 1 if the map's maximum lies on a cause (the pointing game; of tied maxima, their
        share); mass, share of the map's sum that lies on causes; area, the causes' share of the
        image, which is what a blind map scores in both.
    """
    causes = objects.causes
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


def effects(dataset: GeoDataset, classifier: Classifier, *, progress: bool = True) -> pd.DataFrame:
    """Causal effect of every object of a dataset of scenes; found in the cache if known.

    Parameters
    ----------
    dataset : scenes, as large as the classifier's input.
    classifier : whose prediction is at stake.
    progress : whether to show a progress bar.

    Returns
    -------
    DataFrame, see `scene_effects`; the cues are swapped for those of the dataset's classes.

    Raises
    ------
    ValueError
        If the dataset is empty or holds a photograph, or its classes are not the classifier's.
    """
    config = EvaluationConfig()
    if not len(dataset):
        raise ValueError("dataset holds no images")
    tables = []
    with progress_bar("causal effects", len(dataset), "scene", progress) as bar:
        for shard in shards.shards(dataset, classifier, config.shard_size):
            tables.append(_shard_effects(shard, classifier))
            bar.update(len(shard.dataset))
    return pd.concat(tables, ignore_index=True)


def _shard_effects(shard: Shard, classifier: Classifier) -> pd.DataFrame:
    labels = shards.true_labels(shard.dataset, classifier)

    def build(folder: Path) -> None:
        classifier.to(choose_device())
        with shards.single_thread(classifier.mean.device.type == "cpu"):
            table = scene_effects(
                classifier,
                shard.items,
                [labels[item.id] for item in shard.items],
                countries=shard.dataset.classes,
            )
        table.to_parquet(folder / "effects.parquet", index=False)

    params = {"images": shard.identity, "labels": labels, "classifier": shard.weights_sha256}
    folder = cache.compute("effects", params, ("geolib.chapters.causes.effects",), build)
    return pd.read_parquet(folder / "effects.parquet")


def object_effects(
    table: pd.DataFrame, intervention: str = WITHOUT, target: str = "label"
) -> pd.DataFrame:
    """One effect per object.

    Parameters
    ----------
    table : of `scene_effects`.
    intervention : "without", or "swapped": the mean over the other countries, as if one of them
        were drawn. (The most damaging would be larger wherever there are more to choose from, and
        larger by chance.) What is no cue looks alike everywhere, and has the effect zero.
    target : "label", the true class, or "prediction", the class predicted for the whole scene.

    Returns
    -------
    DataFrame, indexed by image_id and object: category, cue, look, pixels, covers_cue; effect;
        flips, whether removing it changes the decision, or any swap does.
    """
    check_choice("intervention", intervention, INTERVENTIONS)
    check_choice("target", target, TARGETS)
    keys = ["image_id", "object"]
    whole = table[table["intervention"] == WITHOUT].set_index(keys)
    one = whole[["category", "cue", "look", "pixels", "covers_cue"]]
    if intervention == WITHOUT:
        return one.assign(effect=whole[TARGETS[target]], flips=whole["flipped"])
    swaps = table[table["intervention"] != WITHOUT].groupby(keys)
    return one.assign(
        effect=swaps[TARGETS[target]].mean().reindex(one.index, fill_value=0.0),
        flips=swaps["flipped"].any().reindex(one.index, fill_value=False),
    )


def visible_objects(item: GeoImage, found: pd.DataFrame) -> Objects:
    """Objects of a scene of which at least 30 pixels are visible.

    Parameters
    ----------
    item : a scene.
    found : its objects' effects, of `object_effects`, indexed by object.
    """
    scene = scene_of(item)
    seen = [o for o in scene.objects if int(o.mask.sum()) >= MIN_PIXELS]
    rows = found.loc[[o.id for o in seen]]
    masks = np.array([o.mask for o in seen], bool).reshape(-1, scene.size, scene.size)
    return Objects(
        masks,
        rows["cue"].to_numpy(bool),
        rows["effect"].to_numpy(float),
        rows["flips"].to_numpy(bool),
    )


def marks(
    dataset: GeoDataset,
    classifier: Classifier,
    configs: Sequence[EvaluationConfig],
    *,
    scores: str = "element",
    intervention: str = WITHOUT,
    target: str = "label",
    progress: bool = True,
) -> pd.DataFrame:
    """How well attribution methods with segmenters find the causes, scene by scene.

    All segments are ranked, near-duplicates removed as §3.3 of arXiv 2605.00912 has it; the
    threshold on the score plays no part.

    Parameters
    ----------
    dataset, classifier, progress : see `effects`.
    configs : each with an attribution method, a segmenter and a salient share.
    scores : what ranks the segments: the "element" score of §3.3; concept "influence" of
        arXiv 2104.14995 with no smallest size; the causal "effect" itself, which is what no
        explanation can exceed; or the "size" of a segment, a control that sees neither map nor
        network.
    intervention, target : see `object_effects`.

    Returns
    -------
    DataFrame, one row per method and scene: attribution, segmenter, scores, image_id, n_segments,
    and the marks of `mark` and `mark_map`.

    Raises
    ------
    ValueError
        For an unknown option, no configs, or as `effects`.
    """
    check_choice("scores", scores, SCORES)
    check_choice("intervention", intervention, INTERVENTIONS)
    check_choice("target", target, TARGETS)
    if not configs or not len(dataset):
        raise ValueError(f"{len(configs)} configs and {len(dataset)} images; expected some of each")
    tables = []
    with progress_bar("marking explanations", len(dataset), "scene", progress) as bar:
        for shard in shards.shards(dataset, classifier, EvaluationConfig().shard_size):
            for config in configs:
                one = _shard_marks(shard, classifier, config, scores, intervention, target)
                tables.append(one)
            bar.update(len(shard.dataset))
    return pd.concat(tables, ignore_index=True)


def _shard_marks(
    shard: Shard,
    classifier: Classifier,
    config: EvaluationConfig,
    scores: str,
    intervention: str,
    target: str,
) -> pd.DataFrame:
    def build(folder: Path) -> None:
        found = object_effects(_shard_effects(shard, classifier), intervention, target)
        maps = shards.attribution_maps(shard, classifier, config).numpy()
        segments = shards.segments(shard, classifier, config)
        rows = []
        for item, attribution, candidates in zip(shard.items, maps, segments, strict=True):
            objects = visible_objects(item, found.loc[[item.id]].droplevel("image_id"))
            ranking, masks = _rank(attribution, candidates.masks, objects, config, scores)
            rows.append(
                {
                    "attribution": config.attribution,
                    "segmenter": config.segmenter,
                    "scores": scores,
                    "image_id": item.id,
                    "n_segments": len(masks),
                    **mark(ranking, masks, objects),
                    **mark_map(attribution, objects),
                }
            )
        pd.DataFrame(rows).to_parquet(folder / "marks.parquet", index=False)

    used = {"attribution", "attribution_options", "segmenter", "segmenter_options"}
    params = {
        "images": shard.identity,
        "classifier": shard.weights_sha256,
        "config": config.model_dump(
            mode="json", include=used | {"top_p", "suppression", "precision"}
        ),
        "segmenter": segmentation.shared(config.segmenter, **config.segmenter_options).key,
        "marks": [scores, intervention, target],
    }
    folder = cache.compute("marks", params, ("geolib.chapters.causes.marks",), build)
    return pd.read_parquet(folder / "marks.parquet")


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
        values = _effect_of(lies_on(masks, objects.masks), objects)
    kept = suppress(masks, values, config.suppression)
    return values[kept], masks[kept]


# Tables -------------------------------------------------------------------------------------------


def by_category(table: pd.DataFrame, *, min_images: int = 8) -> pd.DataFrame:
    """Mean effect of each kind of visible object, removed and swapped, with intervals over scenes.

    Of what is no cue only objects that cover none count: what comes to light behind the others, or
    goes with them, is not their own effect.

    Parameters
    ----------
    table : of `effects`.
    min_images : fewest scenes that show the kind.

    Returns
    -------
    DataFrame, one row per category and intervention, largest effect of removal first: category,
    cue, intervention, value, low, high, n_images.
    """
    rows = []
    for intervention in INTERVENTIONS:
        found = object_effects(table, intervention).query("pixels >= @MIN_PIXELS")
        seen = found[found["cue"] | ~found["covers_cue"]]
        for (category, cue), group in seen.groupby(["category", "cue"]):
            per_image = group.groupby("image_id")["effect"].mean()
            if len(per_image) < min_images or (intervention != WITHOUT and not cue):
                continue
            mean, low, high, _ = statistics.interval(per_image)
            rows.append(
                {
                    "category": category,
                    "cue": cue,
                    "intervention": intervention,
                    "value": mean,
                    "low": low,
                    "high": high,
                    "n_images": len(per_image),
                }
            )
    columns = ["category", "cue", "intervention", "value", "low", "high", "n_images"]
    kinds = pd.DataFrame(rows, columns=columns)
    removed = kinds[kinds["intervention"] == WITHOUT].set_index("category")["value"]
    order = kinds["category"].map(-removed)
    return kinds.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def compare(
    table: pd.DataFrame, measure: str, against: Mapping[str, str], *, seed: int = 0
) -> pd.DataFrame:
    """A mark of every method, and its difference from a reference, with intervals over scenes.

    Parameters
    ----------
    table : rows of `marks` of several methods.
    measure : a name in ``MEASURES``.
    against : which method each is compared with, ``{"attribution": "random"}`` for the same
        segmenter under a random map, ``{"segmenter": "truth"}`` for the same map with true
        outlines. A pair is compared on the scenes in which both are defined.
    seed : of bootstrap and permutation test.

    Returns
    -------
    DataFrame, one row per method, best first, those that are undefined in most scenes last:
    attribution, segmenter, scores; value, low, high;
    n_images; undefined (scenes in which the mark is not defined); difference, difference_low,
    difference_high, n_pairs, p_value, p_holm (over all methods of the table); detectable, the
    smallest difference that this sample would have shown with a power of 80 %.
    The reference itself, and methods whose reference is not in the table, have no difference.

    Raises
    ------
    ValueError
        For an unknown measure or column, or a scene that a method has twice.
    """
    check_choice("measure", measure, MEASURES)
    for column in against:
        check_choice("against", column, METHOD)
    wide = table.pivot(index="image_id", columns=METHOD, values=measure)
    rows = []
    n_images = table.groupby(METHOD)["image_id"].count()
    for method in wide.columns:
        values = wide[method].dropna()
        mean, low, high, _ = statistics.interval(values, seed=seed)
        row = {**dict(zip(METHOD, method, strict=True)), "value": mean, "low": low, "high": high}
        row |= {"n_images": len(values), "undefined": n_images[method] - len(values)}
        reference = tuple(against.get(n, own) for n, own in zip(METHOD, method, strict=True))
        if reference != method and reference in wide.columns:
            found = statistics.paired((wide[method] - wide[reference]).dropna(), seed=seed)
            row |= {PAIRED[name]: value for name, value in found._asdict().items()}
        rows.append(row)
    columns = [*METHOD, "value", "low", "high", "n_images", "undefined", *PAIRED.values()]
    marked = pd.DataFrame(rows, columns=columns)
    marked["p_holm"] = statistics.holm(marked["p_value"])
    rare = marked["undefined"] > marked["n_images"]
    order = marked.assign(rare=rare).sort_values(
        ["rare", "value"], ascending=[True, False], kind="stable"
    )
    return order.drop(columns="rare").reset_index(drop=True)
