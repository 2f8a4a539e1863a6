"""Class activation maps: feature maps weighted by what they do for the class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from geolib.attribution.hooks import feature_maps, gradients, module_named
from geolib.attribution.shared import Output, colour, min_max, resolve, scores_of, upsample
from geolib.model.classifier import IMAGENET_MEAN


def _mean_slope(_activations: Tensor, slopes: Tensor) -> Tensor:
    return slopes.mean(dim=(2, 3), keepdim=True)


def _plusplus(activations: Tensor, slopes: Tensor) -> Tensor:
    # Equation 19 with both sides divided by the squared slope, which makes an epsilon needless.
    share = 1 / (2 + activations.sum(dim=(2, 3), keepdim=True) * slopes)
    share = share.where((slopes > 0) & share.isfinite(), 0)
    return (share * slopes).sum(dim=(2, 3), keepdim=True)


def _positive_slope(_activations: Tensor, slopes: Tensor) -> Tensor:
    return slopes.relu()


def _method(weights: Callable[[Tensor, Tensor], Tensor], about: str) -> Callable[..., Tensor]:
    """ReLU of weighted feature maps, from one forward pass and a partial backward."""

    def cam(
        classifier: nn.Module,
        images: Tensor,
        targets: Tensor | None,
        *,
        target_layer: nn.Module | str | None = None,
        output: Output = "logit",
    ) -> Tensor:
        layers = _target_layer(classifier, target_layer)
        maps, logits = feature_maps(classifier, images, layers)
        scores = scores_of(logits, output)
        selected = scores.gather(1, resolve(targets, scores)[:, None]).sum()
        (slopes,) = gradients(selected, maps).values()
        # In float64: the weights of Grad-CAM++ lose digits that move the salient fifth.
        slopes = slopes.cpu().double()
        (activations,) = (found.detach().cpu().double() for found in maps.values())
        weighted = (weights(activations, slopes) * activations).sum(dim=1)
        return upsample(weighted.relu().float(), images.shape[-2:])

    cam.__doc__ = f"""{about}

    ``target_layer``, a module or its name, overrides ``classifier.target_layer``; ``output`` is
    what is differentiated: "logit" or "probability".
    """
    return cam


gradcam = _method(
    _mean_slope,
    "Grad-CAM: channels weighted by their mean gradient (Selvaraju et al., ICCV 2017, eq. 1-2).",
)
gradcam_plusplus = _method(
    _plusplus,
    "Grad-CAM++: pixel-wise gradient weights (Chattopadhay et al., WACV 2018, eq. 19).",
)
layercam = _method(
    _positive_slope,
    "LayerCAM: each position weighted by its own positive gradient (Jiang et al., TIP 2021).",
)


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
    weights are the softmax over the channels of the target's score. The paper scores the increase
    over a baseline input (its "CIC"): one number for all channels, which the softmax cancels.

    A constant channel, such as one that its ReLU silences, has an empty mask. All of them share
    one score, computed once.

    ``target_layer``, a module or its name, overrides ``classifier.target_layer``; ``output`` is
    the score: "logit" or "probability"; ``n_channels`` keeps only the channels with the largest
    range (all by default).
    """
    with torch.no_grad():
        maps, scores = feature_maps(classifier, images, _target_layer(classifier, target_layer))
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


def _target_layer(classifier: nn.Module, override: nn.Module | str | None) -> dict[str, nn.Module]:
    """The layer whose maps are weighted, under the name that error messages give it."""
    layer = getattr(classifier, "target_layer", None) if override is None else override
    if isinstance(layer, str):
        layer = module_named(classifier, layer, "target_layer")
    if not isinstance(layer, nn.Module):
        raise TypeError(
            f"target_layer must be a module or its name, got {type(layer).__name__}: set the "
            "classifier's attribute target_layer, or pass target_layer="
        )
    return {f"target_layer {type(layer).__name__}": layer}
