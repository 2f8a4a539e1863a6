"""Class activation maps of one layer: its feature maps, weighted by what they do for the class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from geolib.attribution import passes
from geolib.attribution.passes import Output


def _gradient_cam(weights: Callable[[Tensor, Tensor], Tensor], about: str) -> Callable[..., Tensor]:
    """ReLU of the maps times weights of maps and slopes; one forward, a partial backward pass."""

    def cam(
        classifier: nn.Module,
        images: Tensor,
        targets: Tensor | None,
        *,
        target_layer: nn.Module | str | None = None,
        output: Output = "logit",
        nearest: bool = False,
    ) -> Tensor:
        if weights is _equation_19 and output != "logit":
            raise ValueError(
                f"output={output!r}: equation 19 of Grad-CAM++ holds for the exponential of the "
                "logit alone; give output='logit', or use gradcam or layercam"
            )
        layer = passes.layer_of(classifier, target_layer)
        maps, logits = passes.feature_maps(classifier, images, layer)
        scores = passes.target_scores(logits, passes.resolve(targets, logits), output)
        (slopes,) = passes.gradients(scores.sum(), maps).values()
        # In float64: the weights of Grad-CAM++ lose digits that move the salient fifth.
        slopes = slopes.cpu().double()
        (activations,) = (found.detach().cpu().double() for found in maps.values())
        weighted = (weights(activations, slopes) * activations).sum(dim=1)
        return passes.upsample(weighted.relu().float(), images.shape[-2:], nearest=nearest)

    cam.__doc__ = f"""{about}

    ``target_layer``, a module or its name, overrides ``classifier.target_layer``; ``output`` is
    what is differentiated, "logit" or "probability" (for Grad-CAM++ the logit alone: its equation
    rests on the derivatives of the logit's exponential). ``nearest`` up-samples without smoothing.
    """
    return cam


def _equation_19(activations: Tensor, slopes: Tensor) -> Tensor:
    # Both sides of the fraction divided by the squared slope, which makes an epsilon needless.
    share = 1 / (2 + activations.sum(dim=(2, 3), keepdim=True) * slopes)
    share = share.where((slopes > 0) & share.isfinite(), 0)
    return (share * slopes).sum(dim=(2, 3), keepdim=True)


gradcam = _gradient_cam(
    lambda _, slopes: slopes.mean(dim=(2, 3), keepdim=True),
    "Grad-CAM: channels weighted by their mean gradient (Selvaraju et al., ICCV 2017, eq. 1-2).",
)
gradcam_plusplus = _gradient_cam(
    _equation_19,
    "Grad-CAM++: pixel-wise gradient weights (Chattopadhay et al., WACV 2018, eq. 19).",
)
layercam = _gradient_cam(
    lambda _, slopes: slopes.relu(),
    "LayerCAM: each position weighted by its own positive gradient (Jiang et al., TIP 2021).",
)


@torch.no_grad()
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
    if n_channels is not None and n_channels < 1:
        raise ValueError(f"n_channels must be at least 1 (None: all), got {n_channels}")
    layer = passes.layer_of(classifier, target_layer)
    maps, logits = passes.feature_maps(classifier, images, layer)
    (activations,) = maps.values()
    targets = passes.resolve(targets, logits)
    spread = activations.amax((2, 3)) - activations.amin((2, 3))
    best = spread.argsort(dim=1, descending=True, stable=True)[:, :n_channels]
    kept = torch.zeros_like(spread, dtype=torch.bool).scatter(1, best, True)

    size, mean = images.shape[-2:], passes.neutral_colour(classifier, images)
    empty = passes.scores_of(classifier(mean.expand(1, 3, *size)), output)[0, targets]
    weights, contrast = empty[:, None].repeat(1, spread.shape[1]), images - mean
    for pairs in ((spread > 0) & kept).nonzero().split(batch_size):
        image, channel = pairs.unbind(dim=1)
        masks = passes.min_max(passes.upsample(activations[image, channel], size))
        masked = torch.addcmul(mean, masks[:, None], contrast[image])
        masked = masked.contiguous(memory_format=torch.channels_last)
        weights[image, channel] = passes.target_scores(classifier(masked), targets[image], output)
    weights = weights.masked_fill(~kept, -torch.inf).softmax(dim=1)
    return passes.upsample(torch.einsum("bk,bkhw->bhw", weights, activations).relu(), size)
