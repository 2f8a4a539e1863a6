"""The flow over a dataset, and over one photograph.

``evaluate`` streams a dataset through attribution, segmentation, scoring and both tests;
``elements`` gives the object-like elements behind its numbers; ``tune`` chooses the two
thresholds that the paper leaves to a validation set; ``explain`` takes a single photograph.
"""

from __future__ import annotations

from geolib.pipeline.evaluate import (
    MAX_COVERAGE,
    Tuned,
    concat,
    elements,
    evaluate,
    extract,
    maps,
    tune,
)
from geolib.pipeline.explain import SYNTHETIC_NOTE, Explanation, explain, explain_all
from geolib.pipeline.export import export
from geolib.pipeline.shards import EvaluationConfig

__all__ = [
    "MAX_COVERAGE",
    "SYNTHETIC_NOTE",
    "EvaluationConfig",
    "Explanation",
    "Tuned",
    "concat",
    "elements",
    "evaluate",
    "explain",
    "explain_all",
    "export",
    "extract",
    "maps",
    "tune",
]
