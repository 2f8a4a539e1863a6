"""Which of the choices that the paper leaves open move its result (§5 of arXiv 2605.00912)?

:func:`screen` changes each choice by itself; :func:`changes` holds the advantage of guided boxes
against that under the default settings, image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from geolib import statistics
from geolib.ablation import faithfulness
from geolib.chapters.baselines import donor_indices, torus_shifts
from geolib.data import GeoDataset
from geolib.model import Classifier, choose_device
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import Elements

# What tells specifications apart: the method whose settings they start from, and the choice that
# they change; "" for none.
SPECIFICATION = ["method", "choice", "setting"]
# Choices that are no settings, but what is compared: their values, and the two regions of the
# outcome table that these mean.
REGIONS = {
    "baseline": {"donor layout": ("guided", "donor"), "torus shift": ("guided", "torus")},
    "region": {"outlines": ("masks", "masks torus")},
}
# Choices that give scores another range, as the options of an attribution method do: s_min says
# nothing there, and each image keeps as many elements as under the default settings.
RESCORED = {"attribution", "attribution_target", "candidates", "center", "combine"}

# Whether a change stands after Holm's correction.
TOLD, NOT_TOLD = "stands after correction", "does not"

# What is tested of some images: their elements, and the ``controls`` of ablation.faithfulness.
Tested = tuple[Sequence[Elements], Mapping[str, Sequence[np.ndarray]]]
Choose = Callable[[Sequence[Extracted]], Tested]
Run = tuple[EvaluationConfig, Mapping[str, Any], Choose]


def outcome_tables(
    dataset: GeoDataset, classifier: Classifier, stage: str, module: str, runs: Sequence[Run]
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
            donors=batch[donor_indices(ids, config.seed, 1)[:, 0]]
            if config.fill == "donor"
            else None,
            **shards.ablation_settings(config),
        )

    with progress_bar(stage, len(runs), "run", True) as bar:
        for config, ways, choose in runs:
            params = {**common, **shards.config_key(config), **ways}
            yield cache.table(stage, params, (module,), partial(make, config, choose))
            bar.update()


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


# One choice at a time -----------------------------------------------------------------------------


def sweeps(
    config: EvaluationConfig, choices: Mapping[str, Iterable[Any]]
) -> dict[tuple[str, str], EvaluationConfig]:
    """Settings that depart from ``config`` in one choice, by its name and value. ``choices`` are
    fields of the settings or options of the attribution method; what is so already is left out."""
    found = {}
    pairs = ((name, value) for name, values in choices.items() for value in values)
    for name, value in ((name, value) for name, value in pairs if name not in REGIONS):
        changes = {name: value}
        if name not in EvaluationConfig.model_fields:
            changes = {"attribution_options": config.attribution_options | changes}
        one = EvaluationConfig(**config.model_dump() | changes)
        if one != config:
            named = value.items() if isinstance(value, Mapping) else [("", value)]
            found[name, ", ".join(f"{key} {each}".strip() for key, each in named)] = one
    return found


def screen(
    dataset: GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig,
    choices: Mapping[str, Iterable[Any]],
) -> pd.DataFrame:
    """Guided and random outcomes under the settings of a method, under its :func:`sweeps`, and of
    what else of ``REGIONS`` is among the choices; with the columns of ``SPECIFICATION``."""
    tables = partial(outcome_tables, dataset, classifier, "specifications", __name__)

    def default(extracted: Sequence[Extracted]) -> Tested:
        found, ids = [one.elements for one in extracted], [one.item.id for one in extracted]
        return found, null_regions(found, ids, config.repeats, config.seed)

    (plain,) = tables([(config, {"regions": True}, default)])
    kept = {
        str(name): int(n) for name, n in plain.groupby("image_id")["n_elements"].first().items()
    }

    def run(choice: str, one: EvaluationConfig) -> Run:
        if choice in EvaluationConfig.model_fields and choice not in RESCORED:
            return one, {}, lambda extracted: ([each.elements for each in extracted], {})
        every = one.model_copy(update={"s_min": 0.0})
        return every, {"kept": kept}, lambda extracted: (as_many(extracted, kept), {})

    named = {("", ""): plain[plain["region"].isin(["original", "guided", "random"])]}
    swept = sweeps(config, choices)
    found = tables([run(choice, one) for (choice, _), one in swept.items()])
    named |= dict(zip(swept, found, strict=True))
    for choice, value in ((name, value) for name in REGIONS for value in choices.get(name, ())):
        one, other = REGIONS[choice][value]
        rows = plain[plain["region"].isin([one, other])]
        named[choice, value] = rows.replace({"region": {one: "guided", other: "random"}})
    each = [table.assign(choice=name, setting=value) for (name, value), table in named.items()]
    return pd.concat(each, ignore_index=True).assign(method=config.attribution)


def as_many(extracted: Sequence[Extracted], kept: Mapping[str, int]) -> list[Elements]:
    """The best elements of each image, so many as ``kept`` says by its name."""
    cut = ((one.elements, kept[one.item.id]) for one in extracted)
    return [Elements(found.masks[:n], found.boxes[:n], found.table[:n]) for found, n in cut]


def changes(outcomes: pd.DataFrame) -> pd.DataFrame:
    """A row per specification of :func:`screen` and test: the mean ``advantage`` in probability and
    in ``accuracy``; ``value``, by how much the former differs from that under the default settings,
    image by image, with its interval; and ``p_holm``, corrected over all rows."""
    each, right = (
        statistics.advantages(outcomes, SPECIFICATION, metric)
        for metric in ("probability", "accuracy")
    )
    each["accuracy"] = right["advantage"]
    keys = ["method", "test", "image_id"]
    default = each[each["choice"] == ""].set_index(keys)["advantage"]
    each["change"] = each["advantage"] - each.join(default.rename("default"), keys)["default"]
    groups = each.groupby([*SPECIFICATION, "test"], sort=False)
    table = groups[["advantage", "accuracy", "coverage", "n_elements"]].mean()
    found = [statistics.paired(values)._asdict() for _, values in groups["change"]]
    table = table.join(pd.DataFrame(found, table.index).rename(columns={"difference": "value"}))
    changed = table.index.get_level_values("choice") != ""
    return table.assign(p_holm=statistics.holm(table["p_value"].where(changed))).reset_index()


def furthest(table: pd.DataFrame) -> pd.DataFrame:
    """Of :func:`changes`, for each choice the value that moves the advantage furthest in either
    test, the largest move on top; ``name`` says both, and the method where it is not the first."""
    rows = table[table["choice"] != ""].assign(size=table["value"].abs())
    sizes = rows.groupby(SPECIFICATION, sort=False)["size"].max().sort_values(ascending=False)
    order = sizes.reset_index().drop_duplicates(["method", "choice"])[SPECIFICATION]
    other = order["method"].where(order["method"] != table["method"].iloc[0], "")
    name = (other + " " + order["choice"]).str.strip() + ": " + order["setting"]
    told = np.where(rows["p_holm"] < 0.05, TOLD, NOT_TOLD)
    return order.assign(name=name).merge(rows.assign(told=told), on=SPECIFICATION)


def summary(table: pd.DataFrame) -> str:
    """How many of the :func:`changes` can be told, and whether any turns the result round."""
    rows = table[table["choice"] != ""]
    turned = rows[rows["advantage"] * (rows["advantage"] - rows["value"]) < 0]
    told = rows[rows["p_holm"] < 0.05]
    n, moving, turning = (one.groupby(SPECIFICATION).ngroups for one in (rows, told, turned))
    return (
        f"Of {n} values of {rows['choice'].nunique()} open choices, each changed by itself, "
        f"{moving} move the advantage of guided boxes beyond chance, and {turning} turn its sign"
    )
