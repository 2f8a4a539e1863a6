"""The table of country cues, and what an ideal observer can make of them.

``data/cues.yaml`` says, for each kind of cue and each country, with which probability a scene shows
which look. Given the country the kinds are independent, and nothing else depends on the country.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import yaml

from geolib.paths import data_file

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
    """One kind of cue: per country the looks it may take; what is left to 1 is absence."""

    name: str
    handed: bool  # readable only if left and right are known
    looks: Mapping[str, tuple[Look, ...]]

    def presence(self, country: str) -> float:
        return sum(look.probability for look in self.looks[country])

    def probability(self, country: str, look: str | None) -> float:
        """P(look | country); ``None`` is absence."""
        if look is None:
            return 1 - self.presence(country)
        return sum(k.probability for k in self.looks[country] if k.name == look)

    def pick(self, country: str, quantile: float) -> str | None:
        """Look of a present cue; None if the country never has this kind."""
        total = 0.0
        for look in self.looks[country]:
            total += look.probability
            if quantile * self.presence(country) < total:
                return look.name
        return self.looks[country][-1].name if self.looks[country] else None

    def names(self, countries: Sequence[str]) -> list[str]:
        return sorted({k.name for c in countries for k in self.looks[c]})


@cache
def table() -> Mapping[str, CueKind]:
    """The cue table by kind, in the order of the file.

    Raises
    ------
    ValueError
        If a probability is not in 0…1 or a country's looks of one kind sum to more than 1.
    """
    raw = yaml.safe_load(data_file("cues.yaml").read_text(encoding="utf-8"))
    kinds = {}
    for name, entry in raw["cues"].items():
        looks = {
            country: tuple(
                Look(row["look"], float(row["p"]), row["fact"], row["source"])
                for row in entry.get(country, [])
            )
            for country in COUNTRIES
        }
        kind = CueKind(name, bool(entry.get("handed", False)), looks)
        for country in COUNTRIES:
            shares = [k.probability for k in looks[country]]
            if any(not 0 < p <= 1 for p in shares) or sum(shares) > 1 + 1e-9:
                raise ValueError(
                    f"cues.yaml: {name}/{country} has shares {shares}, not within 0..1"
                )
        kinds[name] = kind
    return kinds


def log_posterior(log_likelihood: Mapping[str, float]) -> dict[str, float]:
    """Posterior of each country under equal priors, from log-likelihoods."""
    values = np.array(list(log_likelihood.values()))
    weights = np.exp(values - values.max()) if np.isfinite(values.max()) else np.ones(len(values))
    weights = weights / weights.sum()
    return dict(zip(log_likelihood, weights.tolist(), strict=True))
