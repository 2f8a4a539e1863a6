"""Random changes of colour and side of training images."""

from __future__ import annotations

import torch

# Saturation is blended towards the luma of ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


def augment(
    images: torch.Tensor, draws: torch.Tensor, horizontal_flip: bool, color_jitter: float
) -> torch.Tensor:
    """Mirror and recolour each image of a batch by draws of its own (§4 of arXiv 2605.00912).

    Parameters
    ----------
    images
        ``float32 [B,3,H,W]``, 0…1.
    draws
        ``float32 [4,B]``, uniform in 0…1: of each image for the mirror, brightness, contrast and
        saturation.
    horizontal_flip
        Whether to mirror each image with probability ½.
    color_jitter
        Brightness, contrast and saturation are multiplied by factors between 1 − ``color_jitter``
        and 1 + ``color_jitter``.

    Returns
    -------
    torch.Tensor
        Of the same shape, 0…1.
    """
    # torchvision's transforms draw once per batch.
    draws = draws.to(images.device)[:, :, None, None, None]
    if horizontal_flip:
        images = torch.where(draws[0] < 0.5, images.flip(3), images)
    if color_jitter:
        brightness, contrast, saturation = 1 + color_jitter * (2 * draws[1:] - 1)
        luma = images.new_tensor(LUMA).view(1, 3, 1, 1)
        images = images * brightness
        grey = (images * luma).sum(1, keepdim=True)
        images = torch.lerp(grey, images, saturation)
        images = torch.lerp(grey.mean((2, 3), keepdim=True), images, contrast).clamp(0, 1)
    return images
