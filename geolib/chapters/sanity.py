"""Do explanations depend on what the network has learnt, on the network's seed, on left and right?

Three checks on the whole pipeline (§3 of arXiv 2605.00912), from attribution map to elements: the
weights randomised from the top down or learnt from permuted labels (Adebayo et al., NeurIPS 2018),
several networks that differ in their seed alone, and mirrored images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from skimage.metrics import structural_similarity
from torch import nn

from geolib import pipeline, statistics
from geolib.chapters.baselines import torus_shifts
from geolib.chapters.tables import difference
from geolib.data import GeoDataset, GeoImage
from geolib.data.records import Record
from geolib.masks import iou
from geolib.model import Classifier
from geolib.model.classifier import build
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geoscenes import Scene, posterior

# What explanations are compared with that have nothing to do with each other.
OTHER_IMAGE = "another image"
RANDOM_MAP = "a random map"
DRIVING_SIDE = "driving_side"
NO_ANSWER = -1
# Level of a test, after Holm's correction.
ALPHA = 0.05
# Cues with writing on them.
WRITING = frozenset({"stop_sign", "direction_sign", "town_sign", "shop_sign", "milestone"})


# Randomised weights -------------------------------------------------------------------------------


def parts(classifier: Classifier) -> list[str]:
    """Names of the network's modules with weights, from the output to the input.

    Sequences count as the modules that they hold: a ResNet's last layer, its blocks and its stem.
    """
    return [name for name, _ in _leaves(classifier.network, "")][::-1]


def _leaves(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    found = []
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            found += _leaves(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            found.append((prefix + name, child))
    return found


def randomised(classifier: Classifier, names: Sequence[str], seed: int) -> Classifier:
    """A copy with some modules as they are in an untrained network, all else the same to the bit.

    ``names`` are modules such as :func:`parts` lists; which others are named does not matter. The
    seed that the training began with is refused: its weights are not unrelated to the network's.
    """
    if seed == (classifier.training_config or {}).get("seed"):
        raise ValueError(
            f"seed={seed} is the one that the network was trained with, so that its untrained "
            "weights are those that the training began with; choose another"
        )
    known = dict(classifier.network.named_modules())
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"names holds {', '.join(unknown)}, which the network {classifier.name!r} does not "
            f"have; its parts are {', '.join(parts(classifier))}"
        )
    copy = deepcopy(classifier)
    fresh = build(classifier.name, len(classifier.classes), seed).state_dict()
    prefixes = tuple(f"{name}." for name in names)
    copy.network.load_state_dict(
        {k: fresh[k] if k.startswith(prefixes) else v for k, v in copy.network.state_dict().items()}
    )
    return copy


def cascade(classifier: Classifier, n_levels: int, seed: int) -> dict[str, Classifier]:
    """Networks with more and more of the weights randomised, named by the lowest such module.

    Evenly spaced from the last layer alone to everything.
    """
    names = parts(classifier)
    if not 2 <= n_levels <= len(names):
        raise ValueError(f"n_levels={n_levels}; expected 2 to {len(names)}, the network's parts")
    lowest = np.linspace(0, len(names) - 1, n_levels).round().astype(int)
    return {names[i]: randomised(classifier, names[: i + 1], seed) for i in lowest}


def permuted_labels(dataset: GeoDataset, seed: int = 0) -> GeoDataset:
    """The same images with their labels dealt out anew: as many of each, and none of any use."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    labels = dataset.labels
    # A record keeps its pixels and its identity; only the label is another's.
    records: Sequence[Any] = dataset.records
    dealt = [replace(one, label=labels[i]) for one, i in zip(records, order, strict=True)]
    return GeoDataset(dataset.name, dataset.classes, dataset.split, dealt)


# Similarity of explanations -----------------------------------------------------------------------


def similarity(one: Sequence[Extracted], other: Sequence[Extracted]) -> pd.DataFrame:
    """How alike two explanations of each image are, a row per image.

    ``n_elements`` of the first; of the maps Spearman's ``correlation`` and ``ssim`` (Wang et al.
    2004, Gaussian window), missing where one is constant; of the elements ``boxes`` and ``masks``,
    the intersection over union of what all of them cover: 0 if only the first has elements, missing
    if it has none; and ``beyond``, the boxes' overlap less the mean one with the other's boxes
    moved elsewhere, because larger areas overlap more whatever they show.
    """
    rows = [
        {"image_id": a.item.id, "n_elements": len(a.elements), **_of_maps(a, b), **_overlaps(a, b)}
        for a, b in zip(one, other, strict=True)
    ]
    return pd.DataFrame(rows)


def _of_maps(a: Extracted, b: Extracted) -> dict[str, float]:
    first, second = (one.attribution.double().numpy() for one in (a, b))
    if first.min() == first.max() or second.min() == second.max():
        return {"correlation": np.nan, "ssim": np.nan}
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = structural_similarity(first, second, data_range=1.0, **window)
    correlation = stats.spearmanr(first, second, axis=None).statistic
    return {"correlation": float(correlation), "ssim": float(ssim)}


def _overlaps(a: Extracted, b: Extracted) -> dict[str, float]:
    if not len(a.elements):
        return dict.fromkeys(("boxes", "masks", "beyond"), np.nan)
    one, other = a.elements.region(), b.elements.region()
    boxes = iou(one[None], other[None]).item()
    by_chance = iou(one[None], torus_shifts(other, a.item.id)).mean()
    masks = iou(a.elements.mask_region()[None], b.elements.mask_region()[None]).item()
    return {"boxes": boxes, "masks": masks, "beyond": boxes - float(by_chance)}


def resemblance(
    dataset: GeoDataset,
    original: Classifier,
    others: Mapping[str, Classifier],
    configs: Mapping[str, EvaluationConfig],
) -> pd.DataFrame:
    """How far the explanations of other networks resemble the original's, by method and network.

    The whole pipeline runs for each network and each of ``configs``, a method's settings, for the
    class that the network predicts. Two references have no relation to the original: its
    explanation of the next image ("another image"), and one from a map that looks at neither
    network nor image, on the same segments ("a random map").
    """
    if len(dataset) < 2:
        raise ValueError(f"dataset holds {len(dataset)} images; unrelated ones take at least two")
    tables = []
    with progress_bar("networks × methods", len(configs) * (len(others) + 1), "run", True) as bar:
        for method, config in configs.items():
            own = pipeline.extract(dataset, original, config)
            blind = config.model_copy(update={"attribution": "random", "attribution_options": {}})
            runs = {RANDOM_MAP: (original, blind)}
            runs |= {name: (network, config) for name, network in others.items()}
            found = {OTHER_IMAGE: [*own[1:], own[0]]}
            for name, run in runs.items():
                found[name] = pipeline.extract(dataset, *run)
                bar.update()
            tables += [
                similarity(own, theirs).assign(method=method, network=name)
                for name, theirs in found.items()
            ]
    return pd.concat(tables, ignore_index=True)


def left_over(table: pd.DataFrame, network: str, looking: Sequence[str]) -> pd.DataFrame:
    """What methods' elements keep of the original's in a network without its weights.

    Of :func:`resemblance`, the most dependent first; ``difference`` is the overlap beyond chance
    less that of a random map's elements on the same segments.
    """
    rows = {}
    for method, part in table.groupby("method", sort=False):
        means = part.groupby("network")[["correlation", "ssim", "boxes", "beyond"]].mean()
        found = statistics.paired(difference(part, "beyond", "network", network, RANDOM_MAP))
        unrelated = {name: means.loc[name, "beyond"] for name in (OTHER_IMAGE, RANDOM_MAP)}
        empty = {"no element": (part["n_elements"] == 0).mean()}
        rows[method] = means.loc[network].to_dict() | unrelated | found._asdict() | empty
    return _corrected(pd.DataFrame(rows).T, looking).sort_values("difference")


def label_effect(table: pd.DataFrame, one: str, other: str, looking: Sequence[str]) -> pd.DataFrame:
    """How much more a network resembles the original than another one, in its maps and elements."""
    rows = {}
    for method in looking:
        part = table[table["method"] == method]
        for measure, of in (("correlation", "map"), ("beyond", "elements")):
            means = part.groupby("network")[measure].mean()
            found = statistics.paired(difference(part, measure, "network", one, other))
            rows[of, method] = {one: means[one], other: means[other], **found._asdict()}
    effect = _corrected(pd.DataFrame(rows).T.rename_axis(["similarity of", "method"]))
    return effect.sort_values(["similarity of", "difference"], ascending=False)


def _corrected(rows: pd.DataFrame, tested: Sequence[str] | None = None) -> pd.DataFrame:
    """Holm's correction over the tested rows; ``shown`` where the difference is told from 0."""
    chosen = rows.index if tested is None else list(tested)
    p_values = pd.Series(statistics.holm(rows.loc[chosen, "p_value"]), chosen)
    rows = rows.assign(p_value=p_values.reindex(rows.index))
    return rows.assign(shown=(rows["low"] > 0) & (rows["p_value"] < ALPHA))


# Several networks ---------------------------------------------------------------------------------


def variance_components(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Variance between images, between models, and of a model's peculiar view of an image.

    Random effects of a two-way layout with one row per ``image_id`` and ``model``, from its mean
    squares (Searle, Casella and McCulloch, *Variance Components*, 1992, section 4.3); negative ones
    count as 0. ``variance``, its ``share`` of the three, with its percentile interval over images.
    """
    wide = table.pivot(index="image_id", columns="model", values=value).to_numpy(float)
    if min(wide.shape) < 2 or not np.isfinite(wide).all():
        raise ValueError(
            f"table has {wide.shape[0]} images × {wide.shape[1]} models with "
            f"{int((~np.isfinite(wide)).sum())} values missing; expected at least 2 × 2, all there"
        )
    names = ["image", "model", "image × model"]
    variance = _components(wide)
    total = variance.sum()
    result = pd.DataFrame({"variance": variance, "share": np.nan}, index=names)
    if total == 0:
        return result.assign(low=np.nan, high=np.nan)
    draws = statistics.resamples(len(wide))
    resampled = np.array([_components(wide[draw]) for draw in draws])
    sums = resampled.sum(1, keepdims=True)
    shares = np.divide(resampled, sums, out=np.full_like(resampled, np.nan), where=sums > 0)
    low, high = np.nanquantile(shares, [0.025, 0.975], axis=0)
    return result.assign(share=variance / total, low=low, high=high)


def _components(wide: np.ndarray) -> np.ndarray:
    """Variance of images (rows), of models (columns) and of the rest."""
    images, models = wide.shape
    grand = wide.mean()
    of_image, of_model = wide.mean(1) - grand, wide.mean(0) - grand
    rest = wide - grand - of_image[:, None] - of_model[None]
    square = (rest**2).sum() / ((images - 1) * (models - 1))
    image_square = models * (of_image**2).sum() / (images - 1)
    model_square = images * (of_model**2).sum() / (models - 1)
    found = [(image_square - square) / models, (model_square - square) / images, square]
    return np.maximum(found, 0)


def widened(components: pd.DataFrame, n_images: int) -> float:
    """How many times as wide an interval over images would be that holds for another seed, too."""
    variance = components["variance"]
    images = (variance["image"] + variance["image × model"]) / n_images
    return float(np.sqrt(1 + variance["model"] / images)) if images else 1.0


# Mirrored images ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edited:
    """An image that is changed when it is read; what was drawn in it is then unknown."""

    record: Record
    edit: str

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def label(self) -> int | None:
        return self.record.label

    def content_key(self) -> str:
        params = {"image": self.record.content_key(), "edit": self.edit}
        return cache.key("edited", params, ["geolib.chapters.sanity"])

    def read(self) -> GeoImage:
        item = self.record.read()
        return replace(item, image=EDITS[self.edit](item), scene=None)


def edited(dataset: GeoDataset, edit: str) -> GeoDataset:
    """A dataset whose images are "mirrored", or whose traffic is on the "other side"."""
    records = [Edited(record, edit) for record in dataset.records]
    return GeoDataset(dataset.name, dataset.classes, dataset.split, records)


EDITS: dict[str, Callable[[GeoImage], np.ndarray]] = {
    "mirrored": lambda item: np.ascontiguousarray(item.image[:, ::-1]),
    "other side": lambda item: item.image if item.scene is None else other_side(item.scene).image,
}


def other_side(scene: Scene) -> Scene:
    """The same scene, all else equal, with traffic on the other side; itself if there is none."""
    side = scene.cues[DRIVING_SIDE]
    if side is None:
        return scene
    looks = scene.world.table[DRIVING_SIDE].looks
    place = next(p for p, found in looks.items() if found and found[0].name != side)
    return scene.swapped(DRIVING_SIDE, place)


def mirror_probe(dataset: GeoDataset, classifier: Classifier) -> pd.DataFrame:
    """Predictions for images and for their mirror images, a row per image.

    ``label``, ``prediction``, ``mirrored`` (of the mirror image), ``log_change`` (how much the
    mirror lowers the log-probability of the true class). For scenes also ``group``, by what is
    visible ("driving side", else "writing", else "neither"); ``other_side``, the prediction with
    nothing but the traffic's side changed; and the best observer's of the visible cues: ``ideal``,
    and ``ideal_moved`` with the traffic on the other side: the same where that contradicts the
    other cues and no country is left (−1 for an observer who sees nothing that tells).
    """
    table = shards.predictions(dataset, classifier).set_index("image_id")
    mirror = shards.predictions(edited(dataset, "mirrored"), classifier).set_index("image_id")
    both = table[["label", "prediction"]].assign(
        mirrored=mirror["prediction"],
        log_change=np.log(table["label_probability"]) - np.log(mirror["label_probability"]),
    )
    if dataset.name == "geoscenes":
        moved = shards.predictions(edited(dataset, "other side"), classifier)
        both["other_side"] = moved.set_index("image_id")["prediction"]
        both = both.join(observers(dataset).set_index("image_id"))
    return both.reset_index()


def flips(probe: pd.DataFrame) -> pd.DataFrame:
    """Shares of predictions of :func:`mirror_probe` that flip, by what is visible and by whom."""
    changed = {"mirror image": probe["mirrored"] != probe["prediction"]}
    if "group" in probe:
        changed |= {
            "traffic on the other side, nothing else": probe["other_side"] != probe["prediction"],
            "best observer, traffic on the other side": probe["ideal_moved"] != probe["ideal"],
        }
    group = probe["group"] if "group" in probe else pd.Series("all", probe.index)
    rows = []
    for name in ("driving side", "writing", "neither", "all"):
        for who, values in changed.items():
            if (chosen := values[group == name]).size:
                value, low, high, _ = statistics.accuracy_interval(chosen)
                found = {"value": value, "low": low, "high": high, "n": len(chosen)}
                rows.append({"visible": name, "who": who, **found})
    return pd.DataFrame(rows)


def observers(dataset: GeoDataset) -> pd.DataFrame:
    """The part of :func:`mirror_probe` that concerns the scenes and no network."""

    def make() -> pd.DataFrame:
        rows = []
        with progress_bar("best observers", len(dataset), "image", True) as bar:
            for item in (dataset[i] for i in range(len(dataset))):
                if item.scene is not None:
                    rows.append({"image_id": item.id, **_observe(item.scene, dataset.classes)})
                bar.update()
        return pd.DataFrame(rows)

    params = {"dataset": dataset.identity}
    return cache.table("observers", params, ("geolib.chapters.sanity",), make)


def _observe(scene: Scene, classes: Sequence[str]) -> dict[str, Any]:
    visible = set(scene.visible_cues())
    group = "writing" if WRITING & visible else "neither"
    if DRIVING_SIDE in visible:
        group = "driving side"
    ideal = moved = _best(scene, classes)
    if scene.cues[DRIVING_SIDE] is not None:
        moved = _best(other_side(scene), classes)
    return {"group": group, "ideal": ideal, "ideal_moved": ideal if moved == NO_ANSWER else moved}


def _best(scene: Scene, classes: Sequence[str]) -> int:
    """The likeliest country of a scene, if one is likelier than another."""
    belief = posterior(scene, countries=classes)
    values = [belief[name] for name in classes]
    return NO_ANSWER if min(values) == max(values) else int(np.argmax(values))
