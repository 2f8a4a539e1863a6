"""Class activation maps: feature maps weighted by what they do for the class."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from geolib.attribution.passes import (
    Output,
    feature_maps,
    gradients,
    layer_of,
    resolve,
    scores_of,
    upsample,
)


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
        layers = layer_of(classifier, target_layer)
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
