"""The things on a street that speak for a country: the text prompts of SAM 3."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import yaml

from geolib.runtime.here import data_file


@dataclass(frozen=True)
class Concept:
    """One entry of ``data/concepts.yaml``: a text prompt, and ISO codes of what it speaks for."""

    name: str
    group: str
    countries: tuple[str, ...]


@cache
def load_concepts() -> tuple[Concept, ...]:
    """Every concept of ``data/concepts.yaml``, in the order of the file."""
    entries = yaml.safe_load(data_file("concepts.yaml").read_text(encoding="utf-8"))["concepts"]
    return tuple(Concept(e["name"], e["group"], tuple(e["countries"])) for e in entries)
