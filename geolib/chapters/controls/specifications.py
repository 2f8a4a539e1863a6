"""Controls of the claim that guided boxes beat random ones (§5 of arXiv 2605.00912).

The claim may rest on choices that the paper leaves open. A :class:`Specification` is one set of
such choices; :func:`outcomes` runs the tests of many, with two further baselines and with masks in
place of boxes; :func:`specification_curve` says in which of them the claim holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from geolib import statistics
from geolib.ablation import faithfulness
from geolib.chapters.baselines import donor_indices, torus_shifts
from geolib.chapters.tables import mean_row
from geolib.data import GeoDataset
from geolib.model import Classifier, choose_device
from geolib.pipeline import shards as shards_
from geolib.pipeline.shards import EvaluationConfig, Extracted, Shard
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


class Tested(NamedTuple):
    """What is tested of some images."""

    elements: Sequence[Elements]
    further: Mapping[str, Sequence[np.ndarray]]  # ``controls`` of ablation.faithfulness
    runs_out: Mapping[str, float] | None = None  # an image's coverage by all of its elements


@dataclass(frozen=True)
class Specification:
    """One set of the choices that the paper leaves open.

    Scores combined otherwise than by the geometric mean keep as many elements of an image as that
    one does, because ``s_min`` belongs to its range.
    """

    config: EvaluationConfig
    combine: str = "geometric"
    varied: str = ""  # the one choice in which it departs from the others
    setting: str = ""


def sweeps(config: EvaluationConfig, choices: Mapping[str, Iterable[Any]]) -> list[Specification]:
    """Specifications that depart from ``config`` in one choice each.

    ``choices`` are values tried of each field of the configuration, or of ``combine``. A value that
    ``config`` has already is left out: it would count twice.
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


class OutcomeTables:
    """Deletion and insertion of the elements of some images, with further regions of one's own.

    Pixels are read once, if at all; tables are kept in the cache.
    """

    def __init__(
        self, dataset: GeoDataset, classifier: Classifier, configs: Iterable[EvaluationConfig]
    ) -> None:
        self.classifier = classifier
        size = EvaluationConfig().shard_size
        self.shards: list[Shard] = list(shards_.shards(dataset, classifier, size))
        judged = any(config.label == "true" for config in configs)
        self.labels = shards_.true_labels(dataset, classifier) if judged else {}

    def table(
        self,
        stage: str,
        module: str,
        config: EvaluationConfig,
        ways: Mapping[str, Any],
        choose: Callable[[Sequence[Extracted]], Tested],
    ) -> pd.DataFrame:
        """The outcome table of what ``choose`` makes of the images with their maps and segments.

        ``ways`` and the module's code are what it depends on.
        """

        def make() -> pd.DataFrame:
            of_shards = (shards_.extract(one, self.classifier, config) for one in self.shards)
            extracted = list(chain.from_iterable(of_shards))
            return self._outcomes(extracted, config, choose(extracted))

        params = {
            "images": [shard.identity for shard in self.shards],
            "labels": self.labels,
            "classifier": self.classifier.weights_sha256,
            **shards_.config_key(config),
            **ways,
        }
        return cache.table(stage, params, (module,), make)

    def _outcomes(
        self, extracted: Sequence[Extracted], config: EvaluationConfig, tested: Tested
    ) -> pd.DataFrame:
        self.classifier.to(choose_device(config.device))
        ids = [one.item.id for one in extracted]
        images = torch.stack([one.image for one in extracted])
        table = faithfulness(
            self.classifier,
            images,
            [self.labels[name] for name in ids] if config.label == "true" else None,
            tested.elements,
            image_ids=ids,
            individual=False,
            controls=tested.further,
            donors=images[donor_indices(ids, config.seed, 1)[:, 0]],
            **shards_.ablation_settings(config),
        )
        if tested.runs_out is not None:
            table["runs_out"] = table["image_id"].map(tested.runs_out)
        return table


def outcomes(
    dataset: GeoDataset,
    classifier: Classifier,
    specifications: Sequence[Specification],
    *,
    nulls: bool = True,
) -> pd.DataFrame:
    """Deletion and insertion under many specifications.

    ``nulls`` adds, beside random boxes, the two baselines of :func:`null_regions`, and masks in
    place of boxes. The outcome table has the columns ``varied`` and ``setting``.
    """
    tables = OutcomeTables(dataset, classifier, [one.config for one in specifications])
    found = []
    with progress_bar("specifications", len(specifications), "run", True) as bar:
        for one in specifications:
            ways = {"combine": one.combine, "nulls": nulls}
            choose = partial(_tested, one, nulls)
            table = tables.table("controls", __name__, one.config, ways, choose)
            found.append(table.assign(varied=one.varied, setting=one.setting))
            bar.update()
    return pd.concat(found, ignore_index=True).assign(dataset=dataset.name)


def _tested(one: Specification, nulls: bool, extracted: Sequence[Extracted]) -> Tested:
    elements, ids = [_elements(e, one) for e in extracted], [e.item.id for e in extracted]
    drawn = (one.config.repeats, one.config.seed)
    return Tested(elements, null_regions(elements, ids, *drawn) if nulls else {})


def _elements(extracted: Extracted, one: Specification) -> Elements:
    if one.combine == "geometric":
        return extracted.elements
    return all_elements(
        extracted, one.config, max_elements=len(extracted.elements), combine=one.combine
    )


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
    """Two baselines beside random boxes, and masks in place of boxes; for each image bool [R,H,W].

    A *donor layout* is where another image has its elements: what streets have in common without
    what this one shows; its coverage equals the guided one's on average only. A *torus shift* moves
    the guided layout as a whole, wrapping round the edges: the same coverage exactly.
    """
    boxes, masks = [one.region() for one in found], [one.mask_region() for one in found]
    shifted = {
        name: [torus_shifts(r, i, seed, repeats) for r, i in zip(own, image_ids, strict=True)]
        for name, own in (("torus", boxes), ("masks torus", masks))
    }
    donors = donor_indices(image_ids, seed, repeats)
    layouts = [np.stack([boxes[i] for i in row]) for row in donors]
    return {"donor": layouts, "masks": [mask[None] for mask in masks], **shifted}


# Specification curve ------------------------------------------------------------------------------


def per_image(table: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Advantage of each image under every specification × region × baseline × test.

    ``changed`` is the choice that a specification changes, and its value.
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


def specification_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Advantage under every specification of :func:`per_image`, smallest first.

    ``without_elements`` is a share of the images.
    """
    groups = rows.assign(none=rows["n_elements"] == 0).groupby(list(SPECIFICATION), sort=False)
    advantages = [group.dropna() for _, group in groups["advantage"]]
    curve = groups.agg(
        changed=("changed", "first"),
        n=("advantage", "count"),
        coverage=("coverage", "mean"),
        without_elements=("none", "mean"),
    ).reset_index()
    ends = [found[:3] for found in statistics.intervals(advantages)]
    curve[["value", "low", "high"]] = ends
    curve["detectable"] = [statistics.detectable_effect(one) for one in advantages]
    curve["verdict"] = [verdict(low, high) for _, low, high in ends]
    return curve.sort_values("value", kind="stable", ignore_index=True)


def verdict(low: float, high: float) -> str:
    """What an interval of an advantage says: it "holds", is "reversed", or is "undecided"."""
    return "holds" if low > 0 else "reversed" if high < 0 else "undecided"


def by_choice(curve: pd.DataFrame, rows: pd.DataFrame, choice: str) -> pd.DataFrame:
    """In how many specifications the claim holds, for each value of a choice, most often first.

    ``curve`` may be some rows of the curve that was made from ``rows``. Numbers of specifications
    by verdict, the ``share`` that holds, and the mean advantage over images and specifications.
    """
    found = pd.crosstab(curve[choice], curve["verdict"])
    found = found.reindex(columns=list(VERDICTS), fill_value=0)
    found["share"] = found["holds"] / found.sum(axis=1)
    kept = curve.groupby(choice)[["coverage", "without_elements"]].mean()
    columns = ["value", "low", "high", "detectable"]
    for value, each in _image_means(curve, rows, choice).items():
        row = mean_row(each) | {"detectable": statistics.detectable_effect(each)}
        found.loc[value, columns] = [row[name] for name in columns]
    return found.join(kept).sort_values(["share", "value"], ascending=False)


def _image_means(curve: pd.DataFrame, rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean advantage of each image (index) under each value of a choice (columns)."""
    chosen = curve[list(dict.fromkeys([*SPECIFICATION, by]))]
    each = rows[[*SPECIFICATION, "image_id", "advantage"]].merge(chosen, on=list(SPECIFICATION))
    return each.pivot_table(index="image_id", columns=by, values="advantage")


def importance(curve: pd.DataFrame, rows: pd.DataFrame, choices: Iterable[str]) -> pd.DataFrame:
    """How far the values of each choice set the mean advantage apart, furthest first.

    To be read on specifications in which every value of a choice meets every value of the others.
    ``spread`` is the standard deviation of the mean advantages at its values, with its percentile
    interval over images; ``by_chance``, that of a choice that plays no part.
    """
    found = {}
    for name in choices:
        means = _image_means(curve, rows, name)
        effects = means.sub(means.mean(axis=1), axis=0).to_numpy()
        draws = np.random.default_rng(0).integers(len(effects), size=(999, len(effects)))
        low, high = np.quantile(effects[draws].mean(axis=1).std(axis=1), [0.025, 0.975])
        found[name] = {
            "values": effects.shape[1],
            "spread": effects.mean(axis=0).std(),
            "low": low,
            "high": high,
            # Effects of an image sum to zero, and so does what chance leaves of their means.
            "by_chance": np.sqrt(effects.var(axis=0, ddof=1).mean() / len(effects)),
        }
    table = pd.DataFrame.from_dict(found, orient="index")
    return table.sort_values("spread", ascending=False)
