"""Controls: maps that do not look at the classifier."""

from __future__ import annotations

import hashlib

import torch
from skimage.color import rgb2gray
from skimage.filters import sobel
from torch import Tensor, nn

from geolib.attribution.passes import upsample


def random(
    _classifier: nn.Module, images: Tensor, _targets: Tensor | None, *, seed: int = 0
) -> Tensor:
    """Uniform noise on a lattice of 7 x 7, up-sampled like a CAM of that size.

    Seeded by ``seed`` and the image's content: an image keeps its map in any batch.
    """
    maps = []
    for image in images.cpu():
        content = image.contiguous().numpy().tobytes()
        digest = hashlib.sha256(f"{seed}:{tuple(image.shape)}:".encode() + content).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        maps.append(torch.rand(7, 7, generator=generator))
    return upsample(torch.stack(maps), images.shape[-2:])


def edges(_classifier: nn.Module, images: Tensor, _targets: Tensor | None) -> Tensor:
    """Gradient magnitude of the luminance (Sobel)."""
    grey = rgb2gray(images.cpu().numpy(), channel_axis=1)
    return torch.stack([torch.from_numpy(sobel(image)) for image in grey])
