"""SAM and MobileSAM: wiring, key layouts, loading, and masks that mean something.

No published weights are at hand here, so checkpoints are drawn at random in the published layout.
`reference_encoder` writes MobileSAM's image encoder out from its definition (TinyViT, ECCV 2022,
§4.1, and MobileSAM, §3.3), reading that layout directly.
"""

import math
from collections import deque

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch.nn import functional as F
from toys import classifier, one_of_each, peak_memory

from geolib import pipeline, segmentation
from geolib.masks import iou
from geolib.pipeline import EvaluationConfig, shards
from geolib.segmentation import Segments
from geolib.segmentation.networks import sam as networks

WIDTHS, DEPTHS, HEADS, WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
STRIDES = (2, 2, 1)  # of the downsampling that ends layers 0, 1 and 2


class RandomState(dict):
    """A state dict that draws tensors of about unit gain."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, key, *shape, scale=1.0, around=0.0):
        self[key] = around + scale * torch.randn(*shape, generator=self.generator)

    def weight(self, key, *shape):
        self.draw(key, *shape, scale=1 / math.sqrt(math.prod(shape[1:])))

    def linear(self, prefix, outputs, inputs):
        self.weight(f"{prefix}.weight", outputs, inputs)
        self.draw(f"{prefix}.bias", outputs, scale=0.1)

    def norm(self, prefix, width):
        self.draw(f"{prefix}.weight", width, scale=0.1, around=1.0)
        self.draw(f"{prefix}.bias", width, scale=0.1)

    def conv(self, prefix, outputs, inputs, size):
        self.weight(f"{prefix}.c.weight", outputs, inputs, size, size)
        self.norm(f"{prefix}.bn", outputs)
        self.draw(f"{prefix}.bn.running_mean", outputs, scale=0.1)
        self[f"{prefix}.bn.running_var"] = 0.5 + torch.rand(outputs, generator=self.generator)
        self[f"{prefix}.bn.num_batches_tracked"] = torch.tensor(7)


def published_encoder(seed=0):
    """A random image encoder in the key layout of mobile_sam.pt."""
    state = RandomState(seed)
    state.conv("patch_embed.seq.0", 32, 3, 3)
    state.conv("patch_embed.seq.2", 64, 32, 3)
    for layer, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        for block in range(depth):
            prefix = f"layers.{layer}.blocks.{block}"
            if layer == 0:
                state.conv(f"{prefix}.conv1", 4 * width, width, 1)
                state.conv(f"{prefix}.conv2", 4 * width, 1, 3)
                state.conv(f"{prefix}.conv3", width, 4 * width, 1)
                continue
            state.draw(f"{prefix}.attn.attention_biases", HEADS[layer], WINDOWS[layer] ** 2)
            state.norm(f"{prefix}.attn.norm", width)
            state.linear(f"{prefix}.attn.qkv", 3 * width, width)
            state.linear(f"{prefix}.attn.proj", width, width)
            state.norm(f"{prefix}.mlp.norm", width)
            state.linear(f"{prefix}.mlp.fc1", 4 * width, width)
            state.linear(f"{prefix}.mlp.fc2", width, 4 * width)
            state.conv(f"{prefix}.local_conv", width, 1, 3)
        if layer < 3:
            out = WIDTHS[layer + 1]
            state.conv(f"layers.{layer}.downsample.conv1", out, width, 1)
            state.conv(f"layers.{layer}.downsample.conv2", out, 1, 3)
            state.conv(f"layers.{layer}.downsample.conv3", out, out, 1)
    state.norm("norm_head", 320)
    state.linear("head", 1000, 320)
    state.weight("neck.0.weight", 256, 320, 1, 1)
    state.norm("neck.1", 256)
    state.weight("neck.2.weight", 256, 256, 3, 3)
    state.norm("neck.3", 256)
    return {f"image_encoder.{key}": value for key, value in state.items()}


@pytest.fixture(scope="module")
def vit_b():
    torch.manual_seed(0)
    return sam_model_registry["vit_b"]()


@pytest.fixture(scope="module")
def published(vit_b):
    """A whole random mobile_sam.pt: prompt encoder and decoder are SAM's own."""
    decoder = {k: v for k, v in vit_b.state_dict().items() if not k.startswith("image_encoder.")}
    return published_encoder() | decoder


def conv(state, prefix, x, stride=1, depthwise=False):
    weight = state[f"{prefix}.c.weight"]
    x = F.conv2d(
        x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight) if depthwise else 1
    )
    mean, var, gain, bias = (
        state[f"{prefix}.bn.{name}"][:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * gain + bias


def inverted_bottleneck(state, prefix, x):
    h = F.gelu(conv(state, f"{prefix}.conv1", x))
    h = F.gelu(conv(state, f"{prefix}.conv2", h, depthwise=True))
    return F.gelu(x + conv(state, f"{prefix}.conv3", h))


def downsample(state, prefix, x, stride):
    x = F.gelu(conv(state, f"{prefix}.conv1", x))
    x = F.gelu(conv(state, f"{prefix}.conv2", x, stride, depthwise=True))
    return conv(state, f"{prefix}.conv3", x)


def linear(state, prefix, x):
    return x @ state[f"{prefix}.weight"].T + state[f"{prefix}.bias"]


def norm(state, prefix, x):
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x * state[f"{prefix}.weight"] + state[f"{prefix}.bias"]


def attend(state, prefix, tokens, heads, side):
    """Attention among the side² tokens of one window, biased by |Δy|, |Δx|; one head at a time."""
    y, x = torch.arange(side * side) // side, torch.arange(side * side) % side
    offset = (y[:, None] - y).abs() * side + (x[:, None] - x).abs()
    qkv = linear(state, f"{prefix}.qkv", norm(state, f"{prefix}.norm", tokens))
    out = []
    for head, part in enumerate(qkv.chunk(heads, dim=-1)):
        q, k, v = part.chunk(3, dim=-1)
        bias = state[f"{prefix}.attention_biases"][head][offset]
        out.append((q @ k.T / math.sqrt(q.shape[-1]) + bias).softmax(dim=-1) @ v)
    return linear(state, f"{prefix}.proj", torch.cat(out, dim=-1))


def window_block(state, prefix, x, heads, side):
    _, width, height, length = x.shape
    padded = F.pad(x, (0, -length % side, 0, -height % side))
    attended = torch.zeros_like(padded)
    for top in range(0, padded.shape[2], side):
        for left in range(0, padded.shape[3], side):
            window = padded[0, :, top : top + side, left : left + side]
            tokens = attend(state, f"{prefix}.attn", window.flatten(1).T, heads, side)
            attended[0, :, top : top + side, left : left + side] = tokens.T.reshape(
                width, side, side
            )
    x = conv(
        state, f"{prefix}.local_conv", x + attended[:, :, :height, :length], depthwise=True
    ).movedim(1, -1)
    h = F.gelu(linear(state, f"{prefix}.mlp.fc1", norm(state, f"{prefix}.mlp.norm", x)))
    return (x + linear(state, f"{prefix}.mlp.fc2", h)).movedim(-1, 1)


def reference_encoder(checkpoint, x):
    state = {k.removeprefix("image_encoder."): v for k, v in checkpoint.items()}
    x = F.gelu(conv(state, "patch_embed.seq.0", x, stride=2))
    x = conv(state, "patch_embed.seq.2", x, stride=2)
    for layer in range(4):
        for block in range(DEPTHS[layer]):
            prefix = f"layers.{layer}.blocks.{block}"
            if layer == 0:
                x = inverted_bottleneck(state, prefix, x)
            else:
                x = window_block(state, prefix, x, HEADS[layer], WINDOWS[layer])
        if layer < 3:
            x = downsample(state, f"layers.{layer}.downsample", x, STRIDES[layer])
    for step, size in ((0, 1), (2, 3)):
        x = F.conv2d(x, state[f"neck.{step}.weight"], padding=size // 2)
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()
        gain, bias = (
            state[f"neck.{step + 1}.{name}"][:, None, None] for name in ("weight", "bias")
        )
        x = x * gain + bias
    return x


def picture(size, seed=1):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [112, 160])  # windows that fill a stage, tile it, and need padding
@torch.no_grad()
def test_encoder_equals_the_definition(published, size):
    ours = networks.mobile_sam(published).image_encoder(picture(size))
    expected = reference_encoder(published, picture(size))
    assert ours.shape == (1, 256, size // 16, size // 16)
    assert expected.std() > 0.5
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "pair",
    [
        ("patch_embed.seq.2.bn.weight", "patch_embed.seq.2.bn.running_var"),
        ("layers.0.blocks.0.conv1.c.weight", "layers.0.blocks.1.conv1.c.weight"),
        ("layers.2.blocks.0.attn.attention_biases", "layers.2.blocks.5.attn.attention_biases"),
        ("layers.3.blocks.0.local_conv.c.weight", "layers.3.blocks.1.local_conv.c.weight"),
        ("neck.1.weight", "neck.3.weight"),
    ],
)
@torch.no_grad()
def test_swapping_two_keys_breaks_the_equality(published, pair):
    a, b = (f"image_encoder.{key}" for key in pair)
    swapped = published | {a: published[b], b: published[a]}
    ours = networks.mobile_sam(swapped).image_encoder(picture(112))
    assert (ours - reference_encoder(published, picture(112))).abs().max() > 1e-2


def test_every_published_key_is_used_or_the_classifier_s(published):
    network = networks.mobile_sam(published)
    renamed = networks.timm_layout(published)
    assert set(renamed) == set(network.state_dict())
    unused = len(published) - len(renamed)
    assert unused == 4  # norm_head and head, weight and bias
    for key, value in renamed.items():
        assert torch.equal(network.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("image_encoder.neck.0.weight"), "missing: image_encoder.neck.0.weight"),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected: extra"),
        (
            lambda s: s.update({"image_encoder.neck.1.bias": torch.ones(3)}),
            r"another shape: image_encoder.neck.1.bias \(3,\) instead of \(256,\)",
        ),
        (
            lambda s: s.update({"image_encoder.neck.1.bias": torch.full((256,), torch.nan)}),
            "NaN or infinity in 1 tensors: image_encoder.neck.1.bias",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_keys(published, change, words):
    state = dict(published)
    change(state)
    with pytest.raises(ValueError, match=words):
        networks.mobile_sam(state)


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
    options = {"points_per_side": 1, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    segment = segmentation.load("mobilesam", checkpoint=path, device="cpu", **options)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    segments = segment(image)
    assert segments.masks.shape[1:] == (60, 90)
    assert len(segments) == len(segments.scores)
    # independently: one point in the middle of the picture, the network asked directly
    predictor = SamPredictor(segment.model)
    predictor.set_image(image)
    masks, _, _ = predictor.predict(np.array([[45, 30]]), np.array([1]))
    assert len(segments) > 0
    assert all((mask == masks).all(axis=(1, 2)).any() for mask in segments.masks)

    moved = tmp_path / "elsewhere.pt"
    moved.write_bytes(path.read_bytes())
    same = segmentation.load("mobilesam", checkpoint=moved, device="cpu", **options)
    assert same.key == segment.key
    torch.save(published | {"image_encoder.neck.1.bias": torch.zeros(256)}, moved)
    assert segmentation.load("mobilesam", checkpoint=moved, **options).key != segment.key


def test_sam_s_size_is_read_off_the_checkpoint(vit_b):
    loaded = networks.sam(vit_b.state_dict())
    assert len(loaded.image_encoder.blocks) == 12
    for key, value in vit_b.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize(("width", "name"), networks.SAM_WIDTHS.items())
def test_each_width_names_its_network(width, name):
    with torch.device("meta"):
        network = sam_model_registry[name]()
    assert network.image_encoder.pos_embed.shape[-1] == width


def small_sam():
    """SAM with everything small: 64 px, one block of width 32."""
    return Sam(
        ImageEncoderViT(
            img_size=64, patch_size=4, embed_dim=32, depth=1, num_heads=2, out_chans=32
        ),
        PromptEncoder(32, (16, 16), (64, 64), mask_in_chans=4),
        MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=2),
            iou_head_hidden_dim=32,
        ),
    )


def squares(rng):
    """Two bright squares on dark noise, uint8 [64, 64, 3], and their masks."""
    image = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
    masks = np.zeros((2, 64, 64), dtype=bool)
    for mask, left in zip(masks, (0, 32), strict=True):
        side = rng.integers(10, 22)
        y, x = rng.integers(2, 62 - side), left + rng.integers(2, 30 - side)
        mask[y : y + side, x : x + side] = True
        image[mask] = rng.integers(120, 256, 3)
    return image, masks


@pytest.fixture(scope="module")
def trained():
    """`small_sam` after steps on planted squares, asked for each by a point inside.

    It learns until it finds them and knows that it does: how many steps that takes depends on how
    a processor rounds.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = small_sam()
    transformer = network.mask_decoder.transformer
    # A point looks at its own place from the start: to learn that takes most of the steps.
    for attention in (
        *(layer.cross_attn_token_to_image for layer in transformer.layers),
        transformer.final_attn_token_to_image,
    ):
        attention.k_proj.load_state_dict(attention.q_proj.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    recent, steps = deque([0.0] * 50, maxlen=50), 0
    while np.mean(recent) < 0.85:
        image, masks = squares(rng)
        points = np.stack([rng.permutation(np.argwhere(mask))[0][::-1] for mask in masks])
        pixels = network.preprocess(torch.from_numpy(image).permute(2, 0, 1)[None].float())
        sparse, dense = network.prompt_encoder(
            (torch.from_numpy(points.copy())[:, None].float(), torch.ones(2, 1)), None, None
        )
        logits, quality = network.mask_decoder(
            network.image_encoder(pixels),
            network.prompt_encoder.get_dense_pe(),
            sparse,
            dense,
            multimask_output=True,
        )
        target = torch.from_numpy(masks)[:, None].expand(-1, 3, -1, -1).float()
        found = logits.detach() > 0
        iou = (found & (target > 0)).sum((2, 3)) / (found | (target > 0)).sum((2, 3))
        loss = F.binary_cross_entropy_with_logits(logits, target) + F.mse_loss(quality, iou) / 10
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        recent.append(float((iou - (quality.detach() - iou).abs()).mean()))
        steps += 1
        assert steps < 3000, "the decoder does not learn"
    return network.eval()


def everything(network, image, size=None, **options):
    """What the segmenter finds with this network in place of the one in its file."""

    class Held(networks.SamSegmenter):
        def open(self):
            return network

    segment = Held(__file__, device="cpu", **options)
    return segment(image, size or image.shape[:2])


@pytest.mark.parametrize("factor", [1, 3])  # 3: larger than the network, reduced and enlarged
def test_the_point_grid_finds_them_unasked(trained, factor):
    image, masks = squares(np.random.default_rng(7))
    large = image.repeat(factor, axis=0).repeat(factor, axis=1)
    segments = everything(
        trained, large, points_per_side=8, pred_iou_thresh=0.7, stability_score_thresh=0.7
    )
    assert segments.masks.shape[1:] == large.shape[:2]
    wanted = masks.repeat(factor, axis=1).repeat(factor, axis=2)
    assert (iou(wanted, segments.masks).max(axis=1) > 0.8).all()
    assert (segments.scores >= 0.7).all()


def test_thresholds_and_grid_reach_the_generator(trained):
    image, masks = squares(np.random.default_rng(7))
    strict = everything(trained, image, pred_iou_thresh=1.1)
    assert strict.masks.shape == (0, 64, 64)
    assert strict.scores.shape == (0,)
    loose = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    found = {}
    for side in (1, 6):
        segments = everything(trained, image, points_per_side=side, **loose)
        found[side] = (iou(masks, segments.masks).max(axis=1) > 0.8).sum()
    assert found[1] < found[6] == 2  # one point cannot ask for two squares


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (300, 4)])
def test_extreme_images_give_masks_of_their_size_unless_they_would_vanish(trained, shape):
    image = np.full((*shape, 3), 200, np.uint8)
    assert everything(trained, image, points_per_side=2).masks.shape[1:] == shape
    with pytest.raises(ValueError, match="2 x 300 pixels is too narrow"):
        everything(trained, np.zeros((300, 2, 3), np.uint8))


def test_a_wide_photograph_is_reduced_first(trained, monkeypatch):
    seen = []
    encode = trained.image_encoder.forward
    monkeypatch.setattr(trained.image_encoder, "forward", lambda x: (seen.append(x), encode(x))[1])
    generate = networks.SamAutomaticMaskGenerator.generate
    monkeypatch.setattr(
        networks.SamAutomaticMaskGenerator,
        "generate",
        lambda self, image: (seen.append(image), generate(self, image))[1],
    )
    wide = np.random.default_rng(0).integers(0, 256, (400, 2000, 3), dtype=np.uint8)
    segments = everything(trained, wide, points_per_side=2)
    assert segments.masks.shape[1:] == (400, 2000)
    assert seen[0].shape == (13, 64, 3)


def test_the_pipeline_finds_the_squares_in_the_photograph(trained, tmp_path, monkeypatch):
    """From a file, over a folder of photographs of 64 pixels, for a classifier of 48."""
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / "cache"))

    def build(self, state):
        network = small_sam()
        network.load_state_dict(state)
        return network.eval()

    monkeypatch.setattr(networks.SamSegmenter, "build", build)
    torch.save(trained.state_dict(), tmp_path / "sam.pth")
    rng = np.random.default_rng(3)
    drawn = {colour: squares(rng) for colour in ("blue", "red")}
    dataset = one_of_each(tmp_path / "photos", {name: image for name, (image, _) in drawn.items()})
    options = {"checkpoint": str(tmp_path / "sam.pth"), "points_per_side": 8}
    options |= {"pred_iou_thresh": 0.7, "stability_score_thresh": 0.7}
    config = EvaluationConfig(
        segmenter="sam", segmenter_options=options, repeats=1, precision="fp32", s_min=0.0
    )
    table = pipeline.evaluate(dataset, classifier(), config, progress=False)
    assert set(table["segmenter"]) == {"sam"}
    assert np.isfinite(table["log_probability"]).all()
    (shard,) = shards.shards(dataset, classifier(), config.shard_size)
    for item, found in zip(shard.items, shards.segments(shard, classifier(), config), strict=True):
        planted = Segments(drawn[item.country][1]).resize((48, 48)).masks
        assert (iou(planted, found.masks).max(axis=1) > 0.75).all()


def test_memory_does_not_grow_with_the_photograph(trained, monkeypatch):
    generate = networks.SamAutomaticMaskGenerator.generate
    monkeypatch.setattr(
        networks.SamAutomaticMaskGenerator, "generate", lambda *a: generate(*a)[:2] * 18
    )
    image, _ = squares(np.random.default_rng(7))
    photograph = image.repeat(47, axis=0)[:3000].repeat(63, axis=1)[:, :4000]
    options = {"points_per_side": 8, "pred_iou_thresh": 0.7, "stability_score_thresh": 0.7}
    found, used = peak_memory(lambda: everything(trained, photograph, (224, 224), **options))
    assert len(found) == 36  # 432 MB, were they held at the photograph's own size
    assert used < 150


@pytest.mark.parametrize("name", ["sam", "mobilesam"])
def test_without_weights_the_message_says_which_file_and_where(name, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOLIB_CACHE", str(tmp_path / "nothing was fetched"))
    with pytest.raises(ValueError, match=r"checkpoint=PATH of .*published in"):
        segmentation.load(name)
    with pytest.raises(ValueError, match=r"no checkpoint at .*nowhere.pt: .*published in"):
        segmentation.load(name, checkpoint=tmp_path / "nowhere.pt")
    reasons = segmentation.available({name: tmp_path / "nowhere.pt"})
    assert "no checkpoint at" in reasons[name]
    assert "repository" in reasons[name]
    assert segmentation.available()[name].startswith("no checkpoint given and none fetched: ")
    (tmp_path / "there.pt").write_bytes(b"")
    assert segmentation.available({name: tmp_path / "there.pt"})[name] == ""


def test_files_that_are_no_checkpoint(tmp_path, published):
    text, empty, nested = (tmp_path / f"{name}.pt" for name in ("text", "empty", "nested"))
    text.write_text("not a network")
    empty.touch()
    torch.save({"networks": {"weight": torch.ones(1)}}, nested)
    for path in (text, empty):
        with pytest.raises(ValueError, match=r"expected mobile_sam.pt.* cannot be read"):
            segmentation.load("mobilesam", checkpoint=path)
    with pytest.raises(ValueError, match=r"expected mobile_sam.pt.* holds no state dict"):
        segmentation.load("mobilesam", checkpoint=nested)
    torch.save(published, nested)
    with pytest.raises(ValueError, match="not SAM's"):
        segmentation.load("sam", checkpoint=nested)
    with pytest.raises(ValueError, match="points_per_side must be at least 1, got 0"):
        segmentation.load("mobilesam", checkpoint=nested, points_per_side=0)
