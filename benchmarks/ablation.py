"""What the ablation tests cost beyond the forward passes they are made of.

    python benchmarks/ablation.py [--images 16] [--threads 2] [--rounds 5]

Compares `faithfulness` (variants built, random boxes matched, table assembled) with as many bare
forward passes of the same network at the same batch size and precision: ResNet-18 at 160 px.
Rounds of both alternate. Wall time: the fastest round counts. Processor time: the sum over rounds,
which other programs on the machine hardly change.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torchvision.models import resnet18

from geolib.ablation import faithfulness, random_regions
from geolib.model.device import inference_precision, uses_bf16
from geolib.scoring import Elements, extract_elements

SIZE = 160


def some_elements(seed: int) -> Elements:
    """Elements of a smooth random map on a grid of 64 segments: about 10, a fifth of the image."""
    values = gaussian_filter(np.random.default_rng(seed).random((SIZE, SIZE)), SIZE / 12)
    values = (values - values.min()) / np.ptp(values)
    cell = np.arange(SIZE) * 8 // SIZE
    labels = 8 * cell[:, None] + cell
    return extract_elements(values, labels == np.arange(64)[:, None, None], s_min=0.6)


def seconds(run: Callable[[], object]) -> np.ndarray:
    """Wall and processor seconds."""
    start = time.perf_counter(), time.process_time()
    run()
    return np.subtract((time.perf_counter(), time.process_time()), start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    network = resnet18(num_classes=3).eval().to(memory_format=torch.channels_last)
    images = torch.rand(options.images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    elements = [some_elements(seed) for seed in range(options.images)]
    ids = [str(index) for index in range(options.images)]
    counted = []

    def counting(batch: torch.Tensor) -> torch.Tensor:
        counted.append(len(batch))
        return network(batch)

    def ablation() -> None:
        counted.clear()
        faithfulness(counting, images, None, elements, image_ids=ids, batch_size=options.batch_size)

    def bare() -> None:
        batch = torch.rand(options.batch_size, 3, SIZE, SIZE)
        with torch.inference_mode(), inference_precision("cpu"):
            for size in counted:
                network(batch[:size])

    ablation()  # warms up, and counts the forward passes
    rounds = [(seconds(ablation), seconds(bare)) for _ in range(options.rounds)]
    measured = np.array(rounds)  # [round, ablation or bare, wall or processor]
    boxes = seconds(lambda: [random_regions(e, i) for e, i in zip(elements, ids, strict=True)])[0]
    passes = sum(counted)
    print(
        f"{options.images} images, {np.mean([len(e) for e in elements]):.1f} elements covering"
        f" {np.mean([e.coverage for e in elements]):.0%}, {passes} forward passes,"
        f" {'bf16' if uses_bf16('cpu') else 'fp32'}, {options.threads} threads"
    )
    print(f"coverage matching     {1e3 * boxes / options.images / 10:.2f} ms per layout")
    for name, (ablated, forwarded) in {
        "wall": measured[:, :, 0].min(axis=0),
        "processor": measured[:, :, 1].sum(axis=0) / options.rounds,
    }.items():
        print(
            f"{name:10} bare {forwarded:6.2f} s ({passes / forwarded:5.0f} images/s),"
            f" faithfulness {ablated:6.2f} s, overhead {ablated / forwarded - 1:.1%}"
        )


if __name__ == "__main__":
    main()
