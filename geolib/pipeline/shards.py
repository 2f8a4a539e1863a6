"""The cached stages of the flow, one shard of images at a time.

A shard is the unit of work, of memory and of resuming. Its attribution maps are shared by every
segmenter, its segments by every attribution method, and nothing is read or computed where the
stage is already in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field

from geolib import data, segmentation
from geolib.ablation import MODES, sweep
from geolib.attribution import FLOAT32_METHODS, attribute
from geolib.images import UnreadableImage
from geolib.masks import encode
from geolib.model import Classifier, predict
from geolib.model.device import choose_device, uses_bf16
from geolib.runtime import cache
from geolib.scoring import S_MIN, TOP_P, Elements, extract_elements

ELEMENT_COLUMNS = [
    *("image_id", "country", "element", "x0", "y0", "x1", "y1", "segment", "name"),
    *("overlap", "mean", "center", "score", "area", "height", "width", "mask"),
]


class EvaluationConfig(BaseModel):
    """Settings of one run of the pipeline (§3.2, §3.3 and §5 of arXiv 2605.00912).

    Attributes
    ----------
    attribution, attribution_options : see :data:`geolib.attribution.METHODS`.
    attribution_target : the class whose evidence is asked for, the "predicted" or the "true" one.
    segmenter, segmenter_options : see :data:`geolib.segmentation.SEGMENTERS`.
    top_p : share of pixels that count as salient, in (0, 1].
    s_min : elements with a score below it are dropped, in 0..1.
    suppression : overlap from which a segment is a near-duplicate of a better one, in (0, 1].
    padding : of boxes, as a share of their longer side.
    candidates, center, combine, criterion, max_elements : see
        :func:`geolib.scoring.extract_elements`.
    fill, repeats, tests, individual, seed : see :class:`geolib.ablation.AblationSettings`.
    label : the class that outcomes are judged by, the true or the predicted one.
    batch_size : images per forward pass, by default as the device suggests; halved, with a
        warning, whenever memory runs out.
    shard_size : images per unit of work. The first 30 images of a split share the work done on the
        first 20, because shards are cut alike.
    precision : "auto", "bf16" or "fp32".
    device : where the classifier runs; "auto" is a GPU if there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attribution: str = "gradcam++"
    attribution_options: dict[str, Any] = {}
    attribution_target: Literal["predicted", "true"] = "predicted"
    segmenter: str = "felzenszwalb"
    segmenter_options: dict[str, Any] = {}
    top_p: float = Field(TOP_P, gt=0, le=1)
    s_min: float = Field(S_MIN, ge=0, le=1)
    suppression: float = Field(0.8, gt=0, le=1)
    padding: float = Field(0.05, ge=0)
    candidates: Literal["image", "salient"] = "image"
    center: Literal["centroid", "box"] = "centroid"
    combine: Literal["geometric", "arithmetic", "overlap", "mean", "center"] = "geometric"
    criterion: Literal["max", "iou", "min"] = "max"
    max_elements: int | None = Field(None, ge=0)
    fill: str | tuple[float, float, float] = "mean"
    repeats: int = Field(10, ge=1)
    tests: tuple[Literal["deletion", "insertion"], ...] = ("deletion", "insertion")
    individual: bool = True
    label: Literal["true", "predicted"] = "true"
    seed: int = 0
    batch_size: int | None = Field(None, ge=1)
    shard_size: int = Field(10, ge=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: str = "auto"


@dataclass(frozen=True)
class Extracted:
    """One image with its attribution map, its segments and its object-like elements."""

    item: data.GeoImage
    image: torch.Tensor
    attribution: torch.Tensor
    segments: segmentation.Segments
    elements: Elements


class Shard:
    """Some images of a dataset for a classifier; pixels are read when a stage first asks."""

    def __init__(self, dataset: data.GeoDataset, image_size: int, weights_sha256: str) -> None:
        self.dataset = dataset
        self.image_size = image_size
        self.weights_sha256 = weights_sha256  # hashed once for all shards

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the content of the shard's stages depends on."""
        return {"dataset": self.dataset.identity, "image_size": self.image_size}

    @cached_property
    def _read(self) -> tuple[list[data.GeoImage], list[dict[str, str]]]:
        items, skipped = [], []
        for i, image_id in enumerate(self.dataset.ids):
            try:
                items.append(self.dataset[i])
            except UnreadableImage as error:
                skipped.append({"id": image_id, "reason": error.reason})
        return items, skipped

    @property
    def items(self) -> list[data.GeoImage]:
        """Readable images."""
        return self._read[0]

    @property
    def skipped(self) -> list[dict[str, str]]:
        """Identity and reason of every unreadable image."""
        return self._read[1]

    @cached_property
    def batch(self) -> torch.Tensor:
        """Readable images at the classifier's size, ``[B, 3, S, S]`` in 0..1."""
        return data.to_batch(self.items, self.image_size)


def shards(dataset: data.GeoDataset, classifier: Classifier, size: int) -> Iterator[Shard]:
    """Cut a dataset into shards of at most ``size`` images, in order."""
    digest = classifier.weights_sha256
    for start in range(0, len(dataset), size):
        indices = range(start, min(start + size, len(dataset)))
        yield Shard(dataset.subset(indices), classifier.image_size, digest)


@contextmanager
def single_thread(needed: bool = True) -> Iterator[None]:
    """Let torch compute on one thread where that is needed.

    The last digits of float32 networks on a processor depend on the number of threads; those of a
    shard must not, whoever computes it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if needed else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _depends_on_threads(classifier: Classifier, precision: str) -> bool:
    device = classifier.mean.device
    return device.type == "cpu" and not uses_bf16(device, precision)


# The way of a batch: maps → segments → elements → outcomes ----------------------------------------


def attribute_batch(
    classifier: Classifier,
    images: torch.Tensor,
    config: EvaluationConfig,
    labels: Sequence[int] | None = None,
) -> torch.Tensor:
    """Attribution maps ``[B, S, S]`` of images ``[B, 3, S, S]`` (§3.2).

    Without ``labels``, the true classes, they are for the predicted ones whatever the settings.
    """
    targets = labels if config.attribution_target == "true" else None
    classifier.to(choose_device(config.device))
    precision = "fp32" if config.attribution in FLOAT32_METHODS else config.precision
    with single_thread(_depends_on_threads(classifier, precision)):
        common = {"precision": config.precision, "batch_size": config.batch_size}
        options = {**common, **config.attribution_options}
        return attribute(classifier, images, config.attribution, targets, **options)


def segment_batch(
    items: Sequence[data.GeoImage],
    images: torch.Tensor,
    maps: torch.Tensor | None,
    config: EvaluationConfig,
) -> list[segmentation.Segments]:
    """Segments of each image at the classifier's size.

    Networks see the photograph in its own pixels, the others what the classifier sees. ``maps`` may
    be None for segmenters that do not read them.
    """
    segment = _segmenter(config)
    size = (images.shape[2], images.shape[3])
    with single_thread(segment.model is not None):
        return [
            segment(
                item.image if segment.native else to_uint8(images[i : i + 1])[0],
                item=item,
                attribution=None if maps is None else maps[i],
                size=size,
            )
            for i, item in enumerate(items)
        ]


def extract_batch(
    items: Sequence[data.GeoImage],
    images: torch.Tensor,
    maps: torch.Tensor,
    segments: Sequence[segmentation.Segments],
    config: EvaluationConfig,
) -> list[Extracted]:
    """Object-like elements of each image (§3.3)."""
    named = {"top_p", "s_min", "padding", "max_elements"}
    named |= {"candidates", "center", "combine", "criterion"}
    options = config.model_dump(include=named)
    extracted = []
    for item, image, one, found in zip(items, images, maps, segments, strict=True):
        elements = extract_elements(one, found, threshold=config.suppression, **options)
        extracted.append(Extracted(item, image, one, found, elements))
    return extracted


def ablate_batch(
    classifier: Classifier,
    choices: Sequence[Sequence[Extracted]],
    labels: Sequence[int] | None,
    config: EvaluationConfig,
    dataset: str = "",
) -> list[pd.DataFrame]:
    """Deletion and insertion outcomes of a batch (§5) for each choice of its elements.

    Without labels they are judged by the prediction.
    """
    classifier.to(choose_device(config.device))
    images = [found.image for found in choices[0]]
    with single_thread(_depends_on_threads(classifier, config.precision)):
        return sweep(
            classifier,
            torch.stack(images) if images else torch.zeros(0, 3, 1, 1),
            labels,
            [[found.elements for found in extracted] for extracted in choices],
            image_ids=[found.item.id for found in choices[0]],
            dataset=dataset,
            batch_size=config.batch_size,
            individual=config.individual,
            **ablation_settings(config),
        )


def alone(config: EvaluationConfig) -> EvaluationConfig:
    """The same settings, under which nothing but single elements is tested."""
    return config.model_copy(update={"repeats": 0, "individual": True, "tests": MODES})


# The same, one shard at a time and kept -----------------------------------------------------------


def maps_folder(shard: Shard, classifier: Classifier, config: EvaluationConfig) -> Path:
    """Folder of a shard's attribution maps, ``maps.parquet``: their values, one after another."""

    labels = _targets(shard, classifier, config)

    def build(folder: Path) -> None:
        known = None if labels is None else [labels[item.id] for item in shard.items]
        values = attribute_batch(classifier, shard.batch, config, known).flatten()
        table = pd.DataFrame({"value": values.numpy()})
        # Bytes of one place stand together, which takes a third off floats.
        split: dict[str, Any] = {"use_byte_stream_split": True, "use_dictionary": False}
        table.to_parquet(folder / "maps.parquet", compression="zstd", **split)

    params = {"images": shard.identity, "maps": _maps_identity(shard, classifier, config)}
    return cache.compute("maps", params, ("geolib.attribution", "geolib.images"), build)


def attribution_maps(
    shard: Shard, classifier: Classifier, config: EvaluationConfig
) -> torch.Tensor:
    """Attribution maps of a shard's readable images, ``[B, S, S]``."""
    kept = pd.read_parquet(maps_folder(shard, classifier, config) / "maps.parquet")
    size = shard.image_size
    return torch.tensor(kept["value"].to_numpy()).reshape(-1, size, size)


def segments(
    shard: Shard, classifier: Classifier, config: EvaluationConfig
) -> list[segmentation.Segments]:
    """Segments of each readable image of a shard, at the size of the attribution maps."""
    segment = _segmenter(config)
    maps = attribution_maps(shard, classifier, config) if "attribution" in segment.uses else None

    def build(folder: Path) -> None:
        found = segment_batch(shard.items, shard.batch, maps, config)
        text = json.dumps([s.to_json() for s in found])
        (folder / "segments.json").write_text(text, encoding="utf-8")

    params = {"images": shard.identity, "segmenter": segment.key}
    if maps is not None:
        params["maps"] = _maps_identity(shard, classifier, config)
    folder = cache.compute("segments", params, ("geolib.segmentation", "geolib.images"), build)
    stored = json.loads((folder / "segments.json").read_text(encoding="utf-8"))
    size = (shard.image_size, shard.image_size)
    return [segmentation.Segments.from_json(one, size) for one in stored]


def extract(shard: Shard, classifier: Classifier, config: EvaluationConfig) -> list[Extracted]:
    """Object-like elements of each readable image of a shard (§3.3)."""
    return choices(shard, classifier, [config])[0]


def choices(
    shard: Shard, classifier: Classifier, configs: Sequence[EvaluationConfig]
) -> list[list[Extracted]]:
    """Elements under several settings that differ in nothing but how segments are chosen."""
    if not shard.items:
        return [[] for _ in configs]
    maps = attribution_maps(shard, classifier, configs[0])
    keys = [_segmenter(one).key for one in configs]
    asked = dict(zip(keys, configs, strict=True))
    found = {key: segments(shard, classifier, one) for key, one in asked.items()}
    return [
        extract_batch(shard.items, shard.batch, maps, found[key], one)
        for key, one in zip(keys, configs, strict=True)
    ]


def outcomes(shard: Shard, classifier: Classifier, config: EvaluationConfig) -> Path:
    """Folder of a shard's ``outcomes.parquet``, elements together, and ``skipped.json`` (§5)."""
    together = config.model_copy(update={"individual": False})
    return _ablated("outcomes", shard, classifier, together, lambda _, t: {"outcomes": t})


def elements(shard: Shard, classifier: Classifier, config: EvaluationConfig) -> Path:
    """Folder of a shard's ``elements.parquet``, and of the ``outcomes.parquet`` of each alone."""

    def tables(extracted: list[Extracted], found: pd.DataFrame) -> dict[str, pd.DataFrame]:
        single = found[found["region"] == "element"]
        return {"elements": elements_table(extracted, found), "outcomes": single}

    return _ablated("elements", shard, classifier, alone(config), tables)


def _ablated(
    stage: str,
    shard: Shard,
    classifier: Classifier,
    config: EvaluationConfig,
    tables: Callable[[list[Extracted], pd.DataFrame], Mapping[str, pd.DataFrame]],
) -> Path:
    """Folder of ``skipped.json`` and of the ``tables`` of a shard's elements and outcomes."""
    labels = true_labels(shard.dataset, classifier) if config.label == "true" else None

    def build(folder: Path) -> None:
        (folder / "skipped.json").write_text(json.dumps(shard.skipped), encoding="utf-8")
        extracted = extract(shard, classifier, config)
        known = None if labels is None else [labels[item.id] for item in shard.items]
        (found,) = ablate_batch(classifier, [extracted], known, config, shard.dataset.name)
        for name, table in tables(extracted, found).items():
            table.to_parquet(folder / f"{name}.parquet", index=False)

    params = {
        "images": shard.identity,
        "labels": labels,
        "classifier": shard.weights_sha256,
        **config_key(config),
    }
    return cache.compute(stage, params, ("geolib.pipeline.shards",), build)


def ablation_settings(config: EvaluationConfig) -> dict[str, Any]:
    """What :func:`geolib.ablation.faithfulness` takes of a configuration as it stands."""
    named = {"attribution", "segmenter", "tests", "fill", "repeats", "seed", "precision"}
    return config.model_dump(include=named)


def config_key(config: EvaluationConfig) -> dict[str, Any]:
    """What of a configuration the outcomes depend on, for the cache."""
    not_of_the_outcomes = {"batch_size", "shard_size", "device", "individual"}
    return {
        "config": config.model_dump(mode="json", exclude=not_of_the_outcomes),
        "segmenter": _segmenter(config).key,
    }


def predictions(dataset: data.GeoDataset, classifier: Classifier) -> pd.DataFrame:
    """Predictions of a classifier over a dataset; see :func:`geolib.model.predict`."""
    params = {"dataset": dataset.identity, "classifier": classifier.weights_sha256}

    def make() -> pd.DataFrame:
        table = predict(classifier, dataset)
        table.attrs["skipped"] = dataset.unreadable
        return table

    table = cache.table("predictions", params, ("geolib.model.prediction",), make)
    dataset.note(table.attrs.get("skipped", ()))
    return table


def elements_table(extracted: Sequence[Extracted], outcomes: pd.DataFrame) -> pd.DataFrame:
    """One row per element: its box, scores, mask, and what it does alone.

    ``deletion_effect`` is the log-probability that the label loses without the element's box,
    ``insertion_probability`` the label's probability when nothing else is shown; both are missing
    where elements were not tested one by one. ``name`` is what the element shows, where the
    segmenter knows; ``mask`` is COCO's run-length encoding.
    """
    parts = []
    for found in (one for one in extracted if len(one.elements)):
        height, width = found.elements.shape
        names = found.segments.labels
        corners = pd.DataFrame(found.elements.boxes, columns=["x0", "y0", "x1", "y1"])
        part = pd.concat([corners, found.elements.table], axis=1).assign(
            image_id=found.item.id,
            country=found.item.country,
            element=range(len(corners)),
            height=height,
            width=width,
            mask=[encode(mask)["counts"] for mask in found.elements.masks],
            name=[names[i] for i in found.elements.table["segment"]] if names else None,
        )
        parts.append(part[ELEMENT_COLUMNS])
    empty = pd.DataFrame(columns=ELEMENT_COLUMNS)
    table = pd.concat(parts, ignore_index=True) if parts else empty
    whole = outcomes[outcomes["test"] == "original"].set_index("image_id")["log_probability"]
    single = outcomes[outcomes["region"] == "element"].set_index(["image_id", "element"])
    keys = pd.MultiIndex.from_frame(table[["image_id", "element"]])
    deleted, kept = (single[single["test"] == test].reindex(keys) for test in MODES)
    shown = whole.reindex(table["image_id"]).to_numpy()
    return table.assign(
        deletion_effect=shown - deleted["log_probability"].to_numpy(),
        insertion_probability=kept["probability"].to_numpy(),
    )


def true_labels(dataset: data.GeoDataset, classifier: Classifier) -> dict[str, int]:
    """Index of each image's true class among the classifier's; ValueError where there is none."""
    unknown = [name for name in dataset.classes if name not in classifier.classes]
    if unknown:
        raise ValueError(
            f"the classifier does not know the classes {unknown[:5]} of dataset {dataset.name!r}; "
            f"its own begin with {list(classifier.classes[:5])}. Train one on these classes, or "
            "judge outcomes by the predicted class with label='predicted'"
        )
    labels = {}
    for image_id, label in zip(dataset.ids, dataset.labels, strict=True):
        if label is None:
            raise ValueError(
                f"image {image_id!r} has no label; judge outcomes by the predicted class with "
                "label='predicted'"
            )
        labels[image_id] = classifier.classes.index(dataset.classes[label])
    return labels


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Image batch ``[B, 3, H, W]`` in 0..1 as ``uint8 [B, H, W, 3]``."""
    return images.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def _segmenter(config: EvaluationConfig) -> segmentation.Segmenter:
    # The segments of `none` are the salient region.
    own = {"top_p": config.top_p} if config.segmenter == "none" else {}
    return segmentation.shared(config.segmenter, **own | config.segmenter_options)


def _targets(
    shard: Shard, classifier: Classifier, config: EvaluationConfig
) -> dict[str, int] | None:
    """The classes whose evidence is asked for where it is not the predicted ones'."""
    asked = config.attribution_target == "true"
    return true_labels(shard.dataset, classifier) if asked else None


def _maps_identity(shard: Shard, classifier: Classifier, config: EvaluationConfig) -> list[Any]:
    options, targets = config.attribution_options, _targets(shard, classifier, config)
    return [shard.weights_sha256, config.attribution, options, targets, config.precision]
