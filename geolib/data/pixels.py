"""Pixels of a dataset at a network's size, one by one or in batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from geolib import images
from geolib.data.records import GeoDataset, GeoImage, PhotoRecord
from geolib.runtime import cache
from geolib.runtime.here import progress_bar

# Most drawn images in one file, below which a run that is killed draws nothing twice.
DRAWN_TOGETHER = 64
WEBP_MAX_SIDE = 16_383


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


class _Drawn(Dataset[PixelBatch]):
    """Images that are drawn and not read, so many at a time, each drawn once for all who ask.

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
        return sum(cache.find(*self._identity(part)) is None for part in range(len(self)))

    def __getitem__(self, part: int) -> PixelBatch:
        def build(folder: Path) -> None:
            drawn = (self.dataset.records[index].read().image for index in self.parts[part])
            column = np.concatenate([resize(image, self.image_size) for image in drawn])
            # With more effort files hardly get smaller.
            Image.fromarray(column).save(folder / "pixels.webp", lossless=True, method=2)

        with Image.open(cache.compute(*self._identity(part), build) / "pixels.webp") as column:
            pixels = np.array(column).reshape(-1, self.image_size, self.image_size, 3)
        return PixelBatch(list(self.parts[part]), torch.from_numpy(pixels), [])


def pixel_batches(
    dataset: GeoDataset,
    image_size: int,
    batch_size: int,
    *,
    items: Dataset[Any] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Iterator[PixelBatch]:
    """Read or draw a dataset in batches, in parallel and in order, with bounded memory.

    Scenes are drawn once for all who ask, and kept in the cache without loss.

    Parameters
    ----------
    dataset
        Unreadable items are left out, and noted in ``dataset.skipped``.
    image_size, batch_size
        Side S in pixels, and the largest number of images in a batch.
    items
        Pairs of index and pixels, or error, in place of whole images, resized.
    workers
        Processes; by default one per core for more than 100 images, else none.
    progress
        Whether to show a progress bar.

    Yields
    ------
    PixelBatch
        ``indices`` of the items, ``pixels`` of type ``uint8 [B,S,S,3]``.
    """
    source = ResizedPixels(dataset, image_size) if items is None else items
    workers = default_workers(len(dataset)) if workers is None else workers
    in_batches: dict[str, Any] = {"batch_size": batch_size, "collate_fn": collate}
    if items is None and all(getattr(record, "drawn", False) for record in dataset.records):
        source = drawn = _Drawn(dataset, image_size)
        workers = min(workers, drawn.missing())
        in_batches = {"batch_size": None}
    loader: DataLoader[Any] = DataLoader(
        source, num_workers=workers, worker_init_fn=single_threaded, **in_batches
    )
    description = f"{dataset.name} {dataset.split}"
    with progress_bar(description, len(dataset), "image", progress) as bar:
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
