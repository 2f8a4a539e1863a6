"""The Bayes ceiling: how often the best possible observer of the visible cues is right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from geoscenes.canvas import SUPERSAMPLING
from geoscenes.coverage import cover, transmit, visible_mask
from geoscenes.cues import COUNTRIES, log_posterior, zones
from geoscenes.layout import cue_slot
from geoscenes.scene import MIN_PIXELS, Item, Scene, gazetteer, render


def posterior(
    scene: Scene,
    *,
    countries: Sequence[str] = COUNTRIES,
    left_right: bool = True,
    min_pixels: int = MIN_PIXELS,
) -> dict[str, float]:
    r"""Probability of each country given the cues that are visible in a scene.

    Let :math:`g` be everything of a scene that is drawn from the same distribution in every country
    (camera, light, places, neutral objects, the shape each look would have). The observer knows
    :math:`g`, sees the look :math:`x_k` of every cue with at least ``min_pixels`` visible pixels,
    and sees that the other kinds :math:`U` are not visible. Cues are independent given the country,
    and a kind is not visible either because it is absent or because the look it has is hidden at
    its place, which :math:`g` and the visible cues decide. Under equal priors

    .. math:: P(c \mid x, g) \propto \prod_{k \notin U} P(x_k \mid c)
              \prod_{k \in U} \Big( P(\text{absent} \mid c)
              + \sum_{\ell\ \text{hidden in}\ g} P(\ell \mid c) \Big).

    So a missing cue counts as evidence only where it would have been seen. Whoever sees only the
    picture knows less than :math:`g` and the visible cues (a cue below ``min_pixels`` aside), so
    the accuracy of this posterior bounds theirs from above.

    In a regional scene the zones of a country are summed (:func:`zone_posterior`).

    Parameters
    ----------
    scene : Scene
    countries : sequence of str
        The alternatives, equally probable.
    left_right : bool
        False: a mirrored picture is as likely as the picture itself, which erases the kinds marked
        ``handed`` in the table (the driving side).
    min_pixels : int
        Visible pixels from which on a cue counts as seen.

    Returns
    -------
    dict
        Country to probability.
    """
    if scene.zone is None:
        prior = dict.fromkeys(countries, 0.0)
        return log_posterior(_weigh(scene, prior, left_right, min_pixels))
    belief = dict.fromkeys(countries, 0.0)
    of_zones = zone_posterior(
        scene, countries=countries, left_right=left_right, min_pixels=min_pixels
    )
    for zone, probability in of_zones.items():
        belief[zones()[zone].country] += probability
    return belief


def zone_posterior(
    scene: Scene,
    *,
    countries: Sequence[str] = COUNTRIES,
    left_right: bool = True,
    min_pixels: int = MIN_PIXELS,
) -> dict[str, float]:
    """Probability of each zone given the cues that are visible in a regional scene.

    As :func:`posterior`, with zones for countries. Countries are equally probable, and the zones of
    a country in proportion to their towns, as scenes are drawn.

    Returns
    -------
    dict
        Zone to probability, the zones of ``countries``.

    Raises
    ------
    ValueError
        If the scene was not rendered with ``regional=True``.
    """
    if scene.zone is None:
        raise ValueError(f"{scene!r} has no zone: render it with regional=True")
    prior = {}
    for zone in zones().values():
        if zone.country in countries:
            towns = gazetteer()[zone.country]
            share = sum(t.region in zone.regions for t in towns) / len(towns)
            prior[zone.name] = math.log(share)
    return log_posterior(_weigh(scene, prior, left_right, min_pixels))


def best_guess(belief: Mapping[str, float]) -> tuple[float, float]:
    """Where an observer places a regional scene: amid the towns of the likeliest zone.

    Parameters
    ----------
    belief : mapping
        Zone to probability, of :func:`zone_posterior`.

    Returns
    -------
    tuple of float
        Degrees north and east: the mean of the towns' coordinates (a zone is a few degrees wide).
    """
    zone = zones()[max(belief, key=belief.__getitem__)]
    towns = [t for t in gazetteer()[zone.country] if t.region in zone.regions]
    latitude, longitude = np.mean([(t.latitude, t.longitude) for t in towns], axis=0).tolist()
    return latitude, longitude


def bayes_accuracy(
    scenes: Iterable[Scene | int],
    *,
    countries: Sequence[str] = COUNTRIES,
    left_right: bool = True,
    min_pixels: int = MIN_PIXELS,
    regional: bool = False,
) -> float:
    """Accuracy of the best observer of the visible cues: the mean of the largest posterior.

    Each posterior is exact (see :func:`posterior`), so only the choice of scenes is sampled; the
    mean of the largest posterior has the same expectation as the share of right answers and a
    smaller variance.

    Parameters
    ----------
    scenes : iterable of Scene or int
        Scenes, or seeds of scenes drawn from ``countries``.
    regional : bool
        Accuracy of the zone instead of the country; the scenes must be regional.

    Returns
    -------
    float
        In 0..1.

    Raises
    ------
    ValueError
        If there are no scenes.
    """
    best = []
    for item in scenes:
        if isinstance(item, Scene):
            scene = item
        else:
            scene = render(int(item), countries=countries, regional=regional)
        observe = zone_posterior if regional else posterior
        belief = observe(scene, countries=countries, left_right=left_right, min_pixels=min_pixels)
        best.append(max(belief.values()))
    if not best:
        raise ValueError("scenes is empty; give at least one scene or seed")
    return float(np.mean(best))


def _weigh(
    scene: Scene, prior: Mapping[str, float], left_right: bool, min_pixels: int
) -> dict[str, float]:
    """Log prior plus log-likelihood of each place."""
    visible = scene.visible_cues(min_pixels)
    total = dict(prior)
    for name, kind in scene.world.table.items():
        if kind.handed and not left_right:
            continue
        if name in visible:
            for c in total:
                total[c] += _log(kind.probability(c, visible[name]))
            continue
        hidden = [k for k in kind.names(list(total)) if _hidden(scene, name, k, min_pixels)]
        for c in total:
            shares = [kind.probability(c, None), *(kind.probability(c, k) for k in hidden)]
            total[c] += _log(sum(shares))
    return total


def _log(p: float) -> float:
    return math.log(p) if p > 1e-12 else -math.inf


def _hidden(scene: Scene, kind: str, look: str, min_pixels: int) -> bool:
    """Whether this look, put at its place among what is there, would stay below ``min_pixels``."""
    slot = cue_slot(scene.seed, scene.world.street, kind)
    if slot.host is not None and all(i.id != slot.host for i in scene.items):
        return True
    side = scene.size * SUPERSAMPLING
    item = Item(slot.id, slot.category, True, look, slot.place, slot.host)
    others = [(p.layer, -p.depth, c) for owner, p, c in scene._covers if owner != kind]
    seen = []
    for part in scene._sketch(item)[0].parts:
        own = cover(part, side)
        if own is not None:
            above = [c for layer, depth, c in others if (layer, depth) > (part.layer, -part.depth)]
            seen.append((own, transmit(own, above)))
    return int(visible_mask(seen, side).sum()) < min_pixels
