"""Combi-CAM beside Grad-CAM at the last block of each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from geolib import figures, statistics
from geolib.attribution import attribute
from geolib.book.claims import Finding
from geolib.chapters import cost, tables
from geolib.chapters.experiment import Experiment
from geolib.model import Classifier
from geolib.pipeline.shards import EvaluationConfig

COMBINED = "Combi-CAM"
Sizes = Mapping[str, tuple[int, int]]


def last_blocks(sizes: Sizes) -> dict[tuple[int, int], str]:
    """The last block of each stage, that is, of each size of the feature maps."""
    return {size: name for name, size in sizes.items()}


def settings(
    experiment: Experiment, segmenter: str, sizes: Sizes, layers: Sequence[str] | None
) -> dict[str, EvaluationConfig]:
    """Settings by name, from the shallowest stage to the deepest; Combi-CAM is the last."""
    asked: dict[str, tuple[str, dict[str, object]]] = {
        f"stage {i}": ("gradcam", {"target_layer": block, "output": "probability"})
        for i, block in enumerate(last_blocks(sizes).values(), start=1)
    }
    asked[COMBINED] = ("combicam", {"layers": layers})
    return {
        name: experiment.config(method, segmenter).model_copy(
            update={"attribution_options": options}
        )
        for name, (method, options) in asked.items()
    }


def block_shares(parts: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Share of each block in the sum of the map: ``block``, ``share``, a row per block and image.

    ``parts`` holds the contribution ``[B, H, W]`` of each block; zero maps have none.
    """
    total = sum(one.sum((1, 2)) for one in parts.values())
    shares = {
        name.removeprefix("network."): (one.sum((1, 2)) / total).numpy()
        for name, one in parts.items()
    }
    return pd.DataFrame(shares).melt(var_name="block", value_name="share").dropna()


def taken_apart(
    image: torch.Tensor, parts: Mapping[str, torch.Tensor], sizes: Sizes, combined: torch.Tensor
) -> Figure:
    """What the last block of each stage adds to one map, and the share of the stage; the sum.

    ``parts`` holds the contribution ``[H, W]`` of each block, ``combined`` their scaled sum.
    """
    total = float(sum(float(one.sum()) for one in parts.values()))
    panels, titles = [figures.as_image(image)], ["image"]
    for size, block in last_blocks(sizes).items():
        share = sum(float(parts[name].sum()) for name in sizes if sizes[name] == size) / total
        scaled = parts[block] / parts[block].max().clamp(min=1e-30)
        panels.append(figures.overlay(image, scaled))
        titles.append(f"{size[0]}×{size[1]}: {share:.1%}")
    panels.append(figures.overlay(image, combined))
    return figures.images(panels, [*titles, "sum"], columns=len(panels))


def costs(
    classifier: Classifier, images: torch.Tensor, asked: Mapping[str, EvaluationConfig]
) -> pd.DataFrame:
    """Seconds and peak memory per image of each map, cheapest first."""
    rows = {}
    for name, config in asked.items():
        options = config.attribution_options
        run = partial(attribute, classifier, images, config.attribution, **options)
        rows[name] = {
            "seconds per image": cost.seconds(run) / len(images),
            "peak memory (MB per image)": cost.peak_memory(run) / len(images) / 1e6,
        }
    return pd.DataFrame(rows).T.sort_values("seconds per image")


def findings(
    deepest: str,
    outcomes: pd.DataFrame,
    fineness: pd.DataFrame,
    marks: pd.DataFrame | None,
    kind: str,
) -> dict[str, Finding]:
    """What Combi-CAM has more than the deepest stage, image by image, for the ledger's claims."""
    advantages = statistics.advantages(outcomes)
    measured = {
        "combicam-finer": (fineness, "frequency", "method"),
        **{
            f"combicam-{test}": (rows, "advantage", "attribution")
            for test, rows in advantages.groupby("test")
        },
    }
    if marks is not None:
        measured["combicam-cues"] = (marks, "weight", "method")
        measured["combicam-more-cues"] = (marks, "found", "method")
    found = {}
    for claim, (table, value, by) in measured.items():
        more = tables.mean_row(tables.difference(table, value, by, COMBINED, deepest))
        if np.isfinite(more["low"]):  # one image has no interval
            n = int(more.pop("n"))
            found[claim] = Finding(**more, n=n, data=f"{kind}, {n} images")
    return found
