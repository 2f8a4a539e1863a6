"""The layer of a network whose map class activation maps weight, where there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import log

import torch
from torch import Tensor, nn

# Last block of the last stage, by kind of network and name of its stages; negative numbers count
# from the end. Of other networks it is the last module that puts out a map.
TARGET_LAYERS = {
    ("ResNet", "layer4"): "layer4.-1",
    ("MobileNetV2", "features"): "features.-1",
    ("MobileNetV3", "features"): "features.-1",
    ("SqueezeNet", "features"): "features.-1",
    ("ConvNeXt", "features"): "features.-1.-1",
    ("ConvNeXt", "stages"): "stages.-1.blocks.-1",
    ("EfficientNet", "features"): "features.-2.-1",
    ("EfficientNet", "blocks"): "blocks.-1.-1",
}


def find_target_layer(network: nn.Module, image_size: int) -> str | None:
    """Name of the layer that class activation maps look at: the last stage's last block.

    None where the last stage puts out no map ``[B,K,h,w]``, but tokens or windows, say.
    """
    for (kind, stages), path in TARGET_LAYERS.items():
        if type(network).__name__ == kind and hasattr(network, stages):
            found: list[str] = []
            for part in path.split("."):
                children = dict(network.get_submodule(".".join(found)).named_children())
                found.append([*children][int(part)] if part.startswith("-") else part)
            return ".".join(found)
    return _last_map(network, (image_size, image_size))


def _last_map(network: nn.Module, size: tuple[int, int]) -> str | None:
    """Name of the last module that runs once and puts out a map with more than one position.

    After it, nothing with weights may put out anything that still has places, nor look for
    neighbours where one place is left; heads that pool and normalisations are no stage.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    pooling, attention = _inside(network, "Pool"), _inside(network, "Att")
    events: list[tuple[str, bool, bool]] = []

    def note(name: str, output: Tensor) -> None:
        module, places = modules[name], output.shape[1:]
        square = len(places) == 3 and places[1] == places[2] > 1 and _is_map(output, size)
        stage = any(True for _ in module.parameters(recurse=False)) and module not in pooling
        padded = isinstance(module, nn.Conv2d) and any(module.padding)
        stage &= "Norm" not in type(module).__name__
        stage &= padded or sum(side > 1 for side in places) > 1
        events.append((name, square and module not in pooling | attention, stage))

    training = network.training
    _probe(network.eval(), modules, size, note)
    network.train(training)
    runs = Counter(name for name, *_ in events)
    found: str | None = None
    for name, is_map, stage in events:
        if is_map and runs[name] == 1:
            found = name
        elif stage:
            found = None
    return found


def puts_out_maps(
    network: nn.Module, layer: nn.Module, output: Tensor, size: Sequence[int]
) -> bool:
    """Whether a layer's output for images of this size is ``[B,K,h,w]``, and no attention.

    It is not where ``[B,h,w,K]`` has the images' proportions; where both have them, two images are
    shown that tell columns from channels. What positions have to do with each other adds up to the
    same in every row.
    """
    fit = _fit(output.shape, size)
    if layer in _inside(network, "Att"):
        rows = output.detach().double().sum(dim=3)
        spread = (rows - rows.mean(dim=2, keepdim=True)).abs().max()
        height, width = output.shape[2:]
        skewed = abs(log(height * size[1] / (width * size[0]))) > _TIE
        if skewed or spread < 1e-2 * rows.abs().max():
            return False
    if abs(fit) > _TIE:
        return fit > 0
    found: list[bool] = []
    _probe(network, {"": layer}, size, lambda _, output: found.append(_is_map(output, size)))
    return all(found)


# Factor (as a logarithm) by which proportions may differ from the images' through rounding.
_TIE = 0.2


def _fit(shape: Sequence[int], size: Sequence[int]) -> float:
    """How much nearer the proportions of ``[B,K,h,w]`` are to the image's than ``[B,h,w,K]``'s."""
    first, second, third = shape[1:]
    height, width = size
    channels_last = abs(log(first * width / (second * height)))
    return channels_last - abs(log(second * width / (third * height)))


def _is_map(output: Tensor, size: Sequence[int]) -> bool:
    """Whether the output for the images of :func:`_probe` is ``[2,K,h,w]``."""
    if output.ndim != 4 or len(output) != 2:
        return False
    fit = _fit(output.shape, size)
    if abs(fit) > _TIE:
        return fit > 0
    change = (output[0] - output[1]).abs()
    return not _lean(change, 1) > _lean(change, 2)


def _lean(change: Tensor, axis: int) -> Tensor:
    """Share of the upper half of an axis in all changes: more than 1/2 along columns alone."""
    n = change.shape[axis]
    low, high = (change.narrow(axis, start, n // 2).sum() for start in (0, n - n // 2))
    return high / (low + high)


@torch.no_grad()
def _probe(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    size: Sequence[int],
    note: Callable[[str, Tensor], None],
) -> None:
    """Show two images that differ in their right half; ``note`` gets layers' names and outputs."""

    def hook(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            note(name, output)

    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    images[1, ..., size[1] // 2 :] = 0
    images = images.to(next((p.device for p in network.parameters()), images.device))
    handles = [layer.register_forward_hook(partial(hook, name)) for name, layer in layers.items()]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()


def _inside(network: nn.Module, kind: str) -> set[nn.Module]:
    """The parts of those modules whose class has ``kind`` in its name."""
    named = [m for m in network.modules() if kind in type(m).__name__ and m is not network]
    return {part for module in named for part in module.modules() if part is not module}
