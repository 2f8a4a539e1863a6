"""Networks that are trained once, and found again in the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from geolib import data, model
from geolib.data import Skipped
from geolib.runtime import cache
from geolib.training.batches import Process
from geolib.training.location import LocationModel

Network = TypeVar("Network", model.Classifier, LocationModel)


def trained_once(
    stage: str,
    params: Mapping[str, Any],
    modules: Sequence[str],
    train: Callable[[Path], Network],
    load: Callable[[Path], Network],
) -> Network:
    """A trained network from the cache, or trained and kept there.

    ``train`` is called with a folder from which a training that was killed goes on; ``load`` reads
    the file of a network; the rest is as for :func:`geolib.runtime.cache.key`.
    """
    unfinished = cache.cache_root() / "unfinished" / cache.key("training", params, modules)
    name = f"{stage}.safetensors"

    def build(folder: Path) -> None:
        train(unfinished).save(folder / name)
        shutil.rmtree(unfinished, ignore_errors=True)

    if Process.this().rank > 0 and not cache.find(stage, params, modules):
        # The first process keeps the result; the others take part in the training.
        return train(unfinished)
    return load(cache.compute(stage, params, modules, build) / name)


def trained_classifier(
    train: data.GeoDataset, validation: data.GeoDataset, config: model.TrainConfig
) -> model.Classifier:
    """A classifier from the cache, or trained once, as :func:`geolib.model.train` does."""
    file = Path(config.weights or "")
    weights = cache.sha256(file) if file.is_file() else config.weights
    params = {
        "config": config.model_dump(mode="json") | {"weights": weights},
        "weights": weights,
        "train": train.identity,
        "validation": validation.identity,
    }

    def fit(unfinished: Path) -> model.Classifier:
        return model.train(train, validation, config, checkpoints=unfinished)

    classifier = trained_once("classifier", params, ("geolib.training.recipe",), fit, model.load)
    if Process.this().rank == 0:
        for images in (train, validation):
            _note_unreadable(images)
    return classifier


def _note_unreadable(images: data.GeoDataset) -> None:
    """Keep what the training could not read, for those who find the classifier in the cache."""

    def make() -> pd.DataFrame:
        return pd.DataFrame(images.unreadable, columns=Skipped._fields, dtype=str)

    params = {"images": images.identity}
    table = cache.table("unreadable", params, ("geolib.data.pixels",), make)
    images.note(table.itertuples(index=False, name=None))
