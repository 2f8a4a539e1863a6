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
from pydantic import BaseModel, ConfigDict, Field, model_validator

from geolib.book import results
from geolib.runtime.here import data_file, parsed_file

# Findings on scenes count as findings on this, whatever else is said about the images.
SYNTHETIC = "GeoScenes"
# Fewer images than this decide nothing: what they miss is larger than the margins of most claims.
MIN_N = 60
_PREFIX = "claim."


class Status(StrEnum):
    """What can become of a claim, in the order in which tables show it."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"
    NOT_TESTABLE = "not testable here"


class Rule(BaseModel):
    """Values that agree with a claim: above a margin, below one, or within two; one of these."""

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
    """One row of the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Key of the paper in book/references.bib, a comma, and the section or table.
    source: str = Field(pattern=r"^[a-z0-9]+, \S")
    # What the paper says, in our words; the number that tests it; and which values agree.
    claim: str = Field(min_length=1)
    measure: str = Field(min_length=1)
    unit: str = Field(min_length=1)
    rule: Rule
    # The paper's own value, where it prints one.
    printed: str | None = Field(None, min_length=1)
    # The only data on which the number bears on the claim, where that is so.
    only_on: str | None = Field(None, min_length=1)
    # What a test takes that the book does not have by default.
    needs: str | None = Field(None, min_length=1)

    @property
    def paper(self) -> str:
        """Key of the paper."""
        return self.source.partition(", ")[0]


class Finding(BaseModel):
    """What a chapter measured of a claim: a value and its 95 % interval, on ``n`` images, and the
    smallest true difference that so many would have shown (``detectable``).

    ``data`` names the dataset, and after a comma what else is to be known of the images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    low: float
    high: float
    n: int = Field(ge=1)
    data: str = Field(pattern=r"^[^,\s]")
    detectable: float | None = Field(None, gt=0)
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
    """Every claim by its name; ValueError if a row lacks a field or has one too many."""
    rows = parsed_file(data_file("claims.yaml"))
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
    """Every claim beside its finding, one row each; those without one are not testable here.

    Rows are sorted by paper, then by status, else in the order of the ledger; what is missing is
    None. The status alone is no column, so that no "reproduced" leaves without its data.
    """
    _check_names(findings)
    papers = list(dict.fromkeys(claim.paper for claim in claims().values()))

    def place(name: str) -> tuple[int, int]:
        claim = claims()[name]
        found = status(claim, findings.get(name))
        return papers.index(claim.paper), list(Status).index(found)

    rows = [_row(name, claims()[name], findings.get(name)) for name in sorted(claims(), key=place)]
    return pd.DataFrame(rows, dtype=object)


def counts(table: pd.DataFrame) -> dict[str, int]:
    """How many claims of a ledger have each verdict, such as ``reproduced_on_geoscenes``."""
    names = table["verdict"].str.lower().str.replace(" ", "_")
    found = {str(name): int(n) for name, n in names.value_counts().items()}
    return {"total": len(table), "not_testable_here": 0, **found}


def record(found: Mapping[str, Finding | None]) -> pd.DataFrame:
    """Record findings among the results of a notebook, and show them beside the claims.

    None stands for a claim that this run could not measure: it is shown and not recorded.
    """
    _check_names(found)
    rows = []
    for name, finding in found.items():
        claim = claims()[name]
        if finding is not None:
            values = finding.model_dump(exclude_none=True)
            results.record(**{f"{_PREFIX}{name}.{key}": value for key, value in values.items()})
        rows.append(_row(name, claim, finding) | {"source": claim.source})
    columns = [
        "claim",
        "source",
        "measure",
        "value",
        "low",
        "high",
        "detectable",
        "unit",
        "n",
        "data",
    ]
    return pd.DataFrame(rows, columns=[*columns, "rule", "verdict"])


def findings(recorded: Mapping[str, Mapping[str, results.Scalar]]) -> dict[str, Finding]:
    """Findings among the recorded results of each notebook, with the chapter they come from."""
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
