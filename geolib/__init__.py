"""Object-level explanations for image geolocation models.

Every stage of the paper is a module of this package, in the order in which the data flow:
``data``, ``model``, ``attribution``, ``segmentation``, ``scoring``, ``ablation``, ``statistics``
and ``figures``. ``concepts`` and ``partitioning`` hold the systems beside it, ``pipeline`` runs
the flow over a dataset. ``chapters`` holds what single chapters of the book need; ``training``,
``download``, ``runtime`` and ``book`` move bytes and pages.
Stages are imported when first used, so that ``import geolib`` stays fast.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from types import ModuleType

__version__ = version("geolib")

STAGES = (
    "data",
    "model",
    "attribution",
    "segmentation",
    "scoring",
    "ablation",
    "statistics",
    "figures",
    "concepts",
    "partitioning",
    "pipeline",
)

__all__ = ["STAGES", "__version__"]


def __getattr__(name: str) -> ModuleType:
    if name in STAGES:
        return importlib.import_module(f"geolib.{name}")
    raise AttributeError(f"module 'geolib' has no attribute '{name}'; its stages are {STAGES}")


def __dir__() -> list[str]:
    return [*__all__, *STAGES]
