"""Controls of the claim that guided boxes beat random ones (§5 of arXiv 2605.00912).

The claim may rest on choices that the paper leaves open. A :class:`Specification` is one set of
such choices; :func:`outcomes` runs the tests of many, with two further baselines and with masks in
place of boxes; :func:`specification_curve` says in which of them the claim holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from geolib import statistics
from geolib.ablation import faithfulness
from geolib.book.claims import MIN_N
from geolib.chapters.baselines import donor_indices, torus_shifts
from geolib.chapters.experiment import Experiment
from geolib.chapters.tables import grouped_means
from geolib.data import GeoDataset
from geolib.model import Classifier, choose_device
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import Elements, extract_elements
from geolib.statistics import Paired

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
SEEING, BLIND = "maps that look at it", "maps that ignore the network"

# What is tested of some images: their elements, and the ``controls`` of ablation.faithfulness.
Tested = tuple[Sequence[Elements], Mapping[str, Sequence[np.ndarray]]]
Choose = Callable[[Sequence[Extracted]], Tested]


@dataclass(frozen=True)
class Specification:
    """One set of the choices that the paper leaves open. Scores combined otherwise than by the
    geometric mean keep as many elements of an image as it does: ``s_min`` belongs to its range."""

    config: EvaluationConfig
    combine: str = "geometric"
    varied: str = ""  # the one choice in which it departs from the others
    setting: str = ""


def sweeps(config: EvaluationConfig, choices: Mapping[str, Iterable[Any]]) -> list[Specification]:
    """Specifications that depart from ``config`` in one choice each: ``choices`` are values of its
    fields, or of ``combine``. One that it has already is left out: it would count twice."""
    plain = Specification(config)
    found = []
    for name, value in ((name, value) for name, values in choices.items() for value in values):
        if name == "combine":
            one = replace(plain, combine=value)
        else:
            one = replace(plain, config=EvaluationConfig(**config.model_dump() | {name: value}))
        if one != plain:
            found.append(replace(one, varied=name, setting=str(value)))
    return found


# Outcomes -----------------------------------------------------------------------------------------


def outcome_tables(
    dataset: GeoDataset,
    classifier: Classifier,
    stage: str,
    module: str,
    runs: Sequence[tuple[EvaluationConfig, Mapping[str, Any], Choose]],
) -> Iterator[pd.DataFrame]:
    """Deletion and insertion with further regions of one's own, for each of some runs; cached.
    A run has its settings, what else it depends on beside the module's code, and a function that
    chooses what is tested of the images."""
    parts = list(shards.shards(dataset, classifier, EvaluationConfig().shard_size))
    judged = any(config.label == "true" for config, _, _ in runs)
    labels = shards.true_labels(dataset, classifier) if judged else {}
    images = [part.identity for part in parts]
    common = {"images": images, "labels": labels, "classifier": classifier.weights_sha256}

    def make(config: EvaluationConfig, choose: Choose) -> pd.DataFrame:
        extracted = [one for part in parts for one in shards.extract(part, classifier, config)]
        elements, further = choose(extracted)
        classifier.to(choose_device(config.device))
        ids = [one.item.id for one in extracted]
        batch = torch.stack([one.image for one in extracted])
        return faithfulness(
            classifier,
            batch,
            [labels[name] for name in ids] if config.label == "true" else None,
            elements,
            image_ids=ids,
            individual=False,
            controls=further,
            donors=batch[donor_indices(ids, config.seed, 1)[:, 0]],
            **shards.ablation_settings(config),
        )

    with progress_bar(stage, len(runs), "run", True) as bar:
        for config, ways, choose in runs:
            params = {**common, **shards.config_key(config), **ways}
            yield cache.table(stage, params, (module,), partial(make, config, choose))
            bar.update()


def outcomes(
    dataset: GeoDataset,
    classifier: Classifier,
    specifications: Sequence[Specification],
    *,
    nulls: bool = True,
) -> pd.DataFrame:
    """Deletion and insertion under many specifications, with columns ``varied`` and ``setting``;
    ``nulls`` adds the baselines of :func:`null_regions`, and masks in place of boxes."""
    runs = [
        (one.config, {"combine": one.combine, "nulls": nulls}, partial(_tested, one, nulls))
        for one in specifications
    ]
    tables = outcome_tables(dataset, classifier, "controls", __name__, runs)
    found = [
        table.assign(varied=one.varied, setting=one.setting)
        for one, table in zip(specifications, tables, strict=True)
    ]
    return pd.concat(found, ignore_index=True).assign(dataset=dataset.name)


def screen(
    experiment: Experiment,
    images: GeoDataset,
    crossed: Iterable[tuple[str, str]],
    swept: Iterable[tuple[str, str]],
    choices: Mapping[str, Iterable[Any]],
    repeats: int,
) -> pd.DataFrame:
    """Outcomes of methods crossed with segmenters, and of every single choice at some pairs."""

    def config(pair: tuple[str, str]) -> EvaluationConfig:
        return experiment.config(*pair).model_copy(update={"repeats": repeats})

    full = [Specification(config(pair)) for pair in crossed]
    single = [one for pair in swept for one in sweeps(config(pair), choices)]
    everything = outcomes(images, experiment.classifier, full)
    changed = outcomes(images, experiment.classifier, single, nulls=False)
    return pd.concat([everything, changed], ignore_index=True)


def _tested(one: Specification, nulls: bool, extracted: Sequence[Extracted]) -> Tested:
    elements = [e.elements for e in extracted]
    if one.combine != "geometric":
        elements = [
            all_elements(e, one.config, max_elements=len(e.elements), combine=one.combine)
            for e in extracted
        ]
    if not nulls:
        return elements, {}
    ids = [e.item.id for e in extracted]
    return elements, null_regions(elements, ids, one.config.repeats, one.config.seed)


def all_elements(extracted: Extracted, config: EvaluationConfig, **options: Any) -> Elements:
    """Elements of every score above zero, whatever the configuration's ``s_min``."""
    return extract_elements(
        extracted.attribution,
        extracted.segments,
        top_p=config.top_p,
        s_min=0,
        threshold=config.suppression,
        padding=config.padding,
        **options,
    )


def null_regions(
    found: Sequence[Elements], image_ids: Sequence[str], repeats: int, seed: int = 0
) -> dict[str, list[np.ndarray]]:
    """Two baselines beside random boxes, and masks in place of boxes; for each image bool [R,H,W]:
    where another image has its elements (of its coverage), and the guided layout moved as a whole,
    wrapping round the edges."""
    boxes, masks = [one.region() for one in found], [one.mask_region() for one in found]

    def moved(regions: Sequence[np.ndarray]) -> list[np.ndarray]:
        pairs = zip(regions, image_ids, strict=True)
        return [torus_shifts(region, name, seed, repeats) for region, name in pairs]

    return {
        "donor": [np.stack([boxes[i] for i in r]) for r in donor_indices(image_ids, seed, repeats)],
        "torus": moved(boxes),
        "masks": [mask[None] for mask in masks],
        "masks torus": moved(masks),
    }


# Specification curve ------------------------------------------------------------------------------


def per_image(table: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Advantage of each image under every specification × region × baseline × test; ``changed`` is
    the choice that a specification changes, and its value."""
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


def specification_curve(rows: pd.DataFrame, blind: Sequence[str] = ()) -> pd.DataFrame:
    """Advantage under every specification of :func:`per_image`, smallest first;
    ``without_elements`` is a share of the images, ``map`` sets the methods apart that are blind."""
    groups = rows.assign(none=rows["n_elements"] == 0).groupby(list(SPECIFICATION), sort=False)
    layouts = [group for _, group in groups["layouts"]]
    curve = groups.agg(
        changed=("changed", "first"),
        n=("advantage", "count"),
        coverage=("coverage", "mean"),
        without_elements=("none", "mean"),
    ).reset_index()
    found = pd.DataFrame(map(statistics.against_layouts, layouts), columns=Paired._fields)
    curve[["value", "low", "high", "detectable"]] = found[
        ["difference", "low", "high", "detectable"]
    ]
    curve["verdict"] = verdicts(curve["low"], curve["high"], curve["n"])
    curve["map"] = np.where(curve["attribution"].isin(blind), BLIND, SEEING)
    return curve.sort_values("value", kind="stable", ignore_index=True)


def verdicts(low: ArrayLike, high: ArrayLike, n: ArrayLike) -> np.ndarray:
    """What intervals of an advantage over n images say: it "holds", is "reversed", or, always from
    fewer than `MIN_N`, is "undecided"."""
    told = np.greater_equal(n, MIN_N)
    signs = [told & np.greater(low, 0), told & np.less(high, 0)]
    return np.select(signs, ["holds", "reversed"], "undecided")


def by_choice(curve: pd.DataFrame, rows: pd.DataFrame, choice: str) -> pd.DataFrame:
    """In how many specifications the claim holds, for each value of a choice, most often first;
    ``curve`` may be some rows of the curve of ``rows``, and the mean is over both."""
    found = pd.crosstab(curve[choice], curve["verdict"])
    found = found.reindex(columns=list(VERDICTS), fill_value=0)
    found["share"] = found["holds"] / found.sum(axis=1)
    kept = curve.groupby(choice)["without_elements"].mean()
    chosen = curve[list(dict.fromkeys([*SPECIFICATION, choice]))]
    each = rows[[*SPECIFICATION, "image_id", "advantage"]].merge(chosen, on=list(SPECIFICATION))
    of_image = each.groupby([choice, "image_id"])["advantage"].mean().dropna().reset_index()
    means = grouped_means(of_image, "advantage", choice).set_index(choice)
    detectable = of_image.groupby(choice)["advantage"].agg(statistics.detectable_effect)
    found = found.join([means, detectable.rename("detectable"), kept])
    return found.sort_values(["share", "value"], ascending=False).rename_axis(None)
