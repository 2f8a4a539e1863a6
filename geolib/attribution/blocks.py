"""Combi-CAM: the class activation maps of every block, added up (arXiv 2603.24117)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geolib.attribution import passes

# What torchvision and timm call the blocks of ResNets, MobileNets, EfficientNets and ConvNeXts.
BLOCKS = {"BasicBlock", "Bottleneck", "InvertedResidual", "MBConv", "FusedMBConv", "EdgeResidual"}
BLOCKS |= {"DepthwiseSeparableConv", "ConvBnAct", "CNBlock", "ConvNeXtBlock"}
BLOCKS |= {"UniversalInvertedResidual", "MobileAttention"}
Layers = Sequence[str] | None


def combicam(
    classifier: nn.Module, images: Tensor, targets: Tensor | None, *, layers: Layers = None
) -> Tensor:
    """Combi-CAM: the Grad-CAMs of all blocks, added without any scaling (arXiv 2603.24117).

    Of every block ``ReLU(Σ_k mean_ij(∂y/∂A_k) A_k)`` with y the softmax probability of the class,
    up-sampled with aligned corners; :func:`combicam_layers` gives them apart. Blocks are those of
    ResNets, MobileNets, EfficientNets and ConvNeXts, of torchvision or timm, without the stem, or
    the modules that ``layers`` names.
    """
    return block_maps(classifier, images, targets, layers=layers).sum(dim=1)


def block_maps(
    classifier: nn.Module, images: Tensor, targets: Tensor | None, *, layers: Layers
) -> Tensor:
    """What each of N blocks adds to Combi-CAM, ``[B, N, H, W]``; not negative."""
    maps, logits = passes.feature_maps(classifier, images, block_modules(classifier, layers))
    scores = passes.scores_of(logits, "logit")
    if scores.shape[1] < 2:
        raise ValueError("combicam needs two classes or more: the probability of one is constant")
    target = passes.resolve(targets, scores)[:, None]
    others = scores.scatter(1, target, -torch.inf).logsumexp(dim=1)
    odds = scores.gather(1, target)[:, 0] - others
    # dy = p (1 - p) d(log-odds): the same derivative, and no loss of digits where p is almost 1.
    slope = odds.detach().sigmoid() * (-odds.detach()).sigmoid()
    slopes = passes.gradients(odds.sum(), maps)
    found = []
    for name, activations in maps.items():
        weights = slopes[name].mean(dim=(2, 3), keepdim=True) * slope[:, None, None, None]
        coarse = (weights * activations.detach()).sum(dim=1).relu()
        found.append(passes.upsample(coarse, images.shape[-2:], align_corners=True))
    return torch.stack(found, dim=1)


def block_modules(classifier: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """The network's blocks by name, or the modules that ``layers`` names."""
    if isinstance(layers, str):
        raise TypeError(f"layers must be a sequence of names, got the string {layers!r}")
    if layers is not None:
        if not layers:
            raise ValueError("layers is empty; name at least one module, or None for every block")
        return {name: passes.module_named(classifier, name, "layers") for name in layers}
    modules = {name: module for name, module in classifier.named_modules() if name}
    blocks = {name: block for name, block in modules.items() if type(block).__name__ in BLOCKS}
    known = {part for block in blocks.values() for part in block.modules()}
    weights = [part for part in modules.values() if isinstance(part, (nn.Conv2d, nn.Linear))]
    if not blocks or sum(part in known for part in weights) < len(weights) / 2:
        inner = getattr(classifier, "network", classifier)
        raise ValueError(
            f"combicam knows no blocks of {type(inner).__name__}, or few of them: use smoothgrad "
            "or integrated_gradients, or name the layers whose maps are to be added, layers=[...]; "
            f"its modules begin with {', '.join([*modules][:10])}"
        )
    return blocks
