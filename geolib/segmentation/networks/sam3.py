"""Segment Anything 3, asked for named things.

Carion et al., "SAM 3: Segment Anything with Concepts", 2025. The experiments of arXiv 2605.00912
ask it for some 200 concepts of a guidebook; here they are those of ``data/concepts.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from geolib.masks import decode, encode
from geolib.runtime.here import data_file, parsed_file
from geolib.segmentation.networks.base import FolderSegmenter
from geolib.segmentation.regions import reduced
from geolib.segmentation.segments import Segments

MASK_THRESHOLD = 0.5  # the same in transformers and in the authors' code


@dataclass(eq=False)
class Sam3Segmenter(FolderSegmenter):
    """SAM 3 with text prompts: every instance of every concept, by default of the prompts' table.

    Instances whose score is not above `threshold` are dropped. The authors' code has 0.5,
    transformers 0.3. The authors' is taken: most of the concepts are absent from any one
    photograph, and each of them is one more chance of a false find. A prompt costs about 0.3 GB, of
    which `prompts_per_batch` go through the network at once; the result does not depend on it.
    ValueError for a checkpoint that is not this network's, or a prompt that is empty, given twice
    or too long.
    """

    asset: ClassVar[str] = "sam3"
    classes: ClassVar[tuple[str, str]] = ("Sam3Model", "Sam3Processor")
    kinds: ClassVar[tuple[str, ...]] = ("sam3", "sam3_video")
    published: ClassVar[str] = (
        "SAM 3 in transformers' format (config.json, model.safetensors, processor and tokenizer "
        "files), published as facebook/sam3 on the Hugging Face hub once its licence is accepted"
    )

    concepts: Sequence[str] | None = None
    threshold: float = 0.5
    prompts_per_batch: int = 4

    def __post_init__(self) -> None:
        if self.prompts_per_batch < 1:
            raise ValueError(f"prompts_per_batch must be at least 1, got {self.prompts_per_batch}")
        self.concepts = concept_names() if self.concepts is None else list(self.concepts)
        super().__post_init__()
        longest = self.model.config.text_config.max_position_embeddings
        _check_prompts(self.concepts, self.processor.tokenizer, longest)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> Segments:
        """Segments of `size`, labelled with their concepts, best score first.

        The network is asked at its own resolution, and masks are kept as run lengths and mapped
        to `size` one at a time, so memory does not grow with the photograph.
        """
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        vision = self.model.get_vision_features(pixels.to(self.model.device))
        resolution = reduced(image.shape[:2], max(pixels.shape[-2:]))
        found: list[tuple[float, str, dict[str, Any]]] = []
        concepts = list(self.concepts or ())
        for start in range(0, len(concepts), self.prompts_per_batch):
            batch = concepts[start : start + self.prompts_per_batch]
            # The tokens and their attention mask: without it, padding would count as words.
            prompts = self.processor(text=batch, return_tensors="pt").to(self.model.device)
            outputs = self.model(vision_embeds=_repeated(vision, len(batch)), **prompts)
            for i, concept in enumerate(batch):
                one = self._instances(outputs, i, resolution)
                codes = [encode(mask) for mask in one["masks"].bool().cpu().numpy()]
                found += zip(one["scores"].tolist(), [concept] * len(codes), codes, strict=True)
        found.sort(key=lambda instance: -instance[0])
        scores = np.array([score for score, _, _ in found], dtype=np.float32)
        labels = [label for _, label, _ in found]
        return Segments.fitted((decode(code) for *_, code in found), size, scores, labels)

    def _instances(self, outputs: Any, i: int, resolution: tuple[int, int]) -> dict[str, Any]:
        """Masks and scores of one prompt of several, since transformers' masks are int64."""
        names = ("pred_masks", "pred_boxes", "pred_logits", "presence_logits")
        return self.processor.post_process_instance_segmentation(
            type(outputs)(**{name: outputs[name][i : i + 1] for name in names}),
            threshold=self.threshold,
            mask_threshold=MASK_THRESHOLD,
            target_sizes=[resolution],
        )[0]


def concept_names() -> list[str]:
    """The text prompts of ``data/concepts.yaml``, in the order of the file."""
    entries = parsed_file(data_file("concepts.yaml"))["concepts"]
    return [entry["name"] for entry in entries]


def _repeated(vision: Any, n: int) -> Any:
    """One image's features as those of a batch of `n`; no copy."""
    levels = {
        name: tuple(level.expand(n, -1, -1, -1) for level in vision[name])
        for name in ("fpn_hidden_states", "fpn_position_encoding")
    }
    return type(vision)(**levels)


def _check_prompts(prompts: Sequence[str], tokenizer: Any, longest: int) -> None:
    if not prompts or len(set(prompts)) < len(prompts) or not all(p.strip() for p in prompts):
        raise ValueError(f"concepts must be distinct, non-empty text prompts, got {prompts}")
    for prompt, tokens in zip(prompts, tokenizer(list(prompts))["input_ids"], strict=True):
        if len(tokens) > longest:
            raise ValueError(
                f"concept {prompt!r} has {len(tokens)} tokens, SAM 3 reads {longest}: shorten it"
            )
