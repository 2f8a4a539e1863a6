"""What a segmenter returns: candidate masks over one image, and their run lengths for storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geolib.masks import decode, encode, resized


@dataclass(frozen=True)
class Segments:
    """Candidate segments of one image; they may nest and overlap, and there may be none.

    Attributes
    ----------
    masks : bool [N, H, W]; TypeError or ValueError for others
    scores : the segmenter's own quality estimates [N], 0…1, where it has them
    labels : what each of the N segments shows, where the segmenter knows
    note : what a reader should know about this result; empty when there is nothing to say
    """

    masks: np.ndarray
    scores: np.ndarray | None = None
    labels: Sequence[str] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.masks, np.ndarray) or self.masks.dtype != bool:
            got = getattr(self.masks, "dtype", type(self.masks).__name__)
            raise TypeError(f"masks must be a bool array [N, H, W], got {got}")
        if self.masks.ndim != 3:
            raise ValueError(f"masks must be [N, H, W], got shape {self.masks.shape}")
        for name, values in (("scores", self.scores), ("labels", self.labels)):
            if values is not None and len(values) != len(self.masks):
                raise ValueError(f"{name} has {len(values)} entries for {len(self.masks)} masks")

    @classmethod
    def fitted(
        cls,
        masks: Iterable[np.ndarray],
        shape: tuple[int, ...],
        scores: np.ndarray | None = None,
        labels: Sequence[str] | None = None,
        note: str = "",
    ) -> Segments:
        """Segments of `shape` (height, width) from masks bool [h, w] of any size.

        They are resized as by `masks.resized` one at a time: memory does not grow with the size of
        masks that are decoded on the way. Those that then cover no pixel are left out.
        """
        small = np.array([resized(mask, shape) for mask in masks], dtype=bool)
        whole = cls(small.reshape(-1, *shape), scores, labels, note)
        kept = np.flatnonzero(whole.masks.any(axis=(1, 2))).tolist()
        scores = None if scores is None else scores[kept]
        labels = None if labels is None else [labels[i] for i in kept]
        return cls(whole.masks[kept], scores, labels, note)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], shape: tuple[int, int]) -> Segments:
        """The segments of `shape` (height, width) that `to_json` wrote."""
        scores = None if stored["scores"] is None else np.array(stored["scores"])
        masks = map(decode, stored["masks"])
        return cls.fitted(masks, shape, scores, stored["labels"], stored["note"])

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of the segments, masks as run lengths, for `from_json`."""
        return {
            "masks": [encode(mask) for mask in self.masks],
            "scores": None if self.scores is None else np.asarray(self.scores).tolist(),
            "labels": None if self.labels is None else list(self.labels),
            "note": self.note,
        }

    def __len__(self) -> int:
        return len(self.masks)

    def resize(self, shape: tuple[int, ...]) -> Segments:
        """The same segments at `shape` (height, width), see `fitted`."""
        if self.masks.shape[1:] == tuple(shape):
            return self
        return self.fitted(self.masks, shape, self.scores, self.labels, self.note)
