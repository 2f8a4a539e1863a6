"""Semantic maps of photographs from a network trained on ADE20K's 150 classes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch.nn import functional as F

from geolib.segmentation.networks.base import FOLDER_FILES, FolderSegmenter, digest


class SemanticNetwork(FolderSegmenter):
    """A network of transformers that says what every pixel of a photograph shows.

    The checkpoint is a folder in transformers' format or a model's name on the Hugging Face hub,
    such as ``openmmlab/upernet-convnext-tiny``; by default what `geolib fetch` left. `names` are
    those of the classes, in the network's order; equal `key`, equal maps. ValueError for a
    checkpoint that is missing, unreadable or no such network, or that crops what it is shown.
    """

    asset: ClassVar[str] = "ade20k-upernet"
    classes: ClassVar[tuple[str, str]] = ("AutoModelForSemanticSegmentation", "AutoImageProcessor")
    kinds: ClassVar[tuple[str, ...]] = (
        *("beit", "data2vec-vision", "dpt", "mobilenet_v2", "mobilevit", "mobilevitv2"),
        *("segformer", "upernet"),
    )
    published: ClassVar[str] = (
        "a network for semantic segmentation in transformers' format (config.json, "
        "model.safetensors, preprocessor_config.json), such as openmmlab/upernet-convnext-tiny"
    )

    def __post_init__(self) -> None:
        self.checkpoint = _from_hub(self.checkpoint)
        super().__post_init__()
        if getattr(self.processor, "do_center_crop", False):
            raise ValueError(
                f"checkpoint {self.checkpoint} crops the photograph (do_center_crop in its "
                "preprocessor_config.json), so its maps would not lie on it; set it to false"
            )
        labels = self.model.config.id2label
        self.names = tuple(re.split("[,;]", labels[i])[0].strip() for i in range(len(labels)))
        self.key = digest(self.checkpoint)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Class of every pixel of an image uint8 [H,W,3]: int64 of `size`, by default the image's.

        Indices into `names`: the largest of the network's scores after bilinear resizing.
        """
        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device)
        logits = self.model(**inputs).logits.float()
        resized = F.interpolate(logits, size or image.shape[:2], mode="bilinear")
        return resized[0].argmax(dim=0).cpu().numpy()


def _from_hub(checkpoint: str | Path | None) -> str | Path | None:
    """The local copy of a model of the hub; anything else as it is."""
    named = isinstance(checkpoint, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint)
    if not named or Path(str(checkpoint)).exists():
        return checkpoint
    return snapshot_download(str(checkpoint), allow_patterns=[f"*{kind}" for kind in FOLDER_FILES])
