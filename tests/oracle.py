"""Photographs with a planted cause, and a classifier that is known to look at nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from geolib.model import Classifier
from geolib.model.classifier import Card

SIDE = 48
BOX = (16, 16, 32, 32)
CLASSES = ("blue", "red")
COLOURS = {"blue": (30, 30, 230), "red": (230, 30, 30)}
MEAN = (0.485, 0.456, 0.406)


class Oracle(nn.Module):
    """Blue minus red, and red minus blue, over the planted box."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            weight = torch.tensor([[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]])
            self.features.weight.copy_(weight[:, :, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x0, y0, x1, y1 = BOX
        return self.features(images).relu()[:, :, y0:y1, x0:x1].mean((2, 3)) * 5


def classifier() -> Classifier:
    """The oracle, in the package's clothes."""
    return Classifier(Oracle(), Card("oracle", CLASSES, SIDE)).eval()


def photograph(colour: str, seed: int) -> np.ndarray:
    """A square of the colour on a background that the oracle does not see."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), np.array(MEAN) * 255)
    image += rng.normal(0, 2, (SIDE, SIDE, 1))
    x0, y0, x1, y1 = BOX
    image[y0:y1, x0:x1] = COLOURS[colour]
    return image.clip(0, 255).astype(np.uint8)


def write_photographs(root: Path, n: int) -> None:
    """``n`` photographs of each colour in ``ROOT/COLOUR``."""
    for colour in CLASSES:
        (root / colour).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = photograph(colour, seed=2 * i + (colour == "red"))
            Image.fromarray(pixels).save(root / colour / f"{i}.png")
