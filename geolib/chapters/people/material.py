"""What a study of people shows, who sees what, and what is known of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file

from geolib.ablation import ablate, random_regions
from geolib.chapters.experiment import Experiment
from geolib.masks import box_region, resized
from geolib.model import choose_device
from geolib.model.prediction import as_images, log_probabilities
from geolib.pipeline.shards import Extracted, config_key, to_uint8
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geoscenes import MIN_PIXELS, Scene, SceneObject
from geoscenes.semantic import CONCEPTS, concept_of, semantic_map

# What is shown: the boxes of the elements, random boxes covering as much, or everything.
CONDITIONS = ("guided", "random", "whole")
CANNOT_TELL = "cannot tell"
OTHER = "something else"
# What people can name, and which concepts of a scene it means.
THINGS = {
    "sky": ("sky",),
    "mountain or hill": ("mountain", "hill"),
    "road or road marking": ("road",),
    "pavement or kerb": ("sidewalk",),
    "grass, field or bare ground": ("grass", "field", "earth", "sand", "rock"),
    "tree or other plant": ("tree", "plant", "palm"),
    "building": ("building", "tower"),
    "sign or lettering": ("signboard",),
    "vehicle": ("car", "truck", "van", "bicycle"),
    "pole or street lamp": ("pole", "streetlight"),
    "barrier or fence": ("railing", "fence"),
    "other street object": ("box", "mirror", "bench", "ashcan", "other"),
}
# A thing counts as shown in a frame when it fills so much of it; where none does, the largest.
FILLS = 0.25
KEY, PICTURES = "key.json", "pictures.safetensors"  # a study, and its pictures in the cache

_THING_OF = {concept: thing for thing, concepts in THINGS.items() for concept in concepts}
_THING_INDEX = np.array([list(THINGS).index(_THING_OF[name]) for name in CONCEPTS])


class Item(BaseModel):
    """One picture of the study, and the box in it that is asked about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: int
    condition: str
    picture: str
    frame: tuple[int, int, int, int] | None
    credit: str
    # What participants are not told.
    scene: int
    country: str
    model: str  # what the classifier answers to this very picture
    observer: str | None = None  # what someone does who knows the true cues shown and nothing else
    things: tuple[str, ...] = ()  # in the frame, largest first
    cues: tuple[str, ...] = ()  # of the country


class Key(BaseModel):
    """What a study consists of, pixels aside: what its answers are read with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str  # part of every answer
    classes: tuple[str, ...]
    size: int
    drawn: bool  # whether pictures are rendered scenes
    items: tuple[Item, ...]
    schedule: tuple[tuple[int, ...], ...]  # for each participant items in the order shown


class Material(NamedTuple):
    """A study ready to be written: its key, and its items' pictures, ``uint8 [N, S, S, 3]``."""

    key: Key
    pictures: np.ndarray


def schedule(
    countries: Sequence[str], n_participants: int, seed: int = 0
) -> list[list[tuple[int, str]]]:
    """Scenes and conditions for each participant, in the order shown. A Latin square: any three in
    a row see a scene in all conditions, and each has every condition equally often, within one, in
    each country and overall."""
    if not countries or n_participants < 1:
        given = f"{len(countries)} scenes and n_participants={n_participants}"
        raise ValueError(f"{given}; expected at least one of each")
    shuffled = np.random.default_rng(seed).permutation(len(countries)).tolist()
    by_country = sorted(shuffled, key=lambda scene: countries[scene])
    first = {scene: place for place, scene in enumerate(by_country)}
    orders = []
    for participant in range(n_participants):
        order = np.random.default_rng([seed, participant]).permutation(len(countries)).tolist()
        orders.append([(s, CONDITIONS[(first[s] + participant) % len(CONDITIONS)]) for s in order])
    return orders


def _choose(countries: Sequence[str | None], n: int, rng: np.random.Generator) -> list[int]:
    """At most ``n`` places in a list of countries, as many of each country as can be."""
    order = pd.Series(list(countries), dtype=object).iloc[rng.permutation(len(countries))].dropna()
    rank = order.groupby(order).cumcount().sort_values(kind="stable")
    return sorted(int(place) for place in rank.index[:n])


def prepare(
    experiment: Experiment,
    n_scenes: int,
    n_participants: int,
    attribution: str = "gradcam++",
    segmenter: str = "felzenszwalb",
) -> Material:
    """Pictures of at most ``n_scenes`` evaluation images with elements, and who sees which: the
    classifier's pixels, as in insertion (§5), with the box framed whose removal costs it most, or
    the random one that took its place."""
    params = {
        "images": experiment.evaluation.identity,
        "classifier": experiment.classifier.weights_sha256,
        **config_key(experiment.config(attribution, segmenter)),
        "n_scenes": n_scenes,
        "n_participants": n_participants,
    }

    def build(folder: Path) -> None:
        made = _build(experiment, n_scenes, n_participants, attribution, segmenter)
        (folder / KEY).write_text(made.key.model_dump_json(), encoding="utf-8")
        save_file({"pictures": torch.from_numpy(made.pictures)}, folder / PICTURES)

    folder = cache.compute("human-study", params, (__name__,), build)
    key = Key.model_validate_json((folder / KEY).read_text(encoding="utf-8"))
    return Material(key, load_file(folder / PICTURES)["pictures"].numpy())


def _build(
    experiment: Experiment, n_scenes: int, n_participants: int, attribution: str, segmenter: str
) -> Material:
    effects = experiment.elements(attribution, segmenter).sort_values("deletion_effect")
    strongest = effects.groupby("image_id")["element"].last()
    usable = [one for one in experiment.extract(attribution, segmenter) if len(one.elements)]
    rng = np.random.default_rng(experiment.seed)
    places = _choose([one.item.country for one in usable], n_scenes, rng)
    if not places:
        raise ValueError("study has no evaluation image with both a country and an element")
    chosen = [usable[place] for place in places]
    # Numbers in random order, so that they tell nothing.
    numbers = rng.permutation(len(chosen) * len(CONDITIONS)).reshape(len(chosen), -1).tolist()
    views: list[tuple[Item, np.ndarray]] = []
    with progress_bar("pictures", len(chosen), "scene", True) as bar:
        for scene, one in enumerate(chosen):
            views += _views(experiment, one, int(strongest[one.item.id]), scene, numbers[scene])
            bar.update()
    items, pictures = zip(*sorted(views, key=lambda view: view[0].item), strict=True)
    orders = schedule([one.item.country or "" for one in chosen], n_participants, experiment.seed)
    key = Key(
        id="",
        classes=experiment.evaluation.classes,
        size=experiment.classifier.image_size,
        drawn=all(one.item.scene is not None for one in chosen),
        items=items,
        schedule=[[numbers[s][CONDITIONS.index(c)] for s, c in order] for order in orders],
    )
    shown = np.stack(pictures)
    digest = hashlib.sha256(key.model_dump_json().encode() + shown.tobytes()).hexdigest()
    return Material(key.model_copy(update={"id": digest[:10]}), shown)


def _views(
    experiment: Experiment, one: Extracted, framed: int, number: int, items: Sequence[int]
) -> list[tuple[Item, np.ndarray]]:
    """The three pictures of an image, in the order of the conditions; ``framed`` is an element."""
    guided, shape, scene = one.elements.boxes, one.elements.shape, one.item.scene
    random = random_regions(one.elements, one.item.id, experiment.seed, repeats=1)[0]
    regions = [box_region(guided, shape), box_region(random, shape), np.ones(shape, bool)]
    frames = [tuple(guided[framed].tolist()), tuple(random[framed].tolist()), None]
    batch = one.image.expand(len(regions), -1, -1, -1)
    pictures = to_uint8(ablate(batch, np.stack(regions), "insertion"))
    classifier = experiment.classifier.to(choose_device())
    images = as_images(torch.from_numpy(pictures), classifier.mean.device)
    answers = log_probabilities(classifier, images, precision="fp32").argmax(1).tolist()
    views = []
    for i, (region, frame) in enumerate(zip(regions, frames, strict=True)):
        known: dict[str, Any] = {}
        if scene is not None:
            cues = shown_cues(scene, region)
            named = {_THING_OF[concept_of(cue.category, cue.look)] for cue in cues}
            known["observer"] = observe(scene, cues, experiment.evaluation.classes)
            known["things"] = things_in(_things(scene, shape), frame) if frame else ()
            known["cues"] = tuple(sorted(named))
        item = Item(
            item=items[i],
            condition=CONDITIONS[i],
            picture=f"{items[i]:04d}.png",
            frame=frame,
            credit=", ".join(filter(None, (one.item.attribution, one.item.licence))),
            scene=number,
            country=one.item.country or "",
            model=classifier.classes[answers[i]],
            **known,
        )
        views.append((item, pictures[i]))
    return views


def _things(scene: Scene, shape: tuple[int, ...]) -> np.ndarray:
    """What each pixel of a scene shows, as an index into ``THINGS``, at the shape ``[H, W]``."""
    things = _THING_INDEX[semantic_map(scene)].astype(np.uint8)
    return cv2.resize(things, shape[::-1], interpolation=cv2.INTER_NEAREST)


def things_in(things: np.ndarray, frame: Sequence[int]) -> tuple[str, ...]:
    """Things that fill a quarter of a frame, or the largest, of indices into ``THINGS`` [H,W]."""
    x0, y0, x1, y1 = frame
    inside = things[y0:y1, x0:x1]
    shares = np.bincount(inside.ravel(), minlength=len(THINGS)) / inside.size
    order = np.argsort(-shares, kind="stable")
    n_shown = max(1, int((shares >= FILLS).sum()))
    return tuple(list(THINGS)[index] for index in order[:n_shown])


def shown_cues(scene: Scene, region: np.ndarray) -> list[SceneObject]:
    """Cues of a scene of which at least 30 visible pixels lie in a region, bool ``[H, W]``."""
    seen = resized(region, (scene.size, scene.size))
    cues = [thing for thing in scene.objects if thing.cue and thing.look]
    return [cue for cue in cues if (cue.mask & seen).sum() >= MIN_PIXELS]


def observe(scene: Scene, cues: Sequence[SceneObject], classes: Sequence[str]) -> str:
    """Likeliest country given some cues and nothing else (what is missing may be hidden); "cannot
    tell" where none is ahead."""
    kinds = [(scene.world.table[cue.category], cue.look) for cue in cues]
    likelihood = {
        name: math.prod(kind.probability(name, look) for kind, look in kinds) for name in classes
    }
    first, second, *_ = sorted(likelihood.values(), reverse=True)
    ahead = first - second > 1e-9 * sum(likelihood.values())
    return max(likelihood, key=lambda name: likelihood[name]) if ahead else CANNOT_TELL
