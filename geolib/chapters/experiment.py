"""What every section of the book shares: data splits, trained classifier, chosen thresholds. What
an earlier notebook or run has computed is found in the cache, so notebooks run alone and in any
order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from typing import Any, Literal, Self

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

import geoscenes
from geolib import data, model, pipeline, statistics
from geolib.data import GeoDataset
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.runtime import cache
from geolib.training.kept import trained_classifier


def dataset_title(experiment: Experiment) -> str:
    """What the images are, in a few words."""
    synthetic = experiment.dataset == "geoscenes"
    kind = "GeoScenes (synthetic)" if synthetic else "photographs of a folder"
    return f"{kind}: {', '.join(experiment.evaluation.classes)}"


def data_note(experiment: Experiment) -> str:
    """How many images each split holds, and what results on them rest on."""
    sizes = {
        "to train": experiment.train,
        "to validate": experiment.validation,
        "to test": experiment.test,
        "to explain": experiment.evaluation,
    }
    counts = ", ".join(f"{len(split)} {purpose}" for purpose, split in sizes.items())
    if experiment.dataset == "geoscenes":
        return f"All results rest on synthetic scenes ({counts}), not on real photographs."
    skipped = {entry.id for split in sizes.values() for entry in split.skipped}
    return f"All results rest on real photographs ({counts}; {len(skipped)} files skipped)."


def _first(dataset: GeoDataset, n: int | None) -> GeoDataset:
    return dataset.subset(range(min(n or len(dataset), len(dataset))))


def elements_at_coverage(
    images: GeoDataset,
    classifier: model.Classifier,
    config: EvaluationConfig,
    s_min: float | None = None,
) -> list[Extracted]:
    """Every image with its elements, for a network on which no threshold was chosen: `s_min` is
    given, or chosen by what the elements cover of these images."""
    tuned = pipeline.by_coverage(images, classifier, config, s_min=s_min, progress=False)
    return pipeline.extract(images, classifier, tuned.config)


# Validation images on which thresholds are chosen, and with `COSTLY` maps.
TUNING_IMAGES, TUNING_COSTLY = 30, 20
COSTLY = ("scorecam", "rise")  # attribution methods that take hundreds of passes an image
TRAINING_SAMPLE = 1000  # training images on which accuracy is measured


class Experiment(BaseModel):
    """The shared settings of a run.

    ``classes``: countries told apart (for ``osv5m`` as ISO codes). ``n_*``: images per split, None
    takes all; compared are the first ``n_compare`` to explain, with ``COSTLY`` maps the first
    ``n_costly`` of these. ``weights``: None trains from scratch; ``checkpoint`` is in place of
    training, which ``max_epochs`` to ``horizontal_flip`` set (:class:`geolib.model.TrainConfig`).
    ``top_p``, ``s_min``: None chooses them on the validation split for each method and segmenter.
    ``repeats``: random layouts per image. ``label``: the class that judges outcomes. ``seed``: of
    data and layouts, and of the training unless ``training_seed`` is given. ``n_networks`` are
    trained for the headline, the further ones on ``n_train_further`` images, None for as many as
    the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = "geoscenes"
    root: str | None = None
    classes: tuple[str, ...] | None = None
    n_train: int | None = Field(None, ge=1)
    n_validation: int | None = Field(None, ge=1)
    n_test: int | None = Field(None, ge=1)
    n_eval: int | None = Field(None, ge=1)
    n_compare: int | None = Field(None, ge=1)
    n_costly: int | None = Field(None, ge=1)
    arch: str = "resnet18"
    weights: str | None = None
    checkpoint: str | None = None
    image_size: int = Field(160, ge=32)
    max_epochs: int = Field(2, ge=1)
    patience: int = Field(30, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: model.Schedule = "one_cycle"
    batch_size: int = Field(32, ge=1)
    horizontal_flip: bool = False
    top_p: float | None = Field(None, gt=0, le=1)
    s_min: float | None = Field(None, ge=0, le=1)
    segmenter_checkpoints: dict[str, str] = {}
    smoothgrad_samples: int = Field(25, ge=1)
    rise_masks: int = Field(300, ge=1)
    repeats: int = Field(10, ge=1)
    label: Literal["true", "predicted"] = "true"
    seed: int = Field(0, ge=0)
    training_seed: int | None = Field(None, ge=0)
    n_networks: int = Field(3, ge=1)
    n_train_further: int | None = Field(None, ge=1)
    _tuned: dict[str, pipeline.Tuned] = PrivateAttr(default_factory=dict)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """Experiment of a notebook's parameters; names that are no settings are ignored."""
        return cls(**{name: parameters[name] for name in cls.model_fields if name in parameters})

    def variant(self, **changes: Any) -> Self:
        """The experiment with other settings, validated; nothing computed is taken over."""
        return type(self)(**self.model_dump() | changes)

    @cached_property
    def train(self) -> GeoDataset:
        """Images the classifier learns from."""
        return self.split("train", self.n_train)

    @cached_property
    def validation(self) -> GeoDataset:
        """Images that stop the training and choose the thresholds."""
        return self.split("validation", self.n_validation)

    @cached_property
    def test(self) -> GeoDataset:
        """Unseen images for the classifier's accuracy."""
        return self.split("test", self.n_test)

    @cached_property
    def evaluation(self) -> GeoDataset:
        """Images that the pipeline explains."""
        return self.split("eval", self.n_eval)

    @cached_property
    def compared(self) -> GeoDataset:
        """Evaluation images on which methods and segmenters are compared."""
        return _first(self.evaluation, self.n_compare)

    def compared_with(self, attribution: str) -> GeoDataset:
        """The compared images, fewer for a costly attribution method."""
        return _first(self.compared, self.n_costly if attribution in COSTLY else None)

    def split(self, name: str, n: int | None) -> GeoDataset:
        """The first ``n`` images of a split of the data; ValueError that says why it is empty."""
        named = {} if self.classes is None else {"countries": self.classes}
        options: dict[str, dict[str, Any]] = {
            "geoscenes": {"size": self.image_size, **named},
            "osv5m": {"root": self.root, **named},
        }
        photographs = {"root": self.root, "classes": self.classes}
        chosen = options.get(self.dataset, photographs)
        found = data.load(self.dataset, name, n, self.seed, **chosen)
        if self.dataset == "folder" and not len(found):
            whole = data.load(self.dataset, "all", **chosen)
            raise ValueError(
                f"the split {name!r} of {self.root} is empty: it holds {len(whole)} photographs "
                f"({len(whole.skipped)} skipped), and three splits take at least three different "
                "ones of a country, better of three places; add some, or take the split 'all'"
            )
        return found

    @property
    def training(self) -> model.TrainConfig:
        """Settings of the training; what the experiment does not name is the paper's."""
        shared = self.model_dump(include=set(model.TrainConfig.model_fields) - {"weights"})
        if self.training_seed is not None:
            shared["seed"] = self.training_seed
        return model.TrainConfig(weights=self.weights or "random", **shared)

    @cached_property
    def classifier(self) -> model.Classifier:
        """The classifier that is explained: loaded from ``checkpoint``, else trained once."""
        if self.checkpoint:
            return model.load(self.checkpoint)
        return trained_classifier(self.train, self.validation, self.training)

    def networks(self, n: int | None = None) -> list[Self]:
        """This experiment and others that differ in the training alone, ``n`` or ``n_networks`` in
        all: a seed of their own each, on ``n_train_further`` images. A checkpoint stays alone."""
        further = range(1, 1 if self.checkpoint else n or self.n_networks)
        n_train = self.n_train_further or self.n_train
        first = self.training.seed
        return [self, *(self.variant(training_seed=first + k, n_train=n_train) for k in further)]

    def predictions(self, split: str) -> pd.DataFrame:
        """Table of :func:`geolib.model.predict` on a split; of training images, the first 1,000."""
        images: GeoDataset = getattr(self, split)
        if split == "train":
            images = _first(images, TRAINING_SAMPLE)
        return shards.predictions(images, self.classifier)

    def accuracy(self, split: str) -> dict[str, float]:
        """Accuracy with its Wilson interval: ``value``, ``low``, ``high``, ``n_images``."""
        table = self.predictions(split)
        found = statistics.accuracy_interval(table["label"] == table["prediction"])
        return {"value": found.mean, "low": found.low, "high": found.high, "n_images": len(table)}

    def ceilings(self) -> dict[str, float]:
        """Accuracy on the test scenes of the best observer of the visible cues who knows left and
        right, ``upright``, and of one who does not, ``mirrored``; empty for photographs."""
        if self.dataset != "geoscenes":
            return {}

        def make() -> pd.DataFrame:
            items = (self.test[i] for i in range(len(self.test)))
            scenes = [item.scene for item in items if item.scene is not None]
            best = partial(geoscenes.bayes_accuracy, scenes, countries=self.test.classes)
            found = {"upright": [best(left_right=True)], "mirrored": [best(left_right=False)]}
            return pd.DataFrame(found)

        table = cache.table("ceilings", {"dataset": self.test.identity}, ("geoscenes",), make)
        return {str(name): float(value) for name, value in table.iloc[0].items()}

    def tune(
        self, config: EvaluationConfig, classifier: model.Classifier | None = None
    ) -> pipeline.Tuned:
        """Thresholds for some settings, and by default the experiment's classifier: as given, or
        chosen on the first validation images."""
        n = TUNING_COSTLY if config.attribution in COSTLY else TUNING_IMAGES
        given = {"top_p": self.top_p, "s_min": self.s_min}
        if None not in given.values():
            return pipeline.as_given(config.model_copy(update=given))
        images, looks = _first(self.validation, n), classifier or self.classifier
        return pipeline.tune(images, looks, config, top_p=self.top_p, s_min=self.s_min)

    def tuned(
        self, attribution: str = "gradcam++", segmenter: str = "felzenszwalb", **options: Any
    ) -> pipeline.Tuned:
        """Thresholds of a method, with options of its own, and a segmenter; chosen once."""
        base = self.config(attribution, segmenter, tuned=False, **options)
        key = base.model_dump_json()
        if key not in self._tuned:
            self._tuned[key] = self.tune(base)
        return self._tuned[key]

    def config(
        self,
        attribution: str = "gradcam++",
        segmenter: str = "felzenszwalb",
        *,
        tuned: bool = True,
        **options: Any,
    ) -> EvaluationConfig:
        """Settings of the pipeline for a method, with options of its own, and a segmenter: with the
        thresholds chosen for both, or untuned with the defaults; those that are given stay."""
        if tuned:
            return self.tuned(attribution, segmenter, **options).config
        checkpoint = self.segmenter_checkpoints.get(segmenter)
        own = {"top_p", "s_min", "repeats", "label", "seed"}
        return EvaluationConfig(
            attribution=attribution,
            attribution_options=self._attribution_options(attribution) | options,
            segmenter=segmenter,
            segmenter_options={"checkpoint": checkpoint} if checkpoint else {},
            individual=False,
            **self.model_dump(include=own, exclude_none=True),
        )

    def _attribution_options(self, attribution: str) -> dict[str, Any]:
        return {
            "smoothgrad": {"n_samples": self.smoothgrad_samples},
            "rise": {"n_masks": self.rise_masks},
        }.get(attribution, {})

    def extract(
        self,
        attribution: str = "gradcam++",
        segmenter: str = "felzenszwalb",
        images: GeoDataset | None = None,
    ) -> list[Extracted]:
        """Every image (by default of the evaluation) with its map, segments and elements."""
        config = self.config(attribution, segmenter)
        return pipeline.extract(images or self.evaluation, self.classifier, config)

    def elements(
        self, attribution: str = "gradcam++", segmenter: str = "felzenszwalb"
    ) -> pd.DataFrame:
        """Elements of the evaluation images with each one's own effect."""
        config = self.config(attribution, segmenter)
        return pipeline.elements(self.evaluation, self.classifier, config)

    def outcomes(
        self,
        pairs: Iterable[tuple[str, str]],
        images: GeoDataset | None = None,
        *,
        tuned: bool = True,
    ) -> pd.DataFrame:
        """Outcome table for pairs of attribution method and segmenter, on the compared images; see
        :meth:`config` for the thresholds."""
        tables = []
        for method, segmenter in dict.fromkeys(pairs):
            chosen = images or self.compared_with(method)
            config = self.config(method, segmenter, tuned=tuned)
            tables.append(pipeline.evaluate(chosen, self.classifier, config))
        return pipeline.concat(tables)

    def maps(self, method: str) -> tuple[torch.Tensor, float]:
        """Attribution maps ``[B, S, S]`` of the images compared with it, and seconds per image."""
        config = self.config(method, tuned=False)
        return pipeline.maps(self.compared_with(method), self.classifier, config)
