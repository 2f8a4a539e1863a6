"""Drawing functions of everything that can stand in a scene, registered by name."""

from geolib.geoscenes.objects import (
    buildings,
    markings,
    nature,
    plants,
    roadside,
    signs,
    vehicles,
)

__all__ = ["buildings", "markings", "nature", "plants", "roadside", "signs", "vehicles"]
