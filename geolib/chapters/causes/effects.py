"""What a prediction loses when an object of a scene goes, or takes another country's look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from geolib.chapters.tables import grouped_means
from geolib.data import COUNTRIES, GeoDataset, GeoImage
from geolib.model import Classifier
from geolib.model.device import choose_device
from geolib.model.prediction import as_images, log_probabilities
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Shard
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import check_choice
from geoscenes import MIN_PIXELS, Scene, SceneObject
from geoscenes.coverage import transmit

WITHOUT = "without"
INTERVENTIONS = (WITHOUT, "swapped")
TARGETS = {"label": "effect", "prediction": "effect_on_prediction"}
COLUMNS = (
    *("image_id", "country", "object", "category", "cue", "look", "pixels", "covers_cue"),
    *("intervention", "label", "prediction", "prediction_after"),
    *("log_probability", "log_probability_after", "effect", "effect_on_prediction", "flipped"),
)


def scene_of(item: GeoImage) -> Scene:
    """The scene of an item; a photograph is refused."""
    if not isinstance(item.scene, Scene):
        raise ValueError(
            f"image {item.id!r} is not a scene: what it would show without an object is unknown. "
            'Causal effects need the dataset "geoscenes"'
        )
    return item.scene


def counterfactuals(
    scene: Scene, countries: Sequence[str] = COUNTRIES
) -> Iterator[tuple[SceneObject, str, Scene]]:
    """Every scene that differs from this one in one object: the object, the change, the scene.
    "without" leaves it out, with what is fixed to it; "swapped:COUNTRY" is for cues only, since
    whatever is no cue looks alike everywhere."""
    for thing in scene.objects:
        yield thing, WITHOUT, scene.without(thing.id)
        if thing.cue:
            for country in countries:
                if country != scene.country:
                    yield thing, f"swapped:{country}", scene.swapped(thing.id, country)


def covering_cues(scene: Scene) -> set[str]:
    """Objects that stand before a cue, or that a cue is fixed to: part of their effect is the
    cue's, which shows more of itself without them, or goes too; their ids."""
    cues = {thing.id for thing in scene.objects if thing.cue}
    found = {item.host for item in scene.items if item.host is not None and item.id in cues}
    covers = scene.covers  # far to near
    for place, (owner, below) in enumerate(covers):
        if owner in cues:
            alone = transmit(below, [])
            nearer = (other for other in covers[place + 1 :] if other[0] != owner)
            found |= {name for name, above in nearer if (transmit(below, [above]) < alone).any()}
    return found


def scene_effects(
    classifier: Classifier,
    items: Sequence[GeoImage],
    labels: Sequence[int],
    *,
    countries: Sequence[str] = COUNTRIES,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """A row with ``COLUMNS`` for every scene × object × intervention: ``effect``, what the label
    loses of its log-probability, ``effect_on_prediction``, what the class predicted before loses,
    and whether the decision is ``flipped``."""
    if len(labels) != len(items):
        raise ValueError(f"labels has {len(labels)} entries for {len(items)} items")
    n_classes = len(classifier.classes)
    if wrong := [label for label in labels if not 0 <= label < n_classes]:
        raise ValueError(f"labels holds {wrong[0]}; the classifier has classes 0…{n_classes - 1}")
    pictures: list[np.ndarray] = []
    found: list[dict[str, Any]] = []
    for item, label in zip(items, labels, strict=True):
        changes = _changes(item, classifier.image_size, countries, pictures)
        found += [{"image_id": item.id, "label": label, **change} for change in changes]
    if not found:
        return pd.DataFrame(columns=list(COLUMNS))
    # All scenes together, in full batches. Float32, because bfloat16 rounds a logit by some 0.4 %,
    # as much as small objects do.
    images = as_images(torch.from_numpy(np.stack(pictures)), torch.device("cpu"))
    log_p = log_probabilities(classifier, images, precision="fp32", batch_size=batch_size).numpy()
    rows = pd.DataFrame(found)
    truth, before, after = (rows[name].to_numpy() for name in ("label", "before", "after"))
    predictions, each = log_p.argmax(1), np.arange(len(rows))
    lost = log_p[before] - log_p[after]
    table = rows.assign(
        prediction=predictions[before],
        prediction_after=predictions[after],
        log_probability=log_p[before, truth],
        log_probability_after=log_p[after, truth],
        effect=lost[each, truth],
        effect_on_prediction=lost[each, predictions[before]],
        flipped=predictions[before] != predictions[after],
    )
    return table[list(COLUMNS)]


def _changes(
    item: GeoImage, size: int, countries: Sequence[str], pictures: list[np.ndarray]
) -> Iterator[dict[str, Any]]:
    """A row per change of a scene, with the places in ``pictures`` of before and after it. New ones
    are appended; one that equals the scene has its place, and exactly no effect."""
    scene = scene_of(item)
    if scene.size != size:
        sizes = f"{scene.size} pixels a side, the classifier sees {size}"
        raise ValueError(f"image {item.id!r} has {sizes}: render scenes with size={size}")
    before = len(pictures)
    pictures.append(scene.image)
    numbers = {scene.image.tobytes(): before}
    covering = covering_cues(scene)
    for thing, intervention, other in counterfactuals(scene, countries):
        after = numbers.setdefault(other.image.tobytes(), len(pictures))
        if after == len(pictures):
            pictures.append(other.image)
        kind = {"category": thing.category, "cue": thing.cue, "look": thing.look}
        seen = {"pixels": int(thing.mask.sum()), "covers_cue": thing.id in covering}
        change = {"intervention": intervention, "before": before, "after": after}
        yield {"country": scene.country, "object": thing.id, **kind, **seen, **change}


# A dataset ----------------------------------------------------------------------------------------


def dataset_effects(dataset: GeoDataset, classifier: Classifier) -> pd.DataFrame:
    """The :func:`scene_effects` of a dataset, cues swapped for those of its classes; cached."""
    if not len(dataset):
        raise ValueError("dataset holds no images")
    tables = []
    with progress_bar("causal effects", len(dataset), "scene", True) as bar:
        for shard in shards.shards(dataset, classifier, EvaluationConfig().shard_size):
            tables.append(shard_effects(shard, classifier))
            bar.update(len(shard.dataset))
    return pd.concat(tables, ignore_index=True)


def shard_effects(shard: Shard, classifier: Classifier) -> pd.DataFrame:
    """The table of :func:`scene_effects` for the images of a shard; cached."""
    labels = shards.true_labels(shard.dataset, classifier)

    def make() -> pd.DataFrame:
        classifier.to(choose_device())
        of_items = [labels[item.id] for item in shard.items]
        with shards.single_thread(classifier.mean.device.type == "cpu"):
            return scene_effects(classifier, shard.items, of_items, countries=shard.dataset.classes)

    params = {"images": shard.identity, "labels": labels, "classifier": shard.weights_sha256}
    return cache.table("effects", params, (__name__,), make)


def object_effects(
    table: pd.DataFrame, intervention: str = WITHOUT, target: str = "label"
) -> pd.DataFrame:
    """One effect per object, from :func:`scene_effects`, and whether it ``flips`` the decision.

    "swapped" is the mean over the other countries, as if one were drawn (the largest would grow
    with their number), and zero of what is no cue. ``target``: the "label", or the "prediction".
    """
    check_choice("intervention", intervention, INTERVENTIONS)
    check_choice("target", target, TARGETS)
    keys = ["image_id", "object"]
    whole = table[table["intervention"] == WITHOUT].set_index(keys)
    one = whole[["category", "cue", "look", "pixels", "covers_cue"]]
    if intervention == WITHOUT:
        return one.assign(effect=whole[TARGETS[target]], flips=whole["flipped"])
    swaps = table[table["intervention"] != WITHOUT].groupby(keys)
    return one.assign(
        effect=swaps[TARGETS[target]].mean().reindex(one.index, fill_value=0.0),
        flips=swaps["flipped"].any().reindex(one.index, fill_value=False),
    )


def by_category(table: pd.DataFrame, *, min_images: int = 8) -> pd.DataFrame:
    """Mean effect of each kind of visible object, removed and swapped; largest of removal first.
    Objects that cover a cue and are none do not count: part of the effect is not theirs. Nor do
    kinds that too few scenes show."""
    both = [object_effects(table, name).assign(intervention=name) for name in INTERVENTIONS]
    found = pd.concat(both).reset_index()
    own = found["cue"] | (~found["covers_cue"] & (found["intervention"] == WITHOUT))
    by = ["category", "cue", "intervention"]
    seen = found[own & (found["pixels"] >= MIN_PIXELS)].groupby([*by, "image_id"], sort=False)
    kinds = grouped_means(seen["effect"].mean().reset_index(), "effect", by)
    kinds = kinds[kinds["n"] >= min_images]
    removed = -kinds[kinds["intervention"] == WITHOUT].set_index("category")["value"]
    return kinds.sort_values(
        "category", key=lambda names: names.map(removed), kind="stable", ignore_index=True
    )
