"""Cells of the earth as classes: distances, semantic and S2 partitionings, their ceilings."""

from geolib.partitioning.ceiling import ceiling_table, nearest_cell_km, own_cell_km
from geolib.partitioning.cells import UNASSIGNED, Partitioning, n_unique_classes
from geolib.partitioning.distance import (
    RADII_KM,
    geoguessr_score,
    geolocation_accuracy,
    great_circle_distance,
)
from geolib.partitioning.geocoding import Address, Geocoder, OfflineGeocoder
from geolib.partitioning.hierarchy import Hierarchy, build_hierarchy
from geolib.partitioning.nominatim import NominatimGeocoder
from geolib.partitioning.s2 import TAU_MAXS, S2Partitioning, matching_tau_max, s2_partitionings
from geolib.partitioning.semantic import (
    PAPER_PRESETS,
    Preset,
    SemanticPartitioning,
    from_addresses,
    semantic_partitionings,
)

__all__ = [
    "PAPER_PRESETS",
    "RADII_KM",
    "TAU_MAXS",
    "UNASSIGNED",
    "Address",
    "Geocoder",
    "Hierarchy",
    "NominatimGeocoder",
    "OfflineGeocoder",
    "Partitioning",
    "Preset",
    "S2Partitioning",
    "SemanticPartitioning",
    "build_hierarchy",
    "ceiling_table",
    "from_addresses",
    "geoguessr_score",
    "geolocation_accuracy",
    "great_circle_distance",
    "matching_tau_max",
    "n_unique_classes",
    "nearest_cell_km",
    "own_cell_km",
    "s2_partitionings",
    "semantic_partitionings",
]
