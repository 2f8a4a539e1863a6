"""Where was it taken: partitionings, location models and their errors (Theiner et al., WACV 2022).

A :class:`LocationExperiment` is an ``Experiment`` whose images have coordinates. It builds
both kinds of partitioning from the training coordinates, trains one network for each, starting
from the study's country classifier, and tells how far its predictions lie from the truth. What an
earlier notebook has computed is found in the cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from pydantic import Field
from safetensors.torch import load_file, save_file

from geolib import data, model, statistics
from geolib.chapters.experiment import Experiment
from geolib.chapters.world_map import Guess
from geolib.data.records import PhotoRecord
from geolib.data.scenes import SceneRecord
from geolib.partitioning import (
    PAPER_PRESETS,
    RADII_KM,
    UNASSIGNED,
    OfflineGeocoder,
    Partitioning,
    Preset,
    S2Partitioning,
    SemanticPartitioning,
    from_addresses,
    geoguessr_score,
    great_circle_distance,
    matching_tau_max,
    nearest_cell_km,
    own_cell_km,
    s2_partitionings,
    semantic_partitionings,
)
from geolib.runtime import cache
from geolib.runtime.here import data_file
from geolib.training.kept import trained_once
from geolib.training.location import (
    Located,
    LocationModel,
    Targets,
    down_the_hierarchy,
    load_location,
    probabilities,
    train_location,
)
from geoscenes import render

Kind = Literal["semantic", "s2"]
KINDS: Mapping[Kind, str] = {"semantic": "SemP", "s2": "S2"}
VARIANTS = ("f", "f*")
# Cells on a map.
SHOWN = 25
# Of coordinates given as a file, every so many are held out from the partitioning.
HELD_OUT = 5


class LocationExperiment(Experiment):
    """The shared settings of a run that predicts places, not only countries.

    Attributes
    ----------
    n_location
        Training images of the location model; ``None`` takes all there are.
    location_size
        Side of its input in pixels; ``None`` is that of the country classifier.
    tau_min
        Fewest training images on the path of a cell of the semantic partitioning, one number per
        head. The S2 partitioning gets as many cells per head.
    tau_d
        Locations of fewer training images are left out.
    s2_tau_min
        S2 cells of fewer training images are left out.
    country_training, location_training
        Settings of :class:`geolib.model.TrainConfig` in which the training of the country
        classifier, or of the location model, departs from that of the study.
    """

    n_location: int | None = Field(None, ge=1)
    location_size: int | None = Field(None, ge=32)
    tau_min: tuple[int, ...] = Field((20, 60, 300), min_length=1)
    tau_d: int = Field(10, ge=1)
    s2_tau_min: int = Field(5, ge=1)
    country_training: dict[str, Any] = Field({})
    location_training: dict[str, Any] = Field({})

    # Data -----------------------------------------------------------------------------------------

    def images(self, split: str) -> data.GeoDataset:
        """Images with coordinates of ``"train"``, ``"validation"``, ``"test"`` or ``"eval"``.

        Scenes carry the cues of their region.
        """
        return self._splits[split][0]

    def coordinates(self, split: str) -> np.ndarray:
        """Where these images were taken: ``float64 [N,2]`` in degrees, latitude first."""
        return self._splits[split][1]

    @cached_property
    def _splits(self) -> dict[str, tuple[data.GeoDataset, np.ndarray]]:
        sizes = {
            "train": self.n_location,
            "validation": self.n_validation,
            "test": self.n_test,
            "eval": self.n_eval,
        }
        return {split: _with_coordinates(self._places(split, n)) for split, n in sizes.items()}

    def _places(self, split: str, n: int | None) -> data.GeoDataset:
        if self.dataset != "geoscenes":
            return self._split(split, n)
        options = {} if self.classes is None else {"countries": self.classes}
        size = self.location_config.image_size
        return data.load("geoscenes", split, n, self.seed, size=size, regional=True, **options)

    def located(self) -> tuple[LocationExperiment, str]:
        """This study if its images have coordinates, else the same on GeoScenes; and what was done.

        Raises
        ------
        ValueError
            If some splits have coordinates and others have none.
        """
        counts = {split: len(self.images(split)) for split in self._splits}
        if not any(counts.values()):
            settings = self.model_dump(exclude={"dataset", "root", "classes"})
            note = (
                "**Your photographs are skipped here:** none of them has coordinates, so there is "
                "nothing to partition and no distance to measure. Give `latitude` and `longitude` "
                "in `metadata.csv`. The chapter runs on GeoScenes instead."
            )
            return type(self)(dataset="geoscenes", **settings), note
        if empty := [split for split, n in counts.items() if n == 0]:
            raise ValueError(f"no image of {', '.join(empty)} has coordinates, but others have")
        listed = ", ".join(f"{n} in {split}" for split, n in counts.items())
        return self, f"Images with coordinates: {listed}."

    # Partitionings --------------------------------------------------------------------------------

    def partitionings(self, kind: Kind = "semantic") -> Sequence[Partitioning]:
        """Partitionings of the training coordinates, fine to coarse, one per head."""
        return self._semantic if kind == "semantic" else self._s2

    @cached_property
    def _semantic(self) -> Sequence[Partitioning]:
        points = self.coordinates("train")
        return semantic_partitionings(points, OfflineGeocoder(), self.tau_min, self.tau_d)

    @cached_property
    def _s2(self) -> Sequence[Partitioning]:
        return _as_many_s2_cells(self.coordinates("train"), self._semantic, self.s2_tau_min)

    # Model ----------------------------------------------------------------------------------------

    @property
    def training(self) -> model.TrainConfig:
        """Settings of the training on countries."""
        return model.TrainConfig(**super().training.model_dump() | self.country_training)

    @property
    def location_config(self) -> model.TrainConfig:
        """Settings of the training on places."""
        size = {"image_size": self.location_size or self.image_size}
        return model.TrainConfig(**super().training.model_dump() | size | self.location_training)

    def location_model(self, kind: Kind = "semantic") -> LocationModel:
        """The network with one head per partitioning, trained once, from the country classifier.

        A head of its own for attribution: ``study.location_model(kind).head(0)``.
        """
        cells = self.partitionings(kind)
        train, validation = self.images("train"), self.images("validation")
        targets = Targets(
            [partitioning.labels for partitioning in cells],
            _assign(cells, self.coordinates("train")),
            _assign(cells, self.coordinates("validation")),
        )
        initial = self.classifier
        content = json.dumps([targets.heads, targets.train.tolist(), targets.validation.tolist()])
        params = {
            "config": self.location_config.model_dump(mode="json"),
            "initial": initial.weights_sha256,
            "train": train.identity,
            "validation": validation.identity,
            "targets": hashlib.sha256(content.encode()).hexdigest(),
        }

        def fit(unfinished: Path) -> LocationModel:
            return train_location(
                train,
                validation,
                targets,
                self.location_config,
                initial=initial,
                checkpoints=unfinished,
            )

        return trained_once("location", params, ("geolib.training.location",), fit, load_location)

    # Predictions ----------------------------------------------------------------------------------

    def cell_probabilities(self, kind: Kind = "semantic", split: str = "eval") -> Located:
        """Probability of every cell of every head, for the readable images of a split."""
        images, network = self.images(split), self.location_model(kind)
        crops = self.location_config.crops

        def build(folder: Path) -> None:
            found = probabilities(network, images, crops=crops)
            heads = {f"head-{i}": torch.from_numpy(p) for i, p in enumerate(found.probabilities)}
            indices = torch.tensor(found.indices, dtype=torch.int64)
            save_file({"indices": indices, **heads}, folder / "cells.safetensors")

        params = {
            "dataset": images.identity,
            "model": network.weights_sha256,
            "heads": network.sizes,
            "crops": crops,
        }
        folder = cache.compute("cells", params, ("geolib.training.location",), build)
        stored = load_file(folder / "cells.safetensors")
        heads = [stored[f"head-{i}"].numpy() for i in range(len(network.sizes))]
        return Located(stored["indices"].tolist(), heads)

    def places(self, kind: Kind = "semantic", split: str = "eval") -> pd.DataFrame:
        """Predicted places: the finest head alone (f), and down the hierarchy (f*).

        Returns
        -------
        pandas.DataFrame
            One row per readable image and ``variant`` ("f", "f*"): ``image_id``, ``latitude`` and
            ``longitude`` (the truth), ``predicted_latitude``, ``predicted_longitude``, ``km``
            between the two, ``cell`` (class of the finest head), ``label`` (its name),
            ``probability``, and ``assigned``: whether the truth lies in a cell at all.
        """
        cells = self.partitionings(kind)
        found = self.cell_probabilities(kind, split)
        coarser = [cells[0].parents_in(partitioning) for partitioning in cells[1:]]
        scores = {
            "f": found.probabilities[0],
            "f*": down_the_hierarchy(found.probabilities, coarser),
        }
        ids = np.array(self.images(split).ids)[found.indices]
        truth = self.coordinates(split)[found.indices]
        return pd.concat(
            [_predicted(cells[0], ids, truth, of).assign(variant=v) for v, of in scores.items()],
            ignore_index=True,
        )

    def guess(self, kind: Kind, split: str, image_id: str) -> Guess:
        """What the finest head says of one image, for a map: its 25 most probable cells."""
        finest = self._with_polygons(kind)
        table = self.places(kind, split)
        (row,) = table[(table["image_id"] == image_id) & (table["variant"] == "f")].to_dict(
            "records"
        )
        found = self.cell_probabilities(kind, split)
        position = found.indices.index(self.images(split).ids.index(image_id))
        cells = finest.cells.assign(probability=found.probabilities[0][position])
        return Guess(
            KINDS[kind],
            cells.nlargest(SHOWN, "probability"),
            (row["latitude"], row["longitude"]),
            (row["predicted_latitude"], row["predicted_longitude"]),
            row["km"],
        )

    def _with_polygons(self, kind: Kind) -> Partitioning:
        """The finest partitioning with its polygons, which take a while and are kept."""
        finest = self.partitionings(kind)[0]
        saved: type[SemanticPartitioning | S2Partitioning]
        saved = SemanticPartitioning if kind == "semantic" else S2Partitioning

        def build(folder: Path) -> None:
            finest.with_polygons().save(folder / "cells.parquet")

        params = {
            "kind": kind,
            "keys": finest.cells["key"].tolist(),
            "outlines": cache.sha256(data_file("outlines.parquet")),
            **finest.parameters,
        }
        modules = ("geolib.partitioning", "geolib.partitioning.polygons")
        return saved.load(cache.compute("polygons", params, modules, build) / "cells.parquet")

    def errors(self, split: str = "test") -> dict[str, np.ndarray]:
        """Distances in km of both models and variants, and of what they are to be held against.

        ``training prior`` always says the commonest cell of the training images; the best that
        any classifier can do with a partitioning says the nearest cell (``SemP, ceiling``), which
        need not be the one that the place lies in (``SemP, own cell``). Infinite, a miss at every
        radius, where the place lies in no cell.
        """
        found: dict[str, np.ndarray] = {}
        for kind, short in KINDS.items():
            table = self.places(kind, split)
            missed = np.where(table["assigned"], table["km"], np.inf)
            for variant in VARIANTS:
                found[f"{short}, {variant}"] = missed[table["variant"] == variant]
        truth = self.coordinates(split)[self.cell_probabilities("semantic", split).indices]
        for kind, short in KINDS.items():
            finest = self.partitionings(kind)[0]
            found[f"{short}, ceiling"] = nearest_cell_km(finest, truth)
            found[f"{short}, own cell"] = own_cell_km(finest, truth)
        finest = self.partitionings("semantic")[0]
        commonest = finest.coordinates[[int(finest.cells["n_samples"].to_numpy().argmax())]]
        prior = great_circle_distance(truth, commonest.repeat(len(truth), axis=0))
        return found | {"training prior": np.where(finest.assign(truth) >= 0, prior, np.inf)}


def coordinates(dataset: data.GeoDataset) -> np.ndarray:
    """Where a dataset's images were taken; no pixels are read or drawn.

    Returns
    -------
    numpy.ndarray
        ``float64 [N,2]`` in degrees, latitude first; NaN where unknown.
    """
    return np.array([_place(record) for record in dataset.records], dtype=float).reshape(-1, 2)


def _place(record: object) -> tuple[float | None, float | None]:
    if isinstance(record, SceneRecord):
        scene = render(record.seed, record.country, **record.options)
        return scene.latitude, scene.longitude
    if isinstance(record, PhotoRecord):
        return record.latitude, record.longitude
    return None, None


def credit(item: data.GeoImage) -> str:
    """Author and licence of a photograph, to be printed with it; empty where neither is known."""
    return ", ".join(part for part in (item.attribution, item.licence) if part)


def _with_coordinates(dataset: data.GeoDataset) -> tuple[data.GeoDataset, np.ndarray]:
    """The images of a dataset that have coordinates, and these."""

    def build(folder: Path) -> None:
        table = pd.DataFrame(coordinates(dataset), columns=["latitude", "longitude"])
        table.to_parquet(folder / "coordinates.parquet")

    folder = cache.compute("coordinates", {"dataset": dataset.identity}, ("geoscenes",), build)
    points = pd.read_parquet(folder / "coordinates.parquet").to_numpy()
    known = np.flatnonzero(np.isfinite(points).all(1))
    return dataset.subset(known.tolist()), points[known]


def _assign(cells: Sequence[Partitioning], points: np.ndarray) -> np.ndarray:
    """Cell of each point in every partitioning, ``int64 [N,heads]``."""
    return np.stack([partitioning.assign(points) for partitioning in cells], axis=1)


def _predicted(
    finest: Partitioning, ids: np.ndarray, truth: np.ndarray, scores: np.ndarray
) -> pd.DataFrame:
    """Most probable cells ``[N]`` of scores ``[N,C]`` against the true coordinates ``[N,2]``."""
    cells = scores.argmax(1)
    places = finest.coordinates[cells]
    return pd.DataFrame(
        {
            "image_id": ids,
            "latitude": truth[:, 0],
            "longitude": truth[:, 1],
            "predicted_latitude": places[:, 0],
            "predicted_longitude": places[:, 1],
            "km": great_circle_distance(truth, places),
            "cell": cells,
            "label": np.array(finest.labels, dtype=object)[cells],
            "probability": scores.max(1),
            "assigned": finest.assign(truth) != UNASSIGNED,
        }
    )


def accuracy_table(
    errors: Mapping[str, ArrayLike], radii: Sequence[float] = RADII_KM
) -> pd.DataFrame:
    """Geolocation accuracy and score in the form of Table 2, with 95 % intervals over images.

    Parameters
    ----------
    errors
        Distances in km, ``[N]``, by the name of what made them; infinite for a miss.
    radii
        In km.

    Returns
    -------
    pandas.DataFrame
        One row per name and quantity (``a_r`` for each radius, and ``score``, the mean score of
        the game, 0…5000): ``value``, ``low``, ``high``, ``n_images``. Wilson intervals for shares,
        the bootstrap's for the score.
    """
    rows = []
    for name, distances in errors.items():
        km = np.asarray(distances, dtype=float)
        found = {f"a_{radius}": statistics.accuracy_interval(km < radius) for radius in radii}
        found["score"] = statistics.interval(geoguessr_score(km))
        rows += [
            {
                "model": name,
                "quantity": quantity,
                "value": one.mean,
                "low": one.low,
                "high": one.high,
                "n_images": len(km),
            }
            for quantity, one in found.items()
        ]
    return pd.DataFrame(rows)


def difference(
    one: ArrayLike, other: ArrayLike, radius: float | None = None
) -> statistics.Interval:
    """How much better one model is than another on the same images, with its 95 % interval.

    Parameters
    ----------
    one, other
        Distances in km, ``[N]``, image by image.
    radius
        In km: the difference of a_r. None compares mean scores of the game.
    """
    a, b = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if radius is None:
        return statistics.interval(geoguessr_score(a) - geoguessr_score(b))
    return statistics.interval((a < radius).astype(float) - (b < radius))


# Partitionings in the form of Table 1 -------------------------------------------------------------


def read_coordinates(path: str | Path) -> np.ndarray:
    """Columns ``latitude`` and ``longitude`` of a CSV file, ``float64 [N,2]`` in degrees.

    Raises
    ------
    ValueError
        If there is no such file, or a column is missing.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"coordinates={str(path)!r} is no file; give the path of a CSV file, absolute or "
            f"as seen from {Path.cwd()}"
        )
    table = pd.read_csv(path)
    columns = ["latitude", "longitude"]
    if missing := [name for name in columns if name not in table]:
        raise ValueError(f"{path} lacks {' and '.join(missing)}; it has {list(table.columns)}")
    return table[columns].dropna().to_numpy(float)


def held_out(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates ``[N,2]`` to partition, and every fifth one to test the partitioning on."""
    tested = np.arange(len(points)) % HELD_OUT == 0
    return points[~tested], points[tested]


def configurations(
    points: np.ndarray, tau_min: Sequence[int], tau_d: int, s2_tau_min: int
) -> dict[str, Sequence[Partitioning]]:
    """Partitionings in the rows of Table 1: SemP and SemP_a at several thresholds, and S2.

    Parameters
    ----------
    points
        ``[N,2]`` in degrees, latitude first.
    tau_min, tau_d, s2_tau_min
        Thresholds as in :class:`LocationStudy`. The paper's sets of thresholds are scaled so that
        their 100 becomes the smallest ``tau_min``.

    Returns
    -------
    dict
        Name to partitionings, fine to coarse. The last has as many S2 cells as the first has
        semantic ones.
    """
    geocoder = OfflineGeocoder()
    addresses = geocoder.reverse(points)
    own = from_addresses(points, addresses, geocoder, tau_min, tau_d)
    found: dict[str, Sequence[Partitioning]] = {_named("SemP", tau_min): own}
    for preset in PAPER_PRESETS:
        name, scaled = scaled_preset(preset, tau_min)
        found[name] = from_addresses(points, addresses, geocoder, *scaled)
    return found | {"S2, as many cells": _as_many_s2_cells(points, own, s2_tau_min)}


def _as_many_s2_cells(
    points: np.ndarray, semantic: Sequence[Partitioning], fewest: int
) -> Sequence[Partitioning]:
    """S2 partitionings with about as many cells as the semantic ones, head by head."""
    most = [matching_tau_max(points, p.n_classes, fewest) for p in semantic]
    return s2_partitionings(points, most, fewest)


def scaled_preset(name: str, tau_min: Sequence[int]) -> tuple[str, Preset]:
    """Name and thresholds of a row of Table 1 whose 100 becomes the smallest of ``tau_min``."""
    scale = min(tau_min) / 100
    taus, fewest, area_only = PAPER_PRESETS[name]
    scaled = tuple(max(1, round(scale * tau)) for tau in taus)
    return _named(name.split()[0], scaled), Preset(scaled, max(1, round(scale * fewest)), area_only)


def _named(method: str, taus: Sequence[int]) -> str:
    return f"{method} {{{', '.join(map(str, taus))}}}"


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`accuracy_table` for reading: a row per model, best a_200 first."""
    text = [
        f"{row.value:,.0f} ({row.low:,.0f}–{row.high:,.0f})"
        if row.quantity == "score"
        else f"{row.value:.1%} ({row.low:.1%}–{row.high:.1%})"
        for row in table.itertuples()
    ]
    order = table[table["quantity"] == "a_200"].sort_values("value", ascending=False)["model"]
    columns = table["quantity"].unique()
    cells = table.assign(text=text).pivot(index="model", columns="quantity", values="text")
    return cells.loc[order, columns].rename_axis(index=None, columns=None)
