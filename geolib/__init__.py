"""Object-level explanations for image geolocation models.

Every stage of the paper is a module of this package, in the order in which the data flow:
``data``, ``model``, ``attribution``, ``segmentation``, ``scoring``, ``ablation``, ``statistics``
and ``figures``. ``concepts``, ``partitioning`` and ``location`` hold the systems beside it,
``causal`` what scenes know of causes, ``humans`` a study with people;
``pipeline`` runs the flow over a dataset, ``run`` executes the notebooks and builds the book.
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
    "location",
    "causal",
    "humans",
    "pipeline",
    "results",
    "run",
)

__all__ = ["STAGES", "__version__"]


def __getattr__(name: str) -> ModuleType:
    if name in STAGES:
        return importlib.import_module(f"geolib.{name}")
    raise AttributeError(f"module 'geolib' has no attribute '{name}'; its stages are {STAGES}")


def __dir__() -> list[str]:
    return [*__all__, *STAGES]
