"""A country classifier: a network of torchvision or timm, and what is needed to use it."""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from geolib.model.layers import find_target_layer
from geolib.model.weights import fitted, load_weights
from geolib.runtime.tensors import read_header, read_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HEADER = "geolib"


class HeadReplaced(UserWarning):
    """The last layer of the weights did not fit the classes; a new, untrained one is in place."""


@dataclass(frozen=True)
class Card:
    """What is known of a network beside its weights."""

    name: str
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    trained_on: str = "unknown"
    training: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)


class Classifier(nn.Module):
    """Classifier of images 0…1: normalises within ``forward``, knows its classes.

    Attributes
    ----------
    network, name : the network of torchvision or timm, and its name there.
    classes : names of the outputs.
    image_size : side in pixels of the square images it is meant for.
    trained_on : a dataset's name, ``"imagenet"``, ``"nothing"``, or ``"unknown"``.
    training_config : settings of the training; empty if it was trained elsewhere.
    history : DataFrame, one row per epoch: loss and accuracy on training and validation split.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__()
        self.network = network
        self.name = card.name
        self.classes = card.classes
        self.image_size = card.image_size
        self.trained_on = card.trained_on
        self.training_config = card.training
        self.history = pd.DataFrame(card.history)
        self._card = card
        self.target_layer_name = find_target_layer(network, card.image_size)
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(card.std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``[B,N]`` of images ``[B,3,H,W]``, 0…1."""
        output = self.network((images - self.mean) / self.std)
        # Inception networks put out their auxiliary heads as well while they train.
        return output if isinstance(output, torch.Tensor) else output[0]

    @property
    def target_layer(self) -> nn.Module:
        """Layer whose activations class activation maps weight: last block of the last stage.

        ValueError where that puts out no map, as in networks of tokens.
        """
        if self.target_layer_name is None:
            raise ValueError(
                f"{self.name} has no map [B, K, h, w] in its last stage: use smoothgrad or "
                "integrated_gradients, which need none, or name a layer, target_layer="
            )
        return self.network.get_submodule(self.target_layer_name)

    @property
    def weights_sha256(self) -> str:
        """Hash of all weights and buffers of the network."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def card(self) -> Card:
        """What is known of it beside its weights."""
        history = {str(name): column.tolist() for name, column in self.history.items()}
        card = replace(self._card, image_size=self.image_size, trained_on=self.trained_on)
        return replace(card, training=self.training_config, history=history)

    def save(self, path: str | Path, **header: str) -> None:
        """Write a checkpoint for :func:`load`: weights as safetensors, the rest in its header.

        ``header`` holds further entries of it, which :func:`load` does not look at.
        """
        # Copies: layers may share weights, and a file of safetensors holds each by itself.
        copy: Any = {"copy": True, "memory_format": torch.contiguous_format}
        tensors = {key: t.to("cpu", **copy) for key, t in self.network.state_dict().items()}
        save_file(tensors, path, metadata={HEADER: json.dumps(asdict(self.card)), **header})


def load(
    path_or_name: str | Path,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> Classifier:
    """Load a classifier.

    Parameters
    ----------
    path_or_name : a checkpoint of :meth:`Classifier.save`, or the name of a classification network
        of torchvision or timm (``"timm/NAME"`` where both know it), timm's options behind it:
        ``"resnet10t?output_stride=16"`` halves the image four times instead of five.
    weights : for a name, a file of weights, of safetensors or ``torch.save``, of which nothing is
        run; ``"imagenet"`` downloads the published ones; ``"random"`` leaves the network untrained.
    classes : names of the outputs, by default the checkpoint's or ImageNet's 1000. Where they do
        not fit the weights' last layer, an untrained one is put there, with :class:`HeadReplaced`.
    image_size : side in pixels; by default the checkpoint's, or the network's own.
    seed : decides untrained weights.

    Returns
    -------
    Classifier in evaluation mode, on the CPU.

    Raises
    ------
    ValueError
        For an unknown name, an image size that does not fit, a network with one output, or weights
        that are missing, damaged, not finite, or do not fit; the message names the keys.
    """
    path = Path(path_or_name)
    is_file = path.is_file() or path.suffix in (".safetensors", ".pth", ".pt", ".ckpt")
    if path.is_file() and weights is not None:
        raise ValueError(f"weights={str(weights)!r}: {path_or_name} brings its own weights")
    named = None if is_file else published_card(str(path_or_name))
    of_name = str(weights) in ("None", "imagenet", "random")
    kept = None if of_name and named else _read_card(path if named is None else Path(weights or ""))
    card = replace(kept, name=named.name) if kept and named else kept or named
    if card is None:
        raise ValueError(
            f"path_or_name={str(path)!r} is no checkpoint of this package; for other weights give "
            "the network's name, and the file as weights="
        )
    if weights == "random" and classes is None:
        raise ValueError("classes is missing: an untrained network needs their names")
    if weights is None and not is_file:
        raise ValueError(
            f"weights is missing: give a file (safetensors or pth) for {card.name}, 'imagenet' or "
            "'random' for published or untrained ones"
        )
    wanted = tuple(classes or card.classes)
    _check_outputs(len(wanted), f"{card.name} of the classes {', '.join(wanted)}")
    network = build(card.name, len(wanted), seed)
    own_size = card.image_size if kept else getattr(network, "image_size", card.image_size)
    check_size(network, card.name, image_size or own_size, own_size)
    trained_on = "nothing"
    if weights != "random":
        source = str(path_or_name if is_file else weights)
        head = _last_layer(card.name, network.state_dict(), len(wanted))
        tensors = _download(card.name) if source == "imagenet" else read_weights(Path(source))
        tensors = fitted(network, tensors, source, head)
        outputs = {len(tensors[key]) for key in head if key in tensors}
        _check_outputs(min(outputs, default=2), source)
        fits = outputs == {len(wanted)} and (wanted == card.classes or not kept)
        if not fits and classes is None and outputs:
            raise ValueError(f"classes is missing: {source} has {outputs.pop()} outputs; name them")
        if not fits and classes is not None:
            tensors |= {key: network.state_dict()[key] for key in head}
        load_weights(network, tensors, source)
        if not fits:
            own = ", ".join(card.classes[:5]) if kept else f"{max(outputs, default=0)} outputs"
            warnings.warn(
                f"the last layer of {source} ({own}) does not fit the {len(wanted)} classes "
                f"{', '.join(wanted[:5])}; an untrained one is in its place",
                HeadReplaced,
                stacklevel=2,
            )
        trained_on = card.trained_on if kept or max(outputs, default=0) == 1000 else "unknown"
    size = image_size or own_size
    card = replace(card, classes=wanted, image_size=size, trained_on=trained_on)
    return Classifier(network, card).eval()


# Networks by name ---------------------------------------------------------------------------------


@cache
def _torchvision_names() -> tuple[str, ...]:
    return tuple(models.list_models(module=models))


def published_card(name: str) -> Card:
    """Card of a network's published ImageNet weights, without fetching them; ValueError if none."""
    classes = tuple(models.ResNet18_Weights.DEFAULT.meta["categories"])
    if name in _torchvision_names():
        how = models.get_model_weights(name).DEFAULT.transforms()
        size, mean, std = how.crop_size[0], tuple(how.mean), tuple(how.std)
        return Card(name, classes, size, mean, std, trained_on="imagenet")
    plain, options = _timm_name(name)
    settings = timm.get_pretrained_cfg(plain) if timm.is_model(plain) else None
    if settings is None:
        known = (*_torchvision_names(), *timm.list_models())
        close = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0))
        raise ValueError(
            f"path_or_name={name!r} is neither a file nor of torchvision or timm; close: {close}"
        )
    size = options.get("img_size", settings.input_size[-1])
    return Card(name, classes, size, settings.mean, settings.std, trained_on="imagenet")


def _timm_name(name: str) -> tuple[str, dict[str, Any]]:
    """Name of a network of timm without its prefix, and the options behind ``?``."""
    plain, _, options = name.removeprefix("timm/").partition("?")
    try:
        pairs = (option.split("=") for option in options.split("&") if option)
        return plain, {key: ast.literal_eval(value) for key, value in pairs}
    except (SyntaxError, ValueError) as error:
        raise _wrong_options(name) from error


def _timm_network(name: str, n_classes: int | None = None, **choices: Any) -> nn.Module:
    plain, options = _timm_name(name)
    try:
        return timm.create_model(plain, num_classes=n_classes, **options, **choices)
    except TypeError as error:
        raise _wrong_options(name) from error


def _wrong_options(name: str) -> ValueError:
    return ValueError(f"path_or_name={name!r}: expected options as in 'resnet10t?output_stride=16'")


def build(name: str, n_classes: int, seed: int = 0) -> nn.Module:
    """Untrained network of torchvision or timm with ``n_classes`` outputs; ``seed`` decides it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name not in _torchvision_names():
            return _timm_network(name, n_classes)
        # The published weights of these two expect inputs scaled in another way.
        google = {"transform_input": True, "init_weights": False}
        options = google if name in ("googlenet", "inception_v3") else {}
        return models.get_model(name, weights=None, num_classes=n_classes, **options)


def takes(network: nn.Module, image_size: int) -> bool:
    """Whether a network takes square images of that size."""
    training = network.training
    try:
        place = next(network.parameters()).device
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, image_size, image_size, device=place))
    except Exception:  # networks refuse in many ways
        return False
    finally:
        network.train(training)
    return True


def check_size(network: nn.Module, name: str, image_size: int, own_size: int) -> None:
    """ValueError where a network does not take images of a size as it takes those of its own."""
    if image_size != own_size and not takes(network, image_size):
        raise ValueError(f"image_size={image_size} does not fit {name}, which takes {own_size}")


def _check_outputs(n: int, source: str) -> None:
    if n < 2:
        raise ValueError(
            f"{source} has one output; a classifier needs one for each class, two or more"
        )


def _last_layer(name: str, weights: Mapping[str, torch.Tensor], n_classes: int) -> list[str]:
    """Keys of a network's weights for ``n_classes`` whose shape depends on that number."""
    other = build(name, n_classes + 1).state_dict()
    return [key for key, tensor in other.items() if tensor.shape != weights[key].shape]


def with_classes(
    classifier: Classifier, classes: Sequence[str], seed: int = 0, rows: slice | None = None
) -> Classifier:
    """A copy for other classes, whose last layer is new and untrained, or ``rows`` of the old."""
    network = build(classifier.name, len(classes), seed)
    tensors, initial = classifier.network.state_dict(), network.state_dict()
    for key in _last_layer(classifier.name, initial, len(classes)):
        tensors[key] = initial[key] if rows is None else tensors[key][rows]
    load_weights(network, tensors, classifier.name)
    card = replace(classifier.card, classes=tuple(classes), history={})
    return Classifier(network, card).eval()


# Files of weights ---------------------------------------------------------------------------------


def _read_card(path: Path) -> Card | None:
    """What a checkpoint of :meth:`Classifier.save` says beside its weights; None of other files."""
    text = read_header(path).get(HEADER)
    if text is None:
        return None
    card = json.loads(text)
    return Card(**card | {key: tuple(card[key]) for key in ("classes", "mean", "std")})


def _download(name: str) -> dict[str, torch.Tensor]:
    """ImageNet weights as published by torchvision or timm; they keep a copy."""
    try:
        if name in _torchvision_names():
            return models.get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(check_hash=True)
        return _timm_network(name, pretrained=True).state_dict()
    except Exception as error:  # the network fails in many ways
        raise ValueError(
            f"weights='imagenet': those of {name} cannot be downloaded ({error}); "
            "download them elsewhere and give the file as weights="
        ) from error
