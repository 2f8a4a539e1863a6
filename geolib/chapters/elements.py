"""Segments, elements and maps marked against the true objects of a scene: where every outline is
known, it can be counted how many elements overlap, are parts of larger things or are shapeless, of
which §5 of arXiv 2605.00912 speaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from geolib import figures
from geolib.ablation import ablate
from geolib.chapters import tables
from geolib.chapters.experiment import Experiment
from geolib.data import GeoDataset, GeoImage
from geolib.figures import ACCENT, GUIDED, WIDTH, as_image, draw_boxes, outline, styled
from geolib.masks import intersections, iou
from geolib.model import Classifier
from geolib.pipeline import MAX_COVERAGE, Tuned, shards
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.runtime import cache
from geolib.scoring import salient_weights
from geoscenes import Scene, SceneObject
from geoscenes.scene import MIN_PIXELS as SEEN


def example(extracted: Sequence[Extracted]) -> Extracted:
    """An image for the pipeline's picture: the one with the median number of elements."""
    ranked = sorted(extracted, key=lambda one: (len(one.elements), one.item.id))
    return ranked[len(ranked) // 2]


def gallery(extracted: Sequence[Extracted], elements: pd.DataFrame, columns: int) -> Figure:
    """Elements with the largest effect of their own, a row per country, one per image (Figure 4);
    each carries the log-probability that is lost without it."""
    images = {one.item.id: as_image(one.image) for one in extracted}
    pictures, titles, countries = [], [], []
    for country, rows in elements.groupby("country"):
        strongest = rows.sort_values("deletion_effect", ascending=False)
        strongest = strongest.drop_duplicates("image_id").head(columns)
        boxes = strongest[["x0", "y0", "x1", "y1"]].to_numpy(int)
        shown = zip(strongest["image_id"], boxes, strict=True)
        pictures.append([spotlight(images[name], box) for name, box in shown])
        titles.append([f"{effect:+.2f}" for effect in strongest["deletion_effect"]])
        countries.append(str(country))
    return figures.image_table(pictures, [""] * columns, countries, titles)


def spotlight(image: np.ndarray, box: Sequence[int] | np.ndarray) -> np.ndarray:
    """Square window around a box of an image ``[H, W, 3]`` in 0..1, all outside the box dimmed:
    twice its longer side, but at most the image's shorter one."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    dimmed = 0.45 * image + 0.1
    dimmed[y0:y1, x0:x1] = image[y0:y1, x0:x1]
    side = min(max(2 * (x1 - x0), 2 * (y1 - y0), min(height, width) // 4), height, width)
    left = min(max((x0 + x1 - side) // 2, 0), width - side)
    top = min(max((y0 + y1 - side) // 2, 0), height - side)
    return dimmed[top : top + side, left : left + side]


@styled
def tuning(tuned: Tuned) -> Figure:
    """Insertion advantage against coverage for every (p, s_min) tried on the validation split."""
    curve, chosen = tuned.curve, tuned.chosen
    figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, curve["top_p"].nunique()))
    for colour, (top_p, rows) in zip(colours, curve.groupby("top_p"), strict=True):
        rows = rows.sort_values("s_min")
        places = rows["coverage"], rows["insertion_advantage"]
        axis.plot(*places, "o-", color=colour, ms=5, label=f"p = {top_p:.0%}")
    axis.axvline(MAX_COVERAGE, color=ACCENT, ls="--", lw=1.5)
    best = chosen["coverage"], chosen["insertion_advantage"]
    axis.plot(*best, "o", ms=15, mfc="none", mec=GUIDED, mew=2)
    axis.annotate("chosen", best, (10, 10), textcoords="offset points", color=GUIDED)
    axis.set(xlabel="coverage of the image", ylabel="insertion advantage\n(log-probability)")
    axis.grid()
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def thresholds(experiment: Experiment, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """The thresholds chosen for pairs of attribution method and segmenter; what elements cover of
    the compared images, and the share of these that is left without one; and the same untuned."""
    rows = {}
    for pair in dict.fromkeys(pairs):
        chosen, untuned = (experiment.config(*pair, tuned=one) for one in (True, False))
        found = _kept(experiment.compared_with(pair[0]), experiment.classifier, [chosen, untuned])
        found["none"] = found["n_elements"] == 0
        means = found.groupby("choice")[["coverage", "none"]].mean().to_numpy().ravel()
        rows[pair] = [chosen.top_p, chosen.s_min, *means]
    names = ["top_p", "s_min", "coverage", "none", "coverage untuned", "none untuned"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=names)
    table.index = pd.MultiIndex.from_tuples(table.index, names=["attribution", "segmenter"])
    columns = {
        "p": ("top_p", ".0%"),
        "s_min": ("s_min", ".2f"),
        "coverage": ("coverage", ".0%"),
        "no element": ("none", ".0%"),
        "untuned: coverage": ("coverage untuned", ".0%"),
        "untuned: no element": ("none untuned", ".0%"),
    }
    return tables.shown(table, columns)


def _kept(
    images: GeoDataset, classifier: Classifier, configs: Sequence[EvaluationConfig]
) -> pd.DataFrame:
    """Coverage and number of the elements of each image under each configuration (``choice``)."""

    def make() -> pd.DataFrame:
        rows = []
        for shard in shards.shards(images, classifier, configs[0].shard_size):
            for i, extracted in enumerate(shards.choices(shard, classifier, configs)):
                rows += [(i, one.elements.coverage, len(one.elements)) for one in extracted]
        return pd.DataFrame(rows, columns=["choice", "coverage", "n_elements"])

    params = {
        "images": images.identity,
        "classifier": classifier.weights_sha256,
        "configs": [shards.config_key(one) for one in configs],
    }
    return cache.table("kept", params, (__name__,), make)


def pipeline_steps(one: Extracted, fill: str) -> Figure:
    """The pipeline on one image (Figure 1): photograph, map, segments, elements and both tests."""
    picture, region = as_image(one.image), one.elements.region()[None]
    variants = {
        f"d  {mode}": ablate(one.image[None], region, mode, fill)[0]
        for mode in ("deletion", "insertion")
    }
    panels = {
        "photograph": picture,
        "a  attribution": figures.overlay(picture, one.attribution),
        "b  segments": outline(picture, one.segments.masks),
        "c  elements": picture,
        **variants,
    }
    figure = figures.images(list(panels.values()), list(panels), columns=3)
    draw_boxes(figure.axes[3], one.elements.boxes, GUIDED)
    return figure


MIN_PIXELS = 64  # of the smallest object that a box test could use
HALF = 0.5  # overlap from which two things are one
KINDS = ("one object", "part", "several", "shapeless")
INSIDE = 0.8  # share of an element on an object that makes it part of that object


def has_truth(extracted: Sequence[Extracted]) -> bool:
    """Whether the images are scenes, whose objects are known."""
    return bool(extracted) and all(one.item.scene is not None for one in extracted)


def object_recall(found: Mapping[str, Sequence[Extracted]]) -> pd.DataFrame:
    """How well each segmenter's segments match the objects of at least 64 pixels, best first: share
    of ``objects found`` with an IoU of at least one half, and ``mean best IoU`` over objects."""
    rows = {}
    # The images are the same for every segmenter, and drawing true outlines takes a while.
    true = {one.item.id: _masks(_visible(one.item)) for one in next(iter(found.values()))}
    for name, images in found.items():
        best = np.concatenate([_best_iou(true[one.item.id], one.segments.masks) for one in images])
        rows[name] = {"objects found": (best >= HALF).mean(), "mean best IoU": best.mean()}
    return pd.DataFrame(rows).T.sort_values("mean best IoU", ascending=False)


def mark_elements(one: Extracted) -> pd.DataFrame:
    """Whether each element of a scene is ``overlapping`` (shares half of its pixels with another),
    its ``kind``: "part" if 80 % of it lie on an object of which it covers less than half,
    "shapeless" if less than half of it lies on objects, "several" if half does and no object makes
    it up alone, else "one object"; and what its main object is."""
    masks, objects = one.elements.masks, _visible(one.item)
    areas = masks.sum((1, 2))[:, None]
    among = intersections(masks, masks) / areas
    np.fill_diagonal(among, 0)
    shared, anywhere = np.zeros((2, len(masks), 1))  # with nothing, where there is no object
    if objects and len(masks):
        outlines = _masks(objects)
        shared = intersections(masks, outlines)
        anywhere = intersections(masks, np.logical_or.reduce(outlines)[None]) / areas
    on, of = shared / areas, shared / np.array([[o.mask.sum() for o in objects] or [1]])
    mixed = on.max(1) < HALF
    part = ((on >= INSIDE) & (of < HALF)).any(1) & ~((on >= HALF) & (of >= HALF)).any(1)
    kinds = [anywhere[:, 0] < HALF, mixed, part]
    shown = [None if no else objects[i] for no, i in zip(mixed, on.argmax(1), strict=True)]
    return pd.DataFrame(
        {
            "overlapping": among.max(1, initial=0) >= HALF,
            "kind": np.select(kinds, ["shapeless", "several", "part"], "one object"),
            "category": [thing and thing.category for thing in shown],
            "cue": [thing and thing.cue for thing in shown],
        }
    )


def spread(extracted: Sequence[Extracted]) -> pd.DataFrame:
    """How the heat map of each scene lies on its objects: how many the salient fifth ``touches``,
    and an element on average; the share of the fifth on no object, ``beside``, and on the one with
    most of it, ``on one``; and the ``match``: the largest share of an object that lies among as
    many of the map's highest pixels."""
    rows = []
    for one in extracted:
        masks = _masks(_visible(one.item))
        if not len(masks):
            continue
        values = one.attribution.double().numpy()
        salient = salient_weights(values)
        on = np.array([salient[mask].sum() for mask in masks]) / salient.sum()
        touched = (intersections(one.elements.masks, masks) > 0).sum(1)
        rows.append(
            {
                "touches": (on > 0).sum(),
                "element touches": touched.mean() if len(touched) else np.nan,
                "beside": 1 - salient[masks.any(0)].sum() / salient.sum(),
                "on one": on.max(),
                "match": max(salient_weights(values, mask.mean())[mask].mean() for mask in masks),
            }
        )
    columns = ["touches", "element touches", "beside", "on one", "match"]
    return pd.DataFrame(rows, columns=columns, dtype=float)


def spread_note(table: pd.DataFrame) -> str:
    """What :func:`spread` says, in a sentence."""
    means = table.mean()
    return (
        f"The salient fifth touches {means['touches']:.1f} objects, an element "
        f"{means['element touches']:.1f}; {means['beside']:.0%} of the fifth lies on no object, "
        f"and {means['on one']:.0%} on the one that has most of it."
    )


def cue_share(extracted: Sequence[Extracted]) -> dict[str, float]:
    """Share of cues among the objects that elements lie on, and among all visible objects. Elements
    lie on what makes up at least half of them; others are left out."""
    on = [cue for one in extracted for cue in mark_elements(one)["cue"].dropna()]
    every = [thing.cue for one in extracted for thing in _visible(one.item)]
    return {"elements": float(np.mean(on or [False])), "objects": float(np.mean(every or [False]))}


def localisation(maps: Mapping[str, torch.Tensor], items: Sequence[GeoImage]) -> pd.DataFrame:
    """How well maps ``[B, H, W]`` find the visible cues of scenes: the share of maxima
    (``pointing``) and of the sum (``weight``; of a map of zeros, the even one's) that lies on cues,
    where a blind map scores their ``area``; and of cues ``found``, by half or more, in the salient
    fifth."""
    rows = []
    for i, item in enumerate(items):
        masks = _masks([o for o in _visible(item, SEEN) if o.cue])
        if not len(masks):
            continue
        for method, found in maps.items():
            one = found[i].double().numpy()
            cues = _at_size(masks, one.shape)
            anywhere = np.logical_or.reduce(cues)
            even = one if one.max() > 0 else np.ones_like(one)
            salient = salient_weights(one)
            rows.append(
                {
                    "method": method,
                    "image_id": item.id,
                    "area": anywhere.mean(),
                    "pointing": anywhere[one == one.max()].mean(),
                    "weight": even[anywhere].sum() / even.sum(),
                    "found": np.mean([salient[cue].mean() >= HALF for cue in cues]),
                }
            )
    columns = ["method", "image_id", "area", "pointing", "weight", "found"]
    return pd.DataFrame(rows, columns=columns)


def _at_size(masks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Masks ``[N, H, W]`` at the size of a map."""
    area = cv2.INTER_AREA
    sized = [cv2.resize(m.astype(np.uint8), shape[::-1], interpolation=area) for m in masks]
    return np.array(sized).astype(bool)


def _best_iou(objects: np.ndarray, segments: np.ndarray) -> np.ndarray:
    if not len(objects) or not len(segments):
        return np.zeros(len(objects))
    return iou(objects, segments).max(1)


def _visible(item: GeoImage, at_least: int = MIN_PIXELS) -> list[SceneObject]:
    if not isinstance(item.scene, Scene):
        raise ValueError(f"image {item.id!r} is not a scene: its true objects are unknown")
    return [o for o in item.scene.objects if o.mask.sum() >= at_least]


def _masks(objects: Sequence[SceneObject]) -> np.ndarray:
    return np.stack([o.mask for o in objects]) if objects else np.zeros((0, 1, 1), bool)
