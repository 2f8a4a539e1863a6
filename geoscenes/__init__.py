"""GeoScenes: procedural street scenes of which it is known what tells the country."""

from geoscenes.bayes import bayes_accuracy, best_guess, posterior, zone_posterior
from geoscenes.cues import COUNTRIES, CueKind, Look, Zone, table, zone_of, zones
from geoscenes.scene import MIN_PIXELS, Scene, SceneObject, gazetteer, render

__all__ = [
    "COUNTRIES",
    "MIN_PIXELS",
    "CueKind",
    "Look",
    "Scene",
    "SceneObject",
    "Zone",
    "bayes_accuracy",
    "best_guess",
    "gazetteer",
    "posterior",
    "render",
    "table",
    "zone_of",
    "zone_posterior",
    "zones",
]
