"""A dataset through the whole flow: outcomes, elements, maps."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from geolib import data
from geolib.model import Classifier
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.runtime import cache
from geolib.runtime.here import progress_bar

if TYPE_CHECKING:
    from distributed import Client


def evaluate(
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None = None,
    *,
    client: Client | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Deletion and insertion outcomes of a dataset (§5 of arXiv 2605.00912).

    Shards are computed one after the other, or by the workers of a cluster, and kept in the cache:
    memory stays bounded, a killed run goes on where it stopped, and the table is the same to the
    last byte.

    Parameters
    ----------
    dataset : images; unreadable ones are left out, counted in a warning and listed in
        ``table.attrs["skipped"]``.
    classifier : the model that is explained.
    config : settings; the defaults are the book's.
    client : of ``pipeline.cluster.connect``, to share the shards among workers.
    progress : whether to show a progress bar.

    Returns
    -------
    The outcome table of :func:`geolib.ablation.faithfulness`.

    Raises
    ------
    ValueError
        If the dataset is empty or wholly unreadable, an image's label is outside the classes, or
        an attribution method or a segmenter is unknown.
    ConnectionError, RuntimeError
        If the cluster is lost; see :func:`geolib.pipeline.cluster.compute`.
    """
    config = config or EvaluationConfig()
    stages = [shards.outcomes, shards.elements] if config.individual else [shards.outcomes]
    return _collect(dataset, classifier, config, stages, "outcomes", client, progress)


def elements(
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None = None,
    *,
    client: Client | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Object-like elements of a dataset, one row each (§3.3).

    Parameters, caching and errors are those of :func:`evaluate`, columns those of
    :func:`geolib.pipeline.shards.elements_table`.
    """
    config = config or EvaluationConfig()
    return _collect(dataset, classifier, config, [shards.elements], "elements", client, progress)


def _collect(
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig,
    stages: Sequence[Callable[[shards.Shard, Classifier, EvaluationConfig], Path]],
    name: str,
    client: Client | None,
    progress: bool,
) -> pd.DataFrame:
    """The table that some stages keep under a name, of all shards; readable images alone."""
    if client is not None:
        # dask takes a while to import; only runs on a cluster need it.
        from geolib.pipeline import cluster

        cluster.compute(client, dataset, classifier, config, stages, progress=progress)
        progress = False
    tables, skipped = [], []
    for shard in _shards(dataset, classifier, config, progress):
        folders = [stage(shard, classifier, config) for stage in stages]
        tables += [pd.read_parquet(folder / f"{name}.parquet") for folder in folders]
        skipped.extend(json.loads((folders[0] / "skipped.json").read_text(encoding="utf-8")))
    dataset.note((one["id"], one["reason"]) for one in skipped)
    first = "".join(f"the first, {one['id']}, because: {one['reason']}" for one in skipped[:1])
    if len(skipped) == len(dataset):
        raise ValueError(f"none of the {len(dataset)} images of the dataset could be read, {first}")
    if skipped:
        warnings.warn(
            f"{len(skipped)} of {len(dataset)} images were skipped, {first}", stacklevel=3
        )
    table = concat(tables)
    table.attrs["skipped"] = skipped
    return table


def concat(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table out of several with the same columns; empty ones do not decide its types."""
    return pd.concat([t for t in tables if len(t)] or list(tables[:1]), ignore_index=True)


def _shards(
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig,
    progress: bool,
    title: str = "",
) -> Iterator[shards.Shard]:
    if len(dataset) == 0:
        raise ValueError(f"dataset {dataset.name!r} holds no images in its split {dataset.split!r}")
    title = title or f"{config.attribution} × {config.segmenter}"
    with progress_bar(title, len(dataset), "image", progress) as bar:
        for shard in shards.shards(dataset, classifier, config.shard_size):
            yield shard
            bar.update(len(shard.dataset))


def extract(
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None = None,
    *,
    progress: bool = False,
) -> list[Extracted]:
    """Every image of a small dataset with its map, segments and elements, for figures."""
    config = config or EvaluationConfig()
    found = _shards(dataset, classifier, config, progress)
    return [one for shard in found for one in shards.extract(shard, classifier, config)]


def maps(
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None = None,
    *,
    progress: bool = True,
) -> tuple[torch.Tensor, float]:
    """Attribution maps ``[B, S, S]`` of a dataset's readable images, and seconds per image."""
    config = config or EvaluationConfig()
    found, seconds = [], 0.0
    for shard in _shards(dataset, classifier, config, progress, config.attribution):
        found.append(shards.attribution_maps(shard, classifier, config))
        seconds += cache.seconds(shards.maps_folder(shard, classifier, config))
    together = torch.cat(found)
    return together, seconds / max(len(together), 1)
