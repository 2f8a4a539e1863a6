"""Weights under a network's own keys, loaded where they fit exactly."""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from itertools import takewhile

import torch
from torch import nn

from geolib.runtime.tensors import some

Tensors = dict[str, torch.Tensor]

# Files from before PyTorch 0.4.1 lack these, and inference does not need them.
_COUNTERS = "num_batches_tracked"
# What wrappers of parts of a network put into keys, and keys of torchvision's published files.
_RENAMES = (
    (re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."), ""),
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)


def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Keys of the tensors that hold NaN or infinite values."""
    return [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]


def without_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """Those of the tensors whose keys begin with a prefix, under keys without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def fitted(
    network: nn.Module, tensors: Mapping[str, torch.Tensor], source: str, head: Collection[str] = ()
) -> Tensors:
    """A file's tensors under the network's own keys.

    Prefixes that all of a network's keys share (``module.``, ``model.net.``) are taken off, older
    keys of torchvision's and timm's networks renamed. Of weights and their moving average (``ema``)
    the weights are taken; a warning lists tensors that are left out. ValueError where a file holds
    weights of several such networks. ``head`` lists keys that may be missing.
    """
    expected = network.state_dict()
    named = {_renamed(key): tensor for key, tensor in tensors.items()}
    counts = Counter(p for key in named for p in _prefixes(key, expected))
    whole = [p for p in counts if not {*_missing(expected, without_prefix(named, p))} - {*head}]
    whole = [p for p in whole if "ema" not in p] or whole[:1]
    if len(whole) > 1:
        raise ValueError(
            f"weights of {source} are those of several networks: {some(whole)}; keep one of them"
        )
    parts = takewhile(
        lambda part: len({*part}) == 1, zip(*(k.split(".") for k in named), strict=False)
    )
    shared = "".join(f"{part[0]}." for part in parts)
    prefix = max(whole or counts, key=counts.__getitem__, default=shared)
    found = without_prefix(named, prefix)
    if found.keys() - expected.keys() or not whole:
        found = _of_older_timm(network, found)
    left_out = [k for k, t in named.items() if not k.startswith(prefix) and t.numel() > 1]
    if left_out and whole:
        text = f"{source}: {len(left_out)} tensors beside the network's: {some(left_out)}"
        warnings.warn(f"{text}; they are left out", stacklevel=3)
    return found


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def _prefixes(key: str, expected: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """What stands in a key before one of those expected."""
    ends = (key.split(".", i)[-1] for i in range(key.count(".") + 1))
    return (key.removesuffix(end) for end in ends if end in expected)


def _missing(
    expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]
) -> list[str]:
    """Keys of weights that a file lacks; of weights that layers share, one is enough."""
    there = {tensor.data_ptr() for key, tensor in expected.items() if key in tensors}
    lacking = {k: t for k, t in expected.items() if k not in tensors and not k.endswith(_COUNTERS)}
    return [key for key, tensor in lacking.items() if tensor.data_ptr() not in there]


def _of_older_timm(network: nn.Module, tensors: Tensors) -> Tensors:
    """Weights as timm renames those of its older versions, where nothing is resampled."""
    rename = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return tensors
    try:
        new = rename(dict(tensors), network)
    except Exception:  # made for files that it knows
        return tensors
    given = {tensor.data_ptr() for tensor in tensors.values()}
    made = [k for k, t in new.items() if k in tensors and t.data_ptr() not in given]
    return new if all(new[key].numel() == tensors[key].numel() for key in made) else tensors


def load_weights(network: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Load weights that must fit exactly and be finite; a ValueError names the keys that do not."""
    expected = network.state_dict()
    faults = {
        "missing": _missing(expected, tensors),
        "unexpected": [k for k in tensors if k not in expected],
        "of another shape": [
            f"{k} {tuple(tensors[k].shape)} instead of {tuple(v.shape)}"
            for k, v in expected.items()
            if k in tensors and tensors[k].shape != v.shape
        ],
    }
    if found := [f"{len(keys)} {fault}: {some(keys)}" for fault, keys in faults.items() if keys]:
        name = type(network).__name__
        raise ValueError(f"weights of {source} do not fit {name}: {'; '.join(found)}")
    if broken := not_finite(tensors):
        raise ValueError(
            f"weights of {source} hold NaN or infinity in {len(broken)} tensors: {some(broken)}"
        )
    state = OrderedDict(tensors)
    # Versions of the layers' layouts, which files lack: these fit, so they are the network's own.
    state._metadata = expected._metadata  # type: ignore[attr-defined]
    network.load_state_dict(state, strict=False)
