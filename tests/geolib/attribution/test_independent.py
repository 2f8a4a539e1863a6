"""Every method against an implementation that shares no code with ours, on the same networks."""

import copy

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from skimage.segmentation import slic
from skimage.transform import resize
from torch.nn import functional as F
from torch.testing import assert_close
from torchcam import methods as torchcam
from toys import detectors, scaled, small_network

from geolib.attribution import attribute

TARGETS = [4, 0, 2]
FILL = torch.zeros(1, 3, 1, 1)


def upsampled(maps, images):
    return F.interpolate(maps[:, None], images.shape[2:], mode="bilinear")[:, 0]


def of_torchcam(name):
    """The class of that name; Score-CAM multiplies its masks into what the network is shown."""

    def maps(network, images):
        with getattr(torchcam, name)(network, network.target_layer) as cam:
            (found,) = cam(TARGETS, network(images), normalized=False)
        return upsampled(found.detach(), images)

    return maps


def of_grad_cam(library):
    def maps(network, images):
        with library(network, [network.target_layer]) as cam:
            return torch.from_numpy(cam(images, [ClassifierOutputTarget(i) for i in TARGETS]))

    return maps


def layer_grad_cam(network, images):
    cam = LayerGradCam(network, network.target_layer)
    return upsampled(cam.attribute(images, TARGETS, relu_attributions=True)[:, 0], images).detach()


def equation_19(network, images):
    """In float64, of derivatives that autograd has, without an epsilon."""
    model, found = copy.deepcopy(network).double(), []
    model.target_layer.register_forward_hook(lambda *passed: found.append(passed[2]))
    score = model(images.double())[range(len(images)), TARGETS].sum()
    (slopes,) = torch.autograd.grad(score, found[0])
    total = found[0].sum(dim=(2, 3), keepdim=True)
    share = (slopes**2 / (2 * slopes**2 + total * slopes**3)).nan_to_num()
    weights = (share * slopes.relu()).sum(dim=(2, 3), keepdim=True)
    return upsampled((weights * found[0]).sum(dim=1).relu().detach(), images).float()


def averaged_saliency(network, images):
    generator = torch.Generator().manual_seed(7)
    noise = [0.1 * torch.randn(3, 64, 64, generator=generator) for _ in range(4)]
    noisy = [(images + one).requires_grad_() for one in noise]
    signed = [Saliency(network).attribute(one, TARGETS, abs=False) for one in noisy]
    return torch.stack(signed).mean(dim=0).abs().amax(dim=1)


def integral(network, images):
    """Along the path from the fill, by NumPy's nodes of Gauss and Legendre on -1...1."""
    total = torch.zeros_like(images)
    for node, weight in zip(*np.polynomial.legendre.leggauss(8), strict=True):
        at = (FILL + (node + 1) / 2 * (images - FILL)).float().requires_grad_()
        score = network(at)[range(len(images)), TARGETS].sum()
        total += torch.autograd.grad(score, at)[0] * weight / 2
    return ((images - FILL) * total).sum(dim=1).abs()


def published_rise(network, image, target, n=1000):
    """Masks as in the authors' code: another library's resizing, other draws, E[m] = 1/2."""
    rng, cell, found = np.random.default_rng(0), 10, 0
    for _ in range(n):
        coins = (rng.random((7, 7)) < 0.5).astype(float)
        large = resize(coins, (80, 80), order=1, mode="reflect")
        y, x = rng.integers(0, cell, 2)
        mask = torch.from_numpy(large[y : y + 64, x : x + 64]).float()
        found += network(mask * image)[0, target] * mask / (0.5 * n)
    return found


def one_by_one(network, images):
    found = torch.zeros(len(images), 64, 64)
    for i, image in enumerate(images):
        pixels = image.permute(1, 2, 0).numpy()
        labels = torch.from_numpy(slic(pixels, n_segments=20, compactness=20, sigma=1))
        for label in labels.unique():
            shown = torch.stack([image, image.where(labels != label, FILL[0])])
            with torch.no_grad():
                whole, rest = network(shown)[:, TARGETS[i]]
            found[i][labels == label] = (whole - rest).clamp(min=0)
    return found


EVERY = ("resnet", "mobilenet", "convnext")
# Method, options, the other implementation, largest difference of maps in 0...1, networks.
TABLE = [
    ("gradcam", {}, of_torchcam("GradCAM"), 1e-4),
    ("gradcam", {}, layer_grad_cam, 1e-4),
    # Its up-sampling is OpenCV's, after the scaling to 0...1, to which it adds 1e-7.
    ("gradcam", {}, of_grad_cam(GradCAM), 2e-3),
    ("gradcam++", {}, equation_19, 2e-4),
    ("layercam", {}, of_torchcam("LayerCAM"), 1e-4),
    ("layercam", {}, of_grad_cam(LayerCAM), 2e-3),
    ("smoothgrad", {"sigma": 0.1, "n_samples": 4, "seed": 7}, averaged_saliency, 1e-4),
    # Its masks are scaled to 0...1 before they are up-sampled, ours after.
    ("scorecam", {}, of_torchcam("ScoreCAM"), 5e-3, ["convnext"]),
    ("integrated_gradients", {"steps": 8}, integral, 1e-3),
    ("occlusion", {"n_segments": 20}, one_by_one, 1e-3),
]
CASES = [(name, *row[:4]) for row in TABLE for name in (row[4] if row[4:] else EVERY)]


@pytest.mark.parametrize(("name", "method", "options", "other", "tolerance"), CASES)
def test_a_map_is_that_of_another_implementation(images, name, method, options, other, tolerance):
    network = small_network(name)
    # What is hidden is black: libraries multiply images by their masks.
    network.mean = FILL
    # A map of zeros stays one.
    expected = scaled(other(copy.deepcopy(network), images)).nan_to_num()
    found = attribute(network, images, method, TARGETS, precision="fp32", **options)
    assert_close(found, expected, atol=tolerance, rtol=0)


def test_rise_finds_what_the_published_masks_find():
    """Two Monte Carlo estimates of one expectation, of a network that sees the red patch alone."""
    image = torch.full((1, 3, 64, 64), 0.5)
    image[..., 12:30, 36:52] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    network = detectors().requires_grad_(False)
    network.mean = FILL
    found = attribute(network, image, "rise", [0], n_masks=1000, precision="fp32")
    expected = published_rise(network, image, 0)
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.9
