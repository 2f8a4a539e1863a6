"""What the segmenters that hold a network share: where their weights are, and how they load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from geolib.model.device import choose_device
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
    model: Any

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

    def hold(self, network: nn.Module, device: str | None) -> None:
        """Keep the network as `model`, on the device or the one there is."""
        self.model = network.to(choose_device(device or "auto", float64=True))


class FolderSegmenter(NetworkSegmenter):
    """Base of the segmenters whose network is a folder in transformers' format."""

    kinds: ClassVar[tuple[str, ...]]  # model types that hold this network
    processor: Any

    @staticmethod
    def holds_weights(path: Path) -> bool:
        return (path / "config.json").is_file() and any(path.glob("*.safetensors"))

    def read(self, architecture: Any, processing: Any, folder: Path) -> Any:
        """The network in `folder`, in evaluation mode; `processor` is what prepares its inputs.

        Nothing is looked up on the hub. transformers draws at random what a checkpoint lacks and
        drops what it holds beside it: here both are a ValueError that names the keys, except for
        what the architecture itself declares foreign (published checkpoints hold SAM 2's and SAM
        3's video networks, of which the image network is a part).
        """
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
            if kind not in self.kinds:
                raise ValueError(f"its model_type is {kind!r}, expected {' or '.join(self.kinds)}")
            self.processor = processing.from_pretrained(folder, local_files_only=True)
            network, report = architecture.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # so that they are listed in the report
                output_loading_info=True,
            )
        except Exception as error:  # json, transformers and safetensors each raise their own
            raise ValueError(
                f"checkpoint {folder} cannot be read: {error}; expected {self.published}"
            ) from error
        problems = {
            "missing": report["missing_keys"],
            "unexpected": report["unexpected_keys"],
            "of another shape": [key for key, *_ in report["mismatched_keys"]],
            "not finite": not_finite(network.state_dict()),
        }
        kinds = [f"{kind}: {', '.join(sorted(keys))}" for kind, keys in problems.items() if keys]
        if kinds:
            raise ValueError(
                f"checkpoint {folder} does not fit {architecture.__name__}: {'; '.join(kinds)}"
            )
        return network.eval()


class PointGrid(NetworkSegmenter):
    """Base of the networks that are asked for everything by a grid of points.

    There are `points_per_side` squared points. Masks below either threshold, 0…1, are dropped: that
    on the network's predicted IoU, by default `iou_thresh`, and that on the mask's stability.
    """

    iou_thresh: ClassVar[float]

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        points_per_side: int = 32,
        pred_iou_thresh: float | None = None,
        stability_score_thresh: float = 0.95,
        device: str | None = None,
    ) -> None:
        if points_per_side < 1:
            raise ValueError(f"points_per_side must be at least 1, got {points_per_side}")
        self.checkpoint = self.find(checkpoint)
        self.points_per_side = points_per_side
        self.pred_iou_thresh = self.iou_thresh if pred_iou_thresh is None else pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.hold(self.open(), device)

    def open(self) -> nn.Module:
        """The network of the checkpoint; ValueError where that is not this network's."""
        raise NotImplementedError

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
