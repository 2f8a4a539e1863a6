"""What maps of several methods have in common, where their weight lies, and how fine they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from scipy.fft import dctn


def map_agreement(maps: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Mean Spearman rank correlation between two methods' maps ``[B, H, W]`` of the same images (of
    a costly method, the first ones); constant maps, which have no ranks, are left out."""
    table = pd.DataFrame(1.0, index=list(maps), columns=list(maps))
    ranks = {name: pd.DataFrame(found.flatten(1).numpy().T).rank() for name, found in maps.items()}
    for a, b in combinations(maps, 2):
        table.loc[a, b] = table.loc[b, a] = ranks[a].corrwith(ranks[b]).mean()
    return table


def agreement_note(agreement: pd.DataFrame, blind: Collection[str]) -> str:
    """Which two methods agree most and least, and which comes nearest to a ``blind`` map."""
    names = [str(name) for name in agreement if name not in blind]
    alike = {name: agreement[name].astype(float) for name in agreement}
    of_pair = {(a, b): float(alike[a][b]) for a, b in combinations(names, 2)}
    known = [pair for pair, found in of_pair.items() if np.isfinite(found)]
    if not known:
        return "No two methods were compared."
    (a, b), (c, d) = (best(known, key=of_pair.__getitem__) for best in (max, min))
    note = (
        f"Most alike are `{a}` and `{b}` (rank correlation {of_pair[a, b]:+.2f}), least alike "
        f"`{c}` and `{d}` ({of_pair[c, d]:+.2f})."
    )
    for other in (one for one in blind if one in agreement):
        near = {name: float(alike[other][name]) for name in names}
        nearest = max(names, key=near.__getitem__)
        note += f" Nearest to `{other}`, which ignores the network, is `{nearest}` "
        note += f"({near[nearest]:+.2f})."
    return note


def map_concentration(maps: Mapping[str, torch.Tensor], top: float = 0.1) -> pd.DataFrame:
    """Share of each map's weight on its brightest ``top`` share of pixels, a row per image."""
    shares = {}
    for method, images in maps.items():
        values = images.flatten(1).sort(descending=True).values
        brightest = values[:, : round(top * values.shape[1])]
        shares[method] = pd.Series((brightest.sum(1) / values.sum(1)).numpy())
    return pd.DataFrame(shares).melt(var_name="method", value_name="share").dropna()


def map_fineness(maps: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Mean spatial frequency of each map ``[B, H, W]`` that is not constant, in cycles per image
    side: the centroid of its power spectrum without its mean, by the cosine transform, for which
    opposite borders are not neighbours."""
    found = {}
    for method, images in maps.items():
        varied = images.amax((1, 2)) > images.amin((1, 2))
        power = dctn(images[varied].double().numpy(), axes=(1, 2), norm="ortho") ** 2
        power[:, 0, 0] = 0
        # The k-th cosine makes k / 2 cycles.
        frequency = np.hypot.outer(*(np.arange(side) / 2 for side in images.shape[1:]))
        centroid = (frequency * power).sum((1, 2)) / power.sum((1, 2))
        found[method] = pd.Series(centroid, varied.nonzero().flatten().numpy(), name="frequency")
    return pd.concat(found, names=["method", "image_id"]).reset_index()
