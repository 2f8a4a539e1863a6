"""Random changes of colour and side of training images, and boxes that hide parts of them."""

from __future__ import annotations

import torch

# Saturation is blended towards the luma of ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
# With three boxes of these sides about a quarter of an image is hidden, or shown.
BOXES = 3
SIDES = (0.1, 0.5)
MASK_DRAWS = 2 + 4 * BOXES


def augment(
    images: torch.Tensor, draws: torch.Tensor, horizontal_flip: bool, color_jitter: float
) -> torch.Tensor:
    """Mirror and recolour each image of a batch by draws of its own (§4 of arXiv 2605.00912).

    Images are ``float32 [B,3,H,W]`` in 0…1 and stay so. ``draws`` are ``float32 [4,B]``, uniform
    in 0…1: for the mirror (probability ½), and for brightness, contrast and saturation, which are
    multiplied by factors between 1 − ``color_jitter`` and 1 + ``color_jitter``.
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


def mask_boxes(
    images: torch.Tensor, draws: torch.Tensor, probability: float, fill: torch.Tensor
) -> torch.Tensor:
    """Hide random boxes of some images, and all but such boxes of others.

    A classifier that learns from these images has met what deletion and insertion make of an
    image (§5 of arXiv 2605.00912), and gains nothing from the boxes themselves. Images are
    ``float32 [B,3,H,W]`` in 0…1, hidden parts get the colour ``fill`` ``[1,3,1,1]``. ``draws`` are
    ``float32 [14,B]``, uniform in 0…1: of each image whether it is masked (with ``probability``),
    whether all but the boxes is hidden instead of the boxes (every second time), and the centre
    along x and y, width and height of three boxes.
    """
    height, width = images.shape[2:]
    draws = draws.to(images.device)
    masked, inverted = draws[0] < probability, draws[1] < 0.5
    x, y, *sides = draws[2:].view(4, BOXES, -1, 1)
    half_width, half_height = ((SIDES[0] + (SIDES[1] - SIDES[0]) * side) / 2 for side in sides)
    # Positions of the pixels' middles, as shares of the image's sides.
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    rows = (torch.arange(height, device=images.device) + 0.5) / height
    inside = ((rows - y).abs() < half_height)[..., None] & (
        ((columns - x).abs() < half_width)[..., None, :]
    )
    hidden = masked[:, None, None] & (inside.any(0) ^ inverted[:, None, None])
    return torch.where(hidden[:, None], fill, images)
