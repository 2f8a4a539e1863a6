"""A network that says where a photograph was taken (§3.1.3 and §4.1 of Theiner et al., WACV 2022).

One backbone carries one linear layer, a head, per partitioning of the earth, ordered from fine to
coarse. Heads on the same features are blocks of one layer, so a location model is a classifier of
the cells of all partitionings, and this module needs to know of a cell nothing but its name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from geolib.data import GeoDataset, pixel_batches
from geolib.model.classifier import Classifier, load, with_classes
from geolib.model.device import choose_batch_size, choose_device
from geolib.model.prediction import as_images, log_probabilities
from geolib.model.settings import TrainConfig
from geolib.runtime.tensors import read_header
from geolib.training.batches import Examples
from geolib.training.crops import Crops

HEADS = "heads"


class LocationModel(nn.Module):
    """Backbone with one linear head per partitioning, fine to coarse (§3.1.3).

    Attributes
    ----------
    classifier : Classifier
        The network; its classes are the cells of all heads, one head after the other.
    sizes : tuple of int
        Number of cells of each head.
    """

    def __init__(self, classifier: Classifier, sizes: Sequence[int]) -> None:
        super().__init__()
        if sum(sizes) != len(classifier.classes) or min(sizes, default=0) < 1:
            raise ValueError(
                f"sizes={tuple(sizes)} do not add up to the {len(classifier.classes)} classes of "
                "the classifier; each head needs at least one"
            )
        self.classifier = classifier
        self.sizes = tuple(sizes)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Logits ``[B,C]`` of every head for images ``[B,3,H,W]``, 0…1."""
        return list(self.classifier(images).split(self.sizes, dim=1))

    def head(self, index: int) -> Classifier:
        """A copy with one head alone: a classifier of its cells, for attribution among others."""
        starts = np.cumsum((0, *self.sizes)).tolist()
        rows = slice(starts[:-1][index], starts[1:][index])
        return with_classes(self.classifier, self.classifier.classes[rows], rows=rows)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint for :func:`load_location`, as :meth:`Classifier.save` does."""
        self.classifier.save(path, **{HEADS: json.dumps(self.sizes)})


def load_location(path: str | Path) -> LocationModel:
    """Read a checkpoint of :meth:`LocationModel.save`; a ValueError for any other file."""
    classifier = load(path)
    sizes = read_header(Path(path)).get(HEADS)
    if sizes is None:
        raise ValueError(f"path={str(path)!r} holds a classifier, not a location model")
    return LocationModel(classifier, json.loads(sizes)).eval()


def train_location(
    train: Examples,
    validation: Examples,
    heads: Sequence[Sequence[str]],
    config: TrainConfig,
    *,
    initial: Classifier | None = None,
    checkpoints: str | Path | None = None,
) -> LocationModel:
    """Train all heads at once; the loss is the sum of their cross-entropies (§3.1.3).

    Of images and the cell of each under every head; ``heads`` names the cells, fine to coarse.
    From ``initial``, in the paper's appendix A a classifier of countries, by default from the
    network and the weights that ``config`` names; the rest is as for :func:`geolib.model.train`.
    The model is in evaluation mode on the CPU. ValueError if targets and images do not match.
    """
    # Here, and not above: Lightning takes seconds to import.
    from geolib.training.recipe import fit

    sizes = [len(head) for head in heads]
    for images, targets in (train, validation):
        if targets.shape != (len(images), len(heads)):
            raise ValueError(
                f"targets of the {images.split} split have shape {tuple(targets.shape)}; expected "
                f"({len(images)}, {len(heads)}), a row per image and a column per head"
            )
        if (targets < -1).any() or (targets >= torch.tensor(sizes)).any():
            raise ValueError(f"targets lie outside -1…C-1 for heads of {sizes} cells")
    return LocationModel(fit(train, validation, heads, config, initial, checkpoints), sizes).eval()


class Located(NamedTuple):
    """What a model says of a dataset's readable images.

    ``indices``, ``int64 [M]``, are their places in the dataset; ``probabilities``, ``float32
    [M,ΣC]``, those of the cells of each head, one head after the other.
    """

    indices: torch.Tensor
    probabilities: torch.Tensor

    def heads(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """Probabilities ``[M,C]`` of the first heads, which have so many cells."""
        return [head.numpy() for head in self.probabilities[:, : sum(sizes)].split(list(sizes), 1)]


def probabilities(
    model: LocationModel,
    dataset: GeoDataset,
    *,
    crops: bool = False,
    precision: str = "auto",
) -> Located:
    """Probability of every cell of every head; unreadable images are left out.

    With ``crops`` the softmax is averaged over five crops of each photograph (§4.1) instead of that
    of the whole of it, resized; the rest is as for :func:`geolib.model.predict`.
    """
    device = choose_device("auto")
    classifier = model.classifier.to(device).to(memory_format=torch.channels_last)
    size, n_images = classifier.image_size, choose_batch_size(device)
    views = Crops(dataset, size, "five") if crops else None
    parts = [torch.empty(0, sum(model.sizes))]
    indices: list[int] = []
    for batch in pixel_batches(dataset, size, n_images, items=views):
        pixels = batch.pixels if crops else batch.pixels[:, None]
        images = as_images(pixels.flatten(0, 1), torch.device("cpu"))
        found = log_probabilities(classifier, images, precision=precision)
        heads = [head.softmax(1) for head in found.split(model.sizes, dim=1)]
        scores = torch.cat(heads, dim=1).float()
        parts.append(scores.unflatten(0, (-1, pixels.shape[1])).mean(1))
        indices += batch.indices
    return Located(torch.tensor(indices, dtype=torch.int64), torch.cat(parts))


def down_the_hierarchy(
    probabilities: Sequence[np.ndarray], parents: Sequence[np.ndarray]
) -> np.ndarray:
    """Probability of each finest cell times those of the cells around it (f* in §4.1).

    Of ``[N,C]`` per head, fine to coarse; ``parents`` are, for each coarser head, ``int64 [C_0]``:
    the cell that holds each finest cell, or -1 where there is none; the head then counts as if it
    knew nothing, with one over its cells. The result ``[N,C_0]`` sums to 1 per image.
    """
    product = probabilities[0].astype(np.float64)
    for head, parent in zip(probabilities[1:], parents, strict=True):
        product *= np.where(parent < 0, 1 / head.shape[1], head[:, parent])
    return product / product.sum(1, keepdims=True)
