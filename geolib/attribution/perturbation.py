"""Perturbation: what the score does where parts of the image are hidden, without a gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geolib.attribution.passes import Output, classes_of, neutral_colour, scores_of, target_scores

CELLS = 7  # of a RISE mask, along each side: as published for 224 px


@torch.no_grad()
def rise(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    n_masks: int = 300,
    seed: int = 0,
    output: Output = "logit",
    batch_size: int = 32,
) -> Tensor:
    """RISE: mean score of the random masks that show a pixel (Petsiuk et al., BMVC 2018, eq. 6).

    A mask m is a lattice of 7 x 7 coin tosses, enlarged bilinearly by a cell more than the image
    and cut at a random shift; the classifier sees ``m * x + (1 - m) * mean``, as for Score-CAM. The
    map is ``Σ score m / Σ m``: the published one with E[m] taken from the masks drawn, so that a
    score that no mask changes leaves no map. One sequence of ``n_masks``, fixed by ``seed``, serves
    all images. ``output``, "logit" or "probability" (as published), is the score.
    """
    if n_masks < 1:
        raise ValueError(f"n_masks must be at least 1, got {n_masks}")
    size, mean = images.shape[-2:], neutral_colour(classifier, images)
    targets, contrast = classes_of(classifier, images, targets), images - mean
    # In float64, on the processor: rounding of a constant score must not pass for a map.
    weighted, shown, scored = torch.zeros(3, len(images), *size, dtype=torch.float64)
    for masks in _masks(n_masks, size, seed, max(1, batch_size // len(images))):
        masked = torch.addcmul(mean, masks.to(images.device)[:, None, None], contrast)
        masked = masked.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        found = target_scores(classifier(masked), targets.repeat(len(masks)), output)
        scores = found.unflatten(0, (len(masks), len(images))).cpu().double()
        weighted += torch.einsum("kb,khw->bhw", scores, masks.double())
        shown += masks.double().sum(dim=0)
        scored += scores.sum(dim=0)[:, None, None]
    # A pixel that none of few masks shows has the mean score.
    return torch.where(shown > 0, weighted / shown, scored / n_masks).float()


def _masks(n: int, size: Sequence[int], seed: int, portion: int) -> Iterator[Tensor]:
    """RISE's masks in 0...1, ``[portion, H, W]`` at a time; the same in any portions."""
    generator = torch.Generator().manual_seed(seed)
    coins = torch.rand(n, 1, CELLS, CELLS, generator=generator).lt(0.5).float()
    height, width = (-(-side // CELLS) for side in size)
    shifts = [torch.randint(cell, (n,), generator=generator) for cell in (height, width)]
    enlarged = (CELLS + 1) * height, (CELLS + 1) * width
    for start in range(0, n, portion):
        large = F.interpolate(coins[start : start + portion], enlarged, mode="bilinear")[:, 0]
        corners = zip(*(shift[start : start + portion].tolist() for shift in shifts), strict=True)
        cut = [(slice(y, y + size[0]), slice(x, x + size[1])) for y, x in corners]
        yield torch.stack([mask[part] for mask, part in zip(large, cut, strict=True)])


def occlusion(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    n_segments: int = 64,
    output: Output = "logit",
    batch_size: int = 32,
) -> Tensor:
    """Occlusion: what the score loses without a segment (Zeiler and Fergus, ECCV 2014, §4.2).

    In place of a sliding square, about ``n_segments`` SLIC superpixels of the image (TPAMI 2012)
    are hidden one by one under the colour that the classifier normalises to zero. Each pixel has
    its segment's loss; where the score rises, which speaks against the class, the map is zero.
    ``output``, "logit" or "probability", is the score.
    """
    # Each takes a second, and most runs find maps kept.
    from captum.attr import FeatureAblation
    from skimage.segmentation import slic

    if n_segments < 1:
        raise ValueError(f"n_segments must be at least 1, got {n_segments}")
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    labels = np.stack([slic(image, n_segments, 20, sigma=1, start_label=0) for image in pixels])
    losses = FeatureAblation(lambda shown: scores_of(classifier(shown), output)).attribute(
        images,
        baselines=neutral_colour(classifier, images),
        target=classes_of(classifier, images, targets),
        feature_mask=torch.from_numpy(labels)[:, None].to(images.device),
        perturbations_per_eval=max(1, batch_size // len(images)),
    )
    return losses[:, 0].relu()
