"""People beside the model and the true cues, with intervals over people and scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from pandas.io.formats.style import Styler
from scipy.stats import norm
from statsmodels.stats.inter_rater import cohens_kappa

from geolib import figures
from geolib.book import claims
from geolib.chapters.people.material import CANNOT_TELL, CONDITIONS, OTHER, THINGS, Key
from geolib.chapters.people.responses import by_people
from geolib.chapters.tables import cells, sentence, shown

# A number from two weights of each answer, its person's and its scene's.
Statistic = Callable[[np.ndarray, np.ndarray], float]


def judge(answers: pd.DataFrame, key: Key) -> pd.DataFrame:
    """Answers with what is known of each picture: whether the country is ``right``, whether a thing
    is ``recognised``, in words of one's own if need be, and whether the one ``named`` is in the
    frame (of a whole photograph, a cue of it)."""
    if missing := [name for name in CONDITIONS if name not in set(answers["condition"])]:
        raise ValueError(
            f"answers hold none to pictures shown as {' or '.join(missing)}; expected some of each "
            f"of {', '.join(CONDITIONS)}: wait for more answers"
        )
    known = pd.DataFrame([item.model_dump() for item in key.items]).set_index("item")
    known = known[["scene", "country", "model", "observer", "things", "cues"]]
    table = answers.join(known, on="item")
    sought = table["things"].where(table["condition"] != "whole", table["cues"])
    in_words = (table["element"] == OTHER) & (table["other"].str.strip() != "")
    return table.assign(
        sought=sought,
        right=table["answer"] == table["country"],
        recognised=table["element"].isin(THINGS) | in_words,
        named=[name in found for name, found in zip(table["element"], sought, strict=True)],
    )


def interval(judged: pd.DataFrame, statistic: Statistic, seed: int = 0) -> dict[str, float]:
    """``value`` of a statistic and its 95 % interval over people and scenes, ``low`` and ``high``.

    An answer counts as often as its person times its scene was drawn (the pigeonhole bootstrap,
    Owen 2007, arXiv 0712.1111; on the wide side). ``detectable``, with 80 % power: (z₀.₉₇₅ + z₀.₈)
    h / z₀.₉₇₅, h half the interval's width. NaN for fewer than two people or scenes.
    """
    rng = np.random.default_rng(seed)
    found = {"value": statistic(np.ones(len(judged)), np.ones(len(judged)))}
    weights = []
    for column in ("participant", "scene"):
        names, place = np.unique(judged[column], return_inverse=True)
        if len(names) < 2:
            return found | dict.fromkeys(("low", "high", "detectable"), np.nan)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), 999)
        weights.append(drawn[:, place].astype(float))
    resampled = [statistic(people, scenes) for people, scenes in zip(*weights, strict=True)]
    # A resample may hold no answer of the kind: it says nothing.
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    level, power = norm.ppf([0.975, 0.8])
    known = (level + power) * (high - low) / (2 * level) if high > low else np.nan
    return found | {"low": float(low), "high": float(high), "detectable": float(known)}


def _intervals(
    asked: Iterable[tuple[str, str, pd.DataFrame, Statistic]], leading: str, seed: int
) -> pd.DataFrame:
    """The :func:`interval` of each row, group, answers and statistic; rows by one group's value."""
    table = pd.DataFrame(
        {"row": row, "group": group, **interval(part, statistic, seed)}
        for row, group, part, statistic in asked
    )
    rank = -table[table["group"] == leading].set_index("row")["value"]
    return table.sort_values("row", key=lambda rows: rows.map(rank), kind="stable")


def _share(values: ArrayLike, among: ArrayLike = True) -> Statistic:
    """Mean of values over the rows of a group, or over all."""
    held, chosen = np.asarray(values, float), np.asarray(among, bool)

    def statistic(people: np.ndarray, scenes: np.ndarray) -> float:
        weights = people * scenes * chosen
        return float(weights @ held / weights.sum()) if weights.any() else np.nan

    return statistic


def accuracy(judged: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Share of right countries per condition (``row``) of people, the model and the true cues
    (``group``), all on the pictures that people answered; people's best condition first."""
    correct = {"people": judged["right"], "model": judged["model"] == judged["country"]}
    if judged["observer"].notna().any():
        correct["true cues"] = judged["observer"] == judged["country"]
    asked = [
        (condition, group, judged, _share(values, judged["condition"] == condition))
        for condition in CONDITIONS
        for group, values in correct.items()
    ]
    return _intervals(asked, "people", seed)


def advantage(judged: pd.DataFrame, value: str = "right", seed: int = 0) -> dict[str, float]:
    """How much more often a column holds of answers with guided than with random boxes."""
    guided, random = (_share(judged[value], judged["condition"] == c) for c in CONDITIONS[:2])
    return interval(judged, lambda p, s: guided(p, s) - random(p, s), seed)


def kappa(first: np.ndarray, second: np.ndarray, n_answers: int) -> Statistic:
    """Cohen's κ of two columns of answers, coded 0 to ``n_answers`` − 1."""
    cell, shape = first * n_answers + second, (n_answers, n_answers)
    return lambda people, scenes: _kappa(
        np.bincount(cell, people * scenes, n_answers**2).reshape(shape)
    )


def kappa_among(answers: np.ndarray, items: np.ndarray, n_answers: int) -> Statistic:
    """κ among people: of every two who saw the same picture, nobody with themselves. It is Fleiss'
    where each picture was answered equally often."""
    cell = items * n_answers + answers
    _, first = np.unique(items, return_index=True)

    def statistic(people: np.ndarray, scenes: np.ndarray) -> float:
        given = np.bincount(cell, people, len(first) * n_answers).reshape(-1, n_answers)
        pairs = given.T @ (scenes[first, None] * given)
        themselves = np.bincount(answers, people**2 * scenes, n_answers)
        return _kappa(pairs - np.diag(themselves))

    return statistic


def _kappa(table: np.ndarray) -> float:
    if not table.any():
        return np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(cohens_kappa(table, return_results=False))


def agreement(judged: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """κ of the named countries, "cannot tell" among them: ``row`` is who with whom, highest on
    guided boxes first, ``group`` the condition, ``detectable`` what would be told from 0."""
    columns = {"people": "answer", "model": "model", "true cues": "observer"}
    columns = {name: column for name, column in columns.items() if judged[column].notna().all()}
    # A classifier may know more countries than people were asked for.
    known = sorted({CANNOT_TELL, *judged[[*columns.values()]].to_numpy().ravel()})
    asked: list[tuple[str, str, pd.DataFrame, Statistic]] = []
    for condition in CONDITIONS:
        part = judged[judged["condition"] == condition]
        codes = {name: np.searchsorted(known, part[column]) for name, column in columns.items()}
        items = np.unique(part["item"], return_inverse=True)[1]
        pairs = {"people with each other": kappa_among(codes["people"], items, len(known))}
        for one, other in combinations(codes, 2):
            pairs[f"{one} with {other}"] = kappa(codes[one], codes[other], len(known))
        asked += [(pair, condition, part, statistic) for pair, statistic in pairs.items()]
    return _intervals(asked, "guided", seed)


def naming(judged: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """How often what people name is there, and its ``excess`` over the same answers held against
    the other pictures of their condition, with intervals; the furthest above chance first."""
    rows = {}
    for condition, part in judged.groupby("condition"):
        share = interval(part, _share(part["named"]), seed)
        excess = interval(part, _excess(part), seed)
        named = {f"excess_{name}": value for name, value in excess.items() if name != "value"}
        named |= {"excess": excess["value"], "by_chance": share["value"] - excess["value"]}
        rows[condition] = share | named | {"n_answers": len(part)}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.sort_values("excess", ascending=False, kind="stable")


def _excess(part: pd.DataFrame) -> Statistic:
    """Share of answers of a condition that name what is there, minus their share by chance, for
    which no answer is held against its own picture, also not where a scene is drawn twice."""
    _, first, item = np.unique(part["item"], return_index=True, return_inverse=True)
    sought = part["sought"].iloc[first]
    there = np.array([[name in found for found in sought] for name in part["element"]], float)
    other = np.arange(len(first)) != item[:, None]
    named, elsewhere = there[~other], there * other

    def statistic(people: np.ndarray, scenes: np.ndarray) -> float:
        weights, shown = people * scenes, scenes[first]
        pairs = weights @ (other @ shown)
        if not pairs:
            return np.nan
        return float(weights @ named / weights.sum() - weights @ (elsewhere @ shown) / pairs)

    return statistic


def perceptible(judged: pd.DataFrame, key: Key, seed: int = 0) -> claims.Finding | None:
    """Share of elements, one of each image, for which people name a thing, for the ledger; ``n`` is
    of people or scenes, the fewer. None unless people gave all answers, and for fewer than two."""
    guided = judged[judged["condition"] == "guided"]
    n_people, n_scenes = guided["participant"].nunique(), guided["scene"].nunique()
    if not by_people(judged) or min(n_people, n_scenes) < 2:
        return None
    found = interval(guided, _share(guided["recognised"]), seed)
    bounds = {name: found[name] for name in ("value", "low", "high")}
    images = claims.SYNTHETIC if key.drawn else "photographs"
    data = f"{images}, one element in each of {n_scenes}, answers of {n_people} people"
    return claims.Finding(**bounds, n=min(n_people, n_scenes), data=data)


def telling(judged: pd.DataFrame, key: Key, seed: int = 0) -> pd.DataFrame:
    """What tells a country on whole scenes: what told people most, which comes first, the largest
    thing in the frame of the model's strongest element, and the scene's cues, in equal shares."""
    whole = judged[judged["condition"] == "whole"]
    strongest = {item.scene: item.things[:1] for item in key.items if item.condition == "guided"}
    named: dict[str, list[tuple[str, ...]]] = {
        "people": [(name,) for name in whole["element"]],
        "model": [strongest[scene] for scene in whole["scene"]],
        "true cues": list(whole["cues"]),
    }
    asked = [
        (thing, group, whole, _share([one.count(thing) / max(len(one), 1) for one in found]))
        for group, found in named.items()
        for thing in (*THINGS, OTHER, CANNOT_TELL)
    ]
    table = _intervals(asked, "people", seed)
    return table[table.groupby("row")["value"].transform("max") > 0]


def picture(table: pd.DataFrame, label: str, limits: tuple[float, float], whose: str) -> Figure:
    """Dots with intervals under a heading that says whose answers they show."""
    figure = figures.dots(table, "row", by="group", label=label, limits=limits)
    figure.suptitle(whose, fontsize=9.5, color=figures.GUIDED)
    return figure


def outcome_note(found: Mapping[str, float]) -> str:
    """Guided against random boxes in words, from :func:`advantage`."""
    if np.isnan(found["low"]):
        outcome = "Too few people or scenes for an interval"
    elif found["low"] > 0:
        outcome = "Guided boxes tell the country better than random ones"
    elif found["high"] < 0:
        outcome = "Random boxes tell the country better than guided ones"
    else:
        outcome = "No difference between guided and random boxes can be shown"
    return f"**{outcome}.** Right with guided minus right with random boxes: {in_points(found)}"


def in_points(found: Mapping[str, float]) -> str:
    """A difference from :func:`advantage` in percentage points, and what it could have shown."""
    value, low, high, known = (100 * found[n] for n in ("value", "low", "high", "detectable"))
    text = f"{sentence(value, low, high, '+.0f', 'percentage points')}."
    if np.isnan(known):
        return text
    shown = f"a difference of {known:.0f} points four times in five"
    return f"{text} As many people and scenes would have shown {shown}."


def accuracy_table(judged: pd.DataFrame, found: pd.DataFrame) -> Styler:
    """The table of :func:`accuracy` with the share of "cannot tell" and the time taken."""
    shares = found.assign(text=cells(found, ".0%"))
    table = shares.pivot(index="row", columns="group", values="text")
    table = table.loc[found["row"].unique(), found["group"].unique()]
    by = judged.groupby("condition")
    table["people cannot tell"] = by["answer"].agg(lambda a: f"{(a == CANNOT_TELL).mean():.0%}")
    table["seconds"] = by["seconds"].median().map("{:.1f}".format)
    table["answers"] = by.size()
    return table.rename_axis(index=None, columns=None).style


def naming_table(found: pd.DataFrame) -> Styler:
    """The table of :func:`naming`."""
    columns = {"named what is there": ((), ".0%"), "by chance": ("by_chance", ".0%")}
    columns |= {"above chance": ("excess", "+.0%"), "detectable": ("excess_detectable", ".0%")}
    return shown(found, columns | {"answers": ("n_answers", ".0f")}).style
