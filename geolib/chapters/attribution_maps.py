from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from scipy.fft import dctn
from scipy.stats import rankdata


def map_agreement(maps: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Mean Spearman rank correlation between two methods' maps ``[B, H, W]`` of the same images.

    A costly method has maps of the first images only, and is compared on these.
    Maps that are constant have no ranks and are left out.
    """
    table = pd.DataFrame(1.0, index=list(maps), columns=list(maps))
    ranks = {name: _unit_ranks(images.flatten(1).numpy()) for name, images in maps.items()}
    for a, b in combinations(maps, 2):
        n_images = min(len(ranks[a]), len(ranks[b]))
        values = (ranks[a][:n_images] * ranks[b][:n_images]).sum(1)
        known = values[~np.isnan(values)]
        table.loc[a, b] = table.loc[b, a] = known.mean() if known.size else np.nan
    return table


def _unit_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of each row about zero, scaled to unit length: products are correlations."""
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.divide(ranks, length, out=np.full_like(ranks, np.nan), where=length > 0)


def map_concentration(maps: Mapping[str, torch.Tensor], top: float = 0.1) -> pd.DataFrame:
    """Share of each map's weight on its brightest ``top`` share of pixels, a row per image."""
    rows = []
    for method, images in maps.items():
        for one in images:
            values = one.flatten().sort(descending=True).values
            total = float(values.sum())
            if total > 0:
                share = float(values[: round(top * len(values))].sum()) / total
                rows.append({"method": method, "share": share})
    return pd.DataFrame(rows, columns=["method", "share"])


def map_fineness(maps: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Mean spatial frequency of each map ``[B, H, W]`` in cycles per image side, a row per image.

    The centroid of the map's power spectrum without its mean: how fine its detail is. The spectrum
    is that of the cosine transform, for which opposite borders of the image are not neighbours.
    Maps that are constant have none and are left out.
    """
    rows = []
    for method, images in maps.items():
        for i, one in enumerate(images.double().numpy()):
            power = dctn(one, norm="ortho") ** 2
            power[0, 0] = 0
            if one.max() > one.min():
                # The k-th cosine makes k / 2 cycles.
                axes = [np.arange(side) / 2 for side in one.shape]
                frequency = np.hypot(*np.meshgrid(*axes, indexing="ij"))
                centroid = float((frequency * power).sum() / power.sum())
                rows.append({"method": method, "image_id": i, "frequency": centroid})
    return pd.DataFrame(rows, columns=["method", "image_id", "frequency"])
