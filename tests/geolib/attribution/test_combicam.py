"""Combi-CAM: worked out by hand, and against one backward pass per layer."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision import models
from toys import BasicBlock, Plain, chain, condition, scaled, small_network

from geolib.attribution import attribute, block_sizes, combicam_layers
from geolib.attribution.blocks import block_modules

EXACT = {"precision": "fp32"}
RED = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
IMAGE = torch.stack([RED, torch.zeros(3, 3), torch.zeros(3, 3)])[None]

EFFICIENT = [1, 2, 2, 3, 3, 4, 1]  # blocks of EfficientNet-B0's stages
BLOCKS = {
    "resnet": [f"layer{stage}.0" for stage in range(1, 5)],
    "mobilenet": [f"features.{i}" for i in range(1, 18)],
    "efficientnet": [f"features.{k}.{i}" for k, n in enumerate(EFFICIENT, 1) for i in range(n)],
    "convnext": ["features.1.0", "features.3.0", "features.5.0", "features.5.1"],
}


class TwoBlocks(nn.Module):
    """The red channel, a block that follows it, and a logit linear in that; logit 1 is 0."""

    def __init__(self, second, weights):
        super().__init__()
        self.red, self.second = BasicBlock(nn.Identity()), BasicBlock(second)
        self.weights = torch.stack([weights, torch.zeros_like(weights)])

    def forward(self, images):
        return self.second(self.red(images[:, :1])).flatten(1) @ self.weights.T


def one_layer(network, block, image, target):
    """The block's class activation map of one image ``[3, H, W]``, from passes of its own."""
    kept = []
    handle = block.register_forward_hook(lambda module, inputs, output: kept.append(output))
    probability = network(image[None]).softmax(dim=1)[0, target]
    handle.remove()
    (slope,) = torch.autograd.grad(probability, kept[0])
    total = torch.zeros(kept[0].shape[2:], dtype=image.dtype)
    for channel, derivative in zip(kept[0][0], slope[0], strict=True):
        total += derivative.mean() * channel.detach()
    coarse = total.clamp(min=0)[None, None]
    return F.interpolate(coarse, image.shape[1:], mode="bilinear", align_corners=True)[0, 0]


def stacked(maps):
    """Maps by block as ``[N, B, H, W]``."""
    return torch.stack(list(maps.values()))


def test_two_blocks_by_hand():
    """Σ W = 4, spread over 9 pixels of red and over 4 means.

    Means of the windows: 1/8, 0, 0, 1/4. Their logit is 2/8 + 2/4 = 3/4, and the derivative of
    the probability by it p (1 - p). Weight of red 4/9, of the means 4/4. Between the four means
    stand their averages: 1/16, 3/32, 1/8.
    """
    model = TwoBlocks(nn.AvgPool2d(2, stride=1), torch.tensor([2.0, 1.0, -1.0, 2.0]))
    p = 1 / (1 + torch.tensor(-0.75).exp())
    means = torch.tensor([[1 / 8, 1 / 16, 0], [1 / 16, 3 / 32, 1 / 8], [0, 1 / 8, 1 / 4]])
    by_hand = p * (1 - p) * torch.stack([4 / 9 * RED, means])
    found = combicam_layers(model, IMAGE, **EXACT)
    assert list(found) == ["red", "second"]
    assert_close(stacked(found)[:, 0], by_hand)
    assert_close(attribute(model, IMAGE, "combicam", **EXACT), scaled(by_hand.sum(0)[None]))


def test_each_layer_is_cut_at_zero_before_the_sum():
    """Of red - 1/2 the negative part must not eat into the layer before."""
    shift = nn.BatchNorm2d(1, eps=0)
    shift.running_mean.fill_(0.5)
    found = attribute(TwoBlocks(shift, torch.ones(9)), IMAGE, "combicam", [0], **EXACT)[0]
    # Both weights are equal: red + relu(red - 1/2) = 1/2 and 3/2 in the corners.
    assert_close(found, torch.tensor([[1 / 3, 0, 0], [0, 0, 0], [0, 0, 1]]))


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_agrees_with_passes_of_its_own(name, images):
    model, targets = small_network(name), [0, 1, 2]
    found = combicam_layers(model, images, targets, **EXACT)
    assert list(found) == BLOCKS[name]
    blocks = [model.get_submodule(block) for block in found]
    pairs = list(zip(images, targets, strict=True))
    rows = [torch.stack([one_layer(model, block, *pair) for pair in pairs]) for block in blocks]
    slow = torch.stack(rows)
    total = slow.sum(dim=0)
    assert total.amax() > 0
    worst = (stacked(found) - slow).abs().amax(dim=(2, 3)) / total.amax(dim=(1, 2))
    assert worst.max() < 1e-5
    whole = attribute(model, images, "combicam", targets, **EXACT)
    assert_close(whole, scaled(total), atol=1e-5, rtol=0)


def test_one_pass_forward_and_one_backward(images):
    resnet, passes = small_network("resnet"), []
    resnet.register_forward_hook(lambda *_: passes.append("forward"))
    resnet.fc.register_full_backward_hook(lambda *_: passes.append("head"))
    resnet.layer2[0].register_full_backward_hook(lambda *_: passes.append("second block"))
    attribute(resnet, images, "combicam")
    assert passes == ["forward", "head", "second block"]
    combicam_layers(resnet, images)
    assert passes == ["forward", "head", "second block"] * 2


@pytest.mark.parametrize("target", [0, 1, 2])
def test_activations_in_place_after_a_block(images, target):
    """Negative values count in a block's map, and what follows must not overwrite them."""
    targets = [target] * 3
    found = combicam_layers(chain(lambda: nn.ReLU(inplace=True)), images, targets, **EXACT)
    expected = combicam_layers(chain(nn.ReLU), images, targets, **EXACT)
    assert stacked(expected).max() > 0
    assert_close(found, expected)


def test_a_certain_prediction_still_has_a_map(images):
    """Where 1 - p is 1e-12, p is 1 in float32 and its own derivative would be rounding errors."""
    model = chain(nn.Tanh)
    model.head.weight.data *= 60
    model.head.bias.data = torch.tensor([28.0, 0.0, 1.0])
    assert model(images).softmax(dim=1)[0, 0] == 1
    exact = copy.deepcopy(model).double()
    blocks = [module for module in exact.modules() if isinstance(module, BasicBlock)]
    expected = sum(one_layer(exact, block, images[0].double(), 0) for block in blocks)[None]
    found = attribute(model, images[:1], "combicam", [0], **EXACT)
    assert_close(found.double(), scaled(expected), atol=1e-3, rtol=0)


def test_maps_do_not_depend_on_the_batch(resnet, images):
    together = stacked(combicam_layers(resnet, images, [0, 1, 2], **EXACT))
    backwards = stacked(combicam_layers(resnet, images.flip(0), [2, 1, 0], **EXACT))
    singly = stacked(combicam_layers(resnet, images, [0, 1, 2], batch_size=1, **EXACT))
    alone = stacked(combicam_layers(resnet, images[1:2], [1], **EXACT))
    assert together.min() >= 0 and together.shape == (4, 3, 64, 64)
    close = {"rtol": 0, "atol": 1e-5 * together.sum(dim=0).max().item()}
    assert_close(backwards.flip(1), together, **close)
    assert_close(singly, together, **close)
    assert_close(alone, together[:, 1:2], **close)
    assert stacked(combicam_layers(resnet, images[:0])).shape == (4, 0, 64, 64)


def test_the_network_is_left_as_it_was(images):
    model = small_network("resnet").train()
    before = condition(model)
    combicam_layers(model, images)
    block_sizes(model, images)
    assert_close(condition(model), before, atol=0, rtol=0)


@pytest.mark.parametrize(
    "name, timm_name, n_blocks",
    [
        ("resnet18", "resnet18", 8),
        ("resnet50", "resnet50", 16),
        ("mobilenet_v2", "mobilenetv2_100", 17),
        ("efficientnet_b0", "efficientnet_b0", 16),
        ("efficientnet_v2_s", "tf_efficientnetv2_s", 40),
        ("convnext_tiny", "convnext_tiny", 18),
    ],
)
def test_timm_has_the_blocks_of_torchvision(name, timm_name, n_blocks):
    with torch.device("meta"):
        ours, theirs = models.get_model(name, weights=None), timm.create_model(timm_name)
    assert len(block_modules(ours, None)) == len(block_modules(theirs, None)) == n_blocks


@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "mobilenetv4_hybrid_medium"])
def test_blocks_of_mobilenets_with_attention(name):
    with torch.device("meta"):
        network = timm.create_model(name)
    whole = [f"blocks.{i}.{k}" for i, some in enumerate(network.blocks) for k in range(len(some))]
    assert list(block_modules(network, None)) == whole


# What these share with other networks is a part of them: a stem, a stage, half of every block.
PARTLY = ["ghostnet_050", "tiny_vit_5m_224", "maxvit_t", "coatnext_nano_rw_224"]


@pytest.mark.parametrize("name", [*PARTLY, "vit_tiny_patch16_224"])
def test_networks_whose_blocks_are_known_in_part_are_refused(name):
    with torch.device("meta"):
        network = timm.create_model(name) if timm.is_model(name) else models.get_model(name)
    words = f"no blocks of {type(network).__name__}, or few.*use smoothgrad or integr.*layers="
    with pytest.raises(ValueError, match=words):
        block_modules(network, None)


def test_networks_of_timm(images):
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=3, ls_init_value=1.0).eval()
    found = combicam_layers(model, images[:2], [0, 1], **EXACT)
    assert len(found) == 12
    expected = one_layer(model, model.stages[2].blocks[0], images[1], 1)
    assert_close(found["stages.2.blocks.0"][1], expected, rtol=1e-3, atol=1e-8)


def test_sizes_of_the_blocks(resnet, images):
    sides = zip(BLOCKS["resnet"], (16, 8, 4, 2), strict=True)
    assert block_sizes(resnet, images) == {name: (side, side) for name, side in sides}


def test_named_layers_replace_the_blocks(resnet, images):
    some = ["layer2.0", "layer4.0"]
    every = combicam_layers(resnet, images, **EXACT)
    chosen = combicam_layers(resnet, images, layers=some, **EXACT)
    assert list(chosen) == some
    assert_close(chosen, {name: every[name] for name in some}, rtol=1e-4, atol=1e-8)
    whole = attribute(resnet, images, "combicam", layers=some, **EXACT)
    assert_close(whole, scaled(stacked(chosen).sum(0)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "model, layers, error, words",
    [
        (Plain(), None, ValueError, r"no blocks of Plain.*layers=\[.*features"),
        (Plain(), "features", TypeError, "layers.*sequence.*'features'"),
        (Plain(), [], ValueError, "layers is empty"),
        (Plain(), ["feature"], ValueError, "layers 'feature' is no module.*features"),
        (Plain(), ["head"], ValueError, r"head puts out Tensor.*\[B, K, h, w\]"),
        (Plain(), ["features", "aside"], ValueError, "aside does not lead to the logits"),
        (Plain(n_classes=1), ["features"], ValueError, "two classes"),
    ],
)
def test_networks_and_layers_that_cannot_do(model, layers, error, words, images):
    with pytest.raises(error, match=words):
        attribute(model, images, "combicam", layers=layers)
    with pytest.raises(error, match=words):
        combicam_layers(model, images, layers=layers)
    assert not any(condition(model)["hooks"])
