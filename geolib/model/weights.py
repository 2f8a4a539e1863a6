"""Files of weights: read, and loaded where they fit exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

# Files from before PyTorch 0.4.1 lack these, and inference does not need them.
_COUNTERS = "num_batches_tracked"


def read_header(path: Path) -> dict[str, str]:
    """Entries of the header of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Weights in a file: safetensors, or a pth that holds nothing but tensors; else ValueError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files give rise to errors of every kind
        raise ValueError(f"weights file {path} cannot be read: {error}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(torch.is_tensor(v) for v in content.values()):
        raise ValueError(f"weights file {path} holds no state dict, a mapping of names to tensors")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Keys of the tensors that hold NaN or infinite values."""
    return [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]


def load_weights(network: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Load weights that must fit exactly and be finite; a ValueError names the keys that do not."""
    expected = network.state_dict()
    faults = {
        "missing": [k for k in expected if k not in tensors and not k.endswith(_COUNTERS)],
        "unexpected": [k for k in tensors if k not in expected],
        "of another shape": [
            f"{k} {tuple(tensors[k].shape)} instead of {tuple(v.shape)}"
            for k, v in expected.items()
            if k in tensors and tensors[k].shape != v.shape
        ],
    }
    if found := [f"{len(keys)} {fault}: {_some(keys)}" for fault, keys in faults.items() if keys]:
        name = type(network).__name__
        raise ValueError(f"weights of {source} do not fit {name}: {'; '.join(found)}")
    if broken := not_finite(tensors):
        raise ValueError(
            f"weights of {source} hold NaN or infinity in {len(broken)} tensors: {_some(broken)}"
        )
    network.load_state_dict(tensors, strict=False)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
