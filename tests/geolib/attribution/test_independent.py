"""Every method against an implementation that shares no code with ours, on the same networks.

Ours is shown images in 0...1 and fills with the mean colour; the others work inside the classifier,
on normalised images, where that colour is zero.
"""

import numpy as np
import pytest
import torch
import torchcam.methods
from captum.attr import LayerGradCam, Saliency
from skimage.segmentation import slic
from skimage.transform import resize
from torch.nn import functional as F
from torch.testing import assert_close
from toys import detectors, scaled, small_network

from geolib.attribution import attribute
from geolib.model import Classifier
from geolib.model.classifier import Card

TARGETS = [4, 0, 2]


def wrapped(network, n_classes=5):
    return Classifier(network, Card("toy", tuple("abcde"[:n_classes]), 64)).requires_grad_(False)


def inside(model, images):
    return model.network, (images - model.mean) / model.std


def upsampled(maps, images):
    return F.interpolate(maps[:, None], images.shape[2:], mode="bilinear")[:, 0]


def of_torchcam(name):
    def maps(model, images):
        network, inputs = inside(model, images)
        with getattr(torchcam.methods, name)(network, network.target_layer) as cam:
            (found,) = cam(TARGETS, network(inputs.requires_grad_()), normalized=False)
        return upsampled(found, images)

    return maps


def of_captum(model, images):
    network, inputs = inside(model, images)
    cam = LayerGradCam(network, network.target_layer)
    found = cam.attribute(inputs.requires_grad_(), TARGETS, relu_attributions=True)
    return upsampled(found[:, 0].detach(), images)


def equation_19(model, images):
    """In float64, of derivatives as autograd gives them, without an epsilon."""
    network, inputs = inside(model.double(), images.double())
    found = []
    hook = network.target_layer.register_forward_hook(lambda *passed: found.append(passed[2]))
    score = network(inputs.requires_grad_())[range(len(images)), TARGETS].sum()
    hook.remove()
    (slopes,) = torch.autograd.grad(score, found[0])
    total = found[0].sum(dim=(2, 3), keepdim=True)
    share = (slopes**2 / (2 * slopes**2 + total * slopes**3)).nan_to_num()
    weights = (share * slopes.relu()).sum(dim=(2, 3), keepdim=True)
    return upsampled((weights * found[0]).sum(dim=1).relu().detach(), images).float()


def noisy(images):
    generator = torch.Generator().manual_seed(7)
    return [images + 0.1 * torch.randn(3, 64, 64, generator=generator) for _ in range(4)]


def averaged_saliency(model, images):
    copies = [one.requires_grad_() for one in noisy(images)]
    signed = [Saliency(model).attribute(one, TARGETS, abs=False) for one in copies]
    return torch.stack(signed).mean(dim=0).abs().amax(dim=1)


def contributions(model, images):
    """Along the path from zero, by NumPy's nodes of Gauss and Legendre on -1...1."""
    network, inputs = inside(model, images)
    total = torch.zeros_like(inputs)
    for node, weight in zip(*np.polynomial.legendre.leggauss(8), strict=True):
        at = ((node + 1) / 2 * inputs).float().requires_grad_()
        score = network(at)[range(len(images)), TARGETS].sum()
        total += torch.autograd.grad(score, at)[0] * weight / 2
    return inputs * total


def integral(model, images):
    return contributions(model, images).sum(dim=1).abs()


def squared_integral(model, images):
    squares = [contributions(model, one).square() for one in noisy(images)]
    return torch.stack(squares).mean(dim=0).amax(dim=1)


def one_by_one(model, images):
    network, inputs = inside(model, images)
    found, whole = torch.zeros(len(images), 64, 64), network(inputs)
    for i, image in enumerate(images):
        pixels = image.permute(1, 2, 0).numpy()
        labels = torch.from_numpy(slic(pixels, n_segments=20, compactness=20, sigma=1))
        for label in labels.unique():
            rest = network(inputs[i : i + 1] * (labels != label))[0, TARGETS[i]]
            found[i][labels == label] = (whole[i, TARGETS[i]] - rest).clamp(min=0)
    return found


def published_rise(model, image, target, n=1000):
    """Masks as in the authors' code: another library's resizing, other draws, E[m] = 1/2."""
    (network, inputs), rng = inside(model, image), np.random.default_rng(0)
    found = torch.zeros(1, 64, 64)
    for _ in range(n):
        coins = (rng.random((7, 7)) < 0.5).astype(float)
        large = resize(coins, (80, 80), order=1, mode="reflect")
        y, x = rng.integers(0, 10, 2)
        mask = torch.from_numpy(large[y : y + 64, x : x + 64]).float()
        found += network(mask * inputs)[0, target] * mask / (0.5 * n)
    return found


NOISE = {"sigma": 0.1, "n_samples": 4, "seed": 7}
EVERY = ("resnet", "mobilenet", "convnext")
# Method, options, the other implementation, largest difference of maps in 0...1, networks.
TABLE = [
    ("gradcam", {}, of_torchcam("GradCAM"), 1e-4, EVERY),
    ("gradcam", {}, of_captum, 1e-4, EVERY),
    # Not torchcam's: it divides a copy, and so weighs by the third power of the slope alone.
    ("gradcam++", {}, equation_19, 2e-4, EVERY),
    ("layercam", {}, of_torchcam("LayerCAM"), 1e-4, EVERY),
    # It scales the masks to 0...1 before it up-samples them, we do after. The others have more
    # than 500 channels.
    ("scorecam", {}, of_torchcam("ScoreCAM"), 5e-3, EVERY[2:]),
    ("smoothgrad", NOISE, averaged_saliency, 5e-3, EVERY),
    ("integrated_gradients", {"steps": 8}, integral, 1e-3, EVERY),
    ("integrated_gradients_squared", NOISE | {"steps": 8}, squared_integral, 1e-3, EVERY[2:]),
    ("occlusion", {"n_segments": 20}, one_by_one, 1e-3, EVERY),
]
CASES = [(*row, name) for *row, networks in TABLE for name in networks]


@pytest.mark.parametrize(("method", "options", "other", "tolerance", "name"), CASES)
def test_a_map_is_that_of_another_implementation(images, method, options, other, tolerance, name):
    model = wrapped(small_network(name))
    found = attribute(model, images, method, TARGETS, precision="fp32", **options)
    # A map of zeros stays one.
    expected = scaled(other(model, images)).nan_to_num()
    assert expected.max() == 1
    assert_close(found, expected, atol=tolerance, rtol=0)


def test_rise_finds_what_the_published_masks_find():
    """Two Monte Carlo estimates of one expectation, of a network that sees the red patch alone."""
    image = torch.full((1, 3, 64, 64), 0.5)
    image[..., 12:30, 36:52] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    model = wrapped(detectors(), 2)
    found = attribute(model, image, "rise", [0], n_masks=1000, precision="fp32")
    expected = published_rise(model, image, 0)
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.9
