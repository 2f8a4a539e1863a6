"""Segment Anything and MobileSAM, asked for everything in an image by a grid of points.

SAM: Kirillov et al., ICCV 2023. MobileSAM: Zhang et al., arXiv 2306.14289, whose image encoder is a
TinyViT (Wu et al., ECCV 2022) that keeps SAM's 64 × 64 grid by not halving before its last stage.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import timm
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn

from geolib.masks import decode
from geolib.model.weights import load_weights, without_prefix
from geolib.runtime.tensors import read_weights
from geolib.segmentation.networks.base import PointGrid
from geolib.segmentation.segments import Segments

State = dict[str, torch.Tensor]

# Width of SAM's image encoder → its name in segment_anything's registry.
SAM_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
# Of all of them, whatever wraps their state dict.
SAM_KEY = "mask_decoder.iou_token.weight"


def sam(state: State) -> Sam:
    """SAM from a published state dict."""
    position = state.get("image_encoder.pos_embed")
    width = None if position is None else position.shape[-1]
    if width not in SAM_WIDTHS:
        raise ValueError(
            f"checkpoint is not SAM's: image_encoder.pos_embed has width {width}, "
            f"expected one of {', '.join(map(str, SAM_WIDTHS))}"
        )
    network = sam_model_registry[SAM_WIDTHS[width]]()
    load_weights(network, state, "the checkpoint")
    return network.eval()


def mobile_sam(state: State) -> Sam:
    """MobileSAM from the published state dict: SAM's prompt encoder and decoder, TinyViT-5M."""
    network = Sam(
        image_encoder=TinyVitEncoder(),
        prompt_encoder=PromptEncoder(256, (64, 64), (1024, 1024), mask_in_chans=16),
        mask_decoder=MaskDecoder(
            transformer_dim=256,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        ),
    )
    load_weights(network, timm_layout(state), "the checkpoint")
    return network.eval()


class TinyVitEncoder(nn.Module):
    """Image encoder of MobileSAM: timm's TinyViT-5M at stride 16, then SAM's neck."""

    img_size = 1024

    def __init__(self) -> None:
        super().__init__()
        body: Any = timm.create_model("tiny_vit_5m_224", pretrained=False)
        body.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.patch_embed, self.stages = body.patch_embed, body.stages
        self.neck = nn.Sequential(
            nn.Conv2d(320, 256, kernel_size=1, bias=False),
            LayerNorm2d(256),
            nn.Conv2d(256, 256, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(256),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float [B, 3, S, S] normalised → float [B, 256, S/16, S/16]."""
        return self.neck(self.stages(self.patch_embed(x)))


# TinyViT's key layout → timm's, applied in order. timm counts a stage from its downsampling,
# TinyViT ends a layer with it.
RENAMES = (
    (r"^image_encoder\.patch_embed\.seq\.0\.", "image_encoder.patch_embed.conv1."),
    (r"^image_encoder\.patch_embed\.seq\.2\.", "image_encoder.patch_embed.conv2."),
    (r"^image_encoder\.layers\.(\d)\.blocks\.", r"image_encoder.stages.\1.blocks."),
    (r"^image_encoder\.layers\.0\.downsample\.", "image_encoder.stages.1.downsample."),
    (r"^image_encoder\.layers\.1\.downsample\.", "image_encoder.stages.2.downsample."),
    (r"^image_encoder\.layers\.2\.downsample\.", "image_encoder.stages.3.downsample."),
    (r"^(image_encoder\..*)\.c\.weight$", r"\1.conv.weight"),
)
# TinyViT's ImageNet classifier, which the checkpoint carries along and no mask depends on.
CLASSIFIER = re.compile(r"^image_encoder\.(norm_head|head)\.(weight|bias)$")


def timm_layout(state: State) -> State:
    """MobileSAM's state dict under the names of `mobile_sam`'s modules."""
    renamed = {}
    for key, value in state.items():
        if CLASSIFIER.match(key):
            continue
        for pattern, replacement in RENAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


class SamSegmenter(PointGrid):
    """SAM with a ViT-B, ViT-L or ViT-H encoder, which is read off the published checkpoint.

    By default the one that `geolib fetch` left; for the options see `PointGrid`.
    """

    asset: ClassVar[str] = "sam-vit-b"
    published: ClassVar[str] = (
        "sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth or sam_vit_h_4b8939.pth, "
        "published in the README of Meta's segment-anything repository"
    )
    build = staticmethod(sam)

    def open(self, checkpoint: Path) -> Sam:
        try:
            tensors = read_weights(checkpoint)
            prefix = next((k.removesuffix(SAM_KEY) for k in tensors if k.endswith(SAM_KEY)), "")
            return self.build(without_prefix(tensors, prefix))
        except ValueError as error:
            raise ValueError(f"expected {self.published}: {error}") from error

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> Segments:
        """Segments of `size`, the network's predicted IoU as scores, best first.

        The network sees the image at its own size (1024 for the published ones), so a larger image
        is reduced to that first. Masks are kept as run lengths and mapped to `size` one at a time:
        memory does not grow with the photograph. ValueError where the shorter side vanishes.
        """
        generator = SamAutomaticMaskGenerator(
            self.model, self.points_per_side, output_mode="coco_rle", **self.sampling
        )
        height, width = image.shape[:2]
        side = self.model.image_encoder.img_size
        if min(ResizeLongestSide.get_preprocess_shape(height, width, side)) < 1:
            raise ValueError(
                f"image of {width} x {height} pixels is too narrow: at the network's size of "
                f"{side} pixels its shorter side would vanish; crop it"
            )
        small = ResizeLongestSide(side).apply_image(image) if max(height, width) > side else image
        found = generator.generate(small)
        scores = np.array([record["predicted_iou"] for record in found], dtype=np.float32)
        masks = (decode(record["segmentation"]) for record in found)
        return Segments.fitted(masks, size, scores)


class MobileSamSegmenter(SamSegmenter):
    """MobileSAM; for the options see `PointGrid`."""

    asset: ClassVar[str] = "mobile-sam"
    published: ClassVar[str] = (
        "mobile_sam.pt, published in the weights folder of the MobileSAM repository"
    )
    build = staticmethod(mobile_sam)
