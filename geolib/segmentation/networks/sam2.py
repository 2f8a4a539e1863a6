"""Segment Anything 2.1, asked for everything in an image by a grid of points.

Ravi et al., "SAM 2: Segment Anything in Images and Videos", arXiv 2408.00714.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from geolib.model.device import choose_device
from geolib.segmentation.networks.base import FolderSegmenter
from geolib.segmentation.segments import Segments


class Sam2Segmenter(FolderSegmenter):
    """SAM 2.1 of any size, which is read off the checkpoint, a folder in transformers' format.

    By default the one that `geolib fetch` left. The two thresholds are those of the authors' own
    mask generator. The pipeline of transformers has SAM's 0.88 for every network; SAM 2 predicts
    lower IoUs, and would be left with few masks. ValueError for a checkpoint that is not this
    network's.
    """

    asset: ClassVar[str] = "sam2.1-hiera-large"
    kinds: ClassVar[tuple[str, ...]] = ("sam2", "sam2_video")
    published: ClassVar[str] = (
        "SAM 2.1 in transformers' format (config.json, model.safetensors, "
        "preprocessor_config.json), published as facebook/sam2.1-hiera-… on the Hugging Face hub"
    )

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        points_per_side: int = 32,
        pred_iou_thresh: float = 0.80,
        stability_score_thresh: float = 0.95,
        device: str | None = None,
    ) -> None:
        # transformers takes seconds to import, and most runs hold none of its networks.
        from transformers import MaskGenerationPipeline, Sam2ImageProcessor, Sam2Model

        if points_per_side < 1:
            raise ValueError(f"points_per_side must be at least 1, got {points_per_side}")
        self.checkpoint = self.find(checkpoint)
        self.points_per_side = points_per_side
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.model, self.processor = self.read(Sam2Model, Sam2ImageProcessor, self.checkpoint)
        self.model.to(choose_device(device or "auto", float64=True))
        self.generate = MaskGenerationPipeline(
            model=self.model, image_processor=self.processor, device=self.model.device
        )

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> Segments:
        """Segments of `size`, the network's predicted IoU as scores, best first.

        The network sees every image squeezed into its own square. So does the point grid here:
        transformers lays it out by the longer side instead, which leaves the end of the shorter
        one without points. Masks are kept as run lengths in that square and mapped to `size` one
        at a time, so memory does not grow with the photograph.
        """
        side = self.processor.size["height"], self.processor.size["width"]
        found = self.generate(
            Image.fromarray(image).resize(side[::-1], Image.Resampling.BILINEAR),
            points_per_crop=self.points_per_side,
            # Each point costs three float masks of 1024 × 1024: 12 MB, several times over.
            points_per_batch=64 if self.model.device.type == "cuda" else 16,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
            output_rle_mask=True,
        )
        return Segments.from_rle(found["rle_mask"], size, found["scores"].numpy())
