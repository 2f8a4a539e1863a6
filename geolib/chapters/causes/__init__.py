"""Causal effect of every object of a scene, and whether explanations find the causes.

Photographs cannot tell what a prediction rests on. Scenes can: any of their objects can be left
out, or take another country's look, with everything else equal to the pixel.
"""

from geolib.chapters.causes.effects import COLUMNS, WITHOUT, counterfactuals, scene_effects
from geolib.chapters.causes.marks import (
    CAUSAL,
    FOUND_AT,
    MEASURES,
    SCORES,
    Objects,
    by_category,
    compare,
    effects,
    lies_on,
    mark,
    mark_map,
    marks,
    object_effects,
    rank_correlation,
)

__all__ = [
    "CAUSAL",
    "COLUMNS",
    "FOUND_AT",
    "MEASURES",
    "SCORES",
    "WITHOUT",
    "Objects",
    "by_category",
    "compare",
    "counterfactuals",
    "effects",
    "lies_on",
    "mark",
    "mark_map",
    "marks",
    "object_effects",
    "rank_correlation",
    "scene_effects",
]
