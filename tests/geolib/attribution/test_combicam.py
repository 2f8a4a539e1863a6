"""Combi-CAM: worked out by hand, and against one backward pass per layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from toys import BasicBlock, Plain, chain, scaled, smooth_images

from geolib.attribution import attribute, block_sizes, combicam_layers
from geolib.attribution.blocks import block_modules


class TwoBlocks(nn.Module):
    """The red channel, its means over 2 x 2 windows, and a logit linear in these; logit 1 is 0."""

    W = torch.tensor([[2.0, 1.0], [-1.0, 2.0]])

    def __init__(self) -> None:
        super().__init__()
        self.red = BasicBlock(nn.Identity())
        self.means = BasicBlock(nn.AvgPool2d(2, stride=1))
        self.head = nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.stack([self.W.flatten(), torch.zeros(4)]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.means(self.red(images[:, :1])).flatten(1))


RED = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
IMAGE = torch.stack([RED, torch.zeros(3, 3), torch.zeros(3, 3)])[None]


def torchvision_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    # As trained ConvNeXts have it; the initial 1e-6 would make the blocks do nothing.
    options = {"layer_scale": 1.0} if name == "convnext_tiny" else {}
    return models.get_model(name, weights=None, num_classes=5, **options).eval()


# Where the blocks stand, and how many there are (17 is MobileNetV2's Table 2).
STAGES = {
    "resnet18": (["layer1", "layer2", "layer3", "layer4"], 8),
    "mobilenet_v2": (["features"], 17),
    "efficientnet_b0": ([f"features.{i}" for i in range(1, 8)], 16),
    "convnext_tiny": ([f"features.{i}" for i in (1, 3, 5, 7)], 18),
}


def blocks_of(network: nn.Module, name: str) -> dict[str, nn.Module]:
    stages, n_blocks = STAGES[name]
    found = {
        f"{stage}.{child}": module
        for stage in stages
        for child, module in network.get_submodule(stage).named_children()
    }
    if name == "mobilenet_v2":  # its first and last features are plain convolutions
        found = dict(list(found.items())[1:-1])
    assert len(found) == n_blocks
    return found


@pytest.fixture(scope="module", params=STAGES)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, dict[str, nn.Module]]:
    built = torchvision_network(request.param)
    return built, blocks_of(built, request.param)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return torchvision_network("resnet18")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return smooth_images(2)


def one_layer(network: nn.Module, block: nn.Module, image: Tensor, target: int) -> Tensor:
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


# --- By hand ---------------------------------------------------------------------------------


def test_two_blocks_by_hand() -> None:
    """Σ W = 4, spread over 9 pixels of red and over 4 means.

    Means of the windows: 1/8, 0, 0, 1/4. Their logit is 2/8 + 2/4 = 3/4, and the derivative of
    the probability by it p (1 - p). Weight of red 4/9, of the means 4/4. Between the four means
    stand their averages: 1/16, 3/32, 1/8.
    """
    p = 1 / (1 + torch.tensor(-0.75).exp())
    red = 4 / 9 * RED
    means = [[1 / 8, 1 / 16, 0], [1 / 16, 3 / 32, 1 / 8], [0, 1 / 8, 1 / 4]]
    by_hand = {"red": p * (1 - p) * red, "means": p * (1 - p) * torch.tensor(means)}
    found = combicam_layers(TwoBlocks(), IMAGE, precision="fp32")
    assert list(found) == ["red", "means"]
    for name, expected in by_hand.items():
        torch.testing.assert_close(found[name][0], expected)
    total = sum(by_hand.values())[None]
    torch.testing.assert_close(
        attribute(TwoBlocks(), IMAGE, "combicam", precision="fp32"), scaled(total)
    )


def test_each_layer_is_cut_at_zero_before_the_sum() -> None:
    """Of red - 1/2 the negative part must not eat into the layer before."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.red = BasicBlock(nn.Identity())
            self.less = BasicBlock(nn.BatchNorm2d(1, eps=0))
            self.less[0].running_mean.fill_(0.5)

        def forward(self, images: Tensor) -> Tensor:
            score = self.less(self.red(images[:, :1])).mean(dim=(2, 3))
            return torch.cat([score, torch.zeros_like(score)], dim=1)

    found = attribute(Shifted(), IMAGE, "combicam", [0], precision="fp32")[0]
    # Both weights are equal: red + relu(red - 1/2) = 1/2 and 3/2 in the corners.
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 0, 0], [0, 0, 0], [0, 0, 1]]))


# --- One pass against one per layer ----------------------------------------------------------


def test_every_block_agrees_with_passes_of_its_own(
    network: tuple[nn.Module, dict[str, nn.Module]], images: Tensor
) -> None:
    model, blocks = network
    targets = [0, 1]
    found = combicam_layers(model, images, targets, precision="fp32")
    assert list(found) == list(blocks)
    pairs = list(zip(images, targets, strict=True))
    slow = {
        name: torch.stack([one_layer(model, block, *one) for one in pairs])
        for name, block in blocks.items()
    }
    total = torch.stack(list(slow.values())).sum(dim=0)
    assert total.amax() > 0
    for name, expected in slow.items():
        worst = (found[name] - expected).abs().amax(dim=(1, 2)) / total.amax(dim=(1, 2))
        assert worst.max() < 1e-5, name
    whole = attribute(model, images, "combicam", targets, precision="fp32")
    torch.testing.assert_close(whole, scaled(total), atol=1e-5, rtol=0)


def test_the_layers_add_up_to_the_map(resnet: nn.Module, images: Tensor) -> None:
    layers = combicam_layers(resnet, images, precision="fp32", batch_size=1)
    assert all(one.min() >= 0 and one.shape == (2, 64, 64) for one in layers.values())
    whole = attribute(resnet, images, "combicam", precision="fp32")
    torch.testing.assert_close(whole, scaled(sum(layers.values())), atol=1e-5, rtol=0)


def test_one_pass_forward_and_one_backward(
    resnet: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = {"forward": 0, "head": 0, "first": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            passes[name] += 1

        return hook

    handles = [
        resnet.register_forward_hook(count("forward")),
        resnet.fc.register_full_backward_hook(count("head")),
        resnet.layer1[1].register_full_backward_hook(count("first")),
    ]
    for run in (
        lambda: attribute(resnet, images, "combicam"),
        lambda: combicam_layers(resnet, images),
    ):
        passes.update(dict.fromkeys(passes, 0))
        run()
        assert passes == {"forward": 1, "head": 1, "first": 1}
    for handle in handles:
        handle.remove()


# --- Robustness ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0, 1, 2])
def test_activations_in_place_after_a_block(images: Tensor, target: int) -> None:
    """Negative values count in a block's map, and what follows must not overwrite them."""
    targets = [target, target]
    settings = {"targets": targets, "precision": "fp32"}
    found = combicam_layers(chain(lambda: nn.ReLU(inplace=True)), images, **settings)
    expected = combicam_layers(chain(nn.ReLU), images, **settings)
    assert max(one.max() for one in expected.values()) > 0
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, msg=name)


def test_a_certain_prediction_still_has_a_map(images: Tensor) -> None:
    """Where 1 - p is 1e-12, p is 1 in float32 and its own derivative would be rounding errors."""
    model = chain(nn.Tanh)
    with torch.no_grad():
        model.head.weight.mul_(60)
        model.head.bias.copy_(torch.tensor([28.0, 0.0, 1.0]))
    probabilities = model(images).softmax(dim=1)
    assert probabilities[0, 0] == 1
    exact = chain(nn.Tanh).double()
    exact.load_state_dict({key: value.double() for key, value in model.state_dict().items()})
    blocks = [module for module in exact.modules() if isinstance(module, BasicBlock)]
    expected = sum(one_layer(exact, block, images[0].double(), 0) for block in blocks)[None]
    found = attribute(model, images[:1], "combicam", [0], precision="fp32")
    torch.testing.assert_close(found.double(), scaled(expected), atol=1e-3, rtol=0)


def test_maps_do_not_depend_on_the_batch(resnet: nn.Module, images: Tensor) -> None:
    together = combicam_layers(resnet, images, [0, 1], precision="fp32")
    backwards = combicam_layers(resnet, images.flip(0), [1, 0], precision="fp32")
    whole = torch.stack(list(together.values())).sum(dim=0).max()
    for name, one in together.items():
        alone = combicam_layers(resnet, images[1:], [1], precision="fp32")[name][0]
        assert (alone - one[1]).abs().max() < 1e-5 * whole
        assert (backwards[name].flip(0) - one).abs().max() < 1e-5 * whole
    empty = combicam_layers(resnet, images[:0])
    assert {one.shape for one in empty.values()} == {(0, 64, 64)} and len(empty) == 8


def test_bf16_maps_agree_with_fp32(resnet: nn.Module, images: Tensor) -> None:
    exact = attribute(resnet, images, "combicam", [0, 1], precision="fp32")
    fast = attribute(resnet, images, "combicam", [0, 1], precision="bf16")
    assert not torch.equal(exact, fast)
    for a, b in zip(exact, fast, strict=True):
        assert spearmanr(a.flatten(), b.flatten()).statistic > 0.95


@pytest.mark.parametrize("targets", [[0, 1], [0, 9]])
def test_the_network_is_left_as_it_was(images: Tensor, targets: list[int]) -> None:
    model = torchvision_network("resnet18").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if targets == [0, 9]:
        with pytest.raises(ValueError, match=r"targets.*got 9"):
            combicam_layers(model, images, targets)
    else:
        combicam_layers(model, images, targets)
        block_sizes(model, images)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# --- Which layers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("resnet50", "resnet50"),
        ("mobilenet_v2", "mobilenetv2_100"),
        ("efficientnet_b0", "efficientnet_b0"),
        ("efficientnet_v2_s", "tf_efficientnetv2_s"),
        ("convnext_tiny", "convnext_tiny"),
    ],
)
def test_timm_has_the_blocks_of_torchvision(name: str, timm_name: str) -> None:
    with torch.device("meta"):
        ours = block_modules(models.get_model(name, weights=None), None)
        theirs = block_modules(timm.create_model(timm_name), None)
    assert len(ours) == len(theirs)


def test_networks_of_timm(images: Tensor) -> None:
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=3, ls_init_value=1.0).eval()
    found = combicam_layers(model, images, [0, 1], precision="fp32")
    assert len(found) == 12
    block = model.stages[2].blocks[0]
    expected = one_layer(model, block, images[1], 1)
    torch.testing.assert_close(found["stages.2.blocks.0"][1], expected, rtol=1e-3, atol=1e-8)


def test_sizes_of_the_blocks(resnet: nn.Module, images: Tensor) -> None:
    sides = [16, 16, 8, 8, 4, 4, 2, 2]
    names = [f"layer{stage}.{i}" for stage in (1, 2, 3, 4) for i in (0, 1)]
    assert block_sizes(resnet, images) == {
        name: (side, side) for name, side in zip(names, sides, strict=True)
    }


def test_named_layers_replace_the_blocks(resnet: nn.Module, images: Tensor) -> None:
    some = ["layer2.1", "layer4.0"]
    every = combicam_layers(resnet, images, precision="fp32")
    chosen = combicam_layers(resnet, images, precision="fp32", layers=some)
    assert list(chosen) == some
    for name, one in chosen.items():
        torch.testing.assert_close(one, every[name], rtol=1e-4, atol=1e-8)
    total = chosen["layer2.1"] + chosen["layer4.0"]
    whole = attribute(resnet, images, "combicam", precision="fp32", layers=some)
    torch.testing.assert_close(whole, scaled(total), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model", "layers", "error", "words"),
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
def test_networks_and_layers_that_cannot_do(
    model: nn.Module, layers: object, error: type[Exception], words: str, images: Tensor
) -> None:
    for run in (
        lambda: attribute(model, images, "combicam", layers=layers),
        lambda: combicam_layers(model, images, layers=layers),
    ):
        with pytest.raises(error, match=words):
            run()
    assert not any(module._forward_hooks for module in model.modules())
