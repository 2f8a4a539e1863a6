"""Drawing functions of everything that can stand in a scene, registered by name."""

from geoscenes.layout import DRAWERS
from geoscenes.objects import (
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
