"""Square parts of photographs of any shape (§4.1 of Theiner et al., WACV 2022).

Training looks at a random part, validation at the centre, testing at the centre and four corners.
The lengths in pixels are the paper's, for an input of 224; for another input they scale with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from geolib.data import GeoDataset
from geolib.images import UnreadableImage

SIDE, TRAINING_EDGE, TESTING_EDGE = 224, 320, 256
AREA = (0.66, 1.0)
# The paper quotes torchvision's documentation, where this is the shape of the part itself.
ASPECT = (3 / 4, 4 / 3)

Crop = tuple[int, torch.Tensor | UnreadableImage]


class Crops(Dataset[Crop]):
    """Items as ``(index, crop)``, ``uint8 [S,S,3]``; an unreadable one as ``(index, error)``.

    ``kind`` is a "random" part, another in every epoch, the "centre", or "five": the corners and
    the centre, ``[5,S,S,3]``. What is drawn is decided by the seed, the epoch and the image alone.
    ``indices`` are the items of the dataset to go through, by default all; an item is asked for by
    its place among them, or by its epoch and place.
    """

    def __init__(
        self,
        dataset: GeoDataset,
        image_size: int,
        kind: Literal["random", "centre", "five"],
        indices: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        edge = TRAINING_EDGE if kind == "random" else TESTING_EDGE
        resize = v2.Resize(round(image_size * edge / SIDE), antialias=True)
        parts = {
            "random": [v2.RandomResizedCrop(image_size, AREA, ASPECT, antialias=True)],
            "centre": [v2.CenterCrop(image_size)],
            "five": [v2.FiveCrop(image_size), torch.stack],
        }
        self.dataset, self.seed = dataset, seed
        self.transform = v2.Compose([resize, *parts[kind]])
        self.indices = range(len(dataset)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> Crop:
        epoch, place = key if isinstance(key, tuple) else (0, key)
        index = self.indices[place]
        try:
            image = self.dataset.records[index].read().image
        except UnreadableImage as error:
            return index, error
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.seed, epoch, index))
            return index, self.transform(torch.from_numpy(image).permute(2, 0, 1)).movedim(-3, -1)


def mix(*numbers: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
