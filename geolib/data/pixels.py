"""Pixels of a dataset at a network's size, one by one or in batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
    if image.shape[:2] == (size, size):
        return image
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def to_batch(items: Sequence[GeoImage | np.ndarray], image_size: int) -> torch.Tensor:
    """Image batch of a classifier's input size ("all images are resized", §4 of arXiv 2605.00912).

    Parameters
    ----------
    items
        Dataset items, or arrays ``uint8 [H,W,3]``.
    image_size
        Side S in pixels.

    Returns
    -------
    torch.Tensor
        ``float32 [B,3,S,S]``, RGB, 0…1, not normalised.
    """
    arrays = [item.image if isinstance(item, GeoImage) else item for item in items]
    pixels = np.stack([resize(array, image_size) for array in arrays])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)


class PixelBatch(NamedTuple):
    """Items of a dataset that could be read, and those that could not."""

    indices: list[int]
    pixels: torch.Tensor
    unreadable: list[tuple[int, images.UnreadableImage]]


class ResizedPixels(Dataset[tuple[int, torch.Tensor | images.UnreadableImage]]):
    """Items as ``(index, uint8 [S,S,3])``; an unreadable one as ``(index, error)``."""

    def __init__(self, dataset: GeoDataset, image_size: int) -> None:
        self.dataset = dataset
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | images.UnreadableImage]:
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


def collate(items: Sequence[tuple[int, torch.Tensor | images.UnreadableImage]]) -> PixelBatch:
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
    workers: int | None = None,
    progress: bool = True,
) -> Iterator[PixelBatch]:
    """Read or render a dataset in batches, in parallel and in order, with bounded memory.

    Parameters
    ----------
    dataset
        Unreadable items are left out, and noted in ``dataset.skipped``.
    image_size
        Side S in pixels.
    batch_size
        Largest number of images in a batch.
    workers
        Processes; by default one per core for more than 100 images, else none.
    progress
        Whether to show a progress bar.

    Yields
    ------
    PixelBatch
        ``indices`` of the items, ``pixels`` of type ``uint8 [B,S,S,3]``.
    """
    loader = DataLoader(
        ResizedPixels(dataset, image_size),
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=default_workers(len(dataset)) if workers is None else workers,
        worker_init_fn=single_threaded,
    )
    description = f"{dataset.name} {dataset.split}"
    with progress_bar(description, len(dataset), "image", progress) as bar:
        for batch in loader:
            for index, error in batch.unreadable:
                dataset.skip(error, index)
            bar.update(len(batch.indices) + len(batch.unreadable))
            if batch.indices:
                yield batch


def default_workers(n_images: int) -> int:
    """Number of processes that read images: none for few, else one per core."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return cores if n_images > 100 else 0


def single_threaded(worker: int) -> None:
    """Start of a worker process: OpenCV's own threads do not survive a fork."""
    cv2.setNumThreads(0)
