"""Drawing functions of everything that can stand in a scene, registered by name."""

from geolib.geoscenes.layout import DRAWERS
from geolib.geoscenes.objects import (
    buildings,
    markings,
    nature,
    plants,
    regional,
    relief,
    roadside,
    signs,
    vehicles,
)

__all__ = [
    "DRAWERS",
    "buildings",
    "markings",
    "nature",
    "plants",
    "regional",
    "relief",
    "roadside",
    "signs",
    "vehicles",
]
