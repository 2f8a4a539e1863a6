"""One photograph explained: prediction, map, elements and each element's own effect."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd

from geolib import data, images
from geolib.model import Classifier
from geolib.model.prediction import log_probabilities
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig
from geolib.pipeline.thresholds import Tuned, as_given, by_coverage
from geolib.runtime.here import printable, progress_bar
from geolib.scoring import score_segments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More boxes than these cannot be told apart on one photograph.
SHOWN_ELEMENTS = 8
# The dataset of photographs at hand.
PHOTOGRAPH = "photograph"
SYNTHETIC_NOTE = "This classifier was trained on synthetic scenes: it has never seen a real street."
_SHOWN = ("attribution", "segmenter", "top_p", "s_min", "suppression", "padding", "fill")


@dataclass(frozen=True)
class Explanation:
    """One photograph explained.

    Attributes
    ----------
    name : identity of the photograph.
    photo : uint8 ``[H, W, 3]``, upright.
    probabilities : of every class.
    attribution : map ``[S, S]`` in 0..1 at the classifier's size.
    elements : columns of ``pipeline.shards.elements_table``, largest own effect first: the order
        that numbers them in the figure and in the JSON.
    settings : attribution method, segmenter, model, the thresholds and how they were chosen.
    note : what a reader must know before believing it, why there are no elements, or nothing.
    credit : author and licence of the photograph, where known.
    """

    name: str
    photo: np.ndarray
    probabilities: dict[str, float]
    attribution: np.ndarray
    elements: pd.DataFrame
    settings: dict[str, Any]
    note: str
    credit: str

    @property
    def prediction(self) -> str:
        """The predicted class."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])

    @property
    def boxes(self) -> np.ndarray:
        """Boxes in the photograph's own pixels, int ``[M, 4]``, end-exclusive."""
        height, width = self.photo.shape[:2]
        scale = np.array([width, height, width, height]) / len(self.attribution)
        return np.rint(self.elements[["x0", "y0", "x1", "y1"]].to_numpy() * scale).astype(int)

    def to_dict(self) -> dict[str, Any]:
        """Prediction, elements, scores, boxes and each element's own effect, ready for JSON."""
        columns = ["overlap", "mean", "center", "score", "area"]
        columns += ["deletion_effect", "insertion_probability"]
        rows = self.elements[columns].round(6).to_dict("records")
        found: list[dict[Any, Any]] = []
        for box, row, name in zip(self.boxes.tolist(), rows, self.elements["name"], strict=True):
            found.append({"number": len(found) + 1, "box": box, **row})
            if name:
                found[-1]["name"] = name
        likely = sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:5]
        return {
            "image": self.name,
            "width": self.photo.shape[1],
            "height": self.photo.shape[0],
            "prediction": self.prediction,
            "probabilities": {name: round(value, 6) for name, value in likely},
            "settings": self.settings,
            "elements": found,
            **{key: text for key, text in (("note", self.note), ("credit", self.credit)) if text},
        }

    def figure(self) -> Figure:
        """Map, the elements with the largest effect, and what the prediction loses without each."""
        from geolib import figures  # matplotlib takes a while to import

        height, width = self.photo.shape[:2]
        attribution = cv2.resize(self.attribution, (width, height), interpolation=cv2.INTER_LINEAR)
        effects = self.elements["deletion_effect"].tolist()
        shown = self.boxes[:SHOWN_ELEMENTS], effects[:SHOWN_ELEMENTS]
        about = self.probabilities, self.note
        return figures.explanation(self.photo, attribution, *shown, *about, n_elements=len(effects))


def explain(
    classifier: Classifier,
    image: Any,
    config: EvaluationConfig | Tuned | None = None,
    *,
    name: str = "photograph",
) -> Explanation:
    """Explain one photograph: prediction, map, elements and each element's own effect.

    Parameters
    ----------
    classifier : the model that is explained.
    image : a path, bytes, PIL image, uint8 ``[H, W, 3]`` array, or an item of a dataset.
    config : settings, or chosen thresholds with theirs; by default :func:`by_coverage` chooses on
        the photograph itself. Outcomes are judged by the predicted class.
    name : identity in the result, where the image has none of its own.

    Raises
    ------
    geolib.images.UnreadableImage
        If the image cannot be read.
    """
    if isinstance(image, (str, Path)):
        return _explain(classifier, photographs([Path(image)]), config)
    item = image
    if not isinstance(image, data.GeoImage):
        item = data.GeoImage(name, images.read(image), None, None, None, None)
    pixels = f"{item.image.shape}".encode() + item.image.tobytes()
    held = [_Held(item, hashlib.sha256(pixels).hexdigest())]
    return _explain(classifier, data.GeoDataset(PHOTOGRAPH, (), "all", held), config)


def photographs(paths: Iterable[Path]) -> data.GeoDataset:
    """Photographs at hand, without labels, as :func:`explain` sees each of them."""
    records = [data.PhotoRecord(printable(path.name), path) for path in paths]
    return data.GeoDataset(PHOTOGRAPH, (), "all", records)


@dataclass(frozen=True)
class _Held:
    """A record of an image in memory, with the hash of what it was read from."""

    item: data.GeoImage
    key: str

    @property
    def id(self) -> str:
        return self.item.id

    @property
    def label(self) -> int | None:
        return self.item.label

    def content_key(self) -> str:
        return self.key

    def read(self) -> data.GeoImage:
        return self.item


def _explain(
    classifier: Classifier, photo: data.GeoDataset, config: EvaluationConfig | Tuned | None
) -> Explanation:
    """Explain the only image of a dataset; map and segments are kept in the cache."""
    item = photo[0]
    held = [_Held(item, photo.content_key(0))]
    photo = data.GeoDataset(photo.name, photo.classes, photo.split, held)
    tuned = as_given(config) if isinstance(config, EvaluationConfig) else config
    tuned = tuned or by_coverage(photo, classifier, progress=False)
    config = tuned.config
    (shard,) = shards.shards(photo, classifier, 1)
    found = shards.extract(shard, classifier, config)
    (outcomes,) = shards.ablate_batch(classifier, [found], None, shards.alone(config))
    log = log_probabilities(classifier, shard.batch, precision="fp32")[0]
    known = dict(zip(classifier.classes, log.exp().tolist(), strict=True))
    synthetic = classifier.trained_on == "geoscenes" and item.scene is None
    predicted = max(known, key=lambda name: known[name])
    notes = SYNTHETIC_NOTE if synthetic else "", _why_none(found[0], config, predicted)
    return Explanation(
        name=item.id,
        photo=item.image,
        probabilities=known,
        attribution=found[0].attribution.numpy(),
        elements=shards.elements_table(found, outcomes).sort_values(
            "deletion_effect", ascending=False, kind="stable", ignore_index=True
        ),
        settings={
            "model": classifier.name,
            "weights_sha256": classifier.weights_sha256,
            "trained_on": classifier.trained_on,
            "image_size": classifier.image_size,
            **config.model_dump(include=set(_SHOWN)),
            "thresholds": tuned.note,
        },
        note=" ".join(filter(None, notes)),
        credit=", ".join(part for part in (item.attribution, item.licence) if part),
    )


def _why_none(found: shards.Extracted, config: EvaluationConfig, predicted: str) -> str:
    """Why an image has no elements; empty where it has some."""
    if len(found.elements):
        return ""
    if not found.attribution.any():
        return (
            f"No elements: the {config.attribution} map is zero everywhere: nothing in it speaks "
            f"for {predicted} (ReLU drops evidence against it; a constant map counts as zero)."
        )
    masks, told = found.segments.masks, found.segments.note
    if not len(masks):
        return f"No elements: {config.segmenter} found no segments{told and f' ({told})'}."
    best = score_segments(found.attribution, masks, config.top_p)["score"].max()
    return (
        f"No elements: the best of {len(masks)} segments scores {np.floor(best * 1000) / 1000:g}; "
        f"it takes s_min = {config.s_min:g}, and more than zero."
    )


def explain_all(
    classifier: Classifier,
    dataset: data.GeoDataset,
    config: EvaluationConfig | Tuned | None = None,
    *,
    progress: bool = True,
) -> list[Explanation]:
    """Explain every readable image of a dataset; the others are listed in ``dataset.skipped``.

    By default :func:`by_coverage` chooses the thresholds, on all of them.
    """
    if config is None:
        alone = EvaluationConfig(shard_size=1)
        config = by_coverage(dataset, classifier, alone, progress=progress)
    explanations = []
    with progress_bar("explaining", len(dataset), "image", progress) as bar:
        for i in range(len(dataset)):
            with suppress(images.UnreadableImage):
                explanations.append(_explain(classifier, dataset.subset([i]), config))
            bar.update()
    return explanations
