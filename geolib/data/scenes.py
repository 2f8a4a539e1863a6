"""The procedural benchmark as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from geolib.data.pixels import PixelBatch, resize
from geolib.data.records import SPLITS, GeoDataset, GeoImage, check_split
from geolib.runtime.cache import compute, find, key, sha256
from geolib.runtime.here import data_file
from geoscenes import COUNTRIES, render

SCENES_PER_SPLIT = 1_000_000
# The last of every million belong to one split alone, whose seed is the number of the million: what
# no choice has seen.
CONFIRMATION, RESERVED = "confirmation", 10_000
SCENE_TABLES = ("cues.yaml", "gazetteer.csv")
REGIONAL_TABLES = (*SCENE_TABLES, "regional-cues.yaml")
# Images in one file, at most; a run that is killed goes on after the last file.
DRAWN_TOGETHER = 64
# A scene takes a megabyte, and longer to draw than to classify; every method asks for it again.
SCENES_AT_HAND = 128
WEBP_MAX_SIDE = 16_383  # pixels


class DrawnScenes(Dataset[PixelBatch]):
    """Pixels of scenes, so many at a time, each drawn once for all who ask.

    A file holds one image above the other, without loss; its key is those of its images, so that
    datasets that begin alike share files.
    """

    def __init__(self, dataset: GeoDataset, image_size: int) -> None:
        self.dataset = dataset
        self.image_size = image_size
        step = min(DRAWN_TOGETHER, WEBP_MAX_SIDE // image_size)
        everything = range(len(dataset))
        self.parts = [everything[start : start + step] for start in everything[::step]]

    def __len__(self) -> int:
        return len(self.parts)

    def _identity(self, part: int) -> tuple[str, dict[str, Any], tuple[str]]:
        keys = [self.dataset.content_key(index) for index in self.parts[part]]
        return "drawn", {"images": keys, "size": self.image_size}, (__name__,)

    def missing(self) -> int:
        """Number of files that are yet to be written."""
        return sum(find(*self._identity(part)) is None for part in range(len(self)))

    def __getitem__(self, part: int) -> PixelBatch:
        def build(folder: Path) -> None:
            drawn = (self.dataset.records[index].read().image for index in self.parts[part])
            column = np.concatenate([resize(image, self.image_size) for image in drawn])
            # The least effort: with more, files hardly get smaller.
            kept = folder / "pixels.webp"
            Image.fromarray(column).save(kept, lossless=True, quality=0, method=0)

        with Image.open(compute(*self._identity(part), build) / "pixels.webp") as column:
            pixels = np.array(column).reshape(-1, self.image_size, self.image_size, 3)
        return PixelBatch(list(self.parts[part]), torch.from_numpy(pixels), [])


@dataclass(frozen=True)
class SceneRecord:
    """A scene of the procedural benchmark, rendered when read."""

    id: str
    seed: int
    country: str
    label: int
    options: dict[str, Any]
    # The pixels follow from the key alone, and are kept.
    drawn: ClassVar[type[DrawnScenes]] = DrawnScenes

    def content_key(self) -> str:
        names = REGIONAL_TABLES if self.options.get("regional") else SCENE_TABLES
        params = {"seed": self.seed, "country": self.country, "tables": _hashes(names)}
        return key("scene", params | self.options, ["geoscenes"])

    def __hash__(self) -> int:
        return hash((self.seed, self.country))

    def read(self) -> GeoImage:
        return _rendered(self)


@lru_cache(maxsize=SCENES_AT_HAND)
def _rendered(record: SceneRecord) -> GeoImage:
    scene = render(record.seed, record.country, **record.options)
    place = scene.latitude, scene.longitude
    return GeoImage(record.id, scene.image, record.country, record.label, *place, scene=scene)


def geoscenes(
    split: str,
    n: int | None = None,
    seed: int = 0,
    *,
    size: int = 224,
    countries: Sequence[str] = COUNTRIES,
    **options: Any,
) -> GeoDataset:
    """The procedural benchmark: scenes in equal numbers per country, rendered when read.

    Every split of every seed is a range of scene numbers of its own, so no scene is in two of
    them, and the first ``n`` scenes of a split do not depend on ``n``.

    Parameters
    ----------
    split, n, seed : as for :func:`load`; ``n`` defaults to 3000 for training, 300 for testing and
        validation, 100 for ``"eval"``. A further split holds, for each seed, 10,000 scenes that no
        other split of any seed reaches, for a result that is computed once.
    size : side of the square image in pixels.
    countries : the classes.
    options : ``regional``, ``shortcut`` and other options of :func:`geoscenes.render`.
    """
    check_split(split, (*SPLITS, CONFIRMATION))
    amount = n or {"train": 3000, "eval": 100}.get(split, 300)
    most = SCENES_PER_SPLIT - RESERVED
    if split == CONFIRMATION:
        first, most = seed * SCENES_PER_SPLIT + most, RESERVED
    else:
        first = (seed * len(SPLITS) + SPLITS.index(split)) * SCENES_PER_SPLIT
    if amount > most:
        raise ValueError(f"n={n} exceeds the {most} scenes of a split")
    classes = tuple(countries)
    rendering = {"size": size, "countries": classes, **options}
    records = [
        SceneRecord(f"scene-{number}", number, classes[label], label, rendering)
        for number, label in ((first + i, i % len(classes)) for i in range(amount))
    ]
    return GeoDataset("geoscenes", classes, split, records)


@cache
def _hashes(names: tuple[str, ...]) -> tuple[str, ...]:
    """Hashes of the tables that scenes are drawn from."""
    return tuple(sha256(data_file(name)) for name in names)
