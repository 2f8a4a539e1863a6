"""Which pixels each object covers and which of them are seen, from anti-aliased coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from geoscenes.canvas import FRACTION_BITS, SUPERSAMPLING, Line, Part, Sprite

VISIBLE_SHARE = 0.125  # of a pixel's area, from which on the object counts as visible there
SHADOW_BLUR = 3  # radius of the shadows' soft edge, drawn pixels


@dataclass(frozen=True)
class Cover:
    """Coverage of one part within its bounding box."""

    x: int
    y: int
    alpha: np.ndarray  # uint8 [h, w]


def cover(part: Part, side: int) -> Cover | None:
    """Anti-aliased coverage of a part; None if it lies outside the picture."""
    box = _bounds(part, side)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    sheet = np.zeros((side, side), dtype=np.uint8)
    for stroke in part.strokes:
        stroke.cover(sheet)
    return Cover(x0, y0, sheet[y0:y1, x0:x1].copy())


def _bounds(part: Part, side: int) -> tuple[int, int, int, int] | None:
    """Box ``x0, y0, x1, y1`` that holds all strokes and their anti-aliased edges, clipped."""
    corners = [
        np.array([[s.x, s.y], [s.x + s.alpha.shape[1], s.y + s.alpha.shape[0]]])
        for s in part.strokes
        if isinstance(s, Sprite)
    ]
    lines = [s for s in part.strokes if not isinstance(s, Sprite)]
    if lines:
        points = np.concatenate([s.points[:, 0] for s in lines]) >> FRACTION_BITS
        margin = 3 + max(s.thickness if isinstance(s, Line) else 0 for s in lines)
        corners += [points.min(axis=0, keepdims=True) - margin]
        corners += [points.max(axis=0, keepdims=True) + margin]
    if not corners:
        return None
    both = np.concatenate(corners)
    x0, y0 = np.maximum(both.min(axis=0), 0).tolist()
    x1, y1 = np.minimum(both.max(axis=0), side).tolist()
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def transmit(below: Cover, above: Sequence[Cover]) -> np.ndarray:
    """Share 0..1 of each pixel of ``below`` that is its own and not hidden by ``above``."""
    h, w = below.alpha.shape
    share = below.alpha.astype(np.float32) / np.float32(255)
    for c in above:
        ch, cw = c.alpha.shape
        x0, x1 = max(below.x, c.x), min(below.x + w, c.x + cw)
        y0, y1 = max(below.y, c.y), min(below.y + h, c.y + ch)
        if x0 < x1 and y0 < y1:
            hidden = c.alpha[y0 - c.y : y1 - c.y, x0 - c.x : x1 - c.x]
            clear = (255 - hidden).astype(np.float32) / np.float32(255)
            share[y0 - below.y : y1 - below.y, x0 - below.x : x1 - below.x] *= clear
    return share


def visible_mask(parts: Sequence[tuple[Cover, np.ndarray]], side: int) -> np.ndarray:
    """Pixels of the picture in which the parts' visible shares reach ``VISIBLE_SHARE``."""
    total = np.zeros((side, side), dtype=np.float32)
    for c, share in parts:
        h, w = share.shape
        patch = total[c.y : c.y + h, c.x : c.x + w]
        np.maximum(patch, share, out=patch)
    size = side // SUPERSAMPLING
    return cv2.resize(total, (size, size), interpolation=cv2.INTER_AREA) >= VISIBLE_SHARE


def touched(covers: Sequence[Cover], shadows: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Every pixel of the picture that the parts or their shadows may change."""
    sheet = shadow_sheet(shadows, side)
    if len(shadows):
        reach = 2 * SHADOW_BLUR + 1
        sheet = cv2.dilate(sheet, np.ones((reach, reach), dtype=np.uint8))
    for c in covers:
        h, w = c.alpha.shape
        patch = sheet[c.y : c.y + h, c.x : c.x + w]
        np.maximum(patch, c.alpha, out=patch)
    size = side // SUPERSAMPLING
    blocks = sheet.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING)
    return blocks.max(axis=(1, 3)) > 0


def shadow_sheet(shadows: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Union of cast shadows, hard-edged up to anti-aliasing, uint8 ``[side, side]``."""
    sheet = np.zeros((side, side), dtype=np.uint8)
    for hull in shadows:
        cv2.fillPoly(sheet, [hull], 255, cv2.LINE_AA, FRACTION_BITS)
    return sheet


def soften(sheet: np.ndarray) -> np.ndarray:
    reach = 2 * SHADOW_BLUR + 1
    return cv2.blur(sheet, (reach, reach))
