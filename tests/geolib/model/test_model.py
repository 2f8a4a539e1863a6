"""Loading, saving and running classifiers, and the figures of merit of their predictions."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from geolib import data, model
from geolib.model.classifier import build, published_card, with_classes
from geolib.model.device import inference_precision, uses_bf16
from geolib.model.layers import find_target_layer
from geolib.runtime.tensors import read_header, read_weights

SHARED = Path(__file__).parents[4] / "shared"
MOBILENET = SHARED / "weights" / "mobilenet_v2-imagenet1k.safetensors"
SQUEEZENET = SHARED / "weights" / "squeezenet1_1-imagenet1k.safetensors"
needs_weights = pytest.mark.skipif(not MOBILENET.is_file(), reason=f"no weights at {SHARED}")
NAME, ABC = "shufflenet_v2_x0_5", ("A", "B", "C")  # of the small networks, one with batch norm
VALUES = np.linspace(0, 250, 9).astype(int)


@pytest.fixture(scope="module")
def plain_file(tmp_path_factory):
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "plain.safetensors"
    save_file(models.shufflenet_v2_x0_5(num_classes=3).state_dict(), path)
    return path


def plain(weights, **options):
    return model.load(NAME, weights=weights, classes=ABC, **options)


def test_forward_normalises_with_imagenet_statistics(plain_file):
    classifier = plain(plain_file)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    network = models.shufflenet_v2_x0_5(num_classes=3).eval()
    network.load_state_dict(read_weights(plain_file))
    with torch.inference_mode():
        torch.testing.assert_close(classifier(images), network((images - mean) / std))
    assert not classifier.training


def test_timm_networks_normalise_as_they_were_trained():
    card = published_card("vit_tiny_patch16_224")
    assert (card.mean, card.std, card.image_size) == ((0.5,) * 3, (0.5,) * 3, 224)
    assert published_card("inception_v3").image_size == 299


# Network, layer, and what kind that is.
LAYERS = """
resnet18 layer4.1 BasicBlock, resnet50 layer4.2 Bottleneck,
mobilenet_v2 features.18 Conv2dNormActivation, convnext_tiny features.7.2 CNBlock,
efficientnet_b0 features.7.0 MBConv, squeezenet1_1 features.12 Fire,
densenet121 features Sequential, mobilenet_v3_small features.12 Conv2dNormActivation,
mnasnet0_5 layers Sequential, shufflenet_v2_x0_5 conv5 Sequential,
googlenet inception5b Inception, alexnet avgpool AdaptiveAvgPool2d, swin_t permute Permute,
timm/resnet18 layer4.1 BasicBlock, timm/convnext_tiny stages.3.blocks.2 ConvNeXtBlock,
timm/efficientnet_b0 blocks.6.0 InvertedResidual, timm/mobilenetv3_small_050 blocks Sequential,
regnety_002 final_conv Identity, ghostnet_050 blocks Sequential, poolformer_s12 stages Sequential,
pvt_v2_b0 stages Sequential, edgenext_xx_small norm_pre Identity,
mobilevit_xxs final_conv ConvNormAct, resnet10t?output_stride=16 layer4.0 BasicBlock
"""


@pytest.mark.parametrize(("name", "layer", "kind"), [row.split() for row in LAYERS.split(",")])
def test_target_layer_is_the_last_block(name, layer, kind):
    classifier, maps = model.load(name, weights="random", classes=ABC, image_size=64), []
    assert classifier.target_layer_name == layer
    assert type(classifier.target_layer).__name__ == kind
    classifier.target_layer.register_forward_hook(lambda m, i, output: maps.append(output))
    with torch.inference_mode():
        classifier(torch.rand(1, 3, 64, 64))
    assert maps[0].ndim == 4
    assert min(maps[0].shape[2:]) >= 2


def test_options_of_a_network_travel_with_its_name(tmp_path):
    name, path = "resnet10t?output_stride=16", tmp_path / "mine.safetensors"
    model.load(name, weights="random", classes=ABC, image_size=112).save(path)
    sizes = []
    for classifier in (model.load(path), with_classes(model.load(path), ["x", "y"])):
        assert (classifier.name, classifier.image_size) == (name, 112)
        classifier.target_layer.register_forward_hook(lambda m, i, out: sizes.append(out.shape[2:]))
        classifier(torch.rand(1, 3, 112, 112))
    assert sizes == [(7, 7)] * 2


# The last stage puts out a map; what follows only pools, by attention too, or normalises.
MAPS = {"resnet50_clip": "final_conv", "nest_tiny": "levels", "coatnet_nano_rw_224": "norm"}
MAPS |= {"maxvit_t": "blocks.3", "tiny_vit_5m_224": "stages", "levit_conv_128s": "stages"}
MAPS |= {"efficientformerv2_s0": "norm"}
# It puts out tokens or windows, or maps whose channels come last.
NONE = "vit_tiny_patch16_224 timm/swin_tiny_patch4_window7_224 mixer_s16_224 levit_128s "
NONE += "volo_d1_224 cait_xxs24_224 hiera_tiny_224 mvitv2_tiny xcit_nano_12_p16_224 pit_ti_224 "
NONE += "twins_svt_small coat_lite_tiny efficientformer_l1 mambaout_femto"


@pytest.mark.parametrize(("name", "layer"), [*MAPS.items(), *((n, None) for n in NONE.split())])
def test_target_layer_is_none_where_the_last_stage_has_no_map(name, layer):
    network = build(name, 3)
    assert find_target_layer(network, published_card(name).image_size) == layer
    assert network.training


class Turn(nn.Module):
    """Axes in another order, here of maps that have as many channels as rows."""

    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, maps):
        return maps.permute(self.order)


class Windows(nn.Module):
    """Four windows of each image."""

    def forward(self, maps):
        return maps.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


class Attention(nn.Module):
    """What the positions ``[B, K, 8, 8]`` have to do with each other, ``[B, 1, 64, 64]``."""

    def __init__(self):
        super().__init__()
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, maps):
        tokens = maps.flatten(2)
        weights = self.softmax((tokens.mT @ tokens)[:, None])
        return (weights[:, 0] @ tokens.mT).mean(dim=1)


ENDING = nn.AdaptiveAvgPool2d(1), nn.Flatten()
TWICE = nn.Conv2d(8, 8, 3, padding=1)


@pytest.mark.parametrize(
    ("modules", "layer"),
    [
        ([nn.Conv2d(8, 4, 3), nn.ReLU(), *ENDING], "2"),
        ([nn.ReLU(), *ENDING], "1"),
        ([Turn(0, 2, 3, 1), nn.Linear(8, 8), *ENDING], None),
        ([Turn(0, 2, 3, 1), nn.Linear(8, 8), Turn(0, 3, 1, 2), *ENDING], "3"),
        ([Turn(0, 2, 3, 1), *ENDING], "0"),
        ([nn.Flatten(2), nn.Linear(64, 9), nn.Flatten()], None),
        ([nn.Flatten(2), nn.Flatten()], "0"),
        ([nn.BatchNorm2d(8), nn.Flatten()], "1"),
        ([Attention()], "0"),
        ([TWICE, nn.ReLU(), TWICE, *ENDING], None),
        # A last stage of one place; a head behind the pooling.
        ([nn.AvgPool2d(8), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten()], None),
        ([nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Flatten()], "0"),
        ([Windows(), nn.Conv2d(8, 8, 1), *ENDING], None),
    ],
)
def test_target_layer_of_an_unknown_network_is_its_last_map(modules, layer):
    """Behind a convolution that gives eight channels of eight rows and columns."""
    network = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), *modules)
    assert find_target_layer(network, 32) == layer


TOKENS = "vit_tiny_patch16_224?img_size=32&patch_size=8&depth=2&embed_dim=16&num_heads=2"


def test_a_network_without_a_map_loads_predicts_and_says_which_methods_work(tmp_path):
    path, images = tmp_path / "a.safetensors", torch.rand(2, 3, 32, 32)
    model.load(TOKENS, weights="random", classes=ABC, image_size=32).save(path)
    classifier = model.load(path)
    assert classifier.target_layer_name is None
    assert classifier(images).shape == (2, 3)
    said = r"no map.*last stage: use smoothgrad.*target_layer="
    with pytest.raises(ValueError, match=said) as why:
        classifier.target_layer  # noqa: B018
    assert "\n" not in str(why.value)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
    assert find_target_layer(mlp, 32) is None
    assert find_target_layer(build("densenet121", 3), 32) is None


def test_safetensors_and_pth_give_the_same(plain_file, tmp_path):
    tensors, path = read_weights(plain_file), tmp_path / "a.pth"
    wrapped = {"state_dict": tensors}, {f"module.{k}": v for k, v in tensors.items()}
    for content in (tensors, *wrapped):
        torch.save(content, path)
        assert plain(path).weights_sha256 == plain(plain_file).weights_sha256


def test_checkpoint_round_trip(plain_file, tmp_path):
    first, path = plain(plain_file, image_size=96), tmp_path / "mine.safetensors"
    first.trained_on = "geoscenes"
    first.training_config = {"seed": 3}
    first.history = pd.DataFrame({"epoch": [0, 1], "validation_loss": [0.5, 0.25]})
    first.save(path)
    again = model.load(path)
    assert (again.name, again.classes, again.image_size) == (NAME, ABC, 96)
    assert (again.trained_on, again.training_config) == ("geoscenes", {"seed": 3})
    pd.testing.assert_frame_equal(again.history, first.history)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(first(images), again(images))
    # It is a plain file of weights as well, which knows its classes and their order.
    assert again.weights_sha256 == plain(path).weights_sha256 == first.weights_sha256
    assert model.load(NAME, weights=path).card == again.card
    with pytest.warns(model.HeadReplaced, match=r"\(A, B, C\) does not fit the 3 classes C, B, A"):
        model.load(NAME, weights=path, classes=("C", "B", "A"))
    # Its header is JSON, without a path.
    text = read_header(path)["geolib"]
    assert json.loads(text)["classes"] == list(ABC)
    assert str(tmp_path) not in text


@pytest.mark.parametrize("classes", [("A", "B"), ("A", "C", "B")])
def test_checkpoint_with_other_classes_gets_an_untrained_head(plain_file, tmp_path, classes):
    first, path = plain(plain_file), tmp_path / "mine.safetensors"
    first.save(path)
    with pytest.warns(model.HeadReplaced, match=f"does not fit the {len(classes)} classes"):
        again = model.load(path, classes=classes)
    assert again.classes == classes
    assert again.network.fc.out_features == len(classes)
    assert torch.equal(again.network.conv1[0].weight, first.network.conv1[0].weight)
    assert not torch.equal(again.network.fc.weight[:2], first.network.fc.weight[:2])


def test_weights_hash_sees_every_tensor(plain_file):
    classifier = plain(plain_file)
    before = classifier.weights_sha256
    assert classifier.weights_sha256 == before
    with torch.no_grad():
        classifier.network.conv1[1].running_mean[0] += 1e-6
    assert classifier.weights_sha256 != before


def test_untrained_weights_come_from_the_seed_alone():
    state = torch.random.get_rng_state()
    first = plain("random")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert plain("random").weights_sha256 == first.weights_sha256
    assert plain("random", seed=1).weights_sha256 != first.weights_sha256
    assert first.trained_on == "nothing"


def edited(path, changes):
    """A file of weights beside another, with some tensors changed, or left out where None."""
    tensors = read_weights(path) | changes
    path = path.with_stem("edited")
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    return path


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"conv5.0.weight": None}, "1 missing: conv5.0.weight"),
        ({"extra": torch.zeros(1)}, "1 unexpected: extra"),
        (
            {"conv1.1.bias": torch.zeros(3)},
            "1 of another shape: conv1.1.bias (3,) instead of (24,)",
        ),
        ({"conv1.1.bias": torch.zeros(24) / 0}, "hold NaN or infinity in 1 tensors: conv1.1.bias"),
    ],
)
def test_a_mismatch_names_the_keys(plain_file, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plain(edited(plain_file, changes))


def test_weights_without_batch_counters_load(plain_file):
    counters = [key for key in read_weights(plain_file) if key.endswith("num_batches_tracked")]
    assert plain(edited(plain_file, dict.fromkeys(counters))).classes == ABC


OPTIONS = "': expected options as in 'resnet10t"


@pytest.mark.parametrize(
    "name, options, message",
    [
        (NAME, {"weights": "FILE"}, "classes is missing: .* has 3 outputs; name them"),
        (NAME, {"weights": "random"}, "classes is missing: an untrained network"),
        (NAME, {"classes": ABC}, "weights is missing: give a file .* 'random'"),
        ("resnet19", {}, "'resnet19' is neither a file.*close: .*resnet18"),
        ("resnet10t?output_stride", {}, "output_stride" + OPTIONS),
        ("resnet10t?output_stride=two", {}, "output_stride=two" + OPTIONS),
        ("resnet10t?strides=16", {"weights": "random", "classes": ABC}, "strides=16" + OPTIONS),
        ("convnext_tiny", {"weights": "FILE", "classes": ABC}, r"ConvNeXt: \d+ missing: .*, …; "),
        ("FILE", {}, "is no checkpoint of this package"),
        ("FILE", {"weights": "FILE"}, "brings its own weights"),
        ("absent.safetensors", {}, r"absent\.safetensors cannot be read"),
    ],
)
def test_bad_input(plain_file, name, options, message):
    given = {k: plain_file if v == "FILE" else v for k, v in options.items()}
    with pytest.raises(ValueError, match=message):
        model.load(plain_file if name == "FILE" else name, **given)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "cannot be read"),
        ("a.safetensors", b"not weights", "cannot be read"),
        ("a.pth", b"not weights", "cannot be read"),
        ("list.pth", [torch.zeros(1)], "holds no state dict"),
        ("objects.pth", {"a": print}, "cannot be read"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(ValueError, match=f"{re.escape(name)} {message}"):
        plain(tmp_path / name)


@needs_weights
@pytest.mark.filterwarnings("ignore:.*rows have no position")
def test_published_weights_know_what_they_see():
    """ImageNet classes that anyone would name on these street photographs."""
    everything = data.load("folder", "all", root=SHARED / "photos")
    streets = {"streetcar", "trailer truck", "traffic light", "street sign", "pole", "car mirror"}
    streets |= {"passenger car", "moving van", "minivan", "minibus", "limousine", "racer"}
    streets |= {"cab", "valley", "viaduct", "mobile home", "steel arch bridge", "pier", "boathouse"}
    for name, file in (("mobilenet_v2", MOBILENET), ("squeezenet1_1", SQUEEZENET)):
        classifier = model.load(name, weights=file)
        assert (len(classifier.classes), classifier.trained_on) == (1000, "imagenet")
        part = everything.subset(range(24))
        predictions = model.predict(classifier, part, progress=False, precision="fp32")
        named = predictions["prediction"].map(lambda i, c=classifier.classes: c[i])
        assert named.isin(streets).mean() > 0.4  # 0.02 by chance


@needs_weights
def test_head_of_published_weights_is_replaced():
    with pytest.warns(model.HeadReplaced, match="does not fit the 2 classes FR, other"):
        classifier = model.load("mobilenet_v2", weights=MOBILENET, classes=("FR", "other"))
    assert classifier(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


@pytest.fixture
def bright_and_dark(tmp_path):
    for i, value in enumerate(VALUES):
        country = "bright" if value > 127 else "dark"
        (tmp_path / country).mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (int(value),) * 3).save(tmp_path / country / f"{i}.png")
    (tmp_path / "dark" / "broken.png").write_text("not a picture")
    return data.load("folder", "all", root=tmp_path)


class Brightness(nn.Module):
    """Logits ±(mean − ½)·8: the right answer is known for every image."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([8.0, -8.0]))
        self.classes, self.image_size, self.mean = ("bright", "dark"), 16, self.scale

    def forward(self, images):
        return (images.mean((1, 2, 3)) - 0.5)[:, None] * self.scale


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_predictions_of_a_known_classifier(bright_and_dark, batch_size):
    settings = {"batch_size": batch_size, "precision": "fp32", "progress": False}
    found = model.predict(Brightness(), bright_and_dark, **settings)
    assert len(found) == 9
    assert [s.id for s in bright_and_dark.skipped] == ["dark/broken.png"]
    assert model.accuracy(found) == 1
    brightness = VALUES[[int(Path(name).stem) for name in found["image_id"]]] / 255
    expected = 1 / (1 + np.exp(-16 * abs(brightness - 0.5)))
    np.testing.assert_allclose(found["probability"], expected, atol=1e-5)
    assert (found["label_probability"] == found["probability"]).all()


def test_predictions_without_labels(bright_and_dark):
    records = [r for r in bright_and_dark.records if "broken" not in r.id]
    for record in records:
        object.__setattr__(record, "label", None)
    unlabelled = data.GeoDataset("folder", ("bright", "dark"), "all", records)
    found = model.predict(Brightness(), unlabelled, progress=False)
    assert found[["label", "label_probability"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="no labelled image"):
        model.accuracy(found)


def test_precision_is_as_asked():
    for asked, fast in (("bf16", True), ("fp32", False), ("auto", uses_bf16("cpu"))):
        with inference_precision("cpu", asked):
            found = nn.Linear(4, 4)(torch.rand(2, 4)).dtype
        assert found == (torch.bfloat16 if fast else torch.float32)
    with pytest.raises(ValueError, match="precision='half'; expected one of auto, bf16, fp32"):
        inference_precision("cpu", "half")
