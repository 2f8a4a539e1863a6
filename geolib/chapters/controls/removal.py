"""Does hiding an object do what taking it away does? Masked deletion against true removal.

Deletion (§5 of arXiv 2605.00912) puts a patch of colour where an object was, and a network may
falter over the patch rather than over what it hid. A scene can be rendered without the object, all
else equal to the pixel: :func:`removals` compares the two object by object, and
:func:`object_tests` asks whether the paper's conclusion survives when hidden objects are really
gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch

from geolib import statistics
from geolib.ablation import FILLS, ablate, donor_indices
from geolib.chapters import causes
from geolib.chapters.causes.effects import scene_of
from geolib.chapters.controls.specifications import cached_table
from geolib.chapters.elements import MIN_PIXELS
from geolib.data import GeoDataset, GeoImage, to_batch
from geolib.model import Classifier, choose_batch_size, choose_device, inference_precision
from geolib.pipeline import shards
from geolib.runtime.here import progress_bar
from geolib.scoring import TOP_P, box_region, element_boxes, score_segments
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


@torch.inference_mode()
def log_probabilities(classifier: Classifier, images: torch.Tensor) -> np.ndarray:
    """Log-probability of every class, float64 ``[B,N]``, of images ``[B,3,S,S]`` in 0…1.

    Computed in float32: bfloat16 rounds away what small objects do.
    """
    device = choose_device()
    classifier.to(device).eval()
    with inference_precision(device, "fp32"):
        parts = images.split(choose_batch_size(device))
        logits = torch.cat([classifier(part.to(device)).cpu() for part in parts])
    return logits.double().log_softmax(dim=1).numpy()


def removals(
    dataset: GeoDataset,
    classifier: Classifier,
    *,
    fills: Sequence[str] = FILLS,
    regions: Sequence[str] = REGIONS,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """What each object's removal costs the true class, really removed and masked.

    Parameters
    ----------
    dataset
        Scenes as large as the classifier's input, at least two.
    fills
        Names of fills; see :func:`geolib.ablation.ablate`. A donor patch is the same place of
        another of the scenes.
    regions
        Names of ``REGIONS``.
    seed
        Of the donors.

    Returns
    -------
    DataFrame
        One row per object of at least 64 visible pixels × region × fill: ``image_id``, ``object``,
        ``category``, ``cue``, ``region``, ``fill``, ``area`` (share of the image that is hidden),
        and the log-probability of the label that is lost: ``true``, ``masked``.
    """
    labels = shards.true_labels(dataset, classifier)

    def make() -> pd.DataFrame:
        removed = causes.effects(dataset, classifier, progress=progress)
        true = causes.object_effects(removed)["effect"]
        items = [dataset[i] for i in range(len(dataset))]
        images = to_batch(items, classifier.image_size)
        donors = images[donor_indices(dataset.ids, seed, 1)[:, 0]]
        tables = []
        with progress_bar("objects hidden", len(items), "scene", progress) as bar:
            for item, image, donor in zip(items, images, donors, strict=True):
                table = _hidden(item, image, donor, classifier, labels[item.id], fills, regions)
                tables.append(table)
                bar.update()
        table = pd.concat(tables, ignore_index=True)
        keys = pd.MultiIndex.from_frame(table[["image_id", "object"]])
        return table.assign(true=true.reindex(keys).to_numpy())

    params = {
        "images": dataset.identity,
        "labels": labels,
        "classifier": classifier.weights_sha256,
        "ways": [list(fills), list(regions), seed],
    }
    return cached_table("removals", params, ("geolib.chapters.controls.removal",), make)


def _hidden(
    item: GeoImage,
    image: torch.Tensor,
    donor: torch.Tensor,
    classifier: Classifier,
    label: int,
    fills: Sequence[str],
    regions: Sequence[str],
) -> pd.DataFrame:
    """What hiding each object of a scene costs."""
    scene = scene_of(item)
    objects = visible_objects(scene)
    hidden = {name: object_regions(scene, objects, name) for name in regions if objects}
    copies, donors = (one.expand(len(objects), -1, -1, -1) for one in (image, donor))
    pairs = [(name, fill) for name in hidden for fill in fills]
    masked = [ablate(copies, hidden[n], "deletion", fill, donors=donors) for n, fill in pairs]
    kept = log_probabilities(classifier, torch.cat([image[None], *masked]))[:, label]
    lost = iter(kept[0] - kept[1:])
    rows = [
        {
            "image_id": item.id,
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


def visible_objects(scene: Scene) -> list[SceneObject]:
    """Objects of which at least 64 pixels are visible."""
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


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How well masked deletion tells what true removal does, best first within each region.

    Compared within each scene: that all objects of one scene matter more than those of another,
    both ways of deleting find easily.

    Parameters
    ----------
    table
        Of :func:`removals`.

    Returns
    -------
    DataFrame
        One row per ``region`` × ``fill``, means over scenes: ``correlation`` (Spearman, over the
        objects of a scene; 0 where hiding does the same to all of them, no value where their
        absence does, or where there are fewer than three); ``bias`` (of masked − true; positive
        where masking exaggerates); ``behind``, how much the correlation lies below that of the
        region's best fill, scene by scene (no value for the best). Each with ``_low`` and
        ``_high``, 95 % intervals over scenes, and what so many scenes could have shown:
        ``detectable_correlation``, ``detectable_bias``, ``detectable_behind``. ``n_images`` with a
        correlation, and ``n_objects``.
    """
    rows = []
    for region, part in table.groupby("region", sort=False):
        scenes = part.groupby(["fill", "image_id"], sort=False)
        correlation = scenes.apply(_correlation).unstack("fill").dropna()
        bias = scenes.apply(lambda one: (one["masked"] - one["true"]).mean()).unstack("fill")
        order = correlation.mean().sort_values(ascending=False).index
        for fill in order:
            row = {"region": region, "fill": fill}
            row |= _over_images("correlation", correlation[fill])
            row |= _over_images("bias", bias[fill])
            better = correlation[order[0]] - correlation[fill]
            row |= _over_images("behind", better if fill != order[0] else better[:0])
            n_objects = int((part["fill"] == fill).sum())
            rows.append(row | {"n_images": len(correlation), "n_objects": n_objects})
    return pd.DataFrame(rows)


def _correlation(objects: pd.DataFrame) -> float:
    """Rank correlation of masked and true effects of the objects of one scene."""
    if len(objects) < ENOUGH or objects["true"].nunique() < 2:
        return np.nan
    if objects["masked"].nunique() < 2:
        return 0.0
    return float(objects["true"].corr(objects["masked"], method="spearman"))


def _over_images(name: str, values: pd.Series) -> dict[str, float]:
    found = statistics.interval(values)
    return {
        name: found.mean,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"detectable_{name}": statistics.detectable_effect(values),
    }


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
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """The paper's deletion test on true objects, with masks and with real removal.

    The ``top`` objects by score are deleted, and sets of as many random objects (see
    :func:`chosen_sets`). Deleted means: their padded boxes are filled, or the scene is rendered
    without them. Everything but that is the same.

    Parameters
    ----------
    dataset, fills, seed
        As for :func:`removals`.
    maps
        For each attribution method, maps ``[B,S,S]`` of the scenes.
    top
        Objects deleted; half of a scene's objects where it has fewer than twice as many, and never
        one of score zero.
    repeats
        Random sets per scene.
    top_p
        Size of the salient set that scores objects.

    Returns
    -------
    DataFrame
        An outcome table for :func:`geolib.statistics.compare`; ``fill`` says how objects were
        deleted, "true removal" among them, and ``overlap`` which share of the set is also in the
        guided one. Scenes with fewer than two objects are left out.
    """
    labels = shards.true_labels(dataset, classifier)

    def make() -> pd.DataFrame:
        items = [dataset[i] for i in range(len(dataset))]
        images = to_batch(items, classifier.image_size)
        donors = images[donor_indices(dataset.ids, seed, 1)[:, 0]]
        tables = []
        with progress_bar("sets of objects", len(items), "scene", progress) as bar:
            for i, item in enumerate(items):
                own = {name: one[i].numpy() for name, one in maps.items()}
                chosen = chosen_sets(scene_of(item), own, top, repeats, top_p, seed)
                if len(chosen):
                    tables.append(
                        _sets_deleted(
                            item, images[i], donors[i], classifier, labels[item.id], chosen, fills
                        )
                    )
                bar.update()
        return pd.concat(tables, ignore_index=True)

    params = {
        "images": dataset.identity,
        "labels": labels,
        "classifier": classifier.weights_sha256,
        "maps": {name: _digest(one) for name, one in maps.items()},
        "ways": [list(fills), top, repeats, top_p, seed],
    }
    return cached_table("object-tests", params, ("geolib.chapters.controls.removal",), make)


def _digest(values: torch.Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


def chosen_sets(
    scene: Scene,
    maps: Mapping[str, np.ndarray],
    top: int,
    repeats: int,
    top_p: float = TOP_P,
    seed: int = 0,
) -> pd.DataFrame:
    """Sets of objects to delete, guided and random.

    Random are sets whose boxes cover as much as the guided ones, to within ``TOLERANCE``: first
    those that share no object with them, then those that share few, drawn by the seed. Only where
    there are not enough of these come the sets that are nearest in coverage.

    Returns
    -------
    DataFrame
        A row per method and set: ``attribution``, ``region`` (guided, random), ``repeat``,
        ``objects`` (places among :func:`visible_objects`), ``coverage`` of their boxes, ``overlap``
        (share of the objects that are guided ones too). Sets are empty where a map leaves all
        objects at zero; no row where a scene has fewer than two objects.
    """
    columns = ["attribution", "region", "repeat", "objects", "coverage", "overlap"]
    objects = visible_objects(scene)
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
        order = np.random.default_rng([seed, scene.seed]).permutation(len(every))[:CANDIDATES]
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
    item: GeoImage,
    image: torch.Tensor,
    donor: torch.Tensor,
    classifier: Classifier,
    label: int,
    chosen: pd.DataFrame,
    fills: Sequence[str],
) -> pd.DataFrame:
    """Outcomes of deleting each set of a scene's objects, in every way."""
    scene = scene_of(item)
    objects = visible_objects(scene)
    boxes = object_regions(scene, objects, "box")
    sets = list(dict.fromkeys(chosen["objects"]))  # methods share sets
    hidden = np.stack([boxes[list(one)].any(0) for one in sets])
    copies, donors = (one.expand(len(sets), -1, -1, -1) for one in (image, donor))
    pictures = [_without(scene, [objects[i].id for i in one]) for one in sets]
    variants = {TRUE: to_batch(pictures, classifier.image_size)}
    for fill in fills:
        variants[fill] = ablate(copies, hidden, "deletion", fill, donors=donors)
    found = log_probabilities(classifier, torch.cat(list(variants.values())))
    found = found.reshape(len(variants), len(sets), -1)
    guided = chosen[chosen["region"] == "guided"].set_index("attribution")["coverage"]
    gap = chosen["coverage"] - chosen["attribution"].map(guided)
    place = chosen["objects"].map({one: i for i, one in enumerate(sets)}).to_numpy()
    parts = [
        chosen.drop(columns="objects").assign(
            image_id=item.id,
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


def _without(scene: Scene, names: Iterable[str]) -> np.ndarray:
    """The picture of the scene without some of its objects, and without what is fixed to them."""
    for name in names:
        if any(item.id == name for item in scene.items):  # a plate goes with its car
            scene = scene.without(name)
    return scene.image


def changes(outcomes: pd.DataFrame, metric: str = "log_probability") -> pd.DataFrame:
    """How much each fill's advantage differs from that under true removal, image by image.

    Parameters
    ----------
    outcomes
        Of :func:`object_tests`.
    metric
        As for :func:`geolib.statistics.advantages`.

    Returns
    -------
    DataFrame
        One row per ``attribution`` × ``fill``: ``difference`` (positive where the fill flatters the
        method), ``low``, ``high``, ``p_value``, ``detectable``, ``n_images``: see
        :func:`geolib.statistics.paired`; ``p_holm`` over all rows.
    """
    each = statistics.advantages(outcomes, ("attribution", "fill"), metric)
    wide = each.pivot(index=["attribution", "image_id"], columns="fill", values="advantage")
    rows = []
    for fill in wide.columns.drop(TRUE):
        for name, values in (wide[fill] - wide[TRUE]).groupby("attribution", sort=False):
            found = statistics.paired(values)
            rows.append({"attribution": name, "fill": fill, **found._asdict()})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=statistics.holm(table["p_value"]))
