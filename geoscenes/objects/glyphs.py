"""Letters as strokes in a unit box, x right, y up.

Random ones are invented in the manner of three scripts; stop signs carry their real word.
"""

from __future__ import annotations

import math

import numpy as np

Stroke = list[tuple[float, float]]


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float) -> Stroke:
    steps = np.linspace(math.radians(start), math.radians(stop), 8).tolist()
    return [(cx + rx * math.cos(t), cy + ry * math.sin(t)) for t in steps]


def latin(rng: np.random.Generator) -> list[Stroke]:
    """Upright stems with bowls and bars."""
    stem: Stroke = [(0.2, 0.05), (0.2, 0.95)]
    forms: list[list[Stroke]] = [
        [stem, [(0.2, 0.95), (0.75, 0.95)], [(0.2, 0.5), (0.65, 0.5)], [(0.2, 0.05), (0.75, 0.05)]],
        [[(0.1, 0.05), (0.45, 0.95), (0.8, 0.05)], [(0.25, 0.4), (0.65, 0.4)]],
        [stem, _arc(0.25, 0.72, 0.45, 0.23, 90, -90), [(0.3, 0.48), (0.75, 0.05)]],
        [_arc(0.45, 0.5, 0.35, 0.45, 0, 360)],
        [[(0.1, 0.95), (0.8, 0.95)], [(0.45, 0.95), (0.45, 0.05)]],
        [stem, [(0.2, 0.95), (0.75, 0.05), (0.75, 0.95)]],
        [stem, [(0.2, 0.05), (0.75, 0.05)]],
    ]
    return forms[int(rng.integers(len(forms)))]


def devanagari(rng: np.random.Generator) -> list[Stroke]:
    """Letters hanging from a head line, with a stem and curls."""
    head: Stroke = [(-0.04, 0.88), (1.04, 0.88)]
    stem: Stroke = [(0.72, 0.88), (0.72, 0.02)]
    forms: list[list[Stroke]] = [
        [_arc(0.45, 0.5, 0.28, 0.22, 20, 300), stem],
        [[(0.2, 0.88), (0.2, 0.45)], _arc(0.42, 0.45, 0.22, 0.25, 180, 360), stem],
        [_arc(0.45, 0.62, 0.26, 0.22, 90, -80), _arc(0.45, 0.24, 0.3, 0.2, 90, -120)],
        [_arc(0.4, 0.4, 0.24, 0.24, 0, 360), [(0.4, 0.88), (0.4, 0.64)], stem],
        [[(0.15, 0.3), (0.5, 0.6)], _arc(0.5, 0.42, 0.2, 0.18, 90, -160), stem],
    ]
    strokes = [head, *forms[int(rng.integers(len(forms)))]]
    if rng.random() < 0.35:
        strokes.append(_arc(0.6, 0.92, 0.25, 0.2, 20, 150))
    return strokes


def japanese(rng: np.random.Generator) -> list[Stroke]:
    """Square kanji-like frames and bars, or open kana-like sweeps."""
    forms: list[list[Stroke]] = [
        [
            [(0.12, 0.06), (0.12, 0.92), (0.88, 0.92), (0.88, 0.06)],
            [(0.12, 0.5), (0.88, 0.5)],
            [(0.12, 0.08), (0.88, 0.08)],
            [(0.5, 0.92), (0.5, 0.08)],
        ],
        [
            [(0.05, 0.72), (0.95, 0.72)],
            [(0.5, 0.97), (0.5, 0.03)],
            [(0.5, 0.7), (0.1, 0.15)],
            [(0.5, 0.7), (0.92, 0.15)],
        ],
        [
            [(0.1, 0.9), (0.9, 0.9)],
            [(0.2, 0.62), (0.8, 0.62)],
            [(0.05, 0.32), (0.95, 0.32)],
            [(0.5, 0.9), (0.5, 0.03)],
            [(0.2, 0.05), (0.8, 0.05)],
        ],
        [[(0.15, 0.8), (0.85, 0.8), (0.6, 0.4), (0.2, 0.05)], [(0.5, 0.55), (0.5, 0.05)]],
        [[(0.2, 0.95), (0.15, 0.4), (0.35, 0.1)], [(0.75, 0.85), (0.85, 0.35)]],
        [
            [(0.05, 0.65), (0.95, 0.65)],
            _arc(0.5, 0.4, 0.36, 0.34, 110, -60),
            [(0.42, 0.97), (0.42, 0.2)],
        ],
    ]
    return forms[int(rng.integers(len(forms)))]


STOP: list[list[Stroke]] = [
    [[*_arc(0.45, 0.73, 0.32, 0.22, 30, 270), *_arc(0.45, 0.28, 0.34, 0.23, 90, -150)]],
    [[(0.1, 0.95), (0.8, 0.95)], [(0.45, 0.95), (0.45, 0.05)]],
    [_arc(0.45, 0.5, 0.35, 0.45, 0, 360)],
    [
        [(0.2, 0.05), (0.2, 0.95)],
        [(0.2, 0.95), *_arc(0.45, 0.72, 0.33, 0.23, 90, -90), (0.2, 0.49)],
    ],
]
TOMARE: list[list[Stroke]] = [  # 止まれ
    [
        [(0.5, 0.97), (0.5, 0.08)],
        [(0.5, 0.6), (0.85, 0.6)],
        [(0.2, 0.65), (0.2, 0.08)],
        [(0.03, 0.06), (0.97, 0.06)],
    ],
    [
        [(0.12, 0.78), (0.88, 0.78)],
        [(0.16, 0.53), (0.84, 0.53)],
        [(0.52, 0.97), (0.52, 0.2), *_arc(0.36, 0.2, 0.18, 0.14, 0, -290), (0.85, 0.06)],
    ],
    [
        [(0.25, 0.97), (0.25, 0.03)],
        [(0.05, 0.7), (0.4, 0.7), (0.05, 0.25)],
        [(0.3, 0.5), (0.58, 0.75), (0.66, 0.6), (0.64, 0.2), (0.78, 0.06), (0.97, 0.2)],
    ],
]
SCRIPTS = {"latin": latin, "devanagari": devanagari, "japanese": japanese}
