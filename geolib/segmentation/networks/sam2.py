"""Segment Anything 2.1, asked for everything in an image by a grid of points.

Ravi et al., "SAM 2: Segment Anything in Images and Videos", arXiv 2408.00714.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from geolib.masks import decode
from geolib.segmentation.networks.base import FolderSegmenter, PointGrid
from geolib.segmentation.segments import Segments


@dataclass(eq=False)
class Sam2Segmenter(PointGrid, FolderSegmenter):
    """SAM 2.1 of any size, which is read off the checkpoint, a folder in transformers' format.

    By default the one that `geolib fetch` left; for the options see `PointGrid`. The thresholds are
    those of the authors' own mask generator. The pipeline of transformers has SAM's 0.88 for every
    network; SAM 2 predicts lower IoUs, and would be left with few masks.
    """

    asset: ClassVar[str] = "sam2.1-hiera-large"
    classes: ClassVar[tuple[str, str]] = ("Sam2Model", "Sam2ImageProcessor")
    kinds: ClassVar[tuple[str, ...]] = ("sam2", "sam2_video")
    published: ClassVar[str] = (
        "SAM 2.1 in transformers' format (config.json, model.safetensors, "
        "preprocessor_config.json), published as facebook/sam2.1-hiera-… on the Hugging Face hub"
    )
    pred_iou_thresh: float = 0.80

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> Segments:
        """Segments of `size`, the network's predicted IoU as scores, best first.

        The network sees every image squeezed into its own square. So does the point grid here:
        transformers lays it out by the longer side instead, which leaves the end of the shorter
        one without points. Masks are kept as run lengths in that square and mapped to `size` one
        at a time, so memory does not grow with the photograph.
        """
        from transformers import MaskGenerationPipeline

        generate = MaskGenerationPipeline(
            model=self.model, image_processor=self.processor, device=self.model.device
        )
        side = self.processor.size["height"], self.processor.size["width"]
        found = generate(
            Image.fromarray(image).resize(side[::-1], Image.Resampling.BILINEAR),
            points_per_crop=self.points_per_side,
            output_rle_mask=True,
            **self.sampling,
        )
        return Segments.fitted(map(decode, found["rle_mask"]), size, found["scores"].numpy())
