"""Do explanations depend on what the network has learnt, on its seed, on left and right?

Checks on the whole pipeline (§3 of arXiv 2605.00912): weights randomised from the top down, or
learnt from permuted labels (Adebayo et al., NeurIPS 2018), other seeds, and mirrored images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from skimage.metrics import structural_similarity
from torch import nn

from geolib import statistics
from geolib.chapters.baselines import torus_shifts
from geolib.chapters.experiment import Experiment, elements_at_coverage
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
from geolib.training.kept import trained_classifier
from geoscenes import Scene, posterior

OTHER_IMAGE, RANDOM_MAP = "another image", "a random map"  # two unrelated explanations
ALPHA = 0.05  # level of a test, after Holm's correction
DRIVING_SIDE = "driving_side"
NO_ANSWER = -1
WRITING = frozenset({"stop_sign", "direction_sign", "town_sign", "shop_sign", "milestone"})


# Randomised weights -------------------------------------------------------------------------------


def parts(classifier: Classifier) -> list[str]:
    """Names of the network's modules with weights, from the output to the input; of sequences those
    of the modules that they hold: a ResNet's last layer, its blocks and its stem."""
    found: list[str] = []
    for name, module in classifier.network.named_modules():
        opened = not name or isinstance(module, nn.Sequential)
        within = name.startswith(tuple(f"{one}." for one in found))
        if not opened and not within and any(True for _ in module.parameters()):
            found.append(name)
    return found[::-1]


def randomised(classifier: Classifier, names: Sequence[str], seed: int) -> Classifier:
    """A copy with some :func:`parts` as in an untrained network, all else the same to the bit. The
    seed that the training began with is refused: its weights are related to the network's."""
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
    chosen = {name: values for name, values in fresh.items() if name.startswith(prefixes)}
    copy.network.load_state_dict(copy.network.state_dict() | chosen)
    return copy


def cascade(classifier: Classifier, n_levels: int, seed: int) -> dict[str, Classifier]:
    """Networks with more and more of the weights randomised, evenly spaced from the last layer
    alone to everything, by the lowest such module."""
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


def small_networks(
    small: Experiment, n_models: int, n_permuted: int, epochs: int
) -> tuple[dict[str, Classifier], dict[str, Classifier]]:
    """Networks that differ in their seed alone; and two on few images, for many passes: one on
    their true labels, and one on the same labels permuted, which it can only learn by heart."""

    def trained(images: GeoDataset, judges: GeoDataset, number: int, **changes: int) -> Classifier:
        settings = changes | {"seed": small.seed + number}
        return trained_classifier(images, judges, small.training.model_copy(update=settings))

    seeds = {f"seed {i}": trained(small.train, small.validation, i) for i in range(n_models)}
    few = small.variant(n_train=n_permuted).train
    sets = {"few true labels": few, "permuted labels": permuted_labels(few, small.seed)}
    # Judged by their own: on other images a network that learns by heart looks best untrained.
    by_heart = {
        name: trained(images, images, number, max_epochs=epochs)
        for number, (name, images) in enumerate(sets.items(), start=n_models)
    }
    return seeds, by_heart


# Similarity of explanations -----------------------------------------------------------------------


def similarity(one: Sequence[Extracted], other: Sequence[Extracted]) -> pd.DataFrame:
    """How alike two explanations of each image are: Spearman's ``correlation`` and ``ssim`` (Wang
    et al. 2004) of the maps, the IoU of what all ``boxes`` cover, and that ``beyond`` the mean one
    with the other's moved elsewhere: larger areas overlap more. Missing for constant maps, no
    boxes."""
    rows = [
        {"image_id": a.item.id, "n_elements": len(a.elements), **_of_maps(a, b), **_of_boxes(a, b)}
        for a, b in zip(one, other, strict=True)
    ]
    return pd.DataFrame(rows)


def _of_maps(a: Extracted, b: Extracted) -> dict[str, float]:
    first, second = (one.attribution.double().numpy() for one in (a, b))
    if not np.ptp(first) or not np.ptp(second):
        return {"correlation": np.nan, "ssim": np.nan}
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = structural_similarity(first, second, data_range=1.0, **gaussian)
    return {"correlation": stats.spearmanr(first, second, axis=None).statistic, "ssim": ssim}


def _of_boxes(a: Extracted, b: Extracted) -> dict[str, float]:
    if not len(a.elements):
        return {"boxes": np.nan, "beyond": np.nan}
    one, other = a.elements.region()[None], b.elements.region()
    boxes = iou(one, other[None]).item()
    return {"boxes": boxes, "beyond": boxes - iou(one, torus_shifts(other, a.item.id)).mean()}


def resemblance(
    dataset: GeoDataset,
    original: Classifier,
    others: Mapping[str, Classifier],
    configs: Mapping[str, EvaluationConfig],
    s_min: float | None = None,
) -> pd.DataFrame:
    """How far the explanations of other networks resemble the original's, by method and network;
    and two unrelated ones: its explanation of the next image, and one from a map that looks at
    neither network nor image, on the same segments. Of all, elements cover about as much."""
    if len(dataset) < 2:
        raise ValueError(f"dataset holds {len(dataset)} images; unrelated ones take at least two")
    tables = []
    extracted = partial(elements_at_coverage, dataset, s_min=s_min)
    with progress_bar("networks × methods", len(configs) * (len(others) + 1), "run", True) as bar:
        for method, config in configs.items():
            own = extracted(original, config)
            blind = config.model_copy(update={"attribution": "random", "attribution_options": {}})
            found = {OTHER_IMAGE: [*own[1:], own[0]]}
            runs = {RANDOM_MAP: (original, blind)}
            runs |= {name: (network, config) for name, network in others.items()}
            for name, run in runs.items():
                found[name] = extracted(*run)
                bar.update()
            for name, theirs in found.items():
                tables.append(similarity(own, theirs).assign(method=method, network=name))
    return pd.concat(tables, ignore_index=True)


def left_over(table: pd.DataFrame, network: str, looking: Sequence[str]) -> pd.DataFrame:
    """What elements keep of the original's in a network without its weights, by method, the most
    dependent first; ``difference`` is the overlap beyond chance less that of a random map's."""
    rows = {}
    for method, part in table.groupby("method", sort=False):
        means = part.groupby("network")[["correlation", "ssim", "boxes", "beyond"]].mean()
        rows[method] = {
            **means.loc[network],
            **means.loc[[OTHER_IMAGE, RANDOM_MAP], "beyond"],
            **_difference(part, "beyond", network, RANDOM_MAP),
            "no element": (part["n_elements"] == 0).mean(),
        }
    found = pd.DataFrame(rows).T
    tested = found["p_value"].where(found.index.isin(looking))
    return _corrected(found.assign(p_value=tested)).sort_values("difference")


def label_effect(table: pd.DataFrame, one: str, other: str, looking: Sequence[str]) -> pd.DataFrame:
    """How much more a network resembles the original than another one, in its maps and elements."""
    rows = {}
    for method in looking:
        part = table[table["method"] == method]
        for measure, of in (("correlation", "map"), ("beyond", "elements")):
            means = part.groupby("network")[measure].mean()
            rows[of, method] = {**means[[one, other]], **_difference(part, measure, one, other)}
    effect = _corrected(pd.DataFrame(rows).T.rename_axis(["similarity of", "method"]))
    return effect.sort_values(["similarity of", "difference"], ascending=False)


def _difference(part: pd.DataFrame, measure: str, one: str, other: str) -> dict[str, float]:
    return statistics.paired(difference(part, measure, "network", one, other))._asdict()


def _corrected(rows: pd.DataFrame) -> pd.DataFrame:
    """Holm's correction over the rows with a p-value; ``shown`` where the difference is not 0."""
    rows = rows.assign(p_value=statistics.holm(rows["p_value"]))
    return rows.assign(shown=(rows["low"] > 0) & (rows["p_value"] < ALPHA))


# Several networks ---------------------------------------------------------------------------------


def variance_components(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Variance between images, between models, and of a model's peculiar view of an image: random
    effects of a two-way layout (Searle, Casella and McCulloch, *Variance Components*, 1992, section
    4.3), negative ones 0; and each one's ``share`` with its percentile interval over images."""
    wide = table.pivot(index="image_id", columns="model", values=value).to_numpy(float)
    if min(wide.shape) < 2 or not np.isfinite(wide).all():
        raise ValueError(
            f"table has {wide.shape[0]} images × {wide.shape[1]} models with "
            f"{int((~np.isfinite(wide)).sum())} values missing; expected at least 2 × 2, all there"
        )
    variance = _components(wide)
    result = pd.DataFrame({"variance": variance}, ["image", "model", "image × model"])
    if not variance.any():
        return result.assign(share=np.nan, low=np.nan, high=np.nan)
    samples = np.random.default_rng(0).integers(len(wide), size=(999, len(wide)))
    resampled = _components(wide[samples])
    known = resampled[resampled.any(1)]  # a sample without any variance has no shares
    low, high = np.quantile(known / known.sum(1, keepdims=True), [0.025, 0.975], axis=0)
    return result.assign(share=variance / variance.sum(), low=low, high=high)


def _components(wide: np.ndarray) -> np.ndarray:
    """Variance of images, of models and of the rest ``[..., 3]`` of ``[..., images, models]``."""
    images, models = wide.shape[-2:]
    grand = wide.mean((-2, -1), keepdims=True)
    of_image = wide.mean(-1, keepdims=True) - grand
    of_model = wide.mean(-2, keepdims=True) - grand
    rest = wide - grand - of_image - of_model
    image, model, square = ((part**2).sum((-2, -1)) for part in (of_image, of_model, rest))
    square = square / ((images - 1) * (models - 1))
    found = [image / (images - 1) - square / models, model / (models - 1) - square / images, square]
    return np.maximum(np.stack(found, axis=-1), 0)


def seed_variance(outcomes: pd.DataFrame) -> pd.DataFrame:
    """:func:`variance_components` of what the tests' outcomes measure, by ``model``."""
    by_model = (*statistics.BY, "model")
    each = statistics.advantages(outcomes, by_model, "log_probability")
    deletion, insertion = (each[each["test"] == test] for test in ("deletion", "insertion"))
    found = {
        "deletion advantage": variance_components(deletion, "advantage"),
        "insertion advantage": variance_components(insertion, "advantage"),
        "area of the elements": variance_components(deletion, "coverage"),
        "number of elements": variance_components(deletion, "n_elements"),
    }
    return pd.concat(found, names=["quantity", "component"]).reset_index()


# Mirrored images ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edited:
    """An image that is changed when it is read; what was drawn in it is then unknown."""

    id: str
    label: int | None
    record: Record
    edit: str

    def content_key(self) -> str:
        params = {"image": self.record.content_key(), "edit": self.edit}
        return cache.key("edited", params, ["geolib.chapters.sanity"])

    def read(self) -> GeoImage:
        item = self.record.read()
        return replace(item, image=EDITS[self.edit](item), scene=None)


EDITS: dict[str, Callable[[GeoImage], np.ndarray]] = {
    "mirrored": lambda item: np.ascontiguousarray(item.image[:, ::-1]),
    "other side": lambda item: item.image if item.scene is None else other_side(item.scene).image,
}


def edited(dataset: GeoDataset, edit: str) -> GeoDataset:
    """A dataset whose images are "mirrored", or whose traffic is on the "other side"."""
    records = [Edited(one.id, one.label, one, edit) for one in dataset.records]
    return GeoDataset(dataset.name, dataset.classes, dataset.split, records)


def other_side(scene: Scene) -> Scene:
    """The same scene, all else equal, with traffic on the other side; itself if there is none."""
    side = scene.cues[DRIVING_SIDE]
    if side is None:
        return scene
    looks = scene.world.table[DRIVING_SIDE].looks
    place = next(p for p, found in looks.items() if found and found[0].name != side)
    return scene.swapped(DRIVING_SIDE, place)


def mirror_probe(dataset: GeoDataset, classifier: Classifier) -> pd.DataFrame:
    """Predictions for images, ``mirrored`` ones and, for scenes, ones with the traffic alone on the
    other side, beside the answers of :func:`observers`, a row per image."""
    sets = {"": dataset, "mirrored": edited(dataset, "mirrored")}
    if dataset.name == "geoscenes":
        sets["other_side"] = edited(dataset, "other side")
    found = {n: shards.predictions(d, classifier).set_index("image_id") for n, d in sets.items()}
    probe = found.pop("")[["label", "prediction"]]
    probe = probe.assign(**{name: table["prediction"] for name, table in found.items()})
    if dataset.name == "geoscenes":
        probe = probe.join(observers(dataset).set_index("image_id"))
    return probe.reset_index()


def flips(probe: pd.DataFrame) -> pd.DataFrame:
    """Shares of predictions of :func:`mirror_probe` that flip, by what is visible and by whom."""
    changed = {"mirror image": probe["mirrored"] != probe["prediction"]}
    group = probe.get("group", pd.Series("", probe.index))
    if "group" in probe:
        changed |= {
            "traffic on the other side, nothing else": probe["other_side"] != probe["prediction"],
            "best observer, traffic on the other side": probe["ideal_moved"] != probe["ideal"],
        }
    rows = []
    groups = ("driving side", "writing", "neither", "all")
    for name, (who, values) in product(groups, changed.items()):
        if (chosen := values[(group == name) | (name == "all")]).size:
            value, low, high, _ = statistics.accuracy_interval(chosen)
            rows.append((name, who, value, low, high, len(chosen)))
    return pd.DataFrame(rows, columns=["visible", "who", "value", "low", "high", "n"])


def observers(dataset: GeoDataset) -> pd.DataFrame:
    """The answer of the best observer of a scene's visible cues, -1 if none tells (``ideal``), and
    with the traffic on the other side (``ideal_moved``: the same where that leaves no country), by
    what is visible (``group``: "driving side", else "writing", else "neither")."""

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
    ideal, moved = _best(scene, classes), _best(other_side(scene), classes)
    return {"group": group, "ideal": ideal, "ideal_moved": ideal if moved == NO_ANSWER else moved}


def _best(scene: Scene, classes: Sequence[str]) -> int:
    """The likeliest country of a scene, if one is likelier than another."""
    belief = posterior(scene, countries=classes)
    values = [belief[name] for name in classes]
    return NO_ANSWER if min(values) == max(values) else int(np.argmax(values))
