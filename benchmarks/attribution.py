"""Speed of the attribution methods against the bare passes each of them implies.

    python benchmarks/attribution.py [--arch resnet18] [--size 160] [--images 8] [--precision auto]

A ratio of 1.00 means that a method costs what its forward (Score-CAM, CAMs) or forward and
backward passes (SmoothGrad, Integrated Gradients) cost alone, at the same batch size and
precision. Score-CAM is held against every channel of the layer, so that skipping the constant
ones shows as a ratio below 1. Weights are random and images are noise over a gradient: the time
depends on neither, but for the number of constant channels, which is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from geolib.attribution import FLOAT32_METHODS, METHODS, attribute
from geolib.model.device import uses_bf16

TARGET_LAYERS = {
    "resnet18": "layer4.1",
    "resnet50": "layer4.2",
    "mobilenet_v2": "features.18",
    "convnext_tiny": "features.7.2",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=TARGET_LAYERS, default="resnet18")
    parser.add_argument("--size", type=int, default=160, help="pixels")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=25, help="of SmoothGrad")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = torchvision.models.get_model(arguments.arch, weights=None, num_classes=3).eval()
    model.requires_grad_(False)
    layer = model.get_submodule(TARGET_LAYERS[arguments.arch])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    images = example_images(arguments.images, arguments.size)
    n_channels, n_constant = channels(model, layer, images[:1].to(device))
    print(
        f"{arguments.arch}, {len(images)} images of {arguments.size} px, {device.type}, "
        f"{torch.get_num_threads()} threads, precision {arguments.precision}; "
        f"{n_constant} of {n_channels} channels constant"
    )

    def bare(n_images: int, backward: bool, bf16: bool) -> float:
        """Seconds per image of the passes alone, at the method's batch size."""
        batch = example_images(n_images, arguments.size).to(device)
        batch = batch.contiguous(memory_format=torch.channels_last).requires_grad_(backward)

        def run() -> None:
            with (
                torch.set_grad_enabled(backward),
                torch.autocast(device.type, torch.bfloat16, enabled=bf16),
            ):
                logits = model(batch)
            if backward:
                torch.autograd.grad(logits[:, 0].sum(), batch)

        return seconds(run) / n_images

    together = min(len(images), arguments.batch_size)
    # Per image: passes, whether backward too, images that go through together.
    passes = {
        "gradcam": (1, False, together),
        "gradcam++": (1, False, together),
        "layercam": (1, False, together),
        "scorecam": (n_channels, False, arguments.batch_size),
        "combicam": (1, True, together),
        "smoothgrad": (arguments.samples, True, arguments.batch_size),
        "integrated_gradients": (32, True, arguments.batch_size),
        "rise": (300, False, arguments.batch_size),
    }
    print(f"{'method':<22}{'images/s':>10}{'passes':>9}{'of bare time':>14}")
    for method in arguments.methods:
        options: dict[str, Any] = {"n_samples": arguments.samples} if method == "smoothgrad" else {}
        if method in ("gradcam", "gradcam++", "layercam", "scorecam"):
            options["target_layer"] = layer

        def run(method: str = method, options: dict[str, Any] = options) -> Tensor:
            return attribute(
                model,
                images,
                method,
                precision=arguments.precision,
                batch_size=arguments.batch_size,
                **options,
            )

        per_image = seconds(run) / len(images)
        row = f"{method:<22}{1 / per_image:>10.2f}"
        if method in passes:
            count, backward, n_images = passes[method]
            bf16 = uses_bf16(device, arguments.precision)
            if arguments.precision == "auto" and method in FLOAT32_METHODS:
                bf16 = False
            row += f"{count:>9}{per_image / (count * bare(n_images, backward, bf16)):>14.2f}"
        print(row, flush=True)


def example_images(n_images: int, size: int) -> Tensor:
    """Smooth gradients with noise, 0...1, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(n_images, 3, 2, 2, generator=generator)
    smooth = nn.functional.interpolate(corners, size=(size, size), mode="bilinear")
    noise = 0.1 * torch.randn(smooth.shape, generator=generator)
    return (smooth + noise).clamp(0, 1)


def channels(model: nn.Module, layer: nn.Module, image: Tensor) -> tuple[int, int]:
    """Number of channels of the target layer, and how many are constant over this image."""
    found: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *call: found.append(call[2]))
    with torch.no_grad():
        model(image)
    handle.remove()
    flat = found[0][0].flatten(1)
    return len(flat), int((flat.amin(1) == flat.amax(1)).sum())


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of a few runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
