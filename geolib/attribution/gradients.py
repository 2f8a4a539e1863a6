"""Input gradients: SmoothGrad and Integrated Gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geolib.attribution.passes import Output, colour, scores_of, targets_or_predictions
from geolib.model.classifier import IMAGENET_MEAN


def smoothgrad(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    sigma: float = 0.15,
    n_samples: int = 50,
    squared: bool = False,
    seed: int = 0,
    output: Output = "logit",
    batch_size: int = 32,
) -> Tensor:
    """SmoothGrad: the input gradient averaged over noisy copies (arXiv 1706.03825, §2).

    The map is the average's absolute value, the largest over the colour channels; with
    ``squared``, squares are averaged (SmoothGrad², arXiv 1806.10758). ``sigma`` is the noise's
    standard deviation on the scale 0...1; one noise sequence, fixed by ``seed``, serves all images.
    ``output``, "logit" or "probability", is what is differentiated.
    """
    from captum.attr import Saliency  # it takes a second, and most notebooks find maps kept

    _check_noise(sigma, n_samples)
    targets = targets_or_predictions(classifier, images, targets)
    saliency = Saliency(lambda inputs: scores_of(classifier(inputs), output))
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(images)
    together = max(1, batch_size // len(images))
    for start in range(0, n_samples, together):
        # One draw per sample, so that the sequence does not depend on how many go together.
        draws = range(start, min(start + together, n_samples))
        noise = torch.stack([torch.randn(images.shape[1:], generator=generator) for _ in draws])
        noisy = (images + sigma * noise[:, None].to(images.device)).flatten(0, 1)
        noisy = noisy.contiguous(memory_format=torch.channels_last).requires_grad_()
        gradients = saliency.attribute(noisy, target=targets.repeat(len(noise)), abs=False)
        if squared:
            gradients = gradients.square()
        total += gradients.unflatten(0, (len(noise), len(images))).sum(dim=0)
    return (total / n_samples).abs().amax(dim=1)


def integrated_gradients(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    steps: int = 32,
    baseline: tuple[float, float, float] = IMAGENET_MEAN,
    output: Output = "logit",
    batch_size: int = 32,
) -> Tensor:
    """Integrated Gradients along the straight path from a plain colour (arXiv 1703.01365, §3).

    The map is the absolute value of a pixel's contributions, added over its channels: over all
    pixels they sum to the score's change from baseline to image. ``steps`` is the number of
    Gauss-Legendre points, ``baseline`` a colour in 0...1, ``output`` as for :func:`smoothgrad`.
    """
    targets = targets_or_predictions(classifier, images, targets)
    contributions = _contributions(classifier, images, targets, steps, baseline, output, batch_size)
    return contributions.sum(dim=1).abs()


def integrated_gradients_squared(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    steps: int = 32,
    sigma: float = 0.15,
    n_samples: int = 5,
    seed: int = 0,
    baseline: tuple[float, float, float] = IMAGENET_MEAN,
    output: Output = "logit",
    batch_size: int = 32,
) -> Tensor:
    """Integrated Gradients with squared SmoothGrad (arXiv 2104.14995, §4.2.1).

    The squares of every noisy copy's Integrated Gradients are averaged; the map is the largest over
    the colour channels. ``sigma``, ``seed`` and ``output`` are those of :func:`smoothgrad`,
    ``steps`` and ``baseline`` those of :func:`integrated_gradients`.
    """
    _check_noise(sigma, n_samples)
    targets = targets_or_predictions(classifier, images, targets)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(images)
    for _ in range(n_samples):
        noise = torch.randn(images.shape[1:], generator=generator).to(images.device)
        noisy = images + sigma * noise
        found = _contributions(classifier, noisy, targets, steps, baseline, output, batch_size)
        total += found.square()
    return (total / n_samples).amax(dim=1)


def _contributions(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor,
    steps: int,
    baseline: tuple[float, float, float],
    output: Output,
    batch_size: int,
) -> Tensor:
    """Integrated Gradients of every input value, ``[B, 3, H, W]``."""
    from captum.attr import IntegratedGradients

    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    path = IntegratedGradients(lambda inputs: scores_of(classifier(inputs), output))
    return path.attribute(
        images,
        baselines=colour(baseline, images).expand_as(images),
        target=targets,
        n_steps=steps,
        internal_batch_size=max(batch_size, len(images)),
    )


def _check_noise(sigma: float, n_samples: int) -> None:
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    if sigma < 0:
        raise ValueError(f"sigma must not be negative, got {sigma}")
