"""What causal effects cost beyond the forward passes they are made of.

    python benchmarks/causal.py [--scenes 16] [--threads 1] [--size 144]

Renders every counterfactual of some scenes, forwards as many pictures through a ResNet-18, and
does both together as `scene_effects` does. What is expected: at least 25 counterfactual scenes
rendered per second and core, and a total close to the sum of the two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from torchvision.models import resnet18

from geolib import data
from geolib.chapters.causes.effects import counterfactuals, scene_effects, scene_of
from geolib.data import COUNTRIES, GeoImage
from geolib.model import Classifier
from geolib.model.classifier import Card
from geolib.model.device import inference_precision
from geolib.model.prediction import as_images


def seconds(run: Callable[[], object]) -> np.ndarray:
    """Wall and processor seconds."""
    start = time.perf_counter(), time.process_time()
    run()
    return np.subtract((time.perf_counter(), time.process_time()), start)


def draw(dataset: data.GeoDataset) -> list[GeoImage]:
    return [dataset[i] for i in range(len(dataset))]


def labels(dataset: data.GeoDataset) -> list[int]:
    return [label for label in dataset.labels if label is not None]


def render(items: list[GeoImage]) -> int:
    """Pictures of all counterfactuals, and how many objects can be seen; the number of pictures."""
    count = 0
    for item in items:
        for thing, _, other in counterfactuals(scene_of(item)):
            _ = other.image, thing.mask.sum()
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=144)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)

    network = resnet18(num_classes=len(COUNTRIES)).to(memory_format=torch.channels_last)
    classifier = Classifier(network, Card("resnet18", COUNTRIES, options.size)).eval()
    dataset = data.load("geoscenes", n=options.scenes, size=options.size)
    pictures = render(draw(dataset))  # plants are painted when first seen
    seen: list[int] = []
    counting = network.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    effects = partial(
        scene_effects, classifier, labels=labels(dataset), batch_size=options.batch_size
    )
    effects(draw(dataset))
    counting.remove()

    def forward() -> None:
        batch = torch.zeros(options.batch_size, options.size, options.size, 3, dtype=torch.uint8)
        with torch.inference_mode(), inference_precision("cpu", "fp32"):
            for size in seen:
                classifier(as_images(batch[:size], torch.device("cpu")))

    # Scenes remember what they have drawn: every run gets new ones, drawn before it starts.
    rounds = [
        [
            seconds(partial(render, draw(dataset))),
            seconds(forward),
            seconds(partial(effects, draw(dataset))),
        ]
        for _ in range(options.rounds)
    ]
    measured = np.array(rounds)  # [round, render, forward or both, wall or processor]

    print(
        f"{options.scenes} scenes at {options.size} px, {pictures} counterfactuals "
        f"({pictures / options.scenes:.1f} a scene), {sum(seen)} forward passes, "
        f"{options.threads} threads, fp32"
    )
    for name, (rendered, forwarded, both) in {
        "wall": measured[:, :, 0].min(axis=0),
        "processor": measured[:, :, 1].mean(axis=0),
    }.items():
        print(
            f"{name:10} render {rendered:6.2f} s ({pictures / rendered:4.0f} scenes/s), "
            f"bare forward {forwarded:6.2f} s ({sum(seen) / forwarded:4.0f} images/s), "
            f"effects {both:6.2f} s ({pictures / both:4.0f} scenes/s, "
            f"{both / (rendered + forwarded):.2f} of the sum)"
        )


if __name__ == "__main__":
    main()
