"""Tables and sentences of the chapter on controls, computed from results."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pandas.io.formats.style import Styler

from geolib import statistics
from geolib.book.claims import Finding
from geolib.chapters.controls.equal_area import UP_TO
from geolib.chapters.controls.removal import TRUE
from geolib.chapters.controls.specifications import VERDICTS, verdict
from geolib.chapters.tables import UNDEFINED, cell, cells

# Level of a test, after Holm's correction.
ALPHA = 0.05
# How a conclusion under a fill compares with that under true removal, and its sign in tables.
CHANGES, CERTAINTY, SIZE, SAME = "changes", "certainty only", "size only", "same"
SIGNS = {CHANGES: " ≠", CERTAINTY: " ~", SIZE: " ±", SAME: ""}


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "no other"


def detectable_note(effects: ArrayLike, what: str, unit: str) -> str:
    """What comparisons could have detected: the median over those of which it is known."""
    known = np.asarray(effects, dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return f"What {what} could have been detected is undefined: nothing changed anywhere."
    unknown = np.size(effects) - len(known)
    aside = f"; undefined for {unknown} of {np.size(effects)}, where nothing changed"
    return (
        f"Four of five samples would have shown a true {what} of {np.median(known):.2f} ({unit}; "
        f"the median over what is compared{aside if unknown else ''})."
    )


# Removal ------------------------------------------------------------------------------------------


def best_fill_note(agreement: pd.DataFrame, region: str) -> str:
    """Which fill stands in best for true removal of a region (of ``removal.agreement``)."""
    table = agreement[agreement["region"] == region].sort_values("correlation", ascending=False)
    best, others = table.iloc[0], table.iloc[1:]
    told = others["behind_low"] > 0
    correlation, bias = (
        cell(best[name], best[f"{name}_low"], best[f"{name}_high"], "+.2f")
        for name in ("correlation", "bias")
    )
    known = cell(best["detectable_correlation"], form=".2f")
    return (
        f"Of a {region}, `{best['fill']}` orders objects best ({correlation}; over "
        f"{best['n_images']} scenes, four of five samples would have told {known} from zero). "
        f"Scene by scene it is better than {_listed(others.loc[told, 'fill'])}, and not told from "
        f"{_listed(others.loc[~told, 'fill'])}. Hiding costs {bias} more than absence does."
    )


def with_verdicts(conclusions: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """A comparison of fills with ``verdict``, ``true_verdict`` and ``change`` of each row.

    A conclusion "changes" where its verdict differs from that under true removal and the advantage
    does, image by image, after Holm's correction (``differences``); "certainty only" where the
    verdict alone does, "size only" where the advantage alone does.
    """
    bounds = zip(conclusions["ci_low"], conclusions["ci_high"], strict=True)
    table = conclusions.assign(verdict=[verdict(low, high) for low, high in bounds])
    truth = table[table["fill"] == TRUE].set_index("attribution")["verdict"]
    keys = ["attribution", "fill"]
    paired = differences[[*keys, "difference", "low", "high", "p_holm"]]
    table = table.merge(paired, "left", on=keys, suffixes=("", "_difference"))
    table["true_verdict"] = table["attribution"].map(truth)
    differs, told = table["verdict"] != table["true_verdict"], table["p_holm_difference"] < ALPHA
    cases = [differs & told, differs, told]
    return table.assign(change=np.select(cases, [CHANGES, CERTAINTY, SIZE], SAME))


def conclusions_table(judged: pd.DataFrame) -> Styler:
    """What each way of deleting concludes about each method (of :func:`with_verdicts`).

    True removal on top, then the fill nearest to it; methods by their advantage under true removal.
    """
    shown = cells(judged, "+.2f", ("advantage", "ci_low", "ci_high"))
    table = judged.assign(cell=shown + " " + judged["verdict"] + judged["change"].map(SIGNS))
    distance = table["difference"].abs().groupby(table["fill"]).mean().fillna(-1)  # itself
    truth = table[table["fill"] == TRUE].set_index("attribution")["advantage"]
    wide = table.pivot(index="fill", columns="attribution", values="cell")
    wide = wide.loc[distance.sort_values().index, truth.sort_values(ascending=False).index]
    return wide.rename_axis(index=None, columns=None).style


def conclusions_note(judged: pd.DataFrame, detectable: ArrayLike) -> str:
    """How many conclusions change when hidden objects are really gone, and which."""
    masked = judged[judged["fill"] != TRUE]
    change = cells(masked, "+.2f", ("difference", "low", "high"))
    text = "`" + masked["attribution"] + "` with `" + masked["fill"] + "`: " + masked["verdict"]
    text += " instead of " + masked["true_verdict"] + ", " + change
    listed = text.groupby(masked["change"]).agg("; ".join)
    n = masked["change"].value_counts().reindex(list(SIGNS), fill_value=0)
    parts = [
        f"**{n[CHANGES]} of {len(masked)} conclusions change** when the objects are really gone"
        + (f": {listed[CHANGES]}." if n[CHANGES] else ".")
    ]
    if n[CERTAINTY]:
        parts.append(f"Another {n[CERTAINTY]} gain or lose certainty only: {listed[CERTAINTY]}.")
    if n[SIZE]:
        parts.append(f"In {n[SIZE]} the verdict stays and the size of the advantage changes.")
    return " ".join([*parts, detectable_note(detectable, "change", "log-probability")])


# The twin -----------------------------------------------------------------------------------------


def twin_note(both: pd.DataFrame, accuracies: Mapping[str, float], outcomes: pd.DataFrame) -> str:
    """Which conclusions hold for the classifier and its twin, and which are fragile.

    ``both`` are comparisons of ``outcomes``, told apart by ``classifier``, the twin's last.
    """
    bounds = zip(both["ci_low"], both["ci_high"], strict=True)
    table = both.assign(verdict=[verdict(low, high) for low, high in bounds])
    wide = table.pivot(index=["test", "attribution"], columns="classifier", values="verdict")
    same = wide.nunique(axis=1) == 1
    stable = [f"`{m}` in {t} ({wide.loc[(t, m)].iloc[0]})" for t, m in wide.index[same]]
    fragile = [f"`{m}` in {t} ({' / '.join(wide.loc[(t, m)])})" for t, m in wide.index[~same]]
    named = ", ".join(f"{name}: {value:.0%}" for name, value in accuracies.items())
    return (
        f"Accuracy on unseen whole images: {named}. {_masked_note(outcomes)} "
        f"**The same for both:** {', '.join(stable) or 'nothing'}. "
        f"**Fragile:** {', '.join(fragile) or 'nothing'}"
        f"{' (' + ' / '.join(wide.columns) + ')' if fragile else ''}."
    )


def _masked_note(outcomes: pd.DataFrame) -> str:
    """Whether the twin minds random boxes less than the classifier: did its training take?"""
    keys = ["image_id", "classifier"]
    masked = outcomes[(outcomes["region"] == "random") & (outcomes["test"] == "deletion")]
    whole = outcomes[outcomes["region"] == "original"]
    right = masked.groupby(keys)["correct"].mean().unstack().mean()
    lost = whole.groupby(keys)["log_probability"].mean().unstack()
    lost = lost - masked.groupby(keys)["log_probability"].mean().unstack()
    first, second = outcomes["classifier"].unique()
    less = statistics.paired(lost[first] - lost[second])
    took = "the training took"
    if not less.low > 0:
        took = "it is not shown to mind masks less, and what changes may be due to more training"
    known = f"; {less.detectable:.2f} would have been shown" if less.detectable > 0 else ""
    return (
        f"With random boxes masked, {first} is right in {right[first]:.0%} of cases and {second} "
        f"in {right[second]:.0%}. The masks cost the former {lost[first].mean():.2f} of "
        f"log-probability and the latter {lost[second].mean():.2f}, "
        f"{cell(less.difference, less.low, less.high, '+.2f')} less{known}: {took}."
    )


# Specifications -----------------------------------------------------------------------------------


def split(curve: pd.DataFrame, blind: Collection[str]) -> dict[tuple[str, bool], pd.DataFrame]:
    """Specifications of the "factorial" and with one choice "changed", by whether maps are blind.

    Within each, all maps meet the same choices, so that shares can be compared.
    """
    ignoring, swept = curve["attribution"].isin(blind), curve["varied"] != ""
    return {
        (name, is_blind): curve[part & (ignoring == is_blind)]
        for name, part in {"factorial": ~swept, "changed": swept}.items()
        for is_blind in (False, True)
    }


def specification_note(curve: pd.DataFrame, blind: Collection[str]) -> str:
    """In how many specifications the claim holds, and how often it does without a real map."""
    parts = split(curve, blind)
    full = parts["factorial", False]
    n = {name: int((full["verdict"] == name).sum()) for name in VERDICTS}
    text = (
        f"**In the factorial the claim holds in {_held(full)}**; it is undecided in "
        f"{n['undecided']} and reversed in {n['reversed']}. The median advantage is "
        f"{full['value'].median():+.2f} in accuracy. "
        f"{detectable_note(full['detectable'], 'advantage', 'accuracy')}"
    )
    if len(ignoring := parts["factorial", True]):
        text += (
            f" Maps that ignore the network meet the same choices, and the claim *holds* for them "
            f"in {_held(ignoring)}: that much is due to segments, boxes and baselines."
        )
        best = curve[curve["attribution"].isin(blind)].sort_values("value", kind="stable").iloc[-1]
        largest = cell(best["value"], best["low"], best["high"], "+.2f")
        text += (
            f" The largest advantage of one: {largest}, `{best['attribution']}` on "
            f"`{best['segmenter']}`, {best['test']}, {best['baseline']}, {best['changed']}."
        )
    for is_blind, opening in ((False, "With one more choice changed"), (True, "The same changes")):
        if len(part := parts["changed", is_blind]):
            text += f" {opening}, for {_listed(list(part['attribution'].unique()))}: {_held(part)}."
    return text


def _held(part: pd.DataFrame) -> str:
    holding = int((part["verdict"] == "holds").sum())
    return (
        f"{holding} of {len(part)} specifications ({holding / len(part):.0%}; elements cover "
        f"{part['coverage'].mean():.0%} of an image, {part['without_elements'].mean():.0%} of "
        "images have none)"
    )


def choice_table(found: Mapping[str, pd.DataFrame]) -> Styler:
    """In how many specifications the claim holds, for each value of each choice.

    ``found`` are tables of ``specifications.by_choice``, by the name of the choice.
    """
    table = pd.concat(found, names=["choice", "value"])
    table["mean advantage"] = cells(table, "+.3f")
    shares = {"share": "share", "coverage": "coverage", "without_elements": "no elements"}
    columns = [*VERDICTS, "share", "mean advantage", "detectable", "coverage", "without_elements"]
    formats: dict[Any, Any] = dict.fromkeys(shares.values(), "{:.0%}") | {"detectable": "{:.3f}"}
    return table[columns].rename(columns=shares).style.format(formats, na_rep=UNDEFINED)


def importance_note(importance: pd.DataFrame) -> str:
    """How much each choice matters, most first; of ``specifications.importance``."""
    table = importance.sort_values("spread", ascending=False)
    spreads = cells(table, ".3f", ("spread", "low", "high"))
    each = table.index + " " + spreads + ", by chance " + table["by_chance"].map("{:.3f}".format)
    return f"Spread of the mean advantage over the values of each choice: {'; '.join(each)}."


# Equal area ---------------------------------------------------------------------------------------


def area_table(ranking: pd.DataFrame, own: pd.DataFrame) -> Styler:
    """Segmenters at equal area (``equal_area.ranking``), best first, beside what their own elements
    reach (``equal_area.by_coverage_alone``)."""
    columns = ["n_elements", "runs_out", "coverage", "reached", "expected"]
    table = ranking.join(own.groupby(["test", "segmenter"])[columns].mean())
    shown = {
        f"area up to {UP_TO:.0%}": cells(table),
        "behind the best": cells(table, ".3f", ("behind", "behind_low", "behind_high")),
        "detectable": table["detectable"],
        "whole area": table["whole_area"],
        "elements run out at": table["runs_out"],
        "own elements": table["n_elements"],
        "their coverage": table["coverage"],
        "they reach": table["reached"],
        "the mean curve there": table["expected"],
    }
    heights = ["detectable", "whole area", "they reach", "the mean curve there"]
    shares = ["elements run out at", "their coverage"]
    formats: dict[Any, Any] = dict.fromkeys(heights, "{:.3f}") | dict.fromkeys(shares, "{:.0%}")
    formats |= {"own elements": "{:.1f}"}
    return pd.DataFrame(shown).style.format(formats, na_rep=UNDEFINED)


def coverage_note(explained: pd.DataFrame, ranking: pd.DataFrame, own: pd.DataFrame) -> str:
    """How much of the differences between segmenters their coverage explains."""
    means = own.groupby(["test", "segmenter"])["reached"].mean().unstack("segmenter")
    sentences = []
    rows: dict[Any, dict[Any, float]] = explained.to_dict("index")
    for test, row in rows.items():
        reached = means.loc[test].sort_values(ascending=bool(test == "deletion"))
        known = f"{row['detectable']:.0%}" if row["detectable"] <= 1 else "no value"
        sentences.append(
            f"*{test.capitalize()}*: with their own elements `{reached.index[0]}` comes first "
            f"and `{reached.index[-1]}` last, at equal area `{ranking.loc[test].index[0]}` and "
            f"`{ranking.loc[test].index[-1]}`. Coverage alone explains {_percent(row['value'])} of "
            f"the differences between segmenters (interval from {_percent(row['low'])} to "
            f"{_percent(row['high'])}; {known} would have been told from zero in four of five "
            "samples)."
        )
    return " ".join(sentences)


def _percent(share: float) -> str:
    """A share of what is explained; how far below nothing it lies is of no interest."""
    if not np.isfinite(share):
        return UNDEFINED
    return "less than nothing" if share < 0 else f"{share:.0%}"


def contrast_note(contrast: pd.DataFrame, own: pd.DataFrame, one: str, other: str) -> str:
    """Whether one segmenter's advantage over another outlives the comparison at equal area."""
    covers = own.groupby("segmenter")["coverage"].mean()
    told = []
    for test, part in contrast.groupby("test"):
        by = part.droplevel("test")
        rows: dict[Any, dict[Any, float]] = by.to_dict("index")
        change = rows["change"]
        judged = {name: verdict(row["low"], row["high"]) for name, row in rows.items()}
        told.append(
            f"{test}: {judged['own elements']} with their own elements, {judged['equal area']} at "
            f"equal area (a change of "
            f"{cell(change['difference'], change['low'], change['high'], '+.3f')}, "
            f"{'not ' if judged['change'] == 'undecided' else ''}told from zero)"
        )
    return (
        f"The elements of `{one}` cover {covers[one]:.0%} of the image, those of `{other}` "
        f"{covers[other]:.0%}. That the former do better: {'; '.join(told)}."
    )


def coverage_findings(explained: pd.DataFrame, n_images: int, data: str) -> dict[str, Finding]:
    """What the ledger holds of coverage and segmenters; undefined intervals are left out.

    ``data`` names the dataset and the segmenters compared: the intervals say nothing of others.
    """
    return {
        f"object-coverage-explains-{test}": Finding(
            value=row["value"], low=row["low"], high=row["high"], n=n_images, data=data
        )
        for test, row in explained.to_dict("index").items()
        if np.isfinite([row["value"], row["low"], row["high"]]).all()
    }
