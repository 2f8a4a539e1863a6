"""Drawing: an object is sketched once as a list of strokes, and the list is replayed.

Replayed onto the picture a stroke blends its colour in; replayed onto a coverage map it writes the
same anti-aliased coverage. Every stroke changes only pixels under its coverage, by an amount that
depends on that pixel alone. Hence leaving an object out changes nothing outside its footprint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import cv2
import numpy as np

from geoscenes.camera import Camera, Colour, Light, Span, Vector

FRACTION_BITS = 4  # sub-pixel positions handed to OpenCV: 1/16 pixel
SUPERSAMPLING = 2  # the picture is drawn this much larger and averaged down
LONGEST_SHADOW = 1.5  # in heights of what casts it; longer ones would clutter the road
SKY, GROUND, STANDING, LENS = range(4)  # layers, painted in this order

FRONT: Vector = (0.0, 0.0, -1.0)  # faces the camera
TOP: Vector = (0.0, 1.0, 0.0)
LEFT: Vector = (-1.0, 0.0, 0.0)
RIGHT: Vector = (1.0, 0.0, 0.0)

_UNPLACED = np.zeros((0, 1, 2), dtype=np.int32)


@dataclass(slots=True)
class Polygon:
    points: np.ndarray  # int32 [N, 1, 2], in 1/16 pixel
    colour: Colour

    def paint(self, image: np.ndarray) -> None:
        cv2.fillPoly(image, [self.points], self.colour, cv2.LINE_AA, FRACTION_BITS)

    def cover(self, coverage: np.ndarray) -> None:
        cv2.fillPoly(coverage, [self.points], 255, cv2.LINE_AA, FRACTION_BITS)


@dataclass(slots=True)
class Line:
    points: np.ndarray
    colour: Colour
    thickness: int

    def paint(self, image: np.ndarray) -> None:
        cv2.polylines(
            image, [self.points], False, self.colour, self.thickness, cv2.LINE_AA, FRACTION_BITS
        )

    def cover(self, coverage: np.ndarray) -> None:
        cv2.polylines(coverage, [self.points], False, 255, self.thickness, cv2.LINE_AA, 4)


@dataclass(frozen=True)
class Sprite:
    """A shaded bitmap with alpha, already at its place and size."""

    x: int
    y: int
    colour: np.ndarray  # uint8 [h, w, 3]
    alpha: np.ndarray  # uint8 [h, w]

    def paint(self, image: np.ndarray) -> None:
        h, w = self.alpha.shape
        patch = image[self.y : self.y + h, self.x : self.x + w]
        a = cv2.merge([self.alpha] * 3).astype(np.uint16)
        mixed = patch * (255 - a) + self.colour * a + np.uint16(128)
        np.right_shift(mixed + np.right_shift(mixed, 8), 8, out=patch, casting="unsafe")

    def cover(self, coverage: np.ndarray) -> None:
        h, w = self.alpha.shape
        patch = coverage[self.y : self.y + h, self.x : self.x + w]
        np.maximum(patch, self.alpha, out=patch)


Stroke = Polygon | Line | Sprite


@dataclass
class Part:
    """Strokes at one depth."""

    layer: int
    depth: float
    strokes: list[Stroke] = field(default_factory=list)


@dataclass(frozen=True)
class Bitmap:
    """A picture that stands upright in the scene; finer to coarser copies avoid aliasing."""

    levels: tuple[np.ndarray, ...]  # uint8 [h, w, 4], each half the size of the one before


class Sketch:
    """What one object puts on the picture. Points are road coordinates in metres."""

    def __init__(
        self, camera: Camera, light: Light, side: int, random: Callable[[], np.random.Generator]
    ) -> None:
        self.camera = camera
        self.light = light
        self.side = side  # pixels of the supersampled picture
        self._random = random
        self.parts: list[Part] = []
        self.shadows: list[np.ndarray] = []
        self._points: list[Vector] = []
        # stroke (None: a shadow) and how many points there are up to it
        self._pending: list[tuple[Polygon | Line | None, int]] = []
        self._haze = 0.0

    @cached_property
    def rng(self) -> np.random.Generator:
        """The object's own random stream, which many looks do without."""
        return self._random()

    # -- strokes -------------------------------------------------------------------------------

    def part(self, depth: float, layer: int = STANDING) -> None:
        """Begin a group of strokes that is painted at this depth."""
        self.parts.append(Part(layer, depth))
        self.veil(depth)

    def veil(self, depth: float) -> None:
        """Give what follows the haze of another depth within the same part."""
        self._haze = self.light.haze(depth)

    def seen(self, colour: Sequence[float], normal: Vector = FRONT) -> Colour:
        """The colour as it reaches the camera: lit, then veiled by haze."""
        g, h, f = self.light.gain(normal), self.light.haze_colour, self._haze
        k = 1 - f
        red, green, blue = colour[0] * g[0], colour[1] * g[1], colour[2] * g[2]
        return (
            (red if red < 255 else 255.0) * k + h[0] * f,
            (green if green < 255 else 255.0) * k + h[1] * f,
            (blue if blue < 255 else 255.0) * k + h[2] * f,
        )

    def reflection(self, strength: float) -> Colour:
        """Colour of a level surface that mirrors the sky near the horizon."""
        g = self.light.gain(TOP)
        low, high = self.light.haze_colour, self.light.zenith_colour
        r, gr, b = (
            strength * (0.55 * h + 0.45 * z) / k for h, z, k in zip(low, high, g, strict=True)
        )
        return (r, gr, b)

    def face(
        self, points: Sequence[Vector], colour: Sequence[float], normal: Vector = FRONT
    ) -> None:
        """A filled polygon."""
        self._push(points, Polygon(_UNPLACED, self.seen(colour, normal)))

    def film(
        self, points: Sequence[Vector], colour: Sequence[float], normal: Vector, opacity: float
    ) -> None:
        """A translucent polygon with a soft edge."""
        pixels = _pixels(points, self.camera, self.side)
        blur = max(3, round(0.012 * self.side)) | 1
        low = np.maximum((pixels.min(axis=(0, 1)) >> FRACTION_BITS) - blur, 0)
        high = np.minimum((pixels.max(axis=(0, 1)) >> FRACTION_BITS) + blur + 2, self.side)
        if (high <= low).any():
            return
        w, h = (high - low).tolist()
        alpha = np.zeros((h, w), dtype=np.uint8)
        shifted = pixels - (low << FRACTION_BITS).astype(np.int32)
        cv2.fillPoly(alpha, [shifted], round(255 * opacity), cv2.LINE_AA, FRACTION_BITS)
        sheet = np.empty((h, w, 3), dtype=np.uint8)
        sheet[:] = np.rint(self.seen(colour, normal))
        soft = cv2.blur(alpha, (blur, blur))
        self.parts[-1].strokes.append(Sprite(int(low[0]), int(low[1]), sheet, soft))

    def wire(self, points: Sequence[Vector], colour: Sequence[float], width: float) -> None:
        """A thin line, ``width`` metres at the part's depth, at least one drawn pixel."""
        pixels = width * self.camera.focal / self.parts[-1].depth * self.side
        self._push(points, Line(_UNPLACED, self.seen(colour), max(1, round(pixels))))

    def quad(self, u: Span, y: Span, z: float, colour: Sequence[float]) -> None:
        """An upright rectangle that faces the camera."""
        self.slope(u, u, y, (z, z), colour)

    def slope(
        self,
        low: Span,
        high: Span,
        y: Span,
        z: Span,
        colour: Sequence[float],
        normal: Vector = FRONT,
    ) -> None:
        """A trapezium across the road: its edges span ``low`` and ``high``, ``y`` and ``z``."""
        (y0, y1), (z0, z1) = y, z
        corners = [(low[0], y0, z0), (low[1], y0, z0), (high[1], y1, z1), (high[0], y1, z1)]
        self.face(corners, colour, normal)

    def wall(self, u: float, y: Span, z: Span, colour: Sequence[float], normal: Vector) -> None:
        """An upright rectangle along the road."""
        self.face(
            [(u, y[0], z[0]), (u, y[0], z[1]), (u, y[1], z[1]), (u, y[1], z[0])], colour, normal
        )

    def board(
        self,
        u: float,
        z: float,
        outline: Sequence[Span],
        colour: Sequence[float],
        normal: Vector = FRONT,
    ) -> None:
        """A polygon across the road; its corners are (offset from ``u``, height)."""
        self.face([(u + du, y, z) for du, y in outline], colour, normal)

    def flat(
        self, u: Span, z: Span, colour: Sequence[float], y: float = 0.0, steps: int = 1
    ) -> None:
        """A horizontal rectangle; ``steps`` pieces along z let it follow the bend."""
        start = max(z[0], 1.0)
        zs = [start * (z[1] / start) ** (k / steps) for k in range(steps + 1)]
        near = [(u[0], y, k) for k in zs]
        far = [(u[1], y, k) for k in reversed(zs)]
        self.face(near + far, colour, TOP)

    def box(self, u: Span, y: Span, z: Span, colour: Sequence[float]) -> None:
        """The faces of a box that the camera sees."""
        seen = self.visible_side(u, z[0])
        if seen is not None:
            self.wall(seen[0], y, z, colour, seen[1])
        if y[1] < self.camera.height:
            self.flat(u, z, colour, y[1])
        self.quad(u, y, z[0], colour)

    def visible_side(self, u: Span, z: float) -> tuple[float, Vector] | None:
        """Which side of a box the camera sees: its place and its normal."""
        if self.camera.offset(u[0], z) > 0:
            return u[0], LEFT
        return (u[1], RIGHT) if self.camera.offset(u[1], z) < 0 else None

    def one(self, choices: Sequence[Colour]) -> Colour:
        """One of some colours by chance."""
        return choices[int(self.rng.integers(len(choices)))]

    def disc(
        self,
        centre: Vector,
        radius: float,
        colour: Sequence[float],
        *,
        corners: int = 20,
        turn: float = 0.0,
        squash: float = 1.0,
        normal: Vector = FRONT,
    ) -> None:
        """A regular polygon or ellipse; it faces the camera, or lies in the plane of ``normal``."""
        u, y, z = centre
        a = [2 * math.pi * k / corners + turn for k in range(corners)]
        if normal in (LEFT, RIGHT):
            ring = [(u, y + radius * math.sin(t) * squash, z + radius * math.cos(t)) for t in a]
        elif normal == TOP:
            ring = [(u + radius * math.cos(t) * squash, y, z + radius * math.sin(t)) for t in a]
        else:
            ring = [(u + radius * math.cos(t), y + radius * math.sin(t) * squash, z) for t in a]
        self.face(ring, colour, normal)

    def rod(
        self, foot: Vector, head: Vector, width: float, colour: Sequence[float], taper: float = 1.0
    ) -> None:
        """A round post: a lit and a shaded half."""
        (u0, y0, z0), (u1, y1, z1) = foot, head
        du, dy = u1 - u0, y1 - y0
        length = math.hypot(du, dy) or 1.0
        nu, ny = dy / length * width / 2, -du / length * width / 2
        mu, my = nu * taper, ny * taper
        left, right = (LEFT, RIGHT) if nu >= 0 else (RIGHT, LEFT)
        a, d = (u0 - nu, y0 - ny, z0), (u1 - mu, y1 - my, z1)
        for reach, side in ((1.0, right), (0.15, left)):
            b = (u0 + nu * reach, y0 + ny * reach, z0)
            c = (u1 + mu * reach, y1 + my * reach, z1)
            self.face([a, b, c, d], colour, _between(side, FRONT))

    def sprite(
        self,
        bitmap: Bitmap,
        foot: Vector,
        size: tuple[float, float],
        *,
        tint: Sequence[float] = (1.0, 1.0, 1.0),
        flip: bool = False,
        emissive: bool = False,
    ) -> None:
        """An upright bitmap whose bottom centre stands at ``foot``; size = (width, height) in m."""
        u, y, z = foot
        w, h = size
        a, b = (u + w / 2, u - w / 2) if flip else (u - w / 2, u + w / 2)
        at = [self.camera.image(*p) for p in ((a, y + h, z), (b, y + h, z), (a, y, z))]
        target = (np.array(at) * self.side - 0.5).astype(np.float32)
        gain = (1.0, 1.0, 1.0) if emissive else self.light.gain(_SPRITE_NORMAL)
        table = _tint_table(gain, tint, self._haze, self.light.haze_colour)
        stroke = _place(bitmap, target, self.side, table)
        if stroke is not None:
            self.parts[-1].strokes.append(stroke)

    # -- shadows -------------------------------------------------------------------------------

    def shadow(self, points: Sequence[Vector]) -> None:
        """Shadow of the convex hull of these points on the ground."""
        sun = self.light.sun
        reach = min(1 / sun[1], LONGEST_SHADOW / math.hypot(sun[0], sun[2]))
        self._points += [
            (u - sun[0] * reach * y, 0.0, z - sun[2] * reach * y) for u, y, z in points
        ]
        self._pending.append((None, len(self._points)))

    def shadow_box(self, u: Span, y: Span, z: Span) -> None:
        self.shadow([(a, b, c) for a in u for b in y for c in z])

    def shadow_disc(self, centre: Vector, radius: float, squash: float = 1.0) -> None:
        """Shadow of a ball or, with ``squash``, of an upright ellipsoid."""
        u, y, z = centre
        a = [2 * math.pi * k / 14 for k in range(14)]
        ring = [(u + radius * math.cos(t), y, z + radius * math.sin(t)) for t in a]
        up = [(u + radius * math.cos(t), y + radius * squash * math.sin(t), z) for t in a]
        self.shadow(ring + up)

    def _push(self, points: Sequence[Vector], stroke: Polygon | Line) -> None:
        self._points.extend(points)
        self.parts[-1].strokes.append(stroke)
        self._pending.append((stroke, len(self._points)))

    def _place(self, pixels: np.ndarray) -> None:
        """Give strokes and shadows their pixels."""
        start = 0
        for stroke, stop in self._pending:
            if stroke is None:
                self.shadows.append(cv2.convexHull(pixels[start:stop]))
            else:
                stroke.points = pixels[start:stop]
            start = stop
        self._points, self._pending = [], []


def finish(sketches: Sequence[Sketch]) -> None:
    """Project all points of one scene's sketches at once, which is several times faster."""
    counts = [len(s._points) for s in sketches]
    if not any(counts):
        return
    points = [point for s in sketches for point in s._points]
    pixels = _pixels(points, sketches[0].camera, sketches[0].side)
    start = 0
    for sketch, count in zip(sketches, counts, strict=True):
        sketch._place(pixels[start : start + count])
        start += count


def _pixels(points: Sequence[Vector], camera: Camera, side: int) -> np.ndarray:
    """Pixels ``[N, 1, 2]`` of road coordinates, in 1/16."""
    flat = np.fromiter(chain.from_iterable(points), dtype=np.float64, count=3 * len(points))
    image = camera.project(flat.reshape(-1, 3)) * side - 0.5
    fixed = np.rint(image * 2**FRACTION_BITS)
    return np.minimum(np.maximum(fixed, -(2**18)), 2**18).astype(np.int32)[:, None, :]


_SPRITE_NORMAL: Vector = (0.0, 0.6, -0.8)


def _between(a: Vector, b: Vector) -> Vector:
    s = 0.7071
    return ((a[0] + b[0]) * s, (a[1] + b[1]) * s, (a[2] + b[2]) * s)


def _tint_table(
    gain: Colour, tint: Sequence[float], haze: float, haze_colour: Colour
) -> np.ndarray:
    """Look-up table ``[1, 256, 3]`` that lights, tints and veils a bitmap."""
    level = np.arange(256, dtype=np.float64)[:, None]
    lit = np.minimum(level * (np.array(gain) * np.array(tint)), 255)
    return np.rint(lit * (1 - haze) + np.array(haze_colour) * haze).astype(np.uint8)[None]


def _place(bitmap: Bitmap, target: np.ndarray, side: int, table: np.ndarray) -> Sprite | None:
    """Warp a bitmap so that its top-left, top-right and bottom-left corners meet ``target``."""
    (ax, ay), (bx, by), (cx, cy) = target.tolist()
    width, height = math.hypot(bx - ax, by - ay), math.hypot(cx - ax, cy - ay)
    level = 0
    last = len(bitmap.levels) - 1
    while level < last and bitmap.levels[level].shape[0] > 1.6 * height:
        level += 1
    source = bitmap.levels[level]
    h, w = source.shape[:2]
    if width < 1 or height < 1:
        return None
    xs, ys = (ax, bx, cx, bx + cx - ax), (ay, by, cy, by + cy - ay)
    x0, y0 = max(math.floor(min(xs)) - 1, 0), max(math.floor(min(ys)) - 1, 0)
    x1, y1 = min(math.ceil(max(xs)) + 2, side), min(math.ceil(max(ys)) + 2, side)
    if x1 <= x0 or y1 <= y0:
        return None
    origin = np.array([x0, y0], dtype=np.float32)
    start = np.array([[-0.5, -0.5], [w - 0.5, -0.5], [-0.5, h - 0.5]], dtype=np.float32)
    matrix = cv2.getAffineTransform(start, (target - origin).astype(np.float32))
    warped = cv2.warpAffine(
        source, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderValue=0
    )
    alpha = cv2.extractChannel(warped, 3)
    colour = cv2.LUT(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), table)
    return Sprite(x0, y0, colour, alpha)
