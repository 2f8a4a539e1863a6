"""What the segmenters that hold a network share: where their weights are, and how they load."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from geolib.model.device import choose_device
from geolib.model.weights import not_finite

# What transformers reads of a folder; the hub's folders hold other things beside it.
FOLDER_FILES = (".json", ".safetensors", ".txt")


@dataclass(eq=False)
class NetworkSegmenter(ABC):
    """Base of the segmenters that hold a network; `model` is the network.

    They see the photograph in its own pixels: an instance is called with the image and with the
    size (height, width) that its masks shall have.
    """

    asset: ClassVar[str]  # its name for `geolib fetch`
    published: ClassVar[str]  # what the weights are and where they come from

    checkpoint: Any = None  # a path; by default what `geolib fetch` left
    device: str | None = None

    def __post_init__(self) -> None:
        self.checkpoint = self.find(self.checkpoint)
        device = choose_device(self.device or "auto", float64=True)
        self.model: Any = self.open(self.checkpoint).to(device)

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

    @abstractmethod
    def open(self, checkpoint: Path) -> nn.Module:
        """The network of a checkpoint; ValueError where that is not this network's."""


class FolderSegmenter(NetworkSegmenter):
    """Base of the segmenters whose network is a folder in transformers' format."""

    kinds: ClassVar[tuple[str, ...]]  # model types that hold this network
    classes: ClassVar[tuple[str, str]]  # transformers' names of the network and its processor
    processor: Any

    @staticmethod
    def holds_weights(path: Path) -> bool:
        return (path / "config.json").is_file() and any(path.glob("*.safetensors"))

    def open(self, checkpoint: Path) -> nn.Module:
        """The network in a folder; `processor` is what prepares its inputs.

        Nothing is looked up on the hub. transformers draws at random what a checkpoint lacks and
        drops what it holds beside it: here both are a ValueError that names the keys, except for
        what the architecture itself declares foreign (published checkpoints hold SAM 2's and SAM
        3's video networks, of which the image network is a part).
        """
        import transformers  # takes seconds, and most runs hold none of its networks

        architecture, processing = (getattr(transformers, name) for name in self.classes)
        try:
            config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
            kind = config["model_type"]
            if kind not in self.kinds:
                raise ValueError(f"its model_type is {kind!r}, expected {' or '.join(self.kinds)}")
            self.processor = processing.from_pretrained(checkpoint, local_files_only=True)
            network, report = architecture.from_pretrained(
                checkpoint,
                local_files_only=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # so that they are listed in the report
                output_loading_info=True,
            )
        except Exception as error:  # json, transformers and safetensors each raise their own
            raise ValueError(
                f"checkpoint {checkpoint} cannot be read: {error}; expected {self.published}"
            ) from error
        problems = {
            "missing": report["missing_keys"],
            "unexpected": report["unexpected_keys"],
            "of another shape": [key for key, *_ in report["mismatched_keys"]],
            "not finite": not_finite(network.state_dict()),
        }
        found = [f"{fault}: {', '.join(sorted(keys))}" for fault, keys in problems.items() if keys]
        if found:
            raise ValueError(
                f"checkpoint {checkpoint} does not fit {self.classes[0]}: {'; '.join(found)}"
            )
        return network.eval()


@dataclass(eq=False)
class PointGrid(NetworkSegmenter):
    """Base of the networks that are asked for everything by a grid of points.

    There are `points_per_side` squared points. Masks below either threshold, 0…1, are dropped: that
    on the network's predicted IoU and that on the mask's stability.
    """

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95

    def __post_init__(self) -> None:
        if self.points_per_side < 1:
            raise ValueError(f"points_per_side must be at least 1, got {self.points_per_side}")
        super().__post_init__()

    @property
    def sampling(self) -> dict[str, Any]:
        """What the mask generators of both libraries are told."""
        return {
            # Each point costs three float masks of 1024 × 1024: 12 MB, several times over.
            "points_per_batch": 64 if self.model.device.type == "cuda" else 16,
            "pred_iou_thresh": self.pred_iou_thresh,
            "stability_score_thresh": self.stability_score_thresh,
        }


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
