"""Empirical claims of the papers, and what the chapters measured of them.

``data/claims.yaml`` holds what is claimed and how it is measured; a chapter records its value, and
:func:`table` shows both side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field

from geolib import results
from geolib.paths import data_file


class Claim(BaseModel):
    """One row of the table of claims."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1)
    claim: str = Field(min_length=1)
    measure: str = Field(min_length=1)
    unit: str = Field(min_length=1)


class Finding(BaseModel):
    """What a chapter measured of a claim: a value with its 95 % interval, and on what."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    low: float
    high: float
    n: int = Field(ge=1)
    data: str = Field(min_length=1)


@cache
def claims() -> Mapping[str, Claim]:
    """Every claim by its name.

    Raises
    ------
    ValueError
        If a row lacks a field or has one too many.
    """
    rows = yaml.safe_load(data_file("claims.yaml").read_text(encoding="utf-8"))
    return {name: Claim(**row) for name, row in rows.items()}


def record(found: Mapping[str, Finding]) -> pd.DataFrame:
    """Record findings among the results of a notebook, and show them beside the claims.

    Parameters
    ----------
    found
        Finding by the name of its claim. A claim that could not be measured is left out.

    Returns
    -------
    DataFrame
        One row per finding: claim, source, measure, value, low, high, unit, n, data.

    Raises
    ------
    ValueError
        If a name is not that of a claim.
    """
    unknown = sorted(set(found) - set(claims()))
    if unknown:
        raise ValueError(f"found names {', '.join(unknown)}, which data/claims.yaml does not know")
    for name, finding in found.items():
        results.record(**{f"claim.{name}.{key}": v for key, v in finding.model_dump().items()})
    rows = [claims()[name].model_dump() | finding.model_dump() for name, finding in found.items()]
    columns = ["claim", "source", "measure", "value", "low", "high", "unit", "n", "data"]
    return pd.DataFrame(rows, columns=columns)
