"""The table of country cues, and what an ideal observer can make of them.

``data/cues.yaml`` says, for each kind of cue and each country, with which probability a scene shows
which look. Given the country the kinds are independent, and nothing else depends on the country.

``data/regional-cues.yaml`` does the same for zones: regions of the gazetteer that look alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import yaml

from geoscenes.tables import data_file

COUNTRIES = ("France", "India", "Japan")


@dataclass(frozen=True)
class Look:
    """One row of the table."""

    name: str
    probability: float
    fact: str
    source: str


@dataclass(frozen=True)
class CueKind:
    """One kind of cue: per place the looks it may take; what is left to 1 is absence.

    A place is a country, or a zone where cues are regional.
    """

    name: str
    handed: bool  # readable only if left and right are known
    looks: Mapping[str, tuple[Look, ...]]

    def presence(self, place: str) -> float:
        return sum(look.probability for look in self.looks[place])

    def probability(self, place: str, look: str | None) -> float:
        """P(look | place); ``None`` is absence."""
        if look is None:
            return 1 - self.presence(place)
        return sum(k.probability for k in self.looks[place] if k.name == look)

    def pick(self, place: str, quantile: float) -> str | None:
        """Look of a present cue; None if the place never has this kind."""
        total = 0.0
        for look in self.looks[place]:
            total += look.probability
            if quantile * self.presence(place) < total:
                return look.name
        return self.looks[place][-1].name if self.looks[place] else None

    def names(self, places: Sequence[str]) -> list[str]:
        return sorted({k.name for c in places for k in self.looks[c]})


@cache
def table(regional: bool = False) -> Mapping[str, CueKind]:
    """The cue table by kind, in the order of the file.

    Parameters
    ----------
    regional : bool
        Looks per zone instead of per country: a zone has its country's looks, except for the kinds
        that ``data/regional-cues.yaml`` lists, which follow the zone.

    Raises
    ------
    ValueError
        If a probability is not in 0…1 or a country's looks of one kind sum to more than 1.
    """
    return _regional_table() if regional else _country_table()


@dataclass(frozen=True)
class Zone:
    """Regions of the gazetteer that share a profile of regional cues."""

    name: str
    country: str
    regions: tuple[str, ...]


@cache
def zones() -> Mapping[str, Zone]:
    """The zones by name, in the order of the file."""
    return {
        name: Zone(name, country, tuple(regions))
        for country, entries in _rows("regional-cues.yaml")["zones"].items()
        for name, regions in entries.items()
    }


@cache
def zone_of(country: str, region: str) -> Zone:
    """The zone that a region of the gazetteer belongs to.

    Raises
    ------
    ValueError
        If it belongs to none.
    """
    for zone in zones().values():
        if zone.country == country and region in zone.regions:
            return zone
    raise ValueError(f"regional-cues.yaml: region {region!r} of {country} is in no zone")


@cache
def _rows(file: str) -> dict[str, Any]:
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # not everywhere compiled
    return yaml.load(data_file(file).read_text(encoding="utf-8"), Loader=fast)


def _regional_table() -> Mapping[str, CueKind]:
    kinds = {
        name: CueKind(name, kind.handed, {z.name: kind.looks[z.country] for z in zones().values()})
        for name, kind in _country_table().items()
    }
    for name, entry in _rows("regional-cues.yaml")["cues"].items():
        looks = {
            zone: tuple(
                Look(look, float(row["p"][zone]), row["fact"], ", ".join(row["sources"]))
                for look, row in entry.items()
                if zone in row["p"]
            )
            for zone in zones()
        }
        unknown = {zone for row in entry.values() for zone in row["p"]} - set(zones())
        if unknown:
            raise ValueError(f"regional-cues.yaml: {name} names unknown zones {sorted(unknown)}")
        kinds[name] = _checked(CueKind(name, False, looks), "regional-cues.yaml")
    return kinds


@cache
def _country_table() -> Mapping[str, CueKind]:
    kinds = {}
    for name, entry in _rows("cues.yaml")["cues"].items():
        looks = {
            country: tuple(
                Look(row["look"], float(row["p"]), row["fact"], row["source"])
                for row in entry.get(country, [])
            )
            for country in COUNTRIES
        }
        kinds[name] = _checked(CueKind(name, bool(entry.get("handed", False)), looks), "cues.yaml")
    return kinds


def _checked(kind: CueKind, file: str) -> CueKind:
    for place, looks in kind.looks.items():
        shares = [k.probability for k in looks]
        if any(not 0 < p <= 1 for p in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError(f"{file}: {kind.name}/{place} has shares {shares}, not within 0..1")
    return kind


def log_posterior(log_likelihood: Mapping[str, float]) -> dict[str, float]:
    """Posterior of each place under equal priors, from log-likelihoods."""
    values = np.array(list(log_likelihood.values()))
    weights = np.exp(values - values.max()) if np.isfinite(values.max()) else np.ones(len(values))
    weights = weights / weights.sum()
    return dict(zip(log_likelihood, weights.tolist(), strict=True))
