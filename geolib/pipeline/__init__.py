"""The flow of images through attribution, segmentation, scoring and both tests."""

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
