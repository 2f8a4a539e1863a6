"""A classifier to which masked boxes are nothing new."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from geolib import model
from geolib.chapters.experiment import Experiment
from geolib.chapters.tables import grouped_means, shown
from geolib.runtime import cache
from geolib.statistics import detectable_effect


def twin(
    experiment: Experiment, n_train: int, max_epochs: int, box_masks: float = 0.5
) -> Experiment:
    """The experiment, with the same thresholds, of a classifier that learns on from its own: on its
    first ``n_train`` training images, a share of them masked by boxes."""
    first = experiment.classifier
    train = experiment.train.subset(range(min(n_train, len(experiment.train))))
    config = experiment.training.model_copy(
        update={
            "weights": None,
            "image_size": first.image_size,
            "learning_rate": experiment.learning_rate / 4,  # it has learnt already
            "max_epochs": max_epochs,
            "box_masks": box_masks,
        }
    )
    params = {
        "config": config.model_dump(mode="json"),
        "initial": first.weights_sha256,
        "train": train.identity,
        "validation": experiment.validation.identity,
    }

    def build(folder: Path) -> None:
        start = folder / "start.safetensors"
        first.save(start)  # a checkpoint keeps its last layer, too
        going_on = config.model_copy(update={"arch": str(start)})
        learnt = model.train(train, experiment.validation, going_on)
        learnt.training_config = config.model_dump(mode="json")
        learnt.save(folder / "twin.safetensors")
        start.unlink()

    folder = cache.compute("twin", params, ("geolib.training.recipe",), build)
    chosen = experiment.tuned.config
    checkpoint = str(folder / "twin.safetensors")
    return experiment.variant(checkpoint=checkpoint, top_p=chosen.top_p, s_min=chosen.s_min)


def masked_table(outcomes: pd.DataFrame, accuracies: Mapping[str, float]) -> pd.DataFrame:
    """Whether the twin minds random boxes less than the classifier: did its training take?
    ``outcomes`` have a ``classifier``, the twin last; ``accuracies`` are on unseen whole images."""
    hidden = outcomes[(outcomes["region"] == "random") & (outcomes["test"] == "deletion")]
    kept, whole = (
        rows.groupby(["image_id", "classifier"], sort=False)["log_probability"].mean().unstack()
        for rows in (hidden, outcomes[outcomes["region"] == "original"])
    )
    cost = whole - kept
    first, second = outcomes["classifier"].unique()
    cost["difference"] = cost[first] - cost[second]
    table = grouped_means(cost.melt(var_name="of", value_name="cost"), "cost", "of").set_index("of")
    table["accuracy"] = pd.Series(accuracies)
    table["masked"] = hidden.groupby("classifier")["correct"].mean()
    table["detectable"] = pd.Series({"difference": detectable_effect(cost["difference"])})
    columns = {
        "accuracy": ("accuracy", ".0%"),
        "with random boxes hidden": ("masked", ".0%"),
        "log-probability that they cost": ((), "+.2f"),
        "detectable": ("detectable", ".2f"),
    }
    return shown(table, columns).rename_axis(None)
