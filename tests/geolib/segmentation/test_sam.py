"""SAM and MobileSAM: wiring, key layouts, loading, and a network asked through a file.

No published weights are at hand here, so checkpoints are drawn at random in the published layout.
`Reference` is MobileSAM's image encoder from its definition (TinyViT, ECCV 2022, §4.1, and
MobileSAM, §3.3), its modules named as in that layout.
"""

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from torch import nn
from torch.nn import functional as F
from toys import lively

from geolib import segmentation
from geolib.segmentation.networks import sam as networks


def named(**modules):
    return nn.Sequential(OrderedDict(modules))


def conv(inputs, outputs, size=1, stride=1, groups=1):
    weight = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return named(c=weight, bn=nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    """An inverted bottleneck, or with another width or stride what ends a layer."""

    def __init__(self, inputs, inner, outputs, stride=1):
        super().__init__()
        self.conv1 = conv(inputs, inner)
        self.conv2 = conv(inner, inner, 3, stride, groups=inner)
        self.conv3 = conv(inner, outputs)
        self.residual = inputs == outputs

    def forward(self, x):
        h = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return F.gelu(x + h) if self.residual else h


class Attention(nn.Module):
    """Attention among the side² tokens of one window, biased by |Δy|, |Δx|; one head at a time."""

    def __init__(self, width, heads, side):
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, side * side))
        y, x = torch.arange(side * side) // side, torch.arange(side * side) % side
        self.offset = (y[:, None] - y).abs() * side + (x[:, None] - x).abs()

    def forward(self, tokens):
        parts = self.qkv(self.norm(tokens)).chunk(len(self.attention_biases), dim=-1)
        out = []
        for biases, part in zip(self.attention_biases, parts, strict=True):
            q, k, v = part.chunk(3, dim=-1)
            weights = q @ k.mT / math.sqrt(q.shape[-1]) + biases[self.offset]
            out.append(weights.softmax(dim=-1) @ v)
        return self.proj(torch.cat(out, dim=-1))


class WindowBlock(nn.Module):
    def __init__(self, width, heads, side):
        super().__init__()
        self.side, self.attn = side, Attention(width, heads, side)
        self.local_conv = conv(width, width, 3, groups=width)
        inner = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU()}
        self.mlp = named(norm=nn.LayerNorm(width), **inner, fc2=nn.Linear(4 * width, width))

    def forward(self, x):
        height, length = x.shape[2:]
        padded = F.pad(x, (0, -length % self.side, 0, -height % self.side))
        attended = torch.zeros_like(padded)
        for top in range(0, padded.shape[2], self.side):
            for left in range(0, padded.shape[3], self.side):
                window = (..., slice(top, top + self.side), slice(left, left + self.side))
                tokens = self.attn(padded[window].flatten(2).mT)
                attended[window] = tokens.mT.unflatten(2, (self.side, self.side))
        x = self.local_conv(x + attended[:, :, :height, :length]).movedim(1, -1)
        return (x + self.mlp(x)).movedim(-1, 1)


def layer(blocks, width, following=None, stride=1):
    """Blocks, and the downsampling to the width of the layer that follows."""
    end = {"downsample": Bottleneck(width, following, following, stride)} if following else {}
    return named(blocks=nn.Sequential(*blocks), **end)


class Reference(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = named(
            seq=nn.Sequential(conv(3, 32, 3, 2), nn.GELU(), conv(32, 64, 3, 2))
        )
        self.layers = nn.Sequential(
            layer([Bottleneck(64, 256, 64) for _ in range(2)], 64, 128, stride=2),
            layer([WindowBlock(128, 4, 7) for _ in range(2)], 128, 160, stride=2),
            layer([WindowBlock(160, 5, 14) for _ in range(6)], 160, 320),
            layer([WindowBlock(320, 10, 7) for _ in range(2)], 320),
        )
        self.norm_head, self.head = nn.LayerNorm(320), nn.Linear(320, 1000)  # no mask needs them
        self.neck = nn.Sequential(
            nn.Conv2d(320, 256, 1, bias=False),
            nn.LayerNorm(256, eps=1e-6),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            nn.LayerNorm(256, eps=1e-6),
        )

    def forward(self, x):
        x = self.layers(self.patch_embed(x))
        for mix, norm in (self.neck[:2], self.neck[2:]):
            x = norm(mix(x).movedim(1, -1)).movedim(-1, 1)
        return x


@pytest.fixture(scope="module")
def reference():
    """The reference with random weights, none of which are at the value that they begin with."""
    torch.manual_seed(0)
    network = lively(Reference())
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.fill_(7)
        elif key.endswith("attention_biases"):
            value.copy_(torch.randn(value.shape))
        elif value.ndim == 1:
            value.add_(0.1 * torch.randn(value.shape))
    return network


@pytest.fixture(scope="module")
def vit_b():
    torch.manual_seed(0)
    return sam_model_registry["vit_b"]()


@pytest.fixture(scope="module")
def published(reference, vit_b):
    """A whole random mobile_sam.pt: prompt encoder and decoder are SAM's own."""
    decoder = {k: v for k, v in vit_b.state_dict().items() if not k.startswith("image_encoder.")}
    return {f"image_encoder.{k}": v for k, v in reference.state_dict().items()} | decoder


def noise(size):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [112, 160])  # windows that fill a stage, tile it, and need padding
@torch.no_grad()
def test_encoder_equals_the_definition(published, reference, size):
    ours = networks.mobile_sam(published).image_encoder(noise(size))
    expected = reference(noise(size))
    assert ours.shape == (1, 256, size // 16, size // 16)
    assert expected.std() > 0.5
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def assert_holds(network, state):
    """The network's weights are those of the state dict, key for key."""
    assert set(network.state_dict()) == set(state)
    for key, value in state.items():
        assert torch.equal(network.state_dict()[key], value), key


def test_every_published_key_is_used_or_the_classifier_s(published):
    renamed = networks.timm_layout(published)
    assert_holds(networks.mobile_sam(published), renamed)
    assert len(published) - len(renamed) == 4  # norm_head and head, weight and bias


BIAS = "image_encoder.neck.1.bias"


def test_a_checkpoint_that_does_not_fit_names_the_keys(published):
    """In every way that `test_model` knows of; here that it is asked, and names the file's key."""
    with pytest.raises(ValueError, match=rf"another shape: {BIAS} \(3,\) instead of \(256,\)"):
        networks.mobile_sam(published | {BIAS: torch.ones(3)})


@torch.no_grad()
def test_mobilesam_decodes_like_sam(published, vit_b):
    """Same embedding and point: MobileSAM and SAM differ in nothing but the image encoder."""
    network = networks.mobile_sam(published)
    embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(2))
    points = torch.tensor([[[300.0, 500.0]]]), torch.ones(1, 1)
    outputs = []
    for model in (network, vit_b):
        sparse, dense = model.prompt_encoder(points, None, None)
        pe = model.prompt_encoder.get_dense_pe()
        outputs.append(model.mask_decoder(embedding, pe, sparse, dense, multimask_output=True))
    torch.testing.assert_close(outputs[0], outputs[1])
    image = torch.rand(3, 1024, 700) * 255
    torch.testing.assert_close(network.preprocess(image), vit_b.preprocess(image))
    assert network.image_encoder.img_size == vit_b.image_encoder.img_size
    assert network.mask_threshold == vit_b.mask_threshold


def test_mobilesam_runs_whole_from_a_file(published, tmp_path):
    path = tmp_path / "mobile_sam.pt"
    torch.save(published, path)
    options = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    segment = segmentation.load("mobilesam", checkpoint=path, device="cpu", **options)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    segments = segment(image)
    assert segments.masks.shape[1:] == (60, 90)
    assert len(segments) == len(segments.scores) > 0
    # independently: the four points of the grid, the network asked directly
    predictor = SamPredictor(segment.model)
    predictor.set_image(image)
    points = [(22.5, 15), (67.5, 15), (22.5, 45), (67.5, 45)]
    asked = [predictor.predict(np.array([point]), np.array([1]))[0] for point in points]
    masks = np.concatenate(asked)
    assert all((mask == masks).all(axis=(1, 2)).any() for mask in segments.masks)

    moved = tmp_path / "elsewhere.pt"
    moved.write_bytes(path.read_bytes())
    same = segmentation.load("mobilesam", checkpoint=moved, device="cpu", **options)
    assert same.key == segment.key
    torch.save({"model": {f"module.{k}": t for k, t in published.items()}, "epoch": 1}, moved)
    wrapped = segmentation.load("mobilesam", checkpoint=moved, **options).model.state_dict()
    assert all(torch.equal(t, wrapped[k]) for k, t in segment.model.state_dict().items())
    torch.save(published | {BIAS: torch.zeros(256)}, moved)
    assert segmentation.load("mobilesam", checkpoint=moved, **options).key != segment.key


def test_sam_s_size_is_read_off_the_checkpoint(vit_b):
    loaded = networks.sam(vit_b.state_dict())
    assert len(loaded.image_encoder.blocks) == 12
    assert_holds(loaded, vit_b.state_dict())


@pytest.mark.parametrize(("width", "name"), networks.SAM_WIDTHS.items())
def test_each_width_names_its_network(width, name):
    with torch.device("meta"):
        network = sam_model_registry[name]()
    assert network.image_encoder.pos_embed.shape[-1] == width


@pytest.mark.parametrize("name", ["sam", "mobilesam"])
def test_without_weights_the_message_says_which_file_and_where(name, tmp_path, own_cache):
    with pytest.raises(ValueError, match=r"no checkpoint given and none.*=PATH of .*published in"):
        segmentation.load(name)
    with pytest.raises(ValueError, match=r"no checkpoint at .*nowhere.pt: .*published in"):
        segmentation.load(name, checkpoint=tmp_path / "nowhere.pt")
    reason = segmentation.available({name: tmp_path / "nowhere.pt"})[name]
    assert reason.startswith("no checkpoint at") and "repository" in reason
    assert segmentation.available()[name].startswith("no checkpoint given and none fetched: ")
    (tmp_path / "there.pt").touch()
    assert segmentation.available({name: tmp_path / "there.pt"})[name] == ""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mobilesam", "not a network", "expected mobile_sam.pt.* cannot be read"),
        ("mobilesam", "", "expected mobile_sam.pt.* cannot be read"),
        ("mobilesam", {"networks": [torch.ones(1)]}, "mobile_sam.pt.* no state dict"),
        ("mobilesam", {"networks": {"weight": torch.ones(1)}}, "mobile_sam.pt.* 408 missing"),
        ("sam", {"weight": torch.ones(1)}, "not SAM's"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, name, content, words):
    path = tmp_path / "weights.pt"
    if isinstance(content, str):
        path.write_text(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=words):
        segmentation.load(name, checkpoint=path)
    with pytest.raises(ValueError, match="points_per_side must be at least 1, got 0"):
        segmentation.load(name, checkpoint=path, points_per_side=0)
