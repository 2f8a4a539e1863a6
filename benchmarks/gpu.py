"""Speed of the whole pipeline against the bare forward passes of as many images.

    python benchmarks/gpu.py                        the paper's setting, on a GPU if there is one
    python benchmarks/gpu.py --images 2 --arch resnet18 --size 64       a trial on the CPU

Runs the stages of the pipeline on rendered scenes with ResNet-50 at 224 px: attribution by the
paper's four methods, segmentation, extraction of the elements, and ablation with 10 random layouts
per image. Every image that goes through the network is counted, and as many are then put through
it at the same batch size and precision with nothing around them. SmoothGrad's backward passes are
not among the bare ones. Weights are random; no result is kept.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from geolib import data, model, segmentation
from geolib.attribution import METHODS
from geolib.model.device import choose_batch_size, choose_device, inference_precision, uses_bf16
from geolib.pipeline import shards as shards_

PAPER_METHODS = ("gradcam", "gradcam++", "smoothgrad", "scorecam")


class Counter:
    """Counts the images that go through a network."""

    def __init__(self, network: nn.Module) -> None:
        self.images = 0
        network.register_forward_pre_hook(self._count)

    def _count(self, network: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        self.images += len(arguments[0])


def seconds(run: Callable[..., Any], *arguments: Any) -> float:
    """Wall time, until the GPU has finished."""
    start = time.perf_counter()
    run(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def pipeline(
    scenes: data.GeoDataset, classifier: model.Classifier, config: shards_.EvaluationConfig
) -> list[float]:
    """Seconds of attribution, of segmentation, and of extraction and ablation."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GEOLIB_CACHE"] = folder
        shards = list(shards_.shards(scenes, classifier, config.shard_size))
        for shard in shards:
            _ = shard.batch  # scenes are rendered outside the measurement

        def run(stage: Callable[..., Any]) -> None:
            for shard in shards:
                stage(shard, classifier, config)

        return [seconds(run, s) for s in (shards_.maps_folder, shards_.segments, shards_.outcomes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--repeats", type=int, default=10, help="random layouts per image")
    parser.add_argument("--samples", type=int, default=50, help="of SmoothGrad")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=PAPER_METHODS)
    parser.add_argument("--segmenter", choices=segmentation.SEGMENTERS, default="felzenszwalb")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--batch-size", type=int, help="by default as the device suggests")
    options = parser.parse_args()

    device = choose_device(options.device)
    batch_size = options.batch_size or choose_batch_size(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    classifier = model.load(
        options.arch, weights="random", classes=data.COUNTRIES, image_size=options.size
    )
    classifier.to(device).to(memory_format=torch.channels_last)
    scenes = data.load("geoscenes", "eval", options.images, size=options.size)
    bf16 = uses_bf16(device, options.precision)
    print(
        f"{options.arch}, {len(scenes)} images of {options.size} px; device {name}, precision "
        f"{'bf16' if bf16 else 'fp32'}, batch size {batch_size}, {torch.get_num_threads()} threads"
    )
    warnings.filterwarnings("always", "out of memory")
    counter = Counter(classifier)

    def bare(n_images: int) -> None:
        batch = torch.rand(min(n_images, batch_size), 3, options.size, options.size, device=device)
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), inference_precision(device, options.precision):
            for start in range(0, n_images, batch_size):
                classifier(batch[: n_images - start])

    configs = [
        shards_.EvaluationConfig(
            attribution=method,
            attribution_options={"n_samples": options.samples} if method == "smoothgrad" else {},
            segmenter=options.segmenter,
            repeats=options.repeats,
            individual=False,
            batch_size=batch_size,
            shard_size=max(16, batch_size),
            precision=options.precision,
            device=str(device),
        )
        for method in options.methods
    ]
    # Warms up.
    bare(batch_size)
    pipeline(scenes.subset(range(1)), classifier, configs[0])
    print(
        f"{'':12}{'attribution':>12}{'segments':>10}{'ablation':>10}{'together':>10}"
        f"{'images/s':>10}{'passes':>9}{'bare':>10}{'images/s':>10}{'ratio':>7}"
    )
    for config in configs:
        counter.images = 0
        spent = pipeline(scenes, classifier, config)
        passes = counter.images
        forwards, together = seconds(bare, passes), sum(spent)
        print(
            f"{config.attribution:12}{spent[0]:10.2f} s{spent[1]:8.2f} s{spent[2]:8.2f} s"
            f"{together:8.2f} s{len(scenes) / together:10.2f}{passes / len(scenes):9.0f}"
            f"{forwards:8.2f} s{len(scenes) / forwards:10.2f}{together / forwards:7.2f}",
            flush=True,
        )
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
