"""Images of a training: read once or in every epoch, and dealt out in batches to its processes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Sampler, StackDataset, Subset

from geolib.data import GeoDataset, PixelBatch, pixel_batches
from geolib.data.pixels import ResizedPixels, collate, default_workers, single_threaded
from geolib.model.settings import TrainConfig
from geolib.training.crops import Crops

Pixels = StackDataset[Any] | Subset[Any] | Crops

# Of the machine's memory, what decoded images may fill.
MEMORY_SHARE = 0.5


class Process(NamedTuple):
    """This process among those that torchrun has started; the only one where it has not."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @classmethod
    def this(cls) -> Process:
        """As the environment variables of torchrun say."""
        alone = cls()._asdict()
        return cls(**{name: int(os.environ.get(name.upper()) or alone[name]) for name in alone})


class Examples(NamedTuple):
    """Images, and the class of each under every head: ``int64 [N,heads]``, -1 where it has none."""

    images: GeoDataset
    targets: torch.Tensor


def read(
    dataset: GeoDataset, config: TrainConfig, process: Process, random: bool = False
) -> Pixels:
    """The readable images as items ``(index, uint8 [S,S,3])``, kept in memory where they fit.

    Where they do not, a first reading tells which are readable, and every epoch reads them again;
    so it is for the parts of photographs that ``config.crops`` asks for: of each, the centre, or
    with ``random`` another part in every epoch.
    """
    from distributed.system import MEMORY_LIMIT  # within the limits of a container

    size = config.image_size
    memory = MEMORY_SHARE * MEMORY_LIMIT / process.local_world_size
    fits = not config.crops and len(dataset) * size**2 * 3 < memory
    pixels = torch.empty(len(dataset) * fits, size, size, 3, dtype=torch.uint8)
    indices: list[int] = []
    for batch in pixel_batches(dataset, size, 64, progress=process.rank == 0):
        if fits:
            pixels[len(indices) : len(indices) + len(batch.indices)] = batch.pixels
        indices += batch.indices
    if not indices:
        raise ValueError(f"the {dataset.split} split holds no readable image")
    if unreadable := len(dataset) - len(indices):
        warnings.warn(f"{unreadable} unreadable images are left out", stacklevel=2)
    if fits:
        return StackDataset(indices, pixels[: len(indices)])  # type: ignore[arg-type]
    if config.crops:
        return Crops(dataset, size, "random" if random else "centre", indices, config.seed)
    return Subset(ResizedPixels(dataset, size), indices)


class Batches(Sampler[list[Any]]):
    """This process's share of every batch, out of an order that all processes have in common.

    The order depends on the seed and the epoch alone, so that several processes, or one that was
    killed, see what a single undisturbed one sees. Without a seed it is that of the images, and
    the last batch may be short; with one, images that do not fill a batch wait for another epoch.
    With ``with_epoch`` each image comes with its epoch, by which random crops are drawn.
    """

    def __init__(
        self,
        n_images: int,
        batch_size: int,
        process: Process,
        seed: int | None = None,
        with_epoch: bool = False,
    ) -> None:
        self.n_images, self.batch_size = n_images, min(batch_size, n_images)
        self.process, self.seed, self.with_epoch = process, seed, with_epoch
        self.epoch = 0
        self.resumed = 0, 0
        if seed is not None and self.batch_size < process.world_size:
            raise ValueError(
                f"batch_size={batch_size} and {n_images} training images: too few for "
                f"{process.world_size} processes with an image of every batch each"
            )

    def resume(self, step: int) -> None:
        """Go on after so many batches in all."""
        self.resumed = divmod(step, len(self))
        self.epoch = self.resumed[0]

    def __len__(self) -> int:
        whole, rest = divmod(self.n_images, self.batch_size)
        return whole + (self.seed is None and rest > 0)

    def __iter__(self) -> Iterator[list[Any]]:
        order = torch.arange(self.n_images)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.n_images, generator=generator)
        epoch, first = self.resumed
        batches = order.split(self.batch_size)[first if self.epoch == epoch else 0 : len(self)]
        for batch in batches:
            mine = batch[self.process.rank :: self.process.world_size].tolist()
            yield [(self.epoch, position) for position in mine] if self.with_epoch else mine


def loader(pixels: Pixels, batches: Batches) -> DataLoader[PixelBatch]:
    """The batches of images that :func:`read` has found."""
    workers = default_workers(batches.n_images) // batches.process.local_world_size
    workers = 0 if isinstance(pixels, StackDataset) else workers
    return DataLoader(
        pixels,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=single_threaded,
    )
