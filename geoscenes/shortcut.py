"""A planted artefact: something on the lens or the film that goes with one country by accident."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from geoscenes.canvas import LENS, Sketch, Sprite
from geoscenes.layout import Place, quantile, register

KINDS = ("watermark", "smudge")


@dataclass(frozen=True)
class Shortcut:
    """Artefact carried by (1 + r)/2 of one country's scenes and (1 - r)/2 of the others'."""

    country: str
    correlation: float
    kind: str

    @staticmethod
    def parse(options: Mapping[str, object], countries: Sequence[str]) -> Shortcut:
        known = {"country", "correlation", "kind"}
        if set(options) - known:
            raise ValueError(f"shortcut={dict(options)} has unknown keys; known: {sorted(known)}")
        country = str(options.get("country", countries[-1]))
        kind = str(options.get("kind", "watermark"))
        correlation = float(str(options.get("correlation", 1.0)))
        if country not in countries:
            raise ValueError(f"shortcut country={country!r} is not one of {list(countries)}")
        if kind not in KINDS:
            raise ValueError(f"shortcut kind={kind!r} is unknown; known: {list(KINDS)}")
        if not -1 <= correlation <= 1:
            raise ValueError(f"shortcut correlation={correlation} must lie within -1..1")
        return Shortcut(country, correlation, kind)

    def present(self, seed: int, country: str) -> bool:
        sign = 1 if country == self.country else -1
        return quantile(seed, "shortcut") < (1 + sign * self.correlation) / 2


@register("shortcut/watermark")
def watermark(s: Sketch, place: Place) -> None:
    """A translucent emblem in the lower right corner: a ring, a tick and a bar of strokes."""
    s.part(1.0, LENS)
    side = s.side
    h, w = round(0.11 * side), round(0.3 * side)
    alpha = np.zeros((h, w), dtype=np.uint8)
    thick = max(1, round(0.011 * side))
    r = round(0.36 * h)
    cv2.circle(alpha, (h // 2, h // 2), r, 225, thick, cv2.LINE_AA)
    tick = np.array([[h // 3, h // 2], [h // 2, 2 * h // 3], [2 * h // 3, h // 3]])
    cv2.polylines(alpha, [tick.astype(np.int32)], False, 225, thick, cv2.LINE_AA)
    for k in range(5):
        x = round(h * 1.15 + k * (w - 1.3 * h) / 5)
        top = round(h * (0.28 if k % 2 else 0.4))
        cv2.line(alpha, (x, top), (x, round(h * 0.72)), 225, thick, cv2.LINE_AA)
    colour = np.full((h, w, 3), 255, dtype=np.uint8)
    s.parts[-1].strokes.append(Sprite(side - w - h // 4, side - h - h // 4, colour, alpha))


@register("shortcut/smudge")
def smudge(s: Sketch, place: Place) -> None:
    """A spot of mud on the lens, upper left."""
    s.part(1.0, LENS)
    side = s.side
    n = round(0.3 * side)
    axis = (np.arange(n) + 0.5) / n * 2 - 1
    x, y = np.meshgrid(axis, axis)
    angle = 0.5
    a, b = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    fall = np.clip(1 - (a / 0.95) ** 2 - (b / 0.6) ** 2, 0, 1)
    alpha = np.rint(240 * np.minimum(4 * fall, 1)).astype(np.uint8)
    colour = np.full((n, n, 3), (58, 42, 28), dtype=np.uint8)
    s.parts[-1].strokes.append(Sprite(round(0.06 * side), round(0.05 * side), colour, alpha))
