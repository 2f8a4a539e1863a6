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

# In place of a value that does not exist.
UNDEFINED = "–"
# Between the bounds of an interval in a table, whose cells are narrow: no line breaks here.
TO = "\u00a0to\u00a0"
# Level of a test, after Holm's correction.
ALPHA = 0.05
# How a conclusion under a fill compares with that under true removal, and its sign in tables.
CHANGES, CERTAINTY, SIZE, SAME = "changes", "certainty only", "size only", "same"
SIGNS = {CHANGES: " ≠", CERTAINTY: " ~", SIZE: " ±", SAME: ""}


def agreement_table(agreement: pd.DataFrame) -> Styler:
    """Masked deletion against true removal, best correlation first within each region."""
    table = agreement.sort_values(["region", "correlation"], ascending=[True, False])
    index = pd.MultiIndex.from_frame(table[["region", "fill"]])
    cells = {
        "rank correlation": _with_bounds(table, "correlation"),
        "behind the best": _with_bounds(table, "behind"),
        "detectable distance": table["detectable_behind"].to_numpy(),
        "bias": _with_bounds(table, "bias"),
        "detectable bias": table["detectable_bias"].to_numpy(),
        "scenes": table["n_images"].to_numpy(),
        "objects": table["n_objects"].to_numpy(),
    }
    formats: dict[Any, Any] = {"detectable distance": "{:.2f}", "detectable bias": "{:.2f}"}
    return pd.DataFrame(cells, index=index).style.format(formats, na_rep=UNDEFINED)


def _with_bounds(table: pd.DataFrame, name: str) -> list[str]:
    return _with_interval(table, name, f"{name}_low", f"{name}_high", "+.2f")


def _with_interval(
    table: pd.DataFrame, value: str, low: str, high: str, digits: str = ".3f"
) -> list[str]:
    return [
        f"{mean:{digits}} ({smallest:{digits}}{TO}{largest:{digits}})"
        if np.isfinite(mean)
        else UNDEFINED
        for mean, smallest, largest in zip(table[value], table[low], table[high], strict=True)
    ]


def best_fill_note(agreement: pd.DataFrame, region: str) -> str:
    """Which fill stands in best for true removal, and which fills are told from it.

    Parameters
    ----------
    agreement
        Of :func:`geolib.chapters.controls.removal.agreement`.
    region
        Of which it is said.
    """
    table = agreement[agreement["region"] == region].sort_values("correlation", ascending=False)
    best, others = table.iloc[0], table.iloc[1:]
    told = others.loc[others["behind_low"] > 0, "fill"]
    close = others.loc[~(others["behind_low"] > 0), "fill"]
    return (
        f"Of a {region}, `{best['fill']}` orders objects best "
        f"({best['correlation']:+.2f}, {best['correlation_low']:+.2f} to "
        f"{best['correlation_high']:+.2f}; over {best['n_images']} scenes, four of five samples "
        f"would have told {_shown(best['detectable_correlation'], '.2f')} from zero). Scene by "
        f"scene it is "
        f"better than {_listed(told)}, and not told from {_listed(close)}."
    )


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "no other"


def with_verdicts(conclusions: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """A comparison with the ``verdict`` of each row, and what true removal makes of it.

    Parameters
    ----------
    conclusions
        Of :func:`geolib.statistics.compare` by attribution and fill, for the outcomes of
        :func:`geolib.chapters.controls.removal.object_tests`.
    changes
        Of :func:`geolib.chapters.controls.removal.changes`, for the same outcomes.

    Returns
    -------
    DataFrame
        With ``verdict``, ``true_verdict`` and ``change``: a conclusion "changes" where its verdict
        differs and the advantage does, image by image, after Holm's correction. Where only the
        verdict differs, one of the two is surer ("certainty only"); where only the advantage does,
        it is the "size only".
    """
    bounds = zip(conclusions["ci_low"], conclusions["ci_high"], strict=True)
    table = conclusions.assign(verdict=[verdict(low, high) for low, high in bounds])
    truth = table[table["fill"] == TRUE].set_index("attribution")["verdict"]
    keys = ["attribution", "fill"]
    paired = changes[[*keys, "difference", "low", "high", "p_holm"]]
    table = table.merge(paired, "left", on=keys, suffixes=("", "_difference"))
    table["true_verdict"] = table["attribution"].map(truth)
    differs, told = table["verdict"] != table["true_verdict"], table["p_holm_difference"] < ALPHA
    cases = [differs & told, differs, told]
    return table.assign(change=np.select(cases, [CHANGES, CERTAINTY, SIZE], SAME))


def conclusions_table(conclusions: pd.DataFrame, changes: pd.DataFrame) -> Styler:
    """What each way of deleting concludes about each method; true removal on top.

    Below, the fill nearest to it comes first; methods by their advantage under true removal.
    ``SIGNS`` mark what differs.
    """
    table = with_verdicts(conclusions, changes)
    table["cell"] = [
        f"{row['advantage']:+.2f} ({row['ci_low']:+.2f}{TO}{row['ci_high']:+.2f}) {row['verdict']}"
        + SIGNS[row["change"]]
        for row in table.to_dict("records")
    ]
    distance = table["difference"].abs().groupby(table["fill"]).mean().fillna(-1)  # itself
    truth = table[table["fill"] == TRUE].set_index("attribution")["advantage"]
    wide = table.pivot(index="fill", columns="attribution", values="cell")
    wide = wide.loc[distance.sort_values().index, truth.sort_values(ascending=False).index]
    return wide.rename_axis(index=None, columns=None).style


def conclusions_note(conclusions: pd.DataFrame, changes: pd.DataFrame) -> str:
    """How many conclusions change when hidden objects are really gone, and which."""
    table = with_verdicts(conclusions, changes)
    masked = table[table["fill"] != TRUE]
    listed = {
        change: "; ".join(
            f"`{row['attribution']}` with `{row['fill']}`: {row['verdict']} instead of "
            f"{row['true_verdict']} ({row['difference']:+.2f}, {row['low']:+.2f} to "
            f"{row['high']:+.2f})"
            for row in part.to_dict("records")
        )
        for change, part in masked.groupby("change")
    }
    n = masked["change"].value_counts().reindex(list(SIGNS), fill_value=0)
    parts = [
        f"**{n[CHANGES]} of {len(masked)} conclusions change** when the objects are really gone"
        + (f": {listed[CHANGES]}." if n[CHANGES] else ".")
    ]
    if n[CERTAINTY]:
        unsure = masked[masked["change"] == CERTAINTY]
        alone = int(((unsure["low"] > 0) | (unsure["high"] < 0)).sum())
        parts.append(
            f"Another {n[CERTAINTY]} gain or lose certainty only: {listed[CERTAINTY]}. Taken by "
            f"itself, without a correction for {len(masked)} comparisons, the interval of "
            f"{alone or 'none'} of these leaves out zero."
        )
    if n[SIZE]:
        parts.append(f"In {n[SIZE]} the verdict stays and the size of the advantage changes.")
    return (
        f"{' '.join(parts)} {detectable_note(changes['detectable'], 'change', 'log-probability')}"
    )


def detectable_note(effects: ArrayLike, what: str, unit: str) -> str:
    """What comparisons could have detected: the median over those of which it is known."""
    known = np.asarray(effects, dtype=float)
    known = known[np.isfinite(known)]
    unknown = np.size(effects) - len(known)
    aside = f"; undefined for {unknown} of {np.size(effects)}, where nothing changed"
    if not len(known):
        return f"What {what} could have been detected is undefined: nothing changed anywhere."
    return (
        f"Four of five samples would have shown a true {what} of {np.median(known):.2f} ({unit}; "
        f"the median over what is compared{aside if unknown else ''})."
    )


def power_note(per_image: pd.DataFrame, by: Collection[str], unit: str) -> str:
    """What a comparison could have detected: the median over its rows.

    Parameters
    ----------
    per_image
        Of :func:`geolib.statistics.advantages`.
    by
        Columns that tell the rows apart.
    unit
        Of the advantage.
    """
    groups = [values for _, values in per_image.groupby(list(by))["advantage"]]
    effects = [statistics.detectable_effect(values) for values in groups]
    note = detectable_note(effects, "advantage", unit)
    return f"{note} Each comparison is over {max(map(len, groups))} images."


def twin_note(both: pd.DataFrame, accuracies: Mapping[str, float], outcomes: pd.DataFrame) -> str:
    """Which conclusions hold for the classifier and its twin, and which are fragile.

    Parameters
    ----------
    both
        Two comparisons of :func:`geolib.statistics.compare`, told apart by ``classifier``.
    accuracies
        Of the classifier and of its twin, on the test images.
    outcomes
        The outcomes that were compared, with the same ``classifier`` column, the twin's last.
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
    right = masked.groupby(keys)["correct"].mean().unstack()
    lost = whole.groupby(keys)["log_probability"].mean().unstack()
    lost = lost - masked.groupby(keys)["log_probability"].mean().unstack()
    first, second = outcomes["classifier"].unique()
    saved = lost[first] - lost[second]
    gain, less = (statistics.interval(each) for each in (right[second] - right[first], saved))
    took = "the training took"
    if not less.low > 0:
        took = "it is not shown to mind masks less, and what changes may be due to more training"
    detectable = statistics.detectable_effect(saved)
    known = f"; {detectable:.2f} would have been shown" if np.isfinite(detectable) else ""
    return (
        f"With random boxes masked, {first} is right in {right[first].mean():.0%} of cases and "
        f"{second} in {right[second].mean():.0%} (difference {gain.mean:+.0%}, {gain.low:+.0%} to "
        f"{gain.high:+.0%}). The masks cost the former {lost[first].mean():.2f} of log-probability "
        f"and the latter {lost[second].mean():.2f}, {less.mean:+.2f} less ({less.low:+.2f} to "
        f"{less.high:+.2f}{known}): {took}."
    )


def specification_note(curve: pd.DataFrame, blind: Collection[str]) -> str:
    """In how many specifications the claim holds, and how often it does without a real map.

    The full factorial and the single changes are told apart: within each, all maps meet the same
    choices, so that shares can be compared.

    Parameters
    ----------
    curve
        Of :func:`geolib.chapters.controls.specifications.specifications`.
    blind
        Attribution methods that know nothing of the network.
    """
    parts = split(curve, blind)
    full = parts["factorial", False]
    n = {name: int((full["verdict"] == name).sum()) for name in VERDICTS}
    text = (
        f"**In the factorial the claim holds in {_held(full)}**; it is undecided in "
        f"{n['undecided']} and reversed in {n['reversed']}. The median advantage is "
        f"{full['advantage'].median():+.2f} in accuracy. "
        f"{detectable_note(full['detectable'], 'advantage', 'accuracy')}"
    )
    if len(parts["factorial", True]):
        text += (
            f" Maps that ignore the network meet the same choices, and the claim *holds* for them "
            f"in {_held(parts['factorial', True])}: that much is due to segments, boxes and "
            "baselines, and not to the map."
        )
    if len(parts["changed", False]):
        names = _listed(list(parts["changed", False]["attribution"].unique()))
        text += f" With one more choice changed, for {names}: {_held(parts['changed', False])}"
        if len(parts["changed", True]):
            names = _listed(list(parts["changed", True]["attribution"].unique()))
            text += f"; the same changes for {names}: {_held(parts['changed', True])}"
        text += "."
    unguided = curve[curve["attribution"].isin(blind)]
    if len(unguided):
        best = unguided.sort_values("advantage", kind="stable").iloc[-1]
        text += (
            f" The largest advantage of a map that ignores the network: {best['advantage']:+.2f} "
            f"({best['ci_low']:+.2f} to {best['ci_high']:+.2f}), `{best['attribution']}` on "
            f"`{best['segmenter']}`, {best['test']}, {best['baseline']}, {best['changed']}."
        )
    return text


def split(curve: pd.DataFrame, blind: Collection[str]) -> dict[tuple[str, bool], pd.DataFrame]:
    """Specifications of the "factorial" and with one choice "changed", by whether maps are blind.

    Parameters
    ----------
    curve, blind
        As for :func:`specification_note`.
    """
    ignoring, swept = curve["attribution"].isin(blind), curve["varied"] != ""
    return {
        (name, is_blind): curve[part & (ignoring == is_blind)]
        for name, part in {"factorial": ~swept, "changed": swept}.items()
        for is_blind in (False, True)
    }


def _held(part: pd.DataFrame) -> str:
    holding = int((part["verdict"] == "holds").sum())
    return (
        f"{holding} of {len(part)} specifications ({holding / len(part):.0%}; elements cover "
        f"{part['coverage'].mean():.0%} of an image, {part['without_elements'].mean():.0%} of "
        "images have none)"
    )


def choice_table(counts: Mapping[str, pd.DataFrame]) -> Styler:
    """In how many specifications the claim holds, for each value of each choice.

    Parameters
    ----------
    counts
        Name of a choice and its table of :func:`geolib.chapters.controls.specifications.counts`.
    """
    table = pd.concat(counts, names=["choice", "value"])
    table["mean advantage"] = _with_interval(table, "advantage", "low", "high", "+.3f")
    shares = {"share": "share", "coverage": "coverage", "without_elements": "no elements"}
    columns = [*VERDICTS, "share", "mean advantage", "detectable", "coverage", "without_elements"]
    formats: dict[Any, Any] = dict.fromkeys(shares.values(), "{:.0%}") | {"detectable": "{:.3f}"}
    return table[columns].rename(columns=shares).style.format(formats, na_rep=UNDEFINED)


def importance_table(importance: pd.DataFrame) -> Styler:
    """How much each choice matters, most first; of ``specifications.importance``."""
    table = importance.sort_values("spread", ascending=False)
    cells = {
        "spread of the mean advantage": _with_interval(table, "spread", "low", "high"),
        "by chance": table["by_chance"],
        "values": table["values"],
    }
    return pd.DataFrame(cells, index=table.index).style.format({"by chance": "{:.3f}"})


def area_table(ranking: pd.DataFrame, own: pd.DataFrame) -> Styler:
    """Segmenters at equal area, best first, beside what their own elements reach.

    Parameters
    ----------
    ranking, own
        Of ``equal_area.ranking`` and ``equal_area.by_coverage_alone``.
    """
    columns = ["n_elements", "runs_out", "coverage", "reached", "expected"]
    table = ranking.join(own.groupby(["test", "segmenter"])[columns].mean())
    cells = pd.DataFrame(
        {
            f"area up to {UP_TO:.0%}": _with_interval(table, "area", "low", "high"),
            "behind the best": _with_interval(table, "behind", "behind_low", "behind_high"),
            "detectable": table["detectable"],
            "whole area": table["whole_area"],
            "elements run out at": table["runs_out"],
            "own elements": table["n_elements"],
            "their coverage": table["coverage"],
            "they reach": table["reached"],
            "the mean curve there": table["expected"],
        }
    )
    heights = ["detectable", "whole area", "they reach", "the mean curve there"]
    shares = ["elements run out at", "their coverage"]
    formats: dict[Any, Any] = dict.fromkeys(heights, "{:.3f}") | dict.fromkeys(shares, "{:.0%}")
    return cells.style.format(formats | {"own elements": "{:.1f}"}, na_rep=UNDEFINED)


def coverage_note(explained: pd.DataFrame, ranking: pd.DataFrame, own: pd.DataFrame) -> str:
    """How much of the differences between segmenters their coverage explains.

    Parameters
    ----------
    explained, ranking, own
        Of :mod:`geolib.chapters.controls.equal_area`.
    """
    means = own.groupby(["test", "segmenter"])["reached"].mean().unstack("segmenter")
    sentences = []
    for row in explained.reset_index(names="test").to_dict("records"):
        test = row["test"]
        reached = means.loc[test].sort_values(ascending=test == "deletion")
        sentences.append(
            f"*{test.capitalize()}*: with their own elements `{reached.index[0]}` comes first "
            f"and `{reached.index[-1]}` last, at equal area `{ranking.loc[test].index[0]}` and "
            f"`{ranking.loc[test].index[-1]}`. Coverage alone explains {_percent(row['value'])} of "
            f"the differences between segmenters (interval from {_percent(row['low'])} to "
            f"{_percent(row['high'])}; {_shown(row['detectable'], '.0%')} would have been told "
            "from zero in four of five samples)."
        )
    return " ".join(sentences)


def _shown(detectable: float, digits: str) -> str:
    """What could have been told from zero, of a quantity that cannot exceed 1."""
    return f"{detectable:{digits}}" if detectable <= 1 else "no value"


def _percent(share: float) -> str:
    """A share of what is explained; how far below nothing it lies is of no interest."""
    if not np.isfinite(share):
        return UNDEFINED
    return "less than nothing" if share < 0 else f"{share:.0%}"


def contrast_table(contrast: pd.DataFrame) -> Styler:
    """The table of :func:`geolib.chapters.controls.equal_area.contrast`."""
    cells = {
        "better by": _with_interval(contrast, "difference", "low", "high"),
        "detectable": contrast["detectable"],
    }
    table = pd.DataFrame(cells, index=contrast.index)
    return table.style.format({"detectable": "{:.3f}"}, na_rep=UNDEFINED)


def contrast_note(contrast: pd.DataFrame, own: pd.DataFrame, one: str, other: str) -> str:
    """Whether one segmenter's advantage over another outlives the comparison at equal area.

    Parameters
    ----------
    contrast, own
        Of ``equal_area.contrast`` and ``equal_area.by_coverage_alone``.
    one, other
        The two segmenters.
    """
    covers = own.groupby("segmenter")["coverage"].mean()
    told = []
    for test, part in contrast.groupby("test"):
        by = part.droplevel("test")
        change = by.loc["change"]
        judged = {name: verdict(row["low"], row["high"]) for name, row in by.iterrows()}
        told.append(
            f"{test}: {judged['own elements']} with their own elements, {judged['equal area']} at "
            f"equal area (a change of {change['difference']:+.3f}, {change['low']:+.3f} to "
            f"{change['high']:+.3f}, {'not ' if judged['change'] == 'undecided' else ''}told from "
            "zero)"
        )
    return (
        f"The elements of `{one}` cover {covers[one]:.0%} of the image, those of `{other}` "
        f"{covers[other]:.0%}. That the former do better: {'; '.join(told)}."
    )


def coverage_findings(explained: pd.DataFrame, n_images: int, data: str) -> dict[str, Finding]:
    """What the ledger holds of coverage and segmenters; undefined intervals are left out.

    Parameters
    ----------
    explained
        Of :func:`geolib.chapters.controls.equal_area.explained`.
    n_images
        Images that its intervals are over.
    data
        The dataset, and after a comma the segmenters compared
        (:func:`geolib.chapters.findings.only_these`): the intervals say nothing of others.
    """
    return {
        f"object-coverage-explains-{test}": Finding(
            value=row["value"], low=row["low"], high=row["high"], n=n_images, data=data
        )
        for test, row in explained.to_dict("index").items()
        if np.isfinite([row["value"], row["low"], row["high"]]).all()
    }
