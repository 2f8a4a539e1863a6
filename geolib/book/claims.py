"""The ledger: empirical claims of the papers, what the chapters measured of them, and verdicts.

``data/claims.yaml`` holds what is claimed, how it is measured, and which values agree with the
claim. A chapter records what it found; :func:`ledger` puts every claim beside its finding, and the
claim's own rule decides. A verdict always names the data it rests on.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Any, Self

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from geolib.book import results
from geolib.runtime.here import data_file

# Findings on scenes count as findings on this, whatever else is said about the images.
SYNTHETIC = "GeoScenes"
# Fewer images than this decide nothing: too few for a bootstrap interval to be taken at its word.
MIN_N = 20
_PREFIX = "claim."


class Status(StrEnum):
    """What can become of a claim, in the order in which tables show it."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"
    NOT_TESTABLE = "not testable here"


class Rule(BaseModel):
    """Values of the measure that agree with a claim; exactly one of three kinds.

    Attributes
    ----------
    above, below
        Every value above, or below, this margin.
    within
        Every value between these two.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    above: float | None = None
    below: float | None = None
    within: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if [self.above, self.below, self.within].count(None) != 2:
            raise ValueError(f"a rule is one of above, below and within; got {self!r}")
        if self.bounds[0] >= self.bounds[1]:
            raise ValueError(f"within={self.within} leaves nothing between; put the smaller first")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The margins between which a value agrees; one on a margin does not."""
        if self.within is not None:
            return self.within
        low = -float("inf") if self.above is None else self.above
        return low, float("inf") if self.below is None else self.below

    def status(self, low: float, high: float) -> Status:
        """Whether all values of an interval agree (reproduced), none (not reproduced), or some.

        An interval without width comes from values that are all alike; what it would have been
        with other images is unknown, so it decides nothing.
        """
        if low == high:
            return Status.INCONCLUSIVE
        smallest, largest = self.bounds
        if smallest < low and high < largest:
            return Status.REPRODUCED
        return Status.NOT_REPRODUCED if high <= smallest or low >= largest else Status.INCONCLUSIVE

    def __str__(self) -> str:
        if self.within is not None:
            return f"between {self.within[0]:g} and {self.within[1]:g}"
        return f"below {self.below:g}" if self.above is None else f"above {self.above:g}"


class Claim(BaseModel):
    """One row of the ledger.

    Attributes
    ----------
    source
        Key of the paper in ``book/references.bib``, a comma, and the section or table.
    claim
        What the paper says, in our words.
    measure, unit
        The number that tests it, and its unit.
    rule
        Which values of it agree with the claim.
    printed
        The paper's own value, where it prints one.
    only_on
        The only data on which the number bears on the claim, where that is so.
    needs
        What a test takes that the book does not have by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(pattern=r"^[a-z0-9]+, \S")
    claim: str = Field(min_length=1)
    measure: str = Field(min_length=1)
    unit: str = Field(min_length=1)
    rule: Rule
    printed: str | None = Field(None, min_length=1)
    only_on: str | None = Field(None, min_length=1)
    needs: str | None = Field(None, min_length=1)

    @property
    def paper(self) -> str:
        """Key of the paper."""
        return self.source.partition(", ")[0]


class Finding(BaseModel):
    """What a chapter measured of a claim.

    Attributes
    ----------
    value, low, high
        The value and its 95 % interval.
    n
        Images, or other independent samples, that it rests on.
    data
        What these are: the dataset, and after a comma what else is to be known of them.
    chapter
        The notebook that recorded it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    low: float
    high: float
    n: int = Field(ge=1)
    data: str = Field(pattern=r"^[^,\s]")
    chapter: str | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}; swap them")
        return self

    @property
    def dataset(self) -> str:
        """Name of the data, for the verdict."""
        return SYNTHETIC if SYNTHETIC in self.data else self.data.partition(",")[0]


@cache
def claims() -> Mapping[str, Claim]:
    """Every claim by its name.

    Raises
    ------
    ValueError
        If a row lacks a field, has one too many, or a rule that says nothing.
    """
    rows = yaml.safe_load(data_file("claims.yaml").read_text(encoding="utf-8"))
    return {name: Claim(**row) for name, row in rows.items()}


def status(claim: Claim, finding: Finding | None) -> Status:
    """What becomes of a claim, by its own rule: its interval against its margin.

    Fewer than :data:`MIN_N` images decide nothing.
    """
    if finding is None or claim.only_on not in (None, finding.dataset):
        return Status.NOT_TESTABLE
    if finding.n < MIN_N:
        return Status.INCONCLUSIVE
    return claim.rule.status(finding.low, finding.high)


def verdict(claim: Claim, finding: Finding | None) -> str:
    """The status in words, with the data it rests on: "reproduced on GeoScenes"."""
    found = status(claim, finding)
    if finding is None or found is Status.NOT_TESTABLE:
        return str(found)
    return f"{found} on {finding.dataset}"


def ledger(findings: Mapping[str, Finding]) -> pd.DataFrame:
    """Every claim beside its finding.

    Parameters
    ----------
    findings
        Finding by the name of its claim; claims without one are not testable here.

    Returns
    -------
    DataFrame
        One row per claim, by paper in the order of the ledger, then by status, then in the order
        of the ledger. Columns: name; paper and place (the two parts of the source); claim,
        measure, unit, printed, only_on, needs; rule (in words); value, low, high, n, data and
        chapter of the finding; verdict. What is missing is None. The status alone is not among
        them, so that no "reproduced" leaves without its data.

    Raises
    ------
    ValueError
        If a finding's name is not that of a claim.
    """
    _check_names(findings)
    papers = list(dict.fromkeys(claim.paper for claim in claims().values()))
    statuses = list(Status)

    def place(name: str) -> tuple[int, int]:
        claim = claims()[name]
        found = status(claim, findings.get(name))
        return papers.index(claim.paper), statuses.index(found)

    rows = [_row(name, claims()[name], findings.get(name)) for name in sorted(claims(), key=place)]
    return pd.DataFrame(rows, dtype=object)


def counts(table: pd.DataFrame) -> dict[str, int]:
    """How many claims of a ledger have each verdict, for prose.

    Returns
    -------
    dict
        ``total``, ``not_testable_here``, and one entry per verdict that occurs, such as
        ``reproduced_on_geoscenes``.
    """
    names = table["verdict"].str.lower().str.replace(" ", "_")
    found = {str(name): int(n) for name, n in names.value_counts().items()}
    return {"total": len(table), "not_testable_here": 0, **found}


def record(found: Mapping[str, Finding | None]) -> pd.DataFrame:
    """Record findings among the results of a notebook, and show them beside the claims.

    Parameters
    ----------
    found
        Finding by the name of its claim; None for a claim that this run could not measure, which
        is shown and not recorded.

    Returns
    -------
    DataFrame
        One row per claim: claim, source, measure, value, low, high, unit, n, data, rule, verdict.

    Raises
    ------
    ValueError
        If a name is not that of a claim.
    """
    _check_names(found)
    rows = []
    for name, finding in found.items():
        claim = claims()[name]
        values = {} if finding is None else finding.model_dump(exclude_none=True)
        if values:
            results.record(**{f"{_PREFIX}{name}.{key}": value for key, value in values.items()})
        decided = {"rule": str(claim.rule), "verdict": verdict(claim, finding)}
        rows.append(claim.model_dump() | values | decided)
    columns = ["claim", "source", "measure", "value", "low", "high", "unit", "n", "data"]
    return pd.DataFrame(rows, columns=[*columns, "rule", "verdict"])


def findings(recorded: Mapping[str, Mapping[str, results.Scalar]]) -> dict[str, Finding]:
    """Findings among the results of executed notebooks, each with the chapter it comes from.

    Parameters
    ----------
    recorded
        For each notebook, the results of :func:`geolib.book.results.collect`.

    Raises
    ------
    ValueError
        If two chapters record findings of one claim, or one of a claim that there is not.
    """
    fields: dict[str, dict[str, Any]] = {}
    for chapter, values in recorded.items():
        for key, value in values.items():
            if key.startswith(_PREFIX):
                name, _, part = key.removeprefix(_PREFIX).rpartition(".")
                found = fields.setdefault(name, {"chapter": chapter})
                if found["chapter"] != chapter:
                    raise ValueError(f"{found['chapter']} and {chapter} both record {name!r}")
                found[part] = value
    _check_names(fields)
    return {name: Finding(**parts) for name, parts in fields.items()}


def _row(name: str, claim: Claim, finding: Finding | None) -> dict[str, Any]:
    found = dict.fromkeys(Finding.model_fields) if finding is None else finding.model_dump()
    return {
        "name": name,
        "paper": claim.paper,
        "place": claim.source.partition(", ")[2],
        **claim.model_dump(exclude={"source", "rule"}),
        "rule": str(claim.rule),
        **found,
        "verdict": verdict(claim, finding),
    }


def _check_names(found: Mapping[str, Any]) -> None:
    unknown = sorted(set(found) - set(claims()))
    if unknown:
        raise ValueError(f"found names {', '.join(unknown)}, which data/claims.yaml does not know")
