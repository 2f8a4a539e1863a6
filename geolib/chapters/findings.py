"""What the chapters on the object-level paper find of its claims (§4 and §5 of arXiv 2605.00912),
for :mod:`geolib.book.claims`; None where a run cannot measure a claim, for want of a segmenter or
of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pandas.io.formats.style import Styler
from scipy import stats

from geolib import statistics
from geolib.book import claims
from geolib.book.claims import Finding
from geolib.chapters import elements as elements_
from geolib.chapters import tables
from geolib.pipeline.shards import Extracted
from geolib.statistics import Paired

TESTS = ("deletion", "insertion")
# The paper's attribution methods and segmenters.
METHODS = ("gradcam", "gradcam++", "smoothgrad", "scorecam")
SEGMENTERS = ("mobilesam", "sam2", "sam3")
# Maps and segments that are there for comparison: what holds for them says nothing of the paper.
CONTROLS = ("edges", "random")
YARDSTICKS = ("grid", "none", "truth")
# Fewer segmenters than this have no correlation to speak of.
MIN_SEGMENTERS = 5

Found = dict[str, Finding | None]
Pick = Callable[[Iterable[float]], float]


def dataset_name(dataset: str) -> str:
    """What images of a dataset are called in findings."""
    names = {"geoscenes": claims.SYNTHETIC, "osv5m": "OSV-5M"}
    return names.get(dataset, "photographs of a folder")


def only_these(segmenters: Iterable[str]) -> str:
    """Which segmenters a finding speaks of: its interval is not over segmenters."""
    names = list(segmenters)
    note = "; yardsticks included" if set(names) & set(YARDSTICKS) else ""
    return f"these segmenters only: {'; '.join(names)}{note}"


def table(found: Mapping[str, Finding | None]) -> Styler:
    """Record findings and show them beside the claims; see :func:`geolib.book.claims.record`."""
    rows = claims.record(found)
    rows["measured"] = [_measured(*both) for both in zip(found.values(), rows["unit"], strict=True)]
    columns = {"rule": "agrees if"}
    shown = rows[["claim", "measured", "detectable", "rule", "data", "verdict"]]
    return shown.rename(columns=columns).style.format({"detectable": "{:.2f}"}, na_rep="–").hide()


def _measured(finding: Finding | None, unit: str) -> str:
    if finding is None:
        return tables.UNDEFINED
    ends = finding.value, finding.low, finding.high
    form = ".1f" if max(map(abs, ends)) >= 10 else ".3f"
    return f"{tables.cell(*ends, form)} {unit}"


def mean(differences: ArrayLike, data: str) -> Finding | None:
    """Mean difference over images; None for fewer than two, which have no interval."""
    return _least_favourable([statistics.paired(differences)], min, data)


def over_images(
    statistic: Callable[[np.ndarray], float], n: int, data: str, seed: int = 0
) -> Finding | None:
    """A statistic of positions of ``n`` images with its 95 % bootstrap interval over them; None for
    fewer than two images, or where some samples of them leave the statistic undefined."""
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"vectorized": False, "n_resamples": 1999, "method": "percentile"}
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(np.arange(n)))
        if not np.isfinite(value):
            return None
        found = stats.bootstrap((np.arange(n),), statistic, rng=rng, **options)
    low, high = found.confidence_interval
    if not np.isfinite([low, high]).all():
        return None
    return Finding(value=value, low=low, high=high, n=n, data=f"{data}, {n} images")


def accuracies(measured: Mapping[str, Mapping[str, float]], dataset: str) -> Found:
    """The classifier's accuracies, in per cent (§4): ``measured`` has ``value``, ``low`` and
    ``high`` in 0…1, and ``n_images``, of "train", "test" and "pipeline"."""
    return {
        f"object-accuracy-{name}": Finding(
            **{key: 100 * float(row[key]) for key in ("value", "low", "high")},
            n=int(row["n_images"]),
            data=f"{dataset}, {int(row['n_images'])} images",
        )
        for name, row in measured.items()
    }


def segments(found: Mapping[str, Sequence[Extracted]], dataset: str) -> Found:
    """SAM 2 and SAM 3 against the other segmenters of the paper, image by image (§5, Figure 3)."""
    names = [name for name in SEGMENTERS if name in found]
    counts = pd.DataFrame({n: [len(one.segments) for one in found[n]] for n in names}, dtype=float)
    covers = pd.DataFrame({n: [one.elements.coverage for one in found[n]] for n in names})
    return {
        "object-sam2-few": _apart(counts, "sam2", max, dataset),
        "object-sam2-coverage": _apart(covers, "sam2", max, dataset),
        "object-sam3-many": _apart(counts, "sam3", min, dataset),
        "object-sam3-coverage": _apart(covers, "sam3", min, dataset),
    }


def element_kinds(extracted: Sequence[Extracted]) -> pd.DataFrame:
    """Share of a scene's elements of each ``kind`` of :func:`.elements.mark_elements`, and of those
    that overlap another: ``value``, ``low`` and ``high``."""
    found = _kinds(
        [elements_.mark_elements(one) for one in extracted if len(one.elements)], "scenes"
    )
    rows = [{"kind": kind, **one.model_dump()} for kind, one in found.items() if one is not None]
    return pd.DataFrame(rows, columns=["kind", "value", "low", "high"])


def _kinds(marked: Sequence[pd.DataFrame], data: str) -> Found:
    hits = {k: np.array([(one["kind"] == k).sum() for one in marked]) for k in elements_.KINDS}
    hits["overlapping another"] = np.array([one["overlapping"].sum() for one in marked])
    total = np.array([len(one) for one in marked])

    def share(hit: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda chosen: hit[chosen].sum() / total[chosen].sum()

    return {kind: over_images(share(hit), len(total), data) for kind, hit in hits.items()}


def elements(extracted: Sequence[Extracted], dataset: str) -> Found:
    """Whether elements are diverse, overlap, are parts of larger things, or shapeless, and heat
    maps diffuse (abstract and §5); None for photographs, of which no outlines are known."""
    marked = []
    if elements_.has_truth(extracted):
        marked = [elements_.mark_elements(one) for one in extracted if len(one.elements)]
    if not marked:
        names = ("overlap", "part", "shapeless", "diverse", "diffuse")
        return dict.fromkeys(f"object-{name}" for name in names)
    data = f"{dataset}, {sum(map(len, marked))} elements"
    kinds = _kinds(marked, data)
    shown = [Counter(one["category"].dropna()) for one in marked]
    categories = pd.DataFrame([seen for seen in shown if seen]).fillna(0).to_numpy()

    match = elements_.spread(extracted)["match"].to_numpy()

    def commonest(chosen: np.ndarray) -> float:
        sums = categories[chosen].sum(0)
        return sums.max() / sums.sum()

    return {
        "object-overlap": kinds["overlapping another"],
        "object-part": kinds["part"],
        "object-shapeless": kinds["shapeless"],
        "object-diverse": over_images(commonest, len(categories), data),
        "object-diffuse": over_images(lambda chosen: match[chosen].mean(), len(match), dataset),
    }


def faithfulness(
    outcomes: pd.DataFrame, chosen: pd.DataFrame, attribution: str, segmenter: str, dataset: str
) -> Found:
    """Guided against random boxes, and what segmenters have to do with it (§5, Figures 2 and 3),
    from ``outcomes`` of every method at ``segmenter`` and of every segmenter at ``attribution``;
    ``chosen`` are of that pair, of all images."""
    with_map, with_pair = f"{dataset}, {attribution}", f"{dataset}, {attribution} with {segmenter}"
    compared = _advantages(outcomes)
    found: Found = {}
    for test in TESTS:
        found[f"object-{test}-configurations"] = _weakest(compared, test, dataset)
        for method in METHODS:
            rows = compared.get((test, method, segmenter))
            name = f"object-{test}-{method.replace('+', 'p')}"
            found[name] = _advantage(rows, f"{dataset}, {segmenter}")
        for name in SEGMENTERS:
            rows = compared.get((test, attribution, name))
            found[f"object-{test}-{name}"] = _advantage(rows, with_map)
        covers, effects = _coverage_and_effect(outcomes, attribution, test)
        found[f"object-coverage-{test}"] = _correlation(covers, effects, with_map)
        found[f"object-sam3-{test}-best"] = _apart(effects, "sam3", min, with_map)
        if test == "deletion":  # of SAM 2 in the insertion test the paper says nothing
            found["object-sam2-deletion-worst"] = _apart(effects, "sam2", max, with_map)
    # Accuracy when only the guided boxes are shown, less that on the whole image.
    parts = ("test == 'insertion' and region == 'guided'", "test == 'original'")
    correct = [chosen.query(part).set_index("image_id")["correct"].astype(float) for part in parts]
    found["object-keeps-information"] = mean((correct[0] - correct[1]).dropna(), with_pair)
    return found


def _advantages(outcomes: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    """Advantages of guided boxes, a row per image, for each test, method and segmenter."""
    pair = ["attribution", "segmenter"]
    return dict(list(statistics.advantages(outcomes, pair).groupby(["test", *pair])))


def _advantage(rows: pd.DataFrame | None, data: str) -> Finding | None:
    """Mean advantage; images without an element stay in, with the advantage zero."""
    if rows is None:
        return None
    data = f"{data}, no element in {_empty(rows):.0%} of the images"
    return _least_favourable([statistics.against_layouts(rows["layouts"])], min, data)


def _empty(rows: pd.DataFrame) -> float:
    """Share of the images of which no element was kept."""
    return float((rows["n_elements"] == 0).mean())


def _apart(table: pd.DataFrame, name: str, least: Pick, data: str) -> Finding | None:
    """How far a segmenter's mean lies from that of each other one of the paper, at least; ``least``
    is ``min`` where a claim says that it lies above them, ``max`` where below."""
    if not set(SEGMENTERS) <= set(table):
        return None
    others = [table[name] - table[other] for other in SEGMENTERS if other != name]
    return _least_favourable([*map(statistics.paired, others)], least, data)


def _least_favourable(found: Sequence[Paired], least: Pick, data: str) -> Finding | None:
    """Intersection-union: what holds for each of several comparisons holds for the least one."""
    n = min((one.n_images for one in found), default=0)
    if n < 2:
        return None
    value, low, high, _, detectable, _ = zip(*found, strict=True)
    ends = {"value": least(value), "low": least(low), "high": least(high)}
    shown = max(detectable) if np.isfinite(detectable).all() else None
    return Finding(**ends, detectable=shown, n=n, data=f"{data}, {n} images")


def _weakest(advantages: dict[Any, pd.DataFrame], test: str, dataset: str) -> Finding | None:
    """Smallest advantage over the pairs of the paper's kind, corrected for their number."""
    pairs = [
        rows
        for (one, method, segmenter), rows in advantages.items()
        if one == test and method not in CONTROLS and segmenter not in YARDSTICKS
    ]
    confidence = 1 - 0.05 / max(len(pairs), 1)  # Bonferroni
    found = [statistics.against_layouts(rows["layouts"], confidence) for rows in pairs]
    empty = max(map(_empty, pairs), default=0.0)
    data = f"{len(pairs)} configurations, no element in up to {empty:.0%} of the images"
    return _least_favourable(found, min, f"{dataset}, {data}")


def _coverage_and_effect(
    outcomes: pd.DataFrame, attribution: str, test: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Coverage of the guided boxes and whether they made the classifier wrong (deletion), or right
    (insertion), a row per image, a column per segmenter; yardsticks are none."""
    rows = outcomes.query(
        "attribution == @attribution and test == @test and region == 'guided'"
        " and segmenter not in @YARDSTICKS"
    )
    covers, correct = (
        rows.pivot(index="image_id", columns="segmenter", values=column).astype(float)
        for column in ("coverage", "correct")
    )
    return covers, correct if test == "insertion" else 1 - correct


def _correlation(covers: pd.DataFrame, effects: pd.DataFrame, data: str) -> Finding | None:
    """Correlation over segmenters between mean coverage and mean effect."""
    n_images, n_segmenters = covers.shape
    if n_segmenters < MIN_SEGMENTERS:
        return None
    x, y = covers.to_numpy(), effects.to_numpy()

    def correlation(chosen: np.ndarray) -> float:
        return np.corrcoef(x[chosen].mean(0), y[chosen].mean(0))[0, 1]

    return over_images(correlation, n_images, f"{data}, {only_these(map(str, covers))}")
