"""Files of tensors, of safetensors or of ``torch.save``, read without running what they hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

# How torch says that a file names a class or function that is not allowed, or fills one with items.
_UNKNOWN = re.compile(r"Unsupported global: GLOBAL (\S+)")
_CONTAINER = re.compile(r"Can only (SETITEM|append|extend).*<class '(.+?)'>")
_MEND = "save the network's state_dict() instead"
_REASON = re.compile(r"(?:WeightsUnpickler error:|\n\n)\s*(.+)")


class _Inert:
    """In place of an object of a class or function that a file names; it does nothing."""

    def __new__(cls, *args: object) -> Any:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


class _InertDict(_Inert):
    def __new__(cls, *args: object) -> Any:
        return Counter()


class _InertList(_Inert):
    def __new__(cls, *args: object) -> Any:
        return []


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def read_header(path: Path) -> dict[str, str]:
    """Entries of the header of a safetensors file; of others there are none."""
    try:
        if not _is_safetensors(path):
            return {}
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors in a file of safetensors or of ``torch.save``, whatever its suffix.

    Names of the dictionaries around them come first in their keys, as in ``model.conv1.weight``.
    Nothing of a file is run: objects beside the tensors are left out. ValueError if it is damaged
    or holds none.
    """
    try:
        if _is_safetensors(path):
            return load_file(path)
        content, foreign = _unpickled(path)
        tensors = dict(_flat(content))
    except Exception as error:  # damaged files give rise to errors of every kind
        found = _REASON.search(str(error))
        reason = found[1] if found else str(error).partition("\n")[0] or repr(error)
        if "persistent_load" in reason:  # a module, as saved before PyTorch 1.6
            reason = f"it holds a whole network; {_MEND}"
        raise ValueError(f"weights file {path} cannot be read: {reason}") from error
    if not tensors and foreign:
        what = f"it holds objects ({some(foreign)}), which only running their code restores"
        raise ValueError(f"weights file {path} cannot be read: {what}; {_MEND}")
    if not tensors:
        raise ValueError(f"weights file {path} holds no state dict, a mapping of names to tensors")
    return tensors


def _unpickled(path: Path) -> tuple[Any, list[str]]:
    """Content of a file of ``torch.save``, and the classes and functions that are stood in for."""
    kinds: dict[str, type] = {}
    while True:
        stand_ins = [
            (type(name, (kind,), {"__module__": ""}), name) for name, kind in kinds.items()
        ]
        try:
            with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
                return torch.load(path, map_location="cpu", weights_only=True), [*kinds]
        except UnpicklingError as error:
            name, kind = _asked_for(str(error))
            if kind is None or kinds.get(name) is kind:
                raise
            kinds[name] = kind


def _asked_for(message: str) -> tuple[str, type | None]:
    """Class or function that torch refuses to use, and the kind of object to stand in for it."""
    if found := _UNKNOWN.search(message):
        return found[1] if "." in found[1] else f"builtins.{found[1]}", _Inert
    if found := _CONTAINER.search(message):
        return found[2].lstrip("."), _InertDict if found[1] == "SETITEM" else _InertList
    return "", None


def _flat(content: object, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(key, str):  # an optimizer's are numbers
            yield from _flat(value, f"{prefix}{key}.")


def some(names: Sequence[str]) -> str:
    """The first three of some names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
