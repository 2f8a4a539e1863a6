"""Shortcut hunt: an artefact that says nothing about geography, such as mud on one country's
camera, is planted in the training scenes. Do maps and elements (§3 of arXiv 2605.00912) show that a
network leans on it, and from when on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product, takewhile
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torchvision.ops import box_iou

from geolib import figures, pipeline, statistics
from geolib.ablation import ablate
from geolib.chapters.experiment import Experiment, elements_at_coverage
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
MATCH = 0.25  # IoU from which on an element's box shows the artefact and little else
CAUGHT = 0.5  # share of the artefact that a hot spot must hold to have found it
SMOOTHING = 1 / 40  # width of the filter over averaged maps, as a share of the image's

Networks = Mapping[float, Classifier]  # by the correlation that each was trained at


# Scenes with the artefact -------------------------------------------------------------------------


def planted(dataset: GeoDataset, country: str, correlation: float, kind: str) -> GeoDataset:
    """The same scenes with an artefact that goes with one country: of its scenes (1 + r)/2 carry
    it, of the others (1 - r)/2; see :func:`geoscenes.render`."""
    artefact = {"country": country, "correlation": correlation, "kind": kind}
    records = []
    for one in dataset.records:
        if not isinstance(one, SceneRecord):
            raise ValueError(
                f"dataset={dataset!r} does not consist of scenes: an artefact can be planted in "
                "dataset='geoscenes' only"
            )
        records.append(replace(one, options=one.options | {ARTEFACT: artefact}))
    return GeoDataset(dataset.name, dataset.classes, dataset.split, records)


def of_country(dataset: GeoDataset, country: str) -> GeoDataset:
    """The images of one country."""
    label = dataset.classes.index(country)
    return dataset.subset(i for i, one in enumerate(dataset.labels) if one == label)


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


# Exposure -----------------------------------------------------------------------------------------


def exposure(extracted: Sequence[Extracted], k: int = 3) -> pd.DataFrame:
    """How much of the artefact the explanations of scenes that carry it show: the ``area`` it
    fills, the share of the map's sum on it (``weight``; a map of zeros counts as an even one), and
    whether one of the first ``k`` boxes matches it (``found``)."""
    rows = []
    for one in extracted:
        mask = artefact_mask(one.item.scene)
        if mask is None:
            continue
        values = one.attribution.double().numpy()
        even = values if values.max() > 0 else np.ones_like(values)
        box = torch.as_tensor(element_boxes(mask[None], padding=0.05))
        matched = (box_iou(torch.as_tensor(one.elements.boxes[:k]), box) >= MATCH).any()
        rows.append((one.item.id, mask.mean(), even[mask].sum() / even.sum(), float(matched)))
    return pd.DataFrame(rows, columns=["image_id", "area", "weight", "found"])


def artefact_mask(scene: Scene | None) -> np.ndarray | None:
    """Visible pixels of the artefact, bool ``[H, W]``; None where there is none."""
    things = () if scene is None else scene.objects
    return next((thing.mask for thing in things if thing.id == ARTEFACT), None)


def exposures(
    networks: Networks,
    carrying: GeoDataset,
    configs: Sequence[EvaluationConfig],
    k: int,
    s_min: float | None = None,
) -> pd.DataFrame:
    """:func:`exposure` of each network and method, with thresholds that are given or chosen by
    coverage; columns ``correlation`` and ``method``."""
    tables = []
    for (r, network), config in product(networks.items(), configs):
        table = exposure(elements_at_coverage(carrying, network, config, s_min), k)
        tables.append(table.assign(method=config.attribution, correlation=r))
    return pd.concat(tables, ignore_index=True)


def effects(networks: Networks, carrying: GeoDataset, clean: GeoDataset) -> pd.DataFrame:
    """What the artefact adds to each log-probability of the true class, by network."""
    found = {}
    for r, network in networks.items():
        tables = (shards.predictions(images, network) for images in (carrying, clean))
        one, other = (table.set_index("image_id")["label_probability"] for table in tables)
        found[r] = pd.DataFrame({"effect": np.log(one / other)})
    return pd.concat(found, names=["correlation"]).reset_index()


def accuracies(networks: Networks, test: GeoDataset, country: str, artefact: str) -> pd.DataFrame:
    """Whether each network is ``right`` about the test ``scenes`` with the artefact as in training,
    without it, and with it in the other countries instead."""
    tables = []
    for r, network in networks.items():
        sets = {
            "as in training": planted(test, country, r, artefact),
            "clean": test,
            "moved to the others": planted(test, country, -1.0, artefact),
        }
        for name, images in sets.items():
            found = shards.predictions(images, network)
            tables.append(found.assign(scenes=name, correlation=r))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(right=(table["prediction"] == table["label"]).astype(float))


def onset(values: pd.DataFrame, sign: int = 1) -> float | None:
    """The lowest correlation at which, there and at every higher one, the interval of a measure's
    difference to correlation 0, image by image, lies beyond 0. ``values``: a row per image, a
    column per correlation; ``sign``: -1 for a fall."""
    levels = sorted((r for r in values.columns.tolist() if r != 0), reverse=True)
    lows = (statistics.paired(sign * (values[r] - values[0])).low for r in levels)
    beyond = takewhile(lambda one: one[1] > 0, zip(levels, lows, strict=True))
    return min((float(level) for level, _ in beyond), default=None)


def warning_table(found: pd.DataFrame, effects: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """From which correlation on each measure warns, and accuracy falls; earliest first. ``rise`` is
    the difference at the highest correlation, ``detectable`` what so many images would have shown
    at the lowest."""
    measured = {
        **{("elements", m): (rows, "found", 1) for m, rows in found.groupby("method", sort=False)},
        **{("map", m): (rows, "weight", 1) for m, rows in found.groupby("method", sort=False)},
        ("removal from the scene", "log-probability lost"): (effects, "effect", 1),
        **{("accuracy", n): (rows, "right", -1) for n, rows in right.groupby("scenes", sort=False)},
    }
    rows = {}
    for name, (table, value, sign) in measured.items():
        values = table.pivot(index="image_id", columns="correlation", values=value)
        _, *levels = sorted(values.columns.tolist())
        top, first = (statistics.paired(values[r] - values[0]) for r in (levels[-1], levels[0]))
        rows[name] = {
            "from": onset(values, sign),
            **values.mean().rename("{:.0%}".format),
            "rise": top.difference,
            "low": top.low,
            "high": top.high,
            "detectable": first.detectable,
            "images": first.n_images,
        }
    table = pd.DataFrame(rows).T.rename_axis(["measure", "of"]).astype(float)
    return table.sort_values(["from", "rise"], ascending=[True, False], na_position="last")


def answer(warnings: pd.DataFrame) -> str:
    """From when on accuracy falls, and which elements and maps warn first."""
    first: Any = warnings["from"]

    def when(r: float) -> str:
        return "at no correlation tested" if np.isnan(r) else f"from a correlation of {r:.0%} on"

    def earliest(measure: str) -> str:
        dates = first[measure].drop(["edges", "random"], errors="ignore").dropna()
        if dates.empty:
            return "no method at any correlation tested"
        return f"{dates.idxmin()} {when(dates.min())}"

    fall = when(first["accuracy", "clean"])
    return (
        f"A planted artefact makes accuracy on clean scenes fall {fall}. Elements show it, "
        f"earliest of all, with {earliest('elements')}, maps with {earliest('map')}."
    )


# The recipe ---------------------------------------------------------------------------------------


class Suspect(NamedTuple):
    """What stands out for one class, and what the network loses without it."""

    difference: np.ndarray  # of :func:`standing_out`
    spot: np.ndarray  # the :func:`hot_spot` in it
    losses: pd.DataFrame  # of :func:`covered`, for the images predicted as the class


def element_maps(extracted: Sequence[Extracted], k: int = 3) -> torch.Tensor:
    """Maps ``[B, H, W]`` that are 1 in the boxes of each image's first ``k`` elements, else 0."""
    shape = extracted[0].elements.shape
    regions = [box_region(one.elements.boxes[:k], shape) for one in extracted]
    return torch.from_numpy(np.stack(regions)).float()


def standing_out(maps: torch.Tensor, chosen: np.ndarray) -> np.ndarray:
    """Where the maps [B,H,W] of some images are brighter than those of the others, on average: what
    sits on the lens stays in it. Smoothed, because gradients flicker."""
    if chosen.all() or not chosen.any():
        raise ValueError(f"chosen holds {chosen.sum()} of {len(maps)} maps; expected some")
    values = maps.double().numpy()
    difference = values[chosen].mean(0) - values[~chosen].mean(0)
    return ndimage.gaussian_filter(difference, SMOOTHING * maps.shape[2])


def hot_spot(difference: np.ndarray) -> np.ndarray:
    """What is connected to the highest value above half its height; empty if nothing stands out."""
    if difference.max() <= 0:
        return np.zeros(difference.shape, bool)
    regions, _ = ndimage.label(difference >= difference.max() / 2)
    return regions == regions[np.unravel_index(difference.argmax(), difference.shape)]


def covered(
    classifier: Classifier, images: torch.Tensor, spot: np.ndarray, target: int
) -> pd.DataFrame:
    """What a class loses of its log-probability when a place of every image is filled with the mean
    colour (``loss``), and when the one half a width away is (``elsewhere``)."""
    before = log_probabilities(classifier, images, precision="fp32")[:, target]
    losses = {}
    for name, shift in (("loss", 0), ("elsewhere", spot.shape[1] // 2)):
        place = torch.from_numpy(np.roll(spot, shift, axis=1)).expand(len(images), -1, -1)
        hidden = ablate(images, place, "deletion")
        after = log_probabilities(classifier, hidden, precision="fp32")[:, target]
        losses[name] = (before - after).numpy()
    return pd.DataFrame(losses)


def hunt(
    network: Classifier, images: torch.Tensor, maps: torch.Tensor, chosen: np.ndarray, target: int
) -> Suspect:
    """Average the maps, look at what stands out for the images chosen as a class, and cover it."""
    difference = standing_out(maps, chosen)
    spot = hot_spot(difference)
    return Suspect(difference, spot, covered(network, images[chosen], spot, target))


def suspects(
    networks: Networks,
    scenes: GeoDataset,
    country: str,
    artefact: str,
    averaged: EvaluationConfig,
    boxed: EvaluationConfig,
    k: int,
    s_min: float | None = None,
) -> dict[tuple[str, float], Suspect]:
    """What stands out for a country in each network's average "maps" (of the method ``averaged``),
    and in its "elements" (the first ``k`` of the method ``boxed``). A network with one answer for
    all images is left out: there is nothing to subtract."""
    found = {}
    for r, network in networks.items():
        images = planted(scenes, country, r, artefact)
        target = images.classes.index(country)
        chosen = (shards.predictions(images, network)["prediction"] == target).to_numpy(copy=True)
        if chosen.all() or not chosen.any():
            continue
        pixels = to_batch([images[i] for i in range(len(images))], network.image_size)
        maps = pipeline.maps(images, network, averaged)[0]
        elements = element_maps(elements_at_coverage(images, network, boxed, s_min), k)
        found["maps", r] = hunt(network, pixels, maps, chosen, target)
        found["elements", r] = hunt(network, pixels, elements, chosen, target)
    return found


def recipe_table(found: Mapping[tuple[str, float], Suspect], mask: np.ndarray) -> pd.DataFrame:
    """The recipe in numbers, where ``mask``, the artefact, is known; highest correlation first. It
    is ``found`` if at least half of it lies in the hot spot, and covering that costs more than
    covering the other place, by the whole interval of the ``difference``."""
    rows = []
    for name, r in sorted(found, key=lambda one: (one[0], -one[1])):
        _, spot, losses = found[name, r]
        gap = statistics.paired(losses["loss"] - losses["elsewhere"])
        shared = (spot & mask).sum()
        caught = shared / mask.sum()
        rows.append(
            {
                "averaged": name,
                "correlation": r,
                "artefact in the hot spot": caught,
                "hot spot on the artefact": shared / max(spot.sum(), 1),
                "lost when covered": losses["loss"].mean(),
                "lost elsewhere": losses["elsewhere"].mean(),
                **gap._asdict(),
                "found": caught >= CAUGHT and gap.low > 0,
            }
        )
    return pd.DataFrame(rows)


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
