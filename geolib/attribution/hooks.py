"""Feature maps of a classifier's layers, and their gradients, from one pass each way."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def feature_maps(
    classifier: nn.Module, images: Tensor, layers: Mapping[str, nn.Module]
) -> tuple[dict[str, Tensor], Tensor]:
    """What some layers put out, float32 ``[B, K, h, w]``, and the logits, in one forward pass.

    Where gradients are on, the logits depend on the maps through the graph; the passage to what
    comes before the first of them is cut. Names stand for the layers in error messages.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, _inputs: object, output: object) -> Tensor:
            if not isinstance(output, Tensor) or output.ndim != 4:
                shape = tuple(getattr(output, "shape", ()))
                raise ValueError(
                    f"{name} puts out {type(output).__name__} {shape}; "
                    "expected a feature map [B, K, h, w]"
                )
            maps = output.float()
            if torch.is_grad_enabled() and not maps.requires_grad:
                maps = maps.detach().requires_grad_()
            seen[name].append(maps)
            # What follows may work in place (ReLU): it gets a copy.
            return maps.to(output.dtype, copy=True)

        return layer.register_forward_hook(hook)

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        logits = classifier(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, found in seen.items():
        if len(found) != 1:
            raise ValueError(
                f"{name} ran {len(found)} times in one forward pass; "
                "expected a module of the classifier that runs once"
            )
    return {name: found[0] for name, found in seen.items()}, logits


def gradients(score: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Derivatives of a score by feature maps, in one backward pass."""
    found: tuple[Tensor | None, ...] = (None,) * len(maps)
    if score.requires_grad:
        found = torch.autograd.grad(score, list(maps.values()), allow_unused=True)
    by_name = {}
    for name, gradient in zip(maps, found, strict=True):
        if gradient is None:
            raise ValueError(f"{name} does not lead to the logits")
        by_name[name] = gradient
    return by_name


def module_named(classifier: nn.Module, name: str, option: str) -> nn.Module:
    """The classifier's module of that name, asked for by an option."""
    try:
        return classifier.get_submodule(name)
    except AttributeError as error:
        names = [known for known, _ in classifier.named_modules() if known]
        close = difflib.get_close_matches(name, names) or names[:10]
        raise ValueError(
            f"{option} {name!r} is no module of the classifier; close: {', '.join(close)}"
        ) from error
