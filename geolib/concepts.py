"""Concept influence: how much of an explanation lies on each thing an image shows.

Definitions of Theiner et al. (arXiv 2104.14995), §3.2, and their dataset-level table, §4.2 and
appendix B. Beyond the paper: a test against the same explanation laid elsewhere.
"""

from __future__ import annotations

from operator import index

import cv2
import numpy as np
import pandas as pd

from geolib.masks import Array, to_numpy, top_weights
from geolib.scoring import check_map

K = 1000
MIN_SIZE = 0.1
# The paper's images have 224 × 224 pixels: its 1,000 are 2 % of them.
PAPER_PIXELS = 224 * 224


def scaled_k(height: int, width: int, k: int = K) -> int:
    """As large a share of an image as ``k`` pixels are of the paper's 224 × 224."""
    return max(1, round(k / PAPER_PIXELS * height * width))


def top_k(attribution: Array, k: int = K) -> np.ndarray:
    """Weight of each pixel among the k most important ones, e_k (§3.2): float64 [H,W] in 0…1.

    Ties as in `masks.top_weights`; only ranks matter. ValueError for a map that is not [H,W] or
    not finite, or a k outside 1…H·W.
    """
    values = check_map(attribution, signed=True)
    if not 1 <= index(k) <= values.size:
        raise ValueError(f"k={k}; expected 1 to the map's {values.size} pixels, as by scaled_k")
    return top_weights(values, k)


def dilate(mask: np.ndarray, dilation: int) -> np.ndarray:
    """Mask bool [H,W] grown by ``dilation`` pixels in all eight directions, borders included."""
    if index(dilation) < 0:
        raise ValueError(f"dilation={dilation}; expected a number of pixels, 0 or more")
    square = np.ones((2 * dilation + 1, 2 * dilation + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), square).astype(bool)


def concept_influence(
    attribution: Array, mask: Array, k: int = K, min_size: float = MIN_SIZE, dilation: int = 0
) -> float:
    """Concept influence ci = tki / s̄ of one concept in one image (§3.2, eq. 1 to 3).

    ``tki = |m ∧ e_k| / k`` is the share of the k most important pixels that lie on the concept, and
    ``s̄ = |m| / HW`` the share of the image that it takes. An explanation spread evenly, or laid
    anywhere, gives 1 on average.

    Parameters
    ----------
    attribution, mask : [H,W], finite; bool [H,W], where the concept is, m.
    k : number of most important pixels, at most H·W; ties at the cut share places, see `top_k`.
    min_size : smallest share s̄ of the image, 0…1.
    dilation : pixels by which the mask is grown first, β; it then counts as grown in s̄, too.

    Returns
    -------
    ci, 0…1/s̄; NaN where the mask is empty or s̄ < `min_size`.

    Raises
    ------
    ValueError, TypeError : for a map or mask of another shape or type, a parameter out of range.
    """
    weights = top_k(attribution, k)
    return _influence(weights, _check_mask(mask, weights.shape, dilation), min_size)


def concept_influences(
    attribution: Array,
    semantic_map: Array,
    k: int = K,
    min_size: float = MIN_SIZE,
    dilation: int = 0,
) -> pd.DataFrame:
    """Influence of every concept of a semantic map int [H,W], negative where there is none (§3.2).

    Indexed by concept: size (s̄ after dilation, 0…1) and influence as of `concept_influence`.
    """
    weights = top_k(attribution, k)
    concepts = to_numpy(semantic_map)
    if concepts.shape != weights.shape:
        raise ValueError(f"semantic_map has shape {concepts.shape}; expected {weights.shape}")
    if not np.issubdtype(concepts.dtype, np.integer):
        raise TypeError(f"semantic_map has dtype {concepts.dtype}; expected integers")
    found = pd.Index(np.unique(concepts[concepts >= 0]).astype(int), name="concept")
    masks = [dilate(concepts == concept, dilation) for concept in found]
    rows = [(mask.mean(), _influence(weights, mask, min_size)) for mask in masks]
    return pd.DataFrame(rows, found, ["size", "influence"])


def shifted_influences(
    attribution: Array, mask: Array, k: int = K, dilation: int = 0
) -> np.ndarray:
    """Influence of a concept when the explanation is shifted around the image: float64 [H,W].

    The value at (y, x) is that of the map shifted y pixels down and x to the right, what leaves on
    one side coming in on the other. Their mean is exactly 1. ValueError for an empty mask.
    """
    weights = top_k(attribution, k)
    grown = _check_mask(mask, weights.shape, dilation)
    if not grown.any():
        raise ValueError("mask is empty; expected at least one pixel of the concept")
    # Cross-correlation by the convolution theorem: one transform instead of H·W shifts.
    transformed = np.fft.rfft2(grown) * np.fft.rfft2(weights).conj()
    return np.fft.irfft2(transformed, s=grown.shape) / weights.sum() / grown.mean()


def _influence(weights: np.ndarray, mask: np.ndarray, min_size: float) -> float:
    if not 0 <= min_size <= 1:
        raise ValueError(f"min_size={min_size}; expected a share of the image, 0…1")
    size = mask.mean()
    if size == 0 or size < min_size:
        return np.nan
    return float(weights[mask].sum() / weights.sum() / size)


def _check_mask(mask: Array, shape: tuple[int, ...], dilation: int) -> np.ndarray:
    values = to_numpy(mask)
    if values.shape != shape:
        raise ValueError(f"mask has shape {values.shape}; expected {shape} like the attribution")
    if values.dtype != bool:
        raise TypeError(f"mask has dtype {values.dtype}; expected bool (compare with > 0 first)")
    return dilate(values, dilation)
