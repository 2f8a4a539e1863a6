"""Files of weights as people have them: one network, one hash, and nothing that is run."""

import argparse
import builtins
import collections
import datetime
import enum
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torchvision.models import DenseNet, VisionTransformer

from geolib import model
from geolib.model.classifier import build
from geolib.model.weights import fitted, load_weights
from geolib.runtime.tensors import read_weights

NAME, ABC = "squeezenet1_1", ("A", "B", "C")
PREFIXES = "module. model. net. _orig_mod. backbone. encoder. network. module.model. "
PREFIXES += "model._orig_mod.module. _forward_module.a.b_c."


@pytest.fixture(scope="module")
def plain():
    return dict(build(NAME, 3, seed=1).state_dict())


@pytest.fixture
def digest(tmp_path, plain):
    """Whether a file with some content gives the plain network."""
    path = tmp_path / "weights.bin"

    def matches(content, kind="zip"):
        if kind == "safetensors":
            save_file(content, path)
        else:
            torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
        found = model.load(NAME, weights=path, classes=ABC).network.state_dict()
        return found.keys() == plain.keys() and all(torch.equal(found[k], plain[k]) for k in plain)

    return matches


def under(prefix, tensors):
    return {prefix + key: tensor for key, tensor in tensors.items()}


@pytest.mark.filterwarnings("error")
def test_a_prefix_that_all_keys_share_is_taken_off(digest, plain):
    for prefix in PREFIXES.split():  # what keys are called has nothing to do with the format
        assert digest(under(prefix, plain)), prefix
    for kind in ("legacy", "safetensors"):
        assert digest(under("module.model.", plain), kind), kind
    inner = re.compile(r"^(features\.\d+)\.")  # wrappers of parts of a network
    for wrapper in ("_orig_mod", "_fsdp_wrapped_module"):
        assert digest({inner.sub(rf"\1.{wrapper}.", key): t for key, t in plain.items()}), wrapper


class Settings(dict):
    """As Lightning's AttributeDict; its module is gone when the file is read."""


class Names(list):
    """As a configuration's list."""


class Mode(enum.Enum):
    FAST = "fast"


class Node:
    """As a node of OmegaConf."""

    def __init__(self, **content):
        self._content, self._metadata = content, (None, Settings(key="a"))


@pytest.fixture
def foreign(monkeypatch):
    """Objects of classes of a module that is gone once they are written."""
    gone = types.ModuleType("gone")
    monkeypatch.setitem(sys.modules, "gone", gone)
    for kind in (Settings, Names, Mode, Node):
        monkeypatch.setattr(kind, "__module__", "gone")
        setattr(gone, kind.__name__, kind)
    settings = Settings(lr=np.float64(0.1), layers=Names([1, 2]), inner=Settings(mode=Mode.FAST))
    return Node(settings=settings, schedule=collections.defaultdict(list, {"a": [1]}))


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, output=pathlib.Path("out"), seed=np.int64(3)),
    "numpy": {"best": np.float64(0.9), "array": np.arange(3), "type": np.dtype("float32")},
    "standard library": [datetime.timedelta(1), collections.deque([1]), frozenset({1}), slice(2)],
    "module": nn.Linear(2, 2),
}


def training():
    """What a training keeps beside the weights."""
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    return {"epoch": 3, "best_acc1": torch.tensor(71.5), "optimizer": optimizer.state_dict()}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "wrap",
    [
        *("state_dict", "model", "model_state_dict", "net", "ema"),
        lambda t: {"model": {"state_dict": t}},
        lambda t: {"state_dict": under("model.net.", t), "pytorch-lightning_version": "2.5"},
        lambda t: {"model_ema": under("module.", t) | {"n_averaged": torch.tensor(5)}},
    ],
)
def test_wrappers_are_taken_off(digest, plain, wrap):
    assert digest(({wrap: plain} if isinstance(wrap, str) else wrap(plain)) | training())


@pytest.mark.parametrize("beside", [*BESIDE, "foreign"])
def test_what_stands_beside_weights_is_left_out(digest, plain, foreign, beside):
    content = {"args": foreign if beside == "foreign" else BESIDE[beside], "state_dict": plain}
    assert digest(content | training())
    # A module in a file of the older format brings its source along, and is refused.
    assert beside not in ("namespace", "foreign") or digest(content | training(), "legacy")


def test_modules_that_a_file_names_are_not_imported(plain, tmp_path, foreign, monkeypatch):
    torch.save({"state_dict": plain, "args": foreign}, tmp_path / "a.pth")
    monkeypatch.delitem(sys.modules, "gone")
    (tmp_path / "gone.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert read_weights(tmp_path / "a.pth").keys() == under("state_dict.", plain).keys()
    assert "gone" not in sys.modules


class Call:
    """What is unpickled by calling a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize(
    "function", [os.mkdir, os.system, subprocess.call, pathlib.Path.mkdir, builtins.exec, eval]
)
def test_a_file_that_would_run_code_does_not(plain, tmp_path, function, kind):
    path, made = tmp_path / "evil.pth", tmp_path / "made"
    known = {os.mkdir: str(made), os.system: f"mkdir {made}", pathlib.Path.mkdir: made}
    known[subprocess.call] = ["mkdir", str(made)]
    argument = known.get(function, f"__import__('os').mkdir({str(made)!r})")
    content = {"state_dict": plain, "args": Call(function, argument)}
    torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    try:
        assert read_weights(path).keys() == under("state_dict.", plain).keys()
    except ValueError as error:
        assert re.fullmatch(r".*evil\.pth cannot be read: Trying to (load|call) .*", str(error))
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "zip"),
        (nn.Sequential(nn.Linear(2, 2)), "legacy"),
        ({"model": nn.Linear(2, 2), "ema": nn.Linear(2, 2), "epoch": 3}, "zip"),
        ({"model": nn.Linear(2, 2)} | training() | {"best_acc1": 0.7}, "zip"),
    ],
)
def test_a_whole_network_is_refused_in_one_line(tmp_path, content, kind):
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=kind == "zip")
    said = r"a\.pth cannot be read: it holds .*; save .*state_dict"
    with pytest.raises(ValueError, match=said) as refusal:
        read_weights(tmp_path / "a.pth")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_half_precision_is_read_as_what_it_says(tmp_path, plain, dtype, kind):
    half = {key: tensor.to(dtype) for key, tensor in plain.items()}
    rounded = {key: tensor.float() for key, tensor in half.items()}
    found = []
    for i, tensors in enumerate((half, rounded)):
        (save_file if kind == "safetensors" else torch.save)(tensors, tmp_path / f"{i}")
        found.append(model.load(NAME, weights=tmp_path / f"{i}", classes=ABC))
    assert found[0].weights_sha256 == found[1].weights_sha256
    assert {p.dtype for p in found[0].parameters()} == {torch.float32}


def test_weights_are_preferred_to_their_average(digest, plain):
    other = {key: tensor + 1 for key, tensor in plain.items()}
    for content in (
        {"model_ema": under("module.", other), "model": plain},
        {"state_dict": plain, "state_dict_ema": other},
    ):
        with pytest.warns(UserWarning, match=r"52 tensors beside the network's: .*ema.*, …; they"):
            assert digest(content)


def test_tensors_beside_the_network_are_named(digest, plain):
    content = {"state_dict": under("model.", plain) | {"loss.weight": torch.ones(3)}}
    said = r"1 tensors beside the network's: state_dict\.loss\.weight"
    with pytest.warns(UserWarning, match=said):
        assert digest(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda t: {"student": t, "teacher": t}, "several networks: student., teacher.; keep one"),
        (lambda t: t | {"extra": torch.ones(2)}, "1 unexpected: extra"),
        (lambda t: under("model.", t | {"extra": torch.ones(2)}), "1 unexpected: extra"),
        (lambda t: under("net.", dict([*t.items()][1:])), "1 missing: features.0.weight"),
    ],
)
def test_what_does_not_fit_is_named(digest, plain, content, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        digest(content(plain))


# Keys of published files, by tiny networks of their kind -----------------------------------------


def old_swin(key):
    key = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)
    return key.replace("head.fc.", "head.")


def facebook_convnext(key):
    key = re.sub(r"^stem\.", "downsample_layers.0.", key)
    key = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", key)
    key = re.sub(r"^stages\.(\d)\.blocks\.", r"stages.\1.", key)
    key = key.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
    return key.replace("head.fc.", "head.").replace("head.norm.", "norm.")


def old_densenet(key):
    return re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key)


def old_vit(key):
    return key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")


SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("make", "old"),
    [
        (lambda: DenseNet(4, (2, 2), 8, num_classes=3), old_densenet),
        (lambda: VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=3), old_vit),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224", **SWIN), old_swin),
        (lambda: timm.create_model("convnext_atto", dims=(4, 4, 8, 8)), facebook_convnext),
    ],
)
def test_published_keys_are_renamed(make, old):
    first = make()
    for prefix in ("", "model.", "state_dict.module."):
        again = make()
        tensors = {prefix + old(key): tensor for key, tensor in first.state_dict().items()}
        assert tensors.keys() != under(prefix, first.state_dict()).keys()
        load_weights(again, fitted(again, tensors, "a.pth"), "a.pth")
        for key, tensor in first.state_dict().items():
            assert torch.equal(again.state_dict()[key], tensor), key


def test_positions_of_another_size_are_refused_and_not_resampled():
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1)
    tensors = network.state_dict() | {"pos_embed": torch.zeros(1, 577, 192), "pre.x": torch.ones(2)}
    with pytest.raises(ValueError, match=r"pos_embed \(1, 577, 192\) instead of \(1, 197, 192\)"):
        load_weights(network, fitted(network, tensors, "a.pth"), "a.pth")


# What is written can be read ----------------------------------------------------------------------


# Layouts that have a version, of layers that share weights, of convolutions, windows and tokens.
KEPT = "mnasnet0_5 timm/coat_tiny shufflenet_v2_x0_5 mobilenet_v3_small regnet_y_400mf "
KEPT += "efficientnet_b0 resnet10t?output_stride=16 convnext_atto mobilevit_xxs "
KEPT += "vit_tiny_patch16_224 xcit_nano_12_p16_224 levit_128s"


@pytest.mark.parametrize("name", KEPT.split())
def test_a_network_is_the_same_after_it_was_kept(tmp_path, name):
    size = 224 if re.search("coat|224|levit", name) else 64
    first = model.load(name, weights="random", classes=ABC, image_size=size)
    images = torch.rand(2, 3, size, size)
    for file in ("mine.safetensors", "mine.pth", "x") if name == "mnasnet0_5" else ("x",):
        first.save(tmp_path / file)
        again = model.load(tmp_path / file)
        assert (again.weights_sha256, again.image_size) == (first.weights_sha256, size)
    other = model.load(name, weights=tmp_path / "x", classes=ABC, image_size=size)
    assert other.weights_sha256 == first.weights_sha256
    with torch.inference_mode():
        assert torch.equal(first(images), again(images))


def test_of_shared_weights_one_is_enough(tmp_path):
    network, found = build("coat_tiny", 3), []
    save_model(network, tmp_path / "a.safetensors")  # which leaves the others out
    torch.save(network.state_dict(), tmp_path / "a.pth")
    assert len(read_weights(tmp_path / "a.safetensors")) < len(network.state_dict())
    for file in ("a.safetensors", "a.pth"):
        one = model.load("coat_tiny", weights=tmp_path / file, classes=ABC)
        found.append(one.weights_sha256)
    assert found[0] == found[1]


# Outputs and sizes --------------------------------------------------------------------------------


def test_a_network_with_one_output_is_refused(tmp_path):
    save_file(build(NAME, 1).state_dict(), tmp_path / "one.pth")
    for classes in (None, ("FR",), ("FR", "other")):
        said = "has one output; a classifier needs one for each class"
        with pytest.raises(ValueError, match=said):
            model.load(NAME, weights=tmp_path / "one.pth", classes=classes)
    with pytest.raises(ValueError, match="squeezenet1_1 of the classes FR has one output"):
        model.load(NAME, weights="random", classes=("FR",))


@pytest.mark.parametrize(
    ("name", "own", "other"),
    [
        ("vit_tiny_patch16_224", 224, 160),
        ("vit_tiny_patch16_224?img_size=64", 64, 224),
        ("mixer_s32_224", 224, 160),
        ("squeezenet1_1", 224, 8),
    ],
)
def test_a_size_that_does_not_fit_names_the_one_that_does(name, own, other):
    options = {"weights": "random", "classes": ABC}
    assert model.load(name, **options).image_size == own
    message = f"image_size={other} does not fit {name}, which takes {own}"
    with pytest.raises(ValueError, match=re.escape(message)):
        model.load(name, **options, image_size=other)
