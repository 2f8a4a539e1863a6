"""Controls: maps that do not look at the classifier."""

from __future__ import annotations

import hashlib

import torch
from skimage.color import rgb2gray
from skimage.filters import sobel
from torch import Tensor, nn

from geolib.attribution.passes import upsample


def random(
    _classifier: nn.Module, images: Tensor, _targets: Tensor | None, *, seed: int = 0, grid: int = 7
) -> Tensor:
    """Uniform noise on a ``grid`` x ``grid`` lattice, up-sampled like a CAM of that size.

    Seeded by ``seed`` and the image's content: an image keeps its map in any batch.
    """
    if grid < 2:
        raise ValueError(f"grid must be at least 2, got {grid}")
    maps = []
    for image in images.cpu():
        content = image.contiguous().numpy().tobytes()
        digest = hashlib.sha256(f"{seed}:{tuple(image.shape)}:".encode() + content).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        maps.append(torch.rand(grid, grid, generator=generator))
    return upsample(torch.stack(maps), images.shape[-2:])


def edges(_classifier: nn.Module, images: Tensor, _targets: Tensor | None) -> Tensor:
    """Gradient magnitude of the luminance (Sobel)."""
    grey = rgb2gray(images.cpu().numpy(), channel_axis=1)
    return torch.stack([torch.from_numpy(sobel(image)) for image in grey])
