"""Masks, boxes and regions of an image: overlaps, sizes and run-length codes, each once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco

Array = np.ndarray | torch.Tensor


def to_numpy(array: Array) -> np.ndarray:
    """An array or tensor, on any device, as a NumPy array."""
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def top_weights(values: np.ndarray, k: int) -> np.ndarray:
    """Share of each value in the k largest: 1 above the k-th; those tied at it share its places.

    Nothing depends on where a value lies. Values are finite, of any shape; k is 0 to their number;
    shares are float64 of the same shape in 0…1 and sum to k.
    """
    if k == 0:
        return np.zeros(values.shape)
    cut = np.partition(values, values.size - k, axis=None)[values.size - k]
    above, tied = values > cut, values == cut
    return above + tied * ((k - above.sum()) / tied.sum())


def box_region(boxes: Array, shape: tuple[int, ...]) -> np.ndarray:
    """Union of boxes [M,4] (x0 y0 x1 y1, end-exclusive) as a bool mask of `shape` [H,W]."""
    region = np.zeros(shape, dtype=bool)
    for x0, y0, x1, y1 in to_numpy(boxes):
        region[y0:y1, x0:x1] = True
    return region


def bounding_boxes(masks: np.ndarray) -> np.ndarray:
    """Smallest boxes around masks bool [N,H,W], none empty: int64 [N,4], end-exclusive."""
    height, width = masks.shape[1:]
    rows, columns = np.any(masks, axis=2), np.any(masks, axis=1)
    last_row, last_column = rows[:, ::-1].argmax(axis=1), columns[:, ::-1].argmax(axis=1)
    first_row, first_column = rows.argmax(axis=1), columns.argmax(axis=1)
    return np.stack([first_column, first_row, width - last_column, height - last_row], axis=1)


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pixels shared by masks bool [N,H,W] and [M,H,W]: float64 [N,M], whole numbers."""
    # float32 counts pixels exactly up to 2^24, an image of 4096 × 4096.
    flat = [m.reshape(len(m), int(np.prod(m.shape[1:]))).astype(np.float32) for m in (a, b)]
    return (flat[0] @ flat[1].T).astype(np.float64)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of masks [N,H,W] and [M,H,W]: [N,M]; NaN where both are empty."""
    shared = intersections(a, b)
    union = a.sum(axis=(1, 2))[:, None] + b.sum(axis=(1, 2))[None] - shared
    return np.divide(shared, union, out=np.full(shared.shape, np.nan), where=union > 0)


def resized(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask bool [h,w] at `shape` [H,W]: the pixels of which it covers at least half."""
    if mask.shape == tuple(shape):
        return mask
    height, width = shape
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return share >= 0.5


def encode(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths of a mask bool [H,W]: ``{"size": [H, W], "counts": str}``."""
    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def decode(code: Mapping[str, Any]) -> np.ndarray:
    """The mask bool [H,W] of COCO's run lengths, packed into a string or a list of numbers."""
    height, width = code["size"]
    counts = code["counts"]
    runs = counts if isinstance(counts, list) else _unpacked(counts)
    # Down the columns, zeros first. (pycocotools' own decode is deprecated use of NumPy 2.)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _unpacked(counts: str | bytes) -> np.ndarray:
    """Run lengths of COCO's string.

    Five bits a character, lowest first; the sixth says that more follow, and the highest of the
    five is the sign. From the fourth run on, what is written is the difference to the last but one.
    """
    values = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8) - 48
    ends = np.flatnonzero(values & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(values)) - np.repeat(starts, ends - starts + 1)
    runs = np.add.reduceat((values & 31).astype(np.int64) << (5 * place), starts)
    runs -= np.where(values[ends] & 16, 1 << (5 * (ends - starts + 1)), 0)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs
