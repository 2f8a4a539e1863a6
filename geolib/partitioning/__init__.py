"""Cells of the earth as classes: distances, semantic and S2 partitionings, their ceilings."""

from geolib.partitioning.ceiling import ceiling_table, nearest_cell_km, own_cell_km
from geolib.partitioning.cells import UNASSIGNED, Partitioning
from geolib.partitioning.distance import (
    RADII_KM,
    geoguessr_score,
    geolocation_accuracy,
    great_circle_distance,
)
from geolib.partitioning.geocoding import OfflineGeocoder
from geolib.partitioning.s2 import S2Partitioning, matching_tau_max, s2_partitionings
from geolib.partitioning.semantic import (
    PAPER_PRESETS,
    Preset,
    SemanticPartitioning,
    semantic_partitionings,
)

__all__ = [
    "PAPER_PRESETS",
    "RADII_KM",
    "UNASSIGNED",
    "OfflineGeocoder",
    "Partitioning",
    "Preset",
    "S2Partitioning",
    "SemanticPartitioning",
    "ceiling_table",
    "geoguessr_score",
    "geolocation_accuracy",
    "great_circle_distance",
    "matching_tau_max",
    "nearest_cell_km",
    "own_cell_km",
    "s2_partitionings",
    "semantic_partitionings",
]
