"""Neutral objects: drawn from the same distribution in every country."""

from __future__ import annotations

import math

from geoscenes.camera import scaled
from geoscenes.canvas import GROUND, SKY, TOP, Sketch
from geoscenes.layout import Place, register
from geoscenes.objects.plants import tree
from geoscenes.sprites import VARIANTS, bitmap


@register("mountain")
def mountain(s: Sketch, place: Place) -> None:
    """One or two ridges on the horizon."""
    for depth, tall in ((900.0, 150.0), (500.0, 60.0)):
        s.part(min(depth, 1.3 * s.light.haze_range), SKY)
        phase = s.rng.uniform(0, 2 * math.pi, 4)
        reach = depth * 0.85
        base = -s.camera.curve * depth**2
        waves = list(zip((2.1, 4.3, 9.7, 21.0), phase, strict=True))
        crest = []
        for k in range(41):
            t = k / 40 * 2 - 1
            y = sum(math.sin(t * f + p) / f for f, p in waves)
            crest.append((t * reach + base, tall * (0.55 + 0.5 * y), depth))
        s.face([(base - reach, -8, depth), *crest, (base + reach, -8, depth)], (84, 102, 92))


@register("cloud")
def cloud(s: Sketch, place: Place) -> None:
    z = place.z
    s.part(z, SKY)
    s.veil(60)
    u = s.rng.uniform(-0.7, 0.7) * z - s.camera.curve * z**2
    width = s.rng.uniform(0.3, 0.75) * z
    sprite = bitmap("cloud", int(s.rng.integers(VARIANTS)))
    y = s.rng.uniform(0.12, 0.55) * z
    bright = 0.76 + 0.48 * s.light.shadow  # grey where no sun comes through
    tint = (bright, bright, bright)
    size = (width, width / 2.6)
    s.sprite(sprite, (u, y, z), size, tint=tint, emissive=True, flip=s.light.sun[0] > 0)


@register("treeline")
def treeline(s: Sketch, place: Place) -> None:
    """A distant belt of trees on one side of the road, and a farther one behind it."""
    for z, reach in ((place.z + 70, 10.0), (place.z, 0.0)):
        s.part(z, SKY)
        height = s.rng.uniform(6.5, 10.5)
        width = 5.0 * height
        u = place.u + place.side * (width / 2 - reach) + s.rng.uniform(0, 6) * place.side
        tint = (1.0 + 0.06 * s.rng.normal(), 1.0, 0.96)
        sprite = bitmap("belt", int(s.rng.integers(VARIANTS)))
        s.sprite(sprite, (u, -0.3, z), (width, height), tint=tint, flip=s.light.sun[0] > 0)


@register("broadleaf_tree")
def broadleaf(s: Sketch, place: Place) -> None:
    tree(s, "broadleaf", place.u, place.z, s.rng.uniform(5.0, 7.5))


@register("bush")
def bush(s: Sketch, place: Place) -> None:
    for _ in range(1 + int(s.rng.integers(3))):
        z = place.z + s.rng.uniform(0, 2)
        tree(s, "bush", place.u + place.side * s.rng.uniform(0, 1.2), z, s.rng.uniform(0.9, 1.5))


@register("hedge")
def hedge(s: Sketch, place: Place) -> None:
    height = s.rng.uniform(1.0, 1.5)
    for k in reversed(range(7)):
        tree(s, "bush", place.u, place.z + 1.1 * k, height, spread=1.1)


@register("fence")
def fence(s: Sketch, place: Place) -> None:
    colour = s.one(((150, 122, 92), (196, 192, 184), (112, 116, 112)))
    u, gap = place.u, 1.6
    for k in reversed(range(9)):
        z = place.z + gap * k
        s.part(z)
        s.shadow_box((u - 0.04, u + 0.04), (0, 1.0), (z, z + 0.1))
        for y in (0.35, 0.8):
            s.wall(u, (y, y + 0.14), (z, z + gap), colour, (-place.side, 0, 0))
        s.box((u - 0.06, u + 0.06), (0, 1.05), (z, z + 0.12), colour)


@register("lamp_post")
def lamp(s: Sketch, place: Place) -> None:
    u, z, top = place.u, place.z, s.rng.uniform(5.5, 7.0)
    colour = s.one(((122, 128, 130), (70, 78, 76)))
    s.part(z)
    s.shadow([(u - 0.08, 0, z), (u + 0.08, 0, z), (u, top, z)])
    s.rod((u, 0, z), (u, top, z), 0.18, colour, 0.6)
    reach = -place.side * 1.5
    s.wire([(u, top, z), (u + 0.4 * reach, top + 0.3, z), (u + reach, top + 0.35, z)], colour, 0.09)
    a, b = sorted((u + reach * 0.8, u + reach * 1.25))
    s.quad((a, b), (top + 0.24, top + 0.38), z, (206, 208, 204))


@register("bench")
def bench(s: Sketch, place: Place) -> None:
    u, z = place.u, place.z
    wood = s.one(((150, 108, 70), (104, 116, 96), (128, 92, 66)))
    s.part(z)
    s.shadow_box((u - 0.85, u + 0.85), (0, 0.8), (z, z + 0.5))
    for x in (-0.7, 0.65):
        s.box((u + x, u + x + 0.07), (0, 0.42), (z, z + 0.45), (70, 72, 74))
    s.box((u - 0.85, u + 0.85), (0.62, 0.84), (z + 0.45, z + 0.5), wood)
    s.box((u - 0.85, u + 0.85), (0.4, 0.47), (z, z + 0.45), wood)


@register("bin")
def bin_(s: Sketch, place: Place) -> None:
    u, z = place.u, place.z
    colour = s.one(((74, 88, 78), (96, 98, 102), (66, 74, 92)))
    s.part(z)
    s.shadow_box((u - 0.26, u + 0.26), (0, 0.9), (z, z + 0.5))
    s.rod((u, 0.02, z), (u, 0.86, z), 0.54, colour, 1.12)
    s.disc((u, 0.88, z), 0.31, scaled(colour, 0.7), squash=0.26)


@register("rock")
def rock(s: Sketch, place: Place) -> None:
    u, z, r = place.u, place.z, s.rng.uniform(0.35, 0.65)
    s.part(z)
    s.shadow_disc((u, r * 0.4, z), r * 0.9, 0.5)
    angles = [k * math.pi / 7 for k in range(8)]
    rim = [r * s.rng.uniform(0.8, 1.08) for _ in angles]
    outline = [(q * 1.2 * math.cos(a), q * math.sin(a)) for q, a in zip(rim, angles, strict=True)]
    s.board(u, z, outline, (138, 132, 122))
    s.board(u, z, [*outline[2:7], (-0.1 * r, 0.35 * r)], (150, 144, 134), TOP)


@register("traffic_cone")
def cone(s: Sketch, place: Place) -> None:
    u, z = place.u, place.z
    s.part(z)
    s.shadow([(u - 0.24, 0, z), (u + 0.24, 0, z), (u, 0.75, z), (u, 0, z + 0.3)])
    s.box((u - 0.25, u + 0.25), (0, 0.05), (z - 0.2, z + 0.2), (60, 58, 58))
    s.rod((u, 0.05, z), (u, 0.76, z), 0.4, (226, 88, 44), 0.2)
    s.rod((u, 0.3, z - 0.01), (u, 0.46, z - 0.01), 0.29, (238, 236, 230), 0.8)


@register("manhole")
def manhole(s: Sketch, place: Place) -> None:
    u, z = place.u, place.z
    s.part(z, GROUND)
    s.disc((u, 0, z), 0.4, (78, 77, 76), normal=TOP)
    s.disc((u, 0, z), 0.35, (122, 120, 117), normal=TOP)
    for k in range(-2, 3):
        half = 0.3 - 0.05 * abs(k)
        s.flat((u - half, u + half), (z + 0.12 * k - 0.025, z + 0.12 * k + 0.025), (88, 87, 86))


@register("puddle")
def puddle(s: Sketch, place: Place) -> None:
    """A film of water on the asphalt, with some of the sky in it."""
    s.part(place.z, GROUND)
    wide = s.rng.uniform(0.45, 0.8)
    phase = s.rng.uniform(0, 2 * math.pi, 3)
    ring = []
    for k in range(30):
        t = k * math.pi / 15
        q = 1.1 * (1 + sum(0.08 * math.sin((n + 2) * t + p) for n, p in enumerate(phase)))
        ring.append((place.u + wide * q * math.cos(t), 0.0, place.z + 0.9 * q * math.sin(t)))
    s.film(ring, s.reflection(0.85), TOP, 0.42)
