"""The flow over a dataset, and over one photograph.

``evaluate`` streams a dataset through attribution, segmentation, scoring and both tests;
``elements`` gives the object-like elements behind its numbers; ``tune`` chooses the two
thresholds that the paper leaves to a validation set; ``explain`` takes a single photograph.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from geolib import data, figures, images, segmentation, statistics
from geolib.ablation import faithfulness
from geolib.attribution import attribute
from geolib.model import Classifier, choose_device
from geolib.pipeline import shards
from geolib.pipeline.shards import EvaluationConfig, Extracted
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import extract_elements

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "EvaluationConfig",
    "Explanation",
    "Tuned",
    "concat",
    "elements",
    "evaluate",
    "explain",
    "explain_all",
    "export",
    "extract",
    "maps",
    "tune",
]

TOP_P = (0.05, 0.1, 0.2, 0.3)
S_MIN = (0.3, 0.5, 0.65, 0.8)
MAX_COVERAGE = 0.25
# A few dozen images flip too few decisions to tell settings apart by accuracy.
TUNING_METRIC = "log_probability"
# More boxes than these cannot be told apart on one photograph.
SHOWN_ELEMENTS = 8
SYNTHETIC_NOTE = "This classifier was trained on synthetic scenes: it has never seen a real street."


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
    memory stays bounded, and a killed run goes on where it stopped. The table is the same to the
    last byte, with any number of workers and after any interruption.

    Parameters
    ----------
    dataset
        Images; unreadable ones are left out, counted in a warning and listed in
        ``table.attrs["skipped"]``.
    classifier
        The model that is explained.
    config
        Settings; the defaults are the book's.
    client
        Of ``pipeline.cluster.connect``, to share the shards among workers; None for one process.
    progress
        Whether to show a progress bar.

    Returns
    -------
    pandas.DataFrame
        The outcome table: one row per image × test × region × repeat.

    Raises
    ------
    ValueError
        If the dataset is empty or wholly unreadable, an image's label is outside the classes, or
        an attribution method or a segmenter is unknown.
    ConnectionError, RuntimeError
        If the cluster is lost; see :func:`geolib.pipeline.cluster.compute`.
    """
    return _collect(dataset, classifier, config, "outcomes.parquet", client, progress)


def elements(
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None = None,
    *,
    client: Client | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Object-like elements of a dataset, one row each (§3.3).

    Parameters, caching and errors are those of :func:`evaluate`, whose results are shared; the
    columns are those of :func:`geolib.pipeline.shards.elements_table`. Effects are missing where
    ``config.individual`` is false.
    """
    return _collect(dataset, classifier, config, "elements.parquet", client, progress)


def _collect(
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None,
    name: str,
    client: Client | None,
    progress: bool,
) -> pd.DataFrame:
    config = config or EvaluationConfig()
    if client is not None:
        # dask takes a while to import; only runs on a cluster need it.
        from geolib.pipeline import cluster

        cluster.compute(client, dataset, classifier, config, progress=progress)
        progress = False
    tables, skipped = [], []
    title = f"{config.attribution} × {config.segmenter}"
    for shard in _shards(dataset, classifier, config, title, progress):
        folder = shards.outcomes(shard, classifier, config)
        tables.append(pd.read_parquet(folder / name))
        skipped.extend(json.loads((folder / "skipped.json").read_text()))
    if len(skipped) == len(dataset):
        raise ValueError(f"none of the {len(dataset)} images of the dataset could be read")
    if skipped:
        warnings.warn(
            f"{len(skipped)} of {len(dataset)} images were skipped, the first because: "
            f"{skipped[0]['reason']}",
            stacklevel=3,
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
    title: str,
    progress: bool,
) -> Iterator[shards.Shard]:
    if len(dataset) == 0:
        raise ValueError("dataset holds no images")
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
    title = f"{config.attribution} × {config.segmenter}"
    found = _shards(dataset, classifier, config, title, progress)
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
    for shard in _shards(dataset, classifier, config, config.attribution, progress):
        folder = shards.maps_folder(shard, classifier, config)
        found.append(shards.attribution_maps(shard, classifier, config))
        seconds += cache.seconds(folder)
    together = torch.cat(found)
    return together, seconds / max(len(together), 1)


@dataclass(frozen=True)
class Tuned:
    """Chosen thresholds.

    Attributes
    ----------
    config
        The settings with the chosen ``top_p`` and ``s_min``.
    curve
        Every pair tried, with its ``coverage`` and ``insertion_advantage``; empty without labels.
    note
        How the choice was made.
    chosen
        The row of the curve that was chosen; empty if nothing was.
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
    repeats: int = 3,
    max_coverage: float = MAX_COVERAGE,
    progress: bool = True,
) -> Tuned:
    """Choose the salient share and the score threshold on a validation split (§3.2, §3.3).

    The paper says that p is chosen on a validation set by coverage and faithfulness, and not how.
    Here: the pair with the highest insertion advantage, in log-probability of the true class,
    among those whose elements cover at most ``max_coverage`` of the image on average. No other
    split is read.

    Parameters
    ----------
    validation
        Labelled images that are in no other split. Without labels nothing can be chosen: the
        defaults are returned, and the note names them.
    classifier, config
        As for :func:`evaluate`.
    top_p, s_min
        Values tried.
    repeats
        Random layouts per image while choosing.
    max_coverage
        Largest mean coverage allowed, a share of the image.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Tuned
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
    few = {"repeats": repeats, "tests": ("insertion",), "individual": False}
    tables: dict[tuple[float, float], list[pd.DataFrame]] = {pair: [] for pair in pairs}
    for shard in _shards(validation, classifier, config, "choosing p and s_min", progress):
        for pair in pairs:
            update = {"top_p": pair[0], "s_min": pair[1], **few}
            candidate = config.model_copy(update=update)
            folder = shards.outcomes(shard, classifier, candidate)
            tables[pair].append(pd.read_parquet(folder / "outcomes.parquet"))
    curve = pd.DataFrame(
        {"top_p": pair[0], "s_min": pair[1], **_insertion(pd.concat(parts))}
        for pair, parts in tables.items()
    )
    chosen = statistics.choose(curve, max_coverage)
    note = (
        f"p = {chosen['top_p']:g} and s_min = {chosen['s_min']:g}, chosen on {len(validation)} "
        f"validation images: highest insertion advantage in log-probability at coverage "
        f"≤ {max_coverage:.0%}"
    )
    update = {"top_p": float(chosen["top_p"]), "s_min": float(chosen["s_min"])}
    return Tuned(config.model_copy(update=update), curve, note, chosen)


def _insertion(outcomes: pd.DataFrame) -> dict[str, float]:
    guided = outcomes[outcomes["region"] == "guided"]
    return {
        "coverage": guided["coverage"].mean(),
        "n_elements": guided["n_elements"].mean(),
        "insertion_advantage": statistics.advantages(outcomes, metric=TUNING_METRIC)[
            "advantage"
        ].mean(),
    }


@dataclass(frozen=True)
class Explanation:
    """One photograph explained.

    Attributes
    ----------
    name
        Identity of the photograph.
    photo
        ``uint8 [H, W, 3]``, upright.
    probabilities
        Probability of every class.
    attribution
        Map ``[S, S]`` in 0..1 at the classifier's size.
    elements
        Columns of ``pipeline.shards.elements_table``, largest own effect first: the order that
        numbers them in the figure and in the JSON.
    settings
        Attribution method, segmenter, thresholds and model.
    note
        What a reader must know before believing it; empty if nothing.
    credit
        Author and licence of the photograph; empty where none is known.
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
        size = self.attribution.shape[0]
        scale = np.array([width, height, width, height]) / size
        return np.rint(self.elements[["x0", "y0", "x1", "y1"]].to_numpy() * scale).astype(int)

    def to_dict(self) -> dict[str, Any]:
        """Prediction, elements, scores, boxes and each element's own effect, ready for JSON."""
        columns = ["overlap", "mean", "center", "score", "area"]
        columns += ["deletion_effect", "insertion_probability"]
        rows = zip(
            self.boxes.tolist(), self.elements[columns].round(6).to_dict("records"), strict=True
        )
        found = [{"number": i, "box": box, **row} for i, (box, row) in enumerate(rows, start=1)]
        for element, name in zip(found, self.elements["name"], strict=True):
            if name:
                element["name"] = name
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
        height, width = self.photo.shape[:2]
        attribution = cv2.resize(self.attribution, (width, height), interpolation=cv2.INTER_LINEAR)
        effects = self.elements["deletion_effect"].tolist()
        return figures.explanation(
            self.photo,
            attribution,
            self.boxes[:SHOWN_ELEMENTS],
            effects[:SHOWN_ELEMENTS],
            self.probabilities,
            self.note,
            n_elements=len(effects),
        )


def explain(
    classifier: Classifier,
    image: Any,
    config: EvaluationConfig | None = None,
    *,
    name: str = "photograph",
) -> Explanation:
    """Explain one photograph: prediction, map, elements and each element's own effect.

    Parameters
    ----------
    classifier
        The model that is explained.
    image
        A path, bytes, PIL image, ``uint8 [H, W, 3]`` array, or an item of a dataset.
    config
        Settings; outcomes are judged by the predicted class.
    name
        Identity in the result, where the image has none of its own.

    Returns
    -------
    Explanation

    Raises
    ------
    geolib.images.UnreadableImage
        If the image cannot be read.
    """
    config = config or EvaluationConfig()
    item = _as_item(image, name)
    batch = data.to_batch([item], classifier.image_size)
    device = choose_device(config.device)
    classifier.to(device)
    attribution = attribute(
        classifier,
        batch,
        config.attribution,
        precision=config.precision,
        **config.attribution_options,
    )[0]
    segment = segmentation.shared(config.segmenter, **config.segmenter_options)
    segments = shards.segment_item(segment, item, batch[0], attribution)
    found = extract_elements(
        attribution,
        segments,
        top_p=config.top_p,
        s_min=config.s_min,
        threshold=config.suppression,
        padding=config.padding,
    )
    outcomes = faithfulness(
        classifier,
        batch,
        None,
        [found],
        image_ids=[item.id],
        fill=config.fill,
        repeats=1,
        batch_size=config.batch_size,
        individual=True,
        precision=config.precision,
    )
    extracted = Extracted(item, batch[0], attribution, segments, found)
    with torch.inference_mode():
        probabilities = classifier(batch.to(device)).softmax(1)[0].tolist()
    synthetic = classifier.trained_on == "geoscenes" and item.scene is None
    return Explanation(
        name=item.id,
        photo=item.image,
        probabilities=dict(zip(classifier.classes, probabilities, strict=True)),
        attribution=attribution.numpy(),
        elements=shards.elements_table([extracted], outcomes).sort_values(
            "deletion_effect", ascending=False, kind="stable", ignore_index=True
        ),
        settings={
            "model": classifier.name,
            "weights_sha256": classifier.weights_sha256,
            "trained_on": classifier.trained_on,
            "image_size": classifier.image_size,
            **config.model_dump(include=set(_SHOWN)),
        },
        note=SYNTHETIC_NOTE if synthetic else "",
        credit=", ".join(part for part in (item.attribution, item.licence) if part),
    )


_SHOWN = ("attribution", "segmenter", "top_p", "s_min", "suppression", "padding", "fill")


def explain_all(
    classifier: Classifier,
    dataset: data.GeoDataset,
    config: EvaluationConfig | None = None,
    *,
    progress: bool = True,
) -> list[Explanation]:
    """Explain every readable image of a dataset; the others are listed in ``dataset.skipped``."""
    explanations = []
    with progress_bar("explaining", len(dataset), "image", progress) as bar:
        for i in range(len(dataset)):
            with suppress(images.UnreadableImage):
                explanations.append(explain(classifier, dataset[i], config))
            bar.update()
    return explanations


def _as_item(image: Any, name: str) -> data.GeoImage:
    if isinstance(image, data.GeoImage):
        return image
    if isinstance(image, (str, Path)):
        name = Path(image).name
    pixels = images.read(image)
    return data.GeoImage(name, pixels, None, None, None, None)


def export(
    folder: str | Path,
    dataset: data.GeoDataset,
    classifier: Classifier,
    config: EvaluationConfig | None = None,
) -> list[Path]:
    """Write outcomes, maps and elements of a dataset in open formats.

    Parameters
    ----------
    folder
        Receives ``outcomes.parquet``, ``elements.parquet``, ``maps.parquet`` (a row per image,
        the map as bytes of ``side`` × ``side`` float32 values) and ``elements.coco.json``.
    dataset, classifier, config
        As for :func:`evaluate`.

    Returns
    -------
    list of pathlib.Path
        The files written.
    """
    config = config or EvaluationConfig()
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    table = elements(dataset, classifier, config, progress=False)
    evaluate(dataset, classifier, config, progress=False).to_parquet(target / "outcomes.parquet")
    table.to_parquet(target / "elements.parquet")
    _maps_table(dataset, classifier, config).to_parquet(target / "maps.parquet")
    coco = _coco(dataset.ids, table, classifier.image_size)
    (target / "elements.coco.json").write_text(json.dumps(coco))
    return sorted(target.iterdir())


def _maps_table(
    dataset: data.GeoDataset, classifier: Classifier, config: EvaluationConfig
) -> pd.DataFrame:
    rows = []
    for shard in shards.shards(dataset, classifier, config.shard_size):
        maps = shards.attribution_maps(shard, classifier, config)
        for item, one in zip(shard.items, maps, strict=True):
            rows.append({"image_id": item.id, "side": len(one), "map": one.numpy().tobytes()})
    return pd.DataFrame(rows, columns=["image_id", "side", "map"])


def _coco(ids: Iterable[str], table: pd.DataFrame, size: int) -> dict[str, Any]:
    number = {image_id: i for i, image_id in enumerate(ids, start=1)}
    return {
        "images": [
            {"id": i, "file_name": image_id, "width": size, "height": size}
            for image_id, i in number.items()
        ],
        "categories": [{"id": 1, "name": "element"}],
        "annotations": [
            {
                "id": i,
                "image_id": number[row["image_id"]],
                "category_id": 1,
                "bbox": [row["x0"], row["y0"], row["x1"] - row["x0"], row["y1"] - row["y0"]],
                "area": round(row["area"] * row["height"] * row["width"]),
                "segmentation": {"size": [row["height"], row["width"]], "counts": row["mask"]},
                "iscrowd": 0,
                "score": row["score"],
            }
            for i, row in enumerate(table.to_dict("records"), start=1)
        ],
    }
