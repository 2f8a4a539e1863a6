"""Attribution: values worked out by hand, oracles, invariances."""

import copy
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.ops import Conv2dNormActivation
from toys import QUICK, Linear, Pooled, Quadratic, Red, Window, condition, detectors, patch, scaled
from toys import small_network as small

from geolib.attribution import METHODS, attribute
from geolib.model import load

CAMS = ["gradcam", "gradcam++", "layercam", "scorecam"]
CONTROLS = ["random", "edges"]
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
EXPLANATIONS = [method for method in METHODS if method not in CONTROLS]
EXACT = {"precision": "fp32"}
# What Combi-CAM must be told of a network without blocks.
LAYERS = {"combicam": {"layers": ["target_layer"]}}


class PaperNet(nn.Module):
    """Two feature maps, the red and the green channel of a 2 x 2 image; linear logits of both.

    The weights of class 0 are G below, those of class 1 are zero. ``mean`` is black, so that a
    Score-CAM mask multiplies the image.
    """

    G = torch.tensor([[[2.0, 1.0], [1.0, 0.0]], [[0.0, -2.0], [2.0, 2.0]]])

    def __init__(self):
        super().__init__()
        self.target_layer = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 2, bias=False)
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.target_layer[0].weight.data = torch.eye(3)[:2, :, None, None]
        self.head.weight.data = torch.stack([self.G.flatten(), torch.zeros(8)])

    def forward(self, images):
        return self.head(self.target_layer(images).flatten(1))


# A_red is diagonal and A_green is not, so each Score-CAM mask erases the other map.
PAPER_IMAGE = torch.tensor([[[[1.0, 0.0], [0.0, 0.5]], [[0.0, 0.4], [0.8, 0.0]], [[0.0] * 2] * 2]])


def quick(model, images, method, **options):
    """``attribute`` in float32, with few samples."""
    return attribute(model, images, method, **EXACT | QUICK.get(method, {}) | options)


def drawn(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# Values worked out by hand:
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
def test_cam_by_hand(method):
    found = attribute(PaperNet(), PAPER_IMAGE, method, targets=[0], precision="fp32")
    assert_close(found, scaled(torch.tensor([BY_HAND[method]])), atol=5e-6, rtol=0)


@pytest.mark.parametrize("method", [m for m in EXPLANATIONS if m != "combicam"])
def test_a_class_without_evidence_has_a_zero_map(method):
    """Class 1 has no weights: every gradient vanishes, and Score-CAM weighs both maps by 1/2."""
    found = attribute(PaperNet(), PAPER_IMAGE, method, targets=[1])
    if method == "scorecam":
        assert_close(found, scaled(PAPER_IMAGE[:, :2].mean(dim=1)), atol=0.01, rtol=0)
    else:
        assert torch.equal(found, torch.zeros(1, 2, 2))


def test_scorecam_counts_a_constant_channel_among_the_weights():
    """A third, constant map takes part in the softmax with the score of the plain colour.

    Scores 2, 1.2 and 0 (the black image): e² + e^1.2 + e^0 = 11.709.
    """
    model = PaperNet()
    model.target_layer = nn.Conv2d(3, 3, 1, bias=False)
    model.head = nn.Linear(12, 1, bias=False)
    model.target_layer.weight.data = torch.eye(3)[:, :, None, None]
    model.head.weight.data = torch.cat([model.G.flatten(), torch.zeros(4)])[None]
    image = PAPER_IMAGE.clone()
    image[:, 2] = 0.7
    raw = METHODS["scorecam"](model.requires_grad_(False), image, torch.tensor([0]))
    red, green, blue = np.exp([2, 1.2, 0]) / np.exp([2, 1.2, 0]).sum()
    by_hand = [[red + 0.7 * blue, 0.4 * green + 0.7 * blue]]
    by_hand += [[0.8 * green + 0.7 * blue, 0.5 * red + 0.7 * blue]]
    assert_close(raw, torch.tensor([by_hand], dtype=torch.float32))


def test_scorecam_of_a_subset_keeps_the_channels_with_the_largest_range():
    """Red spans 1, green 0.8; red alone has weight 1."""
    found = attribute(PaperNet(), PAPER_IMAGE, "scorecam", [0], n_channels=1, precision="fp32")
    assert_close(found, PAPER_IMAGE[:, 0])


@pytest.mark.parametrize("method", CAMS)
def test_negative_evidence_is_cut_off(method):
    """The only map is red - 1/2 and has a positive weight everywhere: what remains is its ReLU."""
    model = Red(nn.Conv2d(1, 1, 1))
    model.target_layer.weight.data.fill_(1)
    model.target_layer.bias.data.fill_(-0.5)
    red = torch.tensor([[[1.0, 0.0], [0.3, 0.75]]])
    found = attribute(model, red.expand(1, 3, 2, 2), method, precision="fp32")
    assert_close(found, torch.tensor([[[1.0, 0.0], [0.0, 0.5]]]))


@pytest.mark.parametrize("method", CAMS)
def test_maps_are_upsampled_between_pixel_centres(method):
    """Two columns 0, 1 on four: centres at -1/4, 1/4, 3/4, 5/4, clamped to the map."""
    image = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 3, 4, 4)
    found = attribute(Red(nn.AvgPool2d(2)), image, method, precision="fp32")
    assert_close(found, torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(1, 4, 4))


@given(seed=st.integers(0, 2**32), sigma=st.floats(0, 3), squared=st.booleans())
@settings(max_examples=25, deadline=None)
def test_smoothgrad_of_a_linear_model_is_its_weights(seed, sigma, squared):
    weights = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(7))
    options = {"n_samples": 3, "sigma": sigma, "seed": seed, "squared": squared}
    batch = drawn(2, 3, 5, 6, seed=8)
    found = attribute(Linear(weights), batch, "smoothgrad", [0, 0], **EXACT, **options)
    largest = weights.abs().amax(dim=0)
    expected = scaled((largest.square() if squared else largest)[None]).expand(2, 5, 6)
    assert_close(found, expected, atol=1e-5, rtol=0)


def test_smoothgrad_noise_has_the_stated_size_and_is_shared_by_all_images():
    """Of Σ x²/2 the gradient is x, so the raw map is |x + mean noise| and shows the noise."""
    weights = torch.zeros(3, 64, 64)
    weights[0] = 0.5
    shades = torch.tensor([0.5, 1.0])[:, None, None, None].expand(2, 3, 64, 64)
    given = Quadratic(weights).requires_grad_(False), shades, torch.tensor([0, 0])
    noise = METHODS["smoothgrad"](*given, sigma=0.1, n_samples=16) - shades[:, 0]
    # 4,096 pixels: the standard deviation is known to about 1 %.
    assert noise.std(dim=(1, 2)).tolist() == pytest.approx([0.1 / 4] * 2, rel=0.05)
    assert_close(noise[0], noise[1], atol=1e-6, rtol=0)
    squared = METHODS["smoothgrad"](*given, squared=True, sigma=0.1, n_samples=64)
    # E (x + n)² = x² + σ².
    assert squared.mean(dim=(1, 2)).tolist() == pytest.approx([0.26, 1.01], rel=0.01)


def test_smoothgrad_averages_signed_gradients():
    """Of |x - 1/2| the gradient is ±1: noise around the kink cancels, away from it nothing does."""

    def kink(images):
        return (images - 0.5).abs().sum(dim=(1, 2, 3))[:, None]

    image = torch.full((1, 3, 32, 64), 0.5)
    image[..., 32:] = 1.0
    raw = METHODS["smoothgrad"](kink, image, torch.tensor([0]), sigma=0.1, n_samples=100)
    assert raw[..., 32:].min() == 1
    # The largest of three |means| of 100 signs: about 0.13 on average.
    assert raw[..., :32].mean() < 0.2


@given(
    image=arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 255)),
    baseline=st.tuples(*[st.floats(0, 1, width=32)] * 3),
)
@settings(max_examples=30, deadline=None)
def test_integrated_gradients_of_a_quadratic(image, baseline):
    """Of Σ w·x² a pixel's share is w·(x² - b²), by any quadrature exact on straight lines."""
    weights = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(3))
    batch = torch.from_numpy(image)[None].float() / 255
    model = Quadratic(weights)
    model.mean = torch.tensor(baseline).view(1, 3, 1, 1)
    raw = METHODS["integrated_gradients"](model, batch.clone(), torch.tensor([0]), steps=3)
    expected = (weights * (batch.square() - model.mean.square())).sum(dim=1).abs()
    assert_close(raw, expected, atol=1e-5, rtol=1e-4)


def test_probability_is_attributed_when_asked_for():
    """For two classes ∂p/∂A = p(1-p)·(∂z₀-∂z₁)/∂A: Grad-CAM of class 1 is that of -G."""
    found = attribute(PaperNet(), PAPER_IMAGE, "gradcam", [0], output="probability")
    assert_close(found, scaled(torch.tensor([BY_HAND["gradcam"]])), atol=0.01, rtol=0)
    opposite = attribute(PaperNet(), PAPER_IMAGE, "layercam", [1], output="probability")
    # relu(-G)·A is 2·0.4 in the upper right corner and zero elsewhere.
    assert torch.equal(opposite, torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]))


def test_gradcam_plusplus_has_no_form_for_the_probability():
    with pytest.raises(ValueError, match=r"output='probability'.*exponential.*gradcam or layercam"):
        attribute(PaperNet(), PAPER_IMAGE, "gradcam++", output="probability")


def test_upsampling_and_scaling_have_another_form():
    """Two columns of 0.2 and 1 on four, without smoothing; four values by their ranks 1, 2.5, 4."""
    image = torch.tensor([0.2, 0.2, 1.0, 1.0]).expand(1, 3, 4, 4)
    found = attribute(Red(nn.AvgPool2d(2)), image, "gradcam", nearest=True, precision="fp32")
    assert_close(found, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 4, 4))
    red = torch.tensor([[[0.0, 0.2], [0.2, 1.0]]]).expand(1, 3, 2, 2)
    ranked = attribute(Red(), red, "gradcam", scaling="rank", precision="fp32")
    assert_close(ranked, torch.tensor([[[0.0, 0.5], [0.5, 1.0]]]))
    flat = attribute(Red(), torch.full((1, 3, 2, 2), 0.37), "gradcam", scaling="rank")
    assert torch.equal(flat, torch.zeros(1, 2, 2))


def test_edges_of_a_step():
    image = torch.tensor([0.0] * 4 + [0.8] * 4).expand(1, 3, 6, 8)
    expected = torch.tensor([0.0] * 3 + [1.0] * 2 + [0.0] * 3).expand(1, 6, 8)
    assert_close(attribute(Red(), image, "edges"), expected)


@given(image=arrays(np.uint8, (4, 5), elements=st.integers(0, 255)))
@settings(max_examples=50, deadline=None)
def test_maps_are_min_max_scaled(image):
    """Of the mean of red, Grad-CAM is proportional to red; a constant map is zero."""
    red = torch.from_numpy(image).float() / 255
    found = attribute(Red(), red.expand(1, 3, 4, 5), "gradcam", precision="fp32")
    if image.min() == image.max():
        assert torch.equal(found, torch.zeros(1, 4, 5))
    else:
        assert_close(found, scaled(red[None]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("shade", [0.1, 0.37, 0.7])
def test_rounding_of_the_upsampling_is_not_taken_for_a_map(method, shade):
    found = attribute(Red(nn.AvgPool2d(3)), torch.full((1, 3, 21, 15), shade), method)
    assert torch.equal(found, torch.zeros(1, 21, 15))


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e6])
@pytest.mark.parametrize("method", ["gradcam", "layercam", "smoothgrad", "integrated_gradients"])
def test_the_size_of_the_logits_does_not_matter(method, factor):
    weak = PaperNet()
    weak.head.weight.data *= factor
    found = attribute(weak, PAPER_IMAGE, method, [0], precision="fp32")
    expected = attribute(PaperNet(), PAPER_IMAGE, method, [0], precision="fp32")
    assert_close(found, expected, atol=1e-5, rtol=0)


# The blur of RISE's masks and the reach of a segment are larger than the window.
@pytest.mark.parametrize("method", sorted({*EXPLANATIONS, "random"} - {"rise", "occlusion"}))
def test_evidence_is_found_where_the_network_looks(method, images):
    torch.manual_seed(5)
    model = Window(slice(8, 32), slice(32, 56))
    found = attribute(model, images, method, precision="fp32", **LAYERS.get(method, {}))
    # One position of the feature map around the window sees some of it.
    inside = found[:, 5:35, 29:59].sum(dim=(1, 2)) / found.sum(dim=(1, 2))
    if method == "random":
        assert inside.max() < 0.5  # the window's share of the image is 0.22
    else:
        assert inside.min() > 0.95


@pytest.mark.parametrize("method", EXPLANATIONS)
@pytest.mark.parametrize("target", [0, 1])
def test_evidence_belongs_to_the_class_asked_for(method, target):
    """One red and one green patch on grey noise, and a class for each."""
    image = 0.5 + 0.02 * torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    patches = [(slice(6, 18), slice(6, 18)), (slice(26, 38), slice(30, 42))]
    for channel, (rows, columns) in enumerate(patches):
        image[:, :, rows, columns] = 0.0
        image[:, channel, rows, columns] = 1.0
    options = LAYERS.get(method, {})
    found = attribute(detectors(), image.clamp(0, 1), method, targets=[target], **options)[0]
    k = 12 * 12 // 2
    top = torch.zeros(48 * 48).index_fill(0, found.flatten().topk(k).indices, 1).view(48, 48)
    rows, columns = patches[target]
    assert top[rows, columns].sum() / k > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_order_do_not_matter(network, images, method):
    together = quick(network, images, method)
    alone = torch.cat([quick(network, image[None], method) for image in images])
    in_twos = quick(network, images, method, batch_size=2)
    backwards = quick(network, images.flip(0), method).flip(0)
    for other in (alone, in_twos, backwards):
        assert_close(together, other, atol=2e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_state_is_neither_read_nor_written(resnet, images, method):
    maps = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        maps.append(quick(resnet, images[:2], method))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(maps[0], maps[1])
    batch = images[:2].clone().requires_grad_()
    maps.append(quick(resnet, batch, method))
    assert batch.grad is None and not maps[-1].requires_grad
    for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with mode:
            maps.append(quick(resnet, images[:2].clone(), method))
    for other in maps[2:]:
        assert_close(maps[0], other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_classifier_is_left_as_it_was(images, method):
    model = small("resnet")
    expected = quick(copy.deepcopy(model), images[:2], method)
    model.train()
    model.layer1.eval()
    model.conv1.weight.requires_grad_(False)
    model.fc.bias.grad = torch.full_like(model.fc.bias, 3.0)
    before = condition(model)
    assert_close(quick(model, images[:2], method), expected, atol=1e-5, rtol=0)
    quick(model, images[:2], method, precision="bf16")
    assert_close(condition(model), before, atol=0, rtol=0)
    if method not in CONTROLS:
        with pytest.raises(ValueError, match=r"targets.*got 5"):
            quick(model, images, method, targets=[0, 0, 5], precision="bf16")
        assert_close(condition(model), before, atol=0, rtol=0)


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_the_order_of_the_classes_does_not_matter(resnet, images, method):
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = copy.deepcopy(resnet)
    shuffled.fc.weight.data = resnet.fc.weight.data[order]
    shuffled.fc.bias.data = resnet.fc.bias.data[order]
    for moved, targets in [(None, None), (torch.arange(2), order[:2])]:
        found = quick(shuffled, images[:2], method, targets=moved)
        expected = quick(resnet, images[:2], method, targets=targets)
        assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_default_targets_are_the_predicted_classes(network, images, method):
    with torch.no_grad():
        predicted = network(images).argmax(dim=1)
    expected = quick(network, images, method, targets=predicted)
    assert_close(quick(network, images, method), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", CAMS)
def test_a_layer_before_an_in_place_activation(images, method):
    """``bn1`` of a residual block is followed by an in-place ReLU; its negative values count."""
    model = small("resnet")
    expected = quick(copy.deepcopy(model), images, method, target_layer="layer3.0.bn1")
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    found = quick(model, images, method, target_layer=model.layer3[0].bn1)
    assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, quick(model, images, method), atol=0.1)


def test_random_maps_follow_the_content(images):
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


def test_random_maps_prefer_no_place():
    maps = attribute(Red(), drawn(400, 3, 14, 14, seed=0), "random")
    top = maps >= maps.flatten(1).quantile(0.8, dim=1)[:, None, None]
    quarters = F.avg_pool2d(top.float(), 7).mean(dim=0)
    # A quarter's share varies by about 0.1 from map to map: 0.005 over 400.
    assert (quarters - 0.2).abs().max() < 0.03


@pytest.fixture
def passed(resnet):
    """The size of each batch that passes the network."""
    sizes = []
    hook = resnet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    yield sizes
    hook.remove()


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam"])
def test_cams_take_one_pass(resnet, images, method, passed):
    attribute(resnet, images, method)
    assert passed == [3]


def test_scorecam_passes_each_live_channel_once(images):
    model, sizes, maps = small("resnet"), [], []
    block, shortcut = model.layer4[0], model.layer4[0].downsample[1]
    block.bn2.bias.data[:300] = -100  # the ReLU silences these
    shortcut.weight.data[:300] = shortcut.bias.data[:300] = 0
    hook = block.register_forward_hook(lambda *call: maps.append(call[2]))
    model(images[:2])
    hook.remove()
    live = sum(len(channel.unique()) > 1 for channel in maps[0].flatten(0, 1))
    assert 100 < live <= 2 * 212
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    attribute(model, images[:2], "scorecam", batch_size=50, precision="fp32")
    assert max(sizes) <= 50
    assert sum(sizes) == 2 + 1 + live, "the images, the plain colour, a mask per channel"


@pytest.mark.parametrize("method", ["smoothgrad", "integrated_gradients"])
def test_gradients_take_one_pass_per_step_and_bounded_memory(resnet, images, method, passed):
    quick(resnet, images, method, batch_size=5)
    assert sum(passed) == 3 + 3 * 3
    assert max(passed) <= 6
    passed.clear()
    quick(resnet, images[:1], method, batch_size=5)
    assert passed == [1, 3], "the samples of one image go together"


@pytest.fixture(scope="module")
def trained():
    """A small network that learnt to name the colour of a patch; eight images, their classes."""

    def draw(first, n_images):
        numbers = torch.arange(first, first + n_images)
        shown = torch.from_numpy(np.stack([patch(number) for number in numbers.tolist()]))
        return shown.movedim(-1, 1).float() / 255, numbers % 3

    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [Conv2dNormActivation(i, o, stride=2) for i, o in [(3, 16), (16, 32), (32, 64)]]
        model = Pooled(nn.Sequential(*layers), nn.Linear(64, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        shown, labels = draw(32 * step, 32)
        optimizer.zero_grad()
        F.cross_entropy(model(shown), labels).backward()
        optimizer.step()
    shown, labels = draw(10_000, 8)
    predicted = model.eval()(shown).argmax(dim=1)
    assert (predicted == labels).float().mean() > 0.8
    return model, shown, predicted


def overlap(a, b):
    """Intersection over union of the two maps' top fifth of pixels."""
    k = a.numel() // 5
    top = [set(image_map.flatten().topk(k).indices.tolist()) for image_map in (a, b)]
    return len(top[0] & top[1]) / len(top[0] | top[1])


@pytest.mark.parametrize("method", [*CAMS, "combicam"])
def test_bf16_maps_of_cams_agree_with_fp32(trained, method):
    every = {"layers": ["target_layer.0", "target_layer.1", "target_layer.2"]}
    options = every if method == "combicam" else {}
    exact, fast = (
        attribute(trained[0], trained[1], method, trained[2], precision=precision, **options)
        for precision in ("fp32", "bf16")
    )
    assert not torch.equal(exact, fast)
    for a, b in zip(exact, fast, strict=True):
        assert spearmanr(a.flatten(), b.flatten()).statistic > 0.95
        assert overlap(a, b) > 0.85


@pytest.mark.parametrize("method", ["smoothgrad", "rise"])
def test_bf16_changes_a_map_less_than_another_seed_does(trained, method):
    model, shown, targets = trained
    exact, other, fast = (
        attribute(model, shown, method, targets, precision=precision, seed=seed)
        for precision, seed in [("fp32", 0), ("fp32", 1), ("bf16", 0)]
    )
    for a, b, c in zip(exact, other, fast, strict=True):
        from_seed = spearmanr(a.flatten(), b.flatten()).statistic
        from_precision = spearmanr(a.flatten(), c.flatten()).statistic
        assert 1 - from_precision < (1 - from_seed) / 2


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_auto_keeps_small_differences_in_float32(trained, method):
    auto, fp32, bf16 = (
        attribute(*trained[:2], method, precision=precision)
        for precision in ("auto", "fp32", "bf16")
    )
    assert torch.equal(auto, fp32)
    assert not torch.equal(bf16, fp32)


GOOD = torch.zeros(2, 3, 8, 8)


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
        (GOOD * torch.nan, ValueError, "images.*NaN"),
        (GOOD + torch.inf, ValueError, "images.*inf"),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "random"])
def test_bad_images(images, error, words, method):
    with pytest.raises(error, match=words):
        attribute(detectors(), images, method)


def test_rounding_errors_of_a_resize_pass():
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
        ({"method": "rise", "n_masks": 0}, ValueError, "n_masks.*0"),
        ({"method": "occlusion", "n_segments": 0}, ValueError, "n_segments.*0"),
        ({"scaling": "max"}, ValueError, "scaling.*min-max.*rank.*max"),
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
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        attribute(detectors(), GOOD, **arguments)


def test_layers_without_a_feature_map_are_refused(resnet, images):
    with pytest.raises(ValueError, match=r"target_layer Linear.*\(3, 5\).*\[B, K, h, w\]"):
        attribute(resnet, images, target_layer=resnet.fc)
    with pytest.raises(ValueError, match="target_layer ReLU ran 2 times"):
        attribute(resnet, images, target_layer="layer1.0.relu")
    with pytest.raises(TypeError, match="target_layer"):
        attribute(Linear(torch.ones(3, 64, 64)), images)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.softmax, self.value, self.query = nn.Softmax(dim=-1), nn.Identity(), nn.Identity()

    def forward(self, maps):
        keys = self.value(maps).flatten(2)
        return self.softmax(self.query(keys.mT[:, None]) @ keys[:, None])


class Tokens(nn.Module):
    """Eight channels of 8 x 8, also with the channels last, as windows, and their attention."""

    def __init__(self, n_channels):
        super().__init__()
        self.first = nn.Conv2d(3, n_channels, 4, stride=4)
        self.last, self.windows, self.attention = nn.Identity(), nn.Identity(), Attention()
        self.head = nn.Linear(n_channels, 3)

    def forward(self, images):
        last = self.last(self.first(images).permute(0, 2, 3, 1))
        first = self.windows(last.unflatten(1, (2, -1)).flatten(0, 1).permute(0, 3, 1, 2))
        first = first.unflatten(0, (-1, 2)).permute(0, 2, 1, 3, 4).flatten(2, 3)
        return self.head(first.mean(dim=(2, 3)) + self.attention(first).mean(dim=(2, 3)))


@pytest.mark.parametrize("n_channels", [8, 12])
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("last", r"puts out Tensor \(2, 8, 8, .*channels first"),
        ("windows", r"puts out Tensor \(4, .* for 2 images"),
        ("attention.softmax", r"puts out Tensor \(2, 1, 64, 64\).*attention"),
        ("attention.query", r"puts out Tensor \(2, 1, 64, .*attention"),
    ],
)
def test_maps_that_are_none_of_the_images_are_refused(n_channels, layer, words):
    model, images = Tokens(n_channels), drawn(2, 3, 32, 32, seed=0)
    for parameter in model.parameters():
        parameter.data.abs_()
    for kept in ("first", "attention.value"):
        assert attribute(model, images, target_layer=kept).shape == (2, 32, 32)
    for options in ({"target_layer": layer}, {"method": "combicam", "layers": [layer]}):
        with pytest.raises(ValueError, match=words):
            attribute(model, images, **options)


@pytest.mark.parametrize("shape", [(16, 32, 32), (2, 1, 32, 32), (2, 8, 8), (32, 32), ()])
def test_a_method_gives_one_map_per_image(monkeypatch, shape):
    monkeypatch.setitem(METHODS, "mine", lambda classifier, images, targets: torch.zeros(shape))
    words = rf"'mine'.*target_layer.*{re.escape(str(shape))}; expected a tensor \(2, 32, 32\)"
    with pytest.raises(ValueError, match=words):
        attribute(Tokens(8), torch.zeros(2, 3, 32, 32), "mine")


@pytest.mark.parametrize("method", METHODS)
def test_a_network_of_tokens(method):
    """Methods that need no layer explain it; the others name these."""
    name = "vit_tiny_patch16_224?img_size=32&patch_size=8&depth=2&embed_dim=16&num_heads=2"
    model = load(name, weights="random", classes=["A", "B"], image_size=32)
    images = drawn(2, 3, 32, 32, seed=0)
    if method in [*CAMS, "combicam"]:
        option = "layers=" if method == "combicam" else "target_layer="
        with pytest.raises(ValueError, match=f"use smoothgrad or integrated_gradients.*{option}"):
            attribute(model, images, method)
    else:
        assert attribute(model, images, method).amax(dim=(1, 2)).tolist() == [1, 1]
    if method in CAMS:
        named = attribute(model, images, method, target_layer="network.patch_embed.proj")
        assert named.shape == (2, 32, 32)


@pytest.mark.parametrize("method", EXPLANATIONS)
@pytest.mark.parametrize("where", ["conv1.weight", "fc.bias"])
def test_broken_weights(images, method, where):
    model = small("resnet")
    model.get_parameter(where).data.view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN.*weights"):
        quick(model, images[:1], method, targets=[1])


def test_a_map_that_is_not_finite_names_the_method():
    """A gradient can overflow where no logit does."""
    model, black = Linear(torch.full((3, 2, 2), 3e38)), torch.zeros(2, 3, 2, 2)
    with pytest.raises(ValueError, match=r"'smoothgrad'.*images \[0, 1\]"):
        attribute(model, black, "smoothgrad", [0, 0], squared=True, sigma=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_batch(resnet, method):
    assert attribute(resnet, torch.zeros(0, 3, 9, 7), method).shape == (0, 9, 7)
