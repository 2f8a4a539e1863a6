from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from scipy import stats

from geolib import statistics
from geolib.concepts import (
    CELL,
    MIN_SIZE,
    ROUNDING,
    K,
    _check_map,
    _influence,
    _shifted,
    dilate,
    top_k,
)
from geolib.data import GeoDataset, GeoImage
from geolib.figures import GUIDED, INK, NATURAL, RANDOM, WIDTH, as_image, overlay, styled
from geolib.pipeline.shards import Shard
from geolib.runtime import cache
from geolib.runtime.here import progress_bar
from geolib.scoring import Array
from geolib.segmentation.networks.ade20k import SemanticNetwork
from geoscenes import semantic


def influence_table(summary: pd.DataFrame, dilation: int, groups: Mapping[str, str]) -> Styler:
    """Concept influence in the form of Theiner et al.'s Tables 3 and 4, largest median first.

    Parameters
    ----------
    summary : the table of :func:`summarise`; rare concepts are left out.
    dilation : which of its values of β.
    groups : group and its heading, in the order of the columns; the first one sorts.
    """
    rows = summary[(summary["dilation"] == dilation) & ~summary["rare"].astype(bool)]
    numbers = rows[["median", "low", "high"]].itertuples(index=False)
    rows = rows.assign(interval=[f"{m:.2f} ({low:.2f}–{high:.2f})" for m, low, high in numbers])
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
    """Photograph, explanation, semantic map and influence per concept (Theiner et al., Figure 3).

    Parameters
    ----------
    pictures, explanations, semantic_maps
        One of each per row: an image, ``[H, W]`` in 0..1, of which the brightest hundredth is
        drawn alike, and int ``[H, W]`` into ``names``.
    names
        Of all concepts.
    influences
        For each row, influence by name of the concept; concepts without one are drawn grey.
    titles
        What was predicted for each row.
    """
    shown = sorted({str(name) for values in influences for name in values.dropna().index})
    colours = dict(zip(shown, sns.color_palette("husl", len(shown)), strict=True)) | NATURAL
    # So that the widest bar is the same in every row.
    widest = max((values.max() for values in influences if values.notna().any()), default=1.0)
    figure, axes = plt.subplots(
        len(pictures),
        4,
        figsize=(WIDTH, 1.75 * len(pictures) + 0.3),
        squeeze=False,
    )
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


@styled
def concept_medians(table: pd.DataFrame, groups: Mapping[str, str]) -> Figure:
    """Median influence of each concept with its interval, a colour per group.

    Parameters
    ----------
    table
        Columns ``concept``, ``group``, ``median``, ``low``, ``high``, ``by_chance``; concepts are
        drawn in its order.
    groups
        Group and its name in the legend, at most two.
    """
    order = list(dict.fromkeys(table["concept"]))
    figure, axis = plt.subplots(figsize=(WIDTH, 0.42 * len(order) + 1.2))
    for (group, label), shift, colour in zip(
        groups.items(), (-0.14, 0.14), (RANDOM, GUIDED), strict=False
    ):
        rows = table[table["group"] == group]
        places = np.array([order.index(name) for name in rows["concept"]]) + shift
        axis.hlines(places, rows["low"], rows["high"], color=colour, lw=3, alpha=0.5)
        axis.plot(rows["median"], places, "o", color=colour, ms=7, label=label)
        axis.plot(rows["by_chance"], places, "|", color=INK, ms=11, mew=1.6)
    axis.plot([], [], "|", color=INK, ms=11, mew=1.6, label="laid anywhere")
    axis.axvline(1, color=INK, ls=":", lw=1.2)
    axis.set(yticks=range(len(order)), yticklabels=order, xlabel="median concept influence")
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.set_xlim(left=0)
    axis.grid(axis="x")
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, -0.75 / len(order) - 0.08), ncols=3)
    return figure


CHUNK = 16  # images per unit of work

COLUMNS = ["image_id", "group", "concept", "dilation", "size", "influence", "by_chance"]


# A whole dataset ----------------------------------------------------------------------------------


def semantic_maps(
    dataset: GeoDataset,
    size: int,
    network: SemanticNetwork | None = None,
    *,
    progress: bool = True,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """What every pixel of a dataset's readable images shows; found in the cache if known.

    Parameters
    ----------
    dataset : photographs, or scenes, which need no network.
    size : side of the maps in pixels, that of the explanations.
    network : of photographs.

    Returns
    -------
    maps : int16 [N,size,size], indices into `names`.
    names : of the concepts.

    Raises
    ------
    ValueError
        For photographs without a network.
    """
    found = [np.empty((0, size, size), np.int16)]
    with progress_bar("semantic maps", len(dataset), "image", progress) as bar:
        for start in range(0, len(dataset), CHUNK):
            part = dataset.subset(range(start, min(start + CHUNK, len(dataset))))
            found.append(_cached_maps(part, size, network))
            bar.update(len(part))
    return np.concatenate(found), semantic.CONCEPTS if network is None else network.names


def _cached_maps(part: GeoDataset, size: int, network: SemanticNetwork | None) -> np.ndarray:
    def build(folder: Path) -> None:
        maps = [_semantic_map(item, size, network) for item in Shard(part, size, "").items]
        np.save(folder / "maps.npy", np.array(maps, np.int16).reshape(-1, size, size))

    params = {
        "dataset": part.identity,
        "size": size,
        "network": None if network is None else network.key,
    }
    module = "geoscenes.semantic" if network is None else "geolib.segmentation.networks.ade20k"
    return np.load(cache.compute("semantic", params, (module,), build) / "maps.npy")


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

    Attributes
    ----------
    rows : one row per image, concept and dilation that reaches the smallest size: image_id, group,
        concept, dilation, size, influence, by_chance (the median over all shifts of the
        explanation).
    shifted : by (dilation, group, concept), float64 [n_shifts]: the mean influence over images
        when every explanation is shifted at random.
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

    In one shift an image moves its explanation by the same amount for all its concepts and
    dilations; different images move independently of each other, by draws seeded with `seed` and
    the image's id.

    Parameters
    ----------
    maps : [N,H,W], explanations.
    semantic_maps : int [N,H,W], indices into `names`; negative where no concept is.
    names : of the concepts.
    image_ids : [N].
    groups : [N], what the table sets apart, such as "within" and "beyond"; one group by default.
    k, min_size : see `concept_influence`.
    dilations : the values of β.
    n_shifts : random shifts per image.
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
                rows.append(
                    {
                        "image_id": image_ids[i],
                        "group": together[i],
                        "concept": names[number],
                        "dilation": dilation,
                        "size": mask.mean(),
                        "influence": value,
                        "by_chance": np.median(shifted),
                    }
                )
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
    """Influence of each concept over a dataset (§4.2, Table 3 and Table 4).

    The p-value is that of the torus-shift test: two-sided, the mean influence against its values
    under the random shifts, twice the smaller of the two tails. Holm's correction runs over the
    concepts of all groups that have enough images, for each dilation.

    Parameters
    ----------
    found : see `influences`.
    min_images : in fewer images a concept is rare: no test.
    n_resamples, seed : of the bootstrap over images.

    Returns
    -------
    DataFrame, one row per dilation, group and concept, largest median first: images; median, low,
    high (95 % bootstrap interval of the median, NaN for a single image); mean; by_chance (the
    median over images of the median over all shifts); p_value, p_holm (NaN where rare); rare.
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
                "p_holm": np.nan,  # needs the other rows, see below
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


def median_interval(
    *samples: np.ndarray,
    statistic: Callable[..., np.ndarray] = np.median,
    n_resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A median over images with its 95 % percentile bootstrap interval: value, low, high.

    Parameters
    ----------
    *samples : [n] each, resampled independently.
    statistic : of the samples, along `axis`; by default the median of one. `median_difference`
        compares two.

    Returns
    -------
    Bounds are NaN where a sample has fewer than two images.
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
