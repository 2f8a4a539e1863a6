"""Input gradients: SmoothGrad and Integrated Gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geolib.attribution.passes import Output, classes_of, neutral_colour, scores_of, target_scores


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
    noise = _noise(images, sigma, n_samples, seed)
    targets = classes_of(classifier, images, targets)
    total = torch.zeros_like(images)
    for some in noise.split(max(1, batch_size // len(images))):
        noisy = (images + some[:, None]).flatten(0, 1)
        noisy = noisy.contiguous(memory_format=torch.channels_last).requires_grad_()
        scores = target_scores(classifier(noisy), targets.repeat(len(some)), output)
        (slopes,) = torch.autograd.grad(scores.sum(), noisy)
        slopes = slopes.square() if squared else slopes
        total += slopes.unflatten(0, (len(some), len(images))).sum(dim=0)
    return (total / n_samples).abs().amax(dim=1)


def integrated_gradients(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    steps: int = 32,
    output: Output = "logit",
    batch_size: int = 32,
) -> Tensor:
    """Integrated Gradients along the straight path from a plain colour (arXiv 1703.01365, §3).

    The colour is the one that the classifier normalises to zero. The map is the absolute value of a
    pixel's contributions, added over its channels: over all pixels they sum to the score's change
    from baseline to image. ``steps`` is the number of Gauss-Legendre points, ``output`` as for
    :func:`smoothgrad`.
    """
    targets = classes_of(classifier, images, targets)
    return _integrated(classifier, images, targets, steps, output, batch_size).sum(dim=1).abs()


def integrated_gradients_squared(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    steps: int = 32,
    sigma: float = 0.15,
    n_samples: int = 5,
    seed: int = 0,
    output: Output = "logit",
    batch_size: int = 32,
) -> Tensor:
    """Integrated Gradients with squared SmoothGrad (arXiv 2104.14995, §4.2.1).

    The squares of every noisy copy's Integrated Gradients are averaged; the map is the largest over
    the colour channels. ``sigma``, ``seed`` and ``output`` are those of :func:`smoothgrad`,
    ``steps`` that of :func:`integrated_gradients`.
    """
    noise = _noise(images, sigma, n_samples, seed)
    targets = classes_of(classifier, images, targets)
    total = torch.zeros_like(images)
    for one in noise:
        total += _integrated(classifier, images + one, targets, steps, output, batch_size).square()
    return (total / n_samples).amax(dim=1)


def _integrated(
    classifier: nn.Module, images: Tensor, targets: Tensor, steps: int, output: Output, batch: int
) -> Tensor:
    """Integrated Gradients of every input value, ``[B, 3, H, W]``."""
    from captum.attr import IntegratedGradients  # it takes a second, and most runs find maps kept

    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return IntegratedGradients(lambda inputs: scores_of(classifier(inputs), output)).attribute(
        images,
        baselines=neutral_colour(classifier, images).expand_as(images),
        target=targets,
        n_steps=steps,
        internal_batch_size=max(batch, len(images)),
    )


def _noise(images: Tensor, sigma: float, n_samples: int, seed: int) -> Tensor:
    """Noise for ``n_samples`` copies of each image, ``[n_samples, 3, H, W]``."""
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    if sigma < 0:
        raise ValueError(f"sigma must not be negative, got {sigma}")
    generator = torch.Generator().manual_seed(seed)
    return sigma * torch.randn(n_samples, *images.shape[1:], generator=generator).to(images.device)
