from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from geolib.chapters.experiment import Experiment
from geolib.figures import GUIDED, INK, styled
from geolib.model import PAPER


def training_note(experiment: Experiment) -> str:
    """What this run's training shares with the paper's recipe, and what it changes."""
    if experiment.checkpoint:
        return "The classifier was loaded from a checkpoint; nothing was trained in this run."
    ours, paper = experiment.training.model_dump(), PAPER.model_dump()
    words = {
        "arch": "network",
        "weights": "initial weights",
        "image_size": "image size",
        "batch_size": "batch size",
        "schedule": "learning-rate schedule",
        "max_epochs": "most epochs",
        "patience": "patience",
        "learning_rate": "learning rate",
        "horizontal_flip": "mirrored images",
    }
    changed = [
        f"{word} {_say(ours[name])} instead of {_say(paper[name])}"
        for name, word in words.items()
        if ours[name] != paper[name]
    ]
    if not changed:
        return "This run trains exactly as the paper does."
    return "This run departs from the paper in: " + "; ".join(changed) + "."


def _say(value: object) -> str:
    return (
        {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else f"{value}"
    )


def accuracy_note(accuracy: float, ceilings: Mapping[str, float]) -> str:
    """How far an accuracy stays below the best possible one."""
    if not ceilings:
        return "For photographs the best possible accuracy is unknown."
    ceiling = ceilings["upright"]
    return (
        f"On unseen scenes the classifier is right in {accuracy:.1%} of cases; the best observer "
        f"of the cues that are visible in the same scenes expects {ceiling:.1%}. The difference, "
        f"{100 * (ceiling - accuracy):.1f} percentage points, is what the network has not learnt."
    )


def ceiling_note(ceilings: Mapping[str, float]) -> str:
    """The Bayes ceiling in one sentence, with and without knowledge of left and right."""
    if not ceilings:
        return "The best accuracy that any classifier could reach on these photographs is unknown."
    return (
        f"On GeoScenes the best that any classifier could do is known: {ceilings['upright']:.1%}, "
        f"or {ceilings['mirrored']:.1%} for one that cannot tell left from right."
    )


@styled
def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrix, true classes in rows; cells hold counts, colour the share of the row."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    figure, axis = plt.subplots(figsize=(0.9 * len(classes) + 2.2, 0.8 * len(classes) + 1.2))
    sns.heatmap(
        pd.DataFrame(share, index=list(classes), columns=list(classes)),
        ax=axis,
        annot=matrix,
        fmt="d",
        cmap="crest",
        vmin=0,
        vmax=1,
        linewidths=1.5,
        linecolor="none",
        cbar_kws={"label": "share of the true class"},
    )
    axis.set(xlabel="predicted", ylabel="true")
    axis.tick_params(axis="y", rotation=0, length=0)
    axis.tick_params(axis="x", rotation=0, length=0)
    return figure


@styled
def reliability(bins: pd.DataFrame) -> Figure:
    """Accuracy against confidence; columns ``confidence``, ``accuracy``, ``n_images``."""
    figure, axis = plt.subplots(figsize=(3.6, 3.4))
    axis.plot([0, 1], [0, 1], color=INK, ls=":", lw=1.2)
    axis.plot(bins["confidence"], bins["accuracy"], color=GUIDED, lw=2, zorder=1)
    axis.scatter(
        bins["confidence"],
        bins["accuracy"],
        s=20 + 180 * bins["n_images"] / bins["n_images"].max(),
        color=GUIDED,
    )
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.05))
    axis.grid()
    return figure
