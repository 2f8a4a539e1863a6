"""Sentences, tables and galleries of the book, computed from results."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from pandas.io.formats.style import Styler
from scipy.fft import dctn
from scipy.stats import spearmanr

from geolib import assets, data, figures, model, segmentation, stages, statistics
from geolib.data import GeoDataset
from geolib.model import PAPER, Classifier
from geolib.pipeline import Explanation
from geolib.remote import RemoteError
from geolib.stages import EvaluationConfig, Extracted
from geolib.study import Study

# Share of images without elements from which a comparison is called empty.
EMPTY = 0.5
# The classifier that looks at real streets: an architecture and its public weights.
STREET_ARCH = "resnet50"
STREET_WEIGHTS = "resnet50-imagenet"


def training_note(study: Study) -> str:
    """What this run's training shares with the paper's recipe, and what it changes."""
    if study.checkpoint:
        return "The classifier was loaded from a checkpoint; nothing was trained in this run."
    ours, paper = study.training.model_dump(), PAPER.model_dump()
    words = {
        "arch": "network",
        "weights": "initial weights",
        "image_size": "image size",
        "batch_size": "batch size",
        "schedule": "learning-rate schedule",
        "max_epochs": "most epochs",
        "patience": "patience",
        "learning_rate": "learning rate",
        "horizontal_flip": "mirrored images",
    }
    changed = [
        f"{word} {_say(ours[name])} instead of {_say(paper[name])}"
        for name, word in words.items()
        if ours[name] != paper[name]
    ]
    if not changed:
        return "This run trains exactly as the paper does."
    return "This run departs from the paper in: " + "; ".join(changed) + "."


def _say(value: object) -> str:
    return (
        {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else f"{value}"
    )


def accuracy_note(accuracy: float, ceilings: Mapping[str, float]) -> str:
    """How far an accuracy stays below the best possible one."""
    if not ceilings:
        return "For photographs the best possible accuracy is unknown."
    ceiling = ceilings["upright"]
    return (
        f"On unseen scenes the classifier is right in {accuracy:.1%} of cases; the best observer "
        f"of the cues that are visible in the same scenes expects {ceiling:.1%}. The difference, "
        f"{100 * (ceiling - accuracy):.1f} percentage points, is what the network has not learnt."
    )


def ceiling_note(ceilings: Mapping[str, float]) -> str:
    """The Bayes ceiling in one sentence, with and without knowledge of left and right."""
    if not ceilings:
        return "The best accuracy that any classifier could reach on these photographs is unknown."
    return (
        f"On GeoScenes the best that any classifier could do is known: {ceilings['upright']:.1%}, "
        f"or {ceilings['mirrored']:.1%} for one that cannot tell left from right."
    )


def stand_in(used: str, paper: str) -> str:
    """Names the stand-in where a segmenter of the paper was not run."""
    return (
        f"*Stand-in:* the paper uses {paper} here; this run used {used}, because it was given no "
        "weights of the paper's segmenters."
    )


def empty_note(comparison: pd.DataFrame, by: str) -> str:
    """Which methods kept no element at all in most images, for which no test is possible."""
    rate = comparison.groupby(by)["rate_without_elements"].max()
    empty = rate[rate > EMPTY].sort_values(ascending=False)
    if empty.empty:
        return "Every one of them kept at least one element in most images."
    named = ", ".join(f"`{name}` ({share:.0%} of the images)" for name, share in empty.items())
    return (
        f"**Kept no element:** {named}. The thresholds are chosen once, on Grad-CAM++; a map with "
        "another range of values can fall below them everywhere. Its guided region is then empty, "
        "its advantage is zero by construction, and nothing is learnt about the method."
    )


def verdict(comparison: pd.DataFrame, attribution: str, segmenter: str) -> str:
    """What a comparison (index: test) says about the claim, for one method and segmenter."""
    sentences = []
    rows: dict[Any, Any] = {row.test: row for row in comparison.reset_index().itertuples()}
    for test in ("deletion", "insertion"):
        row = rows[test]
        span = f"95 % interval {row.ci_low:+.2f} to {row.ci_high:+.2f}"
        sentences.append(
            f"**{test.capitalize()}: {_outcome(row.ci_low, row.ci_high)}.** Accuracy is "
            f"{row.guided:.2f} with guided and {row.random:.2f} with random boxes, an advantage of "
            f"{row.advantage:+.2f} ({span}, p = {row.p_value:.2g})."
        )
    row = rows["deletion"]
    return (
        f"`{attribution}` with `{segmenter}`, {row.n_images} images, boxes over "
        f"{row.coverage:.0%} of the image on average. " + " ".join(sentences)
    )


def _outcome(low: float, high: float) -> str:
    if low > 0:
        return "guided boxes carry more than random ones"
    return "random boxes carry more than guided ones" if high < 0 else "no difference can be shown"


def comparison_table(comparison: pd.DataFrame, by: str) -> Styler:
    """Guided against random, best advantage first within each test."""
    columns = {
        "guided": "guided",
        "random": "random",
        "advantage": "advantage",
        "ci_low": "low",
        "ci_high": "high",
        "p_holm": "p (Holm)",
        "coverage": "coverage",
        "random_coverage": "random coverage",
        "rate_without_elements": "no element",
        "advantage_matched": "matched only",
        "n_images": "images",
    }
    table = comparison.sort_values(["test", "advantage"], ascending=[True, False])
    table = table.set_index(["test", by])[list(columns)].rename(columns=columns)
    decimals = {name: "{:.3f}" for name in table.columns if name != "images"}
    shares = dict.fromkeys(("coverage", "random coverage", "no element"), "{:.1%}")
    formats: dict[Any, Any] = {**decimals, **shares}
    return table.style.format(formats, na_rep="–")


def map_agreement(maps: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Mean Spearman rank correlation between two methods' maps ``[B, H, W]`` of the same images.

    Maps that are constant have no ranks and are left out.
    """
    table = pd.DataFrame(1.0, index=list(maps), columns=list(maps))
    for a, b in combinations(maps, 2):
        values = [
            spearmanr(one.flatten(), other.flatten()).statistic
            for one, other in zip(maps[a], maps[b], strict=True)
            if one.max() > 0 and other.max() > 0
        ]
        table.loc[a, b] = table.loc[b, a] = np.mean(values) if values else np.nan
    return table


def map_concentration(maps: Mapping[str, torch.Tensor], top: float = 0.1) -> pd.DataFrame:
    """Share of each map's weight on its brightest ``top`` share of pixels, a row per image."""
    rows = []
    for method, images in maps.items():
        for one in images:
            values = one.flatten().sort(descending=True).values
            total = float(values.sum())
            if total > 0:
                share = float(values[: round(top * len(values))].sum()) / total
                rows.append({"method": method, "share": share})
    return pd.DataFrame(rows, columns=["method", "share"])


def map_fineness(maps: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Mean spatial frequency of each map ``[B, H, W]`` in cycles per image side, a row per image.

    The centroid of the map's power spectrum without its mean: how fine its detail is. The spectrum
    is that of the cosine transform, for which opposite borders of the image are not neighbours.
    Maps that are constant have none and are left out.
    """
    rows = []
    for method, images in maps.items():
        for i, one in enumerate(images.double().numpy()):
            power = dctn(one, norm="ortho") ** 2
            power[0, 0] = 0
            if one.max() > one.min():
                # The k-th cosine makes k / 2 cycles.
                axes = [np.arange(side) / 2 for side in one.shape]
                frequency = np.hypot(*np.meshgrid(*axes, indexing="ij"))
                centroid = float((frequency * power).sum() / power.sum())
                rows.append({"method": method, "image_id": i, "frequency": centroid})
    return pd.DataFrame(rows, columns=["method", "image_id", "frequency"])


def mean_intervals(table: pd.DataFrame, value: str, by: str) -> pd.DataFrame:
    """Mean of a column for each group with its interval over images: ``value``, ``low``, ``high``.

    The table has a row per group and image.
    """
    found = {
        name: statistics.interval(values) for name, values in table.groupby(by, sort=False)[value]
    }
    rows = {name: {"value": i.mean, "low": i.low, "high": i.high} for name, i in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def difference(table: pd.DataFrame, value: str, by: str, one: str, other: str) -> pd.Series:
    """What one group has more than another, image by image; images that lack either are left out.

    The table has a column ``image_id`` that tells the images apart.
    """
    wide = table.pivot(index="image_id", columns=by, values=value)
    return (wide[one] - wide[other]).dropna()


def example(extracted: Sequence[Extracted]) -> Extracted:
    """An image for the pipeline's picture: the one with the median number of elements."""
    ranked = sorted(extracted, key=lambda one: (len(one.elements), one.item.id))
    return ranked[len(ranked) // 2]


def gallery(
    extracted: Sequence[Extracted], elements: pd.DataFrame, columns: int
) -> dict[str, list[tuple[np.ndarray, str]]]:
    """Elements with the largest effect of their own, per country, at most one per image."""
    images = {one.item.id: one.image.permute(1, 2, 0).numpy() for one in extracted}
    crops = {}
    for country, rows in elements.groupby("country"):
        strongest = rows.sort_values("deletion_effect", ascending=False)
        strongest = strongest.drop_duplicates("image_id").head(columns)
        crops[str(country)] = [
            (_in_context(images[row["image_id"]], row), f"{row['deletion_effect']:+.2f}")
            for row in strongest.to_dict("records")
        ]
    return crops


def _in_context(image: np.ndarray, row: Mapping[Hashable, Any]) -> np.ndarray:
    return figures.spotlight(image, [row[side] for side in ("x0", "y0", "x1", "y1")])


def summary(explanations: Sequence[Explanation]) -> str:
    """What was predicted for some photographs, and on how many elements it leans, as a table."""
    header = ("photograph", "prediction", "probability", "elements", "largest effect")
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for one in explanations:
        effects = one.elements["deletion_effect"]
        largest = f"{effects.max():+.2f}" if len(effects) else "–"
        likely = one.probabilities[one.prediction]
        lines.append(
            f"| {one.name} | {one.prediction} | {likely:.0%} | {len(one.elements)} | {largest} |"
        )
    return "\n".join(lines)


def dataset_title(study: Study) -> str:
    """What the images are, in a few words."""
    countries = ", ".join(study.evaluation.classes)
    kind = "GeoScenes (synthetic)" if study.dataset == "geoscenes" else "photographs of a folder"
    return f"{kind}: {countries}"


def data_note(study: Study) -> str:
    """How many images each split holds, and what results on them rest on."""
    sizes = {
        "to train": study.train,
        "to validate": study.validation,
        "to test": study.test,
        "to explain": study.evaluation,
    }
    counts = ", ".join(f"{len(split)} {purpose}" for purpose, split in sizes.items())
    if study.dataset == "geoscenes":
        return f"All results rest on synthetic scenes ({counts}), not on real photographs."
    skipped = {entry.id for split in sizes.values() for entry in split.skipped}
    return f"All results rest on real photographs ({counts}; {len(skipped)} files skipped)."


def positions(dataset: GeoDataset) -> pd.DataFrame:
    """``country``, ``latitude`` and ``longitude`` of the readable images that have them."""
    rows = [
        {"country": item.country, "latitude": item.latitude, "longitude": item.longitude}
        for item in (dataset[i] for i in range(len(dataset)))
    ]
    return pd.DataFrame(rows).dropna(subset=["latitude", "longitude"])


# Photographs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Streets:
    """Real street photographs with a classifier for them, both or neither.

    Attributes
    ----------
    images, classifier
        None where they could not be had, or were not to be.
    note
        What was done, or would have been done.
    """

    images: GeoDataset | None
    classifier: Classifier | None
    note: str


def real_streets(areas: Mapping[str, Sequence[float]], per_area: int, *, network: bool) -> Streets:
    """Photographs of Panoramax and the public ImageNet weights, if there is a network.

    Parameters
    ----------
    areas, per_area
        As for :func:`geolib.data.panoramax`.
    network
        Whether the network may be used at all. Without an answer the decision takes seconds.
    """
    plan = (
        f"the chapter fetches up to {per_area} openly licensed photographs each of "
        f"{', '.join(areas)} from Panoramax, whose servers blur faces and number plates, and the "
        "public ImageNet weights of ResNet-50, runs the same analysis on them, and prints author "
        "and licence under each."
    )
    if not network:
        why = "This run was not to use the network."
        return Streets(None, None, f"**No real streets.** {why} With `-p panoramax true` {plan}")
    try:
        images = data.load("panoramax", "all", areas=areas, per_area=per_area)
    except (RemoteError, ValueError) as error:
        return Streets(None, None, f"**No real streets.** {plain(str(error))}. Otherwise {plan}")
    try:
        classifier = model.load(STREET_ARCH, weights=assets.fetch(STREET_WEIGHTS, shown=False))
    except (RemoteError, ValueError) as error:
        # The message may name a folder of this machine.
        why = f"The weights of ResNet-50 could not be had ({type(error).__name__})."
        return Streets(None, None, f"**No real streets.** {why} Otherwise {plan}")
    counts = Counter(label for label in images.labels if label is not None)
    found = ", ".join(f"{counts[i]} of {name}" for i, name in enumerate(images.classes))
    note = (
        f"Photographs from Panoramax: {plain(found)}. A ResNet-50 with the public ImageNet "
        "weights looks at them: it names things, not countries. The pictures below are adaptations "
        "of the photographs, and stand under the licence that is printed with each."
    )
    return Streets(images, classifier, note)


def plain(text: str) -> str:
    """Text that comes from elsewhere, for use in Markdown: nothing in it is markup."""
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", text)


def credit(explanation: Explanation) -> str:
    """Author and licence, to be printed under a photograph; empty where none is known."""
    return f"Photograph: {plain(explanation.credit)}" if explanation.credit else ""


def untuned(study: Study) -> Study:
    """The study for images without labels, on which no threshold can be chosen: the defaults."""
    defaults = EvaluationConfig().model_dump(include={"top_p", "s_min"})
    settings = study.model_dump(exclude_none=True)
    return Study(**defaults | settings | {"label": "predicted"})


def segmenters(study: Study, images: GeoDataset) -> tuple[list[str], str]:
    """Names of the segmenters that can run on some images, and why the others cannot."""
    reasons = segmentation.available(study.segmenter_checkpoints)
    if images.name != "geoscenes":
        reasons["truth"] = "only scenes of the benchmark have true outlines"
    present = [name for name, reason in reasons.items() if not reason]
    absent = [f"- `{name}`: {reason}" for name, reason in reasons.items() if reason]
    named = ", ".join(f"`{name}`" for name in present)
    return present, "\n".join([f"Present: {named}. Absent:\n", *absent])


def element_pictures(found: Mapping[str, Sequence[Explanation]]) -> list[list[np.ndarray]]:
    """A row per photograph: itself, then the outlines of the elements from each segmenter."""
    rows = []
    for explanations in zip(*found.values(), strict=True):
        shape = explanations[0].attribution.shape
        photo = cv2.resize(explanations[0].photo, shape, interpolation=cv2.INTER_AREA) / 255
        rows.append([photo, *(_outlined(photo, one) for one in explanations)])
    return rows


def _outlined(photo: np.ndarray, explanation: Explanation) -> np.ndarray:
    masks = [
        stages.decode_mask(row["mask"], row["height"], row["width"])
        for row in explanation.elements.to_dict("records")
    ]
    return figures.outline(photo, np.array(masks)) if masks else photo


def segmenter_table(found: Mapping[str, Sequence[Explanation]]) -> Styler:
    """How many elements each segmenter leads to, and how much the strongest one matters."""
    rows = [
        {
            "segmenter": name,
            "elements per photograph": np.mean([len(one.elements) for one in explanations]),
            "largest effect": np.mean(
                [one.elements["deletion_effect"].max() for one in explanations if len(one.elements)]
                or [np.nan]
            ),
        }
        for name, explanations in found.items()
    ]
    table = pd.DataFrame(rows).set_index("segmenter")
    return table.style.format(
        {"elements per photograph": "{:.1f}", "largest effect": "{:+.2f}"}, na_rep="–"
    )


def influence_table(summary: pd.DataFrame, dilation: int, groups: Mapping[str, str]) -> Styler:
    """Concept influence in the form of Theiner et al.'s Tables 3 and 4, largest median first.

    Parameters
    ----------
    summary : the table of :func:`geolib.concepts.summarise`; rare concepts are left out.
    dilation : which of its values of β.
    groups : group and its heading, in the order of the columns; the first one sorts.
    """
    rows = summary[(summary["dilation"] == dilation) & ~summary["rare"].astype(bool)]
    numbers = rows[["median", "low", "high"]].itertuples(index=False)
    rows = rows.assign(interval=[f"{m:.2f} ({low:.2f}–{high:.2f})" for m, low, high in numbers])
    columns = {
        "images": "images",
        "interval": "median (95 %)",
        "mean": "mean",
        "by_chance": "laid anywhere",
        "p_holm": "p (Holm)",
    }
    parts = {
        heading: rows[rows["group"] == group].set_index("concept")[list(columns)]
        for group, heading in groups.items()
    }
    table = pd.concat(parts, axis=1).rename(columns=columns, level=1)
    order = rows[rows["group"] == next(iter(groups))].sort_values("median", ascending=False)
    table = table.reindex([*order["concept"], *table.index.difference(order["concept"].tolist())])
    forms: dict[Any, str] = {"images": "{:.0f}", "p (Holm)": "{:.3f}", "median (95 %)": "{}"}
    formats: dict[Any, Any] = {name: forms.get(name[1], "{:.2f}") for name in table.columns}
    return table.rename_axis(index=None).style.format(formats, na_rep="–")


def rare_concepts(summary: pd.DataFrame, min_images: int, groups: Mapping[str, str]) -> str:
    """Concepts of too few images for a test, with how many there are and their median."""
    rows = summary[(summary["dilation"] == 0) & summary["rare"].astype(bool)]
    parts = []
    for group, heading in groups.items():
        found = [
            f"{row['concept']} ({row['images']}: {row['median']:.2f})"
            for row in rows[rows["group"] == group].to_dict("records")
        ]
        parts.append(f"{heading}: {', '.join(found) or 'none'}")
    return (
        f"In fewer than {min_images} images, and so untested (images: median influence). "
        + "; ".join(parts)
        + "."
    )


def causes_table(comparison: pd.DataFrame) -> Styler:
    """How well methods find causes, best first, beside their differences from a reference.

    ``comparison`` is that of :func:`geolib.causal.compare`, with a column ``method``.
    """
    columns = {
        "value": "mark",
        "low": "low",
        "high": "high",
        "n_images": "scenes",
        "undefined": "undefined",
        "difference": "more than reference",
        "difference_low": "low ",
        "difference_high": "high ",
        "p_holm": "p (Holm)",
        "detectable": "detectable",
    }
    table = comparison.set_index("method")[list(columns)].rename(columns=columns)
    forms = dict.fromkeys(table.columns, "{:.3f}")
    forms |= dict.fromkeys(("scenes", "undefined"), "{:.0f}")
    forms |= dict.fromkeys(("more than reference", "low ", "high "), "{:+.3f}")
    formats: dict[Any, Any] = {**forms, "p (Holm)": "{:.4f}"}
    return table.rename_axis(index=None).style.format(formats, na_rep="–")


def grouped_means(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """Mean of a column for each group with its 95 % interval; missing values are left out.

    The table has a row per group and image. Columns: those of ``by``, ``value``, ``low``, ``high``
    and ``n``, the number of images.
    """
    rows = []
    for names, values in table.groupby(list(by), sort=False)[value]:
        known = values.dropna().astype(float)
        found = statistics.interval(known)
        labels = dict(zip(by, names, strict=True))
        bounds = {"value": found.mean, "low": found.low, "high": found.high, "n": len(known)}
        rows.append(labels | bounds)
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n"])
