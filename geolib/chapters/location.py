"""Where was it taken: partitionings, location models and their errors (Theiner et al., WACV 2022).
Training coordinates are partitioned in two ways; for each a network is trained from the country
classifier, and its answers are compared with the truth."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from pydantic import Field

from geolib import data, model, partitioning, statistics
from geolib.book.claims import Finding
from geolib.chapters import tables
from geolib.chapters.experiment import Experiment
from geolib.chapters.world_map import Guess
from geolib.data.scenes import SceneRecord
from geolib.data.tables import positions, read_table
from geolib.partitioning import OfflineGeocoder, Partitioning, Preset, great_circle_distance
from geolib.runtime import cache
from geolib.runtime.here import data_file
from geolib.training import location as networks
from geolib.training.batches import Examples
from geolib.training.kept import trained_once
from geoscenes import render

Kind = Literal["semantic", "s2"]
KINDS: Mapping[Kind, str] = {"semantic": "SemP", "s2": "S2"}
COORDINATES = ["latitude", "longitude"]
MODULES = ("geolib.training.location",)
SHOWN = 25  # cells on a map
HELD_OUT = 5  # of coordinates given as a file, every so many test the partitioning


class LocationExperiment(Experiment):
    """The shared settings of a run that predicts places, not only countries: ``n_location``
    training images (None: all) of ``location_size`` pixels (None: the country classifier's);
    ``tau_min``, one per head, and ``tau_d`` of the semantic cells, of which S2 gets as many;
    ``s2_tau_min`` images at least in an S2 cell; and where either training departs from that of the
    experiment."""

    n_location: int | None = Field(None, ge=1)
    location_size: int | None = Field(None, ge=32)
    tau_min: tuple[int, ...] = Field((20, 60, 300), min_length=1)
    tau_d: int = Field(10, ge=1)
    s2_tau_min: int = Field(5, ge=1)
    country_training: dict[str, Any] = Field({})
    location_training: dict[str, Any] = Field({})

    def images(self, split: str) -> data.GeoDataset:
        """Images of a split that have coordinates; scenes carry the cues of their region."""
        return self._splits[split][0]

    def coordinates(self, split: str) -> np.ndarray:
        """Where these images were taken: float64 [N,2] in degrees, latitude first."""
        return self._splits[split][1]

    @cached_property
    def _splits(self) -> dict[str, tuple[data.GeoDataset, np.ndarray]]:
        sizes = {"train": self.n_location, "validation": self.n_validation, "test": self.n_test}
        return {split: _with_coordinates(self._drawn(split, n)) for split, n in sizes.items()}

    def _drawn(self, split: str, n: int | None) -> data.GeoDataset:
        if self.dataset != "geoscenes":
            return self.split(split, n)
        options = {} if self.classes is None else {"countries": self.classes}
        size = self.location_config.image_size
        return data.load("geoscenes", split, n, self.seed, size=size, regional=True, **options)

    def located(self) -> tuple[LocationExperiment, str]:
        """This one if its images have coordinates, else the same on GeoScenes; and what was done.
        ValueError if some splits have coordinates and others have none."""
        counts = {split: len(self.images(split)) for split in self._splits}
        if not any(counts.values()):
            settings = self.model_dump(exclude={"dataset", "root", "classes"})
            note = (
                "**Your photographs are skipped here:** none of them has coordinates. Give "
                "`latitude` and `longitude` in `metadata.csv`. The chapter runs on GeoScenes."
            )
            return type(self)(dataset="geoscenes", **settings), note
        if empty := [split for split, n in counts.items() if n == 0]:
            raise ValueError(f"no image of {', '.join(empty)} has coordinates, but others have")
        listed = ", ".join(f"{n} in {split}" for split, n in counts.items())
        return self, f"Images with coordinates: {listed}."

    def partitionings(self, kind: Kind = "semantic") -> Sequence[Partitioning]:
        """Partitionings of the training coordinates, fine to coarse, one per head."""
        return self._cells[kind]

    @cached_property
    def _cells(self) -> dict[Kind, Sequence[Partitioning]]:
        points = self.coordinates("train")
        geocoder = OfflineGeocoder()
        semantic = partitioning.semantic_partitionings(points, geocoder, self.tau_min, self.tau_d)
        return {"semantic": semantic, "s2": _as_many_s2_cells(points, semantic, self.s2_tau_min)}

    @property
    def training(self) -> model.TrainConfig:
        """Settings of the training on countries."""
        return model.TrainConfig(**super().training.model_dump() | self.country_training)

    @property
    def location_config(self) -> model.TrainConfig:
        """Settings of the training on places."""
        size = {"image_size": self.location_size or self.image_size}
        return model.TrainConfig(**super().training.model_dump() | size | self.location_training)

    def location_model(self, kind: Kind = "semantic") -> networks.LocationModel:
        """The network with one head per partitioning, trained once, from the country classifier."""
        cells, initial, config = self.partitionings(kind), self.classifier, self.location_config
        heads = [one.labels for one in cells]

        def examples(split: str) -> Examples:
            found = [one.assign(self.coordinates(split)) for one in cells]
            return Examples(self.images(split), torch.from_numpy(np.stack(found, axis=1)))

        train, validation = examples("train"), examples("validation")
        content = json.dumps([heads, train.targets.tolist(), validation.targets.tolist()])
        params = {"config": config.model_dump(mode="json"), "initial": initial.weights_sha256}
        params |= {"train": train.images.identity, "validation": validation.images.identity}
        params["targets"] = hashlib.sha256(content.encode()).hexdigest()

        def fit(unfinished: Path) -> networks.LocationModel:
            given = (train, validation, heads, config)
            return networks.train_location(*given, initial=initial, checkpoints=unfinished)

        return trained_once("location", params, MODULES, fit, networks.load_location)

    def cell_probabilities(self, kind: Kind = "semantic", split: str = "test") -> networks.Located:
        """Probability of every cell of all heads, for the readable images of a split."""
        images, network = self.images(split), self.location_model(kind)
        crops = self.location_config.crops
        weights = network.classifier.weights_sha256
        params = {"dataset": images.identity, "model": weights, "crops": crops}

        def make() -> dict[str, torch.Tensor]:
            return networks.probabilities(network, images, crops=crops)._asdict()

        return networks.Located(**cache.arrays("cell-probabilities", params, MODULES, make))

    def places(self, kind: Kind = "semantic", split: str = "test") -> pd.DataFrame:
        """A row per readable image and ``variant``: the finest head (f), down the hierarchy (f*);
        ``km`` lie between truth and prediction, which is a ``cell`` of the finest head with its
        ``probability``; ``assigned``: whether the truth lies in a cell at all."""
        finest, *coarser = self.partitionings(kind)
        found = self.cell_probabilities(kind, split)
        heads = found.heads([one.n_classes for one in (finest, *coarser)])
        products = networks.down_the_hierarchy(heads, [finest.parents_in(one) for one in coarser])
        truth = self.coordinates(split)[found.indices]
        shared = pd.DataFrame(truth, columns=COORDINATES).assign(
            image_id=np.array(self.images(split).ids)[found.indices],
            assigned=finest.assign(truth) >= 0,
        )
        parts = []
        for variant, scores in (("f", heads[0]), ("f*", products)):
            predicted = finest.coordinates[scores.argmax(1)]
            one = shared.assign(variant=variant, cell=scores.argmax(1), probability=scores.max(1))
            one[["predicted_latitude", "predicted_longitude"]] = predicted
            parts.append(one.assign(km=great_circle_distance(truth, predicted)))
        return pd.concat(parts, ignore_index=True)

    def guess(self, kind: Kind, split: str, image_id: str) -> Guess:
        """The 25 most probable cells of one image by the finest head, for a map."""
        finest = self._with_polygons(kind)
        found = self.cell_probabilities(kind, split)
        place = self.images(split).ids.index(image_id)
        (scores, *_) = found.heads([finest.n_classes])
        cells = finest.cells.assign(probability=scores[found.indices.tolist().index(place)])
        cells = cells.nlargest(SHOWN, "probability")
        truth = self.coordinates(split)[[place]]
        predicted = cells[COORDINATES].to_numpy()[:1]
        (km,) = great_circle_distance(truth, predicted).tolist()
        return Guess(KINDS[kind], cells, tuple(truth[0]), tuple(predicted[0]), km)

    def _with_polygons(self, kind: Kind) -> Partitioning:
        """The finest partitioning with its polygons, which take a while and are kept."""
        finest: Any = self.partitionings(kind)[0]

        def build(folder: Path) -> None:
            finest.with_polygons().save(folder / "cells.parquet")

        params = {"kind": kind, "keys": finest.cells["key"].tolist(), **finest.parameters}
        params["outlines"] = cache.sha256(data_file("outlines.parquet"))
        modules = ("geolib.partitioning", "geolib.partitioning.polygons")
        return finest.load(cache.compute("polygons", params, modules, build) / "cells.parquet")

    def errors(self, split: str = "test") -> dict[str, np.ndarray]:
        """Distances in km of both models and variants, of the nearest cell, the best answer of any
        classifier (``ceiling``), of the place's ``own cell``, and of the commonest one of the
        training images (``training prior``). Infinite where the place lies in no cell."""
        found: dict[str, np.ndarray] = {}
        truth = self.coordinates(split)[self.cell_probabilities("semantic", split).indices]
        for kind, short in KINDS.items():
            table, finest = self.places(kind, split), self.partitionings(kind)[0]
            missed = np.where(table["assigned"], table["km"], np.inf)
            for variant in ("f", "f*"):
                found[f"{short}, {variant}"] = missed[table["variant"] == variant]
            found[f"{short}, ceiling"] = partitioning.nearest_cell_km(finest, truth)
            found[f"{short}, own cell"] = partitioning.own_cell_km(finest, truth)
        finest = self.partitionings("semantic")[0]
        commonest = finest.coordinates[[int(finest.cells["n_samples"].to_numpy().argmax())]]
        prior = great_circle_distance(truth, commonest.repeat(len(truth), axis=0))
        return found | {"training prior": np.where(finest.assign(truth) >= 0, prior, np.inf)}


def coordinates(dataset: data.GeoDataset) -> np.ndarray:
    """Where images were taken: float64 [N,2], degrees, NaN where unknown; no pixels are read."""
    places = []
    for record in dataset.records:
        of: Any = record
        if isinstance(record, SceneRecord):
            of = render(record.seed, record.country, **record.options)
        places.append([getattr(of, name, None) for name in COORDINATES])
    return np.array(places, dtype=float).reshape(-1, 2)


def _with_coordinates(dataset: data.GeoDataset) -> tuple[data.GeoDataset, np.ndarray]:
    """The images of a dataset that have coordinates, and these."""

    def make() -> pd.DataFrame:
        return pd.DataFrame(coordinates(dataset), columns=COORDINATES)

    params = {"dataset": dataset.identity}
    points = cache.table("places", params, ("geoscenes",), make).to_numpy()
    known = np.flatnonzero(np.isfinite(points).all(1))
    return dataset.subset(known.tolist()), points[known]


def accuracy_table(errors: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Accuracies a_r and mean score of the game (Table 2) from distances [N] in km, a row per
    ``model`` and ``quantity``: Wilson intervals for shares, the bootstrap's for the score."""
    rows = []
    for name, distances in errors.items():
        km = np.asarray(distances, dtype=float)
        for radius in partitioning.RADII_KM:
            found = statistics.accuracy_interval(km < radius)
            rows.append((name, f"a_{radius}", *found[:3], len(km)))
        found = statistics.interval(partitioning.geoguessr_score(km))
        rows.append((name, "score", *found[:3], len(km)))
    return pd.DataFrame(rows, columns=["model", "quantity", "value", "low", "high", "n"])


def accuracy_gain(one: ArrayLike, other: ArrayLike, radius: float, about: str) -> Finding:
    """How much larger a_r is for one than for another of two distances [N] in km, in points."""
    hits = np.asarray(one) < radius, np.asarray(other) < radius
    row = tables.mean_row(100 * (hits[0].astype(float) - hits[1]))
    low, high = np.nan_to_num([row["low"], row["high"]], nan=row["value"]).tolist()
    return Finding(value=row["value"], low=low, high=high, n=int(row["n"]), data=about)


def read_coordinates(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of a CSV file, as :func:`geolib.data.tables.read_table` understands it, float64
    [N,2] in degrees: those to partition, and every fifth one, to test the partitioning on. Rows
    without both of latitude and longitude are left out, with a warning that counts them."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"coordinates={str(path)!r} is no file; give the path of a CSV file, absolute or "
            f"as seen from {Path.cwd()}"
        )
    degrees = positions(read_table(path, COORDINATES, required=COORDINATES), path)
    n_given = degrees.notna().sum(axis=1)
    if n_unread := (n_given < 2).sum():
        why = f"{(n_given == 0).sum()} without coordinates, {(n_given == 1).sum()} with one of two"
        first = (n_given < 2).idxmax()
        warnings.warn(
            f"{path}: {n_unread} of {len(degrees)} rows are not read: {why}; the first is line "
            f"{first}",
            stacklevel=2,
        )
    points = degrees.dropna().to_numpy(float)
    if not len(points):
        raise ValueError(f"{path} holds no coordinates")
    tested = np.arange(len(points)) % HELD_OUT == 0
    return points[~tested], points[tested]


def configurations(
    points: np.ndarray, tau_min: Sequence[int], tau_d: int, s2_tau_min: int
) -> dict[str, Sequence[Partitioning]]:
    """Partitionings of points in the rows of Table 1, fine to coarse: SemP, SemP_a, then S2 with as
    many cells as the first. The paper's thresholds are scaled so that their 100 becomes the
    smallest ``tau_min``."""
    geocoder = OfflineGeocoder()
    addresses = geocoder.reverse(points)
    own = Preset(tuple(tau_min), tau_d)
    found: dict[str, Sequence[Partitioning]] = {
        str(one): partitioning.semantic_partitionings(points, geocoder, *one, addresses)
        for one in (own, *(one.scaled(min(tau_min)) for one in partitioning.PAPER_PRESETS))
    }
    s2 = _as_many_s2_cells(points, found[str(own)], s2_tau_min)
    return found | {"S2, as many cells": s2}


def _as_many_s2_cells(
    points: np.ndarray, semantic: Sequence[Partitioning], fewest: int
) -> Sequence[Partitioning]:
    """S2 partitionings with about as many cells as the semantic ones, head by head."""
    most = [partitioning.matching_tau_max(points, one.n_classes, fewest) for one in semantic]
    return partitioning.s2_partitionings(points, most, fewest)


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`accuracy_table` for reading: a row per model, best a_200 first."""
    is_score = table["quantity"] == "score"
    text = tables.cells(table, ".1%").where(~is_score, tables.cells(table, ",.0f"))
    order = table[table["quantity"] == "a_200"].sort_values("value", ascending=False)["model"]
    columns = table["quantity"].unique()
    cells = table.assign(text=text).pivot(index="model", columns="quantity", values="text")
    return cells.loc[order, columns].rename_axis(index=None, columns=None)
