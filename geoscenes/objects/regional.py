"""Cues that differ by colours and measures: houses, soils and crops."""

from __future__ import annotations

from functools import partial

import cv2

from geoscenes.camera import Colour, Span
from geoscenes.canvas import GROUND, SUPERSAMPLING, TOP, Sketch, Sprite
from geoscenes.ground import Tilth, patch
from geoscenes.layout import Place, register
from geoscenes.objects.buildings import Flat, Gabled, Hipped, flat_roofed, gabled, hipped, row

# -- houses ----------------------------------------------------------------------------------------

SLATE: Colour = (74, 80, 94)
CANAL: Colour = (206, 128, 84)
WHITE: Colour = (242, 240, 232)
BRICK: tuple[Colour, ...] = ((158, 74, 58), (146, 66, 54), (168, 84, 62))

GABLED = {
    "tiles_and_shutters": Gabled(
        walls=((232, 218, 190), (238, 230, 214), (224, 196, 160), (214, 204, 186)),
        roofs=((192, 104, 66),),
        shutters=((72, 112, 150), (70, 110, 86), (130, 52, 52), (140, 152, 160), (108, 84, 64)),
    ),
    "granite_and_slate": Gabled(
        walls=((152, 146, 138), (138, 134, 130)), roofs=(SLATE,), trim=(196, 190, 178)
    ),
    "tuffeau_and_slate": Gabled(
        walls=((246, 240, 220), (240, 232, 206)), roofs=(SLATE,), shutters=((222, 224, 220),)
    ),
    "red_brick": Gabled(walls=BRICK, roofs=((150, 66, 48), (112, 62, 52)), trim=WHITE),
    "brown_timber_frame": Gabled(
        walls=((240, 232, 210),), roofs=((112, 92, 74),), rise=(3.0, 3.6), timber=(84, 58, 42)
    ),
    "coloured_timber_frame": Gabled(
        walls=((232, 174, 84), (212, 110, 90), (110, 150, 176), (148, 170, 104)),
        roofs=((138, 72, 52),),
        rise=(3.4, 4.0),
        timber=(76, 50, 38),
    ),
    "ochre_canal_tiles": Gabled(
        walls=((228, 160, 86), (218, 138, 74), (236, 180, 108)),
        roofs=(CANAL,),
        shutters=((130, 150, 196), (112, 158, 168)),
        rise=(1.1, 1.5),
    ),
    "pink_brick_canal_tiles": Gabled(
        walls=((214, 128, 104), (204, 116, 96)),
        roofs=((214, 122, 92),),
        rise=(1.1, 1.5),
        trim=(236, 214, 190),
    ),
    "pale_stone_canal_tiles": Gabled(
        walls=((240, 226, 188), (234, 218, 176)),
        roofs=(CANAL,),
        rise=(1.1, 1.5),
        shutters=((240, 240, 236), (160, 196, 204)),
    ),
    "stone_and_brown_tiles": Gabled(
        walls=((206, 184, 142), (194, 172, 134)),
        roofs=((116, 74, 54),),
        rise=(3.0, 3.6),
        shutters=((120, 60, 52), (96, 84, 72)),
    ),
    "chalet": Gabled(
        walls=((236, 232, 224),), roofs=((116, 116, 118),), rise=(2.2, 2.6), boards=(132, 84, 52)
    ),
    "laterite_tile_roof": Gabled(
        walls=((240, 236, 222), (236, 222, 190), (178, 98, 70)),
        roofs=((170, 70, 44),),
        rise=(2.2, 2.8),
    ),
    "assam_type": Gabled(
        walls=((246, 244, 236),),
        roofs=((172, 52, 44), (52, 118, 86)),
        rise=(1.8, 2.2),
        timber=(52, 44, 40),
    ),
    "stone_and_green_roof": Gabled(
        walls=((170, 162, 148), (236, 234, 224)),
        roofs=((58, 128, 96), (60, 136, 120)),
        rise=(2.4, 3.0),
        trim=(110, 150, 134),
    ),
    "coloured_steel_roof": Gabled(
        walls=((236, 232, 220), (214, 206, 190), (178, 190, 198)),
        roofs=((44, 92, 168), (184, 44, 40), (40, 124, 84)),
        rise=(2.8, 3.6),
    ),
    "siding_and_slate": Gabled(
        walls=((206, 190, 168), (190, 174, 160), (226, 224, 220)),
        roofs=((92, 82, 78), (84, 78, 74)),
        rise=(1.3, 1.7),
        trim=(150, 128, 108),
    ),
}
_PLASTER: tuple[Colour, ...] = ((232, 176, 150), (150, 202, 196), (242, 214, 130))
_PLASTER += ((226, 166, 176), (172, 200, 226), (236, 226, 204))
FLAT = {
    "flat_roof_tank": Flat(walls=_PLASTER),
    "pink_sandstone": Flat(
        walls=((214, 130, 98), (222, 146, 110), (206, 118, 92)), trims=((246, 226, 200),)
    ),
    "bare_brick": Flat(walls=BRICK, trims=((206, 196, 180),)),
    "bright_paint": Flat(
        walls=((38, 170, 176), (238, 90, 120), (148, 88, 178), (250, 172, 40), (108, 190, 76)),
        trims=((252, 232, 80), (250, 250, 246), (232, 72, 62)),
    ),
    "whitewash": Flat(
        walls=((246, 244, 236), (238, 236, 230)), trims=((186, 178, 166), (150, 176, 190))
    ),
    "blue_wash": Flat(walls=((104, 150, 212), (122, 164, 220)), trims=((240, 242, 244),)),
    "grey_stone": Flat(walls=((140, 134, 128), (126, 122, 120)), trims=((196, 188, 176),)),
}
HIPPED = {
    "kawara_hip_roof": Hipped(
        walls=((226, 220, 206), (204, 196, 178), (232, 230, 224), (190, 176, 152)),
        roofs=((70, 80, 98), (82, 84, 88), (58, 74, 104), (98, 74, 62)),
    ),
    "black_tiles": Hipped(
        walls=((238, 234, 224), (222, 208, 178)), roofs=((46, 48, 52),), wood=(62, 46, 38)
    ),
    "red_brown_tiles": Hipped(
        walls=((232, 226, 210), (214, 204, 184)), roofs=((158, 68, 40), (172, 78, 46))
    ),
    "silver_tiles": Hipped(
        walls=((226, 214, 190), (206, 188, 158)), roofs=((142, 150, 158), (150, 156, 160))
    ),
    "black_glazed_tiles": Hipped(
        walls=((184, 150, 116), (172, 136, 102)), roofs=((34, 40, 56),), wood=(92, 60, 40)
    ),
    "charred_boards": Hipped(walls=((62, 56, 54), (72, 66, 62)), roofs=((150, 154, 158),)),
}


for _name, _gabled in GABLED.items():
    register(f"house/{_name}")(partial(row, build=partial(gabled, style=_gabled)))
for _name, _flat in FLAT.items():
    register(f"house/{_name}")(partial(row, build=partial(flat_roofed, style=_flat)))
for _name, _hipped in HIPPED.items():
    register(f"house/{_name}")(partial(row, build=partial(hipped, style=_hipped)))

# -- soil and fields -------------------------------------------------------------------------------

SOILS = {
    "red_laterite": Tilth((178, 84, 52), texture="gravel", contrast=0.2),
    "sand": Tilth((226, 190, 132), texture="gravel"),
    "black_cotton_soil": Tilth((62, 56, 54), texture="gravel"),
    "snow": Tilth((238, 243, 250), contrast=0.07),
    "yellow_granite_sand": Tilth((214, 172, 92), texture="gravel"),
    "dark_loam": Tilth((88, 66, 50), texture="gravel"),
    "white_limestone": Tilth((222, 214, 196), texture="gravel", contrast=0.2),
}
FIELDS = {
    "wheat": Tilth((206, 172, 92), crop=(226, 190, 96), height=0.8),
    "yellow_flowers": Tilth((96, 120, 50), crop=(130, 140, 50), flowers=(250, 220, 40), height=0.9),
    "sunflowers": Tilth(
        (92, 80, 52), crop=(74, 112, 48), row=1.6, flowers=(250, 192, 30), height=1.3
    ),
    "lavender": Tilth((186, 160, 124), crop=(126, 92, 178), row=2.0, height=0.5),
    "vineyard": Tilth((170, 142, 104), crop=(92, 130, 52), row=2.2, height=1.3),
    "paddy": Tilth((128, 150, 150), crop=(124, 190, 62), row=0.7),
    "tea": Tilth((92, 78, 56), crop=(52, 124, 50), row=1.9, height=0.9),
    "sugar_cane": Tilth((110, 96, 60), crop=(150, 186, 88), row=1.6, height=1.9),
    "cotton": Tilth((86, 72, 58), crop=(78, 106, 56), row=1.4, flowers=(250, 250, 246)),
    "cabbages": Tilth((104, 80, 58), crop=(134, 178, 148), row=1.1),
    "meadow": Tilth((78, 140, 50), crop=(82, 150, 52)),
    "bare_furrows": Tilth((150, 112, 78), crop=(118, 84, 58), row=1.2),
}


def _ground(s: Sketch, place: Place, width: float, along: Span, tilth: Tilth, side: int) -> None:
    """A textured patch of ground beyond ``place.u``, ``width`` metres away from the road."""
    inner = place.u if side == place.side else -place.u
    low, high = sorted((inner, inner + side * width))
    pixels = s.side // SUPERSAMPLING
    found = patch(s.camera, s.light, place.street, pixels, (low, high), along, tilth)
    if found is not None:
        x, y, colour, alpha = found
        k = SUPERSAMPLING
        size = (colour.shape[1] * k, colour.shape[0] * k)
        large = [cv2.resize(a, size, interpolation=cv2.INTER_NEAREST) for a in (colour, alpha)]
        s.parts[-1].strokes.append(Sprite(k * x, k * y, large[0], large[1]))


def _soil(s: Sketch, place: Place, tilth: Tilth) -> None:
    """Both verges, the wide one round the houses."""
    s.part(95.0, GROUND)
    _ground(s, place, 12.0, (1.5, 45.0), tilth, place.side)
    _ground(s, place, place.street.pavement, (1.5, 45.0), tilth, -place.side)


def _field(s: Sketch, place: Place, tilth: Tilth) -> None:
    """A field along the road; a tall crop stands in rows."""
    s.part(90.0, GROUND)
    along = (3.0, 48.0)
    _ground(s, place, 20.0, along, tilth, place.side)
    if tilth.crop is not None and tilth.height:
        for near, far in ((16.0, along[1]), (along[0], 16.0)):
            s.veil(1.4 * near)
            for k in reversed(range(9 if tilth.row else 1)):
                _crop_row(s, place, 0.3 + tilth.row * k, (near, far), tilth.crop, tilth)


def _crop_row(
    s: Sketch, place: Place, beyond: float, z: tuple[float, float], crop: Colour, tilth: Tilth
) -> None:
    """One row: its side towards the road, its top, and flowers on it."""
    side, tall, wide = place.side, tilth.height, 0.55 * tilth.row or 0.8
    inner = place.u + side * beyond
    outer = inner + side * wide
    steps = [z[0] * (z[1] / z[0]) ** (k / 6) for k in range(7)]
    dark = (crop[0] * 0.84, crop[1] * 0.84, crop[2] * 0.8)
    foot = [(inner, 0.08, k) for k in steps]
    head = [(inner + side * 0.12 * wide, tall, k) for k in steps]
    back = [(outer, tall, k) for k in reversed(steps)]
    s.face([(inner, 0.0, z[0]), (inner, tall, z[0]), (outer, tall, z[0]), (outer, 0.0, z[0])], dark)
    s.face(foot + head[::-1], dark, (-float(side), 0.0, 0.0))
    if tall < s.camera.height:
        s.face(head + back, tilth.flowers or crop, TOP)


for _name, _tilth in SOILS.items():
    register(f"soil/{_name}")(partial(_soil, tilth=_tilth))
for _name, _tilth in FIELDS.items():
    register(f"field/{_name}")(partial(_field, tilth=_tilth))
