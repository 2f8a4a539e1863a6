"""Images of a training: read once or in every epoch, and dealt out in batches to its processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from geolib.data import GeoDataset, PixelBatch, pixel_batches
from geolib.data.pixels import ResizedPixels, collate, default_workers, single_threaded
from geolib.model.device import Process
from geolib.model.settings import TrainConfig
from geolib.training.crops import Crops, RandomCrops, centre_crops

# Of the machine's memory, what decoded images may fill.
MEMORY_SHARE = 0.5


class Examples(NamedTuple):
    """Images, and the class of each under every head: ``int64 [N,heads]``, -1 where it has none."""

    images: GeoDataset
    targets: torch.Tensor


@dataclass(frozen=True)
class PixelsInMemory(Dataset[tuple[int, torch.Tensor]]):
    """Items as ``(index, uint8 [S,S,3])``, read once."""

    indices: list[int]
    pixels: torch.Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return self.indices[index], self.pixels[index]


def read_pixels(
    dataset: GeoDataset, image_size: int, process: Process, progress: bool
) -> PixelsInMemory | Subset[Any]:
    """The readable images as items ``(index, uint8 [S,S,3])``, kept in memory where they fit.

    Where they do not, a first reading tells which are readable, and every epoch reads them again.
    """
    fits = len(dataset) * image_size**2 * 3 < _memory() / process.local_world_size
    pixels = torch.empty(len(dataset) * fits, image_size, image_size, 3, dtype=torch.uint8)

    def keep(start: int, found: torch.Tensor) -> None:
        if fits:
            pixels[start : start + len(found)] = found

    indices = _readable(dataset, image_size, progress, keep)
    if fits:
        return PixelsInMemory(indices, pixels)
    return Subset(ResizedPixels(dataset, image_size), indices)


def _readable(
    dataset: GeoDataset,
    image_size: int,
    progress: bool,
    keep: Callable[[int, torch.Tensor], None] = lambda start, found: None,
) -> list[int]:
    """Indices of the images that can be read; ``keep`` is shown the pixels."""
    indices: list[int] = []
    for batch in pixel_batches(dataset, image_size, 64, progress=progress):
        keep(len(indices), batch.pixels)
        indices += batch.indices
    if not indices:
        raise ValueError(f"the {dataset.split} split holds no readable image")
    if unreadable := len(dataset) - len(indices):
        warnings.warn(f"{unreadable} unreadable images are left out", stacklevel=3)
    return indices


Pixels = PixelsInMemory | Subset[Any] | Crops | RandomCrops


def read(
    train: GeoDataset,
    validation: GeoDataset,
    config: TrainConfig,
    process: Process,
    progress: bool,
) -> tuple[Pixels, Pixels]:
    """Items of both splits: whole images, or random and central parts of them.

    For parts a first reading tells which images are readable, and every epoch reads them again.
    """
    size = config.image_size
    if config.crops:
        return (
            RandomCrops(train, size, config.seed, _readable(train, size, progress)),
            centre_crops(validation, size, _readable(validation, size, progress)),
        )
    return (
        read_pixels(train, size, process, progress),
        read_pixels(validation, size, process, progress),
    )


def _memory() -> float:
    """Bytes that decoded images may fill on this machine, within the limits of a container."""
    from distributed.system import MEMORY_LIMIT

    return MEMORY_SHARE * MEMORY_LIMIT


class Batches(Sampler[list[int]]):
    """This process's share of every batch, out of an order that all processes have in common.

    The order depends on the seed and the epoch alone, so that several processes, or one that was
    killed, see what a single undisturbed one sees. Without a seed it is that of the images, and
    the last batch may be short; with one, images that do not fill a batch wait for another epoch.
    """

    def __init__(
        self, n_images: int, batch_size: int, process: Process, seed: int | None = None
    ) -> None:
        self.n_images = n_images
        self.batch_size = min(batch_size, n_images)
        self.process = process
        self.seed = seed
        self.epoch = 0
        self.resumed = 0, 0
        if seed is not None and self.batch_size < process.world_size:
            raise ValueError(
                f"batch_size={batch_size} and {n_images} training images: too few for "
                f"{process.world_size} processes, each of which needs an image of every batch"
            )

    def resume(self, step: int) -> None:
        """Go on after so many batches in all."""
        self.resumed = divmod(step, len(self))
        self.epoch = self.resumed[0]

    def __len__(self) -> int:
        whole, rest = divmod(self.n_images, self.batch_size)
        return whole + (self.seed is None and rest > 0)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(self.n_images)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.n_images, generator=generator)
        epoch, first = self.resumed
        batches = order.split(self.batch_size)[first if self.epoch == epoch else 0 : len(self)]
        for batch in batches:
            yield batch[self.process.rank :: self.process.world_size].tolist()


class WithEpoch(Sampler[list[tuple[int, int]]]):
    """Batches of images together with their epoch, by which random crops are drawn."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.batches.epoch
        for batch in self.batches:
            yield [(epoch, position) for position in batch]


def loader(pixels: Pixels, batches: Batches) -> DataLoader[PixelBatch]:
    workers = default_workers(batches.n_images) // batches.process.local_world_size
    workers = 0 if isinstance(pixels, PixelsInMemory) else workers
    return DataLoader(
        pixels,
        batch_sampler=WithEpoch(batches) if isinstance(pixels, RandomCrops) else batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=single_threaded,
    )
