"""RISE and occlusion: models whose maps are known, masks, passes."""

import pytest
import torch
from scipy import ndimage
from skimage.segmentation import slic
from torch.nn import functional as F
from torch.testing import assert_close
from toys import MEAN, Linear, smooth_images

from geolib.attribution import METHODS, attribute
from geolib.attribution.passes import min_max
from geolib.attribution.perturbation import _masks

FILL = torch.tensor(MEAN).view(3, 1, 1)


def seen_through(side, cells=7):
    """Covariance over 1/4 of a mask's values along one axis: cells are independent coins."""
    cell = side // cells
    shares = F.interpolate(torch.eye(cells)[None], size=(cells + 1) * cell, mode="linear")[0]
    shifted = [shares[:, shift : shift + side] for shift in range(cell)]
    return torch.stack([part.mT @ part for part in shifted]).mean(dim=0)


def test_rise_of_a_linear_model_is_what_the_masks_let_through():
    """Of b + Σ c m the mean score where m' shows a pixel is b + Σ c (1/2 + Cov(m, m') / (1/2)).

    A mask's covariance is that of its rows times that of its columns, times 1/4.
    """
    image, weights = smooth_images(1)[..., :28, :42], torch.zeros(3, 28, 42)
    weights[:, 3:10, 20:33] = 1
    weights[:, 16:24, 5:12] = -0.5
    model = Linear(weights).requires_grad_(False)
    raw = METHODS["rise"](model, image, torch.tensor([0]), n_masks=6000, batch_size=500)[0]
    worth = (weights * (image[0] - FILL)).sum(dim=0)
    through = seen_through(28) @ worth @ seen_through(42)
    expected = (weights * FILL).sum() + worth.sum() / 2 + through / 2
    # Sampling: the standard deviation of the score over the root of 3,000 shown masks.
    assert (raw - expected).abs().max() < 0.1 * (expected.max() - expected.min())


def test_masks_are_those_of_their_seed_in_any_portions():
    whole, parts = (torch.cat(list(_masks(400, (30, 45), 3, n))) for n in (400, 7))
    assert torch.equal(whole, parts)
    assert whole.min() == 0 and whole.max() == 1
    assert not torch.equal(whole, next(_masks(400, (30, 45), 4, 400)))
    # Of 400 coins the mean is known to 0.025.
    assert (whole.mean(dim=0) - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("n_masks", [1, 300])
def test_a_score_that_no_mask_changes_leaves_no_map(n_masks):
    """Nor does rounding, nor a pixel that none of the masks shows."""

    def constant(images):
        return torch.full((len(images), 2), 0.37)

    raw = METHODS["rise"](constant, smooth_images(2), torch.tensor([0, 1]), n_masks=n_masks)
    assert torch.equal(min_max(raw), torch.zeros(2, 64, 64))


def superpixels(image, n):
    """Labels 0, 1, …, as documented; SLIC decides how many."""
    return slic(image.permute(1, 2, 0).numpy(), n, compactness=20, sigma=1, start_label=0)


def test_occlusion_of_a_linear_model_is_what_each_segment_adds():
    """w (x - fill), summed over the segment; what speaks against the class is cut off."""
    images, weights = smooth_images(2)[..., :50], torch.randn(3, 64, 50).cumsum(dim=2)
    model = Linear(weights).requires_grad_(False)
    raw = METHODS["occlusion"](model, images, torch.tensor([0, 0]), n_segments=12)
    for image, found in zip(images, raw, strict=True):
        labels = superpixels(image, 12)
        worth = (weights * (image - FILL)).sum(dim=0).numpy()
        sums = ndimage.sum_labels(worth, labels, range(labels.max() + 1))
        assert len(sums) > 6 and sums.min() < 0 < sums.max()
        assert_close(
            found, torch.from_numpy(sums[labels]).clamp(min=0).float(), rtol=1e-3, atol=0.05
        )


@pytest.mark.parametrize("n_images", [1, 3])
def test_one_pass_per_mask_or_segment_and_bounded_memory(resnet, n_images):
    images, sizes = smooth_images(n_images), []
    n_labels = 1 + max(superpixels(image, 20).max() for image in images)
    hook = resnet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    attribute(resnet, images, "rise", n_masks=7, batch_size=5)
    # The images for their classes, then five masks of one image, or one of all three, together.
    assert sizes == ([1, 5, 2] if n_images == 1 else [3] * 8)
    sizes.clear()
    attribute(resnet, images, "occlusion", n_segments=20, batch_size=5)
    hook.remove()
    # The images once more, to compare with.
    assert max(sizes) <= 5 and sum(sizes) == n_images * (2 + n_labels)
