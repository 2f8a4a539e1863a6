"""What a run of a given size takes, from what one image takes on this machine.

Passes through the network are counted; seconds per pass are measured, and multiplied. Hours on a
GPU are these hours divided by an assumed factor: an extrapolation, not a measurement.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from geolib import model, segmentation
from geolib.data import GeoDataset
from geolib.model.device import inference_precision
from geolib.pipeline import shards
from geolib.runtime import cache
from geolib.runtime.here import cache_root

# The network and the input of §4 of arXiv 2605.00912.
ARCH, IMAGE_SIZE = "resnet50", 224
# Feature maps that the last block of that network puts out: Score-CAM masks the image by each.
CHANNELS = 2048
# Noisy copies per SmoothGrad map.
SAMPLES = 50
# How many times faster than this machine's processor one GPU is taken to be.
GPU_SPEEDUP = 100.0
# Images of a batch, and batches, that are timed.
BATCH, ROUNDS = 4, 2
# Images among which one is looked for that can be read.
FEW = 4


@dataclass(frozen=True)
class Workload:
    """Size of a run: ``images`` are explained, and every pair of method and segmenter is tested."""

    training_images: int
    epochs: int
    images: int
    methods: tuple[str, ...] = ("gradcam", "gradcam++", "smoothgrad", "scorecam")
    segmenters: int = 3
    tests: int = 2
    repeats: int = 10


# The setting of §4 and §5; and the same with every photograph of OSV-5M, in round numbers.
PAPER = Workload(training_images=100_000, epochs=300, images=600)
OSV5M = Workload(training_images=5_100_000, epochs=300, images=5_100_000)


@dataclass(frozen=True)
class Passes:
    """Passes of one image: forward alone, and with the input's gradient."""

    forward: int
    gradient: int = 0


# Per attribution map. Grad-CAM's backward pass ends at the last block and is not counted;
# SmoothGrad and Score-CAM first ask for the predicted class. A silent channel costs Score-CAM
# nothing, so its number is an upper bound.
MAP_PASSES: dict[str, Passes] = {
    "gradcam": Passes(1),
    "gradcam++": Passes(1),
    "smoothgrad": Passes(1, SAMPLES),
    "scorecam": Passes(1 + CHANNELS),
}


@dataclass(frozen=True)
class Costs:
    """What one image costs: seconds of each kind of work, and bytes that are kept.

    Bytes are those of one map, of one segmenter's segments, and of one pair's outcomes.
    """

    forward: float
    gradient: float
    step: float
    segmentation: float
    segmenter: str
    map_bytes: float
    segments_bytes: float
    outcomes_bytes: float


def ablation_passes(workload: Workload) -> int:
    """Forward passes of one image for one pair: untouched, and per test guided and random (§5)."""
    return 1 + workload.tests * (1 + workload.repeats)


def plan(workload: Workload, costs: Costs, gpu_speedup: float = GPU_SPEEDUP) -> pd.DataFrame:
    """Passes, hours here, hours at the assumed ``gpu_speedup`` (> 0) and bytes of a run by part.

    A segmentation counts as one pass; it is timed without a network and has no hours on a GPU.
    """
    if not gpu_speedup > 0:
        raise ValueError(f"gpu_speedup={gpu_speedup}; expected a factor above 0")
    if unknown := [method for method in workload.methods if method not in MAP_PASSES]:
        raise ValueError(f"methods holds {unknown}; known: {', '.join(MAP_PASSES)}")
    n, pairs = workload.images, len(workload.methods) * workload.segmenters
    forward = n * sum(MAP_PASSES[method].forward for method in workload.methods)
    gradient = n * sum(MAP_PASSES[method].gradient for method in workload.methods)
    steps = workload.training_images * workload.epochs
    segmented = n * workload.segmenters
    ablated = n * pairs * ablation_passes(workload)
    rows = {
        "training": (steps, steps * costs.step, 0),
        "maps": (
            forward + gradient,
            forward * costs.forward + gradient * costs.gradient,
            n * len(workload.methods) * costs.map_bytes,
        ),
        "segmentation": (
            segmented,
            segmented * costs.segmentation,
            segmented * costs.segments_bytes,
        ),
        "ablation": (ablated, ablated * costs.forward, n * pairs * costs.outcomes_bytes),
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["passes", "seconds", "bytes"])
    hours = table["seconds"] / 3600
    gpu_hours = (hours / gpu_speedup).drop("segmentation")
    return table.assign(hours=hours, gpu_hours=gpu_hours).drop(columns="seconds")


def summary(costs: Costs, gpu_speedup: float = GPU_SPEEDUP) -> dict[str, float | str]:
    """Numbers of the page on planning, by name: costs, and both runs part by part and in total."""
    found: dict[str, float | str] = {
        "plan_arch": ARCH,
        "plan_segmenter": costs.segmenter,
        "plan_gpu_speedup": gpu_speedup,
        "plan_image_size": IMAGE_SIZE,
        "plan_forward_ms": 1e3 * costs.forward,
        "plan_gradient_ms": 1e3 * costs.gradient,
        "plan_step_ms": 1e3 * costs.step,
        "plan_segmentation_ms": 1e3 * costs.segmentation,
        "plan_map_kb": costs.map_bytes / 1e3,
        "plan_segments_kb": costs.segments_bytes / 1e3,
        "plan_outcomes_kb": costs.outcomes_bytes / 1e3,
        "plan_ablation_passes": ablation_passes(PAPER),
        "plan_scorecam_passes": MAP_PASSES["scorecam"].forward,
        "plan_smoothgrad_gradients": MAP_PASSES["smoothgrad"].gradient,
        "plan_methods": len(PAPER.methods),
        "plan_segmenters": PAPER.segmenters,
        "plan_repeats": PAPER.repeats,
    }
    for name, workload in {"paper": PAPER, "osv5m": OSV5M}.items():
        table = plan(workload, costs, gpu_speedup)
        evaluation = table.drop("training")
        found |= {
            f"plan_{name}_training_images": workload.training_images,
            f"plan_{name}_epochs": workload.epochs,
            f"plan_{name}_images": workload.images,
            f"plan_{name}_gigabytes": evaluation["bytes"].sum() / 1e9,
            f"plan_{name}_evaluation_hours": evaluation["hours"].sum(),
            f"plan_{name}_evaluation_gpu_hours": evaluation["gpu_hours"].sum(),
        }
        for column in ("passes", "hours", "gpu_hours"):
            for part, value in table[column].dropna().items():
                found[f"plan_{name}_{part}_{column}"] = value
    return found


def measure(
    dataset: GeoDataset, image_size: int, segmenters: Iterable[segmentation.Segmenter]
) -> Costs:
    """Costs of one image at the paper's settings, on the processor of this machine.

    An untrained network is timed, and the slowest of the segmenters that read nothing but the
    image. Bytes are those that the cache keeps of the first images of ``dataset``, explained at
    ``image_size``, in proportion to the pixels: exact for maps, an upper bound for outlines.
    """
    classifier = model.load(ARCH, weights="random", classes=("a", "b"), image_size=IMAGE_SIZE)
    shard = shards.Shard(dataset.subset(range(min(FEW, len(dataset)))), IMAGE_SIZE, "")
    image = shards.to_uint8(shard.batch[:1])[0]
    timed = {
        segment.name: seconds(partial(segment, image), rounds=1)
        for segment in segmenters
        if segment.uses <= {"image", "size"}
    }
    if not timed:
        raise ValueError("segmenters holds none that reads nothing but the image; add one")
    slowest = max(timed, key=lambda name: timed[name])
    pixels = (IMAGE_SIZE / image_size) ** 2
    stages = {"map": "maps", "segments": "segments", "outcomes": "outcomes"}
    stored = {
        f"{name}_bytes": pixels * stored_bytes(stage, dataset, image_size)
        for name, stage in stages.items()
    }
    times = network_seconds(classifier)
    return Costs(**times, **stored, segmentation=timed[slowest], segmenter=slowest)


def network_seconds(classifier: model.Classifier) -> dict[str, float]:
    """Seconds per image of each kind of pass, decoding and augmentation left out."""
    size = classifier.image_size
    network = classifier.to(memory_format=torch.channels_last)
    images = torch.zeros(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(BATCH, dtype=torch.long)
    optimizer = torch.optim.AdamW(network.parameters())

    def loss() -> torch.Tensor:
        with inference_precision("cpu"):
            return F.cross_entropy(network(images).float(), labels)

    def forward() -> None:
        with torch.inference_mode(), inference_precision("cpu"):
            network(images)

    def gradient() -> None:
        loss().backward()

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    found = {"forward": seconds(forward)}
    network.train()
    found["step"] = seconds(step)
    network.eval().requires_grad_(False)
    images.requires_grad_()
    found["gradient"] = seconds(gradient)
    return {name: total / BATCH for name, total in found.items()}


def seconds(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the fastest of a few rounds, after one that warms up."""
    run()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes of the tensors that a call holds at once at its peak, beyond those before."""
    # The profiler would say on every use that it starts and stops, and that there is no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    return max(accumulate(change for _, change in changes), default=0)


def stored_bytes(stage: str, dataset: GeoDataset, image_size: int) -> float:
    """Mean bytes per image that the cache keeps of a stage ("maps", "segments", "outcomes").

    Of the images as they were explained at ``image_size``; a ValueError if there are none.
    """
    # JSON knows no tuples: what a manifest holds is compared with what it would hold.
    wanted = json.loads(json.dumps(dataset.identity["images"]))
    n_images, size = 0, 0
    for manifest in (cache_root() / stage).glob(f"*/*/{cache.MANIFEST}"):
        shard = json.loads(manifest.read_text())["params"]["images"]
        found = shard["dataset"]["images"]
        if shard["image_size"] == image_size and all(image in wanted for image in found):
            n_images += len(found)
            size += sum(path.stat().st_size for path in manifest.parent.iterdir())
    if not n_images:
        raise ValueError(
            f"the cache holds no {stage} of the {len(wanted)} images of dataset "
            f"{dataset.name!r} at {image_size} px; evaluate them first"
        )
    return size / n_images
