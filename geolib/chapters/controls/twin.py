"""The classifier after it has learnt on, with something changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from geolib import model, statistics
from geolib.chapters.experiment import Experiment
from geolib.chapters.tables import mean_row, shown
from geolib.runtime import cache


def twin(
    experiment: Experiment, n_train: int, max_epochs: int, changes: Mapping[str, Any]
) -> Experiment:
    """The experiment of a classifier that learns on from its own: on its first ``n_train`` training
    images, under the same settings of the training but for some ``changes``."""
    first = experiment.classifier
    train = experiment.train.subset(range(min(n_train, len(experiment.train))))
    rate = experiment.learning_rate / 4  # it has learnt already
    own: dict[str, Any] = {"weights": None, "learning_rate": rate, "max_epochs": max_epochs}
    own["image_size"] = first.image_size
    config = model.TrainConfig(**experiment.training.model_dump() | own | dict(changes))
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
    return experiment.variant(checkpoint=str(folder / "twin.safetensors"))


def masked_table(outcomes: pd.DataFrame, accuracies: Mapping[str, float]) -> pd.DataFrame:
    """What random boxes cost each network (``setting``, "" the classifier), and how much less than
    they cost the classifier; ``accuracies`` are on unseen whole images."""
    hidden = outcomes[(outcomes["region"] == "random") & (outcomes["test"] == "deletion")]
    kept, whole = (
        rows.groupby(["image_id", "setting"])["log_probability"].mean().unstack()
        for rows in (hidden, outcomes[outcomes["region"] == "original"])
    )
    cost = whole - kept
    rows = {name: {"accuracy": of} | mean_row(cost[name]) for name, of in accuracies.items()}
    for name in cost.columns.drop(""):
        saved = statistics.paired(cost[""] - cost[name])
        rows[name] |= {"saved": saved.difference, "detectable": saved.detectable}
        rows[name] |= {"saved_low": saved.low, "saved_high": saved.high}
    columns = {
        "accuracy": ("accuracy", ".0%"),
        "log-probability that random boxes cost": ((), "+.2f"),
        "less than before": ("saved", "+.2f"),
        "detectable": ("detectable", ".2f"),
    }
    return shown(pd.DataFrame(rows).T, columns).rename({"": "the classifier"})
