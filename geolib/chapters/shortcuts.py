"""Shortcut hunt: does an explanation show that a network leans on an artefact?

An artefact that says nothing about geography, such as a smudge on one country's camera, is planted
in the training scenes. How much of it do attribution maps and object-like elements (§3 of arXiv
2605.00912) show, and how soon, compared with what it does to accuracy?
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torchvision.ops import box_iou

from geolib import figures, pipeline, statistics
from geolib.ablation import ablate
from geolib.chapters.experiment import Experiment
from geolib.chapters.tables import difference
from geolib.data import GeoDataset, to_batch
from geolib.data.scenes import SceneRecord
from geolib.masks import box_region
from geolib.model import Classifier
from geolib.model.prediction import log_probabilities
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.scoring import element_boxes
from geolib.training.kept import trained_classifier
from geoscenes import Scene

ARTEFACT = "shortcut"
# Intersection over union from which on an element's box shows the artefact and little else.
MATCH = 0.25
# Share of the artefact that a hot spot must hold to have found it.
CAUGHT = 0.5
# Width of the filter over averaged maps, as a share of the image's.
SMOOTHING = 1 / 40
# What tables show of a paired comparison.
SHOWN = ("difference", "low", "high", "detectable")


# Scenes with the artefact -------------------------------------------------------------------------


def planted(dataset: GeoDataset, country: str, correlation: float, kind: str) -> GeoDataset:
    """The same scenes with an artefact that goes with one country.

    Of the country's scenes (1 + r)/2 carry it, of the others (1 - r)/2; see
    :func:`geoscenes.render`. A dataset that does not consist of scenes is refused.
    """
    options = {"country": country, "correlation": correlation, "kind": kind}
    return _with_options(dataset, [options] * len(dataset))


def carried_by(dataset: GeoDataset, countries: Collection[str], kind: str) -> GeoDataset:
    """The same scenes with the artefact in all of some countries, and in none of the others."""
    names = [one.country for one in _scenes(dataset)]
    carried = [{"country": name, "correlation": 1.0, "kind": kind} for name in names]
    options = [one if one["country"] in countries else None for one in carried]
    return _with_options(dataset, options)


def _scenes(dataset: GeoDataset) -> list[SceneRecord]:
    scenes = [one for one in dataset.records if isinstance(one, SceneRecord)]
    if len(scenes) != len(dataset):
        raise ValueError(
            f"dataset={dataset!r} does not consist of scenes: an artefact can be planted in "
            "dataset='geoscenes' only"
        )
    return scenes


def _with_options(dataset: GeoDataset, shortcuts: Sequence[dict[str, Any] | None]) -> GeoDataset:
    records = []
    for record, shortcut in zip(_scenes(dataset), shortcuts, strict=True):
        options = {k: v for k, v in record.options.items() if k != ARTEFACT}
        if shortcut is not None:
            options[ARTEFACT] = shortcut
        records.append(replace(record, options=options))
    return GeoDataset(dataset.name, dataset.classes, dataset.split, records)


def of_country(dataset: GeoDataset, country: str) -> GeoDataset:
    """The images of one country."""
    label = dataset.classes.index(country)
    return dataset.subset(i for i, one in enumerate(dataset.labels) if one == label)


# Exposure -----------------------------------------------------------------------------------------


def exposure(extracted: Sequence[Extracted], k: int = 3) -> pd.DataFrame:
    """How much of the artefact the explanations of scenes show, a row per scene that carries it.

    ``area``: share of the image that the artefact fills; ``weight``: share of the map's sum on it
    (a map of zeros counts as an even one); ``found``: whether one of the first ``k`` elements is
    the artefact, their boxes having an intersection over union of at least a quarter.
    """
    rows = []
    for one in extracted:
        mask = None if one.item.scene is None else artefact_mask(one.item.scene)
        if mask is None:
            continue
        values = one.attribution.double().numpy()
        even = values if values.max() > 0 else np.ones_like(values)
        box = element_boxes(mask[None], padding=0.05)
        overlaps = box_iou(torch.as_tensor(one.elements.boxes[:k]), torch.as_tensor(box))
        rows.append(
            {
                "image_id": one.item.id,
                "area": float(mask.mean()),
                "weight": float(even[mask].sum() / even.sum()),
                "found": bool((overlaps >= MATCH).any()),
            }
        )
    return pd.DataFrame(rows, columns=["image_id", "area", "weight", "found"])


def artefact_mask(scene: Scene) -> np.ndarray | None:
    """Visible pixels of the artefact of a scene, bool ``[H, W]``; None where there are none."""
    for thing in scene.objects:
        if thing.id == ARTEFACT and thing.mask.any():
            return thing.mask
    return None


def effect(carrying: pd.DataFrame, clean: pd.DataFrame) -> pd.DataFrame:
    """What the artefact adds to each log-probability of the true class, and whether it decides."""
    both = carrying.merge(clean, on="image_id", suffixes=("", "_clean"), validate="one_to_one")
    gain = np.log(both["label_probability"]) - np.log(both["label_probability_clean"])
    changed = both["prediction"] != both["prediction_clean"]
    return pd.DataFrame({"image_id": both["image_id"], "effect": gain, "decides": changed})


def onset(table: pd.DataFrame, value: str, sign: int = 1) -> float | None:
    """The lowest correlation from which on a measure differs from that of an unbiased training.

    There, and at every higher one, the interval of the difference to correlation 0, image by image,
    lies beyond 0; None if there is none. ``sign`` is 1 for a rise, -1 for a fall.
    """
    wide = table.pivot(index="image_id", columns="correlation", values=value).astype(float)
    levels = sorted((c for c in wide.columns if c != 0), reverse=True)
    found = statistics.intervals([sign * (wide[level] - wide[0]) for level in levels])
    beyond = takewhile(lambda one: one[1].low > 0, zip(levels, found, strict=True))
    return min((float(level) for level, _ in beyond), default=None)


def element_maps(extracted: Sequence[Extracted], k: int = 3) -> torch.Tensor:
    """Maps ``[B, H, W]`` that are 1 in the boxes of each image's first ``k`` elements, else 0."""
    shape = extracted[0].elements.shape
    regions = [box_region(one.elements.boxes[:k], shape) for one in extracted]
    return torch.from_numpy(np.stack(regions)).float()


def standing_out(maps: torch.Tensor, chosen: Sequence[bool]) -> np.ndarray:
    """Where the maps [B,H,W] of some images are brighter than those of the others, on average.

    What sits on the lens stays in the average. Smoothed, because gradients flicker.
    """
    belongs = torch.as_tensor(chosen)
    if belongs.all() or not belongs.any():
        raise ValueError(f"chosen holds {int(belongs.sum())} of {len(maps)} maps; expected some")
    difference = maps[belongs].double().mean(0) - maps[~belongs].double().mean(0)
    return ndimage.gaussian_filter(difference.numpy(), SMOOTHING * maps.shape[2])


def hot_spot(difference: np.ndarray) -> np.ndarray:
    """What is connected to the highest value above half its height; empty if nothing stands out."""
    if difference.max() <= 0:
        return np.zeros(difference.shape, bool)
    regions, _ = ndimage.label(difference >= difference.max() / 2)
    return regions == regions[np.unravel_index(difference.argmax(), difference.shape)]


def covered(
    classifier: Classifier, images: torch.Tensor, spot: np.ndarray, target: int
) -> pd.DataFrame:
    """What covering one place of every image takes from the log-probability of a class.

    ``loss`` when the place is filled with the mean colour, ``elsewhere`` when one of the same shape
    is, half an image's width away.
    """
    places = {"loss": spot, "elsewhere": np.roll(spot, spot.shape[1] // 2, axis=1)}
    before = log_probabilities(classifier, images, precision="fp32")[:, target]
    losses = {}
    for name, place in places.items():
        hidden = ablate(images, torch.from_numpy(place).expand(len(images), -1, -1), "deletion")
        after = log_probabilities(classifier, hidden, precision="fp32")[:, target]
        losses[name] = (before - after).numpy()
    return pd.DataFrame(losses)


@dataclass(frozen=True)
class Suspect:
    """What stands out for one class, and what the network loses without it."""

    difference: np.ndarray  # of :func:`standing_out`
    spot: np.ndarray  # the :func:`hot_spot` in it
    losses: pd.DataFrame  # of :func:`covered`, for the images predicted as the class


def hunt(
    classifier: Classifier,
    images: torch.Tensor,
    maps: torch.Tensor,
    predictions: Sequence[int],
    target: int,
) -> Suspect | None:
    """Average the maps, look at what stands out for a class, and cover it.

    None where all images, or none, are predicted as the class: there is nothing to subtract.
    """
    chosen = np.asarray(predictions) == target
    if not 0 < chosen.sum() < len(chosen):
        return None
    difference = standing_out(maps, chosen.tolist())
    spot = hot_spot(difference)
    return Suspect(difference, spot, covered(classifier, images[chosen], spot, target))


def suspects(
    dataset: GeoDataset,
    classifier: Classifier,
    country: str,
    averaged: EvaluationConfig,
    boxed: EvaluationConfig,
    k: int = 3,
) -> dict[str, Suspect]:
    """What stands out for a country in the average of the "maps", and in that of the "elements".

    ``averaged`` and ``boxed`` are settings of the method whose maps are averaged, and of the one
    whose first ``k`` elements are. Lacks what :func:`hunt` gives None for.
    """
    pixels = to_batch([dataset[i] for i in range(len(dataset))], classifier.image_size)
    predicted = shards.predictions(dataset, classifier)["prediction"].tolist()
    sources = {
        "maps": pipeline.maps(dataset, classifier, averaged)[0],
        "elements": element_maps(pipeline.extract(dataset, classifier, boxed, progress=True), k),
    }
    target = dataset.classes.index(country)
    hunts = {n: hunt(classifier, pixels, maps, predicted, target) for n, maps in sources.items()}
    return {name: suspect for name, suspect in hunts.items() if suspect is not None}


def recipe_table(found: Mapping[tuple[str, float], Suspect], mask: np.ndarray) -> pd.DataFrame:
    """The recipe in numbers, where ``mask``, the artefact, is known; highest correlation first.

    ``difference`` is how much more covering the hot spot costs than covering the other place.
    ``found``: at least half of the artefact lies in the hot spot, and the difference's interval
    above 0.
    """
    rows = []
    for (name, correlation), suspect in sorted(found.items(), key=lambda o: (o[0][0], -o[0][1])):
        gap = statistics.paired(suspect.losses["loss"] - suspect.losses["elsewhere"])
        shared, area = (suspect.spot & mask).sum(), suspect.spot.sum()
        caught = float(shared / mask.sum())
        rows.append(
            {
                "averaged": name,
                "correlation": correlation,
                "artefact in the hot spot": caught,
                "hot spot on the artefact": float(shared / area) if area else 0.0,
                "lost when covered": suspect.losses["loss"].mean(),
                "lost elsewhere": suspect.losses["elsewhere"].mean(),
                **{name: getattr(gap, name) for name in SHOWN},
                "images": gap.n_images,
                "found": caught >= CAUGHT and gap.low > 0,
            }
        )
    return pd.DataFrame(rows)


# The chapter --------------------------------------------------------------------------------------


def trained(
    source: Experiment, artefact: str, country: str, correlations: Sequence[float]
) -> dict[float, Classifier]:
    """A network for each correlation of the artefact with the country, alike in all else."""
    return {
        r: trained_classifier(
            planted(source.train, country, r, artefact),
            planted(source.validation, country, r, artefact),
            source.training,
        )
        for r in correlations
    }


def exposures(
    networks: Mapping[float, Classifier],
    carrying: GeoDataset,
    configs: Sequence[EvaluationConfig],
    k: int,
) -> pd.DataFrame:
    """:func:`exposure` of each network and method; columns ``correlation`` and ``method``."""
    tables = []
    for r, network in networks.items():
        for config in configs:
            extracted = pipeline.extract(carrying, network, config, progress=True)
            table = exposure(extracted, k).astype({"found": float})
            tables.append(table.assign(method=config.attribution, correlation=r))
    return pd.concat(tables, ignore_index=True)


def accuracies(
    networks: Mapping[float, Classifier], sets: Callable[[float], Mapping[str, GeoDataset]]
) -> pd.DataFrame:
    """Whether each network is ``right`` about each image of some sets, named in ``scenes``."""
    tables = []
    for r, network in networks.items():
        for name, images in sets(r).items():
            table = shards.predictions(images, network)
            right = (table["prediction"] == table["label"]).astype(float)
            tables.append(table[["image_id"]].assign(scenes=name, correlation=r, right=right))
    return pd.concat(tables, ignore_index=True)


def warning_table(found: pd.DataFrame, effects: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """From which correlation on each measure warns, and accuracy falls; earliest first.

    Of :func:`exposures`, :func:`effect` with a column ``correlation``, and :func:`accuracies`.
    ``rise`` is the difference at the highest correlation; ``detectable`` what so many images would
    have shown at the lowest.
    """
    measured = {
        **{("elements", m): (rows, "found", 1) for m, rows in found.groupby("method", sort=False)},
        **{("map", m): (rows, "weight", 1) for m, rows in found.groupby("method", sort=False)},
        ("removal from the scene", "log-probability lost"): (effects, "effect", 1),
        **{("accuracy", n): (rows, "right", -1) for n, rows in right.groupby("scenes", sort=False)},
    }
    levels = sorted(r for r in found["correlation"].unique() if r)
    rows = {}
    for name, (table, value, sign) in measured.items():
        top, first = (
            statistics.paired(difference(table, value, "correlation", r, 0.0))
            for r in (levels[-1], levels[0])
        )
        means = {f"{r:.0%}": part.mean() for r, part in table.groupby("correlation")[value]}
        rows[name] = {"from": onset(table, value, sign), **means, "rise": top.difference}
        rows[name] |= {"low": top.low, "high": top.high}
        rows[name] |= {"detectable": first.detectable, "images": first.n_images}
    table = pd.DataFrame(rows).T.rename_axis(["measure", "of"]).astype(float)
    return table.sort_values(["from", "rise"], ascending=[True, False], na_position="last")


def hunted(
    source: Experiment,
    networks: Mapping[float, Classifier],
    artefact: str,
    country: str,
    averaged: EvaluationConfig,
    boxed: EvaluationConfig,
    k: int = 3,
) -> tuple[dict[tuple[str, float], Suspect], pd.DataFrame]:
    """What the recipe finds in each network, and :func:`recipe_table`: how much is the artefact."""
    found = {}
    for r, network in networks.items():
        images = planted(source.evaluation, country, r, artefact)
        for name, suspect in suspects(images, network, country, averaged, boxed, k).items():
            found[name, r] = suspect
    scene = carried_by(source.evaluation, source.evaluation.classes, artefact)[0].scene
    mask = None if scene is None else artefact_mask(scene)
    return found, pd.DataFrame() if mask is None else recipe_table(found, mask)


def spots_picture(found: Mapping[tuple[str, float], Suspect], image: np.ndarray) -> Figure:
    """What stands out, by what was averaged and by correlation, laid over an image."""
    picture = figures.as_image(image)
    if not found:
        return figures.images([picture], ["nothing to subtract: one answer for all scenes"])
    levels, names = sorted({r for _, r in found}), ("maps", "elements")
    rows = []
    for name in names:
        differences = (found[name, r].difference.clip(0) for r in levels)
        rows.append([figures.overlay(picture, d / max(d.max(), 1e-9)) for d in differences])
    return figures.image_table(rows, [f"{r:.0%}" for r in levels], names)
