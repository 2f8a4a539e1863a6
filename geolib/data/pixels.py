"""Pixels of a dataset at a network's size, one by one or in batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from geolib import images
from geolib.data.records import GeoDataset, GeoImage, PhotoRecord
from geolib.runtime.here import progress_bar


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize ``uint8 [H,W,3]`` to ``[size,size,3]``: bilinear, anti-aliased, no crop."""
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def to_batch(items: Sequence[GeoImage | np.ndarray], image_size: int) -> torch.Tensor:
    """Image batch of a classifier's input size ("all images are resized", §4 of arXiv 2605.00912).

    Parameters
    ----------
    items : of a dataset, or arrays ``uint8 [H,W,3]``.
    image_size : side S in pixels.

    Returns
    -------
    torch.Tensor, ``float32 [B,3,S,S]``: RGB, 0…1, not normalised.
    """
    arrays = [item.image if isinstance(item, GeoImage) else item for item in items]
    pixels = np.stack([resize(array, image_size) for array in arrays])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)


class PixelBatch(NamedTuple):
    """Items of a dataset that could be read, and those that could not."""

    indices: list[int]
    pixels: torch.Tensor
    unreadable: list[tuple[int, images.UnreadableImage]]


Item = tuple[int, torch.Tensor | images.UnreadableImage]


class ResizedPixels(Dataset[Item]):
    """Items as ``(index, uint8 [S,S,3])``; an unreadable one as ``(index, error)``."""

    def __init__(self, dataset: GeoDataset, image_size: int) -> None:
        self.dataset = dataset
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        record = self.dataset.records[index]
        try:
            if isinstance(record, PhotoRecord):
                # Twice the size: shrinking is then left to the anti-aliased filter, as elsewhere.
                image = images.read(record.path, min_side=2 * self.image_size)
            else:
                image = record.read().image
            return index, torch.from_numpy(resize(image, self.image_size))
        except images.UnreadableImage as error:
            return index, error


def collate(items: Sequence[Item]) -> PixelBatch:
    """Gather items of :class:`ResizedPixels` into a batch ``uint8 [B,S,S,3]``."""
    readable = [(i, pixels) for i, pixels in items if isinstance(pixels, torch.Tensor)]
    unreadable = [(i, error) for i, error in items if isinstance(error, images.UnreadableImage)]
    pixels = [pixels for _, pixels in readable]
    stacked = torch.stack(pixels) if pixels else torch.empty(0, 1, 1, 3, dtype=torch.uint8)
    return PixelBatch([i for i, _ in readable], stacked, unreadable)


def pixel_batches(
    dataset: GeoDataset,
    image_size: int,
    batch_size: int,
    *,
    items: Dataset[Any] | None = None,
    progress: bool = True,
) -> Iterator[PixelBatch]:
    """Read or draw a dataset in batches, in parallel and in order, with bounded memory.

    Scenes are drawn once for all who ask, and kept in the cache without loss.

    Parameters
    ----------
    dataset : its unreadable items are left out, and noted in ``dataset.skipped``.
    image_size, batch_size : side S in pixels, and the largest number of images in a batch.
    items : pairs of index and pixels, or error, in place of whole images, resized.
    progress : whether to show a progress bar.

    Yields
    ------
    PixelBatch, ``indices`` of the items and their ``pixels``, ``uint8 [B,S,S,3]``.
    """
    source: Any = ResizedPixels(dataset, image_size) if items is None else items
    workers = default_workers(len(dataset))
    in_batches: dict[str, Any] = {"batch_size": batch_size, "collate_fn": collate}
    kinds = {getattr(record, "drawn", None) for record in dataset.records}
    (drawn,) = kinds if len(kinds) == 1 else (None,)
    if items is None and drawn:
        source = drawn(dataset, image_size)
        workers = min(workers, source.missing())
        in_batches = {"batch_size": None}
    loader: DataLoader[Any] = DataLoader(
        source, num_workers=workers, worker_init_fn=single_threaded, **in_batches
    )
    title = f"{dataset.name} {dataset.split}"
    with progress_bar(title, len(dataset), "image", progress) as bar:
        for batch in loader:
            for index, error in batch.unreadable:
                dataset.skip(error, index)
            bar.update(len(batch.indices) + len(batch.unreadable))
            for start in range(0, len(batch.indices), batch_size):
                part = slice(start, start + batch_size)
                yield PixelBatch(batch.indices[part], batch.pixels[part], [])


def default_workers(n_images: int) -> int:
    """Number of processes that read images: none for few, else one per core."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return cores if n_images > 100 else 0


def single_threaded(worker: int) -> None:
    """Start of a worker process: OpenCV's own threads do not survive a fork."""
    cv2.setNumThreads(0)
