"""The row, the cell and the sentence of a mean with its interval over images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML
from numpy.typing import ArrayLike
from pandas.io.formats.style import Styler

from geolib import statistics

UNDEFINED = "–"
# Between the ends of an interval: a range of negative numbers cannot be read with a dash. A narrow
# column may break behind it.
TO = "\u00a0to "


def mean_row(values: ArrayLike) -> dict[str, float]:
    """Mean over images with its 95 % interval: ``value``, ``low``, ``high``, ``n``. Missing values
    are left out."""
    known = pd.Series(np.asarray(values)).dropna().to_numpy(float)
    found = statistics.interval(known)
    return {"value": found.mean, "low": found.low, "high": found.high, "n": len(known)}


def grouped_means(table: pd.DataFrame, value: str, by: str | Sequence[str]) -> pd.DataFrame:
    """A :func:`mean_row` of a column for each group; the table has a row per group and image."""
    names = [by] if isinstance(by, str) else list(by)
    rows: list[dict[str, Any]] = [
        dict(zip(names, group, strict=True)) | mean_row(values)
        for group, values in table.groupby(names, sort=False)[value]
    ]
    return pd.DataFrame(rows, columns=[*names, "value", "low", "high", "n"])


def difference(table: pd.DataFrame, value: str, by: str, one: Any, other: Any) -> pd.Series:
    """What one group has more than another, by ``image_id``; images that lack either are left
    out."""
    wide = table.pivot(index="image_id", columns=by, values=value)
    return (wide[one] - wide[other]).dropna()


def cell(value: float, low: float = np.nan, high: float = np.nan, form: str = ".3f") -> str:
    """``0.30 (0.10 to 0.50)``; without an interval the value alone, without a value a dash."""
    if not np.isfinite(value):
        return UNDEFINED
    bounds = f" ({low:{form}}{TO}{high:{form}})" if np.isfinite([low, high]).all() else ""
    return f"{value:{form}}{bounds}"


def cells(table: pd.DataFrame, form: str = ".3f", columns: str | Iterable[str] = ()) -> pd.Series:
    """A :func:`cell` for each row of a table, from ``value``, ``low`` and ``high`` or others; one
    name, such as "bias", stands for that column and, if there are, ``bias_low``, ``bias_high``."""
    if isinstance(columns, str):
        ends = {end: table.get(f"{columns}_{end}", np.nan) for end in ("low", "high")}
        table = table[[columns]].assign(**ends)
    else:
        table = table[list(columns) or ["value", "low", "high"]]
    texts = [cell(value, low, high, form) for value, low, high in table.to_numpy(float)]
    return pd.Series(texts, table.index, dtype=object)


def shown(
    table: pd.DataFrame, columns: Mapping[str, tuple[str | Iterable[str], str]]
) -> pd.DataFrame:
    """A table of :func:`cells`: for each heading the column that it shows, and its format."""
    return pd.DataFrame({name: cells(table, form, of) for name, (of, form) in columns.items()})


def folded(*shown: pd.DataFrame | Styler, title: str = "Numbers") -> HTML:
    """Tables behind a line that unfolds them: a page shows its pictures first."""
    inside = "\n".join(one.to_html() for one in shown)
    return HTML(f'<details class="numbers"><summary>{title}</summary>\n{inside}</details>')


def sentence(
    value: float, low: float = np.nan, high: float = np.nan, form: str = "+.2f", unit: str = ""
) -> str:
    """``+0.30 (95 % interval +0.10 to +0.50)`` with a unit behind the value, for prose."""
    text = f"{value:{form}}{unit and ' '}{unit}"
    if not np.isfinite([low, high]).all():
        return text
    return f"{text} (95 % interval {low:{form}}{TO}{high:{form}})"
