"""What the attribution methods share: scores, targets, and maps at the images' size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Output = Literal["logit", "probability"]


def targets_or_predictions(classifier: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """The targets, checked against the classifier's outputs, or its predictions."""
    with torch.no_grad():
        return resolve(targets, scores_of(classifier(images), "logit"))


def scores_of(logits: Tensor, output: Output) -> Tensor:
    """Logits ``[B, N]`` as the quantity to attribute."""
    if not logits.isfinite().all():
        raise ValueError(
            "classifier gave NaN or infinite logits: check its weights for such values"
        )
    if output == "logit":
        return logits.float()
    if output == "probability":
        return logits.float().softmax(dim=1)
    raise ValueError(f"output must be 'logit' or 'probability', got {output!r}")


def resolve(targets: Tensor | None, scores: Tensor) -> Tensor:
    """The targets, or the predicted class."""
    if targets is None:
        return scores.argmax(dim=1)
    if targets.max() >= scores.shape[1]:
        raise ValueError(
            f"targets must lie in 0...{scores.shape[1] - 1} for a classifier of "
            f"{scores.shape[1]} classes, got {int(targets.max())}"
        )
    return targets


def colour(rgb: Sequence[float], images: Tensor) -> Tensor:
    """A colour as an image of one pixel, ``[1, 3, 1, 1]``."""
    return torch.tensor(rgb, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)


def upsample(maps: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """``[B, h, w]`` to ``[B, H, W]``, bilinear between pixel centres (or aligned corners)."""
    return F.interpolate(
        maps[:, None], size=tuple(size), mode="bilinear", align_corners=align_corners
    )[:, 0]


def min_max(maps: Tensor) -> Tensor:
    """Each map of ``[B, H, W]`` scaled to 0...1; a map that varies by rounding only is zero."""
    flat = maps.flatten(1)
    low, high = flat.aminmax(dim=1, keepdim=True)
    span = high - low
    rounding = 8 * torch.finfo(maps.dtype).eps * torch.maximum(low.abs(), high.abs())
    scaled = (flat - low) / span
    return scaled.where(span > rounding, 0).view_as(maps)
