"""GeoScenes: procedural street scenes of which it is known what tells the country."""

from geolib.geoscenes.bayes import bayes_accuracy, posterior
from geolib.geoscenes.cues import COUNTRIES, CueKind, Look, table
from geolib.geoscenes.scene import MIN_PIXELS, Scene, SceneObject, gazetteer, render

__all__ = [
    "COUNTRIES",
    "MIN_PIXELS",
    "CueKind",
    "Look",
    "Scene",
    "SceneObject",
    "bayes_accuracy",
    "gazetteer",
    "posterior",
    "render",
    "table",
]
