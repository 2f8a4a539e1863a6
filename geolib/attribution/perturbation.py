"""Score-CAM: feature maps weighted by the score of what they let through."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geolib.attribution.passes import (
    Output,
    colour,
    feature_maps,
    layer_of,
    min_max,
    resolve,
    scores_of,
    upsample,
)
from geolib.model.classifier import IMAGENET_MEAN


def scorecam(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    target_layer: nn.Module | str | None = None,
    output: Output = "logit",
    n_channels: int | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Score-CAM: channels weighted by the score of what they show (Wang et al., CVPRW 2020).

    Channel k, up-sampled and min-max scaled, is a mask m; the classifier sees
    ``m * x + (1 - m) * mean``, which is ``m`` times the input in normalised space, and the
    weights are the softmax over the channels of the target's score. (The softmax cancels the
    paper's baseline, one number for all channels.) Constant channels have an empty mask and share
    one score. ``n_channels`` keeps the channels with the largest range (all by default);
    ``target_layer`` and ``output`` are those of the other CAMs.
    """
    with torch.no_grad():
        maps, scores = feature_maps(classifier, images, layer_of(classifier, target_layer))
        (activations,) = maps.values()
        targets = resolve(targets, scores)
        size = images.shape[-2:]
        low, high = activations.aminmax(dim=3)
        spread = high.amax(dim=2) - low.amin(dim=2)
        kept = torch.ones_like(spread, dtype=torch.bool)
        if n_channels is not None:
            if n_channels < 1:
                raise ValueError(f"n_channels must be at least 1 (None: all), got {n_channels}")
            best = spread.argsort(dim=1, descending=True, stable=True)[:, :n_channels]
            kept = torch.zeros_like(kept).scatter(1, best, True)

        # The colour that the classifier normalises to zero.
        mean = getattr(classifier, "mean", colour(IMAGENET_MEAN, images))
        empty = scores_of(classifier(mean.expand(1, 3, *size)), output)[0]
        weights = empty[targets][:, None].repeat(1, spread.shape[1])
        contrast = images - mean
        for pairs in ((spread > 0) & kept).nonzero().split(batch_size):
            image, channel = pairs.unbind(dim=1)
            masks = min_max(upsample(activations[image, channel], size))
            masked = torch.addcmul(mean, masks[:, None], contrast[image])
            masked = masked.contiguous(memory_format=torch.channels_last)
            masked_scores = scores_of(classifier(masked), output)
            weights[image, channel] = masked_scores.gather(1, targets[image][:, None])[:, 0]
        weights = weights.masked_fill(~kept, -torch.inf).softmax(dim=1)
        return upsample(torch.einsum("bk,bkhw->bhw", weights, activations).relu(), size)
