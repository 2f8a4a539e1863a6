"""From an attribution map and segments to object-like elements (§3.2, §3.3 of arXiv 2605.00912)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from geolib.masks import Array, bounding_boxes, box_region, intersections, to_numpy, top_weights
from geolib.segmentation import Segments, salient_region

TOP_P = 0.2
# The paper tunes s_min and does not print it. Untuned, this suits class activation maps alone:
# other methods have other scores, see pipeline.tune.
S_MIN = 0.7

# How overlap, average importance and central importance become one score. The paper takes the
# geometric mean; cbrt keeps an exact zero at zero.
COMBINATIONS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "geometric": lambda overlap, mean, center: np.cbrt(overlap * mean * center),
    "arithmetic": lambda overlap, mean, center: (overlap + mean + center) / 3,
    "overlap": lambda overlap, mean, center: overlap,
    "mean": lambda overlap, mean, center: mean,
    "center": lambda overlap, mean, center: center,
}

# What the intersection of two segments is divided by, given the intersection and both areas.
CRITERIA: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "max": lambda intersection, a, b: np.maximum(a, b),
    "iou": lambda intersection, a, b: a + b - intersection,
    "min": lambda intersection, a, b: np.minimum(a, b),
}


def check_choice(argument: str, value: str, known: Collection[str]) -> None:
    """Raise a ValueError that lists the known names when `value` is not one of them."""
    if value not in known:
        raise ValueError(f"{argument}={value!r} is unknown; known: {', '.join(known)}")


def check_map(attribution: Array, signed: bool = False) -> np.ndarray:
    """A map [H,W] as float64. ValueError where it is not finite, or negative without `signed`."""
    values = to_numpy(attribution).astype(np.float64)
    if values.ndim != 2:
        raise ValueError(f"attribution has shape {values.shape}; expected one map [H,W]")
    if not np.isfinite(values).all():
        raise ValueError("attribution holds NaN or infinite values; expected a finite map")
    if not signed and (values < 0).any():
        raise ValueError(f"attribution goes down to {values.min():.3g}; expected values in 0…1")
    return values


def _check_masks(masks: Array, shape: tuple[int, ...] | None = None) -> np.ndarray:
    values = to_numpy(masks)
    if values.ndim != 3 or (shape is not None and values.shape[1:] != shape):
        wanted = "[N,H,W]" if shape is None else f"[N,{shape[0]},{shape[1]}] like the attribution"
        raise ValueError(f"masks has shape {values.shape}; expected {wanted}")
    if values.dtype != bool:
        raise TypeError(f"masks has dtype {values.dtype}; expected bool (compare with > 0 first)")
    return values


def salient_weights(attribution: Array, top_p: float = TOP_P) -> np.ndarray:
    """Share of each pixel in the salient set T: the top k = round(top_p·H·W) pixels (§3.2).

    Parameters
    ----------
    attribution, top_p : [H,W], finite and ≥ 0; share of the image, above 0 and up to 1.

    Returns
    -------
    float64 [H,W] in 0…1, summing to k; see `masks.top_weights` for ties.

    Raises
    ------
    ValueError : for a map that is not [H,W], not finite or negative, or a share outside 0…1.
    """
    values = check_map(attribution)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}; expected a share of the image, above 0 and up to 1")
    return top_weights(values, round(top_p * values.size))


def _central_pixels(masks: np.ndarray, areas: np.ndarray, center: str) -> np.ndarray:
    """Row and column [N,2] of each segment's central pixel; (0, 0) for an empty segment."""
    height, width = masks.shape[1:]
    if center == "box":  # the centroid of the outermost rows and columns
        x0, y0, x1, y1 = bounding_boxes(masks).T
        total, count = np.stack([y0 + y1 - 1, x0 + x1 - 1], axis=1), np.full(len(masks), 2)
    else:
        rows, columns = masks.sum(axis=2), masks.sum(axis=1)
        total = np.stack([rows @ np.arange(height), columns @ np.arange(width)], axis=1)
        count = np.maximum(areas, 1)
    # ⌊total / count + ½⌋ in whole numbers: no rounding error can move a centre by a pixel.
    pixels = (2 * total + count[:, None]) // (2 * count[:, None])
    pixels[areas == 0] = 0
    outside = ~masks[np.arange(len(masks)), pixels[:, 0], pixels[:, 1]] & (areas > 0)
    for index in np.flatnonzero(outside):
        inside = np.argwhere(masks[index])
        pixels[index] = inside[((inside - pixels[index]) ** 2).sum(axis=1).argmin()]
    return pixels


def score_segments(
    attribution: Array,
    masks: Array,
    top_p: float = TOP_P,
    *,
    combine: str = "geometric",
    center: str = "centroid",
) -> pd.DataFrame:
    """Relevance of each segment S: overlap, average and central importance, combined (§3.3).

    Parameters
    ----------
    attribution, masks : [H,W] in 0…1; bool [N,H,W].
    top_p : size of the salient set T as a share of the image.
    combine : "geometric" (the paper), "arithmetic", or one factor: "overlap", "mean", "center".
    center : "centroid" of the segment or centre of its "box".

    Returns
    -------
    DataFrame, one row per segment, in 0…1 for a map in 0…1, and zero for an empty segment:
        overlap, weight of T inside S / area of S; mean of the map over S;
        center, the map at the pixel ⌊centre + ½⌋, or where that falls outside S at its nearest
        pixel, the first in reading order of several; score, their combination.

    Raises
    ------
    ValueError, TypeError : for a map or masks of another shape, type or range, an unknown option.
    """
    values = check_map(attribution)
    segments = _check_masks(masks, values.shape)
    check_choice("combine", combine, COMBINATIONS)
    check_choice("center", center, ("centroid", "box"))
    n = len(segments)
    # Sums over the pixels that are set: exact, and without a float copy of every mask.
    segment, pixel = np.nonzero(segments.reshape(n, values.size))
    areas = np.bincount(segment, minlength=n)
    weights = salient_weights(values, top_p).ravel()
    overlap = np.bincount(segment, weights[pixel], minlength=n) / np.maximum(areas, 1)
    mean = np.bincount(segment, values.ravel()[pixel], minlength=n) / np.maximum(areas, 1)
    rows, columns = _central_pixels(segments, areas, center).T
    central = np.where(areas > 0, values[rows, columns], 0.0)
    score = COMBINATIONS[combine](overlap, mean, central)
    return pd.DataFrame({"overlap": overlap, "mean": mean, "center": central, "score": score})


def suppress(
    masks: Array, scores: Array, threshold: float = 0.8, *, criterion: str = "max"
) -> np.ndarray:
    """Drop near-duplicates, best score first, and keep nested detail (§3.3).

    A segment goes when its intersection with one already kept, divided by the larger of the two
    areas, reaches the threshold: a small segment inside a large one stays.

    Parameters
    ----------
    masks, scores : bool [N,H,W]; [N], equal ones are taken in the order given.
    threshold : share, 0…1.
    criterion : what divides the intersection: the "max" or "min" area, or the union ("iou").

    Returns
    -------
    int64 [K], indices of the segments kept, best first.

    Raises
    ------
    ValueError, TypeError : for masks or scores of another shape or type, NaN, an unknown option.
    """
    segments = _check_masks(masks)
    ranking = to_numpy(scores)
    if ranking.shape != (len(segments),):
        raise ValueError(f"scores has shape {ranking.shape}; expected [{len(segments)}]")
    if np.isnan(ranking).any():
        raise ValueError("scores holds NaN; expected one finite score per segment")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}; expected a share in 0…1")
    check_choice("criterion", criterion, CRITERIA)
    intersection = intersections(segments, segments)
    areas = np.diag(intersection)
    size = CRITERIA[criterion](intersection, areas[:, None], areas[None, :])
    duplicate = (intersection >= threshold * size) & (intersection > 0)
    dropped = np.zeros(len(segments), dtype=bool)
    kept = []
    for index in np.argsort(-ranking, kind="stable"):
        if not dropped[index]:
            kept.append(index)
            dropped |= duplicate[index]
    return np.array(kept, dtype=np.int64)


def element_boxes(masks: Array, padding: float = 0.05) -> np.ndarray:
    """Bounding box of each mask, padded to keep some context (§3.3).

    Parameters
    ----------
    masks : bool [N,H,W], none empty.
    padding : added on every side: a share of the longer side, in pixels rounded half up.

    Returns
    -------
    int64 [N,4], x0 y0 x1 y1, end-exclusive, clipped to the image.

    Raises
    ------
    ValueError, TypeError : for masks of another shape or type, an empty one, a negative padding.
    """
    segments = _check_masks(masks)
    if not padding >= 0:
        raise ValueError(f"padding={padding}; expected a share of the box's longer side, ≥ 0")
    height, width = segments.shape[1:]
    if (empty := np.flatnonzero(~segments.any(axis=(1, 2)))).size:
        raise ValueError(f"masks {empty.tolist()} are empty and have no box; leave them out")
    boxes = bounding_boxes(segments)
    longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
    # The inner rounding takes back the error of a product such as 0.29 · 50 = 14.499…98.
    pad = np.floor(np.round(padding * longer, 6) + 0.5).astype(np.int64)
    padded = np.hstack([boxes[:, :2] - pad, boxes[:, 2:] + pad])
    return np.clip(padded, 0, [width, height, width, height])


@dataclass(frozen=True)
class Elements:
    """The object-like elements kept in one image, best first (§3.3).

    Masks are bool [M,H,W], boxes int64 [M,4], padded, x0 y0 x1 y1, end-exclusive. The table's rows
    hold segment (index among the candidates), overlap, mean, center, score, area (share of image).
    """

    masks: np.ndarray
    boxes: np.ndarray
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.masks.shape[1], self.masks.shape[2]

    def region(self) -> np.ndarray:
        """Union of the padded boxes, bool [H,W]: what deletion and insertion act on."""
        return box_region(self.boxes, self.shape)

    def mask_region(self) -> np.ndarray:
        """Union of the masks, bool [H,W]."""
        return np.any(self.masks, axis=0)

    @property
    def coverage(self) -> float:
        """Share of the image that `region()` covers, 0…1."""
        return float(self.region().mean())


def extract_elements(
    attribution: Array,
    segments: Segments | Array,
    top_p: float = TOP_P,
    s_min: float = S_MIN,
    threshold: float = 0.8,
    padding: float = 0.05,
    max_elements: int | None = None,
    *,
    candidates: str = "image",
    combine: str = "geometric",
    center: str = "centroid",
    criterion: str = "max",
) -> Elements:
    """Segments that are relevant to the prediction, without duplicates, as padded boxes (§3.3).

    Parameters
    ----------
    attribution, segments : [H,W] in 0…1; `Segments`, or bool masks [N,H,W].
    s_min : segments that score less are left out, and so are those that score zero.
    top_p, combine, center : see `score_segments`.
    threshold, criterion, padding : see `suppress` and `element_boxes`.
    max_elements : keep at most so many, the best; None keeps all.
    candidates : "image" scores whole segments; "salient" cuts them to the salient set first, the
        other reading of "within each attribution-guided region".

    Returns
    -------
    Elements, possibly none: a map of zeros supports no segment.

    Raises
    ------
    ValueError, TypeError : for a map, masks or options of another shape, type or range.
    """
    if not 0 <= s_min <= 1:
        raise ValueError(f"s_min={s_min}; expected a score in 0…1")
    check_choice("candidates", candidates, ("image", "salient"))
    if max_elements is not None and max_elements < 0:
        raise ValueError(f"max_elements={max_elements}; expected a number ≥ 0, or None for all")
    values = check_map(attribution)
    masks = segments if isinstance(segments, Array) else segments.masks
    masks = _check_masks(masks, values.shape)
    if candidates == "salient":
        masks = masks & salient_region(values, top_p)
    table = score_segments(values, masks, top_p, combine=combine, center=center)
    relevant = np.flatnonzero((table["score"] >= s_min) & (table["score"] > 0))
    scores = table["score"].to_numpy()[relevant]
    best = suppress(masks[relevant], scores, threshold, criterion=criterion)[:max_elements]
    kept = relevant[best]
    table = table.iloc[kept].assign(area=masks[kept].mean(axis=(1, 2)))
    table = table.rename_axis("segment").reset_index()
    return Elements(masks[kept], element_boxes(masks[kept], padding), table)
