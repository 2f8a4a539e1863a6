"""Pictures, tables and sentences of the chapter on causes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from geolib import figures
from geolib.chapters.causes.effects import WITHOUT, object_effects, scene_of
from geolib.chapters.causes.marks import CAUSAL, MEASURES
from geolib.chapters.tables import UNDEFINED, cell, cells, grouped_means, sentence
from geolib.data import GeoDataset
from geoscenes import MIN_PIXELS

KINDS = {
    "cue, removed": figures.GUIDED,
    "cue, in another country's look": figures.ACCENT,
    "no cue, removed": figures.RANDOM,
}


def gallery(dataset: GeoDataset, table: pd.DataFrame) -> Figure:
    """The three objects with the largest effects, one of a kind and per scene, and the most
    misleading one: scene, scene without it, what changed, the look most unlike its own."""
    removed = object_effects(table)
    strongest = removed[removed["cue"]].reset_index().sort_values("effect", ascending=False)
    # Where another country's look is the same one there is nothing to show.
    swaps = _swaps(table)
    other_look = swaps.loc[swaps["effect"] != 0, ["image_id", "object"]].drop_duplicates()
    if len(other_look):
        strongest = strongest.merge(other_look)
    best = strongest.drop_duplicates("category").drop_duplicates("image_id").head(3)
    shown = pd.concat([best, strongest[~strongest["image_id"].isin(best["image_id"])].tail(1)])
    rows, names = [], []
    for one in shown.to_dict("records"):
        scene = scene_of(dataset[dataset.ids.index(one["image_id"])])
        others = [scene.without(one["object"])]
        others += [scene.swapped(one["object"], name) for name in dataset.classes]
        image, without, *looks = (figures.as_image(other.image) for other in (scene, *others))
        changed = abs(image - without).max(-1)
        bright = figures.overlay(image, changed / max(changed.max(), 1e-9))
        elsewhere = max(looks, key=lambda look: abs(image - look).sum())
        rows.append([image, without, bright, elsewhere])
        names.append(f"{one['category'].replace('_', ' ')}\n{one['effect']:+.2f}")
    columns = ["scene", "without it", "what changed", "elsewhere's look"]
    return figures.image_table(rows, columns, names)


def _swaps(table: pd.DataFrame) -> pd.DataFrame:
    """What visible cues do in another country's look."""
    return table[(table["intervention"] != WITHOUT) & (table["pixels"] >= MIN_PIXELS)]


def kinds_picture(kinds: pd.DataFrame, n_others: int = 8) -> Figure:
    """Effects of each kind of cue, and of the kinds of other objects that lie farthest off zero."""
    off = kinds[~kinds["cue"]].sort_values("value", key=abs, ascending=False)["category"]
    shown = kinds[kinds["cue"] | kinds["category"].isin(off.head(n_others))]
    removed, swapped, others = KINDS
    which = np.where(shown["intervention"] == WITHOUT, removed, swapped)
    kind, names = np.where(shown["cue"], which, others), shown["category"].str.replace("_", " ")
    shown = shown.assign(kind=kind, category=names)
    label = "log-probability lost"
    return figures.dots(shown, "category", by="kind", label=label, colours=KINDS, lines={"": 0})


def methods_picture(panels: Mapping[str, pd.DataFrame], controls: Collection[str]) -> Figure:
    """Marks of the methods, a panel per mark; controls in blue. Best of the first panel on top."""
    order = next(iter(panels.values()))["attribution"].tolist()
    shown = pd.concat([table.assign(panel=MEASURES[name]) for name, table in panels.items()])
    shown["place"] = shown["attribution"].map(order.index)
    shown = shown.groupby("panel", sort=False)[[*shown]].apply(lambda t: t.sort_values("place"))
    shown["kind"] = np.where(shown["attribution"].isin(list(controls)), "control", "map")
    colours = {"map": figures.GUIDED, "control": figures.RANDOM}
    return figures.dots(
        shown, "attribution", by="kind", panels="panel", label="mean over scenes", colours=colours
    )


def comparison_table(comparison: pd.DataFrame, names: Sequence[str]) -> Styler:
    """The rows of ``marks.against_reference`` under their names."""
    differences = ["difference", "difference_low", "difference_high"]
    texts = {"mark": cells(comparison), "more": cells(comparison, "+.3f", differences)}
    columns = {"mark": "mark", "more": "more than reference", "p_holm": "p (Holm)"}
    columns |= {"detectable": "detectable", "n": "scenes", "undefined": "undefined"}
    table = comparison.assign(**texts)[[*columns]].rename(columns=columns).set_axis(list(names))
    forms: dict[Any, Any] = {"p (Holm)": "{:.4f}", "detectable": "{:.3f}"}
    return table.style.format(forms, na_rep=UNDEFINED)


def shares_table(marked: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Means of some marks of each attribution method, in the order of the first of them."""
    columns = {}
    for measure in measures:
        means = grouped_means(marked, measure, "attribution").set_index("attribution")
        columns[MEASURES[measure]] = cells(means, ".0%")
    order = marked.groupby("attribution")[measures[0]].mean()
    return pd.DataFrame(columns).loc[order.sort_values(ascending=False).index]


def effects_table(table: pd.DataFrame) -> Styler:
    """How much the visible objects matter: cues, what covers one, and what does neither."""
    removed = object_effects(table)
    seen = removed[removed["pixels"] >= MIN_PIXELS]
    seen = seen.assign(size=seen["effect"].abs(), cause=seen["effect"] >= CAUSAL)
    kinds = ["cue", "no cue, covers one", "neither"]
    kind = np.select([seen["cue"], seen["covers_cue"]], kinds[:2], kinds[2])
    found = seen.groupby(kind).agg(
        {"category": "size", "size": "mean", "flips": "mean", "cause": "sum"}
    )
    found.columns = ["objects", "log-probability moves by", "decision flips", "causes"]
    forms: dict[Any, Any] = {"log-probability moves by": "{:.3f}", "decision flips": "{:.1%}"}
    return found.reindex([name for name in kinds if name in found.index]).style.format(forms)


def effects_note(table: pd.DataFrame, kinds: pd.DataFrame, answers: pd.DataFrame) -> str:
    """Which kind matters most; ``answers`` are the predictions for the scenes."""
    top = kinds[kinds["intervention"] == WITHOUT].iloc[0]
    right = int((answers["prediction"] == answers["label"]).sum())
    alone = answers["prediction"].nunique() == 1
    return (
        f"The classifier is right on {right} of {len(answers)} scenes. "
        + ("It gives them all one name: nothing below is more than an exercise. " if alone else "")
        + f"The kind with the largest effect is **{top['category'].replace('_', ' ')}** "
        f"({sentence(top['value'], top['low'], top['high'])}). Another country's look flips "
        f"{_swaps(table)['flipped'].mean():.1%} of the decisions."
    )


def ranking_note(found: Mapping[str, pd.DataFrame], attribution: str) -> str:
    """Which methods are ahead of each control, and what difference would have been seen; ``found``
    holds, for each control, all methods against it."""
    listed = []
    for name, table in found.items():
        ahead = table.loc[table["difference_low"] > 0, "attribution"]
        methods = ", ".join(f"`{method}`" for method in ahead if method not in found)
        listed.append(f"of `{name}` {methods or 'none'}")
    control, table = next(iter(found.items()))
    one: dict[Any, float] = table.set_index("attribution").to_dict("index")[attribution]
    return (
        f"Ahead, by the interval of the difference in each scene: {'; '.join(listed)}. With "
        f"{one['n_pairs']:.0f} scenes a difference of {cell(one['detectable'], form='.2f')} from "
        f"`{control}` would have been shown with a power of 80 %."
    )
