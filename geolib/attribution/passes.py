"""Passes of a classifier: scores, targets, feature maps and their gradients, maps at image size."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from geolib.model.classifier import IMAGENET_MEAN
from geolib.model.layers import puts_out_maps

Output = Literal["logit", "probability"]


def scores_of(logits: Tensor, output: Output) -> Tensor:
    """Logits ``[B, N]`` as the quantity to attribute."""
    if not logits.isfinite().all():
        raise ValueError("classifier gave NaN or infinite logits: check its weights")
    if output not in ("logit", "probability"):
        raise ValueError(f"output must be 'logit' or 'probability', got {output!r}")
    return logits.float() if output == "logit" else logits.float().softmax(dim=1)


def target_scores(logits: Tensor, targets: Tensor, output: Output) -> Tensor:
    """The quantity to attribute, ``[B]``: of each image's target."""
    return scores_of(logits, output).gather(1, targets[:, None])[:, 0]


def resolve(targets: Tensor | None, logits: Tensor) -> Tensor:
    """The targets, checked against the classifier's outputs, or the predicted classes."""
    if targets is None:
        return logits.argmax(dim=1)
    n = logits.shape[1]
    if targets.max() >= n:
        raise ValueError(
            f"targets must lie in 0...{n - 1}, one of {n} classes, got {int(targets.max())}"
        )
    return targets


@torch.no_grad()
def classes_of(classifier: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """The targets, checked against the classifier's outputs, or its predictions."""
    return resolve(targets, classifier(images))


def neutral_colour(classifier: nn.Module, images: Tensor) -> Tensor:
    """The colour that the classifier normalises to zero, by default ImageNet's: [1, 3, 1, 1]."""
    return getattr(classifier, "mean", images.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1))


def upsample(
    maps: Tensor, size: Sequence[int], *, align_corners: bool = False, nearest: bool = False
) -> Tensor:
    """``[B, h, w]`` to ``[B, H, W]``, bilinear between pixel centres (or aligned corners)."""
    how: tuple[str, bool | None] = ("nearest", None) if nearest else ("bilinear", align_corners)
    return F.interpolate(maps[:, None], tuple(size), None, *how)[:, 0]


def min_max(maps: Tensor) -> Tensor:
    """Each map of ``[B, H, W]`` scaled to 0...1; a map that varies by rounding only is zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    rounding = 8 * torch.finfo(maps.dtype).eps * torch.maximum(low.abs(), high.abs())
    return ((maps - low) / (high - low)).where(high - low > rounding, 0)


def ranks(maps: Tensor) -> Tensor:
    """Ranks of the values of each map of ``[B, H, W]``; ties share their mean rank."""
    found = rankdata(maps.flatten(1).numpy(), axis=1).astype(np.float32)
    return torch.from_numpy(found).view_as(maps)


def feature_maps(
    classifier: nn.Module, images: Tensor, layers: Mapping[str, nn.Module]
) -> tuple[dict[str, Tensor], Tensor]:
    """What some layers put out, float32 ``[B, K, h, w]``, and the logits, in one forward pass.

    Where gradients are on, the graph leads from the logits to the maps, and no further.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, _module: nn.Module, _inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != len(images):
            raise _no_map(name, output, len(images))
        maps = output.float()
        if torch.is_grad_enabled() and not maps.requires_grad:
            maps = maps.detach().requires_grad_()
        seen[name].append(maps)
        # What follows may work in place (ReLU): it gets a copy.
        return maps.to(output.dtype, copy=True)

    handles = [layer.register_forward_hook(partial(keep, name)) for name, layer in layers.items()]
    try:
        logits = classifier(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, found in seen.items():
        if len(found) != 1:
            raise ValueError(f"{name} ran {len(found)} times in one forward pass; expected one")
        if not puts_out_maps(classifier, layers[name], found[0], images.shape[-2:]):
            raise _no_map(name, found[0], len(images))
    return {name: found[0] for name, found in seen.items()}, logits


def _no_map(name: str, output: object, n_images: int) -> ValueError:
    got = f"{type(output).__name__} {tuple(getattr(output, 'shape', ()))} for {n_images} images"
    expected = "a feature map [B, K, h, w], channels first, and no attention"
    return ValueError(f"{name} puts out {got}; expected {expected}")


def gradients(score: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Derivatives of a score by feature maps, in one backward pass."""
    found: tuple[Tensor | None, ...] = (None,) * len(maps)
    if score.requires_grad:
        found = torch.autograd.grad(score, list(maps.values()), allow_unused=True)
    by_name = {name: slope for name, slope in zip(maps, found, strict=True) if slope is not None}
    if missing := maps.keys() - by_name.keys():
        raise ValueError(f"{', '.join(sorted(missing))} does not lead to the logits")
    return by_name


def module_named(classifier: nn.Module, name: str, option: str) -> nn.Module:
    """The classifier's module of that name, asked for by an option."""
    try:
        return classifier.get_submodule(name)
    except AttributeError as error:
        names = [known for known, _ in classifier.named_modules() if known]
        close = ", ".join(difflib.get_close_matches(name, names, cutoff=0))
        raise ValueError(f"{option} {name!r} is no module of the classifier: {close}") from error


def layer_of(classifier: nn.Module, override: nn.Module | str | None) -> dict[str, nn.Module]:
    """The layer whose maps are weighted, under the name that error messages give it."""
    layer = getattr(classifier, "target_layer", None) if override is None else override
    if isinstance(layer, str):
        layer = module_named(classifier, layer, "target_layer")
    if not isinstance(layer, nn.Module):
        got = type(layer).__name__
        raise TypeError(f"target_layer={got}: give a module or its name, here or on the classifier")
    return {f"target_layer {type(layer).__name__}": layer}
