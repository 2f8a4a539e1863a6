"""Does hiding an object do what taking it away does? Masked deletion against true removal.

Deletion (§5 of arXiv 2605.00912) puts a patch of colour where an object was, and a network may
falter over the patch rather than over what it hid. A scene can be rendered without the object, all
else equal to the pixel: :func:`removals` compares the two object by object, and
:func:`object_tests` asks whether the paper's conclusion survives when hidden objects are gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch

from geolib import statistics
from geolib.ablation import FILLS, ablate
from geolib.chapters.baselines import donor_indices
from geolib.chapters.causes.effects import dataset_effects, object_effects, scene_of
from geolib.chapters.elements import MIN_PIXELS
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
# Sets of objects among which random ones are drawn, and the difference in coverage, as a share of
# the image, up to which one is as good as another.
CANDIDATES = 1000
TOLERANCE = 0.02
# Objects of a scene from which on their order says something.
ENOUGH = 3
MODULE = ("geolib.chapters.controls.removal",)


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
    boxes = element_boxes(masks)
    return np.stack([box_region(boxes[[i]], masks.shape[1:]) for i in range(len(boxes))])


def _without(scene: Scene, names: Iterable[str]) -> np.ndarray:
    """The picture of the scene without some of its objects, and without what is fixed to them."""
    for name in names:
        if any(item.id == name for item in scene.items):  # a plate goes with its car
            scene = scene.without(name)
    return scene.image


class _Subject:
    """A scene whose objects are hidden: what the network makes of pictures of it."""

    def __init__(
        self, item: GeoImage, image: torch.Tensor, donor: torch.Tensor, classifier: Classifier
    ) -> None:
        self.item, self.image, self.donor, self.classifier = item, image, donor, classifier
        self.scene = scene_of(item)
        self.objects = hideable(self.scene)

    def hidden(self, regions: np.ndarray, fill: str) -> torch.Tensor:
        """Copies ``[N,3,S,S]`` of the scene, each with one of the regions filled."""
        copies, donors = (one.expand(len(regions), -1, -1, -1) for one in (self.image, self.donor))
        return ablate(copies, regions, "deletion", fill, donors=donors)

    def log_probabilities(self, pictures: Sequence[torch.Tensor]) -> np.ndarray:
        """Float32, because bfloat16 rounds away what small objects do."""
        found = log_probabilities(self.classifier, torch.cat(list(pictures)), precision="fp32")
        return found.double().numpy()


def _scene_by_scene(
    dataset: GeoDataset, classifier: Classifier, one: Callable[[int, _Subject], pd.DataFrame]
) -> pd.DataFrame:
    """The tables of all scenes; a donor patch is the same place of another of them."""
    classifier.to(choose_device())
    items = [dataset[i] for i in range(len(dataset))]
    images = to_batch(items, classifier.image_size)
    donors = images[donor_indices(dataset.ids, 0, 1)[:, 0]]
    tables = []
    with progress_bar("objects hidden", len(items), "scene", True) as bar:
        for i, item in enumerate(items):
            tables.append(one(i, _Subject(item, images[i], donors[i], classifier)))
            bar.update()
    return pd.concat([table for table in tables if len(table)], ignore_index=True)


def removals(
    dataset: GeoDataset, classifier: Classifier, *, fills: Sequence[str] = FILLS
) -> pd.DataFrame:
    """What each hideable object's removal costs the true class, by region and fill.

    Log-probability lost when it is really removed, ``true``, and ``masked``; ``area`` is the share
    of the image that is hidden.
    """
    labels = shards.true_labels(dataset, classifier)

    def make() -> pd.DataFrame:
        removed = dataset_effects(dataset, classifier)
        true = object_effects(removed)["effect"]

        def one(_: int, subject: _Subject) -> pd.DataFrame:
            return _objects_hidden(subject, labels[subject.item.id], fills)

        table = _scene_by_scene(dataset, classifier, one)
        keys = pd.MultiIndex.from_frame(table[["image_id", "object"]])
        return table.assign(true=true.reindex(keys).to_numpy())

    params = {
        "images": dataset.identity,
        "labels": labels,
        "classifier": classifier.weights_sha256,
        "fills": list(fills),
    }
    return cache.table("removals", params, MODULE, make)


def _objects_hidden(subject: _Subject, label: int, fills: Sequence[str]) -> pd.DataFrame:
    """What hiding each object of a scene costs."""
    scene, objects = subject.scene, subject.objects
    hidden = {name: object_regions(scene, objects, name) for name in REGIONS if objects}
    pairs = [(name, fill) for name in hidden for fill in fills]
    masked = [subject.hidden(hidden[name], fill) for name, fill in pairs]
    kept = subject.log_probabilities([subject.image[None], *masked])[:, label]
    lost = iter(kept[0] - kept[1:])
    rows = [
        {
            "image_id": subject.item.id,
            "object": one.id,
            "category": one.category,
            "cue": one.cue,
            "region": name,
            "fill": fill,
            "area": pixels.mean(),
            "masked": next(lost),
        }
        for name, fill in pairs
        for one, pixels in zip(objects, hidden[name], strict=True)
    ]
    return pd.DataFrame(rows)


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How well masked deletion (:func:`removals`) tells what true removal does.

    Compared within each scene: that all objects of one matter more than those of another, both ways
    of deleting find easily. One row per region × fill, best first, means over scenes:
    ``correlation`` (Spearman's over a scene's objects), ``bias`` (masked − true), and ``behind``,
    how far the correlation lies below the best fill's. ``n_images`` have a correlation.
    """
    rows = []
    for region, part in table.groupby("region", sort=False):
        scenes = part.groupby(["fill", "image_id"], sort=False)
        correlation = scenes.apply(_correlation).unstack("fill").dropna()
        bias = scenes.apply(lambda one: (one["masked"] - one["true"]).mean()).unstack("fill")
        order = correlation.mean().sort_values(ascending=False).index
        for fill in order:
            better = correlation[order[0]] - correlation[fill]
            row: dict[str, Any] = {"region": region, "fill": fill}
            for name, values in {
                "correlation": correlation[fill],
                "bias": bias[fill],
                "behind": better if fill != order[0] else better[:0],
            }.items():
                found = statistics.interval(values)
                row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
                row[f"detectable_{name}"] = statistics.detectable_effect(values)
            n_objects = int((part["fill"] == fill).sum())
            rows.append(row | {"n_images": len(correlation), "n_objects": n_objects})
    return pd.DataFrame(rows)


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
    top: int = 3,
    repeats: int = 2,
    top_p: float = TOP_P,
    fills: Sequence[str] = FILLS,
) -> pd.DataFrame:
    """The paper's deletion test on true objects, with masks and with real removal.

    The ``top`` objects by the score of each method's ``maps`` ``[B,S,S]`` are deleted, and
    ``repeats`` sets of as many random ones (see :func:`chosen_sets`): their padded boxes filled, or
    the scene rendered without them. Gives an outcome table for :func:`geolib.statistics.compare`;
    ``fill`` says how objects were deleted. Scenes with fewer than two objects are left out.
    """
    labels = shards.true_labels(dataset, classifier)

    def make() -> pd.DataFrame:
        def one(i: int, subject: _Subject) -> pd.DataFrame:
            own = {name: found[i].numpy() for name, found in maps.items()}
            chosen = chosen_sets(subject.scene, own, top, repeats, top_p)
            if chosen.empty:
                return chosen
            return _sets_deleted(subject, labels[subject.item.id], chosen, fills)

        return _scene_by_scene(dataset, classifier, one)

    params = {
        "images": dataset.identity,
        "labels": labels,
        "classifier": classifier.weights_sha256,
        "maps": {
            name: hashlib.sha256(found.contiguous().numpy().tobytes()).hexdigest()
            for name, found in maps.items()
        },
        "ways": [list(fills), top, repeats, top_p],
    }
    return cache.table("object-tests", params, MODULE, make)


def chosen_sets(
    scene: Scene, maps: Mapping[str, np.ndarray], top: int, repeats: int, top_p: float = TOP_P
) -> pd.DataFrame:
    """Sets of a scene's objects to delete, guided and random, a row per map and set.

    Guided are the ``top`` by score, half of the objects where there are fewer than twice as many,
    and never one of score zero. Random are sets whose boxes cover as much, to within ``TOLERANCE``,
    those that share few objects with the guided one first, then the sets nearest in coverage.
    ``objects`` are places among :func:`hideable`, ``overlap`` the share that is guided, too.
    """
    columns = ["attribution", "region", "repeat", "objects", "coverage", "overlap"]
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
        rows.append((name, "guided", 0, guided, target, float(n_deleted > 0)))
        every = list(combinations(range(len(objects)), n_deleted))
        order = np.random.default_rng(scene.seed).permutation(len(every))[:CANDIDATES]
        others = [every[i] for i in order if every[i] != guided] or [guided]
        ranked = sorted(others, key=lambda s: _unlike(s, guided, _covered(boxes, s) - target))
        for repeat, chosen in enumerate(ranked[:repeats]):
            shared = len({*chosen} & {*guided}) / max(n_deleted, 1)
            rows.append((name, "random", repeat, chosen, _covered(boxes, chosen), shared))
    return pd.DataFrame(rows, columns=columns)


def _covered(boxes: np.ndarray, chosen: Sequence[int]) -> float:
    return float(boxes[list(chosen)].any(axis=0).mean())


def _unlike(chosen: Sequence[int], guided: Sequence[int], gap: float) -> tuple[float, int]:
    """Rank of a random set, smallest first; equal ones stay in the order in which they came."""
    return max(abs(gap), TOLERANCE), len({*chosen} & {*guided})


def _sets_deleted(
    subject: _Subject, label: int, chosen: pd.DataFrame, fills: Sequence[str]
) -> pd.DataFrame:
    """Outcomes of deleting each set of a scene's objects, in every way."""
    scene, objects = subject.scene, subject.objects
    boxes = object_regions(scene, objects, "box")
    sets = list(dict.fromkeys(chosen["objects"]))  # methods share sets
    regions = np.stack([boxes[list(one)].any(0) for one in sets])
    gone = [_without(scene, [objects[i].id for i in one]) for one in sets]
    variants = {TRUE: to_batch(gone, subject.classifier.image_size)}
    variants |= {fill: subject.hidden(regions, fill) for fill in fills}
    found = subject.log_probabilities(list(variants.values())).reshape(len(variants), len(sets), -1)
    guided = chosen[chosen["region"] == "guided"].set_index("attribution")["coverage"]
    gap = chosen["coverage"] - chosen["attribution"].map(guided)
    place = chosen["objects"].map({one: i for i, one in enumerate(sets)}).to_numpy()
    parts = [
        chosen.drop(columns="objects").assign(
            image_id=subject.item.id,
            segmenter="truth",
            fill=fill,
            test="deletion",
            coverage_gap=gap,
            n_elements=chosen["objects"].map(len),
            log_probability=values[place, label],
            correct=values[place].argmax(1) == label,
        )
        for fill, values in zip(variants, found, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def against_removal(outcomes: pd.DataFrame) -> pd.DataFrame:
    """How much each fill's advantage differs from that under true removal, image by image.

    One row per attribution × fill of :func:`object_tests`; positive where the fill flatters the
    method, ``p_holm`` over all rows.
    """
    each = statistics.advantages(outcomes, ("attribution", "fill"), "log_probability")
    wide = each.pivot(index=["attribution", "image_id"], columns="fill", values="advantage")
    rows = []
    for fill in wide.columns.drop(TRUE):
        for name, values in (wide[fill] - wide[TRUE]).groupby("attribution", sort=False):
            found = statistics.paired(values)
            rows.append({"attribution": name, "fill": fill, **found._asdict()})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=statistics.holm(table["p_value"]))
