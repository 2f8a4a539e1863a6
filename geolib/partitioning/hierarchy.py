"""From address vectors to a forest of locations (§3.1.1 of Theiner et al., WACV 2022)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

from geolib.partitioning.geocoding import Address


@dataclass(frozen=True)
class Hierarchy:
    """Locations, each with one parent at most, without cycles.

    Attributes
    ----------
    parents : location key to its parent's key, None for a root; in alphabetical order.
    names : location key to its name.
    """

    parents: Mapping[str, str | None]
    names: Mapping[str, str]

    def path(self, key: str) -> tuple[str, ...]:
        """Keys from a location to its root, both included: the only and so the shortest path."""
        keys = [key]
        while (parent := self.parents[keys[-1]]) is not None:
            keys.append(parent)
        return tuple(keys)

    def finest(self, addresses: Sequence[Address]) -> list[str | None]:
        """The finest location of each address that the hierarchy knows, None without any."""
        known = {  # images at one place share the look-up
            address: next((key for key in address.keys if key in self.parents), None)
            for address in set(addresses)
        }
        return [known[address] for address in addresses]

    def within(self, available: Iterable[str]) -> dict[str | None, str | None]:
        """The finest available location on each location's path, None without any."""
        kept = set(available)
        found: dict[str | None, str | None] = {
            key: next((step for step in self.path(key) if step in kept), None)
            for key in self.parents
        }
        return found | {None: None}

    def label(self, key: str) -> str:
        """Names from a location to its root: "Arcachon, Gironde, Nouvelle-Aquitaine, France"."""
        return ", ".join(self.names[step] for step in self.path(key))


def build_hierarchy(
    addresses: Iterable[Address], tau_d: int = 1, area_only: bool = False
) -> Hierarchy:
    """Build the hierarchy of the locations that occur in at least tau_d addresses (§3.1.1, §3.1.2).

    Before anything else, rarer locations are dropped from the addresses, and with area_only those
    that are points (SemP_a of §4.1), so that their neighbours become adjacent. Each location keeps
    its most frequent parent; of equally frequent ones, the first by key. While parents form a
    cycle, its least frequent edge goes, and the location it started from falls back on its next
    parent. Nothing depends on the order of the addresses.

    ``addresses`` holds one per image; ValueError for a ``tau_d`` below 1.
    """
    if tau_d < 1:
        raise ValueError(f"tau_d={tau_d}; expected at least 1 image per location")
    images = Counter(addresses)
    occurrences: Counter[str] = Counter()
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for address, n in images.items():
        locations = zip(address.keys, address.names, address.has_area, strict=True)
        named = {key: name for key, name, has_area in locations if has_area or not area_only}
        for key, name in named.items():
            occurrences[key] += n
            spellings[key][name] += n
    # The parallel edges of the paper's multigraph are counted instead of stored.
    graph = nx.DiGraph()
    graph.add_nodes_from(sorted(key for key, n in occurrences.items() if n >= tau_d))
    for address, n in images.items():
        # A location that an address names twice counts once.
        known = [key for key in dict.fromkeys(address.keys) if key in graph]
        for child, parent in pairwise(known):
            before = graph.get_edge_data(child, parent, {"images": 0})["images"]
            graph.add_edge(child, parent, images=before + n)
    parents = _acyclic_parents(graph)
    return Hierarchy(parents, {key: _most_frequent(spellings[key]) for key in parents})


def _acyclic_parents(graph: nx.DiGraph) -> dict[str, str | None]:
    while True:
        counts = {
            key: {parent: edge["images"] for parent, edge in graph.adj[key].items()}
            for key in graph
        }
        parents = {key: _most_frequent(n) if n else None for key, n in counts.items()}
        tree = nx.DiGraph((key, parent) for key, parent in parents.items() if parent is not None)
        cycles = list(nx.simple_cycles(tree))
        if not cycles:
            return parents
        for cycle in cycles:
            edges = [(key, parents[key]) for key in cycle]
            graph.remove_edge(*min(edges, key=lambda edge: (graph.edges[edge]["images"], edge)))


def _most_frequent(counts: Mapping[str, int]) -> str:
    """The key with the highest count, the first in the alphabet among equals."""
    return min(counts, key=lambda key: (-counts[key], key))
