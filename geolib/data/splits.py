"""Splits that keep places apart, and what a split at random would leak.

Photographs of one drive, or of one street, look alike: with one in training and another in the
evaluation, a network is asked for what it has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

# Edges of about 1.1 km, the distance at which the authors of OSV-5M keep their own test images from
# their training images. Larger cells would chain more sequences into one place, up to whole cities.
CELL_LEVEL = 13


def splits(
    metadata: pd.DataFrame,
    countries: Sequence[str],
    *,
    n_train_per_country: int = 33_333,
    n_eval_per_country: int = 200,
    n_validation_per_country: int = 1_667,
    n_test_per_country: int = 1_667,
    seed: int = 0,
) -> pd.DataFrame:
    """Splits that share neither a capture sequence nor an S2 cell (§4 of arXiv 2605.00912).

    Images that share a sequence or a cell of level 13 (about 1.1 km across) belong to one place,
    as do those that are linked through others: the connected components of the graph of sequences
    and cells. A place is in one split only. Each image outside training comes from a place of its
    own, so these images are independent of each other, and intervals that resample them hold;
    a place gets there with a chance in proportion to its size, unless it holds so many images that
    holding it out could leave too few for training.

    The paper has no word on validation, although it stops early on a validation loss, and does not
    say what its test set is. 1,667 per country, 5,000 in all, put an accuracy of 87 % between ± 0.9
    percentage points.

    Parameters
    ----------
    metadata
        Columns ``id``, ``latitude``, ``longitude``, ``country`` and ``sequence``; the order of
        rows plays no role.
    countries
        ISO 3166 codes; the other numbers are images per country.

    Returns
    -------
    pandas.DataFrame
        All images of the countries in random order, with ``cell`` (S2 token), ``place`` (smallest
        id in it) and ``split``, which is missing for images that were not drawn.

    Raises
    ------
    ValueError
        If an id is listed twice, or a country has too few images or places.
    """
    from geolib.sphere import s2_tokens

    held_out = {
        "eval": n_eval_per_country,
        "test": n_test_per_country,
        "validation": n_validation_per_country,
    }
    table = metadata[metadata.country.isin(countries)]
    if table.id.duplicated().any():
        raise ValueError(f"metadata lists {table.id[table.id.duplicated()].iloc[0]!r} twice")
    order = [hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name in table.id]
    table = table.iloc[np.argsort(order)].reset_index(drop=True)
    table["sequence"] = table.sequence.fillna("image " + table.id)
    table["cell"] = s2_tokens(table[["latitude", "longitude"]], CELL_LEVEL)
    table["place"] = places(table)
    table["split"] = _draw(table, held_out, n_train_per_country)
    _check_enough(table, countries, {"train": n_train_per_country, **held_out})
    return table


def places(table: pd.DataFrame) -> pd.Series:
    """Place of each image: the smallest id among all that sequences and cells link it with."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    sequence, sequences = pd.factorize(table.sequence)
    cell, cells = pd.factorize(table.cell)
    n_nodes = len(sequences) + len(cells)
    edges = (np.ones(len(table)), (sequence, len(sequences) + cell))
    _, component = connected_components(coo_array(edges, shape=(n_nodes, n_nodes)), directed=False)
    return table.groupby(component[sequence]).id.transform("min")


def leakage(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What a random split leaks from training into the other splits, and what ours does.

    ``table`` is that of :func:`splits`; the random split has as many images per country and split.
    Columns for each ``method`` (``"random"``, ``"places"``) and ``split``: ``n_images``; the shares
    ``shared_sequence`` and ``shared_cell`` of images whose sequence or cell is in training, too;
    ``km_min`` and ``km_median``, great-circle distances to the nearest training image; and the
    share ``within_1_km``.
    """
    from sklearn.neighbors import BallTree

    from geolib.sphere import EARTH_RADIUS_KM

    rng = np.random.default_rng(seed)
    shuffled = table.sort_values("id")
    shuffled["split"] = shuffled.groupby("country").split.transform(rng.permutation)
    rows = []
    for method, assigned in (("random", shuffled), ("places", table)):
        train = assigned[assigned.split == "train"]
        tree = BallTree(np.radians(train[["latitude", "longitude"]]), metric="haversine")
        for split in ("validation", "test", "eval"):
            held = assigned[assigned.split == split]
            if held.empty:
                continue
            angles, _ = tree.query(np.radians(held[["latitude", "longitude"]]))
            km = angles[:, 0] * EARTH_RADIUS_KM
            rows.append(
                {
                    "method": method,
                    "split": split,
                    "n_images": len(held),
                    "shared_sequence": held.sequence.isin(train.sequence).mean(),
                    "shared_cell": held.cell.isin(train.cell).mean(),
                    "km_min": km.min(),
                    "km_median": np.median(km),
                    "within_1_km": (km <= 1).mean(),
                }
            )
    return pd.DataFrame(rows)


def _draw(table: pd.DataFrame, held_out: Mapping[str, int], n_train: int) -> pd.Series:
    """Split of each image of a table in random order; see :func:`splits` for the rules."""
    n_images = table.country.value_counts()
    largest = (n_images - n_train) // max(sum(held_out.values()), 1)
    size = table.groupby("place").id.transform("size")
    first = ~table.place.duplicated() & (size <= largest.loc[table.country].to_numpy())
    turn = table[first].groupby("country").cumcount()
    names = np.repeat(list(held_out), list(held_out.values()))
    drawn = turn[turn < len(names)]
    split = pd.Series(None, index=table.index, dtype="str")
    split[drawn.index] = names[drawn]
    rest = table[~table.place.isin(table.place[drawn.index])]
    turn = rest.groupby("country").cumcount()
    split[turn.index[turn < n_train]] = "train"
    return split


def _check_enough(table: pd.DataFrame, countries: Sequence[str], wanted: Mapping[str, int]) -> None:
    for country in countries:
        rows = table[table.country == country]
        drawn = rows.split.value_counts()
        if any(drawn.get(split, 0) < n for split, n in wanted.items()):
            asked = ", ".join(f"n_{split}_per_country={n}" for split, n in wanted.items())
            raise ValueError(
                f"country {country!r} has {len(rows)} images in {rows.place.nunique()} places, too "
                f"few for {asked}, with a place of its own for each image outside training; ask "
                "for fewer"
            )
