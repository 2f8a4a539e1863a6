"""Does hiding an object do what taking it away does? Masked deletion against true removal.

Deletion (§5 of arXiv 2605.00912) puts a patch of colour where an object was, and a network may
falter over the patch rather than over what it hid. A scene can be rendered without the object, all
else equal to the pixel: :func:`removals` compares the two object by object, and
:func:`object_tests` asks whether the paper's conclusion survives when hidden objects are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from geolib import figures, statistics
from geolib.ablation import FILLS, ablate
from geolib.chapters.baselines import donor_indices
from geolib.chapters.causes.effects import scene_of
from geolib.chapters.elements import MIN_PIXELS
from geolib.chapters.tables import cells, grouped_means
from geolib.data import GeoDataset, to_batch
from geolib.masks import box_region
from geolib.model import Classifier, choose_device
from geolib.model.prediction import log_probabilities
from geolib.pipeline import shards
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import element_boxes, score_segments
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


def _outcomes(
    stage: str,
    dataset: GeoDataset,
    classifier: Classifier,
    fills: Sequence[str],
    choose: Callable[[int, Scene], pd.DataFrame],
    **ways: Any,
) -> pd.DataFrame:
    """What sets of a scene's objects leave of the true class, by ``TRUE`` and every fill; cached.

    ``choose`` gives, for the scene at a place of the dataset, a row per set: ``objects``, places
    among the hideable ones, and ``pixels``, one of ``REGIONS``. ``ways``: what else it depends on.
    """
    labels = shards.true_labels(dataset, classifier)

    def make() -> pd.DataFrame:
        classifier.to(choose_device())
        items = [dataset[i] for i in range(len(dataset))]
        images = to_batch(items, classifier.image_size)
        donors = images[donor_indices(dataset.ids, 0, 1)[:, 0]]
        tables = []
        with progress_bar("objects hidden", len(items), "scene", True) as bar:
            for i, item in enumerate(items):
                bar.update()
                scene, label = scene_of(item), labels[item.id]
                chosen = choose(i, scene).assign(image_id=item.id)
                if chosen.empty:
                    continue
                sets = chosen[["objects", "pixels"]].drop_duplicates()  # methods share sets
                pictures = _pictures(scene, sets, images[i], donors[i], fills)
                # Float32, because bfloat16 rounds away what small objects do.
                found = log_probabilities(classifier, pictures, precision="fp32").numpy()
                each = found[1:].reshape(1 + len(fills), len(sets), -1)
                for fill, values in zip((TRUE, *fills), each, strict=True):
                    right = values.argmax(1) == label
                    outcomes = sets.assign(log_probability=values[:, label], correct=right)
                    table = chosen.assign(fill=fill, whole=found[0, label])
                    tables.append(table.merge(outcomes, on=["objects", "pixels"]))
        return pd.concat(tables, ignore_index=True).drop(columns="objects")

    params = {"images": dataset.identity, "labels": labels, "classifier": classifier.weights_sha256}
    return cache.table(stage, {**params, "fills": list(fills), **ways}, (__name__,), make)


def _pictures(
    scene: Scene, sets: pd.DataFrame, image: torch.Tensor, donor: torch.Tensor, fills: Sequence[str]
) -> torch.Tensor:
    """The scene, the scene without each set of objects, and with each of them behind each fill."""
    objects = hideable(scene)
    gone = {one: _without(scene, [objects[i].id for i in one]) for one in sets["objects"].unique()}
    pixels = {name: object_regions(scene, objects, name) for name in sets["pixels"].unique()}
    hidden = [pixels[name][list(one)].any(0) for one, name in sets.itertuples(index=False)]
    copies, donors = (one.expand(len(sets), -1, -1, -1) for one in (image, donor))
    filled = [ablate(copies, np.stack(hidden), "deletion", fill, donors=donors) for fill in fills]
    truly = to_batch([gone[one] for one in sets["objects"]], image.shape[-1])
    return torch.cat([image[None], truly, *filled])


def removals(
    dataset: GeoDataset, classifier: Classifier, *, fills: Sequence[str] = FILLS
) -> pd.DataFrame:
    """Log-probability of the true class that is lost without each hideable object, by region and
    fill: when it is really removed, ``true``, and ``masked``."""

    def each_alone(_: int, scene: Scene) -> pd.DataFrame:
        rows = [(one.id, one.cue, (i,)) for i, one in enumerate(hideable(scene))]
        table = pd.DataFrame(rows, columns=["object", "cue", "objects"])
        return table.merge(pd.DataFrame({"pixels": REGIONS}), "cross")

    table = _outcomes("removals", dataset, classifier, fills, each_alone)
    table["masked"] = table["whole"] - table["log_probability"]
    keys, gone = ["image_id", "object", "pixels"], table["fill"] == TRUE
    true = table[gone].set_index(keys)["masked"].rename("true")
    return table[~gone].join(true, keys).rename(columns={"pixels": "region"})


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of masked deletion with true removal over the objects of each scene, and
    its ``bias``, masked − true: means over scenes by region × fill, best first."""
    by, names = ["region", "fill"], {"value": "bias", "low": "bias_low", "high": "bias_high"}
    more = table.assign(bias=table["masked"] - table["true"])
    scenes = more.groupby([*by, "image_id"], sort=False)
    each = scenes["bias"].mean().to_frame().assign(rank=scenes.apply(_correlation)).reset_index()
    bias = grouped_means(each, "bias", by).drop(columns="n").rename(columns=names)
    means = grouped_means(each, "rank", by).merge(bias, on=by)
    return means.sort_values("value", ascending=False, kind="stable", ignore_index=True)


def fill_agreement(agreement: pd.DataFrame) -> Figure:
    """How each fill agrees with true removal, and its bias: of :func:`agreement`."""
    bias = agreement[["fill", "region", "bias", "bias_low", "bias_high"]]
    bias = bias.set_axis(["fill", "region", "value", "low", "high"], axis=1)
    panels = {"rank correlation with true removal": agreement, "bias (log-probability)": bias}
    both = pd.concat(panels, names=["panel"]).reset_index("panel")
    label, lines = "mean over scenes", {"": 0}
    figure = figures.dots(both, "fill", by="region", panels="panel", label=label, lines=lines)
    for axis in figure.axes:
        axis.locator_params(axis="x", nbins=4)
    return figure


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
    fills: Sequence[str] = FILLS,
) -> pd.DataFrame:
    """The paper's deletion test on true objects, with masks and with real removal: an outcome table
    of the ``TOP`` objects by the score of each of ``maps`` ``[B,S,S]``, and of ``REPEATS`` sets of
    as many random ones; ``fill`` says how they are deleted."""

    def chosen(i: int, scene: Scene) -> pd.DataFrame:
        own = {name: found[i].numpy() for name, found in maps.items()}
        return chosen_sets(scene, own)

    pixels = {name: found.contiguous().numpy().tobytes() for name, found in maps.items()}
    digests = {name: sha256(held).hexdigest() for name, held in pixels.items()}
    table = _outcomes("object-tests", dataset, classifier, fills, chosen, maps=digests)
    return table.assign(segmenter="truth", test="deletion")


def chosen_sets(
    scene: Scene, maps: Mapping[str, np.ndarray], top: int = TOP, repeats: int = REPEATS
) -> pd.DataFrame:
    """Sets of a scene's :func:`hideable` objects to delete, a row per map and set: the ``top`` by
    score, at most half of them, none of score zero; and random ones whose boxes cover as much, to
    within ``TOLERANCE``, those that share few with the guided one first."""
    columns = ["attribution", "region", "repeat", "objects", "coverage", "coverage_gap"]
    objects = hideable(scene)
    most = min(top, len(objects) // 2)
    if not most:
        return pd.DataFrame(columns=columns)
    masks, boxes = (object_regions(scene, objects, name) for name in ("mask", "box"))
    rows: list[tuple[Any, ...]] = []
    for name, found in maps.items():
        scores = score_segments(found, masks)["score"].to_numpy()
        n_deleted = min(most, int((scores > 0).sum()))
        guided = tuple(sorted(np.argsort(-scores, kind="stable")[:n_deleted].tolist()))
        target = _covered(boxes, guided)
        rows.append((name, "guided", 0, guided, target, 0.0))
        every = list(combinations(range(len(objects)), n_deleted))
        order = np.random.default_rng(scene.seed).permutation(len(every))[:CANDIDATES]
        others = [every[i] for i in order if every[i] != guided] or [guided]
        covers = {one: _covered(boxes, one) for one in others}
        ranked = sorted(others, key=lambda one: _unlike(one, guided, covers[one] - target))
        for repeat, other in enumerate(ranked[:repeats]):
            rows.append((name, "random", repeat, other, covers[other], covers[other] - target))
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(pixels="box", n_elements=table["objects"].map(len))


def _covered(boxes: np.ndarray, chosen: Sequence[int]) -> float:
    return float(boxes[list(chosen)].any(axis=0).mean())


def _unlike(chosen: Sequence[int], guided: Sequence[int], gap: float) -> tuple[float, int]:
    """Rank of a random set, smallest first; equal ones stay in the order in which they came."""
    return max(abs(gap), TOLERANCE), len({*chosen} & {*guided})


def conclusions(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Advantage (log-probability) of each method under each way of deleting, and its ``difference``
    from that under true removal, image by image; ``p_difference`` is corrected over all rows."""
    keys = ["attribution", "fill"]
    each = statistics.advantages(outcomes, keys, "log_probability")
    wide = each.pivot(index=["attribution", "image_id"], columns="fill", values="advantage")
    more = wide.drop(columns=TRUE).sub(wide[TRUE], axis=0).stack().groupby(keys)
    found = {pair: statistics.paired(values)._asdict() for pair, values in more}
    table = pd.DataFrame.from_dict(found, orient="index").rename_axis(keys)
    table["p_difference"] = statistics.holm(table["p_value"])
    means = grouped_means(each, "advantage", keys)
    return means.join(table[["difference", "detectable", "p_difference"]], keys)


def conclusions_note(judged: pd.DataFrame) -> str:
    """How many :func:`conclusions` change, and what difference would have been shown."""
    others = judged[judged["fill"] != TRUE]
    return (
        f"**{(others['p_difference'] < 0.05).sum()} of {len(others)} advantages differ** from "
        "those of objects that are really gone; in the median comparison a true difference of "
        f"{others['detectable'].median():.2f} would have been shown."
    )


def conclusions_table(judged: pd.DataFrame) -> pd.DataFrame:
    """The :func:`conclusions` of each way of deleting, true removal on top, then the nearest fill;
    methods by their advantage under true removal; ≠ where the difference is told."""
    sign = judged["p_difference"].lt(0.05).map({True: " ≠", False: ""})
    table = judged.assign(cell=cells(judged, "+.2f") + sign)
    distance = table["difference"].abs().groupby(table["fill"]).mean().fillna(-1)  # itself
    truth = table[table["fill"] == TRUE].set_index("attribution")["value"]
    wide = table.pivot(index="fill", columns="attribution", values="cell")
    wide = wide.loc[distance.sort_values().index, truth.sort_values(ascending=False).index]
    return wide.rename_axis(index=None, columns=None)
