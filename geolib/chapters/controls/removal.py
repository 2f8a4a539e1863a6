"""Does hiding an object do what taking it away does? Masked deletion against true removal.

Deletion (§5 of arXiv 2605.00912) puts a patch of colour where an object was, and a network may
falter over the patch rather than over what it hid. A scene can be rendered without the object, all
else equal to the pixel: :func:`removals` compares the two object by object, and
:func:`object_tests` asks whether the paper's conclusion survives when hidden objects are gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch

from geolib import statistics
from geolib.ablation import FILLS, ablate
from geolib.chapters.baselines import donor_indices
from geolib.chapters.causes.effects import dataset_effects, object_effects, scene_of
from geolib.chapters.controls.specifications import verdicts
from geolib.chapters.elements import MIN_PIXELS
from geolib.chapters.tables import cells, grouped_means
from geolib.data import GeoDataset, GeoImage, to_batch
from geolib.masks import box_region
from geolib.model import Classifier, choose_device
from geolib.model.prediction import log_probabilities
from geolib.pipeline import shards
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import TOP_P, element_boxes, score_segments
from geoscenes import Scene, SceneObject

# Which pixels of an object are hidden: those of it that are visible, all that it changes (shadow,
# soft edges and hidden parts included), or the padded box of the visible ones, as in the paper.
# What is fixed to an object is part of it: the car's plate goes with the car.
REGIONS = ("mask", "footprint", "box")
TRUE = "true removal"
# Objects that are deleted at once, and sets of as many others.
TOP, REPEATS = 3, 2
# Sets of objects among which random ones are drawn, and the difference in coverage, as a share of
# the image, up to which one is as good as another.
CANDIDATES = 1000
TOLERANCE = 0.02
# Objects of a scene from which on their order says something.
ENOUGH = 3
# How a conclusion under a fill compares with that under true removal, and its sign in tables.
CHANGES = ("changes", "certainty only", "size only")
SIGNS = dict(zip(CHANGES, (" ≠", " ~", " ±"), strict=True)) | {"same": ""}


def hideable(scene: Scene) -> list[SceneObject]:
    """Objects of which at least 64 pixels are visible: those that a box test could use."""
    return [one for one in scene.objects if int(one.mask.sum()) >= MIN_PIXELS]


def object_regions(scene: Scene, objects: Sequence[SceneObject], region: str) -> np.ndarray:
    """The pixels that one of ``REGIONS`` hides of each object of a scene, bool ``[N,H,W]``."""
    if region == "footprint":
        return np.stack([one.footprint for one in objects])
    hosts = {item.id: item.host for item in scene.items}
    masks = np.stack(
        [
            np.logical_or.reduce([o.mask for o in scene.objects if one.id in (o.id, hosts[o.id])])
            for one in objects
        ]
    )
    if region == "mask":
        return masks
    return np.stack([box_region(box[None], masks.shape[1:]) for box in element_boxes(masks)])


def _without(scene: Scene, names: Iterable[str]) -> np.ndarray:
    """The picture of the scene without some of its objects, and without what is fixed to them."""
    for name in names:
        if any(item.id == name for item in scene.items):  # a plate goes with its car
            scene = scene.without(name)
    return scene.image


@dataclass(frozen=True)
class _Subject:
    """A scene whose objects are hidden: what the network makes of pictures of it."""

    place: int
    item: GeoImage
    label: int
    image: torch.Tensor
    donor: torch.Tensor  # another scene, of which fills may take the same place
    classifier: Classifier

    def hidden(self, regions: np.ndarray, fill: str) -> torch.Tensor:
        """Copies ``[N,3,S,S]`` of the scene, each with one of the regions filled."""
        copies, donors = (one.expand(len(regions), -1, -1, -1) for one in (self.image, self.donor))
        return ablate(copies, regions, "deletion", fill, donors=donors)

    def log_probabilities(self, pictures: Sequence[torch.Tensor]) -> np.ndarray:
        """Float32, because bfloat16 rounds away what small objects do."""
        found = log_probabilities(self.classifier, torch.cat(list(pictures)), precision="fp32")
        return found.double().numpy()


def _scene_by_scene(
    stage: str,
    dataset: GeoDataset,
    classifier: Classifier,
    ways: Mapping[str, Any],
    one: Callable[[_Subject], pd.DataFrame],
) -> pd.DataFrame:
    """The tables of all scenes, kept in the cache; ``ways`` are what else they depend on."""
    labels = shards.true_labels(dataset, classifier)

    def make() -> pd.DataFrame:
        classifier.to(choose_device())
        items = [dataset[i] for i in range(len(dataset))]
        images = to_batch(items, classifier.image_size)
        donors = images[donor_indices(dataset.ids, 0, 1)[:, 0]]
        tables = []
        with progress_bar("objects hidden", len(items), "scene", True) as bar:
            for i, item in enumerate(items):
                label = labels[item.id]
                tables.append(one(_Subject(i, item, label, images[i], donors[i], classifier)))
                bar.update()
        return pd.concat([table for table in tables if len(table)], ignore_index=True)

    params = {"images": dataset.identity, "labels": labels, "classifier": classifier.weights_sha256}
    return cache.table(stage, {**params, **ways}, (__name__,), make)


def removals(
    dataset: GeoDataset, classifier: Classifier, *, fills: Sequence[str] = FILLS
) -> pd.DataFrame:
    """What each hideable object's removal costs the true class, by region and fill.

    Log-probability lost when it is really removed, ``true``, and ``masked``.
    """

    def hide(subject: _Subject) -> pd.DataFrame:
        scene = scene_of(subject.item)
        objects = hideable(scene)
        if not objects:
            return pd.DataFrame()
        regions = {name: object_regions(scene, objects, name) for name in REGIONS}
        pairs = [(name, fill) for name in REGIONS for fill in fills]
        masked = [subject.hidden(regions[name], fill) for name, fill in pairs]
        found = subject.log_probabilities([subject.image[None], *masked])[:, subject.label]
        lost = (found[0] - found[1:]).reshape(len(pairs), len(objects))
        named = pd.DataFrame({"object": [o.id for o in objects], "cue": [o.cue for o in objects]})
        named["image_id"] = subject.item.id
        return pd.concat(
            named.assign(region=name, fill=fill, masked=each)
            for (name, fill), each in zip(pairs, lost, strict=True)
        )

    table = _scene_by_scene("removals", dataset, classifier, {"fills": list(fills)}, hide)
    true = object_effects(dataset_effects(dataset, classifier))["effect"]
    return table.join(true.rename("true"), ["image_id", "object"])


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of masked deletion with true removal over the objects of a scene, and its
    ``bias``, masked − true: means over scenes by region × fill of :func:`removals`, best first.

    Within each scene: that all objects of one matter more than those of another, both ways of
    deleting find easily.
    """
    by = ["region", "fill"]
    scenes = table.groupby([*by, "image_id"], sort=False)
    each = scenes.apply(_correlation).rename("correlation").reset_index()
    means = grouped_means(each, "correlation", by)
    each = scenes[["masked", "true"]].mean().reset_index()
    bias = grouped_means(each.assign(bias=each["masked"] - each["true"]), "bias", by)
    names = {"value": "bias", "low": "bias_low", "high": "bias_high"}
    means = means.merge(bias.drop(columns="n").rename(columns=names), on=by)
    return means.sort_values("value", ascending=False, kind="stable", ignore_index=True)


def _correlation(objects: pd.DataFrame) -> float:
    """Of masked and true effects of a scene's objects; 0 where hiding does the same to all."""
    if len(objects) < ENOUGH or objects["true"].nunique() < 2:
        return np.nan
    if objects["masked"].nunique() < 2:
        return 0.0
    return float(objects["true"].corr(objects["masked"], method="spearman"))


# Conclusions --------------------------------------------------------------------------------------


def object_tests(
    dataset: GeoDataset,
    maps: Mapping[str, torch.Tensor],
    classifier: Classifier,
    *,
    top_p: float = TOP_P,
    fills: Sequence[str] = FILLS,
) -> pd.DataFrame:
    """The paper's deletion test on true objects, with masks and with real removal.

    Deleted are the ``TOP`` objects by the score of each of ``maps`` ``[B,S,S]``, and ``REPEATS``
    sets of as many random ones (:func:`chosen_sets`). ``fill`` says how, in an outcome table.
    """

    def delete(subject: _Subject) -> pd.DataFrame:
        own = {name: found[subject.place].numpy() for name, found in maps.items()}
        chosen = chosen_sets(scene_of(subject.item), own, top_p=top_p)
        return chosen if chosen.empty else _sets_deleted(subject, chosen, fills)

    digests = {
        name: hashlib.sha256(found.contiguous().numpy().tobytes()).hexdigest()
        for name, found in maps.items()
    }
    ways = {"maps": digests, "ways": [list(fills), top_p]}
    return _scene_by_scene("object-tests", dataset, classifier, ways, delete)


def chosen_sets(
    scene: Scene,
    maps: Mapping[str, np.ndarray],
    top: int = TOP,
    repeats: int = REPEATS,
    top_p: float = TOP_P,
) -> pd.DataFrame:
    """Sets of a scene's :func:`hideable` objects to delete, a row per map and set.

    Guided are the ``top`` by score, at most half of them, none of score zero. Random are sets whose
    boxes cover as much, to within ``TOLERANCE``, those that share few with the guided one first.
    """
    columns = ["attribution", "region", "repeat", "objects", "coverage"]
    objects = hideable(scene)
    most = min(top, len(objects) // 2)
    if not most:
        return pd.DataFrame(columns=columns)
    masks, boxes = (object_regions(scene, objects, name) for name in ("mask", "box"))
    rows: list[tuple[Any, ...]] = []
    for name, one in maps.items():
        scores = score_segments(one, masks, top_p)["score"].to_numpy()
        n_deleted = min(most, int((scores > 0).sum()))
        guided = tuple(sorted(np.argsort(-scores, kind="stable")[:n_deleted].tolist()))
        target = _covered(boxes, guided)
        rows.append((name, "guided", 0, guided, target))
        every = list(combinations(range(len(objects)), n_deleted))
        order = np.random.default_rng(scene.seed).permutation(len(every))[:CANDIDATES]
        others = [every[i] for i in order if every[i] != guided] or [guided]
        ranked = sorted(others, key=lambda s: _unlike(s, guided, _covered(boxes, s) - target))
        for repeat, chosen in enumerate(ranked[:repeats]):
            rows.append((name, "random", repeat, chosen, _covered(boxes, chosen)))
    return pd.DataFrame(rows, columns=columns)


def _covered(boxes: np.ndarray, chosen: Sequence[int]) -> float:
    return float(boxes[list(chosen)].any(axis=0).mean())


def _unlike(chosen: Sequence[int], guided: Sequence[int], gap: float) -> tuple[float, int]:
    """Rank of a random set, smallest first; equal ones stay in the order in which they came."""
    return max(abs(gap), TOLERANCE), len({*chosen} & {*guided})


def _sets_deleted(subject: _Subject, chosen: pd.DataFrame, fills: Sequence[str]) -> pd.DataFrame:
    """Outcomes of deleting each set of a scene's objects, in every way."""
    scene = scene_of(subject.item)
    objects = hideable(scene)
    boxes = object_regions(scene, objects, "box")
    sets = list(dict.fromkeys(chosen["objects"]))  # methods share sets
    regions = np.stack([boxes[list(one)].any(0) for one in sets])
    gone = [_without(scene, [objects[i].id for i in one]) for one in sets]
    variants = {TRUE: to_batch(gone, subject.classifier.image_size)}
    variants |= {fill: subject.hidden(regions, fill) for fill in fills}
    found = subject.log_probabilities(list(variants.values())).reshape(len(variants), len(sets), -1)
    guided = chosen[chosen["region"] == "guided"].set_index("attribution")["coverage"]
    place = chosen["objects"].map({one: i for i, one in enumerate(sets)}).to_numpy()
    named = chosen.drop(columns="objects").assign(
        image_id=subject.item.id,
        segmenter="truth",
        test="deletion",
        coverage_gap=chosen["coverage"] - chosen["attribution"].map(guided),
        n_elements=chosen["objects"].map(len),
    )
    return pd.concat(
        named.assign(
            fill=fill,
            log_probability=values[place, subject.label],
            correct=values[place].argmax(1) == subject.label,
        )
        for fill, values in zip(variants, found, strict=True)
    )


def conclusions(outcomes: pd.DataFrame) -> pd.DataFrame:
    """What each way of deleting concludes about each method, and whether the verdict ``changes``.

    ``difference`` from the advantage in log-probability under true removal, image by image;
    ``p_difference`` corrected over all rows. Without a difference only the certainty changes.
    """
    keys = ["attribution", "fill"]
    each = statistics.advantages(outcomes, keys, "log_probability")
    wide = each.pivot(index=["attribution", "image_id"], columns="fill", values="advantage")
    more = wide.drop(columns=TRUE).sub(wide[TRUE], axis=0).stack().groupby(keys)
    found = {pair: statistics.paired(values)._asdict() for pair, values in more}
    differences = pd.DataFrame.from_dict(found, orient="index").rename_axis(keys)
    differences["p_difference"] = statistics.holm(differences["p_value"])
    table = statistics.compare(outcomes, keys, "log_probability")
    table = table.join(differences.drop(columns=["p_value", "n_images"]), keys)
    table["verdict"] = verdicts(table["ci_low"], table["ci_high"])
    truth = table[table["fill"] == TRUE].set_index("attribution")["verdict"]
    differs = table["verdict"] != table["attribution"].map(truth)
    told = table["p_difference"] < 0.05
    return table.assign(change=np.select([differs & told, differs, told], CHANGES, "same"))


def conclusions_table(judged: pd.DataFrame) -> pd.DataFrame:
    """The :func:`conclusions` of each way of deleting, true removal on top, then the nearest fill;
    methods by their advantage under true removal."""
    shown = cells(judged, "+.2f", ("advantage", "ci_low", "ci_high"))
    table = judged.assign(cell=shown + " " + judged["verdict"] + judged["change"].map(SIGNS))
    distance = table["difference"].abs().groupby(table["fill"]).mean().fillna(-1)  # itself
    truth = table[table["fill"] == TRUE].set_index("attribution")["advantage"]
    wide = table.pivot(index="fill", columns="attribution", values="cell")
    wide = wide.loc[distance.sort_values().index, truth.sort_values(ascending=False).index]
    return wide.rename_axis(index=None, columns=None)
