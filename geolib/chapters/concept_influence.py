"""Which things an explanation lies on, over a dataset (Theiner et al., §4.2 and Figure 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from scipy import stats

from geolib import statistics
from geolib.book.claims import Finding
from geolib.chapters import tables
from geolib.concepts import (
    CELL,
    MIN_SIZE,
    ROUNDING,
    K,
    _check_map,
    _influence,
    _shifted,
    concept_influence,
    dilate,
    top_k,
)
from geolib.data import GeoDataset, GeoImage
from geolib.figures import GUIDED, INK, RANDOM, WIDTH, as_image, dots, overlay, styled
from geolib.masks import Array
from geolib.model.classifier import IMAGENET_MEAN
from geolib.pipeline.shards import Shard
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.segmentation.networks.ade20k import SemanticNetwork
from geoscenes import semantic

CHUNK = 16  # images per unit of work
# Concepts whose influence the ledger asks for, in images located rightly, and in wrong ones.
RIGHT = ("sky", "building", "mountain", "road", "grass", "earth", "sand", "water", "animal")
WRONG = ("car", "person", "animal", "floor")
COLUMNS = ["image_id", "group", "concept", "dilation", "size", "influence", "by_chance"]
# Concepts that a reader expects in a colour of their own.
NATURAL = {"sky": "#4a90d9", "road": "#4b5259", "grass": "#7fb353", "tree": "#3f7d3a"}


def influence_table(summary: pd.DataFrame, dilation: int, groups: Mapping[str, str]) -> Styler:
    """The frequent concepts of :func:`summarise` at one β, as Tables 3 and 4, a block per group.

    ``groups`` holds each group's heading; the first one's medians sort.
    """
    rows = frequent(summary, dilation)
    rows = rows.assign(interval=tables.cells(rows, ".2f", ["median", "low", "high"]))
    columns = {
        "images": "images",
        "interval": "median (95 %)",
        "mean": "mean",
        "by_chance": "laid anywhere",
        "p_holm": "p (Holm)",
    }
    parts = {
        heading: rows[rows["group"] == group].set_index("concept")[list(columns)]
        for group, heading in groups.items()
    }
    table = pd.concat(parts, axis=1).rename(columns=columns, level=1)
    order = rows[rows["group"] == next(iter(groups))].sort_values("median", ascending=False)
    table = table.reindex([*order["concept"], *table.index.difference(order["concept"].tolist())])
    forms: dict[Any, str] = {"images": "{:.0f}", "p (Holm)": "{:.3f}", "median (95 %)": "{}"}
    formats: dict[Any, Any] = {name: forms.get(name[1], "{:.2f}") for name in table.columns}
    return table.rename_axis(index=None).style.format(formats, na_rep="–")


def frequent(summary: pd.DataFrame, dilation: int = 0) -> pd.DataFrame:
    """Rows of the concepts that enough images show."""
    return summary[(summary["dilation"] == dilation) & ~summary["rare"].astype(bool)]


def rare_concepts(summary: pd.DataFrame, min_images: int, groups: Mapping[str, str]) -> str:
    """Concepts of too few images for a test, with how many there are and their median."""
    rows = summary[(summary["dilation"] == 0) & summary["rare"].astype(bool)]
    parts = []
    for group, heading in groups.items():
        found = [
            f"{row['concept']} ({row['images']}: {row['median']:.2f})"
            for row in rows[rows["group"] == group].to_dict("records")
        ]
        parts.append(f"{heading}: {', '.join(found) or 'none'}")
    return (
        f"In fewer than {min_images} images, and so untested (images: median influence). "
        + "; ".join(parts)
        + "."
    )


@styled
def concept_influences(
    pictures: Sequence[Any],
    explanations: Sequence[np.ndarray],
    semantic_maps: Sequence[np.ndarray],
    names: Sequence[str],
    influences: Sequence[pd.Series],
    titles: Sequence[str],
) -> Figure:
    """Photograph, explanation, semantic map and influence per concept, a row per photograph.

    Semantic maps index ``names``; concepts without an influence are drawn grey.
    """
    shown = sorted({str(name) for values in influences for name in values.dropna().index})
    colours = dict(zip(shown, sns.color_palette("husl", len(shown)), strict=True)) | NATURAL
    # So that the widest bar is the same in every row.
    widest = max((values.max() for values in influences if values.notna().any()), default=1.0)
    size = (WIDTH, 1.75 * len(pictures) + 0.3)
    figure, axes = plt.subplots(len(pictures), 4, figsize=size, squeeze=False)
    for row, picture in enumerate(pictures):
        image = as_image(picture)
        values = influences[row].dropna().sort_values()
        table = np.array([to_rgb(colours[n] if n in values else "#9aa4ae") for n in names])
        # A few pixels far above the rest would leave the map of gradients black.
        bright = max(np.quantile(explanations[row], 0.99), np.finfo(np.float32).eps)
        heat = overlay(image, np.clip(explanations[row] / bright, 0, 1))
        panels = [image, heat, table[semantic_maps[row]]]
        for axis, panel in zip(axes[row], panels, strict=False):
            axis.imshow(panel, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[row, 0].set_ylabel(titles[row], fontsize=8.5)
        bars = axes[row, 3]
        bars.barh(values.index, values, color=[colours[str(name)] for name in values.index])
        bars.axvline(1, color=INK, ls=":", lw=1.2)
        bars.set_xlim(0, 1.05 * max(widest, 1.0))
        bars.tick_params(axis="y", length=0, labelsize=8.5)
        bars.tick_params(axis="x", labelsize=8)
        if row + 1 < len(pictures):
            bars.set_xticklabels([])
    for axis, title in zip(axes[0], ("image", "explanation", "concepts", "influence"), strict=True):
        axis.set_title(title, fontsize=10)
    return figure


def concept_medians(table: pd.DataFrame, groups: Mapping[str, str]) -> Figure:
    """Median influence of each concept with its interval, a colour per group."""
    rows = table.assign(value=table["median"], group=table["group"].map(groups))
    return dots(
        rows,
        "concept",
        by="group",
        label="median concept influence",
        colours=dict(zip(groups.values(), (RANDOM, GUIDED), strict=False)),
        lines={"": 1.0},
        marks={"by_chance": "laid anywhere"},
        limits=(0, None),
    )


def semantic_maps(
    dataset: GeoDataset,
    size: int,
    network: SemanticNetwork | None = None,
    *,
    progress: bool = True,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """What every pixel of a dataset's readable images shows, and the names of the concepts.

    int16 [N,size,size], indices into the names, kept in the cache. Scenes need no network;
    photographs without one are a ValueError.
    """
    found = [np.empty((0, size, size), np.int16)]
    with progress_bar("semantic maps", len(dataset), "image", progress) as bar:
        for start in range(0, len(dataset), CHUNK):
            part = dataset.subset(range(start, min(start + CHUNK, len(dataset))))
            found.append(_cached_maps(part, size, network))
            bar.update(len(part))
    return np.concatenate(found), semantic.CONCEPTS if network is None else network.names


def _cached_maps(part: GeoDataset, size: int, network: SemanticNetwork | None) -> np.ndarray:
    def make() -> dict[str, torch.Tensor]:
        maps = [_semantic_map(item, size, network) for item in Shard(part, size, "").items]
        return {"maps": torch.from_numpy(np.array(maps, np.int16).reshape(-1, size, size))}

    params = {
        "dataset": part.identity,
        "size": size,
        "network": None if network is None else network.key,
    }
    module = "geoscenes.semantic" if network is None else "geolib.segmentation.networks.ade20k"
    return cache.arrays("semantic-maps", params, (module,), make)["maps"].numpy()


def _semantic_map(item: GeoImage, size: int, network: SemanticNetwork | None) -> np.ndarray:
    if network is not None:
        return network(item.image, (size, size))
    if item.scene is None:
        raise ValueError(
            f"image {item.id!r} is a photograph: what it shows takes a network. Run `geolib fetch "
            f"{SemanticNetwork.asset}` and pass network=SemanticNetwork()"
        )
    shown = semantic.semantic_map(item.scene).astype(np.int16)
    return cv2.resize(shown, (size, size), interpolation=cv2.INTER_NEAREST)


@dataclass(frozen=True)
class Influences:
    """Influence of every concept in every image of a dataset.

    ``rows`` has one per image, concept and dilation that reaches the smallest size; by_chance is
    the median over all shifts of the explanation. ``shifted`` holds, by (dilation, group, concept),
    the mean influences over images [n_shifts] when every explanation is shifted at random.
    """

    rows: pd.DataFrame
    shifted: dict[Hashable, np.ndarray]


def influences(
    maps: Array,
    semantic_maps: Array,
    names: Sequence[str],
    image_ids: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    k: int = K,
    min_size: float = MIN_SIZE,
    dilations: Sequence[int] = (0, 3),
    n_shifts: int = 9999,
    seed: int = 0,
) -> Influences:
    """Influence of every concept over a dataset, and what chance would give (§4.2).

    From explanations and semantic maps [N,H,W], indices into `names`, negative where no concept is.
    One shift moves an image's explanation alike for all its concepts and dilations, by draws seeded
    with `seed` and the image's id; `groups` [N] are what the table sets apart.
    """
    together = list(groups) if groups is not None else ["all"] * len(image_ids)
    if not len(maps) == len(semantic_maps) == len(image_ids) == len(together):
        raise ValueError(
            f"{len(maps)} maps, {len(semantic_maps)} semantic_maps, {len(image_ids)} image_ids "
            f"and {len(together)} groups; expected as many of each"
        )
    rows = []
    sums: dict[Hashable, np.ndarray] = {}
    for i in np.argsort(image_ids):  # sums round alike in any order of images
        weights = top_k(maps[i], k)
        concepts = _check_map(semantic_maps[i], weights.shape)
        offsets = _offsets(weights.shape, n_shifts, seed, image_ids[i])
        for number in np.unique(concepts[concepts >= 0]):
            for dilation in dilations:
                mask = dilate(concepts == number, dilation)
                value = _influence(weights, mask, min_size)
                if np.isnan(value):
                    continue
                shifted = _shifted(weights, mask)
                key = (dilation, together[i], names[number])
                sums[key] = sums.get(key, 0) + shifted[offsets]
                name, chance = names[number], np.median(shifted)
                row = (image_ids[i], together[i], name, dilation, mask.mean(), value, chance)
                rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    counts = table.groupby(CELL).size().to_dict()
    return Influences(table, {key: total / counts[key] for key, total in sums.items()})


def _offsets(
    shape: tuple[int, ...], n_shifts: int, seed: int, image_id: str
) -> tuple[np.ndarray, np.ndarray]:
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return rng.integers(shape[0], size=n_shifts), rng.integers(shape[1], size=n_shifts)


def summarise(
    found: Influences, min_images: int = 100, n_resamples: int = 9999, seed: int = 0
) -> pd.DataFrame:
    """Influence of each concept over a dataset, largest median first (§4.2, Tables 3 and 4).

    The p-value is that of the torus-shift test: the mean influence against its values under the
    random shifts. Holm's correction runs, for each dilation, over the concepts of all groups that
    at least `min_images` show; the others are rare and untested.
    """
    rows = []
    for key, group in found.rows.groupby(CELL):
        values = group["influence"].to_numpy()
        median, low, high = median_interval(values, n_resamples=n_resamples, seed=seed)
        rare = len(group) < min_images
        rows.append(
            {
                **dict(zip(CELL, key, strict=True)),
                "images": len(group),
                "median": median,
                "low": low,
                "high": high,
                "mean": values.mean(),
                "by_chance": group["by_chance"].median(),
                "p_value": np.nan if rare else shift_p_value(values.mean(), found.shifted[key]),
                "rare": rare,
            }
        )
    columns = [*CELL, "images", "median", "low", "high", "mean", "by_chance"]
    table = pd.DataFrame(rows, columns=[*columns, "p_value", "p_holm", "rare"])
    table["p_holm"] = table.groupby("dilation")["p_value"].transform(statistics.holm)
    order = ["dilation", "group", "median"]
    return table.sort_values(order, ascending=[True, False, False]).reset_index(drop=True)


def shift_p_value(observed: float, shifted: np.ndarray) -> float:
    """Two-sided p-value of a mean influence: twice the smaller tail of its shifted values [R].

    The observed value counts as one more shift, so p is at least 2 / (R + 1).
    """
    above = (shifted >= observed - ROUNDING).sum() + 1
    below = (shifted <= observed + ROUNDING).sum() + 1
    return min(1.0, 2 * min(above, below) / (len(shifted) + 1))


def right_and_wrong(
    images: GeoDataset, km: pd.Series, radius: float, n: int | None
) -> tuple[GeoDataset, list[str]]:
    """The first n images located within a radius and the first n beyond; and which each is."""
    found = {
        name: [i for i, one in enumerate(images.ids) if one in km and (km[one] < radius) == right][
            :n
        ]
        for name, right in (("within", True), ("beyond", False))
    }
    chosen = [i for group in found.values() for i in group]
    return images.subset(chosen), [name for name, group in found.items() for _ in group]


def of_image(found: Influences, image_id: str) -> pd.Series:
    """Influence of each concept in one image, not grown."""
    rows = found.rows.query("image_id == @image_id and dilation == 0")
    return rows.set_index("concept")["influence"]


def colour_alone(
    found: Influences,
    batch: torch.Tensor,
    semantic_maps: Array,
    names: Sequence[str],
    min_images: int,
    k: int,
    min_size: float,
) -> tuple[pd.DataFrame, float]:
    """Median influences of a network and of its images' colours alone, and their rank correlation.

    Of images [N,3,H,W]: the largest squared difference from the baseline over the channels.
    """
    contrast = (batch - torch.tensor(IMAGENET_MEAN)[:, None, None]).square().amax(dim=1)
    ids = [str(i) for i in range(len(batch))]
    options: dict[str, Any] = {"k": k, "min_size": min_size, "n_shifts": 1, "dilations": [0]}
    colour = influences(contrast, semantic_maps, names, ids, **options)
    by_concept = found.rows.query("dilation == 0").groupby("concept")["influence"]
    medians = {
        "network": by_concept.median(),
        "colour alone": colour.rows.groupby("concept")["influence"].median(),
    }
    table = pd.DataFrame(medians)[by_concept.size() >= min_images]
    table = table.sort_values("network", ascending=False).rename_axis(index=None)
    return table, _rank_correlation(table)


def _rank_correlation(table: pd.DataFrame) -> float:
    """Of the first two columns; NaN for fewer than three rows."""
    first, second = table.iloc[:, 0], table.iloc[:, 1]
    return float(stats.spearmanr(first, second).statistic) if len(table) > 2 else np.nan


def of_cues(
    summary: pd.DataFrame,
    scenes: GeoDataset | None,
    group: Sequence[str],
    maps: Array,
    semantic_maps: np.ndarray,
    names: Sequence[str],
    k: int,
) -> tuple[pd.DataFrame, float, np.ndarray]:
    """How much of each concept is cues in rightly located scenes, beside its influence.

    Also the rank correlation of the two, and the influence of all cues as one concept in each
    scene. Without scenes nothing is known.
    """
    columns = ["share of its pixels that are cues", "median influence", "images"]
    inside = [i for i, name in enumerate(group) if name == "within"]
    if scenes is None or not inside:
        return pd.DataFrame(columns=columns), np.nan, np.array([])
    shown = [scenes[i].scene for i in inside]
    cues = np.stack([semantic.cue_map(scene) for scene in shown if scene is not None])
    pairs = zip(inside, cues, strict=True)
    influence = np.array([concept_influence(maps[i], cue, k=k, min_size=0) for i, cue in pairs])
    concepts = np.array(names)[semantic_maps[inside].ravel()]
    share = pd.Series(cues.ravel()).groupby(concepts).mean()
    rows = frequent(summary).query("group == 'within'").set_index("concept")
    table = rows.assign(cue=share.reindex(rows.index))[["cue", "median", "images"]]
    table = table.sort_values("cue", ascending=False).rename_axis(index=None)
    table.columns = pd.Index(columns)
    return table, _rank_correlation(table), influence[np.isfinite(influence)]


def findings(
    by_size: Mapping[float, Influences], min_images: int, images: str, seed: int
) -> dict[str, Finding]:
    """What the ledger asks of the influences, each at the first size that enough images reach."""
    measured: dict[str, Finding] = {}
    none = pd.Series(dtype=float)
    for size, found in by_size.items():
        by_cell = found.rows.groupby(CELL)
        parts = {key: part.set_index("image_id")["influence"] for key, part in by_cell}
        samples = {f"influence-{name}": [parts.get((0, "within", name), none)] for name in RIGHT}
        for name in WRONG:
            both = [parts.get((0, group, name), none) for group in ("beyond", "within")]
            samples[f"influence-wrong-{name}"] = both
        if size == max(by_size):
            plain, grown = (parts.get((beta, "within", "sky"), none) for beta in (0, 3))
            samples["influence-dilation-sky"] = [(grown - plain).dropna()]
        for claim, sample in samples.items():
            n = min(map(len, sample))
            if claim in measured or n < max(2, min_images):
                continue
            pair = len(sample) == 2
            value, low, high = median_interval(
                *(one.to_numpy() for one in sample),
                statistic=median_difference if pair else np.median,
                seed=seed,
            )
            smaller = "the smaller group, " if pair else ""
            about = f"{images}, {n} images, {smaller}at least {size:.0%} in size"
            measured[claim] = Finding(value=value, low=low, high=high, n=n, data=about)
    return measured


def median_interval(
    *samples: np.ndarray,
    statistic: Callable[..., np.ndarray] = np.median,
    n_resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A median over images with its 95 % percentile bootstrap interval: value, low, high.

    Samples [n] are resampled independently; `median_difference` compares two. Bounds are NaN where
    a sample has fewer than two images.
    """
    ordered = [np.sort(sample) for sample in samples]  # the order of images plays no part
    value = float(statistic(*ordered, axis=-1)) if all(map(len, ordered)) else np.nan
    if min(map(len, ordered)) < 2:
        return value, np.nan, np.nan
    low, high = stats.bootstrap(
        ordered,
        statistic,
        n_resamples=n_resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return value, float(low), float(high)


def median_difference(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    """Median of one sample minus that of the other, for `median_interval`."""
    return np.median(one, axis=axis) - np.median(other, axis=axis)
