"""What the segmenters that hold a network share: where their weights are, and how they load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from geolib.model.weights import not_finite

# What transformers reads of a folder; the hub's folders hold other things beside it.
FOLDER_FILES = (".json", ".safetensors", ".txt")


class NetworkSegmenter:
    """Base of the segmenters that hold a network; `model` is the network.

    They see the photograph in its own pixels: an instance is called with the image and with the
    size (height, width) that its masks shall have.
    """

    asset: ClassVar[str]  # its name for `geolib fetch`
    published: ClassVar[str]  # what the weights are and where they come from
    model: nn.Module

    @classmethod
    def find(cls, checkpoint: str | Path | None) -> Path:
        """The given checkpoint, or else the one that `geolib fetch` left; ValueError for none."""
        from geolib.download import assets  # pydantic, requests, the hub's client: for this alone

        path = assets.path(cls.asset) if checkpoint is None else Path(checkpoint)
        if path is not None and cls.holds_weights(path):
            return path
        where = f"no checkpoint at {path}" if path else "no checkpoint given and none fetched"
        raise ValueError(
            f"{where}: run `geolib fetch {cls.asset}`, or pass checkpoint=PATH of {cls.published}"
        )

    @staticmethod
    def holds_weights(path: Path) -> bool:
        return path.is_file()


class FolderSegmenter(NetworkSegmenter):
    """Base of the segmenters whose network is a folder in transformers' format."""

    kinds: ClassVar[tuple[str, ...]]  # model types that hold this network
    model: Any

    @staticmethod
    def holds_weights(path: Path) -> bool:
        return (path / "config.json").is_file() and any(path.glob("*.safetensors"))

    @classmethod
    def read(cls, architecture: Any, processing: Any, folder: Path) -> tuple[Any, Any]:
        """The network in `folder`, in evaluation mode, and what prepares its inputs.

        Nothing is looked up on the hub. transformers draws at random what a checkpoint lacks and
        drops what it holds beside it: here both are a ValueError that names the keys, except for
        what the architecture itself declares foreign (published checkpoints hold SAM 2's and SAM
        3's video networks, of which the image network is a part).
        """
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
            if kind not in cls.kinds:
                raise ValueError(f"its model_type is {kind!r}, expected {' or '.join(cls.kinds)}")
            processor = processing.from_pretrained(folder, local_files_only=True)
            network, report = architecture.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # so that they are listed in the report
                output_loading_info=True,
            )
        except Exception as error:  # json, transformers and safetensors each raise their own
            raise ValueError(
                f"checkpoint {folder} cannot be read: {error}; expected {cls.published}"
            ) from error
        problems = {
            "missing": report["missing_keys"],
            "unexpected": report["unexpected_keys"],
            "of another shape": [key for key, *_ in report["mismatched_keys"]],
            "not finite": not_finite(network.state_dict()),
        }
        refuse(problems, f"{folder} does not fit {architecture.__name__}")
        return network.eval(), processor


def refuse(problems: dict[str, Any], what: str) -> None:
    """ValueError that lists the keys of each kind of problem, if there is any."""
    if any(problems.values()):
        kinds = (f"{kind}: {', '.join(sorted(keys))}" for kind, keys in problems.items() if keys)
        raise ValueError(f"checkpoint {what}: {'; '.join(kinds)}")


def weight_files(checkpoint: Path) -> list[Path]:
    """The file itself, or the files that make up a folder in transformers' format."""
    if not checkpoint.is_dir():
        return [checkpoint]
    return sorted(p for p in checkpoint.rglob("*") if p.suffix in FOLDER_FILES)


def digest(checkpoint: Path) -> str:
    """sha256 of a checkpoint's bytes; where it lies does not count."""
    whole = hashlib.sha256()
    for path in weight_files(checkpoint):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
