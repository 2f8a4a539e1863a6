"""Upright bitmaps of foliage and clouds, lit from the left, painted once per process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial

import cv2
import numpy as np

from geoscenes.camera import Colour, Span
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
        self.width = width
        self.size = (HEIGHT, max(8, round(HEIGHT * width)))
        self.sheet = np.zeros((*self.size, 4), dtype=np.uint8)
        self.colour, self.alpha = self.sheet[..., :3], self.sheet[..., 3]
        self.colour[:] = background

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self._fill(np.array(points)[None], [colour])

    def stem(self, foot: Span, head: Span, widths: Span, colour: Colour) -> None:
        """An upright strip, ``widths`` to either side at its foot and its head."""
        (x0, y0), (x1, y1), (a, b) = foot, head, widths
        self.polygon([(x0 - a, y0), (x0 + a, y0), (x1 + b, y1), (x1 - b, y1)], colour)

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
    """Leaves over the blobs from top to bottom, brighter where a ball would face the sun."""
    for cx, cy, r in sorted(blobs, key=lambda b: b[1]):
        ring = np.linspace(0, 2 * math.pi, 15)[:-1].tolist()
        core = [(cx + 0.82 * r * math.cos(a), cy + 0.82 * r * math.sin(a)) for a in ring]
        brush.polygon(core, _tone(dark, bright, 0.12))
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


def _crown(rng: np.random.Generator, count: int, x: Span, y: Span, radius: Span) -> list[Blob]:
    """Blobs about ``x`` (middle, reach), within ``y`` and with radii within ``radius``."""
    middle, reach = x
    return [
        (middle + rng.uniform(-reach, reach), rng.uniform(*y), rng.uniform(*radius))
        for _ in range(count)
    ]


def _trunk(
    brush: _Brush, x: float, top: float, width: float, colour: Colour, lean: float = 0.0
) -> None:
    dark = _tone(colour, (20, 16, 12), 0.45)
    w = width / 2
    head = x + lean
    brush.stem((x, 1), (head, top), (w, 0.6 * w), dark)
    brush.polygon([(x - w, 1), (x + 0.1 * w, 1), (head, top), (head - 0.6 * w, top)], colour)


def _broadleaf(brush: _Brush, rng: np.random.Generator) -> None:
    _trunk(brush, 0.43, 0.5, 0.06, (112, 92, 72), float(rng.uniform(-0.03, 0.03)))
    blobs = _crown(rng, 9, (0.43, 0.22), (0.2, 0.52), (0.13, 0.19))
    warm = rng.uniform(0, 1)
    crown = [(0.43, 0.36, 0.26), *blobs]
    _foliage(brush, rng, crown, (34, 50, 24), (128 + 30 * warm, 152, 66), 0.035)


def _bush(brush: _Brush, rng: np.random.Generator) -> None:
    blobs = [
        (rng.uniform(0.4, 1.1), rng.uniform(0.45, 0.72), rng.uniform(0.2, 0.3)) for _ in range(7)
    ]
    _foliage(brush, rng, [*blobs, (0.75, 0.72, 0.27)], (32, 48, 24), (130, 152, 72), 0.06)


def _poplar(brush: _Brush, rng: np.random.Generator) -> None:
    _trunk(brush, 0.15, 0.8, 0.035, (128, 116, 96))
    blobs = []
    for k in range(13):
        y = 0.09 + 0.062 * k
        r = 0.036 + 0.06 * math.sin(math.pi * min(1, (k + 1.2) / 12) ** 0.8)
        blobs.append((0.15 + rng.uniform(-0.02, 0.02), y, r))
    _foliage(brush, rng, blobs, (38, 58, 26), (140, 164, 70), 0.022, aspect=0.5)


def _plane_tree(brush: _Brush, rng: np.random.Generator) -> None:
    """Tall pale mottled trunk, pollarded limbs, high round crown."""
    bark: Colour = (206, 196, 168)
    _trunk(brush, 0.36, 0.42, 0.075, bark)
    for _ in range(26):
        tone: Colour = (150, 140, 104) if rng.random() < 0.5 else (230, 224, 202)
        x, y = 0.36 + rng.uniform(-0.026, 0.02), rng.uniform(0.46, 0.98)
        brush.leaf(x, y, 0.028, 0.5, math.pi / 2, tone)
    for lean in (-0.2, -0.09, 0.1, 0.21):
        limb = [(0.345, 0.5), (0.38, 0.5), (0.37 + lean, 0.26), (0.35 + lean, 0.26)]
        brush.polygon(limb, _tone(bark, (60, 52, 40), 0.3 if lean < 0 else 0.5))
    blobs = _crown(rng, 11, (0.36, 0.22), (0.13, 0.34), (0.09, 0.13))
    _foliage(brush, rng, blobs, (54, 70, 26), (168, 180, 84), 0.034)


def _cedar(brush: _Brush, rng: np.random.Generator) -> None:
    """Sugi: a dense, dark, narrow cone on a straight reddish trunk."""
    _trunk(brush, 0.2, 0.3, 0.035, (122, 82, 60))
    for k in range(15):
        y = 0.07 + 0.057 * k
        reach = 0.022 + 0.0098 * k
        for x in (-1, 1, 0):
            c = (0.2 + x * reach * 0.75, y + 0.012 * abs(x), 0.030 + 0.0032 * k)
            _foliage(brush, rng, [c], (14, 32, 24), (70, 112, 70), 0.024, 1.2, 0.34)


def _bamboo(brush: _Brush, rng: np.random.Generator) -> None:
    """A grove: many thin bright culms with joints, feathery drooping tops."""
    for _ in range(15):
        x = rng.uniform(0.2, 0.6)
        lean = (x - 0.4) * rng.uniform(0.1, 0.9)
        green: Colour = _tone((92, 122, 46), (176, 190, 96), float(rng.uniform(0, 1)))
        w = 0.0075
        brush.stem((x, 1), (x + lean, 0.2), (w, w / 2), green)
        for j in np.arange(0.3, 0.98, 0.07).tolist():
            at = x + lean * (1 - j) / 0.8
            brush.stem((at, j), (at, j + 0.006), (w, w), (70, 86, 40))
    for _ in range(620):
        x, y = rng.normal(0.4, 0.15), rng.uniform(0.04, 0.6) ** 1.15
        if abs(x - 0.4) > 0.36:
            continue
        tone = 0.8 - 0.9 * y + rng.normal(0, 0.2) - 0.6 * (x - 0.4)
        droop = float(rng.choice([-1, 1])) * rng.uniform(0.5, 1.3)
        colour = _tone((56, 86, 34), (186, 208, 102), float(tone))
        brush.leaf(float(x), float(y), 0.062, 0.17, float(droop), colour)


def _palm(brush: _Brush, rng: np.random.Generator) -> None:
    """Coconut: slender leaning ringed trunk, arching pinnate fronds."""
    lean = float(rng.uniform(-0.1, 0.1))
    head = np.array([0.42 + lean, 0.27])
    steps = 18
    for k in range(steps):
        t0, t1 = k / steps, (k + 1) / steps
        x0, x1 = 0.42 + lean * t0**1.8, 0.42 + lean * t1**1.8
        y0, y1 = 1 - 0.73 * t0, 1 - 0.73 * t1
        w = 0.021 - 0.008 * t0
        tone = 0.25 * (k % 2)
        lit = [(x0 - w, y0), (x0, y0), (x1, y1), (x1 - w, y1)]
        brush.stem((x0, y0), (x1, y1), (w, w), _tone((96, 82, 66), (40, 32, 26), tone))
        brush.polygon(lit, _tone((158, 140, 114), (60, 50, 40), tone))
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


def _banana(brush: _Brush, rng: np.random.Generator) -> None:
    """A clump of broad, arching paddle leaves."""
    for k, x in enumerate((0.42, 0.68, 0.55)):
        _trunk(brush, x, 0.5, 0.06, (138, 148, 78), (0.55 - x) * 0.2)
        for _ in range(7):
            a = rng.uniform(0.25, math.pi - 0.25)
            reach = rng.uniform(0.3, 0.42)
            tone = 0.3 + 0.2 * k + rng.normal(0, 0.12)
            rib = []
            for t in np.linspace(0, 1, 9).tolist():
                y = 0.54 - reach * 1.25 * t * math.sin(a) + 0.26 * t * t
                half = 0.075 * math.sin(math.pi * (0.06 + 0.9 * t))
                rib.append((x + reach * t * math.cos(a), y, half))
            for side, extra in ((1, -0.14), (-1, 0.1)):
                edge = [(px + 0.3 * side * w, py + side * w) for px, py, w in rib]
                spine = [(px, py) for px, py, _ in reversed(rib)]
                brush.polygon(edge + spine, _tone((40, 84, 32), (158, 196, 76), tone + extra))


def _spruce(brush: _Brush, rng: np.random.Generator) -> None:
    """A wide cone of drooping boughs down to the ground, dark blue-green."""
    _trunk(brush, 0.28, 0.2, 0.03, (96, 78, 66))
    for k in range(13):
        y, reach = 0.05 + 0.07 * k, 0.016 + 0.0185 * k
        for x in (-1, -0.5, 0.5, 1, 0):
            at = (0.28 + x * reach * 0.85, y + 0.03 * abs(x), 0.022 + 0.003 * k)
            _foliage(brush, rng, [at], (10, 28, 30), (64, 100, 84), 0.024, 1.0, 0.34)


def _cypress(brush: _Brush, rng: np.random.Generator) -> None:
    """A narrow dark spindle."""
    _trunk(brush, 0.1, 0.85, 0.03, (96, 78, 60))
    blobs = [
        (0.1, 0.06 + 0.07 * k, 0.022 + 0.045 * math.sin(math.pi * (k + 0.6) / 13.5))
        for k in range(13)
    ]
    _foliage(brush, rng, blobs, (18, 34, 20), (84, 108, 58), 0.018, aspect=0.4)


def _pine(brush: _Brush, rng: np.random.Generator) -> None:
    """A tall bare reddish trunk under a broad flat crown."""
    _trunk(brush, 0.36, 0.22, 0.05, (158, 104, 74), float(rng.uniform(-0.05, 0.05)))
    blobs = _crown(rng, 12, (0.36, 0.24), (0.12, 0.24), (0.06, 0.1))
    _foliage(brush, rng, blobs, (30, 52, 30), (118, 144, 76), 0.028)


def _birch(brush: _Brush, rng: np.random.Generator) -> None:
    """White barred trunks under light foliage."""
    blobs = _crown(rng, 11, (0.3, 0.16), (0.14, 0.5), (0.07, 0.11))
    _foliage(brush, rng, blobs, (70, 98, 40), (184, 206, 104), 0.026)
    for x, lean in ((0.22, -0.05), (0.31, 0.03), (0.39, 0.07)):
        w = 0.018
        brush.stem((x, 1), (x + lean, 0.16), (w, w / 2), (240, 240, 236))
        for y in rng.uniform(0.3, 0.98, 9).tolist():
            at = x + lean * (1 - y) / 0.84 + rng.uniform(-0.01, 0.01)
            brush.leaf(float(at), y, 0.024, 0.35, 0.0, (54, 52, 50))


def _acacia(brush: _Brush, rng: np.random.Generator) -> None:
    """A short forked trunk under a thin, flat, dusty crown."""
    for lean in (-0.3, -0.1, 0.12, 0.3):
        _trunk(brush, 0.6, 0.34, 0.05, (112, 92, 74), lean)
    blobs = _crown(rng, 14, (0.6, 0.44), (0.24, 0.38), (0.06, 0.11))
    _foliage(brush, rng, blobs, (84, 92, 52), (176, 178, 112), 0.034, 1.3)


def _fan_palm(brush: _Brush, rng: np.random.Generator) -> None:
    """Palmyra: a straight dark trunk under a dense ball of stiff fans."""
    _trunk(brush, 0.28, 0.24, 0.05, (84, 76, 70))
    for radius, count, tone in ((0.2, 26, 0.25), (0.15, 20, 0.55), (0.08, 14, 0.8)):
        for a in np.linspace(0, 2 * math.pi, count, endpoint=False).tolist():
            x, y = 0.28 + radius * math.cos(a), 0.23 - radius * math.sin(a) * 0.95
            shade = tone + 0.2 * math.sin(a) + rng.normal(0, 0.1)
            brush.leaf(x, y, 0.13, 0.3, -a, _tone((28, 50, 34), (142, 164, 100), shade))


def _fruit_tree(brush: _Brush, rng: np.random.Generator, fruit: Colour) -> None:
    """A low round crown full of fruit."""
    _trunk(brush, 0.5, 0.6, 0.07, (110, 92, 76))
    blobs = _crown(rng, 8, (0.5, 0.24), (0.3, 0.6), (0.14, 0.2))
    _foliage(brush, rng, blobs, (28, 50, 24), (112, 142, 62), 0.04)
    for _ in range(60):
        cx, cy, r = blobs[int(rng.integers(len(blobs)))]
        a, q = rng.uniform(0, 2 * math.pi), 0.9 * r * math.sqrt(rng.uniform())
        x, y = float(cx + q * math.cos(a)), float(cy + q * math.sin(a))
        brush.leaf(x, y, 0.055, 1.0, 0.0, _tone((60, 40, 20), fruit, 0.85 + rng.uniform(0, 0.15)))


def _belt(brush: _Brush, rng: np.random.Generator) -> None:
    """A belt of distant trees, tapering towards both ends."""
    width = brush.width
    blobs = []
    for x in np.arange(0.2, width - 0.2, 0.13).tolist():
        taper = min(1.0, 0.35 + 0.9 * min(x, width - x) / 1.2)
        top = taper * rng.uniform(0.45, 0.92)
        r = rng.uniform(0.12, 0.19)
        while top > 0.0:
            blobs.append((x + rng.uniform(-0.05, 0.05), 1.02 - top + r, r))
            top -= 0.2
    _foliage(brush, rng, blobs, (40, 58, 36), (128, 148, 84), 0.05, 1.0)


def _cloud(brush: _Brush, rng: np.random.Generator) -> None:
    """Cumulus: puffs over a flat base, ragged by noise, shaded away from the sun."""
    width = brush.width
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


_Painter = Callable[[_Brush, np.random.Generator], None]
#: width in heights, colour between the leaves, painter
_PLANTS: dict[str, tuple[float, Colour, _Painter]] = {
    "broadleaf": (0.86, (70, 92, 44), _broadleaf),
    "belt": (5.0, (78, 96, 62), _belt),
    "bush": (1.5, (66, 90, 44), _bush),
    "poplar": (0.3, (72, 98, 46), _poplar),
    "plane_tree": (0.72, (96, 116, 52), _plane_tree),
    "cedar": (0.4, (36, 62, 44), _cedar),
    "bamboo": (0.8, (128, 158, 66), _bamboo),
    "palm": (0.84, (74, 110, 52), _palm),
    "banana": (1.1, (86, 132, 48), _banana),
    "cloud": (2.6, (250, 250, 250), _cloud),
}
_REGIONAL: dict[str, tuple[float, Colour, _Painter]] = {
    "acacia": (1.2, (120, 128, 78), _acacia),
    "apple_tree": (1.0, (64, 92, 44), partial(_fruit_tree, fruit=(206, 40, 36))),
    "birch": (0.6, (120, 150, 70), _birch),
    "citrus_tree": (1.0, (64, 92, 44), partial(_fruit_tree, fruit=(250, 156, 24))),
    "cypress": (0.2, (40, 60, 36), _cypress),
    "fan_palm": (0.56, (70, 94, 60), _fan_palm),
    "pine": (0.72, (62, 88, 52), _pine),
    "spruce": (0.56, (34, 58, 54), _spruce),
}


@cache
def bitmap(name: str, variant: int) -> Bitmap:
    """Bitmap of one plant or cloud."""
    if name in _PLANTS:
        seed, plants = [sorted(_PLANTS).index(name), variant], _PLANTS
    else:  # seeds of their own, so that the pictures without regional cues stay as they are
        seed, plants = [100, sorted(_REGIONAL).index(name), variant], _REGIONAL
    width, background, paint = plants[name]
    brush = _Brush(width, background)
    paint(brush, np.random.Generator(np.random.PCG64(seed)))
    return brush.bitmap()
