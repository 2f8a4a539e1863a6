"""What of the advantage over random boxes the segmenter, position and the attribution map bring
(§5 of arXiv 2605.00912).

From random boxes to segments of the same image drawn at random (the segmenter's part), to those
where the class mostly has its evidence in other images (the part of position), to the elements (the
map's part): all cover as much of the image, and the parts add up to the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from geolib import pipeline, segmentation, statistics
from geolib.ablation import boxes_up_to, seed_sequence
from geolib.book.claims import MIN_N, Finding
from geolib.chapters import sanity
from geolib.chapters.controls.specifications import Tested, outcome_tables
from geolib.chapters.experiment import Experiment
from geolib.chapters.findings import Found
from geolib.chapters.tables import TO, shown
from geolib.data import GeoDataset
from geolib.figures import ACCENT, GUIDED, INK, RANDOM, WIDTH, styled
from geolib.masks import box_region
from geolib.model import Classifier
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.scoring import element_boxes, score_segments
from geolib.statistics import METRICS

# Whether more or less of a measure is better.
SIGNS = {"deletion": -1, "insertion": 1}
# The region that has more of a part, and the one that has less.
PARTS = {
    "segmenter": ("segments", "random"),
    "position": ("prior", "segments"),
    "map": ("guided", "prior"),
}
WHOLE, BEYOND, UNTRAINED = "whole", "beyond blind selection", "map of an untrained network"
# What no sum needs: beside the whole, what the elements have over blind selection, and what the
# map of a network that has learnt nothing has.
BESIDE = {WHOLE: ("guided", "random"), BEYOND: ("guided", "segments")}
BESIDE |= {UNTRAINED: ("untrained", "segments")}
CHOSEN = ("segments", "prior", "untrained")
# Between the seeds of a training and of the weights that are compared with what it learnt.
APART = 1000
TOTAL = "#aab4bf"  # colour of the whole, on which its interval can be seen
# Random orders of an image's segments that are tried before the closest is kept.
MAX_ORDERS = 5


# Outcomes -----------------------------------------------------------------------------------------


def outcomes(
    experiment: Experiment, attribution: str, segmenter: str, images: GeoDataset | None = None
) -> pd.DataFrame:
    """Outcome table with the regions guided, random, segments, prior and untrained, of the
    evaluation images or others; cached. ValueError for segments that are made from the map."""
    images, classifier = images or experiment.evaluation, experiment.classifier
    config = experiment.config(attribution, segmenter)
    if "attribution" in segmentation.shared(segmenter, **config.segmenter_options).uses:
        raise ValueError(
            f"segmenter={segmenter!r} makes its segments from the map: none of them is blind to "
            "it; choose one that reads the image"
        )
    usual = pipeline.evaluate(images, classifier, config)
    further = config.model_copy(update={"repeats": 0})  # random boxes are among the usual
    ways = {"draws": config.repeats}
    run = further, ways, partial(_tested, images, classifier, config)
    (table,) = outcome_tables(images, classifier, "decomposition", __name__, [run])
    chosen = table[table["region"].isin(CHOSEN)].assign(dataset=images.name)
    return pipeline.concat([usual, chosen])


def _tested(
    images: GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig,
    extracted: Sequence[Extracted],
) -> Tested:
    predicted = shards.predictions(images, classifier).set_index("image_id")["prediction"]
    classes = predicted[[one.item.id for one in extracted]].to_numpy()
    seed = (classifier.training_config or {}).get("seed", 0) + APART
    blank = sanity.randomised(classifier, sanity.parts(classifier), seed)
    maps = pipeline.maps(images, blank, config)[0].numpy()
    return [one.elements for one in extracted], selections(extracted, classes, maps, config)


def selections(
    extracted: Sequence[Extracted],
    predicted: np.ndarray,
    untrained: np.ndarray,
    config: EvaluationConfig,
) -> dict[str, list[np.ndarray]]:
    """Padded boxes of segments that cover as much as the elements, for each image bool [R,H,W]:
    ``segments`` drawn at random, and those that score best under the ``prior`` of the image's
    predicted class and under the map of an ``untrained`` network, [B,H,W]."""
    prior = prior_maps(np.stack([one.attribution.numpy() for one in extracted]), predicted)
    found: dict[str, list[np.ndarray]] = {name: [] for name in CHOSEN}
    how = config.model_dump(include={"combine", "center"})
    for one, *maps in zip(extracted, prior, untrained, strict=True):
        masks = one.segments.masks[one.segments.masks.any(axis=(1, 2))]
        boxes = element_boxes(masks, config.padding)
        shape, coverage = one.elements.shape, one.elements.coverage
        draws = range(config.repeats)
        drawn = [blind(boxes, shape, coverage, one.item.id, config.seed, draw) for draw in draws]
        found["segments"].append(np.stack(drawn))
        # Equal scores stand in a random order, not in that of the segments' sizes.
        rng = np.random.default_rng(seed_sequence(config.seed, one.item.id))
        order = rng.permutation(len(boxes))
        for name, values in zip(("prior", "untrained"), maps, strict=True):
            scores = score_segments(values, masks, config.top_p, **how)["score"].to_numpy()
            best = order[np.argsort(-scores[order], kind="stable")]
            found[name].append(ranked(boxes[best], shape, coverage)[None])
    return found


def blind(
    boxes: np.ndarray, shape: tuple[int, int], coverage: float, image_id: str, seed: int, draw: int
) -> np.ndarray:
    """Boxes [N,4] drawn at random up to a coverage, bool [H,W]; seeded from (seed, image id, draw),
    by another stream than random boxes."""
    rng = np.random.default_rng(seed_sequence(seed, image_id, draw).spawn(1)[0])
    return _closest((rng.permutation(boxes) for _ in range(MAX_ORDERS)), shape, coverage)


def ranked(boxes: np.ndarray, shape: tuple[int, int], coverage: float) -> np.ndarray:
    """The best of boxes [N,4], best first, up to a coverage, bool [H,W]; where no other box then
    fits, one of them is left out for further ones, the last if that will do."""
    last_first = boxes_up_to(boxes, shape, coverage)[::-1]
    without = (np.delete(boxes, place, axis=0) for place in last_first)
    return _closest(chain([boxes], without), shape, coverage)


def _closest(
    orders: Iterable[np.ndarray], shape: tuple[int, int], coverage: float, tolerance: float = 0.01
) -> np.ndarray:
    """Union of boxes of the first order that comes within the tolerance, or of the nearest."""
    nearest, gap = np.zeros(shape, dtype=bool), np.inf
    for boxes in orders:
        region = box_region(boxes[boxes_up_to(boxes, shape, coverage, tolerance)], shape)
        if (missed := abs(region.mean() - coverage)) < gap:
            nearest, gap = region, missed
        if gap <= tolerance + 1e-9:
            break
    return nearest


def prior_maps(maps: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Where the class of each image has its evidence: the mean map [H,W] of the other images of the
    same predicted class, or of all others where fewer than two have it; [B,H,W] as ``maps``, zeros
    where there is no other."""
    prior = np.zeros(maps.shape)
    if len(maps) == 1:
        return prior
    for index, name in enumerate(predicted):
        others = np.arange(len(maps)) != index
        same = others & (predicted == name)
        prior[index] = maps[same if same.sum() > 1 else others].mean(axis=0, dtype=float)
    return prior


# Parts --------------------------------------------------------------------------------------------


def parts(outcomes: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """The parts of each image's advantage, positive where better: ``test``, ``image_id``, ``part``
    (of ``PARTS``, whose sum is ``WHOLE``, and of ``BESIDE``), ``value``; means over draws."""
    tested = outcomes[outcomes["test"].isin(list(SIGNS))]
    groups = tested.groupby(["test", "image_id", "region"])[METRICS[metric]]
    mean = groups.mean().astype(float).unstack("region")
    sign = mean.index.get_level_values("test").map(SIGNS)
    steps = {name: sign * (mean[a] - mean[b]) for name, (a, b) in (PARTS | BESIDE).items()}
    rows = pd.DataFrame(steps).reset_index()
    return rows.melt(["test", "image_id"], var_name="part", value_name="value")


def summary(tables: Sequence[pd.DataFrame], metric: str = "accuracy") -> pd.DataFrame:
    """Each part of outcome tables, one per network, with its interval, over images and networks if
    there are several: ``test``, ``part``, ``value``, ``low``, ``high``, ``detectable``, ``n``,
    ``networks``. The p-value exchanges the regions compared, in all networks at once."""
    shared = sorted(set.intersection(*(set(one["image_id"]) for one in tables)))
    rows: list[dict[str, Any]] = []
    for test in SIGNS:
        for part, (more, less) in (PARTS | BESIDE).items():
            each = [_layouts(one, test, more, less, metric).loc[shared] for one in tables]
            layouts = np.stack(each)
            found = statistics.against_layouts(layouts.mean(axis=0))
            low, high = found.low, found.high
            if len(each) > 1:
                spread = statistics.two_way(layouts[..., 0] - layouts[..., 1:].mean(axis=-1))
                low, high = min(low, spread.low), max(high, spread.high)
            row = {"test": test, "part": part, "value": found.difference, "low": low, "high": high}
            row |= {"p_value": found.p_value, "detectable": found.detectable}
            rows.append(row | {"n": len(shared), "networks": len(each)})
    return pd.DataFrame(rows)


def _layouts(outcomes: pd.DataFrame, test: str, more: str, less: str, metric: str) -> pd.DataFrame:
    """One region beside the draws of another, of which it is one if nothing sets it apart, for each
    image; where both are draws, the mean of either."""
    rows = outcomes[(outcomes["test"] == test) & outcomes["region"].isin([more, less])]
    values = rows.pivot(index="image_id", columns=["region", "repeat"], values=METRICS[metric])
    values = SIGNS[test] * values.astype(float)
    layouts = [values[more].to_numpy(), values[less].to_numpy()]
    if more == "segments":
        layouts = [one.mean(axis=1) for one in layouts]
    return pd.DataFrame(np.column_stack(layouts), values.index)


def well_matched(outcomes: pd.DataFrame, tolerance: float = 0.01) -> pd.DataFrame:
    """Outcomes of the images all of whose regions cover as much as the guided one."""
    gap = outcomes["coverage_gap"].abs().groupby(outcomes["image_id"]).transform("max")
    return outcomes[gap <= tolerance + 1e-9]


# What they say ------------------------------------------------------------------------------------


def numbers(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Every part in accuracy, in accuracy of well-matched images alone, and in log-probability."""
    matched = [well_matched(one) for one in tables]
    found = {"accuracy": summary(tables), "log-probability": summary(tables, "log_probability")}
    if any(map(len, matched)):
        found["accuracy, coverage within a point"] = summary(matched)
    rows = pd.concat(found, names=["measure"]).set_index(["test", "part"], append=True)
    columns = {
        "brings": (("value", "low", "high"), "+.3f"),
        "p": ("p_value", ".3f"),
        "detectable": ("detectable", ".3f"),
        "images": ("n", ".0f"),
    }
    return shown(rows.droplevel(1), columns)


def facts(summary: pd.DataFrame) -> dict[str, float]:
    """Parts and their intervals by name, as ``deletion_map`` and ``deletion_map_low``."""
    names = {**dict.fromkeys(PARTS), BEYOND: "beyond", WHOLE: "whole"}
    found: dict[str, float] = {}
    for row in summary[summary["part"].isin(names)].to_dict("records"):
        name = f"{row['test']}_{names[row['part']] or row['part']}"
        found |= {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
    return found


def sentence(summary: pd.DataFrame) -> str:
    """What the segmenter, position and the map bring, and whether the map's part is told from 0."""
    clauses = []
    for test, rows in summary.groupby("test", sort=False):
        part: Mapping[Any, Any] = {row.part: row for row in rows.itertuples()}
        whole, own = part[WHOLE], part["map"]
        size = f"{abs(whole.value):.2f} of accuracy"
        ahead = _of(
            whole,
            above=f"guided boxes beat random ones by {size}",
            below=f"guided boxes fall behind random ones by {size}",
            open_=f"guided boxes are not told from random ones ({whole.value:+.2f} of accuracy)",
            few=f"guided boxes have {whole.value:+.2f} of accuracy over random ones",
        )
        verdict = _of(
            own,
            above="is above zero",
            below="is below zero",
            open_="is not told from zero",
            few=f"{own.n} images cannot tell from zero",
        )
        clauses.append(
            f"in {test} {ahead}: the segmenter brings {part['segmenter'].value:+.2f}, position "
            f"{part['position'].value:+.2f} and the map {own.value:+.2f} "
            f"({own.low:+.2f}{TO}{own.high:+.2f}), which {verdict}"
        )
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def _of(row: Any, above: str, below: str, open_: str, few: str) -> str:
    """One of four wordings, by where an interval lies, and from how many images it is."""
    if row.n < MIN_N:
        return few
    return above if row.low > 0 else below if row.high < 0 else open_


@styled
def picture(summary: pd.DataFrame) -> Figure:
    """From random to guided boxes, step by step, each with its interval; pale where that holds
    zero."""
    steps = {
        "segmenter": ("segmenter", RANDOM),
        "position": ("+ position", ACCENT),
        "map": ("+ map", GUIDED),
        WHOLE: ("= all", TOTAL),
    }
    big: Any = {"fontsize": 15}
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.3), sharex=True, sharey=True)
    for axis, (test, rows) in zip(axes, summary.groupby("test", sort=False), strict=True):
        found: Mapping[Any, Any] = {row.part: row for row in rows.itertuples()}
        reached = 0.0
        for place, (part, (_, colour)) in enumerate(steps.items()):
            row, left = found[part], 0.0 if part == WHOLE else reached
            told = row.low > 0 or row.high < 0
            axis.barh(place, row.value, 0.62, left, color=colour, alpha=1 if told else 0.4)
            axis.plot([left + row.low, left + row.high], [place] * 2, color=INK, lw=2)
            reached = left + row.value
            if part != WHOLE:
                axis.plot([reached] * 2, [place - 0.31, place + 1.31], color=INK, lw=1)
            end = np.nanmax([left, reached, left + row.high])
            behind: Any = {"textcoords": "offset points", "va": "center", **big}
            axis.annotate(f"{row.value:+.2f}".replace("-", "−"), (end, place), (6, 0), **behind)
        axis.axvline(0, color=INK, lw=1)
        axis.set_title(test, **big)
        axis.tick_params(axis="x", labelsize=12)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(steps)), [name for name, _ in steps.values()], **big)
    axes[0].set_ylim(len(steps) - 0.5, -0.5)
    low, high = axes[0].get_xlim()
    axes[0].set_xlim(low, high + 0.35 * (high - low))  # room for what is written behind the bars
    figure.supxlabel("accuracy gained over random boxes", fontsize=13, color=INK)
    return figure


def claims(tables: Sequence[pd.DataFrame], data: str) -> Found:
    """Both tests as the paper has them, and beyond blind selection, for the ledger."""
    found: Found = {}
    empty = tables[0].groupby("image_id")["n_elements"].first() == 0
    told = f"{data}, no element in {empty.mean():.0%} of the images"
    for row in summary(tables).to_dict("records"):
        if row["part"] not in (WHOLE, BEYOND):
            continue
        name = f"object-{row['test']}" + ("-blind" if row["part"] == BEYOND else "")
        ends = {end: row[end] for end in ("value", "low", "high", "n")}
        ends["detectable"] = row["detectable"] if np.isfinite(row["detectable"]) else None
        of = f"{told}, {row['n']} images × {row['networks']} networks"
        found[name] = Finding(**ends, data=of) if row["n"] > 1 else None
    return found
