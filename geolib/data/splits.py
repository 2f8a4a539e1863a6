"""Splits that keep places apart.

Photographs of one drive, or of one street, look alike: with one in training and another in the
evaluation, a network is asked for what it has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from geolib.sphere import s2_tokens

# Edges of about 1.1 km, the distance at which the authors of OSV-5M keep their own test images from
# their training images. Larger cells would chain more sequences into one place, up to whole cities.
CELL_LEVEL = 13
# The paper has no word on validation, although it stops early on a validation loss, and does not
# say what its test set is. 5,000 of three countries put an accuracy of 87 % between ± 0.9 points.
PER_COUNTRY = {"train": 33_333, "eval": 200, "test": 1_667, "validation": 1_667}


def splits(
    metadata: pd.DataFrame,
    countries: Sequence[str],
    per_country: Mapping[str, int] = PER_COUNTRY,
    seed: int = 0,
) -> pd.DataFrame:
    """Splits that share neither a capture sequence nor an S2 cell (§4 of arXiv 2605.00912).

    Images that share a sequence or a cell of level 13 (about 1.1 km across) belong to one place,
    as do those that are linked through others: the connected components of the graph of sequences
    and cells. A place is in one split only. Each image outside training comes from a place of its
    own, so these images are independent of each other, and intervals that resample them hold;
    a place gets there with a chance in proportion to its size, unless it holds so many images that
    holding it out could leave too few for training.

    Parameters
    ----------
    metadata : columns ``id``, ``latitude``, ``longitude``, ``country`` and ``sequence``; the
        order of rows plays no role.
    countries : ISO 3166 codes.
    per_country : images of each split and country.

    Returns
    -------
    DataFrame, all images of the countries in random order, with ``cell`` (S2 token), ``place``
    (smallest id in it) and ``split``, which is missing for images that were not drawn.

    Raises ValueError if an id is listed twice, or a country has too few images or places.
    """
    table = metadata[metadata.country.isin(countries)]
    if table.id.duplicated().any():
        raise ValueError(f"metadata lists {table.id[table.id.duplicated()].iloc[0]!r} twice")
    order = [hashlib.sha256(f"{seed} {name}".encode()).hexdigest() for name in table.id]
    table = table.iloc[np.argsort(order)].reset_index(drop=True)
    table["sequence"] = table.sequence.fillna("image " + table.id)
    table["cell"] = s2_tokens(table[["latitude", "longitude"]], CELL_LEVEL)
    table["place"] = places(table)
    table["split"] = _draw(table, per_country)
    for country in countries:
        rows = table[table.country == country]
        drawn = rows.split.value_counts()
        if any(drawn.get(split, 0) < n for split, n in per_country.items()):
            raise ValueError(
                f"country {country!r} has {len(rows)} images in {rows.place.nunique()} places, too "
                f"few for per_country={dict(per_country)}, with a place of its own for each image "
                "outside training; ask for fewer"
            )
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


def _draw(table: pd.DataFrame, per_country: Mapping[str, int]) -> pd.Series:
    """Split of each image of a table in random order; see :func:`splits` for the rules."""
    held_out = {name: per_country[name] for name in sorted(per_country) if name != "train"}
    n_images, n_train = table.country.value_counts(), per_country["train"]
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
