"""What a prediction loses when an object of a scene goes, or takes another country's look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from geolib.data import COUNTRIES, GeoImage
from geolib.model.classifier import Classifier
from geolib.model.device import BatchSize, choose_batch_size, inference_precision
from geolib.model.prediction import as_images
from geoscenes import Scene, SceneObject
from geoscenes.coverage import transmit

WITHOUT = "without"
COLUMNS = {
    "image_id": "str",
    "country": "str",
    "object": "str",
    "category": "str",
    "cue": "bool",
    "look": "str",
    "pixels": "int64",
    "covers_cue": "bool",
    "intervention": "str",
    "label": "int64",
    "prediction": "int64",
    "prediction_after": "int64",
    "log_probability": "float64",
    "log_probability_after": "float64",
    "effect": "float64",
    "effect_on_prediction": "float64",
    "flipped": "bool",
}


def scene_of(item: GeoImage) -> Scene:
    """The scene of an item.

    Raises
    ------
    ValueError
        If the item is a photograph.
    """
    if not isinstance(item.scene, Scene):
        raise ValueError(
            f"image {item.id!r} is not a scene: what it would show without an object is unknown. "
            'Causal effects need the dataset "geoscenes"'
        )
    return item.scene


def counterfactuals(
    scene: Scene, countries: Sequence[str] = COUNTRIES
) -> Iterator[tuple[SceneObject, str, Scene]]:
    """Every scene that differs from this one in a single object.

    Parameters
    ----------
    scene : whose objects are left out, or changed, one at a time.
    countries : whose looks a cue takes; the scene's own is passed over.

    Yields
    ------
    The object; the intervention, ``"without"`` or ``"swapped:COUNTRY"`` (cues only: whatever is no
    cue looks alike everywhere); the scene after it. Without an object goes also what is fixed to
    it, such as a car's plate.
    """
    for thing in scene.objects:
        yield thing, WITHOUT, scene.without(thing.id)
        if thing.cue:
            for country in countries:
                if country != scene.country:
                    yield thing, f"swapped:{country}", scene.swapped(thing.id, country)


def covering_cues(scene: Scene) -> set[str]:
    """Objects that stand before a cue, or that a cue is fixed to; their ids.

    Without such an object a cue shows more of itself, or goes too: part of the effect is the cue's.
    """
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
    precision: str = "fp32",
) -> pd.DataFrame:
    """Causal effect of every object of some scenes on a prediction.

    The counterfactuals of all scenes go through the classifier together, in full batches. One that
    equals the scene to the pixel is not looked at again, so its effect is exactly zero.

    Parameters
    ----------
    classifier : set to evaluation mode.
    items : scenes at the classifier's size.
    labels : the true class of each.
    countries : see `counterfactuals`.
    batch_size : images per forward pass, by default as the device suggests; halved, with a
        warning, whenever memory runs out.
    precision : "fp32", "bf16" or "auto". Bfloat16 rounds a logit by some 0.4 %, as much as small
        objects do.

    Returns
    -------
    DataFrame, one row per scene × object × intervention:
        image_id, country;
        object (its id), category, cue, look; pixels (visible ones); covers_cue, see
        `covering_cues`;
        intervention, "without" or "swapped:COUNTRY";
        label, the true class; prediction, prediction_after;
        log_probability (natural) of the label, log_probability_after;
        effect, the log-probability that the label loses; effect_on_prediction, the one that the
        class predicted before loses; flipped, whether the decision changes.

    Raises
    ------
    ValueError
        If an item is no scene or has another size than the classifier's input, `labels` does not
        fit, or the classifier returns NaN.
    """
    if len(labels) != len(items):
        raise ValueError(f"labels has {len(labels)} entries for {len(items)} items")
    pictures: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    for item, label in zip(items, labels, strict=True):
        scene = scene_of(item)
        if scene.size != classifier.image_size:
            raise ValueError(
                f"image {item.id!r} has {scene.size} pixels a side, the classifier sees "
                f"{classifier.image_size}: render scenes with size={classifier.image_size}"
            )
        before = len(pictures)
        pictures.append(scene.image)
        numbers = {scene.image.tobytes(): before}
        covering = covering_cues(scene)
        for thing, intervention, other in counterfactuals(scene, countries):
            number = numbers.setdefault(other.image.tobytes(), len(pictures))
            if number == len(pictures):
                pictures.append(other.image)
            rows.append(
                {
                    "image_id": item.id,
                    "country": scene.country,
                    "object": thing.id,
                    "category": thing.category,
                    "cue": thing.cue,
                    "look": thing.look,
                    "pixels": int(thing.mask.sum()),
                    "covers_cue": thing.id in covering,
                    "intervention": intervention,
                    "label": label,
                    "before": before,
                    "after": number,
                }
            )
    if not rows:
        return pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    log_probabilities = _log_probabilities(classifier, np.stack(pictures), batch_size, precision)
    return _table(pd.DataFrame(rows), log_probabilities)


def _log_probabilities(
    classifier: Classifier, pixels: np.ndarray, batch_size: int | None, precision: str
) -> np.ndarray:
    """Log-probability of every class, float64 [N, C], of pictures uint8 [N, S, S, 3]."""
    classifier.eval()
    device = classifier.mean.device
    together = torch.from_numpy(pixels)

    def logits(size: int) -> torch.Tensor:
        parts = together.split(size)
        return torch.cat([classifier(as_images(part, device)).float().cpu() for part in parts])

    fitting = BatchSize(choose_batch_size(device) if batch_size is None else batch_size)
    with torch.inference_mode(), inference_precision(device, precision):
        found = fitting.run(logits)
    if not torch.isfinite(found).all():
        raise ValueError("classifier returned NaN or infinite logits; check its weights")
    return found.double().log_softmax(1).numpy()


def _table(rows: pd.DataFrame, log_probabilities: np.ndarray) -> pd.DataFrame:
    label, before, after = (rows[name].to_numpy() for name in ("label", "before", "after"))
    classes = log_probabilities.shape[1]
    if (wrong := label[(label < 0) | (label >= classes)]).size:
        raise ValueError(f"labels holds {wrong[0]}; the classifier has classes 0…{classes - 1}")
    predictions = log_probabilities.argmax(1)
    lost = log_probabilities[before] - log_probabilities[after]
    each = np.arange(len(rows))
    table = rows.assign(
        prediction=predictions[before],
        prediction_after=predictions[after],
        log_probability=log_probabilities[before, label],
        log_probability_after=log_probabilities[after, label],
        effect=lost[each, label],
        effect_on_prediction=lost[each, predictions[before]],
        flipped=predictions[before] != predictions[after],
    )
    return table[list(COLUMNS)].astype(COLUMNS)
