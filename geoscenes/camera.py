"""The view of a scene: a camera above the ground plane, and the light it stands in.

Road coordinates are metres: ``u`` to the right of the road's centre, ``y`` above the ground, ``z``
ahead of the camera. A gentle bend shifts ``u`` by ``curve * z**2``, so that everything placed along
the road follows it. Image coordinates are fractions of the image's side, y downwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

Colour = tuple[float, float, float]
Vector = tuple[float, float, float]
Span = tuple[float, float]  # from, to
NEAREST = 1.2  # metres; points closer than this are pushed out to it


@dataclass(frozen=True)
class Camera:
    """Pinhole camera with a shifted horizon (verticals stay vertical) and roll."""

    height: float
    lateral: float
    focal: float  # in image sides
    horizon: float  # fraction of the image height, from the top
    roll: float  # radians
    curve: float  # 1/m

    @staticmethod
    def draw(rng: np.random.Generator) -> Camera:
        return Camera(
            height=rng.uniform(1.7, 2.5),
            lateral=rng.uniform(-0.5, 0.5),
            focal=rng.uniform(0.74, 0.86),
            horizon=rng.uniform(0.46, 0.54),
            roll=math.radians(float(np.clip(rng.normal(0, 1.2), -3, 3))),
            curve=rng.uniform(-0.0016, 0.0016),
        )

    def offset(self, u: float, z: float) -> float:
        """Metres to the right of the optical axis."""
        return u - self.lateral + self.curve * z * z

    def project(self, points: np.ndarray) -> np.ndarray:
        """Road coordinates ``[N, 3]`` to image coordinates ``[N, 2]``."""
        return np.stack(
            self._image(points[:, 0], points[:, 1], np.maximum(points[:, 2], NEAREST)), 1
        )

    def image(self, u: float, y: float, z: float) -> tuple[float, float]:
        """Image coordinates of one point: the same numbers as :meth:`project`."""
        return self._image(u, y, max(z, NEAREST))

    def _image(self, u: Any, y: Any, z: Any) -> tuple[Any, Any]:
        x = self.focal * (u - self.lateral + self.curve * z * z) / z
        down = self.horizon - 0.5 + self.focal * (self.height - y) / z
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        return 0.5 + cos * x - sin * down, 0.5 + sin * x + cos * down

    def ground(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """``(u, z)`` of the ground seen by every pixel of a ``side``-pixel image; z = inf above.

        The arrays are shared: do not write into them.
        """
        return _ground(self, side)


@lru_cache(maxsize=2)
def _ground(camera: Camera, side: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side) - 0.5
    cos, sin = np.float32(math.cos(camera.roll)), np.float32(math.sin(camera.roll))
    x = cos * axis[None, :] + sin * axis[:, None]
    down = cos * axis[:, None] - sin * axis[None, :] - np.float32(camera.horizon - 0.5)
    z = np.full_like(x, np.inf)
    np.divide(np.float32(camera.focal * camera.height), down, out=z, where=down > 1e-3)
    near = np.minimum(z, 400)
    u = x * near / np.float32(camera.focal) + np.float32(camera.lateral)
    return u - np.float32(camera.curve) * near * near, z


@dataclass(frozen=True)
class Light:
    """Sun, sky light and haze."""

    sun: Vector  # unit vector towards the sun
    sun_colour: Colour  # multipliers of a surface that faces the sun
    ambient: Colour
    haze_colour: Colour  # 0..255
    zenith_colour: Colour
    haze_range: float  # metres after which 63 % is haze
    shadow: float  # 0..1, darkness of cast shadows
    _gains: dict[Vector, Colour] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def draw(rng: np.random.Generator) -> Light:
        overcast = float(rng.choice([0.0, 0.15, 0.45, 0.95], p=[0.42, 0.28, 0.16, 0.14]))
        elevation = math.radians(rng.uniform(13, 60))
        azimuth = rng.choice([-1, 1]) * math.radians(rng.uniform(95, 165))  # behind the camera
        sun = (
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
            math.cos(elevation) * math.cos(azimuth),
        )
        warmth = max(0.0, 1 - (elevation - math.radians(13)) / math.radians(32)) * (1 - overcast)
        strength = 0.72 * (1 - 0.88 * overcast)
        tint = np.array([1.06, 1.0, 0.92]) + warmth * np.array([0.08, -0.04, -0.2])
        ambient = (
            np.array([0.56, 0.595, 0.66]) + 0.3 * overcast + warmth * np.array([0.2, 0.15, 0.08])
        )
        clear = np.array([221, 231, 238]) + warmth * np.array([26, -6, -46])
        haze = (1 - overcast) * clear + overcast * np.array([216, 219, 223])
        blue = np.array([84, 148, 214]) + warmth * np.array([26, 2, -16])
        zenith = (1 - overcast) * blue + overcast * np.array([184, 191, 200])
        zenith = zenith * rng.uniform(0.92, 1.08)
        return Light(
            sun=sun,
            sun_colour=_triple(strength * tint),
            ambient=_triple(ambient),
            haze_colour=_triple(haze),
            zenith_colour=_triple(np.clip(zenith, 0, 255)),
            haze_range=float(np.exp(rng.uniform(math.log(110), math.log(420)))),
            shadow=0.5 * (1 - 0.8 * overcast),
        )

    def gain(self, normal: Vector) -> Colour:
        """Multipliers of a matt surface with this normal."""
        if normal not in self._gains:
            facing = max(0.0, sum(n * s for n, s in zip(normal, self.sun, strict=True)))
            a, s = self.ambient, self.sun_colour
            self._gains[normal] = (a[0] + s[0] * facing, a[1] + s[1] * facing, a[2] + s[2] * facing)
        return self._gains[normal]

    def haze(self, depth: float) -> float:
        """Share of haze in what is seen at ``depth`` metres."""
        return 1 - math.exp(-max(0.0, depth - 6) / self.haze_range)


def scaled(colour: Colour, k: float) -> Colour:
    """A darker or brighter shade."""
    return (colour[0] * k, colour[1] * k, colour[2] * k)


def _triple(values: np.ndarray) -> Colour:
    return (float(values[0]), float(values[1]), float(values[2]))
