"""Integrated Gradients, smoothed as Theiner et al. do, against captum's."""

import torch
from captum.attr import IntegratedGradients
from torch import nn

from geolib.attribution import METHODS


class Curved(nn.Module):
    """A small smooth network, for which a gradient differs from point to point."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, images):
        return self.layers(images)


def test_squared_integrated_gradients_are_captums_on_the_same_noise():
    torch.manual_seed(1)
    images, network = torch.rand(2, 3, 8, 8), Curved()
    options = {"steps": 6, "n_samples": 3, "sigma": 0.2, "seed": 7}
    raw = METHODS["integrated_gradients_squared"](network, images, torch.tensor([2, 0]), **options)
    generator = torch.Generator().manual_seed(7)
    squares = []
    for _ in range(3):
        noisy = images + 0.2 * torch.randn(3, 8, 8, generator=generator)
        baseline = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].expand(2, 3, 8, 8)
        gradients = IntegratedGradients(network).attribute(
            noisy, baseline, target=torch.tensor([2, 0]), n_steps=6
        )
        squares.append(gradients**2)
    expected = torch.stack(squares).mean(0).amax(1)
    torch.testing.assert_close(raw.detach(), expected.detach(), rtol=1e-4, atol=1e-9)
    assert not torch.allclose(raw, squares[0].amax(1), rtol=0.1)
