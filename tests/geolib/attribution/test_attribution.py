"""Attribution: values worked out by hand, oracles, invariances, independent implementations."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pytorch_grad_cam import GradCAM, LayerCAM, ScoreCAM
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation
from toys import (
    Linear,
    Pooled,
    Quadratic,
    Red,
    Window,
    detectors,
    scaled,
    small_network,
    smooth_images,
)

from geolib.attribution import METHODS, attribute
from geolib.model import Classifier
from geolib.model.classifier import Card

CAMS = ["gradcam", "gradcam++", "layercam", "scorecam"]
CONTROLS = ["random", "edges"]
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
EXPLANATIONS = [method for method in METHODS if method not in CONTROLS]
# Enough to be exact on what is tested, few enough to be quick.
QUICK = {
    "scorecam": {"n_channels": 8},
    "smoothgrad": {"n_samples": 3},
    "integrated_gradients": {"steps": 3},
    "integrated_gradients_squared": {"steps": 3, "n_samples": 2},
}


class PaperNet(nn.Module):
    """Two feature maps, the red and the green channel of a 2 x 2 image; linear logits of both.

    The weights of class 0 are G below, those of class 1 are zero. ``mean`` is black, so that a
    Score-CAM mask multiplies the image.
    """

    G = torch.tensor([[[2.0, 1.0], [1.0, 0.0]], [[0.0, -2.0], [2.0, 2.0]]])

    def __init__(self) -> None:
        super().__init__()
        self.target_layer = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 2, bias=False)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        with torch.no_grad():
            self.target_layer[0].weight.copy_(torch.eye(3)[:2, :, None, None])
            self.head.weight.copy_(torch.stack([self.G.flatten(), torch.zeros(8)]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.target_layer(images).flatten(1))


# A_red is diagonal and A_green is not, so each Score-CAM mask erases the other map.
PAPER_IMAGE = torch.tensor(
    [[[[1.0, 0.0], [0.0, 0.5]], [[0.0, 0.4], [0.8, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]]
)


@pytest.fixture(scope="module", params=["resnet", "mobilenet", "convnext"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    return small_network(request.param).eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return small_network("resnet").eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return smooth_images(3)


def one_layer(method: str) -> dict[str, object]:
    """What Combi-CAM must be told of a network without blocks."""
    return {"layers": ["target_layer"]} if method == "combicam" else {}


def quick(model: nn.Module, images: Tensor, method: str, **options: object) -> Tensor:
    """``attribute`` in float32, with few samples."""
    return attribute(
        model, images, method, **{"precision": "fp32", **QUICK.get(method, {}), **options}
    )


# --- Values worked out by hand ---------------------------------------------------------------
#
#            red             green
#   A     1    0           0   0.4
#         0   0.5         0.8   0
#   G     2    1           0   -2
#         1    0           2    2

BY_HAND = {
    # Channel weights mean(G): 4/4 and 2/4.  1·A_red + 0.5·A_green.
    "gradcam": [[1.0, 0.2], [0.4, 0.5]],
    # ΣA = 1.5 and 1.2.  α = 1 / (2 + ΣA·g): red 1/5 where g = 2, 1/3.5 where g = 1; green 1/4.4.
    # Weights Σ α·relu(g): 2/5 + 2/3.5 = 34/35 and 2·2/4.4 = 10/11.
    "gradcam++": [[34 / 35, 4 / 11], [8 / 11, 17 / 35]],
    # relu(G)·A, added up: 2·1 and 2·0.8.
    "layercam": [[2.0, 0.0], [1.6, 0.0]],
    # Masks A_red and A_green / 0.8.  Red passes A_red² = 1, 0, 0, 0.25: score 2·1 + 0·0.25 = 2.
    # Green passes 0, 0.2, 0.8, 0: score -2·0.2 + 2·0.8 = 1.2.
    # Weights: softmax(2, 1.2) = 1/(1 + e^-0.8), 1/(1 + e^0.8) = 0.689974, 0.310026.
    "scorecam": [[0.689974, 0.124010], [0.248020, 0.344987]],
}


@pytest.mark.parametrize("method", CAMS)
def test_cam_by_hand(method: str) -> None:
    expected = scaled(torch.tensor([BY_HAND[method]]))
    found = attribute(PaperNet(), PAPER_IMAGE, method, targets=[0], precision="fp32")
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("method", [m for m in EXPLANATIONS if m != "combicam"])
def test_a_class_without_evidence_has_a_zero_map(method: str) -> None:
    """Class 1 has no weights: every gradient vanishes, and Score-CAM weighs both maps by 1/2."""
    found = attribute(PaperNet(), PAPER_IMAGE, method, targets=[1])
    if method == "scorecam":
        halves = (PAPER_IMAGE[:, 0] + PAPER_IMAGE[:, 1]) / 2
        torch.testing.assert_close(found, scaled(halves), atol=0.01, rtol=0)
    else:
        assert torch.equal(found, torch.zeros(1, 2, 2))


def test_scorecam_counts_a_constant_channel_among_the_weights() -> None:
    """A third, constant map takes part in the softmax with the score of the plain colour.

    Scores 2, 1.2 and 0 (the black image): e² + e^1.2 + e^0 = 11.709.
    """
    model = PaperNet()
    model.target_layer = nn.Conv2d(3, 3, 1, bias=False)
    model.head = nn.Linear(12, 1, bias=False)
    with torch.no_grad():
        model.target_layer.weight.copy_(torch.eye(3)[:, :, None, None])
        model.head.weight.copy_(torch.cat([model.G.flatten(), torch.zeros(4)])[None])
    image = PAPER_IMAGE.clone()
    image[:, 2] = 0.7
    raw = METHODS["scorecam"](model.requires_grad_(False), image, torch.tensor([0]))
    red, green, blue = np.exp([2, 1.2, 0]) / np.exp([2, 1.2, 0]).sum()
    by_hand = [[red + 0.7 * blue, 0.4 * green + 0.7 * blue]]
    by_hand += [[0.8 * green + 0.7 * blue, 0.5 * red + 0.7 * blue]]
    torch.testing.assert_close(raw, torch.tensor([by_hand], dtype=torch.float32))


def test_scorecam_of_a_subset_keeps_the_channels_with_the_largest_range() -> None:
    """Red spans 1, green 0.8; red alone has weight 1."""
    found = attribute(PaperNet(), PAPER_IMAGE, "scorecam", [0], n_channels=1, precision="fp32")
    torch.testing.assert_close(found, PAPER_IMAGE[:, 0])


@pytest.mark.parametrize("method", CAMS)
def test_negative_evidence_is_cut_off(method: str) -> None:
    """The only map is red - 1/2 and has a positive weight everywhere: what remains is its ReLU."""
    model = Red(nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        model.target_layer.weight.fill_(1)
        model.target_layer.bias.fill_(-0.5)
    red = torch.tensor([[[1.0, 0.0], [0.3, 0.75]]])
    found = attribute(model, red.expand(1, 3, 2, 2), method, precision="fp32")
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0], [0.0, 0.5]]]))


def test_maps_are_upsampled_between_pixel_centres() -> None:
    """Two columns 0, 1 on four: centres at -1/4, 1/4, 3/4, 5/4, clamped to the map."""
    model = Red(nn.AvgPool2d(2))
    image = torch.zeros(1, 3, 4, 4)
    image[..., 2:] = 1
    expected = torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(1, 4, 4)
    for method in CAMS:
        found = attribute(model, image, method, precision="fp32")
        torch.testing.assert_close(found, expected, msg=method)


@given(seed=st.integers(0, 2**32), sigma=st.floats(0, 3), squared=st.booleans())
@settings(max_examples=25, deadline=None)
def test_smoothgrad_of_a_linear_model_is_its_weights(
    seed: int, sigma: float, squared: bool
) -> None:
    weights = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(7))
    found = attribute(
        Linear(weights),
        torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(8)),
        "smoothgrad",
        targets=[0, 0],
        precision="fp32",
        n_samples=3,
        sigma=sigma,
        seed=seed,
        squared=squared,
    )
    largest = weights.abs().amax(dim=0)
    expected = scaled((largest.square() if squared else largest)[None]).expand(2, 5, 6)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_smoothgrad_noise_has_the_stated_size_and_is_shared_by_all_images() -> None:
    """Of Σ x²/2 the gradient is x, so the raw map is |x + mean noise| and shows the noise."""
    weights = torch.zeros(3, 64, 64)
    weights[0] = 0.5
    shades = torch.tensor([0.5, 1.0])[:, None, None, None].expand(2, 3, 64, 64)
    options = {"sigma": 0.1, "n_samples": 16}
    model = Quadratic(weights).requires_grad_(False)
    raw = METHODS["smoothgrad"](model, shades, torch.tensor([0, 0]), **options)
    noise = raw - shades[:, 0]
    # 4,096 pixels: the standard deviation is known to about 1 %.
    assert noise.std(dim=(1, 2)).tolist() == pytest.approx([0.1 / 4] * 2, rel=0.05)
    torch.testing.assert_close(noise[0], noise[1], atol=1e-6, rtol=0)
    squared = METHODS["smoothgrad"](
        model, shades, torch.tensor([0, 0]), squared=True, sigma=0.1, n_samples=64
    )
    # E (x + n)² = x² + σ².
    assert squared.mean(dim=(1, 2)).tolist() == pytest.approx([0.26, 1.01], rel=0.01)


def test_smoothgrad_averages_signed_gradients() -> None:
    """Of |x - 1/2| the gradient is ±1: noise around the kink cancels, away from it nothing does."""

    class Kink(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images - 0.5).abs().sum(dim=(1, 2, 3))[:, None]

    image = torch.full((1, 3, 32, 64), 0.5)
    image[..., 32:] = 1.0
    raw = METHODS["smoothgrad"](Kink(), image, torch.tensor([0]), sigma=0.1, n_samples=100)
    assert raw[..., 32:].min() == 1
    # The largest of three |means| of 100 signs: about 0.13 on average.
    assert raw[..., :32].mean() < 0.2


@given(
    image=arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 255)),
    baseline=st.tuples(*[st.floats(0, 1, width=32)] * 3),
)
@settings(max_examples=30, deadline=None)
def test_integrated_gradients_of_a_quadratic(
    image: np.ndarray, baseline: tuple[float, float, float]
) -> None:
    """Of Σ w·x² a pixel's share is w·(x² - b²), by any quadrature exact on straight lines."""
    weights = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(3))
    batch = torch.from_numpy(image)[None].float() / 255
    model = Quadratic(weights)
    model.mean = torch.tensor(baseline).view(1, 3, 1, 1)
    raw = METHODS["integrated_gradients"](model, batch.clone(), torch.tensor([0]), steps=3)
    expected = (weights * (batch.square() - model.mean.square())).sum(dim=1).abs()
    torch.testing.assert_close(raw, expected, atol=1e-5, rtol=1e-4)


def test_integrated_gradients_are_complete() -> None:
    """Where all contributions are positive, they add up to the score's rise from the baseline."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 36, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(2)))
    bright = 0.5 + 0.5 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    targets = torch.tensor([1, 0])
    raw = METHODS["integrated_gradients"](model, bright, targets)
    rise = (model(bright) - model(MEAN.expand_as(bright))).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(raw.sum(dim=(1, 2)), rise, rtol=1e-4, atol=1e-3)


def test_probability_is_attributed_when_asked_for() -> None:
    """For two classes ∂p/∂A = p(1-p)·(∂z₀-∂z₁)/∂A: Grad-CAM of class 1 is that of -G."""
    found = attribute(PaperNet(), PAPER_IMAGE, "gradcam", [0], output="probability")
    expected = scaled(torch.tensor([BY_HAND["gradcam"]]))
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    opposite = attribute(PaperNet(), PAPER_IMAGE, "layercam", [1], output="probability")
    # relu(-G)·A is 2·0.4 in the upper right corner and zero elsewhere.
    assert torch.equal(opposite, torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]))


def test_edges_of_a_step() -> None:
    image = torch.zeros(1, 3, 6, 8)
    image[..., 4:] = 0.8
    expected = torch.zeros(6, 8)
    expected[:, 3:5] = 1
    torch.testing.assert_close(attribute(Red(), image, "edges")[0], expected)


# --- Scaling ---------------------------------------------------------------------------------


@given(image=arrays(np.uint8, (4, 5), elements=st.integers(0, 255)))
@settings(max_examples=50, deadline=None)
def test_maps_are_min_max_scaled(image: np.ndarray) -> None:
    """Of the mean of red, Grad-CAM is proportional to red; a constant map is zero."""
    red = torch.from_numpy(image).float() / 255
    found = attribute(Red(), red.expand(1, 3, 4, 5), "gradcam", precision="fp32")
    if image.min() == image.max():
        assert torch.equal(found, torch.zeros(1, 4, 5))
    else:
        torch.testing.assert_close(found, scaled(red[None]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("shade", [0.1, 0.37, 0.7])
def test_rounding_of_the_upsampling_is_not_taken_for_a_map(method: str, shade: float) -> None:
    model = Red(nn.AvgPool2d(3))
    image = torch.full((1, 3, 21, 15), shade)
    assert torch.equal(attribute(model, image, method), torch.zeros(1, 21, 15))


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e6])
@pytest.mark.parametrize("method", ["gradcam", "layercam", "smoothgrad", "integrated_gradients"])
def test_the_size_of_the_logits_does_not_matter(method: str, factor: float) -> None:
    weak = PaperNet()
    with torch.no_grad():
        weak.head.weight.mul_(factor)
    found = attribute(weak, PAPER_IMAGE, method, [0], precision="fp32")
    expected = attribute(PaperNet(), PAPER_IMAGE, method, [0], precision="fp32")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# --- Independent implementations -------------------------------------------------------------


# Not Grad-CAM++, to whose denominator the library adds 1e-6; the equation itself is next.
@pytest.mark.parametrize("method, library", [("gradcam", GradCAM), ("layercam", LayerCAM)])
def test_cams_agree_with_the_library_run_on_its_own(
    network: nn.Module, images: Tensor, method: str, library: type
) -> None:
    model = copy.deepcopy(network)
    with library(model, [model.target_layer]) as cam:
        expected = torch.from_numpy(cam(images, None))
    torch.testing.assert_close(quick(network, images, method), expected, atol=2e-3, rtol=0)


def test_gradcam_plusplus_is_equation_19(network: nn.Module, images: Tensor) -> None:
    model, found = copy.deepcopy(network).double(), []
    model.target_layer.register_forward_hook(lambda *passed: found.append(passed[2]))
    logits = model(images.double())
    maps = found[0]
    (slopes,) = torch.autograd.grad(logits.amax(dim=1).sum(), maps)
    total = maps.sum(dim=(2, 3), keepdim=True)
    share = slopes**2 / (2 * slopes**2 + total * slopes**3)
    weights = (share.nan_to_num() * slopes.relu()).sum(dim=(2, 3), keepdim=True)
    coarse = (weights * maps).sum(dim=1, keepdim=True).relu().detach()
    expected = F.interpolate(coarse, size=images.shape[-2:], mode="bilinear")[:, 0].float()
    own = quick(network, images, "gradcam++")
    torch.testing.assert_close(own, scaled(expected), atol=2e-4, rtol=0)


def test_gradcam_agrees_with_captum(network: nn.Module, images: Tensor) -> None:
    targets = torch.tensor([0, 1, 2])
    coarse = LayerGradCam(network, network.target_layer).attribute(
        images, targets, relu_attributions=True
    )
    fine = F.interpolate(coarse, size=64, mode="bilinear", align_corners=False)[:, 0].detach()
    found = quick(network, images, "gradcam", targets=targets)
    for expected, image_map in zip(fine, found, strict=True):
        if expected.max() > 0:
            torch.testing.assert_close(image_map, scaled(expected[None])[0], atol=1e-3, rtol=0)
        else:
            assert image_map.max() == 0


def test_integrated_gradients_agree_with_captum(network: nn.Module, images: Tensor) -> None:
    expected = CaptumIntegratedGradients(network).attribute(
        images, baselines=MEAN.expand_as(images), target=[4, 3, 2], n_steps=6
    )
    found = quick(network, images, "integrated_gradients", targets=[4, 3, 2], steps=6)
    torch.testing.assert_close(found, scaled(expected.sum(dim=1).abs()), atol=1e-3, rtol=0)


def test_scorecam_agrees_with_the_library(images: Tensor) -> None:
    """The library masks normalised images; here the same happens to images in 0...1.

    At stride 1, because the library's masks are up-sampled with aligned corners.
    """
    network = Window(slice(4, 60), slice(4, 60), stride=1).eval()
    with torch.no_grad():
        network.head.weight.mul_(20)  # scores that differ, so that the weights do
    model = Classifier(network, Card("window", tuple("abcd"), 64))
    with ScoreCAM(network, [network.target_layer]) as cam:
        expected = torch.from_numpy(cam((images - model.mean) / model.std, None))
    options = {"target_layer": network.target_layer, "precision": "fp32"}
    found = attribute(model, images, "scorecam", **options)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


# --- Oracles ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*EXPLANATIONS, "random"])
def test_evidence_is_found_where_the_network_looks(method: str, images: Tensor) -> None:
    torch.manual_seed(5)
    model = Window(slice(8, 32), slice(32, 56))
    found = attribute(model, images, method, precision="fp32", **one_layer(method))
    # One position of the feature map around the window sees some of it.
    inside = found[:, 5:35, 29:59].sum(dim=(1, 2)) / found.sum(dim=(1, 2))
    if method == "random":
        assert inside.max() < 0.5  # the window's share of the image is 0.22
    else:
        assert inside.min() > 0.95


@pytest.mark.parametrize("method", EXPLANATIONS)
@pytest.mark.parametrize("target", [0, 1])
def test_evidence_belongs_to_the_class_asked_for(method: str, target: int) -> None:
    """One red and one green patch on grey noise, and a class for each."""
    image = 0.5 + 0.02 * torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    patches = [(slice(6, 18), slice(6, 18)), (slice(26, 38), slice(30, 42))]
    for channel, (rows, columns) in enumerate(patches):
        image[:, :, rows, columns] = 0.0
        image[:, channel, rows, columns] = 1.0
    options = one_layer(method)
    found = attribute(detectors(), image.clamp(0, 1), method, targets=[target], **options)[0]
    k = 12 * 12 // 2
    top = torch.zeros(48 * 48).index_fill(0, found.flatten().topk(k).indices, 1).view(48, 48)
    rows, columns = patches[target]
    assert top[rows, columns].sum() / k > 0.9


# --- Invariances -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_order_do_not_matter(network: nn.Module, images: Tensor, method: str) -> None:
    together = quick(network, images, method)
    alone = torch.cat([quick(network, image[None], method) for image in images])
    small = quick(network, images, method, batch_size=2)
    backwards = quick(network, images.flip(0), method).flip(0)
    for other in (alone, small, backwards):
        torch.testing.assert_close(together, other, atol=2e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_global_state_is_neither_read_nor_written(
    resnet: nn.Module, images: Tensor, method: str
) -> None:
    maps = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        maps.append(quick(resnet, images[:2], method))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(maps[0], maps[1])


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_modes_do_not_matter(resnet: nn.Module, images: Tensor, method: str) -> None:
    expected = quick(resnet, images[:2], method)
    batch = images[:2].clone().requires_grad_()
    found = [quick(resnet, batch, method)]
    assert batch.grad is None and not found[0].requires_grad
    with torch.no_grad():
        found.append(quick(resnet, images[:2], method))
    with torch.inference_mode():
        found.append(quick(resnet, images[:2].clone(), method))
    with torch.autocast("cpu", torch.bfloat16):
        found.append(quick(resnet, images[:2], method))
    for other in found:
        torch.testing.assert_close(expected, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_classifier_is_left_as_it_was(images: Tensor, method: str) -> None:
    model = small_network("resnet")
    expected = quick(copy.deepcopy(model).eval(), images[:2], method)
    model.train()
    model.layer1.eval()
    model.conv1.weight.requires_grad_(False)
    model.fc.bias.grad = torch.full_like(model.fc.bias, 3.0)
    state = copy.deepcopy(model.state_dict())
    training = [module.training for module in model.modules()]
    learning = [parameter.requires_grad for parameter in model.parameters()]

    torch.testing.assert_close(quick(model, images[:2], method), expected, atol=1e-5, rtol=0)
    quick(model, images[:2], method, precision="bf16")

    assert [module.training for module in model.modules()] == training
    assert [parameter.requires_grad for parameter in model.parameters()] == learning
    assert all(t.dtype == state[name].dtype for name, t in model.state_dict().items())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["fc.bias"]
    assert torch.equal(model.fc.bias.grad, torch.full((5,), 3.0))


@pytest.mark.parametrize("method", ["gradcam", "scorecam"])
def test_the_classifier_is_left_as_it_was_after_an_error(images: Tensor, method: str) -> None:
    model = small_network("resnet").train()
    with pytest.raises(ValueError, match="targets"):
        quick(model, images, method, targets=[0, 0, 5], precision="bf16")
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_the_order_of_the_classes_does_not_matter(
    resnet: nn.Module, images: Tensor, method: str
) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = copy.deepcopy(resnet)
    with torch.no_grad():
        shuffled.fc.weight.copy_(resnet.fc.weight[order])
        shuffled.fc.bias.copy_(resnet.fc.bias[order])
    for targets in (None, order[:2]):
        moved = None if targets is None else torch.arange(2)
        found = quick(shuffled, images[:2], method, targets=moved)
        expected = quick(resnet, images[:2], method, targets=targets)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_default_targets_are_the_predicted_classes(
    network: nn.Module, images: Tensor, method: str
) -> None:
    with torch.no_grad():
        predicted = network(images).argmax(dim=1)
    found = quick(network, images, method)
    expected = quick(network, images, method, targets=predicted)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", CAMS)
def test_a_layer_before_an_in_place_activation(images: Tensor, method: str) -> None:
    """``bn1`` of a residual block is followed by an in-place ReLU; its negative values count."""
    model = small_network("resnet")
    layer = model.layer3[0].bn1
    expected = quick(copy.deepcopy(model), images, method, target_layer="layer3.0.bn1")
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    found = quick(model, images, method, target_layer=layer)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, quick(model, images, method), atol=0.1)


def test_random_maps_follow_the_content(images: Tensor) -> None:
    maps = attribute(Red(), images, "random")
    again = attribute(Linear(torch.ones(3, 64, 64)), images.flip(0), "random").flip(0)
    assert torch.equal(maps, again)
    assert torch.equal(attribute(Red(), images[2:3].clone(), "random")[0], maps[2])
    nudged = images[2:3].clone()
    nudged[0, 0, 0, 0] = 1 - nudged[0, 0, 0, 0]
    for other in (maps[1], attribute(Red(), nudged, "random")[0]):
        assert abs(spearmanr(maps[2].flatten(), other.flatten()).statistic) < 0.8
    assert not torch.equal(attribute(Red(), images, "random", seed=1), maps)
    # A lattice of 7 on 64 px: no step is larger than 7/64 of the lattice's range.
    for axis in (1, 2):
        assert maps.diff(dim=axis).abs().max() < 7 / 64 + 1e-6


def test_random_maps_prefer_no_place() -> None:
    noise = torch.rand(400, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    maps = attribute(Red(), noise, "random")
    top = maps >= maps.flatten(1).quantile(0.8, dim=1)[:, None, None]
    quarters = F.avg_pool2d(top.float(), 7).mean(dim=0)
    # A quarter's share varies by about 0.1 from map to map: 0.005 over 400.
    assert (quarters - 0.2).abs().max() < 0.03


# --- Cost ------------------------------------------------------------------------------------


@pytest.fixture
def passed(resnet: nn.Module) -> Iterator[list[int]]:
    """The size of each batch that passes the network."""
    sizes: list[int] = []
    hook = resnet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    yield sizes
    hook.remove()


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam"])
def test_cams_take_one_pass(
    resnet: nn.Module, images: Tensor, method: str, passed: list[int]
) -> None:
    attribute(resnet, images, method)
    assert passed == [3]


def test_scorecam_passes_each_live_channel_once(images: Tensor) -> None:
    model = small_network("resnet").eval()
    sizes: list[int] = []
    maps: list[Tensor] = []
    with torch.no_grad():
        model.layer4[0].bn2.bias[:300] = -100  # the ReLU silences these
        model.layer4[0].downsample[1].weight[:300] = 0
        model.layer4[0].downsample[1].bias[:300] = 0
        hook = model.target_layer.register_forward_hook(lambda *call: maps.append(call[2]))
        model(images[:2])
    hook.remove()
    live = sum(len(channel.unique()) > 1 for channel in maps[0].flatten(0, 1))
    assert 100 < live <= 2 * 212
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    attribute(model, images[:2], "scorecam", batch_size=50, precision="fp32")
    assert max(sizes) <= 50
    assert sum(sizes) == 2 + 1 + live, "the images, the plain colour, a mask per channel"


@pytest.mark.parametrize("method", ["smoothgrad", "integrated_gradients"])
def test_gradients_take_one_pass_per_step_and_bounded_memory(
    resnet: nn.Module, images: Tensor, method: str, passed: list[int]
) -> None:
    quick(resnet, images, method, batch_size=5)
    assert sum(passed) == 3 + 3 * 3
    assert max(passed) <= 6
    passed.clear()
    quick(resnet, images[:1], method, batch_size=5)
    assert passed == [1, 3], "the samples of one image go together"


# --- Precision -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> Iterator[tuple[nn.Module, Tensor]]:
    """A small network that learnt to name the colour of a patch, and eight images for it."""

    def draw(n_images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = 0.5 + 0.15 * torch.randn(n_images, 3, 48, 48, generator=generator)
        labels = torch.randint(3, (n_images,), generator=generator)
        for image, label in zip(drawn, labels, strict=True):
            row, column = torch.randint(36, (2,), generator=generator).tolist()
            image[label, row : row + 12, column : column + 12] += 0.4
        return drawn.clamp(0, 1), labels

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = [(3, 16), (16, 32), (32, 64)]
        layers = [Conv2dNormActivation(*size, stride=2) for size in sizes]
        model = Pooled(nn.Sequential(*layers), nn.Linear(64, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            drawn, labels = draw(32, generator)
            optimizer.zero_grad()
            F.cross_entropy(model(drawn), labels).backward()
            optimizer.step()
    test_images, labels = draw(8, generator)
    assert (model.eval()(test_images).argmax(dim=1) == labels).float().mean() > 0.8
    yield model, test_images


def overlap(a: Tensor, b: Tensor, share: float = 0.2) -> float:
    """Intersection over union of the two maps' top pixels."""
    k = int(share * a.numel())
    top = [set(image_map.flatten().topk(k).indices.tolist()) for image_map in (a, b)]
    return len(top[0] & top[1]) / len(top[0] | top[1])


@pytest.mark.parametrize("method", CAMS)
def test_bf16_maps_of_cams_agree_with_fp32(trained: tuple[nn.Module, Tensor], method: str) -> None:
    model, test_images = trained
    targets = model(test_images).argmax(dim=1)
    exact = attribute(model, test_images, method, targets, precision="fp32")
    fast = attribute(model, test_images, method, targets, precision="bf16")
    assert not torch.equal(exact, fast)
    for a, b in zip(exact, fast, strict=True):
        assert spearmanr(a.flatten(), b.flatten()).statistic > 0.95
        assert overlap(a, b) > 0.85


def test_bf16_changes_smoothgrad_less_than_its_own_noise(trained: tuple[nn.Module, Tensor]) -> None:
    model, test_images = trained
    targets = model(test_images).argmax(dim=1)
    exact, other, fast = (
        attribute(model, test_images, "smoothgrad", targets, precision=precision, seed=seed)
        for precision, seed in [("fp32", 0), ("fp32", 1), ("bf16", 0)]
    )
    for a, b, c in zip(exact, other, fast, strict=True):
        from_seed = spearmanr(a.flatten(), b.flatten()).statistic
        from_precision = spearmanr(a.flatten(), c.flatten()).statistic
        assert 1 - from_precision < (1 - from_seed) / 2


def test_auto_keeps_integrated_gradients_in_float32(trained: tuple[nn.Module, Tensor]) -> None:
    model, test_images = trained
    maps = {
        precision: attribute(model, test_images, "integrated_gradients", precision=precision)
        for precision in ("auto", "fp32", "bf16")
    }
    assert torch.equal(maps["auto"], maps["fp32"])
    assert not torch.equal(maps["bf16"], maps["fp32"])


# --- Refusals --------------------------------------------------------------------------------

GOOD = torch.zeros(2, 3, 8, 8)
NOT_A_NUMBER = torch.full((2, 3, 8, 8), torch.nan)


@pytest.mark.parametrize(
    "images, error, words",
    [
        (GOOD.numpy(), TypeError, "images.*float32.*ndarray"),
        (GOOD.byte(), TypeError, "images.*float32.*uint8"),
        (GOOD.double(), TypeError, "images.*float32.*float64"),
        (GOOD[0], ValueError, r"images.*\[B, 3, H, W\].*\(3, 8, 8\)"),
        (GOOD[:, :1], ValueError, r"images.*\(2, 1, 8, 8\)"),
        (GOOD.movedim(1, 3), ValueError, r"images.*\(2, 8, 8, 3\)"),
        (GOOD[..., :0], ValueError, r"images.*\(2, 3, 8, 0\)"),
        (GOOD + 255, ValueError, "images.*0...1.*255"),
        (GOOD + 1.01, ValueError, "images.*0...1.*1.01"),
        (GOOD - 0.1, ValueError, "images.*0...1.*-0.1"),
        (NOT_A_NUMBER, ValueError, "images.*NaN"),
        (GOOD + torch.inf, ValueError, "images.*inf"),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "random"])
def test_bad_images(images: Tensor, error: type[Exception], words: str, method: str) -> None:
    with pytest.raises(error, match=words):
        attribute(detectors(), images, method)


def test_rounding_errors_of_a_resize_pass() -> None:
    attribute(detectors(), GOOD + 1 + 1e-6, "gradcam")


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"method": "grad-cam"}, ValueError, r"'grad-cam'.*gradcam, gradcam\+\+, .*edges"),
        ({"method": "edges", "sigma": 1}, TypeError, "edges.*sigma.*none"),
        ({"method": "smoothgrad", "samples": 1}, TypeError, "samples.*sigma, n_samples"),
        ({"method": "smoothgrad", "n_samples": 0}, ValueError, "n_samples.*0"),
        ({"method": "smoothgrad", "sigma": -1.0}, ValueError, "sigma.*-1"),
        ({"method": "integrated_gradients", "steps": 0}, ValueError, "steps.*0"),
        ({"method": "integrated_gradients_squared", "n_samples": 0}, ValueError, "n_samples.*0"),
        ({"method": "scorecam", "n_channels": 0}, ValueError, "n_channels.*0"),
        ({"method": "gradcam", "output": "loss"}, ValueError, "output.*logit.*probability.*loss"),
        ({"batch_size": 0}, ValueError, "batch_size.*0"),
        ({"precision": "fp8"}, ValueError, "precision.*fp8"),
        ({"targets": [0, 2]}, ValueError, r"targets.*0\.\.\.1.*2 classes.*got 2"),
        ({"targets": [0, 2], "method": "smoothgrad"}, ValueError, "targets.*got 2"),
        ({"targets": [-1, 0]}, ValueError, "targets.*-1"),
        ({"targets": [0]}, ValueError, r"targets.*\(2,\).*\(1,\)"),
        ({"targets": torch.zeros(2, 1, dtype=torch.long)}, ValueError, r"targets.*\(2, 1\)"),
        ({"targets": [0.0, 1.0]}, TypeError, "targets.*float32"),
        ({"targets": [True, False]}, TypeError, "targets.*bool"),
        ({"target_layer": 3}, TypeError, "target_layer.*int"),
        ({"target_layer": "target_layer.4"}, ValueError, "target_layer.4.*target_layer.2"),
        ({"target_layer": nn.ReLU()}, ValueError, "target_layer ReLU ran 0 times"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        attribute(detectors(), GOOD, **arguments)


def test_layers_without_a_feature_map_are_refused(resnet: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"target_layer Linear.*\(3, 5\).*\[B, K, h, w\]"):
        attribute(resnet, images, target_layer=resnet.fc)
    with pytest.raises(ValueError, match="target_layer ReLU ran 2 times"):
        attribute(resnet, images, target_layer="layer1.0.relu")
    with pytest.raises(TypeError, match="target_layer"):
        attribute(Linear(torch.ones(3, 64, 64)), images)


@pytest.mark.parametrize("method", EXPLANATIONS)
@pytest.mark.parametrize("where", ["conv1.weight", "fc.bias"])
def test_broken_weights(images: Tensor, method: str, where: str) -> None:
    model = small_network("resnet")
    with torch.no_grad():
        model.get_parameter(where).view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN.*weights"):
        quick(model, images[:1], method, targets=[1])


def test_a_map_that_is_not_finite_names_the_method() -> None:
    """A gradient can overflow where no logit does."""
    weights = torch.full((3, 2, 2), 3e38)
    with pytest.raises(ValueError, match=r"'smoothgrad'.*images \[0, 1\]"):
        attribute(
            Linear(weights), torch.zeros(2, 3, 2, 2), "smoothgrad", [0, 0], squared=True, sigma=0.0
        )


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_batch(resnet: nn.Module, method: str) -> None:
    assert attribute(resnet, torch.zeros(0, 3, 9, 7), method).shape == (0, 9, 7)
