"""Upright bitmaps of foliage and clouds, lit from the left, painted once per process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial

import cv2
import numpy as np

from geoscenes.camera import Colour
from geoscenes.canvas import Bitmap

HEIGHT = 320  # pixels of the finest level
VARIANTS = 4  # of each plant
_SUN = np.array([-0.5, -0.65, 0.57])
_ROUND = np.linspace(0, 2 * math.pi, 9)[:-1]
_OCTAGON = np.cos(_ROUND), np.sin(_ROUND)

Blob = tuple[float, float, float]  # centre x, centre y, radius; y down, in sprite heights


class _Brush:
    """A transparent sheet ``width`` wide and 1 high, y down."""

    def __init__(self, width: float, background: Colour) -> None:
        self.size = (HEIGHT, max(8, round(HEIGHT * width)))
        self.sheet = np.zeros((*self.size, 4), dtype=np.uint8)
        self.colour, self.alpha = self.sheet[..., :3], self.sheet[..., 3]
        self.colour[:] = background

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self._fill(np.array(points)[None], [colour])

    def leaf(
        self, x: float, y: float, length: float, aspect: float, angle: float, c: Colour
    ) -> None:
        at, size, turn = np.array([[x], [y]]), np.array([length]), np.array([angle])
        self.leaves(at, size, aspect, turn, [c])

    def leaves(
        self,
        at: np.ndarray,
        length: np.ndarray,
        aspect: float,
        angle: np.ndarray,
        colours: Sequence[Sequence[float]],
    ) -> None:
        """Octagons at ``[2, N]`` x and y, each over the one before."""
        x, y = at
        dx, dy = np.outer(length / 2, _OCTAGON[0]), np.outer(length / 2 * aspect, _OCTAGON[1])
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        points = [x[:, None] + cos * dx - sin * dy, y[:, None] + sin * dx + cos * dy]
        self._fill(np.stack(points, axis=2), colours)

    def _fill(self, polygons: np.ndarray, colours: Sequence[Sequence[float]]) -> None:
        """Polygons ``[N, points, 2]`` with a colour each."""
        rounded = np.rint(polygons * HEIGHT * 16).astype(np.int32)[:, :, None]
        for points, colour in zip(rounded, colours, strict=True):
            cv2.fillPoly(self.sheet, [points], (*colour, 255), cv2.LINE_AA, 4)

    def bitmap(self) -> Bitmap:
        border = np.ones(self.size, dtype=np.uint8)
        border[2:-1, 2:-2] = 0
        self.alpha[border == 1] = 0
        levels: list[np.ndarray] = [self.sheet]
        while min(levels[-1].shape[:2]) > 16:
            h, w = levels[-1].shape[:2]
            levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
        return Bitmap(tuple(levels))


def _tone(dark: Colour, bright: Colour, t: float) -> Colour:
    t = min(1.0, max(0.0, t))
    r, g, b = (d + (e - d) * t for d, e in zip(dark, bright, strict=True))
    return (r, g, b)


def _tones(dark: Colour, bright: Colour, t: np.ndarray) -> np.ndarray:
    """As :func:`_tone`, ``[N, 3]``."""
    low = np.array(dark, dtype=np.float64)
    return low + (np.array(bright) - low) * np.clip(t, 0, 1)[:, None]


def _foliage(
    brush: _Brush,
    rng: np.random.Generator,
    blobs: list[Blob],
    dark: Colour,
    bright: Colour,
    leaf: float,
    density: float = 2.2,
    aspect: float = 0.6,
) -> None:
    """Leaves over the blobs, brighter where a ball would face the sun."""
    for cx, cy, r in blobs:
        brush.polygon(
            [
                (cx + 0.82 * r * math.cos(a), cy + 0.82 * r * math.sin(a))
                for a in np.linspace(0, 2 * math.pi, 15)[:-1].tolist()
            ],
            _tone(dark, bright, 0.12),
        )
        count = int(density * (r / leaf) ** 2 * 4)
        radius = r * np.sqrt(rng.uniform(0, 1, count))
        angle = rng.uniform(0, 2 * math.pi, count)
        dx, dy = radius * np.cos(angle), radius * np.sin(angle)
        dz = np.sqrt(np.maximum(r * r - radius * radius, 0))
        lit = (dx * _SUN[0] + dy * _SUN[1] + dz * _SUN[2]) / r
        shade = 0.36 + 0.5 * lit + rng.normal(0, 0.13, count)
        turn = rng.uniform(0, math.pi, count)
        order = np.argsort(lit)
        brush.leaves(
            np.stack([cx + dx, cy + dy])[:, order],
            leaf * rng.uniform(0.7, 1.3, count),
            aspect,
            turn[order],
            _tones(dark, bright, shade[order]).tolist(),
        )


def _trunk(
    brush: _Brush, x: float, top: float, width: float, colour: Colour, lean: float = 0.0
) -> None:
    dark = _tone(colour, (20, 16, 12), 0.45)
    w = width / 2
    brush.polygon(
        [(x - w, 1), (x + w, 1), (x + lean + 0.6 * w, top), (x + lean - 0.6 * w, top)], dark
    )
    brush.polygon(
        [(x - w, 1), (x + 0.1 * w, 1), (x + lean, top), (x + lean - 0.6 * w, top)], colour
    )


def _broadleaf(rng: np.random.Generator) -> Bitmap:
    brush = _Brush(0.86, (70, 92, 44))
    _trunk(brush, 0.43, 0.5, 0.06, (112, 92, 72), float(rng.uniform(-0.03, 0.03)))
    blobs = [
        (0.43 + rng.uniform(-0.22, 0.22), rng.uniform(0.2, 0.52), rng.uniform(0.13, 0.19))
        for _ in range(9)
    ]
    blobs = sorted([(0.43, 0.36, 0.26), *blobs], key=lambda b: b[1])
    warm = rng.uniform(0, 1)
    _foliage(brush, rng, blobs, (34, 50, 24), (128 + 30 * warm, 152, 66), 0.035)
    return brush.bitmap()


def _bush(rng: np.random.Generator) -> Bitmap:
    brush = _Brush(1.5, (66, 90, 44))
    blobs = [
        (rng.uniform(0.4, 1.1), rng.uniform(0.45, 0.72), rng.uniform(0.2, 0.3)) for _ in range(7)
    ]
    blobs = sorted(blobs, key=lambda b: b[1])
    _foliage(brush, rng, [*blobs, (0.75, 0.72, 0.27)], (32, 48, 24), (130, 152, 72), 0.06)
    return brush.bitmap()


def _poplar(rng: np.random.Generator) -> Bitmap:
    brush = _Brush(0.3, (72, 98, 46))
    _trunk(brush, 0.15, 0.8, 0.035, (128, 116, 96))
    blobs = []
    for k in range(13):
        y = 0.09 + 0.062 * k
        r = 0.036 + 0.06 * math.sin(math.pi * min(1, (k + 1.2) / 12) ** 0.8)
        blobs.append((0.15 + rng.uniform(-0.02, 0.02), y, r))
    _foliage(brush, rng, blobs, (38, 58, 26), (140, 164, 70), 0.022, aspect=0.5)
    return brush.bitmap()


def _plane_tree(rng: np.random.Generator) -> Bitmap:
    """Tall pale mottled trunk, pollarded limbs, high round crown."""
    brush = _Brush(0.72, (96, 116, 52))
    bark: Colour = (206, 196, 168)
    _trunk(brush, 0.36, 0.42, 0.075, bark)
    for _ in range(26):
        tone: Colour = (150, 140, 104) if rng.random() < 0.5 else (230, 224, 202)
        x, y = 0.36 + rng.uniform(-0.026, 0.02), rng.uniform(0.46, 0.98)
        brush.leaf(x, y, 0.028, 0.5, math.pi / 2, tone)
    for lean in (-0.2, -0.09, 0.1, 0.21):
        brush.polygon(
            [(0.345, 0.5), (0.38, 0.5), (0.37 + lean, 0.26), (0.35 + lean, 0.26)],
            _tone(bark, (60, 52, 40), 0.3 if lean < 0 else 0.5),
        )
    blobs = [
        (0.36 + rng.uniform(-0.22, 0.22), rng.uniform(0.13, 0.34), rng.uniform(0.09, 0.13))
        for _ in range(11)
    ]
    _foliage(brush, rng, sorted(blobs, key=lambda b: b[1]), (54, 70, 26), (168, 180, 84), 0.034)
    return brush.bitmap()


def _cedar(rng: np.random.Generator) -> Bitmap:
    """Sugi: a dense, dark, narrow cone on a straight reddish trunk."""
    brush = _Brush(0.4, (36, 62, 44))
    _trunk(brush, 0.2, 0.3, 0.035, (122, 82, 60))
    for k in range(15):
        y = 0.07 + 0.057 * k
        reach = 0.022 + 0.0098 * k
        for x in (-1, 1, 0):
            c = (0.2 + x * reach * 0.75, y + 0.012 * abs(x), 0.030 + 0.0032 * k)
            _foliage(brush, rng, [c], (14, 32, 24), (70, 112, 70), 0.024, 1.2, 0.34)
    return brush.bitmap()


def _bamboo(rng: np.random.Generator) -> Bitmap:
    """A grove: many thin bright culms with joints, feathery drooping tops."""
    brush = _Brush(0.8, (128, 158, 66))
    for _ in range(15):
        x = rng.uniform(0.2, 0.6)
        lean = (x - 0.4) * rng.uniform(0.1, 0.9)
        green: Colour = _tone((92, 122, 46), (176, 190, 96), float(rng.uniform(0, 1)))
        w = 0.0075
        brush.polygon(
            [(x - w, 1), (x + w, 1), (x + lean + w / 2, 0.2), (x + lean - w / 2, 0.2)], green
        )
        for j in np.arange(0.3, 0.98, 0.07).tolist():
            at = x + lean * (1 - j) / 0.8
            brush.polygon(
                [(at - w, j), (at + w, j), (at + w, j + 0.006), (at - w, j + 0.006)], (70, 86, 40)
            )
    for _ in range(620):
        x, y = rng.normal(0.4, 0.15), rng.uniform(0.04, 0.6) ** 1.15
        if abs(x - 0.4) > 0.36:
            continue
        tone = 0.8 - 0.9 * y + rng.normal(0, 0.2) - 0.6 * (x - 0.4)
        droop = float(rng.choice([-1, 1])) * rng.uniform(0.5, 1.3)
        colour = _tone((56, 86, 34), (186, 208, 102), float(tone))
        brush.leaf(float(x), float(y), 0.062, 0.17, float(droop), colour)
    return brush.bitmap()


def _palm(rng: np.random.Generator) -> Bitmap:
    """Coconut: slender leaning ringed trunk, arching pinnate fronds."""
    brush = _Brush(0.84, (74, 110, 52))
    lean = float(rng.uniform(-0.1, 0.1))
    head = np.array([0.42 + lean, 0.27])
    steps = 18
    for k in range(steps):
        t0, t1 = k / steps, (k + 1) / steps
        x0, x1 = 0.42 + lean * t0**1.8, 0.42 + lean * t1**1.8
        y0, y1 = 1 - 0.73 * t0, 1 - 0.73 * t1
        w = 0.021 - 0.008 * t0
        tone = 0.25 * (k % 2)
        brush.polygon(
            [(x0 - w, y0), (x0 + w, y0), (x1 + w, y1), (x1 - w, y1)],
            _tone((96, 82, 66), (40, 32, 26), tone),
        )
        brush.polygon(
            [(x0 - w, y0), (x0, y0), (x1, y1), (x1 - w, y1)],
            _tone((158, 140, 114), (60, 50, 40), tone),
        )
    fronds = np.sort(rng.uniform(-0.25, math.pi + 0.25, 17))
    for index, a in enumerate(rng.permutation(fronds).tolist()):
        tip = np.array([math.cos(a), -math.sin(a)]) * rng.uniform(0.32, 0.38)
        sag = 0.17 + 0.08 * rng.random()
        tone = 0.25 + 0.5 * index / 17 + (0.12 if math.cos(a) < 0 else -0.08)
        for t in np.linspace(0.08, 1, 26).tolist():
            at = head + tip * t + np.array([0, sag * t * t])
            slope = tip + np.array([0, 2 * sag * t])
            angle = math.atan2(slope[1], slope[0])
            long = 0.092 * math.sin(math.pi * (0.14 + 0.8 * t))
            for side in (-1, 1):
                turn = angle + side * 0.8
                x, y = at + 0.45 * long * np.array([math.cos(turn), math.sin(turn)])
                shade = tone + 0.1 * side * (1 if math.cos(angle) < 0 else -1) + rng.normal(0, 0.06)
                colour = _tone((30, 58, 28), (150, 178, 78), float(shade))
                brush.leaf(float(x), float(y), long, 0.2, turn, colour)
    for dx in (-0.022, 0.016, 0.0):
        brush.leaf(float(head[0] + dx), float(head[1] + 0.024), 0.036, 0.9, 0.0, (120, 98, 44))
    return brush.bitmap()


def _banana(rng: np.random.Generator) -> Bitmap:
    """A clump of broad, arching paddle leaves."""
    brush = _Brush(1.1, (86, 132, 48))
    for k, x in enumerate((0.42, 0.68, 0.55)):
        _trunk(brush, x, 0.5, 0.06, (138, 148, 78), (0.55 - x) * 0.2)
        for _ in range(7):
            a = rng.uniform(0.25, math.pi - 0.25)
            reach = rng.uniform(0.3, 0.42)
            tone = 0.3 + 0.2 * k + rng.normal(0, 0.12)
            rib = [
                (
                    x + reach * t * math.cos(a),
                    0.54 - reach * 1.25 * t * math.sin(a) + 0.26 * t * t,
                    0.075 * math.sin(math.pi * (0.06 + 0.9 * t)),
                )
                for t in np.linspace(0, 1, 9).tolist()
            ]
            for side, extra in ((1, -0.14), (-1, 0.1)):
                edge = [(px + 0.3 * side * w, py + side * w) for px, py, w in rib]
                spine = [(px, py) for px, py, _ in reversed(rib)]
                brush.polygon(edge + spine, _tone((40, 84, 32), (158, 196, 76), tone + extra))
    return brush.bitmap()


def _spruce(rng: np.random.Generator) -> Bitmap:
    """A wide cone of drooping boughs down to the ground, dark blue-green."""
    brush = _Brush(0.56, (34, 58, 54))
    _trunk(brush, 0.28, 0.2, 0.03, (96, 78, 66))
    for k in range(13):
        y, reach = 0.05 + 0.07 * k, 0.016 + 0.0185 * k
        for x in (-1, -0.5, 0.5, 1, 0):
            at = (0.28 + x * reach * 0.85, y + 0.03 * abs(x), 0.022 + 0.003 * k)
            _foliage(brush, rng, [at], (10, 28, 30), (64, 100, 84), 0.024, 1.0, 0.34)
    return brush.bitmap()


def _cypress(rng: np.random.Generator) -> Bitmap:
    """A narrow dark spindle."""
    brush = _Brush(0.2, (40, 60, 36))
    _trunk(brush, 0.1, 0.85, 0.03, (96, 78, 60))
    blobs = [
        (0.1, 0.06 + 0.07 * k, 0.022 + 0.045 * math.sin(math.pi * (k + 0.6) / 13.5))
        for k in range(13)
    ]
    _foliage(brush, rng, blobs, (18, 34, 20), (84, 108, 58), 0.018, aspect=0.4)
    return brush.bitmap()


def _pine(rng: np.random.Generator) -> Bitmap:
    """A tall bare reddish trunk under a broad flat crown."""
    brush = _Brush(0.72, (62, 88, 52))
    _trunk(brush, 0.36, 0.22, 0.05, (158, 104, 74), float(rng.uniform(-0.05, 0.05)))
    blobs = [
        (0.36 + rng.uniform(-0.24, 0.24), rng.uniform(0.12, 0.24), rng.uniform(0.06, 0.1))
        for _ in range(12)
    ]
    _foliage(brush, rng, sorted(blobs, key=lambda b: b[1]), (30, 52, 30), (118, 144, 76), 0.028)
    return brush.bitmap()


def _birch(rng: np.random.Generator) -> Bitmap:
    """White barred trunks under light foliage."""
    brush = _Brush(0.6, (120, 150, 70))
    blobs = [
        (0.3 + rng.uniform(-0.16, 0.16), rng.uniform(0.14, 0.5), rng.uniform(0.07, 0.11))
        for _ in range(11)
    ]
    _foliage(brush, rng, sorted(blobs, key=lambda b: b[1]), (70, 98, 40), (184, 206, 104), 0.026)
    for x, lean in ((0.22, -0.05), (0.31, 0.03), (0.39, 0.07)):
        w = 0.018
        brush.polygon(
            [(x - w, 1), (x + w, 1), (x + lean + w / 2, 0.16), (x + lean - w / 2, 0.16)],
            (240, 240, 236),
        )
        for y in rng.uniform(0.3, 0.98, 9).tolist():
            at = x + lean * (1 - y) / 0.84 + rng.uniform(-0.01, 0.01)
            brush.leaf(float(at), y, 0.024, 0.35, 0.0, (54, 52, 50))
    return brush.bitmap()


def _acacia(rng: np.random.Generator) -> Bitmap:
    """A short forked trunk under a thin, flat, dusty crown."""
    brush = _Brush(1.2, (120, 128, 78))
    for lean in (-0.3, -0.1, 0.12, 0.3):
        _trunk(brush, 0.6, 0.34, 0.05, (112, 92, 74), lean)
    blobs = [
        (0.6 + rng.uniform(-0.44, 0.44), rng.uniform(0.24, 0.38), rng.uniform(0.06, 0.11))
        for _ in range(14)
    ]
    _foliage(
        brush, rng, sorted(blobs, key=lambda b: b[1]), (84, 92, 52), (176, 178, 112), 0.034, 1.3
    )
    return brush.bitmap()


def _fan_palm(rng: np.random.Generator) -> Bitmap:
    """Palmyra: a straight dark trunk under a dense ball of stiff fans."""
    brush = _Brush(0.56, (70, 94, 60))
    _trunk(brush, 0.28, 0.24, 0.05, (84, 76, 70))
    for radius, count, tone in ((0.2, 26, 0.25), (0.15, 20, 0.55), (0.08, 14, 0.8)):
        for a in np.linspace(0, 2 * math.pi, count, endpoint=False).tolist():
            x, y = 0.28 + radius * math.cos(a), 0.23 - radius * math.sin(a) * 0.95
            shade = tone + 0.2 * math.sin(a) + rng.normal(0, 0.1)
            brush.leaf(x, y, 0.13, 0.3, -a, _tone((28, 50, 34), (142, 164, 100), shade))
    return brush.bitmap()


def _fruit_tree(rng: np.random.Generator, fruit: Colour) -> Bitmap:
    """A low round crown full of fruit."""
    brush = _Brush(1.0, (64, 92, 44))
    _trunk(brush, 0.5, 0.6, 0.07, (110, 92, 76))
    blobs = [
        (0.5 + rng.uniform(-0.24, 0.24), rng.uniform(0.3, 0.6), rng.uniform(0.14, 0.2))
        for _ in range(8)
    ]
    _foliage(brush, rng, sorted(blobs, key=lambda b: b[1]), (28, 50, 24), (112, 142, 62), 0.04)
    for _ in range(60):
        cx, cy, r = blobs[int(rng.integers(len(blobs)))]
        a, q = rng.uniform(0, 2 * math.pi), 0.9 * r * math.sqrt(rng.uniform())
        x, y = float(cx + q * math.cos(a)), float(cy + q * math.sin(a))
        brush.leaf(x, y, 0.055, 1.0, 0.0, _tone((60, 40, 20), fruit, 0.85 + rng.uniform(0, 0.15)))
    return brush.bitmap()


def _belt(rng: np.random.Generator) -> Bitmap:
    """A belt of distant trees, tapering towards both ends."""
    width = 5.0
    brush = _Brush(width, (78, 96, 62))
    blobs = []
    for x in np.arange(0.2, width - 0.2, 0.13).tolist():
        taper = min(1.0, 0.35 + 0.9 * min(x, width - x) / 1.2)
        top = taper * rng.uniform(0.45, 0.92)
        r = rng.uniform(0.12, 0.19)
        while top > 0.0:
            blobs.append((x + rng.uniform(-0.05, 0.05), 1.02 - top + r, r))
            top -= 0.2
    blobs.sort(key=lambda b: b[1])
    _foliage(brush, rng, blobs, (40, 58, 36), (128, 148, 84), 0.05, 1.0)
    return brush.bitmap()


def _cloud(rng: np.random.Generator) -> Bitmap:
    """Cumulus: puffs over a flat base, ragged by noise, shaded away from the sun."""
    width = 2.6
    brush = _Brush(width, (250, 250, 250))
    h, w = brush.size
    yy, xx = np.mgrid[0:h, 0:w] / h
    body = np.full(brush.size, -1.0)
    middle = rng.uniform(1.0, 1.6)
    for _ in range(15):
        cx = float(np.clip(rng.normal(middle, 0.36), 0.45, width - 0.45))
        r = max(0.09, rng.uniform(0.12, 0.3) * math.exp(-(((cx - middle) / 0.9) ** 2)))
        cy = 0.74 - r * rng.uniform(0.5, 1.25)
        distance = np.sqrt(((xx - cx) / (1.45 * r)) ** 2 + ((yy - cy) / r) ** 2)
        body = np.maximum(body, 1 - distance)
    noise = np.zeros(brush.size)
    for s, weight in ((3, 0.12), (8, 0.22), (20, 0.34)):
        layer = cv2.GaussianBlur(rng.normal(size=brush.size), (0, 0), s)
        noise += weight * layer / layer.std()
    base = np.clip((0.84 - yy) / 0.12, 0, 1)
    rim = np.clip(np.minimum(np.minimum(xx, width - xx) / 0.3, yy / 0.1), 0, 1)
    density = np.clip((body + 0.42 * noise + 0.12) / 0.55, 0, 1) * base * rim
    soft = density * density * (3 - 2 * density)
    brush.alpha[:] = np.rint(238 * soft)
    smooth = cv2.GaussianBlur(soft, (0, 0), 9)
    relief = smooth - np.roll(smooth, (14, 10), axis=(0, 1))
    under = np.clip((yy - 0.3) / 0.5, 0, 1) * smooth
    shade = np.clip(0.5 * under - 0.9 * relief, 0, 1)[..., None]
    brush.colour[:] = np.rint(np.array([253, 252, 250]) - shade * np.array([84, 76, 62]))
    return brush.bitmap()


_PAINTERS: dict[str, Callable[[np.random.Generator], Bitmap]] = {
    "broadleaf": _broadleaf,
    "belt": _belt,
    "bush": _bush,
    "poplar": _poplar,
    "plane_tree": _plane_tree,
    "cedar": _cedar,
    "bamboo": _bamboo,
    "palm": _palm,
    "banana": _banana,
    "cloud": _cloud,
}


_REGIONAL: dict[str, Callable[[np.random.Generator], Bitmap]] = {
    "acacia": _acacia,
    "apple_tree": partial(_fruit_tree, fruit=(206, 40, 36)),
    "birch": _birch,
    "citrus_tree": partial(_fruit_tree, fruit=(250, 156, 24)),
    "cypress": _cypress,
    "fan_palm": _fan_palm,
    "pine": _pine,
    "spruce": _spruce,
}


@cache
def bitmap(name: str, variant: int) -> Bitmap:
    """Bitmap of one plant or cloud."""
    if name in _PAINTERS:
        seed, paint = [sorted(_PAINTERS).index(name), variant], _PAINTERS[name]
    else:  # seeds of their own, so that the pictures without regional cues stay as they are
        seed, paint = [100, sorted(_REGIONAL).index(name), variant], _REGIONAL[name]
    return paint(np.random.Generator(np.random.PCG64(seed)))
