from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from geolib import figures
from geolib.chapters.experiment import Experiment
from geolib.figures import GUIDED, INK, styled
from geolib.model import PAPER
from geolib.model.prediction import labelled
from geoscenes import MIN_PIXELS

_YES_NO = {"True": "yes", "False": "no"}


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
        f"{word} {_YES_NO.get(str(ours[name]), ours[name])} instead of "
        f"{_YES_NO.get(str(paper[name]), paper[name])}"
        for name, word in words.items()
        if ours[name] != paper[name]
    ]
    if not changed:
        return "This run trains exactly as the paper does."
    return "This run departs from the paper in: " + "; ".join(changed) + "."


def accuracy_note(accuracy: float, ceilings: Mapping[str, float]) -> str:
    """How far an accuracy stays below the best possible one."""
    if not ceilings:
        return "For photographs the best possible accuracy is unknown."
    return (
        f"On unseen scenes the classifier is right in {accuracy:.1%} of cases, "
        f"{100 * (ceilings['upright'] - accuracy):.1f} percentage points below an observer of all "
        f"cues of at least {MIN_PIXELS} pixels."
    )


def ceiling_note(ceilings: Mapping[str, float]) -> str:
    """The Bayes ceiling in one sentence, with and without knowledge of left and right."""
    if not ceilings:
        return "The best possible accuracy on these photographs is unknown."
    return (
        f"On GeoScenes an observer of all cues of at least {MIN_PIXELS} pixels would reach "
        f"{ceilings['upright']:.1%}, or {ceilings['mirrored']:.1%} without telling left from right."
    )


def networks_note(networks: Sequence[Experiment]) -> str:
    """How many networks there are, what they learnt from, and how good they are."""
    sizes = ", ".join(f"{len(one.train):,}" for one in networks)
    right = ", ".join(f"{one.accuracy('test')['value']:.1%}" for one in networks)
    return f"Trained on {sizes} images, right on {right} of the test images."


def learning_curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy per epoch, training and validation; the axis names the epoch kept."""
    panels = {}
    for quantity in ("loss", "accuracy"):
        columns = {f"{split}_{quantity}": split for split in ("train", "validation")}
        panels[quantity] = history.rename(columns=columns).melt(
            "epoch", list(columns.values()), var_name="split"
        )
    kept = int(history["epoch"].iloc[history["validation_loss"].argmin()])
    return figures.trends(panels, x="epoch", by="split", label=f"epoch (kept: {kept})")


def confused(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Number of images per true class (rows) and predicted class (columns)."""
    known = labelled(predictions)
    counts = confusion_matrix(
        known["label"].astype(int), known["prediction"], labels=range(len(classes))
    )
    return pd.DataFrame(counts, index=pd.Index(classes, name="label"), columns=list(classes))


def confusion(counts: pd.DataFrame) -> Figure:
    """Confusion matrix, true classes in rows; cells hold counts, colour the share of the row."""
    share = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
    named = share.rename_axis(index="true", columns="predicted")
    return figures.heatmap(named, label="share of the true class", text=counts)


def calibration(predictions: pd.DataFrame, n_bins: int = 10) -> pd.DataFrame:
    """Accuracy against confidence in bins of equal width that hold images: ``n_images`` in each,
    mean ``confidence`` and ``accuracy``."""
    known = labelled(predictions)
    table = pd.DataFrame({"confidence": known["probability"], "n_images": 1})
    table["accuracy"] = (known["prediction"] == known["label"]).astype(float)
    bins = np.clip(np.ceil(table["confidence"] * n_bins), 1, n_bins)
    how = {"confidence": "mean", "accuracy": "mean", "n_images": "sum"}
    return table.groupby(bins).agg(how).reset_index(drop=True)


def calibration_error(bins: pd.DataFrame) -> float:
    """Mean gap between confidence and accuracy, over the images of :func:`calibration`'s bins
    (equation 3 of Guo et al., "On calibration of modern neural networks", ICML 2017)."""
    gap = (bins["accuracy"] - bins["confidence"]).abs()
    return float(np.average(gap, weights=bins["n_images"]))


@styled
def reliability(bins: pd.DataFrame) -> Figure:
    """Picture of the :func:`calibration`."""
    figure, axis = plt.subplots(figsize=(3.6, 3.4))
    sizes = 20 + 180 * bins["n_images"] / bins["n_images"].max()
    axis.plot([0, 1], [0, 1], color=INK, ls=":", lw=1.2)
    axis.plot(bins["confidence"], bins["accuracy"], color=GUIDED, lw=2, zorder=1)
    axis.scatter(bins["confidence"], bins["accuracy"], s=sizes, color=GUIDED)
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.05))
    axis.grid()
    return figure
