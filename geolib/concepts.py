"""Concept influence: how much of an explanation lies on each thing an image shows.

Definitions of Theiner et al. (arXiv 2104.14995), §3.2, and their dataset-level table, §4.2 and
appendix B. Beyond the paper: a test against the same explanation laid elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy import stats

from geolib import cache, statistics
from geolib.data import GeoDataset, GeoImage
from geolib.geoscenes import semantic
from geolib.progress import progress_bar
from geolib.scoring import Array, to_numpy, top_weights
from geolib.segmentation.ade20k import SemanticNetwork
from geolib.stages import Shard, identity

K = 1000
MIN_SIZE = 0.1
# The paper's images have 224 × 224 pixels: its 1,000 are 2 % of them.
PAPER_PIXELS = 224 * 224
COLUMNS = ["image_id", "group", "concept", "dilation", "size", "influence", "by_chance"]
CELL = ["dilation", "group", "concept"]
# Shifts whose mean equals the observed one but for the rounding of a Fourier transform.
ROUNDING = 1e-9
CHUNK = 16  # images per unit of work


def scaled_k(height: int, width: int, k: int = K) -> int:
    """As large a share of an image as ``k`` pixels are of the paper's 224 × 224."""
    return max(1, round(k / PAPER_PIXELS * height * width))


def top_k(attribution: Array, k: int = K) -> np.ndarray:
    """Weight of each pixel among the k most important ones, e_k (§3.2).

    Pixels above the k-th largest value weigh 1; pixels tied at it share the places that remain
    equally, so that nothing depends on where a pixel lies. Only ranks matter.

    Parameters
    ----------
    attribution : [H,W], finite.
    k : number of pixels, 1 to H·W.

    Returns
    -------
    float64 [H,W] in 0…1, summing to k.

    Raises
    ------
    ValueError
        For a map that is not [H,W] or not finite, or a k outside 1…H·W.
    """
    values = to_numpy(attribution)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"attribution has shape {values.shape}; expected one map [H,W]")
    if not np.isfinite(values).all():
        raise ValueError("attribution holds NaN or infinite values; expected a finite map")
    if not 1 <= index(k) <= values.size:
        raise ValueError(
            f"k={k} is not between 1 and the map's {values.size} pixels; scaled_k gives the "
            "paper's share of them"
        )
    return top_weights(values, k)


def dilate(mask: np.ndarray, dilation: int) -> np.ndarray:
    """Mask bool [H,W] grown by ``dilation`` pixels in all eight directions, borders included."""
    if index(dilation) < 0:
        raise ValueError(f"dilation={dilation}; expected a number of pixels, 0 or more")
    square = np.ones((2 * dilation + 1, 2 * dilation + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), square).astype(bool)


def concept_influence(
    attribution: Array,
    mask: Array,
    k: int = K,
    min_size: float = MIN_SIZE,
    dilation: int = 0,
) -> float:
    """Concept influence ci = tki / s̄ of one concept in one image (§3.2, eq. 1 to 3).

    ``tki = |m ∧ e_k| / k`` is the share of the k most important pixels that lie on the concept, and
    ``s̄ = |m| / HW`` the share of the image that it takes. An explanation spread evenly, or laid
    anywhere, gives 1 on average.

    Parameters
    ----------
    attribution : [H,W], finite.
    mask : bool [H,W], where the concept is, m.
    k : number of most important pixels, at most H·W; ties at the cut share places, see `top_k`.
    min_size : smallest share s̄ of the image, 0…1.
    dilation : pixels by which the mask is grown first, β: so many dilations by a full 3 × 3
        square. The grown mask counts in s̄ and against `min_size`.

    Returns
    -------
    ci, 0…1/s̄; NaN where the mask is empty or s̄ < `min_size`.

    Raises
    ------
    ValueError, TypeError
        For a map or mask of another shape or type, or a parameter out of range.
    """
    weights = top_k(attribution, k)
    return _influence(weights, _check_mask(mask, weights.shape, dilation), min_size)


def concept_influences(
    attribution: Array,
    semantic_map: Array,
    k: int = K,
    min_size: float = MIN_SIZE,
    dilation: int = 0,
) -> pd.DataFrame:
    """Influence of every concept of a semantic map (§3.2).

    Parameters
    ----------
    attribution, k, min_size, dilation : see `concept_influence`.
    semantic_map : int [H,W], the concept that each pixel shows; negative where it shows none.

    Returns
    -------
    DataFrame, indexed by the concepts in the map: size (s̄ after dilation, 0…1) and influence, as
    `concept_influence` gives it for the concept's mask.
    """
    weights = top_k(attribution, k)
    concepts = _check_map(semantic_map, weights.shape)
    rows = {}
    for concept in np.unique(concepts[concepts >= 0]):
        mask = dilate(concepts == concept, dilation)
        rows[int(concept)] = {"size": mask.mean(), "influence": _influence(weights, mask, min_size)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["size", "influence"])
    return table.rename_axis("concept")


def shifted_influences(
    attribution: Array, mask: Array, k: int = K, dilation: int = 0
) -> np.ndarray:
    """Influence of a concept when the explanation is shifted around the image.

    Parameters
    ----------
    attribution, mask, k, dilation : see `concept_influence`; the mask must not be empty.

    Returns
    -------
    float64 [H,W]. The value at (y, x) is the influence for the map shifted y pixels down and x to
    the right, what leaves on one side coming in on the other. Their mean is exactly 1.

    Raises
    ------
    ValueError, TypeError
        As `concept_influence`, and for an empty mask.
    """
    weights = top_k(attribution, k)
    grown = _check_mask(mask, weights.shape, dilation)
    if not grown.any():
        raise ValueError("mask is empty; expected at least one pixel of the concept")
    return _shifted(weights, grown)


def _influence(weights: np.ndarray, mask: np.ndarray, min_size: float) -> float:
    if not 0 <= min_size <= 1:
        raise ValueError(f"min_size={min_size}; expected a share of the image, 0…1")
    size = mask.mean()
    if size == 0 or size < min_size:
        return np.nan
    return float(weights[mask].sum() / weights.sum() / size)


def _shifted(weights: np.ndarray, mask: np.ndarray) -> np.ndarray:
    # Cross-correlation by the convolution theorem: one transform instead of H·W shifts.
    transformed = np.fft.rfft2(mask) * np.fft.rfft2(weights).conj()
    together = np.fft.irfft2(transformed, s=mask.shape)
    return together / weights.sum() / mask.mean()


def _check_mask(mask: Array, shape: tuple[int, ...], dilation: int) -> np.ndarray:
    values = to_numpy(mask)
    if values.shape != shape:
        raise ValueError(f"mask has shape {values.shape}; expected {shape} like the attribution")
    if values.dtype != bool:
        raise TypeError(f"mask has dtype {values.dtype}; expected bool (compare with > 0 first)")
    return dilate(values, dilation)


def _check_map(semantic_map: Array, shape: tuple[int, ...]) -> np.ndarray:
    values = to_numpy(semantic_map)
    if values.shape != shape:
        raise ValueError(
            f"semantic_map has shape {values.shape}; expected {shape} like the attribution"
        )
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"semantic_map has dtype {values.dtype}; expected integers")
    return values


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
        "dataset": identity(part),
        "size": size,
        "network": None if network is None else network.key,
    }
    module = "geolib.geoscenes.semantic" if network is None else "geolib.segmentation.ade20k"
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
