"""The flow of images through attribution, segmentation, scoring and both tests."""

from __future__ import annotations

from geolib.pipeline.evaluate import (
    concat,
    elements,
    evaluate,
    extract,
    maps,
)
from geolib.pipeline.explain import (
    SYNTHETIC_NOTE,
    Explanation,
    explain,
    explain_all,
    photographs,
)
from geolib.pipeline.export import export
from geolib.pipeline.shards import EvaluationConfig
from geolib.pipeline.thresholds import MAX_COVERAGE, Tuned, as_given, by_coverage, tune

__all__ = [
    "MAX_COVERAGE",
    "SYNTHETIC_NOTE",
    "EvaluationConfig",
    "Explanation",
    "Tuned",
    "as_given",
    "by_coverage",
    "concat",
    "elements",
    "evaluate",
    "explain",
    "explain_all",
    "export",
    "extract",
    "maps",
    "photographs",
    "tune",
]
