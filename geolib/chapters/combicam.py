"""Combi-CAM beside Grad-CAM at the last block of each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import torch

from geolib import statistics
from geolib.attribution import attribute
from geolib.book.claims import Finding
from geolib.chapters import cost, tables
from geolib.chapters.experiment import Experiment
from geolib.chapters.findings import mean
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

    stages = enumerate(last_blocks(sizes).values(), start=1)
    asked = {
        f"stage {i}": experiment.config(
            "gradcam", segmenter, target_layer=block, output="probability"
        )
        for i, block in stages
    }
    return asked | {COMBINED: experiment.config("combicam", segmenter, layers=layers)}


def block_shares(parts: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Share of each block's contribution ``[B, H, W]`` in the sum of the map, a row per block and
    image; zero maps have none."""
    sums = {name.removeprefix("network."): one.sum((1, 2)).numpy() for name, one in parts.items()}
    table = pd.DataFrame(sums)
    return table.div(table.sum(axis=1), axis=0).melt(var_name="block", value_name="share").dropna()


def costs(
    classifier: Classifier, images: torch.Tensor, asked: Mapping[str, EvaluationConfig]
) -> pd.DataFrame:
    """Seconds and peak memory per image of each map, cheapest first."""
    rows = {}
    for name, config in asked.items():
        run = partial(
            attribute, classifier, images, config.attribution, **config.attribution_options
        )
        rows[name] = cost.seconds(run), cost.peak_memory(run) / 1e6
    columns = ["seconds per image", "peak memory (MB per image)"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns) / len(images)
    return table.sort_values("seconds per image")


def findings(
    deepest: str,
    outcomes: pd.DataFrame,
    fineness: pd.DataFrame,
    marks: pd.DataFrame | None,
    kind: str,
) -> dict[str, Finding]:
    """What Combi-CAM has more than the deepest stage, image by image, for the ledger's claims."""
    measured = {"combicam-finer": (fineness, "frequency", "method")}
    for test, rows in statistics.advantages(outcomes).groupby("test"):
        measured[f"combicam-{test}"] = (rows, "advantage", "attribution")
    if marks is not None:
        measured["combicam-cues"] = (marks, "weight", "method")
        measured["combicam-more-cues"] = (marks, "found", "method")
    found = {
        claim: mean(tables.difference(table, value, by, COMBINED, deepest), kind)
        for claim, (table, value, by) in measured.items()
    }
    return {claim: one for claim, one in found.items() if one}  # one image has no interval


def answer(found: Mapping[str, Finding]) -> str:
    """How Combi-CAM differs from the deepest stage, in words."""
    words = {
        "combicam-finer": "cycles per side of the image in fineness",
        "combicam-deletion": "in the advantage of the deletion test",
        "combicam-insertion": "in that of the insertion test",
        "combicam-cues": "in the share of its weight on cues",
    }
    told = [
        f"{tables.sentence(found[name].value, found[name].low, found[name].high)} {what}"
        for name, what in words.items()
        if name in found
    ]
    differs = ", ".join(told) or "nothing that one image could show"
    return f"From Grad-CAM at the deepest layer Combi-CAM differs by {differs}."
