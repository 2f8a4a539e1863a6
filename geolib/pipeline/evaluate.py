"""A dataset through the whole flow: outcomes, elements, maps, and the choice of thresholds."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from geolib import data, statistics
from geolib.model import Classifier
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.runtime import cache
from geolib.runtime.here import progress_bar

if TYPE_CHECKING:
    from distributed import Client

TOP_P = (0.05, 0.1, 0.2, 0.3)
S_MIN = (0.3, 0.5, 0.65, 0.8)
MAX_COVERAGE = 0.25
# A few dozen images flip too few decisions to tell settings apart by accuracy.
TUNING_METRIC = "log_probability"


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


@dataclass(frozen=True)
class Tuned:
    """Chosen thresholds.

    Attributes
    ----------
    config : the settings with the chosen ``top_p`` and ``s_min``.
    curve : every pair tried, its ``coverage`` and ``insertion_advantage``; empty without labels.
    note : how the choice was made.
    chosen : the row of the curve that was chosen; empty if nothing was.
    """

    config: EvaluationConfig
    curve: pd.DataFrame
    note: str
    chosen: dict[str, Any] = field(default_factory=dict)


def tune(
    validation: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None = None,
    *,
    top_p: Sequence[float] = TOP_P,
    s_min: Sequence[float] = S_MIN,
    progress: bool = True,
) -> Tuned:
    """Choose the salient share and the score threshold on a validation split (§3.2, §3.3).

    The paper says that p is chosen by coverage and faithfulness, and not how. Here: the pair with
    the highest insertion advantage, in log-probability of the true class, among those whose
    elements cover at most a quarter of the image on average. No other split is read.

    Parameters
    ----------
    validation : labelled images that are in no other split. Without labels the defaults are
        returned, with a warning and a note that names them.
    classifier, config, progress : as for :func:`evaluate`.
    top_p, s_min : values tried.
    """
    config = config or EvaluationConfig()
    if len(validation) == 0 or any(label is None for label in validation.labels):
        note = (
            f"no labelled validation split: the defaults p = {config.top_p:g} and "
            f"s_min = {config.s_min:g} are used"
        )
        warnings.warn(note, stacklevel=2)
        return Tuned(config, pd.DataFrame(), note)
    pairs = list(product(top_p, s_min))
    few = {"repeats": 3, "tests": ("insertion",), "individual": False, "label": "true"}
    configs = [config.model_copy(update={"top_p": p, "s_min": s, **few}) for p, s in pairs]
    found = _shards(validation, classifier, config, progress, "choosing p and s_min")
    outcomes = concat([shards.swept(shard, classifier, configs) for shard in found])
    curve = pd.DataFrame(
        {"top_p": p, "s_min": s, **_insertion(outcomes[outcomes["choice"] == i])}
        for i, (p, s) in enumerate(pairs)
    )
    chosen = statistics.choose(curve, MAX_COVERAGE)
    note = (
        f"p = {chosen['top_p']:g} and s_min = {chosen['s_min']:g}, chosen on {len(validation)} "
        f"validation images: highest insertion advantage in log-probability at coverage "
        f"≤ {MAX_COVERAGE:.0%}"
    )
    update = {"top_p": float(chosen["top_p"]), "s_min": float(chosen["s_min"])}
    return Tuned(config.model_copy(update=update), curve, note, chosen)


def _insertion(outcomes: pd.DataFrame) -> dict[str, float]:
    guided = outcomes[outcomes["region"] == "guided"]
    advantages = statistics.advantages(outcomes, metric=TUNING_METRIC)["advantage"]
    means = guided[["coverage", "n_elements"]].mean()
    return {**means, "insertion_advantage": advantages.mean()}
