from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from geolib import statistics


def mean_intervals(table: pd.DataFrame, value: str, by: str) -> pd.DataFrame:
    """Mean of a column for each group with its interval over images: ``value``, ``low``, ``high``.

    The table has a row per group and image.
    """
    found = {
        name: statistics.interval(values) for name, values in table.groupby(by, sort=False)[value]
    }
    rows = {name: {"value": i.mean, "low": i.low, "high": i.high} for name, i in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def difference(table: pd.DataFrame, value: str, by: str, one: str, other: str) -> pd.Series:
    """What one group has more than another, image by image; images that lack either are left out.

    The table has a column ``image_id`` that tells the images apart.
    """
    wide = table.pivot(index="image_id", columns=by, values=value)
    return (wide[one] - wide[other]).dropna()


def grouped_means(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """Mean of a column for each group with its 95 % interval; missing values are left out.

    The table has a row per group and image. Columns: those of ``by``, ``value``, ``low``, ``high``
    and ``n``, the number of images.
    """
    rows = []
    for names, values in table.groupby(list(by), sort=False)[value]:
        known = values.dropna().astype(float)
        found = statistics.interval(known)
        labels = dict(zip(by, names, strict=True))
        bounds = {"value": found.mean, "low": found.low, "high": found.high, "n": len(known)}
        rows.append(labels | bounds)
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n"])
