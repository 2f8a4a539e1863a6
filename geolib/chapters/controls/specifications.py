"""Controls of the claim that guided boxes beat random ones (§5 of arXiv 2605.00912).

The claim may rest on choices that the paper leaves open. A :class:`Specification` is one set of
such choices; :func:`outcomes` runs the tests of many, with two further baselines and with masks in
place of boxes; :func:`specifications` says in which of them the claim holds. :func:`twin` trains a
classifier to which masked boxes are nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from geolib import data, model, statistics
from geolib.ablation import donor_indices, faithfulness, torus_shifts
from geolib.chapters.experiment import Experiment
from geolib.model import Classifier, choose_device
from geolib.pipeline import shards as shards_
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import Elements, extract_elements

# What is compared, and the two regions of the outcome table that this means.
COMPARISONS = {
    ("boxes", "random boxes"): ("guided", "random"),
    ("boxes", "donor layout"): ("guided", "donor"),
    ("boxes", "torus shift"): ("guided", "torus"),
    ("masks", "torus shift"): ("masks", "masks torus"),
}
CHOICES = ("attribution", "segmenter", "region", "baseline", "test")
KEYS = ("attribution", "segmenter", "fill", "varied", "setting")
# The columns that tell specifications apart.
SPECIFICATION = (*KEYS, "region", "baseline", "test")
UNCHANGED = "as everywhere"
VERDICTS = ("holds", "undecided", "reversed")
# Bootstrap samples per interval: there are hundreds of specifications.
RESAMPLES = 1999


@dataclass(frozen=True)
class Specification:
    """One set of the choices that the paper leaves open.

    Attributes
    ----------
    config
        Everything that the pipeline takes.
    combine
        How the factors of the score are combined; see :func:`geolib.scoring.score_segments`.
        Any but "geometric" keeps as many elements of an image as the geometric mean does, because
        ``s_min`` belongs to the range of that mean.
    varied, setting
        The one choice in which it departs from the others, and its value; empty for none.
    """

    config: EvaluationConfig
    combine: str = "geometric"
    varied: str = ""
    setting: str = ""


def sweeps(config: EvaluationConfig, choices: Mapping[str, Iterable[Any]]) -> list[Specification]:
    """Specifications that depart from ``config`` in one choice each.

    A value that ``config`` has already is left out: it would count twice.

    Parameters
    ----------
    choices
        Values tried of each field of the configuration, or of ``combine``.
    """
    found = []
    for name, values in choices.items():
        for value in values:
            if name == "combine":
                one = Specification(config, combine=value, varied=name, setting=value)
            else:
                changed = EvaluationConfig(**config.model_dump() | {name: value})
                one = Specification(changed, varied=name, setting=str(value))
            if (one.config, one.combine) != (config, Specification.combine):
                found.append(one)
    return found


# Outcomes -----------------------------------------------------------------------------------------


def outcomes(
    dataset: data.GeoDataset,
    classifier: Classifier,
    specifications: Sequence[Specification],
    *,
    nulls: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Deletion and insertion under many specifications.

    Maps and segments are those of the pipeline, computed once and found in the cache.

    Parameters
    ----------
    dataset
        At least two labelled images that can be read.
    specifications
        Their configurations give the number of repeats.
    nulls
        Whether to add, beside random boxes, the two baselines of :func:`null_regions`, and masks
        in place of boxes.

    Returns
    -------
    DataFrame
        The outcome table of :func:`geolib.ablation.faithfulness` with the columns ``varied`` and
        ``setting``.
    """
    size = EvaluationConfig().shard_size
    shards = list(shards_.shards(dataset, classifier, size))  # pixels are read once, if at all
    labels = judged_by(dataset, classifier, [one.config for one in specifications])
    tables = []
    with progress_bar("specifications", len(specifications), "run", progress) as bar:
        for one in specifications:
            table = _outcomes(shards, classifier, labels, one, nulls)
            tables.append(table.assign(varied=one.varied, setting=one.setting))
            bar.update()
    return pd.concat(tables, ignore_index=True).assign(dataset=dataset.name)


def _outcomes(
    shards: Sequence[shards_.Shard],
    classifier: Classifier,
    labels: Mapping[str, int],
    one: Specification,
    nulls: bool,
) -> pd.DataFrame:
    def make() -> pd.DataFrame:
        config = one.config
        extracted = [e for shard in shards for e in shards_.extract(shard, classifier, config)]
        found = [_elements(e, one) for e in extracted]
        ids = [e.item.id for e in extracted]
        regions = null_regions(found, ids, config.repeats, config.seed) if nulls else {}
        return tested(extracted, found, classifier, labels, config, regions)

    params = upstream(shards, classifier, labels, one.config)
    params |= {"combine": one.combine, "nulls": nulls}
    return cached_table("controls", params, ("geolib.chapters.controls.specifications",), make)


def judged_by(
    dataset: data.GeoDataset, classifier: Classifier, configs: Iterable[EvaluationConfig]
) -> dict[str, int]:
    """True class of each image; empty where outcomes are judged by the predicted one."""
    if all(config.label == "predicted" for config in configs):
        return {}
    return shards_.true_labels(dataset, classifier)


def tested(
    extracted: Sequence[Extracted],
    found: Sequence[Elements],
    classifier: Classifier,
    labels: Mapping[str, int],
    config: EvaluationConfig,
    controls: Mapping[str, Sequence[np.ndarray]],
) -> pd.DataFrame:
    """Outcome table of the elements of some images, with further regions (``controls``)."""
    classifier.to(choose_device(config.device))
    ids = [one.item.id for one in extracted]
    images = torch.stack([one.image for one in extracted])
    return faithfulness(
        classifier,
        images,
        [labels[name] for name in ids] if config.label == "true" else None,
        found,
        image_ids=ids,
        individual=False,
        controls=controls,
        donors=images[donor_indices(ids, config.seed, 1)[:, 0]],
        **shards_.ablation_settings(config),
    )


def upstream(
    shards: Sequence[shards_.Shard],
    classifier: Classifier,
    labels: Mapping[str, int],
    config: EvaluationConfig,
) -> dict[str, Any]:
    """What a table of outcomes depends on, for the cache."""
    return {
        "images": [shard.identity for shard in shards],
        "labels": labels,
        "classifier": classifier.weights_sha256,
        **shards_.config_key(config),
    }


def _elements(extracted: Extracted, one: Specification) -> Elements:
    if one.combine == "geometric":
        return extracted.elements
    return extract_elements(
        extracted.attribution,
        extracted.segments,
        top_p=one.config.top_p,
        s_min=0,
        threshold=one.config.suppression,
        padding=one.config.padding,
        max_elements=len(extracted.elements),
        combine=one.combine,
    )


def null_regions(
    found: Sequence[Elements], image_ids: Sequence[str], repeats: int, seed: int = 0
) -> dict[str, list[np.ndarray]]:
    """Regions for the ``controls`` of :func:`geolib.ablation.faithfulness`.

    Two baselines beside random boxes. A *donor layout* is where another image has its elements:
    what streets have in common (road below, sky above) without what this one shows; its coverage
    equals the guided one's on average only. A *torus shift* moves the guided layout as a whole,
    wrapping round the edges: the same coverage exactly, and pieces that keep their distances.

    Returns
    -------
    dict
        For each image a bool ``[R,H,W]``: ``donor`` and ``torus`` of the boxes, ``masks`` (the
        elements' own outlines, R = 1) and ``masks torus``.
    """
    boxes, masks = [one.region() for one in found], [one.mask_region() for one in found]
    shifted = {
        name: [torus_shifts(r, i, seed, repeats) for r, i in zip(own, image_ids, strict=True)]
        for name, own in (("torus", boxes), ("masks torus", masks))
    }
    donors = donor_indices(image_ids, seed, repeats)
    layouts = [np.stack([boxes[i] for i in row]) for row in donors]
    return {"donor": layouts, "masks": [mask[None] for mask in masks], **shifted}


def cached_table(
    stage: str, params: Mapping[str, Any], modules: Sequence[str], make: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """A table from the cache, or made and kept there; see :func:`geolib.runtime.cache.compute`."""

    def build(folder: Path) -> None:
        make().to_parquet(folder / "table.parquet", index=False)

    return pd.read_parquet(cache.compute(stage, params, modules, build) / "table.parquet")


# Specification curve ------------------------------------------------------------------------------


def per_image(table: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Advantage of each image under every specification.

    Parameters
    ----------
    table
        Of :func:`outcomes`.
    metric
        As for :func:`geolib.statistics.advantages`.

    Returns
    -------
    DataFrame
        One row per specification × region (``boxes``, ``masks``) × baseline × test × image: the
        columns of :func:`geolib.statistics.advantages`, and ``changed``, the choice that is changed
        and its value.
    """
    parts = []
    for (region, baseline), pair in COMPARISONS.items():
        names = dict(zip(pair, ("guided", "random"), strict=True))
        part = table[table["region"].isin(pair)].replace({"region": names})
        # Not every specification was run against every baseline.
        part = part[part.groupby(list(KEYS))["region"].transform("nunique") == 2]
        if not part.empty:
            found = statistics.advantages(part, KEYS, metric)
            parts.append(found.assign(region=region, baseline=baseline))
    rows = pd.concat(parts, ignore_index=True)
    named = rows["varied"] + " " + rows["setting"]
    return rows.assign(changed=named.where(rows["varied"] != "", UNCHANGED))


def specifications(rows: pd.DataFrame) -> pd.DataFrame:
    """Advantage under every specification, and whether the claim holds there.

    Parameters
    ----------
    rows
        Of :func:`per_image`.

    Returns
    -------
    DataFrame
        One row per specification × region × baseline × test, smallest advantage first:
        ``advantage``, ``ci_low``, ``ci_high`` (over images), the ``detectable`` effect,
        ``n_images``, ``coverage``, ``without_elements`` (share of the images), ``changed``, and the
        ``verdict`` of :func:`verdict`.
    """
    found = []
    for key, group in rows.groupby(list(SPECIFICATION), sort=False):
        mean, low, high, _ = statistics.interval(group["advantage"], n_resamples=RESAMPLES)
        found.append(
            {
                **dict(zip(SPECIFICATION, key, strict=True)),
                "changed": group["changed"].iloc[0],
                "advantage": mean,
                "ci_low": low,
                "ci_high": high,
                "detectable": statistics.detectable_effect(group["advantage"]),
                "n_images": len(group),
                "coverage": group["coverage"].mean(),
                "without_elements": (group["n_elements"] == 0).mean(),
                "verdict": verdict(low, high),
            }
        )
    return pd.DataFrame(found).sort_values("advantage", kind="stable", ignore_index=True)


def verdict(low: float, high: float) -> str:
    """What an interval of an advantage says: it "holds", is "reversed", or is "undecided"."""
    return "holds" if low > 0 else "reversed" if high < 0 else "undecided"


def counts(curve: pd.DataFrame, rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """In how many specifications the claim holds, for each value of a choice, most often first.

    Parameters
    ----------
    curve
        Of :func:`specifications`, or some of its rows.
    rows
        The table of :func:`per_image` that it was made from.
    by
        Column of ``curve``.

    Returns
    -------
    DataFrame
        Index: the value. ``holds``, ``undecided``, ``reversed`` (numbers of specifications),
        ``share`` (of those that hold); ``advantage``, the mean over the specifications, with
        ``low`` and ``high`` over images and the ``detectable`` one; ``coverage`` and
        ``without_elements`` (means over the specifications).
    """
    found = pd.crosstab(curve[by], curve["verdict"])
    found = found.reindex(columns=list(VERDICTS), fill_value=0)
    found["share"] = found["holds"] / found.sum(axis=1)
    kept = curve.groupby(by)[["coverage", "without_elements"]].mean()
    for value, each in _image_means(curve, rows, by).items():
        mean, low, high, _ = statistics.interval(each)
        columns = ["advantage", "low", "high", "detectable"]
        found.loc[value, columns] = mean, low, high, statistics.detectable_effect(each)
    return found.join(kept).sort_values(["share", "advantage"], ascending=False)


def _image_means(curve: pd.DataFrame, rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean advantage of each image (index) under each value of a choice (columns)."""
    chosen = curve[list(dict.fromkeys([*SPECIFICATION, by]))]
    each = rows[[*SPECIFICATION, "image_id", "advantage"]].merge(chosen, on=list(SPECIFICATION))
    return each.pivot_table(index="image_id", columns=by, values="advantage")


def importance(
    curve: pd.DataFrame, rows: pd.DataFrame, choices: Iterable[str], seed: int = 0
) -> pd.DataFrame:
    """How far the values of each choice set the mean advantage apart, furthest first.

    To be read on specifications in which every value of a choice meets every value of the others.

    Parameters
    ----------
    curve, rows
        As for :func:`counts`.
    choices
        Columns of ``curve``.
    seed
        Of the bootstrap over images.

    Returns
    -------
    DataFrame
        Index: the choice. ``values``, how many it has; ``spread``, the standard deviation of the
        mean advantages at its values, with ``low`` and ``high`` (percentile interval over images);
        ``by_chance``, the spread that so many images are expected to show where the choice plays
        no part.
    """
    found = {}
    for name in choices:
        means = _image_means(curve, rows, name)
        effects = means.sub(means.mean(axis=1), axis=0).to_numpy()
        bounds = stats.bootstrap(
            (np.arange(len(effects)),),
            lambda drawn, e=effects: e[drawn].mean(axis=0).std(),
            n_resamples=999,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        found[name] = {
            "values": effects.shape[1],
            "spread": effects.mean(axis=0).std(),
            "low": bounds.low,
            "high": bounds.high,
            # Effects of an image sum to zero, and so does what chance leaves of their means.
            "by_chance": np.sqrt(effects.var(axis=0, ddof=1).mean() / len(effects)),
        }
    table = pd.DataFrame.from_dict(found, orient="index")
    return table.sort_values("spread", ascending=False)


# Twin ---------------------------------------------------------------------------------------------


def twin(
    experiment: Experiment, n_train: int, max_epochs: int, box_masks: float = 0.5
) -> Experiment:
    """The study with a classifier to which masked boxes are nothing new.

    The twin goes on learning from the study's classifier, on the same kind of images, a share of
    which is masked by random boxes. Both are explained with the same thresholds.

    Parameters
    ----------
    n_train
        Training images, the first of the study's.
    max_epochs
        Passes over them.
    box_masks
        Share of the images that are masked.
    """
    first = experiment.classifier
    train = experiment.train.subset(range(min(n_train, len(experiment.train))))
    config = experiment.training.model_copy(
        update={
            "weights": None,
            "image_size": first.image_size,
            "learning_rate": experiment.learning_rate / 4,  # it has learnt already
            "max_epochs": max_epochs,
            "box_masks": box_masks,
        }
    )
    params = {
        "config": config.model_dump(mode="json"),
        "initial": first.weights_sha256,
        "train": train.identity,
        "validation": experiment.validation.identity,
    }

    def build(folder: Path) -> None:
        start = folder / "start.safetensors"
        first.save(start)  # a checkpoint keeps its last layer, too
        going_on = config.model_copy(update={"arch": str(start)})
        learnt = model.train(train, experiment.validation, going_on)
        learnt.training_config = config.model_dump(mode="json")
        learnt.save(folder / "twin.safetensors")
        start.unlink()

    folder = cache.compute("twin", params, ("geolib.training.recipe",), build)
    chosen = experiment.tuned.config
    checkpoint = str(folder / "twin.safetensors")
    return experiment.variant(checkpoint=checkpoint, top_p=chosen.top_p, s_min=chosen.s_min)
