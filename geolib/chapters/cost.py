"""What a run of a given size takes: passes through the network are counted, and multiplied by the
seconds of one on this machine. Hours on a GPU are these hours divided by an assumed factor: an
extrapolation, not a measurement."""

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
# Feature maps of that network's last block, by each of which Score-CAM masks the image, and noisy
# copies per SmoothGrad map.
CHANNELS, SAMPLES = 2048, 50
# How many times faster than this machine's processor one GPU is taken to be.
GPU_SPEEDUP = 100.0
# Images of a batch, and batches, that are timed; images among which a readable one is looked for.
BATCH, ROUNDS, FEW = 4, 2, 4


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

# Passes of one image per attribution map: forward alone, and with the input's gradient. Grad-CAM's
# backward pass ends at the last block and is not counted; SmoothGrad and Score-CAM first ask for
# the predicted class. A silent channel costs Score-CAM nothing: its number is an upper bound.
MAP_PASSES = {
    "gradcam": (1, 0),
    "gradcam++": (1, 0),
    "smoothgrad": (1, SAMPLES),
    "scorecam": (1 + CHANNELS, 0),
}


@dataclass(frozen=True)
class Costs:
    """What one image costs: seconds of each kind of work, and bytes that are kept: of one map, of
    one segmenter's segments, and of one pair's outcomes."""

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
    """Passes, hours here, hours at the assumed ``gpu_speedup`` (> 0) and bytes of a run by part. A
    segmentation counts as one pass; it is timed without a network and has no hours on a GPU."""
    if not gpu_speedup > 0:
        raise ValueError(f"gpu_speedup={gpu_speedup}; expected a factor above 0")
    if unknown := [method for method in workload.methods if method not in MAP_PASSES]:
        raise ValueError(f"methods holds {unknown}; known: {', '.join(MAP_PASSES)}")
    n, n_methods = workload.images, len(workload.methods)
    pairs = n_methods * workload.segmenters
    passes = [MAP_PASSES[method] for method in workload.methods]
    forward, gradient = (n * sum(kind) for kind in zip(*passes, strict=True))
    mapped = forward * costs.forward + gradient * costs.gradient
    steps, segmented = workload.training_images * workload.epochs, n * workload.segmenters
    ablated = n * pairs * ablation_passes(workload)
    per_segmentation = costs.segmentation, costs.segments_bytes
    rows = {
        "training": (steps, costs.step * steps, 0),
        "maps": (forward + gradient, mapped, costs.map_bytes * n * n_methods),
        "segmentation": (segmented, *(each * segmented for each in per_segmentation)),
        "ablation": (ablated, costs.forward * ablated, costs.outcomes_bytes * n * pairs),
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["passes", "seconds", "bytes"])
    hours = table.pop("seconds") / 3600
    return table.assign(hours=hours, gpu_hours=(hours / gpu_speedup).drop("segmentation"))


def summary(costs: Costs, gpu_speedup: float = GPU_SPEEDUP) -> dict[str, float | str]:
    """Numbers of the page on planning, by name: costs, and both runs part by part."""
    found: dict[str, float | str] = {
        "arch": ARCH,
        "segmenter": costs.segmenter,
        "gpu_speedup": gpu_speedup,
        "image_size": IMAGE_SIZE,
        "ablation_passes": ablation_passes(PAPER),
        "scorecam_passes": MAP_PASSES["scorecam"][0],
        "smoothgrad_gradients": SAMPLES,
        "methods": len(PAPER.methods),
        "segmenters": PAPER.segmenters,
        "repeats": PAPER.repeats,
    }
    for name in ("forward", "gradient", "step", "segmentation"):
        found[f"{name}_ms"] = 1e3 * getattr(costs, name)
    for name in ("map", "segments", "outcomes"):
        found[f"{name}_kb"] = getattr(costs, f"{name}_bytes") / 1e3
    for name, workload in {"paper": PAPER, "osv5m": OSV5M}.items():
        table = plan(workload, costs, gpu_speedup)
        for size in ("training_images", "epochs", "images"):
            found[f"{name}_{size}"] = getattr(workload, size)
        found[f"{name}_gigabytes"] = table["bytes"].sum() / 1e9
        for column in ("passes", "hours", "gpu_hours"):
            for part, value in table[column].dropna().items():
                found[f"{name}_{part}_{column}"] = value
    return {f"plan_{name}": value for name, value in found.items()}


def measure(
    dataset: GeoDataset, image_size: int, segmenters: Iterable[segmentation.Segmenter]
) -> Costs:
    """Costs of one image at the paper's settings on this processor: of an untrained network and of
    the slowest segmenter that reads nothing but the image. Bytes are those of ``dataset`` in the
    cache, explained at ``image_size``, in proportion to the pixels."""
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
    stored = {
        f"{name}_bytes": pixels * stored_bytes(stage, dataset, image_size)
        for name, stage in (("map", "maps"), ("segments", "segments"), ("outcomes", "outcomes"))
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

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    found = {"forward": seconds(forward)}
    network.train()
    found["step"] = seconds(step)
    network.eval().requires_grad_(False)
    images.requires_grad_()
    found["gradient"] = seconds(lambda: loss().backward())
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
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    return max(accumulate(change for _, change in changes), default=0)


def stored_bytes(stage: str, dataset: GeoDataset, image_size: int) -> float:
    """Mean bytes per image that the cache keeps of a stage ("maps", "segments", "outcomes"), of the
    images as they were explained at ``image_size``; a ValueError if there are none."""
    # JSON knows no tuples: what a manifest holds is compared with what it would hold.
    wanted = json.loads(json.dumps(dataset.identity["images"]))
    n_images, size = 0, 0
    for manifest in (cache_root() / stage).glob(f"*/*/{cache.MANIFEST}"):
        shard = json.loads(manifest.read_text(encoding="utf-8"))["params"]["images"]
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
