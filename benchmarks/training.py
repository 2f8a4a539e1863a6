"""Whether reading and augmenting photographs keeps up with training: images per second of each.

    python benchmarks/training.py [--images 640] [--width 1024] [--size 224 160] [--threads 2]

Writes JPEG files (quality 85) of rendered scenes with noise, 4:3, to a temporary folder, and
measures on them

    from files    the loader of a training whose images do not fit in memory: files are read,
                  decoded, resized and batched by worker processes, then augmented
    from memory   the same once they are decoded, as in every epoch where they do fit
    the model     steps of the paper's recipe alone (forward, backward, AdamW), ResNet-18

with all cores for each in turn. The ratio is that of files to model; above 1, the model is the
bottleneck. Other work on the machine shows in the load and in the cores that the model was given.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import Subset

from geolib import data, model
from geolib.data import PixelBatch
from geolib.data.pixels import ResizedPixels, default_workers
from geolib.model.device import inference_precision, uses_bf16
from geolib.model.prediction import as_images
from geolib.training.augmentation import augment
from geolib.training.batches import Batches, Process, loader, read
from geoscenes import COUNTRIES, render

BATCH_SIZE = 64


def photographs(folder: Path, n_images: int, width: int) -> float:
    """Write the files, one folder per country; returns their mean size in bytes."""
    height = 3 * width // 4
    scenes = [
        cv2.resize(render(seed, size=1024).image[-768:], (width, height)) for seed in range(6)
    ]
    rng = np.random.default_rng(0)
    for number in range(n_images):
        place = folder / COUNTRIES[number % len(COUNTRIES)] / f"{number}.jpg"
        place.parent.mkdir(exist_ok=True)
        noise = cv2.resize(rng.normal(0, 12, (height // 2, width // 2, 3)), (width, height))
        photo = np.clip(scenes[number % len(scenes)] + noise, 0, 255).astype(np.uint8)
        Image.fromarray(photo).save(place, quality=85)
    return float(np.mean([path.stat().st_size for path in folder.rglob("*.jpg")]))


def rate_ofloader(loader: Iterable[PixelBatch]) -> float:
    """Images per second over a whole epoch, augmented; an earlier one starts the workers."""
    for _ in loader:
        pass
    n_images, start = 0, time.perf_counter()
    for batch in loader:
        draws = torch.rand(4, len(batch.indices))
        augment(as_images(batch.pixels, torch.device("cpu")), draws, True, 0.2)
        n_images += len(batch.indices)
    return n_images / (time.perf_counter() - start)


def rate_of_model(size: int, seconds: float) -> tuple[float, float]:
    """Images per second of a training's steps, on one batch over and over, and cores they had."""
    classifier = model.load("resnet18", weights="random", classes=COUNTRIES, image_size=size)
    classifier.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-4, weight_decay=0.02)
    images = torch.rand(BATCH_SIZE, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH_SIZE) % len(COUNTRIES)

    def step() -> None:
        optimizer.zero_grad()
        with inference_precision("cpu"):
            loss = F.cross_entropy(classifier(images), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()

    step()
    n_images, start, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        step()
        n_images += BATCH_SIZE
    elapsed = time.perf_counter() - start
    return n_images / elapsed, (time.process_time() - used) / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--width", type=int, default=1024, help="pixels of the JPEG files")
    parser.add_argument("--size", type=int, nargs="+", default=[224, 160], help="input in pixels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=15, help="spent on the model, per size")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    with tempfile.TemporaryDirectory() as folder:
        n_bytes = photographs(Path(folder), options.images, options.width)
        dataset = data.load("folder", "all", root=folder)
        print(
            f"{options.images} JPEG files of {options.width} × {3 * options.width // 4} px, "
            f"{n_bytes / 1e3:.0f} kB; {default_workers(options.images)} workers, "
            f"{options.threads} threads, ResNet-18 in {'bf16' if uses_bf16('cpu') else 'fp32'}, "
            f"batches of {BATCH_SIZE}; load {os.getloadavg()[0]:.1f}"
        )
        print(
            f"images/s{'from files':>12}{'from memory':>13}{'the model':>11}{'its cores':>11}"
            f"{'ratio':>8}"
        )
        for size in options.size:
            streamed = Subset(ResizedPixels(dataset, size), range(len(dataset)))
            kept = read(dataset, model.TrainConfig(image_size=size), Process(), False)
            files, memory = (
                rate_ofloader(loader(pixels, Batches(len(pixels), BATCH_SIZE, Process(), 0)))
                for pixels in (streamed, kept)
            )
            steps, cores = rate_of_model(size, options.seconds)
            print(
                f"{size:5} px{files:12.0f}{memory:13.0f}{steps:11.0f}{cores:11.2f}"
                f"{files / steps:8.2f}",
                flush=True,
            )
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
